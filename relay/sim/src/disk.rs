//! The disk under a relay with a store: what it was asked, what the operating system has of it, and what
//! a crash leaves.
//!
//! ```text
//! shards ── asked, in order ──▶ cached, not synced ── one sync for all ──▶ kept
//!    ▲                               │ pages are read here                   │
//!    └────────── batches and pages ──┴───────────────────────────────────────┘
//! ```
//!
//! # Invariants
//! - What was asked is done in order, loads among batches; while a sync runs nothing else is.
//! - A batch is answered once all up to it are kept, or once it is certain that they are not.
//! - A crash leaves all that is kept, and of the rest some of the oldest batches, each of them whole.
//! - With [`Durability::Memory`] what is cached is kept: only the process ends, never the power.

use std::collections::VecDeque;

use relay_core::store::model::ModelStore;
use relay_core::{Batch, Durability, Nanos, PageRequest, StoreFault};

use crate::invariant::{Checked, Invariant, violated};
use crate::plant::{self, Plant};
use crate::random::Random;
use crate::relay::Waiting;
use crate::schedule::MS;
use crate::world::{Occurrence, World};

/// How long the disk may wait for company for a batch that nobody waits for.
const LAZY_WAIT_MAX: Nanos = 900 * MS;

/// Something asked of the store.
#[derive(Debug)]
pub(crate) enum Asked {
    Store(Box<Batch>),
    Load(Box<PageRequest>),
}

/// A batch that is not answered yet.
#[derive(Debug)]
struct Cached {
    shard: usize,
    batch: Box<Batch>,
    /// There was no room for it.
    is_refused: bool,
}

/// How the disk behaves, drawn from the seed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Temper {
    /// The longest sync.
    pub(crate) sync_max: Nanos,
    /// Syncs in 10,000 that fail.
    pub(crate) failures: u64,
    /// Whether it is full at times.
    pub(crate) fills: bool,
}

impl Temper {
    /// Draws one.
    pub(crate) fn draw(random: &mut Random) -> Self {
        Self {
            sync_max: random.pick(&[MS / 5, 2 * MS, 2 * MS, 20 * MS, 400 * MS]),
            failures: random.pick(&[0, 0, 0, 20, 200]),
            fills: random.chance(30),
        }
    }
}

/// The disk and the store's thread above it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    kept: ModelStore,
    cached: ModelStore,
    /// Cached and not kept, oldest first; among them those that there was no room for.
    unsynced: VecDeque<Cached>,
    /// How many of them the sync that runs is for.
    syncing: usize,
    /// Somebody waits for one of them.
    is_urgent: bool,
    asked: VecDeque<(usize, Asked)>,
    /// When the store's thread next does something.
    turn_at: Option<Nanos>,
    full_until: Nanos,
    /// A sync failed: nothing is taken any more.
    pub(crate) has_failed: bool,
    /// When it was full or failed last.
    pub(crate) troubled_at: Nanos,
}

impl Disk {
    /// What the disk keeps through a crash.
    pub(crate) fn kept(&self) -> &ModelStore {
        &self.kept
    }

    /// Nothing is asked and not answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.unsynced.is_empty()
    }
}

impl World {
    /// A shard asks the store for something.
    pub(crate) fn ask_disk(&mut self, shard: usize, mut asked: Asked) -> Checked {
        if self.scenario.shared().durability.is_none() {
            return violated(Invariant::EngineContract, format!("shard {shard} uses a store that is not there"));
        }
        if let (Some(plant), Asked::Store(batch)) = (self.plant, &mut asked) {
            plant::spoil_batch(plant, batch);
        }
        self.disk.asked.push_back((shard, asked));
        let soon = self.schedule.now() + self.random.below(MS / 5);
        self.plan_disk(soon);
        Ok(())
    }

    fn plan_disk(&mut self, at: Nanos) {
        if self.disk.syncing == 0 && self.disk.turn_at.is_none_or(|planned| planned > at) {
            self.disk.turn_at = Some(at);
            self.schedule.at(at, Occurrence::Disk);
        }
    }

    /// The disk has no room for a while.
    pub(crate) fn fill_disk(&mut self) {
        let now = self.schedule.now();
        if self.scenario.temper.fills {
            self.disk.full_until = now + self.random.below(2000 * MS);
            self.disk.troubled_at = self.disk.full_until;
            self.trace.note(now, || "the disk is full".to_owned());
        }
    }

    /// There is room on the disk again.
    pub(crate) fn empty_disk(&mut self) {
        let now = self.schedule.now();
        self.disk.full_until = self.disk.full_until.min(now);
        self.disk.troubled_at = self.disk.troubled_at.min(now);
    }

    /// The store's thread does what is next. A turn that was brought forward does nothing.
    pub(crate) fn disk_turn(&mut self) -> Checked {
        let now = self.schedule.now();
        if self.disk.turn_at != Some(now) {
            return Ok(());
        }
        self.disk.turn_at = None;
        if self.disk.syncing > 0 {
            self.end_sync();
        }
        let due = if self.random.chance(70) { self.disk.asked.len() } else { 1 };
        for _ in 0..due {
            let Some((shard, asked)) = self.disk.asked.pop_front() else { break };
            match asked {
                Asked::Load(request) => self.load(shard, *request),
                Asked::Store(batch) => self.cache(shard, batch)?,
            }
        }
        self.begin_sync();
        if self.disk.syncing == 0 && !self.disk.asked.is_empty() {
            let soon = now + self.random.below(MS / 10) + 1;
            self.plan_disk(soon);
        }
        Ok(())
    }

