//! The opening handshake of WebSocket over HTTP/1.1 (RFC 6455, 4), for both ends, over memory.
//!
//! # Flow
//! ```text
//! relay:  received bytes ── read_upgrade ──> Incomplete | Accepted | Refused, response appended
//! client: request ──> bytes … received bytes ── read_response ──> None | bytes consumed | error
//! ```
//! Both readers look at all the bytes received so far, from the first one on, and parse them anew at
//! each call: a handshake is a few hundred bytes and comes in one piece. What follows it in the
//! buffer is left alone; it belongs to [`websocket`](crate::websocket).
//!
//! # What the relay answers
//! The first row that fits, from the top.
//!
//! | request | response |
//! |---|---|
//! | more than `bytes_max` bytes or `headers_max` headers | 431 |
//! | HTTP/1.0, or a version that HTTP/1.x does not know | 505 |
//! | no HTTP; no `Host`, or two; a header twice that may come once | 400 |
//! | any path but [`PATH`]; a query behind it is allowed and ignored | 404 |
//! | any method but `GET` | 405 with `Allow` |
//! | a body | 400 |
//! | no upgrade to `websocket` | 426 with `Upgrade` and `Sec-WebSocket-Version` |
//! | another `Sec-WebSocket-Version` than 13, or none | 426 likewise |
//! | no `Sec-WebSocket-Key`, or one that is not 16 bytes in base64 | 400 |
//! | all else | 101 |
//!
//! # Invariants
//! - However the request is cut, the answer is the same.
//! - One request, one response: after any but 101 the relay closes, and the response says so.
//! - Nothing of a request is echoed, but for the hash of its key.
//! - Parsing allocates nothing; the accept key is the one allocation of an upgrade.
//!
//! # Absent on purpose
//! Extensions and subprotocols: whatever is offered, none is selected, which RFC 6455 allows, and a
//! client that cannot do without closes by itself. Judgement on `Origin`: it is handed up.
//! Tungstenite's own handshake: it answers all faults alike and copies each header to the heap. Its
//! `create_response` is the model that the tests compare this module with.

use httparse::{EMPTY_HEADER, Header, Status};
use tungstenite::handshake::derive_accept_key;

/// The one path that is served.
pub const PATH: &str = "/ws";

/// The most headers that [`UpgradeLimits::headers_max`] can allow: 128 × 32 bytes of stack.
pub const HEADERS_MAX: usize = 128;

/// The longest response head that a client reads.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// How much of the body of a refusal a client shows, in characters.
const BODY_CHARS_MAX: usize = 200;

/// What a request may cost before it is refused with 431.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeLimits {
    /// Bytes from the request line to the empty line, both included.
    pub bytes_max: usize,
    /// Header lines, at most [`HEADERS_MAX`].
    pub headers_max: usize,
}

impl Default for UpgradeLimits {
    /// 16 KiB and 100 headers.
    fn default() -> Self {
        Self { bytes_max: 16 * 1024, headers_max: 100 }
    }
}

/// What became of a request. Texts are lent from the buffer it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade<'a> {
    /// The request goes on: call again with more bytes behind these. Nothing was appended.
    Incomplete,
    /// A 101 was appended, and the connection speaks WebSocket from now on.
    Accepted {
        /// Bytes of the request; what lies behind them is WebSocket already.
        consumed: usize,
        /// `Origin`, as browsers send it; `None` too if it is no UTF-8.
        origin: Option<&'a str>,
        /// The last line of `X-Forwarded-For`, whose last entry is the nearest proxy's. Anybody can
        /// send one: believe it only from a proxy of your own.
        forwarded_for: Option<&'a str>,
    },
    /// An error response was appended; send it and close.
    Refused {
        /// Status of the response: 400, 404, 405, 426, 431 or 505.
        status: u16,
        /// One sentence for a person, also the body of the response.
        reason: &'static str,
    },
}

/// A refusal on its way out.
struct Refusal {
    status: u16,
    reason: &'static str,
}

const fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Reads an upgrade request at the front of `buf` and appends the answer to `response`.
///
/// `buf` holds all that was received so far. The caller bounds the time that a request may take; this
/// function bounds its size.
pub fn read_upgrade<'a>(buf: &'a [u8], limits: &UpgradeLimits, response: &mut Vec<u8>) -> Upgrade<'a> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let headers_max = limits.headers_max.min(HEADERS_MAX);
    let mut request = httparse::Request::new(&mut headers[..headers_max]);
    let parsed = request.parse(&buf[..buf.len().min(limits.bytes_max)]);
    let outcome = match parsed {
        Ok(Status::Complete(consumed)) => check_request(&request).map(|key| (consumed, key)),
        Ok(Status::Partial) if buf.len() < limits.bytes_max => return Upgrade::Incomplete,
        Ok(Status::Partial) => Err(refusal(431, "The request is too large.")),
        Err(httparse::Error::TooManyHeaders) => Err(refusal(431, "The request has too many headers.")),
        Err(httparse::Error::Version) => Err(refusal(505, "Use HTTP/1.1.")),
        Err(_) => Err(refusal(400, "This is not an HTTP/1.1 request.")),
    };
    match outcome {
        Ok((consumed, key)) => {
            response.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\n\
                  Upgrade: websocket\r\n\
                  Connection: Upgrade\r\n\
                  Sec-WebSocket-Accept: ",
            );
            response.extend_from_slice(derive_accept_key(key).as_bytes());
            response.extend_from_slice(b"\r\n\r\n");
            let text = |name| {
                let last = values(request.headers, name).last();
                last.and_then(|value| std::str::from_utf8(value).ok())
            };
            Upgrade::Accepted { consumed, origin: text("Origin"), forwarded_for: text("X-Forwarded-For") }
        }
        Err(Refusal { status, reason }) => {
            push_refusal(response, status, reason, request.method == Some("HEAD"));
            Upgrade::Refused { status, reason }
        }
    }
}

