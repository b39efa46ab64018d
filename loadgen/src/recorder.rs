//! What is measured, and the histograms it goes into.
//!
//! Workers record into a [`Recorder`] of their own for one interval, then hand it over and take an
//! empty one. Totals are sums of histograms; percentiles are never averaged.

use std::fmt;
use std::sync::LazyLock;

use hdrhistogram::{AdditionError, Histogram};

use crate::clock::SECOND_NS;

/// One measured quantity. Values are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Response time of a message: from its intended send to received and checked.
    Message,
    /// Service time of a message: from its write to received and checked.
    Service,
    /// Send lag: from the intended send to the write, or to finding the connection's last write
    /// unfinished. The generator's own delay.
    SendLag,
    /// What a message waited behind an unfinished write of its connection, if it had to: the relay
    /// or the network took no more. It is in the response time and in none of the others.
    Blocked,
    /// From the intended send of a message to its ack, where the recipient was online.
    Ack,
    /// The same, where the recipient was offline.
    AckOffline,
    /// From a visitor's `auth` to a watcher's lobby showing them.
    LobbyJoin,
    /// From a visitor's close to a watcher's lobby missing them.
    LobbyLeave,
    /// From a join or leave to the first watcher's lobby showing it: one value an event.
    LobbyFirst,
    /// From a join or leave until half of the watchers' lobbies showed it.
    LobbyMedian,
    /// From a join or leave until the last watcher's lobby showed it.
    LobbyLast,
    /// From starting to connect to the end of the upgrade.
    Connect,
    /// From sending `auth` to `welcome`.
    Auth,
    /// From the `auth` of a client that was offline to the last message that waited for it: one value a
    /// client.
    CatchUp,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 14] = [
        Self::Message,
        Self::Service,
        Self::SendLag,
        Self::Blocked,
        Self::Ack,
        Self::AckOffline,
        Self::LobbyJoin,
        Self::LobbyLeave,
        Self::LobbyFirst,
        Self::LobbyMedian,
        Self::LobbyLast,
        Self::Connect,
        Self::Auth,
        Self::CatchUp,
    ];

    /// The name in targets, logs and summaries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Service => "service",
            Self::SendLag => "send_lag",
            Self::Blocked => "blocked",
            Self::Ack => "ack",
            Self::AckOffline => "ack.offline",
            Self::LobbyJoin => "lobby.join",
            Self::LobbyLeave => "lobby.leave",
            Self::LobbyFirst => "lobby.first",
            Self::LobbyMedian => "lobby.median",
            Self::LobbyLast => "lobby.last",
            Self::Connect => "connect",
            Self::Auth => "auth",
            Self::CatchUp => "catch_up",
        }
    }
}

/// The longest time that is told apart from longer ones: 10 minutes.
pub const HIGHEST_NS: u64 = 600 * SECOND_NS;

/// Significant decimal digits: values are right to 0.1 %.
const DIGITS: u8 = 3;

/// One histogram per metric that has values, 254 KB each. A run keeps one recorder a second, so only those
/// that are needed are there, and of them as few pages of memory are touched as values allow.
#[derive(Clone, Default)]
pub struct Recorder {
    histograms: [Option<Box<Histogram<u64>>>; Metric::ALL.len()],
}

/// What stands for those that are not there.
static NOTHING: LazyLock<Histogram<u64>> = LazyLock::new(empty);

/// How many values of which metric: the histograms themselves are thousands of numbers.
impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = Metric::ALL.into_iter().filter(|&metric| !self.of(metric).is_empty());
        f.debug_map().entries(filled.map(|metric| (metric.name(), self.of(metric).len()))).finish()
    }
}

/// An empty histogram of this program's range and precision.
///
/// # Panics
/// Never: the bounds are constants that hdrhistogram accepts.
#[must_use]
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).expect("the bounds are valid")
}

/// Adds value by value. [`Histogram::add`] copies the whole into an empty one, which touches all of its memory.
fn pour(own: &mut Histogram<u64>, others: &Histogram<u64>) {
    for step in others.iter_recorded() {
        own.saturating_record_n(step.value_iterated_to(), step.count_at_value());
    }
}

impl Recorder {
    /// Records one value; longer than [`HIGHEST_NS`] counts as that. About 4 ns, and an allocation for the first.
    pub fn record(&mut self, metric: Metric, ns: u64) {
        self.of_mut(metric).saturating_record(ns.max(1));
    }

    /// The histogram of a metric.
    #[must_use]
    pub fn of(&self, metric: Metric) -> &Histogram<u64> {
        self.histograms[metric as usize].as_deref().unwrap_or(&NOTHING)
    }

    fn of_mut(&mut self, metric: Metric) -> &mut Histogram<u64> {
        self.histograms[metric as usize].get_or_insert_with(|| Box::new(empty()))
    }

    /// Adds another recorder's values.
    ///
    /// # Panics
    /// Never: all recorders have the same bounds.
    pub fn add(&mut self, other: &Self) {
        for metric in Metric::ALL {
            let others = other.of(metric);
            if others.is_empty() {
                continue;
            }
            let own = self.of_mut(metric);
            if own.is_empty() {
                pour(own, others);
            } else {
                own.add(others).expect("all recorders have the same bounds");
            }
        }
    }

