//! fjall against SQLite as the relay's store: the same work for both, each on its own directory.
//!
//! Work is what the store does: commits of 256 entries of 411 bytes for random ones of 10,000 users,
//! in one transaction with one `fdatasync`, and the removal of what was confirmed since.
//!
//! ```text
//! cargo bench -p benches --bench store_candidates -- measure --dir DIR   throughput, sizes, recovery
//! cargo bench -p benches --bench store_candidates -- kill --dir DIR      kill -9 under load, then count
//! cargo bench -p benches --bench store_candidates -- fail --dir DIR      commits until an error, then again
//! ```
//! `scripts/store-candidates` runs them all, the last on a full disk and on one whose sync fails.
//! Without a command (`cargo test`) everything runs once, small.
//!
//! Absent on purpose: threads that share the store, as the relay has one for it.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};

mod fjall;
mod sqlite;
mod sqlite_keyed;

/// Bytes of a usual message's frame.
const FRAME_BYTES: usize = 411;

/// Users that messages are for.
const USERS: u64 = 10_000;

/// Entries of one commit.
const BATCH: usize = 256;

/// Whatever went wrong, in words.
type Outcome<T> = Result<T, String>;

/// One entry of an inbox.
struct Entry {
    user: [u8; 32],
    seq: u64,
    frame: Vec<u8>,
}

/// A store, as far as it is compared.
trait Candidate: Sized {
    const NAME: &'static str;

    /// Opens the store in a directory that exists.
    fn open(dir: &Path) -> Outcome<Self>;

    /// Writes entries and removes others, all or nothing, and syncs.
    fn commit(&mut self, entries: &[Entry], removed: &[([u8; 32], u64)]) -> Outcome<()>;

    /// What may be done between commits.
    fn tidy(&mut self) -> Outcome<()>;

    /// Goes over all entries: user, seq, bytes of the frame.
    fn scan(&self, each: impl FnMut([u8; 32], u64, usize)) -> Outcome<()>;

    /// Whether this entry is there.
    fn has(&self, user: &[u8; 32], seq: u64) -> Outcome<bool>;
}

#[derive(Parser)]
struct Arguments {
    /// Given by `cargo bench`; says nothing here
    #[arg(long, hide = true)]
    bench: bool,
    /// Only this one: sqlite, sqlite-keyed or fjall
    #[arg(long, global = true)]
    only: Option<String>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Measures throughput, commit times, sizes and recovery
    Measure {
        /// An existing directory on the disk to measure
        #[arg(long)]
        dir: PathBuf,
        /// Messages of each part
        #[arg(long, default_value_t = 1_000_000)]
        messages: usize,
    },
    /// Kills a writer at random moments and counts what it had reported
    Kill {
        /// An existing directory
        #[arg(long)]
        dir: PathBuf,
        /// How often
        #[arg(long, default_value_t = 20)]
        cycles: usize,
    },
    /// Commits until that fails, waits for a line on stdin, commits again, opens anew and counts
    Fail {
        /// A directory on a disk that will fail
        #[arg(long)]
        dir: PathBuf,
    },
    /// The writer of `kill`: a line for each commit
    #[command(hide = true)]
    Write {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        from: u64,
    },
}