/// Checks a whole request against the table of the module. Returns its key.
fn check_request<'a>(request: &httparse::Request<'_, 'a>) -> Result<&'a [u8], Refusal> {
    let headers = &*request.headers;
    if request.version != Some(1) {
        return Err(refusal(505, "Use HTTP/1.1."));
    }
    if values(headers, "Host").count() != 1 {
        return Err(refusal(400, "The request needs one Host header."));
    }
    const ONCE: [&str; 4] = ["Content-Length", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version"];
    if ONCE.iter().any(|name| values(headers, name).count() > 1) {
        return Err(refusal(400, "A header is repeated that may come only once."));
    }
    if request.path.map(path_of) != Some(PATH) {
        return Err(refusal(404, "Nothing is served here but WebSocket at /ws."));
    }
    if request.method != Some("GET") {
        return Err(refusal(405, "Only GET is served here."));
    }
    let has_body = values(headers, "Transfer-Encoding").next().is_some()
        || values(headers, "Content-Length").any(|value| value != b"0");
    if has_body {
        return Err(refusal(400, "The request must not have a body."));
    }
    if !has_token(headers, "Upgrade", "websocket") || !has_token(headers, "Connection", "upgrade") {
        return Err(refusal(426, "This is a WebSocket endpoint."));
    }
    if values(headers, "Sec-WebSocket-Version").next() != Some(b"13") {
        return Err(refusal(426, "Use version 13 of WebSocket."));
    }
    values(headers, "Sec-WebSocket-Key")
        .next()
        .filter(|key| is_key(key))
        .ok_or(refusal(400, "Sec-WebSocket-Key is missing or not 16 bytes in base64."))
}

/// Cuts the query off a request target, and the host off an absolute one, which a server has to
/// accept (RFC 9112, 3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some(("http" | "https" | "ws" | "wss", rest)) => rest.find(['/', '?']).map_or("", |at| &rest[at..]),
        _ => target,
    };
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn push_refusal(response: &mut Vec<u8>, status: u16, reason: &str, is_head: bool) {
    let (phrase, headers) = match status {
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: GET\r\n"),
        426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        431 => ("Request Header Fields Too Large", ""),
        505 => ("HTTP Version Not Supported", ""),
        _ => ("Bad Request", ""),
    };
    // `Connection: Upgrade` belongs to an `Upgrade` header (RFC 9110, 7.8).
    let connection = if status == 426 { "close, Upgrade" } else { "close" };
    let body_len = reason.len() + 1;
    response.extend_from_slice(
        format!(
            "HTTP/1.1 {status} {phrase}\r\n\
             Connection: {connection}\r\n\
             {headers}\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {body_len}\r\n\r\n"
        )
        .as_bytes(),
    );
    if !is_head {
        response.extend_from_slice(reason.as_bytes());
        response.push(b'\n');
    }
}

