//! Two sessions and a model of the relay under a seeded network: connections break at any moment with
//! frames on their way, acks are slow and overtaken by pushes, users come back with and without what
//! they knew. Nothing acked may be lost, shown twice or out of order, and no gap may be told but where
//! the relay is made to lose a message. `CLIENT_CHAOS_SEEDS=2000` tries more seeds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use client::Event;
use client::history::{Peer, Status};
use client::session::{Effect, Options, Session};
use protocol::decode::FrameDecoder;
use protocol::encode;
use protocol::frame::{ClientFrame, Target};
use protocol::server_frame::{Ack, Welcome, WelcomeLimits};

use crate::frames::{self, LIMITS, RELAY, key, signing_key};

const EPOCH: u64 = 1;

/// Messages that each user writes.
const MESSAGES: usize = 60;

/// A small generator (SplitMix64): the same seed, the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// Once in `n`.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// The relay forgets seqs of duplicates, as after a restart.
    forgets_seqs: bool,
    /// The second user's program is killed now and then, and remembers what it has handled.
    kills: bool,
    /// This push of the second user's inbox is never sent, and nobody is told.
    loses: Option<u64>,
}

/// A user at the relay.
struct Account {
    seed: u8,
    /// The frames of the inbox from seq 1 on; `None` for own ones.
    inbox: Vec<Option<String>>,
    cursor: u64,
    next: u64,
    is_connected: bool,
    is_welcomed: bool,
    to_client: VecDeque<String>,
    to_relay: VecDeque<String>,
    /// Acks that wait for the disk.
    slow: VecDeque<String>,
}

impl Account {
    fn new(seed: u8) -> Self {
        Self {
            seed,
            inbox: Vec::new(),
            cursor: 0,
            next: 1,
            is_connected: false,
            is_welcomed: false,
            to_client: VecDeque::new(),
            to_relay: VecDeque::new(),
            slow: VecDeque::new(),
        }
    }

    fn push_missing(&mut self, loses: Option<u64>) {
        while self.is_welcomed && self.next <= self.inbox.len() as u64 {
            let seq = self.next;
            self.next += 1;
            if let Some(frame) = &self.inbox[seq as usize - 1]
                && loses != Some(seq)
            {
                self.to_client.push_back(frames::pushed(seq, frame));
            }
        }
    }

    fn break_connection(&mut self) {
        self.is_connected = false;
        self.is_welcomed = false;
        self.to_client.clear();
        self.to_relay.clear();
        self.slow.clear();
    }
}

struct User {
    session: Session,
    reconnect_at: Option<Instant>,
    /// Messages shown and not handled yet.
    shown: VecDeque<(u64, String)>,
    handled: Vec<String>,
    written: usize,
    failed: Vec<String>,
    gaps: Vec<u64>,
}

struct World {
    random: Random,
    faults: Faults,
    now: Instant,
    accounts: [Account; 2],
    users: [User; 2],
    ids: HashMap<String, u64>,
    decoder: FrameDecoder,
}

