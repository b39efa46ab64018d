//! The lobby as a client sees it, checked at every frame.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use super::client::text_of;
use super::{Client, DEADLINE, Relay, User};

/// A list of users that is kept from frame to frame.
///
/// Panics when a frame breaks the contract: pages of several `rev`s or with a delta between them, a
/// `rev` that falls or stands still, a key in both lists of a delta, a `count` or `digest` that the
/// list does not give.
#[derive(Default)]
pub(crate) struct Lobby {
    /// Public keys of all that are online.
    pub(crate) users: BTreeSet<String>,
    /// How many snapshots were read to their end.
    pub(crate) snapshots: usize,
    /// How many pages the last of them had.
    pub(crate) pages: usize,
    rev: u64,
    unfinished: Option<(u64, usize, BTreeSet<String>)>,
}

impl Lobby {
    /// Takes a frame and says whether it was one of the lobby's.
    pub(crate) fn apply(&mut self, frame: &Value) -> bool {
        match text_of(frame, "type") {
            "lobby" => self.apply_page(frame),
            "lobby_update" => self.apply_delta(frame),
            _ => return false,
        }
        true
    }

    fn apply_page(&mut self, frame: &Value) {
        let rev = number_of(frame, "rev");
        let (first_rev, pages, mut users) = self.unfinished.take().unwrap_or((rev, 0, BTreeSet::new()));
        assert_eq!(rev, first_rev, "all pages of a snapshot have one rev");
        for key in keys_of(frame, "users") {
            assert!(users.insert(key), "a snapshot names everybody once");
        }
        if frame["more"].as_bool().expect("more is true or false") {
            self.unfinished = Some((rev, pages + 1, users));
            return;
        }
        assert!(rev >= self.rev, "rev fell from {} to {rev}", self.rev);
        (self.rev, self.users, self.pages) = (rev, users, pages + 1);
        self.snapshots += 1;
        self.check(frame);
    }

    fn apply_delta(&mut self, frame: &Value) {
        assert!(self.unfinished.is_none(), "a delta lies between the pages of a snapshot");
        assert!(self.snapshots > 0, "a delta comes before the first snapshot");
        let rev = number_of(frame, "rev");
        assert!(rev > self.rev, "rev went from {} to {rev}", self.rev);
        self.rev = rev;
        let (joined, left) = (keys_of(frame, "joined"), keys_of(frame, "left"));
        for key in &left {
            assert!(!joined.contains(key), "a key joins and leaves in one delta");
            self.users.remove(key);
        }
        self.users.extend(joined);
        self.check(frame);
    }

    fn check(&self, frame: &Value) {
        assert_eq!(number_of(frame, "count"), self.users.len() as u64, "count");
        assert_eq!(text_of(frame, "digest"), digest(&self.users), "digest");
    }
}

/// XOR over the first eight bytes of each key.
fn digest(users: &BTreeSet<String>) -> String {
    let parts = users.iter().map(|key| u64::from_str_radix(&key[..16], 16).expect("keys are hex"));
    format!("{:016x}", parts.fold(0, |digest, part| digest ^ part))
}

fn number_of(frame: &Value, field: &str) -> u64 {
    frame[field].as_u64().unwrap_or_else(|| panic!("{field} is no number in {frame}"))
}

fn keys_of(frame: &Value, field: &str) -> Vec<String> {
    let users = frame[field].as_array().unwrap_or_else(|| panic!("{field} is no array in {frame}"));
    users.iter().map(|user| text_of(user, "publicKey").to_owned()).collect()
}

/// A user who keeps the lobby and does nothing else.
pub(crate) struct Watcher {
    pub(crate) client: Client,
    pub(crate) lobby: Lobby,
}

impl Watcher {
    /// Logs in and reads the first snapshot.
    pub(crate) fn login(relay: &Relay, user: &User) -> Self {
        let (client, _) = Client::open(relay).with_session(user, "watch", "all");
        let mut watcher = Self { client, lobby: Lobby::default() };
        watcher.wait("the first snapshot", |lobby| lobby.snapshots > 0);
        assert!(watcher.lobby.users.contains(&user.key), "a snapshot has the client's own key");
        watcher
    }

    /// Reads lobby frames until the list is as it should be.
    pub(crate) fn wait(&mut self, what: &str, is_so: impl Fn(&Lobby) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(&self.lobby) {
            assert!(Instant::now() < deadline, "waited for {what}: {} users are online", self.lobby.users.len());
            let frame = self.client.frame();
            assert!(self.lobby.apply(&frame), "expected lobby frames, got {frame}");
        }
    }

    /// Waits until a user is online.
    pub(crate) fn wait_joined(&mut self, user: &User) {
        self.wait("a user to join", |lobby| lobby.users.contains(&user.key));
    }

    /// Waits until a user is offline.
    pub(crate) fn wait_left(&mut self, user: &User) {
        self.wait("a user to leave", |lobby| !lobby.users.contains(&user.key));
    }
}
