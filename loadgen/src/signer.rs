//! Signs a worker's messages ahead of the run, on a thread of its own.
//!
//! Signing costs 12 µs a message, more than sending and checking it: it must not happen when the
//! message is due. The signer fills a bounded queue of batches; when that is full or all is signed,
//! the run may start. A run that needs more than fits is signed on while it goes, by a thread that
//! gives way to the worker on its core.
//!
//! # What it costs
//! 12 µs and about 480 bytes a message: 24,000 messages (2,000/s for 12 s) take 0.3 s and 12 MB, the
//! default stock of a closed loop of 12 s, 780,000 messages, 9 s on one core and 370 MB. Where the
//! stock does not last, signing on the worker's core bounds a closed loop to some 50,000 messages a
//! second: raise `--presign`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ed25519_dalek::{Signer as _, SigningKey};
use protocol::frame::{Message, Target};
use protocol::websocket::{self, Opcode};
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};

use crate::clock::{Clock, to_ns};
use crate::identity;
use crate::plan::RunPlan;
use crate::preflight;
use crate::rng::{Rng, mix};
use crate::scenario::Rooms;
use crate::scenario::rooms::room_id;
use crate::stock::{Batch, id_text, write_id};

/// Messages of one batch: 128 × 480 bytes = 60 KB, 1.5 ms of signing.
pub const BATCH_MESSAGES: usize = 128;

/// How often a resting signer looks whether it is needed.
const REST: Duration = Duration::from_millis(2);

/// Bytes of the WebSocket header of a client's frame from 126 bytes to 64 KiB: two, two of length,
/// four of mask.
const CLIENT_HEADER_BYTES: usize = 8;

/// Keeps the streams of recipients and masks apart from other uses of the seed.
const PEER_STREAM: u64 = 0x7065_6572_0000_0000;
const MASK_STREAM: u64 = 0x6d61_736b_0000_0000;

/// Who of a worker writes to whom. Places count the clients of that worker.
#[derive(Clone, Debug)]
pub struct Peers {
    places: Vec<u32>,
    clients: u32,
    per_sender: usize,
    favourites: Favourites,
    seed: u64,
    /// What stands for peers then: the rooms that a sender is in.
    rooms: Option<Rooms>,
}

/// The clients of a worker that get another part of the messages than others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Favourites {
    /// The place of the first of them.
    pub first: u32,
    /// So many from there; zero for none.
    pub places: u32,
    /// The part of all messages that goes to them.
    pub share: f64,
    /// The number of the first message that goes to none of them any more.
    pub until: u64,
}

impl Default for Favourites {
    fn default() -> Self {
        Self { first: 0, places: 0, share: 0.0, until: u64::MAX }
    }
}

impl Favourites {
    /// Those of one worker, which has so many clients that stay: who gets most messages, or who is offline.
    #[must_use]
    pub fn of(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let workload = &plan.workload;
        if let Some(skew) = workload.scenario.skew {
            let places = plan.owned(worker, skew.keys.of(workload.clients)).len() as u32;
            return Self { places, share: skew.share.get(), ..Self::default() };
        }
        let Some(offline) = workload.scenario.offline else { return Self::default() };
        let places = plan.last_places(worker, stable, Some(offline.share));
        let schedule = offline.back.zip(plan.messages(worker));
        Self {
            first: places.start,
            places: places.len() as u32,
            share: offline.messages.get(),
            until: schedule.map_or(u64::MAX, |(back, schedule)| schedule.count_before(to_ns(workload.warmup + back))),
        }
    }

    /// The places are counted from the first favourite, and go on behind the last place with the first.
    fn turned(self, place: u32, clients: u32) -> u32 {
        if place >= self.first { place - self.first } else { place + clients - self.first }
    }

    /// The other way.
    fn place(self, turned: u32, clients: u32) -> u32 {
        let place = turned + self.first;
        if place < clients { place } else { place - clients }
    }

    /// How many of a sender's peers are favourites: half, as far as there are enough others of
    /// both kinds. They are the first of its peers.
    fn among_peers(self, sender: u32, clients: u32, per_sender: usize) -> usize {
        let is_one = sender < self.places;
        let favourites = (self.places - u32::from(is_one)) as usize;
        let rest = (clients - self.places - u32::from(!is_one)) as usize;
        (per_sender / 2).max(per_sender.saturating_sub(rest)).min(favourites)
    }
}

