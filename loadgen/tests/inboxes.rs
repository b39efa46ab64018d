//! Runs against a relay that keeps messages: confirming what came, clients that were offline and come back.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fake_relay::request::{request, workload};
use fake_relay::{Counts, FakeRelay, Faults};
use loadgen::plan::{Rate, Workload};
use loadgen::progress::Progress;
use loadgen::recorder::Metric;
use loadgen::report::summarize;
use loadgen::run::{Request, RunError, RunResult, run};
use loadgen::scenario::Scenario;
use loadgen::slo::Judgement;

fn store() -> Faults {
    Faults { store: true, ..Faults::default() }
}

fn try_run(request: Request) -> Result<RunResult, RunError> {
    run(request, &Progress::Silent, &AtomicBool::new(false))
}

fn run_with(faults: Faults, workload: Workload) -> (RunResult, Counts) {
    let relay = FakeRelay::start(faults);
    let result = try_run(request(&relay, workload)).unwrap();
    (result, relay.counts())
}

fn offline(share: &str) -> Workload {
    let scenario = Scenario { offline: Some(share.parse().unwrap()), ..Scenario::default() };
    let online = 8 - scenario.offline.unwrap().share.of(8);
    Workload { senders: online, scenario, ..workload() }
}

/// The same, waiting no longer than half a second for what does not come.
fn impatient(mut workload: Workload) -> Workload {
    workload.drain = Duration::from_millis(500);
    workload
}

/// What the verdict over these targets is when the generator's own trouble is left out.
fn judge(mut result: RunResult, slo: &str) -> Judgement {
    result.findings.clear();
    let plan = std::sync::Arc::get_mut(&mut result.plan).expect("the run is over");
    plan.slo = slo.parse().unwrap();
    summarize(&result, None, std::time::SystemTime::now(), Vec::new()).0.verdict.judgement
}

#[test]
fn a_store_acks_what_was_confirmed_and_everything_is() {
    let (result, counts) = run_with(store(), workload());
    let ledger = &result.ledger;
    assert_eq!((ledger.sent, ledger.acked, ledger.delivered, ledger.unacked), (400, 400, 400, 0));
    assert_eq!((ledger.undelivered(), ledger.duplicates, ledger.faults()), (0, 0, 0));
    assert_eq!((result.recorder.of(Metric::Ack).len(), result.missing.of(Metric::Ack)), (400, 0));
    assert_eq!((counts.messages, counts.unconfirmed), (400, 0));
    assert!((1..=400).contains(&counts.confirmations), "{counts:?}");
    // An ack cannot be there before the message is.
    let mean = |metric| result.recorder.of(metric).mean();
    assert!(mean(Metric::Ack) >= mean(Metric::Message) * 0.99, "{} {}", mean(Metric::Ack), mean(Metric::Message));
}

#[test]
fn confirming_can_be_left_out_and_then_a_store_has_no_ack_for_who_is_online() {
    let (result, counts) = run_with(store(), impatient(Workload { confirms: false, ..workload() }));
    assert_eq!((counts.confirmations, counts.messages), (0, 400));
    assert_eq!((result.ledger.delivered, result.ledger.acked, result.ledger.unacked), (400, 0, 400));
    assert_eq!((result.missing.of(Metric::Ack), result.ledger.lost), (400, 0));
    assert_eq!(judge(result, "loss=0,unacked=0"), Judgement::Fail);
}

#[test]
fn confirmations_keep_to_what_a_relay_takes_of_one_connection() {
    // 1,000 messages a second for one client, which may confirm 40 times at once and 40 times a second.
    let workload = Workload { clients: 2, senders: 1, rate: Rate::PerSecond(1000.0), ..workload() };
    let begin = Instant::now();
    let (result, counts) = run_with(store(), workload);
    assert_eq!((result.ledger.acked, result.ledger.delivered, counts.unconfirmed), (1000, 1000, 0));
    assert!(counts.confirmations <= 40 + 40 * (begin.elapsed().as_secs() + 1), "{counts:?}");
}

