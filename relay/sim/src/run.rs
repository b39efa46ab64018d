//! One seed from start to end.

use std::fmt;

use crate::invariant::{Checked, Violation};
use crate::plant::Plant;
use crate::random::Random;
use crate::scenario::{Overrides, Scenario};
use crate::schedule::SECOND;
use crate::seen::Seen;
use crate::trace::Trace;
use crate::world::World;

/// What to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// What is not drawn from the seed.
    pub overrides: Overrides,
    /// A fault to plant.
    pub plant: Option<Plant>,
    /// Write every event and effect to standard error.
    pub trace: bool,
}

/// What came of a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash over every event and effect: the same for the same seed and options.
    pub trace_hash: u64,
    /// Events and effects.
    pub events: u64,
    /// Messages that clients sent.
    pub messages: u64,
    /// Messages that arrived, once for each device.
    pub delivered: u64,
    /// Sessions opened.
    pub logins: u64,
    /// What was met.
    pub seen: Seen,
    /// The rule that did not hold, if any.
    pub failure: Option<Failure>,
}

/// A rule that did not hold, and what happened before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rule and what was seen.
    pub violation: Violation,
    /// When, in nanoseconds of virtual time.
    pub at_ns: u64,
    /// The last events and effects, oldest first.
    pub last: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(failure) = &self.failure else {
            return write!(f, "seed {} is clean, trace {:016x}", self.seed, self.trace_hash);
        };
        for line in &failure.last {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} breaks {}", self.seed, failure.violation)?;
        write!(f, "at {:.3} ms of virtual time, trace {:016x}", failure.at_ns as f64 / 1e6, self.trace_hash)
    }
}

/// Runs a seed. Where a rule breaks, the seed runs a second time to gather the last events: keeping
/// them always would cost more than the run.
#[must_use]
pub fn run(seed: u64, options: &RunOptions) -> Report {
    let report = run_once(seed, options, options.trace);
    if report.failure.is_some() && !options.trace { run_once(seed, options, true) } else { report }
}

fn run_once(seed: u64, options: &RunOptions, keep: bool) -> Report {
    let mut random = Random::new(seed);
    let scenario = Scenario::draw(&options.overrides, &mut random);
    let mut world = World::new(scenario, random, Trace::new(keep, options.trace), options.plant);
    let outcome = world.live();
    let at_ns = world.schedule.now();
    let logins = world.logins_before + world.hosts.iter().map(|host| host.shard.stats().logins).sum::<u64>();
    let (messages, delivered) = (world.ledger.sent, world.ledger.arrived);
    let (trace_hash, events) = (world.trace.hash(), world.trace.count);
    let seen = world.summary();
    let last = world.trace.into_lines();
    let failure = outcome.err().map(|violation| Failure { violation, at_ns, last });
    Report { seed, trace_hash, events, messages, delivered, logins, seen, failure }
}

impl World {
    /// Rounds of steps, each followed by rest and the checks at rest; then the end.
    fn live(&mut self) -> Checked {
        for device in 0..self.devices.len() {
            if self.random.chance(60) {
                self.connect(device);
            }
        }
        for _ in 0..self.scenario.rounds {
            for _ in 0..self.scenario.steps.div_ceil(self.scenario.rounds) {
                let gap = self.random.below(self.scenario.step_gap_max + 1);
                self.run_for(gap)?;
                self.step()?;
                self.perhaps_restart()?;
            }
            self.rest()?;
            if self.random.chance(10) {
                // Past the memory of ids, and of users who left.
                self.run_for(11 * 60 * SECOND)?;
                self.check_quiet()?;
            }
        }
        self.gather()?;
        self.end()
    }

    /// The relay ends and starts anew: as often as the scenario says, and when its store has failed.
    fn perhaps_restart(&mut self) -> Checked {
        let in_all = u64::from(self.scenario.steps.max(1));
        if self.random.below(in_all) < u64::from(self.scenario.restarts) {
            let in_peace = self.random.chance(35);
            return self.restart(in_peace);
        }
        if self.disk.has_failed && self.random.chance(4) {
            return self.restart(false);
        }
        Ok(())
    }

    /// What clients met, and what the shards counted.
    fn summary(&mut self) -> Seen {
        self.note_stats();
        std::mem::take(&mut self.seen)
    }

    /// Counts what the shards counted: they are about to end.
    pub(crate) fn note_stats(&mut self) {
        let seen = &mut self.seen;
        for host in &self.hosts {
            let stats = host.shard.stats();
            self.logins_before += stats.logins;
            for (name, count) in [
                ("too slow", stats.closed_too_slow),
                ("pushes dropped", stats.dropped_too_slow),
                ("silent", stats.closed_silent),
                ("replaced", stats.replaced),
                ("handed over", stats.handed_over),
                ("verified alone", stats.verified_single),
                ("verified in batches", stats.verified_batched),
                ("batches failed", stats.batches_failed),
                ("lobby merged", stats.lobby_merged),
                ("entries stored", stats.entries_stored),
                ("entries never stored", stats.entries_never_stored),
                ("entries loaded", stats.entries_loaded),
                ("copies dropped", stats.copies_dropped),
                ("disk full", stats.store_full),
                ("disk failed", stats.store_failed),
            ] {
                if count > 0 {
                    seen.add(format!("stats {name}"), count);
                }
            }
        }
    }

    fn rest(&mut self) -> Checked {
        self.end_congestion();
        self.unstall_all();
        self.empty_disk();
        let settle = self.scenario.settle();
        self.run_for(settle)?;
        self.ledger.rooms.forget(|session| !self.sessions[session].is_healthy());
        self.check_quiet()
    }

    /// The relay drains, or all clients leave.
    fn end(&mut self) -> Checked {
        if self.scenario.drain {
            // In the middle of things as often as at rest.
            if self.random.chance(50) {
                for _ in 0..30 {
                    let gap = self.random.below(self.scenario.step_gap_max + 1);
                    self.run_for(gap)?;
                    self.step()?;
                }
            }
            self.begin_drain()?;
        } else {
            for session in 0..self.sessions.len() {
                if !self.sessions[session].is_ended() {
                    self.cut(session)?;
                }
            }
        }
        self.end_congestion();
        self.unstall_all();
        self.empty_disk();
        let settle = self.scenario.settle();
        self.run_for(settle)?;
        self.check_empty()
    }
}
