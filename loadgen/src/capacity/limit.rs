//! What was full where the relay could not follow any more: a judgement of the step's evidence.

use serde::{Deserialize, Serialize};

use super::network::NetworkUse;
use super::search::Bound;
use crate::relay_admin::ShardLoad;
use crate::units::show_count;
use crate::validity::FindingKind;

/// From this share of its core on a shard, or the relay's process, counts as full.
const CORE_FULL: f64 = 0.9;

/// From this share on segments that were sent again are the network's doing.
const SENT_AGAIN_MANY: f64 = 0.01;

/// From this share of its speed on a link counts as full.
const LINK_FULL: f64 = 0.85;

/// Who was at the end of their strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Nobody: the search ended where it was asked to.
    None,
    /// The relay's cores.
    Relay,
    /// The relay refused, by a limit of its own.
    Refusals,
    /// This program, or what it was asked for: the relay can do more.
    Generator,
    /// Steps say nothing, and no rate of the generator's is to blame: the machine is disturbed, relay and
    /// generator are on one core, or steps are too short for a target.
    Doubt,
    /// The network between them.
    Network,
    /// A target is missed and no core was full.
    Target,
    /// The relay's cores cannot be seen from here.
    Unknown,
}

/// What was full, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Who.
    pub kind: LimitKind,
    /// One sentence.
    pub text: String,
    /// What to do about it, where there is something.
    pub fix: Option<String>,
}

/// A reason why a step says nothing.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// `None`: a target had nothing to judge.
    pub(super) kind: Option<FindingKind>,
    pub(super) text: String,
    pub(super) fix: String,
}

impl Doubt {
    /// Whether a lower rate, or a stronger generator, would mend it.
    fn is_of_rate(&self) -> bool {
        use FindingKind::{AchievedRate, BusyWorker, Floor, SendLag, Supply};
        matches!(self.kind, Some(AchievedRate | BusyWorker | Floor | SendLag | Supply))
    }
}

/// What a step showed, as far as it bears on the limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Targets that were missed, with what was measured.
    pub(super) missed: Vec<String>,
    /// What says that the step says nothing.
    pub(super) doubts: Vec<Doubt>,
    /// Refusals by reason.
    pub(super) refusals: Vec<(String, u64)>,
    /// Broken connections by cause.
    pub(super) disconnects: Vec<(String, u64)>,
    /// How busy the relay's threads were.
    pub(super) loads: Vec<ShardLoad>,
    /// Whether it is set to look for work without a pause, which hides how busy it is.
    pub(super) busy_polls: bool,
    pub(super) network: NetworkUse,
}

impl Evidence {
    /// The relay's busiest thread, where that says something.
    fn busiest(&self) -> Option<&ShardLoad> {
        self.loads.iter().max_by(|a, b| a.busy.total_cmp(&b.busy)).filter(|_| !self.busy_polls)
    }
}

impl Limit {
    fn new(kind: LimitKind, text: String, fix: Option<&str>) -> Self {
        Self { kind, text, fix: fix.map(str::to_owned) }
    }

    /// The search ended where it was asked to.
    pub(super) fn asked() -> Self {
        Self::new(LimitKind::None, "nothing: every target was kept up to the highest rate asked for".to_owned(), None)
    }

    /// There can be no step above, for this reason.
    pub(super) fn barred(reason: &str) -> Self {
        Self::new(LimitKind::Generator, format!("not the relay: there can be no step above, since {reason}"), None)
    }

    /// Names what was full in a step that ended the search upwards.
    pub(super) fn of(bound: Bound, evidence: &Evidence) -> Self {
        match bound {
            Bound::Asked => Self::asked(),
            Bound::Barred => Self::barred("no step is possible above"),
            Bound::Blind => Self::blind(evidence),
            Bound::Missed => Self::relay(evidence),
        }
    }

