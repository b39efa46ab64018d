//! The engine over epoll, for kernels and containers that forbid io_uring.
//!
//! Each socket is registered once, edge-triggered and for everything; what the kernel last told
//! about it is kept here. So asking for bytes, or not asking, costs no system call, and neither
//! does a write that the kernel takes at once: a message in and its answer out cost one `recv` and
//! one `send`, and a share of one `epoll_wait`.
//!
//! One [`Engine::poll`] is one pass:
//! 1. try each queued write once;
//! 2. wait (not at all when work is left over), and note what became ready;
//! 3. try the writes for which there is room again, report those that ended;
//! 4. accept at most 64 connections of each listener;
//! 5. read each readable connection that is to be read once, into one buffer shared by all.
//!
//! # Invariants
//! - An edge comes once. A connection is taken for readable (writable) from its edge until a call
//!   said that there is no more (no more room); one that is ready and has work is in the work
//!   list, exactly once.
//! - No connection is read or written more than once a pass, however much it sends.
//! - Ids in work lists may be stale: they are looked up with their generation.
//! - Sockets are non-blocking while they are here; [`Engine::release`] sets them back.
//!
//! Absent on purpose: `EPOLLONESHOT` and `EPOLL_CTL_MOD`, gathering several buffers into one
//! write (a connection has one in flight), and `EPOLLEXCLUSIVE` (listeners are not shared).

use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use crate::accept_pause::AcceptPause;
use crate::slots::Slots;
use crate::{ConnectionId, Disconnect, Doorbell, Engine, EngineConfig, EngineKind, EngineStats, Event, ReadMode};

use connection::{Connection, Phase};
use selector::{Readiness, Selector};

mod connection;
mod selector;

/// Connections accepted from one listener before others have their turn.
const ACCEPTS_PER_PASS: usize = 64;

/// The index in tokens that name no connection: [`Slots`] never gives it out. The listener's
/// number, or [`DOORBELL`], stands in the place of the generation.
const NO_CONNECTION: u32 = u32::MAX;

/// See [`NO_CONNECTION`].
const DOORBELL: u32 = u32::MAX;

#[derive(Debug)]
struct Listener {
    socket: Socket,
    /// Connections may wait to be accepted.
    ready: bool,
}

/// A write that came to its end and is to be told.
#[derive(Debug)]
enum Ended {
    Written(ConnectionId),
    Failed(ConnectionId, i32),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Epoll {
    selector: Selector,
    doorbell: Arc<Doorbell>,
    connections: Slots<Connection>,
    listeners: Vec<Listener>,
    accept_pause: AcceptPause,
    /// Connections that are readable and to be read.
    reads: Vec<ConnectionId>,
    /// Connections that are writable and have something to write.
    writes: Vec<ConnectionId>,
    /// Writes that ended and have not been told yet.
    ended: Vec<Ended>,
    /// Every read goes here: the sink is done with it when it returns.
    receive_buffer: Vec<u8>,
    /// Receives of one pass.
    pass_completions: usize,
    stats: EngineStats,
}

impl Epoll {
    /// Makes an engine with one receive buffer of `receive_buffer_bytes`; the rest of the
    /// configuration is for rings.
    ///
    /// # Errors
    /// The operating system's, when there are no more descriptors.
    pub fn new(config: &EngineConfig) -> io::Result<Self> {
        let selector = Selector::new()?;
        let doorbell = Doorbell::new()?;
        // Watched by edge, every ring is told without reading it out.
        selector.add(doorbell.fd(), token(ConnectionId { index: NO_CONNECTION, generation: DOORBELL }))?;
        Ok(Self {
            selector,
            doorbell: Arc::new(doorbell),
            connections: Slots::new(),
            listeners: Vec::new(),
            accept_pause: AcceptPause::default(),
            reads: Vec::new(),
            writes: Vec::new(),
            ended: Vec::new(),
            receive_buffer: vec![0; config.receive_buffer_bytes as usize],
            pass_completions: config.pass_completions.max(1),
            stats: EngineStats::default(),
        })
    }

    /// Tries each queued write once.
    fn write_queued(&mut self) {
        for id in self.writes.drain(..) {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.write_queued = false;
            if connection.phase == Phase::Broken || !connection.has_unsent() {
                continue;
            }
            self.stats.submissions += 1;
            match connection.socket.send_with_flags(&connection.buffer[connection.written..], libc::MSG_NOSIGNAL) {
                Ok(count) => {
                    connection.written += count;
                    if connection.has_unsent() {
                        connection.writable = false;
                        continue;
                    }
                    if mem::take(&mut connection.shutdown_follows) {
                        connection.shutdown_write();
                    }
                    self.ended.push(Ended::Written(id));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.writable = false,
                Err(error) => {
                    if connection.break_off() {
                        self.ended.push(Ended::Failed(id, errno(&error)));
                    }
                }
            }
        }
    }

    /// How long to sleep: not at all with work at hand, not past the end of an accept pause.
    fn sleep_limit(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        if !self.ended.is_empty() || !self.reads.is_empty() {
            return Some(Duration::ZERO);
        }
        if !self.listeners.iter().any(|listener| listener.ready) {
            return timeout;
        }
        if self.accept_pause.in_force() { self.accept_pause.cut(timeout) } else { Some(Duration::ZERO) }
    }

    /// Waits, notes what became ready and queues the work that this allows.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stats.enters += 1;
        let count = self.selector.wait(timeout)?;
        self.stats.completions += count as u64;
        for index in 0..count {
            let ready = self.selector.ready(index);
            let id = from_token(ready.token);
            if id.index == NO_CONNECTION {
                if let Some(listener) = self.listeners.get_mut(id.generation as usize) {
                    listener.ready = true;
                }
            } else {
                self.connection_ready(id, ready);
            }
        }
        Ok(())
    }

