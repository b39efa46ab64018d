//! What a session knows, and how frames, time and the end of a connection change it.

use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use protocol::frame::Resume;
use protocol::limits::close;
use protocol::server_frame::{Challenge, ErrorFrame, ServerFrame, Welcome, WelcomeLimits};
use protocol::{PublicKey, Timestamp, encode, opening};

use super::outbox::{DEFAULT_LIMITS, Outbox};
use super::receive::Confirming;
use super::requests::{Requests, room_event, room_update_event};
use super::{Effect, Options};
use crate::backoff::Backoff;
use crate::event::{CLOSED, Event};
use crate::history::History;
use crate::inbox::{SeenIds, Verifier};
use crate::lobby::Lobby;
use crate::seqs::Seqs;

/// Heartbeats without a sign of the relay after which a connection is given up.
const SILENT_HEARTBEATS: u32 = 3;

/// How long a session has to last for the next delay to be the shortest again: a relay that lets
/// clients in and throws them out at once gets them back ever more slowly.
const SETTLED: Duration = Duration::from_secs(10);

/// The longest time that `restarting` may send a client away.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(300);

/// All but the decoder, which frames are borrowed from while the state changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) key: SigningKey,
    pub(super) public_key: PublicKey,
    pub(super) options: Options,
    pub(super) phase: Phase,
    pub(super) clock: Clock,
    pub(super) heard: Instant,
    backoff: Backoff,
    pub(super) lobby: Lobby,
    pub(super) history: History,
    pub(super) seqs: Seqs,
    pub(super) ids: SeenIds,
    pub(super) verifier: Verifier,
    /// What the relay takes; what it took, between connections.
    pub(super) limits: WelcomeLimits,
    pub(super) outbox: Outbox,
    pub(super) requests: Requests,
    pub(super) confirming: Confirming,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// No connection.
    Offline,
    /// A connection without a challenge yet.
    Challenged { deadline: Instant },
    /// A challenge was answered, and the relay asked to go on after this seq.
    Answered { deadline: Instant, resumed: Option<u64>, is_refused: bool },
    /// Messages flow.
    Open(Open),
    /// This relay must not be talked to, now or later.
    Refused,
}

#[derive(Debug)]
pub(super) struct Open {
    since: Instant,
    /// Silence after which the connection is given up; `None` if the relay does not ping.
    silence_max: Option<Duration>,
    /// Set by `restarting`.
    reconnect_in: Option<Duration>,
}

/// A moment known on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    at: Instant,
    time: Timestamp,
}

impl Clock {
    pub(super) fn time(self, now: Instant) -> Timestamp {
        let elapsed = i64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(self.time.unix_ms().saturating_add(elapsed))
    }
}

impl State {
    pub(super) fn new(key: SigningKey, options: Options, now: Instant, time: Timestamp) -> Self {
        let public_key = PublicKey::from(&key.verifying_key());
        let history = History::new(options.history);
        Self {
            key,
            public_key,
            options,
            phase: Phase::Offline,
            clock: Clock { at: now, time },
            heard: now,
            backoff: Backoff::default(),
            lobby: Lobby::default(),
            history,
            seqs: Seqs::default(),
            ids: SeenIds::default(),
            verifier: Verifier::default(),
            limits: DEFAULT_LIMITS,
            outbox: Outbox::new(),
            requests: Requests::new(),
            confirming: Confirming::default(),
        }
    }

    pub(super) fn handle(&mut self, frame: ServerFrame<'_>, now: Instant, effects: &mut Vec<Effect>) {
        match (&mut self.phase, frame) {
            (Phase::Challenged { deadline }, ServerFrame::Challenge(challenge)) => {
                let deadline = *deadline;
                self.answer(&challenge, deadline, effects);
            }
            (Phase::Answered { resumed, .. }, ServerFrame::Welcome(welcome)) => {
                let resumed = *resumed;
                self.welcome(&welcome, resumed, now, effects);
            }
            (Phase::Open(_), ServerFrame::Message(pushed)) => self.pushed(&pushed, effects),
            (Phase::Open(_), ServerFrame::Ack(ack)) => self.acked(&ack, effects),
            (Phase::Open(_), ServerFrame::Receipt(receipt)) => self.receipt(&receipt, effects),
            (Phase::Open(_), ServerFrame::Typing(typing)) => self.typing_of(&typing, effects),
            (Phase::Open(_), ServerFrame::Room(room)) => effects.push(Effect::Event(room_event(&room))),
            (Phase::Open(_), ServerFrame::RoomUpdate(update)) => {
                effects.push(Effect::Event(room_update_event(&update)));
            }
            (Phase::Open(_), ServerFrame::History(page)) => self.history_page(&page, now, effects),
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
        let resume = self.seqs.epoch().zip(self.seqs.cursor()).map(|(epoch, seq)| Resume { epoch, seq });
        match opening::answer(challenge, relay_name, &self.key, device_id, *lobby, resume) {
            Ok(auth) => {
                let mut frame = Vec::with_capacity(512);
                encode::auth(&mut frame, &auth);
                effects.push(Effect::Send(text_of(frame)));
                let resumed = resume.map(|resume| resume.seq);
                self.phase = Phase::Answered { deadline, resumed, is_refused: false };
            }
            Err(error) => {
                self.phase = Phase::Refused;
                effects.push(Effect::Close { code: close::POLICY, details: error.to_string() });
            }
        }
    }

    fn welcome(&mut self, welcome: &Welcome<'_>, resumed: Option<u64>, now: Instant, effects: &mut Vec<Effect>) {
        if welcome.public_key != self.public_key || welcome.device_id != self.options.device_id {
            let details = "the relay welcomed another key or device".to_owned();
            effects.push(Effect::Close { code: close::POLICY, details });
            return;
        }
        let clock_moved_ms = self.set_clock(welcome.time, now);
        if self.seqs.welcome(welcome.epoch, welcome.seq, welcome.recovered, resumed) {
            self.history.forget_seqs();
        }
        self.confirming = Confirming::after(resumed.filter(|_| welcome.recovered).unwrap_or(0));
        self.limits = welcome.limits;
        self.outbox.start_connection(&welcome.limits);
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        self.phase = Phase::Open(Open {
            since: now,
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
            resumed_seq: resumed,
            recovered: welcome.recovered,
            heartbeat_ms: welcome.heartbeat_ms,
            frame_bytes: welcome.limits.frame_bytes,
            message_chars: welcome.limits.message_chars,
            messages_per_second: welcome.limits.messages_per_second,
        }));
    }

