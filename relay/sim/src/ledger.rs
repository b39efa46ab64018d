//! The model's book of messages: what was sent, how it was answered, where it arrived.
//!
//! # Invariants
//! Those of [`Invariant`] about answers and deliveries are checked here as they happen; what can be
//! said only at the end is checked by [`Ledger::check_answers`] and through [`Ledger::records`].

mod arrival;
mod kind;
mod safety;

use std::collections::BTreeMap;
use std::collections::HashMap;

use protocol::frame::RoomAction;
use protocol::server_frame::{Ack, ReceiptStatus};
use protocol::{PublicKey, limits};
use relay_core::Nanos;

pub(crate) use arrival::Arrival;
pub(crate) use kind::Kind;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::network::LinkId;
use crate::rooms::Rooms;
use crate::schedule::MS;

/// One sending of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    /// On which connection.
    pub(crate) session: LinkId,
    /// Of which device.
    pub(crate) device: usize,
    /// As the how-manieth message of it.
    pub(crate) index: u64,
    /// When.
    pub(crate) at: Nanos,
}

/// A place in an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Whose inbox.
    pub(crate) owner: PublicKey,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

/// One message: the same bytes, however often sent.
#[derive(Debug)]
pub(crate) struct Record {
    /// The user whose connection sends it.
    pub(crate) user: usize,
    /// The same, as the key of the connection.
    pub(crate) sender: PublicKey,
    /// For whom.
    pub(crate) recipient: PublicKey,
    /// In which room, and to all of it or to the recipient alone.
    pub(crate) room: Option<(Box<str>, bool)>,
    /// Whom it must come to, if it is acked: without a room the recipient, otherwise those who are members
    /// all the time until then.
    pub(crate) owed: Vec<PublicKey>,
    /// Its `clientMessageId`.
    pub(crate) id: Box<str>,
    /// The frame.
    pub(crate) bytes: Vec<u8>,
    /// What is wrong with it.
    pub(crate) kind: Kind,
    /// Each time it was sent, in order.
    pub(crate) sendings: Vec<Sending>,
    /// An ack of this message, and of no other with its id, came.
    pub(crate) acked: bool,
    /// Such an ack came while the store was in order.
    pub(crate) copy_due: bool,
    /// Its places in the sender's inbox, as acks told them.
    own_places: Vec<Place>,
    /// The run of the relay that it was first sent to.
    first_run: u32,
    /// It was refused, and nothing since said otherwise.
    pub(crate) refused: bool,
    /// Where it arrived, and in which run of the relay.
    places: Vec<(Place, u32)>,
    /// So many more places than one it may have: its entry was taken back, or a crash took its id.
    places_spare: u32,
    /// Connections that it arrived on.
    pub(crate) arrived_on: Vec<LinkId>,
    /// Devices that it arrived at.
    pub(crate) had_by: Vec<usize>,
    /// Those in whose inbox the disk has or had it.
    pub(crate) kept_for: Vec<PublicKey>,
    /// A crash took it from those devices of its recipient that had not confirmed it.
    pub(crate) is_lost_to_some: bool,
    /// Those of whom a device said that it has it, and that it was read.
    confirmed_by: Vec<PublicKey>,
    read_by: Vec<PublicKey>,
    /// Receipts, by device that got them and run of the relay.
    receipts: Vec<(usize, ReceiptStatus, u32)>,
}

impl Record {
    /// Whether one of a user's devices sent it.
    pub(crate) fn was_sent_by(&self, device: usize) -> bool {
        self.sendings.iter().any(|sending| sending.device == device)
    }

    /// Whether a device sent it, and heard of no place of it in that epoch.
    pub(crate) fn may_be_skipped(&self, device: usize, epoch: u64) -> bool {
        self.kind == Kind::Valid
            && self.was_sent_by(device)
            && !self.own_places.iter().any(|place| place.epoch == epoch)
    }

