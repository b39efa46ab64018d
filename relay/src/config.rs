//! What an operator can choose: options of the command, or the environment.
//!
//! Every option can also be given as `RELAY_<OPTION>` (`--busy-poll` as `RELAY_BUSY_POLL`); the
//! command line wins.
//!
//! # Invariants
//! - A value that cannot work is refused before any thread starts, with the option, the value and
//!   the fix: a single one while parsing, combinations in [`Config::check`].
//! - `Config::default()` is what the command does without options and environment; a test holds the
//!   two together.
//!
//! Absent on purpose: a configuration file, and options for what nobody would measure.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, ValueEnum};
use relay_core::{Limits, ShardId, VerifyMode};
use relay_engine::SocketOptions;
use thiserror::Error;

pub mod values;

use values::{Admin, CoreList, PinCores, bytes, duration, log_filter, relay_name};

/// Bytes of the largest frame the relay sends, less what a page of history puts around one message.
const FRAME_BYTES_MAX: usize = protocol::limits::RELAY_FRAME_BYTES - 128;

/// The outbox must hold a page of the lobby and what comes meanwhile.
const OUTBOX_BYTES_MIN: usize = 2 * protocol::limits::RELAY_FRAME_BYTES;

/// What an operator can choose. See the module.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(
    name = "relay",
    version,
    about = "Relays signed messages between keys, and tells who is online.",
    after_help = "Every option can also be given by environment, as RELAY_<OPTION>. The command line wins.",
    max_term_width = 100
)]
pub struct Config {
    /// Address for WebSocket clients; port 0 takes a free one
    #[arg(long, env = "RELAY_LISTEN", value_name = "IP:PORT", default_value_t = Config::default().listen)]
    pub listen: SocketAddr,

    /// Address for health, version and counts, or `off`
    #[arg(long, env = "RELAY_ADMIN", value_name = "IP:PORT|off", default_value_t = Config::default().admin)]
    pub admin: Admin,

    /// The relay's name, which clients sign at login: the host that they dial
    #[arg(long, env = "RELAY_NAME", value_parser = relay_name, default_value_t = Config::default().name)]
    pub name: String,

    /// Shards, one thread each [default: as many as --pin-cores names, or usable cores]
    #[arg(long, env = "RELAY_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,

    /// Cores for the shards in their order (0,2-3), `none`, or `auto`: one each if there are as many
    /// usable cores as shards
    #[arg(long, env = "RELAY_PIN_CORES", value_name = "LIST|auto|none", default_value_t = PinCores::Auto)]
    pub pin_cores: PinCores,

    /// Way to the kernel; `auto` takes ring where io_uring works, else epoll
    #[arg(long, env = "RELAY_ENGINE", value_enum, default_value_t = EngineOption::Auto)]
    pub engine: EngineOption,

    /// Who accepts: every shard on its own socket, or the first shard for all
    #[arg(long, env = "RELAY_ACCEPT", value_enum, default_value_t = Accept::Reuseport)]
    pub accept: Accept,

    /// How long a shard looks for work before it sleeps; costs the core, saves the wake-up
    #[arg(long, env = "RELAY_BUSY_POLL", value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub busy_poll: Duration,

    /// Signatures of messages: in batches when many wait, each alone, or (for measuring) not at all
    #[arg(long, env = "RELAY_VERIFY", value_enum, default_value_t = Verify::Auto)]
    pub verify: Verify,

    /// Directory of what has to survive a restart; made if it is not there, used by one relay at a time
    #[arg(long, env = "RELAY_DATA", value_name = "DIR", default_value = "./relay-data")]
    pub data: PathBuf,

