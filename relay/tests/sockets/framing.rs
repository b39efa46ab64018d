//! WebSocket framing: what is reassembled, what is echoed, and which fault has which close code.

use crate::kit::{Client, Engine, Got, Relay, User, on_every_engine, wire};
use wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT};

on_every_engine! {
    framing_faults_close_with_1002,
    binary_messages_close_with_1003,
    text_that_is_no_utf8_closes_with_1007,
    over_long_messages_close_with_1009,
    a_message_of_just_frame_bytes_is_taken,
    fragments_are_put_together,
    pings_are_echoed_and_pongs_ignored,
    closing_is_echoed,
    frames_of_a_message_byte_by_byte,
    a_ping_frame_is_answered_with_a_pong_frame,
}

/// Each case is sent by a user who is logged in, and by one who is not yet.
fn closes(relay: &Relay, cases: &[(&str, Vec<u8>)], code: u16) {
    for (what, bytes) in cases {
        for is_logged_in in [true, false] {
            println!("{what}, logged in: {is_logged_in}");
            let mut client = if is_logged_in {
                Client::login(relay, &User::numbered(0))
            } else {
                let mut client = Client::open(relay);
                client.expect("challenge");
                client
            };
            client.raw(bytes);
            client.expect_close(code);
        }
    }
}

fn framing_faults_close_with_1002(engine: Engine) {
    let relay = Relay::start(engine);
    let ping = br#"{"type":"ping"}"#;
    let chain = |frames: &[Vec<u8>]| frames.concat();
    closes(
        &relay,
        &[
            ("not masked", wire::unmasked(FIN | TEXT, ping)),
            ("RSV1, as with permessage-deflate", wire::frame(FIN | 0x40 | TEXT, ping)),
            ("RSV2", wire::frame(FIN | 0x20 | TEXT, ping)),
            ("RSV3", wire::frame(FIN | 0x10 | TEXT, ping)),
            ("a reserved data opcode", wire::frame(FIN | 0x3, ping)),
            ("a reserved control opcode", wire::frame(FIN | 0xb, ping)),
            ("a ping in pieces", wire::frame(PING, b"")),
            ("a ping over 125 bytes", wire::frame(FIN | PING, &[0; 126])),
            ("a continuation of nothing", wire::frame(FIN | CONTINUATION, ping)),
            ("a text inside a text", chain(&[wire::frame(TEXT, b"{"), wire::frame(FIN | TEXT, b"}")])),
            ("a close of one byte", wire::frame(FIN | CLOSE, &[3])),
            ("a close code that is never sent", wire::frame(FIN | CLOSE, &1005u16.to_be_bytes())),
            ("a length with its top bit set", wire::header(FIN | TEXT, 1 << 63)),
        ],
        1002,
    );
}

