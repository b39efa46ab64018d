//! Clients that stop reading: their sockets, not only their frames, so that the kernel's buffers
//! fill and the relay feels it.
//!
//! They are read one receive at a time, and asked for the next unless they have stopped; so one
//! receive of up to 16 KiB may still come after that. At the end of the steady phase, or of their
//! time, they read again: what waited for them is read, and how the relay has ended them is known.

use std::ops::Range;

use crate::clock::{SECOND_NS, to_ns};
use crate::ledger;
use crate::plan::{Moments, RunPlan};
use crate::scenario;
use crate::scenario::outcome::SlowReaderCounts;

/// What the kernel keeps of what a slow reader does not read, as far as `SO_RCVBUF` decides. Left to
/// itself it would be megabytes, and a relay would feel a slow reader minutes later.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// A slow reader that reads again and has had nothing for so long has caught up: 250 ms.
const QUIET_NS: u64 = SECOND_NS / 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    Stopped,
    After,
}

/// The slow readers of one worker, or none.
#[derive(Debug)]
pub(crate) struct SlowReaders {
    plan: Option<scenario::SlowReaders>,
    pub(super) places: Range<u32>,
    /// When they stop and when they read again.
    stop_ns: u64,
    again_ns: u64,
    phase: Phase,
    /// Who is to be read.
    pub(super) reads: Vec<u32>,
    /// Who is not.
    paused: Vec<u32>,
    /// When the last of them had something.
    received_ns: u64,
    pub(crate) counts: SlowReaderCounts,
}

impl SlowReaders {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let slow = plan.workload.scenario.slow_readers;
        let places = plan.last_places(worker, stable, slow.map(|slow| slow.share));
        Self {
            plan: slow,
            places,
            stop_ns: u64::MAX,
            again_ns: u64::MAX,
            phase: Phase::Before,
            reads: Vec::new(),
            paused: Vec::new(),
            received_ns: 0,
            counts: SlowReaderCounts::default(),
        }
    }

    pub(super) fn start(&mut self, moments: &Moments) {
        let Some(slow) = self.plan else { return };
        self.stop_ns = moments.steady_ns + to_ns(slow.from);
        self.again_ns = slow.length.map_or(moments.end_ns, |length| (self.stop_ns + to_ns(length)).min(moments.end_ns));
        self.counts.clients = self.places.len() as u64;
    }

    pub(super) fn holds(&self, place: u32) -> bool {
        self.places.contains(&place)
    }

    /// Whether the client at `place` has stopped once: from then on it confirms nothing. A relay that has closed its
    /// connection would answer that by a reset, before the close has been read.
    pub(super) fn is_silent(&self, place: u32) -> bool {
        self.phase != Phase::Before && self.holds(place)
    }

    /// Goes from one phase to the next when its time has come.
    pub(super) fn step(&mut self, now_ns: u64) {
        if self.phase == Phase::Before && now_ns >= self.stop_ns {
            self.phase = Phase::Stopped;
        }
        if self.phase == Phase::Stopped && now_ns >= self.again_ns {
            self.phase = Phase::After;
            self.received_ns = now_ns;
            self.reads.append(&mut self.paused);
        }
    }

    /// The receive that was asked for on the connection of the client at `place` has come.
    pub(super) fn received(&mut self, place: u32, now_ns: u64) {
        self.received_ns = now_ns;
        if self.phase == Phase::Stopped { self.paused.push(place) } else { self.reads.push(place) }
    }

    /// Whether the end of the connection of the client at `place` belongs to the scenario; counts it
    /// then.
    pub(super) fn excuses(&mut self, place: u32, why: &str) -> bool {
        let excused = self.holds(place) && self.phase != Phase::Before;
        if excused {
            ledger::count(&mut self.counts.ended, why);
        }
        excused
    }

    /// Whether all have read what waited for them.
    pub(super) fn is_quiet(&self, now_ns: u64) -> bool {
        self.places.is_empty() || (self.phase == Phase::After && now_ns >= self.received_ns + QUIET_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::{Phase, QUIET_NS, SlowReaders};
    use crate::clock::SECOND_NS;
    use crate::plan::Moments;
    use crate::scenario::outcome::SlowReaderCounts;

    /// Places 3 and 4 stop as `text` says; the steady phase is from 1 s to 9 s.
    fn slow(text: &str) -> SlowReaders {
        let mut slow = SlowReaders {
            plan: Some(text.parse().unwrap()),
            places: 3..5,
            stop_ns: u64::MAX,
            again_ns: u64::MAX,
            phase: Phase::Before,
            reads: Vec::new(),
            paused: Vec::new(),
            received_ns: 0,
            counts: SlowReaderCounts::default(),
        };
        slow.start(&Moments { begin_ns: 0, steady_ns: SECOND_NS, end_ns: 9 * SECOND_NS });
        slow
    }

    #[test]
    fn who_has_stopped_is_not_read_until_the_time_is_over() {
        let mut slow = slow("10%@1s/2s");
        slow.step(SECOND_NS);
        slow.received(3, SECOND_NS);
        assert_eq!(slow.reads, [3]);
        assert!(!slow.excuses(3, "broken") && !slow.is_silent(3));
        slow.reads.clear();
        slow.step(2 * SECOND_NS);
        slow.received(3, 2 * SECOND_NS);
        slow.received(4, 2 * SECOND_NS);
        assert_eq!((slow.reads.len(), slow.is_quiet(3 * SECOND_NS)), (0, false));
        assert!(slow.excuses(4, "closed with 4408") && !slow.excuses(2, "broken"));
        assert!(slow.is_silent(3) && !slow.is_silent(2));
        slow.step(4 * SECOND_NS);
        assert_eq!(slow.reads, [3, 4]);
        assert!(!slow.is_quiet(4 * SECOND_NS) && slow.is_quiet(4 * SECOND_NS + QUIET_NS));
        assert_eq!((slow.counts.clients, slow.counts.ended["closed with 4408"]), (2, 1));
    }

    #[test]
    fn for_ever_ends_with_the_steady_phase() {
        let mut slow = slow("10%");
        slow.step(SECOND_NS);
        slow.received(3, SECOND_NS);
        slow.step(9 * SECOND_NS - 1);
        assert!(slow.reads.is_empty());
        slow.step(9 * SECOND_NS);
        assert_eq!(slow.reads, [3]);
    }
}
