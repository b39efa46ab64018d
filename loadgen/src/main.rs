//! The `loadgen` command.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use loadgen::cli::{CapacityArgs, Cli, Command, CompareArgs, CompareRequest, MergeArgs, RunArgs, refuse};
use loadgen::compare::{self, Side};
use loadgen::exit::Exit;
use loadgen::measure::{make_folder, measure};
use loadgen::merge::merge;
use loadgen::preflight::{self, Grade};
use loadgen::progress::Progress;
use loadgen::{archive, capacity, relay_process, report_page, table, tether};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Ends with 2 on a wrong command line, with 0 for --help and --version.
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    relay_process::end_on_panic();
    tether::tether_relays();
    let done = match cli.command {
        Command::Run(args) => run_once(*args),
        Command::Capacity(args) => find_capacity(*args),
        Command::Preflight(args) => Ok(look(*args)),
        Command::Report(args) => report_again(&args.dir),
        Command::Compare(args) => set_against(*args),
        Command::Merge(args) => put_together(args),
        Command::Tether { parent, program, arguments } => Ok(tether::become_program(parent, &program, &arguments)),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Nobody reads what a closed standard error would have shown.
            let _ = writeln!(io::stderr(), "loadgen: {error:#}");
            Exit::CouldNotRun.into()
        }
    }
}

fn run_once(args: RunArgs) -> Result<Exit> {
    let out = args.options.out.clone();
    let request = args.into_request().unwrap_or_else(|error| refuse(&error));
    let interrupted = interrupted_by_signals()?;
    if let Some(out) = &out {
        make_folder(out)?;
    }
    let run = measure(request, &Progress::to_stderr(), &interrupted)?;
    // The verdict is the exit code even where nobody reads the table.
    let _ = io::stdout().write_all(table::render(&run.summary).as_bytes());
    if let Some(out) = &out {
        run.file(out)?;
    }
    Ok(run.exit)
}

/// A flag that SIGINT and SIGTERM set. Whoever sends a second one does not want to wait: it ends the program at once,
/// and a relay of its own with it.
fn interrupted_by_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let end = i32::from(Exit::CouldNotRun.code());
        flag::register_conditional_shutdown(signal, end, Arc::clone(&interrupted)).context("signals")?;
        flag::register(signal, Arc::clone(&interrupted)).context("signals")?;
    }
    Ok(interrupted)
}

/// Finds the highest rate that keeps all targets.
fn find_capacity(args: CapacityArgs) -> Result<Exit> {
    let inquiry = args.into_inquiry().unwrap_or_else(|error| refuse(&error));
    let interrupted = interrupted_by_signals()?;
    if let Some(out) = &inquiry.out {
        make_folder(out)?;
    }
    let capacity = capacity::find(&inquiry, &Progress::to_stderr(), &interrupted)?;
    // The verdict is the exit code even where nobody reads the table.
    let _ = io::stdout().write_all(capacity::table::render(&capacity).as_bytes());
    Ok(capacity.exit())
}

/// Says whether this machine can carry a run.
fn look(args: RunArgs) -> Exit {
    let request = args.into_request().unwrap_or_else(|error| refuse(&error));
    let (checks, _) = preflight::look(&request);
    // The verdict is the exit code even where nobody reads the lines.
    let _ = io::stdout().write_all(preflight::render(&checks).as_bytes());
    if checks.iter().any(|check| check.grade == Grade::Unfit) { Exit::CouldNotRun } else { Exit::Pass }
}

/// Shows a finished run again. The exit code tells of the showing, not of the run.
fn report_again(dir: &Path) -> Result<Exit> {
    let archive = archive::read(dir)?;
    let page = report_page::write(dir, &archive.summary, &archive.intervals)
        .with_context(|| format!("writing {}", dir.join(report_page::FILE_NAME).display()))?;
    let _ = io::stdout().write_all(table::render(&archive.summary).as_bytes());
    let _ = writeln!(io::stderr(), "{} written", page.display());
    Ok(Exit::Pass)
}

/// Compares two sets of runs, which it makes first if that is asked.
fn set_against(args: CompareArgs) -> Result<Exit> {
    let json = args.json.clone();
    let (request, question) = args.into_request().unwrap_or_else(|error| refuse(&error));
    let (a, b) = match request {
        CompareRequest::Folders { a, b } => (a, b),
        CompareRequest::Live(live) => {
            let interrupted = interrupted_by_signals()?;
            let request = |turn: &_| live.request(turn).unwrap_or_else(|error| refuse(&error));
            let [a, b] = compare::take_turns(live.rounds, &live.out, request, &Progress::to_stderr(), &interrupted)?;
            (vec![a], vec![b])
        }
    };
    let comparison = match Side::read('A', &a).and_then(|a| compare::compare(&a, &Side::read('B', &b)?, &question)) {
        Ok(comparison) => comparison,
        Err(error @ compare::CompareError::AllInvalid { .. }) => {
            let _ = writeln!(io::stderr(), "loadgen: {error}");
            return Ok(Exit::Invalid);
        }
        Err(error) => return Err(error.into()),
    };
    // The verdict is the exit code even where nobody reads the table.
    let _ = io::stdout().write_all(compare::table::render(&comparison).as_bytes());
    if let Some(json) = json {
        let mut text = serde_json::to_vec_pretty(&comparison)?;
        text.push(b'\n');
        std::fs::write(&json, text).with_context(|| format!("--json {}", json.display()))?;
    }
    Ok(comparison.exit())
}

/// Merges the runs of several generators.
fn put_together(args: MergeArgs) -> Result<Exit> {
    let runs = args.runs.iter().map(|dir| archive::read(dir)).collect::<Result<Vec<_>, _>>()?;
    let run = merge(&runs, args.slo, args.force)?;
    make_folder(&args.out)?;
    // The verdict is the exit code even where nobody reads the table.
    let _ = io::stdout().write_all(table::render(&run.summary).as_bytes());
    run.file(&args.out)?;
    Ok(run.exit)
}
