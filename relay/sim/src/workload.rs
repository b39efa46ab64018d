//! What clients do: a random step at a time, most of it honest, some of it not.

use ed25519_dalek::SigningKey;
use protocol::frame::{Auth, LobbyMode, Target};
use protocol::limits::{self, close};
use protocol::server_frame::Challenge;
use protocol::websocket::{Opcode, push_masked, push_masked_close};
use protocol::{PublicKey, encode, opening, upgrade};

use crate::frames::{self, Draft};
use crate::invariant::Checked;
use crate::ledger::{Kind, Sending};
use crate::network::{LinkId, Segment};
use crate::relay::Waiting;
use crate::schedule::{MS, SECOND};
use crate::session::{End, Opening, Session};
use crate::world::{Occurrence, World};

/// One step of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Message,
    WrongMessage,
    Again,
    OtherUnderSameId,
    Flood,
    FloodFrames,
    Malformed,
    MalformedRun,
    BreakFraming,
    SecondAuth,
    Ping,
    ControlPing,
    Received,
    Sync,
    Stall,
    Leave,
    HalfClose,
    Cut,
    FallSilent,
    Replace,
    Congestion,
    Storm,
}

/// Steps by how often they are taken.
const STEPS: [(Step, u64); 22] = [
    (Step::Message, 60),
    (Step::WrongMessage, 14),
    (Step::Again, 12),
    (Step::OtherUnderSameId, 5),
    (Step::Flood, 2),
    (Step::FloodFrames, 1),
    (Step::Malformed, 4),
    (Step::MalformedRun, 1),
    (Step::BreakFraming, 2),
    (Step::SecondAuth, 1),
    (Step::Ping, 3),
    (Step::ControlPing, 3),
    (Step::Received, 3),
    (Step::Sync, 4),
    (Step::Stall, 5),
    (Step::Leave, 5),
    (Step::HalfClose, 1),
    (Step::Cut, 5),
    (Step::FallSilent, 2),
    (Step::Replace, 6),
    (Step::Congestion, 3),
    (Step::Storm, 1),
];

impl World {
    /// One random step of one random device.
    pub(crate) fn step(&mut self) -> Checked {
        let device = self.random.index(self.devices.len());
        let current = self.devices[device].session.filter(|&session| !self.sessions[session].is_ended());
        let Some(session) = current else {
            self.connect(device);
            return Ok(());
        };
        let (step, _) = STEPS[self.random.weighted(STEPS.iter().map(|&(_, weight)| weight))];
        let now = self.schedule.now();
        match step {
            Step::Congestion => self.toggle_congestion(),
            Step::Storm => return self.storm(),
            Step::Replace => self.connect(device),
            Step::Cut => return self.cut(session),
            Step::FallSilent => return self.fall_silent(session),
            Step::Stall => self.stall(session),
            _ if !self.sessions[session].is_healthy() => {}
            _ => {
                self.trace.note(now, || format!("client {session}: {step:?}"));
                return self.act(session, step);
            }
        }
        Ok(())
    }