    fn load(&mut self, shard: usize, request: PageRequest) {
        let mut page = self.disk.cached.page(request);
        if self.disk.has_failed {
            page.entries.clear();
            page.bytes.clear();
            page.fault = Some(StoreFault::Failed);
        }
        if let Some(plant) = self.plant
            && Plant::strikes(&mut self.random)
        {
            plant::spoil_page(plant, &mut page);
        }
        self.give(shard, Waiting::Loaded(Box::new(page)));
    }

    /// Applies a batch to what the operating system has.
    fn cache(&mut self, shard: usize, batch: Box<Batch>) -> Checked {
        if self.disk.has_failed {
            self.give(shard, Waiting::Stored(batch, Err(StoreFault::Failed)));
            return Ok(());
        }
        let is_refused = self.schedule.now() < self.disk.full_until;
        if is_refused {
            self.ledger.withdrawn(&batch);
        } else if let Err(broken) = self.disk.cached.check(&batch) {
            return violated(Invariant::StoreContract, format!("shard {shard}, batch {}: {broken}", batch.number));
        } else {
            self.disk.cached.apply(&batch);
        }
        self.disk.is_urgent |= batch.urgent || is_refused;
        self.disk.unsynced.push_back(Cached { shard, batch, is_refused });
        Ok(())
    }

    /// Syncs what is cached, or waits for more if nobody waits for it.
    fn begin_sync(&mut self) {
        if self.disk.unsynced.is_empty() {
            return;
        }
        let now = self.schedule.now();
        if self.scenario.shared().durability == Some(Durability::Memory) {
            self.keep(self.disk.unsynced.len());
            return;
        }
        if self.plant == Some(Plant::DropSync) {
            // What is answered here is as lost by a crash as if it had never been written.
            while let Some(Cached { shard, batch, .. }) = self.disk.unsynced.pop_front() {
                self.give(shard, Waiting::Stored(batch, Ok(())));
            }
            return;
        }
        let wait = if self.disk.is_urgent || self.random.chance(50) { 0 } else { LAZY_WAIT_MAX };
        if wait > 0 && !self.draining {
            let at = now + self.random.below(wait);
            self.plan_disk(at.max(now + 1));
            return;
        }
        self.disk.is_urgent = false;
        self.disk.syncing = self.disk.unsynced.len();
        let max = self.scenario.temper.sync_max;
        let latency = if self.random.chance(90) { self.random.below(max / 4 + 1) } else { self.random.below(max + 1) };
        self.disk.turn_at = Some(now + latency + 1);
        self.schedule.at(now + latency + 1, Occurrence::Disk);
    }

    fn end_sync(&mut self) {
        let synced = std::mem::take(&mut self.disk.syncing);
        if self.random.below(10_000) >= self.scenario.temper.failures {
            self.keep(synced);
            return;
        }
        let now = self.schedule.now();
        self.trace.note(now, || "a sync fails".to_owned());
        self.disk.has_failed = true;
        // Some of it is on the disk all the same.
        let lucky = self.random.index(synced + 1);
        for at in 0..synced {
            let Some(Cached { shard, batch, is_refused }) = self.disk.unsynced.pop_front() else { break };
            if at < lucky && !is_refused {
                self.disk.kept.apply(&batch);
                self.ledger.kept(&batch);
            }
            self.give(shard, Waiting::Stored(batch, Err(StoreFault::Failed)));
        }
    }

    /// The oldest so many of what is cached are safe now: says so.
    fn keep(&mut self, batches: usize) {
        for _ in 0..batches {
            let Some(Cached { shard, batch, is_refused }) = self.disk.unsynced.pop_front() else { break };
            if is_refused {
                self.give(shard, Waiting::Stored(batch, Err(StoreFault::Full)));
                continue;
            }
            self.disk.kept.apply(&batch);
            self.ledger.kept(&batch);
            self.give(shard, Waiting::Stored(batch, Ok(())));
        }
    }

    /// The store's thread ends with everything else: what a crash leaves of the disk is what the next start
    /// finds.
    pub(crate) fn crash_disk(&mut self) {
        let lucky = self.random.index(self.disk.unsynced.len() + 1);
        let mut disk = std::mem::take(&mut self.disk);
        for Cached { batch, .. } in disk.unsynced.drain(..).take(lucky).filter(|cached| !cached.is_refused) {
            disk.kept.apply(&batch);
            self.ledger.kept(&batch);
        }
        self.disk = Disk {
            cached: disk.kept.clone(),
            kept: disk.kept,
            full_until: disk.full_until,
            troubled_at: if disk.has_failed { self.schedule.now() } else { disk.troubled_at },
            ..Disk::default()
        };
    }
}
