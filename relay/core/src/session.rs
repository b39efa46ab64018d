//! What peers send, state by state: the upgrade, the opening, and the frames of a session.

use protocol::decode::{FrameDecoder, MalformedKind};
use protocol::frame::{ClientFrame, LobbyMode};
use protocol::limits;
use protocol::opening::{AuthError, check_auth};
use protocol::server_frame::{Challenge, ErrorFrame, Welcome, WelcomeLimits};
use protocol::upgrade::{Upgrade, UpgradeLimits, read_upgrade};
use protocol::websocket::{self, Decoder, Incoming, Role};
use protocol::{Timestamp, encode};

use crate::config::nanos;
use crate::connection::{Challenged, Connection, Link, Member, Moving, Session, State};
use crate::effect::{Effect, Effects, ReadMode};
use crate::envelope::{Arrival, RoomAsk};
use crate::event::Nanos;
use crate::rate::Bucket;
use crate::refusal::{Closure, Refusal};
use crate::shard::Core;
use crate::stats::Reason;

/// Whether a connection goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    Close(Closure),
}

/// What an error frame is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) room: Option<&'a str>,
    pub(crate) retry_after_ms: Option<u64>,
}

impl<'a> About<'a> {
    /// Names the id and the room of a frame, where it has them.
    fn of(frame: &ClientFrame<'a>) -> Self {
        let (id, room) = match *frame {
            ClientFrame::Message(message) => (Some(message.id), message.target.room()),
            ClientFrame::Typing { target, .. } | ClientFrame::History { with: target, .. } => (None, target.room()),
            ClientFrame::Room { room, .. } => (None, Some(room)),
            _ => (None, None),
        };
        Self { id, room, retry_after_ms: None }
    }
}

impl Core {
    /// Acts on bytes of a connection; `None` if it was handed over or ended.
    pub(crate) fn bytes(
        &mut self,
        mut connection: Box<Connection>,
        bytes: &mut [u8],
        frames: &mut FrameDecoder,
        effects: &mut Effects,
    ) -> Option<Box<Connection>> {
        match &mut connection.state {
            State::Upgrading(_) => self.upgrade(connection, bytes, frames, effects),
            State::Challenged(_) => self.authenticate(connection, bytes, frames, effects),
            State::Moving(moving) => {
                moving.arrival.unread.extend_from_slice(bytes);
                Some(connection)
            }
            State::Active(_) => {
                self.frames(&mut connection, bytes, frames, effects);
                Some(connection)
            }
            State::Closing(_) => Some(connection),
        }
    }

    fn upgrade(
        &mut self,
        mut connection: Box<Connection>,
        bytes: &[u8],
        frames: &mut FrameDecoder,
        effects: &mut Effects,
    ) -> Option<Box<Connection>> {
        let Connection { link, state: State::Upgrading(upgrading) } = &mut *connection else {
            return Some(connection);
        };
        let (id, seen) = (link.id, upgrading.request.len());
        let bytes_max = self.config.limits.upgrade_bytes_max;
        upgrading.request.extend_from_slice(bytes);
        let request = &mut upgrading.request;
        // The request is parsed once it is whole, however many pieces it comes in.
        let is_whole = request[seen.saturating_sub(3)..].windows(4).any(|end| end == b"\r\n\r\n");
        if !is_whole && request.len() < bytes_max {
            effects.push(Effect::Read { connection: id, mode: ReadMode::Once });
            return Some(connection);
        }
        let limits = UpgradeLimits { bytes_max, headers_max: self.config.limits.upgrade_headers_max };
        let mut response = Vec::new();
        match read_upgrade(request, &limits, &mut response) {
            Upgrade::Incomplete => {
                effects.push(Effect::Read { connection: id, mode: ReadMode::Once });
                Some(connection)
            }
            Upgrade::Refused { .. } => {
                self.post.push(link, &response, &[]);
                self.enter_closing(&mut connection, effects);
                Some(connection)
            }
            Upgrade::Accepted { consumed, .. } => {
                let mut rest = request.split_off(consumed);
                let challenge =
                    Challenge { version: limits::VERSION, relay: &self.config.relay_name, nonce: upgrading.nonce };
                self.post.push(link, &response, &[]);
                self.post.text(link, |out| encode::challenge(out, &challenge));
                let deadline = self.now.nanos + nanos(self.config.auth_timeout);
                self.timers.arm(id, &mut link.armed, deadline);
                connection.state = State::Challenged(Challenged {
                    nonce: challenge.nonce,
                    decoder: Decoder::new(Role::Server, self.config.limits.frame_bytes_max),
                    control: Bucket::default(),
                    deadline,
                });
                self.authenticate(connection, &mut rest, frames, effects)
            }
        }
    }

