//! What clients do: a random step at a time, most of it honest, some of it not.

mod going;
mod rooming;
mod writing;

use protocol::limits::{self, close};
use protocol::websocket::{Opcode, push_masked, push_masked_close};

use crate::devices::Confirms;
use crate::frames;
use crate::invariant::Checked;
use crate::ledger::Place;
use crate::network::{LinkId, Segment};
use crate::relay::Waiting;
use crate::world::World;

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
    Read,
    Sync,
    Stall,
    Leave,
    HalfClose,
    Cut,
    FallSilent,
    Replace,
    Congestion,
    Storm,
    FillDisk,
    Room,
    RoomMessage,
}

/// Steps by how often they are taken.
const STEPS: [(Step, u64); 26] = [
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
    (Step::Received, 5),
    (Step::Read, 3),
    (Step::Sync, 4),
    (Step::Stall, 5),
    (Step::Leave, 5),
    (Step::HalfClose, 1),
    (Step::Cut, 5),
    (Step::FallSilent, 2),
    (Step::Replace, 6),
    (Step::Congestion, 3),
    (Step::Storm, 1),
    (Step::FillDisk, 2),
    (Step::Room, 14),
    (Step::RoomMessage, 16),
];

impl World {
    /// One random step of one random device.
    pub(crate) fn step(&mut self) -> Checked {
        let device = self.random.index(self.devices.len());
        let current = self.devices[device].session.filter(|&session| !self.sessions[session].is_ended());
        let Some(session) = current else {
            if !self.devices[device].is_rare || self.random.chance(8) {
                self.connect(device);
            }
            return Ok(());
        };
        let (step, _) = STEPS[self.random.weighted(STEPS.iter().map(|&(_, weight)| weight))];
        let now = self.schedule.now();
        match step {
            Step::Congestion => self.toggle_congestion(),
            Step::FillDisk => self.fill_disk(),
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
                let device = self.sessions[session].device;
                if self.devices[device].confirms == Confirms::Never {
                    // Beyond the last seq it is ignored.
                    self.good_frame(session, b"{\"type\":\"received\",\"seq\":9000000}");
                }
                self.confirm(session);
            }
            Step::Read => {
                let (owner, epoch) = (self.sessions[session].key, self.sessions[session].epoch);
                if let Some(last) = self.sessions[session].last_pushed() {
                    let seq = last.saturating_sub(self.random.below(3)).max(1);
                    self.ledger.read(Place { owner, epoch, seq });
                    self.good_frame(session, format!("{{\"type\":\"read\",\"seq\":{seq}}}").as_bytes());
                }
            }
            Step::Sync if World::watches(&self.sessions[session]) => {
                self.sessions[session].sync_asked = Some(self.sessions[session].lobby.snapshots);
                self.good_frame(session, b"{\"type\":\"lobby_sync\"}");
            }
            Step::Sync => {
                self.count_malformed(session, 1);
                self.send_texts(session, vec![b"{\"type\":\"lobby_sync\"}".to_vec()]);
            }
            Step::Room => self.ask_room(session),
            Step::RoomMessage => self.send_to_room(session),
            Step::Leave => self.leave(session),
            Step::HalfClose => {
                self.sessions[session].half_closed = true;
                self.end_up(session, Segment::Fin);
            }
            Step::Stall | Step::Cut | Step::FallSilent | Step::Replace | Step::Congestion => {}
            Step::Storm | Step::FillDisk => {}
        }
        Ok(())
    }

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

    pub(crate) fn good_frame(&mut self, session: LinkId, frame: &[u8]) {
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

    fn toggle_congestion(&mut self) {
        if let Some((from, to)) = self.congested.pop() {
            self.give(from, Waiting::Congestion { to, full: false });
            return;
        }
        if self.is_down {
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
}
