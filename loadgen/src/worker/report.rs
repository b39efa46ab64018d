//! What worker and coordinator tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;
use protocol::PublicKey;
use protocol::server_frame::LobbyTotals;
use relay_engine::{EngineKind, EngineStats};

use super::RelayLimits;
use crate::ledger::{Ledger, SteadyCounts};
use crate::plan::Moments;
use crate::recorder::Recorder;
use crate::scenario;
use crate::signer::Peers;
use crate::spread::News;
use crate::stock::Batch;

/// What the coordinator tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Makes the rooms that messages go to, and lets those leave who are offline while messages are sent to them.
    Prepare,
    /// Begins messages and visitors.
    Start {
        /// When.
        moments: Moments,
        /// The signed messages, if the worker sends any.
        signed: Option<Receiver<Batch>>,
    },
    /// Asks for a [`Report::Lobby`].
    CompareLobbies,
    /// Ends the worker.
    Finish,
}

/// What a worker tells the coordinator.
#[derive(Debug)]
pub enum Report {
    /// All its clients are there.
    Ready(Ready),
    /// The rooms are there, and those who were to leave have left.
    Prepared,
    /// It cannot go on.
    Failed(String),
    /// One interval is over. The first one, number 0, is all before the steady phase.
    Interval {
        /// Its number.
        number: u64,
        /// What was measured.
        recorder: Box<Recorder>,
        /// Who joined and left, and who was told.
        news: News,
    },
    /// Everything sent has come to an end, or the time to wait for it has.
    Drained,
    /// What the clients' lobbies look like now.
    Lobby(LobbyReport),
    /// The worker has ended.
    Done(Box<Outcome>),
}

/// A worker's clients are connected.
#[derive(Debug)]
pub struct Ready {
    /// The worker's number.
    pub worker: usize,
    /// Its engine.
    pub engine: EngineKind,
    /// The keys of its clients, by place.
    pub keys: Arc<[PublicKey]>,
    /// How many of them send.
    pub senders: u32,
    /// Who writes to whom.
    pub peers: Arc<Peers>,
    /// What the relay said, if the worker has clients.
    pub relay: Option<RelayLimits>,
}

/// Clients whose lobby looks alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LobbyGroup {
    /// Count and digest; `None` while a snapshot is not whole.
    pub view: Option<LobbyTotals>,
    /// Whether the relay announced the same.
    pub agrees: bool,
    /// How many clients.
    pub clients: u64,
    /// How many of them disagreed with the relay at any time.
    pub disagreed: u64,
}

impl LobbyGroup {
    pub(super) fn of(view: Option<LobbyTotals>, agrees: bool, disagreed: bool) -> Self {
        Self { view, agrees, clients: 1, disagreed: u64::from(disagreed) }
    }

    pub(super) fn add(&mut self, disagreed: bool) {
        self.clients += 1;
        self.disagreed += u64::from(disagreed);
    }
}

/// The lobbies of one worker's clients.
#[derive(Clone, Debug, Default)]
pub struct LobbyReport {
    /// What clients see.
    pub groups: Vec<LobbyGroup>,
    /// Who of this worker is online.
    pub online: LobbyTotals,
    /// Clients on their way in or out: what they do is still to be seen.
    pub moving: u64,
    /// When the last of them came to what it sees.
    pub settled_ns: u64,
}

/// What a worker leaves.
#[derive(Debug)]
pub struct Outcome {
    /// What became of its messages.
    pub ledger: Ledger,
    /// Of the steady phase.
    pub steady: SteadyCounts,
    /// What was measured since the last interval.
    pub recorder: Box<Recorder>,
    /// What was not steady.
    pub scenario: scenario::outcome::Outcome,
    /// Who joined and left since then, and who was told.
    pub news: News,
    /// Times a lobby began to disagree.
    pub disagreements: u64,
    /// How busy it was.
    pub health: WorkerHealth,
    /// Of its engine.
    pub stats: EngineStats,
}

/// How a worker fared in the steady phase.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct WorkerHealth {
    /// Of the steady phase, the share that the thread worked: its CPU time less what it polled in
    /// vain. `None` without a steady phase.
    pub busy: Option<f64>,
    /// CPU time of the thread in the steady phase, waiting for deadlines included.
    pub cpu_ns: u64,
    /// For how long the thread waited for a core although it had work. `None` where the kernel does
    /// not tell.
    #[serde(default)]
    pub waited_ns: Option<u64>,
    /// Whether it had read all there was when it ended: nothing came any more for a second after
    /// the last message was written.
    #[serde(default)]
    pub caught_up: bool,
    /// Times a message was due and not yet signed.
    pub starved: u64,
    /// Messages that had been signed too long before they were due.
    pub expired: u64,
    /// Visits that were due in it while no visitor was free.
    pub visits_missed: u64,
}

/// Numbers for onlookers, written by a worker now and then.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Clients that are there.
    pub active: AtomicU64,
    /// As in the ledger.
    pub sent: AtomicU64,
    /// As in the ledger.
    pub delivered: AtomicU64,
    /// As in the ledger: all errors.
    pub errors: AtomicU64,
    /// CPU time of the thread less what it polled in vain.
    pub worked_ns: AtomicU64,
}

impl Gauge {
    pub(super) fn set(&self, active: u32, ledger: &Ledger) {
        // Relaxed: they are looked at by a person.
        self.active.store(u64::from(active), Ordering::Relaxed);
        self.sent.store(ledger.sent, Ordering::Relaxed);
        self.delivered.store(ledger.delivered, Ordering::Relaxed);
        self.errors.store(ledger.errors.values().sum(), Ordering::Relaxed);
    }
}
