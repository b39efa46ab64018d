//! Messages to rooms, against a relay that counts what it leaves out, repeats and leaks.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fake_relay::request::{request, workload};
use fake_relay::{Counts, FakeRelay, Faults};
use loadgen::plan::Workload;
use loadgen::progress::Progress;
use loadgen::recorder::Metric;
use loadgen::run::{RunResult, run};

/// 8 clients; each room is told by its count and its members.
fn rooms(text: &str) -> Workload {
    Workload { rooms: Some(text.parse().unwrap()), drain: Duration::from_secs(5), ..workload() }
}

fn run_with(faults: Faults, workload: Workload, workers: usize) -> (RunResult, Counts) {
    let relay = FakeRelay::start(faults);
    let mut request = request(&relay, workload);
    request.workers = workers;
    let result = run(request, &Progress::Silent, &AtomicBool::new(false)).unwrap();
    (result, relay.counts())
}

#[test]
fn every_member_but_the_sender_gets_each_message() {
    for (text, workers, each) in [("2x4", 1, 3), ("3x5", 1, 4), ("4x2", 2, 1), ("1x8", 1, 7)] {
        let (result, counts) = run_with(Faults::default(), rooms(text), workers);
        let ledger = &result.ledger;
        assert_eq!((ledger.sent, ledger.acked, counts.messages), (400, 400, 400), "{text}");
        assert_eq!((ledger.delivered, ledger.undelivered(), ledger.duplicates), (each * 400, 0, 0), "{text}");
        assert_eq!(ledger.faults(), 0, "{text}: {ledger:?}");
        assert_eq!((result.recorder.of(Metric::Message).len(), result.missing.of(Metric::Message)), (each * 400, 0));
        assert_eq!((result.lobby.clients, result.lobby.diverged), (8, 0));
    }
}

#[test]
fn every_device_of_a_member_gets_it() {
    let (result, _) = run_with(Faults::default(), Workload { devices: 2, ..rooms("2x4") }, 1);
    // Three members with two devices each; the relay has no store, and owes the sender's other device nothing.
    assert_eq!((result.ledger.delivered, result.ledger.lost, result.ledger.faults()), (6 * 400, 0, 0));
    assert_eq!(result.missing.of(Metric::Message), 0);
}

#[test]
fn what_a_member_lacks_or_gets_twice_and_what_a_stranger_gets_is_counted() {
    let hasty = Workload { drain: Duration::from_millis(500), ..rooms("2x4") };
    let faults = Faults { skip_device_every: 8, repeat_every: 10, misroute_every: 16, ..Faults::default() };
    let (result, counts) = run_with(faults, hasty, 1);
    let ledger = &result.ledger;
    assert_eq!((counts.devices_skipped, counts.repeated, counts.misrouted), (50, 40, 25));
    assert_eq!((ledger.lost, ledger.duplicates, ledger.misdelivered), (50, 40, 25), "{ledger:?}");
    assert_eq!((ledger.delivered, result.missing.of(Metric::Message)), (3 * 400 - 50, 50));
}
