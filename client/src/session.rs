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

mod compose;
mod options;
mod state;

use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use protocol::frame::Target;
use protocol::server_frame::ServerFrameDecoder;
use protocol::{PublicKey, Timestamp};

use crate::event::Event;
use crate::history::History;
use crate::lobby::Lobby;
use compose::random_id;
pub use compose::{ComposeError, Composed, sign_message};
pub use options::{Options, OptionsError};
use state::{Phase, State};

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

    /// Whether messages can be composed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state.phase, Phase::Open(_))
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
