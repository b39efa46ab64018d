//! Whatever is wrong with an `auth`, and whatever comes instead of one, ends with an error and close
//! 4401.

use serde_json::{Value, json};

use crate::kit::user::hex;
use crate::kit::{Client, Engine, Got, Relay, User, on_every_engine, wire};

on_every_engine! {
    an_auth_with_something_wrong_is_refused,
    another_version_is_named_before_anything_else,
    an_auth_of_another_connection_is_refused,
    a_key_that_no_honest_user_has_is_refused,
    another_frame_before_auth_is_refused,
    a_binary_message_before_auth_closes_with_1003,
    silence_is_closed,
    a_refused_auth_leaves_the_next_connection_alone,
}

/// Opens a connection, lets `alter` change the right `auth`, sends it.
fn sends_altered(relay: &Relay, alter: impl FnOnce(&mut Value)) -> Client {
    let mut client = Client::open(relay);
    let auth = client.answer(&User::numbered(0), "phone", "all");
    let mut auth: Value = serde_json::from_str(&auth).expect("the kit makes JSON");
    alter(&mut auth);
    client.send(&auth.to_string());
    client
}

fn is_refused(mut client: Client, reason: &str) {
    client.expect_error(reason);
    client.expect_close(4401);
}

fn an_auth_with_something_wrong_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    // Signed by another key, for another relay, another device, another nonce.
    let nonce = "00".repeat(32);
    for signature in [
        User::numbered(1).sign("relay-auth/v1"),
        user.sign(&format!("relay-auth/v1\nlocalhost\n{nonce}\n{}\nphone", user.key)),
        "0".repeat(128),
        "f".repeat(128),
    ] {
        is_refused(sends_altered(&relay, |auth| auth["signature"] = json!(signature)), "auth_failed");
    }
    let mut client = Client::open(&relay);
    let challenge = client.expect("challenge");
    client.send(&user.auth("example.org", challenge["nonce"].as_str().expect("text"), "phone", "all"));
    is_refused(client, "auth_failed");

    // What the signature does not fit any more.
    is_refused(sends_altered(&relay, |auth| auth["deviceId"] = json!("tablet")), "auth_failed");
    is_refused(sends_altered(&relay, |auth| auth["publicKey"] = json!(User::numbered(1).key)), "auth_failed");

    // Wrong forms.
    for (field, value) in [
        ("publicKey", json!(user.key.to_uppercase())),
        ("publicKey", json!(user.key[1..])),
        ("publicKey", json!(null)),
        ("deviceId", json!("")),
        ("deviceId", json!("x".repeat(65))),
        ("deviceId", json!("my phone")),
        ("signature", json!("ab")),
        ("version", json!("1")),
        ("version", json!(null)),
        ("version", json!(1.5)),
        ("lobby", json!("some")),
        ("lobby", json!(null)),
        ("resume", json!(7)),
        ("resume", json!({"epoch": "0123456789abcdef", "seq": -1})),
        ("more", json!(true)),
    ] {
        is_refused(sends_altered(&relay, |auth| auth[field] = value), "auth_failed");
    }
    for field in ["version", "publicKey", "deviceId", "signature"] {
        let without = |auth: &mut Value| drop(auth.as_object_mut().expect("an object").remove(field));
        is_refused(sends_altered(&relay, without), "auth_failed");
    }

    // A right one with a field twice, also where an escape hides it.
    for twice in [r#""lobby":"all","#, r#""\u006cobby":"all","#] {
        let mut client = Client::open(&relay);
        let auth = client.answer(&user, "phone", "all");
        client.send(&auth.replacen('{', &format!("{{{twice}"), 1));
        is_refused(client, "auth_failed");
    }
}

fn another_version_is_named_before_anything_else(engine: Engine) {
    let relay = Relay::start(engine);
    is_refused(sends_altered(&relay, |auth| auth["version"] = json!(2)), "unsupported_version");
    is_refused(sends_altered(&relay, |auth| auth["version"] = json!(0)), "unsupported_version");
    let garbage = json!({"type": "auth", "version": 2, "publicKey": null, "signature": 7, "keys": [], "lobby": {}});
    is_refused(sends_altered(&relay, |auth| *auth = garbage), "unsupported_version");
    is_refused(sends_altered(&relay, |auth| *auth = json!({"type": "auth", "version": 2})), "unsupported_version");
}

fn an_auth_of_another_connection_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut first = Client::open(&relay);
    let auth = first.answer(&user, "phone", "none");
    first.send(&auth);
    first.expect("welcome");
    let mut second = Client::open(&relay);
    second.expect("challenge");
    second.send(&auth);
    is_refused(second, "auth_failed");
    first.expect_quiet();
}

