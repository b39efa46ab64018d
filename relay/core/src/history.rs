//! Pages of what was said with a user or in a room.
//!
//! # Flow
//! `history` → for a room, its home is asked since when the asker may read → [`Core::read_history`] takes
//! down what only memory has, and asks the store for a page → the two are merged and sent. Without a store
//! memory answers alone: with a user the last messages of the asker's inbox, and in a room those that came
//! through it to the asker.
//!
//! # Invariants
//! - A connection has at most one page on its way; what it asks meanwhile is refused. The page and what is
//!   taken down for it are bounded by a frame's size.
//! - A page holds what is in the asker's own inbox or history, under the asker's own seqs, and in a room
//!   nothing from before the asker joined.
//! - A page is never empty while there is more.

use std::sync::Arc;

use protocol::encode;
use protocol::frame::Target;
use protocol::limits::RELAY_FRAME_BYTES;
use protocol::splice::SPLICE_BYTES_MAX;

use crate::answers::OVERLOADED_RETRY_MS;
use crate::connection::{Connection, Link, Member, State};
use crate::effect::{Effect, Effects};
use crate::envelope::RoomAsk;
use crate::event::ConnectionId;
use crate::inbox::{Body, Entry};
use crate::refusal::Refusal;
use crate::session::About;
use crate::shard::Core;
use crate::store::{Conversation, Page, PageOf, PageRequest};

/// What the messages of one page and a comma for each may take.
const PAGE_BYTES: usize = RELAY_FRAME_BYTES - encode::HISTORY_ENVELOPE_BYTES;

/// What a message takes in a page besides its frame.
const MESSAGE_BYTES: usize = SPLICE_BYTES_MAX + 1;

/// A page that a session has asked for and not got.
#[derive(Debug)]
pub(crate) struct Reading {
    with: Conversation,
    /// Only below this seq.
    before: u64,
    /// At most so many.
    limit: usize,
    /// Only those not older than this.
    since_ms: i64,
    /// What memory had when the store was asked, ascending.
    recent: Vec<(u64, Body)>,
    /// Memory had more.
    has_more: bool,
}

