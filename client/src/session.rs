//! A client's session: texts from the relay in, events and frames out. No socket, no clock.
//!
//! # Flow
//! ```text
//! Offline ─ connected ─▶ Challenged ─ challenge ─▶ Answered ─ welcome ─▶ Open
//!    ▲                       │                        │                   │
//!    └──── disconnected ─────┴────────────────────────┴───────────────────┘
//! ```
//! Whoever drives it calls [`Session::connected`] when a WebSocket is up, [`Session::handle_text`]
//! for each text message, [`Session::heard`] for whatever else arrives, [`Session::handle_timeout`]
//! when [`Session::poll_timeout`] has come, and [`Session::disconnected`] when the connection is
//! gone, and carries out the [`Effect`]s in their order.
//!
//! # Invariants
//! - A challenge is answered only if the relay has the expected name.
//! - No message becomes an event unless its sender's signature was verified strictly, it is for this
//!   key or from it, and neither its seq nor its sender's id was seen before.
//! - Every message composed ends in exactly one of `ack`, `error` with its id, `failed`.
//! - Timestamps follow the relay's clock, which `welcome` tells and time elapsed carries on; a wrong
//!   local clock does no harm.
//!
//! Absent on purpose: receipts, resume, resending and rooms. A message to a room is verified and
//! passed on all the same.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{LobbyMode, Message, Target};
use protocol::keys::{is_id, is_relay_name};
use protocol::limits::close;
use protocol::server_frame::{Challenge, ErrorFrame, Pushed, ServerFrame, ServerFrameDecoder, Welcome, WelcomeLimits};
use protocol::{PublicKey, Signature, Timestamp, encode, opening, signed_bytes};
use thiserror::Error;

use crate::backoff::Backoff;
use crate::event::{Dropped, Event, ReceivedMessage};
use crate::history::{Entry, History, HistoryBounds, Peer, Status, peer_of};
use crate::inbox::{SeenIds, SeenSeqs, Verifier};
use crate::lobby::Lobby;

/// Heartbeats without a sign of the relay after which a connection is given up.
const SILENT_HEARTBEATS: u32 = 3;

/// How long a session has to last for the next delay to be the shortest again: a relay that lets
/// clients in and throws them out at once gets them back ever more slowly.
const SETTLED: Duration = Duration::from_secs(10);

/// The longest time that `restarting` may send a client away.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(300);

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this text message.
    Send(String),
    /// Tell the user.
    Event(Event),
    /// Close the connection with this code, then call [`Session::disconnected`] with no code and
    /// these details.
    Close {
        /// A WebSocket close code.
        code: u16,
        /// One sentence for a person.
        details: String,
    },
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Options {
    relay_name: String,
    device_id: String,
    /// Which lobby frames the relay sends.
    pub lobby: LobbyMode,
    /// How many messages are kept.
    pub history: HistoryBounds,
    /// Own messages without an answer at most; more are not composed.
    pub unacked_max: usize,
    /// How long challenge and welcome together may take.
    pub opening_timeout: Duration,
}

/// Why options are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// The relay's name has another form.
    #[error("a relay's name is 1 to 253 of a-z 0-9 . -")]
    RelayName,
    /// The device id has another form.
    #[error("a device id is 1 to 64 of A-Z a-z 0-9 - _ . :")]
    DeviceId,
}

impl Options {
    /// Options with the whole lobby, the default history, 1,024 messages without an answer at most
    /// and 15 s for the opening: the relay's own 10 s, and room for a slow network.
    ///
    /// # Errors
    /// [`OptionsError`] if a name has not the form of the contract.
    pub fn new(relay_name: &str, device_id: &str) -> Result<Self, OptionsError> {
        if !is_relay_name(relay_name) {
            return Err(OptionsError::RelayName);
        }
        if !is_id(device_id) {
            return Err(OptionsError::DeviceId);
        }
        Ok(Self {
            relay_name: relay_name.to_owned(),
            device_id: device_id.to_owned(),
            lobby: LobbyMode::All,
            history: HistoryBounds::default(),
            unacked_max: 1024,
            opening_timeout: Duration::from_secs(15),
        })
    }

    /// The name that the relay must give itself.
    #[must_use]
    pub fn relay_name(&self) -> &str {
        &self.relay_name
    }

