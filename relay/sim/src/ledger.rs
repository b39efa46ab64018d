//! The model's book of messages: what was sent, how it was answered, where it arrived.
//!
//! # Invariants
//! Those of [`Invariant`] about answers and deliveries are checked here as they happen; what can be
//! said only at the end is checked by [`Ledger::check_answers`] and through [`Ledger::records`].

use std::collections::BTreeMap;
use std::collections::HashMap;

use protocol::{PublicKey, limits};
use relay_core::Nanos;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::network::LinkId;
use crate::schedule::MS;
use crate::trace::printable;

/// What is wrong with a message, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Valid,
    /// The signature is not the sender's.
    Forged,
    /// The sender's key is another user's.
    WrongSender,
    /// The timestamp is too far off.
    Stale,
    /// The text is too long.
    TooLarge,
    /// The form is wrong, and the id is not.
    Malformed,
    /// The recipient's key is no point of the curve.
    BadRecipient,
    /// It goes to a room that does not exist.
    NoRoom,
}

impl Kind {
    /// Whether the contract gives this reason for such a message. `reused` says that its id was used
    /// for another message too, `old` that its timestamp may have become too old.
    fn allows(self, reason: &str, reused: bool, old: bool) -> bool {
        match reason {
            "rate_limited" => !matches!(self, Self::WrongSender | Self::TooLarge | Self::Malformed),
            "id_conflict" => reused && !matches!(self, Self::WrongSender | Self::Malformed),
            "offline" => self == Self::Valid,
            "overloaded" => matches!(self, Self::Valid | Self::BadRecipient | Self::NoRoom),
            "signature_invalid" => self == Self::Forged,
            "sender_mismatch" => self == Self::WrongSender,
            "stale_timestamp" => {
                self == Self::Stale || old && !matches!(self, Self::WrongSender | Self::TooLarge | Self::Malformed)
            }
            "message_too_large" => self == Self::TooLarge,
            "malformed" => self == Self::Malformed,
            "invalid_recipient" => self == Self::BadRecipient,
            "no_such_room" => self == Self::NoRoom,
            _ => false,
        }
    }
}

/// One sending of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    /// On which connection.
    pub(crate) session: LinkId,
    /// As the how-manieth message of it.
    pub(crate) index: u64,
    /// When.
    pub(crate) at: Nanos,
}

/// One message: the same bytes, however often sent.
#[derive(Debug)]
pub(crate) struct Record {
    /// The user whose connection sends it.
    pub(crate) user: usize,
    /// For whom.
    pub(crate) recipient: PublicKey,
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
    /// Where it arrived, by epoch and seq of the recipient.
    place: Option<(u64, u64)>,
    /// Connections that it arrived on.
    pub(crate) arrived_on: Vec<LinkId>,
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
}

/// A message that a client was pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) session: LinkId,
    pub(crate) key: PublicKey,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// The sender's bytes.
    pub(crate) bytes: &'a [u8],
}

/// All messages of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: Vec<Record>,
    by_bytes: HashMap<Vec<u8>, usize>,
    tallies: BTreeMap<(LinkId, Box<str>), Tally>,
    ids: HashMap<(usize, Box<str>), IdUse>,
    seqs: HashMap<(PublicKey, u64, u64), usize>,
    /// By receiving and sending connection: the index of the last message that arrived.
    pairs: HashMap<(LinkId, LinkId), u64>,
    /// Times each user sent a message.
    sent_by: HashMap<usize, u32>,
    /// Times a message was sent.
    pub(crate) sent: u64,
    /// Times a message arrived.
    pub(crate) arrived: u64,
}

impl Ledger {
    /// All messages, in the order of their first sending.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Books a new message. It is not sent yet.
    pub(crate) fn add(&mut self, user: usize, recipient: PublicKey, id: &str, kind: Kind, bytes: Vec<u8>) -> usize {
        let record = self.records.len();
        self.by_bytes.insert(bytes.clone(), record);
        self.records.push(Record {
            user,
            recipient,
            id: id.into(),
            bytes,
            kind,
            sendings: Vec::new(),
            acked: false,
            place: None,
            arrived_on: Vec::new(),
        });
        record
    }

    /// Books that a message is sent on a connection.
    pub(crate) fn send(&mut self, record: usize, sending: Sending) {
        self.sent += 1;
        let message = &mut self.records[record];
        message.sendings.push(sending);
        let tally = self.tallies.entry((sending.session, message.id.clone())).or_default();
        tally.sent += 1;
        push_once(&mut tally.records, record);
        let used = self.ids.entry((message.user, message.id.clone())).or_default();
        used.first_sent.get_or_insert(sending.at);
        *self.sent_by.entry(message.user).or_default() += 1;
        push_once(&mut used.records, record);
    }

