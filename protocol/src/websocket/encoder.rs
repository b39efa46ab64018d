//! Payloads to bytes: whole frames, appended to a buffer of the caller's.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{CLOSE_REASON_BYTES_MAX, CONTROL_BYTES_MAX, apply_mask, is_close_code};

/// The kinds of frame that are written. There is none for a continuation: nothing here fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
    /// A close.
    Close,
}

impl From<Opcode> for OpCode {
    fn from(opcode: Opcode) -> Self {
        match opcode {
            Opcode::Text => Self::Data(Data::Text),
            Opcode::Binary => Self::Data(Data::Binary),
            Opcode::Ping => Self::Control(Control::Ping),
            Opcode::Pong => Self::Control(Control::Pong),
            Opcode::Close => Self::Control(Control::Close),
        }
    }
}

/// Returns the bytes that the header of an unmasked frame takes: 2, 4 or 10.
pub fn header_len(payload_len: usize) -> usize {
    FrameHeader::default().len(payload_len as u64)
}

/// Appends the header of a server's text message of `payload_len` bytes, which are to follow.
pub fn text_header(payload_len: usize, out: &mut Vec<u8>) {
    push_header(out, Opcode::Text, payload_len, None);
}

/// Appends a server's text message.
pub fn push_text(out: &mut Vec<u8>, payload: &str) {
    push_frame(out, Opcode::Text, payload.as_bytes());
}

/// Appends a server's ping.
///
/// # Panics
/// If the payload is longer than [`CONTROL_BYTES_MAX`].
pub fn push_ping(out: &mut Vec<u8>, payload: &[u8]) {
    push_frame(out, Opcode::Ping, payload);
}

/// Appends a server's pong; answering a ping, `payload` is the ping's.
///
/// # Panics
/// If the payload is longer than [`CONTROL_BYTES_MAX`].
pub fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
    push_frame(out, Opcode::Pong, payload);
}

/// Appends a server's close. A close that gave no code is answered with 1000.
///
/// # Panics
/// If `code` may not be sent ([`is_close_code`]) or `reason` is longer than
/// [`CLOSE_REASON_BYTES_MAX`].
pub fn push_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut payload = [0; CONTROL_BYTES_MAX];
    push_frame(out, Opcode::Close, close_payload(&mut payload, code, reason));
}

/// Appends a client's frame of one piece, masked with `mask`, which has to come from a source of
/// randomness, anew for each frame (RFC 6455, 10.3).
///
/// # Panics
/// If the payload of a control frame is longer than [`CONTROL_BYTES_MAX`].
pub fn push_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    push_header(out, opcode, payload.len(), Some(mask));
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Appends a client's close, masked as [`push_masked`] does.
///
/// # Panics
/// As [`push_close`].
pub fn push_masked_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: [u8; 4]) {
    let mut payload = [0; CONTROL_BYTES_MAX];
    push_masked(out, Opcode::Close, close_payload(&mut payload, code, reason), mask);
}

fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_header(out, opcode, payload.len(), None);
    out.extend_from_slice(payload);
}

fn push_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize, mask: Option<[u8; 4]>) {
    let opcode = OpCode::from(opcode);
    assert!(
        matches!(opcode, OpCode::Data(_)) || payload_len <= CONTROL_BYTES_MAX,
        "a control frame of {payload_len} bytes"
    );
    let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
    header.format(payload_len as u64, out).expect("writing to a Vec cannot fail");
}

fn close_payload<'p>(payload: &'p mut [u8; CONTROL_BYTES_MAX], code: u16, reason: &str) -> &'p [u8] {
    assert!(is_close_code(code), "close code {code} may not be sent");
    assert!(reason.len() <= CLOSE_REASON_BYTES_MAX, "a close reason of {} bytes", reason.len());
    let len = 2 + reason.len();
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..len].copy_from_slice(reason.as_bytes());
    &payload[..len]
}
