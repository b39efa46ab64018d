//! The strict decoder against serde_json as the model of what JSON is: frames are perturbed by pieces
//! that JSON parsers tend to differ about.

use proptest::prelude::*;
use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Target};
use serde_json::Value;

const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Pieces to put anywhere: white space that is none in JSON, raw control characters, escapes whole
/// and broken, numbers at the edges, structure.
const PIECES: [&str; 44] = [
    "\0",
    "\x01",
    "\x08",
    "\t",
    "\n",
    "\x0b",
    "\x0c",
    "\r",
    "\x1a",
    "\x1f",
    " ",
    "\x7f",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{feff}",
    "é",
    "😀",
    "\"",
    "\\",
    "\\\"",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\ud800",
    "\\udc00",
    "\\u00e",
    "\\/",
    "\\b",
    "\\v",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "0",
    "-",
    "1e5",
    "-0",
    "1.5",
    "99999999999999999",
    "null",
    "tru",
    "//",
];

fn frames() -> [String; 4] {
    [
        format!(
            r#"{{"type":"message","recipientPublicKey":"{KEY}","message":"hi there, this is some text that is longer than one block of 64 bytes","senderPublicKey":"{KEY}","clientMessageId":"id-1","timestamp":"2026-11-21T12:34:56.789Z","signature":"{}"}}"#,
            "3".repeat(128)
        ),
        r#"{"type":"received","seq":1234}"#.to_owned(),
        r#"{"type":"typing","roomId":"r","isTyping":true}"#.to_owned(),
        r#"{"type":"room_create","roomId":"room:1","open":false}"#.to_owned(),
    ]
}

/// Checks one text. Says whether it was taken.
fn agrees(decoder: &mut FrameDecoder, text: &str) -> bool {
    let model = serde_json::from_str::<Value>(text);
    match (decoder.decode(text), model) {
        (Ok(frame), Ok(value)) => {
            let is = |name: &str, given: Value| assert_eq!(value[name], given, "{text:?}");
            match frame {
                ClientFrame::Message(message) => {
                    is("message", message.text.into());
                    is("clientMessageId", message.id.into());
                    assert_eq!(value.as_object().map(serde_json::Map::len), Some(7), "{text:?}");
                }
                ClientFrame::Received(seq) => assert_eq!(value["seq"].as_f64(), Some(seq as f64), "{text:?}"),
                ClientFrame::Typing { target: Target::Room(room), is_typing } => {
                    is("roomId", room.into());
                    is("isTyping", is_typing.into());
                }
                ClientFrame::Room { room, .. } => is("roomId", room.into()),
                other => panic!("{other:?} from {text:?}"),
            }
            true
        }
        (Ok(frame), Err(error)) => panic!("{error}, and yet {frame:?} from {text:?}"),
        (Err(malformed), Ok(value)) => {
            // Numbers past 64 bits are JSON to the model alone.
            let is_huge = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 16);
            let no_json = malformed.details.contains("not valid JSON");
            assert!(!no_json || is_huge, "{text:?} is {value}");
            false
        }
        (Err(_), Err(_)) => false,
    }
}

#[test]
fn the_frames_themselves_are_taken() {
    let mut decoder = FrameDecoder::new();
    assert!(frames().iter().all(|frame| agrees(&mut decoder, frame)));
}

#[test]
fn every_piece_at_every_place() {
    let mut decoder = FrameDecoder::new();
    for frame in frames() {
        for at in 0..=frame.len() {
            for piece in PIECES {
                agrees(&mut decoder, &[&frame[..at], piece, &frame[at..]].concat());
                agrees(&mut decoder, &[&frame[..at], piece, &frame[(at + 1).min(frame.len())..]].concat());
            }
        }
    }
}

proptest! {
    #[test]
    fn several_pieces_at_once(which in 0usize..4, edits in prop::collection::vec((0usize..500, 0..PIECES.len(), 0usize..3), 1..5)) {
        let mut text = frames()[which].clone();
        for (at, piece, cut) in edits {
            let at = (0..=at % (text.len() + 1)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            let end = (at..=(at + cut).min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(at);
            text.replace_range(at..end, PIECES[piece]);
        }
        agrees(&mut FrameDecoder::new(), &text);
    }
}
