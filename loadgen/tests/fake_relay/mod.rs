//! A relay for tests, small and on one thread, that behaves or misbehaves as asked and counts what
//! it did.

#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Resume};
use protocol::server_frame::{Challenge, Welcome, WelcomeLimits};
use protocol::upgrade::{Upgrade, UpgradeLimits, read_upgrade};
use protocol::websocket::{Decoder, Incoming, Role, push_close, push_text};
use protocol::{PublicKey, Timestamp, encode, splice};
use relay_engine::epoll::Epoll;
use relay_engine::{ConnectionId, Engine, EngineConfig, Event, ReadMode, SocketOptions, listen};
use rustix::net::sockopt::set_socket_recv_buffer_size;

/// How long a stall takes.
pub(crate) const STALL: Duration = Duration::from_millis(200);

/// With `serve_per_second`: what it did not use of this last stretch it may still use, so that a late
/// thread is not a slow relay.
const CREDIT: Duration = Duration::from_millis(50);

mod lobby;
mod messages;
pub(crate) mod request;
mod rooms;
mod store;

use store::Inbox;

const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;

/// What the relay does wrong. `every: 0` is never; else each so many-th message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Acks, and does not push.
    pub(crate) drop_every: u64,
    /// Pushes twice, under two numbers.
    pub(crate) repeat_every: u64,
    /// Changes a character of the text.
    pub(crate) alter_every: u64,
    /// Changes a digit of the signature.
    pub(crate) forge_every: u64,
    /// Puts a space between two fields.
    pub(crate) respace_every: u64,
    /// Pushes after the next message of the same recipient.
    pub(crate) delay_every: u64,
    /// Pushes to somebody else.
    pub(crate) misroute_every: u64,
    /// Answers `error/offline`.
    pub(crate) refuse_every: u64,
    /// Skips an inbox number.
    pub(crate) skip_every: u64,
    /// Acks twice.
    pub(crate) ack_twice_every: u64,
    /// Does not tell of the first leave; the totals know of it.
    pub(crate) forget_leave: bool,
    /// Keeps the first who leaves in the lobby for ever.
    pub(crate) keep_ghost: bool,
    /// Has somebody in the lobby who is not a client of the run.
    pub(crate) stranger: bool,
    /// `messagesPerSecond` of the welcome.
    pub(crate) rate_limit: u64,
    /// Closes the connection of the first sender of this many messages.
    pub(crate) close_after: u64,
    /// Sleeps at the message of this number, for 200 ms, and neither reads nor writes meanwhile.
    pub(crate) stall_at: u64,
    /// Acks and pushes so many messages of a run, and loses the rest. A run begins when nobody is there.
    pub(crate) quota: u64,
    /// Carries so many messages a second, one after the other; the others wait.
    pub(crate) serve_per_second: u64,
    /// After so many logins, turns so many away.
    pub(crate) refuse_logins: (u64, u64),
    /// After so many logins, answers no upgrade any more.
    pub(crate) mute_after: u64,
    /// Pushes to the sender as well.
    pub(crate) copy_every: u64,
    /// What it knows of who comes back.
    pub(crate) memory: Memory,
    /// Keeps messages for those who are offline, and acks one to somebody who is online once it is confirmed.
    pub(crate) store: bool,
    /// With a store: acks a message for somebody who is offline and forgets it.
    pub(crate) forget_every: u64,
    /// With a store: never acks it.
    pub(crate) never_ack_every: u64,
    /// Leaves the last of several devices out.
    pub(crate) skip_device_every: u64,
    /// With a store: pushes to who comes back one message twice, under two numbers.
    pub(crate) twice_on_return: bool,
    /// Closes with 4408 once more than so many bytes wait for a client; 0 is never.
    pub(crate) outbox_max: usize,
    /// Calls itself so.
    pub(crate) name: Option<&'static str>,
}

/// What a relay remembers of those who left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Nothing: inbox numbers begin anew.
    #[default]
    Nothing,
    /// All: it goes on behind what the client says to have.
    All,
    /// What it pushed, and not what the client has: it pushes everything again.
    Pushes,
}

