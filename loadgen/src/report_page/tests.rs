//! The page of stored runs, and of one that means harm.

use std::path::Path;
use std::time::Duration;

use roxmltree::{Document, Node, ParsingOptions};

use super::render;
use crate::archive::{self, Archive};
use crate::interval_log::Interval;
use crate::recorder::{Metric, Recorder};
use crate::slo::{Judgement, TermVerdict};
use crate::validity::{Finding, FindingKind, Severity};

/// A run of the results.
fn stored(name: &str) -> Archive {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/2026-11-21-first-figures");
    archive::read(&results.join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn page(archive: &Archive) -> String {
    render(&archive.summary, &archive.intervals)
}

/// The page as XML: with its void elements closed it has to be well-formed.
fn closed(page: &str) -> String {
    let mut closed = page.to_owned();
    for void in ["<meta ", "<link ", "<wbr"] {
        let mut from = 0;
        while let Some(at) = closed[from..].find(void) {
            let end = from + at + closed[from + at..].find('>').unwrap();
            closed.insert(end, '/');
            from = end;
        }
    }
    closed
}

fn check<R>(page: &str, look: impl Fn(&Document<'_>) -> R) -> R {
    let closed = closed(page);
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    look(&Document::parse_with_options(&closed, options).unwrap_or_else(|error| panic!("{error}: {page}")))
}

/// The headings in their order: `h2 Latency`.
fn outline(document: &Document<'_>) -> Vec<String> {
    let headings = document.descendants().filter(|node| matches!(node.tag_name().name(), "h1" | "h2" | "h3"));
    headings.map(|node| format!("{} {}", node.tag_name().name(), text(node))).collect()
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants().filter_map(|node| if node.is_text() { node.text() } else { None }).collect()
}

#[test]
fn a_run_with_messages_has_all_its_sections() {
    let archive = stored("latency.ring.2");
    let outline = check(&page(&archive), outline);
    let expected = [
        "h1 PASS",
        "h2 Latency",
        "h2 Lobby",
        "h2 Over time",
        "h3 Response time of messages",
        "h3 Throughput",
        "h2 Delivery ledger",
        "h2 Generator",
        "h3 Send lag",
        "h2 Relay, started for this run",
        "h3 Build",
        "h2 Workload",
        "h2 Environment",
        "h3 Build",
        "h3 Mitigations",
        "h3 Sysctls",
        "h2 Repeat it",
    ];
    assert_eq!(outline, expected);
}

#[test]
fn pages_of_all_kinds_of_runs_are_well_formed() {
    for name in ["latency.epoll.1", "lobby.ring.1", "throughput.ring.1", "idle-lobby-all.ring.1"] {
        let archive = stored(name);
        check(&page(&archive), |document| {
            let mut ids: Vec<_> = document.descendants().filter_map(|node| node.attribute("id")).collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "{name}: an id stands twice: {ids:?}");
            for node in document.descendants() {
                for reference in ["aria-labelledby", "aria-describedby"] {
                    assert!(node.attribute(reference).is_none_or(|id| ids.contains(&id)), "{name}: {node:?}");
                }
                let anchor = node.attribute("href").and_then(|target| target.strip_prefix('#'));
                assert!(anchor.is_none_or(|id| ids.contains(&id)), "{name}: {anchor:?} is nowhere");
                let is_cell = node.tag_name().name() == "th";
                assert!(!is_cell || node.attribute("scope").is_some(), "{name}: {node:?}");
            }
        });
    }
}

#[test]
fn the_page_loads_and_runs_nothing() {
    let page = page(&stored("latency.ring.2"));
    check(&page, |document| {
        for node in document.descendants().filter(Node::is_element) {
            assert!(!matches!(node.tag_name().name(), "script" | "img" | "iframe" | "object"), "{node:?}");
            assert!(node.attributes().all(|attribute| !attribute.name().starts_with("on")), "{node:?}");
            let target = node.attribute("href").or(node.attribute("src"));
            assert!(target.is_none_or(|target| target.starts_with('#') || target.starts_with("data:")), "{node:?}");
        }
    });
    assert!(!page.contains("@import") && !page.contains("url("));
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_comes_from_outside_is_text() {
    let evil = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&";
    let mut archive = stored("latency.ring.2");
    let summary = &mut archive.summary;
    summary.target.url = evil.to_owned();
    summary.target.relay_name = evil.to_owned();
    summary.argv.push(evil.to_owned());
    summary.notes.push(evil.to_owned());
    summary.ledger.errors.insert(evil.to_owned(), 3);
    summary.ledger.disconnects.insert(evil.to_owned(), 4);
    summary.environment.host = evil.to_owned();
    summary.environment.mitigations.insert(evil.to_owned(), evil.to_owned());
    summary.verdict.terms[0].measured = evil.to_owned();
    summary.verdict.terms[0].term = evil.to_owned();
    summary.findings.push(finding(Severity::Warning, evil));
    let relay = summary.relay.as_mut().unwrap();
    relay.start_line = evil.to_owned();
    relay.version = Some(evil.to_owned());
    relay.arguments = vec![evil.to_owned()];
    relay.end = Err(evil.to_owned());
    let page = page(&archive);
    check(&page, |document| {
        let elements = |name| document.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!((elements("script"), elements("img"), elements("style")), (0, 0, 1));
        let said = document.descendants().filter(|node| node.is_text() && node.text() == Some(evil)).count();
        assert!(said >= 8, "{said}");
    });
}

fn finding(severity: Severity, text: &str) -> Finding {
    Finding {
        kind: FindingKind::SendLag,
        severity,
        metric: Some("send_lag".to_owned()),
        measured: "9 ms".to_owned(),
        text: text.to_owned(),
        fix: "change it".to_owned(),
    }
}

#[test]
fn the_verdict_and_its_reasons_come_first() {
    let mut archive = stored("latency.ring.2");
    archive.summary.verdict.judgement = Judgement::Invalid;
    archive.summary.findings = vec![finding(Severity::Warning, "a small doubt"), finding(Severity::Invalid, "a doubt")];
    check(&page(&archive), |document| {
        let head = document.descendants().find(|node| node.has_tag_name("header")).map(text).unwrap();
        let at = |part: &str| head.find(part).unwrap_or_else(|| panic!("{part}: {head}"));
        assert!(at("INVALID") < at("Why it says nothing"));
        assert!(at("a doubt") < at("Read with care") && at("Read with care") < at("a small doubt"));
        assert!(at("Fix: change it") > 0);
        let outline = outline(document);
        assert_eq!(outline[..3], ["h1 INVALID", "h2 Why it says nothing", "h2 Read with care"]);
    });
}

#[test]
fn targets_are_gates_and_the_undelivered_never_come() {
    let mut archive = stored("latency.ring.2");
    let summary = &mut archive.summary;
    summary.verdict.judgement = Judgement::Fail;
    summary.verdict.terms = vec![
        TermVerdict { term: "message.p99<5ms".to_owned(), measured: "never".to_owned(), judgement: Judgement::Fail },
        TermVerdict { term: "added.later<5ms".to_owned(), measured: "1".to_owned(), judgement: Judgement::Pass },
    ];
    let message = summary.metrics.get_mut("message").unwrap();
    (message.infinite, message.p99) = (message.n / 9, None);
    check(&page(&archive), |document| {
        assert!(outline(document)[0] == "h1 FAIL");
        let gates: Vec<_> =
            document.descendants().filter(|node| node.attribute("class") == Some("gate-name")).map(text).collect();
        // In the chart of percentiles and in the one over time.
        assert_eq!(gates, ["message.p99<5ms", "message.p99<5ms"]);
        let legend = document.descendants().find(|node| node.has_tag_name("figure")).map(text).unwrap();
        assert!(legend.contains("p99 never"), "{legend}");
    });
}

#[test]
fn an_hour_is_as_short_as_minutes() {
    let mut archive = stored("latency.ring.2");
    let mut summary = serde_json::to_value(&archive.summary).unwrap();
    // As many stretches as there can be, of two seconds each: an hour has no more, of 18 seconds.
    summary["workload"]["duration_ms"] = 400_000.into();
    archive.summary = serde_json::from_value(summary).unwrap();
    archive.intervals = (0..=400_u64)
        .map(|number| {
            let mut recorder = Box::<Recorder>::default();
            for sample in 0..20 {
                for metric in [Metric::Message, Metric::Service, Metric::SendLag, Metric::Ack, Metric::LobbyJoin] {
                    recorder.record(metric, 50_000 + number * 977 % 9_000 + sample * sample * 7_777);
                }
            }
            let start = Duration::from_secs(number.saturating_sub(1));
            Interval { start, length: Duration::from_secs(1), recorder }
        })
        .collect();
    let page = page(&archive);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    check(&page, |document| assert!(outline(document).contains(&"h3 Lobby".to_owned())));
}
