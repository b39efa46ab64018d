//! One run's whole world, and what happens in it: shards, links, sessions, the ledger and the clock.

use std::collections::{BTreeMap, VecDeque};

use ed25519_dalek::SigningKey;
use protocol::PublicKey;
use protocol::frame::LobbyMode;
use protocol::server_frame::ServerFrameDecoder;
use relay_core::{Arrival, Envelope, Nanos};

use crate::devices::Device;
use crate::disk::Disk;
use crate::invariant::{Checked, Invariant, ensure};
use crate::ledger::{Claim, Ledger};
use crate::network::{Link, LinkId, Place, Segment};
use crate::plant::Plant;
use crate::random::Random;
use crate::relay::{Host, Waiting};
use crate::scenario::Scenario;
use crate::schedule::{MS, SECOND, Schedule};
use crate::seen::Seen;
use crate::session::{Context, End, Phase, Reaction, Session};
use crate::trace::Trace;

/// The wall clock when a run starts: 2026-01-01T00:00:00Z.
const START_UNIX_MS: i64 = 1_767_225_600_000;

/// The monotonic clock when a run starts: not zero, as no machine's is.
const START: Nanos = 100 * SECOND;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Occurrence {
    /// A connection reaches the relay.
    Accept(LinkId),
    /// Segments reach the relay.
    ArriveUp(LinkId),
    /// Segments reach the client, or it reads again.
    ReadDown(LinkId),
    /// A shard handles what waits.
    Pass(usize),
    /// An envelope arrives, if that run of the relay still is.
    Envelope { from: usize, to: usize, run: u32 },
    /// A connection arrives at its home, if that run of the relay still is.
    HandOver { link: LinkId, to: usize, arrival: Box<Arrival>, run: u32 },
    /// The store's thread goes on.
    Disk,
    /// A device confirms what it has handled.
    Confirm(LinkId),
    /// By now the relay has dropped this silent connection.
    SilenceOver(LinkId),
}

/// Somebody with a key.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) signing: SigningKey,
    pub(crate) key: PublicKey,
}

/// Everything of a run.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) random: Random,
    pub(crate) schedule: Schedule<Occurrence>,
    pub(crate) trace: Trace,
    pub(crate) plant: Option<Plant>,
    /// The shards; none while the relay is down.
    pub(crate) hosts: Vec<Host>,
    /// Envelopes under way, by sending and receiving shard.
    pub(crate) mesh: Vec<VecDeque<Envelope>>,
    pub(crate) disk: Disk,
    pub(crate) links: Vec<Link>,
    /// One for each link, by the same number.
    pub(crate) sessions: Vec<Session>,
    pub(crate) users: Vec<User>,
    pub(crate) devices: Vec<Device>,
    /// A key that nobody ever connects with.
    pub(crate) nobody: PublicKey,
    pub(crate) ledger: Ledger,
    pub(crate) frames: ServerFrameDecoder,
    pub(crate) seen: Seen,
    /// The relay goes away.
    pub(crate) draining: bool,
    /// Nobody writes any more: devices come for what they are owed.
    pub(crate) is_gathering: bool,
    /// No relay runs.
    pub(crate) is_down: bool,
    /// The first link that was opened in this run of the relay.
    pub(crate) run_first: LinkId,
    /// The epoch that a key's inbox must still be in.
    pub(crate) epochs: BTreeMap<PublicKey, u64>,
    /// Logins that runs of the relay before this one counted.
    pub(crate) logins_before: u64,
    /// The last nonce that a relay sent: somebody may try it again.
    pub(crate) old_nonce: [u8; 32],
    /// Ids given out so far.
    pub(crate) ids: u64,
    /// Names of pairs of shards whose queue is said to be full.
    pub(crate) congested: Vec<(usize, usize)>,
}

