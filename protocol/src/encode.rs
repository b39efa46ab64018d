//! Encodes frames: those of the relay, and those that clients send. Every function appends one JSON
//! object to a buffer of the caller's, allocates nothing else, and adds no WebSocket header.

use crate::frame::{Auth, LobbyMode, Message, RoomAction, Target};
use crate::keys::{Hex, PublicKey};
use crate::server_frame::{Ack, Challenge, ErrorFrame, LobbyTotals, ReceiptStatus, Welcome};
use crate::splice::splice_seq;

/// Bytes that one user takes in a lobby frame: `{"publicKey":"` + 64 digits + `"}` and a comma.
pub const LOBBY_USER_BYTES: usize = 14 + 64 + 2 + 1;

/// Users in one page of a snapshot, so that a page stays below
/// [`RELAY_FRAME_BYTES`](crate::limits::RELAY_FRAME_BYTES): 800 × 81 = 64,800 bytes, and at most
/// 130 more of envelope, of 65,536.
pub const LOBBY_PAGE_USERS: usize = 800;

/// Users in one `lobby_update`, both arrays together; what is more goes into a snapshot.
pub const LOBBY_UPDATE_USERS: usize = 795;

/// The relay's `challenge`.
pub fn challenge(out: &mut Vec<u8>, frame: &Challenge<'_>) {
    raw(out, "{\"type\":\"challenge\",\"version\":");
    number(out, frame.version);
    raw(out, ",\"relay\":\"");
    raw(out, frame.relay);
    raw(out, "\",\"nonce\":\"");
    out.extend_from_slice(Hex::<64>::of(&frame.nonce).as_bytes());
    raw(out, "\"}");
}

/// The client's `auth`.
pub fn auth(out: &mut Vec<u8>, frame: &Auth<'_>) {
    raw(out, "{\"type\":\"auth\",\"version\":1,\"publicKey\":\"");
    key(out, &frame.public_key);
    raw(out, "\",\"deviceId\":\"");
    raw(out, frame.device_id);
    raw(out, "\",\"signature\":\"");
    out.extend_from_slice(frame.signature.to_hex().as_bytes());
    raw(
        out,
        match frame.lobby {
            LobbyMode::All => "\",\"lobby\":\"all\"",
            LobbyMode::None => "\",\"lobby\":\"none\"",
        },
    );
    if let Some(resume) = frame.resume {
        raw(out, ",\"resume\":{\"epoch\":\"");
        hex_number(out, resume.epoch);
        raw(out, "\",\"seq\":");
        number(out, resume.seq);
        raw(out, "}");
    }
    raw(out, "}");
}

/// The relay's `welcome`.
pub fn welcome(out: &mut Vec<u8>, frame: &Welcome<'_>) {
    raw(out, "{\"type\":\"welcome\",\"publicKey\":\"");
    key(out, &frame.public_key);
    raw(out, "\",\"deviceId\":\"");
    raw(out, frame.device_id);
    raw(out, "\",\"time\":\"");
    out.extend_from_slice(&frame.time.to_text());
    raw(out, "\",\"epoch\":\"");
    hex_number(out, frame.epoch);
    raw(out, "\",\"seq\":");
    number(out, frame.seq);
    raw(out, ",\"recovered\":");
    boolean(out, frame.recovered);
    raw(out, ",\"heartbeatMs\":");
    number(out, frame.heartbeat_ms);
    raw(out, ",\"limits\":{\"frameBytes\":");
    number(out, frame.limits.frame_bytes);
    raw(out, ",\"messageChars\":");
    number(out, frame.limits.message_chars);
    raw(out, ",\"messagesPerSecond\":");
    number(out, frame.limits.messages_per_second);
    raw(out, "}}");
}

