//! What may be wrong with a message, and which answers fit.

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
    pub(crate) fn allows(self, reason: &str, reused: bool, old: bool, has_store: bool) -> bool {
        match reason {
            "rate_limited" => !matches!(self, Self::WrongSender | Self::TooLarge | Self::Malformed),
            "id_conflict" => reused && !matches!(self, Self::WrongSender | Self::Malformed),
            "offline" => self == Self::Valid && !has_store,
            "inbox_full" => self == Self::Valid && has_store,
            // What became of another message under the id may decide.
            "overloaded" => reused || matches!(self, Self::Valid | Self::BadRecipient | Self::NoRoom),
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
