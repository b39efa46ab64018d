//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::capacity::Inquiry;
use crate::capacity::search::Settings;
use crate::exit::Exit;
use crate::identity::DEVICES_MAX;
use crate::plan::{EngineChoice, Rate, Spawn, Workload};
use crate::run::Request;
use crate::scenario::{self, Burst, Fraction, Offline, Rooms, Scenario, Skew, SlowReaders, Storm};
use crate::schedule::Arrivals;
use crate::slo::Slo;
use crate::stock::CLIENTS_MAX;
use crate::units::{parse_duration, parse_per_second};

mod compare;
mod values;

use values::{
    ArrivalsArg, CoreList, LobbyArg, RateArg, ReceivedArg, parse_admin, parse_core_list, parse_rate, parse_url,
    parse_whole_rate,
};

pub use compare::{CompareArgs, CompareRequest, Live, MergeArgs};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about = "Loads a relay with signing clients and says whether it is fast enough.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads a command line, and the scenario's file that it names.
    ///
    /// # Errors
    /// What cannot be, for [`refuse`].
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments = scenario::file::expand(arguments.into_iter().collect(), &Self::command()).map_err(wrong)?;
        Self::try_parse_from(arguments)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs clients against a relay, measures, and judges.
    #[command(after_help = RUN_HELP, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Says whether this machine can carry a run, without running it; takes the run's arguments.
    ///
    /// Exit code: 0 if it can (perhaps with doubts), 1 if it cannot, 2 wrong usage.
    #[command(args_override_self = true)]
    Preflight(Box<RunArgs>),
    /// Sets runs of two relays against each other: is B slower than A, or is it chance?
    #[command(after_help = compare::COMPARE_HELP, args_override_self = true)]
    #[command(mut_group("RunOptions", |group| group.requires("live")))]
    Compare(Box<CompareArgs>),
    /// Starts a relay that ends with this program; see [`crate::tether`].
    #[command(name = crate::tether::COMMAND, hide = true)]
    Tether {
        /// The process that asks for it.
        parent: u32,
        /// The relay's program.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Puts the runs of several generators against one relay together.
    #[command(after_help = compare::MERGE_HELP)]
    Merge(MergeArgs),
    /// Finds the highest rate that keeps all targets, by short runs one after the other.
    #[command(
        after_help = CAPACITY_HELP,
        args_override_self = true,
        mut_arg("ramp", |arg| arg.default_value("1s")),
        mut_arg("warmup", |arg| arg.default_value("1s")),
        mut_arg("duration", |arg| arg.default_value("5s")),
        mut_arg("drain", |arg| arg.default_value("2s")),
    )]
    Capacity(Box<CapacityArgs>),
    /// Prints the table of a finished run again and makes its report.html anew.
    ///
    /// Exit code: 0 whatever the run came to, 1 if the folder holds no run, 2 wrong usage.
    Report(ReportArgs),
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A folder that `loadgen run --out` wrote.
    pub dir: PathBuf,
}

const RUN_HELP: &str = "\
Latency counts from the intended send time: a message that was due and could not go yet counts its wait.
Targets: message|service|send_lag|blocked|ack|ack.offline|lobby|lobby.join|lobby.leave|lobby.first|lobby.median|
lobby.last|connect|auth|catch_up, each .p50 .p90 .p99 .p99.9 .max with < or <= and a duration, and so storm.converged;
loss, unacked, duplicates, errors, diverged with =, < or <=; rate with > or >=. A percentile needs ten samples beyond it: 1,000 for p99.

INVALID, instead of PASS or FAIL, if the figures say more of the generator than of the relay: send lag p99 above 5 ms or
a tenth of the tightest target, less than 99 % of the rate reached, a worker above 90 %, long stalls, steal, throttling,
relay and generator kept on one core, too few samples. What only the relay can have done (a message repeated, altered,
lost for sure, a wrong lobby) is a FAIL even then.

