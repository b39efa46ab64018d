//! A relay of some shards in memory, driven step by step, and users to act in it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{LobbyMode, Message, Resume, Target};
use protocol::server_frame::{ServerFrame, ServerFrameDecoder};
use protocol::websocket::{Decoder, Incoming, Opcode, Role, push_masked};
use protocol::{PublicKey, Signature, Timestamp, encode, opening, signed_bytes, upgrade};
use relay_core::store::model::ModelStore;
use relay_core::{
    Batch, Config, ConnectionId, Durability, Effect, Effects, Event, Gone, Now, PageRequest, Shard, ShardId, StoreFault,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
const MASK: [u8; 4] = [1, 2, 3, 4];

/// What a user has received: texts as they came, and how the connection ended.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: SigningKey,
    pub(crate) device: &'static str,
    shard: usize,
    connection: ConnectionId,
    decoder: Decoder,
    upgraded: bool,
    bytes: Vec<u8>,
    pub(crate) texts: VecDeque<String>,
    pub(crate) pings: usize,
    pub(crate) closed_with: Option<u16>,
    /// The relay has closed the socket.
    pub(crate) gone: bool,
    pub(crate) shut: bool,
    /// What the next login asks for.
    pub(crate) resume: Option<Resume>,
    /// Writes are left in flight.
    pub(crate) stalled: bool,
    unwritten: VecDeque<Vec<u8>>,
}

/// Shards, their connections and the time.
pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: Now,
    pub(crate) peers: Vec<Peer>,
    owners: BTreeMap<(usize, ConnectionId), usize>,
    next_index: u32,
    configs: Vec<Config>,
    /// What is stored.
    pub(crate) disk: ModelStore,
    /// What the store was asked for by each shard and has not done.
    asked: Vec<VecDeque<Asked>>,
    /// The store does nothing for now.
    pub(crate) store_waits: bool,
    /// What the store answers to batches instead of taking them.
    pub(crate) fault: Option<StoreFault>,
    /// The same, for the next batch alone.
    pub(crate) fault_once: Option<StoreFault>,
    /// Batches stored, and entries in them.
    pub(crate) stored: (usize, usize),
}

/// Something asked of the store.
enum Asked {
    Store(Box<Batch>),
    Load(Box<PageRequest>),
}

impl World {
    pub(crate) fn new(shards: u16, change: impl Fn(&mut Config)) -> Self {
        let make = |shard| {
            let mut config = Config::new(ShardId(shard), shards, 42);
            change(&mut config);
            config
        };
        let configs: Vec<Config> = (0..shards).map(make).collect();
        Self {
            shards: configs.iter().cloned().map(Shard::new).collect(),
            configs,
            disk: ModelStore::default(),
            asked: (0..shards).map(|_| VecDeque::new()).collect(),
            store_waits: false,
            fault: None,
            fault_once: None,
            stored: (0, 0),
            now: Now { nanos: 1000 * SECOND, unix_ms: 1_795_264_496_789 },
            peers: Vec::new(),
            owners: BTreeMap::new(),
            next_index: 0,
        }
    }

    /// Shards that group commits, on an empty store.
    pub(crate) fn with_store(shards: u16, change: impl Fn(&mut Config)) -> Self {
        Self::new(shards, |config| {
            config.durability = Some(Durability::Group);
            change(config);
        })
    }

    /// The relay dies and starts anew, with as many shards as said, on what is stored. What was given
    /// out and not stored is lost, and so are all connections.
    pub(crate) fn crash(&mut self, shards: u16) {
        self.owners.clear();
        self.peers.iter_mut().for_each(|peer| peer.gone = true);
        self.asked = (0..shards).map(|_| VecDeque::new()).collect();
        let first = self.configs[0].clone();
        let config = |shard| Config { shard: ShardId(shard), shards, boot: first.boot + 1, ..first.clone() };
        self.configs = (0..shards).map(config).collect();
        self.shards = self.configs.iter().cloned().map(Shard::new).collect();
        for shard in 0..self.shards.len() {
            let mut effects = Effects::new();
            let restored = self.disk.restored(&self.configs[shard]);
            self.shards[shard].restore(restored, self.now, &mut effects);
            self.carry_out(shard, &mut effects);
        }
        self.settle();
    }