    /// Whether the relay may say that it answers for it.
    fn is_safe(&self) -> bool {
        self.owed.iter().all(|key| self.kept_for.contains(key) || self.confirmed_by.contains(key))
    }
}

/// What happened to one id on one connection.
#[derive(Debug, Default)]
struct Tally {
    sent: u32,
    answered: u32,
    records: Vec<usize>,
}

/// What happened to one id of one user.
#[derive(Debug, Default)]
struct IdUse {
    records: Vec<usize>,
    first_sent: Option<Nanos>,
    acked_as_new: u32,
    /// When it was acked as new.
    acked_at: Option<Nanos>,
    /// It was accepted by a run of the relay that is over, and must be known until then.
    known_until: Option<Nanos>,
    delivered: Vec<usize>,
}

/// What the caller must still check of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing.
    None,
    /// That this user was online.
    Online(PublicKey),
    /// That this user was not online all the time since then.
    Offline(PublicKey, Nanos),
    /// That this user's inbox may have had no room since then, after so many messages of the sender.
    Full(PublicKey, Nanos, u32),
}

/// Who reads a frame: a connection, in its epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) session: LinkId,
    pub(crate) device: usize,
    pub(crate) user: usize,
    pub(crate) key: PublicKey,
    pub(crate) epoch: u64,
    pub(crate) now: Nanos,
    /// Which run of the relay wrote what it reads.
    pub(crate) run: u32,
}

/// All messages of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: Vec<Record>,
    by_bytes: HashMap<Vec<u8>, usize>,
    tallies: BTreeMap<(LinkId, Box<str>), Tally>,
    ids: HashMap<(usize, Box<str>), IdUse>,
    seqs: HashMap<Place, usize>,
    /// Places that devices were not given anything at, and nothing was said of.
    skipped: BTreeMap<Place, Vec<usize>>,
    /// By receiving and sending connection: the index of the last message that arrived.
    pairs: HashMap<(LinkId, LinkId), u64>,
    /// Times each user sent a message.
    sent_by: HashMap<usize, u32>,
    pub(crate) rooms: Rooms,
    /// Whether the relay has a store.
    pub(crate) has_store: bool,
    /// The store is in order.
    pub(crate) is_store_sound: bool,
    /// Which start of the relay it is.
    pub(crate) run: u32,
    /// Times a message was sent.
    pub(crate) sent: u64,
    /// Times a message arrived.
    pub(crate) arrived: u64,
}

impl Ledger {
    /// Opens the book of a relay with a store or without.
    pub(crate) fn new(has_store: bool) -> Self {
        Self { has_store, is_store_sound: true, ..Self::default() }
    }

    /// All messages, in the order of their first sending.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Books a new message of a user, given with its key. It is not sent yet.
    pub(crate) fn add(
        &mut self,
        (user, sender): (usize, PublicKey),
        recipient: PublicKey,
        id: &str,
        kind: Kind,
        bytes: Vec<u8>,
    ) -> usize {
        let record = self.records.len();
        self.by_bytes.insert(bytes.clone(), record);
        self.records.push(Record {
            user,
            sender,
            recipient,
            room: None,
            owed: vec![recipient],
            id: id.into(),
            bytes,
            kind,
            sendings: Vec::new(),
            acked: false,
            copy_due: false,
            own_places: Vec::new(),
            first_run: self.run,
            refused: false,
            places: Vec::new(),
            places_spare: 0,
            arrived_on: Vec::new(),
            had_by: Vec::new(),
            kept_for: Vec::new(),
            is_lost_to_some: false,
            confirmed_by: Vec::new(),
            read_by: Vec::new(),
            receipts: Vec::new(),
        });
        record
    }

    /// Books a new message of a user to a room, or privately to a member of it.
    pub(crate) fn add_to_room(
        &mut self,
        sender: (usize, PublicKey),
        (room, to): (&str, Option<PublicKey>),
        id: &str,
        bytes: Vec<u8>,
    ) -> usize {
        let record = self.add(sender, to.unwrap_or(sender.1), id, Kind::Valid, bytes);
        self.records[record].room = Some((room.into(), to.is_some()));
        record
    }

