//! Runs made up in memory, from a stored summary.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{MergeError, merge};
use crate::archive::Archive;
use crate::exit::Exit;
use crate::interval_log::Interval;
use crate::recorder::{Metric, Missing, Recorder};
use crate::rng::Rng;
use crate::summary::metrics;

fn stored() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/2026-11-21-first-figures/latency.ring.1/summary.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// A generator's run of 10 s, 1,000 clients and 10,000 messages a second, with these values and these
/// changes to its summary.
fn generator(seed: u64, began_ms: u64, recorders: &[Recorder], change: impl FnOnce(&mut Value)) -> Archive {
    let mut summary = stored();
    summary["workload"]["seed"] = json!(seed);
    summary["relay"] = Value::Null;
    summary["target"]["url"] = json!("ws://10.0.0.1:7400/ws");
    summary["verdict"]["terms"] = json!([{"term": "loss=0", "measured": "0", "judgement": "pass"}]);
    change(&mut summary);
    let intervals = recorders.iter().enumerate().map(|(number, recorder)| Interval {
        start: Duration::from_secs(number.saturating_sub(1) as u64),
        length: Duration::from_secs(1),
        recorder: Box::new(recorder.clone()),
    });
    Archive {
        dir: PathBuf::from(format!("runs/generator-{seed}")),
        summary: serde_json::from_value(summary).unwrap(),
        began: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + began_ms),
        intervals: intervals.collect(),
    }
}