/// One page of a lobby snapshot, [`LOBBY_PAGE_USERS`] users at most; `totals` on the last page.
pub fn lobby(out: &mut Vec<u8>, rev: u64, page: &[PublicKey], totals: Option<LobbyTotals>) {
    raw(out, "{\"type\":\"lobby\",\"rev\":");
    number(out, rev);
    raw(out, ",\"users\":");
    users(out, page.iter());
    match totals {
        None => raw(out, ",\"more\":true}"),
        Some(totals) => {
            raw(out, ",\"more\":false");
            self::totals(out, totals);
            raw(out, "}");
        }
    }
}

/// A `lobby_update`, [`LOBBY_UPDATE_USERS`] users at most.
pub fn lobby_update(out: &mut Vec<u8>, rev: u64, joined: &[PublicKey], left: &[PublicKey], totals: LobbyTotals) {
    raw(out, "{\"type\":\"lobby_update\",\"rev\":");
    number(out, rev);
    raw(out, ",\"joined\":");
    users(out, joined.iter());
    raw(out, ",\"left\":");
    users(out, left.iter());
    self::totals(out, totals);
    raw(out, "}");
}

/// The client's `message`. The signature is the frame's; text is escaped as JSON needs.
pub fn message(out: &mut Vec<u8>, frame: &Message<'_>) {
    raw(out, "{\"type\":\"message\"");
    let (room, recipient) = match frame.target {
        Target::User(recipient) => (None, Some(recipient)),
        Target::Room(room) => (Some(room), None),
        Target::RoomMember(room, recipient) => (Some(room), Some(recipient)),
    };
    if let Some(room) = room {
        room_id(out, room);
    }
    if let Some(recipient) = recipient {
        named_key(out, "recipientPublicKey", &recipient);
    }
    raw(out, ",\"message\":");
    text(out, frame.text);
    raw(out, ",\"senderPublicKey\":\"");
    key(out, &frame.sender);
    raw(out, "\",\"clientMessageId\":\"");
    raw(out, frame.id);
    raw(out, "\",\"timestamp\":\"");
    out.extend_from_slice(&frame.timestamp.to_text());
    raw(out, "\",\"signature\":\"");
    out.extend_from_slice(frame.signature.to_hex().as_bytes());
    raw(out, "\"}");
}

/// The relay's `ack`.
pub fn ack(out: &mut Vec<u8>, frame: &Ack<'_>) {
    raw(out, "{\"type\":\"ack\",\"clientMessageId\":\"");
    raw(out, frame.id);
    raw(out, "\",\"recipient\":\"");
    raw(out, if frame.online { "online" } else { "offline" });
    raw(out, "\",\"duplicate\":");
    boolean(out, frame.duplicate);
    if let Some(seq) = frame.seq {
        raw(out, ",\"seq\":");
        number(out, seq);
    }
    raw(out, "}");
}

/// The relay's `receipt`, [`RECEIPT_IDS`](crate::limits::RECEIPT_IDS) ids at most.
pub fn receipt<'a>(
    out: &mut Vec<u8>,
    status: ReceiptStatus,
    ids: impl IntoIterator<Item = &'a str>,
    recipient: &PublicKey,
    room: Option<&str>,
) {
    raw(out, "{\"type\":\"receipt\",\"status\":\"");
    raw(out, status.name());
    raw(out, "\",\"clientMessageIds\":[");
    for (at, id) in ids.into_iter().enumerate() {
        raw(out, if at == 0 { "\"" } else { ",\"" });
        raw(out, id);
        raw(out, "\"");
    }
    raw(out, "],\"recipientPublicKey\":\"");
    key(out, recipient);
    raw(out, "\"");
    if let Some(room) = room {
        room_id(out, room);
    }
    raw(out, "}");
}

/// The client's `received`: everything up to `seq`.
pub fn received(out: &mut Vec<u8>, seq: u64) {
    raw(out, "{\"type\":\"received\",\"seq\":");
    number(out, seq);
    raw(out, "}");
}

/// The client's `read`: this one.
pub fn read(out: &mut Vec<u8>, seq: u64) {
    raw(out, "{\"type\":\"read\",\"seq\":");
    number(out, seq);
    raw(out, "}");
}

