//! What a run is made with: drawn from its seed, or set by the caller.

use std::time::Duration;

use protocol::limits;
use relay_core::{Config, Durability, Nanos, ShardId, VerifyMode};

use crate::disk::Temper;
use crate::plant::Plant;
use crate::random::Random;
use crate::schedule::MS;

/// What the caller fixes; the rest is drawn from the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Shards, 1 to 16.
    pub shards: Option<u16>,
    /// Devices that connect.
    pub clients: Option<usize>,
    /// Steps of the workload.
    pub steps: Option<u32>,
    /// Whether the relay has a store.
    pub store: Option<bool>,
}

/// All parameters of one run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) shards: u16,
    /// Users, each with at least one device.
    pub(crate) users: usize,
    /// Devices of all users together.
    pub(crate) devices: usize,
    pub(crate) steps: u32,
    /// Steps are cut into so many rounds, each followed by a quiet time.
    pub(crate) rounds: u32,
    /// Longest time between two steps.
    pub(crate) step_gap_max: Nanos,
    /// Longest way of a segment through the network.
    pub(crate) delay_max: Nanos,
    /// Longest way of an envelope or a hand-over between shards.
    pub(crate) hop_max: Nanos,
    /// Most inputs of a shard in one batch.
    pub(crate) batch_max: usize,
    /// Bytes that the network takes towards a client that does not read.
    pub(crate) kernel_bytes: usize,
    /// Whether a client that reads normally may still be too slow.
    pub(crate) tight: bool,
    /// Whether segments are often cut into single bytes.
    pub(crate) crumbs: bool,
    /// Percent of sessions that ask for the lobby.
    pub(crate) watchers: u64,
    /// Whether the end is a drain; otherwise all clients leave.
    pub(crate) drain: bool,
    /// How often the relay ends and starts anew.
    pub(crate) restarts: u32,
    /// How the disk behaves.
    pub(crate) temper: Temper,
    /// Inboxes are full soon.
    pub(crate) small_inboxes: bool,
    /// The relay has as many shards after each start.
    shards_fixed: bool,
    /// As the shards get it, but for the shard's number.
    config: Config,
}

impl Scenario {
    /// Draws the parameters.
    pub(crate) fn draw(overrides: &Overrides, random: &mut Random) -> Self {
        let shards = overrides.shards.unwrap_or_else(|| random.between(1, 4) as u16).max(1);
        let devices = overrides.clients.unwrap_or_else(|| random.between(3, 12) as usize).max(2);
        let few = random.chance(25) && devices < 20;
        let users = if few { 2 } else { (devices * random.between(5, 10) as usize / 10).max(2) };
        let steps = overrides.steps.unwrap_or_else(|| random.between(60, 240) as u32);
        let mut config = Config::new(ShardId(0), shards, random.below(u64::MAX));
        config.verify = random.pick(&[VerifyMode::Auto, VerifyMode::Auto, VerifyMode::Auto, VerifyMode::Strict]);
        config.heartbeat = Duration::from_secs(random.pick(&[2, 5, 20]));
        config.lobby_tick = Duration::from_millis(random.pick(&[5, 20, 80]));
        config.limits.devices_max = random.pick(&[2, 8, 8]);
        config.limits.messages_per_second = random.pick(&[limits::MESSAGES_PER_SECOND, limits::MESSAGES_PER_SECOND, 0]);
        config.limits.in_transit_max = random.pick(&[3, config.limits.in_transit_max, config.limits.in_transit_max]);
        let has_store = overrides.store.unwrap_or_else(|| random.chance(55));
        config.durability = has_store
            .then(|| random.pick(&[Durability::Group, Durability::Group, Durability::Sync, Durability::Memory]));
        config.limits.unseen_sender_messages_max = random.pick(&[3, limits::UNSEEN_SENDER_MESSAGES]);
        let small_inboxes = has_store && random.chance(15);
        if small_inboxes {
            config.limits.inbox_messages_max = random.between(5, 60) as usize;
            config.limits.inbox_sender_messages_max = random.between(3, 30) as usize;
        }
        let tight = random.chance(35);
        if tight {
            config.limits.outbox_bytes_max = random.between(6, 48) as usize * 1024;
        }
        Self {
            shards,
            users,
            devices,
            steps,
            rounds: random.between(1, 4) as u32,
            step_gap_max: random.pick(&[MS, 10 * MS, 60 * MS, 300 * MS]),
            delay_max: random.pick(&[MS / 10, 2 * MS, 20 * MS, 150 * MS]),
            hop_max: random.pick(&[MS / 100, MS, 30 * MS]),
            batch_max: random.pick(&[1, 3, 16, 256]),
            kernel_bytes: if tight { random.between(1, 8) as usize * 1024 } else { 256 * 1024 },
            tight,
            crumbs: random.chance(25),
            // A crowd that all watch costs the square of its size.
            watchers: if devices > 200 { 3 } else { 85 },
            drain: random.chance(50),
            restarts: random.pick(&[0, 0, 1, 2, 4]),
            temper: Temper::draw(random),
            small_inboxes,
            shards_fixed: overrides.shards.is_some(),
            config,
        }
    }

