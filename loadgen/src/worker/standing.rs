//! Which messages are judged: not those of clients that are away in a storm, nor those to slow
//! readers. They are counted in [`Aside`] instead, and nowhere else.

use std::ops::Range;

use hdrhistogram::Histogram;

use super::traffic::Traffic;
use crate::plan::RunPlan;
use crate::recorder;
use crate::scenario::outcome::{AckBalance, Aside};
use crate::stock::{Record, State};

/// What is expected of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Everything.
    Judged,
    /// The same, but that the relay may repeat what it has had: it came back, and the relay does
    /// not know how far it had come.
    Repeated,
    /// Nothing: it dropped in a storm, and is not back.
    Away,
    /// Nothing: it reads slowly.
    Slow,
}

/// Who is judged, and what became of the messages that are not.
#[derive(Debug)]
pub(super) struct Standings {
    /// By place; empty if all are judged at all times.
    clients: Vec<Standing>,
    /// Who is in the storm.
    storm: Range<u32>,
    /// From when to when clients are away.
    away_ns: Option<(u64, u64)>,
    pub(super) acks: AckBalance,
    pub(super) stayed_due: u64,
    pub(super) stayed: Option<Box<Histogram<u64>>>,
    pub(super) aside: Aside,
}

impl Standings {
    pub(super) fn new(plan: &RunPlan, worker: usize, stable: u32) -> Self {
        let scenario = plan.workload.scenario;
        let slow = plan.last_places(worker, stable, scenario.slow_readers.map(|slow| slow.share));
        let storm = plan.last_places(worker, stable, scenario.storm.map(|storm| storm.share));
        let mut clients = Vec::new();
        if !slow.is_empty() || !storm.is_empty() {
            clients.resize(stable as usize, Standing::Judged);
            clients[slow.start as usize..slow.end as usize].fill(Standing::Slow);
        }
        Self {
            clients,
            storm,
            away_ns: None,
            acks: AckBalance::default(),
            stayed_due: 0,
            stayed: None,
            aside: Aside::default(),
        }
    }

    fn of(&self, place: u32) -> Standing {
        self.clients.get(place as usize).copied().unwrap_or(Standing::Judged)
    }

    fn is_excused(&self, place: u32) -> bool {
        matches!(self.of(place), Standing::Away | Standing::Slow)
    }

    /// Whether a message due then, between these two, shows what a storm does to those who stay.
    fn is_of_stayers(&self, sender: u32, recipient: u32, intended_ns: u64) -> bool {
        self.away_ns.is_some_and(|(from_ns, to_ns)| (from_ns..to_ns).contains(&intended_ns))
            && !self.storm.contains(&sender)
            && !self.storm.contains(&recipient)
    }
}

impl Traffic {
    pub(super) fn is_away(&self, place: u32) -> bool {
        self.standings.of(place) == Standing::Away
    }

    /// The turn of a message has come. Returns whether it is set aside, which it stays.
    pub(super) fn set_aside(&mut self, number: u64, intended_ns: u64) -> bool {
        if self.standings.clients.is_empty() {
            return false;
        }
        let Some((sender, recipient)) = self.ends_of(number) else { return false };
        if self.standings.is_excused(sender) || self.standings.is_excused(recipient) {
            self.standings.aside.due += 1;
            self.stock.mark(number, State::ASIDE);
            return true;
        }
        self.standings.stayed_due += u64::from(self.standings.is_of_stayers(sender, recipient, intended_ns));
        false
    }

    /// Sender and recipient of a message.
    pub(super) fn ends_of(&self, number: u64) -> Option<(u32, u32)> {
        let sender = (number % u64::from(self.senders)) as u32;
        Some((sender, self.peers.place(sender, self.stock.record(number)?.peer)))
    }

    /// A judged message has come.
    pub(super) fn note_stayers(&mut self, sender: u32, recipient: u32, record: &Record, now_ns: u64) {
        if self.standings.is_of_stayers(sender, recipient, record.intended_ns) {
            let stayed = self.standings.stayed.get_or_insert_with(|| Box::new(recorder::empty()));
            stayed.saturating_record((now_ns - record.intended_ns).max(1));
        }
    }

