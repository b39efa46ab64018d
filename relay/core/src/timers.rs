//! One deadline a connection, lazily kept: a connection whose deadline moves later keeps its old
//! entry, and asks for a new one when that fires. So traffic costs no timer work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::event::{ConnectionId, Nanos};

/// Deadlines of a shard's connections.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Nanos, ConnectionId)>>,
}

/// A connection's own record of its entry that counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Armed(Option<Nanos>);

impl Timers {
    /// Makes sure that the connection's timer fires at `deadline` or before.
    pub(crate) fn arm(&mut self, connection: ConnectionId, armed: &mut Armed, deadline: Nanos) {
        if armed.0.is_none_or(|at| deadline < at) {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, connection)));
        }
    }

    /// The next entry that is due. The caller compares it with the connection's [`Armed`].
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<(Nanos, ConnectionId)> {
        let &Reverse((at, _)) = self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// When the next entry is due.
    pub(crate) fn next(&self) -> Option<Nanos> {
        self.heap.peek().map(|&Reverse((at, _))| at)
    }
}

impl Armed {
    /// Whether the entry due at `at` is the one that counts; it is then taken off.
    pub(crate) fn fire(&mut self, at: Nanos) -> bool {
        let counts = self.0 == Some(at);
        if counts {
            self.0 = None;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let connection = ConnectionId { index: 1, generation: 2 };
        let (mut timers, mut armed) = (Timers::default(), Armed::default());
        timers.arm(connection, &mut armed, 50);
        timers.arm(connection, &mut armed, 70);
        timers.arm(connection, &mut armed, 30);
        assert_eq!(timers.next(), Some(30));
        assert_eq!(timers.pop_due(29), None);
        assert_eq!(timers.pop_due(100), Some((30, connection)));
        assert!(armed.fire(30));
        assert_eq!(timers.pop_due(100), Some((50, connection)));
        assert!(!armed.fire(50), "only the last armed entry counts");
        assert_eq!(timers.pop_due(100), None);
    }
}
