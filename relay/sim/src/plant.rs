//! Planted faults: what a broken relay would do, done between the core and its surroundings. They
//! prove that the invariants can fail.

use protocol::PublicKey;
use relay_core::store::{ReceiptStatus, Restored};
use relay_core::{Batch, Envelope, Outcome, Page};

use crate::random::Random;

/// A fault to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Messages to other shards get lost.
    LoseDeliver,
    /// Answers about messages get lost.
    LoseDelivered,
    /// Messages to other shards come twice.
    RepeatDeliver,
    /// Messages to another shard overtake each other.
    SwapDelivers,
    /// The text of a message changes on the way to another shard.
    AlterDeliver,
    /// A message goes to somebody else on another shard.
    MisdirectDeliver,
    /// Messages to other shards get lost, and are said to be delivered.
    AckAndForget,
    /// An offline recipient is called online.
    InventOnline,
    /// An online recipient is called offline.
    InventOffline,
    /// Other shards do not hear who left.
    HideLeft,
    /// Connections get lost on the way to their home.
    LoseHandOver,
    /// Connections arrive at a shard that is not their home.
    MisdirectHandOver,
    /// A byte of the relay's JSON is wrong on the way to the client.
    FlipByte,
    /// A write comes twice.
    RepeatWrite,
    /// Connections are never closed.
    IgnoreClose,
    /// Timers do not fire.
    IgnoreTimers,
    /// A write is said to be done and never was.
    LoseWrite,
    /// Signatures are not checked.
    TrustSignatures,
    /// Message ids are forgotten at once.
    ForgetIds,
    /// Outboxes grow past their bound.
    LooseOutbox,
    /// Senders are slowed down before their burst is used up.
    MeanRate,
    /// The store says that batches are safe which a crash takes.
    DropSync,
    /// Messages are said to be accepted when they are sent to the recipient's shard.
    AckEarly,
    /// Devices are stored as having confirmed everything.
    SkipCursor,
    /// Message ids are forgotten when the relay starts.
    ForgetStoredIds,
    /// Users go on in their epoch though seqs were given away that nobody stored.
    TrustRecord,
    /// A message of an inbox is forgotten when the relay starts.
    LoseEntry,
    /// A message is missing in a page of the store.
    LosePage,
    /// Copies for the sender's other devices are not stored.
    LoseOwnCopies,
    /// The store forgets which device sent a message.
    ForgetOrigin,
    /// Nobody who moves to another shard goes on where it was.
    ForgetResume,
    /// Users are unknown after a restart, and so are their epochs.
    ForgetEpoch,
    /// Receipts of delivery are told as read.
    InventRead,
    /// Receipts come twice.
    RepeatReceipt,
    /// A batch is stored without its users.
    LoseUsers,
    /// Private messages come to the whole room.
    LeakPrivate,
    /// Messages of a room come to somebody else too.
    LeakRoom,
    /// A member of a room is forgotten when the relay starts.
    ForgetMember,
    /// Somebody is a member of every room when the relay starts.
    InventMember,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 39] = [
        Self::LoseDeliver,
        Self::LoseDelivered,
        Self::RepeatDeliver,
        Self::SwapDelivers,
        Self::AlterDeliver,
        Self::MisdirectDeliver,
        Self::AckAndForget,
        Self::InventOnline,
        Self::InventOffline,
        Self::HideLeft,
        Self::LoseHandOver,
        Self::MisdirectHandOver,
        Self::FlipByte,
        Self::RepeatWrite,
        Self::IgnoreClose,
        Self::IgnoreTimers,
        Self::LoseWrite,
        Self::TrustSignatures,
        Self::ForgetIds,
        Self::LooseOutbox,
        Self::MeanRate,
        Self::DropSync,
        Self::AckEarly,
        Self::SkipCursor,
        Self::ForgetStoredIds,
        Self::TrustRecord,
        Self::LoseEntry,
        Self::LosePage,
        Self::LoseOwnCopies,
        Self::ForgetOrigin,
        Self::ForgetResume,
        Self::ForgetEpoch,
        Self::InventRead,
        Self::RepeatReceipt,
        Self::LoseUsers,
        Self::LeakPrivate,
        Self::LeakRoom,
        Self::ForgetMember,
        Self::InventMember,
    ];

    /// Whether this occasion for a fault is taken: one in four.
    pub(crate) fn strikes(random: &mut Random) -> bool {
        random.chance(25)
    }
}

/// What becomes of an envelope between two shards.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It goes on, as it is or altered.
    Pass(Envelope),
    /// It goes on before the one that was sent last.
    Overtake(Envelope),
    /// Both go on.
    Twice(Envelope, Envelope),
    /// It is lost, and this goes back to its sender.
    Answer(Envelope),
    /// It goes on, and this goes back to its sender.
    AnswerToo(Envelope, Envelope),
    /// It is lost.
    Lost,
}

/// What a relay without a store says of a message that was pushed.
const ACCEPTED: Outcome = Outcome::Accepted { online: true, stored: false, id_stored: false, unseen: false };

