//! Frames from the relay, as clients read them: leniently. Fields and types that are unknown are
//! passed over, so that a client of today lives with a relay of tomorrow.

use simd_json::prelude::*;
use simd_json::{Buffers, Tape};
use thiserror::Error;

use crate::frame::{Message, Target};
use crate::keys::{PublicKey, is_id, is_relay_name, read_hex};
use crate::limits;
use crate::signature::Signature;
use crate::timestamp::Timestamp;

/// One frame from the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// The first frame of a connection.
    Challenge(Challenge<'a>),
    /// The session is open.
    Welcome(Welcome<'a>),
    /// A page of a snapshot.
    Lobby(LobbyPage),
    /// Who joined and left.
    LobbyUpdate(LobbyUpdate),
    /// A message for this key, or from another device of it.
    Message(Pushed<'a>),
    /// The relay has taken a message.
    Ack(Ack<'a>),
    /// Own messages were delivered or read.
    Receipt(Receipt<'a>),
    /// Somebody types, or has stopped.
    Typing(Typing<'a>),
    /// The answer to a request about a room.
    Room(RoomState<'a>),
    /// A room has changed.
    RoomUpdate(RoomUpdate<'a>),
    /// A page of history.
    History(HistoryPage<'a>),
    /// A frame was refused.
    Error(ErrorFrame<'a>),
    /// The answer to `ping`.
    Pong,
    /// The relay goes away; come back after so many milliseconds.
    Restarting {
        /// Milliseconds to wait.
        reconnect_in_ms: u64,
    },
    /// A type this version does not know.
    Unknown(&'a str),
}

/// The fields of a `challenge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// The relay's protocol version.
    pub version: u64,
    /// The relay's name.
    pub relay: &'a str,
    /// Random, for this connection alone.
    pub nonce: [u8; 32],
}

/// The fields of a `welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The session's key.
    pub public_key: PublicKey,
    /// The session's device.
    pub device_id: &'a str,
    /// The relay's clock.
    pub time: Timestamp,
    /// What seqs count in.
    pub epoch: u64,
    /// The highest seq assigned in this key's inbox.
    pub seq: u64,
    /// Whether everything after the resumed seq follows without a gap.
    pub recovered: bool,
    /// Milliseconds between the relay's pings.
    pub heartbeat_ms: u64,
    /// What the relay takes.
    pub limits: WelcomeLimits,
}

/// What a relay takes from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WelcomeLimits {
    /// Bytes of a frame.
    pub frame_bytes: u64,
    /// Unicode scalar values of a message.
    pub message_chars: u64,
    /// Messages a second of one key; 0 is unlimited.
    pub messages_per_second: u64,
}

/// The fields of a `lobby` page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LobbyPage {
    /// The revision, the same on all pages of a snapshot.
    pub rev: u64,
    /// Some of those online.
    pub users: Vec<PublicKey>,
    /// Count and digest: on the last page, and there only.
    pub totals: Option<LobbyTotals>,
}

/// What a client's own list must agree with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LobbyTotals {
    /// Users online.
    pub count: u64,
    /// XOR of [`PublicKey::digest_part`] over them.
    pub digest: u64,
}

/// The fields of a `lobby_update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LobbyUpdate {
    /// The revision that it leads to.
    pub rev: u64,
    /// Who joined.
    pub joined: Vec<PublicKey>,
    /// Who left.
    pub left: Vec<PublicKey>,
    /// After this update.
    pub totals: LobbyTotals,
}

/// A message as the relay pushes it. [`crate::splice::unsplice_seq`] gives the sender's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed<'a> {
    /// Its place in this key's inbox.
    pub seq: u64,
    /// What the sender wrote. The signature is not checked here.
    pub message: Message<'a>,
}

/// The fields of an `ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// `clientMessageId`.
    pub id: &'a str,
    /// Whether the recipient was online.
    pub online: bool,
    /// Whether the relay had taken it before.
    pub duplicate: bool,
    /// Its seq in the sender's own inbox, where the relay has a store.
    pub seq: Option<u64>,
}

/// The fields of a `receipt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// How far the messages got.
    pub status: ReceiptStatus,
    /// Which: their `clientMessageId`s, [`limits::RECEIPT_IDS`] at most.
    pub ids: Vec<&'a str>,
    /// Who got or read them.
    pub recipient: PublicKey,
    /// The room they were sent in.
    pub room: Option<&'a str>,
}

/// How far a message got, as its recipient confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptStatus {
    /// A device of the recipient has it.
    Delivered,
    /// A person has read it.
    Read,
}

