//! Decodes frames from clients, strictly: simd-json finds the structure, one table says what is
//! allowed, and nothing else passes.
//!
//! # Flow
//! The bytes are copied into a scratch buffer (simd-json rewrites its input), parsed onto a tape,
//! walked once into one slot per known field, checked against the shape of their `type`, and given
//! out as a [`ClientFrame`] that borrows from the scratch buffer. Buffers are kept from frame to
//! frame: after the first few nothing is allocated.
//!
//! # Invariants
//! - A repeated or unknown field is seen after its escapes are decoded, so `"\u0074ype"` is `type`.
//! - Every frame nests at most twice; anything deeper is refused.
//! - The same bytes give the same answer whatever was parsed before.

use simd_json::{Buffers, Node, StaticNode, Tape};

use crate::frame::{Auth, ClientFrame, LobbyMode, Message, Resume, RoomAction, Target};
use crate::keys::{PublicKey, is_id, read_hex};
use crate::limits;
use crate::signature::Signature;
use crate::timestamp::Timestamp;

/// A frame that is refused, with what an `error` frame may say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed<'a> {
    /// Which reason it is refused for.
    pub kind: MalformedKind,
    /// The field that is wrong, where one is.
    pub field: Option<&'static str>,
    /// What is wrong, for a person; with `field` it reads as a sentence behind the field's name.
    pub details: &'static str,
    /// The frame's `clientMessageId`, if the JSON was valid and the id well-formed.
    pub id: Option<&'a str>,
    /// The frame's `roomId`, likewise.
    pub room: Option<&'a str>,
}

/// The reasons that form alone can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedKind {
    /// Not of the form of any frame.
    Malformed,
    /// An `auth` of another protocol version; nothing else in it was looked at.
    UnsupportedVersion,
    /// Meant to be an `auth`, with something wrong in it.
    Auth,
}

/// Reusable buffers to decode frames with.
pub struct FrameDecoder {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameDecoder").field("scratch_bytes", &self.scratch.capacity()).finish_non_exhaustive()
    }
}

impl FrameDecoder {
    /// Makes a decoder; it allocates as the first frames come.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scratch: Vec::new(),
            buffers: Buffers::with_max_depth(limits::FRAME_BYTES, limits::JSON_DEPTH),
            tape: Tape(Vec::new()),
        }
    }

    /// Decodes one frame, given as the whole text of a WebSocket message. The result borrows from
    /// the decoder; `text` is not changed.
    ///
    /// # Errors
    /// [`Malformed`], for anything that is not exactly one frame of the contract.
    pub fn decode(&mut self, text: &str) -> Result<ClientFrame<'_>, Malformed<'_>> {
        self.scratch.clear();
        self.scratch.extend_from_slice(text.as_bytes());
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        let fields = match parsed {
            Ok(()) => Fields::collect(&tape.0),
            Err(_) => Err(NOT_JSON),
        };
        self.tape = tape.reset();
        match fields {
            Ok(fields) => fields.into_frame(),
            Err(Wrong { field, details }) => {
                Err(Malformed { kind: MalformedKind::Malformed, field, details, id: None, room: None })
            }
        }
    }
}

/// What is wrong, and in which field.
#[derive(Clone, Copy)]
struct Wrong {
    field: Option<&'static str>,
    details: &'static str,
}

const fn wrong(details: &'static str) -> Wrong {
    Wrong { field: None, details }
}

const NOT_JSON: Wrong = wrong("The frame is not valid JSON.");
const NOT_AN_OBJECT: Wrong = wrong("The frame is not a JSON object.");

/// Known fields of all frames; the number of each is its bit and its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Field {
    Type,
    Version,
    PublicKey,
    DeviceId,
    Signature,
    Lobby,
    Resume,
    Seq,
    RecipientPublicKey,
    Message,
    SenderPublicKey,
    ClientMessageId,
    Timestamp,
    RoomId,
    IsTyping,
    Open,
    With,
    BeforeSeq,
    Limit,
}

const FIELDS: usize = Field::Limit as usize + 1;

/// Names of the fields, by number.
const NAMES: [&str; FIELDS] = [
    "type",
    "version",
    "publicKey",
    "deviceId",
    "signature",
    "lobby",
    "resume",
    "seq",
    "recipientPublicKey",
    "message",
    "senderPublicKey",
    "clientMessageId",
    "timestamp",
    "roomId",
    "isTyping",
    "open",
    "with",
    "beforeSeq",
    "limit",
];

