//! What is known of the generator's part in a run, and what follows from it.

use super::{ACHIEVED_MIN, BUSY_MAX, Finding, FindingKind, SEND_LAG_MAX_NS, SEND_LAG_SHARE, STOLEN_MAX, Severity};
use crate::hiccup::LONG_STALL_NS;
use crate::interference::Interference;
use crate::units::{show_count, show_ns};

/// What makes messages due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Nothing.
    #[default]
    Idle,
    /// A schedule.
    Open,
    /// Acks.
    Closed,
}

/// How one worker used its core in the steady phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The share of the time that it worked.
    pub busy: f64,
    /// The share that it waited for a core and had work; `None` where the kernel does not tell.
    pub waited: Option<f64>,
}

/// What one heartbeat saw in the steady phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The core it was kept on; `None` if it floated.
    pub core: Option<usize>,
    /// Beats that were late by more than [`LONG_STALL_NS`].
    pub long_stalls: u64,
    /// Time that lay in them.
    pub stalled_ns: u64,
    /// The latest one's delay.
    pub worst_ns: u64,
}

/// What is known of the generator's part in a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What made messages due.
    pub pace: Pace,
    /// The steady phase.
    pub steady_ns: u64,
    /// The 99th percentile of the send lag; `None` without messages.
    pub send_lag_p99_ns: Option<u64>,
    /// The tightest target for the time of a message.
    pub tightest_ns: Option<u64>,
    /// The highest percentile that a target asks for, as a share.
    pub strictest: Option<f64>,
    /// Messages due in the steady phase.
    pub due: u64,
    /// Of those, the ones whose turn came in time.
    pub in_time: u64,
    /// Of those, the ones that waited behind an unfinished write.
    pub blocked: u64,
    /// Each worker.
    pub loads: Vec<Load>,
    /// Each heartbeat.
    pub heartbeats: Vec<Heartbeat>,
    /// What others took.
    pub interference: Interference,
    /// Cores that a worker and a thread of the relay are both kept on.
    pub same_cores: Vec<usize>,
    /// Cores that both may use, if the relay is on this machine.
    pub common_cores: Vec<usize>,
    /// Times a message was due and not yet signed.
    pub starved: u64,
    /// Messages that had been signed too long before they were due.
    pub expired: u64,
    /// Visits that began in the steady phase.
    pub visits: u64,
    /// Visits that were due in it while no visitor was free.
    pub visits_missed: u64,
}

/// Looks for reasons for doubt.
#[must_use]
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    if evidence.pace == Pace::Open {
        findings.extend(send_lag(evidence));
        findings.extend(achieved_rate(evidence));
    }
    findings.extend(load(evidence));
    findings.extend(stalls(evidence));
    findings.extend(steal(evidence));
    findings.extend(throttling(evidence));
    findings.extend(shared_cores(evidence));
    findings.extend(blocked(evidence));
    findings.extend(supply(evidence));
    findings.extend(visits_missed(evidence));
    findings
}

/// The send lag that is still fit for the tightest target.
fn send_lag_max_ns(evidence: &Evidence) -> u64 {
    let share = evidence.tightest_ns.map_or(u64::MAX, |target_ns| (target_ns as f64 * SEND_LAG_SHARE) as u64);
    share.min(SEND_LAG_MAX_NS)
}

fn send_lag(evidence: &Evidence) -> Option<Finding> {
    let lag_ns = evidence.send_lag_p99_ns?;
    let max_ns = send_lag_max_ns(evidence);
    let severity = graded(lag_ns as f64, max_ns as f64 / 2.0, max_ns as f64)?;
    let limit = match evidence.tightest_ns {
        Some(_) if max_ns < SEND_LAG_MAX_NS => format!("{}, a tenth of the tightest target", show_ns(max_ns)),
        _ => show_ns(max_ns),
    };
    Some(Finding {
        kind: FindingKind::SendLag,
        severity,
        metric: Some("send_lag".to_owned()),
        measured: show_ns(lag_ns),
        text: format!("the generator sent late: the p99 of its send lag is {} (limit: {limit})", show_ns(lag_ns)),
        fix: "give the generator cores of its own (--pin-cores), more --workers, or a lower --rate".to_owned(),
    })
}

