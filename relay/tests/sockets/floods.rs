//! More frames than a connection may send, messages aside.

use crate::kit::{Client, Draft, Engine, Got, Relay, User, on_every_engine, wire};

on_every_engine! {
    as_many_frames_as_allowed_pass,
    a_flood_of_frames_closes_with_4429,
    a_flood_of_refused_messages_is_bounded,
    a_flood_of_messages_of_one_id_is_bounded,
    messages_do_not_count_as_other_frames,
}

const PING: &str = r#"{"type":"ping"}"#;

fn as_many_frames_as_allowed_pass(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::login(&relay, &User::numbered(0));
    // 50 a second, and a burst of 50 more.
    client.raw(&wire::texts(&vec![PING.to_owned(); 50]));
    for _ in 0..50 {
        client.expect("pong");
    }
}

fn a_flood_of_frames_closes_with_4429(engine: Engine) {
    let relay = Relay::start(engine);
    let mut other = Client::login(&relay, &User::numbered(1));
    let sync = r#"{"type":"lobby_sync"}"#;
    for frame in [PING, sync] {
        let (mut client, _) = Client::open(&relay).with_session(&User::numbered(0), "phone", "all");
        // All in one piece, ten seconds' worth: no machine is that slow.
        client.raw(&wire::texts(&vec![frame.to_owned(); 600]));
        let mut pongs = 0;
        let code = loop {
            match client.next() {
                Got::Text(text) => pongs += usize::from(text.contains("pong")),
                Got::Close(code) => break code,
                other => panic!("expected frames and a close, got {other:?}"),
            }
        };
        assert_eq!(code, Some(4429));
        assert!(pongs < 600, "all frames were answered");
        client.expect_end();
    }
    other.expect_quiet();
}

fn a_flood_of_refused_messages_is_bounded(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "1"]);
    let user = User::numbered(0);
    // Two pass; the others are refused, and a refused message is no accepted one.
    let frames: Vec<String> = (0..600).map(|_| user.draft(&user, "hello").frame()).collect();
    is_closed(&relay, &user, &frames);
}

fn a_flood_of_messages_of_one_id_is_bounded(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let user = User::numbered(0);
    let draft = user.draft(&user, "hello");
    is_closed(&relay, &user, &vec![draft.frame(); 600]);
    let other = user.draft(&user, "hello");
    let frames: Vec<String> = (0..600).map(|n| Draft { text: n.to_string(), ..other.clone() }.frame()).collect();
    is_closed(&relay, &user, &frames);
}

/// Sends all of it in one piece and waits for close 4429.
fn is_closed(relay: &Relay, user: &User, frames: &[String]) {
    let mut client = Client::login(relay, user);
    client.raw(&wire::texts(frames));
    let code = loop {
        match client.next() {
            Got::Text(_) => {}
            Got::Close(code) => break code,
            other => panic!("expected frames and a close, got {other:?}"),
        }
    };
    assert_eq!(code, Some(4429));
}

fn messages_do_not_count_as_other_frames(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0"]);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let frames: Vec<String> = (0..400).map(|_| user.draft(&user, "hello").frame()).collect();
    client.raw(&wire::texts(&frames));
    for _ in 0..800 {
        client.frame();
    }
    client.expect_quiet();
}