fn session(seed: u8, now: Instant) -> Session {
    let options = Options::new(RELAY, "phone").expect("good names");
    Session::new(signing_key(seed), options, now, frames::relay_time())
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let now = Instant::now();
        let user = |seed| User {
            session: session(seed, now),
            reconnect_at: Some(now),
            shown: VecDeque::new(),
            handled: Vec::new(),
            written: 0,
            failed: Vec::new(),
            gaps: Vec::new(),
        };
        Self {
            random: Random(seed),
            faults,
            now,
            accounts: [Account::new(1), Account::new(2)],
            users: [user(1), user(2)],
            ids: HashMap::new(),
            decoder: FrameDecoder::new(),
        }
    }

    /// One thing happens, and some time passes.
    fn step(&mut self, is_calm: bool) {
        let at = self.random.below(2) as usize;
        match self.random.below(12) {
            0..=2 => self.client_takes(at),
            3..=5 => self.relay_takes(at),
            6 => {
                if let Some(ack) = self.accounts[at].slow.pop_front() {
                    self.accounts[at].to_client.push_back(ack);
                }
            }
            7 if self.random.one_in(30) => {
                for _ in 0..=self.random.below(8) {
                    self.write(at);
                }
            }
            8 => self.handle(at),
            9 => self.drained(at),
            10 if !is_calm && self.random.one_in(80) => self.lose_connection(at),
            11 if !is_calm && self.faults.kills && self.random.one_in(80) => self.kill(),
            _ => {}
        }
        self.now += Duration::from_millis(self.random.below(8));
        for at in 0..2 {
            self.time(at);
        }
    }

    fn write(&mut self, at: usize) {
        let (user, peer) = (&mut self.users[at], self.accounts[1 - at].seed);
        // The one who is killed only listens: its unanswered messages would die with it.
        if user.written >= MESSAGES || (at == 1 && self.faults.kills) {
            return;
        }
        let id = format!("{at}-{:03}", user.written);
        user.written += 1;
        let mut effects = Vec::new();
        user.session.send_as(id, &key(peer).into(), "hi", self.now, &mut effects).expect("a good message");
        self.carry_out(at, effects);
    }

    fn handle(&mut self, at: usize) {
        let user = &mut self.users[at];
        let Some((seq, id)) = user.shown.pop_front() else { return };
        user.handled.push(id);
        let mut effects = Vec::new();
        user.session.handled(EPOCH, seq, self.now, &mut effects);
        self.carry_out(at, effects);
    }

    fn drained(&mut self, at: usize) {
        if self.accounts[at].to_client.is_empty() && self.users[at].session.is_open() {
            let mut effects = Vec::new();
            self.users[at].session.drained(self.now, &mut effects);
            self.carry_out(at, effects);
        }
    }

    fn lose_connection(&mut self, at: usize) {
        if !self.accounts[at].is_connected {
            return;
        }
        // Some of what is on its way arrives.
        for _ in 0..self.random.below(4) {
            self.relay_takes(at);
        }
        self.accounts[at].break_connection();
        let mut effects = Vec::new();
        let random = self.random.below(1 << 32) as u32;
        let delay = self.users[at].session.disconnected(None, "", random, self.now, &mut effects);
        self.users[at].reconnect_at = Some(self.now + delay.expect("another attempt"));
        self.carry_out(at, effects);
    }

    fn kill(&mut self) {
        self.accounts[1].break_connection();
        let user = &mut self.users[1];
        user.session = session(2, self.now);
        for id in &user.handled {
            user.session.remember(key(1), id);
        }
        user.shown.clear();
        user.reconnect_at = Some(self.now);
    }

    fn time(&mut self, at: usize) {
        let user = &mut self.users[at];
        if user.reconnect_at.is_some_and(|at| at <= self.now) {
            user.reconnect_at = None;
            user.session.connected(self.now);
            self.accounts[at].is_connected = true;
            self.accounts[at].to_client.push_back(frames::challenge(RELAY));
        }
        if self.users[at].session.poll_timeout(self.now).is_some_and(|due| due <= self.now) {
            let mut effects = Vec::new();
            self.users[at].session.handle_timeout(self.now, &mut effects);
            self.carry_out(at, effects);
        }
    }

    fn client_takes(&mut self, at: usize) {
        let Some(text) = self.accounts[at].to_client.pop_front() else { return };
        let mut effects = Vec::new();
        self.users[at].session.handle_text(&text, self.now, &mut effects);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            let user = &mut self.users[at];
            match effect {
                Effect::Send(frame) if self.accounts[at].is_connected => self.accounts[at].to_relay.push_back(frame),
                Effect::Send(frame) => panic!("nobody to send to: {frame}"),
                Effect::Close { details, .. } => panic!("closed: {details}"),
                Effect::Event(Event::Message(message)) => {
                    user.shown.push_back((message.seq, message.client_message_id));
                }
                Effect::Event(Event::Failed { client_message_id, .. }) => user.failed.push(client_message_id),
                Effect::Event(Event::Gap { missing, .. }) => user.gaps.push(missing),
                Effect::Event(Event::Duplicate(dropped)) => {
                    // Already with the user, which it has to say again, or on its way to be.
                    if user.shown.is_empty() {
                        user.session.handled(EPOCH, dropped.seq, self.now, &mut Vec::new());
                    }
                }
                Effect::Event(event @ (Event::BadFrame { .. } | Event::BadSignature(_) | Event::NotForMe(_))) => {
                    panic!("{event:?}")
                }
                Effect::Event(_) => {}
            }
        }
    }

    /// The relay takes a frame.
    fn relay_takes(&mut self, at: usize) {
        let Some(text) = self.accounts[at].to_relay.pop_front() else { return };
        let frame = self.decoder.decode(&text).expect("a good frame");
        let loses = self.faults.loses;
        let [first, second] = &mut self.accounts;
        let (own, peer) = if at == 0 { (first, second) } else { (second, first) };
        match frame {
            ClientFrame::Auth(auth) => {
                let seq = own.inbox.len() as u64;
                let recovered = auth.resume.is_some();
                if let Some(resume) = auth.resume {
                    assert!(resume.epoch == EPOCH && resume.seq <= seq, "{resume:?} of {seq}");
                    own.cursor = own.cursor.max(resume.seq);
                }
                own.next = auth.resume.map_or(own.cursor, |resume| resume.seq) + 1;
                own.is_welcomed = true;
                let limits = WelcomeLimits { messages_per_second: 0, ..LIMITS };
                let seed = own.seed;
                let welcome =
                    Welcome { seq, recovered, limits, heartbeat_ms: 0, ..frames::welcome_frame(seed, "phone") };
                own.to_client.push_back(frames::text(|out| encode::welcome(out, &welcome)));
                own.push_missing(loses.filter(|_| at == 1));
            }
            ClientFrame::Message(message) => {
                assert_eq!(message.target, Target::User(key(peer.seed)));
                let known = self.ids.get(message.id).copied();
                let seq = known.unwrap_or_else(|| {
                    peer.inbox.push(Some(text.clone()));
                    own.inbox.push(None);
                    let seq = own.inbox.len() as u64;
                    // What its own device sent is skipped.
                    if own.next == seq {
                        own.next += 1;
                    }
                    self.ids.insert(message.id.to_owned(), seq);
                    seq
                });
                peer.push_missing(loses.filter(|_| at == 0));
                let told = (known.is_none() || !self.faults.forgets_seqs).then_some(seq);
                let ack = Ack { id: message.id, online: true, duplicate: known.is_some(), seq: told };
                own.slow.push_back(frames::text(|out| encode::ack(out, &ack)));
            }
            ClientFrame::Received(seq) => {
                assert!(seq <= own.inbox.len() as u64);
                own.cursor = own.cursor.max(seq);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything come to rest.
    fn settle(&mut self) {
        for _ in 0..30_000 {
            self.step(true);
        }
    }
}

fn run(seed: u64, faults: Faults) -> World {
    let mut world = World::new(seed, faults);
    for _ in 0..15_000 {
        world.step(false);
    }
    world.settle();
    world
}

/// How many seeds to try.
fn seeds(few: u64) -> u64 {
    std::env::var("CLIENT_CHAOS_SEEDS").map_or(few, |seeds| seeds.parse().expect("a number of seeds"))
}

fn ids(at: usize, written: usize) -> Vec<String> {
    (0..written).map(|n| format!("{at}-{n:03}")).collect()
}

#[test]
fn nothing_is_lost_repeated_or_out_of_order_and_no_gap_is_told_without_one() {
    for seed in 0..seeds(45) {
        let faults = Faults { forgets_seqs: seed % 2 == 1, kills: seed % 3 == 2, loses: None };
        let world = run(seed, faults);
        for at in 0..2 {
            let (user, peer) = (&world.users[at], &world.users[1 - at]);
            assert_eq!(user.handled, ids(1 - at, peer.written), "seed {seed}, user {at}");
            assert!(user.failed.is_empty(), "seed {seed}: {:?}", user.failed);
            assert_eq!(user.gaps, [0; 0], "seed {seed}, user {at}");
            let entries = user.session.history().with(&Peer::User(key(world.accounts[1 - at].seed)));
            let own: Vec<_> = entries.filter(|entry| entry.sender == user.session.public_key()).collect();
            assert!(own.iter().all(|entry| entry.status == Status::Sent), "seed {seed}: {own:?}");
            // All of it is confirmed, but for own ones at the end.
            let account = &world.accounts[at];
            let last = account.inbox.iter().rposition(Option::is_some).map_or(0, |at| at as u64 + 1);
            assert!(account.cursor >= last, "seed {seed}: {} of {last}", account.cursor);
        }
        assert_eq!(world.users[0].written, MESSAGES, "seed {seed}");
    }
}

#[test]
fn a_message_that_the_relay_loses_is_told() {
    let mut breaks = HashSet::new();
    for seed in 0..seeds(30) {
        let lost = 1 + seed % 40;
        let world = run(seed, Faults { loses: Some(lost), ..Faults::default() });
        let user = &world.users[1];
        // An own one has that seq, and was not pushed anyway.
        let is_own = world.accounts[1].inbox[lost as usize - 1].is_none();
        let (missing, gaps): (usize, &[u64]) = if is_own { (0, &[]) } else { (1, &[1]) };
        assert_eq!(user.handled.len() + missing, MESSAGES, "seed {seed}");
        assert_eq!(user.gaps, gaps, "seed {seed}");
        breaks.insert(missing);
    }
    assert_eq!(breaks.len(), 2, "both kinds were met");
}
