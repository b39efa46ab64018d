//! What a run prints at its end, for people.

use std::fmt::Write;

use crate::recorder::Metric;
use crate::slo::Judgement;
use crate::summary::{MetricSummary, Summary};
use crate::units::{show_bytes, show_count, show_ns};
use crate::validity::{Finding, Severity};

mod scenario;

/// Rows of the table: the name, what it is, the key in [`Summary::metrics`].
pub(crate) fn rows(summary: &Summary) -> Vec<(String, &'static str)> {
    let closed = summary.workload.is_closed_loop();
    let about = |metric| match metric {
        Metric::Message if closed => "message (closed loop: service time)",
        Metric::Message => "message (intended send → received)",
        Metric::Service => "  service (written → received)",
        Metric::Blocked => "  blocked (the relay took no more)",
        Metric::SendLag => "  send lag (intended → written)",
        Metric::Ack => "ack (intended send → acked)",
        Metric::AckOffline => "ack, the recipient being offline",
        Metric::LobbyJoin => "lobby join, as watchers saw it",
        Metric::LobbyLeave => "lobby leave, as watchers saw it",
        Metric::LobbyFirst => "  first watcher told of each",
        Metric::LobbyMedian => "  median watcher",
        Metric::LobbyLast => "  last watcher",
        Metric::Connect => "connect (TCP and upgrade)",
        Metric::Auth => "auth (sent → welcome)",
        Metric::CatchUp => "catch-up (auth → last that waited)",
    };
    Metric::ALL.into_iter().map(|metric| (about(metric).to_owned(), metric.name())).collect()
}

/// Renders a run.
#[must_use]
pub fn render(summary: &Summary) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = render_into(&mut out, summary);
    out
}

fn render_into(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let headings = ["n", "p50", "p90", "p99", "p99.9", "max"];
    write!(out, "\n{:<36}", "")?;
    for heading in headings {
        write!(out, "{heading:>11}")?;
    }
    writeln!(out)?;
    for (name, key) in rows(summary) {
        let Some(metric) = summary.metrics.get(key).filter(|metric| metric.n + metric.infinite > 0) else { continue };
        write!(out, "{name:<36}{:>11}", show_count(metric.n))?;
        for value in percentiles(metric) {
            write!(out, "{:>11}", value.map_or_else(|| "never".to_owned(), show_ns))?;
        }
        writeln!(out)?;
        warnings(out, summary, Some(key))?;
    }
    ledger(out, summary)?;
    warnings(out, summary, Some("rate"))?;
    lobby(out, summary)?;
    warnings(out, summary, Some("lobby"))?;
    scenario::render(out, summary)?;
    warnings(out, summary, Some("storm"))?;
    generator(out, summary)?;
    warnings(out, summary, Some("generator"))?;
    relay(out, summary)?;
    warnings(out, summary, Some("relay"))?;
    warnings(out, summary, None)?;
    for note in &summary.notes {
        writeln!(out, "note: {note}")?;
    }
    verdict(out, summary)
}

/// Warnings stand under the figure that they touch.
fn warnings(out: &mut String, summary: &Summary, metric: Option<&str>) -> std::fmt::Result {
    let touched = |finding: &&Finding| finding.severity == Severity::Warning && finding.metric.as_deref() == metric;
    for finding in summary.findings.iter().filter(touched) {
        writeln!(out, "  ! {}; {}", finding.text, finding.fix)?;
    }
    Ok(())
}

fn percentiles(metric: &MetricSummary) -> [Option<u64>; 5] {
    [metric.p50, metric.p90, metric.p99, metric.p99_9, metric.max]
}

