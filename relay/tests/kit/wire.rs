//! WebSocket frames byte by byte (RFC 6455, 5.2), right ones and wrong ones.

/// Opcodes.
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;

/// The bit of a message's last frame.
pub(crate) const FIN: u8 = 0x80;

/// Any key serves: it is no secret.
const MASK: [u8; 4] = [0x1f, 0xe2, 0x03, 0xd4];

/// A masked frame: `first` is the first byte, FIN and RSV bits with the opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The header of a masked frame that says `payload_bytes`.
pub(crate) fn header(first: u8, payload_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload_bytes {
        0..126 => bytes.push(0x80 | payload_bytes as u8),
        126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((payload_bytes as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(payload_bytes.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A frame that is not masked, as only servers send them. At most 125 bytes of payload.
pub(crate) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, u8::try_from(payload.len()).expect("a short payload")];
    bytes.extend(payload);
    bytes
}

/// A whole text message in one frame.
pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// Several text messages, one behind the other.
pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<u8> {
    texts.into_iter().flat_map(|one| text(one)).collect()
}
