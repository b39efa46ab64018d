//! When the relay may answer for a message: what the disk has, what devices confirmed, and what of both
//! a crash leaves.

use protocol::PublicKey;
use protocol::limits;
use protocol::server_frame::{Receipt, ReceiptStatus};
use relay_core::{Batch, Nanos};

use crate::invariant::{Checked, Invariant, ensure};
use crate::ledger::{Kind, Ledger, Place, Reader, push_once};
use crate::schedule::MS;

impl Ledger {
    /// The disk keeps a batch.
    pub(crate) fn kept(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if let Some(&record) = self.by_bytes.get(&batch.bytes[entry.frame.clone()]) {
                push_once(&mut self.records[record].kept_for, entry.user);
            }
        }
    }

    /// There is no room for a batch: its messages may be taken back.
    pub(crate) fn withdrawn(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if let Some(&record) = self.by_bytes.get(&batch.bytes[entry.frame.clone()]) {
                self.records[record].places_spare += 1;
            }
        }
    }

    /// A device says that it has everything of an inbox behind `after` and up to `through`.
    pub(crate) fn confirm(&mut self, owner: PublicKey, epoch: u64, after: u64, through: u64) {
        for seq in after + 1..=through {
            if let Some(&record) = self.seqs.get(&Place { owner, epoch, seq }) {
                push_once(&mut self.records[record].confirmed_by, owner);
            }
        }
    }

    /// A device says that a message was read.
    pub(crate) fn read(&mut self, place: Place) {
        if let Some(&record) = self.seqs.get(&place) {
            push_once(&mut self.records[record].read_by, place.owner);
        }
    }

    /// The relay writes an ack to a connection of a user: by now it must answer for the message. Where
    /// inboxes are `small`, members of a room may miss it.
    pub(crate) fn check_safe(&self, user: usize, id: &str, small: bool) -> Checked {
        let Some(used) = self.ids.get(&(user, id.into())) else { return Ok(()) };
        let mut valid =
            used.records.iter().map(|&record| &self.records[record]).filter(|record| record.kind == Kind::Valid);
        ensure(valid.any(|record| record.is_safe() || small && record.room.is_some()), Invariant::AckEarly, || {
            format!("{id} is acked, and neither does the disk have it nor has a device confirmed it")
        })
    }

    /// Checks a receipt: each id is of a message of this user to that recipient, who said what is told,
    /// and it is told once.
    pub(crate) fn receipt(&mut self, reader: &Reader, receipt: &Receipt<'_>) -> Checked {
        let (from, status) = (receipt.recipient, receipt.status);
        for &id in &receipt.ids {
            let used = self.ids.get(&(reader.user, id.into()));
            let theirs: Vec<usize> = used
                .into_iter()
                .flat_map(|used| used.records.iter().copied())
                .filter(|&record| {
                    let record = &self.records[record];
                    if record.room.is_some() { receipt.room.is_some() } else { record.recipient == from }
                })
                .collect();
            ensure(!theirs.is_empty(), Invariant::AnswerSurplus, || {
                format!("a receipt of {from:?} for {id}, which user {} did not send there", reader.user)
            })?;
            ensure(receipt.room.is_none() || status == ReceiptStatus::Read, Invariant::ReceiptFalse, || {
                format!("{id} of a room is {status:?}")
            })?;
            let said = theirs.iter().any(|&record| match status {
                ReceiptStatus::Delivered => self.records[record].confirmed_by.contains(&from),
                ReceiptStatus::Read => self.records[record].read_by.contains(&from),
            });
            ensure(said, Invariant::ReceiptFalse, || format!("{id} is {status:?} by {from:?}, who never said so"))?;
            if let ([only], None) = (&theirs[..], receipt.room) {
                let only = *only;
                let message = &mut self.records[only];
                let told = (reader.device, status, reader.run);
                let times = message.receipts.iter().filter(|&&other| other == told).count();
                // After a restart one that had waited may wait again, and meet another for what came again.
                let is_strict = reader.run == message.first_run;
                ensure(!is_strict || times <= message.places_spare as usize, Invariant::ReceiptTwice, || {
                    format!("{id} is told to be {status:?} again to device {}", reader.device)
                })?;
                message.receipts.push(told);
            }
        }
        Ok(())
    }

    /// The relay is gone; what comes next is another run of it. Ids that it must still know afterwards are
    /// those stored with their messages, and those acked by `acked_by`.
    pub(crate) fn start_anew(&mut self, is_orderly: bool, acked_by: Option<Nanos>) {
        self.run += 1;
        for record in self.records.iter_mut().filter(|_| !is_orderly) {
            let is_lost = |key| record.confirmed_by.contains(key) && !record.kept_for.contains(key);
            record.is_lost_to_some |= record.owed.iter().any(is_lost);
            record.copy_due &= record.kept_for.contains(&record.sender);
        }
        for used in self.ids.values_mut() {
            let is_kept = |record: &usize| {
                let record = &self.records[*record];
                self.has_store && record.room.is_none() && record.kept_for.contains(&record.recipient)
            };
            let is_known = used.records.iter().any(is_kept)
                || self.has_store && used.acked_at.zip(acked_by).is_some_and(|(at, by)| at <= by);
            if is_known {
                let accepted_at = used.records.iter().filter_map(|&record| self.records[record].sendings.first());
                let first = accepted_at.map(|sending| sending.at).min();
                used.known_until = first.map(|at| at + limits::ID_MEMORY_MS * MS);
                continue;
            }
            used.acked_as_new = 0;
            used.acked_at = None;
            used.delivered.clear();
            for &record in &used.records {
                self.records[record].places_spare += 1;
            }
        }
    }
}
