//! Scripts of events, and what shards make of them.

mod bounds;
mod history;
mod hostile;
mod inbox;
mod kit;
mod messages;
mod receipts;
mod restart;
mod resume;
mod room_messages;
mod room_storm;
mod rooms;
mod sessions;
mod typing;
