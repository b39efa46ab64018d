//! One suite for every engine: what a test shows of one, it shows of all.
//!
//! Each test is a function over a way to make an engine; `for_every_engine!` turns it into one
//! `#[test]` an engine. Sockets are real, on loopback, on ports of the kernel's choice.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a verdict")]

mod ending;
mod handing_over;
mod leaks;
mod rig;
mod transfer;
mod waiting;