    /// Keep nothing on disk, whatever --data says: messages for those who are offline are refused
    #[arg(
        long, env = "RELAY_EPHEMERAL", action = ArgAction::Set, value_parser = BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        hide_possible_values = true
    )]
    pub ephemeral: bool,

    /// When a message that nobody has confirmed is acked: synced at the end of each pass, synced together
    /// with all others of 2 ms, or given to the operating system (lost in a power cut)
    #[arg(long, env = "RELAY_DURABILITY", value_enum, default_value_t = Durability::Group)]
    pub durability: Durability,

    /// How long a message waits for its recipient, and an absent user or device is known
    #[arg(long, env = "RELAY_MESSAGE_TTL", value_name = "DURATION", value_parser = duration, default_value = "30d")]
    pub message_ttl: Duration,

    /// How long messages of rooms can be read again
    #[arg(long, env = "RELAY_RETENTION", value_name = "DURATION", value_parser = duration, default_value = "7d")]
    pub retention: Duration,

    /// Messages that may wait in one inbox; one more is refused with inbox_full
    #[arg(long, env = "RELAY_INBOX_MESSAGES", value_name = "N", default_value_t = Config::default().inbox_messages)]
    pub inbox_messages: usize,

    /// Bytes of messages that may wait in one inbox
    #[arg(long, env = "RELAY_INBOX_BYTES", value_name = "BYTES", value_parser = bytes, default_value = "64MiB")]
    pub inbox_bytes: usize,

    /// Messages of one sender that may wait in one inbox
    #[arg(long, env = "RELAY_INBOX_SENDER_MESSAGES", value_name = "N", default_value_t = Config::default().inbox_sender_messages)]
    pub inbox_sender_messages: usize,

    /// Messages that may wait in all inboxes of one shard, 24 bytes of memory each
    #[arg(long, env = "RELAY_INBOXES_MESSAGES", value_name = "N", default_value_t = Config::default().inboxes_messages)]
    pub inboxes_messages: usize,

    /// Messages of one sender that may wait for keys that were never online here
    #[arg(long, env = "RELAY_UNSEEN_SENDER_MESSAGES", value_name = "N", default_value_t = Config::default().unseen_sender_messages)]
    pub unseen_sender_messages: usize,

    /// Messages that may wait for such keys in all
    #[arg(long, env = "RELAY_UNSEEN_MESSAGES", value_name = "N", default_value_t = Config::default().unseen_messages)]
    pub unseen_messages: usize,

    /// Rooms in all, up to 52 KB of memory each
    #[arg(long, env = "RELAY_ROOMS", value_name = "N", default_value_t = Config::default().rooms)]
    pub rooms: usize,

    /// Rooms that one key may own in each shard
    #[arg(long, env = "RELAY_OWNER_ROOMS", value_name = "N", default_value_t = Config::default().owner_rooms)]
    pub owner_rooms: usize,

    /// Messages a second for one key, burst twice that; 0 is unlimited
    #[arg(long, env = "RELAY_RATE_LIMIT", value_name = "N", default_value_t = Config::default().rate_limit)]
    pub rate_limit: u32,

    /// An idle connection is pinged after this, and dropped after three of it
    #[arg(long, env = "RELAY_HEARTBEAT", value_name = "DURATION", value_parser = duration, default_value = "20s")]
    pub heartbeat: Duration,

    /// From the challenge to a good login
    #[arg(long, env = "RELAY_AUTH_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub auth_timeout: Duration,

    /// From the connection to the end of the HTTP upgrade
    #[arg(long, env = "RELAY_UPGRADE_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub upgrade_timeout: Duration,

    /// Lobby changes are sent at most once in this time, the first after a quiet time at once
    #[arg(long, env = "RELAY_LOBBY_TICK", value_name = "DURATION", value_parser = duration, default_value = "20ms")]
    pub lobby_tick: Duration,

    /// Bytes of a frame from a client
    #[arg(long, env = "RELAY_FRAME_BYTES", value_name = "BYTES", value_parser = bytes, default_value = "16KiB")]
    pub frame_bytes: usize,

    /// Characters (Unicode scalar values) of a message
    #[arg(long, env = "RELAY_MESSAGE_CHARS", value_name = "N", default_value_t = Config::default().message_chars)]
    pub message_chars: usize,

    /// Frames a second from one connection that are no accepted messages; as many more in a burst
    #[arg(long, env = "RELAY_CONTROL_FRAMES", value_name = "N", default_value_t = Config::default().control_frames)]
    pub control_frames: u32,

    /// Bytes that may wait for one connection; a slower reader is closed with 4408
    #[arg(long, env = "RELAY_OUTBOX_BYTES", value_name = "BYTES", value_parser = bytes, default_value = "1MiB")]
    pub outbox_bytes: usize,

    /// Devices of one key that may be connected at once
    #[arg(long, env = "RELAY_DEVICES", value_name = "N", default_value_t = Config::default().devices)]
    pub devices: usize,

    /// Message ids remembered by one shard to recognise repeated messages, about 150 bytes each
    #[arg(long, env = "RELAY_RECENT_IDS", value_name = "N", default_value_t = Config::default().recent_ids)]
    pub recent_ids: usize,

    /// Unsent bytes that the kernel keeps for one connection (SO_SNDBUF)
    #[arg(long, env = "RELAY_SEND_BUFFER", value_name = "BYTES", value_parser = bytes, default_value = "256KiB")]
    pub send_buffer: usize,

    /// How long sent data may stay unacknowledged before the connection fails (TCP_USER_TIMEOUT)
    #[arg(long, env = "RELAY_USER_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "20s")]
    pub user_timeout: Duration,

    /// Connections that may wait to be accepted, for each accepting shard
    #[arg(long, env = "RELAY_BACKLOG", value_name = "N", default_value_t = Config::default().backlog)]
    pub backlog: u32,

    /// Form of the log on stderr
    #[arg(long, env = "RELAY_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or directives such as `warn,relay=debug`
    #[arg(long, env = "RELAY_LOG_LEVEL", value_name = "LEVEL", value_parser = log_filter, default_value_t = Config::default().log_level)]
    pub log_level: String,
}

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineOption {
    /// The best that works here.
    Auto,
    /// io_uring through the io-uring crate.
    Ring,
    /// io_uring through tokio-uring.
    TokioUring,
    /// Readiness by epoll.
    Epoll,
}

