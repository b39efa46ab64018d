//! The session on tokio: one task that connects, drives a [`Session`], and connects again.
//!
//! # Flow
//! ```text
//! Handle ── commands, 64 at most ──▶ driver ── events, 1,024 at most ──▶ EventStream
//!                                      ▲ │
//!                           Session ◀──┘ └──▶ Connection
//! ```
//!
//! # Invariants
//! - Both queues are bounded. While the user does not take events, nothing is read from the relay,
//!   which then sees a slow reader; while the relay takes no bytes, no commands are taken.
//! - Every method that waits is cancel-safe: dropped, it loses no event and no frame. A message whose
//!   [`Handle::send`] is dropped may be sent all the same.
//! - The driver ends after [`Handle::close`], after a close for good (another device took over, the
//!   relay refuses the key, or it is not the one expected), after the first close if
//!   [`Config::reconnect`] is off, and when all handles and the event stream are gone. The last event
//!   is [`Event::Closed`].
//!
//! Absent on purpose: TLS, proxies, several relays.

mod connection;
mod driver;

use std::time::{Duration, Instant, SystemTime};

use ed25519_dalek::SigningKey;
use protocol::{PublicKey, Timestamp};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::endpoint::Endpoint;
use crate::event::Event;
use crate::history::{Entry, Peer};
use crate::session::{ComposeError, Options, Session};
use driver::{Command, Driver};

/// Commands that wait at most.
const COMMANDS_MAX: usize = 64;

/// Events that wait at most before reading stops.
const EVENTS_MAX: usize = 1024;

/// To which relay, as whom, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay.
    pub endpoint: Endpoint,
    /// The own key.
    pub key: SigningKey,
    /// How the session behaves.
    pub options: Options,
    /// Whether to connect again when a connection ends or cannot be made.
    pub reconnect: bool,
    /// How long connecting and upgrading together may take.
    pub connect_timeout: Duration,
}

impl Config {
    /// A configuration that reconnects, and gives each attempt to connect 10 s.
    #[must_use]
    pub fn new(endpoint: Endpoint, options: Options, key: SigningKey) -> Self {
        Self { endpoint, key, options, reconnect: true, connect_timeout: Duration::from_secs(10) }
    }
}

/// A client on tokio.
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts a client on the current tokio runtime, which needs its time and I/O drivers. Returns at
    /// once; [`Event::Welcome`] tells when messages can be sent.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "without handle and events the client ends"]
    pub fn connect(config: Config) -> (Handle, EventStream) {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (event_queue, events) = mpsc::channel(EVENTS_MAX);
        let session = Session::new(config.key, config.options, Instant::now(), local_time());
        let public_key = session.public_key();
        let driver =
            Driver::new(session, config.endpoint, config.reconnect, config.connect_timeout, command_queue, event_queue);
        tokio::spawn(driver.run());
        (Handle { commands, public_key }, EventStream { events })
    }
}

/// Sends messages and asks questions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    public_key: PublicKey,
}

/// The relay has taken responsibility for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The message.
    pub client_message_id: String,
    /// Whether the recipient was online.
    pub recipient_online: bool,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// It was not composed.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The relay refused it.
    #[error("{details} ({reason})")]
    Refused {
        /// One of the contract's reasons.
        reason: String,
        /// One sentence for a person.
        details: String,
        /// When to try again, if the relay says.
        retry_after_ms: Option<u64>,
    },
    /// The connection ended before the relay answered. The message may have arrived.
    #[error("the connection ended before the relay answered")]
    Lost,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

impl Handle {
    /// The own key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Sends a message and waits for the relay's answer. Bound the wait with a timeout of your own.
    ///
    /// Somebody has to take the events meanwhile, or drop the [`EventStream`]: an answer is read
    /// behind what came before it. In the task that takes the events, use [`Handle::submit`].
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, to: PublicKey, text: impl Into<String>) -> Result<Acked, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Send { to, text: text.into(), reply }).await?;
        answer.await.map_err(|_| SendError::Ended)?
    }

    /// Sends a message and returns its `clientMessageId` at once; [`Event::Ack`], [`Event::Error`]
    /// or [`Event::Failed`] tells what became of it.
    ///
    /// # Errors
    /// [`SendError::Compose`] and [`SendError::Ended`].
    pub async fn submit(&self, to: PublicKey, text: impl Into<String>) -> Result<String, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Submit { to, text: text.into(), reply }).await?;
        Ok(answer.await.map_err(|_| SendError::Ended)??)
    }

    /// Who is online, in the order of the keys, as far as is known.
    ///
    /// # Errors
    /// [`SendError::Ended`].
    pub async fn lobby(&self) -> Result<Vec<PublicKey>, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Lobby { reply }).await?;
        answer.await.map_err(|_| SendError::Ended)
    }

    /// The messages kept with `peer`, oldest first.
    ///
    /// # Errors
    /// [`SendError::Ended`].
    pub async fn history(&self, peer: Peer) -> Result<Vec<Entry>, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::History { peer, reply }).await?;
        answer.await.map_err(|_| SendError::Ended)
    }

    /// Closes the connection politely and ends the client. The event stream ends with
    /// [`Event::Closed`]. Does nothing if the client has ended.
    pub async fn close(&self) {
        // An error says that the client has ended, which is what was wanted.
        let _ = self.commands.send(Command::Close).await;
    }

    async fn command(&self, command: Command) -> Result<(), SendError> {
        self.commands.send(command).await.map_err(|_| SendError::Ended)
    }
}

/// The events of a client, in their order.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Event>,
}

impl EventStream {
    /// The next event; `None` once the client has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// The local clock, for the time before the relay has told its own.
fn local_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
