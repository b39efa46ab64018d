//! The shell around relay-core: threads, sockets, clock and randomness.
//!
//! # Flow
//! ```text
//! main ── Config ── start ──┬─ shard 0: engine ⇄ core ──┐
//!                           ├─ shard 1: engine ⇄ core ──┤ mesh
//!                           ├─ …                        ┘
//!                           ├─ store: the database of all shards
//!                           └─ admin: health, version, counts
//! ```
//! | module | subject |
//! |---|---|
//! | [`command`], [`config`] | what an operator can ask for and choose |
//! | [`cpu`], [`engine_choice`], [`pin`] | what this machine can do |
//! | [`relay`] | starting, waiting, ending |
//! | `listeners` | the sockets that clients connect to |
//! | `shard_thread` | a shard's thread: coming up, last words |
//! | `shard_loop` | what it does: kernel, mesh, core |
//! | [`mesh`] | the queues between shards |
//! | `store` | the store's thread and the queues to it |
//! | [`control`], `drain` | what other threads ask of the shards |
//! | `admin` | the HTTP endpoint for operators |
//! | [`logging`] | the log and what a panic leaves in it |
//!
//! # Invariants
//! - A shard's state, sockets and engine are touched by its thread alone; shards share nothing but
//!   the mesh's queues, and with other threads the commands and the store's queues.
//! - No lock, log line or system call for a single message: only for a pass.
//! - Everything that can be wrong with the configuration is said before a thread starts.
//!
//! Absent on purpose: the protocol (relay-core, protocol) and system calls on sockets
//! (relay-engine), and with them all unsafe code.

#![forbid(unsafe_code)]

pub mod command;
pub mod config;
pub mod control;
pub mod cpu;
pub mod engine_choice;
pub mod logging;
pub mod mesh;
pub mod pin;
pub mod relay;

mod admin;
mod clock;
mod descriptors;
mod drain;
mod listeners;
mod nonces;
mod shard_loop;
mod shard_thread;
mod store;

pub use config::{Config, ConfigError};
pub use control::{Control, Snapshot};
pub use relay::{RunError, Running, StartError, start};
pub use shard_loop::LoopStats;