/// What the relay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) dropped: u64,
    pub(crate) repeated: u64,
    pub(crate) altered: u64,
    pub(crate) forged: u64,
    pub(crate) respaced: u64,
    pub(crate) delayed: u64,
    /// Still held back.
    pub(crate) held: u64,
    pub(crate) misrouted: u64,
    pub(crate) refused: u64,
    pub(crate) skipped: u64,
    pub(crate) acked_twice: u64,
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    /// Clients that were sent totals which their own list could not agree with.
    pub(crate) disagreements: u64,
    pub(crate) syncs: u64,
    /// Closed with 4408.
    pub(crate) too_slow: u64,
    /// Bytes that waited for one client, at most.
    pub(crate) waited_most: usize,
    /// Messages that the two with most of them got.
    pub(crate) most_received: u64,
    /// Logins that went on where they had ended.
    pub(crate) resumed: u64,
    /// Messages that were pushed again to who came back.
    pub(crate) pushed_again: u64,
    /// Logins that were turned away.
    pub(crate) turned_away: u64,
    /// Upgrades that were not answered.
    pub(crate) muted: u64,
    /// Messages that were pushed to their sender as well.
    pub(crate) copied: u64,
    /// Devices that were left out.
    pub(crate) devices_skipped: u64,
    /// Messages that were pushed to other devices of their sender.
    pub(crate) copies: u64,
    /// `received` frames.
    pub(crate) confirmations: u64,
    /// With a store: messages for those who were offline.
    pub(crate) kept: u64,
    pub(crate) forgotten: u64,
    pub(crate) never_acked: u64,
    /// With a store: the numbers that are not confirmed.
    pub(crate) unconfirmed: u64,
}

/// A running relay. Ends when it is dropped.
pub(crate) struct FakeRelay {
    pub(crate) address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeRelay {
    pub(crate) fn start(faults: Faults) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), None, faults)
    }

    /// At an address, with a store that is the file `disk`.
    pub(crate) fn start_at(address: SocketAddr, disk: Option<&Path>, faults: Faults) -> Self {
        // So that a client that does not read is felt soon.
        let small_buffers = SocketOptions { send_buffer_bytes: Some(32 * 1024), ..SocketOptions::default() };
        let listener = listen(address, false, 1024, &small_buffers).unwrap();
        let address = listener.local_addr().unwrap();
        // Connections inherit it, and the kernel does not read ahead of a relay that stalls.
        set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER_BYTES).unwrap();
        let counts = Arc::new(Mutex::new(Counts::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&counts), Arc::clone(&stop));
        let disk = disk.map(Path::to_owned);
        let thread = thread::spawn(move || {
            let mut engine = Epoll::new(&EngineConfig::default()).unwrap();
            engine.listen(listener).unwrap();
            let mut server = Server::new(faults);
            if let Some(disk) = disk {
                server.load(&disk);
            }
            while !stopped.load(Ordering::Relaxed) {
                engine.poll(Some(server.patience()), &mut |event| server.on_event(event)).unwrap();
                server.serve();
                server.act(&mut engine);
                *shared.lock().unwrap() = server.counts;
            }
        });
        Self { address, counts, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }
}

impl Drop for FakeRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

struct Peer {
    decoder: Option<Decoder>,
    request: Vec<u8>,
    key: Option<PublicKey>,
    device: String,
    lobby: bool,
    out: Vec<u8>,
    writing: bool,
    closing: bool,
    /// The last number given out in its inbox.
    seq: u64,
    /// Has not been told of a leave that the totals know of.
    stale: bool,
    held: Vec<Vec<u8>>,
}

enum Wish {
    Read(ConnectionId),
    Close(ConnectionId),
}

struct Server {
    faults: Faults,
    counts: Counts,
    received: BTreeMap<PublicKey, u64>,
    /// With a memory: what was pushed to each key; the first has number 1.
    pushed: HashMap<PublicKey, Vec<Vec<u8>>>,
    peers: HashMap<ConnectionId, Peer>,
    /// The devices of each key that are connected.
    online: BTreeMap<PublicKey, Vec<ConnectionId>>,
    /// Those in the lobby without a connection.
    ghosts: Vec<PublicKey>,
    rev: u64,
    wishes: Vec<Wish>,
    /// Messages since nobody was there.
    of_run: u64,
    /// Messages whose turn will come then.
    line: VecDeque<(Instant, ConnectionId, String)>,
    served_until: Instant,
    inboxes: HashMap<PublicKey, Inbox>,
    /// With a store: ids that were taken.
    ids: HashSet<String>,
    disk: Option<File>,
    rooms: HashMap<String, Vec<PublicKey>>,
}

