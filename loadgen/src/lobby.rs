//! What clients know of who is online, and how late they learn of a change.
//!
//! A client keeps no list of users: ten thousand clients with ten thousand users each would be
//! gigabytes. It keeps the count and the digest of the list it would have, which is all that the
//! contract's own check of divergence needs (PROTOCOL, Lobby).
//!
//! An update is the same text for all connections of a shard. So its parse is kept for the next
//! clients, in a [`UpdateCache`] of the last few texts.
//!
//! # Invariants
//! - A view follows the frames alone; the truth is computed elsewhere, from the run's own list of
//!   connected keys ([`Visitors`] and the clients).
//!
//! Absent on purpose: who is online, by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::PublicKey;
use protocol::server_frame::{LobbyPage, LobbyTotals, LobbyUpdate, ServerFrame, ServerFrameDecoder};

/// The count and digest of one client's list of users.
#[derive(Clone, Copy, Debug, Default)]
pub struct LobbyView {
    /// Of the client's own list, page by page and update by update.
    own: LobbyTotals,
    /// As the relay last announced them.
    announced: LobbyTotals,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// No whole snapshot yet, or one that is to replace the list.
    #[default]
    Waiting,
    /// Some pages of a snapshot.
    InSnapshot,
    /// A whole list.
    Whole,
    /// The own list disagrees with the announced totals; a fresh snapshot repairs that.
    Disagrees,
}

/// What a frame did to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// More pages are to come, or nothing that matters.
    Partial,
    /// The list is whole and agrees with the relay's totals.
    Agrees,
    /// The list has just begun to disagree with the relay's totals.
    Disagrees,
}

impl LobbyView {
    /// Whether a whole list is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.progress, Progress::Whole | Progress::Disagrees)
    }

    /// Whether the list disagrees with what the relay last announced.
    #[must_use]
    pub fn disagrees(&self) -> bool {
        self.progress == Progress::Disagrees
    }

    /// Count and digest of the client's list.
    #[must_use]
    pub fn own(&self) -> LobbyTotals {
        self.own
    }

    /// Count and digest as the relay last announced them.
    #[must_use]
    pub fn announced(&self) -> LobbyTotals {
        self.announced
    }

    /// Takes a page of a snapshot, given as how many users it has, the XOR of their digest parts,
    /// and the totals that its last page carries.
    pub fn page(&mut self, count: u64, digest: u64, totals: Option<LobbyTotals>) -> Change {
        if self.progress != Progress::InSnapshot {
            self.own = LobbyTotals::default();
            self.progress = Progress::InSnapshot;
        }
        self.own.count += count;
        self.own.digest ^= digest;
        match totals {
            None => Change::Partial,
            Some(totals) => {
                self.progress = Progress::Whole;
                self.settle(totals)
            }
        }
    }

    /// Takes an update.
    pub fn update(&mut self, update: &Update) -> Change {
        if !self.is_whole() {
            return Change::Partial;
        }
        self.own.count = self.own.count.wrapping_add_signed(update.count_change);
        self.own.digest ^= update.digest_change;
        self.settle(update.totals)
    }

    fn settle(&mut self, totals: LobbyTotals) -> Change {
        self.announced = totals;
        if self.own == totals {
            self.progress = Progress::Whole;
            Change::Agrees
        } else if self.progress == Progress::Disagrees {
            Change::Partial
        } else {
            self.progress = Progress::Disagrees;
            Change::Disagrees
        }
    }
}

/// The XOR of the digest parts of keys.
pub fn digest<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> u64 {
    keys.into_iter().fold(0, |digest, key| digest ^ key.digest_part())
}

/// A join or leave of a visitor, seen in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The visitor's number.
    pub visitor: u32,
    /// Whether they joined.
    pub joined: bool,
}

/// An update, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Update {
    text: Vec<u8>,
    count_change: i64,
    digest_change: u64,
    totals: LobbyTotals,
    /// The visitors among those who joined and left.
    pub seen: Vec<Seen>,
}

/// How many texts are kept: one or two for each shard of a relay.
const CACHED: usize = 16;

/// The last few updates, parsed.
#[derive(Debug, Default)]
pub struct UpdateCache {
    updates: Vec<Update>,
    oldest: usize,
}

impl UpdateCache {
    /// Finds an update by its text.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<&Update> {
        self.updates.iter().find(|update| update.text == text)
    }

    /// Keeps an update in place of the oldest.
    pub fn keep(&mut self, text: &[u8], update: &LobbyUpdate, visitors: &Visitors) -> &Update {
        let at = if self.updates.len() < CACHED {
            self.updates.push(Update::default());
            self.updates.len() - 1
        } else {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % CACHED;
            oldest
        };
        let kept = &mut self.updates[at];
        kept.text.clear();
        kept.text.extend_from_slice(text);
        kept.count_change = update.joined.len() as i64 - update.left.len() as i64;
        kept.digest_change = digest(update.joined.iter().chain(&update.left));
        kept.totals = update.totals;
        kept.seen.clear();
        for (keys, joined) in [(&update.joined, true), (&update.left, false)] {
            let seen = keys.iter().filter_map(|key| visitors.number(key)).map(|visitor| Seen { visitor, joined });
            kept.seen.extend(seen);
        }
        kept
    }
}

