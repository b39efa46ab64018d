//! Targets read and judged.

use super::{Judgement, Measured, Slo, TermVerdict, overall, samples_needed};
use crate::ledger::{Ledger, LobbyOutcome};
use crate::recorder::{Metric, Missing, Recorder};
use crate::scenario::outcome::{StormCounts, StormSummary};
use crate::validity::{FindingKind, Standing};
use Judgement::{Fail, Invalid, Pass};

fn verdicts(
    targets: &str,
    recorder: &Recorder,
    undelivered: u64,
    ledger: &Ledger,
    standing: Standing,
) -> (Vec<TermVerdict>, Vec<FindingKind>) {
    let slo: Slo = targets.parse().unwrap();
    let lobby = LobbyOutcome { diverged: 2, ..LobbyOutcome::default() };
    let mut missing = Missing::default();
    missing.set(Metric::Message, undelivered);
    let measured = Measured {
        recorder,
        missing: &missing,
        ledger,
        lobby: &lobby,
        delivered_per_second: 1999.5,
        standing,
        storm: None,
    };
    let (verdicts, findings) = slo.judge(&measured);
    (verdicts, findings.iter().map(|finding| finding.kind).collect())
}

fn judge(targets: &str, recorder: &Recorder, undelivered: u64, ledger: &Ledger) -> Vec<Judgement> {
    judge_standing(targets, recorder, undelivered, ledger, Standing::default())
}

fn judge_standing(
    targets: &str,
    recorder: &Recorder,
    undelivered: u64,
    ledger: &Ledger,
    standing: Standing,
) -> Vec<Judgement> {
    let (verdicts, _) = verdicts(targets, recorder, undelivered, ledger, standing);
    verdicts.into_iter().map(|verdict| verdict.judgement).collect()
}

/// A thousand messages, of 1, 2 … 1,000 ns, which a histogram tells apart exactly.
fn thousand() -> Recorder {
    let mut recorder = Recorder::default();
    for value in 1..=1000 {
        recorder.record(Metric::Message, value);
    }
    recorder
}