/// Applies a planted fault to an envelope. `someone` is a user, whom it may go to instead.
pub(crate) fn meddle(plant: Plant, mut envelope: Envelope, someone: PublicKey) -> Fate {
    match (&mut envelope, plant) {
        (Envelope::Deliver { .. }, Plant::LoseDeliver) | (Envelope::Delivered { .. }, Plant::LoseDelivered) => {
            return Fate::Lost;
        }
        (Envelope::Deliver { .. }, Plant::SwapDelivers) => return Fate::Overtake(envelope),
        (Envelope::Deliver { ticket, parcel }, Plant::RepeatDeliver) => {
            let again = Envelope::Deliver { ticket: *ticket, parcel: parcel.clone() };
            return Fate::Twice(envelope, again);
        }
        (Envelope::Deliver { ticket, parcel }, Plant::AckAndForget) => {
            let (outcome, buffer) = (ACCEPTED, std::mem::take(&mut parcel.frame));
            return Fate::Answer(Envelope::Delivered { ticket: *ticket, outcome, buffer });
        }
        (Envelope::Deliver { ticket, .. }, Plant::AckEarly) => {
            let outcome = Outcome::Accepted { online: false, stored: false, id_stored: false, unseen: false };
            let answer = Envelope::Delivered { ticket: *ticket, outcome, buffer: Vec::new() };
            return Fate::AnswerToo(envelope, answer);
        }
        (Envelope::RoomMessage { message, .. }, Plant::LeakPrivate) => message.to = None,
        (Envelope::RoomDeliver { share, .. }, Plant::LeakRoom) => {
            share.members = share.members.iter().copied().chain([someone]).collect();
        }
        (Envelope::Receipt { receipts, .. }, Plant::InventRead) => receipts.status = ReceiptStatus::Read,
        (Envelope::Receipt { to, receipts }, Plant::RepeatReceipt) => {
            let again = Envelope::Receipt { to: *to, receipts: receipts.clone() };
            return Fate::Twice(envelope, again);
        }
        (Envelope::Deliver { parcel, .. }, Plant::AlterDeliver) => alter_text(&mut parcel.frame),
        (Envelope::Deliver { parcel, .. }, Plant::MisdirectDeliver) => {
            parcel.recipient = someone;
        }
        (Envelope::Delivered { outcome, .. }, Plant::InventOnline) => *outcome = ACCEPTED,
        (Envelope::Delivered { outcome, .. }, Plant::InventOffline) => *outcome = Outcome::Offline,
        (Envelope::Lobby { left, .. }, Plant::HideLeft) => left.clear(),
        _ => {}
    }
    Fate::Pass(envelope)
}

/// Applies a planted fault to what is to be stored.
pub(crate) fn spoil_batch(plant: Plant, batch: &mut Batch) {
    match plant {
        Plant::SkipCursor => {
            for user in &mut batch.users {
                user.devices.iter_mut().for_each(|device| device.cursor = user.seq);
            }
        }
        Plant::LoseOwnCopies => batch.entries.retain(|entry| entry.origin.is_none()),
        Plant::ForgetOrigin => batch.entries.iter_mut().for_each(|entry| entry.origin = None),
        Plant::LoseUsers => batch.users.clear(),
        _ => {}
    }
}

/// Applies a planted fault to a page of the store.
pub(crate) fn spoil_page(plant: Plant, page: &mut Page) {
    if plant == Plant::LosePage && !page.entries.is_empty() {
        page.entries.remove(page.entries.len() / 2);
    }
}

/// Applies a planted fault to what the relay finds when it starts.
pub(crate) fn spoil_restored(plant: Plant, restored: &mut Restored, random: &mut Random) {
    match plant {
        Plant::ForgetStoredIds => restored.ids.clear(),
        Plant::TrustRecord => restored.users.iter_mut().for_each(|user| user.record.exact = true),
        Plant::ForgetEpoch => restored.users.iter_mut().for_each(|user| user.record.exact = false),
        Plant::ForgetMember => {
            for room in restored.rooms.iter_mut().filter(|room| room.members.len() > 1) {
                room.members.pop();
            }
        }
        Plant::InventMember => {
            let someone = restored.users.first().map(|user| (user.record.key, 0));
            for room in &mut restored.rooms {
                room.members.extend(someone.filter(|(key, _)| room.members.iter().all(|(member, _)| member != key)));
            }
        }
        Plant::LoseEntry => {
            for user in restored.users.iter_mut().filter(|user| !user.kept.is_empty()) {
                if Plant::strikes(random) {
                    user.kept.remove(random.index(user.kept.len()));
                }
            }
        }
        _ => {}
    }
}

/// Changes one byte of a message's text, leaving it valid JSON.
fn alter_text(frame: &mut [u8]) {
    const FIELD: &[u8] = b"\"message\":\"";
    if let Some(at) = frame.windows(FIELD.len()).position(|part| part == FIELD)
        && let Some(byte) = frame[at + FIELD.len()..].first_mut()
        && byte.is_ascii_alphabetic()
    {
        *byte ^= 0x20;
    }
}

/// Flips the case of one letter in the values of a written buffer.
pub(crate) fn flip_byte(buffer: &mut [u8], random: &mut Random) {
    let at = random.index(buffer.len());
    if let Some(byte) = buffer[at..].iter_mut().find(|byte| byte.is_ascii_hexdigit()) {
        *byte = if *byte == b'0' { b'1' } else { b'0' };
    }
}
