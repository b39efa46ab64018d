//! A shard with a network of memory: what the shell does, without a kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol::frame::LobbyMode;
use protocol::server_frame::{Challenge, ServerFrame, ServerFrameDecoder};
use protocol::websocket::{Decoder, Incoming, Role};
use protocol::{encode, limits, opening, upgrade};
use relay_core::{
    Batch, Config, ConnectionId, Effect, Effects, Envelope, Event, Gone, Limits, Now, Shard, ShardId, Stats, VerifyMode,
};

use crate::user::{UNIX_MS, User, push_client_text};

/// A year: no heartbeat falls into a measurement.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The device of every client.
const DEVICE: &str = "bench";

/// A configuration for benchmarks: no rate, no heartbeat, the other bounds as they are by default.
#[must_use]
pub fn config(shard: ShardId, shards: u16, verify: VerifyMode) -> Config {
    let limits = Limits { messages_per_second: 0, ..Limits::default() };
    Config { verify, limits, heartbeat: NEVER, ..Config::new(shard, shards, 0x0123_4567_89ab_cdef) }
}

/// A shard, a clock that moves when told, and a network on which every write is done at once.
///
/// The steps of a pass: [`receive`](Self::receive) and [`from_shard`](Self::from_shard) for what
/// came in, then [`end_batch`](Self::end_batch). Buffers are used again: a pass in a steady state
/// allocates nothing that the shard does not allocate.
#[derive(Debug)]
pub struct Rig {
    shard: Shard,
    config: Config,
    now: Now,
    effects: Effects,
    connections: u32,
    /// Writes of the pass, to be answered.
    writes: Vec<(ConnectionId, Vec<u8>)>,
    outgoing: Vec<(ShardId, Envelope)>,
    /// Batches of the pass: the store takes each at once, and keeps nothing.
    #[expect(clippy::vec_box, reason = "the boxes go back to the shard")]
    stored: Vec<Box<Batch>>,
}