    /// Says goodbye to everybody, waits until all is stored, and starts anew.
    pub(crate) fn restart(&mut self, shards: u16) {
        for shard in 0..self.shards.len() {
            self.event(shard, Event::Drain);
        }
        for peer in 0..self.peers.len() {
            if !self.peers[peer].gone {
                self.disconnect(peer, Gone::Broken);
            }
        }
        self.settle();
        assert!(self.shards.iter().all(|shard| !shard.has_unstored()));
        self.crash(shards);
    }

    /// Lets the store answer what it was asked.
    fn store(&mut self) {
        for shard in 0..self.asked.len() {
            while !self.store_waits
                && let Some(asked) = self.asked[shard].pop_front()
            {
                match asked {
                    Asked::Store(batch) => {
                        let result = self.fault_once.take().or(self.fault).map_or(Ok(()), Err);
                        if result.is_ok() {
                            self.disk.apply(&batch);
                            self.stored = (self.stored.0 + 1, self.stored.1 + batch.entries.len());
                        }
                        self.event(shard, Event::Stored { batch, result });
                    }
                    Asked::Load(request) => {
                        let page = Box::new(self.disk.page(*request));
                        self.event(shard, Event::Loaded { page });
                    }
                }
            }
        }
    }

    /// Waits for as long as messages, receipts and ids are gathered.
    pub(crate) fn commit(&mut self) {
        self.run(150 * MILLISECOND, MILLISECOND);
    }

    pub(crate) fn advance(&mut self, nanos: u64) {
        self.now.nanos += nanos;
        self.now.unix_ms += (nanos / MILLISECOND) as i64;
    }

    /// Lets time pass in steps, with a batch at each.
    pub(crate) fn run(&mut self, nanos: u64, step: u64) {
        for _ in 0..nanos / step {
            self.advance(step);
            self.settle();
        }
    }

    /// Connects a peer to a shard and sends the upgrade.
    pub(crate) fn connect(&mut self, shard: usize, seed: u8, device: &'static str) -> usize {
        let connection = ConnectionId { index: self.next_index, generation: 1 };
        self.next_index += 1;
        let peer = self.peers.len();
        self.peers.push(Peer {
            key: SigningKey::from_bytes(&[seed; 32]),
            device,
            shard,
            connection,
            decoder: Decoder::new(Role::Client, 1 << 20),
            upgraded: false,
            bytes: Vec::new(),
            texts: VecDeque::new(),
            pings: 0,
            closed_with: None,
            gone: false,
            shut: false,
            resume: None,
            stalled: false,
            unwritten: VecDeque::new(),
        });
        self.owners.insert((shard, connection), peer);
        let event =
            Event::Accepted { connection, peer: IpAddr::V4(Ipv4Addr::LOCALHOST), nonce: [seed.wrapping_add(100); 32] };
        self.event(shard, event);
        let mut request = Vec::new();
        upgrade::request("localhost", "/ws", [7; 16], &mut request);
        self.bytes(peer, request);
        peer
    }

    /// Connects and authenticates.
    pub(crate) fn login(&mut self, shard: usize, seed: u8, device: &'static str) -> usize {
        let peer = self.connect(shard, seed, device);
        let auth = self.auth(peer, LobbyMode::All);
        self.text(peer, &auth);
        self.settle();
        peer
    }

    /// Connects and authenticates, and goes on behind a seq.
    pub(crate) fn log_in_from(&mut self, shard: usize, seed: u8, device: &'static str, resume: Resume) -> usize {
        let peer = self.connect(shard, seed, device);
        self.peers[peer].resume = Some(resume);
        let auth = self.auth(peer, LobbyMode::All);
        self.text(peer, &auth);
        self.settle();
        peer
    }

    /// Sends a message and lets the batch end.
    pub(crate) fn send(&mut self, from: usize, to: &PublicKey, id: &str, text: &str) {
        let message = self.message(from, to, id, text);
        self.text(from, &message);
        self.settle();
    }