impl Server {
    fn new(faults: Faults) -> Self {
        Self {
            faults,
            counts: Counts::default(),
            received: BTreeMap::new(),
            pushed: HashMap::new(),
            peers: HashMap::new(),
            online: BTreeMap::new(),
            ghosts: if faults.stranger { vec![PublicKey::from_bytes([7; 32])] } else { Vec::new() },
            rev: 0,
            wishes: Vec::new(),
            of_run: 0,
            line: VecDeque::new(),
            served_until: Instant::now(),
            inboxes: HashMap::new(),
            ids: HashSet::new(),
            disk: None,
            rooms: HashMap::new(),
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted { connection, .. } => {
                let peer = Peer {
                    decoder: None,
                    request: Vec::new(),
                    key: None,
                    device: String::new(),
                    lobby: true,
                    out: Vec::new(),
                    writing: false,
                    closing: false,
                    seq: 0,
                    stale: false,
                    held: Vec::new(),
                };
                self.peers.insert(connection, peer);
                self.wishes.push(Wish::Read(connection));
            }
            Event::Received { connection, bytes } => self.on_bytes(connection, bytes),
            Event::Written { connection, .. } => {
                if let Some(peer) = self.peers.get_mut(&connection) {
                    peer.writing = false;
                }
            }
            Event::Disconnected { connection, .. } => self.on_gone(connection),
            Event::AcceptFailed { .. } => {}
        }
    }

