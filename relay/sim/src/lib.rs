//! A deterministic simulator of the relay: shards, clients, network, disk and clock in one thread, from
//! one seed.
//!
//! # Flow
//! ```text
//! workload ── frames ──▶ network ── inputs ──▶ relay: passes of real shards (relay-core)
//!    ▲                      │                      │ effects, held against the engine's contract
//!    └─ session, lobby ◀────┴──── bytes ◀──────────┘
//!             └── ledger: what was sent, answered, delivered ◀── disk: what is synced
//! ```
//! A run draws its [scenario](RunOptions) from the seed, lets clients do random things in rounds,
//! and after each round waits until nothing is under way and checks what must hold at rest. Now and then
//! the relay is killed or drained and starts anew on what the disk kept. In the end every device comes
//! once more, and nothing that was acked may be missing. Everything
//! else is checked as it happens. The rules are listed in [`Invariant`].
//!
//! # Invariants
//! - The same seed and options give the same [`Report`], trace hash included, on every machine.
//! - The model knows the contract and the interface of relay-core, and nothing of its inside.
//! - A rule that is not broken by one of the planted faults ([`Plant`]) or a test of its own is not
//!   known to work.
//!
//! Absent on purpose: threads, sockets, wall clocks; any measurement.

#![forbid(unsafe_code)]

mod devices;
mod disk;
mod frames;
mod invariant;
mod ledger;
mod lobby;
mod network;
mod plant;
mod quiet;
mod random;
mod relay;
mod restart;
mod rooms;
mod run;
mod scenario;
mod schedule;
mod seen;
mod session;
mod trace;
mod workload;
mod world;

pub use invariant::{Invariant, Violation};
pub use plant::Plant;
pub use run::{Failure, Report, RunOptions, run};
pub use scenario::Overrides;
pub use seen::Seen;
