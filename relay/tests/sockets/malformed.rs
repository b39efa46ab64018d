//! Frames that are not of the contract's form, and what becomes of a client that sends many.

use crate::kit::client::text_of;
use crate::kit::{Client, Draft, Engine, Got, Relay, User, on_every_engine, wire};

on_every_engine! {
    frames_of_no_right_form_are_refused,
    messages_of_no_right_form_are_refused_by_name,
    twenty_in_a_row_close_with_1008,
    a_well_formed_frame_between_starts_the_count_again,
}

fn frames_of_no_right_form_are_refused(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::login(&relay, &User::numbered(0));
    for frame in [
        "",
        " ",
        "hello",
        "null",
        "17",
        "[]",
        "[{\"type\":\"ping\"}]",
        "\"ping\"",
        "{}",
        "{",
        r#"{"type":"ping""#,
        r#"{"type":"ping"}}"#,
        r#"{"type":"ping"} {"type":"ping"}"#,
        r#"{"type":"ping",}"#,
        r#"{'type':'ping'}"#,
        r#"{type:"ping"}"#,
        r#"{"type":"ping"} // comment"#,
        r#"{"type":"Ping"}"#,
        r#"{"type":"pong"}"#,
        r#"{"type":"welcome"}"#,
        r#"{"type":"challenge"}"#,
        r#"{"type":null}"#,
        r#"{"type":["ping"]}"#,
        r#"{"Type":"ping"}"#,
        r#"{"type":"ping","more":1}"#,
        r#"{"type":"ping","seq":1}"#,
        r#"{"type":"ping","type":"ping"}"#,
        r#"{"type":"ping","\u0074ype":"ping"}"#,
        "{\"type\":\"pi\u{0}ng\"}",
        "{\"type\":\"ping\",\"a\":\"tab\there\"}",
        r#"{"type":"\ud83d"}"#,
        r#"{"type":"\ude00\ud83d"}"#,
        r#"{"type":"\x70ing"}"#,
        "\u{feff}{\"type\":\"ping\"}",
        "\u{a0}{\"type\":\"ping\"}",
        r#"{"type":"ping","a":NaN}"#,
    ] {
        println!("{frame:?}");
        client.send(frame);
        client.expect_error("malformed");
        client.expect_quiet();
        // A new connection each few frames: 50 in a second are too many for one.
        if frame.len() % 2 == 0 {
            client = Client::login(&relay, &User::numbered(0));
        }
    }
    let deep = format!("{{\"type\":{}\"ping\"{}}}", "[".repeat(4000), "]".repeat(4000));
    let mut client = Client::login(&relay, &User::numbered(0));
    client.send(&deep);
    client.expect_error("malformed");
    client.expect_quiet();
}

fn messages_of_no_right_form_are_refused_by_name(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let draft = user.draft(&user, "hello");
    let frame = draft.frame();
    let replace = |from: &str, to: &str| {
        assert!(frame.contains(from), "{from}");
        frame.replacen(from, to, 1)
    };
    let timestamp = |text: &str| Draft { timestamp: text.to_owned(), ..draft.clone() }.frame();
    let key = &user.key;
    for wrong in [
        replace("{", "{\"color\":\"red\","),
        replace("{", "{\"seq\":1,"),
        replace("{", "{\"version\":1,"),
        replace("{", "{\"message\":\"hello\","),
        replace("{", "{\"\\u006dessage\":\"hello\","),
        replace("\"message\":\"hello\"", "\"message\":null"),
        replace("\"message\":\"hello\"", "\"message\":7"),
        replace("\"message\":\"hello\"", "\"message\":[\"hello\"]"),
        replace("\"message\":\"hello\",", ""),
        replace(&format!("\"recipientPublicKey\":\"{key}\","), ""),
        replace(&format!("\"recipientPublicKey\":\"{key}\""), "\"recipientPublicKey\":null"),
        replace(
            &format!("\"recipientPublicKey\":\"{key}\""),
            &format!("\"recipientPublicKey\":\"{}\"", key.to_uppercase()),
        ),
        replace(&format!("\"recipientPublicKey\":\"{key}\""), &format!("\"recipientPublicKey\":\"{}\"", &key[2..])),
        replace(&format!("\"senderPublicKey\":\"{key}\""), &format!("\"senderPublicKey\":\"{}\"", key.to_uppercase())),
        draft.frame_with(&draft.signature().to_uppercase()),
        draft.frame_with(&draft.signature()[1..]),
        draft.frame_with(""),
        timestamp("2026-02-30T00:00:00.000Z"),
        timestamp("2026-06-30T23:59:60.000Z"),
        timestamp("2026-06-30T23:59:59Z"),
        timestamp("2026-06-30T23:59:59.1234Z"),
        timestamp("2026-06-30T23:59:59.000+00:00"),
        timestamp("2026-06-30t23:59:59.000z"),
        timestamp("yesterday"),
    ] {
        println!("{wrong}");
        let mut client = Client::login(&relay, &user);
        client.send(&wrong);
        client.expect_refusal("malformed", &draft.id);
        client.expect_quiet();
    }

    // An id that is not well-formed is not named.
    let mut client = Client::login(&relay, &user);
    for id in [String::new(), "x".repeat(65), "a b".to_owned(), "é".to_owned(), "a/b".to_owned()] {
        client.send(&Draft { id, ..draft.clone() }.frame());
        let error = client.expect_error("malformed");
        assert!(error.get("clientMessageId").is_none(), "{error}");
        client.expect_quiet();
    }
    client.send(&replace("{", "{\"roomId\":\"room.1:a-b_c\",\"color\":1,"));
    let error = client.expect_refusal("malformed", &draft.id);
    assert_eq!(text_of(&error, "roomId"), "room.1:a-b_c");
}

fn twenty_in_a_row_close_with_1008(engine: Engine) {
    let relay = Relay::start(engine);
    for frame in ["hello", r#"{"type":"hello"}"#] {
        let mut client = Client::login(&relay, &User::numbered(0));
        client.raw(&wire::texts(&vec![frame.to_owned(); 20]));
        for _ in 0..19 {
            client.expect_error("malformed");
        }
        // The twentieth is answered as well, or the close alone is the answer.
        match client.next() {
            Got::Text(error) => {
                assert!(error.contains("malformed"), "{error}");
                client.expect_close(1008);
            }
            got => {
                assert_eq!(got, Got::Close(Some(1008)));
                client.expect_end();
            }
        }
    }
}

fn a_well_formed_frame_between_starts_the_count_again(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    // A refused message is well-formed too.
    let refused = user.draft(&User::numbered(1), "are you there?");
    for between in [r#"{"type":"ping"}"#.to_owned(), refused.frame()] {
        client.raw(&wire::texts(&vec!["hello".to_owned(); 19]));
        client.send(&between);
        for _ in 0..19 {
            client.expect_error("malformed");
        }
        client.frame();
    }
    client.expect_quiet();
}
