//! What other threads ask of the shards: to go away, and how they are.
//!
//! # Invariants
//! - A shard pays for this one look into an empty channel a pass, nothing a message.
//! - Whoever asks waits, never the shard: an answer that nobody takes is thrown away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;
use protocol::server_frame::LobbyTotals;
use relay_core::{ShardId, Stats};
use relay_engine::{Doorbell, EngineStats};
use tokio::sync::oneshot;

use crate::mesh::MeshStats;
use crate::relay::Notice;
use crate::shard_loop::LoopStats;

/// Commands that may wait for a shard. Each pass takes all of them.
pub(crate) const COMMANDS_MAX: usize = 64;

/// Asked of one shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept no more, say goodbye, end.
    Drain,
    /// Tell the counts.
    Snapshot(oneshot::Sender<Snapshot>),
}

/// Counts of one shard at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which shard.
    pub shard: ShardId,
    /// Of its state machine.
    pub core: Stats,
    /// What it told its clients of the lobby. Once quiet, the same in all shards.
    pub lobby: LobbyTotals,
    /// Of its way to the kernel.
    pub engine: EngineStats,
    /// Of its way to the other shards.
    pub mesh: MeshStats,
    /// Of its thread.
    pub thread: LoopStats,
}

/// The way to one shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    pub(crate) commands: Sender<Command>,
    pub(crate) doorbell: Arc<Doorbell>,
}

/// Asks the shards of a running relay, from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: Vec<ShardHandle>,
    notices: Sender<Notice>,
    is_draining: AtomicBool,
}

impl Control {
    pub(crate) fn new(shards: Vec<ShardHandle>, notices: Sender<Notice>) -> Self {
        Self { inner: Arc::new(Inner { shards, notices, is_draining: AtomicBool::new(false) }) }
    }

    /// Lets the relay go away: it accepts no more, tells every client (close code 1001), and ends
    /// when all are gone, after 8 s at the latest. Returns at once; further calls do nothing.
    pub fn drain(&self) {
        if self.inner.is_draining.swap(true, Ordering::AcqRel) {
            return;
        }
        // Fails when nobody waits for the relay any more.
        let _ = self.inner.notices.try_send(Notice::Draining);
        for shard in &self.inner.shards {
            // Fails when the shard has ended: then it has drained.
            let _ = shard.commands.send(Command::Drain);
            shard.doorbell.ring();
        }
    }

    /// Whether the relay is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::Acquire)
    }

    /// Asks every shard for its counts. Each answers within a pass; one that has ended, or has too
    /// many questions waiting, drops its sender.
    pub(crate) fn ask(&self) -> Vec<oneshot::Receiver<Snapshot>> {
        let ask = |shard: &ShardHandle| {
            let (answer, answered) = oneshot::channel();
            // Fails when the shard has ended or is swamped: the receiver then tells.
            let _ = shard.commands.try_send(Command::Snapshot(answer));
            shard.doorbell.ring();
            answered
        };
        self.inner.shards.iter().map(ask).collect()
    }

    /// Asks every shard for its counts and waits for the answers, about a pass long. Shards that
    /// have ended are left out.
    ///
    /// # Panics
    /// Inside an async runtime.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.ask().into_iter().filter_map(|answered| answered.blocking_recv().ok()).collect()
    }
}
