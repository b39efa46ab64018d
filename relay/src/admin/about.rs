//! What does not change while the relay runs, as JSON: the build, and the configuration in effect.
//!
//! # Invariants
//! - Nothing here is secret: no key, no token, no path of one. An option that is one is told as given
//!   or not given.
//! - An option that is added to [`Config`] and not told here does not compile.

use std::time::Duration;

use clap::ValueEnum;
use relay_engine::EngineKind;
use serde_json::{Value, json};

use crate::config::Config;
use crate::pin::Placement;

/// What the endpoint tells of the relay itself.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) engine: EngineKind,
    pub(crate) shards: u16,
    /// By option: see [`config`].
    pub(crate) config: Value,
}

impl About {
    /// A relay with this configuration, and what came of `auto` in it.
    pub(crate) fn new(config: &Config, placement: &Placement, engine: EngineKind) -> Self {
        Self { engine, shards: placement.shards, config: self::config(config, placement, engine) }
    }

    /// `{"version": …, "commit": …, "dirty": …, "engine": …, "shards": …, "build": {…}}`.
    pub(super) fn version(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("RELAY_COMMIT"),
            "dirty": option_env!("RELAY_DIRTY").map(|dirty| dirty == "true"),
            "engine": self.engine.to_string(),
            "shards": self.shards,
            "build": {
                "rustc": env!("RELAY_RUSTC"),
                "target": env!("RELAY_TARGET"),
                "target_features": env!("RELAY_TARGET_FEATURES"),
                "profile": env!("RELAY_PROFILE"),
                "allocator": "mimalloc",
            },
        })
    }
}

/// The options in effect, by their names, as they could be given: `{"busy-poll": "50us", "devices": 8,
/// …}`. For `shards`, `pin-cores` and `engine` what the relay settled on.
fn config(config: &Config, placement: &Placement, engine: EngineKind) -> Value {
    let Config {
        listen,
        admin,
        name,
        shards: _,
        pin_cores: _,
        engine: _,
        accept,
        busy_poll,
        verify,
        data,
        ephemeral,
        durability,
        message_ttl,
        retention,
        inbox_messages,
        inbox_bytes,
        inbox_sender_messages,
        inboxes_messages,
        unseen_sender_messages,
        unseen_messages,
        rooms,
        owner_rooms,
        rate_limit,
        heartbeat,
        auth_timeout,
        upgrade_timeout,
        lobby_tick,
        frame_bytes,
        message_chars,
        control_frames,
        outbox_bytes,
        devices,
        recent_ids,
        send_buffer,
        user_timeout,
        backlog,
        log,
        log_level,
    } = config;
    let cores = placement
        .cores
        .as_ref()
        .map_or_else(|| "none".to_owned(), |cores| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    json!({
        "listen": listen.to_string(),
        "admin": admin.to_string(),
        "name": name,
        "shards": placement.shards,
        "pin-cores": cores,
        "engine": engine.to_string(),
        "accept": choice(accept),
        "busy-poll": time(*busy_poll),
        "verify": choice(verify),
        "data": data.display().to_string(),
        "ephemeral": ephemeral,
        "durability": choice(durability),
        "message-ttl": time(*message_ttl),
        "retention": time(*retention),
        "inbox-messages": inbox_messages,
        "inbox-bytes": inbox_bytes,
        "inbox-sender-messages": inbox_sender_messages,
        "inboxes-messages": inboxes_messages,
        "unseen-sender-messages": unseen_sender_messages,
        "unseen-messages": unseen_messages,
        "rooms": rooms,
        "owner-rooms": owner_rooms,
        "rate-limit": rate_limit,
        "heartbeat": time(*heartbeat),
        "auth-timeout": time(*auth_timeout),
        "upgrade-timeout": time(*upgrade_timeout),
        "lobby-tick": time(*lobby_tick),
        "frame-bytes": frame_bytes,
        "message-chars": message_chars,
        "control-frames": control_frames,
        "outbox-bytes": outbox_bytes,
        "devices": devices,
        "recent-ids": recent_ids,
        "send-buffer": send_buffer,
        "user-timeout": time(*user_timeout),
        "backlog": backlog,
        "log": choice(log),
        "log-level": log_level,
    })
}

fn choice(value: &impl ValueEnum) -> Value {
    value.to_possible_value().map_or(Value::Null, |value| value.get_name().into())
}

fn time(duration: Duration) -> Value {
    humantime::format_duration(duration).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::About;
    use crate::config::Config;
    use crate::pin::Placement;
    use clap::{CommandFactory, Parser};
    use relay_engine::EngineKind;

    /// Options that are about the command, not the relay.
    const NOT_TOLD: [&str; 2] = ["help", "version"];

    #[test]
    fn every_option_is_told_by_its_name() {
        let placement = Placement { shards: 2, cores: Some(vec![3, 5]) };
        let told = About::new(&Config::default(), &placement, EngineKind::Epoll).config;
        let told: Vec<_> = told.as_object().unwrap().keys().cloned().collect();
        let mut options: Vec<_> = Config::command()
            .get_arguments()
            .filter_map(|argument| argument.get_long().map(str::to_owned))
            .filter(|name| !NOT_TOLD.contains(&name.as_str()))
            .collect();
        options.sort_unstable();
        assert_eq!(told, options);
    }

    #[test]
    fn what_is_told_can_be_given_again() {
        let config = Config { listen: "192.0.2.1:9".parse().unwrap(), rate_limit: 0, ..Config::default() };
        let placement = Placement { shards: 2, cores: Some(vec![3, 5]) };
        let about = About::new(&config, &placement, EngineKind::TokioUring);
        let arguments = about.config.as_object().unwrap().iter().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("--{name}={value}")
        });
        let again = Config::parse_from(std::iter::once("relay".to_owned()).chain(arguments));
        assert_eq!((again.listen, again.rate_limit, again.shards), (config.listen, 0, Some(2)));
        assert_eq!(again.pin_cores.to_string(), "3,5");
        assert_eq!(again.heartbeat, config.heartbeat);
        assert_eq!(about.version()["engine"], "tokio-uring");
    }
}
