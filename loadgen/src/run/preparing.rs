//! What comes before the first message: clients connect, lobbies are compared, who is to be offline leaves,
//! messages are signed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::RunError;
use super::coordinator::{ANSWER_PATIENCE, COMPARE_EVERY, Coordinator};
use crate::plan::Rate;
use crate::signer::{Assignment, BATCH_MESSAGES, Signer};
use crate::stock::Batch;
use crate::units::show_count;
use crate::worker::{Command, Ready, Report};

/// How long connecting may stand still.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// How long lobbies may take to agree before the run.
const AGREE_PATIENCE: Duration = Duration::from_secs(5);

impl Coordinator<'_> {
    pub(super) fn await_clients(&mut self) -> Result<Vec<Ready>, RunError> {
        let clients = self.plan.workload.clients * self.plan.workload.devices;
        let seconds = self.plan.workload.ramp.as_secs_f64();
        self.progress.phase(
            "connect",
            u64::from(clients),
            &format!("{} clients over {seconds:.1} s", show_count(u64::from(clients))),
        );
        let mut ready = Vec::new();
        let (mut connected, mut moved) = (0, Instant::now());
        while ready.len() < self.plan.workers {
            if let Some(Report::Ready(report)) = self.next(COMPARE_EVERY)? {
                ready.push(report);
            }
            let active = self.connected();
            if active != connected {
                (connected, moved) = (active, Instant::now());
                self.progress.at(active);
            }
            if moved.elapsed() > CONNECT_PATIENCE + self.plan.workload.ramp {
                return Err(RunError::Stuck { connected, clients });
            }
        }
        ready.sort_unstable_by_key(|ready| ready.worker);
        Ok(ready)
    }

    /// Whether nobody but this run's clients is on the relay, so that the truth is known.
    pub(super) fn check_truth(&mut self) -> Result<bool, RunError> {
        if !self.plan.workload.lobby {
            return Ok(true);
        }
        let deadline = Instant::now() + AGREE_PATIENCE;
        loop {
            let lobbies = self.compare()?;
            if lobbies.wrong(true) == 0 {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                self.notes.push(
                    "the relay's lobby holds others than this run's clients, so the truth is unknown: lobbies are \
                     compared with each other and with the totals that the relay announces"
                        .to_owned(),
                );
                return Ok(false);
            }
            self.wait(COMPARE_EVERY)?;
        }
    }

    /// Refuses a workload that the relay's limits forbid. Returns the relay's clock less ours.
    pub(super) fn check_limits(&mut self, ready: &[Ready]) -> Result<i64, RunError> {
        let Some(relay) = ready.iter().find_map(|ready| ready.relay) else { return Ok(0) };
        let workload = &self.plan.workload;
        let allowed = relay.limits.messages_per_second;
        if allowed > 0 {
            let fix = "start the relay with --rate-limit 0 (with --spawn-relay: --relay-args '--rate-limit 0')";
            match workload.per_sender() {
                None => {
                    return Err(RunError::Refused(format!(
                        "--rate max needs a relay without a rate limit, and this one takes {allowed} messages a \
                         second of each key: {fix}"
                    )));
                }
                Some(planned) if planned > allowed as f64 => {
                    return Err(RunError::Refused(format!(
                        "each sender would send up to {planned:.1} messages a second, and the relay takes {allowed} of each \
                         key: use more --clients or --senders, a lower --rate, or {fix}"
                    )));
                }
                Some(_) if workload.scenario.crash.is_some() => {
                    return Err(RunError::Refused(format!(
                        "with --crash clients send at once what fell due while the relay was down, and this one takes \
                         {allowed} messages a second of each key: {fix}"
                    )));
                }
                Some(_) => {}
            }
        }
        if workload.message_bytes as u64 > relay.limits.message_chars && workload.rate != Rate::Idle {
            return Err(RunError::Refused(format!(
                "messages of {} characters are too long for this relay: --message-bytes {} at most",
                workload.message_bytes, relay.limits.message_chars
            )));
        }
        if relay.clock_offset_ms.abs() > 1000 {
            self.notes.push(format!(
                "the relay's clock differs by {:.1} s; messages are signed with its time",
                relay.clock_offset_ms as f64 / 1000.0
            ));
        }
        Ok(relay.clock_offset_ms)
    }

    /// Has the rooms made that messages go to, lets those leave who are offline while messages are sent to
    /// them, and waits for both.
    pub(super) fn prepare(&mut self) -> Result<(), RunError> {
        let workload = &self.plan.workload;
        let about = match (workload.scenario.offline, workload.rooms) {
            (Some(offline), _) => {
                format!("{} clients go offline", show_count(u64::from(offline.share.of(workload.clients))))
            }
            (None, Some(rooms)) => format!("rooms of {rooms} members"),
            (None, None) => return Ok(()),
        };
        self.progress.phase("prepare", 1, &about);
        for worker in &self.workers {
            worker.tell(Command::Prepare);
        }
        let mut answers = 0;
        let deadline = Instant::now() + ANSWER_PATIENCE;
        while answers < self.plan.workers {
            match self.next(COMPARE_EVERY)? {
                Some(Report::Prepared) => answers += 1,
                Some(report) => self.take(report),
                None if Instant::now() >= deadline => {
                    return Err(RunError::Worker(
                        "rooms are not made, or clients that close their connections are not let go".to_owned(),
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Starts the signers and waits until they are ahead.
    pub(super) fn sign_ahead(
        &mut self,
        ready: &[Ready],
        clock_offset_ms: i64,
    ) -> Result<Vec<Option<Receiver<Batch>>>, RunError> {
        let ahead = self.plan.workload.signed_ahead();
        if ahead == 0 {
            return Ok(ready.iter().map(|_| None).collect());
        }
        self.progress.phase("sign", 1, &format!("{} messages ahead of the run", show_count(ahead)));
        let moments = self.plan.moments(0);
        let mut receivers = Vec::new();
        for ready in ready {
            if ready.senders == 0 {
                receivers.push(None);
                continue;
            }
            let messages = self.plan.messages(ready.worker).map(|schedule| schedule.count_before(moments.end_ns));
            let share = ahead.div_ceil(self.plan.workers as u64);
            let batches_ahead = share.div_ceil(BATCH_MESSAGES as u64) as usize;
            let assignment = Assignment {
                worker: ready.worker,
                keys: Arc::clone(&ready.keys),
                senders: ready.senders,
                peers: Arc::clone(&ready.peers),
                messages,
                batches_ahead,
                // A closed loop is to be left in peace as long as its stock lasts. An open one is
                // known to need more: signing it evenly disturbs least.
                low_water: if messages.is_some() { batches_ahead } else { batches_ahead / 4 },
                clock_offset_ms,
            };
            let (signer, receiver) = Signer::start(&self.plan, assignment)
                .map_err(|error| RunError::System { what: "starting a signer", error })?;
            self.signers.push(signer);
            receivers.push(Some(receiver));
        }
        while !self.signers.iter().all(Signer::is_primed) {
            self.wait(Duration::from_millis(5))?;
        }
        Ok(receivers)
    }
}