#[test]
fn acks_that_never_come_are_counted_and_infinitely_late() {
    let (result, counts) = run_with(Faults { never_ack_every: 8, ..store() }, impatient(workload()));
    assert_eq!(counts.never_acked, 50);
    assert_eq!((result.ledger.unacked, result.ledger.acked, result.ledger.lost), (50, 350, 0));
    assert_eq!((result.recorder.of(Metric::Ack).len(), result.missing.of(Metric::Ack)), (350, 50));
    assert_eq!(judge(result, "loss=0,unacked=0"), Judgement::Fail);
}

#[test]
fn who_was_offline_gets_every_message_once_after_the_return() {
    for share in ["25%", "25%:60%", "25%@500ms"] {
        let (result, counts) = run_with(store(), offline(share));
        let (ledger, offline) = (&result.ledger, &result.scenario.offline);
        assert_eq!((ledger.sent, ledger.acked, ledger.delivered, ledger.unacked), (400, 400, 400, 0), "{share}");
        assert_eq!((ledger.undelivered(), ledger.duplicates, ledger.faults()), (0, 0, 0), "{share}: {ledger:?}");
        assert_eq!((offline.clients, offline.back, offline.recovered, offline.behind), (2, 2, 2, 0), "{share}");
        assert!(offline.sent > 0, "{share}");
        assert_eq!((offline.acked, offline.delivered, offline.refused), (offline.sent, offline.sent, 0), "{share}");
        assert_eq!(result.steady.offline_due, offline.sent);
        // Times of those who were offline and of the others are kept apart.
        let count = |metric| result.recorder.of(metric).len();
        assert_eq!((count(Metric::AckOffline), count(Metric::Ack)), (offline.sent, 400 - offline.sent), "{share}");
        assert_eq!((count(Metric::Message), count(Metric::Service)), (400 - offline.sent, 400 - offline.sent));
        for metric in [Metric::Message, Metric::Service, Metric::Ack, Metric::AckOffline, Metric::CatchUp] {
            assert_eq!(result.missing.of(metric), 0, "{share}: {metric:?}");
        }
        assert_eq!((result.lobby.clients, result.lobby.diverged), (8, 0));
        assert_eq!((counts.forgotten, counts.unconfirmed), (0, 0));
        if share.contains('@') {
            // On a machine that lags a few go out after the return.
            assert!(counts.kept <= offline.sent, "{counts:?}");
            let windows = [&offline.before, &offline.meanwhile, &offline.after].map(|(due, _)| *due);
            assert_eq!((windows[0] > 0, windows.iter().sum()), (true, 400 - offline.sent), "{windows:?}");
        } else {
            assert_eq!((counts.kept, counts.pushed_again), (offline.sent, offline.sent), "{share}");
            assert_eq!((offline.before.0, offline.meanwhile.0), (400 - offline.sent, 0), "{share}");
            assert_eq!(count(Metric::CatchUp), 2);
        }
    }
}

#[test]
fn the_share_of_messages_goes_to_who_is_offline() {
    let workload = Workload { rate: Rate::PerSecond(2000.0), ..offline("12.5%:75%") };
    let (result, _) = run_with(store(), workload);
    let offline = &result.scenario.offline;
    assert_eq!((offline.clients, result.ledger.delivered), (1, 2000));
    // 1,500 expected, with a deviation of 19: five of them.
    assert!((1400..1600).contains(&offline.sent), "{offline:?}");
}

#[test]
fn an_acked_message_that_does_not_come_back_is_lost_and_fails() {
    let (result, counts) = run_with(Faults { forget_every: 10, ..store() }, impatient(offline("50%")));
    let offline = &result.scenario.offline;
    assert!(counts.forgotten > 0, "{counts:?}");
    assert_eq!((result.ledger.lost, result.ledger.acked), (counts.forgotten, 400));
    // Nothing shows that the last number of an inbox is missing.
    assert!((1..=counts.forgotten).contains(&result.ledger.seq_gaps), "{:?}", result.ledger);
    assert_eq!((offline.acked - offline.delivered, offline.acked), (counts.forgotten, counts.kept));
    assert_eq!(result.missing.of(Metric::CatchUp), offline.behind);
    assert!(offline.behind > 0);
    assert_eq!(judge(result, "loss=0"), Judgement::Fail);
}

