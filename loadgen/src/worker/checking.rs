//! What comes of messages: pushes compared with what was sent, acks, refusals.
//!
//! # Invariants
//! - A push is looked up by its id alone and then compared as a whole: a lookup that goes wrong is
//!   found by the comparison.

use protocol::server_frame::{Pushed, ServerFrame, ServerFrameDecoder};
use protocol::{signature, signed_bytes, splice};

use super::inbox::{AckView, Inbox};
use super::outbox::Outbox;
use super::traffic::Traffic;
use crate::ledger;
use crate::recorder::{Metric, Recorder};
use crate::stock::{Record, State};

impl Traffic {
    /// A message was pushed to the client at `place`.
    pub(crate) fn on_push(
        &mut self,
        place: u32,
        inbox: &mut Inbox,
        text: &str,
        decoder: &mut ServerFrameDecoder,
        recorder: &mut Recorder,
    ) {
        let layout = *self.stock.layout();
        if let Some((seq, b"{", rest)) = splice::unsplice_seq(text.as_bytes())
            && let Some((sender, n, number)) = layout.id_of(rest).and_then(|id| self.number_of(id))
        {
            let same = self.stock.frame(number).is_some_and(|frame| layout.same(frame, rest));
            let finished = self.stock.is_past(number) || (self.stock.has(number) && self.stock.frame(number).is_none());
            if same || finished {
                self.on_known(place, inbox, seq, (sender, n, number), recorder);
                return;
            }
        }
        self.on_unlike(inbox, text, decoder);
    }

    /// A push that is one of ours, unchanged.
    fn on_known(
        &mut self,
        place: u32,
        inbox: &mut Inbox,
        seq: u64,
        (sender, n, number): (u32, u32, u64),
        recorder: &mut Recorder,
    ) {
        let now_ns = self.clock.now_ns();
        let rises = inbox.push(seq);
        if self.deliver_aside(place, number) {
            return;
        }
        let record = self.stock.record(number).copied();
        if record.is_some_and(|record| !record.state.has(State::SENT)) {
            self.ledger.unknown += 1;
            return;
        }
        // Of one that is finished and forgotten the peer is worked out again.
        let peer = record.map_or_else(|| self.peers.choose(sender, number), |record| record.peer);
        let Some(index) = self.audience.index(place, sender, self.peers.place(sender, peer)) else {
            self.ledger.misdelivered += 1;
            return;
        };
        let Some(record) = record.filter(|record| !record.state.has(State::DELIVERED)) else {
            if self.again.is_on && record.is_some_and(|record| record.connection != self.again.connection(place)) {
                self.again.repeated += 1;
            } else {
                self.ledger.duplicates += 1;
            }
            return;
        };
        if !rises {
            self.ledger.seq_backward += 1;
        }
        if record.state.has(State::REFUSED) {
            self.ledger.delivered_though_refused += 1;
            return;
        }
        if !self.stock.reach(number, index) {
            self.ledger.duplicates += 1;
            return;
        }
        let pair = self.peers.pair(sender, record.peer);
        let newest = &mut self.delivered_to[pair * self.audience.indices() as usize + index as usize];
        if n < *newest {
            self.ledger.out_of_order += 1;
        } else {
            *newest = n + 1;
        }
        self.ledger.delivered += 1;
        if self.again.is_on
            && let Some(record) = self.stock.record_mut(number)
        {
            record.connection = self.again.connection(place);
        }
        if self.waiting.is_for(place) {
            self.waiting.delivered(place, now_ns);
            self.mark(number, State::DELIVERED);
            return;
        }
        if self.is_steady(now_ns) {
            self.steady.delivered_within += 1;
        }
        if self.is_steady(record.intended_ns) {
            self.steady.delivered += 1;
            recorder.record(Metric::Message, now_ns - record.intended_ns);
            recorder.record(Metric::Service, now_ns - record.written_ns);
            self.waiting.others_delivered(record.intended_ns, now_ns);
        }
        self.note_stayers(sender, place, &record, now_ns);
        if record.left == 1 {
            self.mark(number, State::DELIVERED);
        }
    }

    /// A push that is not, byte for byte, what one of ours has signed.
    fn on_unlike(&mut self, inbox: &mut Inbox, text: &str, decoder: &mut ServerFrameDecoder) {
        let Ok(ServerFrame::Message(Pushed { seq, message })) = decoder.decode(text) else {
            self.ledger.unreadable += 1;
            return;
        };
        let number = self.number_of(message.id.as_bytes());
        if number.is_none() && inbox.is_from_before(seq) {
            self.ledger.leftover += 1;
            return;
        }
        if !inbox.push(seq) {
            self.ledger.seq_backward += 1;
        }
        let Some((sender, _, number)) = number else {
            self.ledger.unknown += 1;
            return;
        };
        self.ledger.altered += 1;
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        let right = self.keys[sender as usize]
            .to_verifying_key()
            .is_ok_and(|key| signature::verify_strict(&key, &signed, &message.signature));
        if !right {
            self.ledger.bad_signature += 1;
        }
        self.mark(number, State::ALTERED);
    }

