//! The messages of one worker: when each is sent, and what comes of it.
//!
//! # Flow
//! ```text
//! signer ── Batch ──> stock ── send_due (open loop) | send_next (closed loop) ──> queue (writing)
//! push, ack, error ── checking ──> finished, or one of the ledger's faults; a closed loop sends the next
//! ```
//!
//! # Invariants
//! - A message is due on the schedule's clock, whatever happened to those before it.

use std::sync::Arc;

use crossbeam_channel::{Receiver, TryRecvError};
use protocol::PublicKey;

use super::crash::Again;
use super::offline::Waiting;
use super::outbox::Outbox;
use super::standing::Standings;
use super::writing::Queue;
use crate::audience::Audience;
use crate::clock::Clock;
use crate::ledger::{Ledger, SteadyCounts};
use crate::plan::{Moments, Rate, RunPlan};
use crate::schedule::Schedule;
use crate::signer::{BATCH_MESSAGES, Favourites, Peers};
use crate::stock::{Batch, Layout, State, Stock, read_id};

/// Messages sent in one pass, so that a backlog does not keep receiving waiting.
const PASS_MESSAGES: usize = 256;

/// How long a signer that is behind is left alone.
const RETRY_NS: u64 = 500_000;

/// A message signed longer ago is not sent: the relay takes 300 s.
const SIGNED_AGE_MAX_NS: u64 = 240 * crate::clock::SECOND_NS;

/// Where the next message comes from.
#[derive(Debug)]
pub(super) enum Pacing {
    Silent,
    Open { schedule: Schedule, next: u64 },
    Closed { next_n: Vec<u32>, waiting: Vec<u32> },
}

/// What a finished run left, beside the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Supply {
    /// Times a message was due and not yet signed.
    pub(crate) starved: u64,
    /// Messages that had been signed too long before they were due.
    pub(crate) expired: u64,
}

/// The messages of one worker.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(super) clock: Clock,
    pub(super) nonce: u32,
    pub(super) worker: u32,
    pub(super) workers: u32,
    pub(super) senders: u32,
    rate: Rate,
    pub(super) peers: Arc<Peers>,
    pub(super) keys: Arc<[PublicKey]>,
    pub(super) stock: Stock,
    pub(super) signed: Option<Receiver<Batch>>,
    pub(super) pacing: Pacing,
    /// By sender.
    pub(super) queues: Vec<Queue>,
    pub(super) moments: Option<Moments>,
    /// By pair of sender and peer: one more than the highest `n` that was delivered.
    pub(super) delivered_to: Vec<u32>,
    /// Whose turn has come, and that are not finished.
    pub(super) open: u64,
    /// When the last message was written.
    pub(super) written_ns: u64,
    /// When to look again for a message that was due and not yet signed. Looking without a pause
    /// would keep the signer from the core that both share.
    retry_ns: u64,
    pub(super) standings: Standings,
    pub(super) audience: Audience,
    pub(super) waiting: Waiting,
    pub(super) again: Again,
    pub(crate) ledger: Ledger,
    pub(crate) steady: SteadyCounts,
    pub(crate) supply: Supply,
}

impl Traffic {
    pub(crate) fn new(plan: &RunPlan, worker: usize, keys: Arc<[PublicKey]>, senders: u32) -> Self {
        let workload = &plan.workload;
        let stable = keys.len() as u32;
        let rooms = workload.rooms.map(|rooms| rooms.of_worker(worker, plan.workers));
        let audience = Audience::new(stable, workload.devices, rooms);
        let favourites = Favourites::of(plan, worker, stable);
        let peers = match rooms {
            Some(rooms) => Peers::of_rooms(workload.seed, stable, senders, rooms),
            None => Peers::new(workload.seed, worker, stable, senders, workload.peers, favourites),
        };
        Self {
            clock: plan.clock,
            nonce: plan.nonce,
            worker: worker as u32,
            workers: plan.workers as u32,
            senders,
            rate: workload.rate,
            delivered_to: vec![0; peers.pairs() * audience.indices() as usize],
            audience,
            peers: Arc::new(peers),
            keys,
            stock: Stock::new(
                Layout::new(workload.message_bytes, rooms.is_some()),
                BATCH_MESSAGES,
                &audience,
                workload.scenario.crash.is_some(),
            ),
            signed: None,
            pacing: Pacing::Silent,
            queues: vec![Queue::default(); senders as usize],
            moments: None,
            open: 0,
            written_ns: 0,
            retry_ns: 0,
            standings: Standings::new(plan, worker, stable),
            waiting: Waiting::new(plan, worker, stable),
            again: Again::new(plan, senders, stable),
            ledger: Ledger::default(),
            steady: SteadyCounts::default(),
            supply: Supply::default(),
        }
    }

    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(crate) fn senders(&self) -> u32 {
        self.senders
    }

    /// Settles when it goes on, and what is sent; an open loop has a schedule.
    pub(crate) fn start(&mut self, moments: Moments, schedule: Option<Schedule>, signed: Option<Receiver<Batch>>) {
        self.moments = Some(moments);
        self.signed = signed;
        if self.senders == 0 {
            return;
        }
        self.pacing = match (self.rate, schedule) {
            (Rate::Max { in_flight }, _) => Pacing::Closed {
                next_n: vec![0; self.senders as usize],
                waiting: (0..in_flight).flat_map(|_| 0..self.senders).collect(),
            },
            (Rate::PerSecond(_) | Rate::Ramp(_), Some(schedule)) => Pacing::Open { schedule, next: 0 },
            (Rate::Idle | Rate::PerSecond(_) | Rate::Ramp(_), _) => Pacing::Silent,
        };
    }

    pub(crate) fn moments(&self) -> Option<&Moments> {
        self.moments.as_ref()
    }

