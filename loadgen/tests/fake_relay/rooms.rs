//! Rooms, all of them open.

use protocol::frame::RoomAction;
use protocol::server_frame::Ack;
use protocol::{encode, splice};
use relay_engine::ConnectionId;

use super::{Server, send};

impl Server {
    pub(super) fn on_room(&mut self, connection: ConnectionId, room: &str, action: &RoomAction) {
        let key = self.peers[&connection].key.unwrap();
        let members = self.rooms.entry(room.to_owned()).or_default();
        match action {
            RoomAction::Create { open: true } => assert!(members.is_empty(), "a room is made twice"),
            RoomAction::Join => assert!(!members.is_empty() && !members.contains(&key), "a member joins, or no room"),
            RoomAction::Leave => {
                members.retain(|member| *member != key);
                return;
            }
            _ => panic!("the generator does not do that"),
        }
        members.push(key);
        let members = members.clone();
        send(self.peers.get_mut(&connection).unwrap(), |out| {
            encode::room(out, room, &members[0], true, members.iter());
        });
    }

    /// Passes a message on to all members but the sender, and acks it.
    pub(super) fn pass_to_room(&mut self, connection: ConnectionId, text: &str, id: &str, room: &str) {
        let number = self.counts.messages;
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        let sender = self.peers[&connection].key.unwrap();
        let members = &self.rooms[room];
        assert!(members.contains(&sender), "a stranger writes to a room");
        let others = members.iter().filter(|member| **member != sender);
        let mut to: Vec<_> = others.filter_map(|member| self.online.get(member)).flatten().copied().collect();
        if due(self.faults.skip_device_every) {
            self.counts.devices_skipped += 1;
            to.pop();
        }
        if due(self.faults.repeat_every) {
            self.counts.repeated += 1;
            to.push(to[0]);
        }
        if due(self.faults.misroute_every)
            && let Some((_, strangers)) = self.online.iter().find(|(key, _)| !members.contains(key))
        {
            self.counts.misrouted += 1;
            to.push(strangers[0]);
        }
        for device in to {
            let peer = self.peers.get_mut(&device).unwrap();
            peer.seq += 1;
            let seq = peer.seq;
            send(peer, |out| splice::splice_seq(out, text.as_bytes(), seq));
        }
        let ack = Ack { id, online: true, duplicate: false, seq: None };
        send(self.peers.get_mut(&connection).unwrap(), |out| encode::ack(out, &ack));
    }
}
