//! What was not steady: a rate that rises, a storm, readers that stop reading, and the messages that are
//! not judged because of them.

use maud::{Markup, html};

use super::Run;
use super::verdict::show_time;
use crate::scenario::outcome::{Aside, SlowReaderCounts, StepSummary, StormSummary};
use crate::summary::MetricSummary;
use crate::units::{show_count, show_ms, show_ns, show_rate};

/// Whether there was anything of the kind.
pub(super) fn is_shown(run: &Run<'_>) -> bool {
    let summary = run.summary;
    !summary.steps.is_empty() || summary.storm.is_some() || summary.slow_readers.is_some() || summary.aside.due > 0
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
