//! The opening of a session: challenge, auth, welcome.

use std::collections::BTreeSet;

use protocol::Timestamp;
use serde_json::json;

use crate::kit::client::text_of;
use crate::kit::{Client, Engine, Got, Relay, User, on_every_engine};

on_every_engine! {
    every_connection_is_challenged_with_a_nonce_of_its_own,
    welcome_tells_the_defaults,
    welcome_tells_the_options,
    optional_fields_may_be_left_out,
    pings_are_answered_before_auth,
    a_second_auth_is_malformed,
}

fn is_lowercase_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn every_connection_is_challenged_with_a_nonce_of_its_own(engine: Engine) {
    let relay = Relay::with(engine, &["--name", "relay-1.example"]);
    let mut nonces = BTreeSet::new();
    for _ in 0..32 {
        let challenge = Client::open(&relay).expect("challenge");
        assert_eq!(challenge["version"], 1);
        assert_eq!(challenge["relay"], "relay-1.example");
        let nonce = text_of(&challenge, "nonce");
        assert!(is_lowercase_hex(nonce, 64), "{challenge}");
        assert!(nonces.insert(nonce.to_owned()), "a nonce came twice");
    }
    // What is signed holds that name.
    Client::login(&relay, &User::numbered(0)).expect_quiet();
}

fn welcome_tells_the_defaults(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let (_client, welcome) = Client::open(&relay).with_session(&user, "A-z_0.9:", "none");
    assert_eq!(welcome["publicKey"], user.key);
    assert_eq!(welcome["deviceId"], "A-z_0.9:");
    assert!(is_lowercase_hex(text_of(&welcome, "epoch"), 16), "{welcome}");
    assert_eq!(welcome["seq"], 0);
    assert_eq!(welcome["recovered"], false);
    assert_eq!(welcome["heartbeatMs"], 20_000);
    assert_eq!(welcome["limits"], json!({"frameBytes": 16384, "messageChars": 1000, "messagesPerSecond": 10}));
    // Both clocks are this machine's; a minute is for a machine that stands still.
    let time = Timestamp::parse(text_of(&welcome, "time")).expect("time is a timestamp").unix_ms();
    let now = Timestamp::parse(&crate::kit::user::timestamp_in(0)).expect("a timestamp").unix_ms();
    assert!((now - 60_000..=now).contains(&time), "{welcome}");
}

fn welcome_tells_the_options(engine: Engine) {
    let relay = Relay::with(engine, &["--rate-limit", "0", "--heartbeat", "1500ms"]);
    let (_client, welcome) = Client::open(&relay).with_session(&User::numbered(0), "phone", "none");
    assert_eq!(welcome["heartbeatMs"], 1500);
    assert_eq!(welcome["limits"]["messagesPerSecond"], 0);
}

fn optional_fields_may_be_left_out(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut client = Client::open(&relay);
    let auth = client.answer(&user, "phone", "all").replace(r#""lobby":"all","#, "");
    assert!(!auth.contains("lobby"), "{auth}");
    client.send(&auth);
    client.expect("welcome");
    let lobby = client.expect("lobby");
    assert_eq!(lobby["users"], json!([{"publicKey": user.key}]), "without `lobby`, all of it comes");
}

fn pings_are_answered_before_auth(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::open(&relay);
    let auth = client.answer(&User::numbered(0), "phone", "none");
    client.ping(b"early");
    assert_eq!(client.next(), Got::Pong(b"early".to_vec()));
    client.send(&auth);
    client.expect("welcome");
}

fn a_second_auth_is_malformed(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut client = Client::open(&relay);
    let auth = client.answer(&user, "phone", "none");
    client.send(&auth);
    client.expect("welcome");
    for again in [auth.clone(), auth.replace(r#""version":1"#, r#""version":2"#), r#"{"type":"auth"}"#.to_owned()] {
        client.send(&again);
        client.expect_error("malformed");
    }
    client.expect_quiet();
}