#[test]
fn a_message_that_comes_twice_after_the_return_is_a_duplicate() {
    let (result, counts) = run_with(Faults { twice_on_return: true, ..store() }, offline("25%"));
    assert_eq!(counts.repeated, 2);
    assert_eq!((result.ledger.duplicates, result.ledger.lost), (2, 0));
    assert_eq!(judge(result, "duplicates=0"), Judgement::Fail);
}

#[test]
fn a_closed_loop_goes_on_acks_for_who_is_offline() {
    let workload = Workload {
        rate: Rate::Max { in_flight: 2 },
        duration: Duration::from_millis(300),
        presign: Some(2000),
        ..offline("50%:100%")
    };
    let (result, counts) = run_with(store(), workload);
    let ledger = &result.ledger;
    assert!(ledger.sent > 50, "{ledger:?}");
    assert_eq!((ledger.acked, ledger.delivered, counts.kept), (ledger.sent, ledger.sent, ledger.sent));
    assert_eq!(result.recorder.of(Metric::Message).len(), 0);
    assert_eq!((result.ledger.duplicates, result.ledger.faults()), (0, 0));
}

/// Three devices each.
fn devices() -> Workload {
    Workload { devices: 3, ..workload() }
}

#[test]
fn every_device_gets_every_message_and_the_senders_others_a_copy() {
    let (result, counts) = run_with(store(), devices());
    let ledger = &result.ledger;
    assert_eq!((ledger.sent, ledger.acked, ledger.unacked), (400, 400, 0));
    // Three of the recipient, two of the sender.
    assert_eq!((ledger.delivered, counts.copies), (5 * 400, 2 * 400));
    assert_eq!((ledger.undelivered(), ledger.duplicates, ledger.faults()), (0, 0, 0), "{ledger:?}");
    assert_eq!((result.recorder.of(Metric::Message).len(), result.missing.of(Metric::Message)), (2000, 0));
    // Each device has a lobby, and each user is in it once.
    assert_eq!((result.lobby.clients, result.lobby.diverged, result.lobby.truth_known), (24, 0, true));
    assert_eq!((counts.joins, counts.unconfirmed), (24, 0));
}

#[test]
fn a_relay_without_a_store_owes_the_senders_other_devices_nothing() {
    let (result, _) = run_with(Faults::default(), devices());
    let ledger = &result.ledger;
    assert_eq!((ledger.sent, ledger.acked, ledger.delivered, ledger.lost), (400, 400, 3 * 400, 0));
    assert_eq!((result.missing.of(Metric::Message), result.missing.of(Metric::Service)), (0, 0));
    assert_eq!((ledger.duplicates, ledger.faults()), (0, 0));
}

#[test]
fn what_one_device_lacks_or_gets_twice_is_counted() {
    for faults in [Faults { skip_device_every: 8, ..store() }, Faults { skip_device_every: 8, ..Faults::default() }] {
        let (result, counts) = run_with(faults, impatient(devices()));
        assert_eq!((counts.devices_skipped, result.ledger.lost), (50, 50));
        assert_eq!((result.missing.of(Metric::Message), result.ledger.duplicates), (50, 0));
        assert_eq!(judge(result, "loss=0"), Judgement::Fail);
    }
    let (result, counts) = run_with(Faults { repeat_every: 10, ..Faults::default() }, devices());
    assert_eq!((counts.repeated, result.ledger.duplicates, result.ledger.lost), (40, 40, 0));
}

#[test]
fn a_relay_without_a_store_is_told_from_one_that_loses() {
    let relay = FakeRelay::start(Faults::default());
    let error = try_run(request(&relay, offline("25%"))).unwrap_err().to_string();
    assert!(error.contains("error/offline") && error.contains("--data DIR"), "{error}");
}

#[test]
fn who_cannot_come_back_at_once_tries_again() {
    let (result, counts) = run_with(Faults { refuse_logins: (8, 3), ..store() }, offline("25%"));
    let offline = &result.scenario.offline;
    assert_eq!((counts.turned_away, offline.login_errors), (3, 3));
    assert_eq!((offline.back, result.ledger.delivered, result.ledger.lost), (2, 400, 0));
    assert_eq!(result.ledger.disconnects.values().sum::<u64>(), 3);
}