    /// This device.
    #[must_use]
    pub fn device_id(&self) -> &str {
        &self.device_id
    }
}

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Its `clientMessageId`.
    pub id: String,
    /// The text message to send. Sending it again as it is gets the same answer.
    pub frame: String,
}

/// Why a message is not composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// There is no open session.
    #[error("there is no connection to the relay")]
    NotOpen,
    /// The text is empty.
    #[error("the message is empty")]
    Empty,
    /// The text is longer than the relay takes.
    #[error("the message has {chars} characters, the relay takes {chars_max}")]
    TooLong {
        /// Unicode scalar values of the text.
        chars: u64,
        /// What the relay takes.
        chars_max: u64,
    },
    /// The frame is larger than the relay takes.
    #[error("the message makes a frame of {bytes} bytes, the relay takes {bytes_max}")]
    TooLarge {
        /// Bytes of the frame.
        bytes: u64,
        /// What the relay takes.
        bytes_max: u64,
    },
    /// The id has another form, or is that of a message without an answer.
    #[error("the message id is malformed or in use")]
    Id,
    /// The room's id has another form.
    #[error("a room's id is 1 to 64 of A-Z a-z 0-9 - _ . :")]
    Room,
    /// Too many messages have no answer yet.
    #[error("{0} messages have no answer from the relay yet")]
    TooManyUnacked(usize),
}

/// The session of one device of one key, across connections.
#[derive(Debug)]
pub struct Session {
    decoder: ServerFrameDecoder,
    state: State,
}

/// All but the decoder, which frames are borrowed from while the state changes.
#[derive(Debug)]
struct State {
    key: SigningKey,
    public_key: PublicKey,
    options: Options,
    phase: Phase,
    clock: Clock,
    heard: Instant,
    backoff: Backoff,
    lobby: Lobby,
    history: History,
    epoch: Option<u64>,
    seqs: SeenSeqs,
    ids: SeenIds,
    verifier: Verifier,
    unacked: VecDeque<Unacked>,
}

#[derive(Debug)]
enum Phase {
    /// No connection.
    Offline,
    /// A connection without a challenge yet.
    Challenged { deadline: Instant },
    /// A challenge was answered.
    Answered { deadline: Instant },
    /// Messages flow.
    Open(Open),
    /// This relay must not be talked to, now or later.
    Refused,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    limits: WelcomeLimits,
    /// Silence after which the connection is given up; `None` if the relay does not ping.
    silence_max: Option<Duration>,
    /// Set by `restarting`.
    reconnect_in: Option<Duration>,
}

/// An own message without an answer.
#[derive(Debug)]
struct Unacked {
    id: String,
    peer: Peer,
    /// The one member of a room that it is for.
    member: Option<PublicKey>,
    text: String,
    /// Whether it was signed anew after `stale_timestamp`.
    restamped: bool,
}

impl Unacked {
    fn target(&self) -> Target<'_> {
        match (&self.peer, self.member) {
            (Peer::User(recipient), _) => Target::User(*recipient),
            (Peer::Room(room), None) => Target::Room(room),
            (Peer::Room(room), Some(member)) => Target::RoomMember(room, member),
        }
    }
}

/// A moment known on both clocks.
#[derive(Clone, Copy, Debug)]
struct Clock {
    at: Instant,
    time: Timestamp,
}

impl Clock {
    fn time(self, now: Instant) -> Timestamp {
        let elapsed = i64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(self.time.unix_ms().saturating_add(elapsed))
    }
}

impl Session {
    /// Makes a session without a connection. `time` is the local clock at `now`; the relay's replaces
    /// it.
    #[must_use]
    pub fn new(key: SigningKey, options: Options, now: Instant, time: Timestamp) -> Self {
        let public_key = PublicKey::from(&key.verifying_key());
        let history = History::new(options.history);
        let state = State {
            key,
            public_key,
            options,
            phase: Phase::Offline,
            clock: Clock { at: now, time },
            heard: now,
            backoff: Backoff::default(),
            lobby: Lobby::default(),
            history,
            epoch: None,
            seqs: SeenSeqs::default(),
            ids: SeenIds::default(),
            verifier: Verifier::default(),
            unacked: VecDeque::new(),
        };
        Self { decoder: ServerFrameDecoder::new(), state }
    }

