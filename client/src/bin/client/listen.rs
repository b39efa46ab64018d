//! `client listen`: prints every event as one line of JSON. A message is confirmed to the relay once
//! its line is written: who is killed before gets it again.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use client::escape::JsonForTerminal;
use client::{Client, Event};
use protocol::frame::{LobbyMode, RoomAction};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Connection, Failure, room_id};

/// Log in and print every event as one line of JSON, until interrupted
///
/// Reconnects by itself, and goes on where it was. Ends with status 0 on SIGINT, SIGTERM or a closed standard output, with
/// status 1 when another connection of this device took over or the relay refuses the key.
#[derive(Args)]
pub(crate) struct Listen {
    #[command(flatten)]
    connection: Connection,

    /// Do not follow who is online
    #[arg(long)]
    no_lobby: bool,

    /// Join a room after each login; may be given several times
    #[arg(long, value_name = "ROOM", value_parser = room_id)]
    room: Vec<String>,
}

impl Listen {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut config = self.connection.config("listen")?;
        if self.no_lobby {
            config.options.lobby = LobbyMode::None;
        }
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let (handle, mut events) = Client::connect(config);
        let mut is_told_to_end = false;
        let mut last = None;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = interrupt.recv(), if !is_told_to_end => {
                    is_told_to_end = true;
                    handle.close().await;
                    continue;
                }
                _ = terminate.recv(), if !is_told_to_end => {
                    is_told_to_end = true;
                    handle.close().await;
                    continue;
                }
            };
            let Some(event) = event else { break };
            match print(&event) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                printed => printed.context("cannot write to standard output")?,
            }
            if matches!(event, Event::Welcome { .. }) {
                for room in &self.room {
                    // Unless the connection ends first, an event answers; then the next login asks again.
                    let _ = handle.room(room, RoomAction::Join).await;
                }
            }
            last = Some(event);
        }
        match last {
            Some(Event::Closed { details, .. }) if !is_told_to_end => Err(anyhow::anyhow!(details).into()),
            _ => Ok(()),
        }
    }
}

fn print(event: &Event) -> io::Result<()> {
    let json = serde_json::to_string(event)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", JsonForTerminal(&json))?;
    out.flush()
}
