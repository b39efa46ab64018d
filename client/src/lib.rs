//! A client of the relay: verifies every message, knows who is online, and speaks the wire protocol
//! of the `protocol` crate.
//!
//! # Flow
//! ```text
//! session   texts in, events and frames out: no socket, no clock, no randomness but for ids
//! front     the session on tokio: connects, reconnects, keeps both ways bounded
//! the command `client`: keygen, listen, send, chat
//! ```
//!
//! # Invariants
//! - Whatever the relay pushes, only messages with a strictly verified signature become
//!   [`Event::Message`].
//! - The list of who is online is compared with the relay's count and digest after every change; a
//!   difference is told and repaired.
//! - Secret keys are wiped from memory, and shown by no `Debug`, log or error.
//!
//! # Example
//! ```no_run
//! use client::endpoint::Endpoint;
//! use client::session::Options;
//! use client::{Client, Config, Event, key_file};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = key_file::load("client.key".as_ref())?;
//! let endpoint = Endpoint::parse("ws://127.0.0.1:7400/ws")?;
//! let options = Options::new(&endpoint.relay_name(), "phone")?;
//! let (handle, mut events) = Client::connect(Config::new(endpoint, options, key));
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Joined { public_key, .. } => {
//!             let id = handle.submit(public_key, "Hello!").await?;
//!             println!("{id} is on its way");
//!         }
//!         Event::Ack { client_message_id, .. } => println!("the relay has taken {client_message_id}"),
//!         Event::Message(message) => println!("{}: {}", message.sender_public_key, message.message),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod backoff;
pub mod endpoint;
pub mod escape;
pub mod event;
pub mod front;
pub mod history;
pub mod history_file;
mod inbox;
pub mod key_file;
pub mod lobby;
mod pace;
mod seqs;
pub mod session;

pub use event::Event;
pub use front::{Client, Config, EventStream, Handle};
pub use session::{Recipient, Session};