    fn authenticate(
        &mut self,
        mut connection: Box<Connection>,
        mut bytes: &mut [u8],
        frames: &mut FrameDecoder,
        effects: &mut Effects,
    ) -> Option<Box<Connection>> {
        let Connection { link, state: State::Challenged(challenged) } = &mut *connection else {
            return Some(connection);
        };
        let outcome = loop {
            match challenged.decoder.next(&mut bytes) {
                Err(fault) => break Err(Closure::fault(fault)),
                Ok(None) => {
                    effects.push(Effect::Read { connection: link.id, mode: ReadMode::Once });
                    return Some(connection);
                }
                Ok(Some(Incoming::Text(text))) => match self.auth(text, &challenged.nonce, link, frames) {
                    Some(arrival) => break Ok(arrival),
                    None => break Err(Closure::AUTH),
                },
                Ok(Some(Incoming::Binary(_))) => break Err(Closure::BINARY),
                Ok(Some(Incoming::Ping(payload))) => {
                    self.post.raw(link, |out| websocket::push_pong(out, payload));
                }
                Ok(Some(Incoming::Pong(_))) => {}
                Ok(Some(Incoming::Close { code, .. })) => break Err(Closure::echo(code)),
            }
            if let Flow::Close(closure) = self.spend_control(&mut challenged.control) {
                break Err(closure);
            }
        };
        let mut arrival = match outcome {
            Ok(arrival) => arrival,
            Err(closure) => {
                self.begin_close(&mut connection, closure, effects);
                return Some(connection);
            }
        };
        let fresh = Decoder::new(Role::Server, self.config.limits.frame_bytes_max);
        arrival.decoder = std::mem::replace(&mut challenged.decoder, fresh);
        arrival.unread = bytes.to_vec();
        let to = self.config.home(&arrival.public_key);
        if to == self.config.shard {
            self.activate(&mut connection, *arrival, frames, effects);
            Some(connection)
        } else {
            let deadline = challenged.deadline;
            connection.state = State::Moving(Moving { to, deadline, arrival });
            self.hand_over_if_idle(connection, effects)
        }
    }

    /// Checks an `auth` frame. `None`: it was refused, and the error is on its way.
    fn auth(
        &mut self,
        text: &str,
        nonce: &[u8; 32],
        link: &mut Link,
        frames: &mut FrameDecoder,
    ) -> Option<Box<Arrival>> {
        let auth = match frames.decode(text) {
            Ok(ClientFrame::Auth(auth)) => auth,
            Ok(other) => {
                self.refuse(link, Refusal::AUTH_FIRST, About::of(&other));
                return None;
            }
            Err(malformed) => {
                let reason = match malformed.kind {
                    MalformedKind::UnsupportedVersion => Reason::UnsupportedVersion,
                    MalformedKind::Auth | MalformedKind::Malformed => Reason::AuthFailed,
                };
                let about = About { id: malformed.id, room: malformed.room, retry_after_ms: None };
                self.error(link, reason, malformed.field, malformed.details, about);
                return None;
            }
        };
        let mut signed = Vec::new();
        match check_auth(&auth, &self.config.relay_name, nonce, &mut signed) {
            Ok(verifying_key) => Some(Box::new(Arrival {
                public_key: auth.public_key,
                verifying_key: Box::new(verifying_key),
                device_id: auth.device_id.into(),
                lobby: auth.lobby,
                resume: auth.resume,
                peer: link.peer,
                decoder: Decoder::new(Role::Server, self.config.limits.frame_bytes_max),
                unread: Vec::new(),
            })),
            Err(error) => {
                let refusal = match error {
                    AuthError::Key(_) => Refusal::AUTH_KEY,
                    AuthError::Signature => Refusal::AUTH_SIGNATURE,
                };
                self.refuse(link, refusal, About::default());
                None
            }
        }
    }

