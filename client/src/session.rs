//! A client's session: texts from the relay in, events and frames out. No socket, no clock.
//!
//! # Flow
//! ```text
//! Offline ─ connected ─▶ Challenged ─ challenge ─▶ Answered ─ welcome ─▶ Open
//!    ▲                       │                        │                   │
//!    └──── disconnected ─────┴────────────────────────┴───────────────────┘
//! ```
//! Whoever drives it calls [`Session::connected`] when a WebSocket is up, [`Session::handle_text`]
//! for each text message, [`Session::drained`] when no more can be read at once, [`Session::heard`]
//! for whatever else arrives, [`Session::handled`] when the user is done with a message,
//! [`Session::handle_timeout`] when [`Session::poll_timeout`] has come, and
//! [`Session::disconnected`] when the connection is gone, and carries out the [`Effect`]s in their
//! order.
//!
//! # Invariants
//! - A challenge is answered only if the relay has the expected name.
//! - No message becomes an event unless its sender's signature was verified strictly, it is for this
//!   key or from it, and neither its seq nor its sender's id was seen before.
//! - No message is confirmed to the relay before the user has handled it, and none is skipped: a
//!   connection goes on where the last one left off, or its `welcome` says that it does not.
//! - Every message sent ends in `ack` or `failed`; it is signed once, and sent again, byte for byte
//!   the same, until the relay answers or has not answered too often.
//! - Timestamps follow the relay's clock, which `welcome` tells and time elapsed carries on; a wrong
//!   local clock does no harm.
//! - The relay's limits on messages and frames are kept: what is too much waits.

mod compose;
mod options;
mod outbox;
mod receive;
mod requests;
mod state;

use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use protocol::frame::RoomAction;
use protocol::server_frame::ServerFrameDecoder;
use protocol::{PublicKey, Timestamp};

use crate::event::{CLOSED, Event};
use crate::history::{History, Peer};
use crate::lobby::Lobby;
use compose::random_id;
pub use compose::{ComposeError, Recipient, sign_message};
pub use options::{Options, OptionsError};
pub use requests::RequestError;
use state::{Phase, State};

/// How long an answer that may lie unread has, once reading goes on.
const UNREAD_GRACE: Duration = Duration::from_secs(1);

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

/// The session of one device of one key, across connections.
#[derive(Debug)]
pub struct Session {
    decoder: ServerFrameDecoder,
    state: State,
}

impl Session {
    /// Makes a session without a connection. `time` is the local clock at `now`; the relay's replaces
    /// it.
    #[must_use]
    pub fn new(key: SigningKey, options: Options, now: Instant, time: Timestamp) -> Self {
        Self { decoder: ServerFrameDecoder::new(), state: State::new(key, options, now, time) }
    }

    /// The own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.state.public_key
    }

    /// Whether there is a session with the relay.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// Who is online. Empty with [`LobbyMode::None`](protocol::frame::LobbyMode::None).
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

    /// Notes that nothing is read from the connection, because the user takes no events: silence means
    /// nothing then, nor does an answer that does not come. To be called again at every timeout.
    pub fn unread(&mut self, now: Instant) {
        self.state.heard = now;
        self.state.outbox.postpone(now + UNREAD_GRACE);
        self.state.requests.postpone(now + UNREAD_GRACE);
    }

    /// Takes one text message from the relay.
    pub fn handle_text(&mut self, text: &str, now: Instant, effects: &mut Vec<Effect>) {
        self.state.heard = now;
        match self.decoder.decode(text) {
            Ok(frame) => self.state.handle(frame, now, effects),
            Err(error) => effects.push(Effect::Event(Event::BadFrame { details: error.to_string() })),
        }
        self.state.settle(now, effects);
    }

    /// Notes that all that has arrived was read: what came together is confirmed together, at once.
    /// Without this call it is confirmed within 50 ms.
    pub fn drained(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state.drained();
        self.state.settle(now, effects);
    }

    /// What seqs count in, once a relay has told.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.state.seqs.epoch()
    }

    /// Notes that the user is done with all events up to the one of `seq` ([`Event::seq`]), which came
    /// in `epoch`: they are shown, or stored, and need not be sent to this device again.
    pub fn handled(&mut self, epoch: u64, seq: u64, now: Instant, effects: &mut Vec<Effect>) {
        self.state.handled(epoch, seq);
        self.state.settle(now, effects);
    }

    /// Confirms at once whatever is handled, for whoever is about to close.
    pub fn finish(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.state.confirm_all(now, effects);
    }

    /// Counts a message as seen before, if it comes: for a user who has stored it in an earlier run.
    pub fn remember(&mut self, sender: PublicKey, id: &str) {
        self.state.ids.insert(sender, id);
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

    /// Ends all hope: every own message without an answer fails. For whoever will not connect again.
    pub fn give_up(&mut self, details: &str, effects: &mut Vec<Effect>) {
        self.state.phase = Phase::Refused;
        self.state.fail_all(CLOSED, details, effects);
    }

    /// Sends a message under an id of its own (a random UUID, version 4, from the operating system),
    /// which it returns: now, or once there is a session and the relay's limits allow it. Own messages
    /// are sent in the order of these calls.
    ///
    /// # Errors
    /// [`ComposeError`], for what the relay would refuse, or if too many wait already.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn send(
        &mut self,
        to: &Recipient,
        text: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<String, ComposeError> {
        let id = random_id();
        self.send_as(id.clone(), to, text, now, effects)?;
        Ok(id)
    }

    /// Like [`Session::send`], under an id of the caller's, which must be new.
    ///
    /// # Errors
    /// [`ComposeError`].
    pub fn send_as(
        &mut self,
        id: String,
        to: &Recipient,
        text: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), ComposeError> {
        self.state.send(id, to, text, now, effects)
    }

    /// Asks something about a room; `room` or `error` answers.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn room(
        &mut self,
        room: &str,
        action: &RoomAction,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        self.state.room(room, action, now, effects)
    }

    /// Asks for a page of what was said with a user or in a room: the latest 1 to 100 messages before
    /// `before_seq`. `history` or `error` answers.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn request_history(
        &mut self,
        with: Peer,
        before_seq: Option<u64>,
        limit: u64,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        self.state.request_history(with, before_seq, limit, now, effects)
    }

    /// Tells the sender that a person has read the message of this seq.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn read(&mut self, seq: u64, now: Instant, effects: &mut Vec<Effect>) -> Result<(), RequestError> {
        self.state.read(seq, now, effects)
    }

    /// Tells a user or a room that the own key types, or has stopped. May be called at every key
    /// stroke: it is said at once, every 3 s while it goes on, and when it ends; a message ends it by
    /// itself.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn typing(
        &mut self,
        peer: &Peer,
        is_typing: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestError> {
        self.state.typing(peer, is_typing, now, effects)
    }
}
