//! One connection, as the engine sees it between two passes.

use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use tokio_uring::net;

use crate::ReadMode;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Both directions may work.
    Open,
    /// End of file was told; writing may still work.
    Ended,
    /// Failed, which was told if it was open before. Nothing is started any more.
    Broken,
}

pub(super) struct Connection {
    /// Shared with the tasks of operations in flight.
    pub(super) stream: Rc<net::TcpStream>,
    pub(super) phase: Phase,
    /// How far the owner wants to read.
    pub(super) wanted: Option<ReadMode>,
    /// A read is in flight or to be started.
    pub(super) reading: bool,
    /// A write is in flight or to be started.
    pub(super) writing: bool,
    /// Close the sending side when the write in flight is done.
    pub(super) shutdown_follows: bool,
    /// Reading came to its end together with the write in flight, whose outcome says why.
    pub(super) end_follows: bool,
}

impl Connection {
    pub(super) fn new(stream: net::TcpStream) -> Self {
        Self {
            stream: Rc::new(stream),
            phase: Phase::Open,
            wanted: None,
            reading: false,
            writing: false,
            shutdown_follows: false,
            end_follows: false,
        }
    }

    /// Shuts the socket down. It fails only where there is nothing left to shut down.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    /// Ends what is in flight; the socket closes with the last of it.
    pub(super) fn close(self) {
        if self.reading || self.writing {
            self.shutdown(Shutdown::Both);
        }
    }
}

/// Whether neither direction works any more: a write in flight is over.
pub(super) fn hung_up(stream: &net::TcpStream) -> bool {
    let mut watched = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: the one entry lives through the call.
    let ready = unsafe { libc::poll(&raw mut watched, 1, 0) };
    ready == 1 && watched.revents & libc::POLLHUP != 0
}

/// Takes the descriptor out of a stream that no operation uses.
pub(super) fn into_fd(stream: Rc<net::TcpStream>) -> OwnedFd {
    assert_eq!(Rc::strong_count(&stream), 1, "an operation holds the stream");
    // SAFETY: the stream keeps its descriptor open, and is borrowed for longer.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    // A stream does not let go of its descriptor, so it closes one and another one is handed out.
    socket.try_clone_to_owned().unwrap_or_else(|_| {
        // No more descriptors: the stream's own it is, and the stream's few bytes are lost.
        let fd = stream.as_raw_fd();
        mem::forget(stream);
        // SAFETY: the descriptor is open and the stream, its owner, has been forgotten.
        unsafe { OwnedFd::from_raw_fd(fd) }
    })
}
