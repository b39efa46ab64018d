//! All clients of one worker, without a socket: events in, bytes and wishes out.
//!
//! # Flow
//! ```text
//! step(now)        who connects, sends, comes, goes now      ──> outbox, connects, closes
//! received(bytes)  upgrade → decoder → frame → lobby, traffic ──> outbox
//! ```
//!
//! # Invariants
//! - Only [`Stage`] decides what a frame means to a client.
//! - Before the run starts a client that cannot connect is a failure of the run; after that it is
//!   counted, and the run goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::server_frame::{ServerFrame, ServerFrameDecoder};
use protocol::websocket::{self, Decoder, Incoming, Opcode, Role};
use protocol::{encode, limits};
use relay_engine::{ConnectionId, Engine};

use super::churn::{Call, Churn};
use super::client::{Client, Stage};
use super::confirming::Confirming;
use super::crash::Crash;
use super::inbox::{AckView, scan_ack};
use super::offline::Offline;
use super::outbox::Outbox;
use super::rooms::RoomMaking;
use super::slow::SlowReaders;
use super::storm::Storm;
use super::traffic::Traffic;
use super::{Gauge, LobbyGroup, LobbyReport, RelayLimits};
use crate::audience::Audience;
use crate::clock::SECOND_NS;
use crate::identity;
use crate::lobby::{self, Change, Seen, UpdateCache};
use crate::plan::{HANDSHAKES_MAX, Moments, RunPlan};
use crate::recorder::{Metric, Recorder};
use crate::rng::Rng;
use crate::scenario;
use crate::scenario::outcome::StormCounts;
use crate::spread::{self, Sightings};

/// At most one `lobby_sync` in 2 s (PROTOCOL, Lobby).
const SYNC_NS: u64 = 2 * SECOND_NS;

/// The clients of one worker, a place for each connection: those that stay, as [`Audience`] numbers them,
/// and behind them the visitors.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) plan: Arc<RunPlan>,
    pub(super) clients: Vec<Client>,
    pub(super) stable: u32,
    pub(super) decoders: Vec<Decoder>,
    pub(super) frames: ServerFrameDecoder,
    pub(super) updates: UpdateCache,
    pub(super) masks: Rng,
    pub(crate) outbox: Outbox,
    pub(crate) traffic: Traffic,
    pub(crate) churn: Churn,
    pub(crate) storm: Storm,
    pub(crate) slow: SlowReaders,
    pub(crate) offline: Offline,
    pub(crate) crash: Crash,
    pub(super) rooms: RoomMaking,
    pub(super) confirming: Confirming,
    /// For frames that are no messages.
    pub(super) control: Vec<u8>,
    pub(crate) recorder: Box<Recorder>,
    pub(crate) sightings: Sightings,
    /// Places that want a connection.
    pub(crate) connects: VecDeque<u32>,
    /// Connections that are given up.
    pub(crate) closes: Vec<ConnectionId>,
    /// How many of the stable clients were told to connect.
    pub(super) dialled: u32,
    pub(super) handshakes: usize,
    pub(super) handshakes_max: usize,
    pub(super) leaving: usize,
    pub(super) active: u32,
    pub(super) ramp_begin_ns: u64,
    pub(super) started: bool,
    pub(crate) relay: Option<RelayLimits>,
    pub(crate) failure: Option<String>,
    pub(crate) disagreements: u64,
}

