//! Collects, while a run goes on, what tells the generator's part in its figures.

use std::collections::BTreeSet;
use std::io;

use super::RunResult;
use crate::hiccup::{Heartbeats, Hiccups};
use crate::interference::{self, Counters, Interference, RelayCores};
use crate::plan::{Moments, Rate, RunPlan};
use crate::recorder::{Metric, quantile};
use crate::summary::HeartbeatRecord;
use crate::validity::{Evidence, Heartbeat, Load, Pace};

/// What watches the machine during a run.
pub(super) struct Witness {
    heartbeats: Heartbeats,
    /// Cores that workers are kept on.
    cores: Vec<usize>,
    begin: Option<Counters>,
    end: Option<Counters>,
    relay_cores: Option<RelayCores>,
}

/// What was seen of the machine.
#[derive(Debug, Default)]
pub struct Testimony {
    /// Each heartbeat.
    pub heartbeats: Vec<HeartbeatRecord>,
    /// What others took.
    pub interference: Interference,
    /// Cores that a worker and a thread of the relay are both kept on.
    pub same_cores: Vec<usize>,
    /// Cores that both may use.
    pub common_cores: Vec<usize>,
}

impl Witness {
    /// Starts the heartbeats.
    pub(super) fn start(plan: &RunPlan) -> io::Result<Self> {
        let mut cores: Vec<_> = (0..plan.workers).filter_map(|worker| plan.core_of(worker)).collect();
        cores.sort_unstable();
        cores.dedup();
        let heartbeats = Heartbeats::start(plan.clock, &cores)?;
        Ok(Self { heartbeats, cores, begin: None, end: None, relay_cores: None })
    }

    /// The run's moments are settled. `relay` is the process of the relay, if it is on this machine.
    pub(super) fn watch(&mut self, moments: &Moments, relay: Option<u32>) {
        self.heartbeats.watch(moments);
        self.relay_cores = relay.and_then(RelayCores::of);
    }

    /// The steady phase begins.
    pub(super) fn begin(&mut self) {
        self.begin = Some(Counters::read(&self.cores));
    }

    /// The steady phase ends.
    pub(super) fn end(&mut self) {
        self.end = Some(Counters::read(&self.cores));
    }

    /// Ends the heartbeats, and says what was seen.
    pub(super) fn testify(&mut self) -> Testimony {
        let (same_cores, common_cores) = self.relay_cores.as_ref().map_or_else(Default::default, |relay| {
            shared(relay, &self.cores.iter().copied().collect(), &interference::own_cores())
        });
        Testimony {
            heartbeats: self.heartbeats.end().iter().map(record).collect(),
            interference: self.end.zip(self.begin).map(|(end, begin)| end.since(&begin)).unwrap_or_default(),
            same_cores,
            common_cores,
        }
    }
}

fn record(seen: &Hiccups) -> HeartbeatRecord {
    HeartbeatRecord {
        core: seen.core,
        late: crate::summary::MetricSummary::of(&seen.late, 0),
        long_stalls: seen.long_stalls,
        stalled_ns: seen.stalled_ns,
    }
}

/// Cores that both are kept on, and cores that both may use. Workers are kept on `pinned`; if that is
/// empty they may use all that are `allowed`.
fn shared(relay: &RelayCores, pinned: &BTreeSet<usize>, allowed: &BTreeSet<usize>) -> (Vec<usize>, Vec<usize>) {
    let workers = if pinned.is_empty() { allowed } else { pinned };
    let kept = if pinned.is_empty() && allowed.len() > 1 { &BTreeSet::new() } else { workers };
    let both = |one: &BTreeSet<usize>, other: &BTreeSet<usize>| one.intersection(other).copied().collect();
    (both(kept, &relay.pinned), both(workers, &relay.allowed))
}

/// What is known of the generator's part in a run.
pub(super) fn evidence(result: &RunResult) -> Evidence {
    let (plan, seen) = (&result.plan, &result.testimony);
    let sum = |count: fn(&crate::worker::WorkerHealth) -> u64| {
        result.workers.iter().map(|worker| count(&worker.health)).sum::<u64>()
    };
    let steady_ns = crate::clock::to_ns(plan.workload.duration);
    let load = |worker: &crate::summary::WorkerRecord| {
        Some(Load {
            busy: worker.health.busy?,
            waited: worker.health.waited_ns.map(|ns| ns as f64 / steady_ns.max(1) as f64),
        })
    };
    Evidence {
        pace: match plan.workload.rate {
            Rate::Idle => Pace::Idle,
            Rate::PerSecond(_) | Rate::Ramp(_) => Pace::Open,
            Rate::Max { .. } => Pace::Closed,
        },
        steady_ns,
        send_lag_p99_ns: quantile(result.recorder.of(Metric::SendLag), 0, 0.99),
        tightest_ns: plan.slo.tightest_ns(),
        strictest: plan.slo.strictest(),
        due: result.steady.due,
        in_time: result.steady.in_time,
        blocked: result.recorder.of(Metric::Blocked).len() + result.ledger.blocked,
        loads: result.workers.iter().filter_map(load).collect(),
        heartbeats: seen
            .heartbeats
            .iter()
            .map(|beat| Heartbeat {
                core: beat.core,
                long_stalls: beat.long_stalls,
                stalled_ns: beat.stalled_ns,
                worst_ns: beat.late.max.unwrap_or(0),
            })
            .collect(),
        interference: seen.interference,
        same_cores: seen.same_cores.clone(),
        common_cores: seen.common_cores.clone(),
        starved: sum(|health| health.starved),
        expired: sum(|health| health.expired),
        visits: result.steady.joins,
        visits_missed: sum(|health| health.visits_missed),
    }
}

#[cfg(test)]
mod tests {
    use super::shared;
    use crate::interference::RelayCores;
    use std::collections::BTreeSet;

    #[test]
    fn being_kept_on_one_core_is_told_from_being_able_to_meet() {
        let set = |cores: &[usize]| cores.iter().copied().collect::<BTreeSet<_>>();
        let relay = |pinned: &[usize], allowed: &[usize]| RelayCores { pinned: set(pinned), allowed: set(allowed) };
        let (none, all) = (set(&[]), set(&[0, 1]));
        // A relay that floats, or is kept on both, and a generator that floats.
        assert_eq!(shared(&relay(&[], &[0, 1]), &none, &all), (vec![], vec![0, 1]));
        assert_eq!(shared(&relay(&[0, 1], &[0, 1]), &none, &all), (vec![], vec![0, 1]));
        // Each on its own.
        assert_eq!(shared(&relay(&[0], &[0]), &set(&[1]), &all), (vec![], vec![]));
        assert_eq!(shared(&relay(&[0], &[0]), &set(&[0]), &all), (vec![0], vec![0]));
        // The whole generator was started on one core.
        assert_eq!(shared(&relay(&[0], &[0]), &none, &set(&[0])), (vec![0], vec![0]));
    }
}