impl Rig {
    /// Makes a shard without connections.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            shard: Shard::new(config.clone()),
            config,
            now: Now { nanos: 0, unix_ms: UNIX_MS },
            effects: Effects::new(),
            connections: 0,
            writes: Vec::new(),
            outgoing: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// What the shard was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the shard counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.shard.stats()
    }

    /// Moves the monotonic clock on. The wall clock stands still, so that frames signed once stay
    /// fresh.
    pub fn advance(&mut self, by: Duration) {
        self.now.nanos += u64::try_from(by.as_nanos()).expect("a benchmark does not run for centuries");
    }

    /// Connects a client; `nonce` is for its challenge.
    pub fn accept(&mut self, connection: ConnectionId, nonce: [u8; 32]) {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.shard.handle(Event::Accepted { connection, peer, nonce }, self.now, &mut self.effects);
    }

    /// Breaks a connection. The shard forgets it.
    ///
    /// # Panics
    /// If the shard does anything else than that.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        self.shard.handle(Event::Disconnected { connection, gone: Gone::Broken }, self.now, &mut self.effects);
        for effect in self.effects.drain() {
            match effect {
                Effect::Close { connection: closed } if closed == connection => {}
                Effect::Read { .. } => {}
                other => panic!("not to be expected of a broken connection: {other:?}"),
            }
        }
    }

    /// Gives the shard bytes of a connection. They are unmasked in place.
    pub fn receive(&mut self, connection: ConnectionId, bytes: &mut [u8]) {
        self.shard.handle(Event::Received { connection, bytes }, self.now, &mut self.effects);
    }

    /// Gives the shard something of another one.
    pub fn from_shard(&mut self, from: ShardId, envelope: Envelope) {
        self.shard.handle(Event::FromShard { from, envelope }, self.now, &mut self.effects);
    }

    /// Ends the batch and carries out its effects: `sink` sees what is written, and every write is
    /// done at once. Returns how many writes there were. What is for other shards waits in
    /// [`outgoing`](Self::outgoing).
    ///
    /// # Panics
    /// If the shard closes a connection or hands one over: no benchmark asks for that.
    pub fn end_batch(&mut self, mut sink: impl FnMut(ConnectionId, &[u8])) -> usize {
        self.shard.end_of_batch(self.now, &mut self.effects);
        for effect in self.effects.drain() {
            match effect {
                Effect::Write { connection, buffer } => self.writes.push((connection, buffer)),
                Effect::Send { to, envelope } => self.outgoing.push((to, envelope)),
                Effect::Read { .. } => {}
                Effect::ShutdownWrite { .. } | Effect::Close { .. } | Effect::HandOver { .. } => {
                    panic!("the shard ended a connection: {effect:?}")
                }
                Effect::Store(batch) => self.stored.push(batch),
                Effect::Load(_) => panic!("nothing is stored: {effect:?}"),
            }
        }
        for batch in self.stored.drain(..) {
            self.shard.handle(Event::Stored { batch, result: Ok(()) }, self.now, &mut self.effects);
        }
        let count = self.writes.len();
        for (connection, buffer) in self.writes.drain(..) {
            sink(connection, &buffer);
            self.shard.handle(Event::Written { connection, buffer }, self.now, &mut self.effects);
        }
        count
    }

    /// Ends batches until nothing is written any more.
    pub fn settle(&mut self) {
        while self.end_batch(|_, _| {}) > 0 {}
    }

    /// Takes what the shard has for other shards.
    pub fn outgoing(&mut self) -> impl Iterator<Item = (ShardId, Envelope)> + '_ {
        self.outgoing.drain(..)
    }

    /// Connects a client and logs it in. Lobby frames are due later, as the clock moves.
    ///
    /// # Panics
    /// If the shard refuses the client, as it does a user whose home is another shard.
    pub fn log_in(&mut self, user: &User, lobby: LobbyMode) -> ConnectionId {
        let connection = ConnectionId { index: self.connections, generation: 0 };
        self.connections += 1;
        let mut nonce = [0x6e; 32];
        nonce[..4].copy_from_slice(&connection.index.to_le_bytes());
        self.accept(connection, nonce);
        let mut login = Login::new(&self.config.relay_name, user, nonce, lobby);

        let mut received = self.exchange(connection, &mut login.request);
        let response_bytes = upgrade::read_response(&received, Login::KEY).expect("an upgrade");
        let mut rest = &mut received[response_bytes.expect("a whole response")..];
        let mut decoder = Decoder::new(Role::Client, limits::RELAY_FRAME_BYTES);
        let mut frames = ServerFrameDecoder::new();
        let Ok(Some(Incoming::Text(text))) = decoder.next(&mut rest) else { panic!("no challenge") };
        assert_eq!(frames.decode(text), Ok(ServerFrame::Challenge(challenge(&self.config.relay_name, nonce))));

        let mut received = self.exchange(connection, &mut login.auth);
        let mut rest = &mut received[..];
        let Ok(Some(Incoming::Text(text))) = decoder.next(&mut rest) else { panic!("no welcome") };
        assert!(matches!(frames.decode(text), Ok(ServerFrame::Welcome(_))), "not a welcome: {text}");
        connection
    }

    /// Gives the shard bytes of a connection and returns what it writes to that connection.
    fn exchange(&mut self, connection: ConnectionId, bytes: &mut [u8]) -> Vec<u8> {
        self.receive(connection, bytes);
        let mut received = Vec::new();
        self.end_batch(|to, bytes| {
            if to == connection {
                received.extend_from_slice(bytes);
            }
        });
        received
    }
}

/// What a client sends until it is logged in, made ahead: the nonce that it will be given is known.
#[derive(Clone, Debug)]
pub struct Login {
    /// The HTTP request.
    pub request: Vec<u8>,
    /// The `auth` frame, masked.
    pub auth: Vec<u8>,
}

impl Login {
    /// The request's key.
    const KEY: [u8; 16] = [0x6b; 16];

    /// What `user` sends to a relay of this name that challenges it with `nonce`.
    ///
    /// # Panics
    /// If the name is none.
    #[must_use]
    pub fn new(relay_name: &str, user: &User, nonce: [u8; 32], lobby: LobbyMode) -> Self {
        let mut request = Vec::new();
        upgrade::request(relay_name, upgrade::PATH, Self::KEY, &mut request);
        let challenge = challenge(relay_name, nonce);
        let auth = opening::answer(&challenge, relay_name, &user.signing_key, DEVICE, lobby, None)
            .expect("the challenge has the name that is expected");
        let mut json = Vec::new();
        encode::auth(&mut json, &auth);
        let mut bytes = Vec::new();
        push_client_text(&mut bytes, std::str::from_utf8(&json).expect("frames are UTF-8"));
        Self { request, auth: bytes }
    }
}

fn challenge(relay: &str, nonce: [u8; 32]) -> Challenge<'_> {
    Challenge { version: limits::VERSION, relay, nonce }
}
