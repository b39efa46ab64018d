//! WebSocket frames over memory (RFC 6455, version 13), after the opening handshake.
//!
//! # Flow
//! ```text
//! received bytes ── Decoder::next ──> Incoming   (again and again, until it says None)
//! payload ── push_text, push_ping, push_close … ──> bytes at the end of a Vec<u8>
//! ```
//! A frame that lies whole in the input is unmasked where it lies and lent from there. One that is
//! cut by the end of the input is gathered in memory of the decoder's own, and so are the fragments
//! of a fragmented message; that memory goes back as soon as the caller has seen the message.
//!
//! Headers are read and written by tungstenite's
//! [`FrameHeader`](tungstenite::protocol::frame::FrameHeader). Its `WebSocketContext` is not used: it
//! keeps a read buffer for each connection and allocates each message, which costs an idle connection
//! some 2.7 KB. It is the model that the tests compare this module with.
//!
//! # Invariants
//! - However the input is cut, the same messages come out, and the same fault at the same place.
//! - Between messages, once it has said `None`, a [`Decoder`] owns no heap memory. Inside one it owns
//!   about twice what the peer has sent of it at most: a header that announces much reserves nothing.
//! - A message over the limit is refused by its header, before any of its payload is kept.
//! - After a fault or a close nothing more comes out: the rest of the stream is discarded.
//! - [`Incoming::Text`] and close reasons are valid UTF-8.
//!
//! # Absent on purpose
//! Extensions, and with them permessage-deflate and the reserved bits. Answers: that a ping wants a
//! pong and a close a close is the session's business, as is how many control frames a peer may
//! send. Random masks: a client brings its own.

mod decoder;
mod encoder;

use tungstenite::protocol::frame::coding::CloseCode;

pub use decoder::Decoder;
pub use encoder::{
    Opcode, header_len, push_close, push_masked, push_masked_close, push_ping, push_pong, push_text, text_header,
};

/// The longest payload of a ping, pong or close (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// The longest reason of a close: a control payload less the two bytes of the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Which end of the connection decodes. It settles the masking: clients mask, servers never do
/// (RFC 6455, 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads frames of a client, each of them masked.
    Server,
    /// Reads frames of a server, none of them masked.
    Client,
}

/// A message or control frame, unmasked, whole and checked. The bytes are lent: by the input, or by
/// the decoder when they came in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping; the answer is a pong with the same payload, at most [`CONTROL_BYTES_MAX`] bytes.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The peer closes; nothing comes after it.
    Close {
        /// The peer's code, one that may be sent ([`is_close_code`]); none if it gave none.
        code: Option<u16>,
        /// The peer's reason, at most [`CLOSE_REASON_BYTES_MAX`] bytes.
        reason: &'a str,
    },
}

/// What the peer did wrong. The connection cannot go on: there is no next frame boundary to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The framing breaks RFC 6455 in the way named.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or a close reason is no UTF-8.
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A message is over the limit, in bytes or in fragments.
    #[error("message is too long")]
    TooLong,
}

impl Fault {
    /// Returns the code to close the connection with (RFC 6455, 7.4.1): 1002, 1007 or 1009.
    pub fn close_code(&self) -> u16 {
        u16::from(match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::InvalidUtf8 => CloseCode::Invalid,
            Self::TooLong => CloseCode::Size,
        })
    }
}

/// Says whether a close frame may carry `code`: 1000 to 1014 without 1004 to 1006, and 3000 to 4999
/// (RFC 6455, 7.4; 1012 to 1014 are in IANA's registry of close codes).
pub fn is_close_code(code: u16) -> bool {
    const BAD_GATEWAY: u16 = 1014;
    // Registered with IANA, and the one such code that tungstenite does not know.
    code == BAD_GATEWAY || CloseCode::from(code).is_allowed()
}

/// Masks or unmasks in place; the two are the same (RFC 6455, 5.3).
fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = [a, b, c, d, a, b, c, d];
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ u64::from_ne_bytes(wide)).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(wide) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_applies_at_every_length() {
        let mask = [1, 2, 4, 8];
        for len in 0..40 {
            let mut bytes = vec![0; len];
            apply_mask(&mut bytes, mask);
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, mask[at % 4]);
            }
        }
    }

    #[test]
    fn close_codes_that_may_be_sent() {
        let sent = (0..=u16::MAX).filter(|&code| is_close_code(code));
        assert!(sent.eq((1000..=1003).chain(1007..=1014).chain(3000..=4999)));
    }
}
