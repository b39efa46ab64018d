//! The command, run as a process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use protocol::encode;
use protocol::frame::{LobbyMode, Target};
use protocol::server_frame::{ReceiptStatus, Welcome};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::tungstenite::Message;

use crate::fake_relay::{FakeRelay, within};
use crate::frames::{self, key};

const ME: u8 = 1;
const PEER: u8 = 2;

pub(crate) fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(args).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["CLIENT_KEY", "CLIENT_DEVICE", "CLIENT_RELAY_NAME", "CLIENT_TIMEOUT"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end: status, standard output, standard error.
pub(crate) async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    ended(client(args).spawn().expect("the command starts")).await
}

pub(crate) async fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = within("the command", child.wait_with_output()).await.expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A directory with the key file of [`ME`].
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        fs::write(home.key(), format!("{}\n", "01".repeat(32))).expect("write");
        home.chmod(0o600);
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn key(&self) -> String {
        text(&self.path("me.key"))
    }

    fn chmod(&self, mode: u32) {
        fs::set_permissions(self.key(), fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}

pub(crate) fn lines_of(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("a pipe")).lines()
}

pub(crate) async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    within("a line", lines.next_line()).await.expect("text").expect("the output goes on")
}

async fn next_event(lines: &mut Lines<BufReader<ChildStdout>>) -> serde_json::Value {
    serde_json::from_str(&next_line(lines).await).expect("a line of JSON")
}

#[tokio::test]
async fn keygen_writes_a_private_file_once() {
    let home = Home::new();
    let path = home.path("new.key");
    let (status, printed, _) = run(&["keygen", "--out", &text(&path)]).await;
    assert_eq!(status, Some(0));
    let secret = fs::read_to_string(&path).expect("the file");
    assert_eq!(secret.len(), 65);
    assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o7777, 0o600);
    let key = client::key_file::load(&path).expect("a key file");
    assert_eq!(printed, format!("{}\n", protocol::PublicKey::from(&key.verifying_key())));

    let (status, printed, error) = run(&["keygen", "--out", &text(&path)]).await;
    assert_eq!((status, printed.as_str()), (Some(1), ""));
    assert!(error.contains("exists already") && error.lines().count() == 1, "{error}");
    assert_eq!(fs::read_to_string(&path).expect("the file"), secret);
}

#[tokio::test]
async fn unusable_key_files_are_refused_with_the_fix() {
    let home = Home::new();
    home.chmod(0o644);
    let key_file = home.key();
    for args in [
        &["listen", "ws://127.0.0.1:1", "--key", &key_file][..],
        &["chat", "ws://127.0.0.1:1", "--key", &key_file],
        &["send", "ws://127.0.0.1:1", "--key", &key_file, "--to", key(PEER).to_hex().as_str(), "hi"],
    ] {
        let (status, _, error) = run(args).await;
        assert_eq!(status, Some(2), "{error}");
        assert!(error.contains("mode 0644") && error.contains(&format!("chmod 600 {key_file}")), "{error}");
    }
    home.chmod(0o600);
    fs::write(&key_file, "a secret of another form").expect("write");
    let (status, _, error) = run(&["listen", "ws://127.0.0.1:1", "--key", &key_file]).await;
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("expected 64 lowercase hex digits") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn wrong_usage_is_status_2() {
    let home = Home::new();
    let (me, to) = (home.key(), key(PEER).to_string());
    for (args, what) in [
        (&["send", "http://host/ws", "--key", &me, "--to", &to, "hi"][..], "ws://host:7400/ws"),
        (&["send", "wss://host/ws", "--key", &me, "--to", &to, "hi"], "asks for TLS"),
        (&["send", "ws://host/ws", "--key", &me, "--to", "12ab", "hi"], "64 lowercase hex digits"),
        (&["send", "ws://host/ws", "--to", &to, "hi"], "--key"),
        (&["listen", "ws://host/ws", "--key", &me, "--device", "a b"], "expected 1 to 64 of"),
        (&["listen", "ws://host/ws", "--key", &me, "--relay-name", "UP"], "expected 1 to 253 of"),
        (&["shout"], "shout"),
        (&[], "Usage"),
    ] {
        let (status, _, error) = run(args).await;
        assert_eq!(status, Some(2), "{error}");
        assert!(error.contains(what), "{error}");
    }
}

#[tokio::test]
async fn send_waits_for_the_ack() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    let to = key(PEER).to_string();
    let child = client(&["send", &relay.url(), "--to", &to, "--", "-Grüße\n👋"])
        .env("CLIENT_KEY", home.key())
        .env("CLIENT_DEVICE", "desk")
        .spawn()
        .expect("the command starts");
    let mut peer = relay.accept().await;
    assert_eq!(peer.challenge().await, ("desk".to_owned(), LobbyMode::None));
    peer.send(&frames::welcome(ME, "desk")).await;
    let sent = peer.next_message().await;
    assert_eq!((sent.from, sent.target, sent.text.as_str()), (key(ME), format!("user:{to}"), "-Grüße\n👋"));
    peer.send(&frames::ack(&sent.id)).await;
    assert_eq!(peer.close_code().await, Some(1000));
    assert_eq!(ended(child).await, (Some(0), String::new(), String::new()));
}

