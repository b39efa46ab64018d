//! Two generators against one relay, merged.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::process::{Command, Stdio};

use fake_relay::{FakeRelay, Faults};
use serde_json::Value;

#[test]
fn two_generators_are_one_test() {
    // An odd number: should the two send in turns, both lose some.
    let relay = FakeRelay::start(Faults { drop_every: 49, ..Faults::default() });
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let url = format!("ws://{}", relay.address);
    let loadgen = || Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let options = "--clients 6 --rate 300/s --ramp 10ms --warmup 0s --duration 1s --drain 300ms --slo loss=0";
    let generators: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|seed| {
            let mut run = loadgen();
            run.args(["run", &url, "--seed", seed, "--out", &folder(seed)]).args(options.split(' '));
            run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut generator in generators {
        let code = generator.wait().unwrap().code();
        // A busy machine may make it invalid; it is over, and filed.
        assert!(matches!(code, Some(99 | 3)), "{code:?}");
    }

    // How far they overlap depends on the machine: --force.
    let output =
        loadgen().args(["merge", &folder("1"), &folder("2"), "--force", "--out", &folder("both")]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(99 | 3)), "{stdout}{stderr}");
    let summary = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.path().join(name).join("summary.json")).unwrap()).unwrap()
    };
    let (one, other, both) = (summary("1"), summary("2"), summary("both"));
    for field in ["sent", "acked", "delivered", "lost"] {
        let sum = one["ledger"][field].as_u64().unwrap() + other["ledger"][field].as_u64().unwrap();
        assert_eq!(both["ledger"][field].as_u64(), Some(sum), "{field}");
    }
    let counts = relay.counts();
    assert_eq!(both["ledger"]["sent"].as_u64(), Some(counts.messages));
    assert_eq!(both["ledger"]["lost"].as_u64(), Some(counts.dropped));
    assert_eq!(both["workload"]["rate"], "600/s");
    assert_eq!(both["metrics"]["message"]["n"], both["steady"]["delivered"]);
    assert!(dir.path().join("both/intervals.hlog").is_file() && stdout.contains("2 generators merged"), "{stdout}");

    // The same folder twice is no test of two.
    let output = loadgen().args(["merge", &folder("1"), &folder("1"), "--out", &folder("none")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another --seed"), "{output:?}");
    assert!(!dir.path().join("none").exists());
}
