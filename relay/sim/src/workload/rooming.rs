//! What clients do in rooms: making them, coming and going, inviting and removing, and writing in them.

use protocol::encode;
use protocol::frame::{RoomAction, Target};

use crate::frames;
use crate::network::LinkId;
use crate::world::World;

/// So few that everybody meets.
const ROOMS: [&str; 3] = ["room-a", "room-b", "room-c"];

impl World {
    fn any_user(&mut self) -> protocol::PublicKey {
        let user = self.random.index(self.users.len());
        self.users[user].key
    }

    /// Asks something of a room: one thing at a time, so that the answer is known to be its.
    pub(super) fn ask_room(&mut self, session: LinkId) {
        if self.sessions[session].room_asked {
            return;
        }
        let room = self.random.pick(&ROOMS);
        let someone = self.any_user();
        let open = self.random.chance(60);
        let action = match self.random.below(20) {
            0..=3 => RoomAction::Create { open },
            4..=10 => RoomAction::Join,
            11..=12 => RoomAction::Leave,
            13..=15 => RoomAction::Members,
            16..=17 => RoomAction::Invite(someone),
            _ => RoomAction::Remove(someone),
        };
        let mut frame = Vec::new();
        encode::room_action(&mut frame, room, &action);
        let (key, now) = (self.sessions[session].key, self.schedule.now());
        self.trace.note(now, || format!("client {session} asks {room}: {action:?}"));
        self.ledger.ask_room(room, (session, key), action, now);
        self.sessions[session].room_asked = true;
        self.good_frame(session, &frame);
    }

    /// Writes to a room, or privately to somebody in it.
    pub(super) fn send_to_room(&mut self, session: LinkId) {
        let room = self.random.pick(&ROOMS);
        let user = self.sessions[session].user;
        let key = self.users[user].key;
        let to = Some(self.any_user()).filter(|to| self.random.chance(35) && *to != key);
        let target = to.map_or(Target::Room(room), |to| Target::RoomMember(room, to));
        let (id, text) = (self.new_id(), frames::text(&mut self.random));
        let frame = self.draft(session, target, &id, &text, 0);
        let record = self.ledger.add_to_room((user, key), (room, to), &id, frame);
        self.send_records(session, &[record]);
    }
}
