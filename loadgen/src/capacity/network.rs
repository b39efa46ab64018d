//! What the kernel counts of the network, at both ends of a step: segments that had to be sent again,
//! and how full the links were. Of this machine alone, and of all that goes on on it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use crate::environment::line;

/// Counters at one moment.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    at: Instant,
    /// TCP segments sent, and those of them that were sent again.
    segments: Option<(u64, u64)>,
    links: BTreeMap<String, Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// 0 where nobody knows, as of virtual links.
    bits_per_second: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

/// What happened between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NetworkUse {
    /// The share of segments that was sent again.
    pub(super) sent_again: f64,
    /// The fullest link and the share of its speed that was used, in the fuller direction.
    pub(super) fullest: Option<(String, f64)>,
}

impl Counters {
    pub(super) fn read() -> Self {
        let names = fs::read_dir("/sys/class/net").into_iter().flatten().filter_map(Result::ok);
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name != "lo");
        Self {
            at: Instant::now(),
            segments: segments(&fs::read_to_string("/proc/net/snmp").unwrap_or_default()),
            links: names.map(|name| (name.clone(), Link::read(&name))).collect(),
        }
    }

    /// What happened since `begin`, of which the traffic took `busy_seconds`.
    pub(super) fn since(&self, begin: &Self, busy_seconds: f64) -> NetworkUse {
        let sent_again = match (self.segments, begin.segments) {
            (Some((sent, again)), Some((sent_before, again_before))) if sent > sent_before => {
                again.saturating_sub(again_before) as f64 / (sent - sent_before) as f64
            }
            _ => 0.0,
        };
        let seconds = busy_seconds.min((self.at - begin.at).as_secs_f64()).max(1e-3);
        let share = |(name, link): (&String, &Link)| {
            let before = begin.links.get(name)?;
            let bytes = (link.received_bytes.saturating_sub(before.received_bytes))
                .max(link.sent_bytes.saturating_sub(before.sent_bytes));
            let capacity = link.bits_per_second as f64 * seconds;
            (capacity > 0.0).then(|| (name.clone(), bytes as f64 * 8.0 / capacity))
        };
        let fullest = self.links.iter().filter_map(share).max_by(|a, b| a.1.total_cmp(&b.1));
        NetworkUse { sent_again, fullest }
    }
}

impl Link {
    fn read(name: &str) -> Self {
        let number = |file: &str| line(&format!("/sys/class/net/{name}/{file}")).parse::<i64>().ok();
        let count = |file| number(file).map_or(0, i64::unsigned_abs);
        Self {
            // Megabits; -1 where nobody knows.
            bits_per_second: number("speed").filter(|&speed| speed > 0).map_or(0, i64::unsigned_abs) * 1_000_000,
            received_bytes: count("statistics/rx_bytes"),
            sent_bytes: count("statistics/tx_bytes"),
        }
    }
}

/// `OutSegs` and `RetransSegs` of the two `Tcp:` lines, names and values.
fn segments(snmp: &str) -> Option<(u64, u64)> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let at = names.split_ascii_whitespace().position(|name| name == wanted)?;
        values.split_ascii_whitespace().nth(at)?.parse().ok()
    };
    Some((value("OutSegs")?, value("RetransSegs")?))
}

#[cfg(test)]
mod tests {
    use super::{Counters, Link, segments};
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    #[test]
    fn segments_are_found_by_their_names() {
        let snmp = "Ip: a b\nIp: 1 2\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 1000 25 0\n";
        assert_eq!(segments(snmp), Some((1000, 25)));
        assert_eq!(segments(""), None);
    }

    #[test]
    fn use_is_the_share_of_segments_and_of_the_fullest_link() {
        let begin = Instant::now();
        let at = |seconds, segments, bytes: u64| {
            let link = |bits_per_second| Link { bits_per_second, received_bytes: bytes, sent_bytes: bytes / 2 };
            Counters {
                at: begin + Duration::from_secs(seconds),
                segments: Some(segments),
                links: BTreeMap::from([
                    ("eth0".to_owned(), link(8_000_000)),
                    ("eth1".to_owned(), link(16_000_000)),
                    ("veth".to_owned(), link(0)),
                ]),
            }
        };
        let used = at(4, (1100, 12), 1_500_000).since(&at(0, (100, 2), 0), 2.0);
        assert!((used.sent_again - 0.01).abs() < 1e-9, "{used:?}");
        // 1.5 MB in 2 s of 8 Mbit/s.
        let (name, share) = used.fullest.unwrap();
        assert_eq!((name.as_str(), (share * 100.0).round()), ("eth0", 75.0));
    }

    #[test]
    fn this_machine_has_counters() {
        let counters = Counters::read();
        assert!(counters.segments.is_some());
        assert!(counters.since(&counters, 1.0).sent_again.abs() < 1e-9);
    }
}