Exit code: 0 PASS, 99 FAIL, 3 INVALID, 1 could not run, 2 wrong usage.";

const CAPACITY_HELP: &str = "\
Each step is a run with its own verdict. The rate doubles from --rate until a step misses a target, then the two sides
are brought together; near the knee most of --repeats steps decide. Besides the targets a step must keep pace: its
median message may not come more than 1 % later with every second.
--ramp, --warmup, --duration and --drain are those of one step. --out gets capacity.json and a folder for each step.
A relay takes 10 messages a second of each key by default: start it with --rate-limit 0, or use enough --senders.

Exit code: 0 the knee was found (or every rate up to --up-to was kept, or --at-least is kept), 1 a step could not run,
2 wrong usage, 3 the generator and not the relay is the limit: the capacity is 'at least' what is told, 99 no rate keeps
the targets, or --at-least is not kept.";

/// Options of `capacity`.
#[derive(Debug, Args)]
pub struct CapacityArgs {
    /// One step; --rate is where the search begins.
    #[command(flatten)]
    run: RunArgs,
    /// How near the two sides of the knee are brought together.
    #[arg(long, default_value = "5%", value_name = "SHARE")]
    resolution: Fraction,
    /// Of how many steps most decide near the knee.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15))]
    repeats: u32,
    /// The highest rate of interest.
    #[arg(long, value_name = "RATE", value_parser = parse_whole_rate)]
    up_to: Option<u64>,
    /// The rate that the relay has to carry; the exit code says whether it does.
    #[arg(long, value_name = "RATE", value_parser = parse_whole_rate)]
    at_least: Option<u64>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The relay, as ws://HOST:PORT/ws.
    #[arg(required_unless_present = "spawn_relay", conflicts_with = "spawn_relay")]
    url: Option<String>,
    /// Everything else.
    #[command(flatten)]
    pub options: RunOptions,
}