impl Session {
    pub(crate) fn new(plan: &Arc<RunPlan>, worker: usize, entropy: u64) -> Self {
        let workload = &plan.workload;
        let visitors = plan.visitors.len() as u32;
        let mut clients: Vec<_> = plan
            .owned(worker, workload.clients)
            .map(|number| Client::new(number, identity::public_key(workload.seed, number)))
            .collect();
        let keys: Arc<[_]> = clients.iter().map(|client| client.key).collect();
        let users = clients.len() as u32;
        // Rooms make no difference to who is where.
        let audience = Audience::new(users, workload.devices, None);
        let stable = audience.connections();
        let others = (users..stable).map(|place| &clients[audience.user(place) as usize]);
        let others: Vec<_> = others.map(|client| Client::new(client.number, client.key)).collect();
        clients.extend(others);
        clients.extend(
            plan.owned(worker, visitors)
                .map(|visitor| Client::new(workload.clients + visitor, *plan.visitors.key(visitor))),
        );
        let senders = plan.owned(worker, workload.senders).len() as u32;
        let places = stable..clients.len() as u32;
        Self {
            decoders: clients.iter().map(|_| decoder()).collect(),
            frames: ServerFrameDecoder::new(),
            updates: UpdateCache::default(),
            masks: Rng::new(entropy, 0),
            outbox: Outbox::new(clients.len()),
            traffic: Traffic::new(plan, worker, keys, senders),
            churn: Churn::new(plan, worker, places),
            storm: Storm::new(plan, worker, users),
            slow: SlowReaders::new(plan, worker, users),
            offline: Offline::new(plan, worker, users),
            crash: Crash::new(plan, worker, users),
            rooms: RoomMaking::new(plan, worker, users),
            confirming: Confirming::new(clients.len(), workload.confirms),
            control: Vec::new(),
            recorder: Box::default(),
            sightings: Sightings::default(),
            connects: VecDeque::new(),
            closes: Vec::new(),
            dialled: 0,
            handshakes: 0,
            leaving: 0,
            handshakes_max: (HANDSHAKES_MAX / plan.workers).max(1),
            active: 0,
            ramp_begin_ns: plan.clock.now_ns(),
            started: false,
            relay: None,
            failure: None,
            disagreements: 0,
            plan: Arc::clone(plan),
            clients,
            stable,
        }
    }

    pub(crate) fn keys(&self) -> Arc<[protocol::PublicKey]> {
        Arc::clone(&self.traffic.keys)
    }

    /// Whether all clients that stay are there.
    pub(crate) fn is_ready(&self) -> bool {
        self.active == self.stable
    }

    /// From now on a client that breaks is counted and does not end the run.
    pub(crate) fn start(&mut self, moments: &Moments) {
        self.started = true;
        self.churn.start(*moments);
        self.storm.start(moments);
        self.slow.start(moments);
        self.offline.start(moments);
    }

    pub(crate) fn update_gauge(&self, gauge: &Gauge) {
        gauge.set(self.active, &self.traffic.ledger);
    }

    pub(crate) fn connection(&self, place: u32) -> Option<ConnectionId> {
        self.clients[place as usize].connection
    }

    /// Hands what waits to be written to the engine. Returns how many writes that are.
    pub(crate) fn flush(&mut self, engine: &mut dyn Engine) -> usize {
        let Self { outbox, clients, traffic, recorder, .. } = self;
        outbox.flush(
            engine,
            |place| clients[place as usize].connection,
            |place, buffer| traffic.fill(place, buffer, recorder),
        )
    }

    /// Does what is due now. Returns how much that was.
    pub(crate) fn step(&mut self, now_ns: u64) -> usize {
        let mut done = self.dial(now_ns) + self.storm(now_ns) + self.call_back(now_ns);
        done += self.try_again(now_ns) + self.confirm(now_ns);
        self.slow.step(now_ns);
        while let Some(call) = self.churn.next_call(now_ns) {
            done += 1;
            match call {
                Call::Come(place) => self.connects.push_back(place),
                Call::Leave(place) => self.leave(place),
            }
        }
        let Self { traffic, outbox, clients, .. } = self;
        done + traffic.send_due(now_ns, outbox, |place| clients[place as usize].stage == Stage::Active)
    }

    /// When the next thing is due, and whether it needs to be exact.
    pub(crate) fn due_ns(&self) -> Option<(u64, bool)> {
        let exact = self.traffic.due_ns().map(|due_ns| (due_ns, true));
        let churn = self.churn.due_ns().map(|due_ns| (due_ns, false));
        let storm = self.storm.due_ns(self.handshakes >= self.handshakes_max).map(|due_ns| (due_ns, false));
        let full = self.handshakes >= self.handshakes_max;
        let back = self.offline.due_ns().into_iter().chain(self.crash.due_ns()).min();
        let back = back.filter(|_| !full).map(|due_ns| (due_ns, false));
        let dial = self.dial_due_ns().map(|due_ns| (due_ns, false));
        exact.into_iter().chain(churn).chain(storm).chain(back).chain(dial).min()
    }