    /// Confirms everything up to a seq.
    pub(crate) fn confirm(&mut self, peer: usize, seq: u64) {
        self.text(peer, &format!("{{\"type\":\"received\",\"seq\":{seq}}}"));
        self.settle();
    }

    /// Seqs and ids of the messages that a peer has received since the last call; other frames go.
    pub(crate) fn pushes(&mut self, peer: usize) -> Vec<(u64, String)> {
        let mut decoder = ServerFrameDecoder::new();
        let pushed = |text: String| match decoder.decode(&text) {
            Ok(ServerFrame::Message(pushed)) => Some((pushed.seq, pushed.message.id.to_owned())),
            _ => None,
        };
        self.received(peer).into_iter().filter_map(pushed).collect()
    }

    /// The welcome that a peer got: epoch, seq, and whether it recovered. What came before it goes.
    pub(crate) fn welcome(&mut self, peer: usize) -> (u64, u64, bool) {
        let mut decoder = ServerFrameDecoder::new();
        while let Some(text) = self.peers[peer].texts.pop_front() {
            if let Ok(ServerFrame::Welcome(welcome)) = decoder.decode(&text) {
                return (welcome.epoch, welcome.seq, welcome.recovered);
            }
        }
        panic!("peer {peer} got no welcome");
    }

    /// The answer to the challenge that the peer got.
    pub(crate) fn auth(&mut self, peer: usize, lobby: LobbyMode) -> String {
        self.settle();
        let challenge = self.peers[peer].texts.pop_front().expect("a challenge");
        let mut decoder = ServerFrameDecoder::new();
        let Ok(ServerFrame::Challenge(challenge)) = decoder.decode(&challenge) else { panic!("{challenge}") };
        let peer = &self.peers[peer];
        let auth =
            opening::answer(&challenge, "localhost", &peer.key, peer.device, lobby, peer.resume).expect("it fits");
        let mut json = Vec::new();
        encode::auth(&mut json, &auth);
        String::from_utf8(json).expect("text")
    }

    pub(crate) fn key(&self, peer: usize) -> PublicKey {
        PublicKey::from(&self.peers[peer].key.verifying_key())
    }

    /// A signed message as JSON.
    pub(crate) fn message(&self, from: usize, to: &PublicKey, id: &str, text: &str) -> String {
        self.message_to(from, Target::User(*to), id, text)
    }

    /// The same, to whatever it may be for.
    pub(crate) fn message_to(&self, from: usize, target: Target<'_>, id: &str, text: &str) -> String {
        let peer = &self.peers[from];
        let mut message = Message {
            target,
            text,
            sender: self.key(from),
            id,
            timestamp: Timestamp::from_unix_ms(self.now.unix_ms),
            signature: Signature::from_bytes([0; 64]),
        };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        message.signature = Signature::from_bytes(peer.key.sign(&signed).to_bytes());
        let mut json = Vec::new();
        encode::message(&mut json, &message);
        String::from_utf8(json).expect("text")
    }

    /// Sends a text message; it waits for the next batch.
    pub(crate) fn text(&mut self, peer: usize, text: &str) {
        let bytes = masked(text);
        self.bytes(peer, bytes);
    }

    pub(crate) fn bytes(&mut self, peer: usize, mut bytes: Vec<u8>) {
        let (shard, connection) = (self.peers[peer].shard, self.peers[peer].connection);
        if !self.peers[peer].gone {
            self.event(shard, Event::Received { connection, bytes: &mut bytes });
        }
    }

    pub(crate) fn disconnect(&mut self, peer: usize, gone: Gone) {
        let (shard, connection) = (self.peers[peer].shard, self.peers[peer].connection);
        self.event(shard, Event::Disconnected { connection, gone });
    }

    pub(crate) fn event(&mut self, shard: usize, event: Event<'_>) {
        let mut effects = Effects::new();
        self.shards[shard].handle(event, self.now, &mut effects);
        self.carry_out(shard, &mut effects);
    }

