//! WebSocket over memory against tungstenite's own `WebSocket`, which shares only the reading and
//! writing of headers with it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use proptest::prelude::*;
use protocol::websocket::{
    Decoder, Fault, Incoming, Opcode, Role, push_close, push_masked, push_masked_close, push_ping, push_pong, push_text,
};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role as ModelRole, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

const MESSAGE_BYTES_MAX: usize = 400;

/// Both directions of a stream, in memory. Reading past the end would block.
#[derive(Default)]
struct Pipe {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(buf)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn model(role: ModelRole, incoming: &[u8]) -> WebSocket<Pipe> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let pipe = Pipe { incoming: incoming.to_vec().into(), outgoing: Vec::new() };
    WebSocket::from_raw_socket(pipe, role, Some(config))
}

/// All messages that the model reads, up to a close, and the error that ended it.
fn model_reads(role: ModelRole, bytes: &[u8]) -> (Vec<Message>, Option<Error>) {
    let mut socket = model(role, bytes);
    let mut messages = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => {
                let closed = message.is_close();
                messages.push(message);
                if closed {
                    return (messages, None);
                }
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (messages, None),
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// All messages that the decoder reads, as the model's.
fn decoder_reads(role: Role, bytes: &[u8]) -> (Vec<Message>, Option<Fault>) {
    let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    let mut messages = Vec::new();
    loop {
        messages.push(match decoder.next(&mut input) {
            Ok(None) => return (messages, None),
            Err(fault) => return (messages, Some(fault)),
            Ok(Some(Incoming::Text(text))) => Message::text(text),
            Ok(Some(Incoming::Binary(bytes))) => Message::binary(bytes.to_vec()),
            Ok(Some(Incoming::Ping(bytes))) => Message::Ping(bytes.to_vec().into()),
            Ok(Some(Incoming::Pong(bytes))) => Message::Pong(bytes.to_vec().into()),
            Ok(Some(Incoming::Close { code, reason })) => {
                Message::Close(code.map(|code| CloseFrame { code: CloseCode::from(code), reason: reason.into() }))
            }
        });
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        ".{0,100}".prop_map(Message::text),
        proptest::collection::vec(any::<u8>(), 0..=MESSAGE_BYTES_MAX).prop_map(Message::binary),
        bytes().prop_map(|payload| Message::Ping(payload.into())),
        bytes().prop_map(|payload| Message::Pong(payload.into())),
    ]
}

fn any_close() -> impl Strategy<Value = Option<CloseFrame>> {
    let code = prop_oneof![1000..=1003u16, 1007..=1013u16, 3000..=4999u16];
    proptest::option::of(
        (code, ".{0,30}").prop_map(|(code, reason): (u16, String)| CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        }),
    )
}

/// Writes a message as a client or a server of ours. An empty close is the model's: there is none.
fn push(out: &mut Vec<u8>, message: &Message, mask: Option<[u8; 4]>) {
    match (message, mask) {
        (Message::Text(text), None) => push_text(out, text),
        (Message::Ping(payload), None) => push_ping(out, payload),
        (Message::Pong(payload), None) => push_pong(out, payload),
        (Message::Close(Some(close)), None) => push_close(out, close.code.into(), &close.reason),
        (Message::Text(text), Some(mask)) => push_masked(out, Opcode::Text, text.as_bytes(), mask),
        (Message::Binary(payload), Some(mask)) => push_masked(out, Opcode::Binary, payload, mask),
        (Message::Ping(payload), Some(mask)) => push_masked(out, Opcode::Ping, payload, mask),
        (Message::Pong(payload), Some(mask)) => push_masked(out, Opcode::Pong, payload, mask),
        (Message::Close(Some(close)), Some(mask)) => push_masked_close(out, close.code.into(), &close.reason, mask),
        (message, mask) => panic!("{message:?} is not written with mask {mask:?}"),
    }
}

/// One change to a stream: where, and what.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<prop::sample::Index>().prop_map(Change::Remove),
        any::<prop::sample::Index>().prop_map(Change::Cut),
    ]
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match change {
        Change::Set(at, byte) => bytes[at.index(len)] = *byte,
        Change::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
        Change::Insert(at, byte) => bytes.insert(at.index(len), *byte),
        Change::Remove(at) => drop(bytes.remove(at.index(len))),
        Change::Cut(at) => bytes.truncate(at.index(len)),
    }
}

