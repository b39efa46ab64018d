//! The coordinator: takes workers, signers and a relay of our own through the phases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use super::killer::Killer;
use super::lobbies::Lobbies;
use super::onlooker::Onlooker;
use super::witness::{Witness, evidence};
use super::{RelayResult, RunError, RunResult};
use crate::clock::SECOND_NS;
use crate::interference;
use crate::interval_log::Interval;
use crate::ledger::{Ledger, LobbyOutcome, SteadyCounts};
use crate::plan::{Moments, RunPlan};
use crate::progress::Progress;
use crate::recorder::{Missing, Recorder};
use crate::relay_admin::{self, Admin, CpuByThread};
use crate::relay_process::{RelayProcess, Usage};
use crate::scenario;
use crate::signer::Signer;
use crate::spread::Spread;
use crate::summary::WorkerRecord;
use crate::validity::examine;
use crate::worker::{Command, Handle, Outcome, Report};

/// From telling the workers to the first message.
const START_NOTICE_NS: u64 = 50_000_000;

/// What a reader has to know of a run with a relay that was killed.
const TIMES_ARE_NOT_JUDGED: &str = "the relay was killed and started again: times hold how long it was down, and say \
    nothing; judged is what became of each message, which no trouble of the generator can spoil";

/// How often lobbies are compared.
pub(super) const COMPARE_EVERY: Duration = Duration::from_millis(50);

/// How long a worker may take to answer; its passes take milliseconds.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How the relay fared at one moment.
struct Reading {
    at_ns: u64,
    usage: Usage,
    cpu: CpuByThread,
}

/// Conducts the workers, the signers and a relay of our own through one run.
pub(super) struct Coordinator<'a> {
    pub(super) plan: Arc<RunPlan>,
    pub(super) progress: &'a Progress,
    interrupted: &'a AtomicBool,
    pub(super) relay: Option<RelayProcess>,
    killer: Option<Killer>,
    /// The admin port of a relay that is not ours.
    admin: Option<Admin>,
    pub(super) workers: Vec<Handle>,
    reports: Receiver<Report>,
    pub(super) signers: Vec<Signer>,
    onlooker: Onlooker,
    empty: Usage,
    /// Intervals by number, and how many workers have handed theirs in.
    intervals: Vec<(Box<Recorder>, usize)>,
    /// Joins and leaves.
    spread: Spread,
    pub(super) notes: Vec<String>,
    witness: Witness,
}

impl<'a> Coordinator<'a> {
    /// Starts the workers, which begin to connect.
    pub(super) fn start(
        plan: Arc<RunPlan>,
        progress: &'a Progress,
        interrupted: &'a AtomicBool,
        relay: Option<RelayProcess>,
        killer: Option<Killer>,
        admin: Option<Admin>,
    ) -> Result<Self, RunError> {
        let (sender, reports) = unbounded();
        let empty = relay.as_ref().map(RelayProcess::usage).unwrap_or_default();
        let witness =
            Witness::start(&plan).map_err(|error| RunError::System { what: "starting a heartbeat", error })?;
        let mut coordinator = Self {
            onlooker: Onlooker::new(&plan),
            plan,
            progress,
            interrupted,
            relay,
            killer,
            admin,
            workers: Vec::new(),
            reports,
            signers: Vec::new(),
            empty,
            intervals: Vec::new(),
            spread: Spread::default(),
            notes: Vec::new(),
            witness,
        };
        for worker in 0..coordinator.plan.workers {
            match Handle::start(&coordinator.plan, worker, sender.clone()) {
                Ok(handle) => coordinator.workers.push(handle),
                Err(error) => {
                    coordinator.end_threads();
                    return Err(RunError::System { what: "starting a worker", error });
                }
            }
        }
        Ok(coordinator)
    }

    /// Ends workers and signers, wherever they are.
    pub(super) fn end_threads(&mut self) {
        for worker in self.workers.drain(..) {
            worker.tell(Command::Finish);
            worker.join();
        }
        for signer in self.signers.drain(..) {
            signer.end();
        }
        self.progress.finish();
    }

