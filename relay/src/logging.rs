//! The log: on stderr, through `tracing`.
//!
//! Nothing is logged for a message. A panic is logged before it ends the process, so that an
//! operator who collects the log sees why.

use std::backtrace::Backtrace;
use std::io;
use std::panic;

use tracing::{Level, enabled, error};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log of this process, and logs panics from now on. Once a process: a second call
/// changes nothing but the panic hook.
///
/// `filter` was checked when the configuration was read; one that is malformed logs nothing below
/// errors.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::new(filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Fails when a log was started before: then that one goes on.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    let unlogged = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !enabled!(Level::ERROR) {
            return unlogged(info);
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        error!(thread = name, backtrace = %Backtrace::capture(), "{info}");
    }));
}
