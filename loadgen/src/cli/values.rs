//! Values of options: how they are written, and what is no such value.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::ValueEnum;

use super::{not_there, wrong};
use crate::plan::Target;
use crate::scenario::Ramp;
use crate::units::{parse_cores, parse_per_second};

#[derive(Clone, Copy, Debug)]
pub(super) enum RateArg {
    PerSecond(f64),
    Ramp(Ramp),
    Max,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ArrivalsArg {
    Constant,
    Poisson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LobbyArg {
    All,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReceivedArg {
    On,
    Off,
}

/// Clap takes a `Vec` for an option that may stand several times.
#[derive(Clone, Debug)]
pub(super) struct CoreList(pub(super) Vec<usize>);

pub(super) fn parse_core_list(text: &str) -> Result<CoreList, String> {
    parse_cores(text).map(CoreList)
}

pub(super) fn parse_whole_rate(text: &str) -> Result<u64, String> {
    let rate = parse_per_second(text)?.round() as u64;
    if rate == 0 { Err(format!("`{text}` is no rate above 0; write it as 2000/s")) } else { Ok(rate) }
}

pub(super) fn parse_admin(text: &str) -> Result<SocketAddr, String> {
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let mut addresses = authority
        .to_socket_addrs()
        .map_err(|error| format!("`{text}` is no address of an admin port ({error}); write it as 127.0.0.1:7401"))?;
    addresses.next().ok_or_else(|| format!("the host of {text} has no address"))
}

pub(super) fn parse_rate(text: &str) -> Result<RateArg, String> {
    match text {
        "max" => Ok(RateArg::Max),
        _ if text.contains("..") => text.parse().map(RateArg::Ramp),
        _ => parse_per_second(text).map(RateArg::PerSecond),
    }
}

/// Takes `ws://HOST[:PORT]/PATH` apart.
pub(super) fn parse_url(url: &str, relay_name: Option<&str>) -> Result<Target, clap::Error> {
    let form = || wrong(format!("`{url}` is no URL of a relay; write it as ws://127.0.0.1:7400/ws"));
    if url.starts_with("wss://") {
        return Err(wrong("wss is not supported: load the relay itself, behind what ends TLS"));
    }
    let rest = url.strip_prefix("ws://").ok_or_else(form)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() || path == "/" { protocol::upgrade::PATH } else { path };
    let fits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits(authority) || !fits(path) || authority.contains('@') {
        return Err(form());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let (host, dialled) = if has_port {
        (authority.rsplit_once(':').map_or(authority, |(host, _)| host), authority.to_owned())
    } else {
        (authority, format!("{authority}:80"))
    };
    let address = dialled
        .to_socket_addrs()
        .map_err(|error| not_there(format!("the host of {url} is unknown: {error}")))?
        .next()
        .ok_or_else(|| not_there(format!("the host of {url} has no address")))?;
    let relay_name = relay_name.map_or_else(|| protocol::opening::default_relay_name(host), str::to_owned);
    Ok(Target { authority: authority.to_owned(), path: path.to_owned(), address, relay_name })
}
