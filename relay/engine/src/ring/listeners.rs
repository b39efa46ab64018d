//! Listening sockets and their multishot accepts.
//!
//! # Invariants
//! - A listener has at most one accept in flight and stays open until that has ended.
//! - After [`Listeners::stop`] no connection is told: those accepted unseen are closed.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use slab::Slab;

use crate::Event;

use super::queue::Queue;
use super::table::Table;
use super::tag::{Operation, Tag};

/// How long accepting rests when the process or the system is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    accepting: bool,
    stopped: bool,
}

/// All listeners of one engine.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Slab<Listener>,
    /// When paused listeners accept again.
    resumes: Option<Instant>,
}

impl Listeners {
    /// Starts to accept.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn start(&mut self, socket: TcpListener, queue: &mut Queue) -> io::Result<()> {
        // A blocking socket: the kernel then waits for connections instead of answering EAGAIN.
        socket.set_nonblocking(false)?;
        let index = self.listeners.insert(Listener { socket, accepting: false, stopped: false });
        self.accept(index, queue);
        Ok(())
    }

    /// Stops accepting. Each listener closes once its accept has ended.
    pub(super) fn stop(&mut self, queue: &mut Queue) {
        self.listeners.retain(|index, listener| {
            listener.stopped = true;
            if listener.accepting {
                queue.cancel(accept_tag(index));
            }
            listener.accepting
        });
    }

    fn accept(&mut self, index: usize, queue: &mut Queue) {
        let listener = &mut self.listeners[index];
        listener.accepting = true;
        let entry = opcode::AcceptMulti::new(Fd(listener.socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(accept_tag(index).pack());
        // SAFETY: the entry points to no memory, and the listener stays open until the accept has
        // ended.
        unsafe { queue.push(entry) };
    }

    /// Handles a completion of a listener's accept: tells the connection or the failure, and
    /// accepts again, later or not at all where the accept has ended.
    pub(super) fn handle_accepted(
        &mut self,
        index: usize,
        entry: &cqueue::Entry,
        queue: &mut Queue,
        table: &mut Table,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        let listener = &mut self.listeners[index];
        let stopped = listener.stopped;
        let ended = !cqueue::more(entry.flags());
        listener.accepting = !ended;
        let mut pause = false;
        if let Some(socket) = accepted(entry) {
            if !stopped {
                match peer(socket) {
                    Ok((socket, peer)) => {
                        let connection = table.insert(socket);
                        sink(Event::Accepted { connection, peer });
                    }
                    // It left before it was accepted: what accept(2) itself calls aborted.
                    Err(_) => sink(Event::AcceptFailed { error: libc::ECONNABORTED }),
                }
            }
        } else if !stopped {
            let error = -entry.result();
            pause = !matches!(error, libc::ECONNABORTED | libc::EINTR | libc::EPROTO);
            sink(Event::AcceptFailed { error });
        }
        if ended && stopped {
            self.listeners.remove(index);
        } else if ended && pause {
            self.resumes = Some(Instant::now() + ACCEPT_PAUSE);
        } else if ended {
            self.accept(index, queue);
        }
    }

    /// Lets paused listeners accept again when their time has come. Returns how long the caller
    /// may wait, at most `timeout`, before it asks again.
    pub(super) fn resume(&mut self, timeout: Option<Duration>, queue: &mut Queue) -> Option<Duration> {
        let Some(resumes) = self.resumes else {
            return timeout;
        };
        let pause = resumes.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            return Some(timeout.map_or(pause, |timeout| timeout.min(pause)));
        }
        self.resumes = None;
        let resting: Vec<usize> =
            self.listeners.iter().filter(|(_, listener)| !listener.accepting).map(|(index, _)| index).collect();
        for index in resting {
            self.accept(index, queue);
        }
        timeout
    }
}

fn accept_tag(index: usize) -> Tag {
    Tag { operation: Operation::Accept, index: index as u32, generation: 0 }
}

/// The socket that an accept has made, if it has. The caller must take each completion once.
pub(super) fn accepted(entry: &cqueue::Entry) -> Option<OwnedFd> {
    let fd = entry.result();
    // SAFETY: a successful accept returns a new descriptor, which nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks a socket for its peer; multishot accepts do not tell.
fn peer(socket: OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = TcpStream::from(socket);
    let peer = socket.peer_addr()?;
    Ok((socket.into(), peer))
}
