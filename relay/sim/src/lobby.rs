//! What a client knows of the lobby, with the rules that every page and delta must keep.

use std::collections::BTreeSet;

use protocol::PublicKey;
use protocol::server_frame::{LobbyPage, LobbyTotals, LobbyUpdate};

use crate::invariant::{Checked, Invariant, ensure, violated};

/// One client's list.
#[derive(Debug, Default)]
pub(crate) struct LobbyView {
    /// Of the last complete snapshot and all deltas since.
    users: BTreeSet<PublicKey>,
    /// Of `users`, kept up with them: to count them anew for each delta would take most of a run.
    totals: LobbyTotals,
    rev: Option<u64>,
    /// A snapshot of which pages are still to come: its rev and what came.
    partial: Option<(u64, BTreeSet<PublicKey>)>,
    /// Complete snapshots so far.
    pub(crate) snapshots: u64,
}

impl LobbyView {
    /// Who is online, as far as this client knows.
    pub(crate) fn users(&self) -> &BTreeSet<PublicKey> {
        &self.users
    }

    /// Whether the client has a whole list.
    pub(crate) fn is_complete(&self) -> bool {
        self.snapshots > 0 && self.partial.is_none()
    }

    /// Applies a page of a snapshot.
    pub(crate) fn page(&mut self, own: &PublicKey, page: LobbyPage) -> Checked {
        let (rev, mut users) = match self.partial.take() {
            None => {
                ensure(self.rev.is_none_or(|rev| page.rev >= rev), Invariant::LobbyRevision, || {
                    format!("snapshot of rev {} after rev {:?}", page.rev, self.rev)
                })?;
                (page.rev, BTreeSet::new())
            }
            Some((rev, users)) => {
                ensure(rev == page.rev, Invariant::LobbySnapshot, || {
                    format!("a page of rev {} in a snapshot of rev {rev}", page.rev)
                })?;
                (rev, users)
            }
        };
        for user in page.users {
            ensure(users.insert(user), Invariant::LobbySnapshot, || format!("{user:?} twice in one snapshot"))?;
        }
        let Some(told) = page.totals else {
            self.partial = Some((rev, users));
            return Ok(());
        };
        ensure(users.contains(own), Invariant::LobbySnapshot, || "a snapshot without the own key".to_owned())?;
        self.totals = totals(&users);
        self.users = users;
        self.rev = Some(rev);
        self.snapshots += 1;
        self.agrees(told)
    }

    /// Applies a delta.
    pub(crate) fn update(&mut self, update: &LobbyUpdate) -> Checked {
        if self.partial.is_some() {
            return violated(Invariant::LobbySnapshot, format!("delta {} between the pages of a snapshot", update.rev));
        }
        let Some(rev) = self.rev else {
            return violated(Invariant::Opening, "a delta before the snapshot");
        };
        ensure(update.rev > rev, Invariant::LobbyRevision, || format!("delta of rev {} after rev {rev}", update.rev))?;
        self.rev = Some(update.rev);
        let joined: BTreeSet<PublicKey> = update.joined.iter().copied().collect();
        for user in &update.left {
            ensure(!joined.contains(user), Invariant::LobbyDelta, || format!("{user:?} is in both arrays"))?;
            ensure(self.users.remove(user), Invariant::LobbyDelta, || format!("{user:?} left and was not there"))?;
            self.totals.count -= 1;
            self.totals.digest ^= user.digest_part();
        }
        for user in &update.joined {
            ensure(self.users.insert(*user), Invariant::LobbyDelta, || format!("{user:?} joined and was there"))?;
            self.totals.count += 1;
            self.totals.digest ^= user.digest_part();
        }
        self.agrees(update.totals)
    }

    fn agrees(&self, told: LobbyTotals) -> Checked {
        let own = self.totals;
        ensure(own == told, Invariant::LobbyDigest, || format!("rev {:?}: own {own:?}, told {told:?}", self.rev))
    }
}

/// Count and digest of some users.
pub(crate) fn totals(users: &BTreeSet<PublicKey>) -> LobbyTotals {
    LobbyTotals { count: users.len() as u64, digest: users.iter().fold(0, |digest, user| digest ^ user.digest_part()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> PublicKey {
        PublicKey::from_bytes([first; 32])
    }

    fn told(users: &[u8]) -> LobbyTotals {
        totals(&users.iter().map(|&user| key(user)).collect())
    }

    fn view() -> LobbyView {
        let mut view = LobbyView::default();
        let page =
            |users: &[u8], totals| LobbyPage { rev: 5, users: users.iter().map(|&user| key(user)).collect(), totals };
        view.page(&key(1), page(&[1], None)).expect("first page");
        view.page(&key(1), page(&[2], Some(told(&[1, 2])))).expect("last page");
        view
    }

    fn update(rev: u64, joined: &[u8], left: &[u8], totals: LobbyTotals) -> LobbyUpdate {
        let keys = |users: &[u8]| users.iter().map(|&user| key(user)).collect();
        LobbyUpdate { rev, joined: keys(joined), left: keys(left), totals }
    }

    #[test]
    fn each_rule_is_watched() {
        view().update(&update(6, &[3], &[2], told(&[1, 3]))).expect("a right delta");
        for (rev, joined, left, after, broken) in [
            (5, &[3][..], &[][..], &[1, 2, 3][..], Invariant::LobbyRevision),
            (6, &[3], &[3], &[1, 2], Invariant::LobbyDelta),
            (6, &[2], &[], &[1, 2], Invariant::LobbyDelta),
            (6, &[], &[4], &[1, 2], Invariant::LobbyDelta),
            (6, &[3], &[], &[1, 2], Invariant::LobbyDigest),
        ] {
            let violation = view().update(&update(rev, joined, left, told(after))).expect_err("a wrong delta");
            assert_eq!(violation.invariant, broken, "{violation}");
        }
        let mut torn = view();
        torn.page(&key(1), LobbyPage { rev: 7, users: vec![key(1)], totals: None }).expect("first page");
        let violation = torn.update(&update(8, &[], &[], told(&[1, 2]))).expect_err("a delta between pages");
        assert_eq!(violation.invariant, Invariant::LobbySnapshot);
    }
}
