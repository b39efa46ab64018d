//! The list of who is online, kept from snapshots and updates, and checked against the relay's count
//! and digest.
//!
//! # Invariants
//! - `digest` is the XOR of [`PublicKey::digest_part`] over `users`.
//! - Pages of an unfinished snapshot change nothing; the last page replaces the list at once.
//! - A list that is not [`Lobby::agrees`] has a wish for a snapshot noted, and keeps it until a
//!   snapshot or an update fits again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use protocol::PublicKey;
use protocol::server_frame::{LobbyPage, LobbyTotals, LobbyUpdate};

use crate::event::Event;

/// The shortest time between two `lobby_sync` of one connection; the relay merges faster ones.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// Users that a list holds at most: a million, 32 MB of keys. A relay that names more is not believed.
pub const USERS_MAX: usize = 1_000_000;

/// Who is online, as far as this client knows.
#[derive(Debug, Default)]
pub struct Lobby {
    users: BTreeSet<PublicKey>,
    digest: u64,
    /// Of the current connection; `None` until its first snapshot is complete.
    rev: Option<u64>,
    pages: Option<Pages>,
    sync: Sync,
}

/// A snapshot on its way.
#[derive(Debug)]
struct Pages {
    rev: u64,
    users: Vec<PublicKey>,
}

#[derive(Debug, Default)]
struct Sync {
    wanted: bool,
    /// When the connection last sent a `lobby_sync`.
    sent: Option<Instant>,
}

impl Lobby {
    /// Who is online, in the order of the keys. Between connections: who was.
    #[must_use]
    pub fn users(&self) -> &BTreeSet<PublicKey> {
        &self.users
    }

    /// Count and digest of the own list.
    #[must_use]
    pub fn totals(&self) -> LobbyTotals {
        LobbyTotals { count: self.users.len() as u64, digest: self.digest }
    }

    /// The revision; `None` until the connection's first snapshot is complete.
    #[must_use]
    pub fn rev(&self) -> Option<u64> {
        self.rev
    }

