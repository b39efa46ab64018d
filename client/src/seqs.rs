//! Which seqs of the own inbox are here, and up to which nothing is missing.
//!
//! # Flow
//! ```text
//! welcome ─▶ base known?   recovered: yes, what was asked for; empty inbox: yes, 0; otherwise unknown
//! push k  ─▶ behind the seq of the welcome nothing is missing but what no ack told yet;
//!            up to it, what lies before k is not to come: the relay pushes in order
//! ack n   ─▶ n is the own message's
//! handled ─▶ cursor moves ─▶ `received` and the next `resume`
//! ```
//!
//! # Invariants
//! - The cursor never passes a seq that may still come, nor one that was pushed and is not handled.
//! - A hole is told (a [`Gap`]) only once no own message can explain it: one sent before the hole
//!   showed whose ack, and so whose seq, is still to come, or never came.
//! - Memory is bounded: [`RANGES_MAX`] ranges; one, while nothing is missing.

use std::collections::BTreeMap;

/// Gaps that may stay open below the highest seq; beyond that the oldest counts as closed.
const RANGES_MAX: usize = 1024;

/// Numbers as ranges that neither overlap nor touch: first → last.
#[derive(Debug, Default)]
struct Ranges {
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Notes `number`; says whether it is new.
    fn insert(&mut self, number: u64) -> bool {
        let below = self.ranges.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = match below {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = self.ranges.remove(&(number + 1)).unwrap_or(number);
        self.ranges.insert(first, last);
        if self.ranges.len() > RANGES_MAX {
            let oldest = self.ranges.pop_first();
            let next = self.ranges.pop_first();
            if let (Some((first, _)), Some((_, last))) = (oldest, next) {
                self.ranges.insert(first, last);
            }
        }
        true
    }

    /// The last of the numbers that follow `from` without a hole; `from` if its successor is not here.
    fn run_after(&self, from: u64) -> u64 {
        let next = from.saturating_add(1);
        let around = self.ranges.range(..=next).next_back();
        around.map(|(_, &last)| last).filter(|&last| last >= next).unwrap_or(from)
    }

    /// First and last of those that are not here in `from + 1 ..= through`, and how many they are.
    fn holes(&self, from: u64, through: u64) -> Option<Gap> {
        let mut gap: Option<Gap> = None;
        let mut before = self.run_after(from);
        for (&first, &last) in self.ranges.range(before.saturating_add(1)..) {
            if before >= through {
                break;
            }
            let hole = (before + 1, (first - 1).min(through));
            let known = gap.get_or_insert(Gap { first: hole.0, last: hole.1, missing: 0 });
            known.last = hole.1;
            known.missing += hole.1 - hole.0 + 1;
            before = last;
        }
        gap
    }
}

/// Seqs that should have come and did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The first of them.
    pub(crate) first: u64,
    /// The last of them; not all between are missing.
    pub(crate) last: u64,
    /// How many.
    pub(crate) missing: u64,
}

/// A hole that waits for the answers to own messages.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// Looked for up to here.
    through: u64,
    /// Own messages up to this number, as the outbox counts, may explain it.
    sent: u64,
}

/// What is known of the own inbox in one epoch, across connections.
#[derive(Debug, Default)]
pub(crate) struct Seqs {
    epoch: Option<u64>,
    seen: Ranges,
    /// Up to here nothing is missing; `None` while that is unknown.
    base: Option<u64>,
    /// The seq of this connection's welcome, unless it recovered: pushes up to it are backlog.
    backlog_end: u64,
    /// The highest that was pushed.
    pushed: Option<u64>,
    /// Up to here the user has handled what was pushed, or nothing was.
    handled: Option<u64>,
    /// The highest that was pushed and handled.
    done: Option<u64>,
    suspect: Option<Suspect>,
    /// Own messages that may have taken a seq which no ack tells.
    untold: u64,
}

impl Seqs {
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// What a connection starts with. Returns whether seqs are counted anew. `resumed` is what was
    /// asked for.
    pub(crate) fn welcome(&mut self, epoch: u64, seq: u64, recovered: bool, resumed: Option<u64>) -> bool {
        let is_new = self.epoch.is_some_and(|own| own != epoch);
        if self.epoch != Some(epoch) {
            *self = Self { epoch: Some(epoch), ..Self::default() };
        }
        self.suspect = None;
        match resumed.filter(|_| recovered && !is_new) {
            Some(resumed) => {
                self.base = Some(resumed);
                self.backlog_end = resumed;
            }
            None => {
                self.base = (seq == 0).then_some(0);
                self.backlog_end = seq;
            }
        }
        // Nothing up to there is to come.
        self.handled = self.handled.max(self.base);
        is_new
    }

