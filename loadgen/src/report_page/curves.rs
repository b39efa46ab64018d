//! What charts show of histograms: percentile curves, and a run in at most some hundred stretches.
//!
//! # Invariants
//! - Percentiles are those of merged histograms, never averaged.
//! - Whatever a chart shows as a percentile comes from [`quantile`], as the verdict does.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::chart::Point;
use super::scale::Scale;
use crate::interval_log::Interval;
use crate::recorder::{Recorder, quantile};

/// Points of a percentile curve: one every few pixels.
const CURVE_POINTS: u32 = 160;

/// Stretches of a run that a chart over time shows at most: a point every four pixels.
pub(super) const STRETCHES_MAX: usize = 200;

/// The samples of one metric: those that came, and how many never did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples<'a> {
    /// Those that came.
    pub(super) histogram: &'a Histogram<u64>,
    /// Those that never came.
    pub(super) infinite: u64,
}

impl Samples<'_> {
    /// All of them.
    pub(super) fn count(&self) -> u64 {
        self.histogram.len() + self.infinite
    }

    /// The value that a share of them does not exceed; `None` if it never came.
    pub(super) fn at(&self, share: f64) -> Option<u64> {
        quantile(self.histogram, self.infinite, share)
    }
}

/// The percentile curve of `samples`, up to the largest one. A curve that reaches what never came leaves
/// through the top.
pub(super) fn percentile_curve(samples: &Samples<'_>, x: Scale, y: Scale) -> Vec<Option<Point>> {
    let count = samples.count();
    if count == 0 {
        return Vec::new();
    }
    // Behind the share that leaves one sample out there is only the largest.
    let last = x.place(1.0 - 1.0 / count as f64);
    let mut points = Vec::new();
    for step in 0..=CURVE_POINTS {
        let place = last * f64::from(step) / f64::from(CURVE_POINTS);
        let share = if step == CURVE_POINTS { 1.0 } else { x.value(place) };
        if let Some(ns) = samples.at(share) {
            points.push(Some((place, y.place(ns as f64))));
        } else {
            points.push(Some((place, 1.0)));
            break;
        }
    }
    points
}

/// A stretch of the steady phase, as a chart over time shows it.
#[derive(Debug)]
pub(super) struct Stretch {
    /// From the start of the steady phase.
    pub(super) start: Duration,
    /// How long it is.
    pub(super) length: Duration,
    /// All that was measured in it.
    pub(super) recorder: Box<Recorder>,
}

impl Stretch {
    /// Its middle, in nanoseconds.
    pub(super) fn middle_ns(&self) -> f64 {
        (self.start + self.length / 2).as_nanos() as f64
    }

    /// So many, by the second.
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.length.as_secs_f64()
    }
}

/// Merges the intervals of a steady phase of this `duration` into [`STRETCHES_MAX`] stretches at most, of
/// so many whole seconds each; the last may be shorter. A stretch without samples is there and empty.
pub(super) fn stretches(intervals: &[Interval], duration: Duration) -> Vec<Stretch> {
    let seconds = duration.as_secs_f64().ceil() as usize;
    let length = Duration::from_secs(seconds.div_ceil(STRETCHES_MAX).max(1) as u64);
    let mut stretches: Vec<_> = (0..seconds.div_ceil(length.as_secs() as usize) as u32)
        .map(|number| {
            let start = length * number;
            Stretch { start, length: length.min(duration - start), recorder: Box::default() }
        })
        .collect();
    for interval in intervals {
        let number = (interval.start.as_secs() / length.as_secs()) as usize;
        if let Some(stretch) = stretches.get_mut(number) {
            stretch.recorder.add(&interval.recorder);
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::{STRETCHES_MAX, Samples, percentile_curve, stretches};
    use crate::interval_log::Interval;
    use crate::recorder::{Metric, Recorder, empty, quantile};
    use crate::report_page::scale::Scale;
    use std::time::Duration;

    #[test]
    fn a_curve_ends_at_the_largest_sample() {
        let mut histogram = empty();
        for value in 1..=1000 {
            histogram.record(value * 1000).unwrap();
        }
        let samples = Samples { histogram: &histogram, infinite: 0 };
        let (x, y) = (Scale::hdr(1000), Scale::log(1000, 1_000_000));
        let curve = percentile_curve(&samples, x, y);
        let (last_x, last_y) = curve.last().unwrap().unwrap();
        assert!((last_x - x.place(0.999)).abs() < 1e-9 && last_y > 0.999, "{last_x} {last_y}");
        // It only rises, to the right and upwards.
        let points: Vec<_> = curve.into_iter().flatten().collect();
        assert!(points.is_sorted_by(|left, right| left.0 <= right.0 && left.1 <= right.1));
    }

    #[test]
    fn a_curve_leaves_through_the_top_where_samples_never_came() {
        let mut histogram = empty();
        for value in 1..=90 {
            histogram.record(value * 1000).unwrap();
        }
        let samples = Samples { histogram: &histogram, infinite: 10 };
        let (x, y) = (Scale::hdr(100), Scale::log(1000, 10_000_000));
        let curve = percentile_curve(&samples, x, y);
        let [before, top] = curve[curve.len() - 2..] else { panic!("it has two points") };
        assert!(before.unwrap().1 < 0.6);
        assert_eq!(top.unwrap().1, 1.0);
        assert!((top.unwrap().0 - x.place(0.9)).abs() < 0.02, "{top:?}");
        assert!(percentile_curve(&Samples { histogram: &empty(), infinite: 0 }, x, y).is_empty());
    }

    #[test]
    fn a_long_run_is_merged_and_keeps_its_percentiles() {
        // One second in ten is slow: a mean of percentiles would hide it.
        let intervals: Vec<_> =
            (0..600).map(|second| interval(second, if second % 10 == 0 { 9000 } else { 10 })).collect();
        let stretches = stretches(&intervals, Duration::from_secs(600));
        assert_eq!(stretches.len(), STRETCHES_MAX);
        assert!(stretches.iter().all(|stretch| stretch.length == Duration::from_secs(3)));
        assert_eq!(stretches[1].start, Duration::from_secs(3));
        let messages = stretches[0].recorder.of(Metric::Message);
        assert_eq!(messages.len(), 3);
        assert_eq!((quantile(messages, 0, 0.5), messages.max() >= 9000), (Some(10), true));
        assert_eq!(stretches[0].per_second(messages.len()), 1.0);
    }

    #[test]
    fn a_short_run_keeps_its_seconds_and_its_gaps() {
        let intervals = [interval(0, 5), interval(2, 6), interval(9, 7)];
        let stretches = stretches(&intervals, Duration::from_millis(2500));
        let counts: Vec<_> = stretches.iter().map(|stretch| stretch.recorder.of(Metric::Message).len()).collect();
        assert_eq!(counts, [1, 0, 1]);
        assert_eq!(stretches[1].middle_ns(), 1.5e9);
        assert_eq!(stretches[2].per_second(1), 2.0);
    }

    fn interval(start: u64, value: u64) -> Interval {
        let mut recorder = Box::<Recorder>::default();
        recorder.record(Metric::Message, value);
        Interval { start: Duration::from_secs(start), length: Duration::from_secs(1), recorder }
    }
}
