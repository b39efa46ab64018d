//! Scripts of events, and what shards make of them.

mod bounds;
mod hostile;
mod inbox;
mod kit;
mod messages;
mod receipts;
mod restart;
mod resume;
mod sessions;
mod typing;
