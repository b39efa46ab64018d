//! The wire protocol, version 1: what relay, client and load generator agree on.
//!
//! # The frame table
//! Every frame is one WebSocket text message holding one JSON object; the `type` field names it.
//!
//! | type | from | when | bytes at most |
//! |---|---|---|---|
//! | `challenge` | relay | at once after the upgrade | 64 Ki |
//! | `auth` | client | answer to the challenge, once | `frameBytes` |
//! | `welcome` | relay | the session is open | 64 Ki |
//! | `lobby` | relay | page of a snapshot of who is online | 64 Ki |
//! | `lobby_update` | relay | who joined and left since | 64 Ki |
//! | `lobby_sync` | client | asks for a fresh snapshot | `frameBytes` |
//! | `message` | client | sends a signed message | `frameBytes` |
//! | `message` with `seq` | relay | the sender's bytes, `seq` spliced in | `frameBytes` + 32 |
//! | `ack` | relay | the relay has taken the message | 64 Ki |
//! | `error` | relay | a frame was refused | 64 Ki |
//! | `ping`, `pong` | client, relay | liveness for clients that cannot see WebSocket pings | `frameBytes` |
//! | `restarting` | relay | the relay goes away | 64 Ki |
//! | `received`, `read` | client | confirms everything up to a seq; says that one was read | `frameBytes` |
//! | `receipt` | relay | own messages were delivered or read | 64 Ki |
//! | `typing` | client, relay | somebody types | `frameBytes` |
//! | `room_create` … | client | asks about a room, see [`frame::RoomAction`] | `frameBytes` |
//! | `room`, `room_update` | relay | the answer; a change | 64 Ki |
//! | `history` | client, relay | asks for a page; the page | `frameBytes`, 64 Ki |
//!
//! # Flow
//! ```text
//! bytes ── upgrade ── websocket::Decoder ── decode ── frame::ClientFrame     (relay's way in)
//! frame::ServerFrame ── encode ── websocket::push_text ── bytes              (relay's way out)
//! signed_bytes + signature: what is signed, and how signatures are checked
//! ```
//!
//! # Invariants
//! - No socket, clock, thread or source of randomness: bytes in, values out.
//! - JSON is never signed; [`signed_bytes`] are.
//! - A frame is forwarded as the sender's bytes; nothing here re-encodes a message for its
//!   recipient ([`splice`] inserts, and removes nothing).
//! - What [`decode`] lets through has the form the contract asks for, whatever the bytes were.

#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
pub mod frame;
pub mod keys;
pub mod limits;
pub mod opening;
pub mod server_frame;
pub mod signature;
pub mod signed_bytes;
pub mod splice;
pub mod timestamp;
pub mod upgrade;
pub mod websocket;

pub use keys::PublicKey;
pub use signature::Signature;
pub use timestamp::Timestamp;