    /// The relay has taken a message of the client at `place`. In a closed loop the next one goes.
    pub(crate) fn on_ack(
        &mut self,
        place: u32,
        inbox: &mut Inbox,
        ack: AckView<'_>,
        outbox: &mut Outbox,
        recorder: &mut Recorder,
    ) {
        if let Some(seq) = ack.seq
            && !ack.duplicate
        {
            inbox.own(seq);
        }
        let Some((sender, _, number)) = self.number_of(ack.id).filter(|&(sender, ..)| sender == place) else {
            self.ledger.unknown += 1;
            return;
        };
        let record = match self.stock.record(number) {
            Some(record) if record.state.has(State::SENT) && !record.state.has(State::ACKED) => *record,
            _ => {
                self.ledger.ack_duplicates += 1;
                return;
            }
        };
        if ack.duplicate && self.again.is_on {
            self.again.duplicate_acks += 1;
        } else if ack.duplicate {
            self.ledger.ack_duplicates += 1;
        }
        if record.state.has(State::ASIDE) {
            self.acked_aside(number);
            self.send_next(sender, outbox);
            return;
        }
        self.ledger.acked += 1;
        let now_ns = self.clock.now_ns();
        let waits = self.waits(number).is_some();
        if waits {
            self.waiting.acked();
        }
        self.steady.acked_within += u64::from(self.is_steady(now_ns));
        if self.is_steady(record.intended_ns) {
            let metric = if waits { Metric::AckOffline } else { Metric::Ack };
            recorder.record(metric, now_ns - record.intended_ns);
        }
        if ack.seq.is_none() {
            self.waive_copies((sender, number), &record);
        }
        self.mark(number, State::ACKED);
        self.send_next(sender, outbox);
    }

    /// A relay without a store acks without a seq: the sender's other devices get nothing from it.
    fn waive_copies(&mut self, (sender, number): (u32, u64), record: &Record) {
        let mut waived = 0;
        for index in self.audience.copies(sender, self.peers.place(sender, record.peer)) {
            waived += u16::from(self.stock.reach(number, index));
        }
        if waived == 0 {
            return;
        }
        if self.is_steady(record.intended_ns) {
            self.steady.copies_waived += u64::from(waived);
        }
        if record.left == waived {
            self.mark(number, State::DELIVERED);
        }
    }

    /// The relay has refused something; `id` says which message, if it was one. Returns whether it does what
    /// the run needs of it: keep messages for those who are offline.
    #[must_use]
    pub(crate) fn on_refusal(&mut self, place: u32, reason: &str, id: Option<&str>, outbox: &mut Outbox) -> bool {
        let number = id.and_then(|id| self.number_of(id.as_bytes())).filter(|&(sender, ..)| sender == place);
        let record = number.and_then(|(.., number)| self.stock.record(number));
        let aside = record.is_some_and(|record| record.state.has(State::ASIDE));
        // Who is away is offline: that is no error.
        if !aside || reason != "offline" {
            ledger::count(&mut self.ledger.errors, reason);
        }
        let Some(((sender, _, number), record)) = number.zip(record) else { return true };
        if !record.state.has(State::SENT) || record.state.has(State::REFUSED) {
            return true;
        }
        let was_acked = record.state.has(State::ACKED);
        if record.state.has(State::DELIVERED) {
            self.ledger.delivered_though_refused += 1;
        } else if aside {
            self.standings.aside.refused += 1;
        } else {
            self.ledger.refused += 1;
        }
        let was_delivered = record.state.has(State::DELIVERED);
        let waits = self.waits(number);
        if let Some(recipient) = waits.filter(|_| !was_delivered) {
            self.waiting.refused(recipient, self.clock.now_ns());
        }
        self.mark(number, State::REFUSED);
        if !was_acked {
            self.send_next(sender, outbox);
        }
        waits.is_none() || reason != "offline"
    }

    /// Counts what never came.
    pub(crate) fn count_lost(&mut self) {
        for record in self.stock.records() {
            let state = record.state;
            let is_done = state.has(State::DELIVERED) || state.has(State::REFUSED);
            let is_answered = state.has(State::ACKED) || state.has(State::REFUSED);
            if !state.has(State::SENT) || state.has(State::ASIDE) {
                continue;
            }
            // Of one that is skipped now the sender has gone.
            self.ledger.unacked += u64::from(!is_answered && !state.has(State::SKIPPED));
            if is_done {
                continue;
            }
            // Of several devices it may have reached some.
            let altered = u64::from(state.has(State::ALTERED));
            self.ledger.altered_unrepaired += altered;
            self.ledger.lost += u64::from(record.left).saturating_sub(altered);
        }
    }
}
