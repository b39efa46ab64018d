//! WebSocket over memory: what comes out of bytes however they are cut, each fault with its close
//! code, and the exact bytes of each frame that is written.

use proptest::prelude::*;
use protocol::websocket::{
    CLOSE_REASON_BYTES_MAX, CONTROL_BYTES_MAX, Decoder, Fault, Incoming, Opcode, Role, header_len, push_close,
    push_masked, push_masked_close, push_ping, push_pong, push_text, text_header,
};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const MESSAGE_BYTES_MAX: usize = 300;

const FIN: u8 = 0x80;
const CONTINUE: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// An [`Incoming`] that owns its bytes.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Incoming<'_>> for Seen {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Incoming::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Incoming::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Incoming::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

type Outcome = (Vec<Seen>, Option<Fault>);

/// Everything that comes out of `pieces`, received one after the other.
fn feed(decoder: &mut Decoder, pieces: &[&[u8]]) -> Outcome {
    let (mut seen, mut fault) = (Vec::new(), None);
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let mut input = &mut bytes[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => seen.push(incoming.into()),
                Ok(None) => break,
                Err(found) => assert_eq!(fault.replace(found), None, "a second fault"),
            }
        }
        assert!(input.is_empty());
        assert!(!decoder.is_idle() || decoder.heap_bytes() == 0, "idle with memory: {decoder:?}");
    }
    (seen, fault)
}

fn decode(pieces: &[&[u8]]) -> Outcome {
    feed(&mut Decoder::new(Role::Server, MESSAGE_BYTES_MAX), pieces)
}

/// A client's frame, by its first byte and payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = server_frame(first, payload);
    bytes[1] |= 0x80;
    bytes.truncate(bytes.len() - payload.len());
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A server's frame, by its first byte and payload.
fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(len as u8),
        126..65536 => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

