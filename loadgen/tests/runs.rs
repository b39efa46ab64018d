//! Whole runs against a relay that behaves, and one that misbehaves in ways it counts: the
//! generator's books must say exactly the same.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fake_relay::request::{request, workload};
use fake_relay::{Counts, FakeRelay, Faults, STALL};
use loadgen::clock::to_ns;
use loadgen::plan::{EngineChoice, Rate, Workload};
use loadgen::progress::Progress;
use loadgen::recorder::{Metric, quantile};
use loadgen::run::{Request, RunError, RunResult, run};
use loadgen::schedule::Arrivals;

fn try_run(request: Request) -> Result<RunResult, RunError> {
    run(request, &Progress::Silent, &AtomicBool::new(false))
}

/// Runs against a relay with these faults, and waits no longer than half a second for what is lost.
fn run_with(faults: Faults, workload: Workload) -> (RunResult, Counts) {
    let relay = FakeRelay::start(faults);
    let result = try_run(request(&relay, workload)).unwrap();
    (result, relay.counts())
}

fn misbehaving(faults: Faults) -> (RunResult, Counts) {
    run_with(faults, Workload { drain: Duration::from_millis(500), ..workload() })
}

fn undelivered(result: &RunResult) -> u64 {
    result.steady.due - result.steady.delivered
}

#[test]
fn a_relay_that_behaves_has_clean_books() {
    let (result, counts) = run_with(Faults::default(), workload());
    let ledger = &result.ledger;
    assert_eq!((ledger.sent, ledger.acked, ledger.delivered), (400, 400, 400));
    assert_eq!((ledger.undelivered(), ledger.duplicates, ledger.faults()), (0, 0, 0));
    assert_eq!(counts.messages, 400);
    assert_eq!(result.steady.due, 400);
    for metric in [Metric::Message, Metric::Service, Metric::SendLag, Metric::Ack] {
        assert_eq!(result.recorder.of(metric).len(), 400, "{metric:?}");
    }
    assert_eq!(result.recorder.of(Metric::Connect).len(), 8);
    assert_eq!(result.recorder.of(Metric::Auth).len(), 8);
    assert_eq!((result.lobby.clients, result.lobby.diverged), (8, 0));
    assert!(result.lobby.truth_known);
    assert!(result.notes.iter().all(|note| !note.contains("lobby")), "{:?}", result.notes);
    // Response time is service time and lag together, for each message and so for the largest.
    let max = |metric| result.recorder.of(metric).max();
    assert!(max(Metric::Message) >= max(Metric::Service));
}

#[test]
fn every_engine_and_worker_count_has_clean_books() {
    for (engine, workers) in [(EngineChoice::Epoll, 1), (EngineChoice::Auto, 3)] {
        let relay = FakeRelay::start(Faults::default());
        let workload = Workload { arrivals: Arrivals::Poisson, ..workload() };
        let result = try_run(Request { engine, workers, ..request(&relay, workload) }).unwrap();
        let ledger = &result.ledger;
        assert!(ledger.sent > 200);
        assert_eq!(ledger.delivered, ledger.sent);
        assert_eq!((ledger.undelivered(), ledger.duplicates, ledger.faults()), (0, 0, 0));
        assert_eq!(result.workers.len(), workers);
        assert_eq!((result.lobby.clients, result.lobby.diverged), (8, 0));
    }
}

#[test]
fn a_stall_is_in_the_response_time_and_not_in_the_service_time() {
    // One sender writes 1,000 long messages a second for 3 s, and the relay stalls for 200 of them. A
    // dozen are in the kernel's buffers meanwhile and have the stall in their service time: 0.4 %.
    // The rest waits, which is 6 % and so in the 99th percentile.
    let workload = Workload {
        clients: 3,
        senders: 1,
        rate: Rate::PerSecond(1000.0),
        message_bytes: 8000,
        lobby: false,
        ..workload()
    };
    let workload = Workload { duration: Duration::from_secs(3), ..workload };
    let half = to_ns(STALL / 2);
    let mut seen = Vec::new();
    // Another stall, of this machine, may come on top; not five times.
    for _ in 0..5 {
        let (result, _) = run_with(Faults { stall_at: 1500, ..Faults::default() }, workload.clone());
        assert_eq!((result.ledger.delivered, result.ledger.undelivered()), (3000, 0));
        let p99 = |metric| quantile(result.recorder.of(metric), 0, 0.99).unwrap();
        assert!(p99(Metric::Message) >= half, "{}", p99(Metric::Message));
        assert!(result.recorder.of(Metric::Blocked).max() >= half);
        if p99(Metric::Service) < half && p99(Metric::SendLag) < half {
            return;
        }
        seen.push((p99(Metric::Service), p99(Metric::SendLag)));
    }
    panic!("the stall is in the service time or in the send lag: {seen:?}");
}