/// Returns the values of all headers of this name, in their order.
fn values<'h, 'a: 'h>(headers: &'h [Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Says whether a header that is a list (RFC 9110, 5.6.1) has this member, in any case.
fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Alphabet of base64 (RFC 4648, 4).
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Says whether a value is 16 bytes in base64: 22 digits, the last of them with four zero bits, and
/// two signs of padding.
fn is_key(value: &[u8]) -> bool {
    let Some((digits, b"==")) = value.split_last_chunk::<2>() else {
        return false;
    };
    digits.len() == 22
        && digits.iter().all(|digit| BASE64.contains(digit))
        && matches!(digits.last(), Some(b'A' | b'Q' | b'g' | b'w'))
}

/// Writes a key as base64.
fn encode_key(key: [u8; 16]) -> [u8; 24] {
    // Six bits at a time, from the top; four zero bits fill the 22nd digit.
    let bits = u128::from_be_bytes(key);
    let mut out = *b"========================";
    for (at, digit) in out[..22].iter_mut().enumerate() {
        let index = if at < 21 { bits >> (122 - 6 * at) } else { bits << 4 };
        *digit = BASE64[(index & 63) as usize];
    }
    out
}

/// Appends a client's upgrade request.
///
/// `host` is the authority that was dialled, with its port unless it is the scheme's own; `path` may
/// have a query; `key` is 16 random bytes, new for each connection, and goes to [`read_response`] too.
///
/// # Panics
/// If `host` or `path` is empty or holds a space or anything else but visible ASCII: they would break
/// the request apart. A parsed URL does not.
pub fn request(host: &str, path: &str, key: [u8; 16], out: &mut Vec<u8>) {
    for part in [host, path] {
        assert!(
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic()),
            "host or path cannot stand in a request"
        );
    }
    for part in [
        b"GET ",
        path.as_bytes(),
        b" HTTP/1.1\r\nHost: ",
        host.as_bytes(),
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: ",
        &encode_key(key),
        b"\r\n\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// Why a server's response is no upgrade.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// The server answered with another status than 101.
    #[error("the server refused the upgrade with status {status}: {body}")]
    Refused {
        /// The status.
        status: u16,
        /// What of the body had come with the head: its first 200 characters, control characters
        /// replaced. For a person.
        body: String,
    },
    /// The response is no HTTP/1.1.
    #[error("the server does not answer in HTTP/1.1")]
    NotHttp,
    /// The head of the response has more than 16 KiB or 128 headers.
    #[error("the server's response is too large")]
    TooLarge,
    /// The response has status 101 but breaks RFC 6455, 4.1, in the way named.
    #[error("the server's upgrade is wrong: {0}")]
    Invalid(&'static str),
}

/// Reads the response to [`request`] at the front of `buf`, which holds all that was received so far.
///
/// Returns how many bytes the response takes, those behind it being WebSocket already, or `None` if
/// it goes on.
///
/// # Errors
/// [`UpgradeError`]; the connection is of no use then.
pub fn read_response(buf: &[u8], key: [u8; 16]) -> Result<Option<usize>, UpgradeError> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let consumed = match response.parse(&buf[..buf.len().min(RESPONSE_BYTES_MAX)]) {
        Ok(Status::Complete(consumed)) => consumed,
        Ok(Status::Partial) if buf.len() < RESPONSE_BYTES_MAX => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(UpgradeError::TooLarge);
        }
        Err(_) => return Err(UpgradeError::NotHttp),
    };
    if let Some(status) = response.code.filter(|&status| status != 101) {
        return Err(UpgradeError::Refused { status, body: printable(&buf[consumed..]) });
    }
    let headers = &*response.headers;
    let accept = derive_accept_key(&encode_key(key));
    let fault = if response.version != Some(1) {
        "not in HTTP/1.1"
    } else if !has_token(headers, "Upgrade", "websocket") {
        "no `Upgrade: websocket`"
    } else if !has_token(headers, "Connection", "upgrade") {
        "no `Connection: Upgrade`"
    } else if !values(headers, "Sec-WebSocket-Accept").eq([accept.as_bytes()]) {
        "Sec-WebSocket-Accept does not answer the key"
    } else if values(headers, "Sec-WebSocket-Extensions").next().is_some() {
        "it selects an extension that was not offered"
    } else if values(headers, "Sec-WebSocket-Protocol").next().is_some() {
        "it selects a subprotocol that was not offered"
    } else {
        return Ok(Some(consumed));
    };
    Err(UpgradeError::Invalid(fault))
}

/// Makes the start of a stranger's bytes fit for a line on a terminal.
fn printable(bytes: &[u8]) -> String {
    // A character takes four bytes at most.
    let start = &bytes[..bytes.len().min(4 * BODY_CHARS_MAX)];
    let text = String::from_utf8_lossy(start);
    let line = text.trim().chars().take(BODY_CHARS_MAX);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_keys() {
        // RFC 6455, 1.3.
        assert_eq!(&encode_key(*b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(&encode_key([0; 16]), b"AAAAAAAAAAAAAAAAAAAAAA==");
        assert_eq!(&encode_key([255; 16]), b"/////////////////////w==");
        assert!(is_key(&encode_key(*b"the sample nonce")));
    }

    #[test]
    fn keys_that_are_none() {
        for key in [
            "",
            "==",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25j-Q==",
            "dGhlIHNhbXBsZSBub25jZQA=",
            "dGhlIHNhbXBsZSBub25jZQQ==",
            "dGhlIHNhbXBsZSBub25jZQ===",
        ] {
            assert!(!is_key(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn paths_of_targets() {
        for (target, path) in [
            ("/ws", "/ws"),
            ("/ws?a=1?b", "/ws"),
            ("/ws?", "/ws"),
            ("/ws/", "/ws/"),
            ("http://host:7400/ws?x", "/ws"),
            ("ws://host/ws", "/ws"),
            ("http://host?/ws", ""),
            ("http://host", ""),
            ("ftp://host/ws", "ftp://host/ws"),
            ("/a?b=http://host/ws", "/a"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }

    #[test]
    fn printable_is_one_short_line() {
        assert_eq!(printable(b"  no\r\n\x1b[31mway\xff \n"), "no   [31mway\u{fffd}");
        assert_eq!(printable("é".repeat(999).as_bytes()).chars().count(), BODY_CHARS_MAX);
    }
}
