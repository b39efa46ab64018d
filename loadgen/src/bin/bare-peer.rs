//! The `bare-peer` command: answers the load generator with next to no work, so that a run against
//! it measures the generator.
//!
//! It opens sessions without looking at a signature, pushes each message to the connection of its
//! recipient as the relay would, and acks. It knows no lobby, checks nothing, remembers no ids and
//! limits nobody: it is no relay.
//!
//! ```sh
//! loadgen run --spawn-relay --relay-bin target/release/bare-peer --relay-args "--pin-cores 0" \
//!     --lobby none --clients 100 --rate 100000/s --pin-cores 1
//! ```
//!
//! # Invariants
//! - One thread, one write in flight a connection; what comes meanwhile goes with the next write.
//! - A message costs one table look-up and two copies: to the recipient, and the ack.
//! - What it does not understand ends it with a sentence: a peer that skipped work would flatter the
//!   generator.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use loadgen::plan::EngineChoice;
use loadgen::preflight;
use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, LobbyMode};
use protocol::server_frame::{Ack, Challenge, Welcome, WelcomeLimits};
use protocol::upgrade::{Upgrade, UpgradeLimits, read_upgrade};
use protocol::websocket::{self, Decoder, Incoming, Role};
use protocol::{PublicKey, Timestamp, encode, limits, splice};
use relay_engine::epoll::Epoll;
use relay_engine::ring::Ring;
use relay_engine::{ConnectionId, Engine, EngineConfig, Event, ReadMode, SocketOptions, listen};
use signal_hook::consts::{SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connections that may wait to be accepted; `net.core.somaxconn` caps it.
const BACKLOG: u32 = 4096;

/// The longest sleep, so that a signal is seen.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Where the parts lie in a message as this project's clients encode it.
const MESSAGE_HEAD: &str = "{\"type\":\"message\",\"recipientPublicKey\":\"";
const ID_HEAD: &str = "\",\"clientMessageId\":\"";

/// Answers the load generator with next to no work: measures the generator, not a relay.
#[derive(Debug, Parser)]
#[command(name = "bare-peer", version)]
struct Options {
    /// Address for clients; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Taken as the relay takes it, and not served
    #[arg(long, default_value = "127.0.0.1:7401")]
    admin: SocketAddr,
    /// The core to stay on
    #[arg(long, value_name = "CORE")]
    pin_cores: Option<usize>,
    /// Way to the kernel
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Its name, which clients sign at login
    #[arg(long, default_value = "localhost")]
    name: String,
}

fn main() -> ExitCode {
    match serve(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads what a closed standard error would have shown.
            let _ = writeln!(io::stderr(), "bare-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|error| format!("signals: {error}"))?;
    }
    if let Some(core) = options.pin_cores {
        if !preflight::Machine::read().cores.contains(&core) {
            return Err(format!("core {core} is not available (--pin-cores)"));
        }
        preflight::pin_thread(core);
    }
    preflight::allow_files().map_err(|error| error.to_string())?;
    let listener = listen(options.listen, false, BACKLOG, &SocketOptions::default())
        .map_err(|error| format!("cannot listen on {} (--listen): {error}", options.listen))?;
    let mut engine = open_engine(options.engine).map_err(|error| format!("engine: {error}"))?;
    let line = start_line(&listener, options, engine.as_ref()).map_err(|error| error.to_string())?;
    engine.listen(listener).map_err(|error| format!("engine: {error}"))?;
    // Nobody waits for the line where nobody reads it.
    let _ = writeln!(io::stdout(), "{line}");
    let mut peer = Peer::new(options.name.clone());
    while !stop.load(Ordering::Relaxed) {
        engine.poll(Some(SLEEP_MAX), &mut |event| peer.on_event(event)).map_err(|error| format!("poll: {error}"))?;
        peer.act(engine.as_mut());
        if let Some(fault) = peer.fault.take() {
            return Err(fault);
        }
    }
    Ok(())
}

/// As the relay's, so that `loadgen --spawn-relay` finds the address in it.
fn start_line(listener: &TcpListener, options: &Options, engine: &dyn Engine) -> io::Result<String> {
    let Options { admin, pin_cores, .. } = options;
    let core = pin_cores.map_or_else(|| "any core".to_owned(), |core| format!("core {core}"));
    let address = listener.local_addr()?;
    Ok(format!(
        "bare-peer {} listening on {address}, admin on {admin}, 1 thread on {core}, engine {}, NO RELAY",
        env!("CARGO_PKG_VERSION"),
        engine.kind()
    ))
}

fn open_engine(choice: EngineChoice) -> io::Result<Box<dyn Engine>> {
    let config = EngineConfig::default();
    let is_ring = match choice {
        EngineChoice::Ring => true,
        EngineChoice::Epoll => false,
        EngineChoice::Auto => relay_engine::ring::probe().is_ok(),
    };
    Ok(if is_ring { Box::new(Ring::new(&config)?) } else { Box::new(Epoll::new(&config)?) })
}

/// The first eight digits of a key are as good as any others: they are spread over all bits.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            let product = u128::from(u64::from_ne_bytes(*first)) * 0x9e37_79b9_7f4a_7c15;
            self.0 = (product >> 64) as u64 ^ product as u64;
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length that stands before an array says nothing.
    }
}

