//! What was not steady: a rate that rises, a storm, readers that stop reading, and the messages that are
//! not judged because of them.

use maud::{Markup, html};

use super::Run;
use super::verdict::show_time;
use crate::scenario::outcome::{Aside, CrashCounts, OfflineSummary, SlowReaderCounts, StepSummary, StormSummary};
use crate::summary::MetricSummary;
use crate::units::{show_count, show_ms, show_ns, show_rate};

/// Whether there was anything of the kind.
pub(super) fn is_shown(run: &Run<'_>) -> bool {
    let summary = run.summary;
    !summary.steps.is_empty()
        || summary.storm.is_some()
        || summary.slow_readers.is_some()
        || summary.offline.is_some()
        || summary.crash.is_some()
        || summary.aside.due > 0
}

/// The section; nothing for a steady run.
pub(super) fn render(run: &Run<'_>) -> Markup {
    if !is_shown(run) {
        return html! {};
    }
    let summary = run.summary;
    html! {
        section aria-labelledby="scenario" {
            h2 #scenario { "Scenario" }
            @if !summary.steps.is_empty() { (steps(&summary.steps)) }
            @if let Some(storm) = &summary.storm { (storm_counts(storm)) }
            @if let Some(readers) = &summary.slow_readers { (slow_readers(readers)) }
            @if let Some(counts) = &summary.offline { (offline(counts)) }
            @if let Some(counts) = &summary.crash { (crash(counts)) }
            @if summary.aside.due > 0 { (aside(&summary.aside)) }
        }
    }
}

fn steps(steps: &[StepSummary]) -> Markup {
    html! {
        div.scroll {
            table {
                caption { "The rate rises by steps" }
                thead {
                    tr {
                        th scope="col" { "From" }
                        @for heading in ["For", "Due a second", "n", "p50", "p99", "max", "Send lag p99"] {
                            th.number scope="col" { (heading) }
                        }
                    }
                }
                tbody {
                    @for step in steps {
                        tr {
                            th scope="row" { (show_ms(step.start_ms)) }
                            td.number { (show_ms(step.length_ms)) }
                            td.number { (show_rate(step.due_per_second)) }
                            td.number { (show_count(step.message.n)) }
                            (times(&step.message))
                            td.number { (measured(&step.send_lag, step.send_lag.p99)) }
                        }
                    }
                }
            }
        }
    }
}

/// A percentile of something that may have no samples.
fn measured(metric: &MetricSummary, value: Option<u64>) -> String {
    if metric.n + metric.infinite == 0 { "–".to_owned() } else { show_time(value) }
}

fn times(metric: &MetricSummary) -> Markup {
    html! {
        @for value in [metric.p50, metric.p99, metric.max] { td.number { (measured(metric, value)) } }
    }
}

fn storm_counts(storm: &StormSummary) -> Markup {
    let missing = storm.dropped.saturating_sub(storm.back);
    html! {
        h3 { "Storm: clients drop at once and come back" }
        dl.counts {
            div { dt { "dropped" } dd { (show_count(storm.dropped)) } }
            div.bad[missing > 0] { dt { "came back" } dd { (show_count(storm.back)) } }
            div.zero[storm.login_errors == 0].bad[storm.login_errors > 0] {
                dt { "logins that failed and were tried again" }
                dd { (show_count(storm.login_errors)) }
            }
            @if let Some(ns) = storm.last_login { div { dt { "until the last login" } dd { (show_ns(ns)) } } }
            @if let Some(rate) = storm.logins_per_second {
                div { dt { "logins a second" } dd { (show_rate(rate)) } }
            }
            @match (storm.converged, storm.converge_time) {
                (Some(true), Some(ns)) => {
                    div { dt { "from the last login until all lobbies were right" } dd { (show_ns(ns)) } }
                }
                (Some(false), _) => { div.bad { dt { "lobbies were right again" } dd { "never" } } }
                _ => {}
            }
        }
        @if storm.message.n + storm.message.infinite > 0 {
            p.below {
                "Messages between clients that stayed, due while others were away: "
                (show_count(storm.message.n)) " samples, p50 " (show_time(storm.message.p50)) ", p99 "
                (show_time(storm.message.p99)) ", largest " (show_time(storm.message.max)) "."
            }
        }
    }
}

