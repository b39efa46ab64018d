//! The command, run as a process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use protocol::encode;
use protocol::frame::{LobbyMode, Target};
use protocol::server_frame::{Ack, ReceiptStatus, Welcome};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_tungstenite::tungstenite::Message;

use crate::fake_relay::{FakeRelay, Peer, within};
use crate::frames::{self, key};

const ME: u8 = 1;
const PEER: u8 = 2;

fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(args).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["CLIENT_KEY", "CLIENT_DEVICE", "CLIENT_RELAY_NAME", "CLIENT_TIMEOUT"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end: status, standard output, standard error.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    ended(client(args).spawn().expect("the command starts")).await
}

async fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = within("the command", child.wait_with_output()).await.expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A directory with the key file of [`ME`].
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        fs::write(home.key(), format!("{}\n", "01".repeat(32))).expect("write");
        home.chmod(0o600);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self) -> String {
        text(&self.path("me.key"))
    }

    fn chmod(&self, mode: u32) {
        fs::set_permissions(self.key(), fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}

fn lines_of(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("a pipe")).lines()
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
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

/// A chat against a scripted relay, connected, with both users online and the peer selected.
struct Chat {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    keyboard: ChildStdin,
    peer: Peer,
    relay: FakeRelay,
}

impl Chat {
    async fn start(home: &Home, more: &[&str]) -> Self {
        let relay = FakeRelay::start().await;
        let (url, key_file) = (relay.url(), home.key());
        let mut args = vec!["chat", &url, "--key", &key_file];
        args.extend(more);
        let mut child = client(&args).stdin(Stdio::piped()).spawn().expect("the command starts");
        let mut chat = Self {
            lines: lines_of(&mut child),
            keyboard: child.stdin.take().expect("a pipe"),
            child,
            // Typed before there is a lobby, and done once there is.
            peer: relay.accept_open(ME).await,
            relay,
        };
        let short = chat.short();
        chat.type_in(&format!("/to {}", &short[..6])).await;
        chat
    }

    async fn connected(&mut self) {
        self.says(&format!("* connected to localhost as {}", key(ME))).await;
        self.peer.send(&frames::lobby(1, &[ME, PEER], Some(&[ME, PEER]))).await;
        self.says("* 2 online; /help explains").await;
        self.says(&format!("* writing to {}", key(PEER))).await;
    }

    fn short(&self) -> String {
        key(PEER).to_string()[..16].to_owned()
    }

    async fn type_in(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).await.expect("a reader");
    }

    async fn says(&mut self, line: &str) {
        assert_eq!(next_line(&mut self.lines).await, line);
    }

    async fn sent(&mut self, text: &str) -> String {
        let sent = self.peer.next_message().await;
        assert_eq!(sent.text, text);
        sent.id
    }

    /// Quits, with nothing more to say.
    async fn quit(mut self) {
        self.type_in("/quit").await;
        assert_eq!(self.peer.close_code().await, Some(1000));
        assert!(within("the end", self.lines.next_line()).await.expect("text").is_none());
        let (status, _, error) = ended(self.child).await;
        assert_eq!((status, error.as_str()), (Some(0), ""));
    }
}