    /// The own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.state.public_key
    }

    /// Whether messages can be composed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state.phase, Phase::Open(_))
    }

    /// Who is online. Empty with [`LobbyMode::None`].
    #[must_use]
    pub fn lobby(&self) -> &Lobby {
        &self.state.lobby
    }

    /// The messages kept.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.state.history
    }

    /// The relay's clock at `now`, as far as is known.
    #[must_use]
    pub fn time(&self, now: Instant) -> Timestamp {
        self.state.clock.time(now)
    }

    /// Starts with a new connection, whose WebSocket is up.
    pub fn connected(&mut self, now: Instant) {
        self.state.heard = now;
        self.state.lobby.start_connection();
        self.state.phase = Phase::Challenged { deadline: now + self.state.options.opening_timeout };
    }

    /// Notes that the relay gave a sign of life: a ping, say.
    pub fn heard(&mut self, now: Instant) {
        self.state.heard = now;
    }

    /// Takes one text message from the relay.
    pub fn handle_text(&mut self, text: &str, now: Instant, effects: &mut Vec<Effect>) {
        self.state.heard = now;
        match self.decoder.decode(text) {
            Ok(frame) => self.state.handle(frame, now, effects),
            Err(error) => effects.push(Effect::Event(Event::BadFrame { details: error.to_string() })),
        }
        self.state.sync_if_due(now, effects);
    }

    /// When [`Session::handle_timeout`] is to be called next, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.state.poll_timeout(now)
    }

    /// Does what time asks for. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state.handle_timeout(now, effects);
    }

    /// Ends the connection, or an attempt to make one: `code` is the close code that came, if one
    /// did. Returns how long to wait before the next attempt; `None` if none may follow, because the
    /// relay refuses this key or device, or is not the one expected. `random` is uniform over all its
    /// values.
    pub fn disconnected(
        &mut self,
        code: Option<u16>,
        details: &str,
        random: u32,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<Duration> {
        self.state.disconnected(code, details, random, now, effects)
    }

    /// Composes and signs a message under an id of its own (a random UUID, version 4, from the
    /// operating system). The caller sends the frame.
    ///
    /// # Errors
    /// [`ComposeError`], for what the relay would refuse, and without an open session.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn compose(&mut self, target: Target<'_>, text: &str, now: Instant) -> Result<Composed, ComposeError> {
        self.compose_as(random_id(), target, text, now)
    }

    /// Like [`Session::compose`], under an id of the caller's, which must be new.
    ///
    /// # Errors
    /// [`ComposeError`].
    pub fn compose_as(
        &mut self,
        id: String,
        target: Target<'_>,
        text: &str,
        now: Instant,
    ) -> Result<Composed, ComposeError> {
        self.state.compose(id, target, text, now)
    }
}

impl State {
    fn handle(&mut self, frame: ServerFrame<'_>, now: Instant, effects: &mut Vec<Effect>) {
        match (&mut self.phase, frame) {
            (Phase::Challenged { deadline }, ServerFrame::Challenge(challenge)) => {
                let deadline = *deadline;
                self.answer(&challenge, deadline, effects);
            }
            (Phase::Answered { .. }, ServerFrame::Welcome(welcome)) => self.welcome(&welcome, now, effects),
            (Phase::Open(_), ServerFrame::Message(pushed)) => self.pushed(&pushed, effects),
            (Phase::Open(_), ServerFrame::Ack(ack)) => {
                if let Some(seq) = ack.seq {
                    self.seqs.insert(seq);
                }
                if let Some(unacked) = self.take_unacked(ack.id) {
                    self.history.set_status(&unacked.peer, ack.id, Status::Sent, ack.seq);
                }
                effects.push(Effect::Event(Event::Ack {
                    client_message_id: ack.id.to_owned(),
                    recipient_online: ack.online,
                    duplicate: ack.duplicate,
                    seq: ack.seq,
                }));
            }
            (Phase::Open(_), ServerFrame::Lobby(page)) => {
                self.lobby.page(&page, &mut |event| effects.push(Effect::Event(event)));
            }
            (Phase::Open(_), ServerFrame::LobbyUpdate(update)) => {
                self.lobby.update(&update, &mut |event| effects.push(Effect::Event(event)));
            }
            (Phase::Open(open), ServerFrame::Restarting { reconnect_in_ms }) => {
                open.reconnect_in = Some(Duration::from_millis(reconnect_in_ms).min(RESTART_DELAY_MAX));
                effects.push(Effect::Event(Event::Restarting { reconnect_in_ms }));
            }
            (_, ServerFrame::Error(error)) => self.refused(&error, now, effects),
            (_, ServerFrame::Pong | ServerFrame::Unknown(_)) => {}
            (_, _) => {
                let details = "the relay sent a frame that has no place at this time".to_owned();
                effects.push(Effect::Event(Event::BadFrame { details }));
            }
        }
    }