    /// Takes the seq of a push; says whether it is new.
    pub(crate) fn pushed(&mut self, seq: u64) -> bool {
        let is_new = self.seen.insert(seq);
        let before = seq.saturating_sub(1).min(self.backlog_end);
        if self.base.is_none_or(|base| base < before) {
            self.base = Some(before);
            if self.pushed.is_none() {
                self.handled = self.handled.max(Some(before));
            }
        }
        self.pushed = self.pushed.max(Some(seq));
        is_new
    }

    /// Takes the answer to an own message that the relay has taken, and its seq if it tells one. A
    /// relay that tells none at first has no store, and the message no seq; one that tells none with a
    /// duplicate may have forgotten it.
    pub(crate) fn acked(&mut self, seq: Option<u64>, is_duplicate: bool) {
        match seq {
            Some(seq) => {
                self.seen.insert(seq);
            }
            None => self.untold += u64::from(is_duplicate),
        }
    }

    /// An own message got no answer, and may have taken a seq.
    pub(crate) fn unanswered(&mut self) {
        self.untold += 1;
    }

    /// The user has handled everything up to this one.
    pub(crate) fn handled(&mut self, seq: u64) {
        self.done = self.done.max(Some(seq).min(self.pushed));
        self.handled = self.handled.max(self.done);
    }

    /// Whether the user has handled everything that was pushed.
    pub(crate) fn all_handled(&self) -> bool {
        self.handled >= self.pushed
    }

    /// Everything up to here is handled, own, or not to come. `None` while that is unknown.
    pub(crate) fn cursor(&self) -> Option<u64> {
        let run = self.seen.run_after(self.base?);
        if self.all_handled() { Some(run) } else { self.handled.map(|handled| handled.min(run)) }
    }

    /// What to confirm beyond `confirmed`: the cursor, if a handled push lies between.
    pub(crate) fn confirmable(&self, confirmed: u64) -> Option<u64> {
        self.cursor().filter(|&cursor| Some(confirmed) < self.done.min(Some(cursor)))
    }