impl Field {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "type" => Self::Type,
            "version" => Self::Version,
            "publicKey" => Self::PublicKey,
            "deviceId" => Self::DeviceId,
            "signature" => Self::Signature,
            "lobby" => Self::Lobby,
            "resume" => Self::Resume,
            "seq" => Self::Seq,
            "recipientPublicKey" => Self::RecipientPublicKey,
            "message" => Self::Message,
            "senderPublicKey" => Self::SenderPublicKey,
            "clientMessageId" => Self::ClientMessageId,
            "timestamp" => Self::Timestamp,
            "roomId" => Self::RoomId,
            "isTyping" => Self::IsTyping,
            "open" => Self::Open,
            "with" => Self::With,
            "beforeSeq" => Self::BeforeSeq,
            "limit" => Self::Limit,
            _ => return None,
        })
    }

    fn is(self, details: &'static str) -> Wrong {
        Wrong { field: Some(NAMES[self as usize]), details }
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The fields a type must have and those it may have besides (`type` is understood).
struct Shape {
    required: u32,
    optional: u32,
}

const fn set(fields: &[Field]) -> u32 {
    let mut bits = 0;
    let mut at = 0;
    while at < fields.len() {
        bits |= fields[at].bit();
        at += 1;
    }
    bits
}

const fn shape(required: &[Field], optional: &[Field]) -> Shape {
    Shape { required: set(required) | Field::Type.bit(), optional: set(optional) }
}

/// The frame table of [`crate::frame`], as bits.
static AUTH: Shape =
    shape(&[Field::Version, Field::PublicKey, Field::DeviceId, Field::Signature], &[Field::Lobby, Field::Resume]);
static MESSAGE: Shape = shape(
    &[Field::Message, Field::SenderPublicKey, Field::ClientMessageId, Field::Timestamp, Field::Signature],
    &[Field::RecipientPublicKey, Field::RoomId],
);
static BARE: Shape = shape(&[], &[]);
static WITH_SEQ: Shape = shape(&[Field::Seq], &[]);
static TYPING: Shape = shape(&[Field::IsTyping], &[Field::RecipientPublicKey, Field::RoomId]);
static ROOM_CREATE: Shape = shape(&[Field::RoomId, Field::Open], &[]);
static ROOM: Shape = shape(&[Field::RoomId], &[]);
static ROOM_KEY: Shape = shape(&[Field::RoomId, Field::PublicKey], &[]);
static HISTORY: Shape = shape(&[], &[Field::With, Field::RoomId, Field::BeforeSeq, Field::Limit]);

#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Bool(bool),
    Resume(Resume),
    /// Valid JSON that no field takes: null, fractions, negative or huge numbers, arrays, objects.
    Other,
}

/// One slot per known field, and the first thing that was wrong.
struct Fields<'a> {
    seen: u32,
    wrong: Option<Wrong>,
    values: [Value<'a>; FIELDS],
}

