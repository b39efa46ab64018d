//! What a run was asked to do, as its summary keeps it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BURSTS_MAX, Rate, Workload};
use crate::clock::to_ns;
use crate::scenario::{self, Burst, Ramp};
use crate::schedule::{Arrivals, Profile};
use crate::units::{parse_per_second, show_count, show_ms, show_rate};

/// A workload as summaries hold it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadRecord {
    clients: u32,
    #[serde(default = "one")]
    devices: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rooms: Option<String>,
    senders: u32,
    peers: u32,
    rate: String,
    in_flight: Option<u32>,
    loop_kind: String,
    arrivals: String,
    churn_per_second: f64,
    stay_ms: u64,
    ramp_ms: u64,
    warmup_ms: u64,
    duration_ms: u64,
    message_bytes: usize,
    lobby: bool,
    /// Earlier builds confirmed nothing.
    #[serde(default)]
    received: bool,
    burst: Option<String>,
    skew: Option<String>,
    storm: Option<String>,
    slow_readers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offline_share: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crash: Option<u32>,
    seed: u64,
}

/// Clients of earlier builds had one device.
fn one() -> u32 {
    1
}

impl WorkloadRecord {
    /// Devices of each client.
    #[must_use]
    pub fn devices(&self) -> u32 {
        self.devices
    }

    /// Whether messages waited for acks, so that response time is service time.
    #[must_use]
    pub fn is_closed_loop(&self) -> bool {
        self.in_flight.is_some()
    }

    /// How many messages are due over time, from the beginning of the warm-up; `None` if acks set the pace,
    /// or a later build wrote a rate that this one cannot read.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        let ramp = match parse_per_second(&self.rate) {
            Ok(rate) => Ramp { from: rate, to: rate, steps: None },
            Err(_) => self.rate.parse().ok()?,
        };
        let burst: Option<Burst> = self.burst.as_ref().map(|burst| burst.parse()).transpose().ok()?;
        if burst.is_some_and(|burst| u128::from(self.duration_ns()) / burst.every.as_nanos() > BURSTS_MAX) {
            return None;
        }
        Some(scenario::profile(
            ramp,
            burst,
            Duration::from_millis(self.warmup_ms),
            Duration::from_millis(self.duration_ms),
        ))
    }

    /// The warm-up.
    #[must_use]
    pub fn warmup_ns(&self) -> u64 {
        self.warmup_ms.saturating_mul(1_000_000)
    }

    /// What was asked for in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let devices = if self.devices > 1 { format!(" with {} devices each", self.devices) } else { String::new() };
        let mut parts = vec![format!("{} clients{devices}", show_count(u64::from(self.clients)))];
        match self.loop_kind.as_str() {
            "idle" => parts.push("no messages".to_owned()),
            "closed" => parts.push(format!(
                "as many messages as acks allow, {} of a sender in flight",
                self.in_flight.unwrap_or_default()
            )),
            kind => {
                let rate = parse_per_second(&self.rate).map_or_else(|_| self.rate.clone(), show_rate);
                parts.push(format!("{rate} messages a second ({kind} loop, {} arrivals)", self.arrivals));
            }
        }
        if self.churn_per_second > 0.0 {
            parts.push(format!("{} joins and as many leaves a second", show_rate(self.churn_per_second)));
        }
        let judged = show_ms(self.duration_ms);
        format!("{}; {judged} judged after {} of warm-up.", parts.join(", "), show_ms(self.warmup_ms))
    }

    /// The steady phase.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.duration_ms.saturating_mul(1_000_000)
    }
}

impl From<&Workload> for WorkloadRecord {
    fn from(workload: &Workload) -> Self {
        let ms = |duration: Duration| to_ns(duration) / 1_000_000;
        let (rate, in_flight, loop_kind) = match workload.rate {
            Rate::Idle => ("0".to_owned(), None, "idle"),
            Rate::PerSecond(rate) => (format!("{rate}/s"), None, "open"),
            Rate::Ramp(ramp) => (ramp.to_string(), None, "open"),
            Rate::Max { in_flight } => ("max".to_owned(), Some(in_flight), "closed"),
        };
        Self {
            clients: workload.clients,
            devices: workload.devices,
            rooms: workload.rooms.as_ref().map(ToString::to_string),
            senders: workload.senders,
            peers: workload.peers,
            rate,
            in_flight,
            loop_kind: loop_kind.to_owned(),
            arrivals: match workload.arrivals {
                Arrivals::Constant => "constant",
                Arrivals::Poisson => "poisson",
            }
            .to_owned(),
            churn_per_second: workload.churn_per_second,
            stay_ms: ms(workload.stay),
            ramp_ms: ms(workload.ramp),
            warmup_ms: ms(workload.warmup),
            duration_ms: ms(workload.duration),
            message_bytes: workload.message_bytes,
            lobby: workload.lobby,
            received: workload.confirms,
            burst: workload.scenario.burst.as_ref().map(ToString::to_string),
            skew: workload.scenario.skew.as_ref().map(ToString::to_string),
            storm: workload.scenario.storm.as_ref().map(ToString::to_string),
            slow_readers: workload.scenario.slow_readers.as_ref().map(ToString::to_string),
            offline_share: workload.scenario.offline.as_ref().map(ToString::to_string),
            crash: workload.scenario.crash,
            seed: workload.seed,
        }
    }
}
