//! Runs as they are resampled: each second of each run with its counts, and sums of such.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;

use super::figure::{Figure, NEVER_NS, Series};
use crate::archive::Archive;
use crate::recorder::{Metric, Recorder};

/// A histogram's buckets that hold something: the value that stands for each, and its samples.
pub(super) type Sparse = Vec<(u64, u64)>;

/// One second of a run, or what is left at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    /// Response times.
    pub(super) message: Sparse,
    /// Messages that never came; the run's are shared out over its seconds.
    pub(super) never: f64,
    /// Times to acks.
    pub(super) ack: Sparse,
    /// Acks that never came, shared out likewise.
    pub(super) ack_never: f64,
    /// Joins and leaves.
    pub(super) lobby: Sparse,
    /// Joins and leaves that were never seen, shared out likewise.
    pub(super) lobby_never: f64,
    /// Messages delivered.
    pub(super) delivered: f64,
    /// Its length in seconds.
    pub(super) length: f64,
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// When its steady phase began.
    pub(super) began: SystemTime,
    pub(super) seconds: Vec<Second>,
    /// CPU time of a spawned relay in nanoseconds, and the messages that it was for.
    pub(super) cpu: Option<(f64, f64)>,
}

impl Run {
    /// Takes what is compared out of a finished run.
    pub(super) fn of(archive: &Archive) -> Self {
        let count = |of: fn(&Recorder) -> u64| archive.steady().iter().map(|second| of(&second.recorder)).sum::<u64>();
        let messages = count(|recorder| recorder.of(Metric::Message).len());
        let acks = count(|recorder| recorder.of(Metric::Ack).len());
        let sightings = count(|recorder| recorder.lobby().len());
        let missing = archive.missing();
        let steady = &archive.summary.steady;
        let share = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
        let seconds = archive.steady().iter().map(|second| {
            let (count, lobby) = (second.recorder.of(Metric::Message).len(), second.recorder.lobby());
            let ack = second.recorder.of(Metric::Ack);
            Second {
                ack: sparse(ack),
                ack_never: missing.of(Metric::Ack) as f64 * share(ack.len(), acks),
                message: sparse(second.recorder.of(Metric::Message)),
                never: missing.of(Metric::Message) as f64 * share(count, messages),
                lobby_never: missing.lobby() as f64 * share(lobby.len(), sightings),
                lobby: sparse(&lobby),
                delivered: steady.delivered_within as f64 * share(count, messages),
                length: second.length.as_secs_f64(),
            }
        });
        let cpu = archive.summary.relay.as_ref().filter(|relay| relay.cpu_ns_per_message.is_some()).map(|relay| {
            let ns = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
            (ns as f64, steady.delivered_within as f64)
        });
        Self { began: archive.began, seconds: seconds.collect(), cpu }
    }

    /// All its seconds as one.
    fn whole(&self) -> Second {
        let total = |part: fn(&Second) -> f64| self.seconds.iter().map(part).sum();
        let buckets = |series: fn(&Second) -> &Sparse| added(self.seconds.iter().flat_map(series).copied());
        Second {
            message: buckets(|second| &second.message),
            never: total(|second| second.never),
            ack: buckets(|second| &second.ack),
            ack_never: total(|second| second.ack_never),
            lobby: buckets(|second| &second.lobby),
            lobby_never: total(|second| second.lobby_never),
            delivered: total(|second| second.delivered),
            length: total(|second| second.length),
        }
    }
}

/// Buckets of several histograms as those of one.
fn added(buckets: impl Iterator<Item = (u64, u64)>) -> Sparse {
    let mut sum = BTreeMap::new();
    for (value, count) in buckets {
        *sum.entry(value).or_insert(0) += count;
    }
    sum.into_iter().collect()
}

fn sparse(histogram: &Histogram<u64>) -> Sparse {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// The values that buckets of any run stand for, in order: what sums of histograms are indexed by.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    message: Vec<u64>,
    ack: Vec<u64>,
    lobby: Vec<u64>,
}

impl Scale {
    pub(super) fn of(a: &[Run], b: &[Run]) -> Self {
        let values = |series: fn(&Second) -> &Sparse| {
            let all = a.iter().chain(b).flat_map(|run| &run.seconds).flat_map(series);
            let mut values: Vec<u64> = all.map(|&(value, _)| value).collect();
            values.sort_unstable();
            values.dedup();
            values
        };
        Self {
            message: values(|second| &second.message),
            ack: values(|second| &second.ack),
            lobby: values(|second| &second.lobby),
        }
    }
}