#[tokio::test]
async fn chat_selects_sends_and_shows() {
    let home = Home::new();
    let mut chat = Chat::start(&home, &[]).await;
    chat.connected().await;
    let short = chat.short();

    chat.type_in("/who").await;
    let mut who = [next_line(&mut chat.lines).await, next_line(&mut chat.lines).await];
    who.sort();
    assert_eq!(who, [format!("* {} (you)", key(ME)), format!("> {}", key(PEER))]);

    chat.type_in("hello there").await;
    let id = chat.sent("hello there").await;
    chat.peer.send(&frames::error("inbox_full", "No \u{1b}room.", Some(&id), None)).await;
    chat.says("! not sent: \"hello there\": No \\u{1b}room.").await;
    chat.type_in("//slash and a text that is longer than the screen wants to repeat").await;
    let id = chat.sent("/slash and a text that is longer than the screen wants to repeat").await;
    chat.peer.send(&frames::ack(&id)).await;
    chat.says("✓ sent: \"/slash and a text that is longer…\"").await;

    let hostile = "\u{1b}]0;owned\u{7}hi\n* you left";
    chat.peer.send(&frames::pushed(1, &frames::message(PEER, ME, "m-1", hostile))).await;
    chat.says(&format!("{short}> \\u{{1b}}]0;owned\\u{{7}}hi\\n* you left")).await;
    chat.peer.send(&frames::text(|out| encode::typing(out, &Target::User(key(ME)), true, Some(&key(PEER))))).await;
    chat.says(&format!("* {short} is typing")).await;

    chat.peer.send(&frames::update(2, &[], &[PEER], &[ME])).await;
    chat.says(&format!("* {short} left")).await;
    chat.says("* recipient went offline: nobody is selected now").await;
    chat.type_in("anybody?").await;
    assert!(next_line(&mut chat.lines).await.starts_with("! nobody is selected"));
    chat.type_in("/frobnicate").await;
    assert!(next_line(&mut chat.lines).await.starts_with("! there is no /frobnicate"));

    // The whole key of somebody offline; the answer is waited for before the end.
    chat.type_in(&format!("/to {}", key(PEER))).await;
    chat.says(&format!("* writing to {}", key(PEER))).await;
    chat.type_in("bye").await;
    chat.type_in("/quit").await;
    let id = chat.sent("bye").await;
    chat.peer.send(&frames::error("offline", "They are offline.", Some(&id), None)).await;
    chat.says("! not sent: \"bye\": They are offline.").await;
    assert_eq!(chat.peer.close_code().await, Some(1000));
    let (status, _, error) = ended(chat.child).await;
    assert_eq!((status, error.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn chat_follows_own_messages_through_a_restart_of_the_relay() {
    let home = Home::new();
    let mut chat = Chat::start(&home, &[]).await;
    chat.connected().await;
    chat.type_in("one").await;
    let id = chat.sent("one").await;
    chat.peer.send(&frames::not_yet("rate_limited", &id, 100)).await;
    chat.says("… waits 0.1 s for the relay: \"one\"").await;
    assert_eq!(chat.sent("one").await, id);
    let ack = Ack { id: &id, online: false, duplicate: false, seq: None };
    chat.peer.send(&frames::text(|out| encode::ack(out, &ack))).await;
    chat.says("✓ sent, kept until they come online: \"one\"").await;

    chat.peer.send(r#"{"type":"restarting","reconnectInMs":1000}"#).await;
    chat.says("* the relay restarts").await;
    chat.peer.close_with(1001, "").await;
    chat.says("* disconnected: the relay goes away").await;
    chat.says("* next attempt in 1.0 s").await;
    chat.type_in("two").await;
    chat.says("… waits for a connection: \"two\"").await;
    chat.peer = chat.relay.accept_open(ME).await;
    chat.says(&format!("* connected to localhost as {}", key(ME))).await;
    chat.says("! the relay cannot tell whether messages were missed meanwhile").await;
    let two = chat.sent("two").await;
    chat.peer.send(&frames::ack(&two)).await;
    chat.says("✓ sent: \"two\"").await;
    chat.peer.send(&frames::receipt(ReceiptStatus::Delivered, &[&id, &two, "of-nobody"], PEER)).await;
    chat.says("✓✓ delivered: \"one\"").await;
    chat.says("✓✓ delivered: \"two\"").await;
    chat.peer.send(&frames::receipt(ReceiptStatus::Read, &[&two], PEER)).await;
    chat.says("✓✓ read: \"two\"").await;
    chat.quit().await;
}

#[tokio::test]
async fn chat_confirms_and_reads_what_it_shows() {
    for (more, frames_expected) in [
        (&[][..], &[r#"{"type":"read","seq":1}"#, r#"{"type":"received","seq":1}"#][..]),
        (&["--no-read-receipts"], &[r#"{"type":"received","seq":1}"#]),
    ] {
        let home = Home::new();
        let mut chat = Chat::start(&home, more).await;
        chat.connected().await;
        chat.peer.send(&frames::pushed(1, &frames::message(PEER, ME, "m-1", "hi"))).await;
        let short = chat.short();
        chat.says(&format!("{short}> hi")).await;
        let mut got = Vec::new();
        for _ in frames_expected {
            got.push(chat.peer.next_text().await);
        }
        got.sort_by_key(|frame| frame.contains("received"));
        assert_eq!(got, frames_expected);
        chat.quit().await;
    }
}

#[tokio::test]
async fn chat_goes_into_rooms() {
    let home = Home::new();
    let mut chat = Chat::start(&home, &[]).await;
    chat.connected().await;
    let short = chat.short();
    let room = |members: &[u8]| {
        let members: Vec<_> = members.iter().copied().map(key).collect();
        frames::text(|out| encode::room(out, "tea", &key(ME), true, members.iter()))
    };
    let update = |joined: &[u8], left: &[u8], owner: u8| {
        let keys = |seeds: &[u8]| seeds.iter().copied().map(key).collect::<Vec<_>>();
        frames::text(|out| encode::room_update(out, "tea", &keys(joined), &keys(left), &key(owner)))
    };
    let peer = key(PEER);
    let about = |kind: &str| format!(r#"{{"type":"{kind}","roomId":"tea","publicKey":"{peer}"}}"#);

    chat.type_in("/join no tea").await;
    chat.says("! a room's name is 1 to 64 of A-Z a-z 0-9 - _ . :").await;
    chat.type_in("/invite 12").await;
    chat.says("! nobody online has a key that starts so").await;
    chat.type_in("/create tea").await;
    assert_eq!(chat.peer.next_text().await, r#"{"type":"room_create","roomId":"tea","open":true}"#);
    chat.peer.send(&room(&[ME])).await;
    chat.says("* tea: open, owned by you: you").await;
    chat.says("* writing to room tea").await;
    chat.type_in(&format!("/invite {}", &short[..6])).await;
    assert_eq!(chat.peer.next_text().await, about("room_invite"));
    chat.peer.send(&update(&[PEER], &[], ME)).await;
    chat.says(&format!("* joined tea: {short}")).await;

    chat.type_in("hello all").await;
    let sent = chat.peer.next_message().await;
    assert_eq!((sent.target.as_str(), sent.text.as_str()), ("room:tea", "hello all"));
    chat.peer.send(&frames::ack(&sent.id)).await;
    chat.says("✓ sent: \"hello all\"").await;
    chat.peer
        .send(&frames::text(|out| {
            encode::receipt(out, ReceiptStatus::Read, [sent.id.as_str()], &peer, Some("tea"));
        }))
        .await;
    chat.says(&format!("✓✓ read by {short}: \"hello all\"")).await;
    chat.type_in(&format!("/msg {} psst", &short[..6])).await;
    let sent = chat.peer.next_message().await;
    assert_eq!(sent.target, format!("room:tea:{peer}"));
    chat.peer.send(&frames::ack(&sent.id)).await;
    chat.says("✓ sent: \"psst\"").await;
    let whole = frames::message_to(PEER, Target::Room("tea"), "m-1", "hi all");
    chat.peer.send(&frames::pushed(1, &whole)).await;
    chat.says(&format!("{short} in tea> hi all")).await;
    let private = frames::message_to(PEER, Target::RoomMember("tea", key(ME)), "m-2", "psst");
    chat.peer.send(&frames::pushed(2, &private)).await;
    chat.says(&format!("{short} in tea, privately> psst")).await;

    chat.type_in("/history 2").await;
    let asked = chat.peer.next_but_confirmations().await;
    assert_eq!(asked, r#"{"type":"history","roomId":"tea","limit":2}"#);
    let page = [(1, whole.as_bytes()), (2, private.as_bytes())];
    chat.peer.send(&frames::text(|out| encode::history(out, page, true))).await;
    chat.says(&format!("  2026-11-21T12:34:56.789Z {short} in tea> hi all")).await;
    chat.says(&format!("  2026-11-21T12:34:56.789Z {short} in tea, privately> psst")).await;
    chat.says("* 2 messages; /older shows what came before").await;
    chat.type_in("/older").await;
    let asked = chat.peer.next_but_confirmations().await;
    assert_eq!(asked, r#"{"type":"history","roomId":"tea","beforeSeq":1,"limit":20}"#);
    chat.peer.send(&frames::text(|out| encode::history(out, [], false))).await;
    chat.says("* 0 messages; nothing older is kept").await;

    chat.type_in(&format!("/remove {}", &short[..6])).await;
    assert_eq!(chat.peer.next_text().await, about("room_remove"));
    chat.peer.send(&update(&[], &[PEER], ME)).await;
    chat.says(&format!("* left tea: {short}")).await;
    chat.type_in("/leave").await;
    assert_eq!(chat.peer.next_text().await, r#"{"type":"room_leave","roomId":"tea"}"#);
    chat.peer.send(&room(&[])).await;
    chat.says("* you are not in tea any more: nobody is selected now").await;
    chat.type_in("/leave").await;
    chat.says("! no room is selected: /room ROOM selects").await;
    chat.quit().await;
}

#[tokio::test]
async fn chat_keeps_a_history_over_its_runs() {
    let home = Home::new();
    let file = text(&home.path("history"));
    let mut chat = Chat::start(&home, &["--history", &file]).await;
    chat.connected().await;
    let short = chat.short();
    let message = frames::message(PEER, ME, "m-1", "hi\u{1b}");
    chat.peer.send(&frames::pushed(1, &message)).await;
    chat.says(&format!("{short}> hi\\u{{1b}}")).await;
    for (text, status) in [("delivered", true), ("lost", false)] {
        chat.type_in(text).await;
        let id = chat.peer.next_message().await.id;
        if status {
            chat.peer.send(&frames::ack(&id)).await;
            chat.says("✓ sent: \"delivered\"").await;
            chat.peer.send(&frames::receipt(ReceiptStatus::Delivered, &[&id], PEER)).await;
            chat.says("✓✓ delivered: \"delivered\"").await;
        }
    }
    // Killed, with one message on its way.
    let other = client(&["chat", "ws://127.0.0.1:1", "--key", &home.key(), "--history", &file]).spawn();
    let (status, _, error) = ended(other.expect("the command starts")).await;
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("another program is using"), "{error}");
    chat.child.kill().await.expect("a running process");
    drop(chat);

    let mut chat = Chat::start(&home, &["--history", &file]).await;
    let at = async |chat: &mut Chat| {
        let line = next_line(&mut chat.lines).await;
        line.split_once("Z ").map(|(_, line)| line.to_owned()).expect("a line with a time")
    };
    assert_eq!(at(&mut chat).await, format!("{short}> hi\\u{{1b}}"));
    assert_eq!(at(&mut chat).await, format!("you to {short}> delivered (delivered)"));
    assert_eq!(at(&mut chat).await, format!("you to {short}> lost"));
    chat.connected().await;
    // The relay had no confirmation, and sends it again; it is not shown again.
    chat.peer.send(&frames::pushed(1, &message)).await;
    chat.peer.send(&frames::pushed(2, &frames::message(PEER, ME, "m-2", "new"))).await;
    chat.says(&format!("{short}> new")).await;
    chat.quit().await;
    assert_eq!(fs::read_to_string(&file).expect("the file").lines().count(), 6);
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
