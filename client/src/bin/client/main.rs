//! The command `client`: makes keys, listens, sends, chats.
//!
//! Exit status: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, an unusable key or history
//! file included, 3 the relay has a message, but what `send --wait` waits for did not come in time.

mod chat;
mod device;
mod keygen;
mod listen;
mod send;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use client::endpoint::Endpoint;
use client::escape::ForTerminal;
use client::session::Options;
use client::{Config, key_file};
use protocol::keys::{is_id, is_relay_name};

/// Talks to a relay: makes keys, listens, sends signed messages, chats.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 sent, but not confirmed as --wait asked.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(keygen::Keygen),
    Listen(listen::Listen),
    Send(send::Send),
    Chat(chat::Chat),
}

/// To which relay, and as whom.
#[derive(Args)]
struct Connection {
    /// Address of the relay, like ws://127.0.0.1:7400/ws; the path is /ws unless given
    #[arg(value_name = "URL")]
    endpoint: Endpoint,

    /// Key file, as `client keygen` makes it: whom to log in as
    #[arg(long, value_name = "FILE", env = "CLIENT_KEY")]
    key: PathBuf,

    /// Which of the key's devices this is; a second connection of the same one ends the first, and the
    /// relay keeps messages for each. Unless given, the command's name and a number that is kept
    /// in FILE.device
    #[arg(long, value_name = "ID", env = "CLIENT_DEVICE", value_parser = device_id)]
    device: Option<String>,

    /// Name that the relay must give itself; unless given, the host of URL, for a loopback address
    /// `localhost`
    #[arg(long, value_name = "NAME", env = "CLIENT_RELAY_NAME", value_parser = relay_name)]
    relay_name: Option<String>,
}

impl Connection {
    fn config(self, command: &str) -> Result<Config, Failure> {
        let key = key_file::load(&self.key).map_err(|error| Failure::Usage(error.into()))?;
        let name = self.relay_name.unwrap_or_else(|| self.endpoint.relay_name());
        let device = self.device.unwrap_or_else(|| device::default_device(command, &self.key));
        let options = Options::new(&name, &device).map_err(|error| Failure::Usage(error.into()))?;
        Ok(Config::new(self.endpoint, options, key))
    }
}

/// Why the command ends without success.
enum Failure {
    /// Exit status 2.
    Usage(anyhow::Error),
    /// Exit status 1.
    Run(anyhow::Error),
    /// Exit status 3.
    Unconfirmed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Keygen(command) => command.run(),
        Command::Listen(command) => block_on(command.run()),
        Command::Send(command) => block_on(command.run()),
        Command::Chat(command) => block_on(command.run()),
    };
    let (error, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Run(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Unconfirmed(error)) => (error, 3),
    };
    eprintln!("client: {}", ForTerminal(&format!("{error:#}")));
    ExitCode::from(status)
}

fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| anyhow::Error::from(error).context("cannot start"))?;
    runtime.block_on(future)
}

fn device_id(text: &str) -> Result<String, &'static str> {
    if is_id(text) { Ok(text.to_owned()) } else { Err("expected 1 to 64 of A-Z a-z 0-9 - _ . :") }
}

fn room_id(text: &str) -> Result<String, &'static str> {
    device_id(text)
}

fn relay_name(text: &str) -> Result<String, &'static str> {
    if is_relay_name(text) { Ok(text.to_owned()) } else { Err("expected 1 to 253 of a-z 0-9 . -") }
}
