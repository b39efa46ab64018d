//! From a message's turn to its write: the queue in front of each sender's connection.
//!
//! # What the times mean
//! ```text
//! intended ──send lag──> its turn ──blocked──> written ──service──> received and checked
//! └───────────────────────────── response ─────────────────────────────┘
//! ```
//! A message is **written** when a write that holds it is handed to the kernel. One write is under
//! way on a connection at a time, and the kernel's own buffer is kept small ([`SEND_BUFFER_BYTES`]):
//! so a relay that stops reading is felt here, and what falls due meanwhile waits in the queue. That
//! wait is in the response time and not in the service time, as in wrk2; and since it is the relay's
//! doing (or the network's), it is **blocked** time and not send lag, which is the generator's own.
//!
//! # Invariants
//! - A sender's messages are written in the order in which they were due. Those that wait are a run
//!   of its numbers: no list, and no copy of their bytes, is kept for them.
//! - What is never written is counted: `not_sent` without a connection, `blocked` behind an unfinished
//!   write, `overdue` if the generator never came to it.

use super::outbox::Outbox;
use super::traffic::{Pacing, Traffic};
use crate::recorder::{Metric, Recorder};
use crate::stock::State;

/// What the kernel may hold of one connection's unread bytes, as far as `SO_SNDBUF` decides: about 60
/// messages of 100 characters. By default it would be megabytes, and a relay that stalls would look
/// as if it had taken them.
pub(crate) const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// A write is not made larger than this by further messages, so that the last message of a backlog
/// is not called written long before the kernel has room for it.
const WRITE_BYTES: usize = 16 * 1024;

/// Turns that come so much behind the end of the steady phase are still in time: the limit of the
/// send lag.
const IN_TIME_NS: u64 = crate::validity::SEND_LAG_MAX_NS;

/// The messages of one sender whose turn has come and that are not written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    /// The `n` of the first of them.
    from: u32,
    /// One more than the last.
    to: u32,
    /// Where the last write stopped because it was full, and when: what stood before `to` then has
    /// been blocked since.
    full: Option<(u32, u64)>,
}

impl Queue {
    /// One more than the `n` of the last message whose turn has come.
    pub(super) fn to(&self) -> u32 {
        self.to
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }
}

impl Traffic {
    /// The turn of a message has come. Without a connection it waits for the next one.
    pub(super) fn offer(
        &mut self,
        sender: u32,
        number: u64,
        intended_ns: u64,
        outbox: &mut Outbox,
        is_connected: bool,
    ) {
        let now_ns = self.clock.now_ns();
        let aside = self.set_aside(number, intended_ns);
        let Some(record) = self.stock.record_mut(number) else { return };
        record.intended_ns = intended_ns;
        // Until it is written: since when it can be.
        record.written_ns = now_ns;
        if outbox.is_writing(sender) || !is_connected {
            self.stock.mark(number, State::BLOCKED);
        }
        self.queues[sender as usize].to = self.n_of(number) + 1;
        if !aside {
            self.open += 1;
            self.count_turn(number, intended_ns, now_ns);
        }
        if is_connected {
            outbox.want(sender);
        }
    }

    /// The turn of a message has come, and its sender has no connection.
    pub(super) fn pass_over(&mut self, number: u64, intended_ns: u64) {
        if !self.set_aside(number, intended_ns) {
            self.count_turn(number, intended_ns, self.clock.now_ns());
            self.ledger.not_sent += 1;
        }
        self.skip(number);
    }

    /// A message will never be sent.
    pub(super) fn skip(&mut self, number: u64) {
        let (sender, n) = (number % u64::from(self.senders), self.n_of(number));
        self.queues[sender as usize].to = n + 1;
        self.stock.mark(number, State::SKIPPED);
    }

    fn n_of(&self, number: u64) -> u32 {
        (number / u64::from(self.senders)) as u32
    }

    fn count_turn(&mut self, number: u64, intended_ns: u64, now_ns: u64) {
        let Some(moments) = self.moments.filter(|moments| moments.is_steady(intended_ns)) else { return };
        self.steady.due += 1;
        self.steady.in_time += u64::from(now_ns < moments.end_ns + IN_TIME_NS);
        if self.waits(number).is_some() {
            self.steady.offline_due += 1;
        } else {
            self.waiting.others_due(intended_ns);
        }
    }

