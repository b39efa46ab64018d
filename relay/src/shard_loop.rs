//! The loop of one shard's thread: between kernel, mesh and core.
//!
//! # One pass, in order of priority
//! 1. The kernel: submits, sleeps if there is nothing to do, and tells the core what happened.
//! 2. The inbox: up to [`INBOX_BATCHES`] batches from other shards. What the store has answered.
//! 3. Commands: to drain, to tell counts.
//! 4. The end of the batch: the core verifies, routes, flushes the lobby, fires timers.
//! 5. Effects, in their order: to the kernel (queued), to the mesh and to the store.
//! 6. The mesh: what is pending leaves for the other shards.
//!
//! # Invariants
//! - Time is read twice a pass, not per event: when the first event is told and when the batch ends.
//! - A pass with nothing to do costs the core nothing: no end of a batch without events or a timer.
//! - The thread sleeps only when the core, the inbox, the store's answers and the commands are idle, and after the
//!   busy-poll budget; whoever pushes into a queue of a sleeper rings its doorbell.
//! - Effects are applied after the kernel's events of a pass, not between them, so an event may still
//!   name a connection that the core has closed or handed over in this pass: the core ignores those.
//!   No other connection can have its id before the effect is applied.
//!
//! Absent on purpose: any decision about frames, and logging on the path of a message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use relay_core::{ConnectionId, Effect, Effects, Event, Gone, Nanos, Now, ReadMode, Restored, Shard, ShardId};
use relay_engine::{Disconnect, Doorbell, Engine};
use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::control::{Command, Snapshot};
use crate::drain::EmptyShards;
use crate::mesh::{Item, Mesh};
use crate::nonces::Nonces;
use crate::store::StoreLink;

/// Batches from other shards taken in one pass: 16 full ones are 4,096 items, some milliseconds of
/// work at most.
const INBOX_BATCHES: usize = 16;

/// How soon a full inbox of another shard is tried again. Its owner is awake and works on it.
const RETRY: Nanos = 200_000;

/// How long clients may take to go away once the relay drains.
const DRAIN_PATIENCE: Nanos = 8_000_000_000;

/// How often a draining shard looks whether the others are empty.
const DRAIN_LOOK: Nanos = 10_000_000;

/// At most one line a second about failing accepts.
const ACCEPT_LOG_PAUSE: Nanos = 1_000_000_000;

/// Counts of one shard's thread. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Turns of the loop.
    pub passes: u64,
    /// Turns that were allowed to sleep.
    pub sleeps: u64,
    /// Events told to the core.
    pub events: u64,
    /// Accepts that failed.
    pub accepts_failed: u64,
    /// Connections that came from another shard and could not be taken into the engine.
    pub adopts_failed: u64,
    /// CPU time that it used, in nanoseconds. With `--busy-poll` looking for work counts too.
    pub cpu_ns: u64,
}

/// What a loop is made with, but for its engine.
pub(crate) struct Parts {
    pub(crate) core: relay_core::Config,
    pub(crate) mesh: Mesh,
    pub(crate) commands: Receiver<Command>,
    pub(crate) clock: Clock,
    pub(crate) busy_poll: Duration,
    pub(crate) empty_shards: Arc<EmptyShards>,
    /// The way to the store and what it had, unless the relay is without.
    pub(crate) store: Option<(StoreLink, Restored)>,
}

/// One shard between its engine and its mesh. Made and run on the shard's thread.
pub(crate) struct ShardLoop<E> {
    engine: E,
    doorbell: Arc<Doorbell>,
    mesh: Mesh,
    store: Option<StoreLink>,
    core: CoreSide,
    commands: Receiver<Command>,
    empty_shards: Arc<EmptyShards>,
    busy_poll: Nanos,
    last_work: Nanos,
    drain_until: Option<Nanos>,
}

/// The core and what it is told with: apart from the engine, which tells it.
struct CoreSide {
    shard: ShardId,
    core: Shard,
    effects: Effects,
    nonces: Nonces,
    clock: Clock,
    /// The time of this pass, once it was needed.
    now: Option<Now>,
    /// Whether the core was told something since the last end of a batch.
    has_news: bool,
    accept_logged_at: Option<Nanos>,
    stats: LoopStats,
}

