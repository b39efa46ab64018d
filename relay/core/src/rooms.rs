//! The rooms whose home is this shard: who owns them, who is in them, who may come.
//!
//! Nothing here sends anything: [`Rooms::act`] changes the table and tells what changed, and the
//! caller tells those whom it concerns.
//!
//! # Invariants
//! - A room has at least one member, and its owner is one of them.
//! - Members stand in the order of their joining; when the owner leaves, the first of them inherits.
//! - Nobody is a member and invited at once.
//! - Members and invitations of a room, rooms of an owner and rooms in all are bounded.

use std::sync::Arc;

use protocol::PublicKey;
use protocol::frame::RoomAction;
use protocol::limits::ROOM_MEMBERS;
use std::collections::BTreeMap;

use crate::config::Config;
use crate::envelope::RoomFault;
use crate::event::ShardId;
use crate::store::RoomRecord;

/// Invitations that one room holds; one more pushes out the oldest.
const INVITATIONS_MAX: usize = ROOM_MEMBERS;

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acted {
    /// The room's name, shared.
    pub(crate) id: Arc<str>,
    /// Whether its record changed and has to be stored.
    pub(crate) is_changed: bool,
    /// Who is a member now and was not.
    pub(crate) joined: Option<PublicKey>,
    /// Who was a member and is not.
    pub(crate) left: Option<PublicKey>,
    /// Its owner now, or the last it had.
    pub(crate) owner: PublicKey,
    /// Whether anyone may join.
    pub(crate) open: bool,
    /// Its last member left: it is gone.
    pub(crate) is_gone: bool,
}

/// One room.
#[derive(Debug)]
pub(crate) struct Room {
    id: Arc<str>,
    owner: PublicKey,
    is_open: bool,
    /// Each with the time of joining, in milliseconds since the Unix epoch.
    members: Vec<(PublicKey, i64)>,
    invited: Vec<PublicKey>,
    /// The members by their homes; empty until it is asked for.
    homes: Vec<(ShardId, Arc<[PublicKey]>)>,
}

impl Room {
    /// When this key joined, if it is a member.
    pub(crate) fn joined_ms(&self, key: &PublicKey) -> Option<i64> {
        self.members.iter().find(|(member, _)| member == key).map(|&(_, joined_ms)| joined_ms)
    }

    /// The members, the longest first.
    pub(crate) fn members(&self) -> impl ExactSizeIterator<Item = &PublicKey> {
        self.members.iter().map(|(key, _)| key)
    }

    /// Its owner.
    pub(crate) fn owner(&self) -> &PublicKey {
        &self.owner
    }

    /// Whether anyone may join.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Its name, shared.
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The members by their homes, each home once. Hashes all of them after each change.
    pub(crate) fn homes(&mut self, config: &Config) -> &[(ShardId, Arc<[PublicKey]>)] {
        if self.homes.is_empty() {
            let mut lists = vec![Vec::new(); usize::from(config.shards)];
            for (key, _) in &self.members {
                lists[usize::from(config.home(key).0)].push(*key);
            }
            let lists = (0..).map(ShardId).zip(lists).filter(|(_, list)| !list.is_empty());
            self.homes = lists.map(|(home, list)| (home, list.into())).collect();
        }
        &self.homes
    }

    /// As it is stored.
    pub(crate) fn record(&self) -> RoomRecord {
        RoomRecord {
            id: Arc::clone(&self.id),
            owner: self.owner,
            open: self.is_open,
            members: self.members.clone(),
            invited: self.invited.clone(),
        }
    }
}

/// All rooms of a shard.
#[derive(Debug)]
pub(crate) struct Rooms {
    table: BTreeMap<Arc<str>, Room>,
    /// How many rooms each owner has here.
    owned: BTreeMap<PublicKey, usize>,
    rooms_max: usize,
    owner_rooms_max: usize,
}

