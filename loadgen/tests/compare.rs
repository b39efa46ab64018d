//! `loadgen compare` as a process: on stored runs, and on live ones against relays of the test.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::path::Path;
use std::process::{Command, Output};

use fake_relay::{FakeRelay, Faults};
use serde_json::Value;

fn compare(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("compare").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A run among the first results.
fn stored(name: &str) -> String {
    format!("{}/../results/2026-11-21-first-figures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Three rounds of two engines: the second needs more CPU for each message.
fn engines(options: &[&str]) -> (Option<i32>, String, String) {
    let runs = |engine: &str| (1..=3).map(|round| stored(&format!("throughput.{engine}.{round}"))).collect::<Vec<_>>();
    let (a, b) = (runs("ring"), runs("tokio-uring"));
    let mut line: Vec<&str> = options.to_vec();
    line.extend(a.iter().map(String::as_str));
    line.push("--");
    line.extend(b.iter().map(String::as_str));
    compare(&line)
}

#[test]
fn stored_runs_of_two_engines_differ_in_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("comparison.json");
    let (code, stdout, stderr) = engines(&["--json", json.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("SLOWER: B is slower") && stdout.contains("cpu +9.5 %"), "{stdout}");
    assert!(stdout.contains("engine: A ring, B tokio-uring"), "{stdout}");
    assert!(stdout.contains("machine the same, workload the same"), "{stdout}");
    let record: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&record["schema"], &record["verdict"]), (&"relay-loadgen-comparison/1".into(), &"slower".into()));
    let cpu = record["rows"].as_array().unwrap().iter().find(|row| row["figure"] == "cpu").unwrap();
    assert_eq!((&cpu["verdict"], &cpu["central"]), (&"slower".into(), &true.into()));
    assert!(cpu["interval"][0].as_f64().unwrap() > 0.05, "{cpu}");
}

#[test]
fn bounds_decide_the_exit_code() {
    for (bound, expected) in [("slower", 99), ("cpu:+3%", 99), ("cpu:+20%", 0), ("message.p99:+5%", 3)] {
        let (code, stdout, _) = engines(&["--fail-on", bound]);
        assert_eq!(code, Some(expected), "{bound}: {stdout}");
    }
    let (code, stdout, _) = engines(&["--fail-on", "message.p99:+5%", "--fail-on", "cpu:+3%"]);
    assert_eq!(code, Some(99), "{stdout}");
    assert!(stdout.contains("EXCEEDED     cpu:+3%") && stdout.contains("CANNOT TELL  message.p99:+5%"), "{stdout}");
}

#[test]
fn another_workload_is_refused_with_what_differs() {
    let (a, b) = (stored("latency.ring.1"), stored("throughput.ring.1"));
    let (code, _, stderr) = compare(&[&a, &b]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("rate: A 10000/s, B max") && stderr.contains("--force"), "{stderr}");
    let (code, stdout, _) = compare(&[&a, &b, "--force"]);
    assert_eq!(code, Some(3), "{stdout}");
    assert!(stdout.contains("ANOTHER WORKLOAD: rate"), "{stdout}");
}

#[test]
fn folders_without_runs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    let (code, _, stderr) = compare(&[empty, &stored("latency.ring.1")]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(empty) && stderr.contains("holds none"), "{stderr}");
}

#[test]
fn a_run_counts_once() {
    let (one, two) = (stored("latency.ring.1"), stored("latency.ring.2"));
    let again = format!("{two}/../latency.ring.1");
    for sides in [[&one[..], &again, "--", &two], [&one, &two, "--", &again]] {
        let (code, _, stderr) = compare(&sides);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("latency.ring.1 is named twice"), "{stderr}");
    }
}