#[test]
fn dropped_messages_are_lost_and_infinitely_late() {
    let (result, counts) = misbehaving(Faults { drop_every: 10, ..Faults::default() });
    assert_eq!(counts.dropped, 40);
    assert_eq!(result.ledger.lost, 40);
    assert_eq!(result.ledger.delivered, 360);
    assert_eq!(undelivered(&result), 40);
    assert_eq!(result.ledger.faults(), 0);
    // A tenth never came: the 90th percentile is the last that did, the 91st is infinite.
    let messages = result.recorder.of(Metric::Message);
    assert!(quantile(messages, undelivered(&result), 0.90).is_some());
    assert!(quantile(messages, undelivered(&result), 0.91).is_none());
}

#[test]
fn one_message_lost_in_a_thousand_is_counted() {
    let workload = Workload {
        rate: Rate::PerSecond(2000.0),
        duration: Duration::from_secs(2),
        drain: Duration::from_millis(1500),
        ..workload()
    };
    let (result, counts) = run_with(Faults { drop_every: 1000, ..Faults::default() }, workload);
    assert_eq!(counts.dropped, 4);
    assert_eq!((result.ledger.sent, result.ledger.delivered, result.ledger.lost), (4000, 3996, 4));
    assert_eq!((undelivered(&result), result.missing.of(Metric::Message)), (4, 4));
    // Four of 4,000: the 99.9th percentile is the last that came.
    let messages = result.recorder.of(Metric::Message);
    assert!(quantile(messages, 4, 0.999).is_some() && quantile(messages, 4, 0.9991).is_none());
}

#[test]
fn repeated_messages_are_duplicates() {
    let (result, counts) = misbehaving(Faults { repeat_every: 7, ..Faults::default() });
    assert_eq!(counts.repeated, 57);
    assert_eq!(result.ledger.duplicates, 57);
    assert_eq!((result.ledger.delivered, result.ledger.lost), (400, 0));
    assert_eq!(result.ledger.faults(), 0);
}

#[test]
fn altered_messages_have_a_bad_signature() {
    let faults = Faults { alter_every: 9, forge_every: 11, ..Faults::default() };
    let (result, counts) = misbehaving(faults);
    // 99, 198, 297 and 396 are both, and one message each.
    let changed = counts.altered + counts.forged - 4;
    assert_eq!((counts.altered, counts.forged), (44, 36));
    assert_eq!(result.ledger.altered, changed);
    assert_eq!(result.ledger.bad_signature, changed);
    assert_eq!(result.ledger.altered_unrepaired, changed);
    assert_eq!(result.ledger.undelivered(), changed);
    assert_eq!(result.ledger.delivered, 400 - changed);
    assert_eq!(result.ledger.lost, 0);
}

#[test]
fn messages_written_anew_are_altered_although_their_signature_is_right() {
    let (result, counts) = misbehaving(Faults { respace_every: 8, ..Faults::default() });
    assert_eq!(counts.respaced, 50);
    assert_eq!((result.ledger.altered, result.ledger.bad_signature), (50, 0));
    assert_eq!(result.ledger.delivered, 350);
}

#[test]
fn delayed_messages_are_out_of_order_within_their_pair() {
    // One peer each: the next message to a recipient of the same sender is of the same pair.
    let faults = Faults { delay_every: 5, ..Faults::default() };
    let pairs = Workload { clients: 2, senders: 2, peers: 1, drain: Duration::from_millis(500), ..workload() };
    let (result, counts) = run_with(faults, pairs);
    assert!(counts.delayed > 70, "{counts:?}");
    assert_eq!(result.ledger.out_of_order, counts.delayed - counts.held);
    assert_eq!(result.ledger.lost, counts.held);
    assert_eq!(result.ledger.delivered, 400 - counts.held);
}

#[test]
fn messages_to_another_are_misdelivered_and_lost() {
    let (result, counts) = misbehaving(Faults { misroute_every: 20, ..Faults::default() });
    assert_eq!(counts.misrouted, 20);
    assert_eq!((result.ledger.misdelivered, result.ledger.lost), (20, 20));
}

#[test]
fn a_copy_to_another_is_misdelivered_and_no_duplicate() {
    let (result, counts) = misbehaving(Faults { copy_every: 20, ..Faults::default() });
    assert_eq!(counts.copied, 20);
    assert_eq!((result.ledger.misdelivered, result.ledger.duplicates), (20, 0));
    assert_eq!((result.ledger.delivered, result.ledger.lost), (400, 0));
}

