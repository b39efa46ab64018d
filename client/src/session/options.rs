//! How a session behaves.

use std::time::Duration;

use protocol::frame::LobbyMode;
use protocol::keys::{is_id, is_relay_name};
use thiserror::Error;

use crate::history::HistoryBounds;

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) relay_name: String,
    pub(super) device_id: String,
    /// Which lobby frames the relay sends.
    pub lobby: LobbyMode,
    /// How many messages are kept.
    pub history: HistoryBounds,
    /// Own messages without an answer at most, those that wait for a connection included; more are
    /// not taken.
    pub unacked_max: usize,
    /// Whether handled messages are confirmed to the relay. If not, it keeps them for this device.
    pub confirm: bool,
    /// How long challenge and welcome together may take.
    pub opening_timeout: Duration,
}

/// Why options are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// The relay's name has another form.
    #[error("a relay's name is 1 to 253 of a-z 0-9 . -")]
    RelayName,
    /// The device id has another form.
    #[error("a device id is 1 to 64 of A-Z a-z 0-9 - _ . :")]
    DeviceId,
}

impl Options {
    /// Options with the whole lobby, the default history, 1,024 messages without an answer at
    /// most, confirmation, and 15 s for the opening: the relay's own 10 s, and room for a slow network.
    ///
    /// # Errors
    /// [`OptionsError`] if a name has not the form of the contract.
    pub fn new(relay_name: &str, device_id: &str) -> Result<Self, OptionsError> {
        if !is_relay_name(relay_name) {
            return Err(OptionsError::RelayName);
        }
        if !is_id(device_id) {
            return Err(OptionsError::DeviceId);
        }
        Ok(Self {
            relay_name: relay_name.to_owned(),
            device_id: device_id.to_owned(),
            lobby: LobbyMode::All,
            history: HistoryBounds::default(),
            unacked_max: 1024,
            confirm: true,
            opening_timeout: Duration::from_secs(15),
        })
    }

    /// The name that the relay must give itself.
    #[must_use]
    pub fn relay_name(&self) -> &str {
        &self.relay_name
    }

    /// This device.
    #[must_use]
    pub fn device_id(&self) -> &str {
        &self.device_id
    }
}