    /// Opens the session of an authenticated connection whose home is here.
    pub(crate) fn activate(
        &mut self,
        connection: &mut Connection,
        arrival: Arrival,
        frames: &mut FrameDecoder,
        effects: &mut Effects,
    ) {
        let Arrival { public_key: key, verifying_key, device_id, lobby, resume, decoder, mut unread, .. } = arrival;
        let id = connection.link.id;
        let tag = self.config.device_tag(&device_id);
        let Some(joined) = self.join(key, &device_id, tag, id.index, resume, effects) else {
            self.refuse(&mut connection.link, Refusal::DEVICES, About::default());
            self.stats.closed_too_many += 1;
            self.begin_close(connection, Closure::TOO_MANY_DEVICES, effects);
            return;
        };
        let user = joined.user;
        self.stats.logins += 1;
        self.stats.sessions += 1;
        let member = Member {
            user,
            key,
            verifying_key: *verifying_key,
            device_id,
            tag,
            is_behind: joined.is_behind,
            is_loading: false,
            reading: None,
            subscription: None,
            control: Bucket::default(),
            malformed_in_a_row: 0,
            pinged_at: self.now.nanos,
        };
        self.welcome(&mut connection.link, &member, joined.recovered);
        let first_check = self.now.nanos + nanos(self.config.heartbeat);
        self.timers.arm(id, &mut connection.link.armed, first_check);
        let mut session = Box::new(Session { decoder, member });
        if lobby == LobbyMode::All {
            session.member.subscription = Some(self.subscribe(id));
        }
        connection.state = State::Active(session);
        effects.push(Effect::Read { connection: id, mode: ReadMode::Continuous });
        self.frames(connection, &mut unread, frames, effects);
    }

    fn welcome(&mut self, link: &mut Link, member: &Member, recovered: bool) {
        let user = self.router.user(member.user);
        let limits = &self.config.limits;
        let welcome = Welcome {
            public_key: member.key,
            device_id: &member.device_id,
            time: Timestamp::from_unix_ms(self.now.unix_ms),
            epoch: user.inbox.epoch,
            seq: user.announced_seq(),
            recovered,
            heartbeat_ms: u64::try_from(self.config.heartbeat.as_millis()).unwrap_or(u64::MAX),
            limits: WelcomeLimits {
                frame_bytes: limits.frame_bytes_max as u64,
                message_chars: limits.message_chars_max as u64,
                messages_per_second: u64::from(limits.messages_per_second),
            },
        };
        self.post.text(link, |out| encode::welcome(out, &welcome));
    }

    /// Reads the frames of a session.
    fn frames(
        &mut self,
        connection: &mut Connection,
        mut bytes: &mut [u8],
        frames: &mut FrameDecoder,
        effects: &mut Effects,
    ) {
        let Connection { link, state: State::Active(session) } = &mut *connection else { return };
        let Session { decoder, member } = &mut **session;
        let closure = loop {
            let flow = match decoder.next(&mut bytes) {
                Err(fault) => break Closure::fault(fault),
                Ok(None) => return,
                Ok(Some(Incoming::Text(text))) => self.frame(link, member, text, frames),
                Ok(Some(Incoming::Binary(_))) => break Closure::BINARY,
                Ok(Some(Incoming::Ping(payload))) => {
                    self.post.raw(link, |out| websocket::push_pong(out, payload));
                    self.spend_control(&mut member.control)
                }
                Ok(Some(Incoming::Pong(_))) => self.spend_control(&mut member.control),
                Ok(Some(Incoming::Close { code, .. })) => break Closure::echo(code),
            };
            if let Flow::Close(closure) = flow {
                break closure;
            }
        };
        self.begin_close(connection, closure, effects);
    }

    /// Acts on one frame of a session.
    fn frame(&mut self, link: &mut Link, member: &mut Member, text: &str, frames: &mut FrameDecoder) -> Flow {
        let frame = match frames.decode(text) {
            Ok(frame) => frame,
            Err(malformed) => {
                let about = About { id: malformed.id, room: malformed.room, retry_after_ms: None };
                self.error(link, Reason::Malformed, malformed.field, malformed.details, about);
                return self.count_malformed(member);
            }
        };
        if let ClientFrame::Message(message) = frame {
            return self.message(link, member, &message, text);
        }
        if let Some(refusal) = self.control_frame(link, member, &frame) {
            self.refuse(link, refusal, About::of(&frame));
            if refusal.reason == Reason::Malformed {
                return self.count_malformed(member);
            }
        }
        member.malformed_in_a_row = 0;
        self.spend_control(&mut member.control)
    }