#[test]
fn refused_messages_are_counted_by_reason() {
    let (result, counts) = misbehaving(Faults { refuse_every: 4, ..Faults::default() });
    assert_eq!(counts.refused, 100);
    assert_eq!((result.ledger.refused, result.ledger.errors["offline"]), (100, 100));
    assert_eq!((result.ledger.delivered, result.ledger.lost), (300, 0));
    assert_eq!(undelivered(&result), 100);
}

#[test]
fn skipped_inbox_numbers_and_second_acks_are_counted() {
    let (result, counts) = misbehaving(Faults { skip_every: 6, ack_twice_every: 3, ..Faults::default() });
    assert_eq!(result.ledger.seq_gaps, counts.skipped);
    assert_eq!(result.ledger.ack_duplicates, counts.acked_twice);
    assert_eq!((counts.skipped, counts.acked_twice), (66, 133));
    assert_eq!((result.ledger.delivered, result.ledger.acked), (400, 400));
}

#[test]
fn a_client_that_is_thrown_out_is_counted_and_its_messages_are_not_sent() {
    let (result, _) = misbehaving(Faults { close_after: 100, ..Faults::default() });
    assert_eq!(result.ledger.disconnects.values().sum::<u64>(), 1);
    assert!(result.ledger.not_sent > 0);
    assert_eq!(result.steady.due, 400);
    assert_eq!(result.ledger.sent + result.ledger.not_sent, 400);
    assert!(result.ledger.errors["offline"] > 0);
}

fn visited() -> Workload {
    Workload {
        rate: Rate::Idle,
        senders: 0,
        churn_per_second: 20.0,
        duration: Duration::from_millis(1500),
        ..workload()
    }
}

#[test]
fn watchers_see_every_visitor_come_and_go() {
    let (result, counts) = run_with(Faults::default(), visited());
    // 30 and 26 are due; the last of them may fall behind the end on a busy machine.
    assert!(result.steady.joins >= 15 && result.steady.leaves >= 10, "{:?}", result.steady);
    assert!((8 + result.steady.joins..=8 + 30).contains(&counts.joins), "{counts:?}");
    // Each of the 8 that stay sees each of them once.
    assert_eq!(result.recorder.of(Metric::LobbyJoin).len(), 8 * result.steady.joins);
    assert_eq!(result.recorder.of(Metric::LobbyLeave).len(), 8 * result.steady.leaves);
    assert_eq!((result.lobby.diverged, result.ledger.faults()), (0, 0));
    spread_to_everybody(&result);
}

/// Every join and leave has a first, a median and a last watcher, in that order, and nobody missed one.
fn spread_to_everybody(result: &RunResult) {
    let events = result.steady.joins + result.steady.leaves;
    let spread = [Metric::LobbyFirst, Metric::LobbyMedian, Metric::LobbyLast];
    assert_eq!(spread.map(|metric| result.recorder.of(metric).len()), [events; 3]);
    assert_eq!(spread.map(|metric| result.missing.of(metric)), [0; 3]);
    let sums = spread.map(|metric| result.recorder.of(metric).mean());
    assert!(sums[0] <= sums[1] * 1.01 && sums[1] <= sums[2] * 1.01, "{sums:?}");
    let reach = &result.reach;
    assert_eq!((reach.events, reach.incomplete, reach.told), (events, 0, 8 * events));
    assert_eq!((reach.join_watchers, reach.leave_watchers), (8 * result.steady.joins, 8 * result.steady.leaves));
}

#[test]
fn a_join_is_followed_over_all_workers() {
    let relay = FakeRelay::start(Faults::default());
    let result = try_run(Request { workers: 3, ..request(&relay, visited()) }).unwrap();
    assert!(result.steady.joins >= 15, "{:?}", result.steady);
    spread_to_everybody(&result);
}

#[test]
fn who_is_never_let_in_is_infinitely_late() {
    let (result, counts) = run_with(Faults { refuse_logins: (8, 5), ..Faults::default() }, visited());
    assert_eq!(counts.turned_away, 5);
    assert_eq!((result.missing.of(Metric::Auth), result.missing.of(Metric::Connect)), (5, 0));
    // A relay that says nothing is still waited for when the run ends.
    let patient = Workload { drain: Duration::from_millis(1500), ..visited() };
    let (result, counts) = run_with(Faults { mute_after: 8, ..Faults::default() }, patient);
    assert!(counts.muted >= 15, "{counts:?}");
    assert_eq!((result.missing.of(Metric::Auth), result.missing.of(Metric::Connect)), (0, counts.muted));
    assert_eq!(result.recorder.of(Metric::Connect).len(), 8);
}

