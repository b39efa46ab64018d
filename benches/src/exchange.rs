//! Messages through one shard, batch after batch: from the bytes of the senders to the bytes for
//! recipients and senders.

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use protocol::frame::LobbyMode;
use relay_core::{Config, ConnectionId, Durability, Limits, ShardId, VerifyMode};

use crate::rig::{self, Rig};
use crate::user::{Draft, User, plain_text, push_client_text};

/// Messages signed ahead; they are sent again and again.
const SIGNED_MESSAGES: usize = 4096;

/// Ids that the shard remembers: half of the messages, so that an id is forgotten before it comes
/// again. With every message one id goes and one comes, as in a relay that has run for a while.
const REMEMBERED_IDS: usize = SIGNED_MESSAGES / 2;

/// Between batches. Long enough for nothing to be due.
const PASS: Duration = Duration::from_micros(10);

/// How the messages of a batch reach the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each of another sender and for another recipient: one read and two writes a message.
    Spread,
    /// All of one sender and for one recipient: one read and two writes a batch.
    Pipelined,
    /// As `Spread`, but the recipients are at home in another shard. What travels between the two
    /// does so at once, without a queue, on one thread.
    Across,
}

/// Pairs of sender and recipient, logged in at their home.
#[derive(Debug)]
pub struct Exchange {
    /// The senders' shard.
    rig: Rig,
    /// The recipients', if it is another.
    other: Option<Rig>,
    batches: Vec<Vec<Read>>,
    next: usize,
    scratch: Vec<u8>,
    /// The recipients, if they confirm, and how many messages each has confirmed.
    confirming: Vec<(ConnectionId, u64)>,
    /// Messages for each recipient in one batch.
    each: u64,
}

/// What one sender's socket gives in one batch.
#[derive(Debug)]
struct Read {
    from: ConnectionId,
    bytes: Vec<u8>,
}

impl Exchange {
    /// Logs the pairs in and signs the messages of 100 characters. Senders and recipients want no
    /// lobby.
    #[must_use]
    pub fn new(verify: VerifyMode, batch: usize, shape: Shape) -> Self {
        Self::with(verify, batch, shape, None)
    }

    /// The same with a store, or without one, and recipients who confirm each batch.
    #[must_use]
    pub fn confirming(verify: VerifyMode, batch: usize, shape: Shape, durability: Option<Durability>) -> Self {
        let mut exchange = Self::with(verify, batch, shape, durability);
        exchange.open();
        exchange
    }

    fn with(verify: VerifyMode, batch: usize, shape: Shape, durability: Option<Durability>) -> Self {
        let shards = if shape == Shape::Across { 2 } else { 1 };
        let rig = |shard: u16| {
            let config = rig::config(ShardId(shard), shards, verify);
            let control_frames_per_second = 1_000_000_000;
            let limits = Limits { recent_ids_max: REMEMBERED_IDS, control_frames_per_second, ..config.limits };
            Rig::new(Config { limits, durability, ..config })
        };
        let (mut rig, mut other) = (rig(0), (shards > 1).then(|| rig(1)));
        let pairs = if shape == Shape::Pipelined { 1 } else { batch };
        let config = rig.config().clone();
        let at_home = |shard| User::all().filter(move |user| config.home(&user.public_key) == ShardId(shard));
        let senders: Vec<User> = at_home.clone()(0).take(pairs).collect();
        let recipients: Vec<User> = at_home(shards - 1).skip(pairs).take(pairs).collect();
        let connections: Vec<ConnectionId> = senders.iter().map(|user| rig.log_in(user, LobbyMode::None)).collect();
        let log_in = |user| (other.as_mut().unwrap_or(&mut rig).log_in(user, LobbyMode::None), 0);
        let confirming: Vec<(ConnectionId, u64)> = recipients.iter().map(log_in).collect();
        for rig in [Some(&mut rig), other.as_mut()].into_iter().flatten() {
            rig.settle();
            // Each tells the other of its users; nobody here follows the lobby.
            rig.outgoing().for_each(drop);
        }
        let mut ids = 0..;
        let mut read = |pair: usize, count: usize| {
            let (sender, recipient) = (&senders[pair], &recipients[pair]);
            let mut bytes = Vec::new();
            for n in ids.by_ref().take(count) {
                let draft = Draft::new(recipient.public_key, plain_text(100), n);
                push_client_text(&mut bytes, &draft.frame(sender));
            }
            Read { from: connections[pair], bytes }
        };
        let batches =
            (0..SIGNED_MESSAGES / batch).map(|_| (0..pairs).map(|pair| read(pair, batch / pairs)).collect()).collect();
        let each = (batch / pairs) as u64;
        Self { rig, other, batches, next: 0, scratch: Vec::new(), confirming, each }
    }

    /// Lets the store take in who has come: from then on every push goes at once.
    fn open(&mut self) {
        for rig in [Some(&mut self.rig), self.other.as_mut()].into_iter().flatten() {
            rig.advance(Duration::from_secs(1));
            rig.settle();
        }
    }

