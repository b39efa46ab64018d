//! The devices of users: what each has taken, how it behaves, and what it is owed in the end.
//!
//! # Invariants
//! - A device remembers, over all its connections, the epoch and the seq up to which it has everything;
//!   it resumes from there, and knows messages by sender and id.
//! - It is owed every acked message that was sent while the relay knew it. A crash may take what the relay
//!   knows of a device whose first login was not stored yet, and what was acked only because another device
//!   of the user had it.

use protocol::frame::Resume;
use protocol::limits::DEVICES_PER_KEY;
use relay_core::Nanos;

use crate::invariant::{Checked, Invariant, ensure};
use crate::ledger::{Kind, Place, Record};
use crate::network::LinkId;
use crate::random::Random;
use crate::schedule::{MS, SECOND};
use crate::session::{Opening, Phase};
use crate::world::{Occurrence, World};

/// Crowds are not brought together again in the end: it would cost more than all before.
const GATHERED_MAX: usize = 200;

/// When a device confirms what it has handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirms {
    /// Within 50 ms.
    Soon,
    /// Some time.
    Late,
    /// It does not.
    Never,
}

/// One device of a user, and its newest session.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user: usize,
    pub(crate) name: String,
    pub(crate) session: Option<LinkId>,
    /// Up to where it has everything.
    pub(crate) taken: Option<Resume>,
    pub(crate) confirms: Confirms,
    /// It comes now and then.
    pub(crate) is_rare: bool,
    /// Since when the relay knows it.
    pub(crate) known_since: Option<Nanos>,
    /// The last seq assigned when the relay came to know it: what it was not given up to there is history.
    pub(crate) known_from: Option<Resume>,
}

impl Device {
    /// Makes a device that was never connected.
    pub(crate) fn new(user: usize, at: usize, random: &mut Random) -> Self {
        let confirms = random.pick(&[Confirms::Soon, Confirms::Soon, Confirms::Soon, Confirms::Late, Confirms::Never]);
        Self {
            user,
            name: format!("device-{at}"),
            session: None,
            taken: None,
            confirms,
            is_rare: random.chance(25),
            known_since: None,
            known_from: None,
        }
    }

    /// Whether the relay owes it a message.
    fn is_owed(&self, record: &Record) -> bool {
        let sent = record.sendings.first().map(|first| first.at);
        !record.is_lost_to_some && sent.is_some_and(|at| self.known_since.is_some_and(|since| since < at))
    }
}

impl World {
    /// What a device asks to go on from, and whether that is true.
    pub(crate) fn resume(&mut self, link: LinkId) -> (Option<Resume>, bool) {
        let taken = self.devices[self.sessions[link].device].taken;
        match taken {
            Some(taken) if self.random.chance(70) => (Some(taken), true),
            Some(taken) if self.random.chance(15) => {
                let beyond = Resume { seq: taken.seq + 1_000_000, ..taken };
                let other = Resume { epoch: !taken.epoch, ..taken };
                (Some(if self.random.chance(50) { beyond } else { other }), false)
            }
            _ => (None, true),
        }
    }

    /// Whether a device knows the place of everything that it sent in an epoch.
    pub(crate) fn knows_own_places(&self, device: usize, epoch: u64) -> bool {
        !self.ledger.records().iter().any(|record| record.may_be_skipped(device, epoch))
    }

    /// A session read something: its device remembers.
    pub(crate) fn remember(&mut self, link: LinkId) {
        let session = &self.sessions[link];
        let Some(taken) = session.taken() else { return };
        let device = &mut self.devices[session.device];
        let is_newest = device.session == Some(link);
        match &mut device.taken {
            Some(before) if before.epoch == taken.epoch => before.seq = before.seq.max(taken.seq),
            before if is_newest => *before = Some(taken),
            _ => {}
        }
        // What it sent itself it has, wherever the relay put it.
        if let Some(taken) = &mut device.taken {
            let owner = session.key;
            while self.ledger.is_own(Place { owner, epoch: taken.epoch, seq: taken.seq + 1 }, session.device) {
                taken.seq += 1;
            }
        }
        if device.confirms == Confirms::Soon && session.is_healthy() && session.unconfirmed() && !session.confirms_soon
        {
            let at = self.schedule.now() + self.random.below(50 * MS);
            self.sessions[link].confirms_soon = true;
            self.schedule.at(at, Occurrence::Confirm(link));
        }
    }

