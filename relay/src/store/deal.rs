//! Which shard gets what at the start: users, rooms and ids by their homes, which depend on the seed
//! of the store and on the number of shards now.

use relay_core::{Config, Restored, ShardId};
use relay_store::Contents;

/// Deals the contents of a store to the shards of a relay, in their order.
pub(crate) fn deal(contents: Contents, core: &Config) -> Vec<Restored> {
    let mut shards: Vec<_> = (0..core.shards).map(|_| Restored::default()).collect();
    let Contents { seed: _, boot: _, users, rooms, ids } = contents;
    let place = |ShardId(shard)| usize::from(shard);
    for user in users {
        shards[place(core.home(&user.record.key))].users.push(user);
    }
    for room in rooms {
        shards[place(core.home_of_room(&room.id))].rooms.push(room);
    }
    for id in ids {
        shards[place(core.home_of_hash(id.sender_hash))].ids.push(id);
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::deal;
    use protocol::PublicKey;
    use relay_core::store::{IdRecord, RestoredUser, RoomRecord, UserRecord};
    use relay_core::{Config, ShardId};
    use relay_store::Contents;

    fn contents() -> Contents {
        let key = |number| PublicKey::from_bytes([number; 32]);
        let user = |number| RestoredUser {
            record: UserRecord {
                key: key(number),
                epoch: 1,
                seq: 0,
                exact: true,
                seen: true,
                removed_through: 0,
                active_ms: 0,
                devices: Vec::new(),
                receipts: Vec::new(),
            },
            seq_max: 0,
            kept: Vec::new(),
        };
        let room = |number: u8| RoomRecord {
            id: format!("room-{number}").into(),
            owner: key(number),
            open: true,
            members: vec![(key(number), 0)],
            invited: Vec::new(),
        };
        let id = |number: u8| IdRecord {
            key: number.into(),
            tag: 0,
            sender_hash: u64::from(number) << 56,
            copy_due: false,
            at_ms: number.into(),
        };
        Contents {
            seed: 7,
            boot: 1,
            users: (0..=255).map(user).collect(),
            rooms: (0..=255).map(room).collect(),
            ids: (0..=255).map(id).collect(),
        }
    }

    #[test]
    fn every_number_of_shards_gets_all_of_it_at_home() {
        for shards in [1, 2, 3, 7] {
            let core = Config::new(ShardId(0), shards, 7);
            let dealt = deal(contents(), &core);
            assert_eq!(dealt.len(), usize::from(shards));
            let (mut users, mut rooms, mut ids) = (0, 0, 0);
            for (shard, dealt) in (0..).map(ShardId).zip(&dealt) {
                assert!(dealt.users.iter().all(|user| core.home(&user.record.key) == shard));
                assert!(dealt.rooms.iter().all(|room| core.home_of_room(&room.id) == shard));
                assert!(dealt.ids.iter().all(|id| core.home_of_hash(id.sender_hash) == shard));
                assert!(dealt.ids.is_sorted_by_key(|id| id.at_ms), "oldest first");
                assert!(!dealt.users.is_empty() && !dealt.rooms.is_empty() && !dealt.ids.is_empty());
                users += dealt.users.len();
                rooms += dealt.rooms.len();
                ids += dealt.ids.len();
            }
            assert_eq!((users, rooms, ids), (256, 256, 256));
        }
    }
}
