//! The thread that holds a share of the clients, sends what is due and measures what comes.
//!
//! # Flow
//! One pass: commands, what is due (`session`), writes, then [`Engine::poll`] until just before
//! the next message is due. Close to a deadline the worker polls without waiting, since a sleeping
//! thread wakes tens of microseconds late; far from one it sleeps in the kernel.
//!
//! | module | subject |
//! |---|---|
//! | `session` | all clients of the worker: opening, lobby, leaving |
//! | `client` | one of them |
//! | `traffic` | messages: when they are due |
//! | `checking` | what comes of them |
//! | `confirming` | `received`, for all that a pass brought |
//! | `writing` | from a message's turn to its write; what the times mean |
//! | `churn` | visitors: when they come and go |
//! | `storm`, `slow`, `offline` | clients that drop at once and come back; that stop reading; that are offline |
//! | `rooms` | the rooms that messages go to |
//! | `crash` | clients of a relay that is killed now and then |
//! | `standing` | which messages are judged |
//! | `opening` | from dialling to welcome, and the other way |
//! | `inbox` | inbox numbers and acks |
//! | `outbox` | bytes that wait to be written |
//! | `report` | what worker and coordinator tell each other |
//!
//! # Invariants
//! - A worker shares with others only channels, the visitors' times and its [`Gauge`].
//! - What a pass measures is in its recorder before the next interval begins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use relay_engine::{ConnectionId, Engine, EngineConfig, Event, ReadMode, connect_start};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use crate::clock::{SECOND_NS, to_ns};
use crate::interference;
use crate::plan::{EngineChoice, Moments, RunPlan};
use crate::preflight;
use crate::stock::Batch;

pub use opening::RelayLimits;
pub use report::{Command, Gauge, LobbyGroup, LobbyReport, Outcome, Ready, Report, WorkerHealth};
use session::Session;

mod checking;
mod churn;
mod client;
mod confirming;
mod crash;
mod inbox;
mod offline;
mod opening;
mod outbox;
mod report;
mod rooms;
mod session;
mod slow;
mod standing;
mod storm;
mod traffic;
mod writing;

/// So long before a message is due the worker stops sleeping: a timer of the kernel is late by up
/// to some 60 µs.
const SPIN_NS: u64 = 100_000;

/// The longest sleep, so that commands are seen.
const SLEEP_MAX_NS: u64 = 10_000_000;

/// A pass that finds nothing takes less than a microsecond. What takes longer than this was
/// interrupted, and the thread did not use the CPU meanwhile.
const IDLE_PASS_MAX_NS: u64 = 5_000;

/// Completions that are handled before it is looked again what is due: a change of the lobby comes to
/// thousands of clients at once.
const PASS_COMPLETIONS: usize = 256;

/// How often slow matters are looked at: 100 ms.
const HOUSEKEEPING_NS: u64 = 100_000_000;

/// What has not come so long after the last message was written, while the worker found nothing to
/// read, was not left lying by the generator.
const QUIET_NS: u64 = SECOND_NS;

/// A running worker, as the coordinator holds it.
#[derive(Debug)]
pub struct Handle {
    /// To the worker.
    pub commands: Sender<Command>,
    /// Its numbers.
    pub gauge: Arc<Gauge>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Starts a worker, which begins to connect at once.
    ///
    /// # Errors
    /// The operating system's, when there can be no more threads.
    pub fn start(plan: &Arc<RunPlan>, worker: usize, reports: Sender<Report>) -> io::Result<Self> {
        let (commands, receiver) = crossbeam_channel::unbounded();
        let gauge = Arc::new(Gauge::default());
        let (plan, shared) = (Arc::clone(plan), Arc::clone(&gauge));
        let thread = thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
            let report = match Worker::new(&plan, worker, shared, &reports) {
                Ok(worker) => worker.run(&receiver),
                Err(error) => Err(error),
            };
            // The coordinator may be gone already, on its way out.
            let _ = reports.send(report.unwrap_or_else(|failure| Report::Failed(failure.to_string())));
        })?;
        Ok(Self { commands, gauge, thread })
    }

    /// Tells the worker something; one that has ended does not hear it.
    pub fn tell(&self, command: Command) {
        // A worker that has failed has reported so.
        let _ = self.commands.send(command);
    }

    /// Waits for the thread, which has been told to finish or has failed.
    pub fn join(self) {
        // The thread has no result, and a panic in it has ended the process.
        let _ = self.thread.join();
    }
}

/// Why a worker stopped.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("engine {kind}: {error}")]
    Engine { kind: &'static str, error: io::Error },
    #[error("{0}")]
    Client(String),
}

