//! What the strict decoder takes and refuses, and that encoding and decoding agree.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use protocol::decode::{FrameDecoder, MalformedKind};
use protocol::encode;
use protocol::frame::{Auth, ClientFrame, LobbyMode, Message, Resume, RoomAction, Target};
use protocol::server_frame::{
    Ack, BadServerFrame, Challenge, ErrorFrame, HistoryPage, LobbyTotals, Pushed, Receipt, ReceiptStatus, RoomState,
    RoomUpdate, ServerFrame, ServerFrameDecoder, Typing, Welcome, WelcomeLimits,
};
use protocol::signature::verify_strict;
use protocol::splice::splice_seq;
use protocol::{PublicKey, Signature, Timestamp, signed_bytes};

const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn signature() -> String {
    "3".repeat(128)
}

fn message_json() -> String {
    format!(
        r#"{{"type":"message","recipientPublicKey":"{OTHER}","message":"hi","senderPublicKey":"{KEY}","clientMessageId":"id-1","timestamp":"2026-11-21T12:34:56.789Z","signature":"{}"}}"#,
        signature()
    )
}

fn auth_json() -> String {
    format!(
        r#"{{"type":"auth","version":1,"publicKey":"{KEY}","deviceId":"phone","signature":"{}","lobby":"none","resume":{{"epoch":"00000000000000ff","seq":7}}}}"#,
        signature()
    )
}

fn key(text: &str) -> PublicKey {
    PublicKey::from_hex(text).expect("a key")
}

/// The details of a refusal as a client sees them, or panics.
fn refused(text: &str) -> (MalformedKind, String, Option<String>) {
    let mut decoder = FrameDecoder::new();
    let malformed = decoder.decode(text).expect_err(text);
    let details = [malformed.field.unwrap_or(""), malformed.details].join(" ");
    (malformed.kind, details, malformed.id.map(str::to_owned))
}