#[tokio::test]
async fn send_says_in_a_sentence_what_went_wrong() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    let (me, to) = (home.key(), key(PEER).to_string());
    let url = relay.url();
    let start = |more: &[&str]| {
        let mut args = vec!["send", &url, "--key", &me, "--to", &to];
        args.extend(more);
        client(&args).spawn().expect("the command starts")
    };
    let failed = async |child, what: &str| {
        let (status, printed, error) = ended(child).await;
        assert_eq!((status, printed.as_str()), (Some(1), ""), "{error}");
        assert!(error.starts_with("client: ") && error.contains(what) && error.lines().count() == 1, "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    };

    // The relay refuses the message, and would like to write to the terminal.
    let child = start(&["hi"]);
    let mut peer = relay.accept_open(ME).await;
    let id = peer.next_message().await.id;
    peer.send(&frames::error("offline", "They are \u{1b}[31moffline.", Some(&id), None)).await;
    failed(child, "They are \\u{1b}[31moffline. (offline)").await;

    // The relay refuses the key.
    let child = start(&["hi"]);
    let mut peer = relay.accept().await;
    peer.challenge().await;
    peer.send(&frames::error("auth_failed", "This key is banned.", None, None)).await;
    peer.close(4401, "").await;
    failed(child, "This key is banned. (auth_failed)").await;

    // The relay closes before it answers.
    let child = start(&["hi"]);
    let mut peer = relay.accept_open(ME).await;
    peer.next_message().await;
    peer.close(4409, "").await;
    failed(child, "a newer connection of this key and device took over").await;

    // The relay does not answer.
    let child = start(&["hi", "--timeout", "200ms"]);
    let silent = relay.accept_open(ME).await;
    failed(child, "did not answer within 200ms").await;
    drop(silent);

    // The text is one that a relay would refuse.
    let child = start(&[""]);
    let peer = relay.accept_open(ME).await;
    failed(child, "the message is empty").await;
    drop(peer);

    // Another relay listens there.
    let child = start(&["hi", "--relay-name", "relay.example"]);
    let mut peer = relay.accept().await;
    peer.send(&frames::challenge("localhost")).await;
    failed(child, "calls itself").await;

    // Nobody listens there.
    drop(relay);
    failed(start(&["hi"]), "cannot connect to 127.0.0.1:").await;
}

#[tokio::test]
async fn listen_prints_events_as_lines_of_json() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    let mut child = client(&["listen", &relay.url(), "--key", &home.key()]).spawn().expect("the command starts");
    let mut lines = lines_of(&mut child);
    let mut peer = relay.accept().await;
    let (device, lobby) = peer.challenge().await;
    assert_eq!(lobby, LobbyMode::All);
    peer.send(&frames::welcome(ME, &device)).await;
    let welcome = next_event(&mut lines).await;
    assert_eq!((&welcome["event"], &welcome["publicKey"]), (&"welcome".into(), &key(ME).to_string().into()));
    peer.send(&frames::lobby(1, &[ME, PEER], Some(&[ME, PEER]))).await;
    assert_eq!(next_event(&mut lines).await["users"].as_array().map(Vec::len), Some(2));

    // What could reach the terminal is escaped, and means the same.
    let hostile = "\u{9b}31m\u{202e} \u{1b}[2J\n\u{7f}";
    let message = frames::message(PEER, ME, "m-1", hostile);
    peer.send(&frames::pushed(1, &message)).await;
    let line = next_line(&mut lines).await;
    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
    let event: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&event["event"], &event["message"], &event["seq"]), (&"message".into(), &hostile.into(), &1.into()));
    peer.send(&frames::pushed(2, &message.replace("31m", "32m"))).await;
    assert_eq!(next_event(&mut lines).await["event"], "bad_signature");

    // A lost connection is made again.
    drop(peer);
    assert_eq!(next_event(&mut lines).await["event"], "closed");
    assert_eq!(next_event(&mut lines).await["event"], "reconnecting");
    let peer = relay.accept_open(ME).await;
    assert_eq!(next_event(&mut lines).await["event"], "welcome");
    peer.close(4409, "").await;
    let closed = next_event(&mut lines).await;
    assert_eq!((&closed["code"], &closed["retry"]), (&4409.into(), &false.into()));
    let (status, _, error) = ended(child).await;
    assert_eq!(status, Some(1));
    assert!(error.contains("took over"), "{error}");
}

