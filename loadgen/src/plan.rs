//! What a run does, settled before it starts and shared by all its threads.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::{Clock, to_ns};
use crate::lobby::Visitors;
use crate::scenario::{self, Fraction, Ramp, Rooms, Scenario};
use crate::schedule::{Arrivals, Profile, Schedule, Share};
use crate::slo::Slo;
use crate::units::RATE_MAX;

mod record;

pub use record::WorkloadRecord;

/// How many messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// None: connections idle.
    Idle,
    /// So many a second over all clients, on a schedule: an open loop.
    PerSecond(f64),
    /// The same, with a rate that changes over the steady phase.
    Ramp(Ramp),
    /// As many as acks allow, with so many in flight per sender: a closed loop.
    Max {
        /// Un-acked messages of one sender.
        in_flight: u32,
    },
}

/// Which engine the workers use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    /// io_uring.
    Ring,
    /// epoll.
    Epoll,
}

/// Where the relay is.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port as in the URL, for the `Host` header.
    pub authority: String,
    /// Path of the URL.
    pub path: String,
    /// The address that is dialled.
    pub address: SocketAddr,
    /// The name that the relay has to have.
    pub relay_name: String,
}

/// How to start a relay of our own.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// Its program.
    pub program: PathBuf,
    /// Arguments besides the addresses.
    pub arguments: Vec<String>,
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Clients that stay for the whole run.
    pub clients: u32,
    /// Devices of each of them, each with a connection; the first sends.
    pub devices: u32,
    /// Rooms that messages go to; `None`: they go to users.
    pub rooms: Option<Rooms>,
    /// How many of them send: the first so many.
    pub senders: u32,
    /// To how many others each of them writes.
    pub peers: u32,
    /// How many messages.
    pub rate: Rate,
    /// How they are spread; also the visitors' comings.
    pub arrivals: Arrivals,
    /// Visitors who join, and who leave, a second.
    pub churn_per_second: f64,
    /// How long a visitor stays: always so long with constant arrivals, on average with Poisson.
    pub stay: Duration,
    /// Over which time clients connect.
    pub ramp: Duration,
    /// How long messages flow before it counts.
    pub warmup: Duration,
    /// The steady phase.
    pub duration: Duration,
    /// How long to wait for what is still in flight, and then for lobbies to agree.
    pub drain: Duration,
    /// Bytes of a message's text.
    pub message_bytes: usize,
    /// Messages signed ahead at most, over all workers. `None`: see [`Workload::signed_ahead`].
    pub presign: Option<u64>,
    /// Whether clients ask for the lobby.
    pub lobby: bool,
    /// Whether clients confirm what they get (`received`), as every client does.
    pub confirms: bool,
    /// What is not steady.
    pub scenario: Scenario,
    /// Makes keys, recipients and schedules.
    pub seed: u64,
}

/// Everything about one run.
#[derive(Debug)]
pub struct RunPlan {
    /// What the user asked for.
    pub workload: Workload,
    /// Where the relay is.
    pub target: Target,
    /// Local addresses to connect from, in turns; none lets the kernel choose.
    pub source_ips: Vec<IpAddr>,
    /// Worker threads.
    pub workers: usize,
    /// The core of each worker, in turns; none leaves them to the kernel.
    pub pin_cores: Vec<usize>,
    /// The workers' engine.
    pub engine: EngineChoice,
    /// Tells this run's message ids from those of others with the same seed.
    pub nonce: u32,
    /// The run's clock.
    pub clock: Clock,
    /// Who comes and goes.
    pub visitors: Visitors,
    /// Targets to judge by.
    pub slo: Slo,
}

/// The moments of a run on its clock, once they are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// Messages and visitors begin.
    pub begin_ns: u64,
    /// It begins to count.
    pub steady_ns: u64,
    /// Nothing new is sent from here on.
    pub end_ns: u64,
}

impl Moments {
    /// Whether a moment lies in the steady phase.
    #[must_use]
    pub fn is_steady(&self, ns: u64) -> bool {
        (self.steady_ns..self.end_ns).contains(&ns)
    }
}

/// Handshakes under way at once over all workers: a relay allows 256 unauthenticated connections
/// of one address, and so this stays at half of that.
pub const HANDSHAKES_MAX: usize = 128;

/// Messages are signed at most so long before they are due: the relay takes 300 s.
pub const SIGNED_AHEAD_MAX: Duration = Duration::from_secs(120);

/// A client asks for all its rooms at once, and a relay closes who sends more than 100 such frames.
const ROOMS_OF_CLIENT_MAX: u32 = 50;

/// Keeps message schedules apart from other uses of the seed.
const MESSAGE_STREAM: u64 = 0x7365_6e64_0000_0000;

/// Bursts of one run at most: each is two pieces of its profile.
const BURSTS_MAX: u128 = 100_000;