    /// Sends one batch, and then the confirmations of it. Returns the bytes written.
    pub fn pass_and_confirm(&mut self) -> usize {
        let mut written = self.pass();
        let Self { rig, other, scratch, confirming, each, .. } = self;
        let home = other.as_mut().unwrap_or(rig);
        for (connection, confirmed) in confirming.iter_mut() {
            *confirmed += *each;
            let mut json = [0; 48];
            let frame = received(&mut json, *confirmed);
            scratch.clear();
            push_client_text(scratch, frame);
            home.receive(*connection, scratch);
        }
        let mut sink = |_, bytes: &[u8]| written += black_box(bytes).len();
        home.end_batch(&mut sink);
        if let Some(other) = other {
            other.outgoing().for_each(|(_, envelope)| rig.from_shard(ShardId(1), envelope));
            rig.end_batch(&mut sink);
        }
        written
    }

    /// Sends one batch through the shard, and gives each written buffer back. Returns the bytes
    /// written.
    ///
    /// The copy of the senders' bytes, which the shard unmasks in place, is part of it: it stands for
    /// the kernel's.
    pub fn pass(&mut self) -> usize {
        let Self { rig, other, batches, next, scratch, .. } = self;
        rig.advance(PASS);
        for read in &batches[*next] {
            scratch.clear();
            scratch.extend_from_slice(&read.bytes);
            rig.receive(read.from, scratch);
        }
        *next = (*next + 1) % batches.len();
        let mut written = 0;
        let mut sink = |_, bytes: &[u8]| written += black_box(bytes).len();
        rig.end_batch(&mut sink);
        if let Some(other) = other {
            other.advance(PASS);
            rig.outgoing().for_each(|(_, envelope)| other.from_shard(ShardId(0), envelope));
            other.end_batch(&mut sink);
            other.outgoing().for_each(|(_, envelope)| rig.from_shard(ShardId(1), envelope));
            rig.end_batch(&mut sink);
        }
        written
    }

    /// Messages that were written out to the store: none, where each is confirmed in time.
    #[must_use]
    pub fn given_out(&self) -> u64 {
        self.rig.stats().entries_given_out + self.other.as_ref().map_or(0, |rig| rig.stats().entries_given_out)
    }

    /// Checks that every message so far was delivered and acknowledged.
    ///
    /// # Panics
    /// If one was not: then something else was measured.
    pub fn check(&self) {
        let stats = self.rig.stats();
        assert!(stats.messages_in > 0, "no message came");
        let delivered = self.other.as_ref().unwrap_or(&self.rig).stats().messages_delivered;
        assert_eq!(delivered, stats.messages_in, "{stats:?}");
        assert_eq!(stats.messages_acked, stats.messages_in, "{stats:?}");
    }
}

/// Writes a `received` without an allocation.
fn received(out: &mut [u8; 48], seq: u64) -> &str {
    let mut rest = &mut out[..];
    let written = write!(rest, "{{\"type\":\"received\",\"seq\":{seq}}}");
    let unused = rest.len();
    assert!(written.is_ok(), "26 bytes and 20 digits fit");
    std::str::from_utf8(&out[..48 - unused]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_come_again_are_delivered_again() {
        for (batch, shape) in [(1, Shape::Spread), (64, Shape::Spread), (64, Shape::Pipelined), (8, Shape::Across)] {
            let mut exchange = Exchange::new(VerifyMode::Off, batch, shape);
            for _ in 0..2 * SIGNED_MESSAGES / batch + 1 {
                assert!(exchange.pass() > 500 * batch);
            }
            exchange.check();
        }
    }

    #[test]
    fn what_is_confirmed_in_time_is_acked_and_never_stored() {
        for durability in [None, Some(Durability::Group)] {
            for (batch, shape) in [(1, Shape::Spread), (64, Shape::Pipelined), (8, Shape::Across)] {
                let mut exchange = Exchange::confirming(VerifyMode::Off, batch, shape, durability);
                for _ in 0..SIGNED_MESSAGES / batch + 1 {
                    exchange.pass_and_confirm();
                }
                exchange.check();
                assert_eq!(exchange.given_out(), 0);
            }
        }
    }

    #[test]
    fn signatures_are_checked_as_the_mode_says() {
        let stats = |verify, batch| {
            let mut exchange = Exchange::new(verify, batch, Shape::Spread);
            exchange.pass();
            exchange.check();
            let stats = exchange.rig.stats();
            (stats.verified_single, stats.verified_batched)
        };
        assert_eq!(stats(VerifyMode::Off, 8), (0, 0));
        assert_eq!(stats(VerifyMode::Strict, 8), (8, 0));
        assert_eq!(stats(VerifyMode::Auto, 8), (0, 8));
        assert_eq!(stats(VerifyMode::Auto, 1), (1, 0));
    }
}