impl Rooms {
    /// Makes an empty table of at most `rooms_max` rooms, of which one key may make `owner_rooms_max`.
    pub(crate) fn new(rooms_max: usize, owner_rooms_max: usize) -> Self {
        Self { table: BTreeMap::new(), owned: BTreeMap::new(), rooms_max, owner_rooms_max }
    }

    /// Takes a room from the store; one without members, or whose owner is none of them, is mended or
    /// left out.
    pub(crate) fn restore(&mut self, record: RoomRecord) {
        let RoomRecord { id, mut owner, open, mut members, mut invited } = record;
        members.truncate(ROOM_MEMBERS);
        invited.truncate(INVITATIONS_MAX);
        let Some(&(first, _)) = members.first() else { return };
        if !members.iter().any(|(key, _)| *key == owner) {
            owner = first;
        }
        *self.owned.entry(owner).or_default() += 1;
        self.table.insert(Arc::clone(&id), Room { id, owner, is_open: open, members, invited, homes: Vec::new() });
    }

    /// Makes a room what it was, whatever it is now.
    pub(crate) fn undo(&mut self, id: &str, before: Option<RoomRecord>) {
        if let Some(room) = self.table.remove(id) {
            self.disown(&room.owner);
        }
        if let Some(record) = before {
            self.restore(record);
        }
    }

    /// A room by its name.
    pub(crate) fn get(&self, id: &str) -> Option<&Room> {
        self.table.get(id)
    }

