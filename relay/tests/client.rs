//! The client library and the real binary together: what their users are promised, through kills and
//! restarts. The relay has a store; it is killed with SIGKILL, or restarted in order. The clients reach it by a wire that
//! can be cut, and that leads to wherever the relay has come back.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use client::endpoint::Endpoint;
use client::history::Peer;
use client::session::Options;
use client::{Client, Config, Event, EventStream, Handle, Recipient};
use ed25519_dalek::SigningKey;
use protocol::PublicKey;
use protocol::frame::RoomAction;
use protocol::server_frame::ReceiptStatus;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// A relay with a store, and the wire to it.
struct Relay {
    child: Child,
    wire: Wire,
    data: TempDir,
}

impl Relay {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (child, address) = spawn(&data);
        Self { child, wire: Wire::to(address).await, data }
    }

    /// Kills it, at whatever it is doing, and starts it again.
    fn kill_and_restart(&mut self) {
        self.end();
        let (child, address) = spawn(&self.data);
        self.child = child;
        self.wire.lead_to(address);
    }

    /// Lets it end in order, and starts it again.
    fn restart(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "the relay drains");
        let (child, address) = spawn(&self.data);
        self.child = child;
        self.wire.lead_to(address);
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

fn spawn(data: &TempDir) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--shards",
            "2",
            "--rate-limit",
            "0",
            "--log-level",
            "warn",
        ])
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

/// Where clients find the relay. The connections over it end with the relay's, or when it is cut.
struct Wire {
    address: SocketAddr,
    relay: watch::Sender<SocketAddr>,
    cuts: watch::Sender<u32>,
}

impl Wire {
    async fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (relay, cuts) = (watch::Sender::new(relay), watch::Sender::new(0));
        let (far_end, cut) = (relay.subscribe(), cuts.subscribe());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                let relay = *far_end.borrow();
                tokio::spawn(async move {
                    // A relay that is down takes no connection: the near end is closed too.
                    let Ok(mut far) = TcpStream::connect(relay).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, relay, cuts }
    }

    fn lead_to(&self, relay: SocketAddr) {
        self.relay.send_replace(relay);
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
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
    /// The members of the room that it asked about last.
    members: Vec<PublicKey>,
    /// The page of history that came last: seqs and texts, and whether there are older ones.
    page: Option<(Vec<(u64, String)>, bool)>,
    connections: usize,
    /// Connections that went on where the one before ended.
    recovered: usize,
}

impl User {
    fn start(address: SocketAddr, seed: u8, device: &str) -> Self {
        let endpoint = Endpoint::parse(&format!("ws://{address}/ws")).unwrap();
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
            members: Vec::new(),
            page: None,
            connections: 0,
            recovered: 0,
        }
    }

