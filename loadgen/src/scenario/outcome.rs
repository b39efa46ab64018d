//! What became of what was not steady: messages that are not judged, a storm, slow readers, who was offline.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::SECOND_NS;
use crate::ledger::LobbyOutcome;
use crate::plan::Workload;
use crate::recorder::{self, Metric, Recorder};
use crate::scenario;
use crate::summary::MetricSummary;
use crate::validity::{BUSY_MAX, Finding, FindingKind, Severity};

/// Messages set aside, over the whole run: their sender or their recipient was away in a storm, or
/// reads slowly. They are in no other count, and no target is judged by them.
///
/// `due = not_sent + sent`, and `sent = delivered + refused + lost`. A message under way when its
/// sender or recipient drops is moved here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Messages that were due.
    pub due: u64,
    /// Of those, the ones whose sender had no connection.
    pub not_sent: u64,
    /// Of those, the ones that were written.
    pub sent: u64,
    /// Of those, the ones that came. What a slow reader reads late is counted by its id alone.
    pub delivered: u64,
    /// Of those, the ones that the relay refused as `offline`, as it should, or for another reason,
    /// which is an error as well.
    pub refused: u64,
    /// Of those, the rest.
    pub lost: u64,
    /// Deliveries of what had been delivered before, to clients that came back and were told that
    /// the relay does not know what they have.
    pub repeated: u64,
}

impl Aside {
    /// Adds the counts of another worker or generator.
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.not_sent += other.not_sent;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.refused += other.refused;
        self.lost += other.lost;
        self.repeated += other.repeated;
    }
}

/// What a storm does to the count of acks of the steady phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckBalance {
    /// Acks of judged messages whose sender dropped before it got them.
    pub waived: u64,
    /// Acks that were measured, of messages that were set aside afterwards.
    pub surplus: u64,
}

/// A storm, as workers counted it.
#[derive(Clone, Debug, Default)]
pub struct StormCounts {
    /// When it began, on the run's clock.
    pub drop_ns: u64,
    /// Clients that dropped.
    pub dropped: u64,
    /// Clients that were welcomed again.
    pub logins: u64,
    /// When the last of them was.
    pub last_login_ns: u64,
    /// Attempts to come back that failed, and were made again.
    pub login_errors: u64,
    /// Clients that have all they need again, their lobby included.
    pub back: u64,
    /// What is to be said of acks.
    pub acks: AckBalance,
    /// How busy a worker was from the drop until the last of its clients was back, as a share of the
    /// core; `None` if that never was.
    pub busy: Option<f64>,
    /// Messages between clients that stayed, due while others were away.
    pub stayed_due: u64,
    /// Of those that came, the response time. `None` is empty.
    pub stayed: Option<Box<Histogram<u64>>>,
}

impl StormCounts {
    fn add(&mut self, other: &Self) {
        self.drop_ns = self.drop_ns.max(other.drop_ns);
        self.dropped += other.dropped;
        self.logins += other.logins;
        self.last_login_ns = self.last_login_ns.max(other.last_login_ns);
        self.login_errors += other.login_errors;
        self.back += other.back;
        self.acks.waived += other.acks.waived;
        self.acks.surplus += other.acks.surplus;
        self.busy = [self.busy, other.busy].into_iter().flatten().reduce(f64::max);
        self.stayed_due += other.stayed_due;
        add_times(&mut self.stayed, other.stayed.as_deref());
    }
}

/// Slow readers, as workers counted them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowReaderCounts {
    /// Clients that stopped reading.
    pub clients: u64,
    /// How their connections ended, and how many; the relay closing one with 4408 is as it should be.
    pub ended: BTreeMap<String, u64>,
    /// Clients whose connection was still there at the end of the run, when all read again.
    pub stayed: u64,
}

impl SlowReaderCounts {
    /// Adds the counts of another worker or generator.
    pub fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.stayed += other.stayed;
        for (how, count) in &other.ended {
            *self.ended.entry(how.clone()).or_default() += count;
        }
    }
}

/// Messages between others over a time: how many were due, and the response times of those that came.
pub type OfOthers = (u64, Option<Box<Histogram<u64>>>);