fn achieved_rate(evidence: &Evidence) -> Option<Finding> {
    if evidence.due == 0 {
        return None;
    }
    let achieved = evidence.in_time as f64 / evidence.due as f64;
    let missing = 1.0 - achieved;
    let severity = graded(missing, (1.0 - ACHIEVED_MIN) / 10.0, 1.0 - ACHIEVED_MIN)?;
    let waited = if evidence.starved > 0 { "sign more before the run (--presign), or " } else { "" };
    Some(Finding {
        kind: FindingKind::AchievedRate,
        severity,
        metric: Some("rate".to_owned()),
        measured: percent(achieved),
        text: format!(
            "the generator came to {} of {} messages in time, {} of the rate asked for (limit: {})",
            show_count(evidence.in_time),
            show_count(evidence.due),
            percent(achieved),
            percent(ACHIEVED_MIN)
        ),
        fix: format!("{waited}ask for a --rate that this generator can reach, or give it more --workers and cores"),
    })
}

fn load(evidence: &Evidence) -> Option<Finding> {
    let total = |load: &Load| load.busy + load.waited.unwrap_or(0.0);
    let busiest = evidence.loads.iter().max_by(|one, other| total(one).total_cmp(&total(other)))?;
    let severity = graded(total(busiest), 0.75, BUSY_MAX)?;
    let measured = match busiest.waited {
        Some(waited) if waited >= 0.005 => {
            format!("worked {} of the time and waited for a core {}", whole(busiest.busy), whole(waited))
        }
        _ => format!("worked {} of the time", whole(busiest.busy)),
    };
    let floor = evidence.pace == Pace::Closed;
    if floor && severity == Severity::Warning {
        return None;
    }
    Some(Finding {
        kind: if floor { FindingKind::Floor } else { FindingKind::BusyWorker },
        severity: if floor { Severity::Warning } else { severity },
        metric: Some(if floor { "rate" } else { "generator" }.to_owned()),
        text: if floor {
            format!("a worker {measured}: the relay can do at least this much, and perhaps more")
        } else {
            format!("a worker {measured} (limit: {})", whole(BUSY_MAX))
        },
        measured,
        fix: "add --workers, each on a core of its own (--pin-cores), or merge the runs of several machines".to_owned(),
    })
}

fn stalls(evidence: &Evidence) -> Option<Finding> {
    let worst = evidence.heartbeats.iter().max_by_key(|beat| beat.stalled_ns)?;
    let share = worst.stalled_ns as f64 / evidence.steady_ns.max(1) as f64;
    // What stalls for a thousandth of the time is in the p99.9; a maximum is spoiled by any stall.
    let max = evidence.strictest.map_or(STOLEN_MAX, |quantile| (1.0 - quantile).min(STOLEN_MAX));
    let severity = graded(share, 0.0, max)?;
    let place = worst.core.map_or_else(String::new, |core| format!(" on core {core}"));
    let measured = format!("{} stalls, {} of the time", worst.long_stalls, percent(share));
    Some(Finding {
        kind: FindingKind::Stalls,
        severity,
        metric: None,
        text: format!(
            "this machine did not run the generator{place} for {} at worst: {} stalls above {}, {} of the time (limit: {})",
            show_ns(worst.worst_ns),
            show_count(worst.long_stalls),
            show_ns(LONG_STALL_NS),
            percent(share),
            percent(max)
        ),
        measured,
        fix: "end what else runs on this machine, or keep relay and generator on cores of their own (--pin-cores)"
            .to_owned(),
    })
}

fn steal(evidence: &Evidence) -> Option<Finding> {
    let steal = evidence.interference.steal?;
    let severity = graded(steal, STOLEN_MAX / 10.0, STOLEN_MAX)?;
    Some(Finding {
        kind: FindingKind::Steal,
        severity,
        metric: None,
        measured: percent(steal),
        text: format!(
            "the hypervisor gave {} of the generator's cores to others (limit: {})",
            percent(steal),
            percent(STOLEN_MAX)
        ),
        fix: "measure on a machine, or a kind of instance, whose cores are not shared".to_owned(),
    })
}

