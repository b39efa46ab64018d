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

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub mod doorbell;
pub mod epoll;
pub mod ring;
pub mod socket;
pub mod tokio_uring;

mod accept_pause;
mod slots;

pub use doorbell::Doorbell;
pub use socket::{SocketOptions, connect_start, listen};

/// Names one connection of one engine. The index is dense and used again; the generation tells the
/// uses apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Slot in the engine's table, small and dense.
    pub index: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.index, self.generation)
    }
}

/// Why the kernel gave a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The peer closed its sending side: end of file.
    Eof,
    /// Reading or writing failed with this `errno`.
    Error(i32),
}

/// How far a connection is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// One [`Event::Received`], then no read is in flight until the next call of
    /// [`Engine::read`]. A connection in this mode can be released between the two.
    Once,
    /// Every byte as it comes, until the connection ends.
    Continuous,
}

/// What happened at the kernel, told while [`Engine::poll`] runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A connection was accepted. Nothing is read before [`Engine::read`].
    Accepted {
        /// The new connection.
        connection: ConnectionId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// Accepting failed with this `errno`. The engine goes on by itself, after a pause when the
    /// process or the system is out of descriptors or memory.
    AcceptFailed {
        /// The `errno` of accept.
        error: i32,
    },
    /// Bytes arrived. The engine owns the buffer and takes it back when the sink returns; the sink
    /// may write into it (unmasking is done in place).
    Received {
        /// The connection.
        connection: ConnectionId,
        /// What arrived: never empty.
        bytes: &'a mut [u8],
    },
    /// A whole buffer given to [`Engine::write`] has been taken by the kernel.
    Written {
        /// The connection.
        connection: ConnectionId,
        /// The buffer, with its contents as they were given.
        buffer: Vec<u8>,
    },
    /// The connection broke or the peer closed it. No further event names it; call
    /// [`Engine::close`] to free the slot. After an end of file writing may still be possible
    /// (the peer may have closed one direction only), and [`Event::Written`] may still come.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: Disconnect,
    },
}

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Submission queue entries of the ring (a power of two).
    pub submission_entries: u32,
    /// Completion queue entries of the ring (a power of two): room for one burst of all
    /// connections.
    pub completion_entries: u32,
    /// How many receive buffers are shared by all connections (a power of two, at most 32,768).
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: u32,
    /// Completions after which [`Engine::poll`] returns, though there are more (epoll: receives).
    /// Fewer let the caller act between them, more make larger batches.
    pub pass_completions: usize,
}

impl Default for EngineConfig {
    /// 512 buffers of 16 KiB: 8 MiB a shard, of which only pages ever written count.
    fn default() -> Self {
        Self {
            submission_entries: 4096,
            completion_entries: 32_768,
            receive_buffers: 512,
            receive_buffer_bytes: 16 * 1024,
            pass_completions: 1024,
        }
    }
}

/// Counts since the engine was made. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// System calls that entered the kernel to submit or to wait.
    pub enters: u64,
    /// Operations submitted (or made, for epoll).
    pub submissions: u64,
    /// Completions handled (or ready events, for epoll).
    pub completions: u64,
    /// Times the completion queue overflowed into the kernel's list. Ring engines only.
    pub completion_overflows: u64,
    /// Times a receive found no free buffer and had to be armed again. Ring engines only.
    pub buffer_shortages: u64,
}

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// [`ring::Ring`].
    Ring,
    /// [`tokio_uring::TokioUring`].
    TokioUring,
    /// [`epoll::Epoll`].
    Epoll,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// One thread's way to the kernel. See the module for the invariants.
///
/// An engine is made on the thread that polls it and never leaves it. Dropping an engine closes
/// all its connections and waits for what the kernel still holds.
///
/// # Panics
/// Every method that takes a [`ConnectionId`] panics when it names no open connection of this
/// engine: the id was closed or released before, or belongs to another engine.
pub trait Engine {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// Starts to accept from a listening socket, any number of them. Options set on the listener
    /// (`TCP_NODELAY`, buffer sizes, user timeout) are inherited by accepted connections.
    ///
    /// # Errors
    /// The operating system's, when the listener cannot be registered.
    fn listen(&mut self, listener: TcpListener) -> io::Result<()>;

    /// Stops accepting and closes the listeners.
    fn stop_listening(&mut self);

    /// Takes over a stream socket, connected or still connecting (see [`connect_start`]). Nothing
    /// is read before [`Engine::read`]; a write waits for the connection.
    ///
    /// # Errors
    /// The operating system's, when the socket cannot be registered; the socket is then closed.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId>;

    /// Asks for bytes. `Once` arms one receive; `Continuous` keeps receiving. Asking again while a
    /// receive is in flight changes the mode from the next receive on.
    fn read(&mut self, connection: ConnectionId, mode: ReadMode);

    /// Writes all of `buffer`, however many system calls that takes. Queued until the next
    /// [`Engine::poll`] or [`Engine::submit`].
    ///
    /// # Panics
    /// If a write is already in flight on this connection, or the buffer is empty.
    fn write(&mut self, connection: ConnectionId, buffer: Vec<u8>);

    /// Closes the sending side once the write in flight, if any, is done.
    fn shutdown_write(&mut self, connection: ConnectionId);

    /// Gives the connection up: ends reads and writes in flight, closes the socket once the kernel
    /// holds none of its buffers, and forgets the id at once.
    fn close(&mut self, connection: ConnectionId);

    /// Takes the socket out of the engine, to be adopted by another one.
    ///
    /// # Panics
    /// If a read or a write is in flight on it. In [`ReadMode::Once`] none is after
    /// [`Event::Received`].
    fn release(&mut self, connection: ConnectionId) -> OwnedFd;

    /// The doorbell that ends a sleep in [`Engine::poll`] from another thread.
    fn doorbell(&self) -> Arc<Doorbell>;

    /// Submits what is queued and does not wait.
    ///
    /// # Errors
    /// The operating system's: the engine can no longer be used.
    fn submit(&mut self) -> io::Result<()>;

    /// Submits what is queued, waits until something happens, the doorbell rings or `timeout` has
    /// passed (`None`: no limit; zero: does not wait), and gives the sink every event at hand. May
    /// return early without events.
    ///
    /// The caller tells the doorbell about its sleep: see [`doorbell`].
    ///
    /// # Errors
    /// The operating system's: the engine can no longer be used.
    fn poll(&mut self, timeout: Option<Duration>, sink: &mut dyn FnMut(Event<'_>)) -> io::Result<()>;

    /// Counts since the engine was made.
    fn stats(&self) -> EngineStats;
}
