//! The search for the knee against relays that have one, by real runs.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::process::Command;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use fake_relay::{FakeRelay, Faults};
use loadgen::capacity::limit::LimitKind;
use loadgen::capacity::{Capacity, CapacityError, Inquiry, Outcome, find_with};
use loadgen::cli::CapacityArgs;
use loadgen::measure::measure;
use loadgen::progress::Progress;
use loadgen::recorder::{Metric, Missing, Recorder};
use loadgen::report::{Facts, judge};
use loadgen::slo::Judgement;
use loadgen::validity::Severity;

/// The options of a search, without the command around them.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: CapacityArgs,
}

fn inquiry(relay: &FakeRelay, arguments: &str) -> Inquiry {
    let url = relay.url();
    let base = ["capacity", &url, "--clients", "8", "--lobby", "none", "--ramp", "10ms", "--warmup", "0"];
    let line = base.into_iter().chain(arguments.split_ascii_whitespace());
    Line::parse_from(line).args.into_inquiry().unwrap()
}

/// Searches. Whether the generator kept its time is the machine's business, not the relay's: what
/// speaks against a step for that reason is passed over here.
fn search(inquiry: &Inquiry) -> Result<Capacity, CapacityError> {
    let interrupted = AtomicBool::new(false);
    find_with(inquiry, &Progress::Silent, |request| {
        let mut run = measure(request, &Progress::Silent, &interrupted)?;
        run.summary.findings.retain(|finding| finding.severity != Severity::Invalid);
        let summary = &run.summary;
        let (mut recorder, mut missing) = (Recorder::default(), Missing::default());
        run.intervals().iter().for_each(|interval| recorder.add(&interval.recorder));
        Metric::ALL.iter().for_each(|&metric| missing.set(metric, summary.metrics[metric.name()].infinite));
        let terms: Vec<_> = summary.verdict.terms.iter().map(|term| term.term.as_str()).collect();
        let judged = judge(&Facts {
            slo: &terms.join(",").parse().unwrap(),
            recorder: &recorder,
            missing: &missing,
            ledger: &summary.ledger,
            lobby: &summary.lobby,
            delivered_per_second: summary.throughput.delivered_per_second,
            findings: &summary.findings,
            workers: &summary.generator.workers,
            relay_failed: false,
            storm: None,
        });
        run.summary.verdict = judged.verdict;
        Ok(run)
    })
}

#[test]
fn a_relay_that_loses_all_above_300_a_second_has_its_knee_there() {
    // 150 messages of each run of half a second arrive: nothing depends on the machine's speed.
    let relay = FakeRelay::start(Faults { quota: 150, ..Faults::default() });
    let capacity = search(&inquiry(
        &relay,
        "--rate 100/s --duration 500ms --drain 100ms --slo loss=0 --resolution 5% --repeats 1",
    ))
    .unwrap();
    let (kept, missed) = (capacity.kept.unwrap().rate_per_second, capacity.missed.unwrap().rate_per_second);
    assert_eq!(capacity.outcome, Outcome::Found);
    assert!(kept <= 300 && 300 < missed, "{kept} {missed}");
    assert!(missed as f64 <= 1.05 * kept as f64, "{kept} {missed}");
    assert_eq!(capacity.between, (kept, missed));
    // The relay is in this process: nobody sees its cores.
    assert_eq!(capacity.limit.kind, LimitKind::Unknown);
    assert!(capacity.limit.text.contains("loss=0 (measured: "), "{}", capacity.limit.text);
    assert!(capacity.limit.fix.is_some_and(|fix| fix.contains("--relay-admin")));
}

#[test]
fn a_relay_that_serves_300_a_second_falls_behind_above() {
    let relay = FakeRelay::start(Faults { serve_per_second: 300, ..Faults::default() });
    // Nothing but the pace can be missed: what waits is delivered in time.
    let capacity = search(&inquiry(
        &relay,
        "--rate 200/s --duration 2s --drain 10s --slo loss=0,message.p50<10s --resolution 20%",
    ))
    .unwrap();
    let (kept, missed) = (capacity.kept.unwrap().rate_per_second, capacity.missed.unwrap().rate_per_second);
    assert!(kept <= 315 && (283..=400).contains(&missed), "{kept} {missed}: {:#?}", capacity.steps);
    assert_eq!(capacity.outcome, Outcome::Found);
    let behind = capacity.steps.iter().find(|step| step.rate_per_second == missed).unwrap();
    assert_eq!(behind.judgement, Judgement::Fail);
    assert!(behind.reasons[0].contains("falls behind"), "{behind:?}");
}

#[test]
fn a_relay_that_refuses_is_told_from_one_that_is_full() {
    let relay = FakeRelay::start(Faults { refuse_every: 40, ..Faults::default() });
    let capacity =
        search(&inquiry(&relay, "--rate 20/s --duration 1s --drain 100ms --slo loss=0 --resolution 50%")).unwrap();
    assert_eq!(capacity.limit.kind, LimitKind::Refusals);
    assert!(capacity.limit.text.contains("offline"), "{}", capacity.limit.text);
}

#[test]
fn a_rate_limit_bars_the_way_up_and_is_no_knee() {
    let relay = FakeRelay::start(Faults { rate_limit: 10, ..Faults::default() });
    let capacity =
        search(&inquiry(&relay, "--rate 30/s --duration 300ms --slo loss=0 --resolution 20% --repeats 1")).unwrap();
    // Eight senders may send 80 a second.
    let kept = capacity.kept.unwrap().rate_per_second;
    assert!((60..=80).contains(&kept), "{kept}");
    assert_eq!((capacity.outcome, capacity.limit.kind), (Outcome::AtLeast, LimitKind::Generator));
    assert!(capacity.limit.text.contains("--rate-limit 0"), "{}", capacity.limit.text);
    assert_eq!(capacity.exit_code, 3);
}

#[test]
fn a_first_step_that_cannot_be_is_an_error() {
    let relay = FakeRelay::start(Faults { rate_limit: 10, ..Faults::default() });
    let error = search(&inquiry(&relay, "--rate 81/s --duration 300ms --slo loss=0")).unwrap_err().to_string();
    assert!(error.starts_with("at 81/s: ") && error.contains("--rate-limit 0"), "{error}");
}

#[test]
fn the_command_files_each_step_and_the_search() {
    let relay = FakeRelay::start(Faults::default());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("found");
    let url = relay.url();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["capacity", &url, "--clients", "6", "--lobby", "none", "--rate", "50/s", "--up-to", "100/s"])
        .args(["--ramp", "10ms", "--warmup", "0", "--duration", "300ms", "--slo", "loss=0", "--at-least", "60/s"])
        .args(["--repeats", "1", "--out", out.to_str().unwrap()])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let text = std::fs::read_to_string(out.join("capacity.json")).unwrap();
    let capacity: Capacity = serde_json::from_str(&text).unwrap();
    assert_eq!(capacity.schema, "relay-loadgen-capacity/1");
    assert_eq!(output.status.code(), Some(capacity.exit_code.into()), "{stdout}");
    assert_eq!(capacity.steps[0].rate_per_second, 50);
    for step in &capacity.steps {
        assert!(out.join(step.folder.as_ref().unwrap()).join("summary.json").is_file(), "{step:?}");
    }
    // On a machine too slow for 100 messages a second nothing is kept, and it says so.
    let expected = match capacity.exit_code {
        0 => "PASS: 60/s asked for (--at-least) and kept",
        3 => "INVALID",
        _ => "FAIL",
    };
    assert!(stdout.contains("capacity  ") && stdout.contains(expected), "{stdout}");
}