#[test]
fn merged_histograms_are_one_big_one() {
    let mut rng = Rng::new(1, 1);
    let mut all = Recorder::default();
    let mut seconds: Vec<Vec<Recorder>> = vec![vec![Recorder::default(); 11]; 3];
    for _ in 0..30_000 {
        let (generator, second) = (rng.below(3) as usize, rng.below(11) as usize);
        let metric = [Metric::Message, Metric::Service, Metric::LobbyJoin][rng.below(3) as usize];
        // Generators differ, as machines do: averages of their percentiles would be wrong.
        let ns = rng.exponential(1e6 * [1.0, 3.0, 30.0][generator]) as u64;
        seconds[generator][second].record(metric, ns);
        all.record(metric, ns);
    }
    let runs: Vec<Archive> =
        seconds.iter().zip(1..).map(|(seconds, seed)| generator(seed, 0, seconds, |_| {})).collect();
    let merged = merge(&runs, None, false).unwrap();

    let mut missing = Missing::default();
    missing.set(Metric::Message, 3 * runs[0].missing().of(Metric::Message));
    let expected = metrics(&all, &missing);
    for name in ["message", "service", "lobby.join", "lobby"] {
        let [expected, found] = [&expected, &merged.summary.metrics].map(|metrics| {
            let metric = &metrics[name];
            (metric.n, metric.p50, metric.p90, metric.p99, metric.p99_9, metric.max)
        });
        assert_eq!(found, expected, "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    merged.file(dir.path()).unwrap();
    let read = crate::archive::read(dir.path()).unwrap();
    for metric in [Metric::Message, Metric::Service, Metric::LobbyJoin] {
        assert_eq!(read.recorder().of(metric), all.of(metric), "{metric:?}");
        for second in 0..11 {
            let parts: u64 = seconds.iter().map(|seconds| seconds[second].of(metric).len()).sum();
            assert_eq!(read.intervals[second].recorder.of(metric).len(), parts, "{metric:?} in {second}");
        }
    }
}

#[test]
fn counts_are_added_and_targets_judged_anew() {
    let mut recorder = Recorder::default();
    (0..2000).for_each(|_| recorder.record(Metric::Message, 1_000_000));
    let seconds = vec![recorder; 11];
    let ledger = |lost: u64| {
        move |summary: &mut Value| {
            summary["ledger"]["lost"] = json!(lost);
            summary["ledger"]["errors"] = json!({"offline": lost});
            summary["lobby"]["clients"] = json!(1000);
            summary["throughput"]["delivered_per_second"] = json!(9_000.5);
            summary["notes"] = json!(["a note"]);
            summary["findings"] = json!([{
                "kind": "send_lag", "severity": "warning", "metric": "send_lag", "measured": "6 ms",
                "text": "the generator sent late", "fix": "give it cores",
            }]);
        }
    };
    let runs = [generator(1, 0, &seconds, ledger(2)), generator(2, 300, &seconds, ledger(5))];
    let merged = merge(&runs, None, false).unwrap();
    let summary = &merged.summary;
    assert_eq!((summary.ledger.lost, summary.ledger.errors["offline"]), (7, 7));
    assert_eq!(summary.ledger.sent, 2 * runs[0].summary.ledger.sent);
    assert_eq!(summary.lobby.clients, 2000);
    assert_eq!(summary.throughput.delivered_per_second, 18_001.0);
    let workload = serde_json::to_value(&summary.workload).unwrap();
    assert_eq!((&workload["clients"], &workload["rate"]), (&json!(2000), &json!("20000/s")));
    assert_eq!(summary.findings[1].text, "generator-2: the generator sent late");
    assert!(summary.notes[0].contains("overlap for 9.7 s of 10.0 s") && summary.notes[1] == "generator-1: a note");
    assert_eq!((summary.merged.len(), summary.merged[1].name.as_str()), (2, "generator-2"));
    // Each generator's own verdict was a pass, as stored; what they lost together is not.
    assert_eq!((merged.exit, summary.verdict.terms[0].measured.as_str()), (Exit::Missed, "7"));
    let other = merge(&runs, Some("rate>=18000,message.p50<2ms".parse().unwrap()), false).unwrap();
    assert_eq!(other.exit, Exit::Pass, "{:?}", other.summary.verdict);
}

#[test]
fn sightings_are_those_of_each_generators_own_visitors() {
    let reach = |joins: u64, incomplete: u64, told: u64| {
        move |summary: &mut Value| {
            summary["reach"] = json!({
                "events": joins, "incomplete": incomplete, "join_watchers": 100 * joins, "leave_watchers": 0, "told": told,
            });
        }
    };
    let runs = [generator(1, 0, &[], reach(10, 0, 1000)), generator(2, 0, &[], reach(30, 15, 1500))];
    // 1,000 of 1,000 and 1,500 of 3,000.
    let merged = merge(&runs, None, false).unwrap().summary;
    assert_eq!((merged.lobby_reach, merged.reach.events, merged.reach.incomplete), (Some(0.625), 40, 15));
}

#[test]
fn what_is_no_one_test_is_refused_with_the_fix() {
    let plain = |seed, began| generator(seed, began, &[], |_| {});
    let refused = |other: Archive| merge(&[plain(1, 0), other], None, false).map(|_| ()).unwrap_err();
    assert!(matches!(merge(&[plain(1, 0)], None, false), Err(MergeError::One)));

    let error = refused(plain(1, 0));
    assert!(matches!(error, MergeError::SameKeys { seed: 1, .. }), "{error}");
    let error = refused(plain(2, 2_500)).to_string();
    assert!(error.contains("7.5 s of 10.0 s") && error.contains("same time"), "{error}");
    let error = refused(plain(2, 60_000)).to_string();
    assert!(error.contains("0.0 s of 10.0 s"), "{error}");
    let error = refused(generator(2, 0, &[], |summary| summary["workload"]["message_bytes"] = json!(7))).to_string();
    assert!(error.contains("message_bytes: generator-1 100, generator-2 7"), "{error}");
    let error = refused(generator(2, 0, &[], |summary| summary["workload"]["rate"] = json!("max"))).to_string();
    assert!(error.contains("rate:") && error.contains("cannot be added"), "{error}");
    let error =
        refused(generator(2, 0, &[], |summary| summary["target"]["relay_name"] = json!("elsewhere"))).to_string();
    assert!(error.contains("relay: generator-1 localhost, generator-2 elsewhere"), "{error}");
    let error = refused(generator(2, 0, &[], |summary| summary["relay"] = stored()["relay"].clone()));
    assert!(matches!(&error, MergeError::OwnRelay { name } if name == "generator-2"), "{error}");
    let error = refused(generator(2, 0, &[], |summary| summary["verdict"]["terms"] = json!([]))).to_string();
    assert!(error.contains("other targets") && error.contains("--slo"), "{error}");

    // Who insists gets it, with other keys at least.
    assert!(merge(&[plain(1, 0), plain(2, 60_000)], None, true).is_ok());
    assert!(merge(&[plain(1, 0), plain(1, 60_000)], None, true).is_err());
}

#[test]
fn rates_are_added_as_they_are_written() {
    let add = |one: &str, other: &str| super::add(&json!(one), &json!(other));
    assert_eq!(add("1000/s", "500.5/s"), Some(json!("1500.5/s")));
    assert_eq!(add("100..500/s:5", "200..600/s:5"), Some(json!("300..1100/s:5")));
    assert_eq!(add("100..500/s:5", "200..600/s"), None);
    assert_eq!(add("max", "max"), Some(json!("max")));
    assert_eq!(add("max", "100/s"), None);
    assert_eq!(super::add(&json!(2), &json!(3)), Some(json!(5)));
    assert_eq!(super::add(&json!(2.5), &json!(0.5)), Some(json!(3.0)));
}