fn ledger(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let ledger = &summary.ledger;
    let throughput = &summary.throughput;
    if ledger.sent + ledger.unsent() > 0 {
        writeln!(
            out,
            "\nmessages   {} sent, {} acked, {} delivered, {} lost, {} refused, {} due and never sent",
            show_count(ledger.sent),
            show_count(ledger.acked),
            show_count(ledger.delivered),
            show_count(ledger.lost),
            show_count(ledger.refused),
            show_count(ledger.unsent()),
        )?;
        writeln!(
            out,
            "           {} duplicate, {} out of order, {} altered, {} with a bad signature",
            show_count(ledger.duplicates),
            show_count(ledger.out_of_order),
            show_count(ledger.altered),
            show_count(ledger.bad_signature),
        )?;
        writeln!(
            out,
            "rate       {}/s due, {}/s sent, {}/s delivered (steady phase)",
            show_count(throughput.due_per_second.round() as u64),
            show_count(throughput.sent_per_second.round() as u64),
            show_count(throughput.delivered_per_second.round() as u64),
        )?;
    }
    let rare = [
        ("never sent: the sender had no connection", ledger.not_sent),
        ("never sent: the relay took no more of its connection", ledger.blocked),
        ("never sent: the generator did not come to them", ledger.overdue),
        ("neither acked nor refused", ledger.unacked),
        ("acked twice", ledger.ack_duplicates),
        ("delivered to another", ledger.misdelivered),
        ("delivered though refused", ledger.delivered_though_refused),
        ("sent by nobody here", ledger.unknown),
        ("left over from earlier runs with this --seed", ledger.leftover),
        ("inbox numbers skipped", ledger.seq_gaps),
        ("inbox numbers that fell", ledger.seq_backward),
        ("unreadable frames", ledger.unreadable),
    ];
    for (what, count) in rare.into_iter().filter(|&(_, count)| count > 0) {
        writeln!(out, "           {} {what}", show_count(count))?;
    }
    for (reason, count) in &ledger.errors {
        writeln!(out, "error      {} × {reason}", show_count(*count))?;
    }
    for (cause, count) in &ledger.disconnects {
        writeln!(out, "broken     {} × {cause}", show_count(*count))?;
    }
    Ok(())
}

fn lobby(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let lobby = &summary.lobby;
    if lobby.clients == 0 {
        return Ok(());
    }
    let against = if lobby.truth_known { "the truth" } else { "each other" };
    write!(
        out,
        "lobby      {} clients compared with {against}: {} wrong at the end, {} diverged at some time",
        show_count(lobby.clients),
        show_count(lobby.diverged_at_end),
        show_count(lobby.diverged),
    )?;
    match summary.lobby_reach {
        None => writeln!(out),
        Some(reach) => writeln!(
            out,
            "\n           {} joins and {} leaves reached {:.2} % of those who watched, {} of them not all",
            show_count(summary.steady.joins),
            show_count(summary.steady.leaves),
            reach * 100.0,
            show_count(summary.reach.incomplete),
        ),
    }
}

fn generator(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let generator = &summary.generator;
    let busy: Vec<_> = generator
        .workers
        .iter()
        .filter_map(|worker| worker.health.busy)
        .map(|busy| format!("{:.0} %", busy * 100.0))
        .collect();
    let busy = if busy.is_empty() { String::new() } else { format!(", busy {}", busy.join(" ")) };
    writeln!(
        out,
        "generator  engine {}, {} worker{}{busy}, {} messages signed ahead",
        generator.engine,
        generator.workers.len(),
        if generator.workers.len() == 1 { "" } else { "s" },
        show_count(generator.signed_ahead),
    )
}

fn relay(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let Some(relay) = &summary.relay else { return Ok(()) };
    let cpu = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
    let duration = summary.workload.duration_ns().max(1);
    write!(out, "relay      {:.2} cores busy", cpu as f64 / duration as f64)?;
    if let Some(ns) = relay.cpu_ns_per_message {
        write!(out, ", {} of CPU a message", show_ns(ns))?;
    }
    writeln!(
        out,
        ", {} of own memory{}",
        show_bytes(relay.steady_end.rss_anon_bytes),
        relay.bytes_per_client.map(|bytes| format!(", {} a client", show_bytes(bytes))).unwrap_or_default(),
    )?;
    if let Err(end) = &relay.end {
        writeln!(out, "relay      {end}")?;
    }
    Ok(())
}

fn verdict(out: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(out)?;
    for term in &summary.verdict.terms {
        writeln!(out, "{:<7}  {}  (measured: {})", term.judgement, term.term, term.measured)?;
    }
    let spoiled = summary.findings.iter().any(Finding::spoils_run);
    match (summary.verdict.terms.len(), summary.verdict.judgement) {
        (0, Judgement::Pass) => writeln!(out, "no targets given (--slo)"),
        (1, Judgement::Pass) => writeln!(out, "PASS: the target is met"),
        (count, Judgement::Pass) => writeln!(out, "PASS: all {count} targets met"),
        (_, Judgement::Fail) => writeln!(out, "FAIL: a target is missed"),
        (_, Judgement::Invalid) if spoiled => {
            writeln!(out, "INVALID: the run says nothing about the relay")
        }
        (_, Judgement::Invalid) => writeln!(out, "INVALID: the run says nothing about a target"),
    }?;
    for finding in summary.findings.iter().filter(|finding| finding.severity == Severity::Invalid) {
        writeln!(out, "INVALID  {}\n         to change: {}", finding.text, finding.fix)?;
    }
    if spoiled && summary.verdict.judgement == Judgement::Fail {
        writeln!(out, "What is missed is the relay's doing all the same; of the rest the run says nothing.")?;
    }
    Ok(())
}
