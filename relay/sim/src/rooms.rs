//! The model's book of rooms: who must be a member by what was answered, who may be by what was asked,
//! and what every answer has to agree with.
//!
//! # Invariants
//! - Who must be a member may be one.
//! - A change takes effect between its sending and its answer. One that is never answered took effect or
//!   did not, before the relay that it was sent to was gone.

use std::collections::BTreeMap;

use protocol::PublicKey;
use protocol::frame::RoomAction;
use protocol::server_frame::RoomState;
use relay_core::Nanos;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::network::LinkId;

/// Something asked of a room by a connection, and not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) session: LinkId,
    pub(crate) asker: PublicKey,
    pub(crate) ask: RoomAction,
    pub(crate) at: Nanos,
    /// Whom it adds could be a member before.
    was_member: bool,
}

impl Asked {
    /// Whom it makes a member.
    fn adds(&self) -> Option<PublicKey> {
        matches!(self.ask, RoomAction::Create { .. } | RoomAction::Join).then_some(self.asker)
    }

    /// Whose membership it ends.
    fn takes(&self) -> Option<PublicKey> {
        match self.ask {
            RoomAction::Leave => Some(self.asker),
            RoomAction::Remove(key) => Some(key),
            _ => None,
        }
    }
}

/// What is known of one key and one room.
#[derive(Clone, Copy, Debug, Default)]
struct Membership {
    /// It is a member since then.
    must_since: Option<Nanos>,
    /// It may be a member.
    may: bool,
    /// It may have been one until then.
    may_until: Nanos,
    /// When something that could make it a member was last sent or answered, and something that could end
    /// that.
    added_at: Nanos,
    taken_at: Nanos,
}

/// One room.
#[derive(Debug, Default)]
struct Room {
    members: BTreeMap<PublicKey, Membership>,
    asked: Vec<Asked>,
}

/// All rooms of a run.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    rooms: BTreeMap<String, Room>,
}

impl Rooms {
    /// Who must be members by now, since before `since`.
    pub(crate) fn members(&self, room: &str, since: Nanos) -> Vec<PublicKey> {
        let members = self.rooms.get(room).into_iter().flat_map(|room| &room.members);
        let must = members.filter(|(_, known)| known.must_since.is_some_and(|at| at <= since));
        must.map(|(key, _)| *key).collect()
    }

    /// Whether a key must be a member since before `since`.
    pub(crate) fn must(&self, room: &str, key: &PublicKey, since: Nanos) -> bool {
        self.known(room, key).must_since.is_some_and(|at| at <= since)
    }

    /// Whether a key may have been a member at some time since then.
    pub(crate) fn may(&self, room: &str, key: &PublicKey, since: Nanos) -> bool {
        let known = self.known(room, key);
        known.may || known.may_until >= since
    }

    fn known(&self, room: &str, key: &PublicKey) -> Membership {
        self.rooms.get(room).and_then(|room| room.members.get(key)).copied().unwrap_or_default()
    }

    /// Books that something is asked. Gives whose membership is not certain any more.
    pub(crate) fn ask(
        &mut self,
        room: &str,
        (session, asker): (LinkId, PublicKey),
        ask: RoomAction,
        at: Nanos,
    ) -> Option<PublicKey> {
        let mut asked = Asked { session, asker, ask, at, was_member: false };
        let room = self.rooms.entry(room.to_owned()).or_default();
        if let Some(key) = asked.adds() {
            let known = room.members.entry(key).or_default();
            asked.was_member = known.may;
            (known.may, known.added_at) = (true, at);
        }
        let taken = asked.takes();
        if let Some(key) = taken {
            let known = room.members.entry(key).or_default();
            (known.must_since, known.taken_at) = (None, at);
        }
        room.asked.push(asked);
        taken
    }

    /// What connections asked for which `gone` holds was done or was not, and is not done any more.
    pub(crate) fn forget(&mut self, gone: impl Fn(LinkId) -> bool) {
        for room in self.rooms.values_mut() {
            room.asked.retain(|asked| !gone(asked.session));
        }
    }

    /// The relay started anew without a store: there are no rooms.
    pub(crate) fn clear(&mut self, now: Nanos) {
        for room in self.rooms.values_mut() {
            room.asked.clear();
            for known in room.members.values_mut() {
                known.may_until = if known.may { now } else { known.may_until };
                (known.may, known.must_since) = (false, None);
            }
        }
    }