#[tokio::test]
async fn listen_ends_politely_when_told() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    for signal in ["INT", "TERM"] {
        let child = client(&["listen", &relay.url(), "--key", &home.key(), "--no-lobby"]).spawn();
        let mut child = child.expect("the command starts");
        let mut lines = lines_of(&mut child);
        let mut peer = relay.accept().await;
        let (device, lobby) = peer.challenge().await;
        assert_eq!(lobby, LobbyMode::None);
        peer.send(&frames::welcome(ME, &device)).await;
        assert_eq!(next_event(&mut lines).await["event"], "welcome");
        let pid = child.id().expect("a running process");
        // The shell's own `kill`: there may be no other.
        let killed = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await;
        assert!(killed.expect("a shell").success());
        assert_eq!(peer.close_code().await, Some(1000));
        assert_eq!(next_event(&mut lines).await["event"], "closed");
        let (status, _, error) = ended(child).await;
        assert_eq!((status, error.as_str()), (Some(0), ""));
    }
}

#[tokio::test]
async fn send_waits_for_what_it_is_told_to() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    let (me, to, url) = (home.key(), key(PEER).to_string(), relay.url());
    let start = |more: &[&str]| {
        let mut args = vec!["send", &url, "--key", &me];
        args.extend(more);
        client(&args).spawn().expect("the command starts")
    };
    // Delivered, over a connection that breaks before the answer.
    let child = start(&["--to", &to, "--wait", "delivered", "hi"]);
    let mut peer = relay.accept_open(ME).await;
    let first = peer.next_text().await;
    drop(peer);
    let mut peer = relay.accept_open(ME).await;
    assert_eq!(peer.next_text().await, first, "byte for byte");
    let id = serde_json::from_str::<serde_json::Value>(&first).expect("JSON")["clientMessageId"].clone();
    let id = id.as_str().expect("text");
    peer.send(&frames::ack(id)).await;
    peer.send(&frames::pushed(1, &frames::message(PEER, ME, "m-1", "not for a sender's eyes"))).await;
    peer.send(&frames::receipt(ReceiptStatus::Delivered, &[id], PEER)).await;
    // Nothing was confirmed on the way.
    assert!(matches!(peer.next().await, Some(Message::Close(_))));
    drop(peer);
    assert_eq!(ended(child).await, (Some(0), String::new(), String::new()));

    // Sent, but not read in time.
    let child = start(&["--room", "tea", "--to", &to, "--wait", "read", "--timeout", "500ms", "hi"]);
    let mut peer = relay.accept_open(ME).await;
    let sent = peer.next_message().await;
    assert_eq!(sent.target, format!("room:tea:{to}"));
    peer.send(&frames::ack(&sent.id)).await;
    let (status, _, error) = ended(child).await;
    assert_eq!((status, error.as_str()), (Some(3), "client: the message is sent, but was not read within 500ms\n"));
    drop(peer);

    // To a whole room; a taken-over device ends the wait.
    let child = start(&["--room", "tea", "--wait", "read", "hi"]);
    let mut peer = relay.accept_open(ME).await;
    let sent = peer.next_message().await;
    assert_eq!(sent.target, "room:tea");
    peer.send(&frames::ack(&sent.id)).await;
    peer.close(4409, "").await;
    let (status, _, error) = ended(child).await;
    assert_eq!(status, Some(3), "{error}");
    assert!(error.contains("the connection ended before it was read: a newer connection"), "{error}");

    // What cannot be.
    let (status, _, error) = ended(start(&["--room", "tea", "--wait", "delivered", "hi"])).await;
    assert_eq!(status, Some(2), "{error}");
    let (status, _, error) = ended(start(&["hi"])).await;
    assert_eq!(status, Some(2), "{error}");
}

#[tokio::test]
async fn listen_joins_rooms_and_confirms_what_it_printed() {
    let (home, relay) = (Home::new(), FakeRelay::start().await);
    let key_file = home.key();
    let url = relay.url();
    let mut child = client(&["listen", &url, "--key", &key_file, "--room", "tea"]).spawn().expect("the command starts");
    let mut lines = lines_of(&mut child);
    let mut peer = relay.accept().await;
    let (device, _) = peer.challenge().await;
    assert!(device.starts_with("listen-"), "{device}");
    peer.send(&frames::welcome(ME, &device)).await;
    assert_eq!(next_event(&mut lines).await["event"], "welcome");
    assert_eq!(peer.next_text().await, r#"{"type":"room_join","roomId":"tea"}"#);
    let push = frames::pushed(1, &frames::message_to(PEER, Target::Room("tea"), "m-1", "hi"));
    peer.send(&push).await;
    let event = next_event(&mut lines).await;
    assert_eq!((&event["event"], &event["roomId"]), (&"message".into(), &"tea".into()));
    assert_eq!(peer.next_text().await, r#"{"type":"received","seq":1}"#);
    drop(peer);
    // The same device, and the room again.
    let mut peer = relay.accept().await;
    let resume = peer.challenge_resume().await;
    assert_eq!(resume.map(|resume| resume.seq), Some(1));
    let welcome = Welcome { seq: 1, recovered: true, ..frames::welcome_frame(ME, &device) };
    peer.send(&frames::text(|out| encode::welcome(out, &welcome))).await;
    assert_eq!(peer.next_text().await, r#"{"type":"room_join","roomId":"tea"}"#);
    peer.close(4409, "").await;
    let (status, _, _) = ended(child).await;
    assert_eq!(status, Some(1));
}
