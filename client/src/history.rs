//! Messages kept in memory, a conversation per user or room, in the order of the own inbox.
//!
//! # Invariants
//! - Within a conversation, entries that have a seq stand in its order. An entry without one (an own
//!   message, unless the relay has a store) stays behind what was there when it was written.
//! - Bounded twice: the oldest entries of a long conversation go, and so does the conversation that
//!   was quiet the longest. At the default of 256 × 256 messages of about 300 bytes, 20 MB; of the
//!   longest ones (1,000 characters of four bytes), 280 MB.

use std::collections::{HashMap, VecDeque};

use protocol::frame::Target;
use protocol::{PublicKey, Timestamp};

/// With whom a conversation is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A user.
    User(PublicKey),
    /// A room, private messages in it included.
    Room(String),
}

impl Peer {
    /// The same as a target, never a member of a room.
    pub(crate) fn as_target(&self) -> Target<'_> {
        match self {
            Self::User(user) => Target::User(*user),
            Self::Room(room) => Target::Room(room),
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the own inbox, where it has one.
    pub seq: Option<u64>,
    /// Who wrote it.
    pub sender: PublicKey,
    /// Its `clientMessageId`.
    pub id: String,
    /// The sender's clock.
    pub timestamp: Timestamp,
    /// The text.
    pub text: String,
    /// How far it got, as far as is known.
    pub status: Status,
}

/// How far a message got; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Status {
    /// Somebody else's, verified.
    Received,
    /// Own, without an answer from the relay.
    Sending,
    /// Own, and refused or without an answer for too long. It may have arrived all the same.
    Failed,
    /// Own, and the relay has taken responsibility.
    Sent,
    /// Own, and a device of the recipient has it.
    Delivered,
    /// Own, and read, in a room by at least one.
    Read,
}

impl Status {
    /// Whether an own message may go on from `self` to `next`: forwards only, and what got an answer
    /// does not fail any more.
    fn leads_to(self, next: Self) -> bool {
        next > self && (next != Self::Failed || self == Self::Sending)
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Conversations; 0 keeps no history at all.
    pub peers_max: usize,
    /// Messages of each conversation; 0 keeps no history at all.
    pub messages_per_peer_max: usize,
}

impl Default for HistoryBounds {
    /// 256 conversations of 256 messages.
    fn default() -> Self {
        Self { peers_max: 256, messages_per_peer_max: 256 }
    }
}

/// The conversations.
#[derive(Debug)]
pub struct History {
    bounds: HistoryBounds,
    conversations: HashMap<Peer, Conversation>,
    /// Grows with each entry; tells which conversation was quiet the longest.
    tick: u64,
}

#[derive(Debug, Default)]
struct Conversation {
    entries: VecDeque<Entry>,
    last_tick: u64,
}

impl History {
    pub(crate) fn new(bounds: HistoryBounds) -> Self {
        Self { bounds, conversations: HashMap::new(), tick: 0 }
    }

    /// With whom there are messages, in no particular order.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.conversations.keys()
    }

    /// The messages with `peer`, oldest first.
    pub fn with<'a>(&'a self, peer: &Peer) -> impl DoubleEndedIterator<Item = &'a Entry> + use<'a> {
        self.conversations.get(peer).into_iter().flat_map(|conversation| &conversation.entries)
    }

    pub(crate) fn insert(&mut self, peer: Peer, entry: Entry) {
        if self.bounds.peers_max == 0 || self.bounds.messages_per_peer_max == 0 {
            return;
        }
        if !self.conversations.contains_key(&peer) && self.conversations.len() >= self.bounds.peers_max {
            let quietest = self.conversations.iter().min_by_key(|(_, conversation)| conversation.last_tick);
            if let Some(quietest) = quietest.map(|(peer, _)| peer.clone()) {
                self.conversations.remove(&quietest);
            }
        }
        self.tick += 1;
        let conversation = self.conversations.entry(peer).or_default();
        conversation.last_tick = self.tick;
        conversation.place(entry);
        if conversation.entries.len() > self.bounds.messages_per_peer_max {
            conversation.entries.pop_front();
        }
    }

    /// Whether a message is kept.
    pub(crate) fn contains(&self, peer: &Peer, sender: &PublicKey, id: &str) -> bool {
        self.with(peer).rev().any(|entry| entry.id == id && entry.sender == *sender)
    }

    /// Sets the timestamp that an own message was signed with.
    pub(crate) fn set_timestamp(&mut self, peer: &Peer, id: &str, timestamp: Timestamp) {
        let Some(conversation) = self.conversations.get_mut(peer) else { return };
        let own = conversation.entries.iter_mut().rev();
        if let Some(entry) = own.filter(|entry| entry.status != Status::Received).find(|entry| entry.id == id) {
            entry.timestamp = timestamp;
        }
    }

    /// Moves an own message on to `status`, if that is progress, and sets its seq once the relay has
    /// told it.
    pub(crate) fn set_status(&mut self, peer: &Peer, id: &str, status: Status, seq: Option<u64>) {
        let Some(conversation) = self.conversations.get_mut(peer) else { return };
        let found = conversation.entries.iter().rposition(|entry| entry.status != Status::Received && entry.id == id);
        let Some(at) = found else { return };
        if conversation.entries[at].status.leads_to(status) {
            conversation.entries[at].status = status;
        }
        if seq.is_some() && conversation.entries[at].seq.is_none() {
            let mut entry = conversation.entries.remove(at).expect("the position was just found");
            entry.seq = seq;
            conversation.place(entry);
        }
    }

    /// Makes all that is there precede what comes: seqs are counted anew.
    pub(crate) fn forget_seqs(&mut self) {
        for conversation in self.conversations.values_mut() {
            for entry in &mut conversation.entries {
                entry.seq = None;
            }
        }
    }
}

