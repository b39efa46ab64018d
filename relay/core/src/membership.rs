//! What is asked of rooms at their home: changes, what they wait for, and who is told.
//!
//! # Flow
//! A room frame waits among the messages of its shard (`messages`) → [`Core::room_ask`] at the room's home
//! → the table changes at once, and with a store the room is noted in the journal → all changes of a room
//! until its batch is given out are one → the batch is stored: everybody who asked gets the room as it is,
//! and one `room_update` tells its members what became of it.
//!
//! # Invariants
//! - What is answered with a room is stored, where there is a store.
//! - While a room's record is on its way, nothing about it changes: what is asked meanwhile waits, in
//!   order. If it cannot be stored, the room is again what the store has, and whoever waited for the
//!   change is refused.
//! - At most [`ASKS_MAX`] wait in a shard; what is more is refused.
//! - A member hears of every change while it is online, and one that left or was removed of that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::frame::RoomAction;
use protocol::limits::ROOM_MEMBERS;
use protocol::{PublicKey, encode, websocket};

use crate::answers::OVERLOADED_RETRY_MS;
use crate::connection::{Connection, State};
use crate::effect::{Effect, Effects};
use crate::envelope::{Envelope, RoomAnswer, RoomAsk, RoomFault};
use crate::event::{ConnectionId, ShardId};
use crate::refusal::Refusal;
use crate::rooms::{Acted, Room};
use crate::session::About;
use crate::shard::Core;
use crate::store::{Batch, RoomRecord};

/// Asks that wait for the store in one shard: some 100 bytes each.
const ASKS_MAX: usize = 64 * 1024;

/// Who asks something of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The home of the key.
    pub(crate) shard: ShardId,
    pub(crate) connection: ConnectionId,
    pub(crate) key: PublicKey,
}

/// A room that is not stored as it is.
#[derive(Debug)]
struct Change {
    /// What the store has of it.
    before: Option<RoomRecord>,
    /// What came of it last.
    acted: Acted,
    /// Who waits to hear that it is stored.
    askers: Vec<Asker>,
    /// It is in a batch that was given out.
    is_given_out: bool,
    /// What was asked since then.
    asks: VecDeque<(Asker, RoomAsk)>,
}

/// All rooms of a shard that are not stored as they are.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    rooms: BTreeMap<Arc<str>, Change>,
    /// Who waits, in all.
    waiting: usize,
}

impl Core {
    /// Does what is asked of a room whose home is here.
    pub(crate) fn room_ask(&mut self, asker: Asker, room: &Arc<str>, ask: RoomAsk, effects: &mut Effects) {
        let answer = match ask {
            RoomAsk::Since => match self.rooms.of_member(room, &asker.key) {
                Ok((_, joined_ms)) => RoomAnswer::Since(joined_ms),
                Err(fault) => RoomAnswer::Unread(fault),
            },
            RoomAsk::Act(action) => match self.room_act(asker, room, action, effects) {
                Ok(None) => return,
                Ok(Some(state)) => RoomAnswer::State(state),
                Err(fault) => RoomAnswer::Refused(fault),
            },
        };
        self.answer_asker(&asker, room, answer, effects);
    }