    fn answer(&mut self, challenge: &Challenge<'_>, deadline: Instant, effects: &mut Vec<Effect>) {
        let Options { relay_name, device_id, lobby, .. } = &self.options;
        match opening::answer(challenge, relay_name, &self.key, device_id, *lobby, None) {
            Ok(auth) => {
                let mut frame = Vec::with_capacity(512);
                encode::auth(&mut frame, &auth);
                effects.push(Effect::Send(text_of(frame)));
                self.phase = Phase::Answered { deadline };
            }
            Err(error) => {
                self.phase = Phase::Refused;
                effects.push(Effect::Close { code: close::POLICY, details: error.to_string() });
            }
        }
    }

    fn welcome(&mut self, welcome: &Welcome<'_>, now: Instant, effects: &mut Vec<Effect>) {
        if welcome.public_key != self.public_key || welcome.device_id != self.options.device_id {
            let details = "the relay welcomed another key or device".to_owned();
            effects.push(Effect::Close { code: close::POLICY, details });
            return;
        }
        let clock_moved_ms = self.set_clock(welcome.time, now);
        if self.epoch.replace(welcome.epoch).is_some_and(|epoch| epoch != welcome.epoch) {
            self.seqs.clear();
            self.history.forget_seqs();
        }
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        self.phase = Phase::Open(Open {
            since: now,
            limits: welcome.limits,
            silence_max: Some(heartbeat * SILENT_HEARTBEATS).filter(|silence| !silence.is_zero()),
            reconnect_in: None,
        });
        effects.push(Effect::Event(Event::Welcome {
            relay: self.options.relay_name.clone(),
            public_key: self.public_key,
            device_id: self.options.device_id.clone(),
            time: welcome.time,
            clock_moved_ms,
            epoch: welcome.epoch,
            seq: welcome.seq,
            recovered: welcome.recovered,
            heartbeat_ms: welcome.heartbeat_ms,
            frame_bytes: welcome.limits.frame_bytes,
            message_chars: welcome.limits.message_chars,
            messages_per_second: welcome.limits.messages_per_second,
        }));
    }

    fn pushed(&mut self, pushed: &Pushed<'_>, effects: &mut Vec<Effect>) {
        let Pushed { seq, message } = *pushed;
        let dropped = Dropped { seq, sender_public_key: message.sender, client_message_id: message.id.to_owned() };
        let (recipient, room) = match message.target {
            Target::User(recipient) => (Some(recipient), None),
            Target::Room(room) => (None, Some(room)),
            Target::RoomMember(room, recipient) => (Some(recipient), Some(room)),
        };
        let is_mine = message.sender == self.public_key || recipient.is_none_or(|key| key == self.public_key);
        let event = if !self.seqs.insert(seq) {
            Event::Duplicate(dropped)
        } else if !is_mine {
            Event::NotForMe(dropped)
        } else if !self.verifier.verify(&message) {
            Event::BadSignature(dropped)
        } else if !self.ids.insert(message.sender, message.id) {
            // Only now: an unsigned claim must not use up the id of an honest message.
            Event::Duplicate(dropped)
        } else {
            let entry = Entry {
                seq: Some(seq),
                sender: message.sender,
                id: message.id.to_owned(),
                timestamp: message.timestamp,
                text: message.text.to_owned(),
                status: Status::Received,
            };
            self.history.insert(peer_of(&message.target, message.sender, self.public_key), entry);
            Event::Message(ReceivedMessage {
                seq,
                sender_public_key: message.sender,
                recipient_public_key: recipient,
                room_id: room.map(str::to_owned),
                client_message_id: message.id.to_owned(),
                timestamp: message.timestamp,
                message: message.text.to_owned(),
            })
        };
        effects.push(Effect::Event(event));
    }

