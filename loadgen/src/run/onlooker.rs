//! Gathers what is shown of a run while it goes on: numbers that workers leave now and then, and the
//! histograms that they hand over each second. Workers are not asked for anything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::SECOND_NS;
use crate::live::{Figures, Glance};
use crate::plan::{Rate, RunPlan};
use crate::recorder::{Metric, Recorder, quantile};
use crate::schedule::Profile;
use crate::worker::Handle;

/// How often numbers are read.
const READ_EVERY_NS: u64 = 200_000_000;

/// Rates are those of so long a time: long enough that what a worker writes ten times a second counts as
/// even, short enough to show a stall.
const WINDOW_NS: u64 = 2 * SECOND_NS;

/// The numbers at one moment.
#[derive(Clone, Debug)]
struct Reading {
    at_ns: u64,
    sent: u64,
    delivered: u64,
    /// By worker.
    worked_ns: Vec<u64>,
}

/// Who looks on.
#[derive(Debug)]
pub(super) struct Onlooker {
    /// How messages are due; `None` if acks set the pace, or there are none.
    profile: Option<Profile>,
    /// When the first message is due, once that is settled.
    begin_ns: Option<u64>,
    end_ns: u64,
    /// From old to new, [`WINDOW_NS`] long.
    readings: VecDeque<Reading>,
    /// Of the steady phase so far.
    recorder: Box<Recorder>,
    figures: Figures,
}

impl Onlooker {
    pub(super) fn new(plan: &RunPlan) -> Self {
        Self {
            profile: if plan.workload.rate == Rate::Idle { None } else { plan.workload.profile() },
            begin_ns: None,
            end_ns: 0,
            readings: VecDeque::new(),
            recorder: Box::default(),
            figures: Figures::default(),
        }
    }

    /// Messages are due from `begin_ns` to `end_ns`.
    pub(super) fn begin(&mut self, begin_ns: u64, end_ns: u64) {
        (self.begin_ns, self.end_ns) = (Some(begin_ns), end_ns);
    }

    /// Takes what all workers measured in a second of the steady phase.
    pub(super) fn add(&mut self, recorder: &Recorder) {
        self.recorder.add(recorder);
        self.figures.message = glance(self.recorder.of(Metric::Message));
        self.figures.lobby = glance(&self.recorder.lobby());
        self.figures.send_lag_p99_ns = quantile(self.recorder.of(Metric::SendLag), 0, 0.99);
    }

    /// Reads the workers' numbers, if it is time: `None` if it is not.
    pub(super) fn look(&mut self, workers: &[Handle], now_ns: u64) -> Option<&Figures> {
        if self.readings.back().is_some_and(|last| now_ns < last.at_ns + READ_EVERY_NS) {
            return None;
        }
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let sum = |number: fn(&Handle) -> &AtomicU64| workers.iter().map(|worker| read(number(worker))).sum::<u64>();
        let reading = Reading {
            at_ns: now_ns,
            sent: sum(|worker| &worker.gauge.sent),
            delivered: sum(|worker| &worker.gauge.delivered),
            worked_ns: workers.iter().map(|worker| read(&worker.gauge.worked_ns)).collect(),
        };
        self.figures.connected = sum(|worker| &worker.gauge.active);
        self.figures.errors = sum(|worker| &worker.gauge.errors);
        self.take(reading);
        Some(&self.figures)
    }

    fn take(&mut self, reading: Reading) {
        // The oldest that is kept is the last one before the window, so that it is always full.
        while self.readings.get(1).is_some_and(|second| second.at_ns + WINDOW_NS <= reading.at_ns) {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
        let (Some(old), Some(new)) = (self.readings.front(), self.readings.back()) else { return };
        let figures = &mut self.figures;
        (figures.sent, figures.delivered) = (new.sent, new.delivered);
        let elapsed_ns = new.at_ns - old.at_ns;
        if elapsed_ns == 0 {
            return;
        }
        let seconds = Duration::from_nanos(elapsed_ns).as_secs_f64();
        let per_second = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        figures.sent_per_second = per_second(old.sent, new.sent);
        figures.delivered_per_second = per_second(old.delivered, new.delivered);
        figures.busy = old
            .worked_ns
            .iter()
            .zip(&new.worked_ns)
            .map(|(old, new)| (new.saturating_sub(*old) as f64 / elapsed_ns as f64).min(1.0))
            .collect();
        figures.due_per_second = self.begin_ns.zip(self.profile.as_ref()).map(|(begin_ns, profile)| {
            let by = |ns: u64| profile.count_by(ns.min(self.end_ns).saturating_sub(begin_ns));
            (by(new.at_ns) - by(old.at_ns)) / seconds
        });
    }
}

fn glance(histogram: &Histogram<u64>) -> Option<Glance> {
    Some(Glance {
        n: histogram.len(),
        p50_ns: quantile(histogram, 0, 0.5)?,
        p99_ns: quantile(histogram, 0, 0.99)?,
        max_ns: histogram.max(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Onlooker, Reading};
    use crate::live::Figures;
    use crate::recorder::{Metric, Recorder};
    use crate::schedule::Profile;
    use std::collections::VecDeque;

    fn onlooker() -> Onlooker {
        Onlooker {
            profile: Some(Profile::from(1000.0)),
            begin_ns: Some(1_000_000_000),
            end_ns: 5_000_000_000,
            readings: VecDeque::new(),
            recorder: Box::default(),
            figures: Figures::default(),
        }
    }

    fn reading(at_ms: u64, sent: u64) -> Reading {
        Reading { at_ns: at_ms * 1_000_000, sent, delivered: sent / 2, worked_ns: vec![at_ms * 250_000, 0] }
    }

    #[test]
    fn rates_are_of_the_last_two_seconds() {
        let mut onlooker = onlooker();
        onlooker.take(reading(1000, 0));
        assert_eq!(onlooker.figures.sent_per_second, 0.0);
        // A thousand a second for a second, then nothing.
        for at_ms in (1200..=5200).step_by(200) {
            onlooker.take(reading(at_ms, (at_ms - 1000).min(1000)));
            if at_ms == 2000 {
                assert_eq!(onlooker.figures.sent_per_second, 1000.0);
                assert_eq!(onlooker.figures.delivered_per_second, 500.0);
                assert_eq!(onlooker.figures.busy, [0.25, 0.0]);
            }
        }
        assert_eq!((onlooker.figures.sent, onlooker.figures.sent_per_second), (1000, 0.0));
        assert!(onlooker.readings.len() <= 12, "{}", onlooker.readings.len());
        // Nothing was due in the last fifth of a second.
        assert_eq!(onlooker.figures.due_per_second, Some(900.0));
    }

    #[test]
    fn percentiles_are_those_of_all_seconds_together() {
        let mut onlooker = onlooker();
        for ns in [100, 200, 300] {
            let mut second = Recorder::default();
            second.record(Metric::Message, ns);
            second.record(Metric::LobbyLeave, ns * 2);
            onlooker.add(&second);
        }
        let message = onlooker.figures.message.unwrap();
        assert_eq!((message.n, message.p50_ns, message.p99_ns, message.max_ns), (3, 200, 300, 300));
        assert_eq!(onlooker.figures.lobby.unwrap().p50_ns, 400);
        assert_eq!(onlooker.figures.send_lag_p99_ns, None);
    }
}