    /// Adds the values of a histogram from elsewhere.
    ///
    /// # Errors
    /// It holds values beyond [`HIGHEST_NS`].
    pub fn merge(&mut self, metric: Metric, other: &Histogram<u64>) -> Result<(), AdditionError> {
        let mut same_bounds = empty();
        same_bounds.add(other)?;
        pour(self.of_mut(metric), &same_bounds);
        Ok(())
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        for histogram in self.histograms.iter_mut().flatten() {
            histogram.reset();
        }
    }

    /// Joins and leaves in one histogram.
    ///
    /// # Panics
    /// Never: see [`Recorder::add`].
    #[must_use]
    pub fn lobby(&self) -> Histogram<u64> {
        let mut both = self.of(Metric::LobbyJoin).clone();
        both.add(self.of(Metric::LobbyLeave)).expect("all recorders have the same bounds");
        both
    }
}

/// How many samples of each metric should be there and never came. They count as infinitely late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing([u64; Metric::ALL.len()]);

impl Missing {
    /// Settles how many samples of a metric never came.
    pub fn set(&mut self, metric: Metric, count: u64) {
        self.0[metric as usize] = count;
    }

    /// How many samples of a metric never came.
    #[must_use]
    pub fn of(&self, metric: Metric) -> u64 {
        self.0[metric as usize]
    }

    /// Joins and leaves together.
    #[must_use]
    pub fn lobby(&self) -> u64 {
        self.of(Metric::LobbyJoin) + self.of(Metric::LobbyLeave)
    }
}

/// The value that a share `quantile` of all samples does not exceed, where `infinite` more samples
/// never came: `None` when it falls among those, or there are no samples at all.
///
/// The rank is `ceil(quantile * n)`, at least one, as HdrHistogram has it.
#[must_use]
pub fn quantile(histogram: &Histogram<u64>, infinite: u64, quantile: f64) -> Option<u64> {
    let finite = histogram.len();
    let all = finite + infinite;
    let rank = ((quantile * all as f64).ceil() as u64).max(1);
    if rank > finite {
        return None;
    }
    // The middle of the rank, so that rounding cannot reach its neighbours.
    Some(histogram.value_at_quantile((rank as f64 - 0.5) / finite as f64))
}

#[cfg(test)]
mod tests {
    use super::{HIGHEST_NS, Metric, Recorder, empty, quantile};

    #[test]
    fn percentiles_are_those_computed_by_hand() {
        let mut histogram = empty();
        for value in 1..=1000 {
            histogram.record(value).unwrap();
        }
        for (share, value) in [(0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999), (1.0, 1000), (0.0, 1)] {
            assert_eq!(quantile(&histogram, 0, share), Some(value), "{share}");
        }
    }

    #[test]
    fn ranks_round_up() {
        let mut histogram = empty();
        for value in [10, 20, 30] {
            histogram.record(value).unwrap();
        }
        // ceil(0.5 * 3) = 2, ceil(0.9 * 3) = 3, ceil(1/3 * 3) = 1.
        assert_eq!(quantile(&histogram, 0, 0.5), Some(20));
        assert_eq!(quantile(&histogram, 0, 0.9), Some(30));
        assert_eq!(quantile(&histogram, 0, 1.0 / 3.0), Some(10));
        assert_eq!(quantile(&empty(), 0, 0.5), None);
    }

    #[test]
    fn the_undelivered_are_infinitely_late() {
        let mut histogram = empty();
        for value in 1..=98 {
            histogram.record(value).unwrap();
        }
        // 100 samples with the two that never came: rank 98 is the last finite one.
        assert_eq!(quantile(&histogram, 2, 0.98), Some(98));
        assert_eq!(quantile(&histogram, 2, 0.99), None);
        assert_eq!(quantile(&histogram, 2, 0.5), Some(50));
        assert_eq!(quantile(&empty(), 2, 0.5), None);
    }

    #[test]
    fn a_sum_is_one_big_histogram() {
        let (mut one, mut two, mut both) = (Recorder::default(), Recorder::default(), Recorder::default());
        for value in 0..5000 {
            let ns = value * value;
            (if value % 3 == 0 { &mut one } else { &mut two }).record(Metric::Service, ns);
            both.record(Metric::Service, ns);
        }
        let mut poured = Recorder::default();
        poured.add(&one);
        poured.add(&two);
        assert_eq!(poured.of(Metric::Service), both.of(Metric::Service));
        poured.clear();
        poured.merge(Metric::Service, both.of(Metric::Service)).unwrap();
        assert_eq!(poured.of(Metric::Service), both.of(Metric::Service));
        one.add(&two);
        assert_eq!(one.of(Metric::Service), both.of(Metric::Service));
        one.clear();
        assert!(one.of(Metric::Service).is_empty());
    }

    #[test]
    fn what_has_no_values_takes_no_memory() {
        let mut recorder = Recorder::default();
        recorder.record(Metric::Ack, 5);
        recorder.add(&Recorder::default());
        assert_eq!(recorder.histograms.iter().flatten().count(), 1);
        assert!(recorder.of(Metric::Message).is_empty() && recorder.lobby().is_empty());
    }

    #[test]
    fn values_beyond_the_range_count_as_the_highest() {
        let mut recorder = Recorder::default();
        recorder.record(Metric::Ack, u64::MAX);
        recorder.record(Metric::Ack, 0);
        assert_eq!(recorder.of(Metric::Ack).len(), 2);
        assert!(recorder.of(Metric::Ack).max() >= HIGHEST_NS);
    }
}