/// What the default signs ahead at most: 1,000,000 × 480 bytes = 480 MB, 12 s on one core.
const SIGNED_AHEAD_DEFAULT: u64 = 1_000_000;

/// What a closed loop is expected to reach at most on one core of the generator: signatures take
/// 12 µs ahead of the run, and one worker carries some 60,000 messages a second.
const CLOSED_LOOP_PER_SECOND: u64 = 60_000;

impl Workload {
    /// From the first message to the last.
    #[must_use]
    pub fn sending_time(&self) -> Duration {
        self.warmup + self.duration
    }

    /// How messages go over time, from the beginning of the warm-up; `None` for a closed loop, which
    /// has no plan.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        let ramp = match self.rate {
            Rate::Idle => return Some(Profile::from(0.0)),
            Rate::PerSecond(rate) => Ramp { from: rate, to: rate, steps: None },
            Rate::Ramp(ramp) => ramp,
            Rate::Max { .. } => return None,
        };
        Some(scenario::profile(ramp, self.scenario.burst, self.warmup, self.duration))
    }

    /// Messages a second that one sender plans at the peak, if there is a plan.
    #[must_use]
    pub fn per_sender(&self) -> Option<f64> {
        self.profile().map(|profile| profile.peak() / f64::from(self.senders.max(1)))
    }

    /// Checks that the parts of the scenario fit the rest and each other.
    ///
    /// # Errors
    /// A sentence for the command line.
    pub fn check_scenario(&self, workers: usize) -> Result<(), String> {
        let Scenario { burst, skew, storm, slow_readers, offline, crash } = self.scenario;
        let check = |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        let scheduled = matches!(self.rate, Rate::PerSecond(_) | Rate::Ramp(_));
        if let Rate::Ramp(Ramp { steps: Some(steps), .. }) = self.rate {
            let whole = (self.duration.as_nanos() / u128::from(steps)).is_multiple_of(1_000_000_000);
            check(
                whole && self.duration.as_nanos().is_multiple_of(u128::from(steps)),
                "each step of a rising --rate takes whole seconds: make --duration a multiple of their number",
            )?;
        }
        check(burst.is_none() || scheduled, "--burst multiplies a --rate in messages a second")?;
        if let Some(burst) = burst {
            check(
                self.duration.as_nanos() / burst.every.as_nanos() <= BURSTS_MAX,
                "there are more than 100000 bursts in --duration: make EVERY of --burst longer",
            )?;
            check(
                self.profile().is_none_or(|profile| profile.peak() <= RATE_MAX),
                "a --burst of that --rate is more than 10000000/s",
            )?;
        }
        if let Some(skew) = skew {
            let favourites = skew.keys.of(self.clients) as usize;
            check(self.rate != Rate::Idle, "--skew is about messages, and there are none")?;
            check(self.peers >= 2, "--skew needs at least two --peers: a favourite and another")?;
            check(
                favourites >= workers && self.clients as usize - favourites >= workers,
                "--skew needs a favourite and another client on each worker: take more --clients or another share",
            )?;
        }
        if let Some(storm) = storm {
            check(
                storm.at + storm.back_over < self.duration,
                "a --storm has to come back before the end of --duration",
            )?;
            check(
                self.churn_per_second == 0.0,
                "--storm measures when all lobbies are right again, and with --churn they never stand still",
            )?;
            check(
                slow_readers.is_none(),
                "--storm and --slow-readers do not go together: whether a slow reader is still there is not known",
            )?;
            check(
                scheduled || self.rate == Rate::Idle,
                "--storm needs a --rate in messages a second: a closed loop ends with its connection",
            )?;
        }
        if let Some(slow) = slow_readers {
            check(slow.from < self.duration, "--slow-readers have to begin before the end of --duration")?;
        }
        if let Some(rooms) = self.rooms {
            let (users, workers) = (self.clients as usize, workers);
            let seats = (rooms.rooms as usize / workers) * rooms.members as usize;
            check(self.rate != Rate::Idle, "--rooms is about messages, and there are none")?;
            check(
                rooms.members as usize <= users / workers,
                "a room's members are clients of one worker: take more --clients, or smaller --rooms",
            )?;
            check(
                seats >= users.div_ceil(workers),
                "--rooms need a place for each of --clients, on each worker: take more rooms, or larger ones",
            )?;
            check(
                rooms.count_of(0, self.clients) <= ROOMS_OF_CLIENT_MAX,
                "a client would be in more than 50 of the --rooms: take more --clients",
            )?;
            check(
                skew.is_none() && storm.is_none() && slow_readers.is_none() && offline.is_none() && crash.is_none(),
                "--rooms does not go together with --skew, --storm, --slow-readers, --offline-share or --crash",
            )?;
        }
        if crash.is_some() {
            check(
                self.devices == 1 && storm.is_none() && slow_readers.is_none() && offline.is_none(),
                "--crash does not go together with --devices, --storm, --slow-readers or --offline-share",
            )?;
            check(self.churn_per_second == 0.0, "--crash does not go together with --churn")?;
            check(scheduled, "--crash needs a --rate in messages a second")?;
            check(self.confirms, "with --received off, everything would come again after each --crash")?;
        }
        if self.devices > 1 {
            check(
                storm.is_none() && slow_readers.is_none() && offline.is_none(),
                "--devices does not go together with --storm, --slow-readers or --offline-share",
            )?;
        }
        if let Some(offline) = offline {
            let others = self.clients - offline.share.of(self.clients);
            check(self.rate != Rate::Idle, "--offline-share is about messages, and there are none")?;
            check(
                self.confirms,
                "with --received off, messages for those who were offline would come again and again",
            )?;
            check(
                others as usize >= 2 * workers && (self.clients - others) as usize >= workers && self.peers >= 2,
                "--offline-share needs one who is offline and two others on each worker, and two --peers",
            )?;
            check(
                skew.is_none() && storm.is_none() && slow_readers.is_none(),
                "--offline-share does not go together with --skew, --storm or --slow-readers",
            )?;
            if let Some(back) = offline.back {
                check(back < self.duration, "--offline-share: they have to come back before the end of --duration")?;
                check(scheduled, "--offline-share with a time to come back needs a --rate in messages a second")?;
            }
        }
        Ok(())
    }

    /// Messages that are signed before the clock of the run starts, over all workers: the whole
    /// run's where they fit into `presign` (by default 1,000,000), and never more than 120 s of it.
    /// What is more is signed while the run goes on.
    #[must_use]
    pub fn signed_ahead(&self) -> u64 {
        let limit = self.presign.unwrap_or(SIGNED_AHEAD_DEFAULT);
        let time = self.sending_time();
        let wanted = match self.profile() {
            Some(profile) => profile.count_by(to_ns(time.min(SIGNED_AHEAD_MAX))).ceil() as u64,
            None => self.presign.unwrap_or(CLOSED_LOOP_PER_SECOND * (time.as_secs() + 1)),
        };
        wanted.min(limit)
    }

    /// The longest stay of a visitor: exponential ones are cut at five times their mean.
    #[must_use]
    pub fn longest_stay(&self) -> Duration {
        match self.arrivals {
            Arrivals::Constant => self.stay,
            Arrivals::Poisson => self.stay * 5,
        }
    }

    /// How many visitors are needed so that a key rests 5 s before it comes again.
    #[must_use]
    pub fn visitors(&self, workers: usize) -> u32 {
        let rest = Duration::from_secs(5);
        let cycle = self.longest_stay().min(self.sending_time()) + rest;
        let cycle = cycle.min(self.sending_time() + Duration::from_secs(1));
        // A fifth more for Poisson's swings, and a few for each worker's share.
        let few = if self.churn_per_second > 0.0 { 8 * workers as u32 } else { 0 };
        ((self.churn_per_second * cycle.as_secs_f64() * 1.2).ceil() as u32).saturating_add(few)
    }
}