    fn take_asked(&mut self, room: &str, session: LinkId) -> Option<Asked> {
        let asked = &mut self.rooms.get_mut(room)?.asked;
        let at = asked.iter().position(|asked| asked.session == session)?;
        Some(asked.remove(at))
    }

    /// Checks a `room`: the answer to what the connection asked.
    pub(crate) fn answered(&mut self, session: LinkId, state: &RoomState<'_>, now: Nanos) -> Checked<Asked> {
        let name = state.room;
        let asked = self.take_asked(name, session);
        let Some(asked) = asked else {
            return violated(Invariant::AnswerSurplus, format!("connection {session} did not ask about {name}"));
        };
        let is_owned = state.members.contains(&state.owner) || state.members.is_empty();
        ensure(is_owned, Invariant::MembershipLost, || format!("{name}: its owner {:?} is none of it", state.owner))?;
        for key in self.members(name, asked.at) {
            ensure(state.members.contains(&key), Invariant::MembershipLost, || {
                format!("{name}: {key:?} is missing, and was a member when connection {session} asked {asked:?}")
            })?;
        }
        for key in &state.members {
            ensure(self.may(name, key, asked.at), Invariant::MembershipGhost, || {
                format!("{name}: {key:?} is listed, and was none when connection {session} asked {asked:?}")
            })?;
        }
        let Some(room) = self.rooms.get_mut(name) else { return Ok(asked) };
        let is_pending =
            |key: PublicKey, of: fn(&Asked) -> Option<PublicKey>| room.asked.iter().any(|other| of(other) == Some(key));
        if let Some(key) = asked.adds() {
            let ends = is_pending(key, Asked::takes);
            let known = room.members.entry(key).or_default();
            known.added_at = now;
            if !ends && known.taken_at < asked.at {
                known.must_since.get_or_insert(now);
            }
        }
        if let Some(key) = asked.takes() {
            let begins = is_pending(key, Asked::adds);
            let known = room.members.entry(key).or_default();
            (known.taken_at, known.must_since) = (now, None);
            if !begins && known.added_at < asked.at {
                known.may_until = if known.may { now } else { known.may_until };
                known.may = false;
            }
        }
        Ok(asked)
    }

    /// Checks the refusal of what a connection asked.
    pub(crate) fn refused(&mut self, session: LinkId, name: &str, reason: &str, now: Nanos) -> Checked<Asked> {
        let Some(asked) = self.take_asked(name, session) else {
            return violated(Invariant::AnswerSurplus, format!("connection {session} did not ask about {name}"));
        };
        let is_member = self.must(name, &asked.asker, asked.at);
        let exists = !self.members(name, asked.at).is_empty();
        let may_exist = self
            .rooms
            .get(name)
            .is_some_and(|room| room.members.values().any(|known| known.may || known.may_until >= asked.at));
        let allowed = match (reason, asked.ask) {
            ("no_such_room", RoomAction::Create { .. }) => false,
            ("no_such_room", _) => !exists,
            ("room_exists", RoomAction::Create { .. }) => may_exist,
            ("not_member", RoomAction::Create { .. }) => false,
            ("not_member", RoomAction::Remove(_)) => true,
            ("not_member", _) => !is_member,
            ("not_owner", RoomAction::Invite(_) | RoomAction::Remove(_)) => true,
            ("overloaded", _) => true,
            _ => false,
        };
        let rule = if is_member { Invariant::MembershipLost } else { Invariant::AnswerWrong };
        ensure(allowed, rule, || format!("connection {session}: {reason} to {asked:?} in {name}"))?;
        // What the store could not take may be there all the same after a restart.
        if let (Some(key), true, Some(room)) = (asked.adds(), reason != "overloaded", self.rooms.get_mut(name)) {
            let is_pending = room.asked.iter().any(|other| other.adds() == Some(key));
            let known = room.members.entry(key).or_default();
            if !asked.was_member && !is_pending && known.added_at == asked.at && known.may {
                (known.may, known.may_until) = (false, now);
            }
        }
        Ok(asked)
    }

    /// Checks, once quiet, that whoever asked on a connection for which `whole` holds was answered.
    pub(crate) fn check_answers(&self, whole: impl Fn(LinkId) -> bool) -> Checked {
        for (name, room) in &self.rooms {
            let missed = room.asked.iter().find(|asked| whole(asked.session));
            ensure(missed.is_none(), Invariant::AnswerMissing, || format!("{name}: no answer to {missed:?}"))?;
        }
        Ok(())
    }
}
