//! What becomes of a message.

use std::thread;
use std::time::{Duration, Instant};

use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Message, Target};
use protocol::server_frame::{Ack, ErrorFrame};
use protocol::{encode, splice};
use relay_engine::ConnectionId;

use super::{CREDIT, Memory, STALL, Server, send};

impl Server {
    /// Puts a message at the end of the line.
    pub(super) fn line_up(&mut self, connection: ConnectionId, text: &str) {
        let each = Duration::from_secs(1) / self.faults.serve_per_second as u32;
        let now = Instant::now();
        let begin = self.served_until.max(now.checked_sub(CREDIT).unwrap_or(now));
        self.served_until = begin + each;
        self.line.push_back((self.served_until, connection, text.to_owned()));
    }

    /// Carries the messages whose turn has come.
    pub(super) fn serve(&mut self) {
        let now = Instant::now();
        while self.line.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, connection, text) = self.line.pop_front().unwrap();
            if self.peers.contains_key(&connection)
                && let ClientFrame::Message(message) = FrameDecoder::new().decode(&text).unwrap()
            {
                self.on_message(connection, &text, &message);
            }
        }
    }

    /// How long nothing is due.
    pub(super) fn patience(&self) -> Duration {
        let due = self.line.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        due.unwrap_or(Duration::MAX).min(Duration::from_millis(5))
    }

    pub(super) fn on_message(&mut self, connection: ConnectionId, text: &str, message: &Message<'_>) {
        self.counts.messages += 1;
        self.of_run += 1;
        if self.faults.quota > 0 && self.of_run > self.faults.quota {
            self.counts.dropped += 1;
            return;
        }
        let number = self.counts.messages;
        if number == self.faults.stall_at {
            thread::sleep(STALL);
        }
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        let faults = self.faults;
        let recipient = match message.target {
            Target::User(recipient) => recipient,
            Target::Room(room) => return self.pass_to_room(connection, text, message.id, room),
            Target::RoomMember(..) => panic!("the generator writes to users and rooms"),
        };
        if self.faults.store {
            self.keep(connection, text, message.id, recipient);
            return;
        }
        let devices = self.online.get(&recipient).filter(|_| !due(faults.refuse_every)).cloned();
        let Some((&to, others)) = devices.as_deref().and_then(|devices| devices.split_first()) else {
            self.counts.refused += 1;
            let error = ErrorFrame {
                reason: "offline",
                details: "The recipient is offline.",
                id: Some(message.id),
                room: None,
                retry_after_ms: None,
                time: None,
            };
            send(self.peers.get_mut(&connection).unwrap(), |out| encode::error(out, &error, None));
            return;
        };
        let sender = self.peers.get_mut(&connection).unwrap();
        let ack = Ack { id: message.id, online: true, duplicate: false, seq: None };
        send(sender, |out| encode::ack(out, &ack));
        if due(faults.ack_twice_every) {
            self.counts.acked_twice += 1;
            send(sender, |out| encode::ack(out, &Ack { duplicate: true, ..ack }));
        }
        if faults.close_after == number {
            sender.closing = true;
        }
        if due(faults.drop_every) {
            self.counts.dropped += 1;
            return;
        }
        let mut frame = text.as_bytes().to_vec();
        let mut change = |what: &[u8], offset: usize, with: fn(u8) -> u8| {
            let at = frame.windows(what.len()).position(|window| window == what).unwrap() + what.len() + offset;
            frame[at] = with(frame[at]);
        };
        if due(faults.alter_every) {
            self.counts.altered += 1;
            change(b"\"message\":\"", 3, |byte| if byte == b'x' { b'y' } else { b'x' });
        }
        if due(faults.forge_every) {
            self.counts.forged += 1;
            change(b"\"signature\":\"", 5, |byte| if byte == b'0' { b'1' } else { b'0' });
        }
        if due(faults.respace_every) {
            self.counts.respaced += 1;
            let at = frame.iter().position(|&byte| byte == b',').unwrap();
            frame.insert(at + 1, b' ');
        }
        for (at, other) in others.iter().enumerate() {
            if at + 1 == others.len() && due(faults.skip_device_every) {
                self.counts.devices_skipped += 1;
                continue;
            }
            let peer = self.peers.get_mut(other).unwrap();
            peer.seq += 1;
            let seq = peer.seq;
            send(peer, |out| splice::splice_seq(out, &frame, seq));
        }
        let to = if due(faults.misroute_every) {
            self.counts.misrouted += 1;
            connection
        } else {
            to
        };
        let peer = self.peers.get_mut(&to).unwrap();
        if due(faults.delay_every) && peer.held.is_empty() {
            self.counts.delayed += 1;
            self.counts.held += 1;
            peer.held.push(frame);
            return;
        }
        if due(faults.skip_every) {
            self.counts.skipped += 1;
            peer.seq += 1;
        }
        let held = std::mem::take(&mut peer.held);
        self.counts.held -= held.len() as u64;
        let copies = if due(faults.repeat_every) {
            self.counts.repeated += 1;
            2
        } else {
            1
        };
        for frame in std::iter::repeat_n(&frame, copies).chain(&held) {
            peer.seq += 1;
            let seq = peer.seq;
            *self.received.entry(recipient).or_default() += 1;
            if self.faults.memory != Memory::Nothing {
                self.pushed.entry(recipient).or_default().push(frame.clone());
            }
            send(peer, |out| splice::splice_seq(out, frame, seq));
        }
        if due(faults.copy_every) {
            self.counts.copied += 1;
            let sender = self.peers.get_mut(&connection).unwrap();
            sender.seq += 1;
            let seq = sender.seq;
            send(sender, |out| splice::splice_seq(out, &frame, seq));
        }
    }
}
