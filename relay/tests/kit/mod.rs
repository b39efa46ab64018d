//! What the socket tests are made of: a relay process, users with keys, and a client that was not
//! written here (tungstenite's), which can also be made to misbehave byte by byte.
//!
//! # Invariants
//! - Nothing here uses the relay's own decoder, encoder or signed bytes: the kit says what the
//!   contract says, a second time.
//! - Every wait ends at [`DEADLINE`] with a panic that says what was waited for.
//! - A relay dies with its [`Relay`], by its process id, also when the test panics; what it wrote is
//!   printed then.
//!
//! Absent on purpose: sleeping as a way to wait, and verdicts about time.

pub(crate) mod client;
pub(crate) mod lobby;
pub(crate) mod relay;
pub(crate) mod user;
pub(crate) mod wire;

use std::time::Duration;

pub(crate) use client::{Client, Got};
pub(crate) use lobby::Watcher;
pub(crate) use relay::{Engine, Relay};
pub(crate) use user::{Draft, User};

/// The longest that anything is waited for: far more than it takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Makes one test of each function for each engine: `function(engine: Engine)` becomes the tests
/// `ring::function`, `tokio_uring::function` and `epoll::function`.
macro_rules! on_every_engine {
    ($($(#[$attribute:meta])* $test:ident,)+) => {
        mod ring {
            $(#[test] $(#[$attribute])* fn $test() { super::$test($crate::kit::Engine::Ring); })+
        }
        mod tokio_uring {
            $(#[test] $(#[$attribute])* fn $test() { super::$test($crate::kit::Engine::TokioUring); })+
        }
        mod epoll {
            $(#[test] $(#[$attribute])* fn $test() { super::$test($crate::kit::Engine::Epoll); })+
        }
    };
}
pub(crate) use on_every_engine;
