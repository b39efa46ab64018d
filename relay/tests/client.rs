//! The client library and the real binary together: what their users are promised, through kills and
//! restarts. The relay has a store; it is always killed with SIGKILL, and comes back on the same port.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use client::endpoint::Endpoint;
use client::history::Peer;
use client::session::Options;
use client::{Client, Config, Event, EventStream, Handle};
use ed25519_dalek::SigningKey;
use protocol::PublicKey;
use protocol::server_frame::ReceiptStatus;
use tempfile::TempDir;
use tokio::time::timeout;

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// A relay with a store, and what it takes to start it again.
struct Relay {
    child: Child,
    address: SocketAddr,
    data: TempDir,
}

impl Relay {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (child, address) = spawn(&free_address(), &data);
        Self { child, address, data }
    }

    /// Kills it, at whatever it is doing, and starts it again.
    fn kill_and_restart(&mut self) {
        self.end();
        (self.child, self.address) = spawn(&self.address.to_string(), &self.data);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

/// A free port below those that the kernel gives to clients: while the relay is down, none of the clients
/// that dial it can be given its port.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + std::process::id() % 10_000;
    (first..32_000)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a port is free")
}

fn spawn(listen: &str, data: &TempDir) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command
        .args(["--listen", listen, "--admin", "off", "--shards", "2", "--rate-limit", "0", "--log-level", "warn"])
        .arg("--data")
        .arg(data.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // The developer's own settings are not the test's.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
        command.env_remove(name);
    }
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody waits for the lines behind the first.
            let _ = sender.send(line);
        }
    });
    let line = lines.recv_timeout(DEADLINE).expect("the relay says that it listens");
    let (_, rest) = line.split_once("listening on ").expect("where it listens");
    let address = rest.split([',', ' ']).next().unwrap().parse().unwrap();
    (child, address)
}

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// A client, and all that it was told.
struct User {
    handle: Handle,
    events: EventStream,
    seed: u8,
    /// The texts that came, in their order, by who wrote them.
    received: HashMap<PublicKey, Vec<String>>,
    /// The seqs of them.
    seqs: Vec<u64>,
    acked: Vec<String>,
    receipts: Vec<(ReceiptStatus, String)>,
    connections: usize,
}

impl User {
    fn start(relay: &Relay, seed: u8, device: &str) -> Self {
        let endpoint = Endpoint::parse(&format!("ws://{}/ws", relay.address)).unwrap();
        let options = Options::new("localhost", device).unwrap();
        let (handle, events) = Client::connect(Config::new(endpoint, options, SigningKey::from_bytes(&[seed; 32])));
        Self {
            handle,
            events,
            seed,
            received: HashMap::new(),
            seqs: Vec::new(),
            acked: Vec::new(),
            receipts: Vec::new(),
            connections: 0,
        }
    }

    /// Starts, and waits until the relay has let it in.
    async fn connected(relay: &Relay, seed: u8, device: &str) -> Self {
        let mut user = Self::start(relay, seed, device);
        user.until("a connection", |user| user.connections > 0).await;
        user
    }

