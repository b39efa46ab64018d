//! The virtual network: one [`Link`] for each connection, with a client's end and the relay's.
//!
//! ```text
//! client ── segments under way ──▶ received, unread ── as asked for ──▶ shard
//! client ◀── segments under way (bounded: the "kernel") ◀── write in flight ◀── shard
//! ```
//!
//! # Invariants
//! - Bytes of one direction arrive in order, however they were cut, and are lost only behind a
//!   reset or a close.
//! - What is under way to a client is bounded; a write stays in flight until all of it fits.
//! - The relay learns of an end only while it reads or writes.

use std::collections::VecDeque;

use relay_core::{ConnectionId, Gone, Nanos, ReadMode};

use crate::random::Random;
use crate::scenario::Scenario;

/// Names a link and the session on it: both are numbered in the order of connecting.
pub(crate) type LinkId = usize;

/// Where the relay's end of a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not accepted yet.
    Backlog,
    /// A shard's connection.
    Open { shard: usize, connection: ConnectionId },
    /// Between shards.
    Moving,
    /// Closed by the relay.
    Closed,
}

/// Part of what one end sends.
#[derive(Debug)]
pub(crate) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// What a shard is to be told of a link.
#[derive(Debug)]
pub(crate) enum Input {
    Bytes(Vec<u8>),
    Written(Vec<u8>),
    Gone(Gone),
}

/// One direction: segments and when they arrive.
#[derive(Debug, Default)]
struct Way {
    under_way: VecDeque<(Nanos, Segment)>,
    last: Nanos,
}

impl Way {
    fn push(&mut self, at: Nanos, segment: Segment) -> Nanos {
        self.last = self.last.max(at);
        self.under_way.push_back((self.last, segment));
        self.last
    }

    fn pop(&mut self, now: Nanos) -> Option<Segment> {
        let (at, _) = self.under_way.front()?;
        if *at > now {
            return None;
        }
        self.under_way.pop_front().map(|(_, segment)| segment)
    }
}

#[derive(Debug)]
struct WriteInFlight {
    buffer: Vec<u8>,
    taken: usize,
}

/// A connection between a client and the relay.
#[derive(Debug)]
pub(crate) struct Link {
    /// Where the relay's end is.
    pub(crate) place: Place,
    /// The client is unreachable: nothing goes in or out, and nobody is told.
    pub(crate) silent: bool,
    /// The client does not read before this time.
    pub(crate) stalled_until: Nanos,
    /// The client has closed its socket: whatever reaches it is answered by a reset.
    client_closed: bool,
    /// The client has closed its sending side.
    fin_up: bool,
    up: Way,
    /// Arrived at the relay, not yet read.
    received: Vec<u8>,
    end: Option<Gone>,
    end_told: bool,
    read: Option<ReadMode>,
    write: Option<WriteInFlight>,
    /// A write was asked for, and the shard has not seen its end yet.
    write_outstanding: bool,
    shutdown: bool,
    down: Way,
    down_bytes: usize,
    fin_sent: bool,
    /// Times it was handed over.
    pub(crate) moves: u32,
}

