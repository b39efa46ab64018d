//! Rooms that messages go to.

use std::fmt;
use std::str::FromStr;

/// So many rooms with so many members each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rooms {
    /// Rooms.
    pub rooms: u32,
    /// Members of each.
    pub members: u32,
}

/// Members that a relay lets into a room.
const MEMBERS_MAX: u32 = 500;

impl Rooms {
    /// The part of them that one worker has.
    #[must_use]
    pub fn of_worker(self, worker: usize, workers: usize) -> Self {
        Self { rooms: (worker as u32..self.rooms).step_by(workers).len() as u32, ..self }
    }

    /// Which member of a room a user is, of so many users; `None` if it is none.
    #[must_use]
    pub fn member(self, room: u32, user: u32, users: u32) -> Option<u32> {
        let first = u64::from(room) * u64::from(self.members) % u64::from(users);
        let member = (u64::from(user) + u64::from(users) - first) % u64::from(users);
        (member < u64::from(self.members)).then_some(member as u32)
    }

    /// A member of a room.
    #[must_use]
    pub fn user(self, room: u32, member: u32, users: u32) -> u32 {
        ((u64::from(room) * u64::from(self.members) + u64::from(member)) % u64::from(users)) as u32
    }

    /// How many rooms a user is in.
    #[must_use]
    pub fn count_of(self, user: u32, users: u32) -> u32 {
        let seats = u64::from(self.rooms) * u64::from(self.members);
        ((seats + u64::from(users) - 1 - u64::from(user)) / u64::from(users)) as u32
    }

    /// One of the rooms that a user is in, by its number among them.
    #[must_use]
    pub fn room_of(self, user: u32, which: u32, users: u32) -> u32 {
        ((u64::from(user) + u64::from(which) * u64::from(users)) / u64::from(self.members)) as u32
    }
}

/// The id of a worker's room; all are equally long.
#[must_use]
pub fn room_id(nonce: u32, worker: u32, room: u32) -> String {
    format!("loadgen-{nonce:08x}-{worker:04x}-{room:06x}")
}

impl FromStr for Rooms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no count of rooms; write it as 10x50: ten rooms with 50 members each");
        let (rooms, members) = text.split_once(['x', '×']).ok_or_else(wrong)?;
        let (rooms, members) = (rooms.parse().map_err(|_| wrong())?, members.parse().map_err(|_| wrong())?);
        if !(1..=100_000).contains(&rooms) || !(2..=MEMBERS_MAX).contains(&members) {
            return Err(format!("`{text}` cannot be: 1 to 100000 rooms of 2 to {MEMBERS_MAX} members"));
        }
        Ok(Self { rooms, members })
    }
}

impl fmt::Display for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rooms, self.members)
    }
}

#[cfg(test)]
mod tests {
    use super::{Rooms, room_id};

    #[test]
    fn what_is_shown_reads_back_as_itself() {
        assert_eq!("10x50".parse::<Rooms>().map(|rooms| rooms.to_string()), Ok("10x50".to_owned()));
        assert_eq!("10×50".parse::<Rooms>(), "10x50".parse::<Rooms>());
        for text in ["", "10", "x5", "0x5", "3x1", "3x501", "3x5x7"] {
            assert!(text.parse::<Rooms>().is_err(), "{text}");
        }
    }

    #[test]
    fn everybody_is_in_the_rooms_that_have_them() {
        for (rooms, members, users) in [(3, 4, 5), (2, 5, 5), (7, 2, 14), (1, 3, 3)] {
            let all = Rooms { rooms, members };
            for user in 0..users {
                let own: Vec<_> = (0..all.count_of(user, users)).map(|which| all.room_of(user, which, users)).collect();
                let found: Vec<_> = (0..rooms).filter(|&room| all.member(room, user, users).is_some()).collect();
                assert_eq!(own, found, "{all} {user}");
            }
            for room in 0..rooms {
                let seats = (0..members).map(|member| all.user(room, member, users));
                assert!(seats.enumerate().all(|(at, user)| all.member(room, user, users) == Some(at as u32)));
            }
        }
    }

    #[test]
    fn ids_are_well_formed_and_equally_long() {
        let id = room_id(7, 3, 99_999);
        assert!(protocol::keys::is_id(&id));
        assert_eq!(id.len(), room_id(u32::MAX, 0, 0).len());
    }
}
