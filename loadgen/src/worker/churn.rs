//! Visitors: users who come and go while the others watch. They neither send nor receive messages,
//! so that a lost message is never one to somebody who left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::clock::to_ns;
use crate::plan::{Moments, RunPlan};
use crate::rng::Rng;
use crate::schedule::{Arrivals, Schedule};

/// Keeps the visitors' schedules apart from other uses of the seed.
const COME_STREAM: u64 = 0x636f_6d65_0000_0000;
const STAY_STREAM: u64 = 0x7374_6179_0000_0000;

/// The shortest stay, so that no relay merges a visit away within a tick: 100 ms.
const STAY_MIN_NS: u64 = 100_000_000;

/// What a visitor is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Connect.
    Come(u32),
    /// Close.
    Leave(u32),
}

/// Who comes and who goes, when. Places are those of the worker's clients.
#[derive(Debug)]
pub(crate) struct Churn {
    schedule: Schedule,
    moments: Option<Moments>,
    arrivals: Arrivals,
    stay_ns: u64,
    longest_ns: u64,
    rng: Rng,
    /// In the order in which they went.
    resting: VecDeque<u32>,
    staying: BinaryHeap<Reverse<(u64, u32)>>,
    /// Comings of the steady phase that were due while nobody rested.
    pub(crate) missed: u64,
}

impl Churn {
    /// Makes the worker's share; its visitors are at `places`, none of them online.
    pub(crate) fn new(plan: &RunPlan, worker: usize, places: std::ops::Range<u32>) -> Self {
        let workload = &plan.workload;
        let (seed, share) = (workload.seed, plan.share(worker));
        let rate = if places.is_empty() { 0.0 } else { workload.churn_per_second };
        Self {
            schedule: Schedule::new(workload.arrivals, rate, share, seed, COME_STREAM),
            moments: None,
            arrivals: workload.arrivals,
            stay_ns: to_ns(workload.stay),
            longest_ns: to_ns(workload.longest_stay()),
            rng: Rng::new(seed, STAY_STREAM | worker as u64),
            resting: places.collect(),
            staying: BinaryHeap::new(),
            missed: 0,
        }
    }

    pub(crate) fn start(&mut self, moments: Moments) {
        self.moments = Some(moments);
    }

    /// The next thing that is due; call again until there is none. Nobody comes or goes after the
    /// end.
    pub(crate) fn next_call(&mut self, now_ns: u64) -> Option<Call> {
        let moments = self.moments.filter(|moments| now_ns < moments.end_ns)?;
        if let Some(&Reverse((leave_ns, place))) = self.staying.peek()
            && leave_ns <= now_ns
        {
            self.staying.pop();
            return Some(Call::Leave(place));
        }
        loop {
            let come_ns = moments.begin_ns.saturating_add(self.schedule.due_ns());
            if come_ns > now_ns {
                return None;
            }
            self.schedule.advance();
            match self.resting.pop_front() {
                Some(place) => return Some(Call::Come(place)),
                None => self.missed += u64::from(moments.is_steady(come_ns)),
            }
        }
    }

    /// When something is due next.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let moments = self.moments?;
        let come_ns = moments.begin_ns.saturating_add(self.schedule.due_ns());
        let leave_ns = self.staying.peek().map_or(u64::MAX, |Reverse((leave_ns, _))| *leave_ns);
        Some(come_ns.min(leave_ns)).filter(|&due_ns| due_ns < moments.end_ns)
    }

    /// A visitor is online: their stay begins.
    pub(crate) fn arrived(&mut self, place: u32, now_ns: u64) {
        let stay_ns = match self.arrivals {
            Arrivals::Constant => self.stay_ns,
            Arrivals::Poisson => (self.rng.exponential(self.stay_ns as f64) as u64).min(self.longest_ns),
        };
        self.staying.push(Reverse((now_ns + stay_ns.max(STAY_MIN_NS), place)));
    }

    /// A visitor has gone, or could not come.
    pub(crate) fn gone(&mut self, place: u32) {
        self.resting.push_back(place);
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Churn};
    use crate::clock::SECOND_NS;
    use crate::plan::Moments;
    use crate::rng::Rng;
    use crate::schedule::{Arrivals, Schedule, Share};
    use std::collections::BinaryHeap;

    const MS: u64 = 1_000_000;

    /// 10 a second, who stay 250 ms; messages begin at 1 s and end at 3 s.
    fn churn(places: std::ops::Range<u32>) -> Churn {
        let share = Share { worker: 0, workers: 1 };
        let mut churn = Churn {
            schedule: Schedule::new(Arrivals::Constant, 10.0, share, 1, 0),
            moments: None,
            arrivals: Arrivals::Constant,
            stay_ns: 250 * MS,
            longest_ns: 250 * MS,
            rng: Rng::new(1, 1),
            resting: places.collect(),
            staying: BinaryHeap::new(),
            missed: 0,
        };
        assert_eq!((churn.next_call(2 * SECOND_NS), churn.due_ns()), (None, None));
        churn.start(Moments { begin_ns: SECOND_NS, steady_ns: SECOND_NS, end_ns: 3 * SECOND_NS });
        churn
    }

    #[test]
    fn visitors_come_on_schedule_stay_and_rest() {
        let mut churn = churn(5..8);
        assert_eq!(churn.due_ns(), Some(SECOND_NS));
        assert_eq!(churn.next_call(SECOND_NS - 1), None);
        assert_eq!(churn.next_call(SECOND_NS), Some(Call::Come(5)));
        assert_eq!(churn.next_call(SECOND_NS), None);
        churn.arrived(5, SECOND_NS + 10 * MS);
        // Late by two: both come at once.
        let late = SECOND_NS + 200 * MS;
        assert_eq!((churn.next_call(late), churn.next_call(late)), (Some(Call::Come(6)), Some(Call::Come(7))));
        assert_eq!(churn.due_ns(), Some(SECOND_NS + 260 * MS));
        assert_eq!(churn.next_call(SECOND_NS + 260 * MS), Some(Call::Leave(5)));
        churn.gone(5);
        assert_eq!(churn.next_call(SECOND_NS + 300 * MS), Some(Call::Come(5)));
    }

    #[test]
    fn who_is_due_while_nobody_rests_is_missed() {
        let mut churn = churn(0..1);
        assert_eq!(churn.next_call(SECOND_NS), Some(Call::Come(0)));
        assert_eq!(churn.next_call(SECOND_NS + 250 * MS), None);
        assert_eq!(churn.missed, 2);
    }

    #[test]
    fn nobody_moves_after_the_end() {
        let mut churn = churn(0..3);
        churn.arrived(2, SECOND_NS);
        assert_eq!(churn.next_call(3 * SECOND_NS), None);
    }
}
