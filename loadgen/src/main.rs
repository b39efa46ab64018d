//! The `loadgen` command.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Parser;
use loadgen::cli::{Cli, Command, RunArgs};
use loadgen::exit::Exit;
use loadgen::preflight::{self, Grade};
use loadgen::progress::Progress;
use loadgen::run;
use loadgen::{archive, relay_process, report, table};
use signal_hook::consts::{SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Ends with 2 on a wrong command line, with 0 for --help and --version.
    let cli = Cli::parse();
    relay_process::end_on_panic();
    let done = match cli.command {
        Command::Run(args) => run_once(*args),
        Command::Preflight(args) => Ok(look(*args)),
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
    let started = SystemTime::now();
    let out = args.out.clone();
    let request = args.into_request().unwrap_or_else(|error| error.exit());
    let spawn = request.spawn.as_ref().map(|(spawn, _)| spawn.clone());
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("signals")?;
    }
    if let Some(out) = &out {
        fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))?;
    }
    let progress = Progress::to_stderr();
    let result = run::run(request, &progress, &interrupted)?;
    let argv = std::env::args().collect();
    let (summary, exit) = report::summarize(&result, spawn.as_ref(), started, argv);
    // The verdict is the exit code even where nobody reads the table.
    let _ = io::stdout().write_all(table::render(&summary).as_bytes());
    if let Some(out) = &out {
        archive::write(out, &summary, result.steady_began, &result.intervals)
            .with_context(|| format!("--out {}", out.display()))?;
    }
    Ok(exit)
}

/// Says whether this machine can carry a run.
fn look(args: RunArgs) -> Exit {
    let request = args.into_request().unwrap_or_else(|error| error.exit());
    let (checks, _) = preflight::look(&request);
    // The verdict is the exit code even where nobody reads the lines.
    let _ = io::stdout().write_all(preflight::render(&checks).as_bytes());
    if checks.iter().any(|check| check.grade == Grade::Unfit) { Exit::CouldNotRun } else { Exit::Pass }
}
