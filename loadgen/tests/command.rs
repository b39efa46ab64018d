//! The command as a process: exit codes and files.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod fake_relay;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_relay::{FakeRelay, Faults};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// A short run against `relay` with these arguments besides.
fn short_run(relay: &FakeRelay, arguments: &[&str]) -> Output {
    let url = relay.url();
    let base = [
        "run",
        &url,
        "--clients",
        "6",
        "--rate",
        "200/s",
        "--ramp",
        "10ms",
        "--warmup",
        "100ms",
        "--duration",
        "500ms",
        "--drain",
        "300ms",
    ];
    loadgen(&[&base[..], arguments].concat())
}

/// A run whose verdict is the machine's business: on one where others take the cores, INVALID is the
/// right answer.
fn is_met_or_invalid(output: &Output) {
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn met_targets_exit_0() {
    // An idle run needs no more of the machine than that it stands still for less than a hundredth of
    // the time. That is asked again until it is so.
    let relay = FakeRelay::start(Faults::default());
    let deadline = Instant::now() + Duration::from_secs(300);
    let slo = "connect.p50<1h,auth.p50<1h,diverged=0,errors=0";
    loop {
        let output = short_run(&relay, &["--rate", "0", "--clients", "20", "--slo", slo]);
        let stdout = text(&output.stdout);
        if output.status.code() != Some(3) || Instant::now() > deadline {
            assert_eq!(output.status.code(), Some(0), "{stdout}{}", text(&output.stderr));
            assert!(stdout.contains("PASS: all 4 targets met"), "{stdout}");
            break;
        }
    }
}

#[test]
fn phases_are_told_and_the_table_accounts_for_every_message() {
    let relay = FakeRelay::start(Faults::default());
    let output = short_run(&relay, &["--slo", "loss=0,message.p90<1h,rate>=100,errors=0,diverged=0"]);
    is_met_or_invalid(&output);
    // Where there is no terminal, phases are plain lines.
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    for phase in ["connect: 6 clients", "warm-up: 0.1 s", "steady: 0.5 s", "settle: "] {
        assert!(stderr.lines().any(|line| line.starts_with(phase)), "{phase}: {stderr}");
    }
    assert!(!stderr.contains('\x1b'), "{stderr}");
    for part in ["p99.9", "message (intended", "send lag", "120 sent", "120 delivered", "loss=0  (measured: 0)"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn a_missed_target_exits_99_and_is_named() {
    // What only the relay can have done is missed on a busy machine too.
    let relay = FakeRelay::start(Faults { drop_every: 3, repeat_every: 4, ..Faults::default() });
    let output = short_run(&relay, &["--slo", "duplicates=0,loss=0,message.p99<10s"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(99), "{stdout}");
    assert!(stdout.contains("FAIL     duplicates=0  (measured: 20)"), "{stdout}");
    // There is something to wait for.
    assert!(text(&output.stderr).lines().any(|line| line.starts_with("drain: ")), "{output:?}");
    for part in ["loss=0  (measured: 40)", "message.p99<10s  (measured: never)"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn without_targets_what_only_a_broken_relay_does_is_missed() {
    let relay = FakeRelay::start(Faults { repeat_every: 4, misroute_every: 5, ..Faults::default() });
    let output = short_run(&relay, &[]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(99), "{stdout}");
    for part in ["FAIL     duplicates=0  (measured: ", "FAIL     errors=0  (measured: "] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn too_few_samples_exit_3_and_say_how_many_are_needed() {
    let relay = FakeRelay::start(Faults::default());
    let output = short_run(&relay, &["--slo", "message.p99<10s,message.p50<10s"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}");
    assert!(stdout.contains("INVALID  message.p99<10s  (measured: "), "{stdout}");
    assert!(stdout.contains("asks for more than 100 samples can say: 1,000 are needed"), "{stdout}");
    assert!(stdout.contains("to change: measure 10 times as long (--duration)"), "{stdout}");
}

/// The kinds of the findings that make a run invalid, and what the command printed.
fn invalid_findings(command: &mut Command) -> (Option<i32>, Vec<String>, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = command.arg("--out").arg(directory.path()).output().unwrap();
    let stdout = text(&output.stdout);
    let json = std::fs::read(directory.path().join("summary.json"))
        .unwrap_or_else(|error| panic!("{error}: {stdout}{}", text(&output.stderr)));
    let summary: Value = serde_json::from_slice(&json).unwrap();
    let findings = summary["findings"].as_array().unwrap().iter();
    let invalid = findings.filter(|finding| finding["severity"] == "invalid");
    let kinds = invalid.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect();
    (output.status.code(), kinds, stdout)
}

/// A run in which half a million messages fall due in half a second: 6 s of signing.
fn unreachable(relay: &FakeRelay, slo: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", &relay.url(), "--clients", "6", "--rate", "1000000/s", "--presign", "1000", "--ramp", "10ms"]);
    command.args(["--warmup", "0s", "--duration", "500ms", "--drain", "200ms", "--slo", slo]);
    command
}

#[test]
fn a_rate_that_cannot_be_reached_is_invalid() {
    let relay = FakeRelay::start(Faults::default());
    let (code, kinds, stdout) = invalid_findings(&mut unreachable(&relay, "message.p99<1h,rate>=1"));
    assert_eq!(code, Some(3), "{stdout}");
    assert!(
        kinds.iter().any(|kind| kind == "achieved_rate") && kinds.iter().any(|kind| kind == "send_lag"),
        "{kinds:?}"
    );
    assert!(stdout.contains("never sent: the generator did not come to them"), "{stdout}");
    assert!(stdout.contains("INVALID  rate>=1 "), "{stdout}");
}

#[test]
fn what_only_the_relay_can_have_done_is_missed_in_an_invalid_run_too() {
    let relay = FakeRelay::start(Faults { repeat_every: 7, ..Faults::default() });
    let (code, kinds, stdout) = invalid_findings(&mut unreachable(&relay, "message.p99<1h,duplicates=0"));
    assert_eq!(code, Some(99), "{stdout}");
    assert!(kinds.iter().any(|kind| kind == "achieved_rate"), "{kinds:?}");
    for part in ["FAIL     duplicates=0", "INVALID  message.p99<1h", "INVALID  the generator"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

/// A process that keeps a core busy until it is dropped.
struct Hog(Child);

impl Hog {
    fn on(core: usize) -> Self {
        let hog = Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(Some(Pid::from_child(&hog.0)), &cores).unwrap();
        hog
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_generator_starved_of_its_core_is_invalid() {
    // At this rate the worker never sleeps, and beside nine busy processes it has a tenth of its core,
    // the last one that this process may use.
    let cores = loadgen::interference::own_cores();
    let core = *cores.last().unwrap();
    let relay = FakeRelay::start(Faults::default());
    let _hogs: Vec<_> = (0..9).map(|_| Hog::on(core)).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", &relay.url(), "--clients", "4"]);
    command.args(["--rate", "10000/s", "--ramp", "10ms", "--warmup", "100ms", "--duration", "1s", "--drain", "300ms"]);
    command.args(["--pin-cores", &core.to_string(), "--slo", "message.p99<1h,loss=0"]);
    let (code, kinds, stdout) = invalid_findings(&mut command);
    assert_eq!(code, Some(3), "{stdout}");
    assert!(kinds.iter().any(|kind| kind == "send_lag"), "{kinds:?}: {stdout}");
    assert!(kinds.iter().any(|kind| kind == "busy_worker" || kind == "stalls"), "{kinds:?}: {stdout}");
    assert!(stdout.contains("INVALID: the run says nothing about the relay"), "{stdout}");
}

#[test]
fn a_target_about_nothing_exits_3() {
    let relay = FakeRelay::start(Faults::default());
    let output = short_run(&relay, &["--slo", "lobby.p99<1s,loss=0"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
}

#[test]
fn wrong_usage_exits_2_and_names_the_fault() {
    for arguments in [
        &["run"][..],
        &["run", "ws://localhost:1", "--slo", "mesage.p99<1s"],
        &["run", "ws://localhost:1", "--clients", "0"],
        &["fly"],
    ] {
        let output = loadgen(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_relay_that_is_not_there_exits_1() {
    let address = FakeRelay::start(Faults::default()).address;
    let output = loadgen(&["run", &format!("ws://{address}"), "--clients", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("refused"), "{}", text(&output.stderr));
}

#[test]
fn a_relay_that_does_not_start_exits_1() {
    let output = loadgen(&["run", "--spawn-relay", "--relay-bin", "/no/such/relay"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/relay"), "{}", text(&output.stderr));
}

#[test]
fn a_host_that_is_not_there_exits_1() {
    let output = loadgen(&["run", "ws://no-such-host.invalid:7400/ws"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("loadgen: the host of ws://no-such-host.invalid:7400/ws is unknown"), "{stderr}");
}

#[test]
fn a_relay_of_our_own_does_not_outlive_a_killed_loadgen() {
    // Connections are taken by the kernel and never answered: loadgen waits.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (program, pid) = (directory.path().join("relay"), directory.path().join("pid"));
    let script = format!(
        "#!/bin/sh\necho $$ >{}\necho 'listening on {}, admin on 127.0.0.1:1'\nexec sleep 600\n",
        pid.display(),
        listener.local_addr().unwrap()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--spawn-relay", "--clients", "2", "--relay-bin"]).arg(&program);
    let mut loadgen = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Once it says where the relay listens, the relay runs.
    let mut said = String::new();
    let mut stderr = BufReader::new(loadgen.stderr.take().unwrap());
    while !said.contains("listening on") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "loadgen ended: {said}");
    }
    loadgen.kill().unwrap();
    loadgen.wait().unwrap();
    let relay = std::fs::read_to_string(&pid).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // Whoever inherits it may leave it as a zombie.
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", relay.trim())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    };
    while runs() {
        assert!(Instant::now() < deadline, "the relay {relay} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_second_interrupt_ends_what_the_first_cannot() {
    // A relay that never says where it listens is waited for, whatever happens meanwhile.
    let directory = tempfile::tempdir().unwrap();
    let (program, started) = (directory.path().join("relay"), directory.path().join("started"));
    std::fs::write(&program, format!("#!/bin/sh\n: >{}\nexec sleep 600\n", started.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--spawn-relay", "--clients", "2", "--relay-bin"]).arg(&program);
    let mut loadgen = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !started.exists() {
        assert!(Instant::now() < deadline, "the relay was not started");
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = loop {
        if let Some(status) = loadgen.try_wait().unwrap() {
            break status;
        }
        kill_process(Pid::from_child(&loadgen), Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    loadgen.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("said nothing"), "{said}");
}

#[test]
fn preflight_says_whether_the_machine_can_carry_the_run() {
    let output = loadgen(&["preflight", "ws://127.0.0.1:1/ws", "--clients", "10"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("open files") && stdout.contains("local ports"), "{stdout}");

    let output = loadgen(&["preflight", "ws://127.0.0.1:1/ws", "--pin-cores", "1000"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("UNFIT") && stdout.contains("core 1000 is not available"), "{stdout}");
}

#[test]
fn a_machine_that_cannot_exits_1_before_it_connects() {
    let output = loadgen(&["run", "ws://127.0.0.1:1/ws", "--pin-cores", "1000", "--clients", "16000000"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    for part in ["core 1000 is not available", "open files", "local ports"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn the_bare_peer_takes_every_message() {
    let output = loadgen(&[
        "run",
        "--spawn-relay",
        "--relay-bin",
        env!("CARGO_BIN_EXE_bare-peer"),
        "--lobby",
        "none",
        "--clients",
        "20",
        "--rate",
        "1000/s",
        "--ramp",
        "20ms",
        "--warmup",
        "0",
        "--duration",
        "500ms",
        "--slo",
        "loss=0,errors=0,duplicates=0,message.p99<10s",
    ]);
    let stdout = text(&output.stdout);
    // Whether the generator kept its time depends on the machine; what it received does not.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{stdout}{}", text(&output.stderr));
    assert!(stdout.contains("500 sent, 500 acked, 500 delivered, 0 lost"), "{stdout}");
}

#[test]
fn the_summary_has_its_form_and_the_log_its_intervals() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("made/for/it");
    let arguments = ["--out", out.to_str().unwrap(), "--slo", "loss=0", "--seed", "9"];
    let output = short_run(&FakeRelay::start(Faults::default()), &arguments);
    is_met_or_invalid(&output);

    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["schema"], "relay-loadgen-summary/1");
    assert_eq!(summary["workload"]["seed"], 9);
    assert_eq!(summary["ledger"]["delivered"], 120);
    assert_eq!(summary["metrics"]["message"]["n"], 100);
    let mut form = String::new();
    describe(&mut form, "", &summary);
    let expected = include_str!("summary_form.txt");
    assert_eq!(form, expected, "the form of summary.json has changed: is it still version 1?");

    let log = std::fs::read_to_string(out.join("intervals.hlog")).unwrap();
    assert!(log.contains("Tag=message,") && log.contains("Tag=connect,"), "{log}");
}

/// Writes one line for each field of a value: its path and type. What lies in maps whose keys are
/// the machine's or the relay's is left out.
fn describe(out: &mut String, path: &str, value: &Value) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    // What a kernel does not tell is null.
    let told = ["waited_ns", ".throttled_ns", ".throttled_periods", ".steal"].iter().any(|name| path.ends_with(name));
    if !path.is_empty() && !told {
        out.push_str(&format!("{path} {kind}\n"));
    }
    match value {
        Value::Object(fields) if !matches!(path, ".environment.mitigations" | ".environment.sysctls") => {
            for (name, value) in fields {
                // Percentiles of metrics without samples are null.
                if path.starts_with(".metrics") && !path.ends_with(".message") && path != ".metrics" {
                    continue;
                }
                describe(out, &format!("{path}.{name}"), value);
            }
        }
        // What there is to note depends on the machine.
        Value::Array(items) if !matches!(path, ".notes" | ".findings" | ".environment.boot_options") => {
            if let Some(first) = items.first() {
                describe(out, &format!("{path}[]"), first);
            }
        }
        _ => {}
    }
}

#[test]
fn a_scenario_comes_from_a_file_and_what_became_of_it_is_printed_and_filed() {
    let relay = FakeRelay::start(Faults::default());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(
        path("some.toml"),
        "slo = 'storm.converged<1h,errors=0'\nclients = 99\n[storm]\nshare = '50%'\nat = '100ms'\n[rate]\n\
         from = 100\nto = 300\n",
    )
    .unwrap();
    // `short_run` has its own --clients and --rate, which win.
    let output = short_run(&relay, &["--scenario", &path("some.toml"), "--out", &path("out")]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(stdout.contains("storm      3 clients dropped, 3 came back, the last login "), "{stdout}{stderr}");
    assert!(stdout.contains("; all lobbies right ") && stdout.contains("storm.converged<1h"), "{stdout}");
    let summary: Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["workload"]["storm"], &summary["workload"]["clients"]), (&"50%@100ms".into(), &6.into()));
    assert_eq!((&summary["storm"]["dropped"], &summary["storm"]["converged"]), (&3.into(), &true.into()));
    assert_eq!(summary["workload"]["rate"], "200/s");

    std::fs::write(path("wrong.toml"), "clients = 5\nclints = 6\n").unwrap();
    let output = short_run(&relay, &["--scenario", &path("wrong.toml")]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("wrong.toml:2: ") && stderr.contains("did you mean `clients`?"), "{stderr}");
}

#[test]
fn report_shows_a_finished_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let relay = FakeRelay::start(Faults { repeat_every: 3, ..Faults::default() });
    let run = short_run(&relay, &["--out", out, "--slo", "duplicates=0"]);
    assert_eq!(run.status.code(), Some(99), "{}", text(&run.stderr));
    let page = directory.path().join("report.html");
    let first = std::fs::read_to_string(&page).unwrap();
    assert!(first.contains("duplicates=0") && first.contains("The target is missed."));
    std::fs::remove_file(&page).unwrap();

    let report = loadgen(&["report", out]);
    // The exit code tells of the showing: what the run came to is in the table.
    assert_eq!(report.status.code(), Some(0), "{}", text(&report.stderr));
    assert_eq!(text(&report.stdout), text(&run.stdout));
    assert!(text(&report.stderr).contains("report.html"), "{}", text(&report.stderr));
    assert_eq!(std::fs::read_to_string(&page).unwrap(), first);
}

#[test]
fn report_names_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let report = loadgen(&["report", directory.path().to_str().unwrap()]);
    assert_eq!(report.status.code(), Some(1));
    assert!(text(&report.stderr).contains("no summary.json"), "{}", text(&report.stderr));
    assert_eq!(loadgen(&["report"]).status.code(), Some(2));
}