/// Options of a run besides where the relay is.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// The name that the relay has to have [default: the URL's host; localhost for a loopback address].
    #[arg(long)]
    relay_name: Option<String>,
    /// File of options in TOML, one `name = value` each; those of the command line win.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Clients that stay connected, each with a key of its own.
    #[arg(long, default_value_t = 1000)]
    clients: u32,
    /// Devices of each client, 1 to 8, each with a connection: each is to get every message.
    #[arg(long, default_value_t = 1)]
    devices: u32,
    /// ROOMSxMEMBERS, as 10x50: messages go to so many rooms, each with so many of the clients (500 at most); each member
    /// but the sender is to get each.
    #[arg(long)]
    rooms: Option<Rooms>,
    /// How many of them send messages, the first so many [default: all who read].
    #[arg(long)]
    senders: Option<u32>,
    /// To how many others each sender writes.
    #[arg(long, default_value_t = 16)]
    peers: u32,
    /// Messages a second over all clients, as 2000/s; 1000..5000/s to rise over the steady phase, 1000..5000/s:5 in 5
    /// steps; `max` for as many as acks allow (a closed loop); 0 for none.
    #[arg(long, default_value = "2000/s", value_parser = parse_rate)]
    rate: RateArg,
    /// With --rate max: messages of one sender that wait for their ack, 10000 at most.
    #[arg(long, default_value_t = 1)]
    in_flight: u32,
    /// How messages and visitors are spread over time.
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Constant)]
    arrivals: ArrivalsArg,
    /// Visitors who join, and as many who leave, a second.
    #[arg(long, default_value = "0/s", value_parser = parse_per_second)]
    churn: f64,
    /// How long a visitor stays: always so long with constant arrivals, on average with Poisson.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    stay: Duration,
    /// Over which time clients connect.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    ramp: Duration,
    /// How long messages flow before they are measured.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// How long is measured.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long to wait at the end for what is in flight, and for lobbies to agree.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    drain: Duration,
    /// Bytes of a message's text.
    #[arg(long, default_value_t = 100)]
    message_bytes: usize,
    /// FACTORx/FOR/EVERY: the rate times FACTOR, for a moment, every so often, as 10x/1s/10s.
    #[arg(long)]
    burst: Option<Burst>,
    /// KEYS:SHARE: a few keys get most messages, as 1%:80%.
    #[arg(long)]
    skew: Option<Skew>,
    /// SHARE@AT[/BACK-OVER]: clients drop at once and come back, as 100%@5s, or 100%@5s/1s to come back over 1 s.
    #[arg(long)]
    storm: Option<Storm>,
    /// SHARE[:MESSAGES][@BACK]: clients are offline while messages are sent to them, as 50%; 1%:80%@10s for a hundredth
    /// of them who get 80 % of the messages and come back after 10 s [default: at the end]. The relay needs a store.
    #[arg(long)]
    offline_share: Option<Offline>,
    /// Kill the spawned relay (SIGKILL) so many times, each at some moment, and start it again: every acked message has to
    /// come. Needs --spawn-relay and --relay-args with --data DIR. Times are not judged.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=200))]
    crash: Option<u32>,
    /// SHARE[@FROM[/FOR]]: clients stop reading, as 5%, or 5%@2s/10s from 2 s on and for 10 s.
    #[arg(long)]
    slow_readers: Option<SlowReaders>,
    /// Whether clients confirm what they get, as every client does; off is for a peer that is no relay.
    #[arg(long, value_enum, default_value_t = ReceivedArg::On)]
    received: ReceivedArg,
    /// Judges acks too: adds ack.p99<500ms and unacked=0 (with --offline-share ack.offline.p99<500ms) to the targets, where
    /// they say nothing of acks.
    #[arg(long)]
    acks: bool,
    /// Which lobby frames clients ask for.
    #[arg(long, value_enum, default_value_t = LobbyArg::All)]
    lobby: LobbyArg,
    /// Worker threads [default: one for each core of --pin-cores, else 1]. The table tells how busy each was.
    #[arg(long)]
    workers: Option<usize>,
    /// Cores to keep workers on, as 1 or 2,4-7.
    #[arg(long, value_parser = parse_core_list)]
    pin_cores: Option<CoreList>,
    /// How workers talk to the kernel.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Makes keys, recipients and schedules. Generators that load one relay together need different ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Messages signed before the run, 12 µs and 0.5 KB each [default: the whole run's, or 60000/s with --rate max;
    /// at most 1000000 and 120 s]. What is more is signed while the run goes on.
    #[arg(long)]
    presign: Option<u64>,
    /// Local addresses to connect from, in turns.
    #[arg(long, value_delimiter = ',')]
    source_ip: Vec<IpAddr>,
    /// Targets [default: message.p99<500ms,loss=0,duplicates=0,lobby.p99<100ms,errors=0, as far as there are messages
    /// and visitors].
    #[arg(long)]
    slo: Option<Slo>,
    /// Directory for report.html, summary.json, intervals.hlog and relay.log; is made.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Start a relay for this run, on free ports of the loopback interface, and end it afterwards.
    #[arg(long)]
    spawn_relay: bool,
    /// The relay's program [default: `relay` beside this one].
    #[arg(long)]
    relay_bin: Option<PathBuf>,
    /// Further arguments for it, separated by spaces.
    #[arg(long, allow_hyphen_values = true)]
    relay_args: Option<String>,
    /// The admin port of a relay that is not spawned, as HOST:PORT: its build, its configuration and how busy its
    /// shards are go into the summary.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "spawn_relay", value_parser = parse_admin)]
    relay_admin: Option<SocketAddr>,
}

/// A usage error, which ends the program with 2.
fn wrong(message: impl std::fmt::Display) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, message)
}

impl RunArgs {
    /// Settles what is to be run.
    ///
    /// # Errors
    /// What cannot be, for [`refuse`].
    pub fn into_request(self) -> Result<Request, clap::Error> {
        self.options.into_request(self.url.as_deref())
    }
}

