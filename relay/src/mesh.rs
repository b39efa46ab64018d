//! The queues between shards.
//!
//! # Flow
//! ```text
//! push(to, item) ── pending[to] ── flush, once a pass ──▶ inbox of `to`, its doorbell if it sleeps
//!                                                            └─ drain, a budget a pass
//! ```
//! Each shard has one bounded inbox, a crossbeam channel whose items are batches: what a pass
//! produced for one destination travels in as few channel operations as possible.
//!
//! # Invariants
//! - Nothing is dropped: what does not fit into the channel stays pending and is tried again at the
//!   next flush. The one exception is a destination that has ended, at shutdown; that is counted.
//! - Items from one shard to another arrive in the order of their pushing.
//! - The shard hears of congestion when more than [`PENDING_ITEMS_MAX`] items wait for one
//!   destination, and of its end when at most a quarter of that is left; the two alternate.
//! - No call blocks, and no two shards can wait for each other: a flush against a full inbox goes on
//!   to the next destination, and the shard goes on to drain its own inbox.
//!
//! Absent on purpose: what the items mean, and a bound on `pending`. The core keeps that one: while
//! a destination is congested it starts nothing new towards it, and what it had begun is bounded by
//! its own tables ([`relay_core::Limits::in_transit_max`]).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use relay_core::{Arrival, Envelope, ShardId};
use relay_engine::Doorbell;

/// Items of one batch at most: the receiver looks at its sockets between batches.
pub const BATCH_ITEMS_MAX: usize = 256;

/// Batches in one inbox. 256 full batches are 65,536 items of some 600 bytes (an envelope and a
/// frame): 40 MB a shard at the very worst; mostly batches hold one item to ten.
pub const INBOX_BATCHES_MAX: usize = 256;

/// Items that may wait outside a full inbox before the shard is told of congestion: another quarter
/// of a full inbox for the answers and lobby changes that must still get through.
pub const PENDING_ITEMS_MAX: usize = 16 * 1024;

/// Emptied batches kept for the next ones. 64 of 256 items of 88 bytes are 1.4 MB.
const SPARE_BATCHES_MAX: usize = 64;

/// What travels between shards.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all items are envelopes; a box for each would cost an allocation a message"
)]
pub enum Item {
    /// Something from core to core.
    Envelope(Envelope),
    /// An authenticated connection on its way to its home shard.
    HandOver {
        /// Its socket, with no operation in flight.
        socket: OwnedFd,
        /// Its session.
        arrival: Box<Arrival>,
    },
}

#[derive(Debug)]
struct Batch {
    from: ShardId,
    items: Vec<Item>,
}

/// Counts of one shard's end of the mesh. Monotonic, but for `pending_items`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshStats {
    /// Items that wait for room (gauge).
    pub pending_items: u64,
    /// Items given to other shards.
    pub items_sent: u64,
    /// Batches they travelled in.
    pub batches_sent: u64,
    /// Items taken from other shards.
    pub items_received: u64,
    /// Sleeping shards woken.
    pub rings: u64,
    /// Flushes that met a full inbox.
    pub inbox_full: u64,
    /// Times a destination became congested.
    pub congestions: u64,
    /// Items dropped because their destination had ended.
    pub dropped_ended: u64,
}

/// One shard's end of the mesh. Belongs to the shard's thread.
#[derive(Debug)]
pub struct Mesh {
    shard: ShardId,
    inbox: Receiver<Batch>,
    /// By shard; the one of this shard stays empty.
    peers: Vec<Peer>,
    spare: Vec<Vec<Item>>,
    stats: MeshStats,
}

/// The way to one other shard.
#[derive(Debug)]
struct Peer {
    sender: Sender<Batch>,
    doorbell: Option<Arc<Doorbell>>,
    /// In order; all but the last are full.
    pending: VecDeque<Vec<Item>>,
    pending_items: usize,
    is_congested: bool,
}

