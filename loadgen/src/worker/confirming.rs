//! Confirming what has come, as every client does: `received`.
//!
//! One frame for all that one pass brought to a client, with the next write: sooner than the contract
//! asks for (50 ms, 32 messages). A relay counts these frames, and lets 50 a second pass on one
//! connection; who gets more messages than that confirms several with one.

use protocol::encode;
use protocol::websocket::Opcode;

use super::session::Session;
use crate::clock::SECOND_NS;

/// Confirmations of one client a second, on average; some room is left to answers to pings.
const PER_SECOND: u64 = 40;
const EACH_NS: u64 = SECOND_NS / PER_SECOND;

/// So much may be ahead of the average: as many frames at once.
const AHEAD_NS: u64 = SECOND_NS;

/// How often those are looked at who have to wait: 1 ms.
const RETRY_NS: u64 = SECOND_NS / 1000;

/// What clients have to confirm, by place.
#[derive(Debug)]
pub(super) struct Confirming {
    clients: Vec<Pace>,
    /// Who has something to confirm since the last pass.
    fresh: Vec<u32>,
    /// Who has, and has to wait.
    paced: Vec<u32>,
    retry_ns: u64,
}

/// One client's.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    is_listed: bool,
    /// Until when its frames so far are paid for.
    paid_ns: u64,
}

impl Pace {
    /// Whether one more frame may go; counts it then.
    fn take(&mut self, now_ns: u64) -> bool {
        let paid_ns = self.paid_ns.max(now_ns);
        if paid_ns + EACH_NS > now_ns + AHEAD_NS {
            return false;
        }
        self.paid_ns = paid_ns + EACH_NS;
        true
    }
}

impl Confirming {
    /// For so many clients; without `is_on`, nothing is ever confirmed.
    pub(super) fn new(clients: usize, is_on: bool) -> Self {
        let clients = if is_on { vec![Pace::default(); clients] } else { Vec::new() };
        Self { clients, fresh: Vec::new(), paced: Vec::new(), retry_ns: 0 }
    }

    /// Whether everything that came is confirmed: a relay keeps what is not, for whoever has the key next.
    pub(super) fn is_done(&self) -> bool {
        self.fresh.is_empty() && self.paced.is_empty()
    }

    /// Something has come to the client at `place`.
    pub(super) fn note(&mut self, place: u32) {
        if let Some(client) = self.clients.get_mut(place as usize)
            && !client.is_listed
        {
            client.is_listed = true;
            self.fresh.push(place);
        }
    }
}

impl Session {
    /// Confirms what the last pass brought. Returns how many frames that were.
    pub(super) fn confirm(&mut self, now_ns: u64) -> usize {
        let mut confirmed = 0;
        let mut fresh = std::mem::take(&mut self.confirming.fresh);
        if now_ns >= self.confirming.retry_ns && !self.confirming.paced.is_empty() {
            self.confirming.retry_ns = now_ns + RETRY_NS;
            fresh.append(&mut self.confirming.paced);
        }
        for place in fresh.drain(..) {
            let is_online = self.clients[place as usize].stage.is_online() && !self.slow.is_silent(place);
            let pace = &mut self.confirming.clients[place as usize];
            if is_online && !pace.take(now_ns) {
                self.confirming.paced.push(place);
                continue;
            }
            pace.is_listed = false;
            if is_online {
                self.confirm_now(place);
                confirmed += 1;
            }
        }
        // Its memory is used again.
        self.confirming.fresh = fresh;
        confirmed
    }

    /// Confirms all that the client at `place` has, if anything came.
    pub(super) fn confirm_now(&mut self, place: u32) {
        let seq = self.clients[place as usize].inbox.last_push();
        if seq > 0 && !self.confirming.clients.is_empty() {
            self.control.clear();
            encode::received(&mut self.control, seq);
            let frame = std::mem::take(&mut self.control);
            self.push(place, Opcode::Text, &frame);
            self.control = frame;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirming, EACH_NS, PER_SECOND, Pace};

    #[test]
    fn a_second_of_frames_may_go_at_once_and_then_each_in_its_time() {
        let mut pace = Pace::default();
        let mut at_once = 0;
        while pace.take(1_000) {
            at_once += 1;
        }
        assert_eq!(at_once, PER_SECOND);
        assert!(!pace.take(1_000 + EACH_NS - 1));
        assert!(pace.take(1_000 + EACH_NS) && !pace.take(1_000 + EACH_NS));
    }

    #[test]
    fn who_has_something_to_confirm_is_listed_once_and_nobody_where_it_is_off() {
        let mut confirming = Confirming::new(3, true);
        for place in [1, 2, 1] {
            confirming.note(place);
        }
        assert_eq!(confirming.fresh, [1, 2]);
        let mut off = Confirming::new(3, false);
        off.note(1);
        assert!(off.fresh.is_empty());
    }
}
