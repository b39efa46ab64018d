//! When messages are due: an open loop, fixed before the run and never changed by how it goes.
//!
//! Constant arrivals of all workers together are evenly spaced: worker `w` of `W` takes arrivals
//! `w`, `w + W`, `w + 2W` … of the whole. Poisson arrivals are independent streams of `rate / W`,
//! whose union is a Poisson stream of `rate`.
//!
//! A rate that changes is a [`Profile`]. Arrivals are laid out evenly (or as a Poisson stream of one
//! a unit) over the *count* that the profile promises, and each is due when that count is reached:
//! a time is a pure function of the number.
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

/// A piece of a [`Profile`] to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// How long it is.
    pub length_ns: u64,
    /// Arrivals a second where it begins: above 0.
    pub begin: f64,
    /// Arrivals a second where it ends: above 0. Between the two the rate goes straight.
    pub end: f64,
}

/// How a rate over all workers goes over time: straight pieces, of which the last has no end.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pieces: Vec<Piece>,
    peak: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    begin_ns: u64,
    /// Arrivals before it.
    before: f64,
    /// Arrivals a second where it begins.
    rate: f64,
    /// What the rate gains in a second.
    slope: f64,
}

impl Piece {
    /// Arrivals from its beginning until so long after.
    fn count(&self, ns: u64) -> f64 {
        let seconds = ns as f64 / SECOND_NS as f64;
        seconds * (self.rate + self.slope * seconds / 2.0)
    }

    /// When so many arrivals have come since the run began: the inverse of [`Piece::count`].
    fn time_ns(&self, count: f64) -> u64 {
        let count = count - self.before;
        let ns = if self.slope == 0.0 {
            count * (SECOND_NS as f64 / self.rate)
        } else {
            // The root of slope/2 t² + rate t = count in the form that does not cancel.
            let root = (self.rate * self.rate + 2.0 * self.slope * count).max(0.0).sqrt();
            2.0 * count / (self.rate + root) * SECOND_NS as f64
        };
        self.begin_ns.saturating_add(ns as u64)
    }
}

impl Profile {
    /// Puts stretches one behind the other; after them the rate is `last`, for ever.
    #[must_use]
    pub fn new(stretches: impl IntoIterator<Item = Stretch>, last: f64) -> Self {
        let (mut begin_ns, mut before, mut peak) = (0, 0.0, last);
        let mut pieces = Vec::new();
        for Stretch { length_ns, begin, end } in stretches {
            let slope = (end - begin) * SECOND_NS as f64 / length_ns as f64;
            let piece = Piece { begin_ns, before, rate: begin, slope };
            before += piece.count(length_ns);
            begin_ns += length_ns;
            peak = begin.max(end).max(peak);
            pieces.push(piece);
        }
        pieces.push(Piece { begin_ns, before, rate: last, slope: 0.0 });
        Self { pieces, peak }
    }

    /// The highest rate.
    #[must_use]
    pub fn peak(&self) -> f64 {
        self.peak
    }

    /// How many arrivals there are before `ns`, with fractions.
    #[must_use]
    pub fn count_by(&self, ns: u64) -> f64 {
        let at = self.pieces.partition_point(|piece| piece.begin_ns <= ns).saturating_sub(1);
        let piece = &self.pieces[at];
        piece.before + piece.count(ns - piece.begin_ns)
    }
}

impl From<f64> for Profile {
    /// The same rate for ever; zero is none at all.
    fn from(per_second: f64) -> Self {
        Self::new([], per_second)
    }
}

/// The times at which one worker's arrivals are due, in nanoseconds from the start.
#[derive(Clone, Debug)]
pub struct Schedule {
    profile: Profile,
    /// The piece in which the next arrival lies.
    piece: usize,
    kind: Kind,
    due_ns: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Never,
    Constant { index: u64, step: u64 },
    Poisson { rng: Rng, workers: f64, count: f64 },
}

impl Schedule {
    /// Makes a schedule of the arrivals that `profile` promises over all workers. `stream` tells
    /// schedules of one seed apart.
    #[must_use]
    pub fn new(arrivals: Arrivals, profile: impl Into<Profile>, share: Share, seed: u64, stream: u64) -> Self {
        let Share { worker, workers } = share;
        let profile = profile.into();
        let kind = match arrivals {
            _ if profile.peak <= 0.0 => Kind::Never,
            Arrivals::Constant => Kind::Constant { index: worker as u64, step: workers as u64 },
            Arrivals::Poisson => Kind::Poisson {
                rng: Rng::new(seed, stream.wrapping_add(worker as u64)),
                workers: workers as f64,
                count: 0.0,
            },
        };
        let mut schedule = Self { profile, piece: 0, kind, due_ns: 0 };
        match schedule.kind {
            Kind::Constant { index, .. } => schedule.due_ns = schedule.time_ns(index as f64),
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
        let count = match &mut self.kind {
            Kind::Never => {
                self.due_ns = u64::MAX;
                return;
            }
            Kind::Constant { index, step } => {
                *index += *step;
                *index as f64
            }
            Kind::Poisson { rng, workers, count } => {
                *count += rng.exponential(*workers);
                *count
            }
        };
        self.due_ns = self.time_ns(count);
    }

    /// When so many arrivals have come over all workers: never fewer than at the last call.
    fn time_ns(&mut self, count: f64) -> u64 {
        while self.profile.pieces.get(self.piece + 1).is_some_and(|next| next.before <= count) {
            self.piece += 1;
        }
        self.profile.pieces[self.piece].time_ns(count)
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
    use super::{Arrivals, Profile, Schedule, Share, Stretch};
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
    fn a_changing_rate_is_shared_evenly_and_its_edges_are_exact() {
        // 4 a second for a second, then 400.
        let slow = Stretch { length_ns: SECOND_NS, begin: 4.0, end: 4.0 };
        let profile = Profile::new([slow], 400.0);
        let of = |worker| Schedule::new(Arrivals::Constant, profile.clone(), Share { worker, workers: 2 }, 1, 0);
        const MS: u64 = 1_000_000;
        assert_eq!(times(of(0), 4), [0, 500 * MS, 1000 * MS, 1005 * MS]);
        assert_eq!(times(of(1), 4), [250 * MS, 750 * MS, 1_002_500_000, 1_007_500_000]);
    }

    #[test]
    fn poisson_arrivals_follow_a_changing_rate() {
        let slow = Stretch { length_ns: 100 * SECOND_NS, begin: 10.0, end: 10.0 };
        let schedule = Schedule::new(Arrivals::Poisson, Profile::new([slow], 1000.0), ALONE, 3, 0);
        // 1,000 and 100,000 expected, each within five deviations.
        let slow = schedule.count_before(100 * SECOND_NS);
        let fast = schedule.count_before(200 * SECOND_NS) - slow;
        assert!((842..1158).contains(&slow) && (98_400..101_600).contains(&fast), "{slow} {fast}");
    }

    #[test]
    fn the_time_of_a_count_is_the_inverse_of_the_count_by_a_time() {
        let rising = Stretch { length_ns: 10 * SECOND_NS, begin: 5.0, end: 500.0 };
        let falling = Stretch { length_ns: 10 * SECOND_NS, begin: 500.0, end: 5.0 };
        let mut schedule = Schedule::new(Arrivals::Constant, Profile::new([rising, falling], 5.0), ALONE, 1, 0);
        for number in 0..5100 {
            let count = schedule.profile.count_by(schedule.due_ns());
            assert!((count - f64::from(number)).abs() < 1e-3, "{number}: {count}");
            schedule.advance();
        }
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