impl CapacityArgs {
    /// Settles what is to be looked for.
    ///
    /// # Errors
    /// What cannot be, for [`refuse`].
    pub fn into_inquiry(self) -> Result<Inquiry, clap::Error> {
        let Self { run, resolution, repeats, up_to, at_least } = self;
        let out = run.options.out.clone();
        let request = run.into_request()?;
        let Rate::PerSecond(from) = request.workload.rate else {
            return Err(wrong("--rate is where the search begins: a number above 0, as 1000/s"));
        };
        if resolution.get() < 0.01 {
            return Err(wrong("--resolution must be at least 1%: steps of some seconds cannot tell more apart"));
        }
        if let (Some(up_to), Some(at_least)) = (up_to, at_least)
            && at_least > up_to
        {
            return Err(wrong("--at-least is above --up-to: raise --up-to"));
        }
        let settings = Settings { from: from.ceil() as u64, up_to, resolution: resolution.get(), repeats };
        Ok(Inquiry { request, settings, at_least, out })
    }
}

impl RunOptions {
    /// Settles what is to be run against the relay at `url`, or one that is spawned.
    ///
    /// # Errors
    /// What cannot be, for [`refuse`].
    pub fn into_request(self, url: Option<&str>) -> Result<Request, clap::Error> {
        let workers = self.workers.unwrap_or_else(|| self.pin_cores.as_ref().map_or(1, |cores| cores.0.len()));
        let workload = self.workload(workers)?;
        // Clap's own `requires` says nothing where the URL conflicts with what is required.
        if !self.spawn_relay && (self.relay_bin.is_some() || self.relay_args.is_some()) {
            return Err(wrong("--relay-bin and --relay-args are for --spawn-relay"));
        }
        let target = url.map(|url| parse_url(url, self.relay_name.as_deref())).transpose()?;
        let spawn = self.spawn_relay.then(|| {
            let program = self.relay_bin.clone().unwrap_or_else(|| {
                let own = std::env::current_exe().unwrap_or_default();
                own.with_file_name("relay")
            });
            let arguments = self.relay_args.as_deref().unwrap_or_default();
            let arguments = arguments.split_ascii_whitespace().map(str::to_owned).collect();
            (Spawn { program, arguments }, self.relay_name.clone().unwrap_or_else(|| "localhost".to_owned()))
        });
        let offline = workload.scenario.offline;
        let messages = workload.rate != Rate::Idle;
        let online = offline.is_none_or(|offline| offline.messages.get() < 1.0);
        let slo = self.slo.unwrap_or_else(|| {
            if self.crash.is_some() {
                return Slo::of_crash();
            }
            Slo::standard(online, messages, workload.lobby && workload.churn_per_second > 0.0)
        });
        if self.crash.is_some() {
            let keeps =
                |(spawn, _): &(Spawn, String)| spawn.arguments.iter().any(|argument| argument.starts_with("--data"));
            if !spawn.as_ref().is_some_and(keeps) {
                return Err(wrong(
                    "--crash kills a relay of our own that keeps its data: add --spawn-relay --relay-args '--data DIR'",
                ));
            }
            if self.acks || slo.time_bounds().next().is_some() {
                return Err(wrong(
                    "with --crash times are not judged, they hold how long the relay was down: ask for loss=0, \
                     duplicates=0, unacked=0",
                ));
            }
        }
        let slo = if self.acks { slo.with_acks(messages && online, offline.is_some()) } else { slo };
        Ok(Request {
            workload,
            target,
            relay_log: self.out.as_ref().filter(|_| spawn.is_some()).map(|out| out.join("relay.log")),
            spawn,
            relay_admin: self.relay_admin,
            source_ips: self.source_ip,
            workers,
            pin_cores: self.pin_cores.map(|cores| cores.0).unwrap_or_default(),
            engine: self.engine,
            slo,
        })
    }

