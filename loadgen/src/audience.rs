//! Who is to get a message: the devices of its recipient, or of a room's members, and the sender's other
//! devices.
//!
//! ```text
//! place  = device * users + user          of a worker's connections; visitors come behind them all
//! target = recipient | room
//! index  = device * members + member      within the audience of one message; of two users the recipient is
//!                                         member 0 and the sender member 1
//! ```
//! The device that sent a message is the only one that is not to get it.
//!
//! Rooms sit side by side around the users: room `r` has the users from `r * members` on, and behind the last
//! user follows the first. So each user is in equally many, but for one.

use crate::plan::Workload;
use crate::scenario::Rooms;

/// The connections of one worker's users, and what that makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    users: u32,
    devices: u32,
    /// The rooms that messages go to; `None`: they go to users.
    rooms: Option<Rooms>,
}

impl Audience {
    /// For so many users with so many devices each; `rooms` are those of the worker.
    #[must_use]
    pub fn new(users: u32, devices: u32, rooms: Option<Rooms>) -> Self {
        Self { users, devices, rooms }
    }

    /// That of a whole run: its size is that of each worker's.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self::new(workload.clients, workload.devices, workload.rooms)
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.users * self.devices
    }

    /// The user of a connection.
    #[must_use]
    pub fn user(&self, place: u32) -> u32 {
        place % self.users.max(1)
    }

    /// Which of its user's devices a connection is; the first, 0, is the one that sends.
    #[must_use]
    pub fn device(&self, place: u32) -> u32 {
        place / self.users.max(1)
    }

    fn members(&self) -> u32 {
        self.rooms.map_or(2, |rooms| rooms.members)
    }

    /// One more than the highest index.
    #[must_use]
    pub fn indices(&self) -> u32 {
        self.members() * self.devices
    }

    /// How many are to get each message.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.indices() - 1
    }

    /// Which member of a message's audience a user is.
    fn member(&self, user: u32, sender: u32, target: u32) -> Option<u32> {
        match self.rooms {
            Some(rooms) => rooms.member(target, user, self.users),
            None if user == target => Some(0),
            None => (user == sender).then_some(1),
        }
    }

    /// The index of the client at `place` in the audience of a message; `None` if it is not to get it.
    #[must_use]
    pub fn index(&self, place: u32, sender: u32, target: u32) -> Option<u32> {
        if place == sender {
            return None;
        }
        let member = self.member(self.user(place), sender, target)?;
        Some(self.device(place) * self.members() + member)
    }

    /// The indices of the sender's other devices.
    pub fn copies(&self, sender: u32, target: u32) -> impl Iterator<Item = u32> + use<> {
        let (member, members) = (self.member(sender, sender, target).unwrap_or(0), self.members());
        (1..self.devices).map(move |device| device * members + member)
    }
}

#[cfg(test)]
mod tests {
    use super::Audience;
    use crate::scenario::Rooms;

    fn indices(audience: &Audience, sender: u32, target: u32) -> Vec<u32> {
        let all = (0..audience.connections()).filter_map(|place| audience.index(place, sender, target));
        let mut indices: Vec<_> = all.collect();
        indices.sort_unstable();
        indices
    }

    #[test]
    fn everybody_but_the_sending_device_is_in_the_audience_once() {
        let audience = Audience::new(5, 3, None);
        let (sender, recipient) = (1, 4);
        assert_eq!(indices(&audience, sender, recipient), [0, 2, 3, 4, 5]);
        assert_eq!((audience.size(), audience.indices()), (5, 6));
        assert_eq!(audience.copies(sender, recipient).collect::<Vec<_>>(), [3, 5]);
        assert_eq!((audience.user(9), audience.device(9)), (4, 1));
        assert_eq!(audience.index(1, sender, recipient), None);
    }

    #[test]
    fn with_one_device_there_is_one_to_get_it() {
        let audience = Audience::new(5, 1, None);
        assert_eq!((audience.size(), audience.copies(1, 4).count()), (1, 0));
        assert_eq!((audience.index(4, 1, 4), audience.index(1, 1, 4), audience.index(0, 1, 4)), (Some(0), None, None));
    }

    #[test]
    fn a_rooms_message_is_for_all_its_members_but_the_sending_device() {
        let audience = Audience::new(5, 2, Some(Rooms { rooms: 3, members: 4 }));
        // The second room has users 4, 0, 1 and 2.
        assert_eq!(indices(&audience, 0, 1), [0, 2, 3, 4, 5, 6, 7]);
        assert_eq!((audience.size(), audience.index(3, 0, 1), audience.index(8, 0, 1)), (7, None, None));
        assert_eq!(audience.copies(0, 1).collect::<Vec<_>>(), [5]);
    }
}
