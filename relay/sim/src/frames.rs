//! Frames as clients send them, right and wrong.

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::websocket::{Opcode, push_masked};
use protocol::{PublicKey, Signature, Timestamp, encode, limits, signed_bytes};

use crate::random::Random;

/// What a message says, before it is signed.
pub(crate) struct Draft<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) sender: PublicKey,
    pub(crate) id: &'a str,
    pub(crate) text: &'a str,
    pub(crate) unix_ms: i64,
}

/// Signs a message with `key` and encodes it.
pub(crate) fn message(draft: &Draft<'_>, key: &SigningKey) -> Vec<u8> {
    let mut message = Message {
        target: draft.target,
        text: draft.text,
        sender: draft.sender,
        id: draft.id,
        timestamp: Timestamp::from_unix_ms(draft.unix_ms),
        signature: Signature::from_bytes([0; 64]),
    };
    let mut signed = Vec::with_capacity(512);
    signed_bytes::message(&mut signed, &message);
    message.signature = Signature::from_bytes(key.sign(&signed).to_bytes());
    let mut frame = Vec::with_capacity(512);
    encode::message(&mut frame, &message);
    frame
}

/// Dresses a frame in another spelling of the same JSON: white space, other ends of it. What a relay
/// passes on must be exactly this.
pub(crate) fn respell(frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(5) {
        0 => [b" \n\t", &frame[..], b"\r\n "].concat(),
        1 => {
            let text = String::from_utf8_lossy(&frame).replacen("\",\"", "\" ,\t\"", 3);
            text.into_bytes()
        }
        2 => {
            String::from_utf8_lossy(&frame).replacen("\"clientMessageId\"", "\"\\u0063lientMessageId\"", 1).into_bytes()
        }
        _ => frame,
    }
}

/// A text of a message: mostly short, with odd characters, sometimes of the greatest length.
pub(crate) fn text(random: &mut Random) -> String {
    const PIECES: [&str; 10] = ["hello", "ä", "\u{1f600}", "\n", "\"", "\\", "{\"seq\":7,", "\u{7f}", "日本", " "];
    let pieces = if random.chance(3) { 400 } else { random.between(1, 12) };
    let mut text = String::new();
    for _ in 0..pieces {
        text.push_str(random.pick(&PIECES));
    }
    if text.chars().count() > limits::MESSAGE_CHARS { text.chars().take(limits::MESSAGE_CHARS).collect() } else { text }
}

/// A frame that is malformed and names no message.
pub(crate) fn malformed(random: &mut Random) -> &'static str {
    random.pick(&[
        "",
        "x",
        "[]",
        "{}",
        "null",
        "{\"type\":\"nonsense\"}",
        "{\"type\":\"ping\",\"type\":\"ping\"}",
        "{\"type\":\"ping\",\"extra\":1}",
        "{\"type\":\"ping\",\"\\u0074ype\":\"ping\"}",
        "{\"type\":\"message\"}",
        "{\"type\":\"received\",\"seq\":-1}",
        "{\"type\":\"ping\"}{\"type\":\"ping\"}",
        "\u{feff}{\"type\":\"ping\"}",
    ])
}

/// Appends one WebSocket message, in one frame or in fragments with a ping or two between them.
/// Returns how many pings.
pub(crate) fn push(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], random: &mut Random) -> u32 {
    if !matches!(opcode, Opcode::Text | Opcode::Binary) || !random.chance(8) {
        push_masked(out, opcode, payload, random.bytes());
        return 0;
    }
    let mut pings = 0;
    let fragments = random.between(2, 4) as usize;
    let mut rest = payload;
    for at in 0..fragments {
        let len = if at + 1 == fragments { rest.len() } else { random.index(rest.len() + 1) };
        let (part, behind) = rest.split_at(len);
        rest = behind;
        let start = out.len();
        push_masked(out, opcode, part, random.bytes());
        let first = if at == 0 { out[start] & 0x0f } else { 0 };
        let last = if at + 1 == fragments { 0x80 } else { 0 };
        out[start] = first | last;
        if last == 0 && random.chance(20) {
            push_masked(out, Opcode::Ping, b"between", random.bytes());
            pings += 1;
        }
    }
    pings
}

/// The text messages in what the relay writes at once: whole, unmasked frames.
pub(crate) fn texts(mut written: &[u8]) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        loop {
            let (&[opcode, len, ..], bytes) = (written, written) else { return None };
            let (head, len) = match (len, bytes) {
                (126, &[_, _, high, low, ..]) => (4, usize::from(u16::from_be_bytes([high, low]))),
                (127, &[_, _, a, b, c, d, e, f, g, h, ..]) => {
                    (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize)
                }
                (len, _) => (2, usize::from(len)),
            };
            let payload = bytes.get(head..head + len)?;
            written = &bytes[head + len..];
            if opcode == 0x81 {
                return std::str::from_utf8(payload).ok();
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::decode::FrameDecoder;
    use protocol::frame::ClientFrame;
    use protocol::websocket::{Decoder, Incoming, Role};

    #[test]
    fn messages_are_good_and_malformed_ones_are_not() {
        let mut random = Random::new(5);
        let key = SigningKey::from_bytes(&[1; 32]);
        let sender = PublicKey::from(&key.verifying_key());
        for _ in 0..200 {
            let text = text(&mut random);
            let draft =
                Draft { target: Target::User(sender), sender, id: "id", text: &text, unix_ms: 1_700_000_000_000 };
            let frame = respell(message(&draft, &key), &mut random);
            let mut decoder = FrameDecoder::new();
            let frame = String::from_utf8(frame).unwrap();
            let Ok(ClientFrame::Message(decoded)) = decoder.decode(&frame) else {
                panic!("{frame}");
            };
            let mut signed = Vec::new();
            signed_bytes::message(&mut signed, &decoded);
            assert_eq!(decoded.text, text);
            assert!(protocol::signature::verify_strict(&key.verifying_key(), &signed, &decoded.signature));
            assert!(FrameDecoder::new().decode(malformed(&mut random)).is_err());
        }
    }

    #[test]
    fn texts_are_found_in_what_is_written() {
        let mut written = Vec::new();
        let long = "x".repeat(300);
        protocol::websocket::text_header(3, &mut written);
        written.extend_from_slice(b"one");
        protocol::websocket::push_pong(&mut written, b"between");
        protocol::websocket::text_header(long.len(), &mut written);
        written.extend_from_slice(long.as_bytes());
        assert_eq!(texts(&written).collect::<Vec<_>>(), ["one", &long]);
    }

    #[test]
    fn fragments_come_together() {
        let mut random = Random::new(6);
        for _ in 0..200 {
            let mut bytes = Vec::new();
            let pings = push(&mut bytes, Opcode::Text, b"one message", &mut random);
            let mut decoder = Decoder::new(Role::Server, 100);
            let mut input = &mut bytes[..];
            let (mut texts, mut between) = (0, 0);
            while let Some(incoming) = decoder.next(&mut input).unwrap() {
                match incoming {
                    Incoming::Text(text) => texts += u32::from(text == "one message"),
                    Incoming::Ping(_) => between += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((texts, between), (1, pings));
        }
    }
}
