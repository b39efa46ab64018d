//! Messages that clients send: new ones, wrong ones, and those that were sent before.

use protocol::frame::Target;
use protocol::{PublicKey, limits};

use crate::frames::{self, Draft};
use crate::ledger::{Kind, Sending};
use crate::network::LinkId;
use crate::session::Session;
use crate::world::World;

impl World {
    pub(super) fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("id-{}", self.ids)
    }

    pub(super) fn draft(&mut self, session: LinkId, target: Target<'_>, id: &str, text: &str, skew_ms: i64) -> Vec<u8> {
        let user = &self.users[self.sessions[session].user];
        let draft = Draft { target, sender: user.key, id, text, unix_ms: self.unix_ms() + skew_ms };
        frames::message(&draft, &user.signing)
    }

    /// Somebody to write to: often one who reads slowly, now and then nobody.
    pub(super) fn any_recipient(&mut self) -> PublicKey {
        if self.random.chance(40) {
            let now = self.schedule.now();
            let slow = |session: &&Session| session.is_active() && self.links[session.id].stalled_until > now;
            if let Some(session) = self.sessions.iter().rev().take(30).find(slow) {
                return session.key;
            }
        }
        if self.random.chance(4) { self.nobody } else { self.users[self.random.index(self.users.len())].key }
    }

    /// Makes new messages; half of the batches go to one recipient, so that their order counts.
    pub(super) fn drafts(&mut self, session: LinkId, messages: u64) -> Vec<usize> {
        let user = self.sessions[session].user;
        let one = self.random.chance(50);
        let mut recipient = self.any_recipient();
        let sender = self.users[user].key;
        (0..messages)
            .map(|_| {
                if !one {
                    recipient = self.any_recipient();
                }
                let (id, text) = (self.new_id(), frames::text(&mut self.random));
                let frame = self.draft(session, Target::User(recipient), &id, &text, 0);
                let frame = frames::respell(frame, &mut self.random);
                self.ledger.add((user, sender), recipient, &id, Kind::Valid, frame)
            })
            .collect()
    }

    pub(super) fn send_new(&mut self, session: LinkId, messages: u64) {
        let records = self.drafts(session, messages);
        self.send_records(session, &records);
    }

    pub(super) fn book(&mut self, session: LinkId, record: usize) {
        let at = self.schedule.now();
        let sender = &mut self.sessions[session];
        sender.messages += 1;
        if self.ledger.records()[record].kind == Kind::Malformed {
            sender.count_malformed(1);
        } else {
            sender.malformed_run = 0;
        }
        let (index, device) = (sender.messages, sender.device);
        self.ledger.send(record, Sending { session, device, index, at });
    }

    pub(crate) fn send_records(&mut self, session: LinkId, records: &[usize]) {
        let mut frames = Vec::new();
        for &record in records {
            self.book(session, record);
            frames.push(self.ledger.records()[record].bytes.clone());
        }
        self.send_texts(session, frames);
    }

    pub(super) fn send_wrong(&mut self, session: LinkId) {
        let user = self.sessions[session].user;
        let mut recipient = self.any_recipient();
        let id = self.new_id();
        let text = frames::text(&mut self.random);
        let kind = self.random.pick(&[
            Kind::Forged,
            Kind::Forged,
            Kind::WrongSender,
            Kind::Stale,
            Kind::TooLarge,
            Kind::Malformed,
            Kind::BadRecipient,
            Kind::NoRoom,
        ]);
        let frame = match kind {
            Kind::Valid => return,
            Kind::Forged => {
                let frame = self.draft(session, Target::User(recipient), &id, &text, 0);
                self.forge(frame)
            }
            Kind::WrongSender => {
                let sender = self.users[(user + 1) % self.users.len()].key;
                let unix_ms = self.unix_ms();
                let draft = Draft { target: Target::User(recipient), sender, id: &id, text: &text, unix_ms };
                frames::message(&draft, &self.users[user].signing)
            }
            Kind::Stale => {
                let skew = self.random.pick(&[-400_000, 500_000, -100_000_000]);
                self.draft(session, Target::User(recipient), &id, &text, skew)
            }
            Kind::TooLarge => {
                let text = "ü".repeat(limits::MESSAGE_CHARS + 1);
                self.draft(session, Target::User(recipient), &id, &text, 0)
            }
            Kind::Malformed if self.random.chance(30) => self.draft(session, Target::User(recipient), &id, "", 0),
            Kind::Malformed => {
                let mut frame = self.draft(session, Target::User(recipient), &id, &text, 0);
                frame.pop();
                frame.extend_from_slice(b",\"extra\":null}");
                frame
            }
            Kind::BadRecipient => {
                // y = 2 is on no point of the curve.
                let mut bytes = [0; 32];
                bytes[0] = 2;
                recipient = PublicKey::from_bytes(bytes);
                self.draft(session, Target::User(recipient), &id, &text, 0)
            }
            Kind::NoRoom => self.draft(session, Target::Room("room"), &id, &text, 0),
        };
        let record = self.ledger.add((user, self.users[user].key), recipient, &id, kind, frame);
        let mut records = vec![record];
        if kind == Kind::Forged && self.random.chance(50) {
            // Good ones in the same batch must pass all the same.
            records.splice(0..0, self.drafts(session, 2));
            records.extend(self.drafts(session, 2));
        }
        self.send_records(session, &records);
    }

    /// Spoils a signature: one digit of it, or another message's.
    pub(super) fn forge(&mut self, frame: Vec<u8>) -> Vec<u8> {
        const FIELD: &[u8] = b"\"signature\":\"";
        let mut frame = frame;
        let Some(at) = frame.windows(FIELD.len()).rposition(|part| part == FIELD) else {
            return frame;
        };
        let digit = at + FIELD.len() + self.random.index(128);
        frame[digit] = if frame[digit] == b'0' { b'7' } else { b'0' };
        frame
    }

    /// Sends something again, byte for byte: from any connection of the user, perhaps several times,
    /// perhaps while the first is still on its way.
    pub(super) fn send_again(&mut self, session: LinkId) {
        let user = self.sessions[session].user;
        if self.random.chance(40) {
            let records = self.drafts(session, 1);
            let times = self.random.between(2, 4) as usize;
            self.send_records(session, &records.repeat(times));
            return;
        }
        let own: Vec<usize> = self.known_ids(user);
        if !own.is_empty() {
            let record = self.random.pick(&own);
            let times = self.random.between(1, 2) as usize;
            self.send_records(session, &vec![record; times]);
        }
    }

    /// Messages of a user that are not malformed.
    pub(super) fn known_ids(&self, user: usize) -> Vec<usize> {
        let records = self.ledger.records().iter().enumerate();
        records
            .filter(|(_, record)| {
                record.user == user && !matches!(record.kind, Kind::Malformed | Kind::WrongSender | Kind::Stale)
            })
            .filter(|(_, record)| !record.sendings.is_empty())
            .map(|(at, _)| at)
            .collect()
    }

    pub(super) fn send_other_under_same_id(&mut self, session: LinkId) {
        let user = self.sessions[session].user;
        let own = self.known_ids(user);
        let mut records = Vec::new();
        let id = if own.is_empty() || self.random.chance(40) {
            records = self.drafts(session, 1);
            self.ledger.records()[records[0]].id.clone()
        } else {
            self.ledger.records()[self.random.pick(&own)].id.clone()
        };
        let recipient = self.any_recipient();
        let text = format!("another {}", self.ids);
        self.ids += 1;
        let frame = self.draft(session, Target::User(recipient), &id, &text, 0);
        let (frame, kind) =
            if self.random.chance(20) { (self.forge(frame), Kind::Forged) } else { (frame, Kind::Valid) };
        records.push(self.ledger.add((user, self.users[user].key), recipient, &id, kind, frame));
        self.send_records(session, &records);
    }
}