    /// Bytes have come for the client at `place`.
    pub(crate) fn received(&mut self, place: u32, bytes: &mut [u8]) {
        let mut behind;
        let mut bytes = if self.clients[place as usize].stage == Stage::Upgrading {
            let Some(rest) = self.read_upgrade(place, bytes) else { return };
            behind = rest;
            &mut behind[..]
        } else {
            bytes
        };
        // The decoder lends from itself while the rest of the session handles the frame.
        let mut decoder = std::mem::replace(&mut self.decoders[place as usize], decoder());
        while self.clients[place as usize].connection.is_some() {
            match decoder.next(&mut bytes) {
                Ok(Some(Incoming::Text(text))) => self.text(place, text),
                Ok(Some(Incoming::Ping(payload))) => {
                    if self.outbox.takes_pong(place) {
                        self.push(place, Opcode::Pong, payload);
                    }
                }
                Ok(Some(Incoming::Pong(_))) => {}
                // The contract knows text alone.
                Ok(Some(Incoming::Binary(_))) => self.traffic.ledger.unreadable += 1,
                Ok(Some(Incoming::Close { code, reason })) => {
                    let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
                    let why = format!("closed with {code} {reason}{}", advice(&code));
                    self.gone(place, why.trim_end());
                }
                Ok(None) => break,
                Err(fault) => self.gone(place, &format!("WebSocket fault: {fault}")),
            }
        }
        self.decoders[place as usize] = decoder;
    }

    pub(super) fn push(&mut self, place: u32, opcode: Opcode, payload: &[u8]) {
        let mask = (self.masks.next_u64() as u32).to_ne_bytes();
        websocket::push_masked(self.outbox.append_to(place), opcode, payload, mask);
    }

    /// A whole frame. The three that come by the thousand are told apart by how `protocol` writes
    /// them; any other layout takes the way through the parser.
    fn text(&mut self, place: u32, text: &str) {
        if text.starts_with("{\"seq\":") {
            self.pushed(place, text);
        } else if let Some(ack) = scan_ack(text) {
            self.acked(place, ack);
        } else if text.starts_with("{\"type\":\"lobby") {
            self.lobby(place, text);
        } else if text.starts_with("{\"type\":\"receipt\"") {
            // They come by the thousand as well, and nothing is asked of them.
        } else {
            self.parsed(place, text);
        }
    }

    fn pushed(&mut self, place: u32, text: &str) {
        self.confirming.note(place);
        let Self { traffic, clients, frames, recorder, .. } = self;
        traffic.on_push(place, &mut clients[place as usize].inbox, text, frames, recorder);
    }

    fn acked(&mut self, place: u32, ack: AckView<'_>) {
        let Self { traffic, clients, outbox, recorder, .. } = self;
        traffic.on_ack(place, &mut clients[place as usize].inbox, ack, outbox, recorder);
    }

    fn lobby(&mut self, place: u32, text: &str) {
        let now_ns = self.plan.clock.now_ns();
        let visitors = &self.plan.visitors;
        let client = &mut self.clients[place as usize];
        let update = match self.updates.find(text.as_bytes()) {
            Some(update) => update,
            None => {
                if let Some(page) = lobby::read_page(text, &mut self.frames) {
                    let change = client.lobby.page(page.count, page.digest, page.totals);
                    self.lobby_changed(place, change, now_ns);
                    return;
                }
                match self.frames.decode(text) {
                    Ok(ServerFrame::LobbyUpdate(update)) => self.updates.keep(text.as_bytes(), &update, visitors),
                    _ => {
                        self.traffic.ledger.unreadable += 1;
                        return;
                    }
                }
            }
        };
        let change = client.lobby.update(update);
        if place < self.stable
            && !self.slow.holds(place)
            && let Some(moments) = self.traffic.moments()
        {
            for &seen in &update.seen {
                let when_ns = visitors.when(seen);
                if moments.is_steady(when_ns) {
                    let metric = if seen.joined { Metric::LobbyJoin } else { Metric::LobbyLeave };
                    self.recorder.record(metric, now_ns - when_ns);
                    self.sightings.saw(spread::Event::new(seen, when_ns), now_ns - when_ns);
                }
            }
        }
        self.lobby_changed(place, change, now_ns);
    }