#[test]
fn without_targets_the_relays_promises_are_judged() {
    let texts = |online, messages, visitors| {
        let slo = Slo::standard(online, messages, visitors);
        slo.terms.iter().map(|term| term.text.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(texts(true, true, true), "message.p99<500ms loss=0 duplicates=0 lobby.p99<100ms errors=0");
    assert_eq!(texts(true, true, false), "message.p99<500ms loss=0 duplicates=0 errors=0");
    assert_eq!(texts(false, true, false), "loss=0 duplicates=0 errors=0");
    // Also who only keeps connections is told when they break.
    assert_eq!(texts(true, false, false), "errors=0");
}

#[test]
fn targets_for_acks_are_added_where_there_are_none() {
    let texts = |slo: Slo| slo.terms.iter().map(|term| term.text.clone()).collect::<Vec<_>>().join(" ");
    let with = |targets: &str, online, offline| texts(targets.parse::<Slo>().unwrap().with_acks(online, offline));
    assert_eq!(with("loss=0", true, false), "loss=0 ack.p99<500ms unacked=0");
    assert_eq!(with("loss=0", true, true), "loss=0 ack.p99<500ms unacked=0 ack.offline.p99<500ms");
    assert_eq!(with("ack.p50<1s,unacked<=5", true, false), "ack.p50<1s unacked<=5");
    assert_eq!(texts(Slo::default().with_acks(false, false)), "");
    assert_eq!(texts(Slo::of_crash()), "loss=0 duplicates=0 unacked=0");
}

#[test]
fn messages_without_an_ack_are_counted_like_lost_ones() {
    let ledger = Ledger { sent: 9, unacked: 2, ..Ledger::default() };
    let judge = |standing| judge_standing("unacked=0,unacked<=2", &thousand(), 0, &ledger, standing);
    assert_eq!(judge(Standing::default()), [Fail, Pass]);
    assert_eq!(judge(Standing { spoiled: true, ..Standing::default() }), [Invalid, Invalid]);
    let seen = Standing { spoiled: true, unacked_by_relay: 2, ..Standing::default() };
    assert_eq!(judge(seen), [Fail, Invalid]);
}

#[test]
fn the_usual_targets_are_read() {
    let slo: Slo = "message.p99<500ms, lobby.p99<100ms,loss=0,lobby.join.p99.9<=1s,rate>=2000/s".parse().unwrap();
    assert_eq!(slo.terms.len(), 5);
}

#[test]
fn a_percentile_is_the_share_that_its_decimals_say() {
    for (term, share) in [("ack.p99.9<1s", 0.999), ("ack.p99.99<1s", 0.9999), ("ack.p7<1s", 0.07), ("ack.max<1s", 1.0)]
    {
        let bound = term.parse::<Slo>().unwrap().time_bounds().next().unwrap();
        assert_eq!((bound.share, bound.metric, bound.bound_ns), (share, "ack", 1e9), "{term}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    for (targets, named, why) in [
        ("loss=0,mesage.p99<1s", "mesage.p99<1s", "unknown"),
        ("message.p99", "message.p99", "no `<`"),
        ("message.p99<500", "message.p99<500", "duration"),
        ("message.p101<5ms", "message.p101<5ms", "unknown"),
        ("message.p99>5ms", "message.p99>5ms", "direction"),
        ("rate<5", "rate<5", "direction"),
        ("loss=some", "loss=some", "number"),
        ("loss=0,", "", "no `<`"),
        ("message<5ms", "message<5ms", "unknown"),
    ] {
        let error = targets.parse::<Slo>().unwrap_err().to_string();
        assert!(error.contains(&format!("`{named}`")) && error.contains(why), "{targets}: {error}");
    }
}

#[test]
fn bounds_are_judged_to_the_nanosecond_they_can_tell_apart() {
    let ledger = Ledger { sent: 1000, duplicates: 3, ..Ledger::default() };
    let judged = judge(
        "message.p50<501ns,message.p50<500ns,message.p50<=500ns,message.max<1ms,loss=0,duplicates<3,duplicates<=3",
        &thousand(),
        0,
        &ledger,
    );
    assert_eq!(judged, [Pass, Fail, Pass, Pass, Pass, Fail, Pass]);
}

#[test]
fn the_undelivered_break_percentiles_and_loss() {
    let ledger = Ledger { lost: 20, refused: 4, not_sent: 3, blocked: 2, overdue: 1, ..Ledger::default() };
    let judged = judge("message.p97<1ms,message.p98<1h,loss=0,loss<=30,diverged=0", &thousand(), 30, &ledger);
    assert_eq!(judged, [Pass, Fail, Fail, Pass, Fail]);
}

#[test]
fn a_target_without_samples_is_invalid() {
    let ledger = Ledger::default();
    assert_eq!(judge("lobby.p99<1s,rate>=1999", &Recorder::default(), 0, &ledger), [Invalid, Pass]);
    let all = |targets: &str| {
        let (verdicts, _) = verdicts(targets, &Recorder::default(), 0, &ledger, Standing::default());
        overall(&verdicts, false)
    };
    assert_eq!(all("lobby.p99<1s,loss=0"), Invalid);
    assert_eq!(all("lobby.p99<1s,rate>=2000"), Fail);
    assert_eq!((overall(&[], false), overall(&[], true)), (Pass, Invalid));
}

#[test]
fn zero_of_nothing_is_no_target_met() {
    let judge = |targets: &str, ledger: &Ledger, lobby: &LobbyOutcome| {
        let slo: Slo = targets.parse().unwrap();
        let measured = Measured {
            recorder: &Recorder::default(),
            missing: &Missing::default(),
            ledger,
            lobby,
            delivered_per_second: 0.0,
            standing: Standing::default(),
            storm: None,
        };
        slo.judge(&measured).0.iter().map(|verdict| verdict.judgement).collect::<Vec<_>>()
    };
    let (nothing, nobody) = (Ledger::default(), LobbyOutcome::default());
    let targets = "loss=0,unacked=0,duplicates=0,diverged=0,errors=0";
    assert_eq!(judge(targets, &nothing, &nobody), [Invalid, Invalid, Invalid, Invalid, Pass]);
    let some = Ledger { sent: 1, ..Ledger::default() };
    let looked = LobbyOutcome { clients: 1, ..LobbyOutcome::default() };
    assert_eq!(judge(targets, &some, &looked), [Pass; 5]);
    // What was due and never went is something.
    let unsent = Ledger { not_sent: 1, ..Ledger::default() };
    assert_eq!(judge("loss=0", &unsent, &nobody), [Fail]);
}

#[test]
fn ten_samples_beyond_settle_a_percentile() {
    let needed = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(samples_needed);
    assert_eq!(needed, [20, 100, 1000, 10_000, 100_000, 1]);
}

#[test]
fn a_percentile_of_too_few_samples_is_neither_met_nor_missed() {
    let few = |targets: &str, undelivered| {
        verdicts(targets, &thousand(), undelivered, &Ledger::default(), Standing::default())
    };
    let (judged, found) = few("message.p99<1ms,message.p99.9<1ms,message.max<1ms", 0);
    assert_eq!(judged.iter().map(|verdict| verdict.judgement).collect::<Vec<_>>(), [Pass, Invalid, Pass]);
    assert_eq!(found, [FindingKind::FewSamples]);
    assert!(judged[1].measured.contains("in 1,000 samples"), "{}", judged[1].measured);
    // Nine beyond the bound are chance, ten are a miss: those of 991 ns and more.
    for (bound, expected) in [("991ns", Invalid), ("990ns", Fail), ("100ns", Fail)] {
        assert_eq!(few(&format!("message.p99.9<={bound}"), 0).0[0].judgement, expected, "{bound}");
    }
    assert_eq!(few("message.p99.9<1h", 9).0[0].judgement, Invalid);
    assert_eq!(few("message.p99.9<1h", 10).0[0].judgement, Fail);
}

#[test]
fn a_storm_is_judged_by_when_all_lobbies_were_right() {
    let judge = |storm: Option<&StormSummary>, spoiled| {
        let slo: Slo = "storm.converged<5ms".parse().unwrap();
        let measured = Measured {
            recorder: &Recorder::default(),
            missing: &Missing::default(),
            ledger: &Ledger::default(),
            lobby: &LobbyOutcome::default(),
            delivered_per_second: 0.0,
            standing: Standing { spoiled, ..Standing::default() },
            storm,
        };
        let (verdicts, _) = slo.judge(&measured);
        (verdicts[0].judgement, verdicts[0].measured.clone())
    };
    let counts = StormCounts { dropped: 1, logins: 1, back: 1, ..StormCounts::default() };
    let lobby = LobbyOutcome { clients: 2, ..LobbyOutcome::default() };
    let storm = |settled_ns| StormSummary::new(&counts, &lobby, settled_ns);
    assert_eq!(judge(Some(&storm(4_000_000)), false), (Pass, "4.00 ms".to_owned()));
    assert_eq!(judge(Some(&storm(5_000_000)), false).0, Fail);
    assert_eq!(judge(Some(&storm(4_000_000)), true).0, Invalid);
    let busy = StormCounts { busy: Some(0.95), ..counts.clone() };
    let of_busy = |settled_ns| judge(Some(&StormSummary::new(&busy, &lobby, settled_ns)), false).0;
    assert_eq!((of_busy(4_000_000), of_busy(5_000_000)), (Pass, Invalid));
    let missing = StormCounts { back: 0, ..counts.clone() };
    assert_eq!(judge(Some(&StormSummary::new(&missing, &lobby, 0)), false), (Fail, "never".to_owned()));
    let blind = StormSummary::new(&counts, &LobbyOutcome::default(), 0);
    assert_eq!((judge(Some(&blind), false).0, judge(None, false).0), (Invalid, Invalid));
    assert!("storm.converged>5s".parse::<Slo>().is_err() && "storm.converged<5".parse::<Slo>().is_err());
}

#[test]
fn a_spoiled_run_says_nothing_but_what_only_the_relay_can_have_done() {
    let ledger = Ledger { lost: 5, duplicates: 1, altered: 2, ..Ledger::default() };
    let targets = "message.p99<1ms,message.p99<500ns,rate>=1,rate>=9999,loss=0,errors=0,diverged=0,duplicates=0,\
                   duplicates<=1";
    let judge = |standing| judge_standing(targets, &thousand(), 0, &ledger, standing);
    let spoiled = Standing { spoiled: true, ..Standing::default() };
    let nothing = Invalid;
    assert_eq!(judge(spoiled), [nothing, nothing, nothing, nothing, nothing, nothing, nothing, Fail, nothing]);
    let seen = Standing { lost_by_relay: 5, faults_of_relay: 2, diverged_by_relay: 1, ..spoiled };
    assert_eq!(judge(seen), [nothing, nothing, nothing, nothing, Fail, Fail, Fail, Fail, nothing]);
    assert_eq!(judge(Standing::default()), [Pass, Fail, Pass, Fail, Fail, Fail, Fail, Fail, Pass]);
}

#[test]
fn the_floor_of_a_closed_loop_can_meet_a_target_and_not_miss_it() {
    let floor = Standing { floor: true, ..Standing::default() };
    let targets = "message.p99<1ms,message.p99<500ns,rate>=1,rate>=9999,loss=0";
    let ledger = Ledger { sent: 1000, ..Ledger::default() };
    let judged = judge_standing(targets, &thousand(), 0, &ledger, floor);
    assert_eq!(judged, [Pass, Invalid, Pass, Invalid, Pass]);
}

#[test]
fn the_tightest_and_the_strictest_are_found() {
    let slo: Slo = "message.p50<9ms,message.p99<20ms,lobby.p99.9<1ms,ack.max<10ms,loss=0".parse().unwrap();
    assert_eq!((slo.tightest_ns(), slo.strictest()), (Some(9_000_000), Some(1.0)));
    assert_eq!((Slo::default().tightest_ns(), Slo::default().strictest()), (None, None));
}