impl Link {
    /// Makes a link whose connection is still to be accepted.
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Backlog,
            silent: false,
            stalled_until: 0,
            client_closed: false,
            fin_up: false,
            up: Way::default(),
            received: Vec::new(),
            end: None,
            end_told: false,
            read: None,
            write: None,
            write_outstanding: false,
            shutdown: false,
            down: Way::default(),
            down_bytes: 0,
            fin_sent: false,
            moves: 0,
        }
    }

    // The client's end.

    /// Sends bytes from the client, cut at random; returns when the pieces arrive.
    pub(crate) fn send_up(&mut self, now: Nanos, bytes: &[u8], scenario: &Scenario, random: &mut Random) -> Vec<Nanos> {
        if self.silent || self.fin_up {
            return Vec::new();
        }
        cut(bytes, scenario.crumbs, random)
            .into_iter()
            .map(|piece| self.up.push(now + random.below(scenario.delay_max + 1), Segment::Bytes(piece)))
            .collect()
    }

    /// Sends the client's end of file or reset, behind all it sent; returns when it arrives. A second
    /// end of file, or one from a silent client, is none.
    pub(crate) fn end_up(
        &mut self,
        now: Nanos,
        segment: Segment,
        scenario: &Scenario,
        random: &mut Random,
    ) -> Option<Nanos> {
        let again = matches!(segment, Segment::Fin) && self.fin_up;
        if self.silent || again {
            return None;
        }
        self.fin_up = true;
        Some(self.up.push(now + random.below(scenario.delay_max + 1), segment))
    }

    /// The client closes its socket.
    pub(crate) fn close_client(&mut self) {
        self.client_closed = true;
    }

    /// Takes what has arrived at the client by now. The flag says that the client should answer
    /// with a reset, because its socket is closed.
    pub(crate) fn read_down(&mut self, now: Nanos) -> (Vec<Segment>, bool) {
        let mut segments = Vec::new();
        if self.silent || now < self.stalled_until {
            return (segments, false);
        }
        while let Some(segment) = self.down.pop(now) {
            if let Segment::Bytes(bytes) = &segment {
                self.down_bytes -= bytes.len();
            }
            segments.push(segment);
        }
        if self.client_closed {
            let answer = segments.iter().any(|segment| matches!(segment, Segment::Bytes(_)));
            segments.clear();
            return (segments, answer);
        }
        (segments, false)
    }

    // The relay's end.

    /// Moves what has arrived by now to where the relay can read it.
    pub(crate) fn arrive_up(&mut self, now: Nanos, random: &mut Random) {
        while let Some(segment) = self.up.pop(now) {
            match segment {
                Segment::Bytes(bytes) if self.end.is_none() => self.received.extend_from_slice(&bytes),
                Segment::Bytes(_) => {}
                Segment::Fin => self.end = self.end.or(Some(Gone::Eof)),
                Segment::Reset => {
                    self.end = Some(Gone::Broken);
                    if random.chance(50) {
                        self.received.clear();
                    }
                }
            }
        }
    }

    /// Asks for bytes.
    pub(crate) fn start_read(&mut self, mode: ReadMode) {
        self.read = Some(mode);
    }

    /// Starts to write a buffer. False if one is in flight, or the sending side is closed.
    pub(crate) fn start_write(&mut self, buffer: Vec<u8>) -> bool {
        if self.write_outstanding || self.shutdown {
            return false;
        }
        self.write_outstanding = true;
        self.write = Some(WriteInFlight { buffer, taken: 0 });
        true
    }

    /// The shard has been told that its write ended.
    pub(crate) fn write_told(&mut self) {
        self.write_outstanding = false;
    }

    /// Closes the relay's sending side, behind the write in flight.
    pub(crate) fn shutdown(&mut self) {
        self.shutdown = true;
    }

    /// Whether the relay may let go of the connection: neither read nor write is in flight.
    pub(crate) fn is_still(&self) -> bool {
        self.read.is_none() && !self.write_outstanding
    }

    /// The connection leaves its shard for another; an end that it was told of is told again there.
    pub(crate) fn begin_move(&mut self) {
        self.place = Place::Moving;
        self.moves += 1;
        self.end_told = false;
    }

    /// The relay closes the connection. What it had not written is lost; unread bytes turn the end
    /// of file into a reset, which may overtake what is under way.
    pub(crate) fn close_relay(&mut self, now: Nanos, scenario: &Scenario, random: &mut Random) -> Nanos {
        self.place = Place::Closed;
        self.write = None;
        self.read = None;
        let unread = !self.received.is_empty() || !self.up.under_way.is_empty();
        self.received = Vec::new();
        if unread && random.chance(50) {
            let kept = random.index(self.down.under_way.len() + 1);
            self.down.under_way.truncate(kept);
            self.down_bytes = self.down.under_way.iter().map(|(_, segment)| segment_bytes(segment)).sum();
            return self.down.push(now, Segment::Reset);
        }
        self.down.push(now + random.below(scenario.delay_max + 1), Segment::Fin)
    }

    /// Moves as much of the write in flight into the network as fits. Returns when the pieces
    /// arrive.
    pub(crate) fn pump_down(&mut self, now: Nanos, scenario: &Scenario, random: &mut Random) -> Vec<Nanos> {
        let mut arrivals = Vec::new();
        if self.end == Some(Gone::Broken) {
            return arrivals;
        }
        if let Some(write) = &mut self.write {
            let room = scenario.kernel_bytes.saturating_sub(self.down_bytes);
            let taken = room.min(write.buffer.len() - write.taken);
            if taken > 0 {
                let part = &write.buffer[write.taken..write.taken + taken];
                for piece in cut(part, scenario.crumbs && taken < 2000, random) {
                    let at = now + random.below(scenario.delay_max + 1);
                    arrivals.push(self.down.push(at, Segment::Bytes(piece)));
                }
                write.taken += taken;
                self.down_bytes += taken;
            }
        }
        let written = self.write.as_ref().is_none_or(|write| write.taken == write.buffer.len());
        if self.shutdown && !self.fin_sent && written {
            self.fin_sent = true;
            arrivals.push(self.down.push(now + random.below(scenario.delay_max + 1), Segment::Fin));
        }
        arrivals
    }

    /// What the shard is to be told next, if anything: a write that ended, bytes it asked for, or
    /// the end of the connection.
    pub(crate) fn next_input(&mut self, random: &mut Random) -> Option<Input> {
        if self.end == Some(Gone::Broken) {
            return self.next_input_broken();
        }
        if let Some(write) = self.write.take_if(|write| write.taken == write.buffer.len()) {
            return Some(Input::Written(write.buffer));
        }
        let mode = self.read?;
        if !self.received.is_empty() {
            if mode == ReadMode::Once {
                self.read = None;
            }
            return Some(Input::Bytes(self.take_received(random)));
        }
        if self.end == Some(Gone::Eof) && !self.end_told {
            self.end_told = true;
            self.read = None;
            return Some(Input::Gone(Gone::Eof));
        }
        None
    }

    /// A broken connection gives what was received before, then its end; a write only its end. Where
    /// the end of file was told already, nothing more is: the write in flight just vanishes.
    fn next_input_broken(&mut self) -> Option<Input> {
        if self.end_told {
            self.write = None;
            return None;
        }
        if self.read.is_some() && !self.received.is_empty() && self.write.is_none() {
            if self.read == Some(ReadMode::Once) {
                self.read = None;
            }
            return Some(Input::Bytes(std::mem::take(&mut self.received)));
        }
        if self.read.is_none() && self.write.is_none() {
            return None;
        }
        self.read = None;
        self.write = None;
        self.end_told = true;
        Some(Input::Gone(Gone::Broken))
    }

    /// A buffer's worth of what was received: mostly all of it, sometimes less.
    fn take_received(&mut self, random: &mut Random) -> Vec<u8> {
        /// Bytes of a receive buffer, as engines have them.
        const BUFFERS: [usize; 3] = [512, 4096, 16 * 1024];
        let most = self.received.len().min(random.pick(&BUFFERS));
        let len = if random.chance(80) { most } else { 1 + random.index(most) };
        let rest = self.received.split_off(len);
        std::mem::replace(&mut self.received, rest)
    }
}