    fn act(&mut self, engine: &mut Epoll) {
        for wish in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Read(connection) => engine.read(connection, ReadMode::Continuous),
                Wish::Close(connection) => engine.close(connection),
            }
        }
        let waiting = self.peers.values().map(|peer| peer.out.len()).max().unwrap_or(0);
        self.counts.waited_most = self.counts.waited_most.max(waiting);
        let mut received: Vec<_> = self.received.values().copied().collect();
        received.sort_unstable();
        self.counts.most_received = received.iter().rev().take(2).sum();
        let max = self.faults.outbox_max;
        let is_slow = |peer: &Peer| max > 0 && peer.out.len() > max && !peer.closing;
        let slow: Vec<_> = self.peers.iter().filter(|(_, peer)| is_slow(peer)).map(|(&id, _)| id).collect();
        for connection in slow {
            self.counts.too_slow += 1;
            self.leave(connection);
            let peer = self.peers.get_mut(&connection).unwrap();
            peer.out.clear();
            push_close(&mut peer.out, 4408, "too slow");
            peer.closing = true;
        }
        let mut ended = Vec::new();
        for (&connection, peer) in &mut self.peers {
            if !peer.writing && !peer.out.is_empty() {
                engine.write(connection, std::mem::take(&mut peer.out));
                peer.writing = true;
            } else if !peer.writing && peer.closing {
                ended.push(connection);
            }
        }
        for connection in ended {
            self.on_gone(connection);
        }
        for wish in std::mem::take(&mut self.wishes) {
            if let Wish::Close(connection) = wish {
                engine.close(connection);
            }
        }
    }

    fn on_bytes(&mut self, connection: ConnectionId, received: &mut [u8]) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        let mut behind;
        let mut bytes = &mut *received;
        if peer.decoder.is_none() {
            if self.faults.mute_after > 0 && self.counts.joins >= self.faults.mute_after {
                self.counts.muted += u64::from(peer.request.is_empty());
                peer.request.extend_from_slice(bytes);
                return;
            }
            peer.request.extend_from_slice(bytes);
            let request = peer.request.clone();
            match read_upgrade(&request, &UpgradeLimits::default(), &mut peer.out) {
                Upgrade::Accepted { consumed, .. } => {
                    peer.decoder = Some(Decoder::new(Role::Server, 16 * 1024));
                    behind = request[consumed..].to_vec();
                    bytes = &mut behind;
                    let name = self.faults.name.unwrap_or("localhost");
                    let challenge = Challenge { version: 1, relay: name, nonce: [5; 32] };
                    send(peer, |out| encode::challenge(out, &challenge));
                }
                Upgrade::Incomplete => return,
                Upgrade::Refused { .. } => {
                    peer.closing = true;
                    return;
                }
            }
        }
        let mut texts = Vec::new();
        let decoder = peer.decoder.as_mut().unwrap();
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Incoming::Text(text))) => texts.push(text.to_owned()),
                Ok(Some(Incoming::Close { .. })) => {
                    push_close(&mut peer.out, 1000, "");
                    peer.closing = true;
                    break;
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => panic!("the generator sent a bad frame: {fault}"),
            }
        }
        for text in texts {
            self.on_text(connection, &text);
        }
        if self.peers.get(&connection).is_some_and(|peer| peer.closing) {
            self.leave(connection);
        }
    }

    fn on_text(&mut self, connection: ConnectionId, text: &str) {
        let mut decoder = FrameDecoder::new();
        match decoder.decode(text).expect("the generator's frames are well-formed") {
            ClientFrame::Auth(auth) => {
                let lobby = auth.lobby == protocol::frame::LobbyMode::All;
                self.on_auth(connection, auth.public_key, auth.device_id, lobby, auth.resume);
            }
            ClientFrame::Message(_) if self.faults.serve_per_second > 0 => self.line_up(connection, text),
            ClientFrame::Message(message) => self.on_message(connection, text, &message),
            ClientFrame::Room { room, action } => self.on_room(connection, room, &action),
            ClientFrame::Received(seq) => self.on_received(connection, seq),
            ClientFrame::LobbySync => {
                self.counts.syncs += 1;
                self.snapshot(connection);
            }
            _ => {}
        }
    }

    fn on_auth(&mut self, connection: ConnectionId, key: PublicKey, device: &str, lobby: bool, resume: Option<Resume>) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let peer = self.peers.get_mut(&connection).unwrap();
        let (after, times) = self.faults.refuse_logins;
        if self.counts.joins >= after && self.counts.turned_away < times {
            self.counts.turned_away += 1;
            push_close(&mut peer.out, 4429, "too many");
            peer.closing = true;
            return;
        }
        (peer.key, peer.device, peer.lobby) = (Some(key), device.to_owned(), lobby);
        peer.seq = self.pushed.get(&key).map_or(0, |pushed| pushed.len() as u64);
        if self.faults.store {
            peer.seq = self.inboxes.get(&key).map_or(0, Inbox::seq);
        }
        let recovered = (self.faults.memory == Memory::All || self.faults.store) && resume.is_some();
        let known = if recovered { resume.map_or(0, |resume| resume.seq as usize) } else { 0 };
        self.counts.resumed += u64::from(recovered);
        let welcome = Welcome {
            public_key: key,
            device_id: device,
            time: Timestamp::from_unix_ms(now.as_millis() as i64),
            epoch: 1,
            seq: peer.seq,
            recovered,
            heartbeat_ms: 20_000,
            limits: WelcomeLimits {
                frame_bytes: 16_384,
                message_chars: 16_000,
                messages_per_second: self.faults.rate_limit,
            },
        };
        send(peer, |out| encode::welcome(out, &welcome));
        self.counts.joins += 1;
        let connected = self.online.get(&key).cloned();
        let same = connected.iter().flatten().find(|older| self.peers[older].device == device);
        if let Some(older) = same {
            // The newest connection wins, and the lobby sees nothing.
            self.online.entry(key).or_default().retain(|connection| connection != older);
            let older = self.peers.get_mut(older).unwrap();
            push_close(&mut older.out, 4409, "replaced");
            older.closing = true;
        } else if connected.is_none() {
            self.update(&[key], &[]);
        }
        self.online.entry(key).or_default().push(connection);
        self.snapshot(connection);
        let peer = self.peers.get_mut(&connection).unwrap();
        for (at, frame) in self.pushed.get(&key).into_iter().flatten().enumerate().skip(known) {
            self.counts.pushed_again += 1;
            send(peer, |out| splice::splice_seq(out, frame, at as u64 + 1));
        }
        self.give_what_waits(connection, key, resume);
    }

    fn on_gone(&mut self, connection: ConnectionId) {
        self.leave(connection);
        if self.peers.remove(&connection).is_some() {
            if self.peers.is_empty() {
                self.of_run = 0;
            }
            self.wishes.push(Wish::Close(connection));
        }
    }
}

fn send(peer: &mut Peer, encode: impl FnOnce(&mut Vec<u8>)) {
    let mut text = Vec::new();
    encode(&mut text);
    push_text(&mut peer.out, std::str::from_utf8(&text).unwrap());
}
