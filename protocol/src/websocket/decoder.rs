//! Bytes to messages: [`Decoder`].

use std::fmt;
use std::io::Cursor;
use std::mem;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{CONTROL_BYTES_MAX, Fault, Incoming, Role, apply_mask, is_close_code};

/// The longest header: two bytes, eight of length, four of mask (RFC 6455, 5.2).
const HEADER_BYTES_MAX: usize = 2 + 8 + 4;

/// Takes messages out of one direction of one connection.
///
/// It is a plain value of at most 96 bytes, `Send`, and moves to another thread whole, a partial
/// frame included; what the caller has not passed to [`next`](Self::next) yet moves on its own.
pub struct Decoder {
    role: Role,
    message_bytes_max: u32,
    progress: Progress,
    fragments: Option<Fragments>,
}

/// How far the current frame has come.
enum Progress {
    /// Some bytes of a header, or none.
    Header { bytes: [u8; HEADER_BYTES_MAX], len: u8 },
    /// A header, and less than its payload, still masked.
    Payload { header: FrameHeader, payload_len: u32, gathered: Vec<u8> },
    /// The last message lives here while the caller looks at it.
    Lent { message: Vec<u8>, closed: bool },
    /// A fault or a close was the last thing to come out.
    Ended,
}

impl Progress {
    const BETWEEN_FRAMES: Self = Self::Header { bytes: [0; HEADER_BYTES_MAX], len: 0 };
}

/// The fragments of an unfinished message, joined.
struct Fragments {
    opcode: Data,
    bytes: Vec<u8>,
    /// How many of the bytes are known to be valid UTF-8; the rest is the start of one character.
    valid_len: u32,
    count: u32,
}

/// A whole payload, unmasked.
enum Payload<'i> {
    InPlace(&'i mut [u8]),
    Gathered(Vec<u8>),
}

impl Payload<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Gathered(bytes) => bytes,
        }
    }

    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::InPlace(bytes) => bytes.to_vec(),
            Self::Gathered(bytes) => bytes,
        }
    }
}