#[test]
fn a_forgotten_leave_is_noticed_once_by_each_and_repaired() {
    let (result, counts) = run_with(Faults { forget_leave: true, ..Faults::default() }, visited());
    assert!(counts.disagreements >= 8, "{counts:?}");
    assert_eq!(result.lobby.disagreements, counts.disagreements);
    assert_eq!(result.lobby.diverged_at_end, 0);
    assert!(result.lobby.diverged >= 8);
    assert_eq!(result.recorder.of(Metric::LobbyLeave).len(), 8 * (result.steady.leaves - 1));
    nobody_was_told_of_one_leave(&result);
}

fn nobody_was_told_of_one_leave(result: &RunResult) {
    assert_eq!(result.reach.incomplete, 1);
    assert_eq!(result.reach.told, 8 * (result.reach.events - 1));
    for metric in [Metric::LobbyFirst, Metric::LobbyMedian, Metric::LobbyLast] {
        assert_eq!(result.missing.of(metric), 1, "{metric:?}");
    }
    assert_eq!((result.missing.of(Metric::LobbyLeave), result.missing.of(Metric::LobbyJoin)), (8, 0));
}

#[test]
fn a_ghost_leaves_every_lobby_wrong_at_the_end() {
    let workload = Workload { drain: Duration::from_millis(300), ..visited() };
    let (result, _) = run_with(Faults { keep_ghost: true, ..Faults::default() }, workload);
    assert!(result.lobby.truth_known);
    assert_eq!(result.lobby.disagreements, 0);
    assert!(result.lobby.clients >= 8);
    assert_eq!(result.lobby.diverged_at_end, result.lobby.clients);
    nobody_was_told_of_one_leave(&result);
}

#[test]
fn strangers_make_the_truth_unknown_and_nobody_wrong() {
    let (result, _) = run_with(Faults { stranger: true, ..Faults::default() }, visited());
    assert!(!result.lobby.truth_known);
    assert_eq!((result.lobby.clients >= 8, result.lobby.diverged), (true, 0));
    assert!(result.notes.iter().any(|note| note.contains("truth is unknown")), "{:?}", result.notes);
}

#[test]
fn a_closed_loop_sends_on_acks_and_counts_everything() {
    let closed = Workload {
        rate: Rate::Max { in_flight: 2 },
        senders: 4,
        warmup: Duration::from_millis(100),
        duration: Duration::from_millis(300),
        presign: Some(2000),
        ..workload()
    };
    let (result, counts) = run_with(Faults { refuse_every: 50, ..Faults::default() }, closed);
    let ledger = &result.ledger;
    assert!(ledger.sent > 50, "{ledger:?}");
    assert_eq!(ledger.sent, counts.messages);
    assert_eq!((ledger.refused, ledger.lost), (counts.refused, 0));
    assert_eq!(ledger.delivered + ledger.refused, ledger.sent);
    assert_eq!(ledger.faults(), counts.refused);
}

#[test]
fn lobbies_can_be_left_out() {
    let (result, _) = run_with(Faults::default(), Workload { lobby: false, ..workload() });
    assert_eq!((result.lobby.clients, result.ledger.delivered), (0, 400));
}

#[test]
fn a_rate_limit_that_is_too_low_is_refused_with_the_fix() {
    let relay = FakeRelay::start(Faults { rate_limit: 10, ..Faults::default() });
    for rate in [Rate::PerSecond(81.0), Rate::Max { in_flight: 1 }] {
        let error = try_run(request(&relay, Workload { rate, ..workload() })).unwrap_err();
        assert!(matches!(error, RunError::Refused(_)), "{error}");
        assert!(error.to_string().contains("--rate-limit 0"), "{error}");
    }
    let fits = Workload { rate: Rate::PerSecond(80.0), ..workload() };
    assert_eq!(try_run(request(&relay, fits)).unwrap().ledger.delivered, 80);
}

#[test]
fn a_relay_of_another_name_is_not_signed_for() {
    let relay = FakeRelay::start(Faults { name: Some("elsewhere.example"), ..Faults::default() });
    let error = try_run(request(&relay, workload())).unwrap_err().to_string();
    assert!(error.contains("elsewhere.example") && error.contains("--relay-name"), "{error}");
}

#[test]
fn an_interrupted_run_ends() {
    let relay = FakeRelay::start(Faults::default());
    let error = run(request(&relay, workload()), &Progress::Silent, &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(error, RunError::Interrupted), "{error}");
}