    /// Goes through the phases.
    pub(super) fn conduct(&mut self) -> Result<RunResult, RunError> {
        let ready = self.await_clients()?;
        let engine = ready[0].engine;
        let truth_known = self.check_truth()?;
        let connected = self.usage();
        let offset_ms = self.check_limits(&ready)?;
        self.prepare()?;
        let signed = self.sign_ahead(&ready, offset_ms)?;
        let begin_ns = self.plan.clock.now_ns() + START_NOTICE_NS;
        let moments = self.plan.moments(begin_ns);
        let steady_began =
            SystemTime::now() + Duration::from_nanos(moments.steady_ns.saturating_sub(self.plan.clock.now_ns()));
        if let Some(killer) = &mut self.killer {
            killer.start(&moments);
        }
        for (worker, signed) in self.workers.iter().zip(signed) {
            worker.tell(Command::Start { moments, signed });
        }
        let listener = || interference::listener(self.plan.target.address);
        self.witness.watch(&moments, self.relay.as_ref().map(RelayProcess::id).or_else(listener));
        let (begin, end) = self.watch(&moments)?;
        let (mut lobby, settled_ns) = self.settle(truth_known)?;
        let mut outcomes = self.collect()?;
        let (mut ledger, mut steady) = (Ledger::default(), SteadyCounts::default());
        let mut scenario = scenario::outcome::Outcome::default();
        for outcome in &outcomes {
            scenario.add(&outcome.scenario);
            ledger.add(&outcome.ledger);
            steady.add(&outcome.steady);
            lobby.disagreements += outcome.disagreements;
        }
        if let Some(killer) = &mut self.killer {
            // What is left of it is what the coordinator knows.
            scenario.crash.kills = killer.counts.kills;
            scenario.crash.down_ns = killer.counts.down_ns;
            scenario.crash.down_longest_ns = killer.counts.down_longest_ns;
            self.notes.push(TIMES_ARE_NOT_JUDGED.to_owned());
        }
        let last = self.intervals.len();
        for outcome in &mut outcomes {
            self.take_interval(last, &outcome.recorder);
            self.spread.take(std::mem::take(&mut outcome.news));
        }
        let mut intervals = self.lay_out(&moments);
        let mut missing = Missing::default();
        let reach = std::mem::take(&mut self.spread).finish(
            &moments,
            |when_ns, metric, ns| {
                // The first interval is all before the steady phase; the last one lasts until the end.
                let number = 1 + (when_ns.saturating_sub(moments.steady_ns) / SECOND_NS) as usize;
                let number = number.min(intervals.len().saturating_sub(1));
                if let Some(interval) = intervals.get_mut(number) {
                    interval.recorder.record(metric, ns);
                }
            },
            &mut missing,
        );
        let mut recorder = Recorder::default();
        for interval in &intervals {
            recorder.add(&interval.recorder);
        }
        let relay = self.relay.as_ref().map(|relay| RelayResult {
            start_line: relay.start_line.clone(),
            empty: self.empty,
            connected,
            steady_begin: begin.usage,
            steady_end: end.usage,
            end: Ok(()),
        });
        let workers = outcomes.iter().map(|outcome| WorkerRecord::new(outcome.health, &outcome.stats)).collect();
        let mut result = RunResult {
            plan: Arc::clone(&self.plan),
            steady_began,
            recorder,
            intervals,
            ledger,
            steady,
            lobby,
            scenario,
            settled_ns,
            reach,
            missing,
            engine,
            workers,
            relay,
            relay_about: None,
            relay_loads: relay_admin::loads(&begin.cpu, &end.cpu, end.at_ns.saturating_sub(begin.at_ns)),
            testimony: self.witness.testify(),
            findings: Vec::new(),
            notes: std::mem::take(&mut self.notes),
        };
        result.count_missing();
        if self.killer.is_none() {
            result.findings = examine(&evidence(&result));
        }
        Ok(result)
    }

    fn usage(&self) -> Usage {
        self.relay.as_ref().map(RelayProcess::usage).unwrap_or_default()
    }