/// A `typing` to a user or a room: the client's, or with `sender` the relay's.
pub fn typing(out: &mut Vec<u8>, target: &Target<'_>, is_typing: bool, sender: Option<&PublicKey>) {
    raw(out, "{\"type\":\"typing\"");
    match target {
        Target::User(recipient) => named_key(out, "recipientPublicKey", recipient),
        Target::Room(room) | Target::RoomMember(room, _) => room_id(out, room),
    }
    if let Some(sender) = sender {
        named_key(out, "senderPublicKey", sender);
    }
    raw(out, ",\"isTyping\":");
    boolean(out, is_typing);
    raw(out, "}");
}

/// The client's `room_create`, `room_join` and so on.
pub fn room_action(out: &mut Vec<u8>, room: &str, action: &RoomAction) {
    raw(out, "{\"type\":\"");
    raw(
        out,
        match action {
            RoomAction::Create { .. } => "room_create",
            RoomAction::Join => "room_join",
            RoomAction::Leave => "room_leave",
            RoomAction::Members => "room_members",
            RoomAction::Invite(_) => "room_invite",
            RoomAction::Remove(_) => "room_remove",
        },
    );
    raw(out, "\"");
    room_id(out, room);
    match action {
        RoomAction::Create { open } => {
            raw(out, ",\"open\":");
            boolean(out, *open);
        }
        RoomAction::Invite(user) | RoomAction::Remove(user) => named_key(out, "publicKey", user),
        RoomAction::Join | RoomAction::Leave | RoomAction::Members => {}
    }
    raw(out, "}");
}

/// The relay's `room`, [`ROOM_MEMBERS`](crate::limits::ROOM_MEMBERS) members at most; its lists have
/// the form of the lobby's.
pub fn room<'a>(
    out: &mut Vec<u8>,
    room: &str,
    owner: &PublicKey,
    open: bool,
    members: impl ExactSizeIterator<Item = &'a PublicKey>,
) {
    raw(out, "{\"type\":\"room\"");
    room_id(out, room);
    named_key(out, "owner", owner);
    raw(out, ",\"open\":");
    boolean(out, open);
    raw(out, ",\"members\":");
    users(out, members);
    raw(out, "}");
}

/// The relay's `room_update`; both lists together are at most those of a `room`.
pub fn room_update(out: &mut Vec<u8>, room: &str, joined: &[PublicKey], left: &[PublicKey], owner: &PublicKey) {
    raw(out, "{\"type\":\"room_update\"");
    room_id(out, room);
    raw(out, ",\"joined\":");
    users(out, joined.iter());
    raw(out, ",\"left\":");
    users(out, left.iter());
    named_key(out, "owner", owner);
    raw(out, "}");
}

/// The client's `history`: a page of what was said with a user or in a room.
pub fn history_request(out: &mut Vec<u8>, with: &Target<'_>, before_seq: Option<u64>, limit: u64) {
    raw(out, "{\"type\":\"history\"");
    match with {
        Target::User(user) => named_key(out, "with", user),
        Target::Room(room) | Target::RoomMember(room, _) => room_id(out, room),
    }
    if let Some(seq) = before_seq {
        raw(out, ",\"beforeSeq\":");
        number(out, seq);
    }
    raw(out, ",\"limit\":");
    number(out, limit);
    raw(out, "}");
}

/// Bytes of a `history` besides its messages, their seqs ([`SPLICE_BYTES_MAX`] each) and a comma
/// before each but the first.
///
/// [`SPLICE_BYTES_MAX`]: crate::splice::SPLICE_BYTES_MAX
pub const HISTORY_ENVELOPE_BYTES: usize = "{\"type\":\"history\",\"messages\":[],\"more\":false}".len();

/// The relay's `history`: senders' frames with their seqs, ascending. The caller keeps the sum below
/// [`RELAY_FRAME_BYTES`](crate::limits::RELAY_FRAME_BYTES).
pub fn history<'a>(out: &mut Vec<u8>, messages: impl IntoIterator<Item = (u64, &'a [u8])>, more: bool) {
    raw(out, "{\"type\":\"history\",\"messages\":[");
    for (at, (seq, frame)) in messages.into_iter().enumerate() {
        if at > 0 {
            raw(out, ",");
        }
        splice_seq(out, frame, seq);
    }
    raw(out, "],\"more\":");
    boolean(out, more);
    raw(out, "}");
}