    /// Looks for holes. Own messages are numbered in the order in which they were first sent: `sent`
    /// is the last of them, `unanswered` the oldest without an answer.
    pub(crate) fn check(&mut self, sent: u64, unanswered: Option<u64>) -> Option<Gap> {
        loop {
            let (base, through) = (self.base?, self.pushed?);
            let suspect = match self.suspect {
                Some(suspect) => suspect,
                None => {
                    self.seen.holes(base, through)?;
                    *self.suspect.insert(Suspect { through, sent })
                }
            };
            if unanswered.is_some_and(|oldest| oldest <= suspect.sent) {
                return None;
            }
            self.suspect = None;
            self.base = Some(base.max(suspect.through));
            let Some(gap) = self.seen.holes(base, suspect.through) else { continue };
            let explained = gap.missing.min(self.untold);
            self.untold -= explained;
            if gap.missing > explained {
                return Some(Gap { missing: gap.missing - explained, ..gap });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once_in_any_order() {
        // All orders of five numbers, each followed by all of them again.
        let mut orders = vec![vec![]];
        for number in [3, 4, 5, 6, 9] {
            orders = orders
                .iter()
                .flat_map(|order: &Vec<u64>| {
                    (0..=order.len()).map(|at| {
                        let mut order = order.clone();
                        order.insert(at, number);
                        order
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 120);
        for order in orders {
            let mut ranges = Ranges::default();
            assert!(order.iter().all(|&number| ranges.insert(number)), "{order:?}");
            assert!(!order.iter().any(|&number| ranges.insert(number)), "{order:?}");
            assert_eq!(ranges.ranges, BTreeMap::from([(3, 6), (9, 9)]), "{order:?}");
            assert_eq!([1, 2, 3, 5, 7, 8].map(|from| ranges.run_after(from)), [1, 6, 6, 6, 7, 9]);
        }
    }

    #[test]
    fn holes_are_counted_up_to_a_bound() {
        let mut ranges = Ranges::default();
        for number in [2, 3, 6, 10] {
            ranges.insert(number);
        }
        let gap = |first, last, missing| Some(Gap { first, last, missing });
        assert_eq!(ranges.holes(1, 3), None);
        assert_eq!(ranges.holes(1, 6), gap(4, 5, 2));
        assert_eq!(ranges.holes(0, 10), gap(1, 9, 6));
        assert_eq!(ranges.holes(3, 8), gap(4, 8, 4));
        assert_eq!(ranges.holes(10, 10), None);
        assert_eq!(ranges.holes(6, 10), gap(7, 9, 3));
    }

    #[test]
    fn gaps_are_bounded_and_the_oldest_close_first() {
        let mut ranges = Ranges::default();
        for n in 0..RANGES_MAX as u64 + 10 {
            assert!(ranges.insert(2 * n));
        }
        assert_eq!(ranges.ranges.len(), RANGES_MAX);
        assert!(!ranges.insert(1), "the oldest gap counts as closed");
        assert!(ranges.insert(2 * RANGES_MAX as u64 + 1), "the newest is open");
    }

    fn welcomed(seq: u64) -> Seqs {
        let mut seqs = Seqs::default();
        assert!(!seqs.welcome(1, seq, false, None));
        seqs
    }

    #[test]
    fn the_cursor_waits_for_the_user_and_for_own_acks() {
        let mut seqs = welcomed(0);
        assert_eq!(seqs.cursor(), Some(0), "nothing can be missing in an empty inbox");
        seqs.acked(Some(1), false);
        assert_eq!((seqs.cursor(), seqs.confirmable(0)), (Some(1), None), "an own one needs no confirmation");
        assert!(seqs.pushed(2) && seqs.pushed(3) && seqs.pushed(5));
        assert_eq!(seqs.cursor(), Some(0), "nothing is handled");
        seqs.handled(2);
        assert_eq!((seqs.cursor(), seqs.confirmable(0)), (Some(2), Some(2)));
        seqs.handled(5);
        assert_eq!(seqs.confirmable(2), Some(3), "4 may be own");
        assert_eq!(seqs.confirmable(3), None);
        seqs.acked(Some(4), false);
        assert_eq!(seqs.confirmable(3), Some(5));
        seqs.handled(900);
        assert_eq!(seqs.cursor(), Some(5));
    }

    #[test]
    fn the_backlog_of_an_unknown_inbox_may_have_holes_and_what_is_live_may_not() {
        let mut seqs = welcomed(10);
        assert_eq!(seqs.cursor(), None, "what is to come is unknown");
        seqs.acked(Some(11), false);
        assert_eq!(seqs.cursor(), None);
        seqs.pushed(4);
        assert_eq!((seqs.cursor(), seqs.confirmable(0)), (Some(3), None), "what lies before is not to come");
        seqs.pushed(8);
        assert_eq!(seqs.check(0, None), None, "5 to 7 were this device's, long ago");
        seqs.handled(4);
        assert_eq!(seqs.cursor(), Some(4));
        seqs.handled(8);
        assert_eq!(seqs.cursor(), Some(8));
        seqs.pushed(12);
        seqs.handled(12);
        assert_eq!((seqs.check(0, None), seqs.cursor()), (None, Some(12)), "the backlog has ended");
        seqs.pushed(15);
        assert_eq!(seqs.check(0, None), Some(Gap { first: 13, last: 14, missing: 2 }));
        assert_eq!(seqs.check(0, None), None, "told once");
        seqs.handled(15);
        assert_eq!(seqs.cursor(), Some(15), "and it holds nothing up");
    }

    #[test]
    fn a_hole_waits_for_the_own_messages_that_may_explain_it() {
        let mut seqs = welcomed(0);
        seqs.pushed(1);
        seqs.pushed(3);
        assert_eq!(seqs.check(7, Some(7)), None, "message 7 has no answer");
        seqs.pushed(5);
        assert_eq!(seqs.check(8, Some(7)), None);
        seqs.acked(Some(2), false);
        // 7 was 2; 8 was sent after the first hole had shown, and before the second.
        assert_eq!(seqs.check(8, Some(8)), None);
        assert_eq!(seqs.check(9, Some(9)), Some(Gap { first: 4, last: 4, missing: 1 }));
    }

    #[test]
    fn an_answer_that_tells_no_seq_explains_one_hole() {
        let mut seqs = welcomed(0);
        seqs.acked(None, false);
        seqs.pushed(1);
        seqs.pushed(3);
        assert!(seqs.check(1, None).is_some(), "without a store own messages have no seq");
        seqs.acked(Some(4), false);
        seqs.acked(None, true);
        seqs.unanswered();
        seqs.pushed(7);
        assert_eq!(seqs.check(3, None), None, "5 and 6");
        seqs.pushed(9);
        assert_eq!(seqs.check(3, None), Some(Gap { first: 8, last: 8, missing: 1 }));
    }

    #[test]
    fn a_recovered_session_goes_on_where_it_was() {
        let mut seqs = welcomed(0);
        seqs.pushed(1);
        seqs.handled(1);
        seqs.pushed(3);
        seqs.handled(3);
        let cursor = seqs.cursor();
        assert_eq!(cursor, Some(1));
        assert!(!seqs.welcome(1, 9, true, cursor));
        assert!(seqs.pushed(2) && !seqs.pushed(3) && seqs.pushed(6));
        assert_eq!(seqs.check(0, None), Some(Gap { first: 4, last: 5, missing: 2 }), "though it said recovered");
        // Not recovered: what it does not send is not to come, and is told by the welcome.
        seqs.handled(6);
        assert!(!seqs.welcome(1, 20, false, seqs.cursor()));
        assert_eq!(seqs.cursor(), None);
        assert!(seqs.pushed(15));
        assert_eq!((seqs.check(0, None), seqs.cursor()), (None, Some(6)));
        // Another epoch.
        assert!(seqs.welcome(2, 0, true, seqs.cursor()));
        assert!(seqs.pushed(1));
        assert_eq!((seqs.epoch(), seqs.cursor()), (Some(2), Some(0)));
    }
}
