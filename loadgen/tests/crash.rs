//! Runs with a relay that is killed and started again. It is a process of its own: this test's program, in
//! another role, with a store that is a file.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use fake_relay::request::{request_of, workload};
use fake_relay::{FakeRelay, Faults};
use loadgen::plan::{Spawn, Workload};
use loadgen::progress::Progress;
use loadgen::report::summarize;
use loadgen::run::{Request, RunResult, run};
use loadgen::scenario::Scenario;
use loadgen::slo::{Judgement, Slo};
use loadgen::validity::FindingKind;

/// What the relay is given: its command line, and which of the messages for those who are away it forgets.
const ARGUMENTS: &str = "FAKE_RELAY_ARGUMENTS";
const FORGET: &str = "FAKE_RELAY_FORGETS";

#[test]
#[ignore = "it is the relay of the other tests, and does nothing by itself"]
fn the_relay_as_a_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let value = |option| arguments[arguments.iter().position(|argument| *argument == option).unwrap() + 1];
    let address: SocketAddr = value("--listen").parse().unwrap();
    let forget_every = std::env::var(FORGET).unwrap().parse().unwrap();
    let faults = Faults { store: true, forget_every, ..Faults::default() };
    let relay = FakeRelay::start_at(address, Some(Path::new(value("--data"))), faults);
    println!("listening on {}, admin on 127.0.0.1:1", relay.address);
    loop {
        std::thread::park();
    }
}

/// A run that kills its relay three times.
fn killed(forget_every: u64) -> RunResult {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("relay");
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{ARGUMENTS}=\"$*\" {FORGET}={forget_every} exec '{}' --exact the_relay_as_a_process --ignored --nocapture\n",
        own.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let scenario = Scenario { crash: Some(3), ..Scenario::default() };
    let workload = Workload {
        duration: Duration::from_secs(3),
        drain: Duration::from_secs(if forget_every == 0 { 60 } else { 6 }),
        scenario,
        ..workload()
    };
    let spawn = Spawn { program, arguments: vec!["--data".to_owned(), data] };
    let request = Request { target: None, spawn: Some((spawn, "localhost".to_owned())), ..request_of(None, workload) };
    run(request, &Progress::Silent, &AtomicBool::new(false)).unwrap()
}

fn judge(mut result: RunResult) -> Judgement {
    Arc::get_mut(&mut result.plan).expect("the run is over").slo = Slo::of_crash();
    summarize(&result, None, SystemTime::now(), Vec::new()).0.verdict.judgement
}

#[test]
fn every_acked_message_comes_although_the_relay_is_killed() {
    let result = killed(0);
    let (ledger, crash) = (&result.ledger, &result.scenario.crash);
    assert_eq!((crash.kills, crash.lost, crash.lost_ids.len()), (3, 0, 0));
    // What fell due while it was down went later.
    assert_eq!((ledger.sent, ledger.acked, ledger.delivered), (1200, 1200, 1200), "{ledger:?} {crash:?}");
    assert_eq!((ledger.undelivered(), ledger.unacked, ledger.duplicates, ledger.faults()), (0, 0, 0, 0), "{ledger:?}");
    // Each time all were there again; a second kill may come before somebody was.
    assert!((8..=24).contains(&crash.reconnects) && crash.recovered == crash.reconnects, "{crash:?}");
    assert!(crash.duplicate_acks <= crash.sent_again, "{crash:?}");
    // It knew what each had.
    assert_eq!(crash.repeated, 0);
    assert_eq!((result.lobby.clients, result.lobby.diverged_at_end), (8, 0));
    // What the machine was before the run may be told; of what it did in it nothing is held against the relay.
    assert!(result.findings.iter().all(|finding| finding.kind == FindingKind::Machine), "{:?}", result.findings);
    assert!(result.notes.iter().any(|note| note.contains("killed")), "{:?}", result.notes);
    assert_eq!(judge(result), Judgement::Pass);
}

#[test]
fn an_acked_message_that_is_gone_after_a_crash_fails_and_is_named() {
    // It forgets whatever comes for somebody who is not back yet. Whether anything does is chance, and
    // three crashes make it all but certain; five runs surely.
    for _ in 0..5 {
        let result = killed(1);
        let (ledger, crash) = (&result.ledger, &result.scenario.crash);
        assert_eq!((crash.lost, crash.kills), (ledger.lost, 3));
        if crash.lost > 0 {
            assert_eq!(crash.lost_ids.len() as u64, crash.lost.min(20));
            assert!(crash.lost_ids.iter().all(|id| id.len() == 24), "{crash:?}");
            assert_eq!(judge(result), Judgement::Fail);
            return;
        }
    }
    panic!("nothing was sent to anybody who was away");
}
