//! The store on real directories, real disks and real processes.
//!
//! One test binary, so that it is linked once. Tests that need a disk of their own run themselves
//! again as a child in a mount namespace; where the system allows none they say so on stderr, past the
//! capturing of output, and check nothing.

#![expect(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod kit;

mod checking;
mod disk;
mod kill;
mod model;
mod opening;
mod pages;
mod restart;