/// Who accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accept {
    /// Every shard, on a socket of its own; the kernel spreads connections over them.
    Reuseport,
    /// The first shard, for all.
    Single,
}

/// How message signatures are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// In batches when many wait.
    Auto,
    /// Each alone.
    Strict,
    /// Not at all.
    Off,
}

/// When a message that nobody has confirmed counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Synced, each pass of a shard by itself.
    Sync,
    /// Synced, with all others of 2 ms or 256 messages.
    Group,
    /// Given to the operating system.
    Memory,
}

impl From<Durability> for relay_core::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Sync => Self::Sync,
            Durability::Group => Self::Group,
            Durability::Memory => Self::Memory,
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Options that cannot work together or on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid value '{value}' for '--{option}': {fix}")]
pub struct ConfigError {
    /// The option, without dashes.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong, and what would be right.
    pub fix: String,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        let core = relay_core::Config::new(ShardId(0), 1, 0);
        Self {
            listen: (Ipv4Addr::LOCALHOST, 7400).into(),
            admin: Admin::At((Ipv4Addr::LOCALHOST, 7401).into()),
            name: core.relay_name,
            shards: None,
            pin_cores: PinCores::Auto,
            engine: EngineOption::Auto,
            accept: Accept::Reuseport,
            busy_poll: Duration::ZERO,
            verify: Verify::Auto,
            data: "./relay-data".into(),
            ephemeral: false,
            durability: Durability::Group,
            message_ttl: core.message_ttl,
            retention: Duration::from_secs(7 * 24 * 3600),
            inbox_messages: limits.inbox_messages_max,
            inbox_bytes: 64 << 20,
            inbox_sender_messages: limits.inbox_sender_messages_max,
            inboxes_messages: limits.inboxes_messages_max,
            unseen_sender_messages: limits.unseen_sender_messages_max,
            unseen_messages: limits.unseen_messages_max,
            rooms: limits.rooms_max,
            owner_rooms: limits.owner_rooms_max,
            rate_limit: limits.messages_per_second,
            heartbeat: core.heartbeat,
            auth_timeout: core.auth_timeout,
            upgrade_timeout: core.upgrade_timeout,
            lobby_tick: core.lobby_tick,
            frame_bytes: limits.frame_bytes_max,
            message_chars: limits.message_chars_max,
            control_frames: limits.control_frames_per_second,
            outbox_bytes: limits.outbox_bytes_max,
            devices: limits.devices_max,
            recent_ids: limits.recent_ids_max,
            send_buffer: 256 * 1024,
            user_timeout: Duration::from_secs(20),
            backlog: 4096,
            log: LogFormat::Text,
            log_level: "info".to_owned(),
        }
    }
}

