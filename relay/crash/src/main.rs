//! Kills a relay at random moments under load, or cuts the power of its disk, and accounts for every
//! acked message.
//!
//! # One cycle
//! 1. Users who are online send to each other and to users who are not, as fast as acks come.
//! 2. When enough were acked, at some moment: `kill` sends SIGKILL; `power-cut` stops the process,
//!    copies the block device beneath its file system, and goes on with the copy.
//! 3. The relay starts again, with another number of shards. Everybody logs in. What was not acked is
//!    sent again, byte for byte.
//! 4. Every acked message must have reached a device of its recipient, before or after.
//!
//! | exit status | when |
//! |---|---|
//! | 0 | nothing was lost |
//! | 1 | something was, or the relay did not do its part |
//! | 2 | called wrongly |
//!
//! # Invariants
//! - An ack counts from the moment that a client reads it; a message counts as delivered when a client
//!   of its recipient reads it.
//! - On one connection no message comes twice, and seqs ascend.
//! - The relay and the mounts end with this program, also when it fails.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use disk::Disk;
use relay::Relay;
use session::{Ending, Load};
use user::User;

mod disk;
mod relay;
mod session;
mod user;

/// How often the whole store is checked, in cycles. At the end it is in any case.
const CHECK_EVERY: u64 = 25;

#[derive(Parser)]
#[command(name = "relay-crash", about, version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Ends the relay by SIGKILL
    Kill {
        #[command(flatten)]
        options: Options,
        /// Directory for the relay's data [default: a temporary one]
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Copies the block device beneath the relay's data while the relay is stopped, and goes on with
    /// the copy: what was not on the device is lost. Needs root, for loop devices and mounts
    PowerCut {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args)]
