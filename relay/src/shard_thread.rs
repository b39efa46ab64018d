//! A shard's thread: how it comes up, and what it says at the end.
//!
//! # Flow
//! ```text
//! starter                         shard's thread
//! spawn ────────────────────────▶ pins itself, makes its engine, listens
//! doorbell ◀───────────────────── its doorbell, or why not
//! run (with all doorbells) ─────▶ makes its core, runs its loop
//!                          notice ◀─ ended, failed or panicked
//! ```
//!
//! # Invariants
//! - Engine and core are made on the thread that uses them: neither leaves it.
//! - A shard that is not told to run ends, and its sockets close with it: dropping a [`NewShard`]
//!   waits for that.
//! - A shard that ran gives exactly one notice, after its engine has let go of everything.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use relay_core::ShardId;
use relay_engine::epoll::Epoll;
use relay_engine::ring::Ring;
use relay_engine::tokio_uring::TokioUring;
use relay_engine::{Doorbell, Engine, EngineConfig, EngineKind};
use tracing::error;

use crate::pin;
use crate::relay::{Notice, StartError};
use crate::shard_loop::{Parts, ShardLoop};

/// What a shard's thread is made with.
pub(crate) struct Birth {
    pub(crate) parts: Parts,
    pub(crate) kind: EngineKind,
    /// Its core, or `None` if the system is to choose.
    pub(crate) pinned_to: Option<usize>,
    /// Its listening socket, if it accepts.
    pub(crate) socket: Option<TcpListener>,
}

/// A shard that comes up, or is up and waits for the others.
#[derive(Debug)]
pub(crate) struct NewShard {
    shard: ShardId,
    /// `None` once it runs; then it is no longer this one's.
    thread: Option<JoinHandle<()>>,
    doorbell: Receiver<Result<Arc<Doorbell>, StartError>>,
    go: Option<Sender<Vec<Arc<Doorbell>>>>,
}

impl NewShard {
    /// Starts a shard's thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn spawn(birth: Birth, notices: Sender<Notice>) -> Result<Self, StartError> {
        let shard = birth.parts.core.shard;
        let (doorbell_sender, doorbell) = bounded(1);
        let (go, all_doorbells) = bounded(1);
        let thread = thread::Builder::new()
            .name(format!("shard-{}", shard.0))
            .spawn(move || match birth.kind {
                EngineKind::Ring => live(birth, Ring::new, &doorbell_sender, &all_doorbells, notices),
                EngineKind::TokioUring => live(birth, TokioUring::new, &doorbell_sender, &all_doorbells, notices),
                EngineKind::Epoll => live(birth, Epoll::new, &doorbell_sender, &all_doorbells, notices),
            })
            .map_err(|source| StartError::Shard { shard: shard.0, what: "start its thread", source })?;
        Ok(Self { shard, thread: Some(thread), doorbell, go: Some(go) })
    }

    /// Waits until the shard is up.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn doorbell(&self) -> Result<Arc<Doorbell>, StartError> {
        self.doorbell.recv().unwrap_or(Err(StartError::Panicked(self.shard.0)))
    }

    /// Lets the shard run, with the doorbells of all shards in their order.
    pub(crate) fn run(mut self, doorbells: Vec<Arc<Doorbell>>) -> JoinHandle<()> {
        if let Some(go) = self.go.take() {
            // Fails only if the thread has ended by a panic: joining it tells.
            let _ = go.send(doorbells);
        }
        self.thread.take().expect("a new shard has its thread")
    }
}

impl Drop for NewShard {
    fn drop(&mut self) {
        self.go = None;
        if let Some(thread) = self.thread.take() {
            // How it ended was told, or nobody asks any more.
            let _ = thread.join();
        }
    }
}

/// What a shard's thread does.
fn live<E: Engine>(
    birth: Birth,
    make: impl FnOnce(&EngineConfig) -> io::Result<E>,
    doorbell: &Sender<Result<Arc<Doorbell>, StartError>>,
    all_doorbells: &Receiver<Vec<Arc<Doorbell>>>,
    notices: Sender<Notice>,
) {
    let Birth { mut parts, kind: _, pinned_to, socket } = birth;
    let shard = parts.core.shard;
    let failed = |what| move |source| StartError::Shard { shard: shard.0, what, source };
    let come_up = || {
        if let Some(core) = pinned_to {
            pin::pin(core).map_err(failed("run on its core"))?;
        }
        let mut engine = make(&EngineConfig::default()).map_err(failed("make its engine"))?;
        if let Some(socket) = socket {
            engine.listen(socket).map_err(failed("listen"))?;
        }
        Ok(engine)
    };
    let engine = match come_up() {
        Ok(engine) => engine,
        Err(error) => return drop(doorbell.send(Err(error))),
    };
    // Fails when the start has failed elsewhere: then there is no word to run either.
    let _ = doorbell.send(Ok(engine.doorbell()));
    let Ok(all_doorbells) = all_doorbells.recv() else { return };
    let last_words = LastWords { shard, notices: Some(notices) };
    parts.mesh.connect(&all_doorbells);
    let result = ShardLoop::new(engine, parts).run();
    last_words.say(result);
}

/// Tells how a shard's thread ended, also when it unwinds.
struct LastWords {
    shard: ShardId,
    /// `None` once they were said.
    notices: Option<Sender<Notice>>,
}

impl LastWords {
    fn say(mut self, result: io::Result<()>) {
        if let Err(error) = &result {
            error!(shard = self.shard.0, %error, "the shard failed");
        }
        self.send(Notice::Ended(self.shard, result));
    }

    fn send(&mut self, notice: Notice) {
        if let Some(notices) = self.notices.take() {
            // Fails when nobody waits for the relay any more.
            let _ = notices.send(notice);
        }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        self.send(Notice::Panicked(self.shard));
    }
}
