//! How clients come and go: dialling, upgrade, challenge, welcome, and every way to end.

use protocol::frame::LobbyMode;
use protocol::server_frame::{Challenge, Welcome, WelcomeLimits};
use protocol::websocket::{self, Opcode};
use protocol::{encode, opening, upgrade};
use relay_engine::{ConnectionId, Disconnect};

use super::QUIET_NS;
use super::client::Stage;
use super::session::{Session, decoder};
use crate::clock::{SECOND_NS, to_ns};
use crate::lobby::Seen;
use crate::recorder::Metric;
use crate::units::one_line;
use crate::{identity, ledger};

/// How long a client waits for an answer while it opens its session.
const OPENING_NS: u64 = 15 * SECOND_NS;

/// How long a leaving client waits for the relay to close.
const LEAVING_NS: u64 = 2 * SECOND_NS;

/// What a relay said of itself and its limits.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// The limits of the welcome.
    pub limits: WelcomeLimits,
    /// The relay's clock less ours, in milliseconds.
    pub clock_offset_ms: i64,
}

impl Session {
    /// When the next stable client connects, spread evenly over the ramp.
    pub(super) fn dial_due_ns(&self) -> Option<u64> {
        if self.dialled == self.stable || self.handshakes >= self.handshakes_max {
            return None;
        }
        let ramp_ns = to_ns(self.plan.workload.ramp);
        let offset = u128::from(ramp_ns) * u128::from(self.dialled) / u128::from(self.stable.max(1));
        Some(self.ramp_begin_ns + offset as u64)
    }

