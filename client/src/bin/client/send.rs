//! `client send`: sends one message and waits for the relay's answer.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use client::front::SendError;
use client::{Client, Event, EventStream, Handle};
use protocol::PublicKey;
use protocol::frame::LobbyMode;

use crate::{Connection, Failure};

/// Send one message and wait until the relay has taken it
///
/// Ends with status 0 when the relay has acked the message, with status 1 and one sentence on
/// standard error otherwise.
#[derive(Args)]
pub(crate) struct Send {
    #[command(flatten)]
    connection: Connection,

    /// Public key of the recipient: 64 lowercase hex digits
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    to: PublicKey,

    /// How long all of it may take, like 500ms or 1m
    #[arg(long, value_name = "DURATION", env = "CLIENT_TIMEOUT", default_value = "10s",
          value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// The message; put `--` before one that starts with a dash
    text: String,
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut config = self.connection.config("send")?;
        config.reconnect = false;
        config.options.lobby = LobbyMode::None;
        let (handle, mut events) = Client::connect(config);
        match tokio::time::timeout(self.timeout, send(&handle, &mut events, self.to, self.text)).await {
            Ok(sent) => sent?,
            Err(_) => {
                let timeout = humantime::format_duration(self.timeout);
                return Err(anyhow!("the relay did not answer within {timeout}").into());
            }
        }
        handle.close().await;
        while events.next().await.is_some() {}
        Ok(())
    }
}

async fn send(handle: &Handle, events: &mut EventStream, to: PublicKey, text: String) -> anyhow::Result<()> {
    // What the relay says before it closes tells more than the close itself.
    let mut reason = None;
    loop {
        match events.next().await {
            Some(Event::Welcome { .. }) => break,
            Some(Event::Error { reason: code, details, .. }) => reason = Some(format!("{details} ({code})")),
            Some(Event::Closed { details, .. }) => bail!(reason.unwrap_or(details)),
            Some(_) => {}
            None => bail!("the client has ended"),
        }
    }
    let mut closed = None;
    let mut sending = std::pin::pin!(handle.send(to, text));
    let sent = loop {
        tokio::select! {
            sent = &mut sending => break sent,
            Some(event) = events.next() => {
                if let Event::Closed { details, .. } = event {
                    closed = Some(details);
                }
            }
        }
    };
    match sent {
        Ok(_) => Ok(()),
        Err(error @ (SendError::Lost | SendError::Ended)) => match closed.or(last_words(events).await) {
            Some(details) => Err(anyhow!("{error}: {details}")),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Why the connection closed, once it did.
async fn last_words(events: &mut EventStream) -> Option<String> {
    let mut closed = None;
    while let Some(event) = events.next().await {
        if let Event::Closed { details, .. } = event {
            closed = Some(details);
        }
    }
    closed
}

fn public_key(text: &str) -> Result<PublicKey, &'static str> {
    PublicKey::from_hex(text).ok_or("expected 64 lowercase hex digits")
}
