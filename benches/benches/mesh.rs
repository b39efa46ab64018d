//! The mesh: what a hop between shards costs, without the core at either end.
//!
//! `hop` is the work of both ends on one thread: push, flush, take out. `round-trip` sends one
//! envelope to another thread and back while both spin, so half of it is the time that a hop takes
//! between two cores that are awake; it needs two cores that are free. Waking a sleeper costs far
//! more and is the kernel's time: `loadgen` measures it.

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::Instant;

use benches::user::User;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol::PublicKey;
use relay::mesh::{Item, Mesh};
use relay_core::store::{IdRecord, MessageId};
use relay_core::{Envelope, Parcel, ShardId, Ticket};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// A frame with a message of 100 characters, about.
const FRAME_BYTES: usize = 540;

/// Turns that a waiting thread spins before it lets others run: on a machine with one free core the
/// other end is among them.
const SPINS_MAX: u32 = 10_000;

fn pair() -> (Mesh, Mesh) {
    let mut ends = Mesh::of(2).into_iter();
    let (Some(a), Some(b)) = (ends.next(), ends.next()) else { panic!("a mesh of two has two ends") };
    (a, b)
}

fn deliver(recipient: PublicKey, frame: Vec<u8>) -> Item {
    let Some(id) = MessageId::new("3c0e8c76-23e5-4f0e-a6ac-6a4bd2a4c8d5") else { panic!("a UUID is an id") };
    let id_record = IdRecord { key: 1, tag: 2, sender_hash: 3, copy_due: false, at_ms: 4 };
    let parcel = Parcel { recipient, sender: recipient, id, id_record, may_be_unseen: true, frame };
    Item::Envelope(Envelope::Deliver { ticket: Ticket { slot: 1, generation: 1 }, parcel })
}

/// The frame of an envelope, to be used again.
fn frame_of(item: Item) -> Option<Vec<u8>> {
    match item {
        Item::Envelope(Envelope::Deliver { parcel, .. }) => Some(parcel.frame),
        _ => None,
    }
}

fn full(to: ShardId, _: bool) {
    panic!("the queue to {to:?} filled up");
}

fn hop(c: &mut Criterion) {
    let recipient = User::nth(1).public_key;
    let mut group = c.benchmark_group("mesh-hop");
    for count in [1, 16, 256] {
        let (mut a, mut b) = pair();
        let mut frames = vec![vec![b'x'; FRAME_BYTES]; count];
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(count.to_string(), |bencher| {
            bencher.iter(|| {
                frames.drain(..).for_each(|frame| a.push(B, deliver(recipient, frame)));
                a.flush(full);
                b.drain(usize::MAX, |_, item| frames.extend(frame_of(black_box(item))));
                assert_eq!(frames.len(), count);
            });
        });
    }
    group.finish();
}

/// Spins until something has come; gives the first frame back, `None` if it was no message.
fn wait(mesh: &mut Mesh) -> Option<Vec<u8>> {
    let mut frame = None;
    let mut spins = 0;
    while mesh.drain(1, |_, item| frame = frame_of(item)) == 0 {
        spins += 1;
        if spins % SPINS_MAX == 0 {
            thread::yield_now();
        }
        spin_loop();
    }
    frame
}

fn round_trip(c: &mut Criterion) {
    let recipient = User::nth(1).public_key;
    let (mut a, mut b) = pair();
    let echo = thread::spawn(move || {
        while let Some(frame) = wait(&mut b) {
            b.push(A, deliver(recipient, frame));
            b.flush(full);
        }
    });
    let mut group = c.benchmark_group("mesh-round-trip");
    group.bench_function("1", |bencher| {
        bencher.iter_custom(|turns| {
            let mut frame = vec![b'x'; FRAME_BYTES];
            let start = Instant::now();
            for _ in 0..turns {
                a.push(B, deliver(recipient, frame));
                a.flush(full);
                frame = wait(&mut a).expect("the other end gives back what it gets");
            }
            start.elapsed()
        });
    });
    group.finish();
    // Anything that is no message ends the other thread.
    a.push(B, Item::Envelope(Envelope::Lobby { joined: Vec::new(), left: Vec::new() }));
    a.flush(full);
    echo.join().expect("the other end returns");
}

criterion_group! {
    name = mesh;
    config = benches::settings();
    targets = hop, round_trip
}
criterion_main!(mesh);