impl World {
    /// Makes shards, users and devices; nobody is connected.
    pub(crate) fn new(scenario: Scenario, mut random: Random, trace: Trace, plant: Option<Plant>) -> Self {
        let users: Vec<User> = (0..scenario.users)
            .map(|_| {
                let signing = SigningKey::from_bytes(&random.bytes());
                User { key: PublicKey::from(&signing.verifying_key()), signing }
            })
            .collect();
        let devices = (0..scenario.devices)
            .map(|at| {
                // Each user has a device; who has more is up to chance, and the first has most.
                let user = if at < users.len() { at } else { random.index(users.len()) * random.index(2) };
                Device::new(user, at, &mut random)
            })
            .collect();
        let nobody = PublicKey::from(&SigningKey::from_bytes(&random.bytes()).verifying_key());
        let ledger = Ledger::new(scenario.has_store());
        let mut world = Self {
            scenario,
            random,
            schedule: Schedule::new(START),
            trace,
            plant,
            hosts: Vec::new(),
            mesh: Vec::new(),
            disk: Disk::default(),
            links: Vec::new(),
            sessions: Vec::new(),
            users,
            devices,
            nobody,
            ledger,
            frames: ServerFrameDecoder::new(),
            seen: Seen::default(),
            draining: false,
            is_gathering: false,
            is_down: false,
            run_first: 0,
            epochs: BTreeMap::new(),
            logins_before: 0,
            old_nonce: [7; 32],
            ids: 0,
            congested: Vec::new(),
        };
        world.make_hosts();
        world
    }

    /// The wall clock.
    pub(crate) fn unix_ms(&self) -> i64 {
        START_UNIX_MS + ((self.schedule.now() - START) / MS) as i64
    }

    /// Lets everything happen that happens within `duration`.
    pub(crate) fn run_for(&mut self, duration: Nanos) -> Checked {
        let end = self.schedule.now() + duration;
        while let Some(occurrence) = self.schedule.next_by(end) {
            self.happen(occurrence)?;
        }
        Ok(())
    }

    fn happen(&mut self, occurrence: Occurrence) -> Checked {
        match occurrence {
            Occurrence::Pass(shard) => self.pass(shard)?,
            Occurrence::Accept(link) if self.is_down => self.refuse(link),
            Occurrence::Accept(link) => {
                let shard = self.random.index(self.hosts.len());
                self.give(shard, Waiting::Accept(link));
            }
            Occurrence::ArriveUp(link) => {
                self.links[link].arrive_up(self.schedule.now(), &mut self.random);
                self.offer(link);
            }
            Occurrence::ReadDown(link) => self.read_down(link)?,
            Occurrence::Envelope { from, to, run } if run == self.ledger.run => self.envelope_arrives(from, to),
            Occurrence::HandOver { link, to, arrival, run } if run == self.ledger.run && !self.is_down => {
                self.give(to, Waiting::Arrive(link, arrival));
            }
            Occurrence::Envelope { .. } | Occurrence::HandOver { .. } => {}
            Occurrence::Disk => self.disk_turn()?,
            Occurrence::Confirm(link) => self.confirm(link),
            Occurrence::SilenceOver(link) => {
                ensure(self.links[link].place == Place::Closed, Invariant::SilentAlive, || {
                    format!("connection {link} is still {:?}", self.links[link].place)
                })?;
            }
        }
        Ok(())
    }

    /// A client reads what has arrived.
    fn read_down(&mut self, link: LinkId) -> Checked {
        let now = self.schedule.now();
        let (segments, answer_reset) = self.links[link].read_down(now);
        if answer_reset {
            self.end_up(link, Segment::Reset);
        }
        let read_some = !segments.is_empty();
        for segment in segments {
            match segment {
                Segment::Bytes(bytes) => self.read(link, bytes)?,
                Segment::Fin | Segment::Reset => {
                    self.trace.note(now, || format!("client {link} sees {segment:?}"));
                    self.ended(link, End::Abrupt)?;
                    self.links[link].close_client();
                    self.end_up(link, Segment::Fin);
                }
            }
        }
        if read_some && self.links[link].place != Place::Closed {
            self.pump(link);
        }
        Ok(())
    }

