//! What a relay with a store keeps: through a kill, through a restart in order, and with another number
//! of shards.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::kit::{Client, Draft, Engine, Relay, User, on_every_engine};

on_every_engine! {
    what_was_acked_outlives_a_kill,
    a_restart_in_order_recovers_the_session,
}

/// A relay on this directory, with so many shards.
pub(crate) fn relay(engine: Engine, dir: &Path, shards: &str) -> Relay {
    Relay::with(engine, &["--data", dir.to_str().expect("a path of text"), "--shards", shards])
}

/// Sends a message for somebody who is away, and reads its ack.
pub(crate) fn say_to_absent(from: &mut Client, draft: &Draft, is_duplicate: bool) {
    from.send(&draft.frame());
    let ack = from.answer_to_message();
    assert_eq!(ack["type"], "ack", "{ack}");
    assert_eq!((&ack["clientMessageId"], &ack["recipient"]), (&json!(draft.id), &json!("offline")), "{ack}");
    assert_eq!(ack["duplicate"], is_duplicate, "{ack}");
}

fn what_was_acked_outlives_a_kill(engine: Engine) {
    let dir = tempdir().expect("a directory");
    let (sender, recipients) = (User::numbered(0), User::several(6));
    let first = relay(engine, dir.path(), "2");
    // Who was here once is no stranger.
    for recipient in &recipients[1..] {
        Client::login(&first, recipient).leave();
    }
    let mut from = Client::login(&first, &sender);
    let drafts: Vec<_> =
        recipients[1..].iter().map(|recipient| sender.draft(recipient, "while you were away")).collect();
    for draft in &drafts {
        say_to_absent(&mut from, draft, false);
    }
    first.kill();

    let second = relay(engine, dir.path(), "3");
    let mut from = Client::login(&second, &sender);
    for (recipient, draft) in recipients[1..].iter().zip(&drafts) {
        // The id is known still, and nothing is stored twice.
        say_to_absent(&mut from, draft, true);
        let mut to = Client::login(&second, recipient);
        let (seq, frame) = to.expect_push();
        assert_eq!((seq, frame), (1, draft.frame()));
        to.send(&json!({ "type": "received", "seq": seq }).to_string());
        to.expect_quiet();
        to.leave();
    }
}

/// A login that asks for what came after this seq.
fn resume(relay: &Relay, user: &User, epoch: &Value, seq: u64) -> (Client, Value) {
    let mut client = Client::open(relay);
    let mut auth: Value = serde_json::from_str(&client.answer(user, "phone", "none")).expect("JSON");
    auth["resume"] = json!({ "epoch": epoch, "seq": seq });
    client.send(&auth.to_string());
    let welcome = client.expect("welcome");
    (client, welcome)
}

fn a_restart_in_order_recovers_the_session(engine: Engine) {
    let dir = tempdir().expect("a directory");
    let (sender, recipient) = (User::numbered(0), User::numbered(1));
    let mut first = relay(engine, dir.path(), "2");
    let (to, welcome) = Client::open(&first).with_session(&recipient, "phone", "none");
    let mut from = Client::login(&first, &sender);
    let mut to = to;
    let draft = sender.draft(&recipient, "before");
    from.send(&draft.frame());
    assert_eq!(to.expect_push(), (1, draft.frame()));
    to.send(r#"{"type":"received","seq":1}"#);
    assert_eq!(from.answer_to_message()["recipient"], "online");
    to.leave();
    let missed = sender.draft(&recipient, "missed");
    say_to_absent(&mut from, &missed, false);
    from.leave();
    first.terminate();
    assert_eq!(first.wait().code(), Some(0));
    let files: Vec<_> =
        dir.path().read_dir().expect("a directory").map(|file| file.expect("a file").file_name()).collect();
    assert!(
        !files.iter().any(|name| name == "relay.db-wal") || is_empty(&dir.path().join("relay.db-wal")),
        "{files:?}"
    );

    let second = relay(engine, dir.path(), "3");
    let (mut to, again) = resume(&second, &recipient, &welcome["epoch"], 1);
    assert_eq!((&again["recovered"], &again["epoch"]), (&json!(true), &welcome["epoch"]), "{again}");
    assert_eq!(to.expect_push(), (2, missed.frame()));
}

fn is_empty(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.len() == 0)
}

/// Runs the command to its end, apart from the developer's own settings.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.args(arguments).output().expect("the relay's binary starts");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn a_directory_serves_one_relay_at_a_time() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a path of text");
    let first = relay(Engine::Ring, dir.path(), "1");
    let (status, text) = run(&["--listen", "127.0.0.1:0", "--admin", "off", "--data", path]);
    assert_eq!(status, Some(1));
    assert!(text.contains("is in use by process") && text.contains("take another directory with --data"), "{text}");
    let (status, text) = run(&["store", "check", path]);
    assert!(status == Some(1) && text.contains("is in use by process"), "{text}");
    first.kill();
    let (status, text) = run(&["store", "check", path]);
    assert!(status == Some(0) && text.contains("no problem found"), "{text}");
}

#[test]
fn checking_what_is_no_store_fails_with_the_fix() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a path of text");
    let (status, text) = run(&["store", "check", path]);
    assert!(status == Some(1) && text.contains("there is no store in"), "{text}");
    let (status, text) = run(&["store", "check"]);
    assert!(status == Some(2) && text.contains("<DIR>"), "{text}");
    std::fs::write(dir.path().join("relay.db"), "no database, though long enough to look like one").expect("a file");
    let (status, text) = run(&["store", "check", path]);
    assert!(status == Some(1) && text.contains("file is not a database"), "{text}");
}

#[test]
fn a_relay_is_ready_until_it_drains() {
    let dir = tempdir().expect("a directory");
    let mut relay = relay(Engine::Ring, dir.path(), "2");
    assert_eq!(relay.get("/readyz"), (200, "ready".to_owned()));
    // Somebody who does not read keeps it from ending at once.
    let user = User::numbered(0);
    let held = Client::login(&relay, &user);
    relay.terminate();
    // It drains from some moment after the signal.
    let mut answer = relay.get("/readyz");
    while answer.0 == 200 {
        answer = relay.get("/readyz");
    }
    assert_eq!(answer, (503, "draining".to_owned()));
    drop(held);
    assert_eq!(relay.wait().code(), Some(0));
}