fn slow_readers(readers: &SlowReaderCounts) -> Markup {
    html! {
        h3 { "Slow readers" }
        p {
            (show_count(readers.clients)) " clients stopped reading; the connections of " (show_count(readers.stayed))
            " of them were there at the end. The others must not have felt it: they alone are judged."
        }
        @if !readers.ended.is_empty() {
            ul.tally {
                @for (how, count) in &readers.ended { li { b { (show_count(*count)) " ×" } " " (how) } }
            }
        }
    }
}

fn offline(offline: &OfflineSummary) -> Markup {
    let others = [
        ("before they came back", &offline.before),
        ("from then until they had everything", &offline.meanwhile),
        ("after that", &offline.after),
    ];
    html! {
        h3 { "Offline: clients that come back for what waits for them" }
        dl.counts {
            div { dt { "clients" } dd { (show_count(offline.clients)) } }
            div.bad[offline.back < offline.clients] { dt { "came back" } dd { (show_count(offline.back)) } }
            div { dt { "went on without a gap" } dd { (show_count(offline.recovered)) } }
            div.zero[offline.login_errors == 0].bad[offline.login_errors > 0] {
                dt { "logins that failed and were tried again" }
                dd { (show_count(offline.login_errors)) }
            }
            div { dt { "messages sent to them" } dd { (show_count(offline.sent)) } }
            div { dt { "acked" } dd { (show_count(offline.acked)) } }
            div.zero[offline.refused == 0].bad[offline.refused > 0] {
                dt { "refused" }
                dd { (show_count(offline.refused)) }
            }
            div.bad[offline.delivered < offline.acked] { dt { "came" } dd { (show_count(offline.delivered)) } }
            div.zero[offline.behind == 0].bad[offline.behind > 0] {
                dt { "clients that lacked something at the end" }
                dd { (show_count(offline.behind)) }
            }
            @if let Some(ns) = offline.catch_up_time {
                div { dt { "from the first return to the last message" } dd { (show_ns(ns)) } }
            }
            @if let Some(rate) = offline.caught_up_per_second {
                div { dt { "messages a second then" } dd { (show_rate(rate)) } }
            }
        }
        @for (when, message) in others.into_iter().filter(|(_, message)| message.n + message.infinite > 0) {
            p.below {
                "Messages between others, due " (when) ": " (show_count(message.n + message.infinite)) " samples, p50 "
                (show_time(message.p50)) ", p99 " (show_time(message.p99)) ", largest " (show_time(message.max)) "."
            }
        }
    }
}

fn crash(crash: &CrashCounts) -> Markup {
    // Taken apart by name: a count that is added cannot be left out here.
    let CrashCounts {
        kills,
        down_ns,
        down_longest_ns,
        ended,
        reconnects,
        recovered,
        sent_again,
        duplicate_acks,
        repeated,
        acked,
        lost,
        lost_ids,
    } = crash;
    let counts = [
        ("times killed and started again", *kills),
        ("times a client came back", *reconnects),
        ("… and went on without a gap", *recovered),
        ("messages acked", *acked),
        ("sent again, without an ack", *sent_again),
        ("… and acked as known", *duplicate_acks),
        ("came again on a later connection", *repeated),
    ];
    html! {
        h3 { "Crash: the relay is killed and started again" }
        dl.counts {
            @for (name, count) in counts { div.zero[count == 0] { dt { (name) } dd { (show_count(count)) } } }
            div.zero[*lost == 0].bad[*lost > 0] { dt { "acked and lost" } dd { (show_count(*lost)) } }
            div { dt { "down in all" } dd { (show_ns(*down_ns)) } }
            div { dt { "longest" } dd { (show_ns(*down_longest_ns)) } }
        }
        @if !lost_ids.is_empty() {
            h3 { "Acked and lost" }
            ul.tally.bad { @for id in lost_ids { li { (id) } } }
        }
        @if !ended.is_empty() {
            ul.tally { @for (how, count) in ended { li { b { (show_count(*count)) " ×" } " " (how) } } }
        }
    }
}

fn aside(aside: &Aside) -> Markup {
    // Taken apart by name: a count that is added cannot be left out here.
    let Aside { due, not_sent, sent, delivered, refused, lost, repeated } = *aside;
    let counts = [
        ("due", due),
        ("sent", sent),
        ("delivered", delivered),
        ("not sent: no connection", not_sent),
        ("refused", refused),
        ("lost", lost),
        ("delivered again", repeated),
    ];
    html! {
        h3 { "Messages set aside" }
        p { "To or from clients that were away or did not read. No target is judged by them." }
        dl.counts {
            @for (name, count) in counts {
                div.zero[count == 0] { dt { (name) } dd { (show_count(count)) } }
            }
        }
    }
}