impl<'a> Fields<'a> {
    /// Walks the tape of a whole document. An error means that it is no object at all; what is
    /// wrong inside an object is kept, since the frame may still name its id.
    fn collect(nodes: &[Node<'a>]) -> Result<Self, Wrong> {
        let Some(&Node::Object { len, .. }) = nodes.first() else {
            return Err(NOT_AN_OBJECT);
        };
        let mut fields = Self { seen: 0, wrong: None, values: [Value::Other; FIELDS] };
        let mut at = 1;
        for _ in 0..len {
            let (Some(Node::String(name)), Some(node)) = (nodes.get(at), nodes.get(at + 1)) else {
                return Err(NOT_AN_OBJECT);
            };
            let value_at = at + 1;
            at = value_at + 1 + inner_count(*node);
            match Field::named(name) {
                None => fields.note(wrong("The frame has an unknown field.")),
                Some(field) if fields.seen & field.bit() != 0 => fields.note(field.is("stands twice in the frame")),
                Some(field) => {
                    fields.seen |= field.bit();
                    fields.values[field as usize] = match *node {
                        Node::String(text) => Value::Text(text),
                        Node::Static(value) => scalar(value),
                        Node::Object { .. } if field == Field::Resume => {
                            resume(&nodes[value_at..at]).map_or(Value::Other, Value::Resume)
                        }
                        Node::Object { .. } | Node::Array { .. } => Value::Other,
                    };
                }
            }
        }
        Ok(fields)
    }

    fn note(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }

    fn has(&self, field: Field) -> bool {
        self.seen & field.bit() != 0
    }

    fn into_frame(self) -> Result<ClientFrame<'a>, Malformed<'a>> {
        if self.text(Field::Type).is_ok_and(|name| name == "auth") {
            let other_version = self.number(Field::Version).is_ok_and(|version| version != limits::VERSION);
            let kind = if other_version { MalformedKind::UnsupportedVersion } else { MalformedKind::Auth };
            let auth = if other_version {
                Err(Field::Version.is("must be 1: this relay speaks no other version of the protocol"))
            } else {
                self.check(&AUTH).and_then(|()| self.auth())
            };
            return auth.map_err(|Wrong { field, details }| Malformed { kind, field, details, id: None, room: None });
        }
        self.frame().map_err(|Wrong { field, details }| Malformed {
            kind: MalformedKind::Malformed,
            field,
            details,
            id: self.id(Field::ClientMessageId).ok(),
            room: self.id(Field::RoomId).ok(),
        })
    }

    fn frame(&self) -> Result<ClientFrame<'a>, Wrong> {
        let name = self.text(Field::Type).map_err(|_| wrong("The frame has no type."))?;
        match name {
            "message" => {
                self.check(&MESSAGE)?;
                self.message().map(ClientFrame::Message)
            }
            "received" => {
                self.check(&WITH_SEQ)?;
                self.number(Field::Seq).map(ClientFrame::Received)
            }
            "read" => {
                self.check(&WITH_SEQ)?;
                self.number(Field::Seq).map(ClientFrame::Read)
            }
            "ping" => self.check(&BARE).map(|()| ClientFrame::Ping),
            "lobby_sync" => self.check(&BARE).map(|()| ClientFrame::LobbySync),
            "typing" => {
                self.check(&TYPING)?;
                let target = self.user_or_room(Field::RecipientPublicKey)?;
                Ok(ClientFrame::Typing { target, is_typing: self.bool(Field::IsTyping)? })
            }
            "room_create" => {
                self.check(&ROOM_CREATE)?;
                self.room(RoomAction::Create { open: self.bool(Field::Open)? })
            }
            "room_join" => self.check(&ROOM).and_then(|()| self.room(RoomAction::Join)),
            "room_leave" => self.check(&ROOM).and_then(|()| self.room(RoomAction::Leave)),
            "room_members" => self.check(&ROOM).and_then(|()| self.room(RoomAction::Members)),
            "room_invite" => {
                self.check(&ROOM_KEY)?;
                self.room(RoomAction::Invite(self.key(Field::PublicKey)?))
            }
            "room_remove" => {
                self.check(&ROOM_KEY)?;
                self.room(RoomAction::Remove(self.key(Field::PublicKey)?))
            }
            "history" => {
                self.check(&HISTORY)?;
                let with = self.user_or_room(Field::With)?;
                let before_seq = if self.has(Field::BeforeSeq) { Some(self.number(Field::BeforeSeq)?) } else { None };
                let limit =
                    if self.has(Field::Limit) { self.number(Field::Limit)? } else { limits::HISTORY_MESSAGES_DEFAULT };
                if !(1..=limits::HISTORY_MESSAGES).contains(&limit) {
                    return Err(Field::Limit.is("must be 1 to 100"));
                }
                Ok(ClientFrame::History { with, before_seq, limit })
            }
            _ => Err(Field::Type.is("is unknown to this relay")),
        }
    }

