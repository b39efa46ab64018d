//! Whether the generator was fit to measure, and what a relay of our own took.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::over_time::latency_chart;
use super::verdict::warnings;
use super::{Run, facts};
use crate::interference::Interference;
use crate::recorder::Metric;
use crate::relay_process::Usage;
use crate::summary::{Generator, RelayRecord};
use crate::units::{show_bytes, show_count, show_ns, trim_zeros};
use crate::validity::BUSY_MAX;

/// The sections.
pub(super) fn render(run: &Run<'_>) -> Markup {
    let lag = latency_chart(run, "send-lag", "Send lag over time", "late by", &[], |stretch| {
        stretch.recorder.of(Metric::SendLag).clone()
    });
    html! {
        section aria-labelledby="generator" {
            h2 #generator { "Generator" }
            p {
                "A generator that is late or out of CPU measures itself. Engine "
                (run.summary.generator.engine) ", " (show_count(run.summary.generator.signed_ahead))
                " messages signed ahead."
            }
            (warnings(run, "generator"))
            (workers(run))
            (machine(&run.summary.generator))
            @if let Some((chart, worst)) = lag {
                h3 { "Send lag" }
                (warnings(run, Metric::SendLag.name()))
                (chart.render(&html! { "How late messages left. " (worst) }))
            }
        }
        @if let Some(relay) = &run.summary.relay { (relay_section(run, relay)) }
    }
}

fn workers(run: &Run<'_>) -> Markup {
    let generator = &run.summary.generator;
    html! {
        div.scroll {
            table {
                caption { "Workers in the steady phase" }
                thead {
                    tr {
                        th scope="col" { "Worker" }
                        th scope="col" { "Busy" }
                        @for heading in [
                            "CPU", "Waited for signing", "Signed too early", "Visits missed", "System calls",
                            "Buffer shortages", "Overflows",
                        ] {
                            th.number scope="col" { (heading) }
                        }
                    }
                }
                tbody {
                    @for (number, worker) in generator.workers.iter().enumerate() {
                        tr {
                            th scope="row" {
                                (number)
                                @if let Some(core) = core(&generator.pin_cores, number) {
                                    span.quiet { " on core " (core) }
                                }
                            }
                            td { (busy(worker.health.busy)) }
                            td.number { (show_ns(worker.health.cpu_ns)) }
                            @for count in [
                                worker.health.starved,
                                worker.health.expired,
                                worker.health.visits_missed,
                            ] {
                                td.number.bad[count > 0] { (show_count(count)) }
                            }
                            td.number { (show_count(worker.enters)) }
                            td.number { (show_count(worker.buffer_shortages)) }
                            td.number.bad[worker.completion_overflows > 0] { (show_count(worker.completion_overflows)) }
                        }
                    }
                }
            }
        }
    }
}

/// What the machine did to threads that only had to wake up, and what others took.
fn machine(generator: &Generator) -> Markup {
    let Interference { steal, throttled_periods, throttled_ns } = generator.interference;
    html! {
        @if !generator.heartbeats.is_empty() {
            div.scroll {
                table {
                    caption { "Heartbeats: threads that only had to wake every millisecond" }
                    thead {
                        tr {
                            th scope="col" { "Core" }
                            @for heading in ["Late, p50", "p99", "max", "Stalls above 10 ms", "Stalled for"] {
                                th.number scope="col" { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for beat in &generator.heartbeats {
                            tr {
                                th scope="row" { (beat.core.map_or_else(|| "any".to_owned(), |core| core.to_string())) }
                                @for late in [beat.late.p50, beat.late.p99, beat.late.max] {
                                    td.number { (late.map_or_else(|| "–".to_owned(), show_ns)) }
                                }
                                td.number.bad[beat.long_stalls > 0] { (show_count(beat.long_stalls)) }
                                td.number { (show_ns(beat.stalled_ns)) }
                            }
                        }
                    }
                }
            }
        }
        dl.counts {
            @if let Some(steal) = steal {
                div.zero[steal == 0.0] {
                    dt { "of the time stolen by the hypervisor" }
                    dd { (trim_zeros(&format!("{:.2}", steal * 100.0))) " %" }
                }
            }
            @if let Some(periods) = throttled_periods {
                div.zero[periods == 0].bad[periods > 0] {
                    dt { "periods throttled by a CPU quota" }
                    dd { (show_count(periods)) }
                }
            }
            @if let Some(ns) = throttled_ns.filter(|&ns| ns > 0) {
                div.bad { dt { "throttled for" } dd { (show_ns(ns)) } }
            }
        }
    }
}

/// The core of a worker: cores are given out in turns.
fn core(pin_cores: &[usize], worker: usize) -> Option<usize> {
    pin_cores.get(worker.checked_rem(pin_cores.len())?).copied()
}

fn busy(share: Option<f64>) -> Markup {
    let Some(share) = share else { return html! { span.quiet { "not measured" } } };
    let width = format!("{:.0}%", share.clamp(0.0, 1.0) * 100.0);
    html! {
        svg.meter.bad[share > BUSY_MAX] width="72" height="8" aria-hidden="true" {
            rect.frame width="100%" height="100%" rx="2" {}
            rect.filled width=(width) height="100%" rx="2" {}
        }
        " " (format!("{:.0} %", share * 100.0))
    }
}

fn relay_section(run: &Run<'_>, relay: &RelayRecord) -> Markup {
    let cpu_ns = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
    let cores = cpu_ns as f64 / run.summary.workload.duration_ns().max(1) as f64;
    // The admin port tells of its build in JSON.
    let told = relay.version.as_deref().map(|version| {
        serde_json::from_str::<Map<String, Value>>(version)
            .unwrap_or_else(|_| Map::from_iter([("version".to_owned(), Value::from(version))]))
    });
    let moments: [(&str, &Usage); 4] = [
        ("before anybody connected", &relay.empty),
        ("all clients connected", &relay.connected),
        ("steady phase began", &relay.steady_begin),
        ("steady phase ended", &relay.steady_end),
    ];
    html! {
        section aria-labelledby="relay" {
            h2 #relay { "Relay, started for this run" }
            p { (relay.start_line) }
            (warnings(run, "relay"))
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
            (facts::list(&told))
            pre { code { (relay.program) " " (super::place::command_line(&relay.arguments)) } }
        }
    }
}