    async fn submit(&self, to: u8, text: &str) -> String {
        self.handle.submit(key(to), text).await.unwrap()
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Message(message) => {
                self.seqs.push(message.seq);
                self.received.entry(message.sender_public_key).or_default().push(message.message);
            }
            Event::Ack { client_message_id, .. } => self.acked.push(client_message_id),
            Event::Receipt { status, client_message_ids, .. } => {
                self.receipts.extend(client_message_ids.into_iter().map(|id| (status, id)));
            }
            Event::Welcome { .. } => self.connections += 1,
            Event::Failed { .. }
            | Event::Gap { .. }
            | Event::BadFrame { .. }
            | Event::BadSignature(_)
            | Event::NotForMe(_)
            | Event::LobbyDiverged { .. }
            | Event::Error { .. } => panic!("user {} is told {event:?}", self.seed),
            _ => {}
        }
    }

    /// Takes events until `done` says so.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                let event = self.events.next().await.expect("the client goes on");
                self.note(event);
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!(
                "user {} waited {DEADLINE:?} for {what}: {} came, {} acked",
                self.seed,
                self.seqs.len(),
                self.acked.len()
            );
        }
    }

    /// Takes what comes for a while.
    async fn rest(&mut self, time: Duration) {
        let _ = timeout(time, async {
            while let Some(event) = self.events.next().await {
                self.note(event);
            }
        })
        .await;
    }

    fn from(&self, seed: u8) -> &[String] {
        self.received.get(&key(seed)).map_or(&[], Vec::as_slice)
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn kills_lose_nothing_and_repeat_nothing() {
    const MESSAGES: usize = 300;
    const KILLS: usize = 5;
    let mut relay = Relay::start();
    let mut alice = User::connected(&relay, 1, "phone").await;
    let mut bob = User::connected(&relay, 2, "phone").await;
    let mut killed = 0;
    for n in 0..MESSAGES {
        alice.submit(2, &n.to_string()).await;
        bob.submit(1, &n.to_string()).await;
        if n % 5 == 4 {
            tokio::join!(alice.rest(Duration::from_millis(2)), bob.rest(Duration::from_millis(2)));
        }
        if (n + 1) % (MESSAGES / KILLS) == MESSAGES / KILLS / 2 {
            // In the middle of things: messages are on their way, pushed, unconfirmed, unanswered.
            relay.kill_and_restart();
            killed += 1;
            let (alice_connections, bob_connections) = (alice.connections, bob.connections);
            tokio::join!(
                alice.until("the relay again", |alice| alice.connections > alice_connections),
                bob.until("the relay again", |bob| bob.connections > bob_connections),
            );
        }
    }
    assert_eq!(killed, KILLS);
    let is_done = |user: &User, peer: u8| user.acked.len() >= MESSAGES && user.from(peer).len() >= MESSAGES;
    tokio::join!(
        alice.until("all messages", |alice| is_done(alice, 2)),
        bob.until("all messages", |bob| is_done(bob, 1)),
    );
    tokio::join!(alice.rest(Duration::from_millis(300)), bob.rest(Duration::from_millis(300)));
    assert_eq!(alice.from(2), numbered(0..MESSAGES));
    assert_eq!(bob.from(1), numbered(0..MESSAGES));
}

#[tokio::test]
async fn what_one_device_sends_the_others_get() {
    let mut relay = Relay::start();
    let mut phone = User::connected(&relay, 1, "phone").await;
    let mut desk = User::connected(&relay, 1, "desk").await;
    let mut bob = User::connected(&relay, 2, "phone").await;
    for n in 0..20 {
        let (from, text) = if n % 2 == 0 { (&phone, "phone") } else { (&desk, "desk") };
        from.submit(2, &format!("{n} {text}")).await;
        tokio::join!(
            phone.rest(Duration::from_millis(5)),
            desk.rest(Duration::from_millis(5)),
            bob.rest(Duration::from_millis(5)),
        );
        if n == 10 {
            relay.kill_and_restart();
        }
    }
    let has = |user: &User, count: usize| user.from(1).len() >= count && user.acked.len() + user.from(1).len() >= 20;
    tokio::join!(
        phone.until("the other's", |phone| has(phone, 10)),
        desk.until("the other's", |desk| has(desk, 10)),
        bob.until("all", |bob| has(bob, 20)),
    );
    tokio::join!(
        phone.rest(Duration::from_millis(300)),
        desk.rest(Duration::from_millis(300)),
        bob.rest(Duration::from_millis(300)),
    );
    assert!(phone.from(1).len() == 10 && phone.from(1).iter().all(|text| text.ends_with("desk")));
    assert!(desk.from(1).len() == 10 && desk.from(1).iter().all(|text| text.ends_with("phone")));
    let mut got = bob.from(1).to_vec();
    got.sort_by_key(|text| text.split(' ').next().unwrap().parse::<u32>().unwrap());
    let sent: Vec<_> = (0..20).map(|n| format!("{n} {}", ["phone", "desk"][n % 2])).collect();
    assert_eq!(got, sent);
    let kept = phone.handle.history(Peer::User(key(2))).await.unwrap();
    assert_eq!(kept.len(), 20, "one conversation on each device");
}