    fn refused(&mut self, error: &ErrorFrame<'_>, now: Instant, effects: &mut Vec<Effect>) {
        if error.reason == "stale_timestamp"
            && let Some(time) = error.time
        {
            self.set_clock(time, now);
        }
        if let Phase::Answered { is_refused, .. } = &mut self.phase {
            *is_refused |= matches!(error.reason, "auth_failed" | "unsupported_version");
        }
        if self.message_refused(error, now, effects) {
            return;
        }
        self.request_refused(error, now, effects);
        effects.push(Effect::Event(Event::Error {
            reason: error.reason.to_owned(),
            details: error.details.to_owned(),
            client_message_id: error.id.map(str::to_owned),
            room_id: error.room.map(str::to_owned),
            retry_after_ms: error.retry_after_ms,
        }));
    }

    /// Returns by how many milliseconds the clock moved.
    fn set_clock(&mut self, time: Timestamp, now: Instant) -> i64 {
        let before = self.clock.time(now);
        self.clock = Clock { at: now, time };
        time.unix_ms() - before.unix_ms()
    }

    /// Does whatever can be done now: after frames, commands and the passing of time.
    pub(super) fn settle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.is_open() {
            return;
        }
        self.confirm(now, effects);
        if self.lobby.take_sync(now) {
            self.requests.pace.take(now);
            let mut frame = Vec::new();
            encode::lobby_sync(&mut frame);
            effects.push(Effect::Send(text_of(frame)));
        }
        self.send_requests(now, effects);
        self.send_waiting(now, effects);
        self.tell_gap(effects);
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            Phase::Offline | Phase::Refused => None,
            Phase::Challenged { deadline } | Phase::Answered { deadline, .. } => Some(*deadline),
            Phase::Open(open) => [
                open.silence_max.map(|silence| self.heard + silence),
                self.lobby.sync_at(now),
                self.confirm_at(now),
                self.requests.poll_timeout(now),
                self.outbox.poll_timeout(&self.requests.pace, now),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let details = match &self.phase {
            Phase::Challenged { deadline } | Phase::Answered { deadline, .. } if *deadline <= now => {
                "the relay did not open the session in time"
            }
            Phase::Open(Open { silence_max: Some(silence), .. }) if self.heard + *silence <= now => {
                "the relay was silent for three heartbeats"
            }
            _ => {
                self.expire_answers(now);
                self.expire_page(now, effects);
                return self.settle(now, effects);
            }
        };
        effects.push(Effect::Close { code: close::GOING_AWAY, details: details.to_owned() });
    }

    pub(super) fn disconnected(
        &mut self,
        code: Option<u16>,
        details: &str,
        random: u32,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<Duration> {
        let phase = std::mem::replace(&mut self.phase, Phase::Offline);
        // Without a refusal, 4401 says that the opening took too long: it may do better.
        let is_final = code == Some(close::REPLACED)
            || match &phase {
                Phase::Refused => true,
                Phase::Answered { is_refused, .. } => *is_refused && code == Some(close::AUTH),
                Phase::Offline | Phase::Challenged { .. } | Phase::Open(_) => false,
            };
        let mut restart = None;
        if let Phase::Open(open) = phase {
            restart = open.reconnect_in;
            if now.saturating_duration_since(open.since) >= SETTLED || restart.is_some() {
                self.backoff.reset();
            }
        }
        self.outbox.end_connection();
        self.requests.end_connection();
        let details = if details.is_empty() {
            code.map_or("the connection ended", |code| meaning(code, is_final))
        } else {
            details
        };
        if is_final {
            self.fail_all(CLOSED, details, effects);
        }
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
}

/// What a close code says, for a person; `is_refused` tells the two meanings of 4401 apart.
fn meaning(code: u16, is_refused: bool) -> &'static str {
    match code {
        close::GOING_AWAY => "the relay goes away",
        close::PROTOCOL | close::UNSUPPORTED | close::INVALID_UTF8 | close::TOO_LONG => {
            "the relay could not read what this client sent"
        }
        close::POLICY => "the relay got too many malformed frames",
        close::AUTH if is_refused => "the relay refused to authenticate this key",
        close::AUTH => "logging in took too long",
        close::TOO_SLOW => "this client read too slowly",
        close::REPLACED => "a newer connection of this key and device took over",
        close::TOO_MANY => "the relay had too many connections or frames of this client",
        _ => "the relay closed the connection",
    }
}

/// The frames of [`encode`] are ASCII around texts that are UTF-8 already.
pub(super) fn text_of(frame: Vec<u8>) -> String {
    String::from_utf8(frame).expect("an encoded frame is UTF-8")
}