    /// A push of `number` has come to the client at `place`. Returns whether that is dealt with.
    pub(super) fn deliver_aside(&mut self, place: u32, number: u64) -> bool {
        if self.standings.clients.is_empty() {
            return false;
        }
        let standing = self.standings.of(place);
        let state = self.stock.record(number).map_or(State::default(), |record| record.state);
        if standing == Standing::Slow {
            // Its record may be gone: it does not wait for a slow reader.
            self.standings.aside.delivered += 1;
            return true;
        }
        let came_before = state.has(State::DELIVERED) || self.stock.is_past(number);
        if came_before && matches!(standing, Standing::Away | Standing::Repeated) {
            self.standings.aside.repeated += 1;
            return true;
        }
        let is_for_it = self.ends_of(number).is_some_and(|(_, recipient)| recipient == place);
        if state.has(State::ASIDE) && state.has(State::SENT) && is_for_it && !came_before {
            self.standings.aside.delivered += 1;
            self.stock.mark(number, State::DELIVERED);
            return true;
        }
        false
    }

    /// An ack of a message that is set aside. One to a slow reader is finished by it.
    pub(super) fn acked_aside(&mut self, number: u64) {
        let slow = self.ends_of(number).is_some_and(|(_, recipient)| self.standings.of(recipient) == Standing::Slow);
        self.stock.mark(number, State::ACKED);
        if slow {
            self.stock.mark(number, State::SKIPPED);
        }
    }

    /// The clients at these places drop now. What is under way from them or to them is set aside, and
    /// what the relay does not owe an ack for any more is finished.
    pub(super) fn excuse(&mut self, places: Range<u32>) {
        let now_ns = self.clock.now_ns();
        self.standings.away_ns = Some((now_ns, u64::MAX));
        for number in self.stock.numbers() {
            let Some((sender, recipient)) = self.ends_of(number) else { break };
            let Some(record) = self.stock.record(number).copied() else { break };
            let state = record.state;
            let had_its_turn = (number / u64::from(self.senders)) < u64::from(self.queues[sender as usize].to());
            let is_steady = self.is_steady(record.intended_ns);
            let touched = places.contains(&sender) || places.contains(&recipient);
            if !touched || !had_its_turn || state.has(State::SKIPPED) || state.has(State::REFUSED) {
                continue;
            }
            if state.has(State::DELIVERED) || state.has(State::ALTERED) {
                if places.contains(&sender) {
                    self.standings.acks.waived += u64::from(is_steady && !state.has(State::ACKED));
                    self.mark(number, State::SKIPPED);
                }
                continue;
            }
            if is_steady {
                self.standings.acks.surplus += u64::from(state.has(State::ACKED));
                self.steady.due -= 1;
                // Its turn has come, and the end has not.
                self.steady.in_time -= 1;
                self.steady.sent -= u64::from(state.has(State::SENT));
            }
            self.open -= 1;
            self.stock.mark(number, State::ASIDE);
            self.standings.aside.due += 1;
            if state.has(State::SENT) {
                self.ledger.sent -= 1;
                self.ledger.acked -= u64::from(state.has(State::ACKED));
                self.standings.aside.sent += 1;
            }
        }
        for place in places {
            self.standings.clients[place as usize] = Standing::Away;
        }
    }

    /// The client at `place` is judged again. `recovered` says whether the relay knows how far it had
    /// come.
    pub(super) fn pardon(&mut self, place: u32, recovered: bool) {
        self.standings.clients[place as usize] = if recovered { Standing::Judged } else { Standing::Repeated };
    }

    /// Nobody is away any more.
    pub(super) fn all_back(&mut self, now_ns: u64) {
        if let Some((_, to_ns)) = &mut self.standings.away_ns {
            *to_ns = now_ns;
        }
    }

    /// What became of the messages that were set aside.
    pub(super) fn aside(&self) -> Aside {
        let aside = self.standings.aside;
        let lost = aside.sent.saturating_sub(aside.delivered + aside.refused);
        Aside { lost, not_sent: aside.due - aside.sent, ..aside }
    }
}