    /// Starts, and waits until the relay has let it in.
    async fn connected(relay: &Relay, seed: u8, device: &str) -> Self {
        let mut user = Self::start(relay.wire.address, seed, device);
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
            Event::Room { members, .. } => self.members = members,
            Event::History { messages, dropped, more, .. } => {
                assert_eq!(dropped, 0);
                let texts = messages.into_iter().map(|message| (message.seq, message.message));
                self.page = Some((texts.collect(), more));
            }
            Event::Welcome { recovered, .. } => {
                self.connections += 1;
                self.recovered += usize::from(recovered);
            }
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

    /// Ends, with everything confirmed that was taken.
    async fn close(mut self) -> Self {
        self.rest(Duration::from_millis(200)).await;
        self.handle.close().await;
        while let Some(event) = timeout(DEADLINE, self.events.next()).await.expect("the client ends") {
            self.note(event);
        }
        self
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn kills_lose_nothing_and_repeat_nothing() {
    const MESSAGES: usize = 300;
    // Each makes the clients wait longer before they come back.
    const KILLS: usize = 3;
    let mut relay = Relay::start().await;
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
async fn mail_for_somebody_offline_survives_a_kill_and_comes_once() {
    const MESSAGES: usize = 60;
    let mut relay = Relay::start().await;
    // A key that the relay has seen, with two devices.
    for device in ["phone", "desk"] {
        User::connected(&relay, 2, device).await.close().await;
    }
    let mut alice = User::connected(&relay, 1, "phone").await;
    let mut ids = Vec::new();
    for n in 0..MESSAGES {
        ids.push(alice.submit(2, &n.to_string()).await);
    }
    alice.until("all acks", |alice| alice.acked.len() == MESSAGES).await;
    assert_eq!(alice.receipts, [], "nobody has it");
    relay.kill_and_restart();

    let mut bob = User::connected(&relay, 2, "phone").await;
    bob.until("the mail", |bob| bob.seqs.len() == MESSAGES).await;
    assert_eq!(bob.from(1), numbered(0..MESSAGES));
    assert!(bob.seqs.is_sorted_by(|a, b| a + 1 == *b), "{:?}", bob.seqs);
    let last = *bob.seqs.last().unwrap();
    bob.handle.read(last).await.unwrap();
    let bob = bob.close().await;
    assert_eq!(bob.seqs.len(), MESSAGES, "once");
    alice.until("a receipt for each, and one more", |alice| alice.receipts.len() > MESSAGES).await;
    for (n, id) in ids.iter().enumerate() {
        let of = |status| alice.receipts.iter().filter(|receipt| **receipt == (status, id.clone())).count();
        assert_eq!(of(ReceiptStatus::Delivered), 1, "{n}");
        assert_eq!(of(ReceiptStatus::Read), usize::from(n == MESSAGES - 1), "{n}");
    }
    // Confirmed by one device, it is still there for the other, and not for the first.
    relay.restart();
    let mut desk = User::connected(&relay, 2, "desk").await;
    desk.until("the mail", |desk| desk.seqs.len() == MESSAGES).await;
    assert_eq!(desk.from(1), numbered(0..MESSAGES));
    let mut phone = User::connected(&relay, 2, "phone").await;
    phone.rest(Duration::from_millis(300)).await;
    assert_eq!(phone.seqs, [0; 0]);
}

#[tokio::test]
async fn what_one_device_sends_the_others_get() {
    let mut relay = Relay::start().await;
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

#[tokio::test]
async fn a_cut_wire_goes_on_where_it_was() {
    const MESSAGES: usize = 300;
    const CUTS: usize = 3;
    let relay = Relay::start().await;
    let mut alice = User::connected(&relay, 1, "phone").await;
    let mut bob = User::connected(&relay, 2, "phone").await;
    for n in 0..MESSAGES {
        alice.submit(2, &n.to_string()).await;
        bob.submit(1, &n.to_string()).await;
        if n % 5 == 4 {
            tokio::join!(alice.rest(Duration::from_millis(2)), bob.rest(Duration::from_millis(2)));
        }
        if (n + 1) % (MESSAGES / CUTS) == MESSAGES / CUTS / 2 {
            let connections = bob.connections;
            relay.wire.cut();
            tokio::join!(
                alice.until("the relay again", |alice| alice.connections > connections),
                bob.until("the relay again", |bob| bob.connections > connections),
            );
        }
    }
    let is_done = |user: &User, peer: u8| user.acked.len() >= MESSAGES && user.from(peer).len() >= MESSAGES;
    tokio::join!(
        alice.until("all messages", |alice| is_done(alice, 2)),
        bob.until("all messages", |bob| is_done(bob, 1)),
    );
    tokio::join!(alice.rest(Duration::from_millis(300)), bob.rest(Duration::from_millis(300)));
    assert_eq!(alice.from(2), numbered(0..MESSAGES));
    assert_eq!(bob.from(1), numbered(0..MESSAGES));
    for user in [&alice, &bob] {
        assert_eq!((user.connections, user.recovered), (1 + CUTS, CUTS), "user {}", user.seed);
    }
}

#[tokio::test]
async fn a_room_goes_on_through_a_kill() {
    const MESSAGES: usize = 40;
    let mut relay = Relay::start().await;
    let mut alice = User::connected(&relay, 1, "phone").await;
    let mut bob = User::connected(&relay, 2, "phone").await;
    let mut carol = User::connected(&relay, 3, "phone").await;
    alice.handle.room("den", RoomAction::Create { open: true }).await.unwrap();
    alice.until("its room", |alice| alice.members == [key(1)]).await;
    for user in [&mut bob, &mut carol] {
        user.handle.room("den", RoomAction::Join).await.unwrap();
        user.until("the room", |user| user.members.contains(&key(user.seed))).await;
    }
    let to_all = || Recipient::Room("den".into());
    for n in 0..MESSAGES {
        alice.handle.submit(to_all(), n.to_string()).await.unwrap();
        bob.handle.submit(to_all(), n.to_string()).await.unwrap();
        bob.handle.submit(Recipient::RoomMember("den".into(), key(1)), format!("{n} alone")).await.unwrap();
        let time = Duration::from_millis(2);
        tokio::join!(alice.rest(time), bob.rest(time), carol.rest(time));
        if n == MESSAGES / 2 {
            relay.kill_and_restart();
        }
    }
    tokio::join!(
        alice.until("all of it", |alice| alice.acked.len() >= MESSAGES && alice.from(2).len() >= 2 * MESSAGES),
        bob.until("all of it", |bob| bob.acked.len() >= 2 * MESSAGES && bob.from(1).len() >= MESSAGES),
        carol.until("all of it", |carol| carol.from(1).len() >= MESSAGES && carol.from(2).len() >= MESSAGES),
    );
    let time = Duration::from_millis(300);
    tokio::join!(alice.rest(time), bob.rest(time), carol.rest(time));
    assert_eq!(bob.from(1), numbered(0..MESSAGES));
    assert_eq!((carol.from(1), carol.from(2)), (&*numbered(0..MESSAGES), &*numbered(0..MESSAGES)));
    let alone = alice.from(2).iter().filter(|text| text.ends_with("alone"));
    assert_eq!((alone.count(), alice.from(2).len()), (MESSAGES, 2 * MESSAGES));
    // It can be read again, and by nobody what was not for it. Of what was confirmed just before the kill
    // history may lack some, and have twice what was sent again.
    let (mut read, mut before) = (Vec::new(), None);
    loop {
        carol.handle.request_history(Peer::Room("den".into()), before, 30).await.unwrap();
        carol.until("a page", |carol| carol.page.is_some()).await;
        let (page, more) = carol.page.take().unwrap();
        before = page.first().map(|&(seq, _)| seq);
        read.extend(page.into_iter().map(|(_, text)| text));
        if !more {
            break;
        }
    }
    for text in numbered(MESSAGES / 2 + 1..MESSAGES) {
        assert!(read.iter().filter(|other| **other == text).count() >= 2, "{text}: {read:?}");
    }
    assert!(!read.iter().any(|text| text.ends_with("alone")), "{read:?}");
}
