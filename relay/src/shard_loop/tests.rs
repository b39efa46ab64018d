//! The loop with an engine that plays a script: one step a poll, and then it fails.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use relay_core::{Envelope, ShardId};
use relay_engine::{ConnectionId, Disconnect, Doorbell, Engine, EngineKind, EngineStats, Event, ReadMode};
use tokio::sync::oneshot;

use super::{DRAIN_LOOK, Parts, RETRY, ShardLoop};
use crate::clock::Clock;
use crate::control::Command;
use crate::drain::EmptyShards;
use crate::mesh::{INBOX_BATCHES_MAX, Item, Mesh};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);
const CLIENT: ConnectionId = ConnectionId { index: 0, generation: 7 };

/// What a poll does: may tell the sink events.
type Step = Box<dyn FnMut(&mut dyn FnMut(Event<'_>))>;

/// What the loop did with its engine.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    /// With the time limit, and whether a ring would have ended the sleep.
    Poll(Option<Duration>, bool),
    Read(ConnectionId, ReadMode),
    Close(ConnectionId),
    StopListening,
}

struct Script {
    steps: VecDeque<Step>,
    calls: Rc<RefCell<Vec<Call>>>,
    doorbell: Arc<Doorbell>,
}

impl Script {
    fn note(&self, call: Call) {
        self.calls.borrow_mut().push(call);
    }
}

impl Engine for Script {
    fn kind(&self) -> EngineKind {
        EngineKind::Epoll
    }

    fn listen(&mut self, _: TcpListener) -> io::Result<()> {
        unreachable!("the thread listens, not the loop")
    }

    fn stop_listening(&mut self) {
        self.note(Call::StopListening);
    }

    fn adopt(&mut self, _: OwnedFd) -> io::Result<ConnectionId> {
        unreachable!("nothing was handed over")
    }

    fn read(&mut self, connection: ConnectionId, mode: ReadMode) {
        self.note(Call::Read(connection, mode));
    }

    fn write(&mut self, _: ConnectionId, _: Vec<u8>) {
        unreachable!("nobody sent a request")
    }

    fn shutdown_write(&mut self, _: ConnectionId) {
        unreachable!("nothing was written")
    }

    fn close(&mut self, connection: ConnectionId) {
        self.note(Call::Close(connection));
    }

    fn release(&mut self, _: ConnectionId) -> OwnedFd {
        unreachable!("nobody logged in")
    }

    fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll(&mut self, timeout: Option<Duration>, sink: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        self.note(Call::Poll(timeout, self.doorbell.ring()));
        let mut step = self.steps.pop_front().ok_or_else(|| io::Error::other("the script has ended"))?;
        step(sink);
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

/// Everything around one loop of two.
struct Stage {
    parts: Parts,
    commands: Sender<Command>,
    empty_shards: Arc<EmptyShards>,
    other: Mesh,
}

impl Stage {
    fn new() -> Self {
        let mut ends = Mesh::of(2).into_iter();
        let (mesh, other) = (ends.next().unwrap(), ends.next().unwrap());
        let (commands_sender, commands) = bounded(4);
        let empty_shards = Arc::new(EmptyShards::none_of(2));
        let parts = Parts {
            core: relay_core::Config::new(HERE, 2, 1),
            mesh,
            commands,
            clock: Clock::start(),
            busy_poll: Duration::ZERO,
            empty_shards: Arc::clone(&empty_shards),
            store: None,
        };
        Self { parts, commands: commands_sender, empty_shards, other }
    }

    /// Runs the loop through the script; says what it did, and whether it ended by itself.
    fn run(self, steps: Vec<Step>) -> (Vec<Call>, bool) {
        let calls = Rc::default();
        let engine =
            Script { steps: steps.into(), calls: Rc::clone(&calls), doorbell: Arc::new(Doorbell::new().unwrap()) };
        let has_ended = ShardLoop::new(engine, self.parts).run().is_ok();
        (calls.take(), has_ended)
    }
}

fn nothing() -> Step {
    Box::new(|_| {})
}

fn accept() -> Step {
    Box::new(|sink| sink(Event::Accepted { connection: CLIENT, peer: (Ipv4Addr::LOCALHOST, 9).into() }))
}

fn disconnect() -> Step {
    Box::new(|sink| sink(Event::Disconnected { connection: CLIENT, reason: Disconnect::Error(104) }))
}

fn envelope() -> Item {
    Item::Envelope(Envelope::Lobby { joined: Vec::new(), left: Vec::new() })
}

const LOOK: Call = Call::Poll(Some(Duration::ZERO), false);
const SLEEP: Call = Call::Poll(None, true);

/// The time limit of a sleep that can be rung.
fn sleep_limit(call: &Call) -> Duration {
    let Call::Poll(Some(limit), true) = call else { panic!("no sleep with a limit: {call:?}") };
    assert_ne!(*limit, Duration::ZERO);
    *limit
}

#[test]
fn an_idle_shard_sleeps_until_it_is_rung() {
    let (calls, has_ended) = Stage::new().run(vec![nothing(), nothing()]);
    assert_eq!(calls, [LOOK, SLEEP, SLEEP]);
    assert!(!has_ended);
}

#[test]
fn a_connection_is_read_timed_and_closed() {
    let timeout = Stage::new().parts.core.upgrade_timeout;
    let (calls, _) = Stage::new().run(vec![accept(), disconnect()]);
    assert_eq!(calls[..2], [LOOK, Call::Read(CLIENT, ReadMode::Once)]);
    assert!(sleep_limit(&calls[2]) <= timeout);
    assert_eq!(calls[3], Call::Close(CLIENT));
}

#[test]
fn mail_that_comes_during_a_pass_forbids_the_sleep() {
    let Stage { parts, commands, empty_shards, mut other } = Stage::new();
    other.push(HERE, envelope());
    // More batches than one pass takes.
    for _ in 0..super::INBOX_BATCHES {
        other.flush(|_, _| {});
        other.push(HERE, envelope());
    }
    other.flush(|_, _| {});
    let stage = Stage { parts, commands, empty_shards, other };
    let (calls, _) = stage.run(vec![nothing(), nothing()]);
    assert_eq!(calls, [LOOK, LOOK, SLEEP]);
}

#[test]
fn a_command_that_comes_late_is_seen_before_the_sleep() {
    let stage = Stage::new();
    let commands = stage.commands.clone();
    let (answer, mut answered) = oneshot::channel();
    let mut answer = Some(answer);
    // Comes while the shard sleeps; the doorbell lets it look.
    let ask: Step = Box::new(move |_| {
        if let Some(answer) = answer.take() {
            commands.send(Command::Snapshot(answer)).unwrap();
        }
    });
    let (calls, _) = stage.run(vec![nothing(), ask]);
    assert_eq!(calls, [LOOK, SLEEP, SLEEP]);
    let snapshot = answered.try_recv().unwrap();
    assert_eq!((snapshot.shard, snapshot.thread.passes, snapshot.thread.sleeps), (HERE, 2, 1));
}

#[test]
fn busy_polling_looks_on_after_work() {
    let mut stage = Stage::new();
    stage.parts.busy_poll = Duration::from_secs(3600);
    let (calls, _) = stage.run(vec![accept(), nothing(), nothing()]);
    let polls: Vec<_> = calls.into_iter().filter(|call| matches!(call, Call::Poll(..))).collect();
    assert_eq!(polls, [LOOK, LOOK, LOOK, LOOK]);
}

#[test]
fn a_full_inbox_is_tried_again_soon() {
    let mut stage = Stage::new();
    for _ in 0..=INBOX_BATCHES_MAX {
        stage.parts.mesh.push(THERE, envelope());
        stage.parts.mesh.flush(|_, _| {});
    }
    let (calls, _) = stage.run(vec![nothing(), nothing()]);
    assert_eq!(sleep_limit(&calls[1]), Duration::from_nanos(RETRY));
}

#[test]
fn a_drained_shard_waits_for_the_others() {
    let stage = Stage::new();
    let other_is_empty = Arc::clone(&stage.empty_shards);
    stage.commands.send(Command::Drain).unwrap();
    let end: Step = Box::new(move |_| other_is_empty.set(THERE, true));
    let (calls, has_ended) = stage.run(vec![accept(), nothing(), end]);
    assert!(has_ended);
    // The connection had sent nothing, and is closed in the pass that drains.
    let [LOOK, Call::StopListening, rest @ ..] = &calls[..] else { panic!("{calls:?}") };
    assert!(rest.contains(&Call::Close(CLIENT)));
    for poll in rest.iter().filter(|call| matches!(call, Call::Poll(..))) {
        assert!(sleep_limit(poll) <= Duration::from_nanos(DRAIN_LOOK));
    }
    assert_eq!(rest.iter().filter(|call| matches!(call, Call::Poll(..))).count(), 2);
}

#[test]
fn a_draining_shard_does_not_end_with_mail_in_its_inbox() {
    let mut stage = Stage::new();
    stage.commands.send(Command::Drain).unwrap();
    stage.empty_shards.set(THERE, true);
    for _ in 0..=super::INBOX_BATCHES {
        stage.other.push(HERE, envelope());
        stage.other.flush(|_, _| {});
    }
    let (calls, has_ended) = stage.run(vec![nothing(), nothing()]);
    assert!(has_ended);
    assert_eq!(calls, [LOOK, Call::StopListening, LOOK]);
}