#[test]
fn fragments_with_control_frames_between_them() {
    let stream = [
        frame(TEXT, b"one "),
        frame(FIN | PING, b"still there?"),
        frame(CONTINUE, b""),
        frame(FIN | PONG, b""),
        frame(CONTINUE, b"mess"),
        frame(FIN | CONTINUE, b"age"),
        frame(BINARY, b"\xFF"),
        frame(FIN | CONTINUE, b"\xFE"),
        frame(FIN | TEXT, b""),
        frame(TEXT, b"cut short by a "),
        frame(FIN | CLOSE, b"\x03\xE8bye"),
    ]
    .concat();
    let expected = vec![
        Seen::Ping(b"still there?".to_vec()),
        Seen::Pong(Vec::new()),
        text("one message"),
        Seen::Binary(vec![0xFF, 0xFE]),
        text(""),
        Seen::Close(Some(1000), "bye".to_owned()),
    ];
    for cut in 0..=stream.len() {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(decode(&[head, tail]), (expected.clone(), None), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(decode(&bytes), (expected, None));
}

#[test]
fn framing_faults_close_with_1002() {
    let fault = |bytes: Vec<u8>, reason: &'static str| {
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let outcome = decode(&[head, tail]);
            assert_eq!(outcome, (Vec::new(), Some(Fault::Protocol(reason))), "{bytes:02x?} at {cut}");
        }
        assert_eq!(Fault::Protocol(reason).close_code(), 1002);
    };
    for bit in [0x40, 0x20, 0x10] {
        fault(frame(FIN | bit | TEXT, b"x"), "reserved bit set without an extension");
    }
    for opcode in (3..=7).chain(11..=15) {
        fault(frame(FIN | opcode, b""), "reserved opcode");
    }
    fault(server_frame(FIN | TEXT, b"x"), "client frame is not masked");
    for control in [CLOSE, PING, PONG] {
        fault(frame(control, b""), "control frame is fragmented");
        fault(frame(FIN | control, &[0; CONTROL_BYTES_MAX + 1]), "control frame is longer than 125 bytes");
    }
    for first in [CONTINUE, FIN | CONTINUE] {
        fault(frame(first, b"x"), "continuation without a message to continue");
    }
    for first in [TEXT, FIN | TEXT, BINARY, FIN | BINARY] {
        fault([frame(TEXT, b"x"), frame(first, b"y")].concat(), "new message inside a fragmented one");
    }
    let short = "payload length not in its shortest form";
    for length in [&[0xFE, 0, 125][..], &[0xFE, 0, 0], &[0xFF, 0, 0, 0, 0, 0, 0, 0, 1]] {
        fault([&[FIN | TEXT], length, &MASK].concat(), short);
    }
    fault([&[FIN | TEXT, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF][..], &MASK].concat(), short);
    fault([&[FIN | TEXT, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat(), "top bit of the payload length set");
    fault(frame(FIN | CLOSE, b"\x03"), "close payload of one byte");

    let mut client = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
    let outcome = feed(&mut client, &[&frame(FIN | TEXT, b"x")]);
    assert_eq!(outcome, (Vec::new(), Some(Fault::Protocol("server frame is masked"))));
}

#[test]
fn close_codes() {
    // RFC 6455, 7.4, and IANA's registry; the edges of each range.
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4401, 4999] {
        let payload = [&u16::to_be_bytes(code)[..], "größer".as_bytes()].concat();
        let closed = Seen::Close(Some(code), "größer".to_owned());
        assert_eq!(decode(&[&frame(FIN | CLOSE, &payload)]), (vec![closed], None));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        let fault = Fault::Protocol("close code that may not be sent");
        assert_eq!(decode(&[&frame(FIN | CLOSE, &u16::to_be_bytes(code))]), (vec![], Some(fault)), "{code}");
    }
    assert_eq!(decode(&[&frame(FIN | CLOSE, b"")]), (vec![Seen::Close(None, String::new())], None));
    let longest = [&[0x03, 0xE8][..], &[b'x'; CLOSE_REASON_BYTES_MAX]].concat();
    assert_eq!(decode(&[&frame(FIN | CLOSE, &longest)]).1, None);
    let no_text = frame(FIN | CLOSE, b"\x03\xE8\xFF");
    assert_eq!(decode(&[&no_text]), (vec![], Some(Fault::InvalidUtf8)));
}

#[test]
fn text_that_is_no_utf8_closes_with_1007() {
    assert_eq!(Fault::InvalidUtf8.close_code(), 1007);
    for bad in [&b"\xFF"[..], b"ab\xC3", b"\xC0\x80", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xF0\x9F\x98"] {
        assert_eq!(decode(&[&frame(FIN | TEXT, bad)]), (vec![], Some(Fault::InvalidUtf8)), "{bad:02x?}");
        for cut in 0..=bad.len() {
            let parts = [frame(TEXT, &bad[..cut]), frame(FIN | CONTINUE, &bad[cut..])].concat();
            assert_eq!(decode(&[&parts]), (vec![], Some(Fault::InvalidUtf8)), "{bad:02x?} at {cut}");
        }
    }
}

#[test]
fn characters_may_be_cut_by_fragments() {
    let whole = "aé€😀z";
    for first in 0..=whole.len() {
        for second in first..=whole.len() {
            let parts = [
                frame(TEXT, &whole.as_bytes()[..first]),
                frame(CONTINUE, &whole.as_bytes()[first..second]),
                frame(FIN | CONTINUE, &whole.as_bytes()[second..]),
            ]
            .concat();
            assert_eq!(decode(&[&parts]), (vec![text(whole)], None));
        }
    }
}

#[test]
fn invalid_utf8_is_found_at_its_fragment() {
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    assert_eq!(feed(&mut decoder, &[&frame(TEXT, b"ok \xF0\x9F")]), (vec![], None));
    assert_eq!(feed(&mut decoder, &[&frame(CONTINUE, b"\x41")]), (vec![], Some(Fault::InvalidUtf8)));
}

#[test]
fn the_limit_is_met_by_the_header() {
    assert_eq!(Fault::TooLong.close_code(), 1009);
    let fits = frame(FIN | TEXT, &[b'x'; MESSAGE_BYTES_MAX]);
    assert_eq!(decode(&[&fits]), (vec![text(&"x".repeat(MESSAGE_BYTES_MAX))], None));
    let header = |payload: &[u8]| frame(FIN | BINARY, payload)[..8].to_vec();
    assert_eq!(decode(&[&header(&[0; MESSAGE_BYTES_MAX])]), (vec![], None));
    assert_eq!(decode(&[&header(&[0; MESSAGE_BYTES_MAX + 1])]), (vec![], Some(Fault::TooLong)));
    // The largest length there is.
    let huge = [&[FIN | BINARY, 0xFF, 0x7F][..], &[0xFF; 7], &MASK].concat();
    assert_eq!(decode(&[&huge]), (vec![], Some(Fault::TooLong)));
}

#[test]
fn fragments_count_together() {
    let start = frame(BINARY, &[0; MESSAGE_BYTES_MAX - 1]);
    let fits = [&start[..], &frame(FIN | CONTINUE, b"x")].concat();
    assert!(matches!(&decode(&[&fits]).0[..], [Seen::Binary(bytes)] if bytes.len() == MESSAGE_BYTES_MAX));
    // The header of a fragment of two bytes is enough.
    let over = [&start[..], &frame(CONTINUE, b"xy")[..6]].concat();
    assert_eq!(decode(&[&over]), (vec![], Some(Fault::TooLong)));
}

#[test]
fn empty_fragments_come_to_an_end() {
    let stream = |fragments: usize| {
        let middle = frame(CONTINUE, b"").repeat(fragments - 2);
        [frame(TEXT, b""), middle, frame(FIN | CONTINUE, b"")].concat()
    };
    assert_eq!(decode(&[&stream(MESSAGE_BYTES_MAX)]), (vec![text("")], None));
    assert_eq!(decode(&[&stream(MESSAGE_BYTES_MAX + 1)]), (vec![], Some(Fault::TooLong)));
}

#[test]
fn a_decoder_moves_with_half_a_frame() {
    let stream = [frame(TEXT, b"half "), frame(FIN | CONTINUE, b"and half")].concat();
    for cut in 1..stream.len() {
        let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
        assert_eq!(feed(&mut decoder, &[&stream[..cut]]), (vec![], None));
        assert!(!decoder.is_idle());
        let tail = stream[cut..].to_vec();
        let elsewhere = std::thread::spawn(move || {
            let outcome = feed(&mut decoder, &[&tail]);
            (outcome, decoder.is_idle())
        });
        assert_eq!(elsewhere.join().unwrap(), ((vec![text("half and half")], None), true));
    }
}

#[test]
fn unread_input_stays_with_the_caller() {
    let (first, second) = (frame(FIN | TEXT, b"auth"), frame(FIN | TEXT, b"right behind"));
    let mut bytes = [first, second.clone()].concat();
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES_MAX);
    let mut input = &mut bytes[..];
    assert_eq!(decoder.next(&mut input), Ok(Some(Incoming::Text("auth"))));
    assert_eq!(*input, second[..]);
}

