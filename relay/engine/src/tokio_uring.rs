//! The engine over `tokio-uring`: an async runtime on io_uring, driven from outside. Linux 5.19 or
//! later.
//!
//! The runtime runs only inside calls of the engine. A call such as [`Engine::write`] notes what is
//! to be started; [`Engine::poll`] enters the runtime, spawns one task for each operation, and
//! sleeps in it until one of them has put its outcome into the queue; it leaves the runtime before
//! the outcomes are told.
//!
//! | operation | as a task | ends |
//! |---|---|---|
//! | accept | 16 a listener, spawned again one by one | after one connection |
//! | read | one, spawned again by the engine when the owner wants more | after one read |
//! | write | one | when everything was written |
//! | doorbell | one | never |
//!
//! # What this engine costs
//! - A connection that is being read holds a buffer of 2 KiB while it waits (`tokio-uring`
//!   knows no provided buffers), and a task of some hundred bytes. A longer burst takes several
//!   reads.
//! - Each operation allocates its task. Nothing is multishot.
//! - The runtime sleeps in epoll, which watches the ring: one more system call a pass.
//! - Time limits are rounded up to milliseconds.
//!
//! # Invariants
//! - Every operation started puts exactly one outcome into the queue, and has let go of its socket
//!   and its buffer by then. So a connection without outstanding outcomes has nothing in flight,
//!   and its socket closes, or leaves, at once.
//! - No operation is cancelled, and no future is dropped before its end: a dropped read would
//!   swallow the next bytes, a dropped accept would leak a descriptor. What is in flight is ended
//!   by shutting its socket down.
//! - The ring runs with `COOP_TASKRUN`, so that the kernel does not interrupt the thread for each
//!   completion, and without `DEFER_TASKRUN`, with which it hangs: the driver waits for the ring in
//!   epoll, where deferred work is never run.
//!
//! [`EngineStats::enters`] counts how often the runtime was entered: its system calls are its own.
//!
//! Absent on purpose: pools of registered buffers, and opcodes that `tokio-uring` does not offer:
//! this engine shows what the library does as it is.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::net;

use crate::accept_pause::AcceptPause;
use crate::slots::Slots;
use crate::{ConnectionId, Disconnect, Doorbell, Engine, EngineConfig, EngineKind, EngineStats, Event, ReadMode};

use connection::{Connection, Phase, hung_up, into_fd};
use tasks::{Outcome, Shared};

mod connection;
mod tasks;

/// Bytes of one read at most: each connection that waits for bytes holds a buffer of this size.
/// 10,000 of them: 20 MiB.
const READ_BYTES: u32 = 2 * 1024;

/// Accepts in flight on each listener, so that a burst of connections takes a share of the passes.
const ACCEPTS_IN_FLIGHT: usize = 16;

/// How long dropping the engine waits for operations whose sockets were shut down.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

struct Listener {
    /// Shared with the tasks that accept.
    socket: Rc<net::TcpListener>,
    accepts_in_flight: usize,
}

/// See the [module](self). No other runtime may be entered on the thread while it is polled.
pub struct TokioUring {
    /// Leaked, not dropped, when the kernel does not let go of buffers (see `Drop`).
    runtime: ManuallyDrop<tokio_uring::Runtime>,
    shared: Rc<Shared>,
    doorbell: Arc<Doorbell>,
    connections: Slots<Connection>,
    listeners: Vec<Listener>,
    accept_pause: AcceptPause,
    /// Writes that the next pass starts.
    writes: Vec<(ConnectionId, Vec<u8>)>,
    /// Reads that the next pass starts.
    reads: Vec<ConnectionId>,
    /// Operations started whose outcomes have not been taken out of the queue.
    in_flight: usize,
    /// Read buffers that are in no operation.
    buffers: Vec<Vec<u8>>,
    buffer_bytes: usize,
    buffers_kept_max: usize,
    stats: EngineStats,
}

