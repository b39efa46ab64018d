//! Own messages on their way: written, signed and sent once the session is open, sent again without
//! an answer, and at last given up.
//!
//! # Invariants
//! - A message is signed once, right before it is first sent. What is sent again is the same, byte for
//!   byte: whatever became of the first copy, the relay takes the message once.
//! - Messages are first sent in the order in which they were written.
//! - Each is sent [`SENDS_MAX`] times at most, over all connections, and ends in an ack or as failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use protocol::frame::Target;
use protocol::server_frame::{Ack, ErrorFrame, WelcomeLimits};
use protocol::{PublicKey, Timestamp, limits};

use super::compose::sign_message;
use super::state::{Phase, State};
use super::{Effect, Event};
use crate::event::NO_ANSWER;
use crate::history::{Peer, Status};
use crate::pace::Bucket;

/// Times that a message is sent: once, and three times again.
const SENDS_MAX: u32 = 4;

/// How long the first copy on a connection waits for its answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The longest time that a message waits because the relay did not want it yet.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// Failed messages whose late answer is still noticed.
const UNANSWERED_MAX: usize = 64;

/// The first messages of a key that the relay takes at once: so many seconds' worth.
const BURST_SECONDS: u64 = 2;

/// An own message without an answer.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) id: String,
    pub(super) peer: Peer,
    content: Content,
    /// In the order of first sending; `None` until then.
    number: Option<u64>,
    /// Copies sent, on all connections.
    sent: u32,
    /// Whether one of them was on this connection.
    is_sent_here: bool,
    /// When it counts as unanswered; `None` while it waits to be sent, or sent again.
    due: Option<Instant>,
}

#[derive(Debug)]
enum Content {
    Unsigned {
        /// The one member of a room that it is for.
        member: Option<PublicKey>,
        text: String,
    },
    Signed(String),
}

impl Outgoing {
    pub(super) fn new(id: String, peer: Peer, member: Option<PublicKey>, text: String) -> Self {
        let content = Content::Unsigned { member, text };
        Self { id, peer, content, number: None, sent: 0, is_sent_here: false, due: None }
    }

    /// The frame to send; with the timestamp that it was signed with, if that was now.
    fn sign(&mut self, key: &SigningKey, time: Timestamp) -> Option<Timestamp> {
        let Content::Unsigned { member, text } = &self.content else { return None };
        let target = match (&self.peer, *member) {
            (Peer::User(recipient), _) => Target::User(*recipient),
            (Peer::Room(room), None) => Target::Room(room),
            (Peer::Room(room), Some(member)) => Target::RoomMember(room, member),
        };
        self.content = Content::Signed(sign_message(key, target, text, &self.id, time));
        Some(time)
    }

    fn frame(&self) -> Option<&str> {
        match &self.content {
            Content::Signed(frame) => Some(frame),
            Content::Unsigned { .. } => None,
        }
    }
}

/// Own messages without an answer, in the order in which they were written.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Outgoing>,
    /// The latest that failed without an answer, which may still come.
    unanswered: VecDeque<(String, Peer)>,
    /// The number of the last message that was sent for the first time.
    last_number: u64,
    /// What the relay takes of this key.
    pace: Bucket,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), unanswered: VecDeque::new(), last_number: 0, pace: Bucket::new(0, 0) }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.queue.iter().any(|own| own.id == id)
    }

    pub(super) fn push(&mut self, own: Outgoing) {
        self.queue.push_back(own);
    }

    /// The last number given, and the lowest of a message without an answer: what explains a hole.
    pub(super) fn numbers(&self) -> (u64, Option<u64>) {
        (self.last_number, self.queue.iter().find_map(|own| own.number))
    }

    pub(super) fn start_connection(&mut self, limits: &WelcomeLimits) {
        let rate = limits.messages_per_second;
        self.pace = self.pace.with_rate(rate, rate.saturating_mul(BURST_SECONDS));
    }

    pub(super) fn end_connection(&mut self) {
        for own in &mut self.queue {
            own.is_sent_here = false;
            own.due = None;
        }
    }

    /// Lets no message count as unanswered before `at`.
    pub(super) fn postpone(&mut self, at: Instant) {
        for due in self.queue.iter_mut().filter_map(|own| own.due.as_mut()) {
            *due = at.max(*due);
        }
    }

    /// The first message that waits to be sent.
    fn waiting(&self) -> Option<&Outgoing> {
        self.queue.iter().find(|own| own.due.is_none())
    }

    /// When there is something to do; `control` is what copies are paced by besides.
    pub(super) fn poll_timeout(&self, control: &Bucket, now: Instant) -> Option<Instant> {
        let due = self.queue.iter().filter_map(|own| own.due).min();
        let ready = self.waiting().map(|own| {
            let ready = self.pace.ready_at(now);
            if own.sent == 0 { ready } else { ready.max(control.ready_at(now)) }
        });
        due.into_iter().chain(ready).min()
    }

    /// Takes out a message that is answered, and gives its conversation.
    fn answered(&mut self, id: &str) -> Option<Peer> {
        if let Some(at) = self.queue.iter().position(|own| own.id == id) {
            return self.queue.remove(at).map(|own| own.peer);
        }
        let at = self.unanswered.iter().position(|(other, _)| other == id)?;
        self.unanswered.remove(at).map(|(_, peer)| peer)
    }
}