    /// Something is asked of a room: who may leave it by that is not owed what is not acked yet.
    pub(crate) fn ask_room(&mut self, room: &str, who: (LinkId, PublicKey), ask: RoomAction, now: Nanos) {
        let Some(key) = self.rooms.ask(room, who, ask, now) else { return };
        for record in self.records.iter_mut().filter(|record| !record.acked) {
            if record.room.as_ref().is_some_and(|(name, _)| **name == *room) {
                record.owed.retain(|owed| *owed != key);
            }
        }
    }

    /// Books that a message is sent on a connection.
    pub(crate) fn send(&mut self, record: usize, sending: Sending) {
        self.sent += 1;
        let message = &mut self.records[record];
        if let (Some((room, is_private)), true) = (&message.room, message.sendings.is_empty()) {
            message.owed = self.rooms.members(room, sending.at);
            let (sender, recipient, is_private) = (message.sender, message.recipient, *is_private);
            message.owed.retain(|key| *key != sender && (!is_private || *key == recipient));
        }
        message.sendings.push(sending);
        message.refused = false;
        let tally = self.tallies.entry((sending.session, message.id.clone())).or_default();
        tally.sent += 1;
        push_once(&mut tally.records, record);
        let used = self.ids.entry((message.user, message.id.clone())).or_default();
        used.first_sent.get_or_insert(sending.at);
        *self.sent_by.entry(message.user).or_default() += 1;
        push_once(&mut used.records, record);
    }

    /// Checks an `ack`.
    pub(crate) fn ack(&mut self, reader: &Reader, ack: &Ack<'_>) -> Checked<Claim> {
        let (id, now) = (ack.id, reader.now);
        let mut valid = self.answered(reader.session, id, "ack")?;
        valid.retain(|&record| self.records[record].kind == Kind::Valid);
        let Some(&first) = valid.first() else {
            return violated(Invariant::AnswerWrong, format!("{id}: an ack for a message that is not valid"));
        };
        let is_room = self.records[first].room.is_some();
        ensure(ack.online || self.has_store || is_room, Invariant::AnswerWrong, || {
            format!("{id}: acked for an offline recipient without a store")
        })?;
        let has_seq = ack.seq.is_some();
        ensure(if self.has_store { has_seq || ack.duplicate } else { !has_seq }, Invariant::AnswerWrong, || {
            format!("{id}: acked with seq {:?}, with a store: {}", ack.seq, self.has_store)
        })?;
        let mut claim = Claim::None;
        if let [only] = valid[..] {
            let message = &mut self.records[only];
            message.acked = true;
            message.copy_due |= self.has_store && self.is_store_sound;
            if ack.online && !is_room {
                claim = Claim::Online(message.recipient);
            }
            if let Some(seq) = ack.seq {
                let place = Place { owner: reader.key, epoch: reader.epoch, seq };
                push_once(&mut message.own_places, place);
                self.name(place, only)?;
            }
        }
        let user = self.records[first].user;
        let Some(used) = self.ids.get_mut(&(user, id.into())) else {
            return violated(Invariant::AnswerSurplus, format!("{id}: never sent by this user"));
        };
        if ack.duplicate {
            let repeated = used.records.iter().any(|&record| self.records[record].sendings.len() > 1);
            ensure(repeated, Invariant::AnswerWrong, || format!("{id}: called a duplicate and sent once"))?;
            return Ok(claim);
        }
        if reader.run < self.run {
            return Ok(claim);
        }
        ensure(used.known_until.is_none_or(|until| until <= now), Invariant::IdForgotten, || {
            format!("{id}: acked as new, and was accepted before the relay started anew")
        })?;
        used.acked_as_new += 1;
        used.acked_at = Some(now);
        let again_ok = used.first_sent.is_some_and(|first| now >= first + limits::ID_MEMORY_MS * MS);
        ensure(used.acked_as_new == 1 || again_ok, Invariant::IdTwice, || {
            format!("{id}: acked as new {} times", used.acked_as_new)
        })?;
        Ok(claim)
    }