    fn lobby_changed(&mut self, place: u32, change: Change, now_ns: u64) {
        let client = &mut self.clients[place as usize];
        match change {
            Change::Partial => return,
            Change::Agrees => {}
            Change::Disagrees => {
                client.disagreed = true;
                self.disagreements += u64::from(!self.slow.holds(place));
            }
        }
        if client.settled.0 != client.lobby.own() {
            client.settled = (client.lobby.own(), now_ns);
        }
        if client.stage == Stage::Entering {
            self.entered(place, now_ns);
        }
    }

    /// Asks again for every lobby that disagrees, as often as the contract allows.
    pub(crate) fn sync_lobbies(&mut self, now_ns: u64) {
        if self.disagreements == 0 {
            return;
        }
        for place in 0..self.clients.len() as u32 {
            let client = &mut self.clients[place as usize];
            let wanted = client.stage == Stage::Active && client.lobby.disagrees();
            if wanted && (client.synced_ns == 0 || now_ns - client.synced_ns > SYNC_NS) {
                client.synced_ns = now_ns;
                let mut frame = Vec::new();
                encode::lobby_sync(&mut frame);
                self.push(place, Opcode::Text, &frame);
            }
        }
    }

    /// A visitor joins or leaves now: the watchers are to be told.
    pub(super) fn happens(&mut self, seen: Seen, now_ns: u64) {
        self.plan.visitors.note(seen, now_ns);
        if self.traffic.moments().is_some_and(|moments| moments.is_steady(now_ns)) {
            *(if seen.joined { &mut self.traffic.steady.joins } else { &mut self.traffic.steady.leaves }) += 1;
            self.sightings.made(spread::Event::new(seen, now_ns), self.plan.visitors.watching());
        }
    }

    pub(super) fn entered(&mut self, place: u32, now_ns: u64) {
        self.clients[place as usize].stage = Stage::Active;
        if place < self.stable {
            self.active += 1;
            self.returned(place, now_ns);
            self.goes_on(place);
            if !self.slow.holds(place) {
                self.plan.visitors.watch();
            }
        } else {
            self.churn.arrived(place, now_ns);
        }
    }

    /// Any frame, through the parser.
    fn parsed(&mut self, place: u32, text: &str) {
        // The parsed frame borrows the decoder, which the handlers need as well: it is put aside.
        let mut frames = std::mem::take(&mut self.frames);
        match frames.decode(text) {
            Ok(ServerFrame::Challenge(challenge)) => self.challenged(place, &challenge),
            Ok(ServerFrame::Welcome(welcome)) => self.welcomed(place, &welcome),
            Ok(ServerFrame::Message(_)) => self.pushed(place, text),
            Ok(ServerFrame::Ack(ack)) => {
                self.acked(place, AckView { id: ack.id.as_bytes(), duplicate: ack.duplicate, seq: ack.seq });
            }
            Ok(ServerFrame::Lobby(_) | ServerFrame::LobbyUpdate(_)) => self.lobby(place, text),
            Ok(ServerFrame::Room(room)) => self.on_room(place, room.room),
            Ok(ServerFrame::Error(error)) => {
                let stage = self.clients[place as usize].stage;
                if stage.is_handshake() {
                    self.gone(place, &format!("error {}: {}", error.reason, error.details));
                } else {
                    let Self { traffic, outbox, .. } = self;
                    let keeps_mail = traffic.on_refusal(place, error.reason, error.id, outbox);
                    if error.id.is_none() && error.room.is_some() {
                        self.on_room_refused(error.reason, error.details);
                    }
                    if !keeps_mail {
                        self.failure.get_or_insert_with(|| NO_STORE.to_owned());
                    }
                }
            }
            Ok(
                ServerFrame::Pong
                | ServerFrame::Restarting { .. }
                | ServerFrame::Receipt(_)
                | ServerFrame::Typing(_)
                | ServerFrame::RoomUpdate(_)
                | ServerFrame::History(_)
                | ServerFrame::Unknown(_),
            ) => {}
            Err(_) => self.traffic.ledger.unreadable += 1,
        }
        self.frames = frames;
    }

