//! The io_uring engine: one ring a thread, Linux 6.1 or later.
//!
//! # Flow
//! Calls queue entries; [`poll`](crate::Engine::poll) submits them together and waits in one system
//! call, then handles completions until none are at hand:
//!
//! | operation | as | ends |
//! |---|---|---|
//! | accept | multishot | when descriptors run out (paused for 100 ms), or stopped |
//! | receive, [`ReadMode::Continuous`] | multishot, kernel picks the buffer | without a free buffer, or when the queue overflows; armed again |
//! | receive, [`ReadMode::Once`] | single, kernel picks the buffer | after its event |
//! | send | single, the rest queued again after a short one | all sent or failed |
//! | doorbell | multishot poll; the eventfd is never read, each ring is an edge | never |
//!
//! The ring is made with `SINGLE_ISSUER` and `DEFER_TASKRUN`: the kernel does its part of the work
//! only inside our system calls, in batches, without interrupting this thread; and with
//! `TASKRUN_FLAG`, so that a poll that must not wait and finds nothing costs no system call at all.
//!
//! | module | subject |
//! |---|---|
//! | `queue` | submission, completion, the system call |
//! | `buffers` | receive buffers offered to the kernel |
//! | `listeners` | multishot accepts, their pauses and their end |
//! | `table` | connections and their slots |
//! | `tag` | what each operation carries through the kernel |
//! | `probe` | whether all this works here |
//!
//! # Invariants
//! - At most one receive and one send are in flight on a connection, so bytes keep their order.
//! - A closed connection stays in its slot, its buffer and descriptor with it, until its last
//!   completion: the kernel never writes or reads freed memory, and a descriptor number is not used
//!   again while an entry names it.
//! - Receive buffers go back to the kernel before `poll` returns: a shortage lasts one pass.
//! - From [`ReadMode::Continuous`] back to [`ReadMode::Once`], everything that arrives before the
//!   kernel has stopped receiving is told in one [`Event::Received`] (copied together): the promise
//!   of `Once` holds.
//!
//! Absent on purpose: registered files (a hand-over would have to take them out of the ring's
//! table), zero-copy sends (frames are small, and each would complete twice), `SQPOLL` (a second
//! busy thread for every shard).

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, mem, ptr};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use socket2::SockRef;

use crate::{ConnectionId, Disconnect, Doorbell, Engine, EngineConfig, EngineKind, EngineStats, Event, ReadMode};

use buffers::Buffers;
use listeners::Listeners;
use queue::{Queue, Wait};
use table::{Connection, Phase, Receiving, Table};
use tag::{Operation, Tag};

pub use probe::probe;

mod buffers;
mod listeners;
mod probe;
mod queue;
mod table;
mod tag;

/// How long dropping an engine waits for the kernel to let go of its buffers.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// The io_uring engine. See the module.
pub struct Ring {
    queue: Queue,
    /// Leaked, not dropped, when the kernel does not let go (see `Drop`).
    buffers: mem::ManuallyDrop<Buffers>,
    table: Table,
    listeners: Listeners,
    /// Connections whose receive found no free buffer in this pass.
    starved: Vec<ConnectionId>,
    /// What arrived while a multishot receive is being cancelled; see [`Receiving::Cancelled`].
    gathered: HashMap<ConnectionId, Vec<u8>>,
    doorbell: Arc<Doorbell>,
    /// One pass asks the kernel for more completions only until it has handled this many: the rest
    /// waits until the caller has looked at its queues. Newer kernels hand out some 20 at a time, too
    /// few for a batch.
    pass_completions: usize,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("in_flight", &self.queue.in_flight())
            .field("stats", &self.queue.stats())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes an engine for the calling thread.
    ///
    /// # Errors
    /// The kernel's, unchanged (see [`probe()`]); `InvalidInput` or `EINVAL` for sizes out of range.
    pub fn new(config: &EngineConfig) -> io::Result<Self> {
        let doorbell = Arc::new(Doorbell::new()?);
        let queue = Queue::new(config.submission_entries, config.completion_entries)?;
        let buffers = Buffers::new(&queue.submitter(), config.receive_buffers, config.receive_buffer_bytes)?;
        let mut ring = Self {
            queue,
            buffers: mem::ManuallyDrop::new(buffers),
            table: Table::new(),
            listeners: Listeners::default(),
            starved: Vec::new(),
            gathered: HashMap::new(),
            doorbell,
            pass_completions: config.pass_completions.max(1),
        };
        ring.watch_doorbell();
        ring.queue.enter(Wait::SubmitOnly)?;
        Ok(ring)
    }