    /// Checks an `error` that names a message.
    pub(crate) fn error(&mut self, session: LinkId, id: &str, reason: &str, now: Nanos) -> Checked<Claim> {
        let records = self.answered(session, id, reason)?;
        let kinds: Vec<Kind> = records.iter().map(|&record| self.records[record].kind).collect();
        let first = records[0];
        let user = self.records[first].user;
        let reused = self.ids.get(&(user, id.into())).is_some_and(|used| used.records.len() > 1);
        let old =
            records.iter().any(|&record| self.records[record].sendings[0].at + limits::TIMESTAMP_SKEW_MS * MS <= now);
        let sent = self.sent_by.get(&user).copied().unwrap_or(0);
        ensure(reason != "rate_limited" || sent > limits::MESSAGES_PER_SECOND * 2, Invariant::AnswerWrong, || {
            format!("{id}: rate_limited after {sent} messages")
        })?;
        for message in records.iter().map(|&record| &self.records[record]) {
            let Some((room, _)) = message.room.as_ref().filter(|_| matches!(reason, "not_member" | "no_such_room"))
            else {
                continue;
            };
            // The room was there and both were in it, from before the sending until now.
            let at = message.sendings[0].at;
            let is_member = |key: &PublicKey| self.rooms.must(room, key, at);
            let both = is_member(&message.sender) && is_member(&message.recipient);
            ensure(!both, Invariant::MembershipLost, || {
                format!("{id}: {reason} in {room}, of which {:?} is a member", message.sender)
            })?;
        }
        let to_room = records.iter().any(|&record| self.records[record].room.is_some());
        let allowed = to_room && matches!(reason, "not_member" | "no_such_room")
            || kinds.iter().any(|kind| kind.allows(reason, reused, old, self.has_store));
        ensure(allowed, Invariant::AnswerWrong, || format!("{id}: {reason} for {kinds:?}, id reused: {reused}"))?;
        if records.len() != 1 {
            return Ok(Claim::None);
        }
        let message = &mut self.records[first];
        message.refused = true;
        // Sent again while on its way, it may get the answer to its first sending, on any connection.
        Ok(match reason {
            "offline" => Claim::Offline(message.recipient, message.sendings[0].at),
            "inbox_full" => Claim::Full(message.recipient, message.sendings[0].at, sent),
            _ => Claim::None,
        })
    }

    /// Whether an ack told that this is the place of a message that the device sent.
    pub(crate) fn is_own(&self, place: Place, device: usize) -> bool {
        self.seqs.get(&place).is_some_and(|&record| {
            let record = &self.records[record];
            record.was_sent_by(device) && record.own_places.contains(&place)
        })
    }

    /// Books an answer. Returns the messages of this id on this connection, at least one.
    fn answered(&mut self, session: LinkId, id: &str, what: &str) -> Checked<Vec<usize>> {
        let Some(tally) = self.tallies.get_mut(&(session, id.into())) else {
            return violated(Invariant::AnswerSurplus, format!("{id}: {what} for an id that was not sent here"));
        };
        tally.answered += 1;
        ensure(tally.answered <= tally.sent, Invariant::AnswerSurplus, || {
            format!("{id}: {what} is answer {} to {} sendings", tally.answered, tally.sent)
        })?;
        Ok(tally.records.clone())
    }

    /// Checks, once quiet, that everything sent on the connections for which `whole` holds was
    /// answered.
    pub(crate) fn check_answers(&self, whole: impl Fn(LinkId) -> bool) -> Checked {
        for ((session, id), tally) in &self.tallies {
            ensure(tally.answered == tally.sent || !whole(*session), Invariant::AnswerMissing, || {
                format!("{id} on connection {session}: {} answers to {} sendings", tally.answered, tally.sent)
            })?;
        }
        Ok(())
    }
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