    /// Checks an `ack`.
    pub(crate) fn ack(
        &mut self,
        session: LinkId,
        id: &str,
        online: bool,
        duplicate: bool,
        now: Nanos,
    ) -> Checked<Claim> {
        let mut valid = self.answered(session, id, "ack")?;
        valid.retain(|&record| self.records[record].kind == Kind::Valid);
        let Some(&first) = valid.first() else {
            return violated(Invariant::AnswerWrong, format!("{id}: an ack for a message that is not valid"));
        };
        ensure(online, Invariant::AnswerWrong, || format!("{id}: acked for an offline recipient without a store"))?;
        let mut claim = Claim::None;
        if valid.len() == 1 {
            self.records[first].acked = true;
            claim = Claim::Online(self.records[first].recipient);
        }
        let user = self.records[first].user;
        let Some(used) = self.ids.get_mut(&(user, id.into())) else {
            return violated(Invariant::AnswerSurplus, format!("{id}: never sent by this user"));
        };
        if duplicate {
            let repeated = used.records.iter().any(|&record| self.records[record].sendings.len() > 1);
            ensure(repeated, Invariant::AnswerWrong, || format!("{id}: called a duplicate and sent once"))?;
            return Ok(claim);
        }
        used.acked_as_new += 1;
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
        ensure(kinds.iter().any(|kind| kind.allows(reason, reused, old)), Invariant::AnswerWrong, || {
            format!("{id}: {reason} for {kinds:?}, id reused: {reused}")
        })?;
        if reason != "offline" || records.len() != 1 {
            return Ok(Claim::None);
        }
        // Sent again while on its way, it may get the answer to its first sending, on any connection.
        let message = &self.records[first];
        Ok(Claim::Offline(message.recipient, message.sendings[0].at))
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

    /// Checks a message that was pushed to a client.
    pub(crate) fn arrive(&mut self, arrival: &Arrival<'_>) -> Checked {
        let Some(&record) = self.by_bytes.get(arrival.bytes) else {
            return violated(Invariant::BytesDiffer, format!("nobody sent {}", printable(arrival.bytes)));
        };
        self.arrived += 1;
        let message = &mut self.records[record];
        let id = message.id.clone();
        ensure(message.kind == Kind::Valid, Invariant::BadSignature, || {
            format!("{id}: delivered, and it is {:?}", message.kind)
        })?;
        ensure(message.recipient == arrival.key, Invariant::WrongRecipient, || {
            format!("{id} for {:?} came to {:?}", message.recipient, arrival.key)
        })?;
        ensure(!message.arrived_on.contains(&arrival.session), Invariant::DeliveredTwice, || {
            format!("{id} twice on connection {}", arrival.session)
        })?;
        let place = (arrival.epoch, arrival.seq);
        ensure(*message.place.get_or_insert(place) == place, Invariant::DeliveredTwice, || {
            format!("{id} under epoch and seq {:?} and {place:?}", message.place)
        })?;
        message.arrived_on.push(arrival.session);
        let named = *self.seqs.entry((arrival.key, arrival.epoch, arrival.seq)).or_insert(record);
        ensure(named == record, Invariant::SeqConsistent, || {
            format!("seq {} is {} and {id}", arrival.seq, self.records[named].id)
        })?;
        self.check_order(record, arrival.session)?;
        self.check_id(record)
    }

    /// Checks a receipt: each id is of a message of this user to that recipient.
    pub(crate) fn receipt<'a>(
        &self,
        user: usize,
        mut ids: impl Iterator<Item = &'a str>,
        recipient: &PublicKey,
    ) -> Checked {
        let is_theirs = |record: &usize| self.records[*record].recipient == *recipient;
        let stray = ids.find(|&id| {
            let used = self.ids.get(&(user, id.into()));
            !used.is_some_and(|used| used.records.iter().any(&is_theirs))
        });
        ensure(stray.is_none(), Invariant::AnswerSurplus, || {
            format!("a receipt of {recipient:?} for {stray:?}, which user {user} did not send there")
        })
    }

    /// Messages from one connection to another arrive in the order of sending. One that was sent on
    /// several connections has no place in the order.
    fn check_order(&mut self, record: usize, receiver: LinkId) -> Checked {
        let message = &self.records[record];
        let sender = message.sendings[0].session;
        if message.sendings.iter().any(|sending| sending.session != sender) {
            return Ok(());
        }
        let last = self.pairs.entry((receiver, sender)).or_insert(0);
        match message.sendings.iter().map(|sending| sending.index).find(|index| index > last) {
            Some(index) => {
                *last = index;
                Ok(())
            }
            None => violated(
                Invariant::PairOrder,
                format!(
                    "{}, message {} of connection {sender}, behind its message {last}",
                    message.id, message.sendings[0].index
                ),
            ),
        }
    }

    /// Two messages of one id are both delivered only if the first was sent 10 minutes ago.
    fn check_id(&mut self, record: usize) -> Checked {
        let message = &self.records[record];
        let Some(used) = self.ids.get_mut(&(message.user, message.id.clone())) else {
            return Ok(());
        };
        push_once(&mut used.delivered, record);
        let last_sent = |record: usize| self.records[record].sendings.last().map_or(0, |sending| sending.at);
        let first_sent = used.delivered.iter().map(|&record| self.records[record].sendings[0].at).min().unwrap_or(0);
        let apart = used.delivered.len() == 1
            || used.delivered.iter().any(|&record| last_sent(record) >= first_sent + limits::ID_MEMORY_MS * MS);
        ensure(apart, Invariant::IdTwice, || format!("{}: two messages of one id were delivered", message.id))
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

fn push_once(list: &mut Vec<usize>, item: usize) {
    if !list.contains(&item) {
        list.push(item);
    }
}