/// The bytes of one written frame.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert!(out.starts_with(b"before"));
    out.split_off(6)
}

#[test]
#[rustfmt::skip]
fn written_frames_byte_by_byte() {
    assert_eq!(written(|out| push_text(out, "Hello")), [
        0x81,                          // FIN, text (RFC 6455, 5.7)
        0x05,                          // not masked, 5 bytes
        b'H', b'e', b'l', b'l', b'o',
    ]);
    assert_eq!(written(|out| push_masked(out, Opcode::Text, b"Hello", MASK)), [
        0x81,                          // FIN, text (RFC 6455, 5.7)
        0x85,                          // masked, 5 bytes
        0x37, 0xFA, 0x21, 0x3D,        // mask
        0x7F, 0x9F, 0x4D, 0x51, 0x58,  // "Hello" xor mask
    ]);
    assert_eq!(written(|out| push_ping(out, b"ab")), [
        0x89,                          // FIN, ping
        0x02,                          // not masked, 2 bytes
        b'a', b'b',
    ]);
    assert_eq!(written(|out| push_pong(out, b"")), [
        0x8A,                          // FIN, pong
        0x00,                          // not masked, empty
    ]);
    assert_eq!(written(|out| push_close(out, 4401, "no")), [
        0x88,                          // FIN, close
        0x04,                          // not masked, 4 bytes
        0x11, 0x31,                    // 4401
        b'n', b'o',
    ]);
    assert_eq!(written(|out| push_masked_close(out, 1000, "", MASK)), [
        0x88,                          // FIN, close
        0x82,                          // masked, 2 bytes
        0x37, 0xFA, 0x21, 0x3D,        // mask
        0x34, 0x12,                    // 1000 = 0x03E8 xor mask
    ]);
    assert_eq!(written(|out| push_masked(out, Opcode::Binary, &[0; 3], MASK)), [
        0x82,                          // FIN, binary
        0x83,                          // masked, 3 bytes
        0x37, 0xFA, 0x21, 0x3D,        // mask
        0x37, 0xFA, 0x21,              // zeros xor mask
    ]);
    assert_eq!(written(|out| text_header(0, out)), [0x81, 0x00]);
    assert_eq!(written(|out| text_header(125, out)), [0x81, 125]);
    assert_eq!(written(|out| text_header(126, out)), [
        0x81,                          // FIN, text
        126,                           // not masked, length in 2 bytes
        0x00, 0x7E,
    ]);
    assert_eq!(written(|out| text_header(65535, out)), [0x81, 126, 0xFF, 0xFF]);
    assert_eq!(written(|out| text_header(65536, out)), [
        0x81,                          // FIN, text
        127,                           // not masked, length in 8 bytes
        0, 0, 0, 0, 0, 1, 0, 0,
    ]);
}

