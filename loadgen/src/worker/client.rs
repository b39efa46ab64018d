//! One simulated client: what it knows, without its bytes.

use protocol::PublicKey;
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
    }
}
