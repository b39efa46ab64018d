//! What the relay said of itself, and what it took: its CPU, and the memory of one that was started for
//! the run.

use maud::{Markup, html};
use serde_json::Value;

use super::health::busy;
use super::place::command_line;
use super::verdict::warnings;
use super::{Run, facts};
use crate::relay_process::Usage;
use crate::summary::RelayRecord;
use crate::units::{show_bytes, show_ns};

/// Whether anything is known of it.
pub(super) fn is_shown(run: &Run<'_>) -> bool {
    let summary = run.summary;
    summary.relay.is_some() || summary.relay_about.is_some() || !summary.relay_loads.is_empty()
}

/// The section; nothing where nothing is known.
pub(super) fn render(run: &Run<'_>) -> Markup {
    if !is_shown(run) {
        return html! {};
    }
    let summary = run.summary;
    html! {
        section aria-labelledby="relay" {
            h2 #relay { @if summary.relay.is_some() { "Relay, started for this run" } @else { "Relay" } }
            @if let Some(relay) = &summary.relay { p { (relay.start_line) } }
            (warnings(run, "relay"))
            @if let Some(relay) = &summary.relay { (usage(run, relay)) }
            (loads(run))
            (build(run))
        }
    }
}

/// How busy its shards were.
fn loads(run: &Run<'_>) -> Markup {
    let loads = &run.summary.relay_loads;
    html! {
        @if !loads.is_empty() {
            div.scroll {
                table {
                    caption { "Shards in the steady phase" }
                    thead { tr { th scope="col" { "Shard" } th scope="col" { "Busy" } } }
                    tbody {
                        @for load in loads {
                            tr { th scope="row" { (load.name) } td { (busy(Some(load.busy))) } }
                        }
                    }
                }
            }
        }
    }
}

/// What it was built from, how it was configured, and how it was started.
fn build(run: &Run<'_>) -> Markup {
    let summary = run.summary;
    // What is no JSON is told as it came.
    let version = summary.relay.as_ref().and_then(|relay| relay.version.as_deref());
    let version = version.map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    let version = summary.relay_about.as_ref().map(|about| about.version.clone()).or(version);
    html! {
        @match version {
            Some(Value::String(text)) => { p { (text) } }
            Some(version) => { h3 { "Build" } (facts::list(&version)) }
            None => {}
        }
        @if let Some(about) = &summary.relay_about {
            @if about.config.is_object() { h3 { "Configuration" } (facts::list(&about.config)) }
        }
        @if let Some(relay) = &summary.relay {
            pre { code { (command_line(&[vec![relay.program.clone()], relay.arguments.clone()].concat())) } }
        }
    }
}

/// CPU and memory.
fn usage(run: &Run<'_>, relay: &RelayRecord) -> Markup {
    let cpu_ns = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
    let cores = cpu_ns as f64 / run.summary.workload.duration_ns().max(1) as f64;
    let moments: [(&str, &Usage); 4] = [
        ("before anybody connected", &relay.empty),
        ("all clients connected", &relay.connected),
        ("steady phase began", &relay.steady_begin),
        ("steady phase ended", &relay.steady_end),
    ];
    html! {
            @if let Err(end) = &relay.end { p.bad { strong { (end) } } }
            dl.counts {
                div { dt { "cores busy" } dd { (format!("{cores:.2}")) } }
                @if let Some(ns) = relay.cpu_ns_per_message {
                    div { dt { "CPU a message" } dd { (show_ns(ns)) } }
                }
                @if let Some(bytes) = relay.bytes_per_client {
                    div { dt { "own memory a client" } dd { (show_bytes(bytes)) } }
                }
                div { dt { "own memory" } dd { (show_bytes(relay.steady_end.rss_anon_bytes)) } }
            }
            div.scroll {
                table {
                    caption { "Memory and CPU time" }
                    thead {
                        tr {
                            th scope="col" { "" }
                            @for heading in ["resident", "its own", "CPU, user", "CPU, kernel"] {
                                th.number scope="col" { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for (name, usage) in moments {
                            tr {
                                th scope="row" { (name) }
                                td.number { (show_bytes(usage.rss_bytes)) }
                                td.number { (show_bytes(usage.rss_anon_bytes)) }
                                td.number { (show_ns(usage.user_ns)) }
                                td.number { (show_ns(usage.system_ns)) }
                            }
                        }
                    }
                }
            }
    }
}
