//! Messages that were signed ahead, and what became of each while it was under way.
//!
//! Worker and signer count messages alike: sender `s` (by its place on the worker, of `S` senders)
//! sends its `n`-th message as number `k = n * S + s` of the worker. Batches are runs of numbers, so
//! where a message lies is arithmetic: no table, no map. All messages of a run are equally long.
//!
//! ```text
//! id = nonce (8 hex) - client (6 hex) - n (8 hex)       client = s * workers + worker
//! ```
//!
//! # Invariants
//! - A batch keeps the bytes of its messages until each is delivered and acked, or refused: that is
//!   what deliveries are compared with.
//! - Batches leave in order. A number before the first one is a message that is finished.

use std::collections::VecDeque;

use protocol::encode;
use protocol::frame::{Message, Target};
use protocol::websocket::{self, Opcode};
use protocol::{PublicKey, Signature, Timestamp};

use crate::audience::Audience;
use crate::scenario::rooms::room_id;

/// Bytes of an id.
pub const ID_BYTES: usize = 8 + 1 + 6 + 1 + 8;

/// Clients have six digits in an id.
pub const CLIENTS_MAX: u32 = 1 << 24;

/// Writes the id of a message.
#[must_use]
pub fn write_id(nonce: u32, client: u32, n: u32) -> [u8; ID_BYTES] {
    let mut id = [b'-'; ID_BYTES];
    write_hex(&mut id[..8], nonce);
    write_hex(&mut id[9..15], client);
    write_hex(&mut id[16..], n);
    id
}

/// Reads an id of this run: client and `n`. `None` for any other.
#[must_use]
pub fn read_id(nonce: u32, id: &[u8]) -> Option<(u32, u32)> {
    if id.len() != ID_BYTES || id[8] != b'-' || id[15] != b'-' || read_hex(&id[..8])? != nonce {
        return None;
    }
    Some((read_hex(&id[9..15])?, read_hex(&id[16..])?))
}

fn write_hex(out: &mut [u8], number: u32) {
    let digits = out.len();
    for (at, digit) in out.iter_mut().enumerate() {
        let nibble = number >> (4 * (digits - 1 - at)) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
}

fn read_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}

/// Where the parts of every message of a run lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the WebSocket header, the mask at its end.
    header: usize,
    /// Bytes of the whole WebSocket frame.
    frame: usize,
    /// Where the id lies in the payload.
    id_at: usize,
}

impl Layout {
    /// Computes the layout for texts of this many bytes, to rooms or to users, by encoding one.
    ///
    /// # Panics
    /// Never: an encoded message holds its own id.
    #[must_use]
    pub fn new(message_bytes: usize, to_rooms: bool) -> Self {
        let mut payload = Vec::new();
        let room = room_id(0, 0, 0);
        let id = write_id(u32::MAX, 1, u32::MAX);
        let text = "x".repeat(message_bytes);
        let key = PublicKey::from_bytes([0; 32]);
        let message = Message {
            target: if to_rooms { Target::Room(&room) } else { Target::User(key) },
            text: &text,
            sender: key,
            id: id_text(&id),
            timestamp: Timestamp::from_unix_ms(0),
            signature: Signature::from_bytes([0; 64]),
        };
        encode::message(&mut payload, &message);
        let mut frame = Vec::new();
        websocket::push_masked(&mut frame, Opcode::Text, &payload, [0; 4]);
        let id_at = payload.windows(ID_BYTES).position(|window| window == id).expect("the message holds its id");
        Self { header: frame.len() - payload.len(), frame: frame.len(), id_at }
    }