fn main() -> Result<(), String> {
    let Arguments { only, what, .. } = Arguments::parse();
    let wants = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut failure = None;
    for (name, run) in [
        (sqlite::Sqlite::NAME, run::<sqlite::Sqlite> as fn(&What) -> Outcome<()>),
        (sqlite_keyed::SqliteKeyed::NAME, run::<sqlite_keyed::SqliteKeyed>),
        (fjall::Fjall::NAME, run::<fjall::Fjall>),
    ] {
        if !wants(name) {
            continue;
        }
        let done = match &what {
            Some(what) => run(what),
            None => small(run),
        };
        if let Err(error) = done {
            eprintln!("{name}: {error}");
            failure = Some(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Everything once, so that it does not rot.
fn small(run: fn(&What) -> Outcome<()>) -> Outcome<()> {
    let dir = tempfile::tempdir().map_err(text)?;
    run(&What::Measure { dir: dir.path().to_owned(), messages: 2_048 })?;
    run(&What::Kill { dir: dir.path().to_owned(), cycles: 2 })
}

fn run<C: Candidate>(what: &What) -> Outcome<()> {
    match what {
        What::Measure { dir, messages } => measure::<C>(dir, *messages),
        What::Kill { dir, cycles } => kill::<C>(dir, *cycles),
        What::Fail { dir } => fail::<C>(dir),
        What::Write { dir, from } => write::<C>(dir, *from),
    }
}

/// Entries for random users, in each user's order.
struct Source {
    rng: ChaCha8Rng,
    seqs: Vec<u64>,
}

impl Source {
    fn new() -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(1), seqs: vec![0; USERS as usize] }
    }

    fn entry(&mut self) -> Entry {
        let user = self.rng.random_range(0..USERS);
        self.seqs[user as usize] += 1;
        let mut frame = vec![0; FRAME_BYTES];
        // As compressible as frames are: keys and signatures are not, the rest is.
        self.rng.fill_bytes(&mut frame[..200]);
        Entry { user: key(user), seq: self.seqs[user as usize], frame }
    }

    fn batch(&mut self, entries: usize) -> Vec<Entry> {
        (0..entries).map(|_| self.entry()).collect()
    }
}

/// A user's key: spread over all keys, as keys are.
fn key(user: u64) -> [u8; 32] {
    let mut key = [0; 32];
    ChaCha8Rng::seed_from_u64(user).fill_bytes(&mut key);
    key
}

fn measure<C: Candidate>(dir: &Path, messages: usize) -> Outcome<()> {
    println!("\n== {}", C::NAME);
    let place = fresh(dir, C::NAME)?;
    let mut source = Source::new();

    let mut store = C::open(&place)?;
    commits(&mut store, &mut source, messages, BATCH, "kept, 256 a commit")?;
    println!("size with {messages} kept: {}", size(&place)?);
    drop(store);
    let dropped = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    let begun = Instant::now();
    let store = C::open(&place)?;
    let opened = begun.elapsed();
    let (mut count, mut bytes) = (0_usize, 0_usize);
    store.scan(|_, _, length| {
        count += 1;
        bytes += length;
    })?;
    println!(
        "recovery: {opened:.1?} to open, {:.1?} with the index of {count} messages ({bytes} B), caches {}",
        begun.elapsed(),
        if dropped { "dropped" } else { "warm (not root)" }
    );
    drop(store);

    let place = fresh(dir, C::NAME)?;
    let mut source = Source::new();
    let mut store = C::open(&place)?;
    let (mut live, mut peak) = (Vec::new(), 0);
    let (mut histogram, begun) = (histogram()?, Instant::now());
    for round in 0..messages / BATCH {
        let batch = source.batch(BATCH);
        // What came 40 commits ago was confirmed.
        let removed: Vec<_> = if live.len() == 40 { live.remove(0) } else { Vec::new() };
        let begun = Instant::now();
        store.commit(&batch, &removed)?;
        histogram.saturating_record(begun.elapsed().as_nanos() as u64);
        store.tidy()?;
        live.push(batch.iter().map(|entry| (entry.user, entry.seq)).collect::<Vec<_>>());
        if round % 256 == 0 {
            peak = peak.max(disk_bytes(&place)?);
        }
    }
    report("short-lived, 256 a commit", messages, begun.elapsed(), &histogram);
    store.commit(&[], &live.concat())?;
    println!("size after {messages} short-lived: {} (peak {})", size(&place)?, mib(peak));
    commits(&mut store, &mut source, messages / 50, 4, "kept, 4 a commit")?;
    drop(store);
    println!("size after the end: {}", size(&place)?);
    Ok(())
}

fn commits<C: Candidate>(store: &mut C, source: &mut Source, messages: usize, batch: usize, what: &str) -> Outcome<()> {
    let (mut histogram, begun) = (histogram()?, Instant::now());
    let mut tidying = Duration::ZERO;
    for _ in 0..messages / batch {
        let entries = source.batch(batch);
        let begun = Instant::now();
        store.commit(&entries, &[])?;
        let committed = begun.elapsed();
        histogram.saturating_record(committed.as_nanos() as u64);
        store.tidy()?;
        tidying = tidying.max(begun.elapsed() - committed);
    }
    report(what, messages, begun.elapsed(), &histogram);
    println!("  longest pause between commits {tidying:.1?}");
    Ok(())
}

fn report(what: &str, messages: usize, took: Duration, histogram: &Histogram<u64>) {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    println!(
        "{what}: {:.0} messages/s, {:.0} commits/s; commit p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        messages as f64 / took.as_secs_f64(),
        histogram.len() as f64 / took.as_secs_f64(),
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
}

fn kill<C: Candidate>(dir: &Path, cycles: usize) -> Outcome<()> {
    let place = fresh(dir, C::NAME)?;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut reported, mut beyond) = (0_u64, 0_u64);
    for _ in 0..cycles {
        let mut writer = Command::new(std::env::current_exe().map_err(text)?)
            .args(["--only", C::NAME, "write", "--from", &reported.to_string(), "--dir"])
            .arg(&place)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(text)?;
        let lines = BufReader::new(writer.stdout.take().ok_or("no pipe")?).lines();
        let killer = thread::spawn({
            let wait = Duration::from_millis(rng.random_range(50..500));
            move || {
                thread::sleep(wait);
                let killed = writer.kill();
                killed.and_then(|()| writer.wait())
            }
        });
        let mut last = None;
        for line in lines.map_while(Result::ok) {
            // A line is whole or was not written: each is one write.
            last = line.parse::<u64>().ok().or(last);
        }
        killer.join().map_err(|_| "the killer failed")?.map_err(text)?;
        reported = last.map_or(reported, |last| last + 1);
        let store = C::open(&place)?;
        for number in reported.saturating_sub(64)..reported {
            if !store.has(&key(number % USERS), number)? {
                return Err(format!("commit {number} was reported and is not there"));
            }
        }
        let mut there = 0;
        store.scan(|_, _, _| there += 1)?;
        if there % BATCH as u64 != 0 || there < reported * BATCH as u64 {
            return Err(format!("{there} entries after {reported} reported commits of {BATCH}: half a commit"));
        }
        beyond += u64::from(there > reported * BATCH as u64);
        reported = there / BATCH as u64;
    }
    println!(
        "{}: {cycles} kills, {reported} commits, 0 lost, 0 in halves, {beyond} times one more than reported",
        C::NAME
    );
    Ok(())
}

/// Commit `n` holds 256 entries of seq `n` for the users from `n`.
fn numbered(number: u64) -> Vec<Entry> {
    let entry = |offset| Entry { user: key((number + offset) % USERS), seq: number, frame: vec![7; FRAME_BYTES] };
    (0..BATCH as u64).map(entry).collect()
}

fn write<C: Candidate>(dir: &Path, from: u64) -> Outcome<()> {
    let mut store = C::open(dir)?;
    let mut out = io::stdout();
    for number in from.. {
        store.commit(&numbered(number), &[])?;
        out.write_all(format!("{number}\n").as_bytes()).map_err(text)?;
        store.tidy()?;
    }
    Ok(())
}

fn fail<C: Candidate>(dir: &Path) -> Outcome<()> {
    let place = fresh(dir, C::NAME)?;
    let mut store = C::open(&place)?;
    let mut committed = 0_u64;
    let error = loop {
        if committed == 20_000 {
            return Err("the disk does not fail".to_owned());
        }
        match store.commit(&numbered(committed), &[]).and_then(|()| store.tidy()) {
            Ok(()) => committed += 1,
            Err(error) => break error,
        }
    };
    println!("{}: {committed} commits, then: {error}", C::NAME);
    let again = store.commit(&numbered(committed), &[]);
    println!("  at once again: {}", again.as_ref().map_or_else(String::clone, |()| "committed".to_owned()));
    println!("  press enter when the disk is well again");
    io::stdin().read_line(&mut String::new()).map_err(text)?;
    let again = store.commit(&numbered(committed), &[]);
    println!("  with a well disk: {}", again.as_ref().map_or_else(String::clone, |()| "committed".to_owned()));
    drop(store);
    let store = match C::open(&place) {
        Ok(store) => store,
        Err(error) => {
            println!("  opened anew: {error}");
            return Ok(());
        }
    };
    let lost = (0..committed).map(|number| store.has(&key(number % USERS), number)).filter(|has| *has == Ok(false));
    let lost = lost.count();
    let mut there = 0;
    store.scan(|_, _, _| there += 1)?;
    println!("  opened anew: {there} entries of {committed} commits of {BATCH}, {lost} commits lost");
    Ok(())
}

fn fresh(dir: &Path, name: &str) -> Outcome<PathBuf> {
    let place = dir.join(format!("candidate-{name}"));
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(text(error)),
        _ => {}
    }
    fs::create_dir(&place).map_err(text)?;
    Ok(place)
}

fn histogram() -> Outcome<Histogram<u64>> {
    const MINUTE_NS: u64 = 60_000_000_000;
    Histogram::new_with_bounds(1, MINUTE_NS, 3).map_err(text)
}

fn size(dir: &Path) -> Outcome<String> {
    Ok(mib(disk_bytes(dir)?))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Bytes that the files below a directory take on disk.
fn disk_bytes(dir: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(text)? {
        let entry = entry.map_err(text)?;
        // A file may go while its directory is read.
        let Ok(data) = entry.metadata() else { continue };
        bytes += if data.is_dir() { disk_bytes(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "this is what map_err wants")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
