//! What acks and pushes say beside the message itself: inbox numbers, and acks without a parser.

use crate::stock::ID_BYTES;

/// The inbox numbers that one client has seen. The default begins with the first that comes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inbox {
    /// The number before the first; `None` until there is one.
    start: Option<u64>,
    highest: u64,
    last_push: u64,
    seen: u64,
}

impl Inbox {
    /// An inbox whose highest number was `seq` at the welcome.
    pub(crate) fn starting_at(seq: u64) -> Self {
        Self { start: Some(seq), highest: seq, last_push: seq, seen: 0 }
    }

    /// The last number that was pushed.
    pub(crate) fn last_push(&self) -> u64 {
        self.last_push
    }

    /// Whether a number had been given out before this program first asked for the inbox.
    pub(crate) fn is_from_before(&self, seq: u64) -> bool {
        self.start.is_some_and(|start| seq <= start)
    }

    /// Takes the number of a push; says whether it rises.
    pub(crate) fn push(&mut self, seq: u64) -> bool {
        let rises = seq > self.last_push;
        if rises {
            self.last_push = seq;
            self.own(seq);
        }
        rises
    }

    /// Takes the number of a message of one's own, told by its ack, in no order.
    pub(crate) fn own(&mut self, seq: u64) {
        self.start.get_or_insert(seq.saturating_sub(1));
        self.highest = self.highest.max(seq);
        self.seen += 1;
    }

    /// Numbers that were skipped.
    pub(crate) fn gaps(&self) -> u64 {
        self.start.map_or(0, |start| (self.highest - start).saturating_sub(self.seen))
    }
}

/// The fields of an ack that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckView<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) duplicate: bool,
    pub(crate) seq: Option<u64>,
}

/// Reads the ack of a message that was not sent before, in the layout that `protocol` writes and for an id
/// of this program's length, without a JSON parser; `None` for any other.
pub(crate) fn scan_ack(text: &str) -> Option<AckView<'_>> {
    let rest = text.as_bytes().strip_prefix(b"{\"type\":\"ack\",\"clientMessageId\":\"")?;
    let (id, rest) = rest.split_at_checked(ID_BYTES)?;
    let rest = rest.strip_prefix(b"\",\"recipient\":\"o")?;
    let rest = rest.strip_prefix(b"nline").or_else(|| rest.strip_prefix(b"ffline"))?;
    let rest = rest.strip_prefix(b"\",\"duplicate\":false")?;
    match rest {
        b"}" => Some(AckView { id, duplicate: false, seq: None }),
        _ => {
            let digits = rest.strip_prefix(b",\"seq\":")?.strip_suffix(b"}")?;
            let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
            Some(AckView { id, duplicate: false, seq: Some(seq) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AckView, Inbox, scan_ack};
    use protocol::encode;
    use protocol::server_frame::Ack;

    #[test]
    fn acks_are_scanned_as_they_are_encoded() {
        let id = "deadbeef-00000a-00000001";
        let text = |ack: &Ack<'_>| {
            let mut text = Vec::new();
            encode::ack(&mut text, ack);
            String::from_utf8(text).unwrap()
        };
        let ack = Ack { id, online: true, duplicate: false, seq: None };
        for (online, seq) in [(true, None), (true, Some(7)), (false, Some(8))] {
            let text = text(&Ack { online, seq, ..ack });
            assert_eq!(scan_ack(&text), Some(AckView { id: id.as_bytes(), duplicate: false, seq }));
        }
        // These take the way through the parser.
        for other in [Ack { duplicate: true, ..ack }, Ack { id: "short", ..ack }] {
            assert_eq!(scan_ack(&text(&other)), None);
        }
        assert_eq!(scan_ack("{\"type\":\"pong\"}"), None);
    }

    #[test]
    fn an_inbox_counts_what_was_skipped() {
        let mut inbox = Inbox::starting_at(10);
        assert!(inbox.is_from_before(10) && !inbox.is_from_before(11));
        assert!(inbox.push(11));
        assert!(inbox.push(13));
        assert_eq!(inbox.gaps(), 1);
        // The number of a message of one's own, told later by its ack, fills the gap.
        inbox.own(12);
        assert_eq!(inbox.gaps(), 0);
        assert!(!inbox.push(13));
        assert!(!inbox.push(5));
        assert_eq!(inbox.gaps(), 0);
    }

    #[test]
    fn an_inbox_of_unknown_beginning_begins_with_the_first_push() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.gaps(), 0);
        assert!(inbox.push(7) && inbox.push(8) && inbox.push(10));
        assert_eq!((inbox.gaps(), inbox.last_push()), (1, 10));
    }
}
