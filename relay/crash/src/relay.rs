//! The relay as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a relay may take to say where it listens, with what it has to read first.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running relay; killed when it is dropped.
pub(crate) struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    /// Starts a relay on a free port and waits until it listens.
    pub(crate) fn start(program: &Path, data: &Path, shards: u64, further: &str) -> Result<Self> {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--admin", "off", "--rate-limit", "0", "--log-level", "warn"])
            .args(["--pin-cores", "none", "--shards", &shards.to_string(), "--data"])
            .arg(data)
            .args(further.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let stdout = child.stdout.take();
        let mut relay = Self { child, address: ([0; 4], 0).into() };
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
            // Nobody waits any more if it took too long.
            let _ = sender.send((read.is_some(), line));
        });
        let (_, line) = line.recv_timeout(START_PATIENCE).context("the relay does not say that it listens")?;
        let address = line.split_once("listening on ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        relay.address = address.with_context(|| format!("the relay did not start: {line:?}"))?;
        Ok(relay)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the process where it is.
    pub(crate) fn stop(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::STOP).context("the relay takes no signal")
    }

    /// Ends the process by SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("the relay takes no signal")?;
        self.child.wait().context("the relay does not end")?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