    /// The same, to be asked where its members live.
    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Room> {
        self.table.get_mut(id)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The room, for what only its members may ask; with the time at which the asker joined.
    pub(crate) fn of_member(&self, id: &str, who: &PublicKey) -> Result<(&Room, i64), RoomFault> {
        let room = self.table.get(id).ok_or(RoomFault::NoSuchRoom)?;
        room.joined_ms(who).map(|joined_ms| (room, joined_ms)).ok_or(RoomFault::NotMember)
    }

    /// Does what `who` asks for.
    pub(crate) fn act(
        &mut self,
        id: &str,
        who: &PublicKey,
        action: RoomAction,
        now_ms: i64,
    ) -> Result<Acted, RoomFault> {
        match action {
            RoomAction::Create { open } => self.create(id, who, open, now_ms),
            RoomAction::Join => self.join(id, who, now_ms),
            RoomAction::Leave => {
                self.of_member(id, who)?;
                self.part(id, *who)
            }
            RoomAction::Members => self.of_member(id, who).map(|(room, _)| unchanged(room)),
            RoomAction::Invite(user) => self.invite(id, who, user),
            RoomAction::Remove(user) => {
                self.owned_by(id, who)?;
                self.part(id, user)
            }
        }
    }

    fn create(&mut self, id: &str, who: &PublicKey, is_open: bool, now_ms: i64) -> Result<Acted, RoomFault> {
        if self.table.contains_key(id) {
            return Err(RoomFault::Exists);
        }
        let owned = self.owned.get(who).copied().unwrap_or(0);
        if self.table.len() >= self.rooms_max || owned >= self.owner_rooms_max {
            return Err(RoomFault::TooMany);
        }
        self.owned.insert(*who, owned + 1);
        let id: Arc<str> = id.into();
        let members = vec![(*who, now_ms)];
        let room = Room { id: Arc::clone(&id), owner: *who, is_open, members, invited: Vec::new(), homes: Vec::new() };
        let acted = Acted { is_changed: true, joined: Some(*who), ..unchanged(&room) };
        self.table.insert(id, room);
        Ok(acted)
    }

    fn join(&mut self, id: &str, who: &PublicKey, now_ms: i64) -> Result<Acted, RoomFault> {
        let room = self.table.get_mut(id).ok_or(RoomFault::NoSuchRoom)?;
        if room.joined_ms(who).is_some() {
            return Ok(unchanged(room));
        }
        let invitation = room.invited.iter().position(|key| key == who);
        if !room.is_open && invitation.is_none() {
            return Err(RoomFault::NotMember);
        }
        if room.members.len() >= ROOM_MEMBERS {
            return Err(RoomFault::Full);
        }
        if let Some(at) = invitation {
            room.invited.remove(at);
        }
        room.members.push((*who, now_ms));
        room.homes.clear();
        Ok(Acted { is_changed: true, joined: Some(*who), ..unchanged(room) })
    }

    fn invite(&mut self, id: &str, who: &PublicKey, user: PublicKey) -> Result<Acted, RoomFault> {
        let room = self.owned_by(id, who)?;
        if room.joined_ms(&user).is_some() || room.invited.contains(&user) {
            return Ok(unchanged(room));
        }
        if room.invited.len() >= INVITATIONS_MAX {
            room.invited.remove(0);
        }
        room.invited.push(user);
        Ok(Acted { is_changed: true, ..unchanged(room) })
    }

    /// Takes a member, or an invitation, out of a room.
    fn part(&mut self, id: &str, user: PublicKey) -> Result<Acted, RoomFault> {
        let room = self.table.get_mut(id).ok_or(RoomFault::NoSuchRoom)?;
        let Some(at) = room.members.iter().position(|(key, _)| *key == user) else {
            let before = room.invited.len();
            room.invited.retain(|key| *key != user);
            return Ok(Acted { is_changed: room.invited.len() < before, ..unchanged(room) });
        };
        room.members.remove(at);
        room.homes.clear();
        let heir = room.members.first().map(|&(key, _)| key);
        let was_owner = room.owner == user;
        if let (true, Some(heir)) = (was_owner, heir) {
            room.owner = heir;
        }
        let acted = Acted { is_changed: true, left: Some(user), is_gone: heir.is_none(), ..unchanged(room) };
        if was_owner {
            self.disown(&user);
            if let Some(heir) = heir {
                *self.owned.entry(heir).or_default() += 1;
            }
        }
        if acted.is_gone {
            self.table.remove(id);
        }
        Ok(acted)
    }

    fn owned_by(&mut self, id: &str, who: &PublicKey) -> Result<&mut Room, RoomFault> {
        let room = self.table.get_mut(id).ok_or(RoomFault::NoSuchRoom)?;
        if room.joined_ms(who).is_none() {
            return Err(RoomFault::NotMember);
        }
        if room.owner == *who { Ok(room) } else { Err(RoomFault::NotOwner) }
    }

    fn disown(&mut self, owner: &PublicKey) {
        if let Some(owned) = self.owned.get_mut(owner) {
            *owned -= 1;
            if *owned == 0 {
                self.owned.remove(owner);
            }
        }
    }
}

fn unchanged(room: &Room) -> Acted {
    Acted {
        id: Arc::clone(&room.id),
        is_changed: false,
        joined: None,
        left: None,
        owner: room.owner,
        open: room.is_open,
        is_gone: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: RoomAction = RoomAction::Create { open: true };
    const CLOSED: RoomAction = RoomAction::Create { open: false };

    fn key(n: u16) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        PublicKey::from_bytes(bytes)
    }

    fn rooms() -> Rooms {
        Rooms::new(10, 3)
    }

    fn members(rooms: &Rooms, id: &str) -> Vec<PublicKey> {
        rooms.get(id).map(|room| room.members().copied().collect()).unwrap_or_default()
    }

    #[test]
    fn an_open_room_takes_anyone_once() {
        let mut rooms = rooms();
        let made = rooms.act("den", &key(1), OPEN, 5).expect("the name is free");
        assert!(made.is_changed && made.joined == Some(key(1)) && made.owner == key(1));
        assert_eq!(rooms.act("den", &key(2), OPEN, 6), Err(RoomFault::Exists));
        assert_eq!(rooms.act("attic", &key(2), RoomAction::Join, 6), Err(RoomFault::NoSuchRoom));
        assert_eq!(rooms.act("den", &key(2), RoomAction::Join, 7).map(|acted| acted.joined), Ok(Some(key(2))));
        let again = rooms.act("den", &key(2), RoomAction::Join, 9).expect("it changes nothing");
        assert!(!again.is_changed && again.joined.is_none());
        assert_eq!(rooms.of_member("den", &key(2)).map(|(_, joined_ms)| joined_ms), Ok(7));
        assert_eq!(members(&rooms, "den"), [key(1), key(2)]);
    }

    #[test]
    fn a_closed_room_takes_the_invited_and_only_the_owner_invites() {
        let mut rooms = rooms();
        rooms.act("den", &key(1), CLOSED, 0).expect("the name is free");
        assert_eq!(rooms.act("den", &key(2), RoomAction::Join, 0), Err(RoomFault::NotMember));
        assert_eq!(rooms.act("den", &key(2), RoomAction::Invite(key(2)), 0), Err(RoomFault::NotMember));
        assert!(rooms.act("den", &key(1), RoomAction::Invite(key(2)), 0).is_ok_and(|acted| acted.is_changed));
        assert!(rooms.act("den", &key(1), RoomAction::Invite(key(2)), 0).is_ok_and(|acted| !acted.is_changed));
        assert!(rooms.act("den", &key(2), RoomAction::Join, 0).is_ok());
        assert_eq!(rooms.act("den", &key(2), RoomAction::Invite(key(3)), 0), Err(RoomFault::NotOwner));
        assert_eq!(rooms.act("den", &key(2), RoomAction::Remove(key(1)), 0), Err(RoomFault::NotOwner));
        rooms.act("den", &key(2), RoomAction::Leave, 0).expect("a member may leave");
        assert_eq!(
            rooms.act("den", &key(2), RoomAction::Join, 0),
            Err(RoomFault::NotMember),
            "an invitation is for once"
        );
    }

    #[test]
    fn an_invitation_can_be_taken_back() {
        let mut rooms = rooms();
        rooms.act("den", &key(1), CLOSED, 0).expect("the name is free");
        rooms.act("den", &key(1), RoomAction::Invite(key(2)), 0).expect("the owner may invite");
        let taken = rooms.act("den", &key(1), RoomAction::Remove(key(2)), 0).expect("the owner may");
        assert!(taken.is_changed && taken.left.is_none());
        assert_eq!(rooms.act("den", &key(2), RoomAction::Join, 0), Err(RoomFault::NotMember));
    }

    #[test]
    fn the_longest_member_inherits_and_the_last_one_out_ends_the_room() {
        let mut rooms = rooms();
        rooms.act("den", &key(1), OPEN, 0).expect("the name is free");
        for n in 2..=4 {
            rooms.act("den", &key(n), RoomAction::Join, i64::from(n)).expect("it is open");
        }
        let left = rooms.act("den", &key(1), RoomAction::Leave, 9).expect("a member may leave");
        assert_eq!((left.left, left.owner, left.is_gone), (Some(key(1)), key(2), false));
        assert_eq!(rooms.act("den", &key(1), RoomAction::Leave, 9), Err(RoomFault::NotMember));
        assert_eq!(rooms.act("den", &key(1), RoomAction::Members, 9), Err(RoomFault::NotMember));
        let removed = rooms.act("den", &key(2), RoomAction::Remove(key(3)), 9).expect("it is the owner");
        assert_eq!(removed.left, Some(key(3)));
        rooms.act("den", &key(2), RoomAction::Leave, 9).expect("a member may leave");
        let last = rooms.act("den", &key(4), RoomAction::Leave, 9).expect("a member may leave");
        assert!(last.is_gone && rooms.get("den").is_none() && rooms.owned.is_empty());
        assert!(rooms.act("den", &key(5), CLOSED, 9).is_ok(), "the name is free again");
    }

    #[test]
    fn members_rooms_and_rooms_of_an_owner_are_bounded() {
        let mut rooms = rooms();
        rooms.act("den", &key(0), OPEN, 0).expect("the name is free");
        for n in 1..ROOM_MEMBERS {
            rooms.act("den", &key(n as u16), RoomAction::Join, 0).expect("there is room");
        }
        let late = key(ROOM_MEMBERS as u16);
        assert_eq!(rooms.act("den", &late, RoomAction::Join, 0), Err(RoomFault::Full));
        for n in 0..600 {
            rooms.act("den", &key(0), RoomAction::Invite(key(1000 + n)), 0).expect("the oldest gives way");
        }
        assert_eq!(rooms.get("den").map(|room| room.invited.len()), Some(INVITATIONS_MAX));
        for name in ["b", "c"] {
            rooms.act(name, &key(0), OPEN, 0).expect("three are allowed");
        }
        assert_eq!(rooms.act("d", &key(0), OPEN, 0), Err(RoomFault::TooMany));
        for n in 0..7 {
            rooms.act(&format!("room-{n}"), &key(100 + n), OPEN, 0).expect("ten are allowed");
        }
        assert_eq!(rooms.act("eleventh", &key(200), OPEN, 0), Err(RoomFault::TooMany));
    }

    #[test]
    fn what_is_undone_never_was() {
        let mut rooms = rooms();
        rooms.act("den", &key(1), OPEN, 0).expect("the name is free");
        rooms.act("den", &key(2), RoomAction::Join, 1).expect("it is open");
        let before = rooms.get("den").map(Room::record);
        for undone in [RoomAction::Leave, RoomAction::Remove(key(2)), RoomAction::Invite(key(3))] {
            rooms.act("den", &key(1), undone, 2).expect("the owner may");
            rooms.undo("den", before.clone());
            assert_eq!(rooms.get("den").map(Room::record), before, "{undone:?}");
        }
        assert_eq!((rooms.owned.get(&key(1)), rooms.owned.len()), (Some(&1), 1));
        rooms.act("attic", &key(2), CLOSED, 3).expect("the name is free");
        rooms.undo("attic", None);
        assert_eq!((rooms.len(), rooms.owned.len()), (1, 1));
    }

    #[test]
    fn members_are_listed_by_their_homes_as_they_are_now() {
        let config = Config::new(ShardId(0), 3, 42);
        let mut rooms = rooms();
        rooms.act("den", &key(0), OPEN, 0).expect("the name is free");
        for n in 1..40 {
            rooms.act("den", &key(n), RoomAction::Join, 0).expect("it is open");
        }
        for (leaves, members) in [(None, 40), (Some(7), 39), (Some(0), 38)] {
            if let Some(n) = leaves {
                rooms.act("den", &key(n), RoomAction::Leave, 0).expect("a member may leave");
            }
            let homes = rooms.get_mut("den").expect("it is there").homes(&config).to_vec();
            assert_eq!(homes.iter().map(|(_, list)| list.len()).sum::<usize>(), members);
            assert!(homes.iter().all(|(home, list)| list.iter().all(|key| config.home(key) == *home)));
        }
    }

    #[test]
    fn a_room_survives_its_record() {
        let mut rooms = rooms();
        rooms.act("den", &key(1), CLOSED, 3).expect("the name is free");
        rooms.act("den", &key(1), RoomAction::Invite(key(2)), 4).expect("the owner may invite");
        let record = rooms.get("den").expect("it is there").record();
        let mut again = Rooms::new(10, 3);
        again.restore(record.clone());
        assert_eq!(again.get("den").map(Room::record), Some(record.clone()));
        again.restore(RoomRecord { id: "empty".into(), members: Vec::new(), ..record.clone() });
        assert_eq!(again.len(), 1, "a room without members is none");
        again.restore(RoomRecord { id: "odd".into(), owner: key(9), ..record });
        assert_eq!(again.get("odd").map(|room| *room.owner()), Some(key(1)));
    }
}