/// Frames with headers of any kind but the right masking, so that most of them mean something.
fn any_frames(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        5 => proptest::sample::select(&[0x81u8, 0x82, 0x89, 0x8A][..]),
        5 => proptest::sample::select(&[0x01u8, 0x02, 0x00, 0x00, 0x80][..]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        ".{0,20}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..130),
        Just(b"\x03\xE8end".to_vec()),
    ];
    let frame = (first, payload, any::<[u8; 4]>()).prop_map(move |(first, payload, mask)| {
        let mut bytes = Vec::new();
        if masked {
            push_masked(&mut bytes, Opcode::Binary, &payload, mask);
        } else {
            push_text(&mut bytes, &"x".repeat(payload.len()));
            let header_len = bytes.len() - payload.len();
            bytes[header_len..].copy_from_slice(&payload);
        }
        bytes[0] = first;
        bytes
    });
    proptest::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

/// Faults that the model has no error for. It takes lengths in any form; it counts bytes but not
/// fragments; it hands up a close whose code may not be sent as one with code 1002.
fn is_stricter_than_the_model(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::TooLong | Fault::Protocol("payload length not in its shortest form" | "close code that may not be sent")
    )
}

fn compare(role: Role, model_role: ModelRole, bytes: &[u8]) -> Result<(), TestCaseError> {
    // The model finds a fault of a header only behind the payload: let it see the end of each frame.
    let bytes = [bytes, &[0; MESSAGE_BYTES_MAX + 16]].concat();
    let (messages, fault) = decoder_reads(role, &bytes);
    let (expected, error) = model_reads(model_role, &bytes);
    match fault {
        None => {
            prop_assert_eq!(messages, expected);
            prop_assert!(error.is_none(), "only the model refused: {error:?}");
        }
        Some(fault) if is_stricter_than_the_model(fault) => {
            prop_assert!(expected.starts_with(&messages), "{messages:?} {expected:?}");
        }
        Some(fault) => {
            prop_assert_eq!(messages, expected);
            prop_assert!(error.is_some(), "only the decoder refused: {fault:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn reads_what_a_client_of_the_model_writes(
        messages in proptest::collection::vec(any_message(), 0..10),
        close in any_close(),
    ) {
        let mut client = model(ModelRole::Client, &[]);
        let mut expected = messages;
        expected.push(Message::Close(close));
        for message in &expected {
            client.send(message.clone()).unwrap();
        }
        let bytes = &client.get_ref().outgoing;
        prop_assert_eq!(decoder_reads(Role::Server, bytes), (expected, None));
    }

    #[test]
    fn reads_what_a_server_of_the_model_writes(messages in proptest::collection::vec(any_message(), 0..10)) {
        let mut server = model(ModelRole::Server, &[]);
        for message in &messages {
            server.send(message.clone()).unwrap();
        }
        let bytes = &server.get_ref().outgoing;
        prop_assert_eq!(decoder_reads(Role::Client, bytes), (messages, None));
    }

    #[test]
    fn the_model_reads_what_is_written(
        messages in proptest::collection::vec(any_message(), 0..10),
        close in any_close(),
        masks in proptest::collection::vec(any::<[u8; 4]>(), 11),
    ) {
        let closes = close.map(|close| Message::Close(Some(close)));
        let expected: Vec<Message> = messages.into_iter().chain(closes).collect();
        let mut bytes = Vec::new();
        for (message, mask) in expected.iter().zip(masks) {
            push(&mut bytes, message, Some(mask));
        }
        let (read, error) = model_reads(ModelRole::Server, &bytes);
        prop_assert_eq!(&read, &expected);
        prop_assert!(error.is_none(), "{error:?}");

        // The relay writes no binary messages.
        let expected: Vec<Message> = expected.into_iter().filter(|message| !message.is_binary()).collect();
        let mut bytes = Vec::new();
        for message in &expected {
            push(&mut bytes, message, None);
        }
        let (read, error) = model_reads(ModelRole::Client, &bytes);
        prop_assert_eq!(read, expected);
        prop_assert!(error.is_none(), "{error:?}");
    }

    #[test]
    fn perturbed_client_frames_are_taken_and_refused_alike(
        mut bytes in any_frames(true),
        changes in proptest::collection::vec(any_change(), 0..4),
    ) {
        changes.iter().for_each(|each| change(&mut bytes, each));
        compare(Role::Server, ModelRole::Server, &bytes)?;
    }

    #[test]
    fn perturbed_server_frames_are_taken_and_refused_alike(
        mut bytes in any_frames(false),
        changes in proptest::collection::vec(any_change(), 0..4),
    ) {
        changes.iter().for_each(|each| change(&mut bytes, each));
        compare(Role::Client, ModelRole::Client, &bytes)?;
    }

    #[test]
    fn noise_is_taken_and_refused_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        compare(Role::Server, ModelRole::Server, &bytes)?;
        compare(Role::Client, ModelRole::Client, &bytes)?;
    }
}