    /// Bytes of one message as a client sends it, header included.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.frame
    }

    /// The id in a message that has this layout, given as the relay pushes it, behind its first
    /// `{` and seq; `None` if it is too short.
    #[must_use]
    pub fn id_of<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        rest.get(self.id_at - 1..self.id_at - 1 + ID_BYTES)
    }

    /// Whether `rest`, what stands behind the first `{` of a received message, is what this frame
    /// has there under its mask.
    #[must_use]
    pub fn same(&self, frame: &[u8], rest: &[u8]) -> bool {
        let (header, payload) = frame.split_at(self.header);
        let (_, [a, b, c, d]) = header.split_last_chunk::<4>().expect("a client's header ends in its mask");
        let masked = &payload[1..];
        if masked.len() != rest.len() {
            return false;
        }
        // One byte into the payload the mask begins with its second byte.
        let wide = u64::from_ne_bytes([*b, *c, *d, *a, *b, *c, *d, *a]);
        let (masked, masked_tail) = masked.as_chunks::<8>();
        let (plain, plain_tail) = rest.as_chunks::<8>();
        let differing = masked.iter().zip(plain).fold(0, |differing, (masked, plain)| {
            differing | (u64::from_ne_bytes(*masked) ^ wide ^ u64::from_ne_bytes(*plain))
        });
        let tail = wide.to_ne_bytes();
        differing == 0
            && masked_tail.iter().zip(plain_tail).zip(tail).all(|((masked, plain), mask)| masked ^ mask == *plain)
    }
}

/// An id as text.
///
/// # Panics
/// Never: ids are ASCII.
#[must_use]
pub fn id_text(id: &[u8; ID_BYTES]) -> &str {
    std::str::from_utf8(id).expect("ids are ASCII")
}

/// What is known of one message. 24 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// How many of its audience it has not reached.
    pub left: u16,
    /// Which of the recipient's connections it came on.
    pub connection: u8,
    /// When it was due.
    pub intended_ns: u64,
    /// When it was written to its connection; before that, since when it can be.
    pub written_ns: u64,
    /// Which of its sender's peers it is for.
    pub peer: u8,
    /// What happened to it.
    pub state: State,
}

/// What happened to a message: a set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(u8);

impl State {
    /// Written to its connection.
    pub const SENT: Self = Self(1);
    /// Acknowledged by the relay.
    pub const ACKED: Self = Self(2);
    /// Delivered as it was sent.
    pub const DELIVERED: Self = Self(4);
    /// Refused by the relay.
    pub const REFUSED: Self = Self(8);
    /// Delivered in another form.
    pub const ALTERED: Self = Self(16);
    /// Never to be sent: too old, or its sender has gone.
    pub const SKIPPED: Self = Self(32);
    /// Its turn came while a write of its connection was under way.
    pub const BLOCKED: Self = Self(64);
    /// Not judged.
    pub const ASIDE: Self = Self(128);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn is_finished(self) -> bool {
        self.has(Self::REFUSED) || self.has(Self::SKIPPED) || self.has(Self(Self::ACKED.0 | Self::DELIVERED.0))
    }
}

/// A run of signed messages, ready to be sent.
#[derive(Debug)]
pub struct Batch {
    /// The frames, one behind the other.
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// How many are not finished.
    open: usize,
    /// When they were signed, on the run's clock.
    signed_ns: u64,
    /// A bit for each index of each message's audience, whole words for each; empty where one is to get it.
    reached: Vec<u64>,
}

impl Batch {
    /// Makes a batch of whole frames, and for each the peer that it is for.
    #[must_use]
    pub fn new(bytes: Vec<u8>, peers: &[u8], signed_ns: u64) -> Self {
        let records: Vec<_> = peers.iter().map(|&peer| Record { peer, ..Record::default() }).collect();
        Self { bytes, open: records.len(), records, signed_ns, reached: Vec::new() }
    }
}

/// The batches that are under way, of one worker.
#[derive(Debug)]
pub struct Stock {
    layout: Layout,
    batch_messages: u64,
    /// How many are to get a message, and words of bits that tell them apart.
    audience: u16,
    words: usize,
    /// Whether records stay when all before them are finished.
    keeps_records: bool,
    /// The number of the first batch.
    first: u64,
    batches: VecDeque<Batch>,
}

impl Stock {
    /// Makes an empty stock whose batches hold `batch_messages` messages each, but for the last, for such an
    /// audience. With `keeps_records` it never forgets what became of one.
    #[must_use]
    pub fn new(layout: Layout, batch_messages: usize, audience: &Audience, keeps_records: bool) -> Self {
        let is_one = audience.size() == 1;
        Self {
            layout,
            batch_messages: batch_messages as u64,
            audience: audience.size() as u16,
            words: if is_one { 0 } else { audience.indices().div_ceil(u64::BITS) as usize },
            keeps_records,
            first: 0,
            batches: VecDeque::new(),
        }
    }