impl Decoder {
    /// Creates a decoder at the start of a stream, right behind the opening handshake.
    ///
    /// `message_bytes_max` bounds the payload of a message, all its fragments together. It bounds
    /// their number too: with at least one byte each there cannot be more, and a peer that sends
    /// empty ones for ever has to meet an end.
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        Self {
            role,
            message_bytes_max: u32::try_from(message_bytes_max).unwrap_or(u32::MAX),
            progress: Progress::BETWEEN_FRAMES,
            fragments: None,
        }
    }

    /// Takes the next message or control frame out of `input` and moves `input` behind it.
    ///
    /// `None` means that all of `input` was consumed, and that what it holds of an unfinished frame
    /// is kept here: call again once more bytes have come. After a message call again at once, for
    /// more may follow, and so that memory which was lent goes back. Allocates only for frames that
    /// the end of the input cuts inside their payload, and for fragments.
    ///
    /// # Errors
    /// A [`Fault`] ends the stream. Like a close it makes every later call discard its input and
    /// return `None`.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i mut [u8]) -> Result<Option<Incoming<'a>>, Fault> {
        let (opcode, payload) = match self.next_message(input) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(fault) => {
                self.end();
                return Err(fault);
            }
        };
        let closed = opcode == OpCode::Control(Control::Close);
        match payload {
            Payload::InPlace(bytes) => {
                let incoming = interpret(opcode, bytes);
                if closed || incoming.is_err() {
                    self.end();
                }
                incoming.map(Some)
            }
            Payload::Gathered(message) => {
                if let Err(fault) = interpret(opcode, &message) {
                    self.end();
                    return Err(fault);
                }
                if closed {
                    self.fragments = None;
                }
                self.progress = Progress::Lent { message, closed };
                let Progress::Lent { message, .. } = &self.progress else {
                    unreachable!("the message was put there");
                };
                interpret(opcode, message).map(Some)
            }
        }
    }

    /// Says whether the stream stands between messages: no partial frame, no open fragmented
    /// message. True after the end as well.
    pub fn is_idle(&self) -> bool {
        let between_frames = match &self.progress {
            Progress::Header { len, .. } => *len == 0,
            Progress::Payload { .. } => false,
            Progress::Lent { .. } | Progress::Ended => true,
        };
        between_frames && self.fragments.is_none()
    }

    /// Returns the bytes of heap memory owned now, for accounts of memory per connection.
    pub fn heap_bytes(&self) -> usize {
        let frame = match &self.progress {
            Progress::Payload { gathered, .. } => gathered.capacity(),
            Progress::Lent { message, .. } => message.capacity(),
            Progress::Header { .. } | Progress::Ended => 0,
        };
        frame + self.fragments.as_ref().map_or(0, |open| open.bytes.capacity())
    }

    fn end(&mut self) {
        self.progress = Progress::Ended;
        self.fragments = None;
    }

    /// Runs frame after frame until one completes a message.
    fn next_message<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Option<(OpCode, Payload<'i>)>, Fault> {
        loop {
            let Some((header, payload)) = self.next_frame(input)? else {
                return Ok(None);
            };
            let OpCode::Data(opcode) = header.opcode else {
                return Ok(Some((header.opcode, payload)));
            };
            if opcode != Data::Continue && header.is_final {
                return Ok(Some((header.opcode, payload)));
            }
            if let Some(message) = self.add_fragment(opcode, header.is_final, payload)? {
                return Ok(Some(message));
            }
        }
    }

    /// Takes the next whole frame out of `input`, its header checked and its payload unmasked.
    fn next_frame<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Option<(FrameHeader, Payload<'i>)>, Fault> {
        // A header is where nearly every frame starts: its state is the one not to be moved about.
        if !matches!(self.progress, Progress::Header { .. }) {
            match mem::replace(&mut self.progress, Progress::BETWEEN_FRAMES) {
                Progress::Ended | Progress::Lent { closed: true, .. } => {
                    self.progress = Progress::Ended;
                    *input = &mut [];
                    return Ok(None);
                }
                Progress::Payload { header, payload_len, gathered } => {
                    return Ok(self.gather(header, payload_len, gathered, input));
                }
                Progress::Lent { closed: false, .. } | Progress::Header { .. } => {}
            }
        }
        let Some((header, payload_len)) = self.next_header(input)? else {
            return Ok(None);
        };
        if input.len() < payload_len as usize {
            return Ok(self.gather(header, payload_len, Vec::new(), input));
        }
        let payload = split_front(input, payload_len as usize);
        if let Some(mask) = header.mask {
            apply_mask(payload, mask);
        }
        Ok(Some((header, Payload::InPlace(payload))))
    }

    /// Takes a header out of what is kept and `input`, the progress being there. Leaves it between
    /// frames, or in a header with all of `input` consumed.
    fn next_header(&mut self, input: &mut &mut [u8]) -> Result<Option<(FrameHeader, u32)>, Fault> {
        let Progress::Header { bytes, len } = &mut self.progress else {
            unreachable!("a frame is under way");
        };
        let kept = usize::from(*len);
        let parsed = if kept == 0 {
            parse_header(input)?
        } else {
            let added = input.len().min(HEADER_BYTES_MAX - kept);
            bytes[kept..kept + added].copy_from_slice(&input[..added]);
            parse_header(&bytes[..kept + added])?
        };
        let Some((header, payload_len, header_len)) = parsed else {
            // No header needs more than HEADER_BYTES_MAX, so all of the input fits.
            let rest = mem::take(input);
            bytes[kept..kept + rest.len()].copy_from_slice(rest);
            *len += rest.len() as u8;
            return Ok(None);
        };
        split_front(input, header_len - kept);
        *len = 0;
        let payload_len = self.check_header(&header, payload_len, header_len)?;
        Ok(Some((header, payload_len)))
    }

    /// Refuses what a header alone gives away. Returns the length of the payload.
    fn check_header(&self, header: &FrameHeader, payload_len: u64, header_len: usize) -> Result<u32, Fault> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Fault::Protocol("reserved bit set without an extension"));
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(Fault::Protocol("client frame is not masked")),
            (Role::Client, Some(_)) => return Err(Fault::Protocol("server frame is masked")),
            _ => {}
        }
        if payload_len > i64::MAX as u64 {
            return Err(Fault::Protocol("top bit of the payload length set"));
        }
        if header_len != header.len(payload_len) {
            return Err(Fault::Protocol("payload length not in its shortest form"));
        }
        let taken = match (header.opcode, &self.fragments) {
            (OpCode::Control(_), _) => {
                if !header.is_final {
                    return Err(Fault::Protocol("control frame is fragmented"));
                }
                if payload_len > CONTROL_BYTES_MAX as u64 {
                    return Err(Fault::Protocol("control frame is longer than 125 bytes"));
                }
                return Ok(payload_len as u32);
            }
            (OpCode::Data(Data::Continue), None) => {
                return Err(Fault::Protocol("continuation without a message to continue"));
            }
            (OpCode::Data(Data::Continue), Some(open)) => {
                if open.count >= self.message_bytes_max {
                    return Err(Fault::TooLong);
                }
                open.bytes.len() as u64
            }
            (OpCode::Data(_), None) => 0,
            (OpCode::Data(_), Some(_)) => {
                return Err(Fault::Protocol("new message inside a fragmented one"));
            }
        };
        if payload_len > u64::from(self.message_bytes_max) - taken {
            return Err(Fault::TooLong);
        }
        Ok(payload_len as u32)
    }

    /// Moves payload from `input` behind what was gathered before; returns the frame once whole.
    fn gather<'i>(
        &mut self,
        header: FrameHeader,
        payload_len: u32,
        mut gathered: Vec<u8>,
        input: &mut &'i mut [u8],
    ) -> Option<(FrameHeader, Payload<'i>)> {
        let missing = payload_len as usize - gathered.len();
        let part = split_front(input, missing.min(input.len()));
        gathered.extend_from_slice(part);
        if gathered.len() < payload_len as usize {
            self.progress = Progress::Payload { header, payload_len, gathered };
            return None;
        }
        if let Some(mask) = header.mask {
            apply_mask(&mut gathered, mask);
        }
        Some((header, Payload::Gathered(gathered)))
    }

    /// Joins a fragment to its message; returns the message with the last one. Text is checked as it
    /// grows, so that a peer learns of invalid UTF-8 at the fragment that holds it.
    fn add_fragment<'i>(
        &mut self,
        opcode: Data,
        is_last: bool,
        payload: Payload<'i>,
    ) -> Result<Option<(OpCode, Payload<'i>)>, Fault> {
        let mut open = match self.fragments.take() {
            None => Fragments { opcode, bytes: payload.into_vec(), valid_len: 0, count: 1 },
            Some(mut open) => {
                open.bytes.extend_from_slice(payload.as_slice());
                open.count += 1;
                open
            }
        };
        if open.opcode == Data::Text {
            let unchecked = &open.bytes[open.valid_len as usize..];
            match simdutf8::compat::from_utf8(unchecked) {
                Ok(_) => open.valid_len = open.bytes.len() as u32,
                Err(error) if error.error_len().is_none() && !is_last => {
                    open.valid_len += error.valid_up_to() as u32;
                }
                Err(_) => return Err(Fault::InvalidUtf8),
            }
        }
        if is_last {
            return Ok(Some((OpCode::Data(open.opcode), Payload::Gathered(open.bytes))));
        }
        self.fragments = Some(open);
        Ok(None)
    }
}