    /// Confirms all that was pushed on a connection.
    pub(crate) fn confirm(&mut self, link: LinkId) {
        let session = &mut self.sessions[link];
        session.confirms_soon = false;
        if !session.is_healthy() || !session.unconfirmed() {
            return;
        }
        let (key, epoch) = (session.key, session.epoch);
        let (after, through) = session.confirm();
        self.ledger.confirm(key, epoch, after, through);
        self.good_frame(link, format!("{{\"type\":\"received\",\"seq\":{through}}}").as_bytes());
    }

    /// A device is logged in: is it told the truth, and what has it to send again?
    pub(crate) fn welcomed(&mut self, link: LinkId) -> Checked {
        self.check_epoch(link)?;
        self.check_resumed(link)?;
        let now = self.schedule.now();
        let session = &self.sessions[link];
        let (at, epoch, welcome_seq) = (session.device, session.epoch, session.welcome_seq());
        self.trace.note(now, || {
            let (asked, taken) = (session.asked, session.taken());
            format!("client {link} asked for {asked:?}, recovered: {}, has {taken:?}", session.recovered)
        });
        if self.devices[at].taken.is_some_and(|taken| taken.epoch != epoch) && self.devices[at].session == Some(link) {
            self.devices[at].taken = None;
        }
        if session.restarted {
            // Who was told so is gone, and may not have stored whom.
            return Ok(());
        }
        let device = &mut self.devices[at];
        device.known_since.get_or_insert(now);
        if device.known_from.is_none_or(|from| from.epoch != epoch) {
            device.known_from = Some(Resume { epoch, seq: welcome_seq });
        }
        if !self.sessions[link].is_healthy() || self.is_gathering || !self.random.chance(70) {
            return Ok(());
        }
        let fresh = |record: &Record| record.sendings.first().is_some_and(|first| first.at + 200 * SECOND > now);
        let is_open = |record: &Record| record.kind == Kind::Valid && !record.acked && !record.refused;
        let records = self.ledger.records().iter().enumerate().rev().take(200);
        let mut due: Vec<usize> = records
            .filter(|(_, record)| record.was_sent_by(at) && is_open(record) && fresh(record))
            .map(|(record, _)| record)
            .collect();
        due.truncate(10);
        due.reverse();
        if !due.is_empty() {
            self.seen.note("client", "sent again");
            self.send_records(link, &due);
        }
        Ok(())
    }

    /// Who is told that it recovered asked for it, and could; who asked and could is told so.
    fn check_resumed(&mut self, link: LinkId) -> Checked {
        let session = &self.sessions[link];
        let (device, user) = (&self.devices[session.device], session.user);
        let Some(asked) = session.asked else {
            return ensure(!session.recovered, Invariant::FalseRecovered, || {
                format!("connection {link} recovered and never asked for it")
            });
        };
        self.seen.note("resume", if session.recovered { "recovered" } else { "not recovered" });
        let session = &self.sessions[link];
        let could = session.asked_truly && asked.epoch == session.epoch;
        ensure(!session.recovered || could, Invariant::FalseRecovered, || {
            format!("connection {link} recovered from {asked:?} in epoch {:x}", session.epoch)
        })?;
        let must = could
            && session.asked_all
            && device.taken == Some(asked)
            && device.known_from.is_some_and(|from| from.epoch == asked.epoch && from.seq <= asked.seq)
            && self.scenario.has_store()
            && !self.scenario.may_drop_copies()
            && !self.disk.has_failed
            && device.known_since.is_some()
            && self.devices_of(user) <= DEVICES_PER_KEY;
        ensure(!must || session.recovered, Invariant::ResumeRefused, || {
            format!("connection {link} asked for {asked:?}, has missed nothing, and did not recover")
        })
    }

    fn devices_of(&self, user: usize) -> usize {
        self.devices.iter().filter(|device| device.user == user).count()
    }