#[test]
fn every_frame_of_the_table() {
    let mut decoder = FrameDecoder::new();
    let mut check = |text: &str, frame: ClientFrame<'_>| assert_eq!(decoder.decode(text), Ok(frame), "{text}");
    let signature = Signature::from_bytes([0x33; 64]);
    check(
        &auth_json(),
        ClientFrame::Auth(Auth {
            public_key: key(KEY),
            device_id: "phone",
            signature,
            lobby: LobbyMode::None,
            resume: Some(Resume { epoch: 255, seq: 7 }),
        }),
    );
    check(
        &message_json(),
        ClientFrame::Message(Message {
            target: Target::User(key(OTHER)),
            text: "hi",
            sender: key(KEY),
            id: "id-1",
            timestamp: Timestamp::from_unix_ms(1_795_264_496_789),
            signature,
        }),
    );
    check(r#" {"type":"ping"}"#, ClientFrame::Ping);
    check("\t\r\n{ \"type\" : \"lobby_sync\" }\n", ClientFrame::LobbySync);
    check(r#"{"type":"received","seq":9007199254740991}"#, ClientFrame::Received((1 << 53) - 1));
    check(r#"{"seq":0,"type":"read"}"#, ClientFrame::Read(0));
    let typing = |target, is_typing| ClientFrame::Typing { target, is_typing };
    check(r#"{"type":"typing","roomId":"r","isTyping":true}"#, typing(Target::Room("r"), true));
    check(
        &format!(r#"{{"type":"typing","recipientPublicKey":"{KEY}","isTyping":false}}"#),
        typing(Target::User(key(KEY)), false),
    );
    let room = |action| ClientFrame::Room { room: "r:1", action };
    check(r#"{"type":"room_create","roomId":"r:1","open":true}"#, room(RoomAction::Create { open: true }));
    check(r#"{"type":"room_join","roomId":"r:1"}"#, room(RoomAction::Join));
    check(r#"{"type":"room_leave","roomId":"r:1"}"#, room(RoomAction::Leave));
    check(r#"{"type":"room_members","roomId":"r:1"}"#, room(RoomAction::Members));
    let about = |name: &str| format!(r#"{{"type":"{name}","roomId":"r:1","publicKey":"{KEY}"}}"#);
    check(&about("room_invite"), room(RoomAction::Invite(key(KEY))));
    check(&about("room_remove"), room(RoomAction::Remove(key(KEY))));
    let history = |with, before_seq, limit| ClientFrame::History { with, before_seq, limit };
    check(r#"{"type":"history","roomId":"r"}"#, history(Target::Room("r"), None, 50));
    check(
        &format!(r#"{{"type":"history","with":"{KEY}","beforeSeq":5,"limit":100}}"#),
        history(Target::User(key(KEY)), Some(5), 100),
    );
}

#[test]
fn a_message_names_user_or_room_or_both() {
    let mut decoder = FrameDecoder::new();
    let both = message_json().replace("\"message\":\"hi\"", "\"message\":\"hi\",\"roomId\":\"r\"");
    let Ok(ClientFrame::Message(message)) = decoder.decode(&both) else { panic!("both are allowed") };
    assert_eq!(message.target, Target::RoomMember("r", key(OTHER)));
    let neither = message_json().replace(&format!("\"recipientPublicKey\":\"{OTHER}\","), "");
    assert_eq!(refused(&neither).1, "recipientPublicKey is missing, and so is roomId");
}

#[test]
fn escapes_are_decoded_before_anything_is_compared() {
    let mut decoder = FrameDecoder::new();
    assert_eq!(decoder.decode(r#"{"\u0074ype":"p\u0069ng"}"#), Ok(ClientFrame::Ping));
    assert_eq!(refused(r#"{"type":"ping","\u0074ype":"ping"}"#).1, "type stands twice in the frame");
    let escaped = message_json().replace("\"hi\"", r#""\ud83d\ude00\n\/\"""#);
    let Ok(ClientFrame::Message(message)) = decoder.decode(&escaped) else { panic!("escapes are allowed") };
    assert_eq!(message.text, "😀\n/\"");
}

#[test]
fn what_is_not_json_is_refused_without_an_id() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "1",
        "null",
        "\"ping\"",
        r#"{"type":"ping"}}"#,
        r#"{"type":"ping"} x"#,
        r#"{"type":"ping"}{"type":"ping"}"#,
        r#"{"type":"ping",}"#,
        r#"{type:"ping"}"#,
        r#"{'type':'ping'}"#,
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":\"ping\"}\0",
        r#"{"type":"ping" /* */}"#,
    ] {
        let (kind, details, id) = refused(text);
        assert_eq!(kind, MalformedKind::Malformed, "{text}");
        assert!(details.contains("JSON"), "{text}: {details}");
        assert_eq!(id, None);
    }
    for broken in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\u0041""#,
        r#""\ud83d\ud83d""#,
        "\"\n\"",
        "\"\u{1f}\"",
        r#""\x""#,
        r#""\u12g4""#,
    ] {
        let (_, details, id) = refused(&message_json().replace("\"hi\"", broken));
        assert!(details.contains("not valid JSON"), "{broken}: {details}");
        assert_eq!(id, None, "{broken}");
    }
}

#[test]
fn depth_is_bounded() {
    let deep = format!("{{\"type\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(refused(&deep).0, MalformedKind::Malformed);
    let shallow = format!("{{\"type\":\"ping\",\"x\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    assert_eq!(refused(&shallow).1, " The frame has an unknown field.");
}

#[test]
fn each_wrong_field_is_named_and_the_id_kept() {
    let good = message_json();
    for (from, to, details) in [
        ("\"hi\"", "null", "message must be text"),
        ("\"hi\"", "[\"hi\"]", "message must be text"),
        ("\"hi\"", "1", "message must be text"),
        (KEY, &KEY[1..], "senderPublicKey must be 64 lowercase hex digits"),
        (OTHER, &OTHER.replace('2', "A"), "recipientPublicKey must be 64 lowercase hex digits"),
        ("3333", "333", "signature must be 128 lowercase hex digits"),
        ("56.789Z", "56Z", "timestamp must be a real date of the form YYYY-MM-DDTHH:MM:SS.mmmZ"),
        ("11-21T", "02-30T", "timestamp must be a real date of the form YYYY-MM-DDTHH:MM:SS.mmmZ"),
        ("\"message\":\"hi\"", "\"message\":\"hi\",\"seq\":1", "seq is no field of this type of frame"),
        ("\"message\":\"hi\"", "\"message\":\"hi\",\"x\":1", " The frame has an unknown field."),
        ("\"message\":\"hi\"", "\"message\":\"hi\",\"message\":\"hi\"", "message stands twice in the frame"),
        ("\"message\":\"hi\",", "", "message is missing"),
        ("\"type\":\"message\"", "\"type\":\"massage\"", "type is unknown to this relay"),
        ("\"type\":\"message\",", "", " The frame has no type."),
        ("\"type\":\"message\"", "\"type\":null", " The frame has no type."),
    ] {
        assert!(good.contains(from), "{from}");
        let (kind, got, id) = refused(&good.replacen(from, to, 1));
        assert_eq!((kind, got.as_str(), id.as_deref()), (MalformedKind::Malformed, details, Some("id-1")), "{to}");
    }
    let (_, details, id) = refused(&good.replace("id-1", "id 1"));
    assert_eq!((details.as_str(), id), ("clientMessageId must be 1 to 64 of A-Z a-z 0-9 - _ . :", None));
}

#[test]
fn numbers_are_whole_and_below_two_to_the_53() {
    for number in [
        "-1",
        "1.0",
        "1e3",
        "9007199254740992",
        "99999999999999999999999999",
        "\"1\"",
        "true",
        "null",
        "01",
        "+1",
        "-0.0",
    ] {
        refused(&format!("{{\"type\":\"received\",\"seq\":{number}}}"));
    }
}

#[test]
fn auth_is_told_apart_from_other_malformed_frames() {
    let good = auth_json();
    for (from, to, kind) in [
        ("\"version\":1", "\"version\":2", MalformedKind::UnsupportedVersion),
        ("\"version\":1", "\"version\":2,\"x\":1,\"publicKey\":0", MalformedKind::UnsupportedVersion),
        ("\"version\":1", "\"version\":\"1\"", MalformedKind::Auth),
        ("\"version\":1,", "", MalformedKind::Auth),
        ("\"none\"", "\"some\"", MalformedKind::Auth),
        ("\"seq\":7", "\"seq\":-7", MalformedKind::Auth),
        ("\"seq\":7", "\"seq\":7,\"seq\":7", MalformedKind::Auth),
        ("\"seq\":7", "\"seq\":7,\"x\":7", MalformedKind::Auth),
        ("00ff", "00FF", MalformedKind::Auth),
        ("phone", "my phone", MalformedKind::Auth),
        (KEY, "", MalformedKind::Auth),
    ] {
        assert!(good.contains(from), "{from}");
        assert_eq!(refused(&good.replacen(from, to, 1)).0, kind, "{to}");
    }
}

#[test]
fn relay_frames_are_what_clients_read() {
    let mut decoder = ServerFrameDecoder::new();
    let mut check = |bytes: Vec<u8>, text: &str, frame: ServerFrame<'_>| {
        assert_eq!(std::str::from_utf8(&bytes), Ok(text));
        assert_eq!(decoder.decode(text), Ok(frame), "{text}");
    };
    let made = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let challenge = Challenge { version: 1, relay: "localhost", nonce: [0xa5; 32] };
    check(
        made(&|out| encode::challenge(out, &challenge)),
        &format!(r#"{{"type":"challenge","version":1,"relay":"localhost","nonce":"{}"}}"#, "a5".repeat(32)),
        ServerFrame::Challenge(challenge),
    );
    let welcome = Welcome {
        public_key: key(KEY),
        device_id: "phone",
        time: Timestamp::from_unix_ms(0),
        epoch: 0xff,
        seq: 3,
        recovered: false,
        heartbeat_ms: 20_000,
        limits: WelcomeLimits { frame_bytes: 16_384, message_chars: 1000, messages_per_second: 10 },
    };
    check(
        made(&|out| encode::welcome(out, &welcome)),
        &format!(
            r#"{{"type":"welcome","publicKey":"{KEY}","deviceId":"phone","time":"1970-01-01T00:00:00.000Z","epoch":"00000000000000ff","seq":3,"recovered":false,"heartbeatMs":20000,"limits":{{"frameBytes":16384,"messageChars":1000,"messagesPerSecond":10}}}}"#
        ),
        ServerFrame::Welcome(welcome),
    );
    let ack = Ack { id: "id-1", online: true, duplicate: false, seq: None };
    check(
        made(&|out| encode::ack(out, &ack)),
        r#"{"type":"ack","clientMessageId":"id-1","recipient":"online","duplicate":false}"#,
        ServerFrame::Ack(ack),
    );
    let error = ErrorFrame {
        reason: "stale_timestamp",
        details: "no",
        id: Some("id-1"),
        room: Some("r"),
        retry_after_ms: Some(5),
        time: Some(Timestamp::from_unix_ms(0)),
    };
    check(
        made(&|out| encode::error(out, &error, None)),
        r#"{"type":"error","reason":"stale_timestamp","details":"no","clientMessageId":"id-1","roomId":"r","retryAfterMs":5,"time":"1970-01-01T00:00:00.000Z"}"#,
        ServerFrame::Error(error),
    );
    check(made(&|out| encode::pong(out)), r#"{"type":"pong"}"#, ServerFrame::Pong);
    check(
        made(&|out| encode::restarting(out, 250)),
        r#"{"type":"restarting","reconnectInMs":250}"#,
        ServerFrame::Restarting { reconnect_in_ms: 250 },
    );
}

fn made(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("a frame is UTF-8")
}

#[test]
fn receipts_rooms_typing_and_history_are_what_clients_read() {
    let mut decoder = ServerFrameDecoder::new();
    let mut check = |made: String, text: &str, frame: ServerFrame<'_>| {
        assert_eq!(made, text);
        assert_eq!(decoder.decode(text), Ok(frame), "{text}");
    };
    let (me, other) = (key(KEY), key(OTHER));
    let receipt = |status, room| Receipt { status, ids: vec!["a", "b:2"], recipient: other, room };
    check(
        made(|out| encode::receipt(out, ReceiptStatus::Delivered, ["a", "b:2"], &other, None)),
        &format!(
            r#"{{"type":"receipt","status":"delivered","clientMessageIds":["a","b:2"],"recipientPublicKey":"{OTHER}"}}"#
        ),
        ServerFrame::Receipt(receipt(ReceiptStatus::Delivered, None)),
    );
    check(
        made(|out| encode::receipt(out, ReceiptStatus::Read, ["a", "b:2"], &other, Some("r"))),
        &format!(
            r#"{{"type":"receipt","status":"read","clientMessageIds":["a","b:2"],"recipientPublicKey":"{OTHER}","roomId":"r"}}"#
        ),
        ServerFrame::Receipt(receipt(ReceiptStatus::Read, Some("r"))),
    );
    check(
        made(|out| encode::typing(out, &Target::User(me), true, Some(&other))),
        &format!(r#"{{"type":"typing","recipientPublicKey":"{KEY}","senderPublicKey":"{OTHER}","isTyping":true}}"#),
        ServerFrame::Typing(Typing { sender: other, target: Target::User(me), is_typing: true }),
    );
    check(
        made(|out| encode::typing(out, &Target::Room("r"), false, Some(&other))),
        &format!(r#"{{"type":"typing","roomId":"r","senderPublicKey":"{OTHER}","isTyping":false}}"#),
        ServerFrame::Typing(Typing { sender: other, target: Target::Room("r"), is_typing: false }),
    );
    check(
        made(|out| encode::room(out, "r", &me, true, [me, other].iter())),
        &format!(
            r#"{{"type":"room","roomId":"r","owner":"{KEY}","open":true,"members":[{{"publicKey":"{KEY}"}},{{"publicKey":"{OTHER}"}}]}}"#
        ),
        ServerFrame::Room(RoomState { room: "r", owner: me, open: true, members: vec![me, other] }),
    );
    check(
        made(|out| encode::room_update(out, "r", &[other], &[], &me)),
        &format!(
            r#"{{"type":"room_update","roomId":"r","joined":[{{"publicKey":"{OTHER}"}}],"left":[],"owner":"{KEY}"}}"#
        ),
        ServerFrame::RoomUpdate(RoomUpdate { room: "r", joined: vec![other], left: vec![], owner: me }),
    );
    let sent = message_json();
    let message = Message {
        target: Target::User(other),
        text: "hi",
        sender: me,
        id: "id-1",
        timestamp: Timestamp::from_unix_ms(1_795_264_496_789),
        signature: Signature::from_bytes([0x33; 64]),
    };
    let pushed = |seq| Pushed { seq, message };
    check(
        made(|out| encode::history(out, [(7, sent.as_bytes()), (12, sent.as_bytes())], true)),
        &format!(
            r#"{{"type":"history","messages":[{{"seq":7,{rest},{{"seq":12,{rest}],"more":true}}"#,
            rest = &sent[1..]
        ),
        ServerFrame::History(HistoryPage { messages: vec![pushed(7), pushed(12)], more: true }),
    );
    let empty = made(|out| encode::history(out, [], false));
    assert_eq!(empty.len(), encode::HISTORY_ENVELOPE_BYTES);
    assert_eq!(decoder.decode(&empty), Ok(ServerFrame::History(HistoryPage { messages: vec![], more: false })));
}

#[test]
fn broken_receipts_rooms_and_pages_are_refused_by_their_field() {
    let receipt =
        made(|out| encode::receipt(out, ReceiptStatus::Read, ["a"], &key(KEY), None)).replace("\"read\"", "\"seen\"");
    let ids = made(|out| encode::receipt(out, ReceiptStatus::Read, ["a b"], &key(KEY), None));
    let room = made(|out| encode::room(out, "r", &key(KEY), true, [].iter())).replace("[]", "[7]");
    let typing = made(|out| encode::typing(out, &Target::Room("r"), true, Some(&key(KEY))))
        .replace("{", &format!("{{\"recipientPublicKey\":\"{KEY}\","));
    let page = made(|out| encode::history(out, [(1, message_json().replace("id-1", "id 1").as_bytes())], true));
    for (text, field) in [
        (receipt, "status"),
        (ids, "clientMessageIds"),
        (room, "publicKey"),
        (typing, "roomId"),
        (page, "clientMessageId"),
    ] {
        assert_eq!(ServerFrameDecoder::new().decode(&text), Err(BadServerFrame::Field(field)), "{text}");
    }
}

#[test]
fn what_clients_ask_is_what_the_relay_reads() {
    let mut decoder = FrameDecoder::new();
    let mut check = |text: String, frame: ClientFrame<'_>| assert_eq!(decoder.decode(&text), Ok(frame), "{text}");
    check(made(|out| encode::received(out, 7)), ClientFrame::Received(7));
    check(made(|out| encode::read(out, 8)), ClientFrame::Read(8));
    for target in [Target::User(key(KEY)), Target::Room("r")] {
        check(made(|out| encode::typing(out, &target, true, None)), ClientFrame::Typing { target, is_typing: true });
        for before_seq in [None, Some(9)] {
            check(
                made(|out| encode::history_request(out, &target, before_seq, 20)),
                ClientFrame::History { with: target, before_seq, limit: 20 },
            );
        }
    }
    for action in [
        RoomAction::Create { open: false },
        RoomAction::Join,
        RoomAction::Leave,
        RoomAction::Members,
        RoomAction::Invite(key(KEY)),
        RoomAction::Remove(key(KEY)),
    ] {
        check(made(|out| encode::room_action(out, "r", &action)), ClientFrame::Room { room: "r", action });
    }
}

#[test]
fn the_largest_room_and_receipt_fit() {
    let members = vec![key(KEY); protocol::limits::ROOM_MEMBERS];
    let id = "x".repeat(protocol::limits::ID_BYTES);
    let room = made(|out| encode::room(out, &id, &key(KEY), false, members.iter()));
    let ids = [id.as_str(); protocol::limits::RECEIPT_IDS];
    let receipt = made(|out| encode::receipt(out, ReceiptStatus::Delivered, ids, &key(KEY), Some(&id)));
    for frame in [room, receipt] {
        assert!(frame.len() <= protocol::limits::RELAY_FRAME_BYTES, "{}", frame.len());
    }
}

#[test]
fn lobby_frames_hold_lists_and_totals() {
    let mut decoder = ServerFrameDecoder::new();
    let totals = LobbyTotals { count: 2, digest: 0x3333_3333_3333_3333 };
    let mut out = Vec::new();
    encode::lobby(&mut out, 4, &[key(KEY), key(OTHER)], Some(totals));
    let text = String::from_utf8(out).expect("text");
    assert!(text.ends_with(r#""more":false,"count":2,"digest":"3333333333333333"}"#), "{text}");
    let Ok(ServerFrame::Lobby(page)) = decoder.decode(&text) else { panic!("{text}") };
    assert_eq!((page.rev, page.users, page.totals), (4, vec![key(KEY), key(OTHER)], Some(totals)));
    let mut out = Vec::new();
    encode::lobby_update(&mut out, 5, &[], &[key(KEY)], totals);
    let text = String::from_utf8(out).expect("text");
    let Ok(ServerFrame::LobbyUpdate(update)) = decoder.decode(&text) else { panic!("{text}") };
    assert_eq!((update.rev, update.joined, update.left), (5, vec![], vec![key(KEY)]));
}

#[test]
fn the_largest_lobby_frames_fit() {
    let users = vec![key(KEY); encode::LOBBY_PAGE_USERS];
    let totals = LobbyTotals { count: u64::MAX >> 11, digest: u64::MAX };
    let mut out = Vec::new();
    encode::lobby(&mut out, (1 << 53) - 1, &users, Some(totals));
    assert!(out.len() <= protocol::limits::RELAY_FRAME_BYTES, "{}", out.len());
    out.clear();
    encode::lobby_update(&mut out, (1 << 53) - 1, &users[..400], &users[..395], totals);
    assert!(out.len() <= protocol::limits::RELAY_FRAME_BYTES, "{}", out.len());
}

#[test]
fn clients_pass_over_what_they_do_not_know_and_refuse_what_is_broken() {
    let mut decoder = ServerFrameDecoder::new();
    assert_eq!(decoder.decode(r#"{"type":"pong","new":[{}]}"#), Ok(ServerFrame::Pong));
    assert_eq!(decoder.decode(r#"{"type":"news"}"#), Ok(ServerFrame::Unknown("news")));
    assert_eq!(decoder.decode("[]"), Err(BadServerFrame::NotAFrame));
    assert_eq!(decoder.decode(r#"{"type":"restarting"}"#), Err(BadServerFrame::Field("reconnectInMs")));
}

#[test]
fn signed_bytes_are_as_the_contract_writes_them() {
    let mut message = Message {
        target: Target::User(key(OTHER)),
        text: "a\nb",
        sender: key(KEY),
        id: "id-1",
        timestamp: Timestamp::from_unix_ms(0),
        signature: Signature::from_bytes([0; 64]),
    };
    let bytes = |message: &Message<'_>| {
        let mut out = Vec::new();
        signed_bytes::message(&mut out, message);
        String::from_utf8(out).expect("text")
    };
    let with = |target: &str| format!("relay-message/v1\n{KEY}\n{target}\nid-1\n1970-01-01T00:00:00.000Z\na\nb");
    assert_eq!(bytes(&message), with(&format!("user:{OTHER}")));
    message.target = Target::Room("r");
    assert_eq!(bytes(&message), with("room:r"));
    message.target = Target::RoomMember("r", key(OTHER));
    assert_eq!(bytes(&message), with(&format!("room:r:{OTHER}")));
    let mut out = Vec::new();
    signed_bytes::auth(&mut out, "localhost", &[0xa5; 32], &key(KEY), "phone");
    let nonce = "a5".repeat(32);
    assert_eq!(String::from_utf8(out), Ok(format!("relay-auth/v1\nlocalhost\n{nonce}\n{KEY}\nphone")));
}

proptest! {
    #[test]
    fn a_message_survives_encoding_splicing_and_both_decoders(text in any::<String>(), id in "[A-Za-z0-9._:-]{1,64}", seq in 0u64..1 << 53, seed: [u8; 32]) {
        let signing = SigningKey::from_bytes(&seed);
        let mut message = Message {
            target: Target::User(key(OTHER)),
            text: &text,
            sender: PublicKey::from(&signing.verifying_key()),
            id: &id,
            timestamp: Timestamp::from_unix_ms(1_795_264_496_789),
            signature: Signature::from_bytes([0; 64]),
        };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        message.signature = Signature::from_bytes(signing.sign(&signed).to_bytes());
        let mut frame = Vec::new();
        encode::message(&mut frame, &message);
        let frame = String::from_utf8(frame).expect("text");
        let mut strict = FrameDecoder::new();
        prop_assert_eq!(strict.decode(&frame), Ok(ClientFrame::Message(message)));
        let mut pushed = Vec::new();
        splice_seq(&mut pushed, frame.as_bytes(), seq);
        let mut decoder = ServerFrameDecoder::new();
        let Ok(ServerFrame::Message(got)) = decoder.decode(std::str::from_utf8(&pushed).expect("text")) else {
            panic!("a pushed message is read");
        };
        prop_assert_eq!((got.seq, got.message), (seq, message));
        let mut again = Vec::new();
        signed_bytes::message(&mut again, &got.message);
        prop_assert!(verify_strict(&signing.verifying_key(), &again, &got.message.signature));
    }

    #[test]
    fn perturbed_frames_never_panic_and_never_change_later_answers(at in 0usize..700, byte: u8, cut in 0usize..700) {
        let mut decoder = FrameDecoder::new();
        for good in [message_json(), auth_json()] {
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().min(cut + 1));
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let fresh = format!("{:?}", FrameDecoder::new().decode(text));
                prop_assert_eq!(format!("{:?}", decoder.decode(text)), fresh);
                let _ = ServerFrameDecoder::new().decode(text);
            }
            prop_assert!(decoder.decode(&good).is_ok());
        }
    }
}