/// Shows the state and sizes, never the bytes of a peer.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("role", &self.role)
            .field("message_bytes_max", &self.message_bytes_max)
            .field("is_idle", &self.is_idle())
            .field("ended", &matches!(self.progress, Progress::Ended))
            .field("heap_bytes", &self.heap_bytes())
            .finish()
    }
}

/// Reads a header at the front of `bytes`: header, length of the payload, length of the header.
fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, u64, usize)>, Fault> {
    let mut cursor = Cursor::new(bytes);
    // Memory does not fail, so that a reserved opcode is the one error left.
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Fault::Protocol("reserved opcode"))?;
    Ok(parsed.map(|(header, payload_len)| (header, payload_len, cursor.position() as usize)))
}

/// Gives a whole payload its meaning, and checks what depends on its bytes.
fn interpret(opcode: OpCode, payload: &[u8]) -> Result<Incoming<'_>, Fault> {
    match opcode {
        OpCode::Data(Data::Text) => utf8(payload).map(Incoming::Text),
        OpCode::Data(_) => Ok(Incoming::Binary(payload)),
        OpCode::Control(Control::Ping) => Ok(Incoming::Ping(payload)),
        OpCode::Control(Control::Close) => match payload {
            [] => Ok(Incoming::Close { code: None, reason: "" }),
            [_] => Err(Fault::Protocol("close payload of one byte")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !is_close_code(code) {
                    return Err(Fault::Protocol("close code that may not be sent"));
                }
                utf8(reason).map(|reason| Incoming::Close { code: Some(code), reason })
            }
        },
        OpCode::Control(_) => Ok(Incoming::Pong(payload)),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Fault::InvalidUtf8)
}