    /// In the end every device comes once more, takes what waits for it, and goes; then nothing that was
    /// acked may be missing.
    pub(crate) fn gather(&mut self) -> Checked {
        if !self.scenario.has_store() || self.devices.len() > GATHERED_MAX {
            return Ok(());
        }
        self.empty_disk();
        self.scenario.temper.failures = 0;
        if self.disk.has_failed {
            self.restart(false)?;
        }
        self.all_leave()?;
        self.is_gathering = true;
        let shifts = (0..self.users.len()).map(|user| self.devices_of(user)).max().unwrap_or(0);
        for shift in 0..shifts {
            let due: Vec<usize> = (0..self.users.len()).filter_map(|user| self.nth_device(user, shift)).collect();
            for _ in 0..8 {
                for &device in &due {
                    if !self.is_active(device) {
                        self.connect_as(device, Opening::Honest);
                    }
                }
                let settle = self.scenario.settle();
                self.run_for(settle)?;
            }
            for &device in &due {
                ensure(self.is_active(device) || self.scenario.tight, Invariant::LoginMissing, || {
                    format!("device {device} is not logged in, with nobody else there")
                })?;
            }
            self.check_quiet()?;
            self.all_leave()?;
        }
        self.is_gathering = false;
        self.check_inboxes()
    }

    fn nth_device(&self, user: usize, n: usize) -> Option<usize> {
        (0..self.devices.len()).filter(|&device| self.devices[device].user == user).nth(n)
    }

    fn is_active(&self, device: usize) -> bool {
        self.devices[device].session.is_some_and(|session| self.sessions[session].phase == Phase::Active)
    }

    fn all_leave(&mut self) -> Checked {
        self.end_congestion();
        self.unstall_all();
        for session in 0..self.sessions.len() {
            if !self.sessions[session].is_ended() {
                self.cut(session)?;
            }
        }
        let settle = self.scenario.settle();
        self.run_for(settle)
    }

    /// A message of a room came to each device of every member.
    fn check_room_inboxes(&self, record: &Record) -> Checked {
        for (at, device) in self.devices.iter().enumerate().filter(|_| !self.scenario.small_inboxes) {
            let is_member = record.owed.contains(&self.users[device.user].key);
            let is_owed = is_member && device.is_owed(record) && self.devices_of(device.user) <= DEVICES_PER_KEY;
            ensure(!is_owed || record.had_by.contains(&at), Invariant::AckedLost, || {
                format!("{} in {:?} was acked and did not come to device {at}", record.id, record.room)
            })?;
        }
        Ok(())
    }

    /// Every acked message came to each device that is owed it, and copies of it to the sender's.
    fn check_inboxes(&self) -> Checked {
        self.ledger.check_all_skipped()?;
        for record in self.ledger.records().iter().filter(|record| record.acked) {
            if record.room.is_some() {
                self.check_room_inboxes(record)?;
                continue;
            }
            let recipient = self.users.iter().position(|user| user.key == record.recipient);
            let Some(recipient) = recipient else {
                ensure(record.kept_for.contains(&record.recipient), Invariant::AckedLost, || {
                    format!("{} for somebody who never came was acked, and the disk does not have it", record.id)
                })?;
                continue;
            };
            let of = |user: usize| self.devices.iter().enumerate().filter(move |(_, device)| device.user == user);
            // What a device sent to its own key it has.
            let has = |at: usize| record.had_by.contains(&at) || recipient == record.user && record.was_sent_by(at);
            ensure(of(recipient).any(|(at, _)| has(at)), Invariant::AckedLost, || {
                format!("{} was acked and came to no device of user {recipient}", record.id)
            })?;
            let owed = |user: usize| of(user).filter(move |(_, device)| device.is_owed(record)).map(|(at, _)| at);
            let missed = owed(recipient).find(|at| !has(*at));
            ensure(missed.is_none() || self.devices_of(recipient) > DEVICES_PER_KEY, Invariant::AckedLost, || {
                format!("{} was acked and did not come to device {missed:?}", record.id)
            })?;
            let copies = record.copy_due && !self.scenario.may_drop_copies() && recipient != record.user;
            if copies && self.devices_of(record.user) <= DEVICES_PER_KEY {
                let missed = owed(record.user).find(|at| !record.had_by.contains(at) && !record.was_sent_by(*at));
                ensure(missed.is_none(), Invariant::OwnCopyLost, || {
                    format!("{} was acked, and device {missed:?} of its sender has no copy", record.id)
                })?;
            }
        }
        Ok(())
    }
}