/// Who was offline, as workers counted it.
#[derive(Clone, Debug, Default)]
pub struct OfflineCounts {
    /// Clients that were.
    pub clients: u64,
    /// Of those, the ones that were welcomed again.
    pub back: u64,
    /// Of those, the ones that went on without a gap.
    pub recovered: u64,
    /// Attempts to come back that failed, and were made again.
    pub login_errors: u64,
    /// Messages to them that were written.
    pub sent: u64,
    /// Of those, the ones that were acked.
    pub acked: u64,
    /// Of those sent, the ones that were refused.
    pub refused: u64,
    /// Of those sent, the ones that came.
    pub delivered: u64,
    /// Clients for whom something still waited at the end.
    pub behind: u64,
    /// When the first of them sent its `auth` again.
    pub first_back_ns: Option<u64>,
    /// When the last message had come that waited; zero if none did.
    pub caught_up_ns: u64,
    /// Between others, due before the first came back.
    pub before: OfOthers,
    /// Between others, due from then on until the last had everything.
    pub meanwhile: OfOthers,
    /// Between others, due after that.
    pub after: OfOthers,
}

impl OfflineCounts {
    fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.back += other.back;
        self.recovered += other.recovered;
        self.login_errors += other.login_errors;
        self.sent += other.sent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.behind += other.behind;
        self.first_back_ns = [self.first_back_ns, other.first_back_ns].into_iter().flatten().min();
        self.caught_up_ns = self.caught_up_ns.max(other.caught_up_ns);
        let Self { before, meanwhile, after, .. } = self;
        for (own, others) in [(before, &other.before), (meanwhile, &other.meanwhile), (after, &other.after)] {
            own.0 += others.0;
            add_times(&mut own.1, others.1.as_deref());
        }
    }
}

fn add_times(own: &mut Option<Box<Histogram<u64>>>, others: Option<&Histogram<u64>>) {
    if let Some(others) = others {
        let own = own.get_or_insert_with(|| Box::new(recorder::empty()));
        // All have the same bounds.
        let _ = own.add(others);
    }
}

/// Who was offline, summed up. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfflineSummary {
    /// Clients that were offline while messages were sent to them.
    pub clients: u64,
    /// Of those, the ones that came back.
    pub back: u64,
    /// Of those, the ones that the relay told to go on without a gap.
    pub recovered: u64,
    /// Attempts to come back that failed, and were made again after a second.
    pub login_errors: u64,
    /// Messages to them that were written.
    pub sent: u64,
    /// Of those, the ones that were acked.
    pub acked: u64,
    /// Of those sent, the ones that were refused.
    pub refused: u64,
    /// Of those sent, the ones that came.
    pub delivered: u64,
    /// Clients that lacked something at the end.
    pub behind: u64,
    /// From the first `auth` of one who came back until the last message that waited had come; `None` if
    /// none ever did.
    pub catch_up_time: Option<u64>,
    /// Messages a second in that time.
    pub caught_up_per_second: Option<f64>,
    /// Response times between others, of messages due before the first came back.
    pub before: MetricSummary,
    /// The same, of those due from then on until the last had everything.
    pub meanwhile: MetricSummary,
    /// The same, of those due after that.
    pub after: MetricSummary,
}

impl From<&OfflineCounts> for OfflineSummary {
    fn from(counts: &OfflineCounts) -> Self {
        let catch_up_time =
            counts.first_back_ns.and_then(|back_ns| counts.caught_up_ns.checked_sub(back_ns)).filter(|&ns| ns > 0);
        let empty = recorder::empty();
        let others = |(due, times): &OfOthers| {
            let times = times.as_deref().unwrap_or(&empty);
            MetricSummary::of(times, due.saturating_sub(times.len()))
        };
        Self {
            clients: counts.clients,
            back: counts.back,
            recovered: counts.recovered,
            login_errors: counts.login_errors,
            sent: counts.sent,
            acked: counts.acked,
            refused: counts.refused,
            delivered: counts.delivered,
            behind: counts.behind,
            catch_up_time,
            caught_up_per_second: catch_up_time.map(|ns| counts.delivered as f64 * SECOND_NS as f64 / ns as f64),
            before: others(&counts.before),
            meanwhile: others(&counts.meanwhile),
            after: others(&counts.after),
        }
    }
}