impl ReceiptStatus {
    /// The word of the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// The fields of a `typing` from the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typing<'a> {
    /// Who types.
    pub sender: PublicKey,
    /// To whom: a user or a room, never a member of a room.
    pub target: Target<'a>,
    /// Whether they type or have stopped.
    pub is_typing: bool,
}

/// The fields of a `room`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomState<'a> {
    /// Its id.
    pub room: &'a str,
    /// Who may invite and remove.
    pub owner: PublicKey,
    /// Whether anyone may join.
    pub open: bool,
    /// Everybody in it.
    pub members: Vec<PublicKey>,
}

/// The fields of a `room_update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomUpdate<'a> {
    /// The room.
    pub room: &'a str,
    /// Who joined.
    pub joined: Vec<PublicKey>,
    /// Who left or was removed.
    pub left: Vec<PublicKey>,
    /// The owner from now on.
    pub owner: PublicKey,
}

/// The fields of a `history` from the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage<'a> {
    /// Ascending by seq.
    pub messages: Vec<Pushed<'a>>,
    /// Whether there are older ones.
    pub more: bool,
}

/// The fields of an `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFrame<'a> {
    /// One of the contract's reasons.
    pub reason: &'a str,
    /// One sentence for a person.
    pub details: &'a str,
    /// The message it is about.
    pub id: Option<&'a str>,
    /// The room it is about.
    pub room: Option<&'a str>,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// The relay's clock, with `stale_timestamp`.
    pub time: Option<Timestamp>,
}

/// Why bytes from a relay are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadServerFrame {
    /// Not a JSON object with a `type`.
    #[error("the relay sent something that is no JSON object with a type")]
    NotAFrame,
    /// A field of a known type is missing or has another form.
    #[error("the relay sent a frame whose field {0} is missing or malformed")]
    Field(&'static str),
}

/// Reusable buffers to decode frames from a relay with.
#[derive(Default)]
pub struct ServerFrameDecoder {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Option<Tape<'static>>,
}

impl std::fmt::Debug for ServerFrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerFrameDecoder").field("scratch_bytes", &self.scratch.capacity()).finish_non_exhaustive()
    }
}

impl ServerFrameDecoder {
    /// Makes a decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one frame, the whole text of a WebSocket message. Frames with lists allocate those; all
    /// else is borrowed from the decoder.
    ///
    /// # Errors
    /// [`BadServerFrame`], for what a relay of this version never sends.
    pub fn decode(&mut self, text: &str) -> Result<ServerFrame<'_>, BadServerFrame> {
        self.scratch.clear();
        self.scratch.extend_from_slice(text.as_bytes());
        let mut tape = self.tape.take().unwrap_or(Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        let frame = match parsed {
            Ok(()) => read(tape.as_value()),
            Err(_) => Err(BadServerFrame::NotAFrame),
        };
        self.tape = Some(tape.reset());
        frame
    }
}

type Value<'tape, 'a> = simd_json::tape::Value<'tape, 'a>;