    fn blind(evidence: &Evidence) -> Self {
        let of_rate = evidence.doubts.iter().find(|doubt| doubt.is_of_rate());
        let Some(doubt) = of_rate.or_else(|| evidence.doubts.first()) else {
            return Self::new(LimitKind::Doubt, "steps say nothing about the relay".to_owned(), None);
        };
        let (kind, who) = if of_rate.is_some() {
            (LimitKind::Generator, "the generator; the relay may be able to do more")
        } else {
            (LimitKind::Doubt, "doubt about the steps; the relay may be able to do more")
        };
        let relay = evidence.busiest().map(|load| format!(" (the relay's {} meanwhile)", show_load(load)));
        let text = format!("{who}: {}{}", doubt.text, relay.unwrap_or_default());
        Self::new(kind, text, Some(doubt.fix.as_str()).filter(|fix| !fix.is_empty()))
    }

    fn relay(evidence: &Evidence) -> Self {
        let missed = evidence.missed.join(", ");
        if !evidence.refusals.is_empty() {
            let rate_limited = evidence.refusals.iter().any(|(reason, _)| reason == "rate_limited");
            let fix = "start the relay with --rate-limit 0, or use more --senders";
            return Self::new(
                LimitKind::Refusals,
                format!("the relay refused messages: {}", counted(&evidence.refusals)),
                rate_limited.then_some(fix),
            );
        }
        let busiest = evidence.busiest();
        if let Some(full) = busiest.filter(|load| load.busy >= CORE_FULL) {
            let others = evidence.loads.iter().filter(|load| load.name != full.name);
            let others: Vec<_> = others.map(show_load).collect();
            let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
            return Self::new(LimitKind::Relay, format!("the relay: {} of its core{others}", show_load(full)), None);
        }
        if evidence.network.sent_again >= SENT_AGAIN_MANY {
            let share = evidence.network.sent_again * 100.0;
            return Self::new(
                LimitKind::Network,
                format!("the network: {share:.1} % of all TCP segments had to be sent again"),
                Some("generate the load nearer to the relay, or look for drops on the way (`ip -s link`)"),
            );
        }
        if let Some((link, share)) = evidence.network.fullest.as_ref().filter(|(_, share)| *share >= LINK_FULL) {
            return Self::new(
                LimitKind::Network,
                format!("the network: {link} was {:.0} % full", share * 100.0),
                Some("take a faster link, shorter messages (--message-bytes) or several generators"),
            );
        }
        let broken = match evidence.disconnects.as_slice() {
            [] => String::new(),
            disconnects => format!("; connections broke: {}", counted(disconnects)),
        };
        if evidence.busy_polls {
            return Self::new(
                LimitKind::Unknown,
                format!(
                    "unknown: the relay polls (--busy-poll), so its cores always look full; missed: {missed}{broken}"
                ),
                Some("repeat with --busy-poll 0s to see how busy they are"),
            );
        }
        match busiest {
            Some(load) => Self::new(
                LimitKind::Target,
                format!("no core of the relay was full (the busiest: {}), and yet: {missed}{broken}", show_load(load)),
                None,
            ),
            None => Self::new(
                LimitKind::Unknown,
                format!("unknown: the relay's cores cannot be seen from here; missed: {missed}{broken}"),
                Some("give its admin port (--relay-admin HOST:PORT), or watch its cores while it runs at this rate"),
            ),
        }
    }
}

fn show_load(load: &ShardLoad) -> String {
    format!("{} {:.0} %", load.name, load.busy * 100.0)
}

