//! Brings devices that are behind up to date: from the tail where it has what comes next, from the
//! store in pages otherwise.
//!
//! # Invariants
//! - A session that is behind is looked at when its outbox moved, when its page came, and when its user
//!   was opened; one that had to stop for the sake of others, in the next batch.
//! - A connection has at most one page on its way, and asks for one only while less than
//!   [`OUTBOX_BYTES`] wait for it.
//! - One batch of the shard pushes at most [`BATCH_BYTES`] from tails.
//! - What was missed comes behind the lobby's snapshot.

use crate::connection::{Connection, Link, Member, State};
use crate::deliver::encode_push;
use crate::effect::{Effect, Effects};
use crate::event::ConnectionId;
use crate::inbox::Place;
use crate::journal::Need;
use crate::lobby::Cursor;
use crate::receipts::Meta;
use crate::router::UserId;
use crate::shard::Core;
use crate::stats::DropReason;
use crate::store::{Page, PageOf, PageRequest};

/// A device that is behind is given more while less than this waits for it, and less than a quarter of
/// what may: what a page and some more add stays far below the bound.
const OUTBOX_BYTES: usize = 128 * 1024;

/// Bytes of frames pushed from tails to devices that are behind, in one batch: some 100 µs of copying.
const BATCH_BYTES: usize = 512 * 1024;

/// One page of the store: as much as is written at once, and read while the page before is written.
const PAGE_BYTES: usize = 64 * 1024;

/// Entries of one page: 64 KiB of the smallest frames, which have about 400 bytes.
const PAGE_ENTRIES: usize = 256;

impl Core {
    /// Gives those who are behind and whose outbox moved in this batch what comes next.
    pub(crate) fn pump(&mut self, effects: &mut Effects) {
        let mut hungry = std::mem::take(&mut self.hungry);
        for id in hungry.drain(..) {
            self.touch(id);
        }
        let mut budget = BATCH_BYTES;
        // Pushing adds connections to the list; those are not behind, so it is read once.
        let end = self.post.dirty.len();
        for at in 0..end {
            let index = self.post.dirty[at] as usize;
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let is_behind = slot.connection.as_deref().is_some_and(|connection| match &connection.state {
                State::Active(session) => session.member.is_behind,
                _ => false,
            });
            if !is_behind {
                continue;
            }
            let Some(mut connection) = slot.connection.take() else { continue };
            if let Connection { link, state: State::Active(session) } = &mut *connection
                && !self.pump_one(link, &mut session.member, &mut budget, effects)
            {
                hungry.push(link.id);
            }
            self.slots[index].connection = Some(connection);
        }
        self.hungry = hungry;
    }

    /// Looks at the connection in this batch.
    fn touch(&mut self, id: ConnectionId) {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        if let Some(connection) = slot.and_then(|slot| slot.connection.as_deref_mut()) {
            self.post.touch(&mut connection.link);
        }
    }