/// The relay's `error`. `field`, if any, is put before the details, so that the sentence names it.
pub fn error(out: &mut Vec<u8>, frame: &ErrorFrame<'_>, field: Option<&str>) {
    raw(out, "{\"type\":\"error\",\"reason\":\"");
    raw(out, frame.reason);
    raw(out, "\",\"details\":\"");
    if let Some(field) = field {
        escaped(out, field);
        raw(out, " ");
    }
    escaped(out, frame.details);
    if field.is_some() {
        raw(out, ".");
    }
    raw(out, "\"");
    if let Some(id) = frame.id {
        raw(out, ",\"clientMessageId\":\"");
        raw(out, id);
        raw(out, "\"");
    }
    if let Some(room) = frame.room {
        room_id(out, room);
    }
    if let Some(ms) = frame.retry_after_ms {
        raw(out, ",\"retryAfterMs\":");
        number(out, ms);
    }
    if let Some(time) = frame.time {
        raw(out, ",\"time\":\"");
        out.extend_from_slice(&time.to_text());
        raw(out, "\"");
    }
    raw(out, "}");
}

/// The relay's `pong`.
pub fn pong(out: &mut Vec<u8>) {
    raw(out, "{\"type\":\"pong\"}");
}

/// The client's `ping`.
pub fn ping(out: &mut Vec<u8>) {
    raw(out, "{\"type\":\"ping\"}");
}

/// The client's `lobby_sync`.
pub fn lobby_sync(out: &mut Vec<u8>) {
    raw(out, "{\"type\":\"lobby_sync\"}");
}

/// The relay's `restarting`.
pub fn restarting(out: &mut Vec<u8>, reconnect_in_ms: u64) {
    raw(out, "{\"type\":\"restarting\",\"reconnectInMs\":");
    number(out, reconnect_in_ms);
    raw(out, "}");
}

fn totals(out: &mut Vec<u8>, totals: LobbyTotals) {
    raw(out, ",\"count\":");
    number(out, totals.count);
    raw(out, ",\"digest\":\"");
    hex_number(out, totals.digest);
    raw(out, "\"");
}

fn named_key(out: &mut Vec<u8>, name: &str, key: &PublicKey) {
    raw(out, ",\"");
    raw(out, name);
    raw(out, "\":\"");
    self::key(out, key);
    raw(out, "\"");
}

fn room_id(out: &mut Vec<u8>, room: &str) {
    raw(out, ",\"roomId\":\"");
    raw(out, room);
    raw(out, "\"");
}

fn users<'a>(out: &mut Vec<u8>, users: impl ExactSizeIterator<Item = &'a PublicKey>) {
    out.reserve(users.len() * LOBBY_USER_BYTES);
    raw(out, "[");
    for (at, user) in users.enumerate() {
        raw(out, if at == 0 { "{\"publicKey\":\"" } else { ",{\"publicKey\":\"" });
        key(out, user);
        raw(out, "\"}");
    }
    raw(out, "]");
}

fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn key(out: &mut Vec<u8>, key: &PublicKey) {
    out.extend_from_slice(key.to_hex().as_bytes());
}

fn number(out: &mut Vec<u8>, number: u64) {
    raw(out, itoa::Buffer::new().format(number));
}

fn hex_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(Hex::<16>::of(&number.to_be_bytes()).as_bytes());
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    raw(out, if value { "true" } else { "false" });
}

fn text(out: &mut Vec<u8>, text: &str) {
    raw(out, "\"");
    escaped(out, text);
    raw(out, "\"");
}

/// Escapes what JSON requires: quotes, backslashes and control characters below 0x20.
fn escaped(out: &mut Vec<u8>, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', DIGITS[high], DIGITS[low]]);
            }
            _ => out.push(byte),
        }
    }
}