impl Mesh {
    /// Makes the ends of a mesh of `shards` shards, in their order.
    #[must_use]
    pub fn of(shards: u16) -> Vec<Self> {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| bounded(INBOX_BATCHES_MAX)).unzip();
        let end = |(shard, inbox)| Self {
            shard: ShardId(shard),
            inbox,
            peers: senders.iter().cloned().map(Peer::new).collect(),
            spare: Vec::new(),
            stats: MeshStats::default(),
        };
        (0..shards).zip(inboxes).map(end).collect()
    }

    /// Tells the doorbells of all shards, in their order. Before that nobody is woken.
    ///
    /// # Panics
    /// If there are not as many as shards.
    pub fn connect(&mut self, doorbells: &[Arc<Doorbell>]) {
        assert_eq!(doorbells.len(), self.peers.len(), "one doorbell a shard");
        for (peer, doorbell) in self.peers.iter_mut().zip(doorbells) {
            peer.doorbell = Some(Arc::clone(doorbell));
        }
    }

    /// Queues an item. It leaves with the next [`Mesh::flush`].
    ///
    /// # Panics
    /// If `to` is this shard or none of the mesh.
    pub fn push(&mut self, to: ShardId, item: Item) {
        assert_ne!(to, self.shard, "a shard sends nothing to itself");
        let peer = &mut self.peers[usize::from(to.0)];
        match peer.pending.back_mut() {
            Some(batch) if batch.len() < BATCH_ITEMS_MAX => batch.push(item),
            _ => {
                let mut batch = self.spare.pop().unwrap_or_default();
                batch.push(item);
                peer.pending.push_back(batch);
            }
        }
        peer.pending_items += 1;
        self.stats.pending_items += 1;
    }

    /// Gives what is pending to its destinations, as far as there is room, and wakes those that
    /// sleep. Tells `congestion` which destinations filled up (`true`) or have room again.
    pub fn flush(&mut self, mut congestion: impl FnMut(ShardId, bool)) {
        if self.stats.pending_items == 0 {
            return;
        }
        for (to, peer) in (0..).map(ShardId).zip(&mut self.peers) {
            if peer.pending_items == 0 {
                continue;
            }
            self.stats.pending_items -= peer.flush(self.shard, &mut self.stats) as u64;
            let is_congested = if peer.is_congested {
                peer.pending_items > PENDING_ITEMS_MAX / 4
            } else {
                peer.pending_items > PENDING_ITEMS_MAX
            };
            if is_congested != peer.is_congested {
                peer.is_congested = is_congested;
                self.stats.congestions += u64::from(is_congested);
                congestion(to, is_congested);
            }
        }
    }

    /// Whether something waits for room in another shard's inbox: flush again soon.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.stats.pending_items > 0
    }

    /// Whether other shards have sent something.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Takes up to `batches_max` batches out of the inbox and gives their items to `sink`, with the
    /// shard they come from. Returns how many items.
    pub fn drain(&mut self, batches_max: usize, mut sink: impl FnMut(ShardId, Item)) -> usize {
        let mut count = 0;
        for _ in 0..batches_max {
            let Ok(Batch { from, mut items }) = self.inbox.try_recv() else { break };
            count += items.len();
            for item in items.drain(..) {
                sink(from, item);
            }
            if self.spare.len() < SPARE_BATCHES_MAX {
                self.spare.push(items);
            }
        }
        self.stats.items_received += count as u64;
        count
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> MeshStats {
        self.stats
    }
}

impl Peer {
    fn new(sender: Sender<Batch>) -> Self {
        Self { sender, doorbell: None, pending: VecDeque::new(), pending_items: 0, is_congested: false }
    }

    /// Sends what fits and returns how many items are pending no more.
    fn flush(&mut self, from: ShardId, stats: &mut MeshStats) -> usize {
        let before = self.pending_items;
        let mut has_sent = false;
        while let Some(items) = self.pending.pop_front() {
            let count = items.len();
            match self.sender.try_send(Batch { from, items }) {
                Ok(()) => {
                    has_sent = true;
                    stats.items_sent += count as u64;
                    stats.batches_sent += 1;
                }
                Err(TrySendError::Full(batch)) => {
                    self.pending.push_front(batch.items);
                    stats.inbox_full += 1;
                    break;
                }
                Err(TrySendError::Disconnected(_)) => stats.dropped_ended += count as u64,
            }
            self.pending_items -= count;
        }
        if has_sent && let Some(doorbell) = &self.doorbell {
            stats.rings += u64::from(doorbell.ring());
        }
        before - self.pending_items
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH_ITEMS_MAX, INBOX_BATCHES_MAX, Item, Mesh, PENDING_ITEMS_MAX};
    use protocol::PublicKey;
    use relay_core::{Envelope, ShardId};
    use relay_engine::Doorbell;
    use std::sync::Arc;
    use std::thread;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    /// An item that carries a number.
    fn numbered(number: usize) -> Item {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Item::Envelope(Envelope::Lobby { joined: vec![PublicKey::from_bytes(bytes)], left: Vec::new() })
    }

    fn number(item: &Item) -> usize {
        let Item::Envelope(Envelope::Lobby { joined, .. }) = item else { panic!("not numbered: {item:?}") };
        u64::from_le_bytes(joined[0].as_bytes()[..8].try_into().unwrap()) as usize
    }

    fn no_congestion(to: ShardId, is_full: bool) {
        panic!("congestion towards {to:?}: {is_full}");
    }

    fn pair() -> (Mesh, Mesh) {
        let mut ends = Mesh::of(2).into_iter();
        (ends.next().unwrap(), ends.next().unwrap())
    }

    fn drain_all(mesh: &mut Mesh) -> Vec<usize> {
        let mut numbers = Vec::new();
        while mesh.drain(1, |_, item| numbers.push(number(&item))) > 0 {}
        numbers
    }

    #[test]
    fn items_arrive_in_order_with_their_origin() {
        let (mut a, mut b) = pair();
        for n in 0..3 * BATCH_ITEMS_MAX + 1 {
            a.push(B, numbered(n));
        }
        assert!(!b.has_mail());
        a.flush(no_congestion);
        assert!(!a.has_pending() && b.has_mail());
        let mut numbers = Vec::new();
        let first = b.drain(1, |from, item| {
            assert_eq!(from, A);
            numbers.push(number(&item));
        });
        assert_eq!(first, BATCH_ITEMS_MAX);
        numbers.extend(drain_all(&mut b));
        assert!(numbers.into_iter().eq(0..3 * BATCH_ITEMS_MAX + 1));
        assert_eq!(a.stats().batches_sent, 4);
        assert_eq!(b.stats().items_received, a.stats().items_sent);
    }