impl Peers {
    /// Picks for each of the first `senders` of `clients` clients as many different others as asked
    /// for, or all there are.
    ///
    /// # Panics
    /// If there is a sender and nobody to write to, or more than 255 peers are asked for.
    #[must_use]
    pub fn new(seed: u64, worker: usize, clients: u32, senders: u32, per_sender: u32, favourites: Favourites) -> Self {
        if senders == 0 {
            let favourites = Favourites::default();
            return Self { places: Vec::new(), clients, per_sender: 1, favourites, seed, rooms: None };
        }
        assert!(clients >= 2 && (1..=255).contains(&per_sender), "a sender needs somebody to write to");
        let per_sender = per_sender.min(clients - 1) as usize;
        let mut rng = Rng::new(seed, PEER_STREAM | worker as u64);
        let mut places: Vec<u32> = Vec::with_capacity(senders as usize * per_sender);
        for sender in (0..senders).map(|sender| favourites.turned(sender, clients)) {
            let from = places.len();
            let favoured = favourites.among_peers(sender, clients, per_sender);
            // In turns, so that each favourite is known to equally many.
            let turns = (0..).map(|turn| (sender as usize * favoured + turn) as u32 % favourites.places.max(1));
            places.extend(turns.filter(|&place| place != sender).take(favoured));
            while places.len() < from + per_sender {
                let place = favourites.places + rng.below(u64::from(clients - favourites.places)) as u32;
                if place != sender && !places[from..].contains(&place) {
                    places.push(place);
                }
            }
        }
        for place in &mut places {
            *place = favourites.place(*place, clients);
        }
        Self { places, clients, per_sender, favourites, seed, rooms: None }
    }

    /// Each of the first `senders` of `clients` clients writes to the rooms that it is in, and only 255 of them.
    #[must_use]
    pub fn of_rooms(seed: u64, clients: u32, senders: u32, rooms: Rooms) -> Self {
        let per_sender = rooms.count_of(0, clients).min(u32::from(u8::MAX));
        let own = |sender| (0..per_sender).map(move |which| rooms.room_of(sender, which, clients));
        Self {
            places: (0..senders).flat_map(own).collect(),
            clients,
            per_sender: per_sender as usize,
            favourites: Favourites::default(),
            seed,
            rooms: Some(rooms),
        }
    }

    /// Which of its peers a sender's message `number` is for.
    #[must_use]
    pub fn choose(&self, sender: u32, number: u64) -> u8 {
        let chance = mix(self.seed ^ mix(number));
        if let Some(rooms) = self.rooms {
            let own = u64::from(rooms.count_of(sender, self.clients)).clamp(1, self.per_sender as u64);
            return (chance % own) as u8;
        }
        let sender = self.favourites.turned(sender, self.clients);
        let favoured = self.favourites.among_peers(sender, self.clients, self.per_sender) as u64;
        let peers = self.per_sender as u64;
        if favoured == 0 || favoured == peers {
            return (chance % peers) as u8;
        }
        // The upper half of the number decides for whom, the lower one for which of them.
        let is_favourite =
            number < self.favourites.until && ((chance >> 32) as f64) < self.favourites.share * (1_u64 << 32) as f64;
        let which = chance & 0xffff_ffff;
        (if is_favourite { which % favoured } else { favoured + which % (peers - favoured) }) as u8
    }

    /// Where a pair of sender and peer stands among all pairs.
    #[must_use]
    pub fn pair(&self, sender: u32, peer: u8) -> usize {
        sender as usize * self.per_sender + usize::from(peer)
    }

    /// The place of the client that is this peer of the sender, or the number of the room.
    #[must_use]
    pub fn place(&self, sender: u32, peer: u8) -> u32 {
        self.places[self.pair(sender, peer)]
    }

    /// How many pairs there are.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.places.len()
    }
}

/// What a signer works from.
#[derive(Debug)]
pub struct Assignment {
    /// The worker it signs for.
    pub worker: usize,
    /// The keys of the worker's clients, by place.
    pub keys: Arc<[PublicKey]>,
    /// How many of them send.
    pub senders: u32,
    /// Who writes to whom.
    pub peers: Arc<Peers>,
    /// Messages to sign in all; `None`: as many as are taken.
    pub messages: Option<u64>,
    /// Batches that wait at most.
    pub batches_ahead: usize,
    /// Once there were so many, signing rests until no more than this are left.
    pub low_water: usize,
    /// The relay's clock less ours, in milliseconds.
    pub clock_offset_ms: i64,
}

/// A thread that signs.
#[derive(Debug)]
pub struct Signer {
    flags: Arc<Flags>,
    thread: JoinHandle<()>,
}

/// What a signer and its owner tell each other.
#[derive(Debug, Default)]
struct Flags {
    /// By the signer: the queue has been full, or all is signed.
    primed: AtomicBool,
    /// By the owner: nothing more is needed.
    stop: AtomicBool,
}

