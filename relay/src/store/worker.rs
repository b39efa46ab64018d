//! What the store's thread does.
//!
//! # One turn, in order of priority
//! 1. Takes all that wait: batches of all shards become one group, page requests get in line.
//! 2. Commits the group, if anybody waits for it or it has been held for [`HOLD`].
//! 3. Copies the WAL, if it has grown.
//! 4. Reads pages, for [`READ_BUDGET`] at most if there may be something else to do.
//!
//! # Invariants
//! - Batches are answered in their order, and a group whole: all of it is safe or none.
//! - A page is read after the batches that its shard had sent before were committed.
//! - A shard's doorbell is rung after its answers are in its queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use relay_core::{Batch, Page, StoreFault};
use relay_engine::Doorbell;
use relay_store::{Failure, Load, Progress, Store};
use tracing::{error, info, warn};

use super::health::{Condition, Health};
use super::link::{Answer, Asked, Request};
use super::{StoreEnd, unix_ms};

/// How long batches that nobody waits for are held, to share the sync of one that somebody does.
const HOLD: Duration = Duration::from_millis(100);

/// How long pages are read before the queue is looked at again.
const READ_BUDGET: Duration = Duration::from_millis(1);

/// How often a store with nothing to do looks for what has expired.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How soon the WAL is copied again after there was no room for it.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// At most one line in this time about a disk that stays full.
const FULL_LOG_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Worker {
    store: Store,
    requests: Receiver<Request>,
    answers: Vec<Sender<Answer>>,
    doorbells: Vec<Arc<Doorbell>>,
    health: Arc<Health>,
    /// Batches to be committed together, with their shards.
    group: Vec<(u16, Box<Batch>)>,
    /// When the group is to be committed.
    due: Option<Instant>,
    loads: VecDeque<(u16, Load)>,
    full_logged: Option<Instant>,
    no_room_until: Option<Instant>,
}

impl Worker {
    pub(super) fn new(store: Store, end: StoreEnd, doorbells: Vec<Arc<Doorbell>>, health: Arc<Health>) -> Self {
        let StoreEnd { requests, answers } = end;
        Self {
            store,
            requests,
            answers,
            doorbells,
            health,
            group: Vec::new(),
            due: None,
            loads: VecDeque::new(),
            full_logged: None,
            no_room_until: None,
        }
    }

    /// Runs until no shard is left, and closes the store.
    pub(super) fn run(mut self) {
        let mut has_shards = true;
        while has_shards {
            has_shards = self.gather();
            if self.due.is_some_and(|due| due <= Instant::now()) || !has_shards {
                self.commit();
            }
            self.read();
        }
        match self.store.close() {
            Ok(()) => info!("store closed"),
            Err(failure) => warn!(%failure, "the store was left as it is"),
        }
    }

    /// Takes what waits, and waits if there is nothing to do. Returns whether there are shards left.
    fn gather(&mut self) -> bool {
        let first = if self.loads.is_empty() {
            let until = self.due.unwrap_or_else(|| Instant::now() + SWEEP_EVERY);
            match self.requests.recv_deadline(until) {
                Ok(request) => request,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    // Nothing to commit but what has expired.
                    if self.due.is_none() && self.store.wants_sweep(unix_ms()) {
                        self.due = Some(Instant::now());
                    }
                    return true;
                }
            }
        } else {
            match self.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return true,
                // Nobody is left to be given a page.
                Err(TryRecvError::Disconnected) => return false,
            }
        };
        self.take(first);
        while let Ok(request) = self.requests.try_recv() {
            self.take(request);
        }
        true
    }

    fn take(&mut self, Request { shard, what }: Request) {
        match what {
            Asked::Store(batch) => {
                let due = Instant::now() + if batch.urgent { Duration::ZERO } else { HOLD };
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
                self.group.push((shard, batch));
            }
            Asked::Load(request) => {
                if !self.group.is_empty() {
                    self.due = Some(Instant::now());
                }
                self.loads.push_back((shard, Load::new(*request)));
            }
        }
    }

    /// Commits the group and answers it.
    fn commit(&mut self) {
        self.due = None;
        let begun = Instant::now();
        let result = self.store.commit(self.group.iter().map(|(_, batch)| &**batch), unix_ms());
        let result = match result {
            Ok(()) => {
                let entries = self.group.iter().map(|(_, batch)| batch.entries.len()).sum();
                self.health.committed(self.group.len(), entries, begun.elapsed());
                self.is_well();
                Ok(())
            }
            Err(failure) => Err(self.note(&failure)),
        };
        for (shard, batch) in std::mem::take(&mut self.group) {
            self.answer(shard, Answer::Stored(batch, result));
        }
        self.ring();
        if result.is_ok() {
            self.tidy();
        }
    }

    /// Copies the WAL if it has grown. For lack of room that is put off: the WAL grows until there is.
    fn tidy(&mut self) {
        if self.no_room_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.no_room_until = None;
        match self.store.tidy() {
            Ok(()) => {}
            Err(Failure { fault: StoreFault::Full, .. }) => self.no_room_until = Some(Instant::now() + NO_ROOM_PAUSE),
            Err(failure) => {
                self.note(&failure);
            }
        }
    }

    /// Reads pages, in turns, for the budget. What the group holds now came after them.
    fn read(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let begun = Instant::now();
        while let Some((shard, load)) = self.loads.pop_front() {
            match self.store.load(load) {
                Progress::Done(page) => self.give(shard, page),
                Progress::More(load) => self.loads.push_back((shard, load)),
            }
            if begun.elapsed() >= READ_BUDGET {
                break;
            }
        }
        self.ring();
    }

    fn give(&mut self, shard: u16, page: Box<Page>) {
        self.health.read_page();
        if page.fault.is_some()
            && let Err(failure) = self.store.health()
        {
            self.note(&failure);
        }
        self.answer(shard, Answer::Loaded(page));
    }

    fn answer(&self, shard: u16, answer: Answer) {
        // Fails only when the shard has ended, and its link is gone.
        let _ = self.answers[usize::from(shard)].try_send(answer);
    }

    /// Wakes the shards that have answers.
    fn ring(&self) {
        for (answers, doorbell) in self.answers.iter().zip(&self.doorbells) {
            if !answers.is_empty() {
                doorbell.ring();
            }
        }
    }

    /// Notes a failure for operators, and says what it means for shards.
    fn note(&mut self, failure: &Failure) -> StoreFault {
        self.health.failed();
        match failure.fault {
            StoreFault::Failed => {
                let before = self.health.set(Condition::Failed(failure.sentence.clone()));
                if !matches!(before, Condition::Failed(_)) {
                    error!(
                        dir = %self.store.dir().display(),
                        "the store has failed: {failure}; nothing is acked any more, and a message that is not \
                         pushed to a device of its recipient is refused. Mend the disk and start the relay anew: \
                         everything that was acked is there"
                    );
                }
            }
            StoreFault::Full => {
                self.health.set(Condition::Full);
                if self.full_logged.is_none_or(|at| at.elapsed() >= FULL_LOG_PAUSE) {
                    self.full_logged = Some(Instant::now());
                    warn!(
                        dir = %self.store.dir().display(),
                        "the disk is full: messages that have to be stored are refused until there is room"
                    );
                }
            }
        }
        failure.fault
    }

    fn is_well(&mut self) {
        if self.full_logged.take().is_some() {
            self.health.set(Condition::Well);
            info!(dir = %self.store.dir().display(), "the disk has room again: messages are stored");
        }
    }
}
