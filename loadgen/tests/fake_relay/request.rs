//! A run against the relay, as tests ask for it.

use std::net::SocketAddr;
use std::time::Duration;

use loadgen::plan::{EngineChoice, Rate, Target, Workload};
use loadgen::run::Request;
use loadgen::scenario::Scenario;
use loadgen::schedule::Arrivals;
use loadgen::slo::Slo;

use super::FakeRelay;

/// 8 clients, 400 messages in a second, no ramp to speak of and no warm-up.
pub(crate) fn workload() -> Workload {
    Workload {
        clients: 8,
        devices: 1,
        rooms: None,
        senders: 8,
        peers: 3,
        rate: Rate::PerSecond(400.0),
        arrivals: Arrivals::Constant,
        churn_per_second: 0.0,
        stay: Duration::from_millis(200),
        ramp: Duration::from_millis(20),
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        drain: Duration::from_secs(10),
        message_bytes: 100,
        presign: None,
        lobby: true,
        confirms: true,
        scenario: Scenario::default(),
        seed: 1,
    }
}

/// A run of one worker, without targets.
pub(crate) fn request(relay: &FakeRelay, workload: Workload) -> Request {
    request_of(Some(relay.address), workload)
}

/// The same, of the relay at an address.
pub(crate) fn request_of(relay: Option<SocketAddr>, workload: Workload) -> Request {
    Request {
        workload,
        target: relay.map(|address| Target {
            authority: address.to_string(),
            path: "/ws".to_owned(),
            address,
            relay_name: "localhost".to_owned(),
        }),
        spawn: None,
        relay_log: None,
        relay_admin: None,
        source_ips: Vec::new(),
        workers: 1,
        pin_cores: Vec::new(),
        engine: EngineChoice::Auto,
        slo: Slo::default(),
    }
}