/// Runs whose buckets are numbered by a [`Scale`].
#[derive(Clone, Debug)]
pub(super) struct Indexed {
    /// By run, by second.
    pub(super) runs: Vec<IndexedRun>,
}

#[derive(Clone, Debug)]
pub(super) struct IndexedRun {
    pub(super) seconds: Vec<IndexedSecond>,
    /// All seconds together.
    whole: IndexedSecond,
    cpu: Option<(f64, f64)>,
}

#[derive(Clone, Debug)]
pub(super) struct IndexedSecond {
    message: Vec<(usize, f64)>,
    ack: Vec<(usize, f64)>,
    lobby: Vec<(usize, f64)>,
    never: f64,
    ack_never: f64,
    lobby_never: f64,
    delivered: f64,
    length: f64,
}

impl Indexed {
    pub(super) fn new(runs: &[Run], scale: &Scale) -> Self {
        // Every value is on the scale, which was made of all runs.
        let place = |values: &[u64], value: u64| values.binary_search(&value).unwrap_or_else(|at| at);
        let second = |second: &Second| IndexedSecond {
            message: second.message.iter().map(|&(value, n)| (place(&scale.message, value), n as f64)).collect(),
            ack: second.ack.iter().map(|&(value, n)| (place(&scale.ack, value), n as f64)).collect(),
            lobby: second.lobby.iter().map(|&(value, n)| (place(&scale.lobby, value), n as f64)).collect(),
            never: second.never,
            ack_never: second.ack_never,
            lobby_never: second.lobby_never,
            delivered: second.delivered,
            length: second.length,
        };
        let run = |run: &Run| IndexedRun {
            whole: second(&run.whole()),
            seconds: run.seconds.iter().map(second).collect(),
            cpu: run.cpu,
        };
        Self { runs: runs.iter().map(run).collect() }
    }
}

/// A weighted sum of seconds and runs.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    message: Vec<f64>,
    never: f64,
    ack: Vec<f64>,
    ack_never: f64,
    lobby: Vec<f64>,
    lobby_never: f64,
    delivered: f64,
    length: f64,
    cpu_ns: f64,
    cpu_messages: f64,
}

impl Sum {
    pub(super) fn new(scale: &Scale) -> Self {
        Self {
            message: vec![0.0; scale.message.len()],
            never: 0.0,
            ack: vec![0.0; scale.ack.len()],
            ack_never: 0.0,
            lobby: vec![0.0; scale.lobby.len()],
            lobby_never: 0.0,
            delivered: 0.0,
            length: 0.0,
            cpu_ns: 0.0,
            cpu_messages: 0.0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.message.fill(0.0);
        self.ack.fill(0.0);
        self.lobby.fill(0.0);
        self.ack_never = 0.0;
        (self.never, self.lobby_never, self.delivered, self.length) = (0.0, 0.0, 0.0, 0.0);
        (self.cpu_ns, self.cpu_messages) = (0.0, 0.0);
    }

    /// Adds one second of a run, so many times.
    pub(super) fn add_second(&mut self, second: &IndexedSecond, times: f64) {
        for &(at, count) in &second.message {
            self.message[at] += count * times;
        }
        for &(at, count) in &second.ack {
            self.ack[at] += count * times;
        }
        for &(at, count) in &second.lobby {
            self.lobby[at] += count * times;
        }
        self.never += second.never * times;
        self.ack_never += second.ack_never * times;
        self.lobby_never += second.lobby_never * times;
        self.delivered += second.delivered * times;
        self.length += second.length * times;
    }

    /// Adds the CPU time of a run.
    pub(super) fn add_cpu(&mut self, run: &IndexedRun) {
        if let Some((ns, messages)) = run.cpu {
            self.cpu_ns += ns;
            self.cpu_messages += messages;
        }
    }

    /// Adds a run with all its seconds.
    pub(super) fn add_run(&mut self, run: &IndexedRun) {
        self.add_second(&run.whole, 1.0);
        self.add_cpu(run);
    }

    /// Samples above a percentile: with few of them it is chance.
    pub(super) fn samples_above(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Percentile { series, percent } => {
                let (counts, never) = match series {
                    Series::Message => (&self.message, self.never),
                    Series::Ack => (&self.ack, self.ack_never),
                    Series::Lobby => (&self.lobby, self.lobby_never),
                };
                (counts.iter().sum::<f64>() + never) * (1.0 - percent / 100.0)
            }
            Figure::Throughput => self.delivered,
            Figure::Cpu => self.cpu_messages,
        }
    }

