//! One connection, and what the kernel last told about it.

use std::net::Shutdown;

use socket2::Socket;

use crate::{ConnectionId, ReadMode};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Both directions may work.
    Open,
    /// End of file was told; writing may still work.
    Ended,
    /// Failed, which was told if it was open before. Nothing is tried any more.
    Broken,
}

/// One connection. The size matters: tens of thousands are idle.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// Being written; empty when no write is in flight.
    pub(super) buffer: Vec<u8>,
    /// Bytes of `buffer` that the kernel has taken.
    pub(super) written: usize,
    pub(super) phase: Phase,
    /// How far the owner wants to read.
    pub(super) wanted: Option<ReadMode>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// An end of file or an error follows the bytes, so that a short read is not the last one.
    pub(super) ending: bool,
    /// Close the sending side when the write in flight is done.
    pub(super) shutdown_follows: bool,
    /// Is in `Epoll::reads`.
    pub(super) read_queued: bool,
    /// Is in `Epoll::writes`.
    pub(super) write_queued: bool,
}

impl Connection {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            written: 0,
            phase: Phase::Open,
            wanted: None,
            readable: false,
            // A new connection has room. One that still connects says `EAGAIN` once.
            writable: true,
            ending: false,
            shutdown_follows: false,
            read_queued: false,
            write_queued: false,
        }
    }

    /// Whether part of the buffer is still to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.written < self.buffer.len()
    }

    pub(super) fn queue_read(&mut self, id: ConnectionId, reads: &mut Vec<ConnectionId>) {
        if self.readable && self.wanted.is_some() && !self.read_queued {
            self.read_queued = true;
            reads.push(id);
        }
    }

    pub(super) fn queue_write(&mut self, id: ConnectionId, writes: &mut Vec<ConnectionId>) {
        if self.writable && self.has_unsent() && !self.write_queued {
            self.write_queued = true;
            writes.push(id);
        }
    }

    /// Closes the sending side. It fails on a connection that is gone, which is told elsewhere.
    pub(super) fn shutdown_write(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Notes a failure and returns whether it is to be told.
    pub(super) fn break_off(&mut self) -> bool {
        let told = self.phase != Phase::Open;
        self.phase = Phase::Broken;
        self.wanted = None;
        self.buffer = Vec::new();
        self.written = 0;
        !told
    }
}
