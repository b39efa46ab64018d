//! The form of records in their columns: what the database does not need to look into.
//!
//! | column | form |
//! |---|---|
//! | `members` | (user number, seq) of each whose message it is, as varints |
//! | `users.record` | version 1, epoch (8), flags, seq, removed, active, devices, receipts |
//! | `rooms.record` | version 1, owner (32), open, members with their joining, invited |
//! | `ids.records` | version 1, then each: key (16), tag (8), sender (8), flags, time after the row's |
//!
//! Numbers are varints of seven bits a byte, lowest first; times are zigzag (they may be before 1970 or
//! fall); texts and lists have their length in front; fixed numbers are little-endian.
//!
//! # Invariants
//! - What was encoded decodes to the same; anything else is an error, never a panic, and takes no more
//!   memory than its own length explains.
//! - A record ends where its form ends: bytes behind it are an error.

use std::sync::Arc;

use protocol::keys::is_id;
use protocol::{PublicKey, limits};
use relay_core::store::{DeviceRecord, IdRecord, MessageId, PendingReceipts, ReceiptStatus, RoomRecord, UserRecord};
use thiserror::Error;

/// The version of all forms here.
const VERSION: u8 = 1;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// There are bytes behind it.
    #[error("there are bytes behind its end")]
    Long,
    /// It says another version.
    #[error("it is of version {0}, which this relay does not know")]
    Version(u8),
    /// A part has a value that nobody writes.
    #[error("its {0} cannot be")]
    Value(&'static str),
}

/// One whose message it is: the number of a user, and the seq there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) user: i64,
    pub(crate) seq: u64,
}

/// Appends a member to a list of them.
pub(crate) fn push_member(out: &mut Vec<u8>, member: Member) {
    varint(out, member.user as u64);
    varint(out, member.seq);
}

/// Goes over a list of members.
pub(crate) fn members(bytes: &[u8]) -> impl Iterator<Item = Result<Member, Malformed>> + '_ {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let member = reader.varint().and_then(|user| Ok(Member { user: user as i64, seq: reader.varint()? }));
        if member.is_err() {
            reader.0 = &[];
        }
        Some(member)
    })
}

const EXACT: u8 = 1;
const SEEN: u8 = 2;

pub(crate) fn encode_user(out: &mut Vec<u8>, user: &UserRecord) {
    out.push(VERSION);
    out.extend_from_slice(&user.epoch.to_le_bytes());
    out.push(if user.exact { EXACT } else { 0 } | if user.seen { SEEN } else { 0 });
    varint(out, user.seq);
    varint(out, user.removed_through);
    zigzag(out, user.active_ms);
    varint(out, user.devices.len() as u64);
    for DeviceRecord { id, cursor, active_ms } in &user.devices {
        text(out, id);
        varint(out, *cursor);
        zigzag(out, *active_ms);
    }
    varint(out, user.receipts.len() as u64);
    for PendingReceipts { from, room, status, ids } in &user.receipts {
        out.extend_from_slice(from.as_bytes());
        text(out, room.as_deref().unwrap_or_default());
        out.push(match status {
            ReceiptStatus::Delivered => 0,
            ReceiptStatus::Read => 1,
        });
        varint(out, ids.len() as u64);
        ids.iter().for_each(|id| text(out, id.as_str()));
    }
}

pub(crate) fn decode_user(key: PublicKey, bytes: &[u8]) -> Result<UserRecord, Malformed> {
    let mut reader = Reader::versioned(bytes)?;
    let epoch = u64::from_le_bytes(reader.array()?);
    let flags = reader.byte()?;
    if flags & !(EXACT | SEEN) != 0 {
        return Err(Malformed::Value("flags"));
    }
    let (seq, removed_through, active_ms) = (reader.varint()?, reader.varint()?, reader.zigzag()?);
    let devices = reader.list(|reader| {
        let id = reader.id()?.ok_or(Malformed::Value("device"))?;
        Ok(DeviceRecord { id: id.into(), cursor: reader.varint()?, active_ms: reader.zigzag()? })
    })?;
    if devices.len() > limits::DEVICES_PER_KEY {
        return Err(Malformed::Value("number of devices"));
    }
    let receipts = reader.list(|reader| {
        let from = PublicKey::from_bytes(reader.array()?);
        let room = reader.id()?.map(Arc::from);
        let status = match reader.byte()? {
            0 => ReceiptStatus::Delivered,
            1 => ReceiptStatus::Read,
            _ => return Err(Malformed::Value("receipt")),
        };
        let ids = reader.list(|reader| reader.text().and_then(message_id))?;
        Ok(PendingReceipts { from, room, status, ids })
    })?;
    reader.end()?;
    Ok(UserRecord {
        key,
        epoch,
        seq,
        exact: flags & EXACT != 0,
        seen: flags & SEEN != 0,
        removed_through,
        active_ms,
        devices,
        receipts,
    })
}

