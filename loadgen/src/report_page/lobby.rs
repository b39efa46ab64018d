//! The lobby as watchers saw it.

use maud::{Markup, html};

use super::Run;
use super::latency::{percentile_chart, times};
use super::verdict::warnings;
use crate::recorder::Metric;
use crate::table;
use crate::units::{show_count, trim_zeros};

/// Whether there is anything to show.
pub(super) fn is_shown(run: &Run<'_>) -> bool {
    run.summary.lobby.clients > 0
}

/// The section; nothing without a lobby.
pub(super) fn render(run: &Run<'_>) -> Markup {
    if !is_shown(run) {
        return html! {};
    }
    let lobby = &run.summary.lobby;
    let steady = &run.summary.steady;
    const CLASSES: [&str; 5] = ["one", "two", "three", "five", "four"];
    let names = table::rows(run.summary);
    let curves: Vec<_> = Metric::ALL
        .into_iter()
        .filter(|metric| metric.name().starts_with("lobby."))
        .zip(CLASSES.into_iter().cycle())
        .map(|(metric, class)| {
            let name =
                names.iter().find(|(_, key)| *key == metric.name()).map_or(metric.name(), |(name, _)| name.trim());
            (name, run.samples(metric), class)
        })
        .collect();
    let bounds: Vec<_> = run.bounds.iter().filter(|bound| bound.metric.starts_with("lobby")).collect();
    let against = if lobby.truth_known { "the truth" } else { "each other" };
    html! {
        section aria-labelledby="lobby" {
            h2 #lobby { "Lobby" }
            p {
                "At the end the lobbies of " (show_count(lobby.clients)) " clients were compared with " (against) ": "
                strong.bad[lobby.diverged_at_end > 0] { (show_count(lobby.diverged_at_end)) " wrong" }
                ", " (show_count(lobby.diverged)) " diverged at some time. "
                @if let Some(reach) = run.summary.lobby_reach {
                    (show_count(steady.joins)) " joins and " (show_count(steady.leaves)) " leaves reached "
                    strong.bad[reach < 1.0] { (trim_zeros(&format!("{:.2}", reach * 100.0))) " %" }
                    " of the watchers that were there"
                    @if run.summary.reach.incomplete > 0 {
                        "; " strong.bad { (show_count(run.summary.reach.incomplete)) } " of them did not reach all"
                    }
                    "."
                } @else {
                    "Nobody joined or left in the steady phase."
                }
            }
            (warnings(run, "lobby"))
            @if let Some(chart) = percentile_chart("lobby-percentiles", "Lobby latency by percentile", &curves, &bounds) {
                (chart.render(&html! { "Joins and leaves have one sample for each watcher; the first, the median and the last watcher one for each \
                     join or leave." }))
            }
            (times(run, "Sightings of joins and leaves", |name| name.starts_with("lobby")))
        }
    }
}
