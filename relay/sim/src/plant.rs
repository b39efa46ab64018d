//! Planted faults: what a broken relay would do, done between the core and its surroundings. They
//! prove that the invariants can fail.

use protocol::PublicKey;
use relay_core::{Envelope, Outcome};

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
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 21] = [
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
    ];

    /// Whether this occasion for a fault is taken: one in four.
    pub(crate) fn strikes(random: &mut Random) -> bool {
        random.chance(25)
    }
}

/// What becomes of an envelope between two shards.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for one call; a box would cost more than the copy")]
pub(crate) enum Fate {
    /// It goes on, as it is or altered.
    Pass(Envelope),
    /// It goes on before the one that was sent last.
    Overtake(Envelope),
    /// Both go on.
    Twice(Envelope, Envelope),
    /// It is lost, and this goes back to its sender.
    Answer(Envelope),
    /// It is lost.
    Lost,
}

/// What a relay without a store says of a message that was pushed.
const ACCEPTED: Outcome = Outcome::Accepted { online: true, id_stored: false, unseen: false };

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