pub(crate) fn encode_room(out: &mut Vec<u8>, room: &RoomRecord) {
    out.push(VERSION);
    out.extend_from_slice(room.owner.as_bytes());
    out.push(u8::from(room.open));
    varint(out, room.members.len() as u64);
    for (member, joined_ms) in &room.members {
        out.extend_from_slice(member.as_bytes());
        zigzag(out, *joined_ms);
    }
    varint(out, room.invited.len() as u64);
    room.invited.iter().for_each(|key| out.extend_from_slice(key.as_bytes()));
}

pub(crate) fn decode_room(id: &str, bytes: &[u8]) -> Result<RoomRecord, Malformed> {
    if !is_id(id) {
        return Err(Malformed::Value("id"));
    }
    let mut reader = Reader::versioned(bytes)?;
    let owner = PublicKey::from_bytes(reader.array()?);
    let open = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed::Value("openness")),
    };
    let members: Vec<_> = reader.list(|reader| Ok((PublicKey::from_bytes(reader.array()?), reader.zigzag()?)))?;
    if !members.iter().any(|(member, _)| *member == owner) {
        return Err(Malformed::Value("owner"));
    }
    let invited = reader.list(|reader| reader.array().map(PublicKey::from_bytes))?;
    reader.end()?;
    Ok(RoomRecord { id: id.into(), owner, open, members, invited })
}

const COPY_DUE: u8 = 1;

/// Encodes ids for a row of this time, which any of theirs will do for.
pub(crate) fn encode_ids<'a>(out: &mut Vec<u8>, row_ms: i64, ids: impl Iterator<Item = &'a IdRecord>) {
    out.push(VERSION);
    for IdRecord { key, tag, sender_hash, copy_due, at_ms } in ids {
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&sender_hash.to_le_bytes());
        out.push(if *copy_due { COPY_DUE } else { 0 });
        zigzag(out, at_ms.wrapping_sub(row_ms));
    }
}

/// Decodes the ids of a row and appends them.
pub(crate) fn decode_ids(out: &mut Vec<IdRecord>, row_ms: i64, bytes: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::versioned(bytes)?;
    while !reader.0.is_empty() {
        let key = u128::from_le_bytes(reader.array()?);
        let tag = u64::from_le_bytes(reader.array()?);
        let sender_hash = u64::from_le_bytes(reader.array()?);
        let flags = reader.byte()?;
        if flags & !COPY_DUE != 0 {
            return Err(Malformed::Value("flags"));
        }
        let at_ms = row_ms.wrapping_add(reader.zigzag()?);
        out.push(IdRecord { key, tag, sender_hash, copy_due: flags & COPY_DUE != 0, at_ms });
    }
    Ok(())
}