impl<E: Engine> ShardLoop<E> {
    /// Makes a loop that has done nothing yet.
    pub(crate) fn new(engine: E, parts: Parts) -> Self {
        let Parts { core, mesh, commands, clock, busy_poll, empty_shards, store } = parts;
        let (store, restored) = store.unzip();
        let mut shard = Self {
            doorbell: engine.doorbell(),
            engine,
            mesh,
            store,
            core: CoreSide {
                shard: core.shard,
                core: Shard::new(core),
                effects: Effects::new(),
                nonces: Nonces::new(),
                clock,
                now: None,
                has_news: false,
                accept_logged_at: None,
                stats: LoopStats::default(),
            },
            commands,
            empty_shards,
            busy_poll: nanos(busy_poll),
            last_work: clock.nanos(),
            drain_until: None,
        };
        if let Some(restored) = restored {
            shard.core.restore(restored);
        }
        shard
    }

    /// Runs until the relay has drained.
    ///
    /// # Errors
    /// The engine's, when it can no longer be used.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut patience = Some(Duration::ZERO);
        loop {
            self.core.begin_pass();
            self.wait_for_kernel(patience)?;
            self.take_mail();
            self.take_commands();
            let has_worked = self.core.end_batch();
            self.apply_effects();
            let core = &mut self.core;
            self.mesh.flush(|to, full| core.tell(Event::Congestion { to, full }));
            if self.is_done() {
                return Ok(());
            }
            patience = self.patience(has_worked);
        }
    }

    fn wait_for_kernel(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let Self { engine, core, mesh, store, commands, doorbell, .. } = self;
        let mut sink = |event: relay_engine::Event<'_>| core.tell_of_kernel(event);
        if patience == Some(Duration::ZERO) {
            return engine.poll(patience, &mut sink);
        }
        doorbell.announce_sleep();
        let is_idle = !mesh.has_mail() && commands.is_empty() && !store.as_ref().is_some_and(StoreLink::has_mail);
        let result = engine.poll(if is_idle { patience } else { Some(Duration::ZERO) }, &mut sink);
        doorbell.awake();
        core.stats.sleeps += u64::from(is_idle);
        result
    }

    fn take_mail(&mut self) {
        let Self { engine, core, mesh, store, .. } = self;
        if let Some(store) = store {
            store.drain(|event| core.tell(event));
        }
        mesh.drain(INBOX_BATCHES, |from, item| match item {
            Item::Envelope(envelope) => core.tell(Event::FromShard { from, envelope }),
            Item::HandOver { socket, arrival } => match engine.adopt(socket) {
                Ok(connection) => core.tell(Event::Arrived { connection: core_id(connection), arrival }),
                Err(error) => {
                    core.stats.adopts_failed += 1;
                    debug!(%error, from = from.0, "a connection was lost on its way to its home shard");
                }
            },
        });
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Drain => {
                    if self.drain_until.is_none() {
                        self.drain_until = Some(self.core.clock.nanos().saturating_add(DRAIN_PATIENCE));
                        self.engine.stop_listening();
                        self.core.tell(Event::Drain);
                    }
                }
                // Whoever asked may be gone by now.
                Command::Snapshot(answer) => drop(answer.send(self.snapshot())),
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            shard: self.core.shard,
            core: self.core.core.stats().clone(),
            lobby: self.core.core.lobby_totals(),
            engine: self.engine.stats(),
            mesh: self.mesh.stats(),
            thread: LoopStats { cpu_ns: thread_cpu_ns(), ..self.core.stats },
        }
    }

    fn apply_effects(&mut self) {
        let Self { engine, core, mesh, store, .. } = self;
        for effect in core.effects.drain() {
            match effect {
                Effect::Read { connection, mode } => engine.read(engine_id(connection), engine_mode(mode)),
                Effect::Write { connection, buffer } => engine.write(engine_id(connection), buffer),
                Effect::ShutdownWrite { connection } => engine.shutdown_write(engine_id(connection)),
                Effect::Close { connection } => engine.close(engine_id(connection)),
                Effect::HandOver { connection, to, arrival } => {
                    let socket = engine.release(engine_id(connection));
                    mesh.push(to, Item::HandOver { socket, arrival });
                }
                Effect::Send { to, envelope } => mesh.push(to, Item::Envelope(envelope)),
                Effect::Store(batch) => linked(store).store(batch),
                Effect::Load(request) => linked(store).load(request),
            }
        }
    }

    /// How long the next pass may sleep: `None` until something happens.
    fn patience(&mut self, has_worked: bool) -> Option<Duration> {
        let now = self.core.clock.nanos();
        if has_worked {
            self.last_work = now;
        }
        // Congestion told by the flush is news without effects, and can wait for the next event.
        let has_mail = self.mesh.has_mail() || self.store.as_ref().is_some_and(StoreLink::has_mail);
        if has_mail || now.saturating_sub(self.last_work) < self.busy_poll {
            return Some(Duration::ZERO);
        }
        let timer = self.core.core.poll_timeout().map(|at| at.saturating_sub(now));
        let retry = self.mesh.has_pending().then_some(RETRY);
        let drain = self.drain_until.map(|until| DRAIN_LOOK.min(until.saturating_sub(now)));
        [timer, retry, drain].into_iter().flatten().min().map(Duration::from_nanos)
    }

    /// Whether the relay has drained, or clients took too long.
    fn is_done(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let connections = self.core.core.stats().connections;
        let is_stored = !self.core.core.has_unstored() && self.store.as_ref().is_none_or(StoreLink::is_idle);
        let is_empty = connections == 0 && is_stored && !self.mesh.has_pending() && !self.mesh.has_mail();
        self.empty_shards.set(self.core.shard, is_empty);
        if is_empty && self.empty_shards.are_all() && !self.mesh.has_mail() {
            info!(shard = self.core.shard.0, "drained");
            return true;
        }
        let is_late = self.core.clock.nanos() >= until;
        if is_late && connections > 0 {
            warn!(shard = self.core.shard.0, connections, "clients did not go away in time");
        }
        if is_late && !is_stored {
            warn!(shard = self.core.shard.0, "the store did not take everything in time; what was acked is there");
        }
        is_late
    }
}