struct Worker<'r> {
    plan: Arc<RunPlan>,
    number: usize,
    engine: Box<dyn Engine>,
    /// By index of connection: its client.
    places: Vec<u32>,
    session: Session,
    gauge: Arc<Gauge>,
    reports: &'r Sender<Report>,
    progress: Progress,
    /// When the next interval is over.
    rotate_ns: u64,
    interval: u64,
    housekeeping_ns: u64,
    effort: Effort,
    /// When a look at all connections last found nothing.
    quiet_ns: u64,
    caught_up: bool,
}

/// How far the run has come for this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Connecting,
    Ready,
    /// Rooms are being made, or those who are to be offline are leaving.
    Preparing,
    Prepared,
    Running,
    Drained,
}

/// How much of the steady phase was work.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    /// Passes that did nothing and did not sleep.
    idle_ns: u64,
    at_begin: Option<Used>,
    at_end: Option<Used>,
    /// When a storm began, with what had been used by then.
    storm_begin: Option<(u64, Used)>,
    /// When all were back.
    storm_end: Option<(u64, Used)>,
}

/// What a thread has used up by some moment.
#[derive(Clone, Copy, Debug)]
struct Used {
    cpu_ns: u64,
    idle_ns: u64,
    /// Waiting for a core.
    waited_ns: Option<u64>,
}

impl Effort {
    fn watch(&mut self, moments: &Moments, now_ns: u64) {
        if self.at_begin.is_none() && now_ns >= moments.steady_ns {
            self.at_begin = Some(self.used());
        }
        if self.at_end.is_none() && now_ns >= moments.end_ns {
            self.at_end = Some(self.used());
        }
    }

    fn watch_storm(&mut self, storm: &storm::Storm, now_ns: u64) {
        if self.storm_begin.is_none() && storm.has_begun() {
            self.storm_begin = Some((now_ns, self.used()));
        }
        if self.storm_end.is_none() && storm.is_over() {
            self.storm_end = Some((now_ns, self.used()));
        }
    }

    fn used(&self) -> Used {
        let (cpu_ns, waited_ns) = (preflight::thread_cpu_ns(), interference::waited_for_core_ns());
        Used { cpu_ns, idle_ns: self.idle_ns, waited_ns }
    }

    /// The share of a storm that was work or waiting for a core.
    fn of_storm(&self) -> Option<f64> {
        let ((begin_ns, begin), (end_ns, end)) = (self.storm_begin?, self.storm_end?);
        let worked_ns = (end.cpu_ns - begin.cpu_ns).saturating_sub(end.idle_ns - begin.idle_ns);
        let waited_ns = end.waited_ns.zip(begin.waited_ns).map_or(0, |(end, begin)| end.saturating_sub(begin));
        Some((worked_ns + waited_ns) as f64 / (end_ns - begin_ns).max(1) as f64)
    }

    /// The share of the steady phase that was work, the CPU time, and the time spent waiting for a
    /// core.
    fn of(&self, moments: Option<&Moments>) -> (Option<f64>, u64, Option<u64>) {
        let (Some(moments), Some(begin), Some(end)) = (moments, self.at_begin, self.at_end) else {
            return (None, 0, None);
        };
        let (cpu_ns, idle_ns) = (end.cpu_ns - begin.cpu_ns, end.idle_ns - begin.idle_ns);
        let waited_ns = end.waited_ns.zip(begin.waited_ns).map(|(end, begin)| end.saturating_sub(begin));
        let steady_ns = (moments.end_ns - moments.steady_ns).max(1);
        (Some(cpu_ns.saturating_sub(idle_ns) as f64 / steady_ns as f64), cpu_ns, waited_ns)
    }
}

impl<'r> Worker<'r> {
    fn new(
        plan: &Arc<RunPlan>,
        number: usize,
        gauge: Arc<Gauge>,
        reports: &'r Sender<Report>,
    ) -> Result<Self, Failure> {
        if let Some(core) = plan.core_of(number) {
            preflight::pin_thread(core);
        }
        preflight::sharpen_timers();
        let engine = open_engine(plan.engine)?;
        let entropy = getrandom::u64().map_err(|error| Failure::Client(format!("no random numbers: {error}")))?;
        let session = Session::new(plan, number, entropy);
        Ok(Self {
            plan: Arc::clone(plan),
            number,
            engine,
            places: Vec::new(),
            session,
            gauge,
            reports,
            progress: Progress::Connecting,
            rotate_ns: u64::MAX,
            interval: 0,
            housekeeping_ns: 0,
            effort: Effort::default(),
            quiet_ns: 0,
            caught_up: false,
        })
    }