#[test]
fn header_len_is_what_is_written() {
    for payload_len in [0, 1, 125, 126, 65535, 65536, 1 << 20] {
        assert_eq!(written(|out| text_header(payload_len, out)).len(), header_len(payload_len));
    }
}

#[test]
fn writing_into_room_enough_does_not_allocate() {
    let mut out = Vec::with_capacity(1024);
    let at = out.as_ptr();
    push_text(&mut out, "text");
    push_ping(&mut out, b"ping");
    push_pong(&mut out, b"pong");
    push_masked(&mut out, Opcode::Binary, &[7; 500], MASK);
    push_close(&mut out, 1001, &"x".repeat(CLOSE_REASON_BYTES_MAX));
    assert_eq!((out.as_ptr(), out.capacity()), (at, 1024));
}

/// Frames of every kind, most of them right, in an order that need not be.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        ".{0,40}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..140),
        proptest::collection::vec(Just(b'x'), 120..310),
        Just(b"\x03\xE8done".to_vec()),
    ];
    let first = prop_oneof![
        6 => prop_oneof![Just(FIN | TEXT), Just(FIN | BINARY), Just(FIN | PING), Just(FIN | PONG)],
        4 => prop_oneof![Just(TEXT), Just(BINARY), Just(CONTINUE), Just(CONTINUE), Just(FIN | CONTINUE)],
        1 => any::<u8>(),
    ];
    proptest::collection::vec((first, payload), 0..12)
        .prop_map(|frames| frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect())
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        stream in any_stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
        prop_assert_eq!(decode(&pieces), decode(&[&stream]));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(decode(&bytes), decode(&[&stream]));
    }

    #[test]
    fn what_is_written_is_read(payload in ".{0,200}", mask: [u8; 4]) {
        let mut client = Vec::new();
        push_masked(&mut client, Opcode::Text, payload.as_bytes(), mask);
        let mut decoder = Decoder::new(Role::Server, 800);
        prop_assert_eq!(feed(&mut decoder, &[&client]), (vec![text(&payload)], None));
        let mut server = Vec::new();
        push_text(&mut server, &payload);
        let mut decoder = Decoder::new(Role::Client, 800);
        prop_assert_eq!(feed(&mut decoder, &[&server]), (vec![text(&payload)], None));
    }
}