    /// Appends what waits for the connection of the client at `place` to a buffer that is written
    /// now. Returns whether more waits.
    pub(crate) fn fill(&mut self, place: u32, buffer: &mut Vec<u8>, recorder: &mut Recorder) -> bool {
        let Some(mut queue) = self.queues.get(place as usize).copied() else { return false };
        if self.fill_again(place, buffer, WRITE_BYTES) {
            return true;
        }
        let now_ns = self.clock.now_ns();
        let full = queue.full.take();
        while queue.from < queue.to {
            if buffer.len() >= WRITE_BYTES {
                queue.full = Some((queue.to, now_ns));
                break;
            }
            let n = queue.from;
            queue.from += 1;
            let number = u64::from(n) * u64::from(self.senders) + u64::from(place);
            let Some(record) = self.stock.record(number).filter(|record| !record.state.has(State::SKIPPED)) else {
                continue;
            };
            let (intended_ns, state, mut ready_ns) = (record.intended_ns, record.state, record.written_ns);
            let mut blocked = state.has(State::BLOCKED);
            if let Some((_, since_ns)) = full.filter(|&(to, _)| !blocked && n < to) {
                (blocked, ready_ns) = (true, since_ns);
            }
            if let Some(frame) = self.stock.frame(number) {
                buffer.extend_from_slice(frame);
            }
            if let Some(record) = self.stock.record_mut(number) {
                record.written_ns = now_ns;
            }
            self.stock.mark(number, State::SENT);
            if state.has(State::ASIDE) {
                self.standings.aside.sent += 1;
                continue;
            }
            self.ledger.sent += 1;
            self.written_ns = now_ns;
            let waits = self.waits(number);
            if let Some(recipient) = waits {
                self.waiting.sent(recipient);
            }
            if self.is_steady(intended_ns) {
                self.steady.sent += 1;
                self.steady.offline_sent += u64::from(waits.is_some());
                if blocked {
                    recorder.record(Metric::Blocked, now_ns - ready_ns);
                    recorder.record(Metric::SendLag, ready_ns - intended_ns);
                } else {
                    recorder.record(Metric::SendLag, now_ns - intended_ns);
                }
            }
        }
        self.queues[place as usize] = queue;
        queue.from < queue.to
    }

    /// The connection of the client at `place` is gone, and what waited for it will not be sent.
    pub(crate) fn abandon(&mut self, place: u32) {
        let Some(queue) = self.queues.get_mut(place as usize) else { return };
        let waiting = queue.from..queue.to;
        *queue = Queue { from: queue.to, ..*queue };
        for n in waiting {
            let number = u64::from(n) * u64::from(self.senders) + u64::from(place);
            let Some(record) = self.stock.record(number).filter(|record| !record.state.has(State::SKIPPED)) else {
                continue;
            };
            self.ledger.blocked += u64::from(!record.state.has(State::ASIDE));
            self.mark(number, State::SKIPPED);
        }
    }

    /// Ends sending, whatever is left: it counts as due and not sent. Ends the signer.
    pub(crate) fn stop(&mut self) {
        for place in 0..self.senders {
            self.abandon(place);
        }
        self.signed = None;
        let pacing = std::mem::replace(&mut self.pacing, Pacing::Silent);
        if let (Pacing::Open { mut schedule, mut next }, Some(moments)) = (pacing, self.moments) {
            let mut due_ns = moments.begin_ns.saturating_add(schedule.due_ns());
            while due_ns < moments.end_ns {
                self.ledger.overdue += 1;
                if moments.is_steady(due_ns) {
                    self.steady.due += 1;
                    let sender = (next % u64::from(self.senders)) as u32;
                    let recipient = self.peers.place(sender, self.peers.choose(sender, next));
                    self.steady.offline_due += u64::from(self.waiting.is_for(recipient));
                }
                next += 1;
                schedule.advance();
                due_ns = moments.begin_ns.saturating_add(schedule.due_ns());
            }
        }
    }
}