fn read<'a>(frame: Value<'_, 'a>) -> Result<ServerFrame<'a>, BadServerFrame> {
    let kind = frame.get("type").and_then(ValueIntoString::into_string).ok_or(BadServerFrame::NotAFrame)?;
    Ok(match kind {
        "message" => ServerFrame::Message(pushed(frame)?),
        "ack" => ServerFrame::Ack(Ack {
            id: id(frame, "clientMessageId")?,
            online: match text(frame, "recipient")? {
                "online" => true,
                "offline" => false,
                _ => return Err(BadServerFrame::Field("recipient")),
            },
            duplicate: boolean(frame, "duplicate")?,
            seq: optional(frame, "seq", number)?,
        }),
        "receipt" => ServerFrame::Receipt(Receipt {
            status: match text(frame, "status")? {
                "delivered" => ReceiptStatus::Delivered,
                "read" => ReceiptStatus::Read,
                _ => return Err(BadServerFrame::Field("status")),
            },
            ids: list(frame, "clientMessageIds", |value, name| {
                value.into_string().filter(|text| is_id(text)).ok_or(BadServerFrame::Field(name))
            })?,
            recipient: key(frame, "recipientPublicKey")?,
            room: optional(frame, "roomId", id)?,
        }),
        "typing" => ServerFrame::Typing(Typing {
            sender: key(frame, "senderPublicKey")?,
            target: match target(frame)? {
                Target::RoomMember(..) => return Err(BadServerFrame::Field("roomId")),
                target => target,
            },
            is_typing: boolean(frame, "isTyping")?,
        }),
        "room" => ServerFrame::Room(RoomState {
            room: id(frame, "roomId")?,
            owner: key(frame, "owner")?,
            open: boolean(frame, "open")?,
            members: users(frame, "members")?,
        }),
        "room_update" => ServerFrame::RoomUpdate(RoomUpdate {
            room: id(frame, "roomId")?,
            joined: users(frame, "joined")?,
            left: users(frame, "left")?,
            owner: key(frame, "owner")?,
        }),
        "history" => ServerFrame::History(HistoryPage {
            messages: list(frame, "messages", |value, _| pushed(value))?,
            more: boolean(frame, "more")?,
        }),
        "lobby_update" => ServerFrame::LobbyUpdate(LobbyUpdate {
            rev: number(frame, "rev")?,
            joined: users(frame, "joined")?,
            left: users(frame, "left")?,
            totals: totals(frame)?,
        }),
        "lobby" => {
            let more = boolean(frame, "more")?;
            ServerFrame::Lobby(LobbyPage {
                rev: number(frame, "rev")?,
                users: users(frame, "users")?,
                totals: if more { None } else { Some(totals(frame)?) },
            })
        }
        "error" => ServerFrame::Error(ErrorFrame {
            reason: text(frame, "reason")?,
            details: text(frame, "details")?,
            id: optional(frame, "clientMessageId", id)?,
            room: optional(frame, "roomId", id)?,
            retry_after_ms: optional(frame, "retryAfterMs", number)?,
            time: optional(frame, "time", time)?,
        }),
        "pong" => ServerFrame::Pong,
        "challenge" => ServerFrame::Challenge(Challenge {
            version: number(frame, "version")?,
            relay: Some(text(frame, "relay")?)
                .filter(|name| is_relay_name(name))
                .ok_or(BadServerFrame::Field("relay"))?,
            nonce: read_hex(text(frame, "nonce")?).ok_or(BadServerFrame::Field("nonce"))?,
        }),
        "welcome" => ServerFrame::Welcome(welcome(frame)?),
        "restarting" => ServerFrame::Restarting { reconnect_in_ms: number(frame, "reconnectInMs")? },
        other => ServerFrame::Unknown(other),
    })
}

fn welcome<'a>(frame: Value<'_, 'a>) -> Result<Welcome<'a>, BadServerFrame> {
    let taken = frame.get("limits").ok_or(BadServerFrame::Field("limits"))?;
    Ok(Welcome {
        public_key: key(frame, "publicKey")?,
        device_id: id(frame, "deviceId")?,
        time: time(frame, "time")?,
        epoch: hex_number(frame, "epoch")?,
        seq: number(frame, "seq")?,
        recovered: boolean(frame, "recovered")?,
        heartbeat_ms: number(frame, "heartbeatMs")?,
        limits: WelcomeLimits {
            frame_bytes: number(taken, "frameBytes")?,
            message_chars: number(taken, "messageChars")?,
            messages_per_second: number(taken, "messagesPerSecond")?,
        },
    })
}

