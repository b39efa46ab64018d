//! Command lines that are read, and those that are refused.

use super::{Cli, Command, parse_url};
use crate::plan::Rate;
use crate::run::Request;
use crate::scenario::Scenario;
use std::time::Duration;

fn request(arguments: &str) -> Result<Request, String> {
    let line = ["loadgen", "run"].into_iter().chain(arguments.split_ascii_whitespace());
    let cli = Cli::read(line.map(Into::into)).map_err(|error| error.to_string())?;
    let Command::Run(args) = cli.command else { panic!("not a run") };
    args.into_request().map_err(|error| error.to_string())
}

#[test]
fn the_command_of_the_issue_is_read() {
    let request = request(
        "ws://127.0.0.1:7400/ws --clients 1000 --rate 2000/s --arrivals poisson --churn 20/s --ramp 5s --warmup 2s \
         --duration 10s --message-bytes 100 --workers 2 --pin-cores 0,1 --seed 7 \
         --slo message.p99<500ms,lobby.p99<100ms,loss=0 --out results",
    )
    .unwrap();
    assert_eq!(request.workload.rate, Rate::PerSecond(2000.0));
    assert_eq!(request.workload.senders, 1000);
    assert_eq!(request.workload.duration, Duration::from_secs(10));
    assert_eq!((request.workers, request.pin_cores), (2, vec![0, 1]));
    assert_eq!(request.slo.terms.len(), 3);
    assert!(request.spawn.is_none());
}

#[test]
fn a_spawned_relay_needs_no_url() {
    let request = request("--spawn-relay --rate max --in-flight 4 --senders 100 --relay-args --shards_1").unwrap();
    assert_eq!(request.workload.rate, Rate::Max { in_flight: 4 });
    assert_eq!(request.workload.senders, 100);
    let (spawn, name) = request.spawn.unwrap();
    assert_eq!((spawn.arguments, name.as_str()), (vec!["--shards_1".to_owned()], "localhost"));
    assert!(request.target.is_none());
}