impl fmt::Debug for TokioUring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioUring")
            .field("in_flight", &self.in_flight)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl TokioUring {
    /// Makes an engine for the calling thread. Reads take at most `receive_buffer_bytes`, and not
    /// more than 2 KiB; at most `receive_buffers` idle buffers are kept.
    ///
    /// # Errors
    /// The operating system's: `EPERM` or `ENOSYS` where io_uring is forbidden, `EINVAL` before
    /// Linux 5.19 or for sizes out of range, `ENOMEM` where locked memory is short.
    pub fn new(config: &EngineConfig) -> io::Result<Self> {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_coop_taskrun().setup_cqsize(config.completion_entries);
        let runtime =
            tokio_uring::Runtime::new(tokio_uring::builder().entries(config.submission_entries).uring_builder(&ring))?;
        let doorbell = Arc::new(Doorbell::new()?);
        let shared = Rc::new(Shared::default());
        runtime.block_on(async {
            // SAFETY: the eventfd stays open, and the same, as long as the doorbell exists, which
            // the `AsyncFd` keeps alive.
            let watched = unsafe { AsyncFd::register_with_interest(Arc::clone(&doorbell), Interest::READABLE) }?;
            tokio_uring::spawn(tasks::watch_doorbell(watched, Rc::clone(&shared)));
            io::Result::Ok(())
        })?;
        Ok(Self {
            runtime: ManuallyDrop::new(runtime),
            shared,
            doorbell,
            connections: Slots::new(),
            listeners: Vec::new(),
            accept_pause: AcceptPause::default(),
            writes: Vec::new(),
            reads: Vec::new(),
            in_flight: 0,
            buffers: Vec::new(),
            buffer_bytes: config.receive_buffer_bytes.min(READ_BYTES) as usize,
            buffers_kept_max: usize::from(config.receive_buffers),
            stats: EngineStats::default(),
        })
    }

    /// Enters the runtime: starts what is queued, then waits for an outcome, the doorbell or the
    /// limit.
    fn run(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let accepting = !self.accept_pause.in_force();
        let limit = if accepting { limit } else { self.accept_pause.cut(limit) };
        let Self { runtime, shared, connections, listeners, writes, reads, buffers, .. } = self;
        let mut started = 0;
        let result = runtime.block_on(async {
            // Answers first: peers wait for them while the reads are prepared.
            for (id, buffer) in writes.drain(..) {
                let Some(stream) = stream(connections, id) else { continue };
                started += 1;
                tokio_uring::spawn(tasks::write(stream, id, buffer, Rc::clone(shared)));
            }
            for id in reads.drain(..) {
                let Some(stream) = stream(connections, id) else { continue };
                started += 1;
                let buffer = buffers.pop().unwrap_or_else(|| Vec::with_capacity(self.buffer_bytes));
                tokio_uring::spawn(tasks::read(stream, id, buffer, Rc::clone(shared)));
            }
            if accepting {
                for (number, listener) in listeners.iter_mut().enumerate() {
                    while listener.accepts_in_flight < ACCEPTS_IN_FLIGHT {
                        listener.accepts_in_flight += 1;
                        started += 1;
                        tokio_uring::spawn(tasks::accept(Rc::clone(&listener.socket), number, Rc::clone(shared)));
                    }
                }
            }
            // The runtime hands entries to the kernel only when it has nothing else to do, and a
            // pass that finds outcomes waiting leaves before. The completion of an operation that
            // does nothing shows that everything was handed over, and that the completions at hand
            // were taken. Tasks begin in the order of their spawning, so this one is the last.
            if started > 0 || limit == Some(Duration::ZERO) {
                tokio_uring::spawn(tokio_uring::no_op()).await.map_err(io::Error::other)??;
            }
            let news = shared.wait_until(|shared| shared.rung.take() || !shared.outcomes.borrow().is_empty());
            match limit {
                None => news.await,
                Some(Duration::ZERO) => {}
                // Nothing is lost if the limit comes first: only the looking ends.
                Some(limit) => drop(tokio::time::timeout(limit, news).await),
            }
            Ok(())
        });
        self.in_flight += started;
        self.stats.enters += 1;
        self.stats.submissions += started as u64;
        result
    }

    fn take_outcome(&mut self) -> Option<Outcome> {
        let outcome = self.shared.outcomes.borrow_mut().pop_front()?;
        self.in_flight -= 1;
        self.stats.completions += 1;
        Some(outcome)
    }

    fn handle_accepted(
        &mut self,
        listener: usize,
        result: io::Result<(net::TcpStream, SocketAddr)>,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        self.listeners[listener].accepts_in_flight -= 1;
        match result {
            Ok((stream, peer)) => {
                let connection = self.connections.insert(Connection::new(stream));
                sink(Event::Accepted { connection, peer });
            }
            Err(error) => {
                let error = errno(&error);
                // Others that were in flight fail of the same cause.
                if self.accept_pause.accept_failed(error) {
                    sink(Event::AcceptFailed { error });
                }
            }
        }
    }

    fn handle_read(
        &mut self,
        id: ConnectionId,
        result: io::Result<usize>,
        mut buffer: Vec<u8>,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.reading = false;
            match result {
                _ if connection.phase != Phase::Open => {}
                // The kernel tells an error once. The write may have met it, and the outcome of a
                // failed write comes late.
                Ok(0) if connection.writing && hung_up(&connection.stream) => connection.end_follows = true,
                Ok(0) => disconnect(id, connection, Disconnect::Eof, sink),
                Ok(count) => {
                    if connection.wanted == Some(ReadMode::Continuous) {
                        connection.reading = true;
                        self.reads.push(id);
                    } else {
                        connection.wanted = None;
                    }
                    sink(Event::Received { connection: id, bytes: &mut buffer[..count] });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    connection.reading = true;
                    self.reads.push(id);
                }
                Err(error) => disconnect(id, connection, Disconnect::Error(errno(&error)), sink),
            }
        }
        if self.buffers.len() < self.buffers_kept_max {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    fn handle_written(
        &mut self,
        id: ConnectionId,
        result: io::Result<()>,
        buffer: Vec<u8>,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.writing = false;
        match (connection.phase, result) {
            (Phase::Broken, _) => {}
            (Phase::Open | Phase::Ended, Ok(())) => {
                if connection.shutdown_follows {
                    connection.shutdown(Shutdown::Write);
                }
                sink(Event::Written { connection: id, buffer });
                if connection.end_follows && connection.phase == Phase::Open {
                    disconnect(id, connection, Disconnect::Eof, sink);
                }
            }
            (Phase::Ended, Err(_)) => connection.phase = Phase::Broken,
            (Phase::Open, Err(error)) => disconnect(id, connection, Disconnect::Error(errno(&error)), sink),
        }
    }
}

impl Engine for TokioUring {
    fn kind(&self) -> EngineKind {
        EngineKind::TokioUring
    }

    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        // A blocking socket: the kernel then waits for connections instead of answering EAGAIN.
        listener.set_nonblocking(false)?;
        let socket = Rc::new(net::TcpListener::from_std(listener));
        self.listeners.push(Listener { socket, accepts_in_flight: 0 });
        Ok(())
    }

    /// Shuts the listening sockets down, which holds for duplicates of their descriptors too, and
    /// enters the runtime until they are closed. Connections accepted but not told are closed.
    fn stop_listening(&mut self) {
        for listener in &self.listeners {
            // SAFETY: the listener is borrowed, and keeps its descriptor open, for longer.
            let socket = unsafe { BorrowedFd::borrow_raw(listener.socket.as_raw_fd()) };
            // It fails only on a socket that does not listen, where accepting fails too.
            let _ = SockRef::from(&socket).shutdown(Shutdown::Read);
        }
        let Self { runtime, shared, listeners, .. } = self;
        let unused = |_: &Shared| listeners.iter().all(|listener| Rc::strong_count(&listener.socket) == 1);
        runtime.block_on(shared.wait_until(unused));
        listeners.clear();
        let mut outcomes = shared.outcomes.borrow_mut();
        let before = outcomes.len();
        outcomes.retain(|outcome| !matches!(outcome, Outcome::Accepted { .. }));
        self.in_flight -= before - outcomes.len();
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        let socket = std::net::TcpStream::from(socket);
        // As for the listener; the engine it comes from may have wanted it otherwise.
        socket.set_nonblocking(false)?;
        Ok(self.connections.insert(Connection::new(net::TcpStream::from_std(socket))))
    }

    fn read(&mut self, connection: ConnectionId, mode: ReadMode) {
        let id = connection;
        let connection = self.connections.open(id);
        if connection.phase != Phase::Open {
            return;
        }
        connection.wanted = Some(mode);
        if !connection.reading {
            connection.reading = true;
            self.reads.push(id);
        }
    }

    fn write(&mut self, connection: ConnectionId, buffer: Vec<u8>) {
        let id = connection;
        let connection = self.connections.open(id);
        assert!(!connection.writing, "a write is in flight on {id:?}");
        assert!(!buffer.is_empty(), "write of nothing on {id:?}");
        if connection.phase != Phase::Broken {
            connection.writing = true;
            self.writes.push((id, buffer));
        }
    }

    fn shutdown_write(&mut self, connection: ConnectionId) {
        let connection = self.connections.open(connection);
        if connection.writing {
            connection.shutdown_follows = true;
        } else {
            connection.shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        self.connections.remove(connection).close();
    }

    fn release(&mut self, connection: ConnectionId) -> OwnedFd {
        let id = connection;
        let connection = self.connections.remove(id);
        assert!(!connection.reading, "a read is in flight on {id:?}");
        assert!(!connection.writing, "a write is in flight on {id:?}");
        into_fd(connection.stream)
    }

    fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.run(Some(Duration::ZERO))
    }

    fn poll(&mut self, timeout: Option<Duration>, sink: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        self.run(timeout)?;
        // Whoever rang is answered by the return of this call.
        self.shared.rung.set(false);
        while let Some(outcome) = self.take_outcome() {
            match outcome {
                Outcome::Accepted { listener, result } => self.handle_accepted(listener, result, sink),
                Outcome::Read { connection, result, buffer } => self.handle_read(connection, result, buffer, sink),
                Outcome::Written { connection, result, buffer } => {
                    self.handle_written(connection, result, buffer, sink);
                }
            }
        }
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }
}