fn pushed<'a>(frame: Value<'_, 'a>) -> Result<Pushed<'a>, BadServerFrame> {
    Ok(Pushed { seq: number(frame, "seq")?, message: message(frame)? })
}

fn target<'a>(frame: Value<'_, 'a>) -> Result<Target<'a>, BadServerFrame> {
    let recipient = optional(frame, "recipientPublicKey", key)?;
    let room = optional(frame, "roomId", id)?;
    match (recipient, room) {
        (Some(recipient), None) => Ok(Target::User(recipient)),
        (None, Some(room)) => Ok(Target::Room(room)),
        (Some(recipient), Some(room)) => Ok(Target::RoomMember(room, recipient)),
        (None, None) => Err(BadServerFrame::Field("recipientPublicKey")),
    }
}

fn message<'a>(frame: Value<'_, 'a>) -> Result<Message<'a>, BadServerFrame> {
    Ok(Message {
        target: target(frame)?,
        text: text(frame, "message")?,
        sender: key(frame, "senderPublicKey")?,
        id: id(frame, "clientMessageId")?,
        timestamp: time(frame, "timestamp")?,
        signature: Signature::from_hex(text(frame, "signature")?).ok_or(BadServerFrame::Field("signature"))?,
    })
}

fn totals(frame: Value<'_, '_>) -> Result<LobbyTotals, BadServerFrame> {
    Ok(LobbyTotals { count: number(frame, "count")?, digest: hex_number(frame, "digest")? })
}

fn users(frame: Value<'_, '_>, name: &'static str) -> Result<Vec<PublicKey>, BadServerFrame> {
    list(frame, name, |user, _| key(user, "publicKey"))
}

fn list<'tape, 'a, T>(
    frame: Value<'tape, 'a>,
    name: &'static str,
    read: impl Fn(Value<'tape, 'a>, &'static str) -> Result<T, BadServerFrame>,
) -> Result<Vec<T>, BadServerFrame> {
    let list = frame.get(name).and_then(|list| list.as_array()).ok_or(BadServerFrame::Field(name))?;
    list.iter().map(|value| read(value, name)).collect()
}

fn optional<'tape, 'a, T>(
    frame: Value<'tape, 'a>,
    name: &'static str,
    read: impl FnOnce(Value<'tape, 'a>, &'static str) -> Result<T, BadServerFrame>,
) -> Result<Option<T>, BadServerFrame> {
    if frame.get(name).is_some() { read(frame, name).map(Some) } else { Ok(None) }
}

fn text<'a>(frame: Value<'_, 'a>, name: &'static str) -> Result<&'a str, BadServerFrame> {
    frame.get(name).and_then(ValueIntoString::into_string).ok_or(BadServerFrame::Field(name))
}

fn number(frame: Value<'_, '_>, name: &'static str) -> Result<u64, BadServerFrame> {
    frame
        .get(name)
        .and_then(|value| value.as_u64())
        .filter(|&number| number < limits::NUMBER_END)
        .ok_or(BadServerFrame::Field(name))
}

fn boolean(frame: Value<'_, '_>, name: &'static str) -> Result<bool, BadServerFrame> {
    frame.get(name).and_then(|value| value.as_bool()).ok_or(BadServerFrame::Field(name))
}

fn key(frame: Value<'_, '_>, name: &'static str) -> Result<PublicKey, BadServerFrame> {
    PublicKey::from_hex(text(frame, name)?).ok_or(BadServerFrame::Field(name))
}

fn id<'a>(frame: Value<'_, 'a>, name: &'static str) -> Result<&'a str, BadServerFrame> {
    Some(text(frame, name)?).filter(|text| is_id(text)).ok_or(BadServerFrame::Field(name))
}

fn time(frame: Value<'_, '_>, name: &'static str) -> Result<Timestamp, BadServerFrame> {
    Timestamp::parse(text(frame, name)?).ok_or(BadServerFrame::Field(name))
}

fn hex_number(frame: Value<'_, '_>, name: &'static str) -> Result<u64, BadServerFrame> {
    read_hex(text(frame, name)?).map(u64::from_be_bytes).ok_or(BadServerFrame::Field(name))
}
