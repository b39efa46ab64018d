//! A storm: who drops at once, when each comes back, and what that took.
//!
//! Clients drop as a crash or a cut cable drops them: the socket closes, and no WebSocket close goes
//! before it. They come back as clients do, with the `resume` that they were left with; an attempt
//! that fails is made again after a second. As many as a relay lets in from one address log in at
//! the same time ([`HANDSHAKES_MAX`](crate::plan::HANDSHAKES_MAX)).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::client::Stage;
use super::session::Session;
use crate::clock::{SECOND_NS, to_ns};
use crate::plan::{Moments, RunPlan};
use crate::scenario;
use crate::scenario::outcome::StormCounts;

/// Connections that are closed in one pass, so that those who stay are still served.
const PASS_DROPS: usize = 256;

/// After how long a client that could not come back tries again.
const RETRY_NS: u64 = SECOND_NS;

/// The storm of one worker; without one it never comes.
#[derive(Debug)]
pub(crate) struct Storm {
    plan: Option<scenario::Storm>,
    /// Who drops.
    pub(super) places: Range<u32>,
    /// The next of them.
    next: u32,
    drop_ns: Option<u64>,
    /// Who comes back, and when.
    returns: BinaryHeap<Reverse<(u64, u32)>>,
    pub(crate) counts: StormCounts,
}

impl Storm {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let storm = plan.workload.scenario.storm;
        let places = plan.last_places(worker, stable, storm.map(|storm| storm.share));
        Self {
            plan: storm,
            next: places.start,
            places,
            drop_ns: None,
            returns: BinaryHeap::new(),
            counts: StormCounts::default(),
        }
    }

    pub(super) fn start(&mut self, moments: &Moments) {
        if let Some(storm) = self.plan.filter(|_| !self.places.is_empty()) {
            let drop_ns = moments.steady_ns + to_ns(storm.at);
            self.drop_ns = Some(drop_ns);
            self.counts.drop_ns = drop_ns;
        }
    }

    /// Whether the first has dropped.
    pub(super) fn has_begun(&self) -> bool {
        self.next > self.places.start
    }

    /// Whether all who dropped are back.
    pub(super) fn is_over(&self) -> bool {
        self.has_begun() && self.next == self.places.end && self.counts.back == self.counts.dropped
    }

    /// When something is due next; while `full`, nobody can log in.
    pub(super) fn due_ns(&self, full: bool) -> Option<u64> {
        let drop_ns = self.drop_ns.filter(|_| self.next < self.places.end);
        let return_ns = self.returns.peek().filter(|_| !full).map(|Reverse((return_ns, _))| *return_ns);
        drop_ns.into_iter().chain(return_ns).min()
    }

    /// When the client at `place`, which has just dropped, comes back.
    fn comes_back(&mut self, place: u32, drop_ns: u64) {
        let over_ns = self.plan.map_or(0, |storm| to_ns(storm.back_over));
        let (at, all) = (u64::from(place - self.places.start), self.places.len() as u64);
        let wait_ns = (u128::from(over_ns) * u128::from(at) / u128::from(all)) as u64;
        self.returns.push(Reverse((drop_ns + wait_ns, place)));
        self.counts.dropped += 1;
    }

    pub(super) fn failed(&mut self, place: u32, now_ns: u64) {
        self.counts.login_errors += 1;
        self.returns.push(Reverse((now_ns + RETRY_NS, place)));
    }
}

impl Session {
    /// Drops who is to drop, and calls back who is to come back. Returns how many that were.
    pub(super) fn storm(&mut self, now_ns: u64) -> usize {
        let Some(drop_ns) = self.storm.drop_ns.filter(|&drop_ns| drop_ns <= now_ns) else { return 0 };
        let mut done = 0;
        if self.storm.next == self.storm.places.start {
            self.traffic.excuse(self.storm.places.clone());
        }
        while self.storm.next < self.storm.places.end && done < PASS_DROPS {
            let place = self.storm.next;
            self.storm.next += 1;
            done += 1;
            if self.clients[place as usize].connection.is_some() {
                self.clients[place as usize].remember();
                self.detach(place);
                self.storm.comes_back(place, drop_ns);
            } else {
                // It had broken before, and is missing as it was.
                self.traffic.pardon(place, true);
            }
        }
        while self.handshakes < self.handshakes_max
            && let Some(&Reverse((return_ns, place))) = self.storm.returns.peek()
            && return_ns <= now_ns
        {
            self.storm.returns.pop();
            // As with the first dial, those who wait in the queue are counted too.
            self.handshakes += 1;
            self.connects.push_back(place);
            done += 1;
        }
        done
    }

    /// A client is welcomed. Those who come back are counted.
    pub(super) fn logged_in(&mut self, place: u32, now_ns: u64) {
        if self.traffic.is_away(place) {
            self.storm.counts.logins += 1;
            self.storm.counts.last_login_ns = now_ns;
        }
    }

    /// A client has all it needs. Those who come back are judged again.
    pub(super) fn returned(&mut self, place: u32, now_ns: u64) {
        if self.traffic.is_away(place) {
            self.storm.counts.back += 1;
            self.traffic.pardon(place, self.clients[place as usize].recovered);
            if self.storm.is_over() {
                self.traffic.all_back(now_ns);
            }
        }
    }

    /// Whether a client without a connection is expected to have one again.
    pub(super) fn is_expected(&self, place: u32) -> bool {
        self.clients[place as usize].stage == Stage::Away && self.traffic.is_away(place)
    }
}