    fn read(&mut self, link: LinkId, bytes: Vec<u8>) -> Checked {
        let unix_ms = self.unix_ms();
        let before = self.sessions[link].phase;
        let config = self.scenario.shared();
        self.ledger.is_store_sound = !self.disk.has_failed;
        let mut context = Context {
            now: self.schedule.now(),
            unix_ms,
            relay_name: &config.relay_name,
            heartbeat_ms: config.heartbeat.as_millis() as u64,
            frames: &mut self.frames,
            ledger: &mut self.ledger,
            seen: &mut self.seen,
            has_store: self.scenario.has_store(),
            taken: self.devices[self.sessions[link].device].taken,
            known_from: self.devices[self.sessions[link].device].known_from,
        };
        let reactions = self.sessions[link].read(bytes, &mut context)?;
        self.remember(link);
        let after = self.sessions[link].phase;
        if before != after {
            self.trace.note(self.schedule.now(), || format!("client {link} is {after:?}"));
            if let Phase::Ended(end) = after {
                self.check_end(link)?;
                if let End::Http(_) = end {
                    self.end_up(link, Segment::Fin);
                }
            }
        }
        for reaction in reactions {
            self.react(link, reaction)?;
        }
        Ok(())
    }

    fn react(&mut self, link: LinkId, reaction: Reaction) -> Checked {
        match reaction {
            Reaction::Authenticate(nonce) => self.authenticate(link, nonce),
            Reaction::Welcomed => self.welcomed(link),
            Reaction::Check(Claim::Offline(recipient, since)) => self.check_offline(recipient, since),
            Reaction::Check(Claim::Online(recipient)) => self.check_online(link, recipient),
            Reaction::Check(Claim::Full(recipient, since, sent)) => self.check_full(recipient, since, sent),
            Reaction::Check(Claim::None) => Ok(()),
            Reaction::Pong(payload) => {
                self.send_pong(link, &payload);
                Ok(())
            }
            Reaction::Close(code) => {
                self.answer_close(link, code);
                Ok(())
            }
        }
    }

    /// A session ends, if it has not yet.
    pub(crate) fn ended(&mut self, link: LinkId, end: End) -> Checked {
        if self.sessions[link].is_ended() {
            return Ok(());
        }
        self.sessions[link].end(end);
        self.check_end(link)
    }

    fn check_end(&self, link: LinkId) -> Checked {
        let session = &self.sessions[link];
        let rivals = || self.sessions.iter().filter(|other| other.id != link && other.auth_sent.is_some());
        let replaced = rivals().any(|other| other.device == session.device);
        let mut devices: Vec<usize> =
            rivals().filter(|other| other.user == session.user).map(|other| other.device).collect();
        devices.sort_unstable();
        devices.dedup();
        let crowded = devices.len() >= self.scenario.shared().limits.devices_max;
        let left_behind =
            self.scenario.tight || self.scenario.may_drop_copies() || self.disk.has_failed || session.restarted;
        session.check_end(replaced, crowded, left_behind, self.draining || session.restarted)
    }

    /// All sessions of a key that live at one time count in one epoch; with a store so do all that ever
    /// live, but for what a crash takes.
    pub(crate) fn check_epoch(&mut self, link: LinkId) -> Checked {
        let session = &self.sessions[link];
        if session.restarted {
            return Ok(());
        }
        if self.scenario.has_store() {
            let known = *self.epochs.entry(session.key).or_insert(session.epoch);
            ensure(known == session.epoch, Invariant::Epoch, || {
                format!("connection {link} is in epoch {:x}, and {known:x} was not over", session.epoch)
            })?;
        }
        let others = self.sessions.iter().filter(|other| {
            other.id != link && other.key == session.key && other.is_healthy() && other.welcomed_at.is_some()
        });
        for other in others {
            if self.is_steady(other) {
                ensure(other.epoch == session.epoch, Invariant::Epoch, || {
                    format!(
                        "connections {} and {link} of one key are in epochs {:x} and {:x}",
                        other.id, other.epoch, session.epoch
                    )
                })?;
            }
        }
        Ok(())
    }

