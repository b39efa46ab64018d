//! One shard over memory: routing messages, spreading the lobby, logging in. Everything but the
//! kernel and the queues between shards.

use std::hint::black_box;
use std::time::Duration;

use benches::exchange::{Exchange, Shape};
use benches::rig::{Login, Rig, config};
use benches::user::{User, push_client_text};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::PublicKey;
use protocol::frame::LobbyMode;
use relay_core::{Config, ConnectionId, Durability, Envelope, ShardId, VerifyMode};

const HERE: ShardId = ShardId(0);
const ELSEWHERE: ShardId = ShardId(1);

/// Longer than any tick of the lobby and than the least time between snapshots.
const LONG: Duration = Duration::from_secs(3);

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    let mut bench = |name: &str, verify, batch: usize, shape| {
        let mut exchange = Exchange::new(verify, batch, shape);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(name, |b| b.iter(|| exchange.pass()));
        exchange.check();
    };
    bench("off-1", VerifyMode::Off, 1, Shape::Spread);
    bench("off-8", VerifyMode::Off, 8, Shape::Spread);
    bench("off-64", VerifyMode::Off, 64, Shape::Spread);
    bench("off-64-pipelined", VerifyMode::Off, 64, Shape::Pipelined);
    bench("off-1-across", VerifyMode::Off, 1, Shape::Across);
    bench("off-64-across", VerifyMode::Off, 64, Shape::Across);
    bench("auto-1", VerifyMode::Auto, 1, Shape::Spread);
    bench("auto-8", VerifyMode::Auto, 8, Shape::Spread);
    bench("auto-64", VerifyMode::Auto, 64, Shape::Spread);
    bench("auto-64-pipelined", VerifyMode::Auto, 64, Shape::Pipelined);
    bench("strict-64", VerifyMode::Strict, 64, Shape::Spread);
    group.finish();
}

/// The live path with a store and without: every message is confirmed before its batch is due.
fn confirm(c: &mut Criterion) {
    let mut group = c.benchmark_group("route-and-confirm");
    for (name, durability) in [("ephemeral", None), ("group", Some(Durability::Group))] {
        let cases = [("1", 1, Shape::Spread), ("64", 64, Shape::Spread), ("64-across", 64, Shape::Across)];
        for (case, batch, shape) in cases {
            let mut exchange = Exchange::confirming(VerifyMode::Off, batch, shape, durability);
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(format!("{name}-{case}"), |b| b.iter(|| exchange.pass_and_confirm()));
            exchange.check();
            assert_eq!(exchange.given_out(), 0, "something was stored");
        }
    }
    group.finish();
}

/// Users of this shard of two, from number `first` on.
fn users_at_home(rig: &Rig, first: u64) -> impl Iterator<Item = User> + use<> {
    let config = rig.config().clone();
    (first..).map(User::nth).filter(move |user| config.home(&user.public_key) == HERE)
}

/// The `n`th key of the other shard. The lobby takes any bytes for one: it never verifies with them.
fn foreign_key(n: u64) -> PublicKey {
    let mut bytes = [0xf0; 32];
    // Spread as real keys are, by the multiplier of Knuth's Fibonacci hashing.
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    PublicKey::from_bytes(bytes)
}

/// One user of the other shard, who comes in one turn and leaves in the next.
#[derive(Default)]
struct Visitor {
    is_online: bool,
}

impl Visitor {
    fn come_or_leave(&mut self, rig: &mut Rig) {
        let (key, nobody) = (vec![foreign_key(0)], Vec::new());
        self.is_online = !self.is_online;
        let (joined, left) = if self.is_online { (key, nobody) } else { (nobody, key) };
        rig.from_shard(ELSEWHERE, Envelope::Lobby { joined, left });
    }
}