/// Reads a `clientMessageId`.
pub(crate) fn message_id(text: &str) -> Result<MessageId, Malformed> {
    MessageId::new(text).ok_or(Malformed::Value("message id"))
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn zigzag(out: &mut Vec<u8>, number: i64) {
    varint(out, (number << 1 ^ number >> 63) as u64);
}

fn text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is left of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn versioned(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Self(bytes);
        match reader.byte()? {
            VERSION => Ok(reader),
            version => Err(Malformed::Version(version)),
        }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Value("number"))
    }

    fn zigzag(&mut self) -> Result<i64, Malformed> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Short)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Malformed::Value("text"))
    }

    /// An id of the contract's form, or `None` for an empty text.
    fn id(&mut self) -> Result<Option<&'a str>, Malformed> {
        let id = self.text()?;
        if id.is_empty() {
            return Ok(None);
        }
        if is_id(id) { Ok(Some(id)) } else { Err(Malformed::Value("id")) }
    }

    /// A list. No item is shorter than a byte, so one that is longer than what is left is refused
    /// before it takes memory.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let length = self.varint()?;
        if length > self.0.len() as u64 {
            return Err(Malformed::Short);
        }
        (0..length).map(|_| item(self)).collect()
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Long) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Malformed, Member, decode_ids, decode_room, decode_user, encode_ids, encode_room, encode_user, members,
        message_id, push_member,
    };
    use proptest::prelude::*;
    use protocol::PublicKey;
    use relay_core::store::{
        DeviceRecord, IdRecord, MessageId, PendingReceipts, ReceiptStatus, RoomRecord, UserRecord,
    };

    fn key() -> impl Strategy<Value = PublicKey> {
        any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
    }

    fn id() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.:-]{1,64}"
    }

    fn message() -> impl Strategy<Value = MessageId> {
        id().prop_map(|id| message_id(&id).unwrap())
    }

    prop_compose! {
        fn user()(
            key in key(),
            numbers in any::<[u64; 3]>(),
            flags in any::<[bool; 2]>(),
            active_ms in any::<i64>(),
            devices in prop::collection::vec((id(), any::<u64>(), any::<i64>()), 0..=8),
            receipts in prop::collection::vec(
                (key_again(), prop::option::of(id()), any::<bool>(), prop::collection::vec(message(), 0..4)), 0..4),
        ) -> UserRecord {
            UserRecord {
                key,
                epoch: numbers[0],
                seq: numbers[1],
                exact: flags[0],
                seen: flags[1],
                removed_through: numbers[2],
                active_ms,
                devices: devices.into_iter()
                    .map(|(id, cursor, active_ms)| DeviceRecord { id: id.into(), cursor, active_ms })
                    .collect(),
                receipts: receipts.into_iter()
                    .map(|(from, room, is_read, ids)| PendingReceipts {
                        from,
                        room: room.map(Into::into),
                        status: if is_read { ReceiptStatus::Read } else { ReceiptStatus::Delivered },
                        ids,
                    })
                    .collect(),
            }
        }
    }

    fn key_again() -> impl Strategy<Value = PublicKey> {
        key()
    }

    prop_compose! {
        fn room()(
            id in id(),
            open in any::<bool>(),
            members in prop::collection::vec((key(), any::<i64>()), 1..6),
            invited in prop::collection::vec(key(), 0..4),
        ) -> RoomRecord {
            RoomRecord { id: id.into(), owner: members[0].0, open, members, invited }
        }
    }

    prop_compose! {
        fn id_record()(key in any::<u128>(), words in any::<[u64; 2]>(), copy_due in any::<bool>(), at_ms in any::<i64>())
            -> IdRecord {
            IdRecord { key, tag: words[0], sender_hash: words[1], copy_due, at_ms }
        }
    }

    /// Every beginning of a record, and the record with a byte behind it, is an error.
    fn ends_where_it_ends<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, Malformed>) {
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).err(), Some(Malformed::Short), "{length} of {}", bytes.len());
        }
        assert_eq!(decode(&[bytes, &[0]].concat()).err(), Some(Malformed::Long));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn users_come_back(user in user()) {
            let mut bytes = Vec::new();
            encode_user(&mut bytes, &user);
            prop_assert_eq!(decode_user(user.key, &bytes), Ok(user.clone()));
            ends_where_it_ends(&bytes, |bytes| decode_user(user.key, bytes));
        }

        #[test]
        fn rooms_come_back(room in room()) {
            let mut bytes = Vec::new();
            encode_room(&mut bytes, &room);
            prop_assert_eq!(decode_room(&room.id, &bytes), Ok(room.clone()));
            ends_where_it_ends(&bytes, |bytes| decode_room(&room.id, bytes));
        }

        #[test]
        fn ids_come_back(ids in prop::collection::vec(id_record(), 0..8), row_ms in any::<i64>()) {
            let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
            encode_ids(&mut bytes, row_ms, ids.iter());
            prop_assert_eq!(decode_ids(&mut decoded, row_ms, &bytes), Ok(()));
            prop_assert_eq!(decoded, ids);
        }

        #[test]
        fn members_come_back(list in prop::collection::vec((0..i64::MAX, any::<u64>()), 0..8)) {
            let list: Vec<_> = list.into_iter().map(|(user, seq)| Member { user, seq }).collect();
            let mut bytes = Vec::new();
            list.iter().for_each(|member| push_member(&mut bytes, *member));
            prop_assert_eq!(members(&bytes).collect::<Result<Vec<_>, _>>(), Ok(list));
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for version in [true, false] {
                if version && let Some(first) = bytes.first_mut() {
                    *first = 1;
                }
                let key = PublicKey::from_bytes([0; 32]);
                if let Ok(user) = decode_user(key, &bytes) {
                    let mut again = Vec::new();
                    encode_user(&mut again, &user);
                    prop_assert_eq!(decode_user(key, &again), Ok(user));
                }
                let _ = decode_room("room", &bytes);
                let _ = decode_ids(&mut Vec::new(), 0, &bytes);
                prop_assert!(members(&bytes).count() <= bytes.len());
            }
        }
    }

    #[test]
    fn other_versions_and_impossible_values_are_named() {
        assert_eq!(decode_room("room", &[2]), Err(Malformed::Version(2)));
        // A list of 2^63 members in ten bytes takes no memory.
        let mut bytes = vec![1];
        bytes.extend([7; 32]);
        bytes.push(1);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(decode_room("room", &bytes), Err(Malformed::Short));
        // An owner who is no member.
        let mut bytes = vec![1];
        bytes.extend([7; 32]);
        bytes.extend([1, 0, 0]);
        assert_eq!(decode_room("room", &bytes), Err(Malformed::Value("owner")));
        assert_eq!(decode_room("a room", &bytes), Err(Malformed::Value("id")));
        // A number of more than 64 bits.
        let number = members(&[0xff; 11]).next();
        assert_eq!(number, Some(Err(Malformed::Value("number"))));
    }
}
