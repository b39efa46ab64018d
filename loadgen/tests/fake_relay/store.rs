//! A store: inboxes that are kept for those who are offline, and acks that wait for confirmations. In memory,
//! or written down line by line: `m KEY FRAME`, `o KEY` for a number of an own message.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Resume};
use protocol::server_frame::Ack;
use protocol::{PublicKey, encode, splice};
use relay_engine::ConnectionId;

use super::{Server, send};

/// What one user has got and is to get. The first message has number 1.
#[derive(Default)]
pub(super) struct Inbox {
    /// `None` is what is not pushed: the number of an own message, or one that was forgotten.
    frames: Vec<Option<Vec<u8>>>,
    confirmed: u64,
    /// Acks that wait for a confirmation, with the number that is to be confirmed.
    waiting: Vec<(u64, Pending)>,
}

impl Inbox {
    pub(super) fn seq(&self) -> u64 {
        self.frames.len() as u64
    }

    fn add(&mut self, frame: Option<Vec<u8>>) -> u64 {
        self.frames.push(frame);
        self.seq()
    }
}

/// An ack that is owed.
struct Pending {
    to: ConnectionId,
    id: String,
    text: String,
}

impl Server {
    /// Goes on with what was written down.
    pub(super) fn load(&mut self, path: &Path) {
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ' ');
            let (kind, key) = (parts.next().unwrap(), parts.next().unwrap());
            let inbox = self.inboxes.entry(PublicKey::from_hex(key).unwrap()).or_default();
            let frame = parts.next().filter(|_| kind == "m");
            inbox.add(frame.map(|frame| frame.as_bytes().to_vec()));
            if let Some(frame) = frame
                && let Ok(ClientFrame::Message(message)) = FrameDecoder::new().decode(frame)
            {
                self.ids.insert(message.id.to_owned());
            }
        }
        self.disk = Some(File::options().create(true).append(true).open(path).unwrap());
    }

    fn write_down(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(disk) = &mut self.disk {
            disk.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    /// Takes a message in, whether or not its recipient is there.
    pub(super) fn keep(&mut self, connection: ConnectionId, text: &str, id: &str, recipient: PublicKey) {
        if !self.ids.insert(id.to_owned()) {
            let ack = Ack { id, online: true, duplicate: true, seq: None };
            send(self.peers.get_mut(&connection).unwrap(), |out| encode::ack(out, &ack));
            return;
        }
        let number = self.counts.messages;
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        let online = self.online.get(&recipient).cloned().unwrap_or_default();
        let is_forgotten = online.is_empty() && due(self.faults.forget_every);
        self.counts.kept += u64::from(online.is_empty());
        self.counts.forgotten += u64::from(is_forgotten);
        if is_forgotten {
            self.write_down(format_args!("o {}", recipient.to_hex().as_str()));
        } else {
            self.write_down(format_args!("m {} {text}", recipient.to_hex().as_str()));
        }
        let inbox = self.inboxes.entry(recipient).or_default();
        let seq = inbox.add((!is_forgotten).then(|| text.as_bytes().to_vec()));
        for (at, to) in online.iter().enumerate() {
            if at > 0 && at + 1 == online.len() && due(self.faults.skip_device_every) {
                self.counts.devices_skipped += 1;
                continue;
            }
            send(self.peers.get_mut(to).unwrap(), |out| splice::splice_seq(out, text.as_bytes(), seq));
        }
        if due(self.faults.never_ack_every) {
            self.counts.never_acked += 1;
            return;
        }
        let pending = Pending { to: connection, id: id.to_owned(), text: text.to_owned() };
        if !online.is_empty() {
            inbox.waiting.push((seq, pending));
        } else {
            self.answer(&pending, false);
        }
    }

    /// Acks, under a number of the sender's own inbox, under which its other devices get the message.
    fn answer(&mut self, pending: &Pending, online: bool) {
        let Some(key) = self.peers.get(&pending.to).and_then(|peer| peer.key) else { return };
        let frame = pending.text.as_bytes();
        let others: Vec<_> =
            self.online.get(&key).into_iter().flatten().copied().filter(|&other| other != pending.to).collect();
        if others.is_empty() {
            self.write_down(format_args!("o {}", key.to_hex().as_str()));
        }
        let seq = self.inboxes.entry(key).or_default().add((!others.is_empty()).then(|| frame.to_vec()));
        for other in others {
            self.counts.copies += 1;
            send(self.peers.get_mut(&other).unwrap(), |out| splice::splice_seq(out, frame, seq));
        }
        let ack = Ack { id: &pending.id, online, duplicate: false, seq: Some(seq) };
        send(self.peers.get_mut(&pending.to).unwrap(), |out| encode::ack(out, &ack));
    }

    pub(super) fn on_received(&mut self, connection: ConnectionId, seq: u64) {
        self.counts.confirmations += 1;
        let key = self.peers[&connection].key.unwrap();
        let Some(inbox) = self.inboxes.get_mut(&key) else { return };
        assert!(seq <= inbox.seq(), "a client confirms what it cannot have");
        inbox.confirmed = inbox.confirmed.max(seq);
        let (safe, waiting) = std::mem::take(&mut inbox.waiting).into_iter().partition(|&(of, _)| of <= seq);
        inbox.waiting = waiting;
        let safe: Vec<(u64, Pending)> = safe;
        for (_, pending) in safe {
            self.answer(&pending, true);
        }
        let missing = |inbox: &Inbox| inbox.frames.iter().skip(inbox.confirmed as usize).flatten().count() as u64;
        self.counts.unconfirmed = self.inboxes.values().map(missing).sum();
    }

    /// Pushes what waits for a client that has logged in.
    pub(super) fn give_what_waits(&mut self, connection: ConnectionId, key: PublicKey, resume: Option<Resume>) {
        let Some(inbox) = self.inboxes.get_mut(&key) else { return };
        let after = resume.map_or(inbox.confirmed, |resume| resume.seq);
        if self.faults.twice_on_return
            && let Some(again) = inbox.frames.iter().skip(after as usize).flatten().next().cloned()
        {
            inbox.add(Some(again));
            self.counts.repeated += 1;
        }
        let peer = self.peers.get_mut(&connection).unwrap();
        for (at, frame) in inbox.frames.iter().enumerate().skip(after as usize) {
            if let Some(frame) = frame {
                self.counts.pushed_again += 1;
                send(peer, |out| splice::splice_seq(out, frame, at as u64 + 1));
            }
        }
    }
}