    fn connection_ready(&mut self, id: ConnectionId, ready: Readiness) {
        // Its socket may be open still, in another process or under another descriptor.
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.readable |= ready.readable;
        connection.writable |= ready.writable;
        connection.ending |= ready.ending;
        connection.queue_read(id, &mut self.reads);
        connection.queue_write(id, &mut self.writes);
    }

    fn tell_ended(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        for ended in self.ended.drain(..) {
            match ended {
                Ended::Written(id) => {
                    let Some(connection) = self.connections.get_mut(id) else { continue };
                    connection.written = 0;
                    let buffer = mem::take(&mut connection.buffer);
                    sink(Event::Written { connection: id, buffer });
                }
                Ended::Failed(id, error) => {
                    if self.connections.get_mut(id).is_some() {
                        sink(Event::Disconnected { connection: id, reason: Disconnect::Error(error) });
                    }
                }
            }
        }
    }

    fn accept(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        for number in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_PASS {
                if !self.listeners[number].ready || self.accept_pause.in_force() {
                    break;
                }
                self.accept_one(number, sink);
            }
        }
    }

    fn accept_one(&mut self, number: usize, sink: &mut dyn FnMut(Event<'_>)) {
        self.stats.submissions += 1;
        let listener = &mut self.listeners[number];
        let accepted = listener.socket.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        match accepted.and_then(|(socket, peer)| Ok((self.register(socket)?, peer))) {
            Ok((connection, peer)) => {
                let peer = peer.as_socket().expect("a TCP listener accepts from internet addresses");
                sink(Event::Accepted { connection, peer });
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.listeners[number].ready = false,
                io::ErrorKind::Interrupted => {}
                _ => {
                    let error = errno(&error);
                    if self.accept_pause.accept_failed(error) {
                        sink(Event::AcceptFailed { error });
                    }
                }
            },
        }
    }

    /// Takes a non-blocking socket into the table and has it watched.
    fn register(&mut self, socket: Socket) -> io::Result<ConnectionId> {
        let id = self.connections.insert(Connection::new(socket));
        let socket = &self.connections.open(id).socket;
        match self.selector.add(socket.as_fd(), token(id)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.connections.remove(id);
                Err(error)
            }
        }
    }

    /// Reads each readable connection that is to be read, once.
    fn receive(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        // What is left over goes behind those of this pass, which are taken out in the end.
        let pass = self.reads.len().min(self.pass_completions);
        for position in 0..pass {
            let id = self.reads[position];
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.read_queued = false;
            let Some(mode) = connection.wanted else { continue };
            self.stats.submissions += 1;
            match io::Read::read(&mut &connection.socket, &mut self.receive_buffer) {
                Ok(0) => {
                    connection.phase = Phase::Ended;
                    connection.wanted = None;
                    sink(Event::Disconnected { connection: id, reason: Disconnect::Eof });
                }
                Ok(count) => {
                    if mode == ReadMode::Once {
                        connection.wanted = None;
                    }
                    // A short read has emptied the socket, which epoll(7) vouches for; an end that
                    // comes later is an edge of its own.
                    connection.readable = count == self.receive_buffer.len() || connection.ending;
                    connection.queue_read(id, &mut self.reads);
                    sink(Event::Received { connection: id, bytes: &mut self.receive_buffer[..count] });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => connection.queue_read(id, &mut self.reads),
                Err(error) => {
                    if connection.break_off() {
                        let reason = Disconnect::Error(errno(&error));
                        sink(Event::Disconnected { connection: id, reason });
                    }
                }
            }
        }
        self.reads.drain(..pass);
    }
}

impl Engine for Epoll {
    fn kind(&self) -> EngineKind {
        EngineKind::Epoll
    }

    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let number = self.listeners.len() as u32;
        self.selector.add(listener.as_fd(), token(ConnectionId { index: NO_CONNECTION, generation: number }))?;
        self.listeners.push(Listener { socket: listener.into(), ready: false });
        Ok(())
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.drain(..) {
            // The owner may keep a duplicate, which would go on to be watched under this number.
            self.selector.remove(listener.socket.as_fd());
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        self.register(socket)
    }