/// A key as its 64 digits, as frames name it.
type KeyDigits = [u8; 64];

/// One client.
#[derive(Default)]
struct Client {
    connection: Option<ConnectionId>,
    /// `None` until the upgrade is whole.
    decoder: Option<Decoder>,
    request: Vec<u8>,
    key: Option<KeyDigits>,
    /// The last number of its inbox.
    seq: u64,
    out: Vec<u8>,
    /// The buffer of the last write, to be used again.
    spare: Vec<u8>,
    writing: bool,
    /// Whether it stands in [`Peer::ready`].
    listed: bool,
    closing: bool,
}

struct Peer {
    name: String,
    /// By index of connection.
    clients: Vec<Client>,
    online: HashMap<KeyDigits, u32, BuildHasherDefault<KeyHasher>>,
    /// Clients with something to write or to close.
    ready: Vec<u32>,
    accepted: Vec<ConnectionId>,
    gone: Vec<ConnectionId>,
    frames: FrameDecoder,
    fault: Option<String>,
}

impl Peer {
    fn new(name: String) -> Self {
        Self {
            name,
            clients: Vec::new(),
            online: HashMap::default(),
            ready: Vec::new(),
            accepted: Vec::new(),
            gone: Vec::new(),
            frames: FrameDecoder::new(),
            fault: None,
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted { connection, .. } => {
                let index = connection.index as usize;
                if self.clients.len() <= index {
                    self.clients.resize_with(index + 1, Client::default);
                }
                self.clients[index] = Client { connection: Some(connection), ..Client::default() };
                self.accepted.push(connection);
            }
            Event::Received { connection, bytes } => self.on_bytes(connection.index, bytes),
            Event::Written { connection, mut buffer } => {
                let client = &mut self.clients[connection.index as usize];
                buffer.clear();
                client.spare = buffer;
                client.writing = false;
                if !client.out.is_empty() || client.closing {
                    self.list(connection.index);
                }
            }
            Event::Disconnected { connection, .. } => self.gone.push(connection),
            Event::AcceptFailed { error } => {
                self.fail(format!("accept: {}", io::Error::from_raw_os_error(error)));
            }
        }
    }