struct Options {
    /// The relay's program
    #[arg(long)]
    relay: PathBuf,
    /// How often
    #[arg(long, default_value_t = 200)]
    cycles: u64,
    /// Messages that have to be acked in each cycle
    #[arg(long, default_value_t = 5000)]
    acks: u64,
    /// Users who are online and send
    #[arg(long, default_value_t = 8)]
    online: usize,
    /// Users who come only after the crash
    #[arg(long, default_value_t = 8)]
    absent: usize,
    /// Messages of one user that wait for their acks
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Chooses recipients and moments [default: another each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Further options of the relay, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    relay_args: String,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        What::Kill { options, data } => kill(&options, data),
        What::PowerCut { options } => power_cut(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn kill(options: &Options, data: Option<PathBuf>) -> Result<()> {
    let temporary = tempfile::tempdir().context("a temporary directory cannot be made")?;
    let data = data.unwrap_or_else(|| temporary.path().join("data"));
    let mut crash = |relay: Relay, load: &Load| {
        relay.kill()?;
        load.relay_is_gone();
        Ok(data.clone())
    };
    run(options, &data, "killed", &mut crash)
}

fn power_cut(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir().context("a temporary directory cannot be made")?;
    let mut disk = Some(Disk::make(dir.path())?);
    let data = |disk: &Disk| disk.mounted().join("data");
    let first = disk.as_ref().map(data).context("the disk is there")?;
    let mut crash = |relay: Relay, load: &Load| {
        relay.stop()?;
        // What the relay had written to its sockets is read to the end: an ack that was on its way is
        // one that counts.
        load.drain();
        let old = disk.take().context("the disk is there")?;
        let image = old.copy()?;
        relay.kill()?;
        load.relay_is_gone();
        drop(old);
        let mounted = disk.insert(Disk::mount(image, dir.path())?);
        Ok(data(mounted))
    };
    run(options, &first, "cut off", &mut crash)
}

/// What all cycles came to.
#[derive(Default)]
struct Totals {
    acked: u64,
    again: u64,
    redelivered: u64,
    refused: u64,
    start_longest: Duration,
}

/// Runs the cycles. `crash` ends a relay and says where its data is now.
fn run(
    options: &Options,
    data: &Path,
    how: &str,
    crash: &mut dyn FnMut(Relay, &Load) -> Result<PathBuf>,
) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut users: Vec<_> = (0..options.online + options.absent).map(User::numbered).collect();
    let mut data = data.to_owned();
    let mut totals = Totals::default();
    let begun = Instant::now();

    let mut relay = start(options, &data, 0)?;
    // Known to the relay from now on: mail for those it has never seen is bounded.
    settle(&mut users, &relay, &mut totals)?;
    for cycle in 1..=options.cycles {
        let load = Load::new(options.window, users.iter().map(User::key).collect());
        let crashed = thread::scope(|scope| {
            for user in &mut users[..options.online] {
                let (load, address, seed) = (&load, relay.address(), rng.random());
                scope.spawn(move || session::load(user, address, load, seed));
            }
            // At least so many, and then at any moment.
            let enough = options.acks + rng.random_range(0..=options.acks / 4);
            let result = load.wait_for_acks(enough).and_then(|()| {
                thread::sleep(Duration::from_micros(rng.random_range(0..5000)));
                crash(relay, &load)
            });
            load.relay_is_gone();
            result
        });
        data = crashed.with_context(|| format!("in cycle {cycle}"))?;
        let acked = load.acked();
        let again: usize = users.iter().map(User::unacked).sum();
        totals.acked += acked;
        totals.again += again as u64;
        if cycle % CHECK_EVERY == 0 {
            check(options, &data).with_context(|| format!("in cycle {cycle}"))?;
        }
        let starting = Instant::now();
        relay = start(options, &data, cycle).with_context(|| format!("in cycle {cycle}"))?;
        totals.start_longest = totals.start_longest.max(starting.elapsed());
        settle(&mut users, &relay, &mut totals)
            .with_context(|| format!("in cycle {cycle}, {how} with {acked} acked"))?;
        if cycle % 10 == 0 || cycle == options.cycles {
            println!("{cycle} times {how}: {} messages acked, 0 lost ({:.0?})", totals.acked, begun.elapsed());
        }
    }
    // What was acked when it was sent again has to have come too.
    settle(&mut users, &relay, &mut totals).context("at the end")?;
    relay.kill()?;
    check(options, &data)?;
    let Totals { acked, again, redelivered, refused, start_longest } = totals;
    println!(
        "{} times {how}: {acked} messages acked, 0 lost, 0 twice on one connection\n\
         {again} not acked yet and sent again, {redelivered} delivered again on a later connection, {refused} refused\n\
         longest start {start_longest:.0?}; the store is sound",
        options.cycles
    );
    Ok(())
}

/// Starts the relay, each time with another number of shards: nothing may depend on that.
fn start(options: &Options, data: &Path, cycle: u64) -> Result<Relay> {
    let shards = 1 + cycle % 3;
    Relay::start(&options.relay, data, shards, &options.relay_args)
}

/// Lets everybody log in, send again what was not acked, and read until every acked message has come.
fn settle(users: &mut [User], relay: &Relay, totals: &mut Totals) -> Result<()> {
    let mut expected: Vec<HashSet<String>> = vec![HashSet::new(); users.len()];
    for user in &mut *users {
        for (id, to) in user.take_acked() {
            expected[to].insert(id);
        }
    }
    let refused = AtomicU64::new(0);
    let endings: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = users
            .iter_mut()
            .zip(&expected)
            .map(|(user, expected)| {
                let (refused, address) = (&refused, relay.address());
                scope.spawn(move || session::settle(user, address, expected, refused))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a session does not panic")).collect()
    });
    totals.refused += refused.load(Ordering::Relaxed);
    let mut faults = Vec::new();
    for ((user, expected), ending) in users.iter_mut().zip(&expected).zip(endings) {
        match ending {
            Ending::Settled => {}
            Ending::Lost(missing) => faults.push(format!(
                "user {}: {} acked messages LOST, such as {}",
                user.number(),
                missing.len(),
                missing[0]
            )),
            Ending::Broken(why) => faults.push(format!("user {}: {why}", user.number())),
        }
        faults.extend(user.take_faults());
        totals.redelivered += user.forget_received(expected);
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// Has the relay check its store.
fn check(options: &Options, data: &Path) -> Result<()> {
    let output = Command::new(&options.relay).args(["store", "check"]).arg(data).output()?;
    let told = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "the store is not sound:\n{}", String::from_utf8_lossy(&told));
    Ok(())
}
