//! Clients that are offline while messages are sent to them, and then come back for them.
//!
//! # Flow
//! ```text
//! connect ──> send_away: a close in good order, as of who shuts the lid ──> all are gone: the run starts
//! back_ns ──> they log in with `resume`, and each gets what waited for it
//! ```
//! What is sent to them is counted like any message, but for its times: the time to the ack has a
//! metric of its own, and in place of a response time stands how long it took, from a client's
//! `auth`, until the last message that waited for it had come.
//!
//! # Invariants
//! - Nothing that was acked may be missing, or come twice: the ledger counts it as of anybody.
//! - What the others feel is measured apart, before the first comes back and until the last has all.

use std::collections::VecDeque;
use std::ops::Range;

use protocol::websocket;

use super::client::Stage;
use super::session::Session;
use super::traffic::Traffic;
use crate::clock::{SECOND_NS, to_ns};
use crate::ledger;
use crate::plan::{Moments, RunPlan};
use crate::recorder::{self, Metric, Recorder};
use crate::scenario::outcome::{OfOthers, OfflineCounts};

/// After how long a client that could not come back tries again.
const RETRY_NS: u64 = SECOND_NS;

/// Who of one worker is offline, and when each comes back.
#[derive(Debug)]
pub(crate) struct Offline {
    pub(super) places: Range<u32>,
    /// From the beginning of the steady phase; `None` is its end.
    back: Option<u64>,
    is_sent_away: bool,
    back_ns: u64,
    /// The next to come back for the first time.
    next: u32,
    /// Who could not, and when to try again.
    again: VecDeque<(u64, u32)>,
    /// Who is back, by place from the first of them.
    returned: Vec<bool>,
    pub(crate) counts: OfflineCounts,
}

impl Offline {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let offline = plan.workload.scenario.offline;
        let places = plan.last_places(worker, stable, offline.map(|offline| offline.share));
        Self {
            next: places.start,
            counts: OfflineCounts { clients: places.len() as u64, ..OfflineCounts::default() },
            returned: vec![false; places.len()],
            places,
            back: offline.and_then(|offline| offline.back).map(to_ns),
            is_sent_away: false,
            back_ns: u64::MAX,
            again: VecDeque::new(),
        }
    }

    pub(super) fn start(&mut self, moments: &Moments) {
        if !self.places.is_empty() {
            self.back_ns = self.back.map_or(moments.end_ns, |back_ns| moments.steady_ns + back_ns);
        }
    }

    pub(super) fn holds(&self, place: u32) -> bool {
        self.places.contains(&place)
    }

    /// When the next comes back.
    pub(super) fn due_ns(&self) -> Option<u64> {
        let first_ns = (self.next < self.places.end).then_some(self.back_ns);
        first_ns.into_iter().chain(self.again.front().map(|&(again_ns, _)| again_ns)).min()
    }

    /// Who comes back now, if anybody does.
    fn comes_back(&mut self, now_ns: u64) -> Option<u32> {
        if self.again.front().is_some_and(|&(again_ns, _)| again_ns <= now_ns) {
            return self.again.pop_front().map(|(_, place)| place);
        }
        if self.next == self.places.end || now_ns < self.back_ns {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// The client at `place` is back; says whether that is news.
    fn returns(&mut self, place: u32) -> bool {
        let offset = (place - self.places.start) as usize;
        !std::mem::replace(&mut self.returned[offset], true)
    }

    /// Whether the client at `place` is still to come back.
    fn is_awaited(&self, place: u32) -> bool {
        self.holds(place) && !self.returned[(place - self.places.start) as usize]
    }

    /// Whether everybody is back.
    pub(crate) fn is_back(&self) -> bool {
        self.counts.back == self.counts.clients
    }
}

/// What waits for whom, as far as the sender's side knows.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    places: Range<u32>,
    /// By place, from the first of them.
    clients: Vec<Mail>,
    /// Clients for whom something waits.
    behind: u32,
    /// When the first came back, and when for nobody anything waited any more.
    back_ns: Option<u64>,
    over_ns: Option<u64>,
    counts: OfflineCounts,
}

/// What waits for one client.
#[derive(Clone, Copy, Debug, Default)]
struct Mail {
    /// Messages that were written and have neither come nor been refused.
    left: u64,
    /// When it sent its `auth`.
    auth_ns: Option<u64>,
    /// When the last one came.
    last_ns: u64,
}