    fn refused(&mut self, error: &ErrorFrame<'_>, now: Instant, effects: &mut Vec<Effect>) {
        if error.reason == "stale_timestamp"
            && let Some(time) = error.time
        {
            self.set_clock(time, now);
            if let Some(frame) = error.id.and_then(|id| self.restamp(id, now)) {
                effects.push(Effect::Send(frame));
                return;
            }
        }
        if let Some(id) = error.id
            && let Some(unacked) = self.take_unacked(id)
        {
            self.history.set_status(&unacked.peer, id, Status::Failed, None);
        }
        effects.push(Effect::Event(Event::Error {
            reason: error.reason.to_owned(),
            details: error.details.to_owned(),
            client_message_id: error.id.map(str::to_owned),
            room_id: error.room.map(str::to_owned),
            retry_after_ms: error.retry_after_ms,
        }));
    }

    /// Signs a refused message anew, with the corrected time; once only. The relay has not kept its id.
    fn restamp(&mut self, id: &str, now: Instant) -> Option<String> {
        let timestamp = self.clock.time(now);
        let unacked = self.unacked.iter_mut().find(|unacked| unacked.id == id && !unacked.restamped)?;
        unacked.restamped = true;
        Some(sign_message(&self.key, unacked.target(), &unacked.text, id, timestamp))
    }

    /// Returns by how many milliseconds the clock moved.
    fn set_clock(&mut self, time: Timestamp, now: Instant) -> i64 {
        let before = self.clock.time(now);
        self.clock = Clock { at: now, time };
        time.unix_ms() - before.unix_ms()
    }

    fn take_unacked(&mut self, id: &str) -> Option<Unacked> {
        let at = self.unacked.iter().position(|unacked| unacked.id == id)?;
        self.unacked.remove(at)
    }

