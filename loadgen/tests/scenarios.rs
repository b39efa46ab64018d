//! Runs that are not steady, against a relay that counts what it sees of them.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fake_relay::{Counts, FakeRelay, Faults, Memory, request};
use loadgen::plan::{EngineChoice, Rate, Workload};
use loadgen::progress::Progress;
use loadgen::recorder::Metric;
use loadgen::run::{Request, RunResult, run};
use loadgen::scenario::Scenario;
use loadgen::scenario::outcome::StormSummary;

fn workload(scenario: Scenario) -> Workload {
    Workload { scenario, ..request::workload() }
}

fn run_on(engine: EngineChoice, workers: usize, faults: Faults, workload: Workload) -> (RunResult, Counts) {
    let relay = FakeRelay::start(faults);
    let request = Request { workers, engine, ..request::request(&relay, workload) };
    let result = run(request, &Progress::Silent, &AtomicBool::new(false)).unwrap();
    (result, relay.counts())
}

fn run_with(faults: Faults, workload: Workload) -> (RunResult, Counts) {
    run_on(EngineChoice::Auto, 1, faults, workload)
}

fn storm(text: &str) -> Scenario {
    Scenario { storm: Some(text.parse().unwrap()), ..Scenario::default() }
}

fn slow_readers(text: &str) -> Scenario {
    Scenario { slow_readers: Some(text.parse().unwrap()), ..Scenario::default() }
}

fn summed_up(result: &RunResult) -> StormSummary {
    StormSummary::new(&result.scenario.storm, &result.lobby, result.settled_ns)
}

/// Every message that was due is in one book, and in one place there.
fn check_books(result: &RunResult, due: u64) {
    let (ledger, aside) = (&result.ledger, &result.scenario.aside);
    assert_eq!(ledger.sent + ledger.unsent() + aside.due, due, "{ledger:?} {aside:?}");
    assert_eq!(ledger.sent, ledger.delivered + ledger.lost + ledger.refused + ledger.altered_unrepaired, "{ledger:?}");
    assert_eq!(aside.due, aside.not_sent + aside.sent, "{aside:?}");
    assert_eq!(aside.sent, aside.delivered + aside.refused + aside.lost, "{aside:?}");
}

#[test]
fn a_burst_sends_what_its_schedule_says_to_the_message() {
    let scenario = Scenario { burst: Some("5x/200ms/500ms".parse().unwrap()), ..Scenario::default() };
    let (result, counts) = run_with(Faults::default(), workload(scenario));
    // 400 a second, of which two bursts of 200 ms bring 4 more each.
    assert_eq!((result.steady.due, counts.messages), (400 + 2 * 320, 1040));
    assert_eq!((result.ledger.delivered, result.ledger.faults()), (1040, 0));
}

#[test]
fn a_ramp_in_steps_sends_what_its_schedule_says_to_the_message() {
    let ramp = Workload {
        rate: Rate::Ramp("100..300/s:2".parse().unwrap()),
        warmup: Duration::from_millis(500),
        duration: Duration::from_secs(2),
        ..workload(Scenario::default())
    };
    let (result, counts) = run_with(Faults::default(), ramp);
    assert_eq!((result.steady.due, counts.messages), (400, 450));
    assert_eq!((result.ledger.delivered, result.ledger.faults()), (450, 0));
    // The steps are seconds, and so are the intervals; the first of these is all before.
    let within: Vec<_> = result.intervals.iter().map(|interval| interval.recorder.of(Metric::Message).len()).collect();
    assert_eq!((within[0], within.iter().sum::<u64>()), (0, 400));
}

#[test]
fn a_few_favourites_get_their_share() {
    let scenario = Scenario { skew: Some("12.5%:75%".parse().unwrap()), ..Scenario::default() };
    let skewed = Workload { clients: 16, senders: 16, rate: Rate::PerSecond(1600.0), ..workload(scenario) };
    let (result, counts) = run_with(Faults::default(), skewed);
    assert_eq!((result.ledger.delivered, counts.messages), (1600, 1600));
    // 1,200 expected for the two together, with a deviation of 17: five of them.
    assert!((1115..1285).contains(&counts.most_received), "{counts:?}");
}