fn throttling(evidence: &Evidence) -> Option<Finding> {
    let periods = evidence.interference.throttled_periods.filter(|&periods| periods > 0)?;
    let share = evidence.interference.throttled_ns.unwrap_or(0) as f64 / evidence.steady_ns.max(1) as f64;
    let severity = if share > STOLEN_MAX { Severity::Invalid } else { Severity::Warning };
    Some(Finding {
        kind: FindingKind::Throttling,
        severity,
        metric: None,
        measured: format!("{periods} times, {} of the time", percent(share)),
        text: format!(
            "a CPU quota stopped the generator {} times, {} of the time (limit: {})",
            show_count(periods),
            percent(share),
            percent(STOLEN_MAX)
        ),
        fix: "raise the quota of its container or unit (cpu.max, CPUQuota=), or take it away".to_owned(),
    })
}

fn shared_cores(evidence: &Evidence) -> Option<Finding> {
    let list = |cores: &[usize]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let fix = "keep them apart: --pin-cores for the generator, and other cores for the relay's own --pin-cores";
    if !evidence.same_cores.is_empty() {
        let cores = list(&evidence.same_cores);
        return Some(Finding {
            kind: FindingKind::SharedCores,
            severity: Severity::Invalid,
            metric: None,
            text: format!("relay and generator are kept on the same core ({cores}), and so measure each other"),
            measured: cores,
            fix: fix.to_owned(),
        });
    }
    (!evidence.common_cores.is_empty()).then(|| {
        let cores = list(&evidence.common_cores);
        Finding {
            kind: FindingKind::SharedCores,
            severity: Severity::Warning,
            metric: Some("generator".to_owned()),
            text: format!("relay and generator may use the same cores ({cores}), and then delay each other"),
            measured: cores,
            fix: fix.to_owned(),
        }
    })
}

fn blocked(evidence: &Evidence) -> Option<Finding> {
    if evidence.blocked == 0 {
        return None;
    }
    let share = evidence.blocked as f64 / evidence.due.max(1) as f64;
    // Below that it is in no percentile that is usually asked for.
    graded(share, 0.001, f64::INFINITY)?;
    Some(Finding {
        kind: FindingKind::Blocked,
        severity: Severity::Warning,
        metric: Some("blocked".to_owned()),
        measured: percent(share),
        text: format!(
            "{} of the messages waited because the relay, or the network, had not taken those before them: that is in \
             the response time and not in the service time",
            percent(share)
        ),
        fix: "look at the relay, or give the network more room; it is not the generator".to_owned(),
    })
}

fn supply(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    if evidence.starved > 0 {
        findings.push(Finding {
            kind: FindingKind::Supply,
            severity: Severity::Warning,
            metric: Some(if evidence.pace == Pace::Closed { "rate" } else { "send_lag" }.to_owned()),
            measured: format!("{} times", show_count(evidence.starved)),
            text: "messages waited for their signature".to_owned(),
            fix: "raise --presign, or add --workers on cores of their own".to_owned(),
        });
    }
    if evidence.expired > 0 {
        let measured = format!("{} messages", show_count(evidence.expired));
        findings.push(Finding {
            kind: FindingKind::Supply,
            severity: Severity::Warning,
            metric: Some("rate".to_owned()),
            text: format!("{measured} were signed so long before that they were not sent"),
            measured,
            fix: "lower --presign".to_owned(),
        });
    }
    findings
}

/// What the lobby does under the churn asked for is not known where there was less of it.
fn visits_missed(evidence: &Evidence) -> Option<Finding> {
    let due = evidence.visits + evidence.visits_missed;
    let share = evidence.visits_missed as f64 / due.max(1) as f64;
    let severity = graded(share, 0.0, 1.0 - ACHIEVED_MIN)?;
    Some(Finding {
        kind: FindingKind::VisitsMissed,
        severity,
        metric: Some("lobby".to_owned()),
        measured: percent(share),
        text: format!(
            "{} of {} visits were due while no visitor was free (limit: {}): the relay is slow to let them in or out",
            show_count(evidence.visits_missed),
            show_count(due),
            percent(1.0 - ACHIEVED_MIN)
        ),
        fix: "look at connect and auth, or lower --churn".to_owned(),
    })
}