    /// A step that needs a session in good order.
    fn act(&mut self, session: LinkId, step: Step) -> Checked {
        match step {
            Step::Message => {
                let messages = if self.random.chance(70) { 1 } else { self.random.between(2, 6) };
                self.send_new(session, messages);
            }
            Step::Flood => {
                let messages = self.random.between(15, 40);
                self.send_new(session, messages);
            }
            Step::WrongMessage => self.send_wrong(session),
            Step::Again => self.send_again(session),
            Step::OtherUnderSameId => self.send_other_under_same_id(session),
            Step::FloodFrames => {
                let frames = 300;
                self.sessions[session].causes.push(close::TOO_MANY);
                self.sessions[session].pings += frames;
                self.send_texts(session, vec![b"{\"type\":\"ping\"}".to_vec(); frames as usize]);
            }
            Step::Malformed => self.send_malformed(session, 1),
            Step::MalformedRun => {
                let frames = self.random.between(15, 24) as u32;
                self.send_malformed(session, frames);
            }
            Step::BreakFraming => self.break_framing(session),
            Step::SecondAuth => {
                let auth = self.sessions[session].auth_frame.clone();
                self.count_malformed(session, 1);
                self.send_texts(session, vec![auth]);
            }
            Step::Ping => {
                self.sessions[session].pings += 1;
                self.good_frame(session, b"{\"type\":\"ping\"}");
            }
            Step::ControlPing => {
                let mut bytes = Vec::new();
                push_masked(&mut bytes, Opcode::Ping, b"still there?", self.random.bytes());
                self.sessions[session].control_pings += 1;
                self.sessions[session].frames += 1;
                self.send_up(session, &bytes);
            }
            Step::Received => {
                let seq = self.sessions[session].seq();
                let frame = format!("{{\"type\":\"received\",\"seq\":{seq}}}");
                self.good_frame(session, frame.as_bytes());
            }
            Step::Sync if World::watches(&self.sessions[session]) => {
                self.sessions[session].sync_asked = Some(self.sessions[session].lobby.snapshots);
                self.good_frame(session, b"{\"type\":\"lobby_sync\"}");
            }
            Step::Sync => {
                self.count_malformed(session, 1);
                self.send_texts(session, vec![b"{\"type\":\"lobby_sync\"}".to_vec()]);
            }
            Step::Leave => self.leave(session),
            Step::HalfClose => {
                self.sessions[session].half_closed = true;
                self.end_up(session, Segment::Fin);
            }
            Step::Stall | Step::Cut | Step::FallSilent | Step::Replace | Step::Congestion | Step::Storm => {}
        }
        Ok(())
    }

    // Connecting and leaving.

