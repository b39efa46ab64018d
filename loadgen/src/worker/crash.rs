//! Clients of a relay that is killed and started again: they come back, send again what was not acked, and
//! know by its id what they have had before.
//!
//! # Flow
//! ```text
//! connection gone ──> again after up to 1, 2, 4 … 30 s, at random ──> `resume` ──> un-acked messages again,
//!                                                                     byte for byte ──> what fell due meanwhile
//! ```
//!
//! # Invariants
//! - What was acked has to come, whatever was killed when.
//! - On one connection nothing may come twice; on a later one it may, since a relay that was killed can
//!   have lost that it was confirmed. That is counted apart.
//! - A record stays until the end of the run: it tells what came before, and on which connection.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::session::Session;
use super::traffic::Traffic;
use crate::clock::SECOND_NS;
use crate::ledger;
use crate::plan::RunPlan;
use crate::rng::Rng;
use crate::scenario::outcome::CrashCounts;
use crate::stock::{State, id_text, write_id};

/// The longest pause before another attempt: 30 s.
const PAUSE_MAX_NS: u64 = 30 * SECOND_NS;

/// Lost messages that are named.
const NAMED_MAX: usize = 20;

/// Keeps the pauses apart from other uses of the seed.
const PAUSE_STREAM: u64 = 0x7061_7573_0000_0000;

/// Who of one worker comes back, and when.
#[derive(Debug)]
pub(crate) struct Crash {
    pub(super) is_on: bool,
    /// By place: attempts since it was last there.
    attempts: Vec<u32>,
    returns: BinaryHeap<Reverse<(u64, u32)>>,
    rng: Rng,
    pub(super) counts: CrashCounts,
}

impl Crash {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let is_on = plan.workload.scenario.crash.is_some();
        Self {
            is_on,
            attempts: vec![0; if is_on { stable as usize } else { 0 }],
            returns: BinaryHeap::new(),
            rng: Rng::new(plan.workload.seed, PAUSE_STREAM | worker as u64),
            counts: CrashCounts::default(),
        }
    }

    /// Settles when a client that has no connection tries again.
    fn pause(&mut self, place: u32, now_ns: u64) {
        let attempts = &mut self.attempts[place as usize];
        let longest_ns = (SECOND_NS << (*attempts).min(5)).min(PAUSE_MAX_NS);
        *attempts += 1;
        self.returns.push(Reverse((now_ns + self.rng.below(longest_ns), place)));
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        self.returns.peek().map(|Reverse((return_ns, _))| *return_ns)
    }

    /// Who tries now, if anybody does.
    fn comes_back(&mut self, now_ns: u64) -> Option<u32> {
        let &Reverse((return_ns, place)) = self.returns.peek()?;
        if return_ns > now_ns {
            return None;
        }
        self.returns.pop();
        Some(place)
    }

    /// Whether nobody has to come back any more.
    pub(crate) fn is_over(&self) -> bool {
        self.returns.is_empty()
    }
}

/// What a sender writes again, and on which of its connections each client is.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) is_on: bool,
    /// By sender: the `n` of each message.
    pub(super) queues: Vec<VecDeque<u32>>,
    /// By place.
    pub(super) connections: Vec<u8>,
    pub(super) repeated: u64,
    pub(super) duplicate_acks: u64,
    sent: u64,
}

impl Again {
    pub(super) fn new(plan: &RunPlan, senders: u32, stable: u32) -> Self {
        if plan.workload.scenario.crash.is_none() {
            return Self::default();
        }
        let (queues, connections) = (vec![VecDeque::new(); senders as usize], vec![0; stable as usize]);
        Self { is_on: true, queues, connections, ..Self::default() }
    }

    /// Which of its connections the client at `place` is on.
    pub(super) fn connection(&self, place: u32) -> u8 {
        self.connections.get(place as usize).copied().unwrap_or(0)
    }
}

impl Traffic {
    /// The client at `place` has a new connection: what it sent on earlier ones and was not answered goes
    /// again. Returns whether something waits to be written.
    pub(super) fn begin_again(&mut self, place: u32) -> bool {
        self.again.connections[place as usize] = self.again.connections[place as usize].wrapping_add(1);
        let Some(queue) = self.queues.get(place as usize).copied() else { return false };
        let unanswered = (0..queue.to()).filter(|&n| {
            let number = u64::from(n) * u64::from(self.senders) + u64::from(place);
            self.stock.record(number).is_some_and(|record| {
                record.state.has(State::SENT) && !record.state.has(State::ACKED) && !record.state.has(State::REFUSED)
            })
        });
        self.again.queues[place as usize] = unanswered.collect();
        !self.again.queues[place as usize].is_empty() || !queue.is_empty()
    }