/// A relay that was killed now and then, as workers and coordinator counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashCounts {
    /// Times it was killed and started again.
    pub kills: u64,
    /// From the kill until it listened again, added up and at most. Nanoseconds.
    pub down_ns: u64,
    /// The longest of these.
    pub down_longest_ns: u64,
    /// How connections ended, and how many.
    pub ended: BTreeMap<String, u64>,
    /// Clients that came back, each time.
    pub reconnects: u64,
    /// Of those, the ones that the relay told to go on without a gap.
    pub recovered: u64,
    /// Messages that were written again, byte for byte, since no ack had come.
    pub sent_again: u64,
    /// Of those, the ones that were acked as known.
    pub duplicate_acks: u64,
    /// Deliveries of what had come on an earlier connection: clients know it by its id.
    pub repeated: u64,
    /// Messages that were acked.
    pub acked: u64,
    /// Of those, the ones that did not come.
    pub lost: u64,
    /// The ids of some of them.
    pub lost_ids: Vec<String>,
}

impl CrashCounts {
    fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.down_ns += other.down_ns;
        self.down_longest_ns = self.down_longest_ns.max(other.down_longest_ns);
        for (how, count) in &other.ended {
            *self.ended.entry(how.clone()).or_default() += count;
        }
        self.reconnects += other.reconnects;
        self.recovered += other.recovered;
        self.sent_again += other.sent_again;
        self.duplicate_acks += other.duplicate_acks;
        self.repeated += other.repeated;
        self.acked += other.acked;
        self.lost += other.lost;
        self.lost_ids.extend_from_slice(&other.lost_ids);
    }
}

/// Everything that was not steady.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Messages set aside.
    pub aside: Aside,
    /// The storm, if there was to be one.
    pub storm: StormCounts,
    /// The slow readers, if there were to be some.
    pub slow_readers: SlowReaderCounts,
    /// Who was offline, if somebody was to be.
    pub offline: OfflineCounts,
    /// The relay that was killed, if it was to be.
    pub crash: CrashCounts,
}

impl Outcome {
    /// Adds what another worker counted.
    pub fn add(&mut self, other: &Self) {
        self.aside.add(&other.aside);
        self.storm.add(&other.storm);
        self.slow_readers.add(&other.slow_readers);
        self.offline.add(&other.offline);
        self.crash.add(&other.crash);
    }
}

/// A storm, summed up. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StormSummary {
    /// Clients that dropped.
    pub dropped: u64,
    /// Clients that are back, their lobby included.
    pub back: u64,
    /// Attempts to come back that failed, and were made again after a second.
    pub login_errors: u64,
    /// From the drop to the last login; `None` without any.
    pub last_login: Option<u64>,
    /// Logins a second from the drop to the last of them.
    pub logins_per_second: Option<f64>,
    /// Whether everybody came back and all lobbies were right again when the run ended. `None`
    /// without lobbies.
    pub converged: Option<bool>,
    /// From the last login until the last lobby was right; `None` if that never was.
    pub converge_time: Option<u64>,
    /// How busy the busiest worker was, from the drop until the last of its clients was back.
    pub busy: Option<f64>,
    /// Response time of messages between clients that stayed, due while others were away.
    pub message: MetricSummary,
}

impl StormSummary {
    /// Sums a storm up. `settled_ns` is when the last lobby became what it was at the end.
    #[must_use]
    pub fn new(counts: &StormCounts, lobby: &LobbyOutcome, settled_ns: u64) -> Self {
        let last_login = (counts.logins > 0).then(|| counts.last_login_ns - counts.drop_ns);
        let is_back = counts.back == counts.dropped;
        let converged = (lobby.clients > 0).then_some(is_back && lobby.diverged_at_end == 0);
        let empty = recorder::empty();
        let stayed = counts.stayed.as_deref().unwrap_or(&empty);
        Self {
            dropped: counts.dropped,
            back: counts.back,
            login_errors: counts.login_errors,
            last_login,
            logins_per_second: last_login.map(|ns| counts.logins as f64 * SECOND_NS as f64 / ns.max(1) as f64),
            converged,
            converge_time: converged
                .filter(|&converged| converged)
                .map(|_| settled_ns.saturating_sub(counts.last_login_ns)),
            busy: counts.busy,
            message: MetricSummary::of(stayed, counts.stayed_due.saturating_sub(stayed.len())),
        }
    }
}

impl StormSummary {
    /// Whether the generator, and not the relay, may have been what bounded the logins.
    #[must_use]
    pub fn is_floor(&self) -> bool {
        self.busy.is_some_and(|busy| busy > BUSY_MAX)
    }

    /// What there is to say of that.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let measured = format!("{:.0} %", self.busy.filter(|_| self.is_floor())? * 100.0);
        Some(Finding {
            kind: FindingKind::BusyWorker,
            severity: Severity::Warning,
            metric: Some("storm".to_owned()),
            text: format!("a worker was {measured} busy during the storm: the relay may log in faster than that"),
            measured,
            fix: "add --workers, on cores of their own".to_owned(),
        })
    }
}

