//! When messages are due: an open loop, fixed before the run and never changed by how it goes.
//!
//! Constant arrivals of all workers together are evenly spaced: worker `w` of `W` takes arrivals
//! `w`, `w + W`, `w + 2W` … of the whole. Poisson arrivals are independent streams of `rate / W`,
//! whose union is a Poisson stream of `rate`.
//!
//! # Invariants
//! - Due times are absolute: an error in one never moves the next.
//! - The same seed gives the same times.

use crate::clock::SECOND_NS;
use crate::rng::Rng;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// At random, independent of each other, as those of many independent people are.
    Poisson,
}

/// One worker's share of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// This worker's number.
    pub worker: usize,
    /// How many workers there are.
    pub workers: usize,
}

/// The times at which one worker's arrivals are due, in nanoseconds from the start.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    due_ns: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Never,
    Constant { index: u64, step: u64, interval_ns: f64 },
    Poisson { rng: Rng, mean_ns: f64, at_ns: f64 },
}

impl Schedule {
    /// Makes a schedule of `per_second` arrivals over all workers; zero is none at all. `stream`
    /// tells schedules of one seed apart.
    #[must_use]
    pub fn new(arrivals: Arrivals, per_second: f64, share: Share, seed: u64, stream: u64) -> Self {
        let Share { worker, workers } = share;
        let kind = if per_second <= 0.0 {
            Kind::Never
        } else {
            let interval_ns = SECOND_NS as f64 / per_second;
            match arrivals {
                Arrivals::Constant => Kind::Constant { index: worker as u64, step: workers as u64, interval_ns },
                Arrivals::Poisson => Kind::Poisson {
                    rng: Rng::new(seed, stream.wrapping_add(worker as u64)),
                    mean_ns: interval_ns * workers as f64,
                    at_ns: 0.0,
                },
            }
        };
        let mut schedule = Self { kind, due_ns: 0 };
        match &mut schedule.kind {
            Kind::Constant { index, interval_ns, .. } => schedule.due_ns = (*index as f64 * *interval_ns) as u64,
            Kind::Never | Kind::Poisson { .. } => schedule.advance(),
        }
        schedule
    }

    /// When the next arrival is due. `u64::MAX` if none ever is.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Goes on to the arrival after.
    pub fn advance(&mut self) {
        self.due_ns = match &mut self.kind {
            Kind::Never => u64::MAX,
            Kind::Constant { index, step, interval_ns } => {
                *index += *step;
                (*index as f64 * *interval_ns) as u64
            }
            Kind::Poisson { rng, mean_ns, at_ns } => {
                *at_ns += rng.exponential(*mean_ns);
                *at_ns as u64
            }
        };
    }

    /// How many arrivals are due before `end_ns`.
    #[must_use]
    pub fn count_before(&self, end_ns: u64) -> u64 {
        let mut rest = self.clone();
        let mut count = 0;
        while rest.due_ns < end_ns {
            rest.advance();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrivals, Schedule, Share};
    use crate::clock::SECOND_NS;

    const ALONE: Share = Share { worker: 0, workers: 1 };

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(schedule.due_ns());
            schedule.advance();
        }
        times
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_over_all_workers() {
        let two = |worker| Schedule::new(Arrivals::Constant, 2000.0, Share { worker, workers: 2 }, 1, 0);
        assert_eq!(times(two(0), 4), [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(times(two(1), 4), [500_000, 1_500_000, 2_500_000, 3_500_000]);
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        // 3 a second never falls on whole nanoseconds, and yet the 3,000,000th is due at 10^6 s.
        let mut schedule = Schedule::new(Arrivals::Constant, 3.0, ALONE, 1, 0);
        for _ in 0..3_000_000 {
            schedule.advance();
        }
        assert_eq!(schedule.due_ns(), 1_000_000 * SECOND_NS);
    }

    #[test]
    fn a_count_is_that_of_the_rate() {
        for workers in [1, 3] {
            let count = |worker| {
                let share = Share { worker, workers };
                Schedule::new(Arrivals::Constant, 1000.0, share, 1, 0).count_before(2 * SECOND_NS)
            };
            assert_eq!((0..workers).map(count).sum::<u64>(), 2000);
        }
        assert_eq!(Schedule::new(Arrivals::Constant, 0.0, ALONE, 1, 0).count_before(u64::MAX), 0);
    }

    #[test]
    fn poisson_arrivals_repeat_by_seed_and_keep_the_rate() {
        let poisson = |seed| Schedule::new(Arrivals::Poisson, 1000.0, ALONE, seed, 0);
        assert_eq!(times(poisson(1), 100), times(poisson(1), 100));
        assert_ne!(times(poisson(1), 100), times(poisson(2), 100));
        // 100,000 expected, with a deviation of 316: five of them.
        let count = poisson(1).count_before(100 * SECOND_NS);
        assert!((98_400..101_600).contains(&count), "{count}");
    }

    #[test]
    fn poisson_gaps_have_the_spread_of_an_exponential() {
        let times = times(Schedule::new(Arrivals::Poisson, 1000.0, ALONE, 5, 0), 50_001);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let longer = gaps.iter().filter(|&&gap| gap > mean).count() as f64 / gaps.len() as f64;
        // 1/e of them are longer than the mean.
        assert!((longer - 0.3679).abs() < 0.01, "{longer}");
    }
}
