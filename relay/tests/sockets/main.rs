//! The real binary on real sockets: what the wire contract promises, one behaviour a file, each on
//! all three engines.
//!
//! One test binary, so that it is linked once. Each test starts relays of its own (see [`kit`]), mostly
//! of two shards. How keys are spread over the shards is random in a relay: where it matters, a test
//! goes over enough keys to meet every case, and holds for every spread.
//!
//! Absent on purpose: verdicts about time. Where the contract gives a time, the test shows the order
//! of things or a lower bound, and waits up to [`kit::DEADLINE`].

#[path = "../kit/mod.rs"]
mod kit;

mod auth_refused;
mod by_hand;
mod check_order;
mod devices;
mod drain;
mod duplicates;
mod floods;
mod foreign;
mod forwarding;
mod framing;
mod ghosts;
mod hand_over;
mod heartbeat;
mod held;
mod http;
mod lobby;
mod lobby_sync;
mod malformed;
mod opening;
mod rates;
mod refusals;
mod rooms;
mod slow_reader;
mod store;
mod store_failing;
mod storm;
