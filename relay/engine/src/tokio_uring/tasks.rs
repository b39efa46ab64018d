//! What runs inside the runtime, and how it hands its outcomes out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use tokio::io::unix::AsyncFd;
use tokio_uring::net;

use crate::{ConnectionId, Doorbell};

/// The outcome of one operation.
pub(super) enum Outcome {
    Accepted { listener: usize, result: io::Result<(net::TcpStream, SocketAddr)> },
    Read { connection: ConnectionId, result: io::Result<usize>, buffer: Vec<u8> },
    Written { connection: ConnectionId, result: io::Result<()>, buffer: Vec<u8> },
}

/// What tasks and engine share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) outcomes: RefCell<VecDeque<Outcome>>,
    pub(super) rung: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Shared {
    pub(super) fn push(&self, outcome: Outcome) {
        self.outcomes.borrow_mut().push_back(outcome);
        self.wake();
    }

    pub(super) fn ring(&self) {
        self.rung.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits until the condition holds, which is looked at after each push and each ring.
    pub(super) async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        poll_fn(|context| {
            if condition(self) {
                return Poll::Ready(());
            }
            self.waiter.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

pub(super) async fn accept(socket: Rc<net::TcpListener>, listener: usize, shared: Rc<Shared>) {
    let result = socket.accept().await;
    drop(socket);
    shared.push(Outcome::Accepted { listener, result });
}

pub(super) async fn read(stream: Rc<net::TcpStream>, connection: ConnectionId, buffer: Vec<u8>, shared: Rc<Shared>) {
    let (result, buffer) = stream.read(buffer).await;
    drop(stream);
    shared.push(Outcome::Read { connection, result, buffer });
}

pub(super) async fn write(stream: Rc<net::TcpStream>, connection: ConnectionId, buffer: Vec<u8>, shared: Rc<Shared>) {
    let (result, buffer) = stream.write_all(buffer).await;
    drop(stream);
    shared.push(Outcome::Written { connection, result, buffer });
}

/// Passes rings on. The eventfd is not read out: the runtime watches it by edge, and each ring is
/// one.
pub(super) async fn watch_doorbell(doorbell: AsyncFd<Arc<Doorbell>>, shared: Rc<Shared>) {
    // Fails when the runtime is being dropped.
    while let Ok(mut readable) = doorbell.readable().await {
        readable.clear_ready();
        shared.ring();
    }
}
