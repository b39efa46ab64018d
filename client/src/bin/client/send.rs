//! `client send`: sends one message and waits for the relay's answer, or the recipient's.
//!
//! It shows no messages, so it confirms none: the relay keeps them for the key's other devices, and
//! for this one.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use client::event::{CLOSED, NO_ANSWER};
use client::{Client, Event, EventStream, Handle, Recipient};
use protocol::PublicKey;
use protocol::frame::LobbyMode;
use protocol::server_frame::ReceiptStatus;

use crate::{Connection, Failure, room_id};

/// Send one message and wait until the relay has taken it
///
/// Ends with status 0 when what --wait names has come; with status 1 and one sentence on standard
/// error when the relay has not taken the message, or is not known to have; with status 3 and a
/// sentence when it has, but the recipient's confirmation did not come in time.
#[derive(Args)]
pub(crate) struct Send {
    #[command(flatten)]
    connection: Connection,

    /// Public key of the recipient: 64 lowercase hex digits. With --room: the member whom it is for,
    /// privately
    #[arg(long, value_name = "KEY", value_parser = public_key, required_unless_present = "room")]
    to: Option<PublicKey>,

    /// Room to send to, which the key must be a member of
    #[arg(long, value_name = "ROOM", value_parser = room_id)]
    room: Option<String>,

    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    wait: Wait,

    /// How long all of it may take, like 500ms or 1m
    #[arg(long, value_name = "DURATION", env = "CLIENT_TIMEOUT", default_value = "10s",
          value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// The message; put `--` before one that starts with a dash
    text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Wait {
    /// The relay has taken the message
    #[default]
    Sent,
    /// A device of the recipient has it; rooms do not tell
    Delivered,
    /// The recipient, or a member of the room, has read it
    Read,
}

impl Wait {
    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// How far the message got.
#[derive(Default)]
struct Progress {
    reached: Option<Wait>,
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let to = match (self.room, self.to) {
            (Some(_), _) if self.wait == Wait::Delivered => {
                return Err(Failure::Usage(anyhow!("rooms do not tell what was delivered: wait for sent or read")));
            }
            (Some(room), Some(member)) => Recipient::RoomMember(room, member),
            (Some(room), None) => Recipient::Room(room),
            (None, Some(user)) => Recipient::User(user),
            (None, None) => return Err(Failure::Usage(anyhow!("give --to or --room"))),
        };
        let mut config = self.connection.config("send")?;
        config.options.lobby = LobbyMode::None;
        config.options.confirm = false;
        let (handle, mut events) = Client::connect(config);
        let mut progress = Progress::default();
        let sending = send(&handle, &mut events, to, self.text, self.wait, &mut progress);
        match tokio::time::timeout(self.timeout, sending).await {
            Ok(sent) => sent?,
            Err(_) => {
                let timeout = humantime::format_duration(self.timeout);
                return Err(match progress.reached {
                    None => Failure::Run(anyhow!("the relay did not answer within {timeout}")),
                    Some(reached) => Failure::Unconfirmed(anyhow!(
                        "the message is {}, but was not {} within {timeout}",
                        reached.name(),
                        self.wait.name()
                    )),
                });
            }
        }
        handle.close().await;
        while events.next().await.is_some() {}
        Ok(())
    }
}

async fn send(
    handle: &Handle,
    events: &mut EventStream,
    to: Recipient,
    text: String,
    wait: Wait,
    progress: &mut Progress,
) -> Result<(), Failure> {
    opened(events).await?;
    let id = handle.submit(to, text).await.map_err(anyhow::Error::from)?;
    while let Some(event) = events.next().await {
        match event {
            Event::Ack { client_message_id, .. } if client_message_id == id => {
                progress.reached = progress.reached.max(Some(Wait::Sent));
            }
            Event::Receipt { status, client_message_ids, .. } if client_message_ids.contains(&id) => {
                let reached = match status {
                    ReceiptStatus::Delivered => Wait::Delivered,
                    ReceiptStatus::Read => Wait::Read,
                };
                progress.reached = progress.reached.max(Some(reached));
            }
            Event::Failed { client_message_id, reason, details, .. } if client_message_id == id => {
                match reason.as_str() {
                    // `closed` follows, and says why.
                    CLOSED => {}
                    NO_ANSWER => return Err(anyhow!("{details}; the message may have arrived all the same").into()),
                    _ => return Err(anyhow!("{details} ({reason})").into()),
                }
            }
            Event::Closed { details, retry: false, .. } => {
                return Err(match progress.reached {
                    Some(reached) => Failure::Unconfirmed(anyhow!(
                        "the message is {}, but the connection ended before it was {}: {details}",
                        reached.name(),
                        wait.name()
                    )),
                    None => Failure::Run(anyhow!("the connection ended before the relay answered: {details}")),
                });
            }
            _ => {}
        }
        if progress.reached >= Some(wait) {
            return Ok(());
        }
    }
    Err(anyhow!("the client has ended").into())
}

/// Waits for the first session; a relay that cannot be reached at all is not waited for.
async fn opened(events: &mut EventStream) -> anyhow::Result<()> {
    // What the relay says before it closes tells more than the close itself.
    let mut reason = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Welcome { .. } => return Ok(()),
            Event::Error { reason: code, details, .. } => reason = Some(format!("{details} ({code})")),
            Event::Closed { details, .. } => return Err(anyhow!(reason.unwrap_or(details))),
            _ => {}
        }
    }
    Err(anyhow!("the client has ended"))
}

fn public_key(text: &str) -> Result<PublicKey, &'static str> {
    PublicKey::from_hex(text).ok_or("expected 64 lowercase hex digits")
}