    /// Pushes what comes next; `false` if the batch's budget ends before it.
    fn pump_one(&mut self, link: &mut Link, member: &mut Member, budget: &mut usize, effects: &mut Effects) -> bool {
        let has_lobby =
            member.subscription.as_ref().is_none_or(|subscription| matches!(subscription.cursor, Cursor::At(_)));
        if member.is_loading || !has_lobby {
            return true;
        }
        self.waiting_receipts(link, member.user);
        let has_store = self.journal.has_store();
        loop {
            let user = self.router.user_mut(member.user);
            let slot = link.id.index;
            let Some(device) = user.devices.on_mut(slot) else { return true };
            let place = user.inbox.next_from(device.next, has_store);
            if place != Place::None && !user.record.is_open {
                self.journal.note_user(member.user, &mut user.record, Need::Soon, self.now.nanos);
                if user.record.opening == 0 {
                    self.journal.urge(self.now.nanos);
                }
                return true;
            }
            let seq = match place {
                Place::None => {
                    device.next = user.inbox.seq + 1;
                    member.is_behind = false;
                    return true;
                }
                _ if link.outbox.bytes() >= OUTBOX_BYTES.min(self.config.limits.outbox_bytes_max / 4) => return true,
                Place::Tail(_) if *budget == 0 => return false,
                Place::Tail(seq) => seq,
                Place::Stored(seq) => {
                    member.is_loading = true;
                    self.stats.loads += 1;
                    effects.push(Effect::Load(Box::new(PageRequest {
                        connection: link.id,
                        user: member.key,
                        what: PageOf::Inbox { after: seq - 1 },
                        entries_max: PAGE_ENTRIES,
                        bytes_max: PAGE_BYTES.min(self.config.limits.outbox_bytes_max / 4),
                    })));
                    return true;
                }
            };
            if !has_store && seq != device.next {
                // What came next was pushed out of memory meanwhile.
                link.overflowed = true;
                self.post.overflowed.push(link.id);
                return true;
            }
            device.next = seq + 1;
            let Some(entry) = user.inbox.entry(seq) else { return true };
            if entry.origin == Some(device.tag) {
                continue;
            }
            let frame = entry.body.as_bytes();
            *budget = budget.saturating_sub(frame.len());
            encode_push(&mut self.pushed, frame, seq);
            let meta = entry.origin.is_none().then(|| Meta::new(seq, entry.sender, entry.id, &entry.with));
            if !self.pushed_behind(link, member.user, seq, meta) {
                return true;
            }
        }
    }

    /// Puts the encoded push into the outbox; `false` if it did not fit: the connection is closed.
    fn pushed_behind(&mut self, link: &mut Link, id: UserId, seq: u64, meta: Option<Meta>) -> bool {
        let user = self.router.user_mut(id);
        if !self.post.push(link, &self.pushed, &[]) {
            if let Some(device) = user.devices.on_mut(link.id.index) {
                device.next = seq;
            }
            self.stats.drop_push(DropReason::TooSlow);
            return false;
        }
        if let Some(meta) = meta {
            user.metas.note(meta, user.inbox.confirmed);
        }
        true
    }

    /// A page came.
    pub(crate) fn loaded(&mut self, page: &Page) {
        let id = page.request.connection;
        let after = match page.request.what {
            PageOf::Inbox { after } => after,
            PageOf::History { .. } => return self.history_loaded(page),
        };
        let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation) else {
            return;
        };
        let Some(mut connection) = slot.connection.take() else { return };
        if let Connection { link, state: State::Active(session) } = &mut *connection {
            session.member.is_loading = false;
            self.push_page(link, &session.member, page, after);
            self.post.touch(link);
        }
        self.slots[id.index as usize].connection = Some(connection);
    }

    fn push_page(&mut self, link: &mut Link, member: &Member, page: &Page, after: u64) {
        if page.fault.is_some() {
            self.stats.loads_failed += 1;
            if !std::mem::replace(&mut link.overflowed, true) {
                self.post.overflowed.push(link.id);
            }
            return;
        }
        self.stats.entries_loaded += page.entries.len() as u64;
        for entry in &page.entries {
            let user = self.router.user_mut(member.user);
            let Some(device) = user.devices.on_mut(link.id.index) else { return };
            if entry.seq < device.next {
                continue;
            }
            // What the store had no room for, and somebody has confirmed, is in memory before what it took later.
            if matches!(user.inbox.next_from(device.next, true), Place::Tail(seq) if seq < entry.seq) {
                return;
            }
            device.next = entry.seq + 1;
            if entry.origin == Some(device.tag) {
                continue;
            }
            encode_push(&mut self.pushed, &page.bytes[entry.frame.clone()], entry.seq);
            let meta = entry.origin.is_none().then(|| Meta::new(entry.seq, entry.sender, entry.id, &entry.with));
            if !self.pushed_behind(link, member.user, entry.seq, meta) {
                return;
            }
        }
        // The first that was asked for is there, or is nowhere: it must not be asked for for ever.
        let user = self.router.user_mut(member.user);
        if let Some(device) = user.devices.on_mut(link.id.index)
            && device.next <= after + 1
            && matches!(user.inbox.next_from(device.next, true), Place::Stored(_))
        {
            device.next = after + 2;
            self.stats.entries_missing += 1;
        }
    }
}