impl Drop for TokioUring {
    /// Ends what is in flight first: the runtime, dropped with operations in flight, frees their
    /// buffers before the kernel is done with them.
    fn drop(&mut self) {
        self.stop_listening();
        self.writes.clear();
        self.reads.clear();
        for connection in self.connections.drain() {
            connection.close();
        }
        let deadline = Instant::now() + DROP_PATIENCE;
        loop {
            while self.take_outcome().is_some() {}
            if self.in_flight == 0 {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.run(Some(left)).is_err() {
                // Memory lost is better than memory corrupted.
                return;
            }
        }
        // SAFETY: nothing uses the field after this.
        unsafe { ManuallyDrop::drop(&mut self.runtime) };
    }
}

/// The stream of a connection that was not closed since.
fn stream(connections: &mut Slots<Connection>, id: ConnectionId) -> Option<Rc<net::TcpStream>> {
    Some(Rc::clone(&connections.get_mut(id)?.stream))
}

/// Tells that an open connection has ended.
fn disconnect(id: ConnectionId, connection: &mut Connection, reason: Disconnect, sink: &mut dyn FnMut(Event<'_>)) {
    connection.wanted = None;
    connection.phase = match reason {
        Disconnect::Eof => Phase::Ended,
        Disconnect::Error(_) => Phase::Broken,
    };
    sink(Event::Disconnected { connection: id, reason });
}

/// The error's number. `tokio-uring` makes one error without: when a write takes nothing.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EPIPE)
}

#[cfg(test)]
mod tests {
    use super::{TokioUring, tasks};
    use crate::{ConnectionId, Engine, EngineConfig, ReadMode};
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio_uring::net;