impl State {
    /// Sends what waits, as far as the relay's limits allow.
    pub(super) fn send_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Open(_)) {
            return;
        }
        let mut at = 0;
        while let Some(own) = self.outbox.queue.get_mut(at) {
            if own.due.is_some() {
                at += 1;
                continue;
            }
            if own.sent >= SENDS_MAX {
                self.fail(at, NO_ANSWER, "the relay did not answer", None, effects);
                continue;
            }
            let is_copy = own.sent > 0;
            // Where the relay knows a copy, it counts as any other frame.
            if self.outbox.pace.ready_at(now) > now || (is_copy && self.requests.pace.ready_at(now) > now) {
                break;
            }
            if let Some(timestamp) = own.sign(&self.key, self.clock.time(now)) {
                self.history.set_timestamp(&own.peer, &own.id, timestamp);
            }
            let Some(frame) = own.frame().map(str::to_owned) else { break };
            if frame.len() as u64 > self.limits.frame_bytes {
                // It was written for a relay that took more; this one would close the connection.
                self.fail(at, "message_too_large", "the frame is larger than the relay takes", None, effects);
                continue;
            }
            own.sent += 1;
            // 5 s, then 1, 2 and 4 s by how often it was sent.
            let wait = if own.is_sent_here { Duration::from_secs(1 << (own.sent - 2)) } else { FIRST_ANSWER };
            own.is_sent_here = true;
            own.due = Some(now + wait);
            if own.number.is_none() {
                self.outbox.last_number += 1;
                own.number = Some(self.outbox.last_number);
            }
            self.outbox.pace.take(now);
            if is_copy {
                self.requests.pace.take(now);
            }
            effects.push(Effect::Send(frame));
            at += 1;
        }
    }

    /// Lets what has waited too long for its answer be sent again.
    pub(super) fn expire_answers(&mut self, now: Instant) {
        for own in &mut self.outbox.queue {
            if own.due.is_some_and(|due| due <= now) {
                own.due = None;
            }
        }
    }

    pub(super) fn acked(&mut self, ack: &Ack<'_>, effects: &mut Vec<Effect>) {
        let peer = self.outbox.answered(ack.id);
        // One to this key itself is pushed under its seq.
        let is_pushed = peer == Some(Peer::User(self.public_key));
        self.seqs.acked(ack.seq, ack.duplicate && !is_pushed);
        if let Some(peer) = peer {
            self.history.set_status(&peer, ack.id, Status::Sent, ack.seq);
        }
        effects.push(Effect::Event(Event::Ack {
            client_message_id: ack.id.to_owned(),
            recipient_online: ack.online,
            duplicate: ack.duplicate,
            seq: ack.seq,
        }));
    }

    /// Takes an error about an own message without an answer; says whether it was one.
    pub(super) fn message_refused(&mut self, error: &ErrorFrame<'_>, now: Instant, effects: &mut Vec<Effect>) -> bool {
        let found = error.id.and_then(|id| self.outbox.queue.iter().position(|own| own.id == id));
        let Some(at) = found else { return false };
        let delay = error.retry_after_ms.map(Duration::from_millis).filter(|&delay| delay <= DELAY_MAX);
        let own = &mut self.outbox.queue[at];
        match (error.reason, delay) {
            // Not now, it says, and not why it never could be.
            ("rate_limited" | "overloaded", Some(delay)) if own.sent < SENDS_MAX => {
                own.due = None;
                self.outbox.pace.block_until(now + delay);
                effects.push(Effect::Event(Event::Delayed {
                    client_message_id: own.id.clone(),
                    reason: error.reason.to_owned(),
                    retry_after_ms: error.retry_after_ms.unwrap_or(0),
                }));
            }
            _ => self.fail(at, error.reason, error.details, error.retry_after_ms, effects),
        }
        true
    }

    /// Gives up every message without an answer: the client ends.
    pub(super) fn fail_all(&mut self, reason: &str, details: &str, effects: &mut Vec<Effect>) {
        while self.outbox.len() > 0 {
            self.fail(0, reason, details, None, effects);
        }
    }

    fn fail(&mut self, at: usize, reason: &str, details: &str, retry_after_ms: Option<u64>, effects: &mut Vec<Effect>) {
        let Some(own) = self.outbox.queue.remove(at) else { return };
        if reason == NO_ANSWER {
            self.seqs.unanswered();
            self.outbox.unanswered.truncate(UNANSWERED_MAX - 1);
            self.outbox.unanswered.push_front((own.id.clone(), own.peer.clone()));
        }
        self.history.set_status(&own.peer, &own.id, Status::Failed, None);
        effects.push(Effect::Event(Event::Failed {
            client_message_id: own.id,
            reason: reason.to_owned(),
            details: details.to_owned(),
            retry_after_ms,
        }));
    }
}

/// What a relay takes, until one says otherwise.
pub(super) const DEFAULT_LIMITS: WelcomeLimits = WelcomeLimits {
    frame_bytes: limits::FRAME_BYTES as u64,
    message_chars: limits::MESSAGE_CHARS as u64,
    messages_per_second: limits::MESSAGES_PER_SECOND as u64,
};
