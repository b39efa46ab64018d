//! The opening handshake: what each request gets, however it is cut, and both ends against
//! tungstenite's.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use protocol::upgrade::{HEADERS_MAX, Upgrade, UpgradeError, UpgradeLimits, read_response, read_upgrade, request};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::http::Uri;
use tungstenite::{ClientRequestBuilder, HandshakeError, Message};

// RFC 6455, 1.3.
const KEY: [u8; 16] = *b"the sample nonce";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A request that is accepted, header by header.
const HEADERS: [&str; 5] = [
    "Host: relay.example:7400",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

fn compose(line: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n")
}

/// The accepted request with one header replaced, left out (`None`) or, if no header is named so,
/// added.
fn with(name: &str, header: Option<&str>) -> String {
    let mut headers = HEADERS.to_vec();
    let at = headers.iter().position(|header| header.split(':').next() == Some(name));
    match (at, header) {
        (Some(at), Some(header)) => headers[at] = header,
        (Some(at), None) => drop(headers.remove(at)),
        (None, Some(header)) => headers.push(header),
        (None, None) => panic!("no header {name} to leave out"),
    }
    compose("GET /ws HTTP/1.1", &headers)
}

fn twice(header: &str) -> String {
    compose("GET /ws HTTP/1.1", &[&HEADERS[..], &[header]].concat())
}

fn read(request: &[u8]) -> (Upgrade<'_>, String) {
    let mut response = Vec::new();
    let upgrade = read_upgrade(request, &UpgradeLimits::default(), &mut response);
    (upgrade, String::from_utf8(response).expect("the response is text"))
}

/// Checks that the request is refused with this status, in a response that is right in itself.
/// Returns the head of the response.
fn refused(request: &str, expected: u16) -> String {
    let (upgrade, response) = read(request.as_bytes());
    let Upgrade::Refused { status, reason } = upgrade else {
        panic!("not refused: {upgrade:?} for {request}");
    };
    assert_eq!(status, expected, "{reason} for {request}");
    let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let mut lines = head.lines();
    assert!(lines.any(|line| line == "Connection: close" || line == "Connection: close, Upgrade"), "{head}");
    assert!(lines.any(|line| line == "Content-Type: text/plain; charset=utf-8"), "{head}");
    let body_len = format!("Content-Length: {}", reason.len() + 1);
    assert!(lines.any(|line| line == body_len), "{head}");
    if request.starts_with("HEAD") {
        assert_eq!(body, "");
    } else {
        assert_eq!(body, format!("{reason}\n"));
    }
    head.to_owned()
}

fn accepted(request: &str) {
    let (upgrade, response) = read(request.as_bytes());
    assert!(
        matches!(upgrade, Upgrade::Accepted { consumed, .. } if consumed == request.len()),
        "{upgrade:?} {request}"
    );
    assert_eq!(response, ACCEPTED);
}

#[test]
fn the_sample_of_the_rfc_is_accepted() {
    accepted(&compose("GET /ws HTTP/1.1", &HEADERS));
}

#[test]
fn what_may_vary_in_an_accepted_request() {
    accepted(&compose("GET /ws?token=a&b=c HTTP/1.1", &HEADERS));
    accepted(&compose("GET http://relay.example:7400/ws HTTP/1.1", &HEADERS));
    accepted(&with("Upgrade", Some("UPGRADE: h2c, WebSocket")));
    accepted(&with("Connection", Some("connection: keep-alive,\t upgrade ")));
    accepted(&with("Content-Length", Some("Content-Length: 0")));
    accepted(&with("", Some("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")));
    accepted(&with("", Some("Sec-WebSocket-Protocol: chat, superchat")));
    accepted(&with("", Some("X-Name: gr\u{f6}\u{df}er")));
    accepted(&compose("GET /ws HTTP/1.1", &HEADERS).replace("\r\n", "\n"));
}

#[test]
fn refusals() {
    let head = |line: &str, status| refused(&compose(line, &HEADERS), status);
    for path in ["/", "/ws/", "/WS", "/wss", "/metrics", "*", "http://relay.example"] {
        head(&format!("GET {path} HTTP/1.1"), 404);
    }
    head("POST /other HTTP/1.1", 404);
    for method in ["POST", "HEAD", "OPTIONS", "get"] {
        assert!(head(&format!("{method} /ws HTTP/1.1"), 405).contains("\r\nAllow: GET"));
    }
    for line in ["GET /ws HTTP/1.0", "GET /ws HTTP/2.0", "GET /ws HTTP/0.9", "GET /ws HTTP/1.2"] {
        head(line, 505);
    }
    for line in ["GET /ws", "GET  /ws HTTP/1.1", "G\u{e9}T /ws HTTP/1.1", "\x16\x03\x01\x02"] {
        head(line, 400);
    }
    for header in ["no colon", "Name : space before the colon", " folded", "Control: \x01", ": no name"] {
        refused(&with("", Some(header)), 400);
    }

    refused(&with("Host", None), 400);
    refused(&twice("Host: other.example"), 400);
    refused(&twice("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400);
    refused(&twice("sec-websocket-version: 13"), 400);
    refused(&with("", Some("Origin: https://a.example\r\nOrigin: https://b.example")), 400);
    refused(&with("", Some("Content-Length: 0\r\nContent-Length: 0")), 400);

    for body in ["Content-Length: 5", "Content-Length: -0", "Content-Length: 0, 0", "Transfer-Encoding: chunked"] {
        refused(&with("", Some(body)), 400);
    }

    for no_upgrade in [
        with("Upgrade", None),
        with("Upgrade", Some("Upgrade: h2c")),
        with("Upgrade", Some("Upgrade: websockets")),
        with("Connection", None),
        with("Connection", Some("Connection: keep-alive")),
        with("Sec-WebSocket-Version", None),
        with("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 8")),
        with("Sec-WebSocket-Version", Some("Sec-WebSocket-Version: 13, 8")),
        compose("GET /ws HTTP/1.1", &["Host: relay.example"]),
    ] {
        let head = refused(&no_upgrade, 426);
        assert!(head.contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
        assert!(head.contains("\r\nConnection: close, Upgrade\r\n"), "{head}");
    }

    refused(&with("Sec-WebSocket-Key", None), 400);
    for key in ["", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZR==", "the sample nonce"] {
        refused(&with("Sec-WebSocket-Key", Some(&format!("Sec-WebSocket-Key: {key}"))), 400);
    }
}

#[test]
fn a_refusal_byte_by_byte() {
    let (_, response) = read(b"GET /ws HTTP/1.1\r\nHost: relay.example\r\n\r\n");
    assert_eq!(
        response,
        "HTTP/1.1 426 Upgrade Required\r\n\
         Connection: close, Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 30\r\n\
         \r\n\
         This is a WebSocket endpoint.\n"
    );
}

#[test]
fn too_much_is_refused_with_431() {
    let limits = UpgradeLimits::default();
    let padded = |len: usize| {
        let bare = with("", Some("Padding: ")).len();
        with("", Some(&format!("Padding: {}", "x".repeat(len - bare))))
    };
    accepted(&padded(limits.bytes_max));
    refused(&padded(limits.bytes_max + 1), 431);
    refused(&format!("GET /{}", "x".repeat(limits.bytes_max)), 431);
    refused(&"\r\n".repeat(limits.bytes_max / 2), 431);

    let of_headers = |count: usize| {
        let more: Vec<String> = (HEADERS.len()..count).map(|at| format!("X-{at}: y")).collect();
        let headers: Vec<&str> = HEADERS.iter().copied().chain(more.iter().map(String::as_str)).collect();
        compose("GET /ws HTTP/1.1", &headers)
    };
    accepted(&of_headers(limits.headers_max));
    refused(&of_headers(limits.headers_max + 1), 431);

    // A limit over what there is room for is that room.
    let wide = UpgradeLimits { headers_max: usize::MAX, ..limits };
    for (count, is_accepted) in [(HEADERS_MAX, true), (HEADERS_MAX + 1, false)] {
        let request = of_headers(count);
        let upgrade = read_upgrade(request.as_bytes(), &wide, &mut Vec::new());
        assert_eq!(matches!(upgrade, Upgrade::Accepted { .. }), is_accepted, "{upgrade:?}");
    }
}

#[test]
fn a_request_cut_anywhere_is_incomplete() {
    for request in [compose("GET /ws?x HTTP/1.1", &HEADERS), compose("GET / HTTP/1.1", &HEADERS), with("Host", None)] {
        for cut in 0..request.len() {
            assert_eq!(read(&request.as_bytes()[..cut]), (Upgrade::Incomplete, String::new()), "cut at {cut}");
        }
        assert_ne!(read(request.as_bytes()).0, Upgrade::Incomplete);
    }
}

#[test]
fn what_follows_the_request_is_left_alone() {
    let request = with("", Some("Origin: https://chat.example"));
    for behind in [&b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..], b"GET / HTTP/1.0\r\n\r\n", &[0; 20_000]] {
        let buf = [request.as_bytes(), behind].concat();
        let (upgrade, response) = read(&buf);
        let expected =
            Upgrade::Accepted { consumed: request.len(), origin: Some("https://chat.example"), forwarded_for: None };
        assert_eq!((upgrade, response.as_str()), (expected, ACCEPTED));
    }
}

#[test]
fn origin_and_forwarded_for_are_handed_up() {
    let handed_up = |request: &str| match read(request.as_bytes()).0 {
        Upgrade::Accepted { origin, forwarded_for, .. } => {
            (origin.map(str::to_owned), forwarded_for.map(str::to_owned))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(handed_up(&with("", Some("X-Other: y"))), (None, None));
    let both = with("", Some("origin: null\r\nx-forwarded-for: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.7"));
    assert_eq!(handed_up(&both), (Some("null".to_owned()), Some("192.0.2.1, 192.0.2.7".to_owned())));
}

#[test]
fn bytes_that_are_no_text_are_not_handed_up() {
    let mut request = with("", Some("Origin: ?")).into_bytes();
    *request.iter_mut().find(|byte| **byte == b'?').expect("the mark is there") = 0xFF;
    assert!(matches!(read(&request).0, Upgrade::Accepted { origin: None, .. }));
}

#[test]
fn our_client_asks_and_our_relay_answers() {
    let mut asked = Vec::new();
    request("relay.example:7400", "/ws?a=b", KEY, &mut asked);
    assert_eq!(
        std::str::from_utf8(&asked),
        Ok("GET /ws?a=b HTTP/1.1\r\n\
            Host: relay.example:7400\r\n\
            Upgrade: websocket\r\n\
            Connection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    );
    let (_, mut response) = read(&asked);
    assert_eq!(response, ACCEPTED);
    for cut in 0..response.len() {
        assert_eq!(read_response(&response.as_bytes()[..cut], KEY), Ok(None));
    }
    let consumed = response.len();
    response.push_str("\u{1}{");
    assert_eq!(read_response(response.as_bytes(), KEY), Ok(Some(consumed)));
}

#[test]
#[should_panic(expected = "cannot stand in a request")]
fn a_request_cannot_be_broken_apart() {
    request("relay.example\r\nX-Smuggled: 1", "/ws", KEY, &mut Vec::new());
}

#[test]
fn a_client_refuses_what_is_no_upgrade() {
    let invalid = |from: &str, to: &str, reason| {
        assert!(ACCEPTED.contains(from));
        let response = ACCEPTED.replace(from, to);
        assert_eq!(read_response(response.as_bytes(), KEY), Err(UpgradeError::Invalid(reason)), "{response}");
    };
    invalid("HTTP/1.1", "HTTP/1.0", "not in HTTP/1.1");
    invalid("Upgrade: websocket", "Upgrade: h2c", "no `Upgrade: websocket`");
    invalid("Connection: Upgrade", "Connection: close", "no `Connection: Upgrade`");
    let no_accept = "Sec-WebSocket-Accept does not answer the key";
    invalid("s3pP", "s3pp", no_accept);
    invalid("Sec-WebSocket-Accept", "X-Accept", no_accept);
    invalid("Connection", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nConnection", no_accept);
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection";
    invalid("Connection", extension, "it selects an extension that was not offered");
    let subprotocol = "Sec-WebSocket-Protocol: chat\r\nConnection";
    invalid("Connection", subprotocol, "it selects a subprotocol that was not offered");

    assert_eq!(read_response(ACCEPTED.as_bytes(), [0; 16]), Err(UpgradeError::Invalid(no_accept)));
    for garbage in [&b"\x16\x03\x01"[..], b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n\r\n"] {
        assert_eq!(read_response(garbage, KEY), Err(UpgradeError::NotHttp));
    }
    let endless = [b"HTTP/1.1 101 ", &[b'x'; 20_000][..]].concat();
    assert_eq!(read_response(&endless, KEY), Err(UpgradeError::TooLarge));
    let crowded = ACCEPTED.replace("Connection", &format!("{}Connection", "X: y\r\n".repeat(HEADERS_MAX)));
    assert_eq!(read_response(crowded.as_bytes(), KEY), Err(UpgradeError::TooLarge));
}

#[test]
fn a_client_shows_why_it_was_refused() {
    let (_, response) = read(b"GET /ws HTTP/1.1\r\nHost: relay.example\r\n\r\n");
    let error = read_response(response.as_bytes(), KEY).expect_err("426 is no upgrade");
    assert_eq!(error, UpgradeError::Refused { status: 426, body: "This is a WebSocket endpoint.".to_owned() });
    assert_eq!(error.to_string(), "the server refused the upgrade with status 426: This is a WebSocket endpoint.");
    let response = "HTTP/1.1 503 Service Unavailable\r\n\r\n<b>\x1b[2J\u{7}overloaded";
    let error = read_response(response.as_bytes(), KEY).expect_err("503 is no upgrade");
    assert_eq!(error, UpgradeError::Refused { status: 503, body: "<b> [2J overloaded".to_owned() });
}

/// A stream whose far end is our relay: it answers what it reads at once.
#[derive(Debug, Default)]
struct Relay {
    received: Vec<u8>,
    answers: Cursor<Vec<u8>>,
    outcome: Option<u16>,
}

impl Write for Relay {
    /// Takes a byte at a time, the hardest way.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.received.extend_from_slice(&buf[..1]);
        let answers = self.answers.get_mut();
        match read_upgrade(&self.received, &UpgradeLimits::default(), answers) {
            Upgrade::Incomplete => {}
            Upgrade::Accepted { consumed, .. } => {
                assert_eq!(consumed, self.received.len());
                self.outcome = Some(101);
                protocol::websocket::push_text(answers, "at once");
            }
            Upgrade::Refused { status, .. } => self.outcome = Some(status),
        }
        Ok(1)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Relay {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.answers.read(buf)
    }
}

#[test]
fn a_client_of_tungstenite_is_upgraded() {
    let uri = Uri::from_static("ws://relay.example:7400/ws?x=1");
    let builder = ClientRequestBuilder::new(uri).with_header("Origin", "https://chat.example");
    let (mut socket, response) = tungstenite::client(builder, Relay::default()).expect("the handshake succeeds");
    assert_eq!(response.status(), 101);
    assert_eq!(socket.get_ref().outcome, Some(101));
    assert_eq!(socket.read().expect("a message follows"), Message::text("at once"));
}

#[test]
fn a_client_of_tungstenite_sees_why_it_was_refused() {
    let uri = Uri::from_static("ws://relay.example:7400/other");
    match tungstenite::client(ClientRequestBuilder::new(uri), Relay::default()) {
        Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => assert_eq!(response.status(), 404),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_relay_of_tungstenite_upgrades_our_client() {
    let mut asked = Vec::new();
    request("localhost", "/ws", KEY, &mut asked);
    let (size, parsed) = Request::try_parse(&asked).expect("it parses").expect("it is whole");
    assert_eq!(size, asked.len());
    let response = create_response(&parsed).expect("it is an upgrade");
    let mut answer = Vec::new();
    tungstenite::handshake::server::write_response(&mut answer, &response).expect("it can be written");
    assert_eq!(read_response(&answer, KEY), Ok(Some(answer.len())));
}

/// Requests near the accepted one: headers left out, repeated, changed; then single bytes changed.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        9 => Just("GET /ws HTTP/1.1"),
        1 => proptest::sample::select(&["GET /ws?q HTTP/1.1", "POST /ws HTTP/1.1", "GET / HTTP/1.1", "GET /ws HTTP/1.0"][..]),
    ];
    let extra = proptest::sample::select(
        &["Upgrade: h2c", "Connection: close", "Sec-WebSocket-Version: 8", "Content-Length: 0", "Origin: null", "a:"][..],
    );
    let headers = proptest::sample::subsequence(&HEADERS[..], 4..=5).prop_shuffle();
    let bytes = (line, headers, proptest::collection::vec(extra, 0..2))
        .prop_map(|(line, headers, extra)| compose(line, &[headers, extra].concat()).into_bytes());
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (bytes, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn what_is_accepted_the_model_accepts_with_the_same_key(bytes in any_request()) {
        let (upgrade, response) = read(&bytes);
        if let Upgrade::Accepted { consumed, .. } = upgrade {
            let (size, parsed) = Request::try_parse(&bytes).expect("it parses").expect("it is whole");
            prop_assert_eq!(size, consumed);
            // The model takes the first of several `Upgrade` and `Connection` headers, and no list as
            // `Upgrade`: a repeated header or a comma makes it refuse where we do not.
            let repeated = parsed.headers().keys_len() < parsed.headers().len();
            let listed = parsed.headers().get("Upgrade").is_some_and(|value| value.as_bytes().contains(&b','));
            match create_response(&parsed) {
                Ok(expected) => {
                    let accept = expected.headers()["Sec-WebSocket-Accept"].to_str().expect("it is text");
                    prop_assert!(response.contains(accept), "{response}");
                }
                Err(error) => prop_assert!(repeated || listed, "the model refused: {error}"),
            }
        }
    }

    #[test]
    fn any_cut_gives_the_same(bytes in any_request(), cuts in 1..20usize) {
        let whole = read(&bytes);
        for len in (0..bytes.len()).step_by(cuts) {
            match read(&bytes[..len]) {
                (Upgrade::Incomplete, response) => prop_assert_eq!(response, ""),
                early => {
                    prop_assert_eq!(&early, &whole);
                    break;
                }
            }
        }
    }

    #[test]
    fn noise_is_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let is_accepted = matches!(read(&bytes).0, Upgrade::Accepted { .. });
        prop_assert!(!is_accepted);
        let is_upgrade = matches!(read_response(&bytes, KEY), Ok(Some(_)));
        prop_assert!(!is_upgrade);
    }
}
