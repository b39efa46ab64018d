//! The forms of single values on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// Where the admin endpoint listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Nowhere.
    Off,
    /// Here; port 0 takes a free one.
    At(SocketAddr),
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| "expected IP:PORT such as 127.0.0.1:7401, or off".to_owned())
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// Which cores the shards run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinCores {
    /// One core each if there are as many usable cores as shards, else wherever the system puts them.
    Auto,
    /// Wherever the system puts them.
    None,
    /// The first shard on the first of these, and so on.
    Cores(CoreList),
}

impl FromStr for PinCores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            list => list.parse().map(Self::Cores),
        }
    }
}

impl fmt::Display for PinCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Cores(list) => list.fmt(f),
        }
    }
}

/// Core numbers, in the order given, none twice and at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected core numbers and ranges such as 0,2-3";
        let number = |text: &str| text.parse().ok().filter(|core: &usize| *core < rustix::thread::CpuSet::MAX_CPU);
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first), number(last)),
                None => (number(part), number(part)),
            };
            match (first, last) {
                (Some(first), Some(last)) if first <= last => cores.extend(first..=last),
                _ => return Err(FORM.to_owned()),
            }
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("core {} is named twice: name each once", pair[0])),
            None => Ok(Self(cores)),
        }
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, core) in self.0.iter().enumerate() {
            write!(f, "{}{core}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Reads a duration with its unit. A bare `0` needs none.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| "expected a number with its unit, such as 50us, 20ms or 10s".to_owned())
}

/// Reads a number of bytes: bare, or in KiB, MiB or GiB.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, usize); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let scaled = UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
    let (number, scale) = scaled.unwrap_or((text, 1));
    number
        .trim_end()
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| "expected bytes, such as 65536, 64KiB or 1MiB".to_owned())
}

pub(super) const RELAY_NAME_FORM: &str =
    "expected 1 to 253 of a-z 0-9 . - : the host that clients dial, lowercase and without port";

/// Reads the relay's name.
pub(super) fn relay_name(text: &str) -> Result<String, String> {
    if protocol::keys::is_relay_name(text) { Ok(text.to_owned()) } else { Err(RELAY_NAME_FORM.to_owned()) }
}

/// Reads a log filter and keeps it as text.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("expected error, warn, info, debug, trace, off, or directives such as warn,relay=debug".to_owned()),
    }
}
