//! Every rule holds: a few hundred seeds here, any number with `relay-sim --seeds`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_sim::{Overrides, RunOptions, Seen, run};

fn all_clean(seeds: std::ops::Range<u64>, options: &RunOptions) -> Seen {
    let (next, seen) = (AtomicU64::new(seeds.start), Mutex::new(Seen::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(seed, options);
                    assert!(report.failure.is_none(), "{report}");
                    seen.lock().expect("no seed panicked").merge(&report.seen);
                }
            });
        }
    });
    seen.into_inner().expect("no seed panicked")
}

/// Clean, and not because nothing happens: every reason, close code and way out is met.
#[test]
fn seeds_are_clean_and_meet_everything() {
    let seen = all_clean(0..1000, &RunOptions::default());
    let reasons = [
        "auth_failed",
        "unsupported_version",
        "malformed",
        "sender_mismatch",
        "message_too_large",
        "rate_limited",
        "stale_timestamp",
        "signature_invalid",
        "invalid_recipient",
        "offline",
        "id_conflict",
        "no_such_room",
        "overloaded",
        "inbox_full",
    ]
    .map(|reason| format!("error {reason}"));
    let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 4401, 4408, 4409, 4429].map(|code| format!("close {code}"));
    let others = [
        "ack new",
        "ack duplicate",
        "http 404",
        "http 426",
        "lobby delta",
        "lobby last page",
        "stats batches failed",
        "stats handed over",
        "stats pushes dropped",
        "stats replaced",
        "stats silent",
        "stats too slow",
        "stats verified alone",
        "stats verified in batches",
        "stats entries stored",
        "stats entries never stored",
        "stats entries loaded",
        "stats disk full",
        "stats disk failed",
        "receipt delivered",
        "receipt read",
        "relay killed",
        "relay ended in peace",
        "resume recovered",
        "resume not recovered",
        "client sent again",
    ]
    .map(str::to_owned);
    let all = reasons.iter().chain(&codes).chain(&others);
    let missed: Vec<_> = all.filter(|name| seen.count(name) == 0).collect();
    assert!(missed.is_empty(), "never met: {missed:?}");
}

#[test]
fn more_shards_than_cores_are_clean() {
    let overrides = Overrides { shards: Some(7), clients: Some(60), steps: Some(500), ..Overrides::default() };
    all_clean(0..8, &RunOptions { overrides, ..RunOptions::default() });
}

/// So many users that a snapshot takes several pages, and a slow reader lags behind.
#[test]
fn a_crowd_is_clean() {
    let overrides = Overrides { clients: Some(2400), steps: Some(300), ..Overrides::default() };
    let seen = all_clean(0..4, &RunOptions { overrides, ..RunOptions::default() });
    assert!(seen.count("lobby page") > 0, "{seen:?}");
}

/// Seeds that once broke a rule, each with what was wrong. The workload may have changed since: what
/// they stand for is written down, and planted where it can be.
#[test]
fn seeds_of_fixed_faults_are_clean() {
    let found = [
        (5, "a message sent three times while in transit was answered twice"),
        (74, "a repeated message was not counted when its sender had gone"),
        (25, "a connection that did not read was never given up between auth and hand-over"),
    ];
    for (seed, what) in found {
        let report = run(seed, &RunOptions::default());
        assert!(report.failure.is_none(), "{what}\n{report}");
    }
}
