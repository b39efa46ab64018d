//! One shard of the relay as a pure state machine: events in, effects out.
//!
//! # Interface
//! The shell (real or simulated) calls three functions of [`Shard`]:
//!
//! ```text
//! handle(event, now, effects)        for each thing that happened, as it happened
//! end_of_batch(now, effects)         when nothing more is at hand: verifies, flushes, fires timers
//! poll_timeout() -> Option<Nanos>    when to call end_of_batch at the latest
//! ```
//!
//! and carries out the [`Effect`]s in their order.
//!
//! # Flow of one message
//! [`Event::Received`] → `connection` (bytes to frames) → `session` (frame to checks) → `verifier`
//! (signatures, at the end of the batch) → `router` (home shard of the recipient) →
//! [`Effect::Send`] (only if another shard) → `outbox` of each device → [`Effect::Write`]. One for a room
//! goes to the room's home first (`fan_out`), and from there to the homes of the members.
//!
//! # Invariants
//! - No socket, clock, thread, randomness or channel: the same events at the same times give the
//!   same effects. Hashing is keyed with [`Config::seed`].
//! - A key's sessions, seqs, rate and known ids live in its home shard, which is a function of the
//!   key ([`Config::home`]).
//! - A connection has at most one write in flight ([`Effect::Write`] … [`Event::Written`]).
//! - A connection is handed over with nothing in flight, once, before its `welcome`.
//! - Every accepted connection ends in exactly one of [`Effect::Close`] and [`Effect::HandOver`].
//! - Every queue is bounded, and what a bound drops is counted under one reason.
//! - What a client was told of the lobby is always one state that the lobby really had, and a flush
//!   brings all who can keep up to the newest one.
//!
//! Absent on purpose: names of files, addresses to bind, logging, and anything about threads.

#![forbid(unsafe_code)]

pub mod config;
pub mod effect;
pub mod envelope;
pub mod event;
pub mod stats;
pub mod store;

mod answers;
mod closing;
mod confirm;
mod connection;
mod deliver;
mod devices;
mod fan_out;
mod history;
mod inbox;
mod joining;
mod journal;
mod lobby;
mod membership;
mod messages;
mod outbox;
mod post;
mod presence;
mod pump;
mod rate;
mod receipts;
mod recent_ids;
mod refusal;
mod restore;
mod rooms;
mod router;
mod session;
mod shard;
mod storing;
mod sweep;
mod timers;
mod transit;
mod typing;
mod unseen;
mod verifier;

pub use config::{Config, Limits, VerifyMode};
pub use effect::{Effect, Effects, ReadMode};
pub use envelope::{
    Arrival, Envelope, Outcome, Parcel, RoomAnswer, RoomAsk, RoomFault, RoomMessage, RoomShare, Ticket,
};
pub use event::{ConnectionId, Event, Gone, Nanos, Now, ShardId};
pub use shard::Shard;
pub use stats::{DropReason, Stats};
pub use store::{Batch, Durability, Page, PageRequest, Restored, StoreFault};