impl Core {
    /// A session asks for a page.
    pub(crate) fn history(
        &mut self,
        link: &Link,
        member: &mut Member,
        with: &Target<'_>,
        before: Option<u64>,
        limit: u64,
    ) -> Option<Refusal> {
        if member.reading.is_some() {
            return Some(Refusal::ONE_PAGE);
        }
        let with = match *with {
            Target::User(key) => {
                self.readers.push(link.id);
                Conversation::User(key)
            }
            Target::Room(room) | Target::RoomMember(room, _) => {
                let room: Arc<str> = room.into();
                self.ask_room(link.id, member.key, Arc::clone(&room), RoomAsk::Since);
                Conversation::Room(room)
            }
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let before = before.unwrap_or(u64::MAX);
        member.reading =
            Some(Box::new(Reading { with, before, limit, since_ms: 0, recent: Vec::new(), has_more: false }));
        None
    }

    /// A room's home says since when a member may read; the page is read at the end of the batch.
    pub(crate) fn may_read_since(&mut self, connection: ConnectionId, joined_ms: i64) {
        self.with_reader(connection, |core, _, member| {
            if let Some(reading) = &mut member.reading {
                reading.since_ms = joined_ms;
                core.readers.push(connection);
            }
        });
    }

    /// A room's home does not let a session read.
    pub(crate) fn may_not_read(&mut self, connection: ConnectionId) {
        self.with_reader(connection, |_, _, member| member.reading = None);
    }

    /// Reads the pages that were asked for in this batch.
    pub(crate) fn read_history(&mut self, effects: &mut Effects) {
        let mut readers = std::mem::take(&mut self.readers);
        for id in readers.drain(..) {
            self.with_reader(id, |core, link, member| core.read_page(link, member, effects));
        }
        self.readers = readers;
    }

    fn read_page(&mut self, link: &mut Link, member: &mut Member, effects: &mut Effects) {
        let Some(mut reading) = member.reading.take() else { return };
        let has_store = self.journal.has_store();
        if has_store && matches!(reading.with, Conversation::Room(_)) {
            let retention_ms = i64::try_from(self.config.retention.as_millis()).unwrap_or(i64::MAX);
            reading.since_ms = reading.since_ms.max(self.now.unix_ms.saturating_sub(retention_ms));
        }
        reading.take_down(self.router.user(member.user).inbox.tail().iter().rev());
        if !has_store {
            return self.send_page(link, &reading, None);
        }
        self.stats.loads += 1;
        effects.push(Effect::Load(Box::new(PageRequest {
            connection: link.id,
            user: member.key,
            what: PageOf::History { with: reading.with.clone(), before: reading.before, since_ms: reading.since_ms },
            entries_max: reading.limit,
            bytes_max: PAGE_BYTES,
        })));
        member.reading = Some(reading);
    }

    /// A page of history came.
    pub(crate) fn history_loaded(&mut self, page: &Page) {
        self.with_reader(page.request.connection, |core, link, member| {
            let Some(reading) = member.reading.take() else { return };
            if page.fault.is_some() {
                core.stats.loads_failed += 1;
                let room = match &reading.with {
                    Conversation::Room(room) => Some(&**room),
                    Conversation::User(_) => None,
                };
                let about = About { room, retry_after_ms: Some(OVERLOADED_RETRY_MS), ..About::default() };
                return core.refuse(link, Refusal::OVERLOADED, about);
            }
            core.stats.entries_loaded += page.entries.len() as u64;
            let floor = match reading.with {
                // What every device has confirmed is on its way out of the store.
                Conversation::User(_) => core.router.user(member.user).floor(),
                Conversation::Room(_) => 0,
            };
            core.send_page(link, &reading, Some((page, floor)));
        });
    }

    /// Sends what memory had and what the store has above a floor, as far as it fits.
    fn send_page(&mut self, link: &mut Link, reading: &Reading, stored: Option<(&Page, u64)>) {
        let mut messages: Vec<(u64, &[u8])> =
            reading.recent.iter().map(|(seq, body)| (*seq, body.as_bytes())).collect();
        let mut more = reading.has_more;
        if let Some((page, floor)) = stored {
            // What memory had no place for lies between the rest of it and what is older.
            let oldest = reading.recent.first().filter(|_| reading.has_more).map_or(0, |&(seq, _)| seq);
            let above = page.entries.iter().filter(|entry| entry.seq > floor && entry.seq >= oldest);
            messages.extend(above.map(|entry| (entry.seq, &page.bytes[entry.frame.clone()])));
            more |= page.more && page.entries.first().is_some_and(|entry| entry.seq > floor);
        }
        messages.sort_unstable_by_key(|&(seq, _)| seq);
        messages.dedup_by_key(|&mut (seq, _)| seq);
        let mut bytes_left = PAGE_BYTES;
        let fits = |&&(_, frame): &&(u64, &[u8])| {
            bytes_left.checked_sub(frame.len() + MESSAGE_BYTES).is_some_and(|left| {
                bytes_left = left;
                true
            })
        };
        let count = messages.iter().rev().take(reading.limit).take_while(fits).count();
        let first = messages.len() - count;
        more |= first > 0;
        self.stats.history_pages += 1;
        self.post.text(link, |out| encode::history(out, messages[first..].iter().copied(), more));
    }

    /// Acts on the session of a connection, if it still lives.
    fn with_reader(&mut self, id: ConnectionId, act: impl FnOnce(&mut Self, &mut Link, &mut Member)) {
        let Some(mut connection) = self.take_out(id) else { return };
        if let Connection { link, state: State::Active(session) } = &mut *connection {
            act(self, link, &mut session.member);
        }
        self.put_back(connection);
    }
}

impl Reading {
    /// Takes down what memory has, given from the newest.
    fn take_down<'a>(&mut self, newest_first: impl Iterator<Item = &'a Entry>) {
        let Self { with, before, limit, since_ms, recent, has_more } = self;
        let mut bytes_left = PAGE_BYTES;
        for entry in newest_first {
            if entry.seq >= *before || entry.with != *with || entry.at_ms < *since_ms {
                continue;
            }
            let bytes = entry.body.as_bytes().len() + MESSAGE_BYTES;
            if recent.len() == *limit || bytes > bytes_left {
                *has_more = true;
                break;
            }
            bytes_left -= bytes;
            recent.push((entry.seq, entry.body.copied()));
        }
        recent.reverse();
    }
}