    /// Exactly the fields of the shape, and nothing wrong on the way.
    fn check(&self, shape: &Shape) -> Result<(), Wrong> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let missing = shape.required & !self.seen;
        let surplus = self.seen & !(shape.required | shape.optional);
        let first = |bits: u32, details| Wrong { field: Some(NAMES[bits.trailing_zeros() as usize]), details };
        match (missing, surplus) {
            (0, 0) => Ok(()),
            (0, _) => Err(first(surplus, "is no field of this type of frame")),
            _ => Err(first(missing, "is missing")),
        }
    }

    fn auth(&self) -> Result<ClientFrame<'a>, Wrong> {
        self.number(Field::Version)?;
        let lobby = if self.has(Field::Lobby) {
            match self.text(Field::Lobby)? {
                "all" => LobbyMode::All,
                "none" => LobbyMode::None,
                _ => return Err(Field::Lobby.is("must be \"all\" or \"none\"")),
            }
        } else {
            LobbyMode::All
        };
        let resume = match self.values[Field::Resume as usize] {
            Value::Resume(resume) => Some(resume),
            _ if self.has(Field::Resume) => return Err(Field::Resume.is("must be {\"epoch\":\"<16 hex>\",\"seq\":N}")),
            _ => None,
        };
        Ok(ClientFrame::Auth(Auth {
            public_key: self.key(Field::PublicKey)?,
            device_id: self.id(Field::DeviceId)?,
            signature: self.signature()?,
            lobby,
            resume,
        }))
    }

    fn message(&self) -> Result<Message<'a>, Wrong> {
        let target = match (self.has(Field::RecipientPublicKey), self.has(Field::RoomId)) {
            (true, false) => Target::User(self.key(Field::RecipientPublicKey)?),
            (false, true) => Target::Room(self.id(Field::RoomId)?),
            (true, true) => Target::RoomMember(self.id(Field::RoomId)?, self.key(Field::RecipientPublicKey)?),
            (false, false) => return Err(Field::RecipientPublicKey.is("is missing, and so is roomId")),
        };
        Ok(Message {
            target,
            text: self.text(Field::Message)?,
            sender: self.key(Field::SenderPublicKey)?,
            id: self.id(Field::ClientMessageId)?,
            timestamp: Timestamp::parse(self.text(Field::Timestamp)?)
                .ok_or(Field::Timestamp.is("must be a real date of the form YYYY-MM-DDTHH:MM:SS.mmmZ"))?,
            signature: self.signature()?,
        })
    }

    fn room(&self, action: RoomAction) -> Result<ClientFrame<'a>, Wrong> {
        Ok(ClientFrame::Room { room: self.id(Field::RoomId)?, action })
    }

    fn user_or_room(&self, user: Field) -> Result<Target<'a>, Wrong> {
        match (self.has(user), self.has(Field::RoomId)) {
            (true, false) => self.key(user).map(Target::User),
            (false, true) => self.id(Field::RoomId).map(Target::Room),
            _ => Err(user.is("or roomId must be there, and not both")),
        }
    }

    fn text(&self, field: Field) -> Result<&'a str, Wrong> {
        match self.values[field as usize] {
            Value::Text(text) => Ok(text),
            _ => Err(field.is("must be text")),
        }
    }

    fn number(&self, field: Field) -> Result<u64, Wrong> {
        match self.values[field as usize] {
            Value::Number(number) => Ok(number),
            _ => Err(field.is("must be a whole number below 2^53")),
        }
    }

    fn bool(&self, field: Field) -> Result<bool, Wrong> {
        match self.values[field as usize] {
            Value::Bool(value) => Ok(value),
            _ => Err(field.is("must be true or false")),
        }
    }

    fn key(&self, field: Field) -> Result<PublicKey, Wrong> {
        PublicKey::from_hex(self.text(field)?).ok_or(field.is("must be 64 lowercase hex digits"))
    }

    fn signature(&self) -> Result<Signature, Wrong> {
        Signature::from_hex(self.text(Field::Signature)?).ok_or(Field::Signature.is("must be 128 lowercase hex digits"))
    }

    fn id(&self, field: Field) -> Result<&'a str, Wrong> {
        let text = self.text(field)?;
        if is_id(text) { Ok(text) } else { Err(field.is("must be 1 to 64 of A-Z a-z 0-9 - _ . :")) }
    }
}

/// How many nodes of the tape stand inside this one.
fn inner_count(node: Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count,
        Node::String(_) | Node::Static(_) => 0,
    }
}

fn scalar<'a>(value: StaticNode) -> Value<'a> {
    match value {
        StaticNode::U64(number) if number < limits::NUMBER_END => Value::Number(number),
        StaticNode::I64(number) => {
            u64::try_from(number).ok().filter(|&number| number < limits::NUMBER_END).map_or(Value::Other, Value::Number)
        }
        StaticNode::Bool(value) => Value::Bool(value),
        StaticNode::U64(_) | StaticNode::F64(_) | StaticNode::Null => Value::Other,
    }
}

/// Reads `{"epoch":"<16 hex>","seq":N}`, both fields once and nothing else.
fn resume(nodes: &[Node<'_>]) -> Option<Resume> {
    let [Node::Object { .. }, Node::String(first), a, Node::String(second), b] = nodes else {
        return None;
    };
    let (epoch, seq) = match (*first, *second) {
        ("epoch", "seq") => (a, b),
        ("seq", "epoch") => (b, a),
        _ => return None,
    };
    let (Node::String(epoch), Node::Static(seq)) = (epoch, seq) else {
        return None;
    };
    let Value::Number(seq) = scalar(*seq) else {
        return None;
    };
    Some(Resume { epoch: u64::from_be_bytes(read_hex(epoch)?), seq })
}