impl Waiting {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let places = plan.last_places(worker, stable, plan.workload.scenario.offline.map(|offline| offline.share));
        Self { clients: vec![Mail::default(); places.len()], places, ..Self::default() }
    }

    /// Whether the client at `place` is offline while messages are sent to it.
    pub(super) fn is_for(&self, place: u32) -> bool {
        self.places.contains(&place)
    }

    fn mail(&mut self, place: u32) -> &mut Mail {
        &mut self.clients[(place - self.places.start) as usize]
    }

    /// A message for the client at `place` is written.
    pub(super) fn sent(&mut self, place: u32) {
        self.counts.sent += 1;
        let mail = self.mail(place);
        mail.left += 1;
        self.behind += u32::from(mail.left == 1);
    }

    /// A message for the client at `place` will not wait any more.
    fn less(&mut self, place: u32, now_ns: u64) {
        let mail = self.mail(place);
        mail.left -= 1;
        mail.last_ns = now_ns;
        if mail.left == 0 {
            self.behind -= 1;
            if self.behind == 0 && self.back_ns.is_some() {
                self.over_ns = Some(now_ns);
            }
        }
    }

    pub(super) fn refused(&mut self, place: u32, now_ns: u64) {
        self.counts.refused += 1;
        self.less(place, now_ns);
    }

    pub(super) fn acked(&mut self) {
        self.counts.acked += 1;
    }

    pub(super) fn delivered(&mut self, place: u32, now_ns: u64) {
        self.counts.delivered += 1;
        self.less(place, now_ns);
    }

    /// The client at `place` is about to be let in again.
    fn back(&mut self, place: u32, auth_ns: u64) {
        self.mail(place).auth_ns = Some(auth_ns);
        self.back_ns.get_or_insert(auth_ns);
    }

    /// Where a message between others counts: due before the first came back, until the last had all, or after.
    fn window(&mut self, intended_ns: u64) -> Option<&mut OfOthers> {
        if self.places.is_empty() {
            return None;
        }
        Some(match (self.back_ns, self.over_ns) {
            (Some(_), Some(over_ns)) if intended_ns >= over_ns => &mut self.counts.after,
            (Some(back_ns), _) if intended_ns >= back_ns => &mut self.counts.meanwhile,
            _ => &mut self.counts.before,
        })
    }

    /// A message between others was due in the steady phase.
    pub(super) fn others_due(&mut self, intended_ns: u64) {
        if let Some((due, _)) = self.window(intended_ns) {
            *due += 1;
        }
    }

    /// It has come.
    pub(super) fn others_delivered(&mut self, intended_ns: u64, now_ns: u64) {
        if let Some((_, times)) = self.window(intended_ns) {
            let times = times.get_or_insert_with(|| Box::new(recorder::empty()));
            times.saturating_record((now_ns - intended_ns).max(1));
        }
    }

    /// Adds up what only the end shows. What no client came back for is missing.
    fn finish(&mut self, recorder: &mut Recorder) -> OfflineCounts {
        let mut counts = std::mem::take(&mut self.counts);
        for mail in &self.clients {
            match (mail.left, mail.auth_ns) {
                (0, Some(auth_ns)) if mail.last_ns > auth_ns => {
                    recorder.record(Metric::CatchUp, mail.last_ns - auth_ns);
                    counts.caught_up_ns = counts.caught_up_ns.max(mail.last_ns);
                }
                (0, _) => {}
                _ => counts.behind += 1,
            }
        }
        counts.first_back_ns = self.back_ns;
        counts
    }
}

impl Traffic {
    /// Whether a message is for somebody who is offline.
    pub(super) fn waits(&self, number: u64) -> Option<u32> {
        if self.waiting.places.is_empty() {
            return None;
        }
        self.ends_of(number).map(|(_, recipient)| recipient).filter(|&recipient| self.waiting.is_for(recipient))
    }
}

impl Session {
    /// Lets those leave who are to be offline.
    pub(crate) fn send_away(&mut self) {
        self.offline.is_sent_away = true;
        for place in self.offline.places.clone() {
            let client = &mut self.clients[place as usize];
            if client.stage != Stage::Active {
                continue;
            }
            client.remember();
            client.stage = Stage::Leaving;
            client.since_ns = self.plan.clock.now_ns();
            self.leaving += 1;
            self.active -= 1;
            self.plan.visitors.look_away();
            self.confirm_now(place);
            let mask = self.masks.next_u64() as u32;
            websocket::push_masked_close(self.outbox.append_to(place), 1000, "", mask.to_ne_bytes());
        }
    }

    /// Whether all who are to be offline are, after [`Session::send_away`].
    pub(crate) fn are_away(&self) -> bool {
        let (from, to) = (self.offline.places.start as usize, self.offline.places.end as usize);
        self.offline.is_sent_away && self.clients[from..to].iter().all(|client| client.stage == Stage::Away)
    }