    fn read(&mut self, connection: ConnectionId, mode: ReadMode) {
        let id = connection;
        let connection = self.connections.open(id);
        if connection.phase == Phase::Open {
            connection.wanted = Some(mode);
            connection.queue_read(id, &mut self.reads);
        }
    }

    fn write(&mut self, connection: ConnectionId, buffer: Vec<u8>) {
        let id = connection;
        let connection = self.connections.open(id);
        assert!(!buffer.is_empty(), "write of nothing on {id:?}");
        assert!(connection.buffer.is_empty(), "a write is in flight on {id:?}");
        if connection.phase != Phase::Broken {
            connection.buffer = buffer;
            connection.queue_write(id, &mut self.writes);
        }
    }

    fn shutdown_write(&mut self, connection: ConnectionId) {
        let connection = self.connections.open(connection);
        if connection.has_unsent() {
            connection.shutdown_follows = true;
        } else {
            connection.shutdown_write();
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        // Closing the only descriptor of a socket ends its watch; no other was made here.
        drop(self.connections.remove(connection));
    }

    fn release(&mut self, connection: ConnectionId) -> OwnedFd {
        let id = connection;
        let connection = self.connections.remove(id);
        assert!(connection.wanted.is_none(), "a read is in flight on {id:?}");
        assert!(connection.buffer.is_empty(), "a write is in flight on {id:?}");
        self.selector.remove(connection.socket.as_fd());
        connection.socket.set_nonblocking(false).expect("flags of an open socket can be set");
        connection.socket.into()
    }

    fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.write_queued();
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Duration>, sink: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        self.write_queued();
        let limit = self.sleep_limit(timeout);
        self.wait(limit)?;
        self.write_queued();
        self.tell_ended(sink);
        self.accept(sink);
        self.receive(sink);
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.stats
    }
}

/// Packs an id for the kernel to carry.
fn token(id: ConnectionId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.index)
}

/// Unpacks what [`token`] packed.
fn from_token(token: u64) -> ConnectionId {
    ConnectionId { index: token as u32, generation: (token >> 32) as u32 }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().expect("system calls fail with an errno")
}

#[cfg(test)]
mod tests {
    use super::{ACCEPTS_PER_PASS, Connection, Epoll};
    use crate::slots::Slots;
    use crate::{ConnectionId, Engine, EngineConfig, Event, ReadMode};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

    fn engine(receive_buffer_bytes: u32) -> Epoll {
        Epoll::new(&EngineConfig { receive_buffer_bytes, ..EngineConfig::default() }).unwrap()
    }

    fn adopted(engine: &mut Epoll) -> (UnixStream, ConnectionId) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        (theirs, engine.adopt(ours.into()).unwrap())
    }

    #[test]
    fn a_connection_takes_at_most_one_cache_line() {
        let slot = Slots::<Connection>::SLOT_BYTES;
        assert!(slot <= 64, "{slot}");
    }

    #[test]
    fn a_pass_reads_each_connection_once() {
        let mut engine = engine(4);
        let mut peers = [adopted(&mut engine), adopted(&mut engine)];
        for (theirs, id) in &mut peers {
            theirs.write_all(b"one two thr").unwrap();
            engine.read(*id, ReadMode::Continuous);
        }
        for expected in ["one ", "two ", "thr"] {
            let mut told = Vec::new();
            engine
                .poll(PATIENCE, &mut |event| match event {
                    Event::Received { connection, bytes } => told.push((connection, bytes.to_vec())),
                    other => panic!("{other:?}"),
                })
                .unwrap();
            told.sort();
            assert_eq!(told, peers.each_ref().map(|(_, id)| (*id, expected.as_bytes().to_vec())));
        }
    }

    #[test]
    fn a_pass_accepts_a_bounded_number() {
        let mut engine = engine(64);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _clients: Vec<_> = (0..ACCEPTS_PER_PASS + 6).map(|_| TcpStream::connect(address).unwrap()).collect();
        engine.listen(listener).unwrap();
        for expected in [ACCEPTS_PER_PASS, 6] {
            let mut accepted = 0;
            engine.poll(PATIENCE, &mut |_| accepted += 1).unwrap();
            assert_eq!(accepted, expected);
        }
    }

    #[test]
    fn a_full_socket_is_tried_again_only_when_it_has_room() {
        let mut engine = engine(64);
        let (mut theirs, id) = adopted(&mut engine);
        let poll = |engine: &mut Epoll| {
            let before = engine.stats().submissions;
            engine.poll(Some(Duration::ZERO), &mut |event| panic!("{event:?}")).unwrap();
            engine.stats().submissions - before
        };
        engine.write(id, vec![7; 16 << 20]);
        poll(&mut engine);
        assert_eq!(poll(&mut engine), 0);
        assert_eq!(poll(&mut engine), 0);
        theirs.set_nonblocking(true).unwrap();
        while theirs.read(&mut [0; 4096]).is_ok() {}
        assert_eq!(poll(&mut engine), 1);
    }
}