    fn workload(&self, workers: usize) -> Result<Workload, clap::Error> {
        let clients = self.clients;
        let rate = match self.rate {
            RateArg::Max => Rate::Max { in_flight: self.in_flight },
            RateArg::PerSecond(rate) if rate > 0.0 => Rate::PerSecond(rate),
            RateArg::PerSecond(_) => Rate::Idle,
            RateArg::Ramp(ramp) => Rate::Ramp(ramp),
        };
        let scenario = Scenario {
            burst: self.burst,
            skew: self.skew,
            storm: self.storm,
            slow_readers: self.slow_readers,
            offline: self.offline_share,
            crash: self.crash,
        };
        let silent = scenario.slow_readers.map(|slow| slow.share).or(scenario.offline.map(|offline| offline.share));
        let readers = clients - silent.map_or(0, |share| share.of(clients));
        let senders = if rate == Rate::Idle { 0 } else { self.senders.unwrap_or(readers) };
        let check = |holds: bool, message: &str| if holds { Ok(()) } else { Err(wrong(message)) };
        check(workers >= 1, "--workers must be at least 1")?;
        check((1..CLIENTS_MAX).contains(&clients), "--clients must be 1 to 16777215")?;
        check((1..=DEVICES_MAX).contains(&self.devices), "--devices must be 1 to 8")?;
        check(workers <= clients as usize, "there are more --workers than --clients")?;
        check(!self.duration.is_zero(), "--duration must be longer than nothing")?;
        check((1..=255).contains(&self.peers), "--peers must be 1 to 255")?;
        check(self.churn <= 100_000.0, "--churn must be 100000/s at most")?;
        check((1..=16_000).contains(&self.message_bytes), "--message-bytes must be 1 to 16000")?;
        if rate != Rate::Idle {
            check(
                clients as usize >= 2 * workers,
                "a worker's clients write to each other: give it at least two of --clients, or use fewer --workers",
            )?;
            check((1..=clients).contains(&senders), "--senders must be 1 to the number of clients")?;
            check(
                senders <= readers,
                "slow readers, and who is offline, do not send: there are more --senders than other clients",
            )?;
            check((1..=10_000).contains(&self.in_flight), "--in-flight must be 1 to 10000")?;
            check(self.presign != Some(0), "--presign must be at least 1")?;
        }
        let workload = Workload {
            clients,
            devices: self.devices,
            rooms: self.rooms,
            senders,
            peers: self.peers,
            rate,
            arrivals: match self.arrivals {
                ArrivalsArg::Constant => Arrivals::Constant,
                ArrivalsArg::Poisson => Arrivals::Poisson,
            },
            churn_per_second: self.churn,
            stay: self.stay,
            ramp: self.ramp,
            warmup: self.warmup,
            duration: self.duration,
            drain: self.drain,
            message_bytes: self.message_bytes,
            presign: self.presign,
            lobby: self.lobby == LobbyArg::All,
            confirms: self.received == ReceivedArg::On,
            scenario,
            seed: self.seed,
        };
        workload.check_scenario(workers).map_err(wrong)?;
        Ok(workload)
    }
}

/// Nothing is wrong with the command line, but it cannot be done: ends the program with 1.
fn not_there(message: impl std::fmt::Display) -> clap::Error {
    Cli::command().error(ErrorKind::Io, message)
}

/// Ends the program for what a command line came to: with 2 if it is wrong, with 1 if it is right and
/// names a host that is not there.
pub fn refuse(error: &clap::Error) -> ! {
    if error.kind() != ErrorKind::Io {
        error.exit();
    }
    // The first line; below it clap explains the usage, which is not at fault.
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    // Nobody reads what a closed standard error would have shown.
    let _ = writeln!(std::io::stderr(), "loadgen: {line}");
    std::process::exit(Exit::CouldNotRun.code().into());
}

#[cfg(test)]
mod tests;