fn counted(counts: &[(String, u64)]) -> String {
    counts.iter().map(|(what, count)| format!("{} × {what}", show_count(*count))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Bound, Doubt, Evidence, FindingKind, Limit, LimitKind, NetworkUse};
    use crate::relay_admin::ShardLoad;

    fn loads(busy: &[f64]) -> Vec<ShardLoad> {
        busy.iter().enumerate().map(|(at, &busy)| ShardLoad { name: format!("shard-{at}"), busy }).collect()
    }

    fn missed(evidence: Evidence) -> (LimitKind, String) {
        let missed = vec!["message.p99<500ms (measured: 1.20 s)".to_owned()];
        let limit = Limit::of(Bound::Missed, &Evidence { missed, ..evidence });
        (limit.kind, format!("{} {}", limit.text, limit.fix.unwrap_or_default()))
    }

    #[track_caller]
    fn expect(evidence: Evidence, kind: LimitKind, parts: &[&str]) {
        let (found, text) = missed(evidence);
        assert_eq!(found, kind, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_full_core_of_the_relay_is_named_with_the_others() {
        let evidence = Evidence { loads: loads(&[0.41, 0.97]), ..Evidence::default() };
        expect(evidence, LimitKind::Relay, &["shard-1 97 % of its core (shard-0 41 %)"]);
    }

    #[test]
    fn cores_with_room_leave_the_target_itself() {
        let evidence = Evidence { loads: loads(&[0.41, 0.62]), ..Evidence::default() };
        expect(evidence, LimitKind::Target, &["shard-1 62 %", "message.p99<500ms"]);
    }

    #[test]
    fn a_relay_that_polls_hides_its_load() {
        let evidence = Evidence { loads: loads(&[1.0]), busy_polls: true, ..Evidence::default() };
        expect(evidence, LimitKind::Unknown, &["--busy-poll 0s"]);
    }

    #[test]
    fn a_relay_elsewhere_is_unknown_unless_the_network_tells() {
        expect(Evidence::default(), LimitKind::Unknown, &["cannot be seen", "--relay-admin"]);
        let disconnects = vec![("closed with 4408".to_owned(), 3)];
        expect(Evidence { disconnects, ..Evidence::default() }, LimitKind::Unknown, &["3 × closed with 4408"]);
        let network = NetworkUse { sent_again: 0.023, fullest: None };
        expect(Evidence { network, ..Evidence::default() }, LimitKind::Network, &["2.3 %"]);
        let network = NetworkUse { sent_again: 0.0, fullest: Some(("eth0".to_owned(), 0.93)) };
        expect(Evidence { network, ..Evidence::default() }, LimitKind::Network, &["eth0 was 93 % full"]);
    }

    #[test]
    fn refusals_are_named_with_the_fix_for_the_rate_limit() {
        let refused = |reason: &str| Evidence { refusals: vec![(reason.to_owned(), 1234)], ..Evidence::default() };
        expect(refused("rate_limited"), LimitKind::Refusals, &["1,234 × rate_limited", "--rate-limit 0"]);
        let (_, text) = missed(refused("overloaded"));
        assert!(!text.contains("--rate-limit"), "{text}");
    }

    #[test]
    fn the_generator_is_named_with_what_it_lacks() {
        let doubt =
            |kind, text: &str, fix: &str| Doubt { kind: Some(kind), text: text.to_owned(), fix: fix.to_owned() };
        let stalls = doubt(FindingKind::Stalls, "woke late", "quiet the machine");
        let lag = doubt(FindingKind::SendLag, "send lag p99 9.00 ms", "add --workers");
        let blind = |doubts| Limit::of(Bound::Blind, &Evidence { doubts, ..Evidence::default() });
        let limit = blind(vec![stalls.clone()]);
        assert_eq!((limit.kind, limit.fix.as_deref()), (LimitKind::Doubt, Some("quiet the machine")));
        // What a lower rate would mend is named before what it would not.
        let limit = blind(vec![stalls, lag]);
        assert_eq!((limit.kind, limit.fix.as_deref()), (LimitKind::Generator, Some("add --workers")));
        assert!(
            limit.text.contains("send lag p99 9.00 ms") && limit.text.contains("may be able to do more"),
            "{}",
            limit.text
        );
    }
}
