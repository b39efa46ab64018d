//! One connection of a user, on a thread of its own: it sends, reads and confirms.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ed25519_dalek::Signer;
use protocol::PublicKey;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde_json::{Value, json};
use tungstenite::{Error, Message, WebSocket};

use crate::user::User;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a socket stays silent until all that was in it has been read.
const SILENCE: Duration = Duration::from_millis(300);

/// Confirmations are so far apart: the relay takes 50 frames a second.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(25);

/// What the sessions of one load share.
pub(crate) struct Load {
    window: usize,
    recipients: Vec<PublicKey>,
    acked: AtomicU64,
    is_draining: AtomicBool,
    is_over: AtomicBool,
    /// Sessions that have read all that there was.
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn new(window: usize, recipients: Vec<PublicKey>) -> Self {
        Self {
            window,
            recipients,
            acked: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        }
    }

    /// Waits until so many messages were acked.
    pub(crate) fn wait_for_acks(&self, enough: u64) -> Result<()> {
        let (mut last, mut at) = (0, Instant::now());
        loop {
            let acked = self.acked();
            if acked >= enough {
                return Ok(());
            }
            ensure!(self.failed.load(Ordering::Relaxed) == 0, "a session ended while the relay was to run");
            if acked > last {
                (last, at) = (acked, Instant::now());
            }
            ensure!(at.elapsed() < PATIENCE, "no more acks after {acked}");
            thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Lets the sessions send no more and read what there is. Returns when they have.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        thread::sleep(2 * SILENCE);
    }

    /// The relay was killed: whatever a session meets is right.
    pub(crate) fn relay_is_gone(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// How a session after a crash ended.
pub(crate) enum Ending {
    /// All is there.
    Settled,
    /// These did not come.
    Lost(Vec<String>),
    /// It could not be found out.
    Broken(String),
}

/// Sends and reads until the relay is gone.
pub(crate) fn load(user: &mut User, address: SocketAddr, load: &Load, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let result = Session::open(user, address).and_then(|mut session| {
        loop {
            let is_draining = load.is_draining.load(Ordering::Relaxed);
            while !is_draining && session.user.unacked() < load.window {
                let mut to = rng.random_range(0..load.recipients.len());
                if to == session.user.number() {
                    to = (to + 1) % load.recipients.len();
                }
                let frame = session.user.compose(to, load.recipients[to]);
                session.send(frame)?;
            }
            let acked = session.turn(&AtomicU64::new(0))?;
            load.acked.fetch_add(acked, Ordering::Relaxed);
            if load.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    });
    if let Err(error) = result
        && !load.is_over.load(Ordering::Relaxed)
    {
        // The socket may break a moment before whoever broke it says so.
        thread::sleep(SILENCE);
        if !load.is_over.load(Ordering::Relaxed) {
            load.failed.fetch_add(1, Ordering::Relaxed);
            user.fault(format!("{error:#}"));
        }
    }
}

/// Sends what was not acked again, and reads until everything that is expected has come.
pub(crate) fn settle(user: &mut User, address: SocketAddr, expected: &HashSet<String>, refused: &AtomicU64) -> Ending {
    let mut missing: HashSet<&String> = expected.iter().collect();
    let again: Vec<_> = user.waiting.values().map(|sent| sent.frame.clone()).collect();
    let result = Session::open(user, address).and_then(|mut session| {
        for frame in again {
            session.send(frame)?;
        }
        let (mut left, mut at) = (usize::MAX, Instant::now());
        loop {
            session.turn(refused)?;
            missing.retain(|id| !session.user.has(id));
            let now_left = missing.len() + session.user.unacked();
            if now_left == 0 {
                // The last confirmation goes out with the end of the session.
                return session.close().map(|()| Ending::Settled);
            }
            if now_left < left {
                (left, at) = (now_left, Instant::now());
            }
            if at.elapsed() > PATIENCE {
                ensure!(session.user.unacked() == 0, "{} messages sent again are not acked", session.user.unacked());
                return Ok(Ending::Lost(missing.into_iter().cloned().collect()));
            }
        }
    });
    result.unwrap_or_else(|error| Ending::Broken(format!("{error:#}")))
}

/// A session on a socket that does not block.
struct Session<'a> {
    user: &'a mut User,
    socket: WebSocket<TcpStream>,
    epoch: String,
    /// The highest seq that came, and how far it was confirmed.
    seq: u64,
    confirmed: u64,
    confirmed_at: Instant,
    /// What came on this connection.
    ids: HashSet<String>,
    pushed: u64,
}

impl<'a> Session<'a> {
    /// Connects and logs in, with resume where there is something to resume from.
    fn open(user: &'a mut User, address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("the relay takes no connection")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut socket, _) = tungstenite::client(format!("ws://{address}/ws"), stream)
            .map_err(|error| anyhow!("no upgrade: {error}"))?;
        let challenge = read_frame(&mut socket)?;
        let (relay, nonce) = (text(&challenge, "relay")?, text(&challenge, "nonce")?);
        let key = user.key().to_hex();
        let signed = format!("relay-auth/v1\n{relay}\n{nonce}\n{}\nphone", key.as_str());
        let signature = protocol::Signature::from_bytes(user.signing_key().sign(signed.as_bytes()).to_bytes());
        let mut auth = json!({
            "type": "auth", "version": 1, "publicKey": key.as_str(), "deviceId": "phone",
            "signature": signature.to_hex().as_str(), "lobby": "none",
        });
        if let Some((epoch, seq)) = &user.position {
            auth["resume"] = json!({ "epoch": epoch, "seq": seq });
        }
        socket.send(Message::text(auth.to_string()))?;
        let welcome = read_frame(&mut socket)?;
        ensure!(welcome["type"] == "welcome", "no welcome: {welcome}");
        socket.get_ref().set_nonblocking(true)?;
        let epoch = text(&welcome, "epoch")?.to_owned();
        if welcome["recovered"] != true {
            user.position = None;
        }
        Ok(Self {
            user,
            socket,
            epoch,
            seq: 0,
            confirmed: 0,
            confirmed_at: Instant::now(),
            ids: HashSet::new(),
            pushed: 0,
        })
    }

    fn send(&mut self, frame: String) -> Result<()> {
        // What does not fit into the socket now waits for the next flush.
        wait_is_fine(self.socket.write(Message::text(frame)))?;
        Ok(())
    }

    /// Writes and reads what there is, confirms, and waits a moment if there was nothing. Returns how
    /// many messages were acked.
    fn turn(&mut self, refused: &AtomicU64) -> Result<u64> {
        wait_is_fine(self.socket.flush())?;
        let (mut acked, mut count) = (0, 0);
        while let Some(message) = wait_is_fine(self.socket.read())? {
            count += 1;
            match message {
                Message::Text(text) => acked += u64::from(self.take(&text, refused)?),
                Message::Close(frame) => bail!("closed: {frame:?}"),
                _ => {}
            }
            if count == 256 {
                break;
            }
        }
        if self.seq > self.confirmed && self.confirmed_at.elapsed() >= CONFIRM_INTERVAL {
            self.confirm()?;
        }
        if count == 0 {
            let mut sockets = [PollFd::new(self.socket.get_ref(), PollFlags::IN)];
            let a_moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            poll(&mut sockets, Some(&a_moment)).context("a socket cannot be waited for")?;
        }
        Ok(acked)
    }

    fn confirm(&mut self) -> Result<()> {
        self.confirmed = self.seq;
        self.confirmed_at = Instant::now();
        self.user.position = Some((self.epoch.clone(), self.seq));
        self.send(json!({ "type": "received", "seq": self.seq }).to_string())?;
        wait_is_fine(self.socket.flush())?;
        Ok(())
    }

    /// Takes one frame; returns whether it is the ack of a message that waited.
    fn take(&mut self, frame: &str, refused: &AtomicU64) -> Result<bool> {
        let frame: Value = serde_json::from_str(frame).context("the relay sent no JSON")?;
        match frame["type"].as_str() {
            Some("message") => {
                let (id, seq) = (text(&frame, "clientMessageId")?, frame["seq"].as_u64().context("no seq")?);
                if !self.ids.insert(id.to_owned()) {
                    self.user.fault(format!("{id} came TWICE on one connection"));
                }
                if self.pushed >= seq {
                    self.user.fault(format!("seq {seq} came behind {}", self.pushed));
                }
                self.pushed = seq;
                self.seq = self.seq.max(seq);
                self.user.receive(id);
            }
            Some("ack") => return Ok(self.user.ack(text(&frame, "clientMessageId")?)),
            Some("error") => {
                let reason = text(&frame, "reason")?;
                let id = frame["clientMessageId"].as_str().with_context(|| format!("an error: {frame}"))?;
                ensure!(reason == "overloaded" || reason == "inbox_full", "{id} was refused: {frame}");
                // It was not accepted, and nothing was promised.
                self.user.waiting.remove(id);
                refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Confirms what came and ends the session in order, so that the relay has read it.
    fn close(mut self) -> Result<()> {
        self.confirm()?;
        self.socket.get_ref().set_nonblocking(false)?;
        self.socket.close(None)?;
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(()),
                Err(error) => bail!("the relay did not close in order: {error}"),
            }
        }
    }
}

/// Reads a frame from a socket that blocks.
fn read_frame(socket: &mut WebSocket<TcpStream>) -> Result<Value> {
    loop {
        if let Message::Text(text) = socket.read()? {
            return serde_json::from_str(&text).context("the relay sent no JSON");
        }
    }
}

fn text<'a>(frame: &'a Value, field: &str) -> Result<&'a str> {
    frame[field].as_str().with_context(|| format!("no {field} in {frame}"))
}

/// What would have to be waited for is nothing yet.
fn wait_is_fine<T>(result: Result<T, Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}