    pub(super) fn is_steady(&self, ns: u64) -> bool {
        self.moments.is_some_and(|moments| moments.is_steady(ns))
    }

    /// Whether nothing more will be sent.
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        let Some(moments) = &self.moments else { return false };
        now_ns >= moments.end_ns
            && match &self.pacing {
                Pacing::Silent | Pacing::Closed { .. } => true,
                Pacing::Open { schedule, .. } => moments.begin_ns + schedule.due_ns() >= moments.end_ns,
            }
    }

    /// Messages under way.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// When the last message was written; zero before the first.
    pub(crate) fn written_ns(&self) -> u64 {
        self.written_ns
    }

    /// When the next message is due; `None` if none is, or it waits for something else.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let moments = self.moments.as_ref()?;
        let due_ns = match &self.pacing {
            Pacing::Silent => None,
            Pacing::Open { schedule, .. } => {
                let due_ns = moments.begin_ns.saturating_add(schedule.due_ns());
                (due_ns < moments.end_ns).then_some(due_ns)
            }
            Pacing::Closed { waiting, .. } => (!waiting.is_empty()).then_some(moments.begin_ns),
        };
        due_ns.map(|due_ns| due_ns.max(self.retry_ns))
    }

    /// Sends what is due. `can_send` says whether a sender has a connection. Returns how many
    /// messages were handled.
    pub(crate) fn send_due(&mut self, now_ns: u64, outbox: &mut Outbox, can_send: impl Fn(u32) -> bool) -> usize {
        let Some(moments) = self.moments else { return 0 };
        if now_ns < moments.begin_ns.max(self.retry_ns) {
            return 0;
        }
        let mut handled = 0;
        match &self.pacing {
            Pacing::Silent => {}
            Pacing::Open { .. } => {
                while handled < PASS_MESSAGES && self.send_scheduled(&moments, outbox, &can_send) {
                    handled += 1;
                }
            }
            Pacing::Closed { .. } => {
                let waiting = match &mut self.pacing {
                    Pacing::Closed { waiting, .. } => std::mem::take(waiting),
                    Pacing::Silent | Pacing::Open { .. } => Vec::new(),
                };
                for sender in waiting {
                    if can_send(sender) {
                        self.send_next(sender, outbox);
                        handled += 1;
                    }
                }
            }
        }
        handled
    }

    /// Open loop: sends the next message if it is due.
    fn send_scheduled(&mut self, moments: &Moments, outbox: &mut Outbox, can_send: &impl Fn(u32) -> bool) -> bool {
        let Pacing::Open { schedule, next } = &self.pacing else { return false };
        let (number, intended_ns) = (*next, moments.begin_ns.saturating_add(schedule.due_ns()));
        if intended_ns >= moments.end_ns || intended_ns > self.clock.now_ns() {
            return false;
        }
        if !self.fetch(number) {
            // The message stays due, and its latency counts the wait.
            self.starve();
            return false;
        }
        if let Pacing::Open { schedule, next } = &mut self.pacing {
            *next += 1;
            schedule.advance();
        }
        let sender = (number % u64::from(self.senders)) as u32;
        let is_connected = can_send(sender);
        // A client whose relay was killed keeps what falls due until it is back.
        if is_connected || self.again.is_on {
            self.offer(sender, number, intended_ns, outbox, is_connected);
        } else {
            self.pass_over(number, intended_ns);
        }
        true
    }

    /// Closed loop: sends the sender's next message now, or notes that it waits for the signer.
    pub(super) fn send_next(&mut self, sender: u32, outbox: &mut Outbox) {
        let now_ns = self.clock.now_ns();
        if self.moments.is_none_or(|moments| now_ns >= moments.end_ns) {
            return;
        }
        loop {
            let Pacing::Closed { next_n, .. } = &self.pacing else { return };
            let n = next_n[sender as usize];
            let number = u64::from(n) * u64::from(self.senders) + u64::from(sender);
            let ready = self.fetch(number);
            let expired = ready && self.stock.signed_ns(number).is_some_and(|ns| now_ns - ns > SIGNED_AGE_MAX_NS);
            if !ready {
                self.starve();
            }
            let Pacing::Closed { next_n, waiting } = &mut self.pacing else { return };
            if !ready {
                waiting.push(sender);
                return;
            }
            next_n[sender as usize] = n + 1;
            if expired {
                self.supply.expired += 1;
                self.skip(number);
                continue;
            }
            self.offer(sender, number, now_ns, outbox, true);
            return;
        }
    }

    /// The signer is behind.
    fn starve(&mut self) {
        self.supply.starved += 1;
        self.retry_ns = self.clock.now_ns() + RETRY_NS;
    }

    /// Whether a message is signed and here; takes batches in until it is.
    fn fetch(&mut self, number: u64) -> bool {
        while !self.stock.has(number) {
            let Some(signed) = &self.signed else { return false };
            match signed.try_recv() {
                Ok(batch) => self.stock.add(batch),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    self.signed = None;
                    return false;
                }
            }
        }
        true
    }

    /// The number of a message, by what its id says: the sender's place and `n`.
    pub(super) fn number_of(&self, id: &[u8]) -> Option<(u32, u32, u64)> {
        let (client, n) = read_id(self.nonce, id)?;
        let sender = client / self.workers;
        if client % self.workers != self.worker || sender >= self.senders {
            return None;
        }
        Some((sender, n, u64::from(n) * u64::from(self.senders) + u64::from(sender)))
    }

    pub(super) fn mark(&mut self, number: u64, news: State) {
        let judged = self.stock.record(number).is_some_and(|record| !record.state.has(State::ASIDE));
        if self.stock.mark(number, news) && judged {
            self.open -= 1;
        }
    }
}