    /// A session that nothing the model knows of could have ended at the relay.
    fn is_steady(&self, session: &Session) -> bool {
        // An `auth` may be this long on its way: it may wait for what its client does not read.
        let under_way = self.scenario.auth_timeout() + 8 * self.scenario.delay_max + SECOND;
        let rival = |other: &Session| {
            other.device == session.device
                && other.id != session.id
                && other.auth_sent.is_some_and(|at| session.auth_sent.is_some_and(|own| at + under_way >= own))
        };
        session.is_healthy()
            && !session.restarted
            && !self.scenario.tight
            && !self.draining
            && matches!(self.links[session.id].place, Place::Open { .. })
            && !self.sessions.iter().any(rival)
    }

    /// Who was online all the time is not called offline.
    fn check_offline(&self, recipient: PublicKey, since: Nanos) -> Checked {
        let online = self.sessions.iter().find(|session| {
            session.key == recipient && session.welcomed_at.is_some_and(|at| at < since) && self.is_steady(session)
        });
        ensure(online.is_none(), Invariant::FalseOffline, || {
            format!(
                "{recipient:?} is called offline, and is online on connection {:?}",
                online.map(|session| session.id)
            )
        })
    }

    /// Who was never online is not called so.
    fn check_online(&self, link: LinkId, recipient: PublicKey) -> Checked {
        let ever = self.sessions.iter().any(|session| session.key == recipient && session.auth_sent.is_some());
        ensure(ever, Invariant::AnswerWrong, || {
            format!("connection {link}: {recipient:?} is called online, and never was")
        })
    }

    /// An inbox has no room only where its bound is low, or for one who never came.
    fn check_full(&self, recipient: PublicKey, since: Nanos, sent: u32) -> Checked {
        let users = self.devices.iter().filter(|device| self.users[device.user].key == recipient);
        let is_seen = users.filter_map(|device| device.known_since).any(|at| at < since);
        let unseen_max = self.scenario.shared().limits.unseen_sender_messages_max as u32;
        let may_be = self.scenario.small_inboxes || !is_seen && sent > unseen_max;
        ensure(may_be, Invariant::AnswerWrong, || {
            format!("the inbox of {recipient:?} is called full for one who sent {sent} messages")
        })
    }

    /// Sends bytes from a client.
    pub(crate) fn send_up(&mut self, link: LinkId, bytes: &[u8]) {
        let now = self.schedule.now();
        for at in self.links[link].send_up(now, bytes, &self.scenario, &mut self.random) {
            self.schedule.at(at, Occurrence::ArriveUp(link));
        }
    }

    /// Ends a client's sending side.
    pub(crate) fn end_up(&mut self, link: LinkId, segment: Segment) {
        let now = self.schedule.now();
        if let Some(at) = self.links[link].end_up(now, segment, &self.scenario, &mut self.random) {
            self.schedule.at(at, Occurrence::ArriveUp(link));
        }
    }

    /// Opens a connection for a new session; its number is that of link and session.
    pub(crate) fn open(&mut self, session: impl FnOnce(LinkId) -> Session) -> LinkId {
        let link = self.links.len();
        self.links.push(Link::new());
        self.sessions.push(session(link));
        self.sessions[link].restarted |= self.draining || self.is_down;
        let at = self.schedule.now() + self.random.below(self.scenario.delay_max + 1);
        self.schedule.at(at, Occurrence::Accept(link));
        link
    }

    /// Whether a session wants the lobby.
    pub(crate) fn watches(session: &Session) -> bool {
        session.lobby_mode == LobbyMode::All
    }
}
