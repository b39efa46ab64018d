//! One simulated client: what it knows, without its bytes.

use protocol::PublicKey;
use protocol::frame::Resume;
use protocol::server_frame::{LobbyTotals, Welcome};
use relay_engine::ConnectionId;

use super::inbox::Inbox;
use crate::lobby::LobbyView;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No connection.
    Away,
    /// Connecting, or waiting for the upgrade's response.
    Upgrading,
    /// Waiting for the challenge.
    Opening,
    /// Waiting for the welcome.
    Authenticating,
    /// Waiting for the first whole lobby.
    Entering,
    /// Everything is there.
    Active,
    /// Has sent a close, and waits for the relay's.
    Leaving,
}

impl Stage {
    /// Whether the handshake is under way, which relays allow few of at once.
    pub(crate) fn is_handshake(self) -> bool {
        matches!(self, Self::Upgrading | Self::Opening | Self::Authenticating)
    }

    /// Whether the relay counts the client as online.
    pub(crate) fn is_online(self) -> bool {
        matches!(self, Self::Entering | Self::Active)
    }
}

/// A client or visitor.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number over all workers, which makes its key.
    pub(crate) number: u32,
    pub(crate) key: PublicKey,
    pub(crate) stage: Stage,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) lobby: LobbyView,
    pub(crate) inbox: Inbox,
    /// What has come of the upgrade's response.
    pub(crate) response: Vec<u8>,
    /// The `Sec-WebSocket-Key` of the connection.
    pub(crate) upgrade_key: [u8; 16],
    /// When the current wait began: for the upgrade, or for the welcome.
    pub(crate) since_ns: u64,
    /// When it last asked for a snapshot; zero is never.
    pub(crate) synced_ns: u64,
    /// Whether its lobby ever disagreed.
    pub(crate) disagreed: bool,
    /// What its lobby came to, and since when.
    pub(crate) settled: (LobbyTotals, u64),
    /// What its inbox's numbers count in, as the last welcome said.
    pub(crate) epoch: u64,
    /// What it had when it dropped.
    left: Option<(u64, Inbox)>,
    /// Whether the relay knew that when it came back.
    pub(crate) recovered: bool,
}

impl Client {
    pub(crate) fn new(number: u32, key: PublicKey) -> Self {
        Self {
            number,
            key,
            stage: Stage::Away,
            connection: None,
            lobby: LobbyView::default(),
            inbox: Inbox::default(),
            response: Vec::new(),
            upgrade_key: [0; 16],
            since_ns: 0,
            synced_ns: 0,
            disagreed: false,
            settled: (LobbyTotals::default(), 0),
            epoch: 0,
            left: None,
            recovered: false,
        }
    }

    /// Keeps what a client that drops goes on from.
    pub(crate) fn remember(&mut self) {
        if self.stage.is_online() {
            self.left = Some((self.epoch, self.inbox));
        }
    }

    /// What the client goes on from, if it was here before.
    pub(crate) fn resume(&self) -> Option<Resume> {
        self.left.map(|(epoch, inbox)| Resume { epoch, seq: inbox.last_push() })
    }

    /// Takes what a welcome says of the inbox. Returns how many numbers were skipped in the one that
    /// this ends.
    pub(crate) fn open_inbox(&mut self, welcome: &Welcome<'_>) -> u64 {
        self.epoch = welcome.epoch;
        self.recovered = welcome.recovered;
        match self.left.take() {
            None => {
                self.inbox = Inbox::starting_at(welcome.seq);
                0
            }
            Some((_, inbox)) if welcome.recovered => {
                self.inbox = inbox;
                0
            }
            // It is sent all that it never confirmed, from wherever that begins.
            Some((_, inbox)) => {
                self.inbox = Inbox::default();
                inbox.gaps()
            }
        }
    }

    /// Begins again, on a connection that is being made.
    pub(crate) fn reset(&mut self, upgrade_key: [u8; 16], now_ns: u64) {
        self.stage = Stage::Upgrading;
        self.lobby = LobbyView::default();
        self.inbox = Inbox::default();
        self.response = Vec::new();
        self.upgrade_key = upgrade_key;
        self.since_ns = now_ns;
        self.synced_ns = 0;
        self.settled = (LobbyTotals::default(), 0);
    }
}