/// Cuts `len` bytes off the front of `input`.
fn split_front<'i>(input: &mut &'i mut [u8], len: usize) -> &'i mut [u8] {
    let (front, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    front
}

#[cfg(test)]
mod tests {
    use super::super::{Opcode, push_masked};
    use super::*;

    fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_masked(&mut out, opcode, payload, [0xA1, 0x02, 0x7F, 0xFF]);
        out
    }

    #[test]
    fn decoder_is_small_and_moves_between_threads() {
        fn assert_send<T: Send>() {}
        assert_send::<Decoder>();
        assert!(size_of::<Decoder>() <= 96, "{} bytes", size_of::<Decoder>());
    }

    #[test]
    fn whole_frame_is_lent_from_the_input() {
        let mut bytes = masked(Opcode::Text, b"hello");
        let range = bytes.as_ptr_range();
        let mut input = &mut bytes[..];
        let mut decoder = Decoder::new(Role::Server, 5);
        let Ok(Some(Incoming::Text(text))) = decoder.next(&mut input) else {
            panic!("no text");
        };
        assert_eq!(text, "hello");
        assert!(range.contains(&text.as_ptr()));
        assert_eq!(decoder.heap_bytes(), 0);
    }

    #[test]
    fn memory_follows_what_came_and_goes_back() {
        let mut bytes = masked(Opcode::Text, &[b'x'; 10_000]);
        let mut decoder = Decoder::new(Role::Server, 10_000);
        let (head, rest) = bytes.split_at_mut(108);
        assert_eq!(decoder.next(&mut &mut *head), Ok(None));
        assert!(!decoder.is_idle());
        assert!((100..=200).contains(&decoder.heap_bytes()), "{}", decoder.heap_bytes());
        let mut input = rest;
        assert!(matches!(decoder.next(&mut input), Ok(Some(Incoming::Text(_)))));
        assert!(decoder.is_idle());
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert_eq!(decoder.heap_bytes(), 0);
    }

    #[test]
    fn cut_header_costs_no_heap() {
        let mut bytes = masked(Opcode::Text, &[b'x'; 300]);
        let mut decoder = Decoder::new(Role::Server, 300);
        for byte in &mut bytes[..8] {
            assert_eq!(decoder.next(&mut std::slice::from_mut(byte)), Ok(None));
            assert_eq!(decoder.heap_bytes(), 0);
            assert!(!decoder.is_idle());
        }
    }

    #[test]
    fn nothing_comes_out_after_a_close_or_a_fault() {
        let fragment = |payload: &[u8]| {
            let mut bytes = masked(Opcode::Text, payload);
            bytes[0] = 0x01;
            bytes
        };
        for first in [
            masked(Opcode::Close, b""),
            [fragment(b"open"), masked(Opcode::Close, b"\x03\xE8bye")].concat(),
            [fragment(b"open"), fragment(b"again")].concat(),
            vec![0x81, 0x00],
            masked(Opcode::Text, b"\xFF"),
        ] {
            for split in 0..first.len() {
                let mut bytes = [first.clone(), masked(Opcode::Text, b"late")].concat();
                let mut decoder = Decoder::new(Role::Server, 100);
                let mut out = 0;
                let (head, tail) = bytes.split_at_mut(split);
                for mut input in [head, tail] {
                    while !matches!(decoder.next(&mut input), Ok(None)) {
                        out += 1;
                        assert!(decoder.is_idle());
                    }
                    assert!(input.is_empty());
                }
                assert_eq!(out, 1);
                assert!(decoder.is_idle());
                assert_eq!(decoder.heap_bytes(), 0);
            }
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let mut bytes = masked(Opcode::Text, b"secret");
        let len = bytes.len() - 1;
        let mut decoder = Decoder::new(Role::Server, 100);
        assert_eq!(decoder.next(&mut &mut bytes[..len]), Ok(None));
        let shown = format!("{decoder:?}");
        assert!(shown.contains("is_idle: false"), "{shown}");
        assert!(!shown.contains("gathered"), "{shown}");
    }
}