    fn sync_if_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Open(_)) && self.lobby.take_sync(now) {
            let mut frame = Vec::new();
            encode::lobby_sync(&mut frame);
            effects.push(Effect::Send(text_of(frame)));
        }
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            Phase::Offline | Phase::Refused => None,
            Phase::Challenged { deadline } | Phase::Answered { deadline } => Some(*deadline),
            Phase::Open(open) => {
                let silent = open.silence_max.map(|silence| self.heard + silence);
                [silent, self.lobby.sync_at(now)].into_iter().flatten().min()
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let details = match &self.phase {
            Phase::Challenged { deadline } | Phase::Answered { deadline } if *deadline <= now => {
                "the relay did not open the session in time"
            }
            Phase::Open(Open { silence_max: Some(silence), .. }) if self.heard + *silence <= now => {
                "the relay was silent for three heartbeats"
            }
            _ => return self.sync_if_due(now, effects),
        };
        effects.push(Effect::Close { code: close::GOING_AWAY, details: details.to_owned() });
    }

    fn disconnected(
        &mut self,
        code: Option<u16>,
        details: &str,
        random: u32,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<Duration> {
        let phase = std::mem::replace(&mut self.phase, Phase::Offline);
        let is_final = matches!(phase, Phase::Refused) || matches!(code, Some(close::AUTH | close::REPLACED));
        let mut restart = None;
        if let Phase::Open(open) = phase {
            restart = open.reconnect_in;
            if now.saturating_duration_since(open.since) >= SETTLED || restart.is_some() {
                self.backoff.reset();
            }
        }
        for unacked in std::mem::take(&mut self.unacked) {
            self.history.set_status(&unacked.peer, &unacked.id, Status::Failed, None);
            effects.push(Effect::Event(Event::Failed { client_message_id: unacked.id }));
        }
        let details = if details.is_empty() { code.map_or("the connection ended", meaning) } else { details };
        effects.push(Effect::Event(Event::Closed { code, details: details.to_owned(), retry: !is_final }));
        if is_final {
            self.phase = Phase::Refused;
            return None;
        }
        let delay = self.backoff.next_delay(random);
        let delay = restart.unwrap_or(delay);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        effects.push(Effect::Event(Event::Reconnecting { attempt: self.backoff.attempts(), delay_ms }));
        Some(delay)
    }

    fn compose(&mut self, id: String, target: Target<'_>, text: &str, now: Instant) -> Result<Composed, ComposeError> {
        let Phase::Open(Open { limits, .. }) = &self.phase else { return Err(ComposeError::NotOpen) };
        let chars = text.chars().count() as u64;
        if chars == 0 {
            return Err(ComposeError::Empty);
        }
        if chars > limits.message_chars {
            return Err(ComposeError::TooLong { chars, chars_max: limits.message_chars });
        }
        if !is_id(&id) || self.unacked.iter().any(|unacked| unacked.id == id) {
            return Err(ComposeError::Id);
        }
        let (peer, member) = match target {
            Target::User(recipient) => (Peer::User(recipient), None),
            Target::Room(room) => (Peer::Room(room.to_owned()), None),
            Target::RoomMember(room, member) => (Peer::Room(room.to_owned()), Some(member)),
        };
        if matches!(&peer, Peer::Room(room) if !is_id(room)) {
            return Err(ComposeError::Room);
        }
        if self.unacked.len() >= self.options.unacked_max {
            return Err(ComposeError::TooManyUnacked(self.unacked.len()));
        }
        let timestamp = self.clock.time(now);
        let frame = sign_message(&self.key, target, text, &id, timestamp);
        if frame.len() as u64 > limits.frame_bytes {
            return Err(ComposeError::TooLarge { bytes: frame.len() as u64, bytes_max: limits.frame_bytes });
        }
        let entry = Entry {
            seq: None,
            sender: self.public_key,
            id: id.clone(),
            timestamp,
            text: text.to_owned(),
            status: Status::Sending,
        };
        self.history.insert(peer.clone(), entry);
        self.unacked.push_back(Unacked { id: id.clone(), peer, member, text: text.to_owned(), restamped: false });
        Ok(Composed { id, frame })
    }
}

/// Signs a message and gives its frame. The session knows nothing of it: for those who sign ahead.
/// Nothing is checked.
#[must_use]
pub fn sign_message(key: &SigningKey, target: Target<'_>, text: &str, id: &str, timestamp: Timestamp) -> String {
    let mut message = Message {
        target,
        text,
        sender: PublicKey::from(&key.verifying_key()),
        id,
        timestamp,
        signature: Signature::from_bytes([0; 64]),
    };
    let mut bytes = Vec::with_capacity(600 + 2 * text.len());
    signed_bytes::message(&mut bytes, &message);
    message.signature = Signature::from_bytes(key.sign(&bytes).to_bytes());
    bytes.clear();
    encode::message(&mut bytes, &message);
    text_of(bytes)
}

/// What a close code says, for a person.
fn meaning(code: u16) -> &'static str {
    match code {
        close::GOING_AWAY => "the relay goes away",
        close::PROTOCOL | close::UNSUPPORTED | close::INVALID_UTF8 | close::TOO_LONG => {
            "the relay could not read what this client sent"
        }
        close::POLICY => "the relay got too many malformed frames",
        close::AUTH => "the relay refused to authenticate this key",
        close::TOO_SLOW => "this client read too slowly",
        close::REPLACED => "a newer connection of this key and device took over",
        close::TOO_MANY => "the relay had too many connections or frames of this client",
        _ => "the relay closed the connection",
    }
}

/// The frames of [`encode`] are ASCII around texts that are UTF-8 already.
fn text_of(frame: Vec<u8>) -> String {
    String::from_utf8(frame).expect("an encoded frame is UTF-8")
}

/// A random UUID, version 4 (RFC 9562, 5.4), as text.
fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    uuid_v4(bytes)
}

fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4() {
        // The example of RFC 9562, A.3.
        let bytes = 0x919108f7_52d1_4320_9bac_f847db4148a8_u128.to_be_bytes();
        assert_eq!(uuid_v4(bytes), "919108f7-52d1-4320-9bac-f847db4148a8");
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert!(is_id(&random_id()) && random_id() != random_id());
    }
}