impl Signer {
    /// Starts to sign. Ends when all is signed, the receiver is dropped or it is told to.
    ///
    /// # Errors
    /// The operating system's, when there can be no more threads.
    pub fn start(plan: &Arc<RunPlan>, assignment: Assignment) -> std::io::Result<(Self, Receiver<Batch>)> {
        let (batches, receiver) = bounded(assignment.batches_ahead.max(1));
        let flags = Arc::new(Flags::default());
        let thread = {
            let (plan, flags) = (Arc::clone(plan), Arc::clone(&flags));
            let name = format!("signer-{}", assignment.worker);
            thread::Builder::new().name(name).spawn(move || {
                if let Some(core) = plan.core_of(assignment.worker) {
                    preflight::pin_thread(core);
                }
                Bench::new(&plan, &assignment).run(&assignment, &batches, &flags);
                flags.primed.store(true, Ordering::Release);
            })?
        };
        Ok((Self { flags, thread }, receiver))
    }

    /// Whether the queue has been full, or all is signed.
    #[must_use]
    pub fn is_primed(&self) -> bool {
        self.flags.primed.load(Ordering::Acquire)
    }

    /// Ends the thread, whose receiver has been dropped.
    pub fn end(self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        // The thread has no result, and a panic in it has ended the process.
        let _ = self.thread.join();
    }
}

/// What signing needs, made once.
struct Bench<'a> {
    senders: Vec<SigningKey>,
    keys: &'a [PublicKey],
    peers: &'a Peers,
    workers: u32,
    worker: u32,
    nonce: u32,
    /// Whether messages go to rooms.
    to_rooms: bool,
    text: String,
    masks: Rng,
    clock: Clock,
    clock_offset_ms: i64,
}

impl<'a> Bench<'a> {
    fn new(plan: &RunPlan, assignment: &'a Assignment) -> Self {
        let numbers = plan.owned(assignment.worker, plan.workload.clients);
        let seed = plan.workload.seed;
        Self {
            senders: numbers
                .take(assignment.senders as usize)
                .map(|number| identity::signing_key(seed, number))
                .collect(),
            keys: &assignment.keys,
            peers: &assignment.peers,
            workers: plan.workers as u32,
            worker: assignment.worker as u32,
            nonce: plan.nonce,
            to_rooms: plan.workload.rooms.is_some(),
            text: text(plan.workload.message_bytes),
            masks: Rng::new(seed, MASK_STREAM | assignment.worker as u64),
            clock: plan.clock,
            clock_offset_ms: assignment.clock_offset_ms,
        }
    }