    /// How the relay fares now.
    fn reading(&self) -> Reading {
        let cpu = match (&self.relay, &self.admin) {
            (Some(relay), _) => relay.cpu(),
            (None, Some(admin)) => admin.cpu(),
            (None, None) => CpuByThread::new(),
        };
        Reading { at_ns: self.plan.clock.now_ns(), usage: self.usage(), cpu }
    }

    /// The next report, or `None` after `patience`. Looks whether it makes sense to go on.
    pub(super) fn next(&mut self, patience: Duration) -> Result<Option<Report>, RunError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(RunError::Interrupted);
        }
        if let Some(relay) = &mut self.relay
            && let Some(status) = relay.has_ended()
        {
            return Err(RunError::Worker(format!("the relay ended ({status})\n{}", relay.last_lines())));
        }
        if let Some(figures) = self.onlooker.look(&self.workers, self.plan.clock.now_ns()) {
            self.progress.show(figures);
        }
        match self.reports.recv_timeout(patience) {
            Ok(Report::Failed(failure)) => Err(RunError::Worker(failure)),
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RunError::Worker("all workers have ended".to_owned())),
        }
    }

    pub(super) fn connected(&self) -> u64 {
        self.workers.iter().map(|worker| worker.gauge.active.load(Ordering::Relaxed)).sum()
    }

    /// Lets time pass; reports that come meanwhile are intervals.
    pub(super) fn wait(&mut self, time: Duration) -> Result<(), RunError> {
        if let Some(report) = self.next(time)? {
            self.take(report);
        }
        Ok(())
    }

    pub(super) fn take(&mut self, report: Report) {
        if let Report::Interval { number, recorder, news } = report {
            self.take_interval(number as usize, &recorder);
            self.spread.take(news);
        }
    }

    /// From the start until everything sent has come to an end. Returns how the relay fared at both
    /// ends of the steady phase.
    fn watch(&mut self, moments: &Moments) -> Result<(Reading, Reading), RunError> {
        let seconds = |ns: u64| ns as f64 / SECOND_NS as f64;
        self.progress.phase(
            "warm-up",
            (moments.steady_ns - moments.begin_ns) / 1_000_000,
            &format!("{:.1} s", seconds(moments.steady_ns - moments.begin_ns)),
        );
        self.onlooker.begin(moments.begin_ns, moments.end_ns);
        let (mut steady_begin, mut steady_end) = (None, None);
        let mut drained = 0;
        while drained < self.plan.workers {
            let now_ns = self.plan.clock.now_ns();
            if steady_begin.is_none() && now_ns >= moments.steady_ns {
                steady_begin = Some(self.reading());
                self.witness.begin();
                self.progress.phase(
                    "steady",
                    (moments.end_ns - moments.steady_ns) / 1_000_000,
                    &format!("{:.1} s", seconds(moments.end_ns - moments.steady_ns)),
                );
            }
            if steady_end.is_none() && now_ns >= moments.end_ns {
                steady_end = Some(self.reading());
                self.witness.end();
                self.progress.phase("drain", 1, "what is under way arrives, or is lost");
            }
            let phase_began_ns = if steady_begin.is_some() { moments.steady_ns } else { moments.begin_ns };
            self.progress.at(now_ns.saturating_sub(phase_began_ns) / 1_000_000);
            self.strike_if_due(now_ns)?;
            // Wakes for the moments at which the relay is looked at, and for the bar.
            let strike_ns = self.killer.as_ref().and_then(Killer::due_ns).unwrap_or(u64::MAX);
            let moments_ns = [moments.steady_ns, moments.end_ns, strike_ns].into_iter().filter(|&ns| ns > now_ns);
            let next_ns = moments_ns.min().unwrap_or(u64::MAX);
            let patience = Duration::from_nanos((next_ns - now_ns).min(100_000_000));
            match self.next(patience)? {
                Some(Report::Drained) => drained += 1,
                Some(report) => self.take(report),
                None => {}
            }
        }
        let (begin, end) = (steady_begin.take(), steady_end.take());
        Ok((begin.unwrap_or_else(|| self.reading()), end.unwrap_or_else(|| self.reading())))
    }

    /// Kills the relay and starts it again, if it is time. Clients find their own way back.
    fn strike_if_due(&mut self, now_ns: u64) -> Result<(), RunError> {
        if let Some(killer) = &mut self.killer
            && killer.due_ns().is_some_and(|due_ns| due_ns <= now_ns)
            && let Some(relay) = self.relay.take()
        {
            self.relay = Some(killer.strike(relay)?);
        }
        Ok(())
    }

    fn take_interval(&mut self, number: usize, recorder: &Recorder) {
        while self.intervals.len() <= number {
            self.intervals.push((Box::default(), 0));
        }
        let (sum, workers) = &mut self.intervals[number];
        sum.add(recorder);
        *workers += 1;
        let (sum, workers) = &self.intervals[number];
        if *workers == self.plan.workers && number > 0 {
            self.onlooker.add(sum);
        }
    }

    /// Gives intervals their places in time.
    fn lay_out(&mut self, moments: &Moments) -> Vec<Interval> {
        let steady = Duration::from_nanos(moments.end_ns - moments.steady_ns);
        std::mem::take(&mut self.intervals)
            .into_iter()
            .enumerate()
            .map(|(number, (recorder, _))| {
                let start = Duration::from_secs(number.saturating_sub(1) as u64);
                let length = if number == 0 {
                    Duration::from_nanos(moments.steady_ns)
                } else {
                    steady.saturating_sub(start).min(Duration::from_secs(1))
                };
                Interval { start, length, recorder }
            })
            .collect()
    }

    /// Waits until all lobbies are right, and says what they came to.
    /// Second: when the last of them became so, on the run's clock.
    fn settle(&mut self, truth_known: bool) -> Result<(LobbyOutcome, u64), RunError> {
        if !self.plan.workload.lobby {
            return Ok((LobbyOutcome { truth_known: true, ..LobbyOutcome::default() }, 0));
        }
        self.progress.phase("settle", 1, "lobbies become quiet");
        let deadline = Instant::now() + self.plan.workload.drain;
        loop {
            let lobbies = self.compare()?;
            if (lobbies.moving == 0 && lobbies.wrong(truth_known) == 0) || Instant::now() >= deadline {
                return Ok((lobbies.outcome(truth_known), lobbies.settled_ns));
            }
            self.wait(COMPARE_EVERY)?;
        }
    }

    /// Asks all workers what their clients' lobbies look like.
    pub(super) fn compare(&mut self) -> Result<Lobbies, RunError> {
        for worker in &self.workers {
            worker.tell(Command::CompareLobbies);
        }
        let mut lobbies = Lobbies::default();
        let mut answers = 0;
        let deadline = Instant::now() + ANSWER_PATIENCE;
        while answers < self.plan.workers {
            match self.next(COMPARE_EVERY)? {
                Some(Report::Lobby(report)) => {
                    lobbies.add(report);
                    answers += 1;
                }
                Some(report) => self.take(report),
                None if Instant::now() >= deadline => {
                    return Err(RunError::Worker("a worker does not answer".to_owned()));
                }
                None => {}
            }
        }
        Ok(lobbies)
    }

    /// Ends the workers and takes what they leave.
    fn collect(&mut self) -> Result<Vec<Outcome>, RunError> {
        for worker in &self.workers {
            worker.tell(Command::Finish);
        }
        let mut outcomes = Vec::new();
        let deadline = Instant::now() + ANSWER_PATIENCE;
        while outcomes.len() < self.plan.workers {
            match self.reports.recv_deadline(deadline) {
                Ok(Report::Done(outcome)) => outcomes.push(*outcome),
                Ok(Report::Failed(failure)) => return Err(RunError::Worker(failure)),
                Ok(report) => self.take(report),
                Err(_) => return Err(RunError::Worker("a worker does not end".to_owned())),
            }
        }
        Ok(outcomes)
    }
}