#[test]
fn in_a_storm_those_who_stay_are_judged_and_all_lobbies_converge() {
    for (engine, workers) in [(EngineChoice::Auto, 1), (EngineChoice::Epoll, 2)] {
        let (result, counts) = run_on(engine, workers, Faults::default(), workload(storm("50%@300ms")));
        let summary = summed_up(&result);
        assert_eq!((summary.dropped, summary.back, summary.login_errors), (4, 4, 0));
        // At the end all leave; the relay may have seen that.
        assert!(counts.joins == 8 + 4 && counts.leaves >= 4, "{counts:?}");
        assert_eq!((summary.converged, result.lobby.diverged), (Some(true), 0));
        assert!(summary.converge_time.is_some() && summary.logins_per_second.is_some_and(|rate| rate > 0.0));
        assert_eq!((result.lobby.clients, result.ledger.faults()), (8, 0));
        check_books(&result, 400);
        // Refusals are right: who had dropped was offline.
        assert_eq!((result.scenario.aside.refused, result.ledger.refused), (counts.refused, 0));
        assert_eq!((result.ledger.lost, result.ledger.duplicates), (0, 0));
        assert_eq!(result.steady.due + result.scenario.aside.due, 400);
        assert_eq!(result.recorder.of(Metric::Message).len(), result.ledger.delivered);
    }
}

#[test]
fn while_some_are_away_messages_of_those_who_stay_are_measured_apart() {
    // They come back over half a second, in which those who stay go on.
    let (result, counts) = run_with(Faults::default(), workload(storm("50%@200ms/500ms")));
    let summary = summed_up(&result);
    assert_eq!((summary.dropped, summary.back, counts.joins), (4, 4, 12));
    // The last of four comes back after three quarters of the time.
    assert!(summary.last_login.is_some_and(|ns| ns >= 375_000_000), "{summary:?}");
    assert!(summary.message.n > 0 && summary.message.infinite == 0, "{summary:?}");
    assert!(summary.message.n < result.ledger.delivered);
    // For those away nothing is sent, and to them nothing is delivered; both are set aside.
    let aside = result.scenario.aside;
    assert!(aside.not_sent > 0 && aside.refused > 0, "{aside:?}");
    assert_eq!(aside.refused, counts.refused);
    check_books(&result, 400);
    assert_eq!((result.ledger.faults(), summary.converged), (0, Some(true)));
}

#[test]
fn all_can_drop_and_come_back() {
    let idle = Workload { clients: 300, rate: Rate::Idle, senders: 0, ..workload(storm("100%@200ms")) };
    let (result, counts) = run_with(Faults::default(), idle);
    let summary = summed_up(&result);
    assert_eq!((summary.dropped, summary.back, summary.login_errors), (300, 300, 0));
    assert!(counts.joins == 600 && counts.leaves >= 300, "{counts:?}");
    assert_eq!((summary.converged, result.ledger.faults()), (Some(true), 0));
    assert_eq!((summary.message.n, summary.message.infinite), (0, 0));
    // All of them logged in twice; the second time counts as far as it is within the steady phase.
    assert!((301..=600).contains(&result.recorder.of(Metric::Auth).len()));
}

#[test]
fn a_storm_that_leaves_a_ghost_has_not_converged() {
    let workload = Workload { drain: Duration::from_millis(300), ..workload(storm("50%@300ms")) };
    let (result, _) = run_with(Faults { keep_ghost: true, ..Faults::default() }, workload);
    let summary = summed_up(&result);
    assert_eq!((summary.back, summary.converged, summary.converge_time), (4, Some(false), None));
}

#[test]
fn who_cannot_come_back_at_once_tries_again() {
    // The relay turns away two of those who come back.
    let faults = Faults { refuse_logins: (8, 2), ..Faults::default() };
    let long = Workload { duration: Duration::from_secs(2), ..workload(storm("50%@100ms")) };
    let (result, counts) = run_with(faults, long);
    let summary = summed_up(&result);
    assert_eq!((summary.dropped, summary.back, summary.login_errors), (4, 4, 2));
    assert_eq!((summary.converged, counts.joins), (Some(true), 12));
    // They came after a second, and what kept them is an error.
    assert!(summary.last_login.is_some_and(|ns| ns >= 1_000_000_000), "{summary:?}");
    assert_eq!(result.ledger.disconnects.values().sum::<u64>(), 2);
    assert!(result.ledger.disconnects.keys().all(|cause| cause.starts_with("coming back: ")));
    check_books(&result, 800);
}

#[test]
fn who_comes_back_goes_on_where_it_was() {
    let faults = Faults { memory: Memory::All, ..Faults::default() };
    let (result, counts) = run_with(faults, workload(storm("50%@300ms")));
    assert_eq!((counts.resumed, summed_up(&result).back), (4, 4));
    // Numbers go on without a gap, and what was under way comes after all.
    assert_eq!((result.ledger.faults(), result.ledger.duplicates, result.scenario.aside.repeated), (0, 0, 0));
    check_books(&result, 400);
}

#[test]
fn a_relay_may_repeat_what_it_does_not_know_to_be_there() {
    let faults = Faults { memory: Memory::Pushes, ..Faults::default() };
    let (result, counts) = run_with(faults, workload(storm("50%@300ms")));
    let aside = result.scenario.aside;
    // Some of what was pushed again had been under way, and is new.
    assert!(aside.repeated > 0 && aside.repeated <= counts.pushed_again, "{aside:?} {counts:?}");
    assert_eq!((result.ledger.duplicates, result.ledger.faults(), summed_up(&result).back), (0, 0, 4));
    check_books(&result, 400);
}