    #[test]
    fn a_full_inbox_loses_nothing_and_keeps_the_order() {
        let (mut a, mut b) = pair();
        let total = INBOX_BATCHES_MAX + 10;
        for n in 0..total {
            a.push(B, numbered(n));
            a.flush(no_congestion);
        }
        assert_eq!(a.stats().pending_items, 10);
        assert_eq!(a.stats().inbox_full, 10);
        let mut numbers = Vec::new();
        b.drain(1, |_, item| numbers.push(number(&item)));
        // What is pushed now must not overtake what waited.
        a.push(B, numbered(total));
        a.flush(no_congestion);
        assert!(!a.has_pending());
        numbers.extend(drain_all(&mut b));
        assert!(numbers.into_iter().eq(0..=total));
    }

    #[test]
    fn congestion_is_told_once_and_taken_back_once() {
        let (mut a, mut b) = pair();
        let mut told = Vec::new();
        let mut pushed = 0;
        while a.stats().pending_items <= PENDING_ITEMS_MAX as u64 {
            assert!(told.is_empty());
            a.push(B, numbered(pushed));
            pushed += 1;
            a.flush(|to, is_full| told.push((to, is_full)));
        }
        assert_eq!(told, [(B, true)]);
        a.push(B, numbered(pushed));
        pushed += 1;
        a.flush(|to, is_full| told.push((to, is_full)));
        assert_eq!(told.len(), 1);

        let mut received = 0;
        while a.has_pending() {
            let was_over = a.stats().pending_items > PENDING_ITEMS_MAX as u64 / 4;
            assert_eq!(told.len(), if was_over { 1 } else { 2 });
            received += b.drain(16, |_, item| assert!(number(&item) < pushed));
            a.flush(|to, is_full| told.push((to, is_full)));
        }
        received += drain_all(&mut b).len();
        assert_eq!(told, [(B, true), (B, false)]);
        assert_eq!(received, pushed);
        assert_eq!(a.stats().congestions, 1);
    }

    #[test]
    fn a_full_inbox_does_not_hold_up_another_destination() {
        let mut ends = Mesh::of(3);
        for n in 0..=INBOX_BATCHES_MAX {
            ends[0].push(B, numbered(n));
            ends[0].flush(no_congestion);
        }
        ends[0].push(ShardId(2), numbered(7));
        ends[0].flush(no_congestion);
        assert_eq!(drain_all(&mut ends[2]), [7]);
        assert_eq!(ends[0].stats().pending_items, 1);
    }

    #[test]
    fn only_a_sleeper_is_rung_and_once_a_flush() {
        let (mut a, b) = pair();
        let doorbells = [Arc::new(Doorbell::new().unwrap()), Arc::new(Doorbell::new().unwrap())];
        a.connect(&doorbells);
        a.push(B, numbered(0));
        a.flush(no_congestion);
        assert_eq!(a.stats().rings, 0);
        doorbells[1].announce_sleep();
        for n in 0..2 * BATCH_ITEMS_MAX {
            a.push(B, numbered(n));
        }
        a.flush(no_congestion);
        assert_eq!(a.stats().rings, 1);
        assert!(b.has_mail());
    }

    #[test]
    fn an_ended_destination_takes_nothing_and_blocks_nothing() {
        let (mut a, b) = pair();
        drop(b);
        // One end of the channel's sending side is held by every shard, so it is the inbox that counts.
        for n in 0..2 * BATCH_ITEMS_MAX {
            a.push(B, numbered(n));
        }
        a.flush(no_congestion);
        assert!(!a.has_pending());
        assert_eq!(a.stats().dropped_ended, 2 * BATCH_ITEMS_MAX as u64);
    }

    #[test]
    #[should_panic(expected = "nothing to itself")]
    fn a_shard_sends_nothing_to_itself() {
        pair().0.push(A, numbered(0));
    }

    #[test]
    fn threads_that_flood_each_other_lose_nothing() {
        const EACH: usize = 100_000;
        let (a, b) = pair();
        let run = |mut mesh: Mesh, to: ShardId| {
            move || {
                let (mut sent, mut received) = (0, 0);
                while sent < EACH || received < EACH || mesh.has_pending() {
                    for _ in 0..1000.min(EACH - sent) {
                        mesh.push(to, numbered(sent));
                        sent += 1;
                    }
                    mesh.flush(|_, _| {});
                    mesh.drain(16, |_, item| {
                        assert_eq!(number(&item), received);
                        received += 1;
                    });
                    thread::yield_now();
                }
                mesh
            }
        };
        let (a, b) = (thread::spawn(run(a, B)), thread::spawn(run(b, A)));
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        assert_eq!(a.stats().items_received, EACH as u64);
        assert_eq!(b.stats().items_received, EACH as u64);
    }
}
