//! `client chat`, run as a process.

use std::fs;
use std::process::Stdio;

use protocol::encode;
use protocol::frame::Target;
use protocol::server_frame::{Ack, ReceiptStatus};
use tokio::io::{AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::command::{Home, client, ended, lines_of, next_line, text};
use crate::fake_relay::{FakeRelay, Peer, within};
use crate::frames::{self, key};

const ME: u8 = 1;
const PEER: u8 = 2;

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