    /// Counts clients by what their lobby came to, and adds up who of them is online.
    pub(crate) fn lobby_report(&self) -> LobbyReport {
        let mut report = LobbyReport::default();
        for (place, client) in (0..).zip(&self.clients) {
            if !client.stage.is_online() {
                report.moving += u64::from(client.stage != Stage::Away || self.is_expected(place));
                continue;
            }
            // A key is there once, with whatever devices.
            if !self.is_further_device(place) {
                report.online.count += 1;
                report.online.digest ^= client.key.digest_part();
            }
            if self.slow.holds(place) {
                continue;
            }
            report.settled_ns = report.settled_ns.max(client.settled.1);
            let view = client.lobby.is_whole().then(|| client.lobby.own());
            let agrees = client.lobby.own() == client.lobby.announced();
            match report.groups.iter_mut().find(|group| group.view == view && group.agrees == agrees) {
                Some(group) => group.add(client.disagreed),
                None => report.groups.push(LobbyGroup::of(view, agrees, client.disagreed)),
            }
        }
        report
    }

    /// Whether `place` is that of a device beside its user's first.
    pub(super) fn is_further_device(&self, place: u32) -> bool {
        place < self.stable && self.traffic.audience.device(place) > 0
    }

    /// Adds up what only the end shows.
    pub(crate) fn close_books(&mut self) {
        self.traffic.count_lost();
        self.count_unopened();
        let (slow_from, slow_to) = (self.slow.places.start as usize, self.slow.places.end as usize);
        let (slow, clients) = (&self.clients[slow_from..slow_to], self.clients[..slow_from].iter());
        let gaps: u64 = clients.chain(&self.clients[slow_to..]).map(|client| client.inbox.gaps()).sum();
        if !self.crash.is_on {
            self.traffic.ledger.seq_gaps += gaps;
        }
        self.slow.counts.stayed = slow.iter().filter(|client| client.stage == Stage::Active).count() as u64;
        let watchers = u64::from(self.active) - self.slow.counts.stayed;
        self.traffic.steady.watchers = if self.plan.workload.lobby { watchers } else { 0 };
    }

    /// What became of what was not steady.
    pub(crate) fn scenario_outcome(&mut self) -> scenario::outcome::Outcome {
        let (offline, crash) = (self.offline_outcome(), self.crash_outcome());
        let standings = &mut self.traffic.standings;
        let (stayed, stayed_due, acks) = (standings.stayed.take(), standings.stayed_due, standings.acks);
        scenario::outcome::Outcome {
            aside: self.traffic.aside(),
            storm: StormCounts { stayed, stayed_due, acks, ..std::mem::take(&mut self.storm.counts) },
            slow_readers: std::mem::take(&mut self.slow.counts),
            offline,
            crash,
        }
    }
}

/// Why a relay cannot serve clients that are offline.
const NO_STORE: &str = "the relay keeps nothing for those who are offline (error/offline), and --offline-share needs \
    that: start it with a store, --data DIR and not --ephemeral (with --spawn-relay: --relay-args '--data DIR')";

pub(super) fn decoder() -> Decoder {
    Decoder::new(Role::Client, limits::RELAY_FRAME_BYTES)
}

/// What to do about a close code.
fn advice(code: &str) -> &'static str {
    match code {
        "4409" => " (another client has the same key: give this generator a --seed of its own)",
        "4429" => " (too many connections: raise the relay's limit, lengthen --ramp or use --source-ip)",
        _ => "",
    }
}
