//! `report.html`: one run as a page for people. One file: its pictures are SVG, its style is inside, it
//! has no script, and its security policy forbids it to load anything.
//!
//! | module | subject |
//! |---|---|
//! | `verdict` | what the run came to: targets, findings |
//! | `latency`, `lobby`, `over_time` | percentile curves and tables; the same by the second |
//! | `ledger`, `scenario` | what became of messages; what was not steady |
//! | `health`, `relay`, `place` | the generator; the relay; workload, machine, command |
//! | `curves`, `scale`, `chart` | from histograms to lines, axes, SVG |
//!
//! # Invariants
//! - Everything that comes from outside, as a relay's name or the reason of a close, is text: maud escapes
//!   whatever is not marked, and only the style sheet is.
//! - The page is as long for an hour as for minutes: charts have a bounded number of points.
//! - Nothing is told by colour alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::interval_log::Interval;
use crate::recorder::{Metric, Recorder};
use crate::slo::{Judgement, Slo, TimeBound};
use crate::summary::Summary;
use curves::{Samples, Stretch, stretches};

mod chart;
mod curves;
mod facts;
mod health;
mod latency;
mod ledger;
mod lobby;
mod over_time;
mod place;
mod relay;
mod scale;
mod scenario;
mod verdict;

/// The page's name in a run's folder.
pub const FILE_NAME: &str = "report.html";

/// A run, with what several sections show of it.
struct Run<'a> {
    summary: &'a Summary,
    /// All intervals.
    recorder: Recorder,
    stretches: Vec<Stretch>,
    /// The targets about times.
    bounds: Vec<TimeBound>,
}

impl Run<'_> {
    fn samples(&self, metric: Metric) -> Samples<'_> {
        let infinite = self.summary.metrics.get(metric.name()).map_or(0, |metric| metric.infinite);
        Samples { histogram: self.recorder.of(metric), infinite }
    }

    /// The targets about times of a metric, by its name in targets.
    fn bounds(&self, metric: &str) -> impl Iterator<Item = &TimeBound> {
        self.bounds.iter().filter(move |bound| bound.metric == metric)
    }
}

/// Writes the page of a run into its folder. Returns the file.
///
/// # Errors
/// Those of the file system.
pub fn write(dir: &Path, summary: &Summary, intervals: &[Interval]) -> io::Result<PathBuf> {
    let file = dir.join(FILE_NAME);
    fs::write(&file, render(summary, intervals))?;
    Ok(file)
}

/// Renders the page of a run.
#[must_use]
pub fn render(summary: &Summary, intervals: &[Interval]) -> String {
    let mut recorder = Recorder::default();
    for interval in intervals {
        recorder.add(&interval.recorder);
    }
    let terms = summary.verdict.terms.iter();
    // A target that only a later build reads is in the table, and not in charts.
    let bounds = terms.filter_map(|term| term.term.parse::<Slo>().ok()).flat_map(|slo| slo.time_bounds());
    let duration = Duration::from_nanos(summary.workload.duration_ns());
    let run = Run { summary, recorder, stretches: stretches(intervals, duration), bounds: bounds.collect() };
    page(&run).into_string()
}

fn page(run: &Run<'_>) -> Markup {
    let summary = run.summary;
    let judgement = summary.verdict.judgement;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                title { (judgement.to_string()) " · " (summary.target.url) " · " (summary.started) }
                link rel="icon" href=(icon(judgement));
                style { (PreEscaped(include_str!("report_page/style.css"))) }
            }
            body {
                (verdict::render(run))
                nav aria-label="Sections" {
                    @for (id, name) in SECTIONS {
                        @if is_there(run, id) { a href={ "#" (id) } { (name) } " " }
                    }
                }
                main {
                    (latency::render(run))
                    (lobby::render(run))
                    (over_time::render(run))
                    (ledger::render(run))
                    (scenario::render(run))
                    (health::render(run))
                    (relay::render(run))
                    (place::render(run))
                }
                footer {
                    p {
                        "Made by loadgen " (summary.environment.build.version)
                        " from " code { "summary.json" } " and " code { "intervals.hlog" }
                        "; " code { "loadgen report DIR" } " makes it again. HdrHistogram’s tools read the log."
                    }
                }
            }
        }
    }
}

/// Whether a section is on the page of this run.
fn is_there(run: &Run<'_>, id: &str) -> bool {
    match id {
        "lobby" => lobby::is_shown(run),
        "scenario" => scenario::is_shown(run),
        "relay" => relay::is_shown(run),
        _ => true,
    }
}

const SECTIONS: [(&str, &str); 10] = [
    ("latency", "Latency"),
    ("lobby", "Lobby"),
    ("over-time", "Over time"),
    ("ledger", "Ledger"),
    ("scenario", "Scenario"),
    ("generator", "Generator"),
    ("relay", "Relay"),
    ("workload", "Workload"),
    ("environment", "Environment"),
    ("repeat", "Repeat it"),
];

/// A dot in the colour of the verdict, for the tab; without one browsers ask the server.
fn icon(judgement: Judgement) -> String {
    let colour = match judgement {
        Judgement::Pass => "1a7f4b",
        Judgement::Fail => "c2362f",
        Judgement::Invalid => "b07a00",
    };
    format!(
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
         %3Ccircle cx='8' cy='8' r='7' fill='%23{colour}'/%3E%3C/svg%3E"
    )
}

#[cfg(test)]
mod tests;
