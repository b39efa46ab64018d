//! Starts a relay, waits for it, and ends it.
//!
//! # Flow
//! [`start`] checks the configuration, chooses the engine, binds the sockets, opens the store, and
//! starts one thread a shard (see `shard_thread`) and one for the store. [`Control::drain`] lets them
//! end, the store last; [`Running::wait`] returns when they have.
//!
//! # Invariants
//! - When [`start`] returns, the relay accepts; when it fails, no thread and no socket is left.
//! - A shard that fails ends the relay: the others would go on without its users.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use relay_core::ShardId;
use relay_store::OpenError;
use thiserror::Error;
use tracing::{info, warn};

use crate::admin::{self, About, AdminThread};
use crate::clock::Clock;
use crate::config::values::Admin;
use crate::config::{Config, ConfigError, Verify};
use crate::control::{COMMANDS_MAX, Control, ShardHandle, Snapshot};
use crate::drain::EmptyShards;
use crate::engine_choice::{self, Choice, Unavailable};
use crate::mesh::Mesh;
use crate::pin::Placement;
use crate::shard_loop::Parts;
use crate::shard_thread::{Birth, NewShard};
use crate::store::{Opened, StoreThread};
use crate::{cpu, descriptors, listeners, store};

/// How long [`Running::wait`] waits once the relay drains: the 8 s that clients have, and a little
/// for the kernel to let go of buffers. So the process ends within 10 s.
const END_PATIENCE: Duration = Duration::from_millis(9300);