impl Conversation {
    fn place(&mut self, entry: Entry) {
        let later = |other: &Entry| matches!((other.seq, entry.seq), (Some(other), Some(own)) if other > own);
        // Nearly always at the end, so look from there. An entry without a seq never moves others.
        let mut at = self.entries.len();
        for (index, other) in self.entries.iter().enumerate().rev() {
            if later(other) {
                at = index;
            } else if other.seq.is_some() {
                break;
            }
        }
        self.entries.insert(at, entry);
    }
}

/// The conversation that a message belongs to, seen from `own`.
pub(crate) fn peer_of(target: &Target<'_>, sender: PublicKey, own: PublicKey) -> Peer {
    match *target {
        Target::User(recipient) if sender == own => Peer::User(recipient),
        Target::User(_) => Peer::User(sender),
        Target::Room(room) | Target::RoomMember(room, _) => Peer::Room(room.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, seq: Option<u64>) -> Entry {
        Entry {
            seq,
            sender: PublicKey::from_bytes([1; 32]),
            id: id.to_owned(),
            timestamp: Timestamp::from_unix_ms(0),
            text: String::new(),
            status: if seq.is_some() { Status::Received } else { Status::Sending },
        }
    }

    fn peer(n: u8) -> Peer {
        Peer::User(PublicKey::from_bytes([n; 32]))
    }

    fn ids(history: &History, with: &Peer) -> Vec<String> {
        history.with(with).map(|entry| entry.id.clone()).collect()
    }

    #[test]
    fn seqs_order_a_conversation_and_own_messages_stay_where_they_were_written() {
        let mut history = History::new(HistoryBounds::default());
        for (id, seq) in [("five", Some(5)), ("own", None), ("eight", Some(8)), ("seven", Some(7)), ("two", Some(2))] {
            history.insert(peer(1), entry(id, seq));
        }
        assert_eq!(ids(&history, &peer(1)), ["two", "five", "own", "seven", "eight"]);
        history.set_status(&peer(1), "own", Status::Sent, None);
        assert_eq!(ids(&history, &peer(1)), ["two", "five", "own", "seven", "eight"]);
        history.set_status(&peer(1), "own", Status::Sent, Some(9));
        assert_eq!(ids(&history, &peer(1)), ["two", "five", "seven", "eight", "own"]);
        assert_eq!(history.with(&peer(1)).last().map(|entry| entry.status), Some(Status::Sent));
    }

    #[test]
    fn a_status_only_goes_forwards() {
        use Status::{Delivered, Failed, Read, Sending, Sent};
        for (from, next, then) in [
            (Sending, Failed, Failed),
            (Failed, Sent, Sent),
            (Sent, Failed, Sent),
            (Sent, Read, Read),
            (Read, Delivered, Read),
            (Delivered, Sent, Delivered),
        ] {
            let mut history = History::new(HistoryBounds::default());
            history.insert(peer(1), Entry { status: from, ..entry("own", None) });
            history.set_status(&peer(1), "own", next, None);
            assert_eq!(history.with(&peer(1)).next().map(|entry| entry.status), Some(then), "{from:?} {next:?}");
        }
    }

    #[test]
    fn seqs_counted_anew_follow_the_old_ones() {
        let mut history = History::new(HistoryBounds::default());
        history.insert(peer(1), entry("old", Some(900)));
        history.forget_seqs();
        history.insert(peer(1), entry("second", Some(2)));
        history.insert(peer(1), entry("first", Some(1)));
        assert_eq!(ids(&history, &peer(1)), ["old", "first", "second"]);
    }

    #[test]
    fn both_bounds_hold() {
        let mut history = History::new(HistoryBounds { peers_max: 2, messages_per_peer_max: 2 });
        for seq in 1..=3 {
            history.insert(peer(1), entry(&seq.to_string(), Some(seq)));
        }
        assert_eq!(ids(&history, &peer(1)), ["2", "3"]);
        history.insert(peer(2), entry("x", Some(4)));
        history.insert(peer(1), entry("5", Some(5)));
        history.insert(peer(3), entry("y", Some(6)));
        let mut peers: Vec<_> = history.peers().cloned().collect();
        peers.sort();
        assert_eq!(peers, [peer(1), peer(3)], "the quietest went");
        let mut none = History::new(HistoryBounds { peers_max: 0, messages_per_peer_max: 5 });
        none.insert(peer(1), entry("x", Some(1)));
        assert_eq!(none.peers().count(), 0);
    }
}