    pub(super) fn dial(&mut self, now_ns: u64) -> usize {
        let mut dialled = 0;
        while self.failure.is_none() && self.dial_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.connects.push_back(self.dialled);
            // Counted here, so that the bound holds for those who wait in the queue too.
            self.handshakes += 1;
            self.dialled += 1;
            dialled += 1;
        }
        dialled
    }

    /// The client at `place` has a connection that is being made.
    pub(crate) fn connecting(&mut self, place: u32, connection: ConnectionId, now_ns: u64) {
        if place >= self.stable {
            self.handshakes += 1;
        }
        let mut upgrade_key = [0; 16];
        for chunk in upgrade_key.as_chunks_mut::<8>().0 {
            *chunk = self.masks.next_u64().to_le_bytes();
        }
        let client = &mut self.clients[place as usize];
        client.reset(upgrade_key, now_ns);
        client.connection = Some(connection);
        self.decoders[place as usize] = decoder();
        let target = &self.plan.target;
        upgrade::request(&target.authority, &target.path, upgrade_key, self.outbox.append_to(place));
    }

    /// The client at `place` could not even start to connect.
    pub(crate) fn refused(&mut self, place: u32, error: &std::io::Error) {
        if place < self.stable {
            self.handshakes -= 1;
        }
        self.broken(place, &format!("connect: {error}"));
    }

    /// The kernel has given the connection of the client at `place` up.
    pub(crate) fn disconnected(&mut self, place: u32, reason: Disconnect) {
        let why = match reason {
            Disconnect::Eof => "closed by the relay without a close frame".to_owned(),
            Disconnect::Error(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        };
        self.gone(place, &why);
    }

    /// The connection of the client at `place` is of no more use.
    pub(super) fn gone(&mut self, place: u32, why: &str) {
        let since_ns = self.clients[place as usize].since_ns;
        if self.crash.is_on {
            self.clients[place as usize].remember();
        }
        match self.detach(place) {
            Stage::Away => {}
            Stage::Leaving => {
                self.leaving -= 1;
                if place >= self.stable {
                    self.churn.gone(place);
                }
            }
            stage => {
                self.never_opened(stage, since_ns);
                self.broken(place, why);
            }
        }
    }

    /// A wait that began at `since_ns` will never end well. If that was in the steady phase it is infinite.
    fn never_opened(&mut self, stage: Stage, since_ns: u64) {
        if !self.traffic.is_steady(since_ns) {
            return;
        }
        let steady = &mut self.traffic.steady;
        match stage {
            Stage::Upgrading => steady.unconnected += 1,
            Stage::Opening | Stage::Authenticating => steady.unwelcomed += 1,
            Stage::Away | Stage::Entering | Stage::Active | Stage::Leaving => {}
        }
    }

    /// Counts who still waits when the run ends, and has waited so long that this is no chance.
    pub(super) fn count_unopened(&mut self) {
        let now_ns = self.plan.clock.now_ns();
        let waits = self.clients.iter().map(|client| (client.stage, client.since_ns));
        let waits: Vec<_> = waits.filter(|&(_, since_ns)| now_ns.saturating_sub(since_ns) > QUIET_NS).collect();
        for (stage, since_ns) in waits {
            self.never_opened(stage, since_ns);
        }
    }

    /// Takes the connection of the client at `place` away from it, and says how far it had come.
    pub(super) fn detach(&mut self, place: u32) -> Stage {
        let client = &mut self.clients[place as usize];
        let stage = std::mem::replace(&mut client.stage, Stage::Away);
        if stage == Stage::Away {
            return stage;
        }
        self.closes.extend(client.connection.take());
        client.response = Vec::new();
        self.outbox.forget(place);
        if !self.crash.is_on {
            self.traffic.abandon(place);
        }
        if stage.is_handshake() {
            self.handshakes -= 1;
        }
        if stage == Stage::Active && place < self.stable {
            self.active -= 1;
            if !self.slow.holds(place) {
                self.plan.visitors.look_away();
            }
        }
        stage
    }

    /// Counts a client that has broken, or lets the run fail.
    pub(super) fn broken(&mut self, place: u32, why: &str) {
        if !self.started {
            let why = one_line(why);
            self.failure.get_or_insert_with(|| format!("a client could not stay connected: {why}: does the relay run at that address, and does it let us in?"));
            return;
        }
        if place >= self.stable {
            self.churn.gone(place);
            ledger::count(&mut self.traffic.ledger.disconnects, &format!("visitor: {why}"));
        } else if self.survives(place, why) {
            // It is counted there.
        } else if self.is_expected(place) {
            ledger::count(&mut self.traffic.ledger.disconnects, &format!("coming back: {why}"));
            self.storm.failed(place, self.plan.clock.now_ns());
        } else if !self.slow.excuses(place, why) && !self.retries(place, why) {
            ledger::count(&mut self.traffic.ledger.disconnects, why);
        }
    }

    pub(super) fn leave(&mut self, place: u32) {
        let client = &mut self.clients[place as usize];
        if !client.stage.is_online() {
            return;
        }
        client.stage = Stage::Leaving;
        self.leaving += 1;
        let mask = self.masks.next_u64() as u32;
        websocket::push_masked_close(self.outbox.append_to(place), 1000, "", mask.to_ne_bytes());
        let now_ns = self.plan.clock.now_ns();
        client.since_ns = now_ns;
        let seen = Seen { visitor: client.number - self.plan.workload.clients, joined: false };
        self.happens(seen, now_ns);
    }

    /// Looks after waits that take too long. To be called now and then.
    pub(crate) fn check_patience(&mut self, now_ns: u64) {
        if self.handshakes + self.leaving == 0 {
            return;
        }
        for place in 0..self.clients.len() as u32 {
            let client = &self.clients[place as usize];
            let waited_ns = now_ns.saturating_sub(client.since_ns);
            match client.stage {
                Stage::Leaving if waited_ns > LEAVING_NS => self.gone(place, ""),
                stage if stage.is_handshake() && waited_ns > OPENING_NS => {
                    self.gone(place, &format!("no answer within 15 s while {stage:?}"));
                }
                _ => {}
            }
        }
    }

    /// Reads the upgrade's response; returns what stands behind it once it is whole.
    pub(super) fn read_upgrade(&mut self, place: u32, bytes: &[u8]) -> Option<Vec<u8>> {
        let now_ns = self.plan.clock.now_ns();
        let client = &mut self.clients[place as usize];
        client.response.extend_from_slice(bytes);
        match upgrade::read_response(&client.response, client.upgrade_key) {
            Ok(Some(consumed)) => {
                let behind = client.response.split_off(consumed);
                client.response = Vec::new();
                client.stage = Stage::Opening;
                let connected_ns = now_ns - client.since_ns;
                self.record_opening(Metric::Connect, connected_ns, now_ns);
                Some(behind)
            }
            Ok(None) => None,
            Err(error) => {
                self.gone(place, &error.to_string());
                None
            }
        }
    }

    /// Openings count while clients connect and, like messages, by their beginning in the steady phase: one
    /// that a relay keeps waiting beyond its end is in the figures.
    pub(super) fn record_opening(&mut self, metric: Metric, ns: u64, now_ns: u64) {
        if self.traffic.moments().is_none_or(|moments| moments.is_steady(now_ns - ns)) {
            self.recorder.record(metric, ns);
        }
    }

    pub(super) fn challenged(&mut self, place: u32, challenge: &Challenge<'_>) {
        let client = &mut self.clients[place as usize];
        if client.stage != Stage::Opening {
            self.traffic.ledger.unreadable += 1;
            return;
        }
        let key = identity::signing_key(self.plan.workload.seed, client.number);
        let mode = if self.plan.workload.lobby { LobbyMode::All } else { LobbyMode::None };
        let name = &self.plan.target.relay_name;
        let resume = client.resume();
        let device = if place < self.stable { self.traffic.audience.device(place) } else { 0 };
        match opening::answer(challenge, name, &key, identity::device(device), mode, resume) {
            Ok(auth) => {
                let mut frame = Vec::new();
                encode::auth(&mut frame, &auth);
                self.push(place, Opcode::Text, &frame);
                let now_ns = self.plan.clock.now_ns();
                let client = &mut self.clients[place as usize];
                client.stage = Stage::Authenticating;
                client.since_ns = now_ns;
                self.comes_for_mail(place, now_ns);
                if place >= self.stable {
                    let seen = Seen {
                        visitor: self.clients[place as usize].number - self.plan.workload.clients,
                        joined: true,
                    };
                    self.happens(seen, now_ns);
                }
            }
            Err(error) => self.gone(place, &format!("{error}; --relay-name sets the name that is expected")),
        }
    }

    pub(super) fn welcomed(&mut self, place: u32, welcome: &Welcome<'_>) {
        let now_ns = self.plan.clock.now_ns();
        let client = &mut self.clients[place as usize];
        if client.stage != Stage::Authenticating {
            self.traffic.ledger.unreadable += 1;
            return;
        }
        client.stage = Stage::Entering;
        let gaps = client.open_inbox(welcome);
        if !self.crash.is_on {
            // A killed relay takes acks with it, and with them the numbers of own messages.
            self.traffic.ledger.seq_gaps += gaps;
        }
        let authenticated_ns = now_ns - client.since_ns;
        self.handshakes -= 1;
        self.record_opening(Metric::Auth, authenticated_ns, now_ns);
        self.logged_in(place, now_ns);
        self.note_return(place);
        self.relay.get_or_insert_with(|| RelayLimits {
            limits: welcome.limits,
            clock_offset_ms: welcome.time.unix_ms() - unix_ms(),
        });
        if !self.plan.workload.lobby {
            self.entered(place, now_ns);
        }
    }
}

/// This machine's clock.
fn unix_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as i64
}
