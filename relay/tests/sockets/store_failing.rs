//! A relay whose disk is full or fails: what it still promises, and what it says.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::tempdir;

use super::store::say_to_absent;
use crate::kit::{Client, DEADLINE, Engine, Relay, User};

/// Waits until the relay says so at `/readyz`.
fn wait_until_ready_is(relay: &Relay, status: u16, words: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (is, text) = relay.get("/readyz");
        if is == status && text.contains(words) {
            return;
        }
        assert!(Instant::now() < deadline, "{is} {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Compiles what makes syncs fail.
fn shim(dir: &Path) -> String {
    let shim = dir.join("failing_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/store/tests/failing_sync.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source).output();
    let compiled = compiled.expect("a C compiler, which SQLite was compiled with");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    shim.to_str().expect("a path of text").to_owned()
}

#[test]
fn after_a_failed_sync_nothing_is_acked_and_operators_are_told() {
    let dir = tempdir().expect("a directory");
    let (sender, recipient) = (User::numbered(0), User::numbered(1));
    let data = dir.path().join("data");
    let fail = dir.path().join("fail");
    let preload = format!("LD_PRELOAD={}", shim(dir.path()));
    let failing = format!("FAIL_SYNC={}", fail.display());
    let options = ["--data", data.to_str().expect("a path of text")];
    let relay = Relay::within(&["env", &preload, &failing], Engine::Ring, &options);
    Client::login(&relay, &recipient).leave();
    let mut from = Client::login(&relay, &sender);
    let kept = sender.draft(&recipient, "in time");
    say_to_absent(&mut from, &kept, false);
    assert_eq!(relay.get("/readyz"), (200, "ready".to_owned()));

    fs::write(&fail, "").expect("a file");
    let lost = sender.draft(&recipient, "too late");
    from.send(&lost.frame());
    from.expect_refusal("overloaded", &lost.id);
    wait_until_ready_is(&relay, 503, "store failed: the disk failed to sync; nothing is acked any more");
    // The disk is well again, and is not believed.
    fs::remove_file(&fail).expect("a file");
    let again = sender.draft(&recipient, "and again");
    from.send(&again.frame());
    from.expect_refusal("overloaded", &again.id);
    assert_eq!(relay.get("/readyz").0, 503);
    assert_eq!(relay.get("/healthz").0, 200);
    relay.kill();

    let relay = Relay::with(Engine::Ring, &options);
    let mut to = Client::login(&relay, &recipient);
    assert_eq!(to.expect_push().1, kept.frame());
    let mut from = Client::login(&relay, &sender);
    from.send(&again.frame());
    from.send(&json!({ "type": "ping" }).to_string());
    wait_until_ready_is(&relay, 200, "ready");
}

#[test]
fn on_a_full_disk_nothing_is_acked_and_with_room_it_goes_on() {
    let dir = tempdir().expect("a directory");
    let is_root = rustix::process::geteuid().is_root();
    let flags = if is_root { "--mount" } else { "--map-root-user" };
    let path = dir.path().to_str().expect("a path of text").to_owned();
    let allowed = Command::new("unshare").args([flags, "--mount", "mount", "-t", "tmpfs", "none", &path]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        // Past the capturing of output.
        let _ = writeln!(io::stderr(), "SKIPPED the full disk: no mount namespace can be had here: run as root");
        return;
    }
    let script = format!("mount -t tmpfs -o size=3m none {path} && exec \"$@\"");
    let (sender, recipient) = (User::numbered(0), User::numbered(1));
    let data = format!("{path}/data");
    let wrapper = ["unshare", flags, "--mount", "sh", "-euc", &script, "sh"];
    let relay = Relay::within(&wrapper, Engine::Ring, &["--data", &data, "--rate-limit", "0"]);
    let ballast = relay.root().join(path.trim_start_matches('/')).join("ballast");
    Client::login(&relay, &recipient).leave();
    let mut from = Client::login(&relay, &sender);
    fs::write(&ballast, vec![1; 512 << 10]).expect("there is room for it");

    let mut acked = Vec::new();
    let refused = loop {
        let draft = sender.draft(&recipient, &"x".repeat(900));
        from.send(&draft.frame());
        let answer = from.answer_to_message();
        if answer["type"] == "error" {
            assert_eq!((&answer["reason"], &answer["clientMessageId"]), (&json!("overloaded"), &json!(draft.id)));
            break draft;
        }
        assert_eq!((&answer["type"], &answer["clientMessageId"]), (&json!("ack"), &json!(draft.id)));
        acked.push(draft.frame());
        assert!(acked.len() < 20_000, "3 MiB hold no 20 MB");
    };
    wait_until_ready_is(&relay, 503, "disk full");
    // Whoever is online gets what was acked, though nothing more can be stored.
    fs::remove_file(&ballast).expect("a file");
    let deadline = Instant::now() + DEADLINE;
    loop {
        // The id of a refused message is free.
        from.send(&refused.frame());
        let answer = from.answer_to_message();
        if answer["type"] == "ack" {
            assert_eq!(answer["duplicate"], false, "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_until_ready_is(&relay, 200, "ready");
    acked.push(refused.frame());
    let mut to = Client::login(&relay, &recipient);
    for frame in &acked {
        assert_eq!(&to.expect_push().1, frame);
    }
}