impl RunPlan {
    /// When one worker's messages are due, from the beginning of the warm-up; `None` for a closed
    /// loop.
    #[must_use]
    pub fn messages(&self, worker: usize) -> Option<Schedule> {
        let Workload { arrivals, seed, .. } = self.workload;
        let profile = self.workload.profile()?;
        Some(Schedule::new(arrivals, profile, self.share(worker), seed, MESSAGE_STREAM))
    }

    /// One worker's share.
    #[must_use]
    pub fn share(&self, worker: usize) -> Share {
        Share { worker, workers: self.workers }
    }

    /// The numbers that belong to a worker, out of all below `end`: every `workers`-th.
    pub fn owned(&self, worker: usize, end: u32) -> impl ExactSizeIterator<Item = u32> + use<> {
        (worker as u32..end).step_by(self.workers)
    }

    /// The places of a worker's clients that are among the last `share` of all; none without one.
    #[must_use]
    pub fn last_places(&self, worker: usize, stable: u32, share: Option<Fraction>) -> Range<u32> {
        let clients = self.workload.clients;
        let others = share.map_or(clients, |share| clients - share.of(clients));
        self.owned(worker, others).len() as u32..stable
    }

    /// The core of a worker.
    #[must_use]
    pub fn core_of(&self, worker: usize) -> Option<usize> {
        if self.pin_cores.is_empty() { None } else { Some(self.pin_cores[worker % self.pin_cores.len()]) }
    }

    /// Where the phases lie when messages begin at `begin_ns`.
    #[must_use]
    pub fn moments(&self, begin_ns: u64) -> Moments {
        let steady_ns = begin_ns + to_ns(self.workload.warmup);
        Moments { begin_ns, steady_ns, end_ns: steady_ns + to_ns(self.workload.duration) }
    }
}
