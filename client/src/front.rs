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
//! - A message counts as handled, and is confirmed to the relay, once the user asks for the next event.
//!   A user who ends in the middle of one gets it again.
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
use protocol::frame::RoomAction;
use protocol::{PublicKey, Timestamp};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::endpoint::Endpoint;
use crate::event::Event;
use crate::history::{Entry, Peer};
use crate::session::{ComposeError, Options, Recipient, RequestError, Session};
use driver::{Command, Driver, Request};

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
    /// Senders and ids of messages that an earlier run has shown: they are not shown again.
    pub remembered: Vec<(PublicKey, String)>,
}

impl Config {
    /// A configuration that reconnects, and gives each attempt to connect 10 s.
    #[must_use]
    pub fn new(endpoint: Endpoint, options: Options, key: SigningKey) -> Self {
        let connect_timeout = Duration::from_secs(10);
        Self { endpoint, key, options, reconnect: true, connect_timeout, remembered: Vec::new() }
    }
}

/// A client on tokio.
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts a client on the current tokio runtime, which needs its time and I/O drivers. Returns at
    /// once; messages may be sent at once too, and wait for the connection.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "without handle and events the client ends"]
    pub fn connect(config: Config) -> (Handle, EventStream) {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (event_queue, events) = mpsc::channel(EVENTS_MAX);
        let (handled, handled_seqs) = watch::channel(Handled::default());
        let mut session = Session::new(config.key, config.options, Instant::now(), local_time());
        for (sender, id) in &config.remembered {
            session.remember(*sender, id);
        }
        let public_key = session.public_key();
        let queues = Queues { commands: command_queue, events: event_queue, handled: handled_seqs };
        let driver = Driver::new(session, config.endpoint, config.reconnect, config.connect_timeout, queues);
        tokio::spawn(driver.run());
        (Handle { commands, public_key }, EventStream { events, last: None, handled })
    }
}

/// The driver's ends of the channels.
struct Queues {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Told>,
    handled: watch::Receiver<Handled>,
}

/// An event, and what to note as handled once the user is done with it.
#[derive(Debug)]
struct Told {
    event: Event,
    handled: Option<Handled>,
}

/// A place in the own inbox.
#[derive(Clone, Copy, Debug, Default)]
struct Handled {
    epoch: u64,
    seq: u64,
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
    /// The client ended before the relay answered, or the relay did not answer. The message may have
    /// arrived.
    #[error("the relay has not answered; the message may have arrived all the same")]
    Lost,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// The session did not take it.
    #[error(transparent)]
    Request(#[from] RequestError),
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

    /// Sends a message to a key or a [`Recipient`] and waits for the relay's answer, through
    /// disconnects too. Bound the wait with a timeout of your own.
    ///
    /// Somebody has to take the events meanwhile, or drop the [`EventStream`]: an answer is read
    /// behind what came before it. In the task that takes the events, use [`Handle::submit`].
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, to: impl Into<Recipient>, text: impl Into<String>) -> Result<Acked, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Send { to: to.into(), text: text.into(), reply }).await?;
        answer.await.map_err(|_| SendError::Ended)?
    }

    /// Takes a message, returns its `clientMessageId` at once, and sends it now or once there is a
    /// connection; [`Event::Ack`] or [`Event::Failed`] tells what became of it, [`Event::Receipt`] how
    /// far it got.
    ///
    /// # Errors
    /// [`SendError::Compose`] and [`SendError::Ended`].
    pub async fn submit(&self, to: impl Into<Recipient>, text: impl Into<String>) -> Result<String, SendError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Submit { to: to.into(), text: text.into(), reply }).await?;
        Ok(answer.await.map_err(|_| SendError::Ended)??)
    }

    /// Asks something about a room. [`Event::Room`] or [`Event::Error`] with the room's id answers;
    /// neither comes if the connection ends first.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn room(&self, room: impl Into<String>, action: RoomAction) -> Result<(), AskError> {
        self.ask(Request::Room { room: room.into(), action }).await
    }

    /// Asks the relay for the latest `limit` (1 to 100) messages with `peer`, or those before a seq.
    /// [`Event::History`] or [`Event::Error`] answers; neither comes if the connection ends first.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn request_history(&self, with: Peer, before_seq: Option<u64>, limit: u64) -> Result<(), AskError> {
        self.ask(Request::History { with, before_seq, limit }).await
    }

    /// Tells the sender that a person has read the message of this seq.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn read(&self, seq: u64) -> Result<(), AskError> {
        self.ask(Request::Read { seq }).await
    }

    /// Tells `peer` that the own key types, or has stopped; see [`Session::typing`].
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn typing(&self, peer: Peer, is_typing: bool) -> Result<(), AskError> {
        self.ask(Request::Typing { peer, is_typing }).await
    }

    async fn ask(&self, request: Request) -> Result<(), AskError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask { request, reply }).await.map_err(|_| AskError::Ended)?;
        Ok(answer.await.map_err(|_| AskError::Ended)??)
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
    events: mpsc::Receiver<Told>,
    /// Of the event given out last.
    last: Option<Handled>,
    handled: watch::Sender<Handled>,
}

impl EventStream {
    /// The next event; `None` once the client has ended. Whoever asks for it is done with the one
    /// before: a message is confirmed to the relay then, and not sent to this device again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(last) = self.last.take() {
            self.handled.send_replace(last);
        }
        let Told { event, handled } = self.events.recv().await?;
        self.last = handled;
        Some(event)
    }
}

/// The local clock, for the time before the relay has told its own.
fn local_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