    fn fail(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    fn list(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        if !client.listed && !client.writing {
            client.listed = true;
            self.ready.push(index);
        }
    }

    /// Hands what is to be done to the engine.
    fn act(&mut self, engine: &mut dyn Engine) {
        for connection in self.accepted.drain(..) {
            engine.read(connection, ReadMode::Continuous);
        }
        for index in self.ready.drain(..) {
            let client = &mut self.clients[index as usize];
            client.listed = false;
            let Some(connection) = client.connection else { continue };
            if !client.out.is_empty() {
                let next = std::mem::take(&mut client.spare);
                engine.write(connection, std::mem::replace(&mut client.out, next));
                client.writing = true;
            } else if client.closing {
                self.gone.push(connection);
            }
        }
        for connection in self.gone.drain(..) {
            let client = &mut self.clients[connection.index as usize];
            if client.connection != Some(connection) {
                continue;
            }
            let client = std::mem::take(client);
            if let Some(key) = client.key
                && self.online.get(&key) == Some(&connection.index)
            {
                self.online.remove(&key);
            }
            engine.close(connection);
        }
    }

    fn on_bytes(&mut self, index: u32, received: &mut [u8]) {
        let mut behind;
        let mut bytes = received;
        if self.clients[index as usize].decoder.is_none() {
            let Some(rest) = self.upgrade(index, bytes) else { return };
            behind = rest;
            bytes = &mut behind;
        }
        // The decoder lends from itself while frames are handled.
        let Some(mut decoder) = self.clients[index as usize].decoder.take() else { return };
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Incoming::Text(text))) => self.on_text(index, text),
                Ok(Some(Incoming::Close { .. })) => {
                    let client = &mut self.clients[index as usize];
                    websocket::push_close(&mut client.out, 1000, "");
                    client.closing = true;
                    self.list(index);
                    break;
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    websocket::push_pong(&mut self.clients[index as usize].out, payload);
                    self.list(index);
                }
                Ok(Some(Incoming::Pong(_) | Incoming::Binary(_))) => {}
                Ok(None) => break,
                Err(fault) => {
                    self.fail(format!("a client sent a bad frame: {fault}"));
                    break;
                }
            }
        }
        self.clients[index as usize].decoder = Some(decoder);
    }

    /// Reads the request for an upgrade; returns what stands behind it once it is whole.
    fn upgrade(&mut self, index: u32, bytes: &[u8]) -> Option<Vec<u8>> {
        let client = &mut self.clients[index as usize];
        client.request.extend_from_slice(bytes);
        let behind = match read_upgrade(&client.request, &UpgradeLimits::default(), &mut client.out) {
            Upgrade::Accepted { consumed, .. } => client.request.split_off(consumed),
            Upgrade::Incomplete => return None,
            Upgrade::Refused { .. } => {
                client.closing = true;
                self.list(index);
                return None;
            }
        };
        client.request = Vec::new();
        client.decoder = Some(Decoder::new(Role::Server, limits::FRAME_BYTES));
        let challenge = Challenge { version: limits::VERSION, relay: &self.name, nonce: [0x6e; 32] };
        let mut text = Vec::new();
        encode::challenge(&mut text, &challenge);
        self.send(index, &text);
        Some(behind)
    }

    fn send(&mut self, index: u32, text: &[u8]) {
        let out = &mut self.clients[index as usize].out;
        websocket::text_header(text.len(), out);
        out.extend_from_slice(text);
        self.list(index);
    }

    fn on_text(&mut self, index: u32, text: &str) {
        if let Some((recipient, id)) = parts(text) {
            self.pass_on(index, recipient, id, text);
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        match frames.decode(text) {
            Ok(ClientFrame::Auth(auth)) if auth.lobby == LobbyMode::None => {
                self.welcome(index, auth.public_key, auth.device_id);
            }
            Ok(ClientFrame::Auth(_)) => self.fail("there is no lobby here: run with --lobby none".to_owned()),
            Ok(_) => {}
            Err(error) => self.fail(format!("a client sent what is no frame: {error:?}")),
        }
        self.frames = frames;
    }

    fn welcome(&mut self, index: u32, public_key: PublicKey, device_id: &str) {
        let mut key = [0; 64];
        key.copy_from_slice(public_key.to_hex().as_bytes());
        self.clients[index as usize].key = Some(key);
        self.online.insert(key, index);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let welcome = Welcome {
            public_key,
            device_id,
            time: Timestamp::from_unix_ms(now.as_millis() as i64),
            epoch: 1,
            seq: 0,
            recovered: false,
            heartbeat_ms: 20_000,
            limits: WelcomeLimits {
                frame_bytes: limits::FRAME_BYTES as u64,
                message_chars: 16_000,
                messages_per_second: 0,
            },
        };
        let mut text = Vec::new();
        encode::welcome(&mut text, &welcome);
        self.send(index, &text);
    }

    /// Pushes a message to its recipient and acks it.
    fn pass_on(&mut self, sender: u32, recipient: &KeyDigits, id: &str, text: &str) {
        let Some(&to) = self.online.get(recipient) else {
            self.fail("a message is for somebody who is not there".to_owned());
            return;
        };
        let client = &mut self.clients[to as usize];
        client.seq += 1;
        let bytes = text.len() + splice::spliced_bytes(client.seq);
        websocket::text_header(bytes, &mut client.out);
        splice::splice_seq(&mut client.out, text.as_bytes(), client.seq);
        self.list(to);

        let ack = Ack { id, online: true, duplicate: false, seq: None };
        let out = &mut self.clients[sender as usize].out;
        // The length of an ack depends on the id alone: encode behind a header of the right size.
        websocket::text_header(ACK_BYTES + id.len(), out);
        encode::ack(out, &ack);
        self.list(sender);
    }
}

/// Bytes of an ack but for its id.
const ACK_BYTES: usize =
    "{\"type\":\"ack\",\"clientMessageId\":\"\",\"recipient\":\"online\",\"duplicate\":false}".len();

/// Recipient and id of a message as this project's clients encode it; `None` for anything else.
fn parts(text: &str) -> Option<(&KeyDigits, &str)> {
    let rest = text.strip_prefix(MESSAGE_HEAD)?;
    let recipient = rest.as_bytes().first_chunk()?;
    // The id stands behind the text, which may hold anything: the last head is the right one, as
    // nothing behind it can hold a quote.
    let (_, rest) = rest.rsplit_once(ID_HEAD)?;
    let (id, _) = rest.split_once('"')?;
    Some((recipient, id))
}

#[cfg(test)]
mod tests {
    use super::{ACK_BYTES, parts};
    use protocol::frame::{Message, Target};
    use protocol::server_frame::Ack;
    use protocol::{PublicKey, Signature, Timestamp, encode};

    #[test]
    fn a_message_names_its_recipient_and_id() {
        let recipient = PublicKey::from_bytes([0xab; 32]);
        let message = Message {
            target: Target::User(recipient),
            text: "say \",\"clientMessageId\":\"no\"",
            sender: PublicKey::from_bytes([1; 32]),
            id: "one",
            timestamp: Timestamp::from_unix_ms(0),
            signature: Signature::from_bytes([0; 64]),
        };
        let mut text = Vec::new();
        encode::message(&mut text, &message);
        let text = String::from_utf8(text).unwrap();
        let (key, id) = parts(&text).unwrap();
        assert_eq!((&key[..4], id), (&b"abab"[..], "one"));
        assert!(parts("{\"type\":\"ping\"}").is_none());
    }

    #[test]
    fn an_acks_length_is_known_before_it_is_encoded() {
        let mut text = Vec::new();
        encode::ack(&mut text, &Ack { id: "four", online: true, duplicate: false, seq: None });
        assert_eq!(text.len(), ACK_BYTES + 4);
    }
}
