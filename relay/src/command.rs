//! What the command is asked for: to run, or to look after a data directory.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// The command line.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(
    name = "relay",
    version,
    about = "Relays signed messages between keys, and tells who is online.",
    after_help = "Every option can also be given by environment, as RELAY_<OPTION>. The command line wins.",
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// How to run.
    #[command(flatten)]
    pub config: Config,

    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done instead of running.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Look after a data directory
    #[command(subcommand)]
    Store(StoreCommand),
}

/// What is done with a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum StoreCommand {
    /// Read all of it, change nothing, and tell what is wrong; exits 0 if nothing is, 1 if something is
    /// or it cannot be read
    Check {
        /// The directory that a relay was given with --data; no relay may be using it
        dir: PathBuf,
    },
}