/// Copies a stored run, with what its summary says changed.
fn copy(from: &str, to: &Path, change: impl FnOnce(&mut Value)) {
    std::fs::create_dir_all(to).unwrap();
    let from = stored(from);
    std::fs::copy(format!("{from}/intervals.hlog.gz"), to.join("intervals.hlog.gz")).unwrap();
    let mut summary: Value = serde_json::from_slice(&std::fs::read(format!("{from}/summary.json")).unwrap()).unwrap();
    change(&mut summary);
    std::fs::write(to.join("summary.json"), summary.to_string()).unwrap();
}

#[test]
fn invalid_runs_are_set_aside_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let invalid = |summary: &mut Value| {
        summary["findings"] = serde_json::json!([{
            "kind": "send_lag", "severity": "invalid", "metric": "send_lag", "measured": "9 ms",
            "text": "the generator sent late", "fix": "give it a core",
        }]);
    };
    for round in 1..=3 {
        copy(&format!("throughput.ring.{round}"), &dir.path().join(format!("a/{round}")), |_| {});
        copy(&format!("throughput.epoll.{round}"), &dir.path().join(format!("b/{round}")), |summary| {
            if round == 2 {
                invalid(summary);
            }
        });
    }
    let [a, b] = ["a", "b"].map(|side| dir.path().join(side).to_str().unwrap().to_owned());
    let (_, stdout, _) = compare(&[&a, &b]);
    assert!(stdout.contains("2 runs, 1 set aside"), "{stdout}");
    assert!(stdout.contains("caution: set aside from B, INVALID:") && stdout.contains("sent late"), "{stdout}");
    // None is left of B.
    let (code, stdout, stderr) = compare(&[&a, &format!("{b}/2")]);
    assert_eq!(code, Some(3), "{stdout}");
    assert!(stderr.contains("all 1 runs of B are INVALID") && stderr.contains("sent late"), "{stderr}");
}

#[test]
fn live_runs_take_turns_and_are_kept() {
    let relays = [FakeRelay::start(Faults::default()), FakeRelay::start(Faults::default())];
    let urls = relays.each_ref().map(FakeRelay::url);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("turns");
    let options = "--rounds 2 --clients 6 --rate 400/s --ramp 10ms --warmup 50ms --duration 400ms --drain 300ms";
    let mut line = vec!["--live", &urls[0], &urls[1], "--out", out.to_str().unwrap()];
    line.extend(options.split(' '));
    let (code, stdout, stderr) = compare(&line);
    // Runs this short tell nothing for sure, and may be invalid on a busy machine.
    assert!(matches!(code, Some(0 | 3)), "{stdout}{stderr}");
    let turns: Vec<&str> = stderr.lines().filter(|line| line.starts_with("round ")).collect();
    assert_eq!(turns, ["round 1 of 2: A", "round 1 of 2: B", "round 2 of 2: B", "round 2 of 2: A"]);
    for (run, url, seed) in [("a/01", 0, 1), ("b/01", 1, 1), ("b/02", 1, 2), ("a/02", 0, 2)] {
        let summary: Value =
            serde_json::from_slice(&std::fs::read(out.join(run).join("summary.json")).unwrap()).unwrap();
        let address = relays[url].address.to_string();
        assert!(summary["target"]["url"].as_str().unwrap().contains(&address), "{run}: {}", summary["target"]);
        assert_eq!(summary["workload"]["seed"], seed);
    }
    // What was kept can be compared again, and is not overwritten.
    let [a, b] = ["a", "b"].map(|side| out.join(side).to_str().unwrap().to_owned());
    assert_eq!(compare(&[&a, &b]).1, stdout);
    let (code, _, stderr) = compare(&line);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("holds runs already"), "{stderr}");
}

#[test]
fn a_live_run_that_cannot_be_says_what_is_kept() {
    let address = FakeRelay::start(Faults::default()).address;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("turns");
    let url = format!("ws://{address}");
    let (code, _, stderr) = compare(&["--live", &url, &url, "--clients", "2", "--out", out.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("round 1, A: ") && stderr.contains("refused"), "{stderr}");
}
