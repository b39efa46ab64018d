//! Percentile curves of messages, with the targets as gates, and the table of all times.

use hdrhistogram::Histogram;
use maud::{Markup, html};

use super::Run;
use super::chart::{Axis, Bound, Chart, Column, Gate, Line};
use super::curves::{Samples, percentile_curve};
use super::scale::{Scale, show_share};
use super::verdict::{show_time, warnings};
use crate::recorder::Metric;
use crate::slo::TimeBound;
use crate::summary::MetricSummary;
use crate::table;
use crate::units::show_count;
use crate::validity::SAMPLES_BEYOND;

/// What is below is nothing: axes of times begin here.
pub(super) const AXIS_FLOOR_NS: u64 = 1_000;

/// Columns of a percentile chart that tell their values.
const COLUMNS: u32 = 48;

/// The section.
pub(super) fn render(run: &Run<'_>) -> Markup {
    let curves = [
        ("response: intended send → received", Metric::Message, "one"),
        ("service: written → received", Metric::Service, "two"),
        ("send lag: intended → written", Metric::SendLag, "three"),
        ("ack: intended → acked", Metric::Ack, "four"),
        ("blocked: the relay took no more", Metric::Blocked, "five"),
    ];
    let curves: Vec<_> = curves.into_iter().map(|(name, metric, class)| (name, run.samples(metric), class)).collect();
    let bounds: Vec<_> = run.bounds("message").collect();
    html! {
        section aria-labelledby="latency" {
            h2 #latency { "Latency" }
            @if let Some(chart) = percentile_chart("message-percentiles", "Latency of messages by percentile", &curves, &bounds)
            {
                (chart.render(&html! {
                    "Each line tells how long that share of messages took at most. Every further nine is as wide as \
                     the one before. The verdict uses the response time alone: it counts from the moment a message "
                    em { "should" } " have been sent, so waiting in a late generator or for a stalled relay is in it."
                }))
            }
            (times(run, "Times of the steady phase", |name| !name.starts_with("lobby")))
        }
    }
}

/// A chart of percentile curves; `None` without any sample.
pub(super) fn percentile_chart(
    id: &'static str,
    title: &'static str,
    curves: &[(&str, Samples<'_>, &'static str)],
    bounds: &[&TimeBound],
) -> Option<Chart> {
    let curves: Vec<_> = curves.iter().filter(|(_, samples, _)| samples.count() > 0).collect();
    let x = Scale::hdr(curves.iter().map(|(_, samples, _)| samples.count()).max()?);
    let finite = || curves.iter().map(|(_, samples, _)| samples.histogram).filter(|histogram| !histogram.is_empty());
    let low = finite().map(Histogram::min).min().unwrap_or(0).max(AXIS_FLOOR_NS);
    let high = finite().map(Histogram::max).chain(bounds.iter().map(|bound| headroom(bound))).max()?;
    let y = Scale::log(low, high.max(low));
    let columns = (0..COLUMNS).map(|column| {
        let [from, to] = [column, column + 1].map(|edge| f64::from(edge) / f64::from(COLUMNS));
        let share = x.value((from + to) / 2.0);
        let mut text = show_share(share);
        for (name, samples, _) in &curves {
            let name = name.split_once(':').map_or(*name, |(name, _)| name);
            text.push_str(&format!("\n{name} {}", show_time(samples.at(share))));
        }
        Column { from, to, text }
    });
    let description = curves
        .iter()
        .map(|(name, samples, _)| {
            let [p50, p99] = [0.5, 0.99].map(|share| show_time(samples.at(share)));
            format!("{name}: p50 {p50}, p99 {p99}, largest {}.", show_time(samples.at(1.0)))
        })
        .collect::<Vec<_>>()
        .join(" ");
    Some(Chart {
        id,
        title,
        description,
        x: Axis { title: "share of samples", ticks: x.percentile_ticks() },
        y: Axis { title: "at most", ticks: y.time_ticks() },
        lines: curves
            .iter()
            .map(|(name, samples, class)| Line {
                name: (*name).to_owned(),
                class,
                points: percentile_curve(samples, x, y),
                figure: format!("p99 {}", show_time(samples.at(0.99))),
            })
            .collect(),
        gates: bounds
            .iter()
            .map(|bound| Gate {
                name: bound.term.clone(),
                bound: Bound::Corner((x.place(bound.share), y.place(bound.bound_ns))),
            })
            .collect(),
        columns: columns.collect(),
        low: false,
    })
}

/// The top of an axis that shows a target, with room above it.
pub(super) fn headroom(bound: &TimeBound) -> u64 {
    (bound.bound_ns * 1.5) as u64
}

/// The table of all metrics that have samples and whose name is `wanted`.
pub(super) fn times(run: &Run<'_>, caption: &str, wanted: impl Fn(&str) -> bool) -> Markup {
    let metrics = &run.summary.metrics;
    let rows: Vec<_> = table::rows(run.summary)
        .into_iter()
        .filter(|(_, key)| wanted(key))
        .filter_map(|(name, key)| Some((name, key, metrics.get(key)?)))
        .filter(|(_, _, metric)| metric.n + metric.infinite > 0)
        .collect();
    html! {
        @for (_, key, _) in &rows { (warnings(run, key)) }
        @if !rows.is_empty() {
            div.scroll {
                table {
                    caption { (caption) }
                    thead {
                        tr {
                            th scope="col" { "" }
                            @for heading in ["n", "p50", "p90", "p99", "p99.9", "p99.99", "max"] {
                                th.number scope="col" { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for (name, _, metric) in &rows {
                            tr {
                                th.indented[name.starts_with(' ')] scope="row" { (name.trim_start()) }
                                td.number { (show_count(metric.n)) }
                                (percentiles(metric))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The cells of the percentiles. One that is not settled by samples beyond it is quiet.
fn percentiles(metric: &MetricSummary) -> Markup {
    let count = metric.n + metric.infinite;
    // One of so many samples lies beyond; none beyond the largest.
    let cells = [
        (metric.p50, 2),
        (metric.p90, 10),
        (metric.p99, 100),
        (metric.p99_9, 1_000),
        (metric.p99_99, 10_000),
        (metric.max, 0),
    ];
    html! {
        @for (value, one_of) in cells {
            @if count < one_of * SAMPLES_BEYOND {
                td.number.quiet title={ "chance: fewer than " (SAMPLES_BEYOND) " samples lie beyond it" } {
                    (show_time(value))
                }
            } @else {
                td.number.never[value.is_none()] { (show_time(value)) }
            }
        }
    }
}