    fn run(mut self, commands: &Receiver<Command>) -> Result<Report, Failure> {
        let mut now_ns = self.plan.clock.now_ns();
        loop {
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Prepare => {
                        self.session.make_rooms();
                        self.session.send_away();
                        self.progress = Progress::Preparing;
                    }
                    Command::Start { moments, signed } => self.start(moments, signed),
                    Command::CompareLobbies => {
                        self.report(Report::Lobby(self.session.lobby_report()));
                    }
                    Command::Finish => return Ok(self.finish()),
                }
            }
            let stepped = self.session.step(now_ns);
            self.connect(now_ns);
            let written = self.flush();
            self.mind(now_ns)?;
            let timeout_ns = self.sleep_ns(now_ns);
            let events = self.poll(timeout_ns)?;
            let after_ns = self.plan.clock.now_ns();
            if events == 0 {
                self.quiet_ns = after_ns;
            }
            if timeout_ns == 0 && stepped + written + events == 0 {
                self.effort.idle_ns += (after_ns - now_ns).min(IDLE_PASS_MAX_NS);
            }
            now_ns = after_ns;
        }
    }

    fn report(&self, report: Report) {
        // A coordinator that is gone needs no reports, and has told all workers to finish.
        let _ = self.reports.send(report);
    }

    fn start(&mut self, moments: Moments, signed: Option<Receiver<Batch>>) {
        let schedule = self.plan.messages(self.number);
        self.session.start(&moments);
        self.session.traffic.start(moments, schedule, signed);
        self.rotate_ns = moments.steady_ns;
        self.progress = Progress::Running;
    }

    /// Looks at what is not due to the microsecond.
    fn mind(&mut self, now_ns: u64) -> Result<(), Failure> {
        if let Some(failure) = self.session.failure.take() {
            return Err(Failure::Client(failure));
        }
        if self.progress == Progress::Connecting && self.session.is_ready() {
            self.progress = Progress::Ready;
            self.session.update_gauge(&self.gauge);
            self.report(Report::Ready(Ready {
                worker: self.number,
                engine: self.engine.kind(),
                keys: self.session.keys(),
                senders: self.session.traffic.senders(),
                peers: Arc::clone(self.session.traffic.peers()),
                relay: self.session.relay,
            }));
        }
        if self.progress == Progress::Preparing && self.session.are_away() && self.session.has_rooms() {
            self.progress = Progress::Prepared;
            self.report(Report::Prepared);
        }
        if let Some(&moments) = self.session.traffic.moments() {
            self.effort.watch(&moments, now_ns);
            self.effort.watch_storm(&self.session.storm, now_ns);
            if now_ns >= self.rotate_ns {
                self.rotate(&moments);
            }
            if self.progress == Progress::Running && now_ns >= moments.end_ns {
                let Session { traffic, slow, offline, crash, confirming, .. } = &mut self.session;
                let patience_ns = to_ns(self.plan.workload.drain);
                let is_done = traffic.is_over(now_ns)
                    && traffic.open() == 0
                    && slow.is_quiet(now_ns)
                    && offline.is_back()
                    && crash.is_over()
                    && confirming.is_done();
                if is_done || now_ns >= moments.end_ns + patience_ns {
                    self.progress = Progress::Drained;
                    self.caught_up = traffic.open() == 0 || self.quiet_ns >= traffic.written_ns() + QUIET_NS;
                    traffic.stop();
                    self.session.leave_rooms();
                    self.report(Report::Drained);
                }
            }
        }
        if now_ns >= self.housekeeping_ns {
            self.housekeeping_ns = now_ns + HOUSEKEEPING_NS;
            self.session.check_patience(now_ns);
            self.session.sync_lobbies(now_ns);
            self.session.update_gauge(&self.gauge);
            let worked_ns = preflight::thread_cpu_ns().saturating_sub(self.effort.idle_ns);
            self.gauge.worked_ns.store(worked_ns, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Hands the interval's recorder over. The last interval lasts until the worker ends.
    fn rotate(&mut self, moments: &Moments) {
        let recorder = std::mem::take(&mut self.session.recorder);
        let news = self.session.sightings.take();
        self.report(Report::Interval { number: self.interval, recorder, news });
        self.interval += 1;
        let next_ns = moments.steady_ns + self.interval * SECOND_NS;
        self.rotate_ns = if next_ns < moments.end_ns { next_ns } else { u64::MAX };
    }

    fn sleep_ns(&self, now_ns: u64) -> u64 {
        let longest_ns = SLEEP_MAX_NS.min(self.rotate_ns.saturating_sub(now_ns));
        match self.session.due_ns() {
            None => longest_ns,
            Some((due_ns, exact)) => {
                let margin_ns = if exact { SPIN_NS } else { 0 };
                due_ns.saturating_sub(now_ns + margin_ns).min(longest_ns)
            }
        }
    }

    /// Makes the connections that the session asks for.
    fn connect(&mut self, now_ns: u64) {
        while let Some(place) = self.session.connects.pop_front() {
            let sources = &self.plan.source_ips;
            let source = if sources.is_empty() { None } else { Some(sources[place as usize % sources.len()]) };
            let adopted = connect_start(self.plan.target.address, source).and_then(|socket| {
                set_socket_send_buffer_size(&socket, writing::SEND_BUFFER_BYTES)?;
                if self.session.slow.holds(place) {
                    set_socket_recv_buffer_size(&socket, slow::RECEIVE_BUFFER_BYTES)?;
                }
                self.engine.adopt(socket)
            });
            match adopted {
                Ok(connection) => {
                    let index = connection.index as usize;
                    if self.places.len() <= index {
                        self.places.resize(index + 1, u32::MAX);
                    }
                    self.places[index] = place;
                    let slow = self.session.slow.holds(place);
                    self.engine.read(connection, if slow { ReadMode::Once } else { ReadMode::Continuous });
                    self.session.connecting(place, connection, now_ns);
                }
                Err(error) => self.session.refused(place, &error),
            }
        }
    }

    fn flush(&mut self) -> usize {
        let Self { session, engine, .. } = self;
        for connection in session.closes.drain(..) {
            engine.close(connection);
        }
        while let Some(place) = session.slow.reads.pop() {
            if let Some(connection) = session.connection(place) {
                engine.read(connection, ReadMode::Once);
            }
        }
        session.flush(engine.as_mut())
    }

    fn poll(&mut self, timeout_ns: u64) -> Result<usize, Failure> {
        let Self { session, engine, places, .. } = self;
        let mut events = 0;
        let polled = engine.poll(Some(Duration::from_nanos(timeout_ns)), &mut |event| {
            events += 1;
            let place_of = |connection: ConnectionId, session: &Session| {
                let place = places[connection.index as usize];
                // A client that was given up in this pass still has events until its close.
                (session.connection(place) == Some(connection)).then_some(place)
            };
            match event {
                Event::Received { connection, bytes } => {
                    if let Some(place) = place_of(connection, session) {
                        session.received(place, bytes);
                        if session.slow.holds(place) {
                            session.slow.received(place, session.plan.clock.now_ns());
                        }
                    }
                }
                Event::Written { connection, buffer } => {
                    if let Some(place) = place_of(connection, session) {
                        session.outbox.written(place, buffer);
                    }
                }
                Event::Disconnected { connection, reason } => {
                    if let Some(place) = place_of(connection, session) {
                        session.disconnected(place, reason);
                    }
                }
                Event::Accepted { .. } | Event::AcceptFailed { .. } => {}
            }
        });
        polled.map_err(|error| Failure::Engine { kind: "poll", error })?;
        Ok(events)
    }

    fn finish(mut self) -> Report {
        self.session.close_books();
        let mut scenario = self.session.scenario_outcome();
        scenario.storm.busy = self.effort.of_storm();
        let Session { traffic, churn, recorder, mut sightings, disagreements, .. } = self.session;
        let (busy, cpu_ns, waited_ns) = self.effort.of(traffic.moments());
        Report::Done(Box::new(Outcome {
            health: WorkerHealth {
                busy,
                cpu_ns,
                waited_ns,
                caught_up: self.caught_up,
                starved: traffic.supply.starved,
                expired: traffic.supply.expired,
                visits_missed: churn.missed,
            },
            ledger: traffic.ledger,
            steady: traffic.steady,
            recorder,
            scenario,
            news: sightings.take(),
            disagreements,
            stats: self.engine.stats(),
        }))
    }
}

/// Opens the engine that was asked for on this thread.
fn open_engine(choice: EngineChoice) -> Result<Box<dyn Engine>, Failure> {
    let config = EngineConfig { pass_completions: PASS_COMPLETIONS, ..EngineConfig::default() };
    let ring = || relay_engine::ring::Ring::new(&config).map(|ring| Box::new(ring) as Box<dyn Engine>);
    let epoll = || relay_engine::epoll::Epoll::new(&config).map(|epoll| Box::new(epoll) as Box<dyn Engine>);
    let failed = |kind| move |error| Failure::Engine { kind, error };
    match choice {
        EngineChoice::Ring => ring().map_err(failed("ring")),
        EngineChoice::Epoll => epoll().map_err(failed("epoll")),
        EngineChoice::Auto if relay_engine::ring::probe().is_ok() => ring().map_err(failed("ring")),
        EngineChoice::Auto => epoll().map_err(failed("epoll")),
    }
}