impl CoreSide {
    /// Gives the core what the store had, before anything happens.
    fn restore(&mut self, restored: Restored) {
        self.has_news = true;
        self.core.restore(restored, self.clock.now(), &mut self.effects);
    }

    fn begin_pass(&mut self) {
        self.stats.passes += 1;
        self.now = None;
    }

    fn tell(&mut self, event: Event<'_>) {
        let now = *self.now.get_or_insert_with(|| self.clock.now());
        self.has_news = true;
        self.stats.events += 1;
        self.core.handle(event, now, &mut self.effects);
    }

    fn tell_of_kernel(&mut self, event: relay_engine::Event<'_>) {
        match event {
            relay_engine::Event::Accepted { connection, peer } => {
                let nonce = self.nonces.take();
                // An IPv4 client of an IPv6 socket is the same client.
                let peer = peer.ip().to_canonical();
                self.tell(Event::Accepted { connection: core_id(connection), peer, nonce });
            }
            relay_engine::Event::AcceptFailed { error } => self.accept_failed(error),
            relay_engine::Event::Received { connection, bytes } => {
                self.tell(Event::Received { connection: core_id(connection), bytes });
            }
            relay_engine::Event::Written { connection, buffer } => {
                self.tell(Event::Written { connection: core_id(connection), buffer });
            }
            relay_engine::Event::Disconnected { connection, reason } => {
                let gone = match reason {
                    Disconnect::Eof => Gone::Eof,
                    Disconnect::Error(_) => Gone::Broken,
                };
                self.tell(Event::Disconnected { connection: core_id(connection), gone });
            }
        }
    }

    fn accept_failed(&mut self, errno: i32) {
        self.stats.accepts_failed += 1;
        let now = self.clock.nanos();
        if self.accept_logged_at.is_none_or(|at| now - at >= ACCEPT_LOG_PAUSE) {
            self.accept_logged_at = Some(now);
            let error = io::Error::from_raw_os_error(errno);
            warn!(shard = self.shard.0, %error, failed = self.stats.accepts_failed, "a connection could not be accepted");
        }
    }

    /// Ends the batch if there was one or a timer is due; returns whether that was so.
    fn end_batch(&mut self) -> bool {
        let now = self.clock.now();
        let is_due = self.core.poll_timeout().is_some_and(|at| at <= now.nanos);
        if !self.has_news && !is_due {
            return false;
        }
        self.has_news = false;
        self.core.end_of_batch(now, &mut self.effects);
        true
    }
}

fn linked(store: &mut Option<StoreLink>) -> &mut StoreLink {
    store.as_mut().expect("only a core that was made with a store uses it")
}

/// CPU time of the calling thread.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn core_id(id: relay_engine::ConnectionId) -> ConnectionId {
    ConnectionId { index: id.index, generation: id.generation }
}

fn engine_id(id: ConnectionId) -> relay_engine::ConnectionId {
    relay_engine::ConnectionId { index: id.index, generation: id.generation }
}

fn engine_mode(mode: ReadMode) -> relay_engine::ReadMode {
    match mode {
        ReadMode::Once => relay_engine::ReadMode::Once,
        ReadMode::Continuous => relay_engine::ReadMode::Continuous,
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests;
