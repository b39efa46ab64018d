//! The model client's side of one connection: reads what the relay sends, keeps its own lobby, and
//! checks everything that one connection alone can tell.
//!
//! It is written against the contract and the `protocol` crate, apart from the `client` crate, so
//! that one misunderstanding is not made on both ends.

mod ending;
mod seqs;

use protocol::frame::{LobbyMode, Resume};
use protocol::limits::close;
use protocol::server_frame::{ErrorFrame, ServerFrame, ServerFrameDecoder, Welcome};
use protocol::upgrade::{self, UpgradeError};
use protocol::websocket::{Decoder, Incoming, Role};
use protocol::{PublicKey, limits};
use relay_core::Nanos;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::ledger::{Claim, Ledger, Reader};
use crate::lobby::LobbyView;
use crate::network::LinkId;
use crate::seen::Seen;
use crate::session::seqs::Seqs;
use crate::trace::printable;

/// How a client behaves up to its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// As it should.
    Honest,
    /// Asks for another path.
    WrongPath,
    /// Asks for `/ws` without an upgrade.
    PlainGet,
    /// Sends nothing, or half a request.
    NoUpgrade,
    /// Never answers the challenge.
    NoAuth,
    /// Signs with another key.
    BadSignature,
    /// Signs another connection's nonce.
    OldNonce,
    /// Says version 2.
    WrongVersion,
    /// Sends another frame first.
    FrameFirst,
    /// Sends a binary message first.
    BinaryFirst,
}

/// How a session ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client itself left, or cut the line, or fell silent.
    Own,
    /// A close frame.
    Code(u16),
    /// An HTTP status instead of the upgrade.
    Http(u16),
    /// End of file or reset without a close frame.
    Abrupt,
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The response to the upgrade is awaited.
    Upgrading,
    /// The challenge is awaited.
    Unchallenged,
    /// The welcome is awaited.
    Unwelcome,
    /// Logged in.
    Active,
    /// Over.
    Ended(End),
}

/// What the client wants to do after reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Answer the challenge with this nonce.
    Authenticate([u8; 32]),
    /// Check that the epoch is that of the key's other sessions.
    Welcomed,
    /// Check what the relay claims.
    Check(Claim),
    /// Answer a ping.
    Pong(Vec<u8>),
    /// Answer a close frame, and close.
    Close(u16),
}

/// One connection as its client sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: LinkId,
    pub(crate) user: usize,
    pub(crate) device: usize,
    pub(crate) key: PublicKey,
    device_id: String,
    pub(crate) opening: Opening,
    pub(crate) lobby_mode: LobbyMode,
    pub(crate) phase: Phase,
    pub(crate) websocket_key: [u8; 16],
    head: Vec<u8>,
    decoder: Decoder,
    pub(crate) lobby: LobbyView,
    pub(crate) epoch: u64,
    /// What the client asked to go on from, and whether that was true.
    pub(crate) asked: Option<Resume>,
    pub(crate) asked_truly: bool,
    /// It knew then the place of everything that its device had sent.
    pub(crate) asked_all: bool,
    /// The relay said that it goes on from there.
    pub(crate) recovered: bool,
    seqs: Seqs,
    /// A confirmation is about to be sent.
    pub(crate) confirms_soon: bool,
    /// When the client knew that it was logged in.
    pub(crate) welcomed_at: Option<Nanos>,
    /// When the client sent its `auth`.
    pub(crate) auth_sent: Option<Nanos>,
    /// The `auth` frame.
    pub(crate) auth_frame: Vec<u8>,
    /// Messages sent.
    pub(crate) messages: u64,
    /// Frames of every other kind sent.
    pub(crate) frames: u64,
    /// Malformed frames since the last good one.
    pub(crate) malformed_run: u32,
    /// Malformed frames sent that name no message, and the errors for them.
    pub(crate) nameless: u32,
    nameless_answered: u32,
    /// Pings sent, as JSON and as WebSocket, and their answers.
    pub(crate) pings: u32,
    pongs: u32,
    pub(crate) control_pings: u32,
    control_pongs: u32,
    /// Complete snapshots when the last fresh one was asked for.
    pub(crate) sync_asked: Option<u64>,
    /// Close codes that the client has given cause for.
    pub(crate) causes: Vec<u16>,
    /// The client stopped reading for a while.
    pub(crate) stalled: bool,
    /// The client closed its sending side only.
    pub(crate) half_closed: bool,
    /// The client sent a close frame with this code.
    pub(crate) close_sent: Option<u16>,
    restarting: bool,
    /// Something was asked of a room, and not answered.
    pub(crate) room_asked: bool,
    /// Which run of the relay accepted it.
    pub(crate) run: u32,
    /// The relay that it was connected to drains or is gone.
    pub(crate) restarted: bool,
}