/// A shard with so many sessions that follow the lobby, all of them up to date.
fn subscribers(count: usize) -> Rig {
    let mut rig = Rig::new(config(HERE, 2, VerifyMode::Off));
    let users: Vec<User> = users_at_home(&rig, 0).take(count).collect();
    for user in &users {
        rig.log_in(user, LobbyMode::All);
    }
    rig.outgoing().for_each(drop);
    rig.advance(LONG);
    rig.settle();
    rig
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("lobby-fan-out");
    for count in [100, 1000] {
        let mut rig = subscribers(count);
        let mut visitor = Visitor::default();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("one-change-to-{count}"), |b| {
            b.iter(|| {
                visitor.come_or_leave(&mut rig);
                rig.advance(LONG);
                let writes = rig.end_batch(|_, bytes| _ = black_box(bytes));
                assert_eq!(writes, count);
            });
        });
    }
    group.finish();
}

/// A shard that knows of so many users, and one session that follows the lobby.
fn crowd(online: u64) -> (Rig, ConnectionId) {
    let mut rig = Rig::new(config(HERE, 2, VerifyMode::Off));
    let joined = (1..online).map(foreign_key).collect();
    rig.from_shard(ELSEWHERE, Envelope::Lobby { joined, left: Vec::new() });
    let user = users_at_home(&rig, 0).next().expect("half of all keys are at home");
    let watcher = rig.log_in(&user, LobbyMode::All);
    rig.outgoing().for_each(drop);
    rig.advance(LONG);
    rig.settle();
    (rig, watcher)
}

fn snapshot(c: &mut Criterion) {
    let mut sync = Vec::new();
    push_client_text(&mut sync, "{\"type\":\"lobby_sync\"}");
    let mut group = c.benchmark_group("lobby-snapshot");
    for online in [1000, 10_000] {
        let (mut rig, watcher) = crowd(online);
        let mut scratch = sync.clone();
        // Asks for a snapshot and takes it in; a write at a time, as the outbox has room.
        let mut ask = |rig: &mut Rig| {
            scratch.copy_from_slice(&sync);
            rig.advance(LONG);
            rig.receive(watcher, &mut scratch);
            let mut bytes = 0;
            while rig.end_batch(|_, part| bytes += black_box(part).len()) > 0 {}
            assert!(bytes as u64 > 81 * online, "a whole snapshot, not {bytes} bytes");
        };
        group.throughput(Throughput::Elements(online));
        let mut visitor = Visitor::default();
        group.bench_function(format!("{online}-new-revision"), |b| {
            b.iter(|| {
                visitor.come_or_leave(&mut rig);
                ask(&mut rig);
            });
        });
        group.bench_function(format!("{online}-same-revision"), |b| b.iter(|| ask(&mut rig)));
    }
    group.finish();
}

/// From the accept to the welcome, and the end of the connection.
fn log_in(c: &mut Criterion) {
    // With the default heartbeat, so that the timers of those who left fire and are gone.
    let default = Config::new(HERE, 1, 0);
    let mut rig = Rig::new(Config { heartbeat: default.heartbeat, ..config(HERE, 1, VerifyMode::Auto) });
    let nonce = [0x6e; 32];
    let login = Login::new(&rig.config().relay_name, &User::nth(0), nonce, LobbyMode::None);
    let mut scratch = login.clone();
    let mut generation = 0;
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    group.bench_function("log-in-and-leave", |b| {
        b.iter(|| {
            let connection = ConnectionId { index: 0, generation };
            generation += 1;
            scratch.request.copy_from_slice(&login.request);
            scratch.auth.copy_from_slice(&login.auth);
            rig.accept(connection, nonce);
            rig.receive(connection, &mut scratch.request);
            rig.end_batch(|_, bytes| _ = black_box(bytes));
            rig.receive(connection, &mut scratch.auth);
            rig.end_batch(|_, bytes| _ = black_box(bytes));
            rig.disconnect(connection);
            rig.advance(LONG);
            rig.end_batch(|_, _| {});
        });
    });
    assert_eq!(rig.stats().logins, u64::from(generation));
    group.finish();
}

criterion_group! {
    name = shard;
    config = benches::settings();
    targets = route, confirm, fan_out, snapshot, log_in
}
criterion_main!(shard);