    fn run(mut self, assignment: &Assignment, batches: &Sender<Batch>, flags: &Flags) {
        if self.senders.is_empty() {
            return;
        }
        let end = assignment.messages.unwrap_or(u64::MAX);
        let mut number = 0;
        while number < end && !flags.stop.load(Ordering::Relaxed) {
            let count = (end - number).min(BATCH_MESSAGES as u64);
            let batch = self.sign(number..number + count);
            number += count;
            match batches.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(batch)) => {
                    if !flags.primed.swap(true, Ordering::Release) {
                        preflight::give_way();
                    }
                    if batches.send(batch).is_err() {
                        return;
                    }
                    while batches.len() > assignment.low_water && !flags.stop.load(Ordering::Relaxed) {
                        thread::sleep(REST);
                    }
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    fn sign(&mut self, numbers: std::ops::Range<u64>) -> Batch {
        let signed_ns = self.clock.now_ns();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let timestamp = Timestamp::from_unix_ms(unix.as_millis() as i64 + self.clock_offset_ms);
        let mut bytes = Vec::new();
        let count = (numbers.end - numbers.start) as usize;
        let mut peers = Vec::with_capacity(count);
        let (mut signed, mut payload) = (Vec::new(), Vec::new());
        let senders = self.senders.len() as u64;
        for number in numbers {
            let (sender, n) = ((number % senders) as u32, (number / senders) as u32);
            let peer = self.peers.choose(sender, number);
            let id = write_id(self.nonce, sender * self.workers + self.worker, n);
            let target = self.peers.place(sender, peer);
            let room = if self.to_rooms { room_id(self.nonce, self.worker, target) } else { String::new() };
            let mut message = Message {
                target: if self.to_rooms { Target::Room(&room) } else { Target::User(self.keys[target as usize]) },
                text: &self.text,
                sender: self.keys[sender as usize],
                id: id_text(&id),
                timestamp,
                signature: Signature::from_bytes([0; 64]),
            };
            signed.clear();
            signed_bytes::message(&mut signed, &message);
            message.signature = Signature::from_bytes(self.senders[sender as usize].sign(&signed).to_bytes());
            payload.clear();
            encode::message(&mut payload, &message);
            if bytes.capacity() == 0 {
                bytes.reserve_exact((payload.len() + CLIENT_HEADER_BYTES) * count);
            }
            let mask = (self.masks.next_u64() as u32).to_ne_bytes();
            websocket::push_masked(&mut bytes, Opcode::Text, &payload, mask);
            peers.push(peer);
        }
        Batch::new(bytes, &peers, signed_ns)
    }
}

/// A text of this many bytes that needs no escapes.
fn text(bytes: usize) -> String {
    "The quick brown fox jumps over the lazy dog. ".chars().cycle().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::{Favourites, Peers, text};

    const NOBODY: Favourites = Favourites { first: 0, places: 0, share: 0.0, until: u64::MAX };

    fn favourites(places: u32, share: f64) -> Favourites {
        Favourites { places, share, ..NOBODY }
    }

    #[test]
    fn everybody_writes_to_different_others() {
        let peers = Peers::new(1, 0, 20, 10, 16, NOBODY);
        assert_eq!(peers.pairs(), 160);
        for sender in 0..10 {
            let mut places: Vec<_> = (0..16).map(|peer| peers.place(sender, peer)).collect();
            assert!(!places.contains(&sender));
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 16);
        }
        assert!((0..1000).all(|number| peers.choose((number % 10) as u32, number) < 16));
    }

    #[test]
    fn a_few_clients_have_few_peers() {
        let peers = Peers::new(1, 0, 2, 2, 16, NOBODY);
        assert_eq!((peers.place(0, 0), peers.place(1, 0), peers.pairs()), (1, 0, 2));
        assert_eq!(peers.choose(0, 12), 0);
        assert_eq!(Peers::new(1, 0, 0, 0, 16, NOBODY).pairs(), 0);
    }

    /// How many of so many messages each place gets, of senders in turns.
    fn received(peers: &Peers, clients: u32, senders: u32, messages: u64) -> Vec<u64> {
        let mut counts = vec![0; clients as usize];
        for number in 0..messages {
            let sender = (number % u64::from(senders)) as u32;
            let place = peers.place(sender, peers.choose(sender, number));
            assert_ne!(place, sender);
            counts[place as usize] += 1;
        }
        counts
    }

    #[test]
    fn favourites_get_their_share_and_evenly() {
        let peers = Peers::new(7, 0, 500, 500, 16, favourites(5, 0.8));
        let counts = received(&peers, 500, 500, 200_000);
        let favoured: u64 = counts[..5].iter().sum();
        // 160,000 expected, with a deviation of 179: five of them.
        assert!((159_100..160_900).contains(&favoured), "{favoured}");
        // Of each the senders that are not itself know all five: 32,000 each, deviation 160.
        assert!(counts[..5].iter().all(|count| (31_000..33_000).contains(count)), "{:?}", &counts[..5]);
        // The rest is spread over the other 495.
        assert!(counts[5..].iter().max() < Some(&1000), "{:?}", counts[5..].iter().max());
    }

    #[test]
    fn many_favourites_are_half_of_the_peers_and_still_get_their_share() {
        let peers = Peers::new(7, 0, 500, 100, 4, favourites(50, 0.6));
        let favoured: u64 = received(&peers, 500, 100, 100_000)[..50].iter().sum();
        // 60,000 expected, with a deviation of 155: five of them.
        assert!((59_200..60_800).contains(&favoured), "{favoured}");
        // Each of the 50 is known to 3 to 5 of the 100, who send them half of 600 each.
        let counts = received(&peers, 500, 100, 100_000);
        assert!(counts[..50].iter().all(|count| (750..1650).contains(count)), "{:?}", &counts[..50]);
    }

    #[test]
    fn few_clients_have_favourites_as_far_as_there_are_others() {
        for clients in 2..8 {
            for places in 1..clients {
                for per_sender in 1..6 {
                    let peers = Peers::new(1, 0, clients, clients, per_sender, favourites(places, 0.9));
                    assert_eq!(peers.pairs() as u32, clients * per_sender.min(clients - 1));
                    received(&peers, clients, clients, 200);
                }
            }
        }
    }

    #[test]
    fn favourites_may_be_the_last_and_for_a_time() {
        let last = Favourites { first: 45, places: 5, share: 0.8, until: 10_000 };
        let peers = Peers::new(7, 0, 50, 45, 16, last);
        let early = received(&peers, 50, 45, 10_000);
        let favoured: u64 = early[45..].iter().sum();
        // 8,000 expected, with a deviation of 40: five of them.
        assert!((7_800..8_200).contains(&favoured), "{favoured}");
        let later = received(&peers, 50, 45, 20_000);
        assert_eq!(later[45..], early[45..]);
    }

    #[test]
    fn texts_have_the_length_asked_for() {
        assert_eq!(text(100).len(), 100);
        assert_eq!(text(0).len(), 0);
    }
}
