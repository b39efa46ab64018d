//! One session written out from the contract, on a bare socket, and the same through the `protocol`
//! crate: both are understood, and mean the same bytes.

use std::io::{Read, Write};
use std::net::TcpStream;

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{LobbyMode, Message, Target};
use protocol::server_frame::Challenge;
use protocol::{PublicKey, Signature, Timestamp, encode, opening, signed_bytes};

use crate::kit::client::text_of;
use crate::kit::user::{hex, timestamp_in};
use crate::kit::{Client, DEADLINE, Engine, Relay, on_every_engine};

on_every_engine! {
    a_session_written_out_from_the_contract,
    a_session_through_the_protocol_crate,
}

/// Reads one unmasked text frame of less than 64 KiB.
fn read_text(stream: &mut TcpStream) -> String {
    let mut header = [0; 2];
    stream.read_exact(&mut header).expect("a frame header");
    assert_eq!(header[0], 0x81, "FIN and opcode 1");
    let length = match header[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length of 16 bits");
            u16::from_be_bytes(length)
        }
        short => u16::from(short),
    };
    assert!(header[1] <= 126, "not masked, less than 64 KiB");
    let mut payload = vec![0; usize::from(length)];
    stream.read_exact(&mut payload).expect("a payload");
    String::from_utf8(payload).expect("a text frame is UTF-8")
}

/// Writes one text frame with a mask of zeros, which changes nothing.
fn write_text(stream: &mut TcpStream, text: &str) {
    let length = u16::try_from(text.len()).expect("a short text");
    assert!(length >= 126);
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    stream.write_all(&frame).expect("the relay takes a frame");
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after} in {rest}")).0
}

fn a_session_written_out_from_the_contract(engine: Engine) {
    let relay = Relay::start(engine);
    let mut stream = TcpStream::connect(relay.address()).expect("the relay takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    // The request and the accept key are the example of RFC 6455, 1.3.
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .expect("the relay takes a request");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        response.push(byte[0]);
    }
    let response = String::from_utf8(response).expect("a response is ASCII").to_lowercase();
    assert!(response.starts_with("http/1.1 101 "), "{response}");
    assert!(response.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
    assert!(!response.contains("sec-websocket-extensions"), "no permessage-deflate: {response}");

    let challenge = read_text(&mut stream);
    assert!(challenge.starts_with(r#"{"type":"challenge""#), "{challenge}");
    let nonce = between(&challenge, r#""nonce":""#, "\"");
    let signing_key = SigningKey::from_bytes(&[0xc0; 32]);
    let key = hex(signing_key.verifying_key().as_bytes());
    let signed = ["relay-auth/v1", "localhost", nonce, &key, "by-hand"].join("\n");
    let signature = hex(&signing_key.sign(signed.as_bytes()).to_bytes());
    write_text(
        &mut stream,
        &format!(
            r#"{{"type":"auth","version":1,"publicKey":"{key}","deviceId":"by-hand","signature":"{signature}","lobby":"none"}}"#
        ),
    );
    let welcome = read_text(&mut stream);
    assert!(welcome.starts_with(r#"{"type":"welcome""#) && welcome.contains(&key), "{welcome}");

    let timestamp = timestamp_in(0);
    let recipient = format!("user:{key}");
    let signed = ["relay-message/v1", &key, &recipient, "first", &timestamp, "two\nlines, 💬"].join("\n");
    let signature = hex(&signing_key.sign(signed.as_bytes()).to_bytes());
    let fields = format!(
        r#""type":"message","recipientPublicKey":"{key}","message":"two\nlines, 💬","senderPublicKey":"{key}","clientMessageId":"first","timestamp":"{timestamp}","signature":"{signature}"}}"#
    );
    write_text(&mut stream, &format!("{{{fields}"));
    let mut answers = [read_text(&mut stream), read_text(&mut stream)];
    answers.sort();
    assert_eq!(answers[0], format!(r#"{{"seq":1,{fields}"#));
    assert!(answers[1].starts_with(r#"{"type":"ack","#), "{}", answers[1]);
    assert_eq!(between(&answers[1], r#""clientMessageId":""#, "\""), "first");
}

fn a_session_through_the_protocol_crate(engine: Engine) {
    let relay = Relay::start(engine);
    let signing_key = SigningKey::from_bytes(&[0xc1; 32]);
    let key = PublicKey::from(&signing_key.verifying_key());
    let mut client = Client::open(&relay);
    let challenge = client.expect("challenge");
    let challenge = Challenge {
        version: challenge["version"].as_u64().expect("a number"),
        relay: text_of(&challenge, "relay"),
        nonce: protocol::keys::read_hex(text_of(&challenge, "nonce")).expect("64 digits"),
    };
    let auth = opening::answer(&challenge, "localhost", &signing_key, "crate", LobbyMode::None, None);
    let mut frame = Vec::new();
    encode::auth(&mut frame, &auth.expect("the relay's name is the default"));
    client.send(std::str::from_utf8(&frame).expect("a frame is UTF-8"));
    client.expect("welcome");

    let timestamp = Timestamp::parse(&timestamp_in(0)).expect("a timestamp");
    let mut message = Message {
        target: Target::User(key),
        text: "\"quoted\"\tand\u{1}\\more 💬\n",
        sender: key,
        id: "second",
        timestamp,
        signature: Signature::from_bytes([0; 64]),
    };
    let mut signed = Vec::new();
    signed_bytes::message(&mut signed, &message);
    message.signature = Signature::from_bytes(signing_key.sign(&signed).to_bytes());
    let mut frame = Vec::new();
    encode::message(&mut frame, &message);
    let frame = String::from_utf8(frame).expect("a frame is UTF-8");
    client.send(&frame);
    let mut pushed = false;
    for _ in 0..2 {
        let text = client.text();
        if text.starts_with("{\"seq\":1,") {
            assert_eq!(text.replacen("{\"seq\":1,", "{", 1), frame);
            pushed = true;
        } else {
            assert!(text.contains(r#""type":"ack""#), "{text}");
        }
    }
    assert!(pushed, "the message to oneself comes back");
}
