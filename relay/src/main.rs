//! The command: reads the configuration, starts the relay, and ends it on a signal; or checks a store.
//!
//! | exit status | when |
//! |---|---|
//! | 0 | ended as asked by SIGTERM or SIGINT, within 10 s |
//! | 1 | could not start, or a shard failed; a store that was to be checked is not sound |
//! | 2 | the configuration cannot work |
//! | 128 + signal | a second signal: at once |

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::Path;
use std::process::{self, ExitCode};
use std::thread;

use clap::Parser;
use mimalloc::MiMalloc;
use relay::command::{Arguments, Command, StoreCommand};
use relay::{Control, StartError, cpu, logging};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{debug, error, info, warn};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The configuration cannot work.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Err(sentence) = cpu::check() {
        eprintln!("error: {sentence}");
        return ExitCode::FAILURE;
    }
    // Ends the process by itself: 2 for a bad value, 0 for --help and --version.
    let Arguments { config, command } = Arguments::parse();
    if let Some(Command::Store(StoreCommand::Check { dir })) = command {
        return check_store(&dir);
    }
    if let Err(error) = config.check() {
        return fail(&error.into());
    }
    logging::start(config.log, &config.log_level);
    // Before the relay says that it runs: whoever reads that may send a signal.
    let signals = match Signals::new([SIGTERM, SIGINT]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: signals cannot be received: {error}");
            return ExitCode::FAILURE;
        }
    };
    let running = match relay::start(&config) {
        Ok(running) => running,
        Err(error) => return fail(&error),
    };
    let control = running.control();
    let listens = thread::Builder::new().name("signals".to_owned()).spawn(move || obey(signals, &control));
    if let Err(error) = listens {
        eprintln!("error: the thread for signals cannot be started: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = writeln!(io::stdout(), "{running}") {
        debug!(%error, "nobody reads what is printed");
    }
    match running.wait() {
        Ok(()) => {
            info!("relay ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!(%error, "relay ended");
            ExitCode::FAILURE
        }
    }
}

/// Reads all of a store and says how it is.
fn check_store(dir: &Path) -> ExitCode {
    match relay_store::check(dir) {
        Ok(report) => {
            // Whoever closed stdout has the exit status.
            let _ = writeln!(io::stdout(), "{report}");
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says why there is no relay.
fn fail(error: &StartError) -> ExitCode {
    eprintln!("error: {error}");
    match error {
        StartError::Config(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Drains the relay on the first signal and ends the process on the second.
fn obey(mut signals: Signals, control: &Control) {
    for signal in signals.forever() {
        if control.is_draining() {
            warn!(signal, "second signal: ending at once");
            process::exit(128 + signal);
        }
        info!(signal, "going away; a second signal ends at once");
        control.drain();
    }
}