/// What a session needs to know and to write down.
pub(crate) struct Context<'a> {
    pub(crate) now: Nanos,
    pub(crate) unix_ms: i64,
    pub(crate) relay_name: &'a str,
    pub(crate) heartbeat_ms: u64,
    pub(crate) frames: &'a mut ServerFrameDecoder,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) seen: &'a mut Seen,
    /// The relay has a store.
    pub(crate) has_store: bool,
    /// Up to where the session's device had everything before.
    pub(crate) taken: Option<Resume>,
    /// What the device was not given up to there is history to it.
    pub(crate) known_from: Option<Resume>,
}

impl Session {
    /// Starts a session whose upgrade request is on its way.
    pub(crate) fn new(
        id: LinkId,
        (user, device): (usize, usize),
        key: PublicKey,
        device_id: String,
        opening: Opening,
        lobby_mode: LobbyMode,
        websocket_key: [u8; 16],
    ) -> Self {
        Self {
            id,
            user,
            device,
            key,
            device_id,
            opening,
            lobby_mode,
            phase: Phase::Upgrading,
            websocket_key,
            head: Vec::new(),
            decoder: Decoder::new(Role::Client, limits::RELAY_FRAME_BYTES),
            lobby: LobbyView::default(),
            epoch: 0,
            asked: None,
            asked_truly: false,
            asked_all: false,
            recovered: false,
            seqs: Seqs::default(),
            confirms_soon: false,
            welcomed_at: None,
            auth_sent: None,
            auth_frame: Vec::new(),
            messages: 0,
            frames: 0,
            malformed_run: 0,
            nameless: 0,
            nameless_answered: 0,
            pings: 0,
            pongs: 0,
            control_pings: 0,
            control_pongs: 0,
            sync_asked: None,
            causes: Vec::new(),
            stalled: false,
            half_closed: false,
            close_sent: None,
            restarting: false,
            room_asked: false,
            run: 0,
            restarted: false,
        }
    }

    /// Logged in, and not over.
    pub(crate) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Over.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Logged in, on its way out neither by its own doing nor by what it did wrong or read late.
    pub(crate) fn is_healthy(&self) -> bool {
        self.is_active() && self.causes.is_empty() && !self.stalled && !self.half_closed && self.close_sent.is_none()
    }

    /// Books malformed frames; too many in a row are a cause to close.
    pub(crate) fn count_malformed(&mut self, frames: u32) {
        self.malformed_run += frames;
        if self.malformed_run >= limits::MALFORMED_IN_A_ROW {
            self.causes.push(close::POLICY);
        }
    }

    /// Whether the relay may know whose connection it is, and answer messages on it.
    pub(crate) fn may_be_acked(&self) -> bool {
        self.auth_sent.is_some()
    }

    fn reader(&self, now: Nanos) -> Reader {
        Reader {
            session: self.id,
            device: self.device,
            user: self.user,
            key: self.key,
            epoch: self.epoch,
            now,
            run: self.run,
        }
    }