    /// Calls back who is to come back. Returns how many that were.
    pub(super) fn call_back(&mut self, now_ns: u64) -> usize {
        let mut called = 0;
        while self.handshakes < self.handshakes_max
            && let Some(place) = self.offline.comes_back(now_ns)
        {
            // As with the first dial, those who wait in the queue are counted too.
            self.handshakes += 1;
            self.connects.push_back(place);
            called += 1;
        }
        called
    }

    /// The client at `place` sends its `auth`.
    pub(super) fn comes_for_mail(&mut self, place: u32, now_ns: u64) {
        if self.started && self.offline.holds(place) {
            self.traffic.waiting.back(place, now_ns);
        }
    }

    /// The client at `place` is welcomed.
    pub(super) fn note_return(&mut self, place: u32) {
        if self.started && self.offline.holds(place) && self.offline.returns(place) {
            self.offline.counts.back += 1;
            self.offline.counts.recovered += u64::from(self.clients[place as usize].recovered);
        }
    }

    /// Whether the end of a connection is that of somebody who could not come back; it tries again.
    pub(super) fn retries(&mut self, place: u32, why: &str) -> bool {
        if !self.offline.is_awaited(place) {
            return false;
        }
        self.offline.counts.login_errors += 1;
        ledger::count(&mut self.traffic.ledger.disconnects, &format!("coming back: {why}"));
        self.offline.again.push_back((self.plan.clock.now_ns() + RETRY_NS, place));
        true
    }

    /// What became of those who were offline, and of what waited for them.
    pub(super) fn offline_outcome(&mut self) -> OfflineCounts {
        let mut counts = self.traffic.waiting.finish(&mut self.recorder);
        let own = &self.offline.counts;
        (counts.clients, counts.back) = (own.clients, own.back);
        (counts.recovered, counts.login_errors) = (own.recovered, own.login_errors);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::{Mail, Offline, OfflineCounts, Waiting};
    use crate::plan::Moments;
    use crate::recorder::{Metric, Recorder};
    use std::collections::VecDeque;

    #[test]
    fn who_is_offline_comes_back_at_the_end_or_when_told() {
        for (back, at) in [(None, 9), (Some(2), 3)] {
            let mut offline = Offline {
                places: 3..5,
                back,
                is_sent_away: true,
                back_ns: u64::MAX,
                next: 3,
                again: VecDeque::new(),
                returned: vec![false; 2],
                counts: OfflineCounts { clients: 2, ..OfflineCounts::default() },
            };
            assert_eq!(offline.comes_back(u64::MAX - 1), None);
            offline.start(&Moments { begin_ns: 0, steady_ns: 1, end_ns: 9 });
            assert_eq!((offline.due_ns(), offline.comes_back(at - 1)), (Some(at), None));
            assert_eq!([0; 3].map(|_| offline.comes_back(at)), [Some(3), Some(4), None]);
            offline.again.push_back((at + 5, 3));
            assert_eq!((offline.due_ns(), offline.comes_back(at + 4)), (Some(at + 5), None));
            assert_eq!(offline.comes_back(at + 5), Some(3));
            assert!(offline.is_awaited(3) && !offline.is_awaited(5));
            assert!(offline.returns(3) && !offline.returns(3) && !offline.is_awaited(3));
        }
    }

    #[test]
    fn what_waits_is_caught_up_with_or_missing() {
        let mut waiting = Waiting { places: 3..6, clients: vec![Mail::default(); 3], ..Waiting::default() };
        waiting.others_due(5);
        waiting.others_delivered(5, 7);
        for place in [3, 3, 4, 5] {
            waiting.sent(place);
        }
        waiting.refused(5, 8);
        for place in [3, 4, 5] {
            waiting.back(place, 10);
        }
        // Due before, delivered meanwhile: what it felt is of before.
        waiting.others_delivered(9, 12);
        waiting.others_due(13);
        waiting.delivered(3, 20);
        waiting.delivered(3, 30);
        waiting.others_due(1_000);
        let mut recorder = Recorder::default();
        assert_eq!(waiting.over_ns, None);
        let counts = waiting.finish(&mut recorder);
        assert_eq!((counts.sent, counts.delivered, counts.refused, counts.behind), (4, 2, 1, 1));
        assert_eq!((recorder.of(Metric::CatchUp).len(), recorder.of(Metric::CatchUp).max()), (1, 20));
        assert_eq!((counts.first_back_ns, counts.caught_up_ns), (Some(10), 30));
        assert_eq!((counts.before.0, counts.meanwhile.0), (1, 2));
        assert_eq!(counts.before.1.map(|times| times.len()), Some(2));
        assert!(counts.meanwhile.1.is_none());
    }
}