    /// Takes the next batch in.
    pub fn add(&mut self, mut batch: Batch) {
        for record in &mut batch.records {
            record.left = self.audience;
        }
        batch.reached = vec![0; batch.records.len() * self.words];
        self.batches.push_back(batch);
    }

    /// A message has reached one of its audience. Says whether that is news, of a message that is there.
    pub fn reach(&mut self, number: u64, index: u32) -> bool {
        let Some((batch, at)) = self.locate(number) else { return false };
        let Some(batch) = self.batches.get_mut(batch) else { return false };
        let Some(record) = batch.records.get_mut(at) else { return false };
        if self.words > 0 {
            let word = &mut batch.reached[at * self.words + (index / u64::BITS) as usize];
            let bit = 1 << (index % u64::BITS);
            if *word & bit != 0 {
                return false;
            }
            *word |= bit;
        } else if record.left == 0 {
            return false;
        }
        record.left -= 1;
        true
    }

    /// Where messages' parts lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn locate(&self, number: u64) -> Option<(usize, usize)> {
        let batch = (number / self.batch_messages).checked_sub(self.first)?;
        Some((usize::try_from(batch).ok()?, (number % self.batch_messages) as usize))
    }

    /// Whether a message is finished and its batch gone.
    #[must_use]
    pub fn is_past(&self, number: u64) -> bool {
        number / self.batch_messages < self.first
    }

    /// Whether a message is there, not yet sent or under way.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.record(number).is_some()
    }

    /// When a message was signed.
    #[must_use]
    pub fn signed_ns(&self, number: u64) -> Option<u64> {
        let (batch, _) = self.locate(number)?;
        self.batches.get(batch).map(|batch| batch.signed_ns)
    }

    /// The record of a message.
    #[must_use]
    pub fn record(&self, number: u64) -> Option<&Record> {
        let (batch, at) = self.locate(number)?;
        self.batches.get(batch)?.records.get(at)
    }

    /// The record of a message, to be changed but for its state (see [`Stock::mark`]).
    pub fn record_mut(&mut self, number: u64) -> Option<&mut Record> {
        let (batch, at) = self.locate(number)?;
        self.batches.get_mut(batch)?.records.get_mut(at)
    }

    /// The whole frame of a message that is not finished.
    #[must_use]
    pub fn frame(&self, number: u64) -> Option<&[u8]> {
        let (batch, at) = self.locate(number)?;
        let from = at * self.layout.frame;
        self.batches.get(batch)?.bytes.get(from..from + self.layout.frame)
    }

    /// Adds to what happened to a message, and says whether that finished it. A batch whose last
    /// message is finished gives its memory back.
    pub fn mark(&mut self, number: u64, news: State) -> bool {
        let Some((batch, at)) = self.locate(number) else { return false };
        let Some(batch) = self.batches.get_mut(batch) else { return false };
        let Some(record) = batch.records.get_mut(at) else { return false };
        let was_finished = record.state.is_finished();
        record.state.0 |= news.0;
        if was_finished || !record.state.is_finished() {
            return false;
        }
        batch.open -= 1;
        if batch.open == 0 {
            // Records stay until all batches before are gone: they tell order and duplicates.
            batch.bytes = Vec::new();
            while !self.keeps_records && self.batches.front().is_some_and(|batch| batch.open == 0) {
                self.batches.pop_front();
                self.first += 1;
            }
        }
        true
    }

    /// The numbers of all messages that are there, and of some behind them.
    pub fn numbers(&self) -> std::ops::Range<u64> {
        self.first * self.batch_messages..(self.first + self.batches.len() as u64) * self.batch_messages
    }

    /// All records that are still there.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.batches.iter().flat_map(|batch| &batch.records)
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Layout, State, Stock, id_text, read_id, write_id};
    use crate::audience::Audience;
    use protocol::websocket::{Opcode, push_masked};

    #[test]
    fn ids_are_read_as_written() {
        let id = write_id(0xdead_beef, 0x0012_34ab, 77);
        assert_eq!(id_text(&id), "deadbeef-1234ab-0000004d");
        assert!(protocol::keys::is_id(id_text(&id)));
        assert_eq!(read_id(0xdead_beef, &id), Some((0x0012_34ab, 77)));
        assert_eq!(read_id(1, &id), None);
        assert_eq!(read_id(0xdead_beef, &id[..23]), None);
        assert_eq!(read_id(0xdead_beef, b"deadbeef-1234AB-0000004d"), None);
    }

    #[test]
    fn frames_are_compared_under_their_mask_to_the_last_byte() {
        let layout = Layout::new(10, false);
        let payload: Vec<u8> = (0..layout.frame - layout.header).map(|at| at as u8).collect();
        let mut frame = Vec::new();
        push_masked(&mut frame, Opcode::Text, &payload, [9, 200, 3, 77]);
        assert_eq!(frame.len(), layout.frame_bytes());
        assert!(layout.same(&frame, &payload[1..]));
        for at in 1..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert!(!layout.same(&frame, &changed[1..]), "{at}");
        }
        assert!(!layout.same(&frame, &payload[2..]));
    }

    fn stock(batches: usize) -> Stock {
        let layout = Layout::new(1, false);
        let mut stock = Stock::new(layout, 2, &Audience::new(10, 1, None), false);
        for batch in 0..batches {
            let mut bytes = vec![batch as u8; 2 * layout.frame];
            bytes[layout.frame..].fill(100 + batch as u8);
            stock.add(Batch::new(bytes, &[0, 1], 5));
        }
        stock
    }

    const DONE: [State; 2] = [State::ACKED, State::DELIVERED];

    #[test]
    fn messages_are_found_by_their_number() {
        let stock = stock(2);
        assert_eq!(stock.frame(0).unwrap()[0], 0);
        assert_eq!(stock.frame(3).unwrap()[0], 101);
        assert_eq!(stock.record(3).unwrap().peer, 1);
        assert!(!stock.has(4));
        assert_eq!(stock.signed_ns(4), None);
    }

    #[test]
    fn records_that_are_kept_outlive_their_messages() {
        let layout = Layout::new(1, false);
        let mut stock = Stock::new(layout, 2, &Audience::new(10, 1, None), true);
        stock.add(Batch::new(vec![0; 2 * layout.frame], &[0, 1], 5));
        for number in 0..2 {
            for news in DONE {
                stock.mark(number, news);
            }
        }
        assert!(stock.frame(0).is_none() && !stock.is_past(1));
        assert!(stock.record(1).unwrap().state.has(State::DELIVERED));
    }

    #[test]
    fn each_of_an_audience_is_reached_once() {
        let layout = Layout::new(1, false);
        let mut stock = Stock::new(layout, 2, &Audience::new(10, 3, None), false);
        stock.add(Batch::new(vec![0; 2 * layout.frame], &[0, 1], 5));
        assert_eq!([0, 2, 0, 5].map(|index| stock.reach(1, index)), [true, true, false, true]);
        assert_eq!((stock.record(1).unwrap().left, stock.record(0).unwrap().left), (2, 5));
        assert!(stock.reach(0, 0) && !stock.reach(7, 0));
        let mut one = self::stock(1);
        assert_eq!([0, 0].map(|index| one.reach(1, index)), [true, false]);
    }

    #[test]
    fn batches_leave_in_order_once_all_is_finished() {
        let mut stock = stock(3);
        for number in [2, 3, 1] {
            for news in DONE {
                stock.mark(number, news);
            }
        }
        // The second batch is finished, and waits for the first.
        assert!(stock.frame(2).is_none());
        assert!(stock.record(2).unwrap().state.has(State::DELIVERED));
        assert!(!stock.is_past(2));
        stock.mark(0, State::ACKED);
        stock.mark(0, State::ACKED);
        assert!(!stock.is_past(0));
        stock.mark(0, State::DELIVERED);
        assert!(stock.is_past(3));
        assert!(!stock.is_past(4));
        assert_eq!(stock.records().count(), 2);
        stock.mark(4, State::REFUSED);
        stock.mark(5, State::SKIPPED);
        assert!(stock.is_past(5));
    }
}