    /// Opens a connection of a device, whether or not it has one.
    pub(crate) fn connect(&mut self, device: usize) {
        let opening = if self.random.chance(85) {
            Opening::Honest
        } else {
            self.random.pick(&[
                Opening::WrongPath,
                Opening::PlainGet,
                Opening::NoUpgrade,
                Opening::NoAuth,
                Opening::BadSignature,
                Opening::OldNonce,
                Opening::WrongVersion,
                Opening::FrameFirst,
                Opening::BinaryFirst,
            ])
        };
        let lobby = if self.random.chance(self.scenario.watchers) { LobbyMode::All } else { LobbyMode::None };
        let websocket_key = self.random.bytes();
        let user = self.devices[device].user;
        let (key, name) = (self.users[user].key, self.devices[device].name.clone());
        let link = self.open(|link| Session::new(link, (user, device), key, name, opening, lobby, websocket_key));
        self.trace
            .note(self.schedule.now(), || format!("client {link} connects: {key:?} on device {device}, {opening:?}"));
        self.devices[device].session = Some(link);
        let mut request = Vec::new();
        match opening {
            Opening::WrongPath => upgrade::request("localhost", "/elsewhere", websocket_key, &mut request),
            Opening::PlainGet => request.extend_from_slice(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            _ => upgrade::request("localhost", "/ws", websocket_key, &mut request),
        }
        if opening == Opening::NoUpgrade {
            request.truncate(self.random.index(request.len()));
        }
        self.send_up(link, &request);
    }

    /// Answers the challenge, with what the opening asks for; some do not wait for the welcome before
    /// they send messages.
    pub(crate) fn authenticate(&mut self, link: LinkId, nonce: [u8; 32]) -> Checked {
        let opening = self.sessions[link].opening;
        let user = self.sessions[link].user;
        let signed_nonce = if opening == Opening::OldNonce { self.old_nonce } else { nonce };
        self.old_nonce = nonce;
        let stranger = SigningKey::from_bytes(&self.random.bytes());
        let signing = if opening == Opening::BadSignature { &stranger } else { &self.users[user].signing };
        let challenge = Challenge { version: 1, relay: "localhost", nonce: signed_nonce };
        let device = &self.devices[self.sessions[link].device].name;
        let Ok(auth) = opening::answer(&challenge, "localhost", signing, device, self.sessions[link].lobby_mode, None)
        else {
            return Ok(());
        };
        let mut pinging = false;
        let mut frame = Vec::new();
        encode::auth(&mut frame, &Auth { public_key: self.users[user].key, ..auth });
        let mut bytes = Vec::new();
        match opening {
            Opening::NoAuth => return Ok(()),
            Opening::WrongVersion => {
                let frame = String::from_utf8_lossy(&frame).replacen("\"version\":1", "\"version\":2", 1);
                self.push(link, &mut bytes, Opcode::Text, frame.as_bytes());
            }
            Opening::FrameFirst => {
                let first: &[u8] = self.random.pick(&[b"{\"type\":\"ping\"}".as_slice(), b"nonsense"]);
                self.push(link, &mut bytes, Opcode::Text, first);
            }
            Opening::BinaryFirst => {
                self.sessions[link].causes.push(close::UNSUPPORTED);
                self.push(link, &mut bytes, Opcode::Binary, &frame);
            }
            _ => {
                let pings = if self.random.chance(5) { self.random.between(1, 300) as u32 } else { 0 };
                for _ in 0..pings {
                    push_masked(&mut bytes, Opcode::Ping, &[b'p'; 120], self.random.bytes());
                }
                self.sessions[link].control_pings += pings;
                self.sessions[link].frames += u64::from(pings);
                // Answers to so many may be too much for the outbox, when nobody reads them.
                self.sessions[link].stalled |= pings > 100;
                pinging = pings > 0;
                self.push(link, &mut bytes, Opcode::Text, &frame);
            }
        }
        self.sessions[link].auth_frame = frame;
        self.sessions[link].auth_sent = Some(self.schedule.now());
        if opening == Opening::Honest && self.random.chance(30) {
            let messages = self.random.between(1, 3);
            for record in self.drafts(link, messages) {
                self.book(link, record);
                let frame = self.ledger.records()[record].bytes.clone();
                self.push(link, &mut bytes, Opcode::Text, &frame);
            }
        }
        self.send_up(link, &bytes);
        if pinging && self.random.chance(30) {
            return self.fall_silent(link);
        }
        Ok(())
    }

    fn leave(&mut self, session: LinkId) {
        let code = self.random.pick(&[1000, 1001, 3000, 4000]);
        let mut bytes = Vec::new();
        push_masked_close(&mut bytes, code, "bye", self.random.bytes());
        self.sessions[session].close_sent = Some(code);
        self.send_up(session, &bytes);
    }

    /// Breaks the line, perhaps in the middle of a frame.
    pub(crate) fn cut(&mut self, session: LinkId) -> Checked {
        self.trace.note(self.schedule.now(), || format!("client {session} cuts the line"));
        if self.sessions[session].is_healthy() && self.random.chance(60) {
            let mut bytes = Vec::new();
            let filling = vec![b'x'; self.random.between(1, 3000) as usize];
            push_masked(&mut bytes, Opcode::Text, &filling, self.random.bytes());
            bytes.truncate(self.random.index(bytes.len()));
            self.send_up(session, &bytes);
        }
        let end = if self.random.chance(50) { Segment::Reset } else { Segment::Fin };
        self.end_up(session, end);
        self.links[session].close_client();
        self.ended(session, End::Own)
    }

    fn fall_silent(&mut self, session: LinkId) -> Checked {
        self.trace.note(self.schedule.now(), || format!("client {session} falls silent"));
        self.links[session].silent = true;
        let wait =
            if self.sessions[session].is_active() { self.scenario.silence_max() } else { self.scenario.settle() };
        self.schedule.at(self.schedule.now() + wait, Occurrence::SilenceOver(session));
        self.ended(session, End::Own)
    }

    fn stall(&mut self, session: LinkId) {
        let heartbeat = self.scenario.heartbeat();
        let duration = match self.random.below(10) {
            0 => 4 * heartbeat,
            1..=3 => self.random.between(MS, heartbeat),
            _ => self.random.between(MS, SECOND / 2),
        };
        let until = self.schedule.now() + duration;
        self.trace.note(self.schedule.now(), || format!("client {session} does not read for {} ms", duration / MS));
        self.sessions[session].stalled = true;
        self.links[session].stalled_until = until;
        self.schedule.at(until, Occurrence::ReadDown(session));
    }

    /// Everybody reads again.
    pub(crate) fn unstall_all(&mut self) {
        let now = self.schedule.now();
        for link in 0..self.links.len() {
            if self.links[link].stalled_until > now {
                self.links[link].stalled_until = now;
                self.schedule.at(now, Occurrence::ReadDown(link));
            }
        }
    }

    /// All who are away come, or all who are here go.
    fn storm(&mut self) -> Checked {
        let come = self.random.chance(60);
        for device in 0..self.devices.len() {
            let current = self.devices[device].session.filter(|&session| !self.sessions[session].is_ended());
            match current {
                None if come => self.connect(device),
                Some(session) if !come && self.random.chance(50) => self.cut(session)?,
                Some(session) if !come && self.sessions[session].is_healthy() => self.leave(session),
                _ => {}
            }
        }
        Ok(())
    }

    fn toggle_congestion(&mut self) {
        if let Some((from, to)) = self.congested.pop() {
            self.give(from, Waiting::Congestion { to, full: false });
            return;
        }
        let (from, to) = (self.random.index(self.hosts.len()), self.random.index(self.hosts.len()));
        if from != to {
            self.congested.push((from, to));
            self.give(from, Waiting::Congestion { to, full: true });
        }
    }

    /// All queues between shards have room again.
    pub(crate) fn end_congestion(&mut self) {
        while !self.congested.is_empty() {
            self.toggle_congestion();
        }
    }

    // Messages.

    fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("id-{}", self.ids)
    }