/// A page of a snapshot, as far as it matters to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSums {
    /// Users on it.
    pub count: u64,
    /// The XOR of their digest parts.
    pub digest: u64,
    /// What its last page carries.
    pub totals: Option<LobbyTotals>,
}

/// Reads a page of a snapshot. The layout that `protocol` writes is read without a JSON parser,
/// users at a time: snapshots grow with the square of the clients. `None` if it is no page.
#[must_use]
pub fn read_page(text: &str, decoder: &mut ServerFrameDecoder) -> Option<PageSums> {
    if let Some(sums) = scan_page(text) {
        return Some(sums);
    }
    match decoder.decode(text) {
        Ok(ServerFrame::Lobby(LobbyPage { users, totals, .. })) => {
            Some(PageSums { count: users.len() as u64, digest: digest(&users), totals })
        }
        _ => None,
    }
}

fn scan_page(text: &str) -> Option<PageSums> {
    const USER: &str = "{\"publicKey\":\"";
    let rest = text.strip_prefix("{\"type\":\"lobby\",\"rev\":")?;
    let mut rest = rest.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(",\"users\":[")?;
    let (mut count, mut digest) = (0, 0);
    while let Some(user) = rest.strip_prefix(USER) {
        let key = PublicKey::from_hex(user.get(..64)?)?;
        let behind = user[64..].strip_prefix("\"}")?;
        digest ^= key.digest_part();
        count += 1;
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    let totals = match rest {
        "],\"more\":true}" => None,
        _ => {
            let rest = rest.strip_prefix("],\"more\":false,\"count\":")?;
            let (number, rest) = rest.split_once(",\"digest\":\"")?;
            let digest = protocol::keys::read_hex(rest.strip_suffix("\"}")?)?;
            Some(LobbyTotals { count: number.parse().ok()?, digest: u64::from_be_bytes(digest) })
        }
    };
    Some(PageSums { count, digest, totals })
}

/// When a visitor joined and left last, in nanoseconds of the run's clock; zero is never.
#[derive(Debug, Default)]
struct Visit {
    joined_ns: AtomicU64,
    left_ns: AtomicU64,
}

/// The visitors: users who come and go while the others watch. Shared by all workers, since a
/// visitor of one is watched by all.
#[derive(Debug, Default)]
pub struct Visitors {
    keys: Vec<PublicKey>,
    numbers: HashMap<PublicKey, u32>,
    visits: Vec<Visit>,
    /// Clients that stay and watch, over all workers.
    watching: AtomicU64,
}

impl Visitors {
    /// Makes visitors with these keys, nobody of them online.
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        let numbers = keys.iter().zip(0..).map(|(&key, number)| (key, number)).collect();
        let visits = keys.iter().map(|_| Visit::default()).collect();
        Self { keys, numbers, visits, watching: AtomicU64::new(0) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of a visitor.
    #[must_use]
    pub fn key(&self, visitor: u32) -> &PublicKey {
        &self.keys[visitor as usize]
    }

    fn number(&self, key: &PublicKey) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// Notes that a visitor joins or leaves now.
    pub fn note(&self, seen: Seen, now_ns: u64) {
        self.moment(seen).store(now_ns, Ordering::Relaxed);
    }

    /// When a visitor joined or left last; zero is never.
    #[must_use]
    pub fn when(&self, seen: Seen) -> u64 {
        self.moment(seen).load(Ordering::Relaxed)
    }

    /// One more client watches.
    pub fn watch(&self) {
        self.watching.fetch_add(1, Ordering::Relaxed);
    }

    /// A client watches no longer.
    pub fn look_away(&self) {
        self.watching.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many clients watch now, over all workers.
    #[must_use]
    pub fn watching(&self) -> u64 {
        self.watching.load(Ordering::Relaxed)
    }

    // Relaxed: a watcher learns of the visit through the relay, long after it was noted, and the
    // number itself is all that it reads.
    fn moment(&self, seen: Seen) -> &AtomicU64 {
        let visit = &self.visits[seen.visitor as usize];
        if seen.joined { &visit.joined_ns } else { &visit.left_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, LobbyView, Seen, UpdateCache, Visitors, digest, read_page, scan_page};
    use protocol::PublicKey;
    use protocol::encode;
    use protocol::server_frame::{LobbyTotals, ServerFrame, ServerFrameDecoder};

    fn key(first: u8) -> PublicKey {
        PublicKey::from_bytes([first; 32])
    }

    fn totals(keys: &[PublicKey]) -> LobbyTotals {
        LobbyTotals { count: keys.len() as u64, digest: digest(keys) }
    }

    fn page_text(keys: &[PublicKey], totals: Option<LobbyTotals>) -> String {
        let mut text = Vec::new();
        encode::lobby(&mut text, 7, keys, totals);
        String::from_utf8(text).unwrap()
    }

    fn update_text(joined: &[PublicKey], left: &[PublicKey], totals: LobbyTotals) -> String {
        let mut text = Vec::new();
        encode::lobby_update(&mut text, 8, joined, left, totals);
        String::from_utf8(text).unwrap()
    }

    fn apply(view: &mut LobbyView, text: &str, visitors: &Visitors) -> (Change, Vec<Seen>) {
        let mut decoder = ServerFrameDecoder::new();
        let Ok(ServerFrame::LobbyUpdate(update)) = decoder.decode(text) else { panic!("{text}") };
        let mut cache = UpdateCache::default();
        let update = cache.keep(text.as_bytes(), &update, visitors).clone();
        assert_eq!(cache.find(text.as_bytes()).unwrap().seen, update.seen);
        (view.update(&update), update.seen)
    }

    #[test]
    fn pages_are_scanned_as_the_decoder_reads_them() {
        let keys: Vec<_> = (0..5).map(key).collect();
        for users in [&keys[..], &keys[..1], &[]] {
            for announced in [None, Some(totals(&keys))] {
                let text = page_text(users, announced);
                let scanned = scan_page(&text).unwrap();
                let spaced = text.replacen(',', ", ", 1);
                assert_eq!(scan_page(&spaced), None);
                assert_eq!(read_page(&spaced, &mut ServerFrameDecoder::new()), Some(scanned));
                assert_eq!(scanned.count, users.len() as u64);
                assert_eq!(scanned.digest, digest(users));
                assert_eq!(scanned.totals, announced);
            }
        }
        assert_eq!(read_page("{\"type\":\"pong\"}", &mut ServerFrameDecoder::new()), None);
    }

    #[test]
    fn a_view_follows_pages_and_updates() {
        let keys: Vec<_> = (0..4).map(key).collect();
        let visitors = Visitors::new(vec![key(9)]);
        let mut view = LobbyView::default();
        assert_eq!(view.page(3, digest(&keys[..3]), None), Change::Partial);
        assert!(!view.is_whole());
        assert_eq!(view.page(1, digest(&keys[3..]), Some(totals(&keys))), Change::Agrees);
        assert!(view.is_whole());

        let after = [keys[1], keys[2], keys[3], key(9)];
        let text = update_text(&[key(9)], &keys[..1], totals(&after));
        let (change, seen) = apply(&mut view, &text, &visitors);
        assert_eq!(change, Change::Agrees);
        assert_eq!(seen, [Seen { visitor: 0, joined: true }]);
        assert_eq!(view.own(), totals(&after));
    }

    #[test]
    fn a_forgotten_leave_is_one_disagreement_until_the_next_snapshot() {
        let keys: Vec<_> = (0..4).map(key).collect();
        let visitors = Visitors::default();
        let mut view = LobbyView::default();
        view.page(4, digest(&keys), Some(totals(&keys)));
        // The totals know of a leave that the update does not name.
        let text = update_text(&[], &[], totals(&keys[..3]));
        assert_eq!(apply(&mut view, &text, &visitors).0, Change::Disagrees);
        assert_eq!(apply(&mut view, &text, &visitors).0, Change::Partial);
        assert_eq!(view.page(3, digest(&keys[..3]), Some(totals(&keys[..3]))), Change::Agrees);
        assert_eq!(view.own(), view.announced());
    }

    #[test]
    fn the_cache_forgets_the_oldest() {
        let visitors = Visitors::default();
        let mut cache = UpdateCache::default();
        let mut decoder = ServerFrameDecoder::new();
        let text = |count| update_text(&[], &[], LobbyTotals { count, digest: 0 });
        for count in 0..40 {
            let text = text(count);
            let Ok(ServerFrame::LobbyUpdate(update)) = decoder.decode(&text) else { panic!("{text}") };
            cache.keep(text.as_bytes(), &update, &visitors);
        }
        assert!(cache.find(text(39).as_bytes()).is_some());
        assert!(cache.find(text(24).as_bytes()).is_some());
        assert!(cache.find(text(23).as_bytes()).is_none());
    }

    #[test]
    fn visits_are_noted() {
        let visitors = Visitors::new(vec![key(1), key(2)]);
        let join = Seen { visitor: 1, joined: true };
        visitors.note(join, 5);
        assert_eq!(visitors.when(join), 5);
        assert_eq!(visitors.when(Seen { visitor: 1, joined: false }), 0);
        assert_eq!(visitors.number(&key(2)), Some(1));
        assert_eq!(visitors.number(&key(3)), None);
    }
}