    /// Appends what goes again to a buffer that is written now, and says whether more does.
    pub(super) fn fill_again(&mut self, place: u32, buffer: &mut Vec<u8>, write_bytes: usize) -> bool {
        while let Some(&n) = self.again.queues.get(place as usize).and_then(VecDeque::front) {
            if buffer.len() >= write_bytes {
                return true;
            }
            self.again.queues[place as usize].pop_front();
            if let Some(frame) = self.stock.frame(u64::from(n) * u64::from(self.senders) + u64::from(place)) {
                buffer.extend_from_slice(frame);
                self.again.sent += 1;
            }
        }
        false
    }

    /// The ids of acked messages that have not come, as many as are named.
    fn lost_although_acked(&self) -> (u64, Vec<String>) {
        let (mut count, mut named) = (0, Vec::new());
        for number in self.stock.numbers() {
            let Some(record) = self.stock.record(number) else { break };
            if record.state.has(State::ACKED) && record.left > 0 {
                count += 1;
                if named.len() < NAMED_MAX {
                    let (sender, n) = ((number % u64::from(self.senders)) as u32, number / u64::from(self.senders));
                    let id = write_id(self.nonce, sender * self.workers + self.worker, n as u32);
                    named.push(id_text(&id).to_owned());
                }
            }
        }
        (count, named)
    }
}

impl Session {
    /// Calls back who is to try again. Returns how many that were.
    pub(super) fn try_again(&mut self, now_ns: u64) -> usize {
        let mut called = 0;
        while self.handshakes < self.handshakes_max
            && let Some(place) = self.crash.comes_back(now_ns)
        {
            self.handshakes += 1;
            self.connects.push_back(place);
            called += 1;
        }
        called
    }

    /// Whether the end of a connection is one of a relay that is killed now and then; the client comes back.
    pub(super) fn survives(&mut self, place: u32, why: &str) -> bool {
        if self.crash.is_on {
            ledger::count(&mut self.crash.counts.ended, why);
            self.crash.pause(place, self.plan.clock.now_ns());
        }
        self.crash.is_on
    }

    /// The client at `place` has all it needs, perhaps again.
    pub(super) fn goes_on(&mut self, place: u32) {
        if !self.crash.is_on || !self.started {
            return;
        }
        self.crash.attempts[place as usize] = 0;
        self.crash.counts.reconnects += 1;
        self.crash.counts.recovered += u64::from(self.clients[place as usize].recovered);
        if self.traffic.begin_again(place) {
            self.outbox.want(place);
        }
    }

    /// What a relay that was killed did to messages.
    pub(super) fn crash_outcome(&mut self) -> CrashCounts {
        let (lost, lost_ids) = if self.crash.is_on { self.traffic.lost_although_acked() } else { (0, Vec::new()) };
        let again = &self.traffic.again;
        CrashCounts {
            sent_again: again.sent,
            repeated: again.repeated,
            duplicate_acks: again.duplicate_acks,
            acked: self.traffic.ledger.acked,
            lost,
            lost_ids,
            ..std::mem::take(&mut self.crash.counts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Crash, CrashCounts, PAUSE_MAX_NS};
    use crate::clock::SECOND_NS;
    use crate::rng::Rng;
    use std::collections::BinaryHeap;

    #[test]
    fn pauses_grow_to_half_a_minute_and_are_drawn_from_all_of_it() {
        let mut crash = Crash {
            is_on: true,
            attempts: vec![0; 2],
            returns: BinaryHeap::new(),
            rng: Rng::new(1, 1),
            counts: CrashCounts::default(),
        };
        for longest_ns in [1, 2, 4, 8, 16, 30, 30].map(|seconds| seconds * SECOND_NS) {
            crash.pause(1, 0);
            let return_ns = crash.due_ns().unwrap();
            assert!(return_ns < longest_ns && longest_ns <= PAUSE_MAX_NS);
            assert_eq!((crash.comes_back(return_ns), crash.is_over()), (Some(1), true));
        }
        assert_eq!(crash.comes_back(u64::MAX), None);
    }
}
