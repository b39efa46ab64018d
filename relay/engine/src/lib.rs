//! The seam between a shard and the kernel, and the engines behind it.
//!
//! An [`Engine`] belongs to one thread. It accepts connections, reads bytes, writes buffers, and
//! reports each through [`Event`]s while [`Engine::poll`] runs; everything else is a call that
//! queues work and returns at once. The three engines behave alike: what one test shows of one, it
//! shows of all.
//!
//! | engine | how |
//! |---|---|
//! | [`ring`] | io_uring through the `io-uring` crate: multishot accept and receive, provided buffers, sends submitted together |
//! | [`tokio_uring`] | io_uring through `tokio-uring`, driven behind the same seam |
//! | [`epoll`] | readiness by epoll, for kernels and containers that forbid io_uring |
//!
//! # Invariants
//! - A connection is read only as far as [`Engine::read`] asked for: accepted and adopted ones
//!   start unread.
//! - At most one write is in flight on a connection; its buffer comes back in [`Event::Written`],
//!   whole, or is dropped by the engine when the connection breaks.
//! - After [`Event::Disconnected`] no further event names the connection; its slot stays taken
//!   until [`Engine::close`].
//! - After [`Engine::close`] no event names the connection, ever: a slot used again has another
//!   generation.
//! - The kernel owns a buffer until its completion, also after cancellation or close.
//!
//! Absent on purpose: framing, timers, TLS, and every decision about what to write.