    fn engine() -> TokioUring {
        let config = EngineConfig {
            submission_entries: 64,
            completion_entries: 256,
            receive_buffers: 4,
            receive_buffer_bytes: 4096,
            ..EngineConfig::default()
        };
        TokioUring::new(&config).unwrap()
    }

    fn adopted(engine: &mut TokioUring) -> (UnixStream, ConnectionId) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let id = engine.adopt(ours.into()).unwrap();
        (theirs, id)
    }

    /// More operations than the runtime runs tasks for before it looks around.
    #[test]
    fn a_submit_hands_over_everything() {
        let mut engine = engine();
        let peers: Vec<_> = (0..200).map(|_| adopted(&mut engine)).collect();
        for (_, id) in &peers {
            engine.write(*id, b"x".to_vec());
        }
        engine.submit().unwrap();
        for (theirs, _) in &peers {
            assert_eq!((&mut &*theirs).read(&mut [0; 2]).unwrap(), 1);
        }
    }

    #[test]
    fn few_idle_buffers_are_kept() {
        let mut engine = engine();
        let peers: Vec<_> = (0..20).map(|_| adopted(&mut engine)).collect();
        for (_, id) in &peers {
            engine.read(*id, ReadMode::Once);
        }
        engine.submit().unwrap();
        let ids: Vec<_> = peers.into_iter().map(|(_closed, id)| id).collect();
        let mut ended = 0;
        while ended < ids.len() {
            engine.poll(Some(Duration::from_secs(20)), &mut |_| ended += 1).unwrap();
        }
        assert_eq!(engine.buffers.len(), 4);
        assert!(engine.buffers.iter().all(|buffer| buffer.is_empty() && buffer.capacity() == 2048));
    }

    #[test]
    fn a_ring_is_answered_once() {
        let mut engine = engine();
        engine.doorbell().wake();
        while !engine.shared.rung.get() {
            engine.submit().unwrap();
        }
        engine.poll(Some(Duration::ZERO), &mut |_| {}).unwrap();
        assert!(!engine.shared.rung.get());
    }

    #[test]
    fn a_waiting_read_is_a_small_task() {
        let mut engine = engine();
        let (_theirs, id) = adopted(&mut engine);
        let stream: Rc<net::TcpStream> = Rc::clone(&engine.connections.open(id).stream);
        let task = tasks::read(stream, id, Vec::new(), Rc::clone(&engine.shared));
        assert!(size_of_val(&task) <= 256, "{}", size_of_val(&task));
    }
}
