//! Where the entries of an inbox are: the part of the store that is in memory.
//!
//! About 80 bytes a user and 16 an entry that waits.
//!
//! # Invariants
//! - It holds what the database holds, plus what the transaction under way has changed; that can be
//!   taken back ([`Index::roll_back`]) until it is kept ([`Index::keep`]).
//! - The rows of a user ascend by seq.
//! - A number of a user or of a row is given once, also across starts.

use std::collections::{HashMap, VecDeque};

use protocol::PublicKey;

/// An entry of an inbox: its seq and its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) row: i64,
}

/// The numbers that are given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) user: i64,
    pub(crate) inbox: i64,
    pub(crate) history: i64,
    pub(crate) ids: i64,
}

#[derive(Debug)]
struct User {
    number: i64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
enum Undo {
    Enrolled(PublicKey),
    Added(PublicKey, u64),
    Removed(PublicKey, Vec<Entry>),
    Forgotten(PublicKey, User),
    Shared(i64, Option<u32>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    users: HashMap<PublicKey, User>,
    /// Rows of several users, and how many of them still wait.
    shared: HashMap<i64, u32>,
    /// What is given next.
    pub(crate) next: Next,
    kept_next: Next,
    undo: Vec<Undo>,
}

impl Index {
    /// Knows nobody.
    pub(crate) fn new(next: Next) -> Self {
        Self { users: HashMap::new(), shared: HashMap::new(), next, kept_next: next, undo: Vec::new() }
    }

    /// The number of a user, if it is known.
    pub(crate) fn number(&self, key: &PublicKey) -> Option<i64> {
        self.users.get(key).map(|user| user.number)
    }

    /// Gives a number to a new user.
    pub(crate) fn enroll(&mut self, key: PublicKey) -> i64 {
        let number = self.next.user;
        self.next.user += 1;
        self.restore_user(key, number);
        self.undo.push(Undo::Enrolled(key));
        number
    }

    /// Takes in a user that was stored before.
    pub(crate) fn restore_user(&mut self, key: PublicKey, number: i64) {
        self.users.insert(key, User { number, entries: VecDeque::new() });
    }

    /// Adds an entry of a known user.
    pub(crate) fn add(&mut self, key: PublicKey, entry: Entry) {
        self.restore_entry(&key, entry);
        self.undo.push(Undo::Added(key, entry.seq));
    }

    /// Takes in an entry that was stored before.
    pub(crate) fn restore_entry(&mut self, key: &PublicKey, entry: Entry) {
        let Some(user) = self.users.get_mut(key) else { return };
        // Nearly always the last.
        let place = user.entries.partition_point(|other| other.seq < entry.seq);
        user.entries.insert(place, entry);
    }

    /// Notes that a row is of so many users.
    pub(crate) fn share(&mut self, row: i64, users: u32) {
        if users > 1 {
            self.undo.push(Undo::Shared(row, self.shared.insert(row, users)));
        }
    }

    /// Removes a user's entries up to a seq. Pushes rows that nobody waits for any more, and returns
    /// whether a row stays for others.
    pub(crate) fn remove_through(&mut self, key: &PublicKey, through: u64, gone: &mut Vec<i64>) -> bool {
        let Some(user) = self.users.get_mut(key) else { return false };
        let count = user.entries.partition_point(|entry| entry.seq <= through);
        if count == 0 {
            return false;
        }
        let removed: Vec<_> = user.entries.drain(..count).collect();
        let stays = self.release(&removed, gone);
        self.undo.push(Undo::Removed(*key, removed));
        stays
    }

    /// Forgets a user with its entries, and returns its number.
    pub(crate) fn forget(&mut self, key: &PublicKey, gone: &mut Vec<i64>) -> Option<i64> {
        let user = self.users.remove(key)?;
        let number = user.number;
        let entries: Vec<_> = user.entries.iter().copied().collect();
        self.release(&entries, gone);
        self.undo.push(Undo::Forgotten(*key, user));
        Some(number)
    }

    fn release(&mut self, entries: &[Entry], gone: &mut Vec<i64>) -> bool {
        let before = gone.len();
        for Entry { row, .. } in entries {
            let Some(left) = self.shared.get_mut(row) else {
                gone.push(*row);
                continue;
            };
            self.undo.push(Undo::Shared(*row, Some(*left)));
            *left -= 1;
            if *left == 0 {
                self.shared.remove(row);
                gone.push(*row);
            }
        }
        gone.len() - before < entries.len()
    }

