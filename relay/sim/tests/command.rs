//! The command: its exit status, and what it prints for whoever must find the fault.

use std::process::{Command, Output};

fn relay_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_relay-sim")).args(args).output().expect("the command starts")
}

#[test]
fn clean_seeds_exit_0_with_a_summary() {
    let output = relay_sim(&["--seeds", "4", "--start", "10"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("4 seeds, ") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_broken_rule_exits_1_and_says_how_to_see_it_again() {
    let output = relay_sim(&["--seeds", "50", "--shards", "3", "--plant", "LoseDeliver"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(" breaks ") && text.contains(" ms of virtual time"), "{text}");
    let again = text.lines().last().and_then(|line| line.strip_prefix("see it again with: relay-sim ")).expect("a way");
    assert!(again.ends_with("--trace --shards 3 --plant LoseDeliver"), "{again}");
    let output = relay_sim(&again.split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    let found = |text: &str| text.lines().find(|line| line.contains(" breaks ")).map(str::to_owned);
    assert_eq!(found(&String::from_utf8_lossy(&output.stdout)), found(&text));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shard 0 <- "), "the trace is printed");
}

#[test]
fn wrong_usage_exits_2() {
    for args in [&["--nonsense"][..], &["--shards", "0"], &["--seed", "1", "--seeds", "2"], &["--plant", "Weeds"]] {
        assert_eq!(relay_sim(args).status.code(), Some(2), "{args:?}");
    }
}
