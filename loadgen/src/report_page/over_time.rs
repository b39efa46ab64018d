//! The steady phase by the second: latency of messages and lobby, and throughput.

use std::time::Duration;

use hdrhistogram::Histogram;
use maud::{Markup, html};

use super::Run;
use super::chart::{Axis, Bound, Chart, Column, Gate, Line, Point};
use super::curves::Stretch;
use super::latency::{AXIS_FLOOR_NS, headroom};
use super::scale::Scale;
use super::verdict::warnings;
use crate::clock::to_ns;
use crate::recorder::{Metric, quantile};
use crate::slo::TimeBound;
use crate::units::{show_count, show_ns, trim_zeros};

/// The section.
pub(super) fn render(run: &Run<'_>) -> Markup {
    let messages: Vec<_> = run.bounds("message").collect();
    let lobby: Vec<_> = run.bounds("lobby").collect();
    let message_chart =
        latency_chart(run, "message-over-time", "Response time over time", "response time", &messages, |stretch| {
            stretch.recorder.of(Metric::Message).clone()
        });
    let lobby_chart =
        latency_chart(run, "lobby-over-time", "Lobby latency over time", "until told", &lobby, |stretch| {
            stretch.recorder.lobby()
        });
    html! {
        section aria-labelledby="over-time" {
            h2 #over-time { "Over time" }
            @if let Some((chart, worst)) = message_chart {
                h3 { "Response time of messages" }
                (chart.render(&html! { (each(run)) (worst) }))
            }
            @if let Some(chart) = throughput(run) {
                h3 { "Throughput" }
                (warnings(run, "rate"))
                (chart.render(&html! { "Where “delivered” falls below “due”, messages wait or are lost." }))
            }
            @if let Some((chart, worst)) = lobby_chart {
                h3 { "Lobby" }
                (chart.render(&html! { (each(run)) (worst) }))
            }
        }
    }
}

/// What a point of the charts stands for.
fn each(run: &Run<'_>) -> String {
    let length = run.stretches.first().map_or(Duration::ZERO, |stretch| stretch.length);
    match length.as_secs() {
        0 | 1 => "Percentiles of each second. ".to_owned(),
        seconds => format!("Percentiles of each {seconds} s, from merged histograms. "),
    }
}

/// A moment of the run: `7 s`.
fn moment(time: Duration) -> String {
    format!("{} s", trim_zeros(&format!("{:.1}", time.as_secs_f64())))
}

fn time_axis(run: &Run<'_>) -> Scale {
    Scale::Linear { low: 0.0, high: run.summary.workload.duration_ns().max(1) as f64 }
}

fn column(x: Scale, stretch: &Stretch, text: &str) -> Column {
    let end = stretch.start + stretch.length;
    let [from, to] = [stretch.start, end].map(|time| x.place(time.as_nanos() as f64));
    Column { from, to, text: format!("{} to {}\n{text}", moment(stretch.start), moment(end)) }
}

/// p50, p99 and the largest by the second, with the worst second in words; `None` without any sample.
/// A target is a level here: it bounds the percentile of the whole run, not of each second.
pub(super) fn latency_chart(
    run: &Run<'_>,
    id: &'static str,
    title: &'static str,
    quantity: &'static str,
    bounds: &[&TimeBound],
    of: impl Fn(&Stretch) -> Histogram<u64>,
) -> Option<(Chart, String)> {
    let histograms: Vec<_> = run.stretches.iter().map(of).collect();
    let filled = || histograms.iter().filter(|histogram| !histogram.is_empty());
    let low = filled().filter_map(|histogram| quantile(histogram, 0, 0.5)).min()?.max(AXIS_FLOOR_NS);
    let largest = filled().map(Histogram::max).max()?;
    let high = bounds.iter().map(|bound| headroom(bound)).fold(largest, u64::max);
    let (x, y) = (time_axis(run), Scale::log(low, high));
    let line = |name: &str, class, share: f64| {
        let points: Vec<Option<Point>> = run
            .stretches
            .iter()
            .zip(&histograms)
            .map(|(stretch, histogram)| {
                Some((x.place(stretch.middle_ns()), y.place(quantile(histogram, 0, share)? as f64)))
            })
            .collect();
        Line { name: name.to_owned(), class, points, figure: String::new() }
    };
    let columns = run.stretches.iter().zip(&histograms).map(|(stretch, histogram)| {
        let at = |share| quantile(histogram, 0, share).map_or_else(|| "–".to_owned(), show_ns);
        let text =
            format!("{} samples\np50 {}\np99 {}\nmax {}", show_count(histogram.len()), at(0.5), at(0.99), at(1.0));
        column(x, stretch, &text)
    });
    let worst = run.stretches.iter().zip(&histograms).max_by_key(|(_, histogram)| quantile(histogram, 0, 0.99))?;
    let worst = format!(
        "Worst from {} on: p99 {}, largest {}.",
        moment(worst.0.start),
        quantile(worst.1, 0, 0.99).map_or_else(|| "–".to_owned(), show_ns),
        show_ns(worst.1.max()),
    );
    let gates = bounds
        .iter()
        .map(|bound| Gate { name: bound.term.clone(), bound: Bound::Level(y.place(bound.bound_ns)) })
        .collect();
    let chart = Chart {
        id,
        title,
        description: worst.clone(),
        x: Axis { title: "since the start of the steady phase", ticks: x.moment_ticks() },
        y: Axis { title: quantity, ticks: y.time_ticks() },
        lines: vec![line("p99", "one", 0.99), line("p50", "four", 0.5), line("max", "three", 1.0)],
        gates,
        columns: columns.collect(),
        low: true,
    };
    Some((chart, worst))
}