impl Config {
    /// Checks each value against its range and against the others. Shards and cores are checked by
    /// [`placement`](crate::pin::Placement::of), which knows the machine.
    ///
    /// # Errors
    /// The first that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        const HOUR: Duration = Duration::from_secs(3600);
        const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
        in_range("busy-poll", self.busy_poll, Duration::ZERO, Duration::from_secs(1))?;
        in_range("heartbeat", self.heartbeat, Duration::from_millis(100), HOUR)?;
        in_range("auth-timeout", self.auth_timeout, Duration::from_millis(1), HOUR)?;
        in_range("upgrade-timeout", self.upgrade_timeout, Duration::from_millis(1), HOUR)?;
        in_range("lobby-tick", self.lobby_tick, Duration::from_millis(1), Duration::from_secs(10))?;
        in_range("user-timeout", self.user_timeout, Duration::from_secs(1), HOUR)?;
        in_range("message-ttl", self.message_ttl, Duration::from_secs(60), YEARS)?;
        in_range("retention", self.retention, Duration::ZERO, YEARS)?;
        at_least("inbox-messages", self.inbox_messages, 1)?;
        at_least("inbox-bytes", self.inbox_bytes, FRAME_BYTES_MAX)?;
        at_least("inbox-sender-messages", self.inbox_sender_messages, 1)?;
        at_least("inboxes-messages", self.inboxes_messages, 1)?;
        at_least("frame-bytes", self.frame_bytes, 1024)?;
        at_most("frame-bytes", self.frame_bytes, FRAME_BYTES_MAX)?;
        at_least("message-chars", self.message_chars, 1)?;
        if self.message_chars > self.frame_bytes {
            return Err(ConfigError {
                option: "message-chars",
                value: self.message_chars.to_string(),
                fix: format!("no frame holds so many: take less, or more than --frame-bytes {}", self.frame_bytes),
            });
        }
        at_least("control-frames", self.control_frames as usize, 1)?;
        at_least("outbox-bytes", self.outbox_bytes, OUTBOX_BYTES_MIN)?;
        at_least("devices", self.devices, 1)?;
        at_least("recent-ids", self.recent_ids, 1)?;
        at_least("send-buffer", self.send_buffer, 4096)?;
        at_least("backlog", self.backlog as usize, 1)?;
        if !protocol::keys::is_relay_name(&self.name) {
            return Err(ConfigError {
                option: "name",
                value: self.name.clone(),
                fix: values::RELAY_NAME_FORM.to_owned(),
            });
        }
        Ok(())
    }

    /// What every shard's core is made with; the shard number is set for each.
    #[must_use]
    pub fn core(&self, shards: u16, seed: u64) -> relay_core::Config {
        relay_core::Config {
            relay_name: self.name.clone(),
            verify: match self.verify {
                Verify::Auto => VerifyMode::Auto,
                Verify::Strict => VerifyMode::Strict,
                Verify::Off => VerifyMode::Off,
            },
            limits: Limits {
                frame_bytes_max: self.frame_bytes,
                message_chars_max: self.message_chars,
                messages_per_second: self.rate_limit,
                control_frames_per_second: self.control_frames,
                outbox_bytes_max: self.outbox_bytes,
                devices_max: self.devices,
                recent_ids_max: self.recent_ids,
                inbox_messages_max: self.inbox_messages,
                inbox_bytes_max: self.inbox_bytes as u64,
                inbox_sender_messages_max: self.inbox_sender_messages,
                inboxes_messages_max: self.inboxes_messages,
                unseen_sender_messages_max: self.unseen_sender_messages,
                unseen_messages_max: self.unseen_messages,
                rooms_max: self.rooms,
                owner_rooms_max: self.owner_rooms,
                ..Limits::default()
            },
            durability: (!self.ephemeral).then(|| self.durability.into()),
            message_ttl: self.message_ttl,
            retention: self.retention,
            heartbeat: self.heartbeat,
            upgrade_timeout: self.upgrade_timeout,
            auth_timeout: self.auth_timeout,
            lobby_tick: self.lobby_tick,
            ..relay_core::Config::new(ShardId(0), shards, seed)
        }
    }

    /// Where and how things are stored, unless they are not.
    #[must_use]
    pub fn store(&self) -> Option<relay_store::Options> {
        let options = || relay_store::Options {
            dir: self.data.clone(),
            durability: self.durability.into(),
            retention: self.retention,
        };
        (!self.ephemeral).then(options)
    }

    /// What accepted connections inherit.
    #[must_use]
    pub fn socket_options(&self) -> SocketOptions {
        SocketOptions {
            send_buffer_bytes: Some(self.send_buffer),
            user_timeout: Some(self.user_timeout),
            nodelay: true,
        }
    }

    /// How many shards were asked for, by number or by the cores named.
    #[must_use]
    pub fn shards_wanted(&self) -> Option<u16> {
        let named = match &self.pin_cores {
            PinCores::Cores(CoreList(cores)) => u16::try_from(cores.len()).ok(),
            PinCores::Auto | PinCores::None => None,
        };
        self.shards.or(named)
    }
}

fn in_range(option: &'static str, value: Duration, min: Duration, max: Duration) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError {
        option,
        value: humantime::format_duration(value).to_string(),
        fix: format!("take {} to {}", humantime::format_duration(min), humantime::format_duration(max)),
    })
}

fn at_least(option: &'static str, value: usize, min: usize) -> Result<(), ConfigError> {
    if value >= min {
        return Ok(());
    }
    Err(ConfigError { option, value: value.to_string(), fix: format!("take at least {min}") })
}

fn at_most(option: &'static str, value: usize, max: usize) -> Result<(), ConfigError> {
    if value <= max {
        return Ok(());
    }
    Err(ConfigError { option, value: value.to_string(), fix: format!("take at most {max}") })
}

#[cfg(test)]
mod tests;