#[test]
fn idle_runs_sign_nothing() {
    let workload = request("ws://localhost:1 --rate 0 --clients 1").unwrap().workload;
    assert_eq!((workload.rate, workload.senders), (Rate::Idle, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    for (arguments, why) in [
        ("", "required"),
        ("ws://x:1 --spawn-relay", "cannot be used with"),
        ("http://x:1", "no URL"),
        ("wss://localhost:1", "wss"),
        ("ws://localhost:1 --rate fast", "no rate"),
        ("ws://localhost:1 --slo mesage.p99<1s", "mesage.p99<1s"),
        ("ws://localhost:1 --clients 3 --workers 2", "at least two"),
        ("ws://localhost:1 --clients 10 --senders 11", "--senders"),
        ("ws://localhost:1 --duration 0", "--duration"),
        ("ws://localhost:1 --duration 999999999999s", "30 days"),
        ("ws://localhost:1 --rate 1e18/s", "no rate"),
        ("ws://localhost:1 --rate 1..1e18/s", "no rising rate"),
        ("ws://localhost:1 --rate 0 --message-bytes 99999999999999", "--message-bytes"),
        ("ws://localhost:1 --rate max --in-flight 4294967295", "--in-flight"),
        ("ws://localhost:1 --rate 1000000/s --burst 1000x/1s/5s", "--burst"),
        ("ws://localhost:1 --duration 24h --burst 2x/1ms/20ms", "100000 bursts"),
        ("ws://localhost:1 --relay-bin x", "--spawn-relay"),
        ("ws://localhost:1 --rate 0..5", "0..5"),
        ("ws://localhost:1 --rate 100..500/s:4", "whole seconds"),
        ("ws://localhost:1 --rate max --burst 2x/1s/5s", "--burst"),
        ("ws://localhost:1 --rate 0 --skew 1%:80%", "--skew"),
        ("ws://localhost:1 --peers 1 --skew 1%:80%", "--peers"),
        ("ws://localhost:1 --clients 100 --workers 2 --skew 1%:80%", "each worker"),
        ("ws://localhost:1 --skew 100%:80%", "each worker"),
        ("ws://localhost:1 --storm 100%@10s", "before the end"),
        ("ws://localhost:1 --storm 100%@5s/5s", "before the end"),
        ("ws://localhost:1 --storm 100%@5s --churn 1/s", "--churn"),
        ("ws://localhost:1 --storm 100%@5s --slow-readers 5%", "--slow-readers"),
        ("ws://localhost:1 --storm 100%@5s --rate max", "--rate"),
        ("ws://localhost:1 --slow-readers 5%@10s", "before the end"),
        ("ws://localhost:1 --slow-readers 5% --senders 1000", "do not send"),
        ("ws://localhost:1 --rooms 3", "10x50"),
        ("ws://localhost:1 --rooms 3x5", "--clients"),
        ("ws://localhost:1 --rooms 30x50 --clients 40", "--rooms"),
        ("ws://localhost:1 --rooms 30x50 --storm 5%@1s", "does not go together"),
        ("ws://localhost:1 --rooms 3000x50 --clients 100", "more than 50"),
        ("ws://localhost:1 --devices 9", "1 to 8"),
        ("ws://localhost:1 --devices 2 --storm 5%@1s", "--devices"),
        ("ws://localhost:1 --crash 2", "--spawn-relay"),
        ("--spawn-relay --crash 2", "--data"),
        ("--spawn-relay --relay-args --data=x --crash 2 --slo message.p99<1s", "not judged"),
        ("--spawn-relay --relay-args --data=x --crash 2 --churn 1/s", "--churn"),
        ("ws://localhost:1 --offline-share 5% --senders 1000", "do not send"),
        ("ws://localhost:1 --offline-share 5% --rate 0", "--offline-share"),
        ("ws://localhost:1 --offline-share 100%", "--senders"),
        ("ws://localhost:1 --offline-share 50% --clients 2", "two others"),
        ("ws://localhost:1 --offline-share 5% --peers 1", "--peers"),
        ("ws://localhost:1 --offline-share 5% --storm 5%@1s", "does not go together"),
        ("ws://localhost:1 --offline-share 5%@10s", "before the end"),
        ("ws://localhost:1 --offline-share 5%@1s --rate max", "--rate"),
        ("ws://localhost:1 --offline-share 5% --received off", "--received"),
    ] {
        let error = request(arguments).unwrap_err();
        assert!(error.contains(why), "{arguments}: {error}");
    }
}

#[test]
fn targets_for_acks_are_asked_for() {
    let targets = |arguments: &str| {
        let slo = request(&format!("ws://localhost:1 {arguments}")).unwrap().slo;
        slo.terms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(targets("--acks"), "message.p99<500ms loss=0 duplicates=0 errors=0 ack.p99<500ms unacked=0");
    assert_eq!(targets("--acks --slo ack.p50<1ms"), "ack.p50<1ms unacked=0");
    let offline = "ack.offline.p99<500ms";
    assert_eq!(targets("--acks --slo loss=0 --offline-share 50%"), format!("loss=0 ack.p99<500ms unacked=0 {offline}"));
    // Nothing is sent that could have a response time.
    assert_eq!(targets("--acks --offline-share 50%:100%"), format!("loss=0 duplicates=0 errors=0 {offline} unacked=0"));
}

#[test]
fn scenarios_are_read_from_the_command_line() {
    let workload = request(
        "ws://localhost:1 --rate 100..500/s:5 --burst 10x/1s/5s --skew 1%:80% --storm 50%@5s/1s --duration 10s",
    )
    .unwrap()
    .workload;
    let Rate::Ramp(ramp) = workload.rate else { panic!("{:?}", workload.rate) };
    let scenario = workload.scenario;
    let shown = [
        ramp.to_string(),
        scenario.burst.unwrap().to_string(),
        scenario.skew.unwrap().to_string(),
        scenario.storm.unwrap().to_string(),
    ];
    assert_eq!(shown, ["100..500/s:5", "10x/1s/5s", "1%:80%", "50%@5s/1s"]);
    // Those who read slowly are the last, and do not send.
    let workload = request("ws://localhost:1 --slow-readers 5%").unwrap().workload;
    assert_eq!((workload.clients, workload.senders), (1000, 950));
}

fn inquiry(arguments: &str) -> Result<crate::capacity::Inquiry, String> {
    let line = ["loadgen", "capacity"].into_iter().chain(arguments.split_ascii_whitespace());
    let cli = Cli::read(line.map(Into::into)).map_err(|error| error.to_string())?;
    let Command::Capacity(args) = cli.command else { panic!("not a search") };
    args.into_inquiry().map_err(|error| error.to_string())
}

#[test]
fn a_search_has_short_steps_unless_told_otherwise() {
    let found = inquiry("ws://localhost:1 --rate 500/s --up-to 40k/s");
    assert!(found.is_err(), "{found:?}");
    let found = inquiry("ws://localhost:1 --rate 500/s --up-to 40000/s --at-least 2000/s --resolution 2%").unwrap();
    assert_eq!((found.settings.from, found.settings.up_to, found.at_least), (500, Some(40_000), Some(2000)));
    assert_eq!((found.settings.resolution, found.settings.repeats), (0.02, 3));
    let workload = found.request.workload;
    assert_eq!([workload.ramp, workload.warmup, workload.duration].map(|time| time.as_secs()), [1, 1, 5]);
    let found = inquiry("ws://localhost:1 --duration 20s").unwrap();
    assert_eq!((found.request.workload.duration.as_secs(), found.settings.from), (20, 2000));
    // A run keeps its own.
    assert_eq!(request("ws://localhost:1").unwrap().workload.duration.as_secs(), 10);
}

#[test]
fn a_search_that_cannot_be_is_refused() {
    for (arguments, why) in [
        ("ws://localhost:1 --rate max", "where the search begins"),
        ("ws://localhost:1 --rate 0", "where the search begins"),
        ("ws://localhost:1 --resolution 0.1%", "--resolution"),
        ("ws://localhost:1 --up-to 100 --at-least 200", "--at-least"),
        ("ws://localhost:1 --repeats 0", "--repeats"),
    ] {
        let error = inquiry(arguments).unwrap_err();
        assert!(error.contains(why), "{arguments}: {error}");
    }
}

#[test]
fn the_scenarios_that_come_along_are_read_and_can_be_run() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file = path.to_str().unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("# "), "{name} does not say what it asks");
        let asked = request(&format!("ws://localhost:1 --scenario {file}")).unwrap();
        let scenario = asked.workload.scenario;
        let is_in = match name.as_str() {
            "steady" => scenario == Scenario::default() && asked.workload.churn_per_second > 0.0,
            "churn" => asked.workload.churn_per_second >= 100.0,
            "ramp" => matches!(asked.workload.rate, Rate::Ramp(_)),
            "storm" | "storm-half" => scenario.storm.is_some(),
            "slow-readers" => scenario.slow_readers.is_some(),
            "burst" => scenario.burst.is_some(),
            "skew" => scenario.skew.is_some(),
            "offline" => {
                let targets: Vec<_> = asked.slo.terms.iter().map(ToString::to_string).collect();
                scenario.offline.is_some() && targets.contains(&"unacked=0".to_owned())
            }
            _ => panic!("{name} is new here"),
        };
        assert!(is_in && !asked.slo.terms.is_empty(), "{name}");
        // What the command line says wins.
        let two = request(&format!("ws://localhost:1 --clients 200 --scenario {file} --duration 30s")).unwrap();
        assert_eq!((two.workload.clients, two.workload.duration), (200, Duration::from_secs(30)), "{name}");
        names.push(name);
    }
    assert_eq!(names.len(), 9);
}

#[test]
fn urls_are_taken_apart() {
    let target = parse_url("ws://127.0.0.1:7400", None).unwrap();
    assert_eq!((target.path.as_str(), target.relay_name.as_str()), ("/ws", "localhost"));
    assert_eq!(target.authority, "127.0.0.1:7400");
    let target = parse_url("ws://[::1]:7400/ws?x=1", Some("relay.example")).unwrap();
    assert_eq!((target.path.as_str(), target.relay_name.as_str()), ("/ws?x=1", "relay.example"));
    assert!(target.address.is_ipv6());
    assert_eq!(parse_url("ws://127.0.0.1/ws", None).unwrap().address.port(), 80);
    assert!(parse_url("ws:///ws", None).is_err());
}
