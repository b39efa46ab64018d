//! Tests of the client from outside: the session fed with texts, the front and the command against
//! a small scripted relay.

mod chaos;
mod chat;
mod command;
mod fake_relay;
mod frames;
mod front;
mod inbox;
mod outbox;
mod requests;
mod session;