    /// The figures' values, in their order, which is that of [`Figure::all`]; `None` where there is
    /// nothing to tell it from.
    pub(super) fn values(&self, figures: &[Figure], scale: &Scale) -> Vec<Option<f64>> {
        let ratio = |above: f64, below: f64| (above > 0.0 && below > 0.0).then(|| above / below);
        let mut message = Climb::new(&scale.message, &self.message, self.never);
        let mut ack = Climb::new(&scale.ack, &self.ack, self.ack_never);
        let mut lobby = Climb::new(&scale.lobby, &self.lobby, self.lobby_never);
        let value = |&figure: &Figure| match figure {
            Figure::Percentile { series: Series::Message, percent } => message.up_to(percent),
            Figure::Percentile { series: Series::Ack, percent } => ack.up_to(percent),
            Figure::Percentile { series: Series::Lobby, percent } => lobby.up_to(percent),
            Figure::Throughput => ratio(self.delivered, self.length),
            Figure::Cpu => ratio(self.cpu_ns, self.cpu_messages),
        };
        figures.iter().map(value).collect()
    }
}

/// Climbs through a sum's buckets, from percentile to higher percentile.
struct Climb<'a> {
    buckets: std::iter::Zip<std::slice::Iter<'a, u64>, std::slice::Iter<'a, f64>>,
    all: f64,
    /// Samples in the buckets so far, and the value of the last of them.
    seen: f64,
    value: f64,
}

impl<'a> Climb<'a> {
    fn new(values: &'a [u64], counts: &'a [f64], never: f64) -> Self {
        let all = counts.iter().sum::<f64>() + never;
        Self { buckets: values.iter().zip(counts), all, seen: 0.0, value: 0.0 }
    }

    /// The value that so many percent of all samples do not exceed; [`NEVER_NS`] among those that
    /// never came.
    fn up_to(&mut self, percent: f64) -> Option<f64> {
        if self.all <= 0.0 {
            return None;
        }
        // Half a sample below the rank, so that rounding cannot reach its neighbours.
        let rank = (percent / 100.0 * self.all).ceil().max(1.0) - 0.5;
        while self.seen < rank {
            let Some((&value, &count)) = self.buckets.next() else { return Some(NEVER_NS) };
            self.seen += count;
            self.value = value as f64;
        }
        Some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::{Indexed, Run, Scale, Second, Sum, sparse};
    use crate::compare::figure::{Figure, NEVER_NS, Series};
    use crate::recorder::{empty, quantile};
    use crate::rng::Rng;
    use std::time::SystemTime;

    fn message(percent: f64) -> Figure {
        Figure::Percentile { series: Series::Message, percent }
    }

    #[test]
    fn percentiles_of_sums_are_those_of_one_histogram() {
        let mut rng = Rng::new(5, 1);
        let mut all = empty();
        let seconds: Vec<Second> = (0..7)
            .map(|_| {
                let mut histogram = empty();
                for _ in 0..rng.below(900) {
                    let ns = rng.exponential(3e6) as u64 + 1;
                    histogram.record(ns).unwrap();
                    all.record(ns).unwrap();
                }
                Second { message: sparse(&histogram), never: 0.5, length: 1.0, delivered: 10.0, ..Second::default() }
            })
            .collect();
        let run = Run { began: SystemTime::UNIX_EPOCH, seconds, cpu: Some((300.0, 20.0)) };
        let scale = Scale::of(std::slice::from_ref(&run), &[]);
        let indexed = Indexed::new(&[run], &scale);
        let mut sum = Sum::new(&scale);
        sum.add_run(&indexed.runs[0]);
        sum.clear();
        sum.add_run(&indexed.runs[0]);
        // 3.5 of them never came.
        sum.never = 4.0;
        let figures: Vec<Figure> = Figure::all().collect();
        let percentile = |share| Some(quantile(&all, 4, share).map_or(NEVER_NS, |ns| ns as f64));
        let expected =
            [0.5, 0.9, 0.99, 0.999].map(percentile).into_iter().chain([None; 6]).chain([Some(10.0), Some(15.0)]);
        assert_eq!(sum.values(&figures, &scale), expected.collect::<Vec<_>>());
        sum.never = all.len() as f64 / 10.0;
        let (median, tail) = (sum.values(&figures, &scale)[0], sum.values(&figures, &scale)[2]);
        assert!(median < Some(NEVER_NS) && tail == Some(NEVER_NS), "{median:?} {tail:?}");
        sum.never = 4.0;
        assert!((sum.samples_above(message(90.0)) - (all.len() + 4) as f64 / 10.0).abs() < 1e-6);
    }
}