    /// The configuration of one shard; a planted fault may spoil it.
    pub(crate) fn config(&self, shard: ShardId, plant: Option<Plant>) -> Config {
        let mut config = Config { shard, ..self.config.clone() };
        match plant {
            Some(Plant::TrustSignatures) => config.verify = VerifyMode::Off,
            Some(Plant::ForgetIds) => config.limits.recent_ids_max = 1,
            Some(Plant::LooseOutbox) => config.limits.outbox_bytes_max *= 4,
            Some(Plant::MeanRate) => config.limits.messages_per_second = 1,
            _ => {}
        }
        config
    }

    /// The relay starts anew: with as many shards or others. Without a store nothing is as it was.
    pub(crate) fn start_anew(&mut self, random: &mut Random) {
        self.config.boot += 1;
        if !self.shards_fixed {
            self.shards = random.between(1, 4) as u16;
            self.config.shards = self.shards;
        }
        if !self.has_store() {
            self.config.seed = random.below(u64::MAX);
        }
    }

    /// Whether the relay has a store.
    pub(crate) fn has_store(&self) -> bool {
        self.config.durability.is_some()
    }

    /// Whether copies for the sender's own devices may find no room.
    pub(crate) fn may_drop_copies(&self) -> bool {
        self.small_inboxes || self.has_store() && self.temper.fills
    }

    /// The configuration that all shards share.
    pub(crate) fn shared(&self) -> &Config {
        &self.config
    }

    /// One heartbeat.
    pub(crate) fn heartbeat(&self) -> Nanos {
        self.config.heartbeat.as_nanos() as Nanos
    }

    /// After the last sign of life, so long until the relay must have dropped a connection: three
    /// heartbeats, the way through the network, and a second for batches.
    pub(crate) fn silence_max(&self) -> Nanos {
        3 * self.heartbeat() + self.close_timeout() + 2 * self.delay_max + 1000 * MS
    }

    /// From the challenge to a good `auth`.
    pub(crate) fn auth_timeout(&self) -> Nanos {
        self.config.auth_timeout.as_nanos() as Nanos
    }

    /// How long a closing connection may take.
    pub(crate) fn close_timeout(&self) -> Nanos {
        self.config.close_timeout.as_nanos() as Nanos
    }

    /// A time after which nothing is under way any more: whoever fell silent was dropped, whoever
    /// did not log in was sent away, and the watchers know.
    pub(crate) fn settle(&self) -> Nanos {
        let opening = (self.config.auth_timeout + self.config.upgrade_timeout).as_nanos() as Nanos;
        self.silence_max().max(opening) + self.close_timeout() + 3000 * MS + 20 * self.delay_max
    }
}
