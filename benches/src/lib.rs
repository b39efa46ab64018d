//! What the benchmarks share: users, signed frames, and clients that talk to a shard over memory.
//!
//! # Flow
//! ```text
//! user::User ── user::Draft, signed ──▶ frame ── masked ──▶ rig::Rig (a Shard) ──▶ bytes out
//!                                                              └─ exchange::Exchange: batches of them
//! ```
//! Each file of `benches/` has one subject and prepares everything outside the measured part.
//!
//! # Invariants
//! - The same call makes the same keys, frames and bytes in every run: counts of instructions can be
//!   compared, and a change of time is a change of the code or of the machine.
//! - A fixture panics when the shard does not do what the benchmark claims to measure: a refused
//!   message is fast, and worth nothing.
//! - Every benchmark runs on the allocator of the relay.
//!
//! Absent on purpose: sockets and clocks (`loadgen` measures the whole relay), and figures, which
//! belong to a machine.

#![forbid(unsafe_code)]

pub mod exchange;
pub mod rig;
pub mod user;

use std::time::Duration;

use criterion::Criterion;
use mimalloc::MiMalloc;

/// The relay's allocator, in every benchmark that uses this crate.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The settings of every benchmark: 0.5 s of warm-up and 2 s in 30 samples. Some sixty benchmarks
/// then take less than four minutes; `--measurement-time` and `--sample-size` ask for more.
#[must_use]
pub fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
}
