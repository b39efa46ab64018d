//! Makes the rooms that messages go to: the first member of each creates it, open, and the others join. At the
//! end everybody leaves, and a room goes with the last.

use protocol::encode;
use protocol::frame::RoomAction;
use protocol::websocket::Opcode;

use super::session::Session;
use crate::plan::RunPlan;
use crate::scenario::Rooms;
use crate::scenario::rooms::room_id;

/// The rooms of one worker, or none.
#[derive(Debug, Default)]
pub(super) struct RoomMaking {
    rooms: Option<Rooms>,
    users: u32,
    /// Answers that are still to come; `None` before anything was asked for.
    awaited: Option<u64>,
}

impl RoomMaking {
    pub(super) fn new(plan: &RunPlan, worker: usize, users: u32) -> Self {
        let rooms = plan.workload.rooms.map(|rooms| rooms.of_worker(worker, plan.workers));
        Self { rooms, users, awaited: None }
    }
}

impl Session {
    /// Asks for all rooms.
    pub(crate) fn make_rooms(&mut self) {
        let Some(rooms) = self.rooms.rooms else { return };
        self.rooms.awaited = Some(u64::from(rooms.rooms) * u64::from(rooms.members));
        for room in 0..rooms.rooms {
            self.ask(rooms.user(room, 0, self.rooms.users), room, &RoomAction::Create { open: true });
        }
    }

    /// Whether all rooms are there, with all their members.
    pub(crate) fn has_rooms(&self) -> bool {
        self.rooms.rooms.is_none() || self.rooms.awaited == Some(0)
    }

    fn ask(&mut self, place: u32, room: u32, action: &RoomAction) {
        let id = room_id(self.traffic.nonce, self.traffic.worker, room);
        let mut frame = Vec::new();
        encode::room_action(&mut frame, &id, action);
        self.push(place, Opcode::Text, &frame);
    }

    /// The relay has told of a room: the answer to a client that made it, or joined.
    pub(super) fn on_room(&mut self, place: u32, id: &str) {
        let (Some(rooms), Some(awaited)) = (self.rooms.rooms, self.rooms.awaited) else { return };
        let prefix = room_id(self.traffic.nonce, self.traffic.worker, 0);
        let digits = id.get(prefix.len() - 6..).filter(|_| id.starts_with(&prefix[..prefix.len() - 6]));
        let Some(room) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else { return };
        self.rooms.awaited = Some(awaited.saturating_sub(1));
        let users = self.rooms.users;
        if place == rooms.user(room, 0, users) {
            for member in 1..rooms.members {
                self.ask(rooms.user(room, member, users), room, &RoomAction::Join);
            }
        }
    }

    /// A relay that has no rooms, or refuses one, cannot be measured with them.
    pub(super) fn on_room_refused(&mut self, reason: &str, details: &str) {
        if self.rooms.awaited.is_some_and(|awaited| awaited > 0) {
            let why = format!("the relay refuses a room ({reason}: {details}): --rooms needs a relay that serves them");
            self.failure.get_or_insert(why);
        }
    }

    /// Lets everybody leave, whatever the relay says to it.
    pub(crate) fn leave_rooms(&mut self) {
        let Some(rooms) = self.rooms.rooms else { return };
        for room in 0..rooms.rooms {
            for member in 0..rooms.members {
                let place = rooms.user(room, member, self.rooms.users);
                if self.clients[place as usize].stage.is_online() {
                    self.ask(place, room, &RoomAction::Leave);
                }
            }
        }
    }
}