/// Invalid above one limit, a warning above the other, nothing below.
fn graded(value: f64, warning: f64, invalid: f64) -> Option<Severity> {
    if value > invalid {
        Some(Severity::Invalid)
    } else if value > warning {
        Some(Severity::Warning)
    } else {
        None
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn whole(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Heartbeat, Load, Pace, examine};
    use crate::interference::Interference;
    use crate::validity::{FindingKind, Severity};

    /// A run without doubt: 2,000/s for 10 s on a quiet machine.
    fn quiet() -> Evidence {
        Evidence {
            pace: Pace::Open,
            steady_ns: 10_000_000_000,
            send_lag_p99_ns: Some(100_000),
            tightest_ns: Some(500_000_000),
            strictest: Some(0.99),
            due: 20_000,
            in_time: 20_000,
            loads: vec![Load { busy: 0.3, waited: Some(0.02) }],
            heartbeats: vec![Heartbeat { core: Some(1), ..Heartbeat::default() }],
            interference: Interference { steal: Some(0.0), throttled_periods: Some(0), throttled_ns: Some(0) },
            ..Evidence::default()
        }
    }

    fn found(evidence: &Evidence) -> Vec<(FindingKind, Severity)> {
        examine(evidence).iter().map(|finding| (finding.kind, finding.severity)).collect()
    }

    use FindingKind::{
        AchievedRate, Blocked, BusyWorker, Floor, SendLag, SharedCores, Stalls, Steal, Supply, Throttling, VisitsMissed,
    };
    use Severity::{Invalid, Warning};

    #[test]
    fn a_quiet_run_has_no_findings() {
        assert_eq!(found(&quiet()), []);
        assert_eq!(found(&Evidence::default()), []);
    }

    #[test]
    fn send_lag_is_measured_against_5_ms_or_a_tenth_of_the_tightest_target() {
        let with = |lag_ns, tightest_ns| found(&Evidence { send_lag_p99_ns: Some(lag_ns), tightest_ns, ..quiet() });
        assert_eq!(with(2_500_000, None), []);
        assert_eq!(with(2_500_001, None), [(SendLag, Warning)]);
        assert_eq!(with(5_000_000, Some(500_000_000)), [(SendLag, Warning)]);
        assert_eq!(with(5_000_001, Some(500_000_000)), [(SendLag, Invalid)]);
        assert_eq!(with(1_000_000, Some(10_000_000)), [(SendLag, Warning)]);
        assert_eq!(with(1_000_001, Some(10_000_000)), [(SendLag, Invalid)]);
    }

    #[test]
    fn a_rate_that_is_not_reached_is_invalid() {
        let with = |in_time| found(&Evidence { in_time, ..quiet() });
        assert_eq!(with(19_980), []);
        assert_eq!(with(19_979), [(AchievedRate, Warning)]);
        assert_eq!(with(19_800), [(AchievedRate, Warning)]);
        assert_eq!(with(19_799), [(AchievedRate, Invalid)]);
    }

    #[test]
    fn a_closed_loop_has_no_lag_and_no_rate_to_reach() {
        let closed = Evidence { pace: Pace::Closed, send_lag_p99_ns: Some(1_000_000_000), in_time: 1, ..quiet() };
        assert_eq!(found(&closed), []);
        let full = Evidence { loads: vec![Load { busy: 0.99, waited: None }], ..closed };
        assert_eq!(found(&full), [(Floor, Warning)]);
    }

    #[test]
    fn a_worker_without_time_to_spare_is_invalid_whether_it_works_or_waits() {
        let with = |busy, waited| found(&Evidence { loads: vec![Load::default(), Load { busy, waited }], ..quiet() });
        assert_eq!(with(0.75, None), []);
        assert_eq!(with(0.76, None), [(BusyWorker, Warning)]);
        assert_eq!(with(0.91, Some(0.0)), [(BusyWorker, Invalid)]);
        assert_eq!(with(0.02, Some(0.89)), [(BusyWorker, Invalid)]);
    }

    #[test]
    fn stalls_count_by_the_time_they_take_from_the_percentile_asked_for() {
        let with = |stalled_ms: u64, strictest| {
            let beat = Heartbeat { long_stalls: 1, stalled_ns: stalled_ms * 1_000_000, ..Heartbeat::default() };
            found(&Evidence { heartbeats: vec![Heartbeat::default(), beat], strictest, ..quiet() })
        };
        assert_eq!(with(0, Some(1.0)), []);
        assert_eq!(with(100, Some(0.99)), [(Stalls, Warning)]);
        assert_eq!(with(101, Some(0.99)), [(Stalls, Invalid)]);
        assert_eq!(with(101, Some(0.5)), [(Stalls, Invalid)]);
        assert_eq!(with(101, None), [(Stalls, Invalid)]);
        assert_eq!(with(11, Some(0.999)), [(Stalls, Invalid)]);
        assert_eq!(with(11, Some(1.0)), [(Stalls, Invalid)]);
    }

    #[test]
    fn what_others_take_is_told() {
        let steal = |share| {
            found(&Evidence { interference: Interference { steal: Some(share), ..Interference::default() }, ..quiet() })
        };
        assert_eq!(steal(0.001), []);
        assert_eq!(steal(0.01), [(Steal, Warning)]);
        assert_eq!(steal(0.011), [(Steal, Invalid)]);
        let throttled = |ms: u64| {
            found(&Evidence {
                interference: Interference {
                    steal: None,
                    throttled_periods: Some(1),
                    throttled_ns: Some(ms * 1_000_000),
                },
                ..quiet()
            })
        };
        assert_eq!(throttled(100), [(Throttling, Warning)]);
        assert_eq!(throttled(101), [(Throttling, Invalid)]);
    }

    #[test]
    fn the_same_core_is_invalid_and_common_ones_are_a_warning() {
        let common = Evidence { common_cores: vec![0, 1], ..quiet() };
        assert_eq!(found(&common), [(SharedCores, Warning)]);
        let same = Evidence { same_cores: vec![1], ..common };
        assert_eq!(found(&same), [(SharedCores, Invalid)]);
        assert!(examine(&same)[0].text.contains("(1)"));
    }

    #[test]
    fn what_is_not_the_generators_is_a_warning() {
        let evidence = Evidence { blocked: 21, starved: 1, expired: 2, visits: 297, visits_missed: 3, ..quiet() };
        let expected = [(Blocked, Warning), (Supply, Warning), (Supply, Warning), (VisitsMissed, Warning)];
        assert_eq!(found(&evidence), expected);
        assert_eq!(found(&Evidence { blocked: 20, ..quiet() }), []);
    }

    #[test]
    fn less_churn_than_asked_for_is_invalid() {
        let with = |visits_missed| found(&Evidence { visits: 198, visits_missed, ..quiet() });
        assert_eq!((with(0), with(2), with(3)), (vec![], vec![(VisitsMissed, Warning)], vec![(VisitsMissed, Invalid)]));
    }

    #[test]
    fn every_finding_says_what_to_change() {
        let evidence = Evidence {
            send_lag_p99_ns: Some(1_000_000_000),
            in_time: 0,
            loads: vec![Load { busy: 1.0, waited: None }],
            heartbeats: vec![Heartbeat { stalled_ns: u64::MAX, ..Heartbeat::default() }],
            interference: Interference { steal: Some(1.0), throttled_periods: Some(9), throttled_ns: Some(u64::MAX) },
            same_cores: vec![0],
            blocked: 20_000,
            starved: 1,
            expired: 1,
            visits_missed: 1,
            ..quiet()
        };
        let findings = examine(&evidence);
        assert_eq!(findings.len(), 11);
        for finding in findings {
            assert!(!finding.fix.is_empty() && !finding.text.is_empty() && !finding.measured.is_empty(), "{finding:?}");
        }
    }
}