    /// The entries of a user with a seq above this one, ascending.
    pub(crate) fn entries_after(&self, key: &PublicKey, after: u64) -> impl Iterator<Item = Entry> + '_ {
        self.users.get(key).into_iter().flat_map(move |user| {
            let place = user.entries.partition_point(|entry| entry.seq <= after);
            user.entries.range(place..).copied()
        })
    }

    /// The entries of a user with a seq below this one, descending.
    pub(crate) fn entries_before(&self, key: &PublicKey, before: u64) -> impl Iterator<Item = Entry> + '_ {
        self.users.get(key).into_iter().flat_map(move |user| {
            let place = user.entries.partition_point(|entry| entry.seq < before);
            user.entries.range(..place).rev().copied()
        })
    }

    /// The transaction was committed.
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
        self.kept_next = self.next;
    }

    /// The transaction was taken back.
    pub(crate) fn roll_back(&mut self) {
        self.next = self.kept_next;
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Enrolled(key) => drop(self.users.remove(&key)),
                Undo::Added(key, seq) => {
                    if let Some(user) = self.users.get_mut(&key) {
                        user.entries.retain(|entry| entry.seq != seq);
                    }
                }
                Undo::Removed(key, entries) => {
                    if let Some(user) = self.users.get_mut(&key) {
                        entries.into_iter().rev().for_each(|entry| user.entries.push_front(entry));
                    }
                }
                Undo::Forgotten(key, user) => drop(self.users.insert(key, user)),
                Undo::Shared(row, Some(left)) => drop(self.shared.insert(row, left)),
                Undo::Shared(row, None) => drop(self.shared.remove(&row)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Index, Next};
    use protocol::PublicKey;

    const A: PublicKey = PublicKey::from_bytes([1; 32]);
    const B: PublicKey = PublicKey::from_bytes([2; 32]);

    fn index() -> Index {
        let mut index = Index::new(Next { user: 7, inbox: 1, history: 1, ids: 1 });
        assert_eq!((index.enroll(A), index.enroll(B)), (7, 8));
        for seq in 1..=4 {
            index.add(A, Entry { seq, row: seq as i64 });
        }
        index.add(B, Entry { seq: 9, row: 4 });
        index.share(4, 2);
        index.keep();
        index
    }

    fn seqs(index: &Index, key: &PublicKey) -> Vec<u64> {
        index.entries_after(key, 0).map(|entry| entry.seq).collect()
    }

    #[test]
    fn rows_go_with_the_last_who_waits() {
        let (mut index, mut gone) = (index(), Vec::new());
        assert!(!index.remove_through(&A, 2, &mut gone));
        assert_eq!(gone, [1, 2]);
        assert!(index.remove_through(&A, 4, &mut gone), "row 4 stays for B");
        assert_eq!(gone, [1, 2, 3]);
        assert!(!index.remove_through(&A, 4, &mut gone), "nothing is left to remove");
        assert_eq!(index.forget(&B, &mut gone), Some(8));
        assert_eq!(gone, [1, 2, 3, 4]);
        assert_eq!((index.number(&B), index.forget(&B, &mut gone)), (None, None));
    }

    #[test]
    fn ranges_are_of_seqs() {
        let index = index();
        assert_eq!(index.entries_after(&A, 2).map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(index.entries_before(&A, 3).map(|entry| entry.seq).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(index.entries_after(&PublicKey::from_bytes([3; 32]), 0).count(), 0);
    }

    #[test]
    fn everything_can_be_taken_back() {
        let mut index = index();
        let mut gone = Vec::new();
        index.remove_through(&A, 4, &mut gone);
        index.add(A, Entry { seq: 5, row: 5 });
        index.add(B, Entry { seq: 10, row: 5 });
        index.share(5, 2);
        index.remove_through(&B, 10, &mut gone);
        index.forget(&A, &mut gone);
        let number = index.enroll(A);
        index.add(A, Entry { seq: 1, row: 6 });
        assert_eq!(seqs(&index, &A), [1]);
        index.next.inbox = 100;
        index.roll_back();

        assert_eq!((seqs(&index, &A), seqs(&index, &B)), (vec![1, 2, 3, 4], vec![9]));
        assert_eq!((index.number(&A), index.next.inbox), (Some(7), 1));
        gone.clear();
        assert!(index.remove_through(&A, 4, &mut gone));
        assert!(!index.remove_through(&B, 9, &mut gone));
        assert_eq!(gone, [1, 2, 3, 4]);
        index.roll_back();
        assert_eq!(index.enroll(PublicKey::from_bytes([3; 32])), number, "a number taken back was not given");
    }
}