    /// Ends batches until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10 {
            for shard in 0..self.shards.len() {
                let mut effects = Effects::new();
                self.shards[shard].end_of_batch(self.now, &mut effects);
                self.carry_out(shard, &mut effects);
            }
            self.store();
        }
    }

    fn carry_out(&mut self, shard: usize, effects: &mut Effects) {
        for effect in effects.drain().collect::<Vec<_>>() {
            match effect {
                Effect::Read { .. } => {}
                Effect::Write { connection, buffer } => {
                    let owner = self.owners[&(shard, connection)];
                    if self.peers[owner].stalled {
                        self.peers[owner].unwritten.push_back(buffer);
                    } else {
                        self.peers[owner].take(&buffer);
                        self.event(shard, Event::Written { connection, buffer });
                    }
                }
                Effect::ShutdownWrite { connection } => {
                    let owner = self.owners[&(shard, connection)];
                    self.peers[owner].shut = true;
                }
                Effect::Close { connection } => {
                    let owner = self.owners.remove(&(shard, connection)).expect("closed once");
                    self.peers[owner].gone = true;
                }
                Effect::HandOver { connection, to, arrival } => {
                    let owner = self.owners.remove(&(shard, connection)).expect("handed over once");
                    let arrived = ConnectionId { index: self.next_index, generation: 1 };
                    self.next_index += 1;
                    self.owners.insert((usize::from(to.0), arrived), owner);
                    (self.peers[owner].shard, self.peers[owner].connection) = (usize::from(to.0), arrived);
                    self.event(usize::from(to.0), Event::Arrived { connection: arrived, arrival });
                }
                Effect::Send { to, envelope } => {
                    self.event(usize::from(to.0), Event::FromShard { from: ShardId(shard as u16), envelope });
                }
                Effect::Store(batch) => self.asked[shard].push_back(Asked::Store(batch)),
                Effect::Load(request) => self.asked[shard].push_back(Asked::Load(request)),
            }
        }
    }

    /// Lets a stalled peer take the write in flight, if there is one.
    pub(crate) fn read_one(&mut self, peer: usize) -> bool {
        let Some(buffer) = self.peers[peer].unwritten.pop_front() else { return false };
        self.peers[peer].take(&buffer);
        let (shard, connection) = (self.peers[peer].shard, self.peers[peer].connection);
        if !self.peers[peer].gone {
            self.event(shard, Event::Written { connection, buffer });
        }
        self.settle();
        true
    }

    /// Lets a stalled peer read on.
    pub(crate) fn resume(&mut self, peer: usize) {
        self.peers[peer].stalled = false;
        while self.read_one(peer) {}
    }

    /// All texts that a peer has received since the last call.
    pub(crate) fn received(&mut self, peer: usize) -> Vec<String> {
        self.peers[peer].texts.drain(..).collect()
    }

    /// Those of them that hold `needle`.
    pub(crate) fn received_with(&mut self, peer: usize, needle: &str) -> Vec<String> {
        self.received(peer).into_iter().filter(|text| text.contains(needle)).collect()
    }
}

impl Peer {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let mut bytes = std::mem::take(&mut self.bytes);
        if !self.upgraded {
            let read = upgrade::read_response(&bytes, [7; 16]);
            let Ok(Some(consumed)) = read else {
                self.texts.push_back(String::from_utf8_lossy(&bytes).into_owned());
                return;
            };
            bytes.drain(..consumed);
            self.upgraded = true;
        }
        let mut input = &mut bytes[..];
        while let Some(incoming) = self.decoder.next(&mut input).expect("the relay frames well") {
            match incoming {
                Incoming::Text(text) => self.texts.push_back(text.to_owned()),
                Incoming::Ping(_) => self.pings += 1,
                Incoming::Close { code, .. } => self.closed_with = code,
                Incoming::Binary(_) | Incoming::Pong(_) => {}
            }
        }
    }
}

pub(crate) fn masked(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_masked(&mut bytes, Opcode::Text, text.as_bytes(), MASK);
    bytes
}