    /// Acts on a room. Gives its state, or nothing if the asker has to wait for it.
    fn room_act(
        &mut self,
        asker: Asker,
        room: &Arc<str>,
        action: RoomAction,
        effects: &mut Effects,
    ) -> Result<Option<Arc<[u8]>>, RoomFault> {
        let has_store = self.journal.has_store();
        let Changes { rooms: changes, waiting } = &mut self.changes;
        let mut change = changes.get_mut(room);
        if has_store && *waiting >= ASKS_MAX {
            return Err(RoomFault::Overloaded);
        }
        if let Some(change) = change.as_deref_mut().filter(|change| change.is_given_out) {
            change.asks.push_back((asker, RoomAsk::Act(action)));
            *waiting += 1;
            return Ok(None);
        }
        if action != RoomAction::Members && self.journal.is_failed() {
            return Err(RoomFault::Overloaded);
        }
        let before = if has_store && change.is_none() && action != RoomAction::Members {
            self.rooms.get(room).map(Room::record)
        } else {
            None
        };
        let acted = self.rooms.act(room, &asker.key, action, self.now.unix_ms)?;
        self.stats.room_changes += u64::from(acted.is_changed);
        if let Some(change) = change {
            change.askers.push(asker);
            change.acted = acted;
            *waiting += 1;
            return Ok(None);
        }
        if acted.is_changed && has_store {
            let room = Arc::clone(&acted.id);
            let asks = VecDeque::new();
            let change = Change { before, acted, askers: vec![asker], is_given_out: false, asks };
            changes.insert(Arc::clone(&room), change);
            *waiting += 1;
            self.journal.note_room(room, self.now.nanos);
            return Ok(None);
        }
        if acted.is_changed {
            let lists = [acted.joined, acted.left].map(|key| key.into_iter().collect::<Vec<_>>());
            let state = self.room_state(&acted);
            // Whoever asked hears of it before everybody does.
            self.answer_asker(&asker, room, RoomAnswer::State(state), effects);
            self.tell_change(&acted, &lists[0], &lists[1], effects);
            return Ok(None);
        }
        Ok(Some(self.room_state(&acted)))
    }

    /// The room as it is now, as a whole WebSocket frame.
    fn room_state(&self, acted: &Acted) -> Arc<[u8]> {
        match self.rooms.get(&acted.id) {
            Some(room) => frame(|out| encode::room(out, room.id(), room.owner(), room.is_open(), room.members())),
            None => frame(|out| encode::room(out, &acted.id, &acted.owner, acted.open, [].iter())),
        }
    }

    /// Tells the members of a room, and those who left it, what changed.
    fn tell_change(&mut self, acted: &Acted, joined: &[PublicKey], left: &[PublicKey], effects: &mut Effects) {
        if joined.is_empty() && left.is_empty() {
            return;
        }
        if joined.len() + left.len() > ROOM_MEMBERS {
            // More than fits into a frame: everybody left, and as many joined.
            self.tell_change(acted, &[], left, effects);
            return self.tell_change(acted, joined, &[], effects);
        }
        let update = frame(|out| encode::room_update(out, &acted.id, joined, left, &acted.owner));
        self.tell_room(&acted.id, None, &update, effects);
        for key in left {
            self.tell_home(self.config.home(key), Arc::new([*key]), None, &update, effects);
        }
    }

    /// Gives a frame to the members of a room who are online.
    pub(crate) fn tell_room(
        &mut self,
        room: &str,
        except: Option<PublicKey>,
        frame: &Arc<[u8]>,
        effects: &mut Effects,
    ) {
        let homes = self.rooms.get_mut(room).map(|room| room.homes(&self.config).to_vec());
        for (home, users) in homes.into_iter().flatten() {
            self.tell_home(home, users, except, frame, effects);
        }
    }

    fn tell_home(
        &mut self,
        home: ShardId,
        users: Arc<[PublicKey]>,
        except: Option<PublicKey>,
        frame: &Arc<[u8]>,
        effects: &mut Effects,
    ) {
        if home == self.config.shard {
            self.tell(&users, except, frame);
        } else {
            let envelope = Envelope::Tell { users, except, frame: Arc::clone(frame) };
            effects.push(Effect::Send { to: home, envelope });
        }
    }

    /// Gives a frame to all devices of some users whose home is here.
    pub(crate) fn tell(&mut self, users: &[PublicKey], except: Option<PublicKey>, frame: &[u8]) {
        for key in users.iter().filter(|key| Some(**key) != except) {
            let Some(id) = self.router.find(key) else { continue };
            for slot in self.router.user(id).devices.all().iter().filter_map(|device| device.connection) {
                let connection = self.slots[slot as usize].connection.as_deref_mut();
                if let Some(Connection { link, state: State::Active(_) }) = connection {
                    self.post.push(link, frame, &[]);
                }
            }
        }
    }

