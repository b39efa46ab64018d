//! Virtual time: what is to happen, ordered by time and, at one time, by when it was planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use relay_core::Nanos;

/// One millisecond.
pub(crate) const MS: Nanos = 1_000_000;

/// One second.
pub(crate) const SECOND: Nanos = 1000 * MS;

struct Entry<T> {
    at: Nanos,
    order: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The earliest is the greatest: a binary heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The clock and all that is still to happen.
pub(crate) struct Schedule<T> {
    now: Nanos,
    planned: u64,
    heap: BinaryHeap<Entry<T>>,
}

impl<T> Schedule<T> {
    /// Starts the clock at `now` with nothing planned.
    pub(crate) fn new(now: Nanos) -> Self {
        Self { now, planned: 0, heap: BinaryHeap::new() }
    }

    /// The time.
    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// Plans something for a time, which if past becomes now.
    pub(crate) fn at(&mut self, at: Nanos, what: T) {
        self.planned += 1;
        self.heap.push(Entry { at: at.max(self.now), order: self.planned, what });
    }

    /// Takes out what comes next, if it comes by `end`, and moves the clock there. `None` moves the
    /// clock to `end`.
    pub(crate) fn next_by(&mut self, end: Nanos) -> Option<T> {
        if self.heap.peek().is_some_and(|entry| entry.at <= end) {
            let entry = self.heap.pop()?;
            self.now = entry.at;
            return Some(entry.what);
        }
        self.now = self.now.max(end);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_then_order() {
        let mut schedule = Schedule::new(10);
        for (at, what) in [(30, 'c'), (20, 'a'), (20, 'b'), (5, 'x')] {
            schedule.at(at, what);
        }
        let mut seen = String::new();
        while let Some(what) = schedule.next_by(25) {
            seen.push(what);
        }
        assert_eq!((seen.as_str(), schedule.now()), ("xab", 25));
        assert_eq!((schedule.next_by(99), schedule.now()), (Some('c'), 30));
    }
}