#[test]
fn what_is_under_way_when_its_ends_drop_is_set_aside() {
    // The relay carries half of what is due: at the drop some sixty wait in it.
    let faults = Faults { serve_per_second: 200, ..Faults::default() };
    let (result, counts) = run_with(faults, workload(storm("50%@300ms")));
    check_books(&result, 400);
    let (ledger, aside) = (&result.ledger, result.scenario.aside);
    // Those of senders that dropped are never carried: they are lost, and nobody is to blame.
    assert!(aside.lost > 0 && aside.sent > aside.lost, "{aside:?}");
    assert_eq!((ledger.lost, ledger.faults()), (0, 0));
    // What the relay pushes before it sees that a connection is gone is carried, and lost.
    let carried = ledger.sent + aside.sent - aside.lost;
    assert!((carried..=ledger.sent + aside.sent).contains(&counts.messages), "{counts:?} {ledger:?} {aside:?}");
    let missing = result.missing;
    assert_eq!((missing.of(Metric::Message), missing.of(Metric::Ack)), (0, 0));
    assert_eq!(summed_up(&result).converged, Some(true));
}

#[test]
fn without_lobbies_a_storm_has_nothing_to_converge() {
    let blind = Workload { lobby: false, ..workload(storm("50%@300ms")) };
    let (result, _) = run_with(Faults::default(), blind);
    let summary = summed_up(&result);
    assert_eq!((summary.back, summary.converged, summary.converge_time), (4, None, None));
    check_books(&result, 400);
}

/// Two who write to each other and to a third one, who reads slowly: 1,000 bytes each, 2,000 a second.
fn pushy(scenario: Scenario) -> Workload {
    Workload {
        clients: 3,
        senders: 2,
        peers: 2,
        rate: Rate::PerSecond(2000.0),
        message_bytes: 1000,
        ..workload(scenario)
    }
}

#[test]
fn a_slow_reader_is_closed_and_nobody_else_feels_it() {
    for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
        let faults = Faults { outbox_max: 64 * 1024, ..Faults::default() };
        let (result, counts) = run_on(engine, 1, faults, pushy(slow_readers("33%@100ms")));
        let slow = &result.scenario.slow_readers;
        assert_eq!((counts.too_slow, slow.clients, slow.stayed), (1, 1, 0));
        assert_eq!(slow.ended.values().sum::<u64>(), 1);
        assert!(slow.ended.keys().all(|how| how.starts_with("closed with 4408")), "{slow:?}");
        // Its messages are counted apart; those of the healthy are all there, without an error.
        check_books(&result, 2000);
        let (ledger, aside) = (&result.ledger, result.scenario.aside);
        assert!((900..1100).contains(&aside.due), "{aside:?}");
        assert!(aside.delivered > 0 && aside.lost > 0 && aside.refused == counts.refused, "{aside:?} {counts:?}");
        assert_eq!((ledger.delivered, ledger.lost, ledger.faults()), (2000 - aside.due, 0, 0));
        assert_eq!(result.recorder.of(Metric::Message).len(), ledger.delivered);
        // The healthy saw it leave, and are right.
        assert_eq!((result.lobby.clients, result.lobby.diverged), (2, 0));
        assert_eq!(result.steady.watchers, 2);
    }
}

#[test]
fn a_slow_reader_really_stops_reading() {
    // The relay never closes it: what it does not read piles up there. While it has stopped, no more
    // than the kernel's buffers hold has left the relay, of 1.4 MB.
    let (result, counts) = run_with(Faults::default(), pushy(slow_readers("33%@100ms")));
    let (slow, aside) = (&result.scenario.slow_readers, result.scenario.aside);
    assert!(counts.waited_most > 500_000, "{counts:?}");
    // At the end it reads again, and gets everything.
    assert_eq!((slow.clients, slow.stayed, slow.ended.len()), (1, 1, 0));
    assert_eq!((aside.delivered, aside.lost, aside.refused), (aside.due, 0, 0));
    check_books(&result, 2000);
    assert_eq!((result.ledger.faults(), result.lobby.diverged), (0, 0));
}

#[test]
fn a_slow_reader_can_read_again_before_the_end() {
    let (result, counts) = run_with(Faults::default(), pushy(slow_readers("33%@100ms/200ms")));
    let (slow, aside) = (&result.scenario.slow_readers, result.scenario.aside);
    assert_eq!((slow.stayed, aside.delivered, aside.lost), (1, aside.due, 0));
    assert!(aside.due > 0 && counts.too_slow == 0);
    check_books(&result, 2000);
}
