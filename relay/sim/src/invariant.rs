//! What must hold, by name.

use std::fmt;

/// A rule of the contract, the core or the engine seam that the simulator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// Effects name open connections; one write in flight at most; a hand-over goes to the home of
    /// the key with nothing in flight.
    EngineContract,
    /// A buffer in flight is within the bound of the outbox.
    OutboxBound,
    /// A shard that wants to be woken has something to do then.
    TimerSpins,
    /// What the relay sends is a frame of the contract.
    FrameForm,
    /// Challenge, then welcome with the session's own facts, then everything else.
    Opening,
    /// Every honest login succeeds.
    LoginMissing,
    /// Pages of a snapshot have one rev, no delta lies between them, the own key is in it.
    LobbySnapshot,
    /// Revs never fall, and grow with each delta.
    LobbyRevision,
    /// No key is in both arrays, joins twice, or leaves without having joined.
    LobbyDelta,
    /// Count and digest agree with the client's own list, after every page and delta.
    LobbyDigest,
    /// Who asked for no lobby gets none.
    LobbyUnwanted,
    /// Who asks for a fresh snapshot gets one.
    LobbySync,
    /// Once quiet, every list is exactly who is online: no ghost, nobody missing.
    LobbyTruth,
    /// Seqs on a connection count up by one, but for what the device sent itself, and from where it
    /// resumed, if it recovered.
    SeqGapless,
    /// A seq of a key names one message, whichever device it reaches.
    SeqConsistent,
    /// An epoch lasts as long as its key stays online; with a store it lasts for ever, but for the crash
    /// of a relay that had given seqs away.
    Epoch,
    /// Only who can have everything from where it asks is told that it recovered.
    FalseRecovered,
    /// Who has missed nothing recovers.
    ResumeRefused,
    /// What arrives is what somebody sent, byte for byte.
    BytesDiffer,
    /// What arrives was signed by its sender.
    BadSignature,
    /// What arrives is for this key.
    WrongRecipient,
    /// Nothing arrives twice on one connection, or under two seqs of one epoch.
    DeliveredTwice,
    /// Messages from one connection to one key arrive in the order of their sending.
    PairOrder,
    /// Every frame that wants an answer gets one unless its connection breaks.
    AnswerMissing,
    /// No frame gets two.
    AnswerSurplus,
    /// The answer is one that the contract gives to such a frame.
    AnswerWrong,
    /// An acked message reaches every device that is online throughout, and in the end every device that
    /// the relay knew.
    AckedLost,
    /// With a store, an ack is written when the disk has the message or a device has confirmed it, not
    /// before.
    AckEarly,
    /// The sender's other devices get what was acked.
    OwnCopyLost,
    /// The device that sent a message does not get it back.
    OwnCopyBack,
    /// A receipt tells what a device of the recipient said.
    ReceiptFalse,
    /// A receipt tells it once in a run of the relay.
    ReceiptTwice,
    /// A recipient who is online throughout is not called offline.
    FalseOffline,
    /// A message id is accepted once in 10 minutes.
    IdTwice,
    /// So it is across restarts.
    IdForgotten,
    /// Messages of a room come to its members only.
    RoomLeak,
    /// Private ones come to their target only.
    PrivateLeak,
    /// Who was told to be a member of a room is one until it leaves or is removed, across restarts too.
    MembershipLost,
    /// Who never joined, or left, is none.
    MembershipGhost,
    /// Batches keep the contract of the seam to the store.
    StoreContract,
    /// A connection closes with a code that something gave cause for.
    CloseCode,
    /// What must close a connection does.
    CloseMissing,
    /// No healthy connection ends without a close frame.
    UnexpectedEnd,
    /// Who is silent is dropped within three heartbeats.
    SilentAlive,
    /// Sent = delivered + refused + dropped under a named reason; gauges agree with the model.
    Accounting,
    /// Every connection ends in one close or hand-over, also when the relay drains.
    ConnectionLeak,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub invariant: Invariant,
    /// What was seen, for a person.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Whether all rules held so far.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Makes a violation, as an error.
pub(crate) fn violated<T>(invariant: Invariant, detail: impl Into<String>) -> Checked<T> {
    Err(Violation { invariant, detail: detail.into() })
}

/// Checks one rule; the detail is made only if it does not hold.
pub(crate) fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { violated(invariant, detail()) }
}