fn binary_messages_close_with_1003(engine: Engine) {
    let relay = Relay::start(engine);
    closes(
        &relay,
        &[
            ("a binary message", wire::frame(FIN | BINARY, br#"{"type":"ping"}"#)),
            ("an empty one", wire::frame(FIN | BINARY, b"")),
            ("one in pieces", [wire::frame(BINARY, b"a"), wire::frame(FIN | CONTINUATION, b"b")].concat()),
        ],
        1003,
    );
}

fn text_that_is_no_utf8_closes_with_1007(engine: Engine) {
    let relay = Relay::start(engine);
    closes(
        &relay,
        &[
            ("a stray byte", wire::frame(FIN | TEXT, b"{\"type\":\"ping\xff\"}")),
            ("an overlong slash", wire::frame(FIN | TEXT, b"\xc0\xaf")),
            ("a surrogate", wire::frame(FIN | TEXT, b"\xed\xa0\x80")),
            ("past U+10FFFF", wire::frame(FIN | TEXT, b"\xf4\x90\x80\x80")),
            ("an end inside a character", wire::frame(FIN | TEXT, b"\xf0\x9f\x92")),
            (
                "in the second piece",
                [wire::frame(TEXT, b"{\"a\":\"\xf0\x9f"), wire::frame(FIN | CONTINUATION, b"\"}")].concat(),
            ),
        ],
        1007,
    );
}

fn over_long_messages_close_with_1009(engine: Engine) {
    let relay = Relay::start(engine);
    let half = vec![b' '; 8192];
    closes(
        &relay,
        &[
            ("one byte too much", wire::frame(FIN | TEXT, &[b' '; 16385])),
            // The header alone is enough to know.
            ("a claim of 17 KB", wire::header(FIN | TEXT, 17_000)),
            ("a claim of an exabyte", wire::header(FIN | TEXT, 1 << 60)),
            (
                "one byte too much in pieces",
                [wire::frame(TEXT, &half), wire::frame(CONTINUATION, &half), wire::frame(FIN | CONTINUATION, b" ")]
                    .concat(),
            ),
        ],
        1009,
    );
}

fn a_message_of_just_frame_bytes_is_taken(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::login(&relay, &User::numbered(0));
    let text = format!("{:>16384}", r#"{"type":"ping"}"#);
    assert_eq!(text.len(), 16384);
    client.raw(&wire::text(&text));
    client.expect("pong");
    let (first, rest) = text.as_bytes().split_at(9000);
    client.raw(&[wire::frame(TEXT, first), wire::frame(FIN | CONTINUATION, rest)].concat());
    client.expect("pong");
}

fn fragments_are_put_together(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let draft = user.draft(&user, "héllo 💬");
    let frame = draft.frame();
    // Pieces of one byte, through the middle of characters, with an empty one and pings between them.
    let mut bytes = wire::frame(TEXT, b"");
    for byte in frame.as_bytes() {
        bytes.extend(wire::frame(CONTINUATION, &[*byte]));
    }
    bytes.extend(wire::frame(FIN | PING, b"between"));
    client.raw(&bytes);
    assert_eq!(client.next(), Got::Pong(b"between".to_vec()));
    client.raw(&wire::frame(FIN | CONTINUATION, b""));
    let mut answers = [client.text(), client.text()];
    answers.sort();
    assert_eq!(answers[0], frame.replacen('{', "{\"seq\":1,", 1));
    assert!(answers[1].contains(r#""type":"ack""#), "{}", answers[1]);
}

fn pings_are_echoed_and_pongs_ignored(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::login(&relay, &User::numbered(0));
    client.raw(&wire::frame(FIN | 0xa, b"nobody asked"));
    for payload in [&b""[..], b"\x00\xff", &[7; 125]] {
        client.ping(payload);
        assert_eq!(client.next(), Got::Pong(payload.to_vec()));
    }
    client.expect_quiet();
}

fn closing_is_echoed(engine: Engine) {
    let relay = Relay::start(engine);
    for code in [1000, 1001, 3000, 4999] {
        let mut client = Client::login(&relay, &User::numbered(0));
        let payload = [&u16::to_be_bytes(code)[..], "bye 👋".as_bytes()].concat();
        client.raw(&wire::frame(FIN | CLOSE, &payload));
        client.expect_close(code);
    }
    let mut client = Client::login(&relay, &User::numbered(0));
    client.raw(&wire::frame(FIN | CLOSE, b""));
    assert!(matches!(client.next(), Got::Close(None | Some(1000))), "a close is answered with a close");
    client.expect_end();
}

fn frames_of_a_message_byte_by_byte(engine: Engine) {
    let relay = Relay::start(engine);
    let user = User::numbered(0);
    let mut client = Client::login(&relay, &user);
    let frame = user.draft(&user, "slowly").frame();
    for byte in wire::text(&frame) {
        client.raw(&[byte]);
    }
    let mut answers = [client.text(), client.text()];
    answers.sort();
    assert_eq!(answers[0], frame.replacen('{', "{\"seq\":1,", 1));
}

fn a_ping_frame_is_answered_with_a_pong_frame(engine: Engine) {
    let relay = Relay::start(engine);
    let mut client = Client::login(&relay, &User::numbered(0));
    for ping in [r#"{"type":"ping"}"#, "\n\t { \"type\" : \"ping\" } \r\n", r#"{"\u0074ype":"pin\u0067"}"#] {
        client.send(ping);
        client.expect("pong");
    }
}