    fn answer_asker(&mut self, asker: &Asker, room: &Arc<str>, answer: RoomAnswer, effects: &mut Effects) {
        if asker.shard == self.config.shard {
            self.room_answer(asker.connection, room, answer);
        } else {
            let envelope = Envelope::RoomAnswer { connection: asker.connection, room: Arc::clone(room), answer };
            effects.push(Effect::Send { to: asker.shard, envelope });
        }
    }

    /// A room's home answers a connection of this shard.
    pub(crate) fn room_answer(&mut self, connection: ConnectionId, room: &str, answer: RoomAnswer) {
        let fault = match answer {
            RoomAnswer::State(frame) => {
                return self.with_link(connection, |core, link| {
                    core.post.push(link, &frame, &[]);
                });
            }
            RoomAnswer::Since(joined_ms) => return self.may_read_since(connection, joined_ms),
            RoomAnswer::Unread(fault) => {
                self.may_not_read(connection);
                fault
            }
            RoomAnswer::Refused(fault) => fault,
        };
        let retry_after_ms = (fault == RoomFault::Overloaded).then_some(OVERLOADED_RETRY_MS);
        let about = About { room: Some(room), retry_after_ms, ..About::default() };
        self.with_link(connection, |core, link| core.refuse(link, Refusal::of_room(fault), about));
    }

    /// Puts a room into the batch that is given out.
    pub(crate) fn write_room(&mut self, room: Arc<str>, batch: &mut Batch) {
        let Some(change) = self.changes.rooms.get_mut(&room) else { return };
        change.is_given_out = true;
        match self.rooms.get(&room) {
            Some(room) => batch.rooms.push(room.record()),
            None => batch.forgotten_rooms.push(room),
        }
    }

    /// A room's record is stored, or could not be.
    pub(crate) fn room_stored(&mut self, room: &Arc<str>, is_safe: bool, effects: &mut Effects) {
        let Some(change) = self.changes.rooms.remove(room) else { return };
        let Change { before, acted, askers, asks, .. } = change;
        self.changes.waiting -= askers.len() + asks.len();
        if is_safe {
            let state = self.room_state(&acted);
            for asker in &askers {
                self.answer_asker(asker, room, RoomAnswer::State(Arc::clone(&state)), effects);
            }
            let (joined, left) = self.difference(room, before.as_ref());
            self.tell_change(&acted, &joined, &left, effects);
        } else {
            self.rooms.undo(room, before);
            for asker in &askers {
                self.answer_asker(asker, room, RoomAnswer::Refused(RoomFault::Overloaded), effects);
            }
        }
        for (asker, ask) in asks {
            self.room_ask(asker, room, ask, effects);
        }
    }

    /// Nothing can be stored any more: every room is what the store has, as far as it said so.
    pub(crate) fn undo_all_rooms(&mut self, effects: &mut Effects) {
        let rooms: Vec<Arc<str>> = self.changes.rooms.keys().cloned().collect();
        for room in rooms {
            self.room_stored(&room, false, effects);
        }
    }

    /// Who is in a room and was not, and who was and is not.
    fn difference(&self, room: &str, before: Option<&RoomRecord>) -> (Vec<PublicKey>, Vec<PublicKey>) {
        let before: Vec<PublicKey> = before.into_iter().flat_map(|room| &room.members).map(|(key, _)| *key).collect();
        let now: Vec<PublicKey> = self.rooms.get(room).into_iter().flat_map(Room::members).copied().collect();
        let were: BTreeSet<&PublicKey> = before.iter().collect();
        let are: BTreeSet<&PublicKey> = now.iter().collect();
        let joined = now.iter().filter(|key| !were.contains(key)).copied().collect();
        let left = before.iter().filter(|key| !are.contains(key)).copied().collect();
        (joined, left)
    }
}

/// A text message as a whole WebSocket frame, to be shared.
pub(crate) fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Arc<[u8]> {
    let mut json = Vec::new();
    write(&mut json);
    let mut whole = Vec::with_capacity(json.len() + 10);
    websocket::text_header(json.len(), &mut whole);
    whole.extend_from_slice(&json);
    whole.into()
}