fn segment_bytes(segment: &Segment) -> usize {
    match segment {
        Segment::Bytes(bytes) => bytes.len(),
        Segment::Fin | Segment::Reset => 0,
    }
}

/// Cuts bytes into pieces: usually one or a few, sometimes single bytes.
fn cut(bytes: &[u8], crumbs: bool, random: &mut Random) -> Vec<Vec<u8>> {
    if crumbs && bytes.len() <= 600 && random.chance(20) {
        return bytes.iter().map(|&byte| vec![byte]).collect();
    }
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while rest.len() > 1 && pieces.len() < 4 && random.chance(if crumbs { 70 } else { 20 }) {
        let (piece, behind) = rest.split_at(1 + random.index(rest.len() - 1));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(rest.to_vec());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Overrides;

    fn scenario(random: &mut Random) -> Scenario {
        let mut scenario = Scenario::draw(&Overrides::default(), random);
        scenario.kernel_bytes = 1000;
        scenario
    }

    #[test]
    fn bytes_arrive_in_order_and_whole() {
        let mut random = Random::new(3);
        let scenario = scenario(&mut random);
        let mut link = Link::new();
        let sent: Vec<u8> = (0..5000_u32).map(|at| at as u8).collect();
        let mut last = 0;
        for part in sent.chunks(700) {
            last = link.send_up(0, part, &scenario, &mut random).into_iter().fold(last, Nanos::max);
        }
        link.end_up(0, Segment::Fin, &scenario, &mut random);
        link.arrive_up(Nanos::MAX, &mut random);
        assert!(link.next_input(&mut random).is_none(), "nobody asked");
        link.start_read(ReadMode::Continuous);
        let mut got = Vec::new();
        loop {
            match link.next_input(&mut random) {
                Some(Input::Bytes(bytes)) => got.extend(bytes),
                Some(Input::Gone(Gone::Eof)) => break,
                other => panic!("{other:?} after {} bytes at {last}", got.len()),
            }
        }
        assert_eq!(got, sent);
        assert!(link.next_input(&mut random).is_none());
    }

    #[test]
    fn a_write_stays_in_flight_while_nobody_reads() {
        let mut random = Random::new(4);
        let scenario = scenario(&mut random);
        let mut link = Link::new();
        assert!(link.start_write(vec![7; 1500]));
        assert!(!link.start_write(vec![7; 1]), "one at a time");
        link.pump_down(0, &scenario, &mut random);
        assert!(link.next_input(&mut random).is_none(), "500 bytes do not fit");
        let (segments, _) = link.read_down(Nanos::MAX);
        assert_eq!(segments.iter().map(segment_bytes).sum::<usize>(), 1000);
        link.pump_down(0, &scenario, &mut random);
        assert!(matches!(link.next_input(&mut random), Some(Input::Written(buffer)) if buffer.len() == 1500));
    }
}