fn a_key_that_no_honest_user_has_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    let number = |first: u8, filling: u8, last: u8| {
        let mut bytes = [filling; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    // With S = 0 and R = A, a verifier that is not strict accepts some of these for any text.
    for key in [
        number(0x01, 0x00, 0x00), // the identity
        number(0xee, 0xff, 0x7f), // the identity, not canonical
        number(0xec, 0xff, 0x7f), // order two
        number(0x00, 0x00, 0x00), // order four
        number(0x00, 0x00, 0x80), // order four, the other one
        number(0xed, 0xff, 0x7f), // order four, not canonical
        number(0x01, 0x00, 0x80), // the identity with a sign
        number(0x02, 0x00, 0x00), // no point
    ] {
        let signature = hex(&key) + &"0".repeat(64);
        let alter = |auth: &mut Value| {
            auth["publicKey"] = json!(hex(&key));
            auth["signature"] = json!(signature);
        };
        is_refused(sends_altered(&relay, alter), "auth_failed");
    }

    // An honest key plus a point of order two, signed so that verification without the relay's
    // extra check would pass every second time: R + kA with k even.
    for attempt in 0..8 {
        let mut client = Client::open(&relay);
        let challenge = client.expect("challenge");
        let nonce = challenge["nonce"].as_str().expect("text");
        let (key, signature) =
            mixed_order::sign(attempt, |key| format!("relay-auth/v1\nlocalhost\n{nonce}\n{key}\nphone"));
        client.send(
            &json!({"type": "auth", "version": 1, "publicKey": key, "deviceId": "phone", "signature": signature})
                .to_string(),
        );
        is_refused(client, "auth_failed");
    }
}

fn another_frame_before_auth_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    for frame in [
        r#"{"type":"ping"}"#.to_owned(),
        r#"{"type":"lobby_sync"}"#.to_owned(),
        user.draft(&user, "too early").frame(),
        r#"{"type":"hello"}"#.to_owned(),
        "hello".to_owned(),
        String::new(),
    ] {
        let mut client = Client::open(&relay);
        client.expect("challenge");
        client.send(&frame);
        is_refused(client, "auth_failed");
    }
}

fn a_binary_message_before_auth_closes_with_1003(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::open(&relay);
    let auth = client.answer(&User::numbered(0), "phone", "none");
    client.raw(&wire::frame(wire::FIN | wire::BINARY, auth.as_bytes()));
    client.expect_close(1003);
}

fn silence_is_closed(engine: Engine) {
    let relay = Relay::with(engine, &["--auth-timeout", "1s"]);
    let mut silent = Client::open(&relay);
    silent.expect("challenge");
    // Control frames do not count.
    let mut pinging = Client::open(&relay);
    pinging.expect("challenge");
    pinging.ping(b"");
    assert_eq!(pinging.next(), Got::Pong(Vec::new()));
    // Nor does half an auth.
    let mut halting = Client::open(&relay);
    let auth = wire::text(&halting.answer(&User::numbered(0), "phone", "none"));
    halting.raw(&auth[..auth.len() / 2]);
    let (mut in_time, _) = Client::open(&relay).with_session(&User::numbered(1), "phone", "none");
    for mut late in [silent, pinging, halting] {
        // Whether an error comes first, the contract leaves open.
        match late.next() {
            Got::Close(code) => assert_eq!(code, Some(4401)),
            Got::Text(error) => {
                assert!(error.contains("auth_failed"), "{error}");
                assert_eq!(late.next(), Got::Close(Some(4401)));
            }
            other => panic!("expected close 4401, got {other:?}"),
        }
        late.expect_end();
    }
    in_time.expect_quiet();
}

fn a_refused_auth_leaves_the_next_connection_alone(engine: Engine) {
    let relay = Relay::start(engine);
    for _ in 0..8 {
        is_refused(sends_altered(&relay, |auth| auth["deviceId"] = json!("tablet")), "auth_failed");
        Client::login(&relay, &User::numbered(0)).expect_quiet();
    }
}

/// Keys with a part of small order, which only their owner can make.
mod mixed_order {
    use ed25519_dalek::VerifyingKey;
    use ed25519_dalek::hazmat::ExpandedSecretKey;

    use crate::kit::user::hex;

    /// Gives a public key outside the prime-order subgroup and its owner's signature of the text.
    pub(super) fn sign(attempt: u8, text: impl Fn(&str) -> String) -> (String, String) {
        let secret = ExpandedSecretKey::from_bytes(&[0x40 | attempt; 64]);
        let honest = VerifyingKey::from(&secret);
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        let order_two = VerifyingKey::from_bytes(&order_two).expect("a point of the curve");
        let mixed = (honest.to_edwards() + order_two.to_edwards()).compress();
        let key = VerifyingKey::from_bytes(mixed.as_bytes()).expect("a point of the curve");
        let digits = hex(mixed.as_bytes());
        let text = text(&digits);
        let signature = ed25519_dalek::hazmat::raw_sign::<ed25519_dalek::Sha512>(&secret, text.as_bytes(), &key);
        (digits, hex(&signature.to_bytes()))
    }
}