    /// Whether the list is complete and fitted the relay's count and digest when last compared.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.rev.is_some() && !self.sync.wanted
    }

    /// Forgets what belongs to one connection; the users stay until the next snapshot.
    pub(crate) fn start_connection(&mut self) {
        self.rev = None;
        self.pages = None;
        self.sync = Sync::default();
    }

    /// Takes one page of a snapshot.
    pub(crate) fn page(&mut self, page: &LobbyPage, events: &mut impl FnMut(Event)) {
        if self.rev.is_some_and(|rev| page.rev < rev) {
            return self.diverged(page.rev, "the relay sent a snapshot older than the list", events);
        }
        let mut pages = match self.pages.take() {
            Some(pages) if pages.rev == page.rev => pages,
            _ => Pages { rev: page.rev, users: Vec::new() },
        };
        pages.users.extend_from_slice(&page.users);
        if pages.users.len() > USERS_MAX {
            return self.diverged(page.rev, "the relay sent a snapshot of more users than can be", events);
        }
        let Some(totals) = page.totals else {
            self.pages = Some(pages);
            return;
        };
        self.users = pages.users.into_iter().collect();
        self.digest = self.users.iter().fold(0, |digest, user| digest ^ user.digest_part());
        self.rev = Some(page.rev);
        if self.compare(page.rev, totals, events) {
            events(Event::Lobby { rev: page.rev, users: self.users.iter().copied().collect() });
        }
    }

    /// Takes an update.
    pub(crate) fn update(&mut self, update: &LobbyUpdate, events: &mut impl FnMut(Event)) {
        let rev = update.rev;
        if self.pages.take().is_some() {
            return self.diverged(rev, "the relay sent an update between two pages of a snapshot", events);
        }
        match self.rev {
            None => return self.diverged(rev, "the relay sent an update before the first snapshot", events),
            Some(own) if rev <= own => {
                return self.diverged(rev, "the relay sent an update that is not newer than the list", events);
            }
            Some(_) => self.rev = Some(rev),
        }
        if self.users.len() + update.joined.len() > USERS_MAX {
            return self.diverged(rev, "the relay sent more users than can be", events);
        }
        for &public_key in &update.left {
            if self.users.remove(&public_key) {
                self.digest ^= public_key.digest_part();
                events(Event::Left { rev, public_key });
            }
        }
        for &public_key in &update.joined {
            if self.users.insert(public_key) {
                self.digest ^= public_key.digest_part();
                events(Event::Joined { rev, public_key });
            }
        }
        self.compare(rev, update.totals, events);
    }

    /// When [`Lobby::take_sync`] will say yes, if it will.
    pub(crate) fn sync_at(&self, now: Instant) -> Option<Instant> {
        self.sync.wanted.then(|| self.sync.sent.map_or(now, |sent| sent + SYNC_INTERVAL))
    }

    /// Whether a `lobby_sync` is to be sent now; counts it as sent.
    pub(crate) fn take_sync(&mut self, now: Instant) -> bool {
        let due = self.sync_at(now).is_some_and(|at| at <= now);
        if due {
            self.sync.sent = Some(now);
        }
        due
    }

    fn compare(&mut self, rev: u64, theirs: LobbyTotals, events: &mut impl FnMut(Event)) -> bool {
        let own = self.totals();
        self.sync.wanted = false;
        if own == theirs {
            return true;
        }
        let details = format!(
            "the relay has {} users with digest {:016x}, the own list {} with {:016x}",
            theirs.count, theirs.digest, own.count, own.digest
        );
        self.diverged(rev, &details, events);
        false
    }

    fn diverged(&mut self, rev: u64, details: &str, events: &mut impl FnMut(Event)) {
        self.sync.wanted = true;
        events(Event::LobbyDiverged { rev, details: details.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[0] = first;
        PublicKey::from_bytes(bytes)
    }

    fn totals(users: &[u8]) -> LobbyTotals {
        let digest = users.iter().fold(0, |digest, &user| digest ^ key(user).digest_part());
        LobbyTotals { count: users.len() as u64, digest }
    }

    struct Fixture {
        lobby: Lobby,
        events: Vec<Event>,
    }

    impl Fixture {
        fn with(users: &[u8]) -> Self {
            let mut fixture = Self { lobby: Lobby::default(), events: Vec::new() };
            fixture.page(1, users, Some(users));
            assert!(fixture.lobby.agrees());
            fixture.events.clear();
            fixture
        }

        fn page(&mut self, rev: u64, users: &[u8], all: Option<&[u8]>) {
            let page = LobbyPage { rev, users: users.iter().copied().map(key).collect(), totals: all.map(totals) };
            self.lobby.page(&page, &mut |event| self.events.push(event));
        }

        fn update(&mut self, rev: u64, joined: &[u8], left: &[u8], all: &[u8]) {
            let update = LobbyUpdate {
                rev,
                joined: joined.iter().copied().map(key).collect(),
                left: left.iter().copied().map(key).collect(),
                totals: totals(all),
            };
            self.lobby.update(&update, &mut |event| self.events.push(event));
        }

        fn users(&self) -> Vec<PublicKey> {
            self.lobby.users().iter().copied().collect()
        }
    }

    #[test]
    fn a_snapshot_in_pages_counts_with_its_last_page() {
        let mut lobby = Fixture::with(&[9]);
        lobby.page(2, &[3, 1], None);
        assert_eq!((lobby.users(), lobby.events.len()), (vec![key(9)], 0), "nothing changes before the last page");
        lobby.page(2, &[2], Some(&[1, 2, 3]));
        let users = vec![key(1), key(2), key(3)];
        assert_eq!(lobby.events, [Event::Lobby { rev: 2, users: users.clone() }]);
        assert_eq!((lobby.users(), lobby.lobby.totals()), (users, totals(&[1, 2, 3])));
    }

    #[test]
    fn a_snapshot_given_up_for_a_newer_one_leaves_no_trace() {
        let mut lobby = Fixture::with(&[]);
        lobby.page(2, &[1], None);
        lobby.page(3, &[2], Some(&[2]));
        assert_eq!(lobby.users(), [key(2)]);
        assert!(lobby.lobby.agrees());
    }

    #[test]
    fn updates_change_the_list_in_order() {
        let mut lobby = Fixture::with(&[1, 2]);
        lobby.update(2, &[3], &[1], &[2, 3]);
        lobby.update(7, &[1], &[], &[1, 2, 3]);
        assert_eq!(
            lobby.events,
            [
                Event::Left { rev: 2, public_key: key(1) },
                Event::Joined { rev: 2, public_key: key(3) },
                Event::Joined { rev: 7, public_key: key(1) },
            ]
        );
        assert!(lobby.lobby.agrees());
        assert_eq!(lobby.lobby.rev(), Some(7));
    }

    #[test]
    fn what_breaks_the_order_is_not_applied() {
        let diverged = |mut lobby: Fixture, joined: u8| {
            lobby.update(2, &[joined], &[], &[1, joined]);
            assert!(matches!(lobby.events[..], [Event::LobbyDiverged { rev: 2, .. }]), "{:?}", lobby.events);
            assert!(!lobby.lobby.agrees() && !lobby.lobby.users().contains(&key(joined)));
        };
        // An update that came before.
        let mut repeated = Fixture::with(&[1]);
        repeated.update(2, &[], &[], &[1]);
        diverged(repeated, 5);
        // An update within a snapshot.
        let mut within = Fixture::with(&[1]);
        within.page(2, &[1], None);
        diverged(within, 5);
        // An update before any snapshot.
        let mut early = Fixture::with(&[1]);
        early.lobby.start_connection();
        diverged(early, 5);
        // A snapshot from the past.
        let mut old = Fixture::with(&[1]);
        old.page(0, &[5], Some(&[5]));
        assert!(!old.lobby.agrees());
        assert_eq!(old.users(), [key(1)]);
    }

    #[test]
    fn a_wrong_count_or_digest_asks_once_in_two_seconds_until_it_fits() {
        let start = Instant::now();
        let mut lobby = Fixture::with(&[1]);
        assert_eq!(lobby.lobby.sync_at(start), None);
        lobby.update(2, &[2], &[], &[1, 2, 3]);
        assert!(matches!(lobby.events.last(), Some(Event::LobbyDiverged { .. })));
        assert!(lobby.lobby.take_sync(start));
        assert!(!lobby.lobby.take_sync(start + Duration::from_millis(1999)));
        lobby.update(3, &[4], &[], &[1, 2, 3, 4]);
        assert!(!lobby.lobby.take_sync(start + Duration::from_millis(1999)));
        assert_eq!(lobby.lobby.sync_at(start), Some(start + SYNC_INTERVAL));
        assert!(lobby.lobby.take_sync(start + SYNC_INTERVAL));
        lobby.page(3, &[1, 2, 3, 4], Some(&[1, 2, 3, 4]));
        assert!(lobby.lobby.agrees());
        assert!(!lobby.lobby.take_sync(start + 9 * SYNC_INTERVAL));
        // Same count, other keys.
        lobby.update(4, &[5], &[], &[1, 2, 3, 4, 6]);
        assert!(lobby.lobby.take_sync(start + 9 * SYNC_INTERVAL));
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_asked_for_again() {
        let now = Instant::now();
        let mut lobby = Fixture::with(&[]);
        lobby.page(2, &[1], Some(&[1, 2]));
        assert!(matches!(lobby.events[..], [Event::LobbyDiverged { .. }]));
        assert!(lobby.lobby.take_sync(now));
    }
}
