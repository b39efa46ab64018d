//! What the port answers to HTTP that is no upgrade, and to upgrades in odd pieces.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::kit::{Client, DEADLINE, Engine, Got, Relay, User, on_every_engine, wire};

on_every_engine! {
    other_paths_are_not_found,
    a_plain_get_is_told_to_upgrade,
    what_is_no_http_is_refused,
    a_request_byte_by_byte_is_upgraded,
    frames_right_behind_the_request_are_kept,
    a_request_that_never_ends_is_dropped,
}

const UPGRADE: &str = "Host: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.address()).expect("the relay takes connections");
    stream.set_nodelay(true).expect("a socket takes options");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes a timeout");
    stream
}

/// Sends a request and reads all of the answer: the relay closes behind it.
fn answer(relay: &Relay, request: &str) -> String {
    let mut stream = connect(relay);
    stream.write_all(request.as_bytes()).expect("the relay takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and the end");
    answer
}

/// Reads the head of a response, no byte more.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is ASCII")
}

fn other_paths_are_not_found(engine: Engine) {
    let relay = Relay::start(engine);
    for path in ["/", "/wss", "/ws/", "/WS", "/healthz", "/version", "/metrics"] {
        for rest in [UPGRADE, "Host: localhost\r\n\r\n"] {
            let answer = answer(&relay, &format!("GET {path} HTTP/1.1\r\n{rest}"));
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        }
    }
}

fn a_plain_get_is_told_to_upgrade(engine: Engine) {
    let relay = Relay::start(engine);
    let answer_to_get = answer(&relay, "GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer_to_get.starts_with("HTTP/1.1 426 "), "{answer_to_get}");
    assert!(answer_to_get.to_lowercase().contains("\r\nupgrade: websocket\r\n"), "{answer_to_get}");
    let old = UPGRADE.replace("Version: 13", "Version: 8");
    let answer_to_old = answer(&relay, &format!("GET /ws HTTP/1.1\r\n{old}"));
    assert!(answer_to_old.starts_with("HTTP/1.1 426 "), "{answer_to_old}");
    assert!(answer_to_old.to_lowercase().contains("\r\nsec-websocket-version: 13\r\n"), "{answer_to_old}");
}

fn what_is_no_http_is_refused(engine: Engine) {
    let relay = Relay::start(engine);
    for request in [
        "hello\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(),
        format!("POST /ws HTTP/1.1\r\n{UPGRADE}"),
        format!("GET /ws HTTP/1.1\r\nX: {}\r\n{UPGRADE}", "x".repeat(16 * 1024)),
        format!("GET /ws HTTP/1.1\r\n{}{UPGRADE}", "X: x\r\n".repeat(101)),
    ] {
        let answer = answer(&relay, &request);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?} to {:?}", &request[..8]);
    }
    Client::login(&relay, &User::numbered(0)).expect_quiet();
}

fn a_request_byte_by_byte_is_upgraded(engine: Engine) {
    let relay = Relay::start(engine);
    let mut stream = connect(&relay);
    for byte in format!("GET /ws?from=test HTTP/1.1\r\n{UPGRADE}").bytes() {
        stream.write_all(&[byte]).expect("the relay takes a byte");
    }
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (mut client, _) = Client::upgraded(stream, Vec::new()).with_session(&User::numbered(0), "phone", "none");
    client.expect_quiet();
}

fn frames_right_behind_the_request_are_kept(engine: Engine) {
    let relay = Relay::start(engine);
    let mut stream = connect(&relay);
    let ping = wire::frame(wire::FIN | wire::PING, b"behind");
    let mut bytes = format!("GET /ws HTTP/1.1\r\n{UPGRADE}").into_bytes();
    bytes.extend(&ping);
    bytes.extend(&ping[..3]);
    stream.write_all(&bytes).expect("the relay takes a request");
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(&ping[3..]).expect("the relay takes the rest");
    let mut client = Client::upgraded(stream, Vec::new());
    let auth = client.answer(&User::numbered(0), "phone", "none");
    for _ in 0..2 {
        assert_eq!(client.next(), Got::Pong(b"behind".to_vec()));
    }
    client.send(&auth);
    client.expect("welcome");
}

fn a_request_that_never_ends_is_dropped(engine: Engine) {
    let relay = Relay::start(engine);
    let mut silent = connect(&relay);
    let mut halting = connect(&relay);
    halting.write_all(b"GET /ws HTTP/1.1\r\nHost: ").expect("the relay takes bytes");
    for stream in [&mut silent, &mut halting] {
        let mut answer = Vec::new();
        // An answer may come first, an RST instead of an end as well.
        let end = stream.read_to_end(&mut answer);
        assert!(
            !end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "the relay waits for ever for a request"
        );
    }
}
