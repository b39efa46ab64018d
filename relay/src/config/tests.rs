use std::net::Ipv4Addr;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};

use super::values::{Admin, CoreList, PinCores};
use super::{Accept, Config, Durability, EngineOption, LogFormat, Verify};

fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
    // The developer's own settings are not the test's.
    let command = Config::command().mut_args(|argument| argument.env(None::<&str>));
    Config::from_arg_matches(&command.try_get_matches_from([&["relay"], arguments].concat())?)
}

#[test]
fn without_options_the_defaults_hold() {
    let config = parse(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn every_option_has_its_environment_variable() {
    let command = Config::command();
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { panic!("{argument:?} has no long form") };
        if matches!(long, "help" | "version") {
            continue;
        }
        let expected = format!("RELAY_{}", long.replace('-', "_").to_uppercase());
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*expected));
    }
    command.debug_assert();
}

#[test]
fn good_values_are_taken() {
    type Change = fn(&mut Config);
    let good: &[(&[&str], Change)] = &[
        (&["--listen", "0.0.0.0:0"], |c| c.listen = (Ipv4Addr::UNSPECIFIED, 0).into()),
        (&["--listen", "[::1]:80"], |c| c.listen = "[::1]:80".parse().unwrap()),
        (&["--admin", "off"], |c| c.admin = Admin::Off),
        (&["--admin", "127.0.0.1:0"], |c| c.admin = Admin::At((Ipv4Addr::LOCALHOST, 0).into())),
        (&["--name", "relay.example.org"], |c| c.name = "relay.example.org".to_owned()),
        (&["--shards", "3"], |c| c.shards = Some(3)),
        (&["--pin-cores", "none"], |c| c.pin_cores = PinCores::None),
        (&["--pin-cores", "4"], |c| c.pin_cores = PinCores::Cores(CoreList(vec![4]))),
        (&["--pin-cores", "7,0,2-4"], |c| c.pin_cores = PinCores::Cores(CoreList(vec![7, 0, 2, 3, 4]))),
        (&["--engine", "tokio-uring"], |c| c.engine = EngineOption::TokioUring),
        (&["--accept", "single"], |c| c.accept = Accept::Single),
        (&["--busy-poll", "0"], |c| c.busy_poll = Duration::ZERO),
        (&["--busy-poll", "50us"], |c| c.busy_poll = Duration::from_micros(50)),
        (&["--verify", "strict"], |c| c.verify = Verify::Strict),
        (&["--data", "/srv/relay"], |c| c.data = "/srv/relay".into()),
        (&["--ephemeral"], |c| c.ephemeral = true),
        (&["--ephemeral=false"], |_| ()),
        (&["--durability", "sync"], |c| c.durability = Durability::Sync),
        (&["--message-ttl", "1h"], |c| c.message_ttl = Duration::from_secs(3600)),
        (&["--retention", "0"], |c| c.retention = Duration::ZERO),
        (&["--inbox-messages", "5"], |c| c.inbox_messages = 5),
        (&["--inbox-bytes", "1MiB"], |c| c.inbox_bytes = 1 << 20),
        (&["--unseen-messages", "0"], |c| c.unseen_messages = 0),
        (&["--rooms", "0"], |c| c.rooms = 0),
        (&["--owner-rooms", "5"], |c| c.owner_rooms = 5),
        (&["--rate-limit", "0"], |c| c.rate_limit = 0),
        (&["--heartbeat", "1m 30s"], |c| c.heartbeat = Duration::from_secs(90)),
        (&["--auth-timeout", "250ms"], |c| c.auth_timeout = Duration::from_millis(250)),
        (&["--outbox-bytes", "2MiB"], |c| c.outbox_bytes = 2 << 20),
        (&["--send-buffer", "65536"], |c| c.send_buffer = 65_536),
        (&["--log", "json"], |c| c.log = LogFormat::Json),
        (&["--log-level", "warn,relay=debug"], |c| c.log_level = "warn,relay=debug".to_owned()),
    ];
    for (arguments, change) in good {
        let mut expected = Config::default();
        change(&mut expected);
        let config = parse(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!(config, expected, "{arguments:?}");
        assert_eq!(config.check(), Ok(()), "{arguments:?}");
    }
}

#[test]
fn bad_values_are_refused_with_option_value_and_fix() {
    let bad = [
        ("--listen", "localhost", "invalid socket address"),
        ("--listen", "7400", "invalid socket address"),
        ("--admin", "on", "expected IP:PORT"),
        ("--name", "Relay", "a-z 0-9"),
        ("--name", "", "a-z 0-9"),
        ("--name", "relay:7400", "without port"),
        ("--shards", "0", "1..=256"),
        ("--shards", "257", "1..=256"),
        ("--shards", "many", "invalid digit"),
        ("--pin-cores", "", "such as 0,2-3"),
        ("--pin-cores", "3-1", "such as 0,2-3"),
        ("--pin-cores", "0,x", "such as 0,2-3"),
        ("--pin-cores", "99999999999", "such as 0,2-3"),
        ("--pin-cores", "1,0-2", "core 1 is named twice"),
        ("--engine", "uring", "possible values: auto, ring, tokio-uring, epoll"),
        ("--accept", "all", "possible values: reuseport, single"),
        ("--busy-poll", "50", "with its unit"),
        ("--verify", "on", "possible values: auto, strict, off"),
        ("--ephemeral", "perhaps", "value was not a boolean"),
        ("--durability", "none", "possible values: sync, group, memory"),
        ("--retention", "7", "with its unit"),
        ("--rate-limit", "-1", "not in 0..=4294967295"),
        ("--heartbeat", "fast", "with its unit"),
        ("--heartbeat", "-1s", "with its unit"),
        ("--outbox-bytes", "1MB", "such as 65536, 64KiB or 1MiB"),
        ("--outbox-bytes", "99999999999GiB", "such as 65536"),
        ("--log", "xml", "possible values: text, json"),
        ("--log-level", "loud=very", "expected error, warn"),
        ("--log-level", " ", "expected error, warn"),
    ];
    for (option, value, fix) in bad {
        let error = parse(&[&format!("{option}={value}")]).expect_err(option);
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{option} {value}");
        let names_value = text.contains(&format!("'{value}'")) || value.is_empty();
        assert!(text.contains(option) && names_value && text.contains(fix), "{option} {value}: {text}");
    }
    assert_eq!(parse(&["--fast"]).unwrap_err().exit_code(), 2);
    assert_eq!(parse(&["7400"]).unwrap_err().exit_code(), 2);
}

#[test]
fn values_out_of_range_are_refused_with_option_value_and_fix() {
    let bad = [
        ("busy-poll", "2s", "take 0s to 1s"),
        ("heartbeat", "1ms", "take 100ms to 1h"),
        ("heartbeat", "2h", "take 100ms to 1h"),
        ("auth-timeout", "0s", "take 1ms to 1h"),
        ("upgrade-timeout", "0s", "take 1ms to 1h"),
        ("lobby-tick", "0s", "take 1ms to 10s"),
        ("user-timeout", "10ms", "take 1s to 1h"),
        ("message-ttl", "1s", "take 1m to "),
        ("retention", "100years", "take 0s to "),
        ("inbox-messages", "0", "take at least 1"),
        ("inbox-bytes", "1024", "take at least 65408"),
        ("inbox-sender-messages", "0", "take at least 1"),
        ("inboxes-messages", "0", "take at least 1"),
        ("frame-bytes", "1023", "take at least 1024"),
        ("frame-bytes", "65536", "take at most 65408"),
        ("message-chars", "0", "take at least 1"),
        ("message-chars", "16385", "more than --frame-bytes 16384"),
        ("control-frames", "0", "take at least 1"),
        ("outbox-bytes", "65536", "take at least 131072"),
        ("devices", "0", "take at least 1"),
        ("recent-ids", "0", "take at least 1"),
        ("send-buffer", "100", "take at least 4096"),
        ("backlog", "0", "take at least 1"),
    ];
    for (option, value, fix) in bad {
        let error = parse(&[&format!("--{option}={value}")]).unwrap().check().expect_err(option);
        assert_eq!((error.option, &*error.value), (option, value));
        assert!(error.to_string().contains(fix), "{error}");
    }
    let name = Config { name: "UPPER".to_owned(), ..Config::default() };
    assert_eq!(name.check().unwrap_err().option, "name");
}

#[test]
fn shown_values_are_read_back() {
    for text in ["auto", "none", "0", "0,2,3"] {
        assert_eq!(text.parse::<PinCores>().unwrap().to_string(), text);
    }
    for text in ["off", "127.0.0.1:7401"] {
        assert_eq!(text.parse::<Admin>().unwrap().to_string(), text);
    }
}

#[test]
fn the_core_gets_what_was_chosen() {
    let config = parse(&[
        "--name=a.b",
        "--verify=off",
        "--rate-limit=7",
        "--heartbeat=3s",
        "--auth-timeout=4s",
        "--upgrade-timeout=5s",
        "--lobby-tick=6ms",
        "--frame-bytes=2000",
        "--message-chars=9",
        "--control-frames=8",
        "--outbox-bytes=1GiB",
        "--devices=2",
        "--recent-ids=11",
        "--durability=memory",
        "--message-ttl=2h",
        "--retention=3h",
        "--data=here",
        "--inbox-messages=12",
        "--inbox-bytes=1MiB",
        "--inbox-sender-messages=13",
        "--inboxes-messages=14",
        "--unseen-sender-messages=15",
        "--unseen-messages=16",
        "--rooms=17",
        "--owner-rooms=18",
    ])
    .unwrap();
    let core = config.core(5, 77);
    assert_eq!((core.shards, core.seed, &*core.relay_name), (5, 77, "a.b"));
    assert_eq!(core.verify, relay_core::VerifyMode::Off);
    assert_eq!(
        (core.heartbeat, core.auth_timeout, core.upgrade_timeout, core.lobby_tick),
        (Duration::from_secs(3), Duration::from_secs(4), Duration::from_secs(5), Duration::from_millis(6))
    );
    let limits = core.limits;
    assert_eq!((limits.messages_per_second, limits.frame_bytes_max, limits.message_chars_max), (7, 2000, 9));
    assert_eq!(
        (limits.control_frames_per_second, limits.outbox_bytes_max, limits.devices_max, limits.recent_ids_max),
        (8, 1 << 30, 2, 11)
    );
    assert_eq!(
        (limits.inbox_messages_max, limits.inbox_bytes_max, limits.inbox_sender_messages_max),
        (12, 1 << 20, 13)
    );
    assert_eq!(
        (limits.inboxes_messages_max, limits.unseen_sender_messages_max, limits.unseen_messages_max),
        (14, 15, 16)
    );
    assert_eq!((limits.rooms_max, limits.owner_rooms_max), (17, 18));
    let memory = relay_core::Durability::Memory;
    assert_eq!((core.durability, core.message_ttl), (Some(memory), Duration::from_secs(2 * 3600)));
    assert_eq!(core.retention, Duration::from_secs(3 * 3600));
    let store = config.store().unwrap();
    assert_eq!((store.dir.to_str(), store.durability), (Some("here"), memory));
    assert_eq!(store.retention, Duration::from_secs(3 * 3600));
}

#[test]
fn an_ephemeral_relay_has_no_store() {
    let config = parse(&["--ephemeral", "--data=here"]).unwrap();
    assert_eq!((config.store(), config.core(1, 1).durability), (None, None));
}

#[test]
fn shards_follow_the_cores_unless_said_otherwise() {
    assert_eq!(parse(&[]).unwrap().shards_wanted(), None);
    assert_eq!(parse(&["--pin-cores=3,5"]).unwrap().shards_wanted(), Some(2));
    assert_eq!(parse(&["--pin-cores=3,5", "--shards=1"]).unwrap().shards_wanted(), Some(1));
}