    /// Acts on a frame that is no message; gives back why it is refused, if it is.
    fn control_frame(&mut self, link: &mut Link, member: &mut Member, frame: &ClientFrame<'_>) -> Option<Refusal> {
        match frame {
            ClientFrame::Ping => {
                self.post.text(link, encode::pong);
                None
            }
            ClientFrame::LobbySync => match &member.subscription {
                Some(_) => {
                    self.lobby_sync(link, member);
                    None
                }
                None => Some(Refusal::NO_LOBBY),
            },
            ClientFrame::Auth(_) => Some(Refusal::SECOND_AUTH),
            ClientFrame::Received(seq) => {
                self.confirm(member.user, link.id.index, *seq);
                None
            }
            ClientFrame::Typing { target, is_typing } => {
                self.typing(member.key, target, *is_typing);
                None
            }
            ClientFrame::Read(seq) => {
                self.read(member.user, *seq);
                None
            }
            ClientFrame::Room { room, action } => {
                self.ask_room(link.id, member.key, (*room).into(), RoomAsk::Act(*action));
                None
            }
            ClientFrame::History { with, before_seq, limit } => self.history(link, member, with, *before_seq, *limit),
            ClientFrame::Message(_) => None,
        }
    }

    /// Counts a malformed frame: too many in a row close the connection.
    pub(crate) fn count_malformed(&mut self, member: &mut Member) -> Flow {
        member.malformed_in_a_row += 1;
        if member.malformed_in_a_row >= limits::MALFORMED_IN_A_ROW {
            return Flow::Close(Closure::MALFORMED);
        }
        self.spend_control(&mut member.control)
    }

    /// Pays for a frame that is no accepted message.
    pub(crate) fn spend_control(&mut self, control: &mut Bucket) -> Flow {
        match control.take(self.control_rate, self.now.nanos) {
            Ok(()) => Flow::Go,
            Err(_) => {
                self.stats.closed_too_many += 1;
                Flow::Close(Closure::TOO_MANY_FRAMES)
            }
        }
    }

    pub(crate) fn refuse(&mut self, link: &mut Link, refusal: Refusal, about: About<'_>) {
        self.error(link, refusal.reason, None, refusal.details, about);
    }

    fn error(&mut self, link: &mut Link, reason: Reason, field: Option<&str>, details: &str, about: About<'_>) {
        self.stats.refuse(reason);
        let time = (reason == Reason::StaleTimestamp).then(|| Timestamp::from_unix_ms(self.now.unix_ms));
        let About { id, room, retry_after_ms } = about;
        let frame = ErrorFrame { reason: reason.as_str(), details, id, room, retry_after_ms, time };
        self.post.text(link, |out| encode::error(out, &frame, field));
    }

    /// Pings an idle session and syncs its lobby if it is time. Gives the next deadline; `None` if
    /// the session has been silent for too long.
    pub(crate) fn session_timer(&mut self, connection: &mut Connection) -> Option<Nanos> {
        let Connection { link, state: State::Active(session) } = connection else { return None };
        let (now, heartbeat) = (self.now.nanos, nanos(self.config.heartbeat));
        let member = &mut session.member;
        if now >= link.heard_at + 3 * heartbeat {
            return None;
        }
        if now >= link.heard_at.max(member.pinged_at) + heartbeat {
            member.pinged_at = now;
            self.post.raw(link, |out| websocket::push_ping(out, &[]));
        }
        let sync_at = self.sync_if_due(link, member);
        let heartbeat_at = (link.heard_at.max(member.pinged_at) + heartbeat).min(link.heard_at + 3 * heartbeat);
        Some(sync_at.map_or(heartbeat_at, |at| at.min(heartbeat_at)))
    }

    /// Takes a connection's session, if it has one, out of its user and the lobby.
    pub(crate) fn leave(&mut self, connection: &mut Connection) {
        let State::Active(session) = &connection.state else { return };
        let member = &session.member;
        self.stats.sessions -= 1;
        self.part(member.user, connection.link.id.index);
        if let Some(subscription) = &member.subscription {
            self.unsubscribe(subscription.place);
        }
    }
}
