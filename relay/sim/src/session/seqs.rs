//! The seqs that one connection is given: none twice, none left out but what the device sent itself.

use protocol::frame::Resume;
use protocol::splice::unsplice_seq;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::ledger::{Arrival, Place};
use crate::session::{Context, Session};
use crate::trace::printable;

/// How far one connection has come.
#[derive(Debug, Default)]
pub(crate) struct Seqs {
    /// The highest assigned when it began.
    welcome: u64,
    /// It goes on from here.
    from: Option<u64>,
    /// The last that was pushed.
    last: Option<u64>,
    /// Everything up to here was confirmed on it, or is not its to confirm.
    confirmed: Option<u64>,
    /// The device has everything up to here, also from connections before.
    taken: Option<u64>,
}

impl Seqs {
    /// Begins at a welcome: from where it goes on, if it recovered, and up to where the device has
    /// everything of this epoch.
    pub(crate) fn begin(welcome: u64, from: Option<u64>, taken: Option<u64>) -> Self {
        Self { welcome, from, last: None, confirmed: from, taken }
    }

    /// Takes the next push. Gives the seqs that it left out and must account for: `None` if it goes back.
    fn take(&mut self, seq: u64, has_store: bool) -> Option<std::ops::Range<u64>> {
        let left_out = match (self.last, self.from) {
            (Some(last), _) if seq <= last => return None,
            (None, Some(from)) if seq <= from => return None,
            (Some(last), None) if has_store => last.max(self.welcome) + 1..seq,
            (Some(last), _) => last + 1..seq,
            (None, Some(from)) => from + 1..seq,
            // What waited comes first, from wherever it begins.
            (None, None) => self.welcome + 1..seq,
        };
        self.confirmed.get_or_insert(seq - 1);
        self.last = Some(seq);
        self.taken = Some(self.taken.map_or(seq, |taken| taken.max(seq)));
        Some(left_out)
    }
}

impl Session {
    /// Up to where the device has everything, as far as this connection tells.
    pub(crate) fn taken(&self) -> Option<Resume> {
        self.welcomed_at?;
        Some(Resume { epoch: self.epoch, seq: self.seqs.taken? })
    }

    /// Whether something was pushed that is not confirmed.
    pub(crate) fn unconfirmed(&self) -> bool {
        self.seqs.last > self.seqs.confirmed
    }

    /// Confirms what was pushed: gives behind which seq, and up to which.
    pub(crate) fn confirm(&mut self) -> (u64, u64) {
        let through = self.seqs.last.unwrap_or(0);
        let after = self.seqs.confirmed.replace(through).unwrap_or(through);
        (after, through)
    }

    /// The highest seq assigned when it was welcomed.
    pub(crate) fn welcome_seq(&self) -> u64 {
        self.seqs.welcome
    }

    /// The last seq that was pushed.
    pub(crate) fn last_pushed(&self) -> Option<u64> {
        self.seqs.last
    }

    /// Checks a push.
    pub(crate) fn pushed(&mut self, seq: u64, text: &str, context: &mut Context<'_>) -> Checked {
        let Some((spliced, head, tail)) = unsplice_seq(text.as_bytes()) else {
            return violated(Invariant::BytesDiffer, format!("no spliced seq in {}", printable(text.as_bytes())));
        };
        let before = self.seqs.last;
        let wrong = || format!("connection {}: seq {seq} after {before:?}, from {:?}", self.id, self.asked);
        let Some(left_out) = self.seqs.take(seq, context.has_store).filter(|_| spliced == seq) else {
            return violated(Invariant::SeqGapless, wrong());
        };
        let epoch = self.epoch;
        ensure(context.has_store || left_out.is_empty(), Invariant::SeqGapless, wrong)?;
        for left in
            left_out.filter(|left| context.known_from.is_none_or(|from| from.epoch != epoch || *left > from.seq))
        {
            context.ledger.skip(Place { owner: self.key, epoch: self.epoch, seq: left }, self.device)?;
        }
        let reader = self.reader(context.now);
        context.ledger.arrive(&Arrival { reader, seq, bytes: &[head, tail].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_must_be_accounted_for() {
        let mut fresh = Seqs::begin(10, None, None);
        let left_out = |seqs: &mut Seqs, seq, has_store| seqs.take(seq, has_store).map(Iterator::collect::<Vec<_>>);
        assert_eq!(left_out(&mut fresh, 4, true), Some(vec![]), "what waits begins anywhere");
        assert_eq!(left_out(&mut fresh, 7, true), Some(vec![]), "and some of it may be history");
        assert_eq!(left_out(&mut fresh, 13, true), Some(vec![11, 12]));
        assert_eq!(left_out(&mut fresh, 13, true), None);
        let mut resumed = Seqs::begin(10, Some(6), Some(6));
        assert_eq!(left_out(&mut resumed, 6, true), None, "it has that");
        assert_eq!(left_out(&mut resumed, 9, true), Some(vec![7, 8]));
        let mut without_store = Seqs::begin(10, None, None);
        assert_eq!(left_out(&mut without_store, 4, false), Some(vec![]));
        assert_eq!(left_out(&mut without_store, 6, false), Some(vec![5]));
    }
}