/// One step of a rate that rises, or one stretch of an even rise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// When it begins, from the beginning of the steady phase.
    pub start_ms: u64,
    /// How long it is.
    pub length_ms: u64,
    /// Messages a second that are due in it.
    pub due_per_second: f64,
    /// Response time of what came in it; what was lost belongs to no step.
    pub message: MetricSummary,
    /// Send lag in it.
    pub send_lag: MetricSummary,
}

/// Sums the steps of a rising rate up, from recorders of a second each. Empty for any other rate.
#[must_use]
pub fn steps<'a>(workload: &Workload, seconds: impl IntoIterator<Item = &'a Recorder>) -> Vec<StepSummary> {
    let Some(lengths) = scenario::steps(workload) else { return Vec::new() };
    let profile = workload.profile().unwrap_or_else(|| 0.0.into());
    let warmup_ns = crate::clock::to_ns(workload.warmup);
    let mut seconds = seconds.into_iter();
    let (mut steps, mut start_ns) = (Vec::new(), 0);
    for length_ns in lengths {
        let mut sum = Recorder::default();
        for recorder in seconds.by_ref().take(length_ns.div_ceil(SECOND_NS) as usize) {
            sum.add(recorder);
        }
        let count_by = |ns| profile.count_by(warmup_ns + ns);
        let due = count_by(start_ns + length_ns) - count_by(start_ns);
        steps.push(StepSummary {
            start_ms: start_ns / 1_000_000,
            length_ms: length_ns / 1_000_000,
            due_per_second: due * SECOND_NS as f64 / length_ns as f64,
            message: MetricSummary::of(sum.of(Metric::Message), 0),
            send_lag: MetricSummary::of(sum.of(Metric::SendLag), 0),
        });
        start_ns += length_ns;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{AckBalance, StormCounts, StormSummary};
    use crate::clock::SECOND_NS;
    use crate::ledger::LobbyOutcome;
    use crate::recorder;

    #[test]
    fn a_storm_is_summed_up_over_workers() {
        let counts = |logins, last_login_ns, times: &[u64]| {
            let mut stayed = Box::new(recorder::empty());
            for &ns in times {
                stayed.record(ns).unwrap();
            }
            StormCounts {
                drop_ns: 5 * SECOND_NS,
                dropped: 100,
                logins,
                last_login_ns,
                login_errors: 1,
                back: logins,
                acks: AckBalance::default(),
                busy: Some(logins as f64 / 1000.0),
                stayed_due: 2,
                stayed: Some(stayed),
            }
        };
        let mut sum = counts(100, 6 * SECOND_NS, &[10, 30]);
        sum.add(&counts(100, 7 * SECOND_NS, &[20]));
        let lobby = LobbyOutcome { clients: 300, ..LobbyOutcome::default() };
        let storm = StormSummary::new(&sum, &lobby, 7 * SECOND_NS + 40);
        assert_eq!((storm.dropped, storm.back, storm.login_errors), (200, 200, 2));
        assert_eq!((storm.last_login, storm.logins_per_second), (Some(2 * SECOND_NS), Some(100.0)));
        assert_eq!((storm.converged, storm.converge_time), (Some(true), Some(40)));
        assert_eq!((storm.busy, storm.is_floor(), storm.finding()), (Some(0.1), false, None));
        let busy = StormSummary { busy: Some(0.95), ..storm.clone() };
        assert!(busy.is_floor() && busy.finding().is_some_and(|finding| finding.measured == "95 %"));
        assert_eq!((storm.message.n, storm.message.infinite, storm.message.p50), (3, 1, Some(20)));
    }

    #[test]
    fn who_is_not_back_or_wrong_in_the_end_has_not_converged() {
        let counts = StormCounts { dropped: 3, logins: 3, back: 2, ..StormCounts::default() };
        let lobby = LobbyOutcome { clients: 3, ..LobbyOutcome::default() };
        let storm = StormSummary::new(&counts, &lobby, 9);
        assert_eq!((storm.converged, storm.converge_time), (Some(false), None));
        let counts = StormCounts { back: 3, ..counts };
        let wrong = LobbyOutcome { diverged_at_end: 1, ..lobby };
        assert_eq!(StormSummary::new(&counts, &wrong, 9).converged, Some(false));
        assert_eq!(StormSummary::new(&counts, &LobbyOutcome::default(), 9).converged, None);
    }
}