    fn watch_doorbell(&mut self) {
        let entry = opcode::PollAdd::new(Fd(self.doorbell.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Tag::anonymous(Operation::Doorbell).pack());
        // SAFETY: the entry points to no memory, and the doorbell's descriptor stays open as long
        // as the engine holds it: until after the last completion (`Drop`).
        unsafe { self.queue.push(entry) };
    }

    /// Arms the receive that is wanted, if any. None may be in flight.
    fn receive(&mut self, id: ConnectionId) {
        let connection = self.table.in_flight(id);
        debug_assert_eq!(connection.receiving, Receiving::No);
        let fd = Fd(connection.socket.as_raw_fd());
        let entry = match connection.wanted {
            None => return,
            Some(ReadMode::Once) => {
                connection.receiving = Receiving::Single;
                opcode::Recv::new(fd, ptr::null_mut(), self.buffers.bytes())
                    .buf_group(buffers::GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
            Some(ReadMode::Continuous) => {
                connection.receiving = Receiving::Multi;
                opcode::RecvMulti::new(fd, buffers::GROUP).build()
            }
        };
        let entry = entry.user_data(tag(Operation::Receive, id).pack());
        // SAFETY: the kernel writes into registered buffers, which outlive every receive, and the
        // slot keeps the descriptor open until the last completion.
        unsafe { self.queue.push(entry) };
    }

    /// Queues the unsent rest of the connection's buffer.
    fn send(&mut self, id: ConnectionId) {
        let connection = self.table.in_flight(id);
        let rest = &connection.buffer[connection.written..];
        // One send carries at most what its length field and its result can say; what is beyond
        // goes with the next.
        let length = rest.len().min(i32::MAX as usize) as u32;
        let entry = opcode::Send::new(Fd(connection.socket.as_raw_fd()), rest.as_ptr(), length)
            // Without `MSG_WAITALL`: that would spare a completion for each short send, but a reset
            // in the middle would be answered by the count sent so far, and the receive, which
            // finds the error taken, would see an end of file.
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(tag(Operation::Send, id).pack());
        // SAFETY: the slot keeps the buffer, unchanged, and the descriptor until the last
        // completion; the bytes are on the heap and do not move with the slot.
        unsafe { self.queue.push(entry) };
    }

    fn handle_completion(&mut self, entry: &cqueue::Entry, sink: &mut dyn FnMut(Event<'_>)) {
        let tag = Tag::unpack(entry.user_data());
        let id = ConnectionId { index: tag.index, generation: tag.generation };
        match tag.operation {
            Operation::Receive => self.handle_received(id, entry, sink),
            Operation::Send => self.handle_sent(id, entry.result(), sink),
            Operation::Accept => {
                self.listeners.handle_accepted(tag.index as usize, entry, &mut self.queue, &mut self.table, sink);
            }
            Operation::Doorbell => {
                if !cqueue::more(entry.flags()) {
                    self.watch_doorbell();
                }
            }
            Operation::Cancel => {}
        }
    }

    fn handle_received(&mut self, id: ConnectionId, entry: &cqueue::Entry, sink: &mut dyn FnMut(Event<'_>)) {
        let connection = self.table.in_flight(id);
        let phase = connection.phase;
        let gathering = connection.receiving == Receiving::Cancelled;
        let ended = !cqueue::more(entry.flags());
        if ended {
            connection.receiving = Receiving::No;
        }
        let filled = usize::try_from(entry.result()).unwrap_or(0);
        if let Some(buffer) = cqueue::buffer_select(entry.flags()) {
            if phase == Phase::Open && filled > 0 {
                if ended && connection.wanted == Some(ReadMode::Once) {
                    connection.wanted = None;
                }
                let bytes = self.buffers.filled(buffer, filled);
                if gathering {
                    self.gathered.entry(id).or_default().extend_from_slice(bytes);
                } else {
                    sink(Event::Received { connection: id, bytes });
                }
            }
            self.buffers.give_back(buffer);
        }
        if !ended {
            return;
        }
        if gathering {
            self.tell_gathered(id, phase, sink);
        }
        match phase {
            Phase::Closing => self.free_if_done(id),
            Phase::Ended | Phase::Broken => {}
            Phase::Open => match entry.result() {
                0 => self.disconnect(id, Disconnect::Eof, sink),
                1.. => self.receive(id),
                error => match -error {
                    libc::ENOBUFS => {
                        self.queue.count_shortage();
                        self.starved.push(id);
                    }
                    libc::EINTR => self.receive(id),
                    libc::ECANCELED if gathering => self.receive(id),
                    errno => self.disconnect(id, Disconnect::Error(errno), sink),
                },
            },
        }
    }

    /// Tells as one event what came in while a receive was being cancelled.
    fn tell_gathered(&mut self, id: ConnectionId, phase: Phase, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(mut bytes) = self.gathered.remove(&id) else {
            return;
        };
        if phase != Phase::Open {
            return;
        }
        let connection = self.table.in_flight(id);
        if connection.wanted == Some(ReadMode::Once) {
            connection.wanted = None;
        }
        sink(Event::Received { connection: id, bytes: &mut bytes });
    }

    fn handle_sent(&mut self, id: ConnectionId, result: i32, sink: &mut dyn FnMut(Event<'_>)) {
        let connection = self.table.in_flight(id);
        connection.written += usize::try_from(result).unwrap_or(0);
        let retry = result > 0 || result == -libc::EINTR;
        let open = matches!(connection.phase, Phase::Open | Phase::Ended);
        if open && retry && connection.written < connection.buffer.len() {
            self.send(id);
            return;
        }
        connection.sending = false;
        let buffer = mem::take(&mut connection.buffer);
        match connection.phase {
            Phase::Closing => self.free_if_done(id),
            Phase::Broken => {}
            Phase::Open | Phase::Ended if connection.written == buffer.len() => {
                if connection.shutdown_follows {
                    shut_down(&connection.socket, Shutdown::Write);
                }
                sink(Event::Written { connection: id, buffer });
            }
            Phase::Open => {
                // A send of something never sends nothing; should it, the pipe is as good as
                // broken.
                let errno = if result < 0 { -result } else { libc::EPIPE };
                self.disconnect(id, Disconnect::Error(errno), sink);
            }
            Phase::Ended => connection.phase = Phase::Broken,
        }
    }

    /// Tells that an open connection has ended.
    fn disconnect(&mut self, id: ConnectionId, reason: Disconnect, sink: &mut dyn FnMut(Event<'_>)) {
        let connection = self.table.in_flight(id);
        connection.wanted = None;
        connection.phase = match reason {
            Disconnect::Eof => Phase::Ended,
            Disconnect::Error(_) => Phase::Broken,
        };
        sink(Event::Disconnected { connection: id, reason });
    }

    fn free_if_done(&mut self, id: ConnectionId) {
        if !self.table.in_flight(id).in_flight() {
            self.gathered.remove(&id);
            self.table.remove(id);
        }
    }

    /// Ends what the kernel does for this engine. Whether it has let go of all memory.
    fn wind_up(&mut self) -> bool {
        self.queue.cancel_all();
        let deadline = Instant::now() + DROP_PATIENCE;
        loop {
            while let Some(entry) = self.queue.next() {
                if Tag::unpack(entry.user_data()).operation == Operation::Accept {
                    // Nobody will see it.
                    drop(listeners::accepted(&entry));
                }
            }
            if self.queue.in_flight() == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.queue.enter(Wait::One(Some(left))).is_err() {
                return false;
            }
        }
    }
}

impl Engine for Ring {
    fn kind(&self) -> EngineKind {
        EngineKind::Ring
    }

    /// The kernel reads the limit of descriptors when an accept is armed: raise it before.
    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.listeners.start(listener, &mut self.queue)
    }

    /// Connections that the kernel accepted but that were not told yet are closed; the listeners
    /// themselves close at the latest in the next `poll`.
    fn stop_listening(&mut self) {
        self.listeners.stop(&mut self.queue);
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        let socket = TcpStream::from(socket);
        // As for the listener; the engine it comes from may have wanted it otherwise.
        socket.set_nonblocking(false)?;
        Ok(self.table.insert(socket.into()))
    }

    fn read(&mut self, id: ConnectionId, mode: ReadMode) {
        let connection = self.table.open(id);
        if connection.phase != Phase::Open {
            return;
        }
        connection.wanted = Some(mode);
        match connection.receiving {
            Receiving::No => self.receive(id),
            Receiving::Multi if mode == ReadMode::Once => {
                connection.receiving = Receiving::Cancelled;
                self.queue.cancel(tag(Operation::Receive, id));
            }
            Receiving::Single | Receiving::Multi | Receiving::Cancelled => {}
        }
    }

    fn write(&mut self, id: ConnectionId, buffer: Vec<u8>) {
        let connection = self.table.open(id);
        assert!(!connection.sending, "{id:?} already has a write in flight");
        assert!(!buffer.is_empty(), "an empty buffer written to {id:?}");
        if connection.phase == Phase::Broken {
            return;
        }
        connection.buffer = buffer;
        connection.written = 0;
        connection.sending = true;
        self.send(id);
    }

    fn shutdown_write(&mut self, id: ConnectionId) {
        let connection = self.table.open(id);
        if connection.sending {
            connection.shutdown_follows = true;
        } else {
            shut_down(&connection.socket, Shutdown::Write);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let connection = self.table.open(id);
        connection.phase = Phase::Closing;
        connection.wanted = None;
        if connection.in_flight() {
            // Ends what is in flight; an entry not submitted yet ends as soon as it is.
            shut_down(&connection.socket, Shutdown::Both);
        } else {
            self.table.remove(id);
        }
    }

    fn release(&mut self, id: ConnectionId) -> OwnedFd {
        let connection = self.table.open(id);
        assert!(!connection.in_flight(), "{id:?} has a read or a write in flight");
        self.table.remove(id).socket
    }

    fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.queue.enter(Wait::SubmitOnly)
    }

    fn poll(&mut self, timeout: Option<Duration>, sink: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let timeout = self.listeners.resume(timeout, &mut self.queue);
        if timeout != Some(Duration::ZERO) && !self.queue.has_completions() {
            self.queue.enter(Wait::One(timeout))?;
        } else if self.queue.has_work() {
            self.queue.enter(Wait::Collect)?;
        }
        let mut handled = 0;
        loop {
            let before = handled;
            while handled < self.pass_completions
                && let Some(entry) = self.queue.next()
            {
                self.handle_completion(&entry, sink);
                handled += 1;
            }
            self.buffers.publish();
            if handled == before || handled >= self.pass_completions || !self.queue.must_collect() {
                break;
            }
            self.queue.enter(Wait::Collect)?;
        }
        for id in mem::take(&mut self.starved) {
            self.receive(id);
        }
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        self.queue.stats()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let connections: Vec<Connection> = self.table.drain().collect();
        for connection in &connections {
            shut_down(&connection.socket, Shutdown::Both);
        }
        if self.wind_up() {
            // SAFETY: no operation is in flight, so the kernel uses none of the buffers, and
            // nothing uses the field after this.
            unsafe { mem::ManuallyDrop::drop(&mut self.buffers) };
            return;
        }
        // The kernel may still read and write: memory lost is better than memory corrupted.
        for connection in connections {
            mem::forget(connection.buffer);
        }
    }
}

fn tag(operation: Operation, id: ConnectionId) -> Tag {
    Tag { operation, index: id.index, generation: id.generation }
}

/// Shuts a socket down. It fails only where there is nothing left to shut down.
fn shut_down(socket: &OwnedFd, how: Shutdown) {
    let _ = SockRef::from(socket).shutdown(how);
}

#[cfg(test)]
mod tests {
    use super::Ring;
    use crate::EngineConfig;
    use std::io::ErrorKind;

    #[test]
    fn errors_of_making_are_the_kernels_own() {
        let config = EngineConfig { submission_entries: 64, completion_entries: 8, ..EngineConfig::default() };
        let error = Ring::new(&config).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));

        let config = EngineConfig { receive_buffers: 3, ..EngineConfig::default() };
        let error = Ring::new(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