    /// Reads bytes from the relay.
    pub(crate) fn read(&mut self, bytes: Vec<u8>, context: &mut Context<'_>) -> Checked<Vec<Reaction>> {
        let mut reactions = Vec::new();
        if self.is_ended() {
            return Ok(reactions);
        }
        let mut bytes = bytes;
        if self.phase == Phase::Upgrading {
            self.head.append(&mut bytes);
            match upgrade::read_response(&self.head, self.websocket_key) {
                Ok(None) => return Ok(reactions),
                Ok(Some(consumed)) => {
                    bytes = self.head.split_off(consumed);
                    self.head = Vec::new();
                    self.phase = Phase::Unchallenged;
                }
                Err(UpgradeError::Refused { status, .. }) => {
                    context.seen.note("http", status);
                    self.phase = Phase::Ended(End::Http(status));
                    return Ok(reactions);
                }
                Err(error) => return violated(Invariant::FrameForm, error.to_string()),
            }
        }
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Client, 0));
        let mut input = &mut bytes[..];
        let outcome = loop {
            let incoming = match decoder.next(&mut input) {
                Ok(None) => break Ok(()),
                Ok(Some(incoming)) => incoming,
                Err(fault) => break violated(Invariant::FrameForm, format!("connection {}: {fault}", self.id)),
            };
            if let Err(violation) = self.incoming(incoming, context, &mut reactions) {
                break Err(violation);
            }
        };
        self.decoder = decoder;
        outcome.map(|()| reactions)
    }

    fn incoming(
        &mut self,
        incoming: Incoming<'_>,
        context: &mut Context<'_>,
        reactions: &mut Vec<Reaction>,
    ) -> Checked {
        match incoming {
            Incoming::Text(text) => self.text(text, context, reactions),
            Incoming::Binary(_) => violated(Invariant::FrameForm, "a binary message from the relay"),
            Incoming::Ping(payload) => {
                reactions.push(Reaction::Pong(payload.to_vec()));
                Ok(())
            }
            Incoming::Pong(_) => {
                self.control_pongs += 1;
                ensure(self.control_pongs <= self.control_pings, Invariant::AnswerSurplus, || {
                    format!("connection {}: a pong that was not asked for", self.id)
                })
            }
            Incoming::Close { code, .. } => {
                let code = code.unwrap_or(1005);
                context.seen.note("close", code);
                self.phase = Phase::Ended(End::Code(code));
                reactions.push(Reaction::Close(code));
                Ok(())
            }
        }
    }

    fn text(&mut self, text: &str, context: &mut Context<'_>, reactions: &mut Vec<Reaction>) -> Checked {
        ensure(text.len() <= limits::RELAY_FRAME_BYTES, Invariant::FrameForm, || {
            format!("a frame of {} bytes", text.len())
        })?;
        let mut frames = std::mem::take(context.frames);
        let outcome = match frames.decode(text) {
            Ok(frame) => self.frame(&frame, text, context, reactions),
            Err(error) => violated(
                Invariant::FrameForm,
                format!("connection {}: {error}: {}", self.id, printable(text.as_bytes())),
            ),
        };
        *context.frames = frames;
        outcome
    }

    fn frame(
        &mut self,
        frame: &ServerFrame<'_>,
        text: &str,
        context: &mut Context<'_>,
        reactions: &mut Vec<Reaction>,
    ) -> Checked {
        let early = matches!(frame, ServerFrame::Challenge(_) | ServerFrame::Welcome(_) | ServerFrame::Error(_))
            || matches!(frame, ServerFrame::Restarting { .. });
        ensure(early || self.is_active(), Invariant::Opening, || {
            format!("connection {} is {:?} and gets {}", self.id, self.phase, printable(text.as_bytes()))
        })?;
        match frame {
            ServerFrame::Challenge(challenge) => {
                let as_told = self.phase == Phase::Unchallenged
                    && challenge.version == limits::VERSION
                    && challenge.relay == context.relay_name;
                ensure(as_told, Invariant::Opening, || format!("{challenge:?} while {:?}", self.phase))?;
                self.phase = Phase::Unwelcome;
                reactions.push(Reaction::Authenticate(challenge.nonce));
                Ok(())
            }
            ServerFrame::Welcome(welcome) => {
                self.welcome(welcome, context)?;
                reactions.push(Reaction::Welcomed);
                Ok(())
            }
            ServerFrame::Lobby(_) | ServerFrame::LobbyUpdate(_) if self.lobby_mode == LobbyMode::None => {
                violated(Invariant::LobbyUnwanted, format!("connection {}", self.id))
            }
            ServerFrame::Lobby(page) => {
                context.seen.note("lobby", if page.totals.is_some() { "last page" } else { "page" });
                self.lobby.page(&self.key, page.clone())
            }
            ServerFrame::LobbyUpdate(update) => {
                context.seen.note("lobby", "delta");
                self.lobby.update(update)
            }
            ServerFrame::Message(pushed) => self.pushed(pushed.seq, text, context),
            ServerFrame::Ack(ack) => {
                context.seen.note("ack", if ack.duplicate { "duplicate" } else { "new" });
                let claim = context.ledger.ack(&self.reader(context.now), ack)?;
                reactions.push(Reaction::Check(claim));
                Ok(())
            }
            ServerFrame::Error(error) => self.error(error, context, reactions),
            ServerFrame::Pong => {
                self.pongs += 1;
                ensure(self.pongs <= self.pings, Invariant::AnswerSurplus, || {
                    "a pong that was not asked for".to_owned()
                })
            }
            ServerFrame::Restarting { .. } => {
                self.restarting = true;
                Ok(())
            }
            ServerFrame::Receipt(receipt) => {
                context.seen.note("receipt", receipt.status.name());
                context.ledger.receipt(&self.reader(context.now), receipt)
            }
            ServerFrame::Room(state) => {
                context.seen.note("room", "answer");
                self.room_asked = false;
                if self.run < context.ledger.run || !self.is_healthy() {
                    return Ok(());
                }
                context.ledger.rooms.answered(self.id, state, context.now).map(drop)
            }
            ServerFrame::RoomUpdate(update) => {
                context.seen.note("room", "update");
                let since = self.auth_sent.unwrap_or(0);
                let concerned =
                    update.left.contains(&self.key) || context.ledger.rooms.may(update.room, &self.key, since);
                ensure(concerned, Invariant::RoomLeak, || {
                    format!("connection {} hears of {}, and was no member since it came", self.id, update.room)
                })
            }
            ServerFrame::Typing(_) | ServerFrame::History(_) => {
                violated(Invariant::FrameForm, format!("nobody asked for {}", printable(text.as_bytes())))
            }
            ServerFrame::Unknown(kind) => violated(Invariant::FrameForm, format!("a frame of type {kind:?}")),
        }
    }

    fn welcome(&mut self, welcome: &Welcome<'_>, context: &Context<'_>) -> Checked {
        /// The frame may be this old when it is read; more would be the wrong clock.
        const LATE_MAX_MS: u64 = 120_000;
        let as_told = self.phase == Phase::Unwelcome
            && self.opening == Opening::Honest
            && welcome.public_key == self.key
            && welcome.device_id == self.device_id
            && welcome.heartbeat_ms == context.heartbeat_ms
            && welcome.time.unix_ms().abs_diff(context.unix_ms) <= LATE_MAX_MS;
        ensure(as_told, Invariant::Opening, || {
            format!(
                "connection {} is {:?} after a {:?} opening and gets {welcome:?}",
                self.id, self.phase, self.opening
            )
        })?;
        self.phase = Phase::Active;
        self.welcomed_at = Some(context.now);
        self.epoch = welcome.epoch;
        self.recovered = welcome.recovered;
        let taken = context.taken.filter(|taken| taken.epoch == welcome.epoch).map(|taken| taken.seq);
        let from = self.asked.filter(|_| welcome.recovered).map(|asked| asked.seq);
        self.seqs = Seqs::begin(welcome.seq, from, taken);
        Ok(())
    }

    fn error(&mut self, error: &ErrorFrame<'_>, context: &mut Context<'_>, reactions: &mut Vec<Reaction>) -> Checked {
        let reason = error.reason;
        context.seen.note("error", reason);
        let known = error.details.len() > 1 && (reason == "stale_timestamp") == error.time.is_some();
        ensure(known, Invariant::FrameForm, || format!("{error:?}"))?;
        if !self.is_active() {
            let fits = match self.opening {
                Opening::WrongVersion => reason == "unsupported_version",
                Opening::BadSignature | Opening::OldNonce | Opening::FrameFirst => reason == "auth_failed",
                Opening::Honest => reason == "overloaded",
                _ => false,
            };
            return ensure(fits, Invariant::AnswerWrong, || format!("{reason} after a {:?} opening", self.opening));
        }
        if let Some(id) = error.id {
            let claim = context.ledger.error(self.id, id, reason, context.now)?;
            reactions.push(Reaction::Check(claim));
            return Ok(());
        }
        if let Some(room) = error.room {
            context.seen.note("room", reason);
            self.room_asked = false;
            if self.run < context.ledger.run || !self.is_healthy() {
                return Ok(());
            }
            return context.ledger.rooms.refused(self.id, room, reason, context.now).map(drop);
        }
        self.nameless_answered += 1;
        ensure(reason == "malformed", Invariant::AnswerWrong, || format!("{reason} without an id"))?;
        ensure(self.nameless_answered <= self.nameless, Invariant::AnswerSurplus, || {
            format!("connection {}: {} answers to {} nameless frames", self.id, self.nameless_answered, self.nameless)
        })
    }

    /// The session is over.
    pub(crate) fn end(&mut self, end: End) {
        self.phase = Phase::Ended(end);
    }
}
