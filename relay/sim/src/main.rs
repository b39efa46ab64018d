//! `relay-sim`: runs seeds and says whether every rule held.
//!
//! Exit status: 0 clean, 1 a rule broke, 2 wrong usage.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use relay_sim::{Overrides, Plant, Report, RunOptions, Seen, run};

/// Runs the relay's shards in a simulated world, seed by seed, and checks every rule of the contract.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many seeds to run
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    start: u64,
    /// Run this seed alone
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Shards, instead of 1 to 4 by the seed
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=16))]
    shards: Option<u16>,
    /// Devices that connect, instead of 3 to 12 by the seed
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=10_000))]
    clients: Option<u16>,
    /// Steps that clients take, instead of 60 to 240 by the seed
    #[arg(long, value_name = "COUNT")]
    steps: Option<u32>,
    /// With a store or without, instead of either by the seed
    #[arg(long, value_name = "BOOL")]
    store: Option<bool>,
    /// Seeds at a time [default: one for each CPU]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Plant this fault between core and surroundings, to see that it is found (LoseDeliver, FlipByte …)
    #[arg(long, value_name = "FAULT", value_parser = plant)]
    plant: Option<Plant>,
    /// Count what was met: answers, close codes, drops
    #[arg(long)]
    seen: bool,
    /// Write every event and effect to standard error (one seed at a time)
    #[arg(long)]
    trace: bool,
}

/// Reads the name of a planted fault.
fn plant(name: &str) -> Result<Plant, String> {
    let known = || Plant::ALL.iter().map(|plant| format!("{plant:?}"));
    let at = known().position(|known| known == name);
    at.map(|at| Plant::ALL[at]).ok_or_else(|| format!("the faults are {}", known().collect::<Vec<_>>().join(", ")))
}

/// Sums over all seeds.
#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    events: u64,
    messages: u64,
    delivered: u64,
    logins: u64,
    seen: Seen,
    /// The lowest seed that broke a rule.
    failed: Option<Report>,
}

impl Totals {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.events += report.events;
        self.messages += report.messages;
        self.delivered += report.delivered;
        self.logins += report.logins;
        self.seen.merge(&report.seen);
        let is_first = self.failed.as_ref().is_none_or(|failed| report.seed < failed.seed);
        if report.failure.is_some() && is_first {
            self.failed = Some(report);
        }
    }
}

/// What to type to see one seed again.
fn again(seed: u64, args: &Args) -> String {
    let mut line = format!("relay-sim --seed {seed} --trace");
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            line.push_str(&format!(" --{name} {value}"));
        }
    };
    add("shards", args.shards.map(u64::from));
    add("clients", args.clients.map(u64::from));
    add("steps", args.steps.map(u64::from));
    if let Some(store) = args.store {
        line.push_str(&format!(" --store {store}"));
    }
    if let Some(plant) = args.plant {
        line.push_str(&format!(" --plant {plant:?}"));
    }
    line
}

/// Runs all seeds, `threads` at a time, until one breaks a rule.
fn run_all(args: &Args, start: u64, end: u64, threads: usize, options: &RunOptions) -> Totals {
    let (next, totals) = (AtomicU64::new(start), Mutex::new(Totals::default()));
    std::thread::scope(|scope| {
        for at in 0..threads {
            let work = || loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                // A panic of the core stops the process; the thread's name says which seed it was.
                let report = std::thread::Builder::new()
                    .name(format!("seed {seed}, see it again with: {}", again(seed, args)))
                    .spawn_scoped(scope, move || run(seed, options))
                    .map(std::thread::ScopedJoinHandle::join);
                let Ok(Ok(report)) = report else {
                    next.store(end, Ordering::Relaxed);
                    return;
                };
                if report.failure.is_some() {
                    next.store(end, Ordering::Relaxed);
                }
                totals.lock().expect("no thread panics with the lock").add(report);
            };
            let spawned = std::thread::Builder::new().name(format!("worker {at}")).spawn_scoped(scope, work);
            if spawned.is_err() {
                break;
            }
        }
    });
    totals.into_inner().expect("no thread panicked with the lock")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (start, end) = match args.seed {
        Some(seed) => (seed, seed.saturating_add(1)),
        None => (args.start, args.start.saturating_add(args.seeds)),
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.trace { 1 } else { args.threads.map_or(cpus, usize::from) };
    let overrides =
        Overrides { shards: args.shards, clients: args.clients.map(usize::from), steps: args.steps, store: args.store };
    let options = RunOptions { overrides, plant: args.plant, trace: args.trace };
    let began = Instant::now();
    let totals = run_all(&args, start, end, threads, &options);
    let mut out = std::io::stdout().lock();
    // Where standard output is closed the exit status still tells.
    let _ = writeln!(
        out,
        "{} seeds, {} events and effects, {} messages sent, {} delivered, {} logins, {:.1} s",
        totals.seeds,
        totals.events,
        totals.messages,
        totals.delivered,
        totals.logins,
        began.elapsed().as_secs_f64()
    );
    if args.seen {
        for (name, count) in totals.seen.iter() {
            let _ = writeln!(out, "{count:>10}  {name}");
        }
    }
    let Some(failed) = totals.failed else {
        return if totals.seeds == end - start { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    let _ = writeln!(out, "{failed}\nsee it again with: {}", again(failed.seed, &args));
    ExitCode::FAILURE
}
