//! Whether the generator was fit to measure.

use maud::{Markup, html};

use super::Run;
use super::over_time::latency_chart;
use super::verdict::warnings;
use crate::interference::Interference;
use crate::recorder::Metric;
use crate::summary::Generator;
use crate::units::{show_count, show_ns, trim_zeros};
use crate::validity::BUSY_MAX;

/// The section.
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

/// A share of a core as a bar and a number.
pub(super) fn busy(share: Option<f64>) -> Markup {
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