    fn draft(&mut self, session: LinkId, target: Target<'_>, id: &str, text: &str, skew_ms: i64) -> Vec<u8> {
        let user = &self.users[self.sessions[session].user];
        let draft = Draft { target, sender: user.key, id, text, unix_ms: self.unix_ms() + skew_ms };
        frames::message(&draft, &user.signing)
    }

    /// Somebody to write to: often one who reads slowly, now and then nobody.
    fn any_recipient(&mut self) -> PublicKey {
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
    fn drafts(&mut self, session: LinkId, messages: u64) -> Vec<usize> {
        let user = self.sessions[session].user;
        let one = self.random.chance(50);
        let mut recipient = self.any_recipient();
        (0..messages)
            .map(|_| {
                if !one {
                    recipient = self.any_recipient();
                }
                let (id, text) = (self.new_id(), frames::text(&mut self.random));
                let frame = self.draft(session, Target::User(recipient), &id, &text, 0);
                let frame = frames::respell(frame, &mut self.random);
                self.ledger.add(user, recipient, &id, Kind::Valid, frame)
            })
            .collect()
    }

    fn send_new(&mut self, session: LinkId, messages: u64) {
        let records = self.drafts(session, messages);
        self.send_records(session, &records);
    }

    fn book(&mut self, session: LinkId, record: usize) {
        let at = self.schedule.now();
        let sender = &mut self.sessions[session];
        sender.messages += 1;
        if self.ledger.records()[record].kind == Kind::Malformed {
            sender.count_malformed(1);
        } else {
            sender.malformed_run = 0;
        }
        let index = sender.messages;
        self.ledger.send(record, Sending { session, index, at });
    }

    fn send_records(&mut self, session: LinkId, records: &[usize]) {
        let mut frames = Vec::new();
        for &record in records {
            self.book(session, record);
            frames.push(self.ledger.records()[record].bytes.clone());
        }
        self.send_texts(session, frames);
    }

    fn send_wrong(&mut self, session: LinkId) {
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
        let record = self.ledger.add(user, recipient, &id, kind, frame);
        let mut records = vec![record];
        if kind == Kind::Forged && self.random.chance(50) {
            // Good ones in the same batch must pass all the same.
            records.splice(0..0, self.drafts(session, 2));
            records.extend(self.drafts(session, 2));
        }
        self.send_records(session, &records);
    }

    /// Spoils a signature: one digit of it, or another message's.
    fn forge(&mut self, frame: Vec<u8>) -> Vec<u8> {
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
    fn send_again(&mut self, session: LinkId) {
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
    fn known_ids(&self, user: usize) -> Vec<usize> {
        let records = self.ledger.records().iter().enumerate();
        records
            .filter(|(_, record)| {
                record.user == user && !matches!(record.kind, Kind::Malformed | Kind::WrongSender | Kind::Stale)
            })
            .filter(|(_, record)| !record.sendings.is_empty())
            .map(|(at, _)| at)
            .collect()
    }

    fn send_other_under_same_id(&mut self, session: LinkId) {
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
        records.push(self.ledger.add(user, recipient, &id, kind, frame));
        self.send_records(session, &records);
    }

    // Other frames.

    /// Appends a WebSocket message, and books it and the pings between its fragments.
    fn push(&mut self, session: LinkId, bytes: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
        let pings = frames::push(bytes, opcode, payload, &mut self.random);
        self.sessions[session].control_pings += pings;
        self.sessions[session].frames += 1 + u64::from(pings);
    }

    /// Sends text messages in one write.
    fn send_texts(&mut self, session: LinkId, texts: Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        for text in texts {
            self.push(session, &mut bytes, Opcode::Text, &text);
        }
        self.send_up(session, &bytes);
    }

    fn good_frame(&mut self, session: LinkId, frame: &[u8]) {
        self.sessions[session].malformed_run = 0;
        self.send_texts(session, vec![frame.to_vec()]);
    }

    /// Books malformed frames that name no message.
    fn count_malformed(&mut self, session: LinkId, frames: u32) {
        let sender = &mut self.sessions[session];
        sender.nameless += frames;
        sender.count_malformed(frames);
    }

    fn send_malformed(&mut self, session: LinkId, frames: u32) {
        let texts = (0..frames).map(|_| frames::malformed(&mut self.random).as_bytes().to_vec()).collect();
        self.count_malformed(session, frames);
        self.send_texts(session, texts);
    }

    /// Breaks RFC 6455, each way with its own close code.
    fn break_framing(&mut self, session: LinkId) {
        let mut bytes = Vec::new();
        let mask = self.random.bytes();
        let code = match self.random.below(5) {
            0 => {
                push_masked(&mut bytes, Opcode::Binary, b"binary", mask);
                close::UNSUPPORTED
            }
            1 => {
                push_masked(&mut bytes, Opcode::Text, b"\"\xff\"", mask);
                close::INVALID_UTF8
            }
            2 => {
                push_masked(&mut bytes, Opcode::Text, &vec![b' '; limits::FRAME_BYTES + 1], mask);
                close::TOO_LONG
            }
            3 => {
                // Not masked.
                bytes.extend_from_slice(b"\x81\x02{}");
                close::PROTOCOL
            }
            _ => {
                push_masked(&mut bytes, Opcode::Text, b"{}", mask);
                // A reserved bit.
                bytes[0] |= 0x40;
                close::PROTOCOL
            }
        };
        self.sessions[session].causes.push(code);
        self.send_up(session, &bytes);
    }

    /// Answers a WebSocket ping.
    pub(crate) fn send_pong(&mut self, session: LinkId, payload: &[u8]) {
        let mut bytes = Vec::new();
        push_masked(&mut bytes, Opcode::Pong, payload, self.random.bytes());
        self.sessions[session].frames += 1;
        self.send_up(session, &bytes);
    }

    /// Answers the relay's close frame with its code, and closes.
    pub(crate) fn answer_close(&mut self, session: LinkId, code: u16) {
        if self.sessions[session].close_sent.is_none() {
            let mut bytes = Vec::new();
            push_masked_close(&mut bytes, code, "", self.random.bytes());
            self.send_up(session, &bytes);
        }
        self.end_up(session, Segment::Fin);
    }
}
