//! How clients come and go: logging in, well or badly, leaving, breaking off, and falling silent.

use ed25519_dalek::SigningKey;
use protocol::frame::{Auth, LobbyMode};
use protocol::limits::close;
use protocol::server_frame::Challenge;
use protocol::websocket::{Opcode, push_masked, push_masked_close};
use protocol::{encode, opening, upgrade};

use crate::invariant::Checked;
use crate::network::{LinkId, Segment};
use crate::schedule::{MS, SECOND};
use crate::session::{End, Opening, Session};
use crate::world::{Occurrence, World};

impl World {
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
        self.connect_as(device, opening);
    }

    /// Opens a connection of a device that behaves so.
    pub(crate) fn connect_as(&mut self, device: usize, opening: Opening) {
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
        let (resume, truly) = self.resume(link);
        (self.sessions[link].asked, self.sessions[link].asked_truly) = (resume, truly);
        if let (Some(resume), true) = (resume, truly) {
            let device = self.sessions[link].device;
            self.sessions[link].asked_all = self.knows_own_places(device, resume.epoch);
            // What it goes on from it has.
            self.ledger.confirm(self.users[user].key, resume.epoch, 0, resume.seq);
        }
        let signing = if opening == Opening::BadSignature { &stranger } else { &self.users[user].signing };
        let challenge = Challenge { version: 1, relay: "localhost", nonce: signed_nonce };
        let device = &self.devices[self.sessions[link].device].name;
        let lobby = self.sessions[link].lobby_mode;
        let Ok(auth) = opening::answer(&challenge, "localhost", signing, device, lobby, resume) else {
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
        if opening == Opening::Honest && !self.is_gathering && self.random.chance(30) {
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

    pub(super) fn leave(&mut self, session: LinkId) {
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

    pub(super) fn fall_silent(&mut self, session: LinkId) -> Checked {
        self.trace.note(self.schedule.now(), || format!("client {session} falls silent"));
        self.links[session].silent = true;
        let wait =
            if self.sessions[session].is_active() { self.scenario.silence_max() } else { self.scenario.settle() };
        self.schedule.at(self.schedule.now() + wait, Occurrence::SilenceOver(session));
        self.ended(session, End::Own)
    }

    pub(super) fn stall(&mut self, session: LinkId) {
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
    pub(super) fn storm(&mut self) -> Checked {
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
}