/// Messages due a second in each stretch; `None` in a closed loop, where acks set the pace.
fn due(run: &Run<'_>) -> Option<Vec<f64>> {
    let workload = &run.summary.workload;
    let profile = workload.profile()?;
    let by = |time: Duration| profile.count_by(workload.warmup_ns() + to_ns(time));
    let due =
        |stretch: &Stretch| (by(stretch.start + stretch.length) - by(stretch.start)) / stretch.length.as_secs_f64();
    Some(run.stretches.iter().map(due).collect())
}

/// Messages due, sent and delivered by the second; `None` if there are none.
fn throughput(run: &Run<'_>) -> Option<Chart> {
    let counts: Vec<_> = run
        .stretches
        .iter()
        .map(|stretch| {
            [Metric::SendLag, Metric::Message].map(|metric| stretch.per_second(stretch.recorder.of(metric).len()))
        })
        .collect();
    let due = due(run);
    let highest = counts.iter().flatten().chain(due.iter().flatten()).copied().fold(0.0, f64::max);
    if highest == 0.0 {
        return None;
    }
    let (x, y) = (time_axis(run), Scale::from_zero(highest));
    let line = |name: &str, class, which: usize, rate: f64| Line {
        name: name.to_owned(),
        class,
        points: run
            .stretches
            .iter()
            .zip(&counts)
            .map(|(stretch, counts)| Some((x.place(stretch.middle_ns()), y.place(counts[which]))))
            .collect(),
        figure: format!("{}/s", show_count(rate.round() as u64)),
    };
    let throughput = &run.summary.throughput;
    let mut lines = vec![
        line("delivered", "one", 1, throughput.delivered_per_second),
        line("sent", "two", 0, throughput.sent_per_second),
    ];
    if let Some(due) = &due {
        let points = run.stretches.iter().zip(due);
        lines.push(Line {
            name: "due".to_owned(),
            class: "three",
            points: points.map(|(stretch, due)| Some((x.place(stretch.middle_ns()), y.place(*due)))).collect(),
            figure: format!("{}/s", show_count(throughput.due_per_second.round() as u64)),
        });
    }
    let columns = run.stretches.iter().zip(&counts).enumerate().map(|(at, (stretch, [sent, delivered]))| {
        let due = due.as_ref().and_then(|due| due.get(at));
        let rates = [("due", due), ("sent", Some(sent)), ("delivered", Some(delivered))];
        let rates = rates.into_iter().filter_map(|(name, rate)| Some((name, rate?)));
        let lines: Vec<_> = rates.map(|(name, rate)| format!("{}/s {name}", show_count(rate.round() as u64))).collect();
        column(x, stretch, &lines.join("\n"))
    });
    let least = counts.iter().map(|counts| counts[1]).fold(f64::INFINITY, f64::min);
    Some(Chart {
        id: "throughput",
        title: "Throughput over time",
        description: format!(
            "{} messages a second delivered on average, {} in the least stretch.",
            show_count(throughput.delivered_per_second.round() as u64),
            show_count(least.round() as u64)
        ),
        x: Axis { title: "since the start of the steady phase", ticks: x.moment_ticks() },
        y: Axis { title: "messages a second", ticks: y.count_ticks() },
        lines,
        gates: Vec::new(),
        columns: columns.collect(),
        low: true,
    })
}