/// Why a relay did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The options cannot work together or here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The binary was built for another processor.
    #[error("{0}")]
    Cpu(String),
    /// The engine asked for does not work here.
    #[error(transparent)]
    Engine(#[from] Unavailable),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (--{option}): {source}{}", listeners::fix(.source))]
    Bind {
        /// The option that chose it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's thread, its core or its engine could not be had.
    #[error("shard {shard} could not {what}: {source}")]
    Shard {
        /// Which.
        shard: u16,
        /// What it could not do.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's thread panicked (only where panics do not end the process).
    #[error("shard {0} panicked while it started")]
    Panicked(u16),
    /// The admin endpoint could not be started.
    #[error("the admin endpoint could not be started: {0}")]
    Admin(io::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store's thread could not be started.
    #[error("the store's thread could not be started: {0}")]
    StoreThread(io::Error),
    /// The system gave no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

/// Why a running relay ended without being asked.
#[derive(Debug, Error)]
pub enum RunError {
    /// A shard's engine can no longer be used.
    #[error("shard {shard} failed: {source}")]
    Shard {
        /// Which.
        shard: u16,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's thread panicked (only where panics do not end the process).
    #[error("shard {0} panicked")]
    Panicked(u16),
}

/// What shards tell whoever waits for them.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The relay was asked to go away.
    Draining,
    /// A shard has ended.
    Ended(ShardId, io::Result<()>),
    /// A shard has ended by a panic.
    Panicked(ShardId),
}

/// A relay that runs. Dropping it drains it and waits for its end.
///
/// Its `Display` is the line that the command prints: `relay 0.1.0 listening on 127.0.0.1:7400,
/// admin on 127.0.0.1:7401, 2 shards on cores 0,1, engine ring (io_uring with all features)`.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    placement: Placement,
    choice: Choice,
    verify: Verify,
    control: Control,
    notices: Receiver<Notice>,
    /// Empty once the end was waited for.
    threads: Vec<JoinHandle<()>>,
    /// Ends after the shards.
    store: Option<StoreThread>,
    /// Answers until the shards have ended.
    admin: Option<AdminThread>,
}

/// Starts a relay: it accepts connections when this returns.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start(config: &Config) -> Result<Running, StartError> {
    cpu::check().map_err(StartError::Cpu)?;
    config.check()?;
    let placement = Placement::of(config)?;
    let choice = engine_choice::choose(config.engine)?;
    descriptors::raise_limit();
    if config.verify == Verify::Off {
        warn!("--verify off: NOBODY CHECKS SIGNATURES HERE, only recipients do; this is for measuring, not for users");
    }
    let (sockets, address) = listeners::bind(config, placement.shards).map_err(|source| StartError::Bind {
        option: "listen",
        address: config.listen,
        source,
    })?;
    let admin_socket = match config.admin {
        Admin::Off => None,
        Admin::At(address) => {
            let refused = |source| StartError::Bind { option: "admin", address, source };
            let socket = TcpListener::bind(address).map_err(refused)?;
            let address = socket.local_addr().map_err(refused)?;
            Some((socket, address))
        }
    };
    let admin_address = admin_socket.as_ref().map(|(_, address)| *address);

    let (notices_sender, notices) = bounded(usize::from(placement.shards) + 1);
    // After the sockets: nothing was changed on disk for a relay that cannot listen.
    let opened = config.store().map(|options| Ok::<_, StartError>(Opened::open(&options, getrandom::u64()?)?));
    let opened = opened.transpose()?;
    let (handles, threads, store) = start_threads(config, &placement, &choice, sockets, &notices_sender, opened)?;
    let control = Control::new(handles, notices_sender);
    let verify = config.verify;
    let health = store.as_ref().map(StoreThread::health);
    let mut running =
        Running { address, admin_address, placement, choice, verify, control, notices, threads, store, admin: None };
    if let Some((socket, _)) = admin_socket {
        let about = About::new(config, &running.placement, running.choice.kind);
        let admin = admin::start(socket, about, running.control.clone(), health);
        running.admin = Some(admin.map_err(StartError::Admin)?);
    }
    info!(name = config.name, "{running}");
    Ok(running)
}

/// What came of [`start_threads`].
type Started = (Vec<ShardHandle>, Vec<JoinHandle<()>>, Option<StoreThread>);

/// Starts the threads of the shards and of the store, and lets them run once all have come up. The
/// first shards get a listening socket each, as far as there are.
fn start_threads(
    config: &Config,
    placement: &Placement,
    choice: &Choice,
    sockets: Vec<TcpListener>,
    notices: &Sender<Notice>,
    opened: Option<Opened>,
) -> Result<Started, StartError> {
    let shards = placement.shards;
    let seed = opened.as_ref().map_or_else(getrandom::u64, |opened| Ok(opened.seed()))?;
    let boot = opened.as_ref().map_or(0, Opened::boot);
    let core = relay_core::Config { boot, ..config.core(shards, seed) };
    let (mut database, mut stored) = (None, Vec::new());
    if let Some(opened) = opened {
        let (end, links) = store::links(shards);
        let (store, restored) = opened.deal(&core);
        database = Some((store, end));
        stored = links.into_iter().zip(restored).collect();
    }
    let mut stored = stored.into_iter();
    let clock = Clock::start();
    let empty_shards = Arc::new(EmptyShards::none_of(shards));
    let mut sockets = sockets.into_iter();
    let mut born = Vec::new();
    for (shard, mesh) in (0..shards).map(ShardId).zip(Mesh::of(shards)) {
        let (commands_sender, commands) = bounded(COMMANDS_MAX);
        let parts = Parts {
            core: relay_core::Config { shard, ..core.clone() },
            mesh,
            commands,
            clock,
            busy_poll: config.busy_poll,
            empty_shards: Arc::clone(&empty_shards),
            store: stored.next(),
        };
        let birth = Birth {
            parts,
            kind: choice.kind,
            pinned_to: placement.cores.as_ref().map(|cores| cores[usize::from(shard.0)]),
            socket: sockets.next(),
        };
        born.push((NewShard::spawn(birth, notices.clone())?, commands_sender));
    }
    let doorbells = born.iter().map(|(shard, _)| shard.doorbell()).collect::<Result<Vec<_>, _>>()?;
    let store = database.map(|(store, end)| StoreThread::spawn(store, end, doorbells.clone()));
    let store = store.transpose().map_err(StartError::StoreThread)?;
    let run = |((shard, commands), doorbell): ((NewShard, _), &Arc<_>)| {
        (ShardHandle { commands, doorbell: Arc::clone(doorbell) }, shard.run(doorbells.clone()))
    };
    let (handles, threads) = born.into_iter().zip(&doorbells).map(run).unzip();
    Ok((handles, threads, store))
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin endpoint answers, if it does.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The way to ask the shards from other threads.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The counts of all shards. See [`Control::snapshots`].
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.control.snapshots()
    }

    /// Blocks until the relay has ended: after [`Control::drain`] within 10 s, or because a shard
    /// failed.
    ///
    /// # Errors
    /// The first failure of a shard. The others are drained, but not waited for.
    pub fn wait(mut self) -> Result<(), RunError> {
        self.wait_for_end()
    }

    /// Drains the relay and waits for its end.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn stop(self) -> Result<(), RunError> {
        self.control.drain();
        self.wait()
    }

    fn wait_for_end(&mut self) -> Result<(), RunError> {
        let threads = std::mem::take(&mut self.threads);
        let mut left = threads.len();
        let mut deadline = None;
        while left > 0 {
            let notice = match deadline {
                None => self.notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => self.notices.recv_deadline(deadline),
            };
            let failure = match notice {
                Ok(Notice::Draining) => {
                    deadline = Some(Instant::now() + END_PATIENCE);
                    continue;
                }
                Ok(Notice::Ended(_, Ok(()))) => {
                    left -= 1;
                    continue;
                }
                Ok(Notice::Ended(shard, Err(source))) => RunError::Shard { shard: shard.0, source },
                Ok(Notice::Panicked(shard)) => RunError::Panicked(shard.0),
                // Every shard says its last words, and `self` holds a sender: only time runs out.
                Err(_) => {
                    warn!(shards = left, "not all shards ended in time: left behind");
                    return Ok(());
                }
            };
            self.control.drain();
            return Err(failure);
        }
        for thread in threads {
            // Its last words were said: a panic would have been in them.
            let _ = thread.join();
        }
        if let Some(store) = self.store.take() {
            store.wait(deadline);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.control.drain();
        if let Err(error) = self.wait_for_end() {
            warn!(%error, "the relay failed while it was stopped");
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { kind, why } = &self.choice;
        write!(f, "relay {} listening on {}, ", env!("CARGO_PKG_VERSION"), self.address)?;
        match self.admin_address {
            Some(address) => write!(f, "admin on {address}, ")?,
            None => f.write_str("admin off, ")?,
        }
        write!(f, "{}, engine {kind} ({why})", self.placement)?;
        match self.verify {
            Verify::Off => f.write_str(", SIGNATURES NOT CHECKED"),
            Verify::Auto | Verify::Strict => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Running, StartError, start};
    use crate::config::values::Admin;
    use crate::config::{Config, Verify};
    use relay_core::ShardId;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn config() -> Config {
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        Config { listen: any_port, admin: Admin::At(any_port), shards: Some(2), ephemeral: true, ..Config::default() }
    }

    fn is_free(running: Running) -> bool {
        let addresses = [running.address(), running.admin_address().unwrap()];
        running.stop().unwrap();
        addresses.iter().all(|address| TcpListener::bind(address).is_ok())
    }

    #[test]
    fn a_relay_starts_answers_and_stops_within_this_process() {
        let running = start(&config()).unwrap();
        drop(TcpStream::connect(running.address()).unwrap());
        let snapshots = running.snapshots();
        assert_eq!(snapshots.iter().map(|snapshot| snapshot.shard).collect::<Vec<_>>(), [ShardId(0), ShardId(1)]);
        assert!(is_free(running));
    }

    #[test]
    fn a_dropped_relay_has_stopped() {
        let running = start(&config()).unwrap();
        let (control, address) = (running.control(), running.address());
        drop(running);
        assert!(control.is_draining() && control.snapshots().is_empty());
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_relay_that_does_not_start_leaves_nothing() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let error = start(&Config { listen: free, admin: Admin::At(taken.1), ..config() }).unwrap_err();
        assert!(matches!(error, StartError::Bind { option: "admin", .. }), "{error}");
        TcpListener::bind(free).unwrap();
    }

    #[test]
    fn unchecked_signatures_are_told_where_the_relay_starts() {
        let running = start(&Config { verify: Verify::Off, admin: Admin::Off, ..config() }).unwrap();
        let line = running.to_string();
        assert!(line.contains(", admin off, 2 shards on ") && line.ends_with(", SIGNATURES NOT CHECKED"), "{line}");
    }
}
