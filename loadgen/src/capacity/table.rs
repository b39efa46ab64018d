//! What a search prints: a line for each step, then where the knee is and what was full.

use std::fmt::Write;

use super::{Capacity, Outcome, RateRecord, Step};
use crate::slo::Judgement;
use crate::units::{show_count, show_ns};

/// A step in one line, as it is over.
#[must_use]
pub fn line(step: &Step) -> String {
    let reasons = if step.reasons.is_empty() { String::new() } else { format!(": {}", step.reasons.join("; ")) };
    format!(
        "step {}: {}/s {}, message p99 {}{reasons}",
        step.number,
        show_count(step.rate_per_second),
        step.judgement,
        time(step.message_p99_ns),
    )
}

/// Renders a search.
#[must_use]
pub fn render(capacity: &Capacity) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = render_into(&mut out, capacity);
    out
}

fn render_into(out: &mut String, capacity: &Capacity) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:>4}{:>12}{:>12}{:>12}{:>12}{:>14}{:>11}{:>9}  verdict",
        "step", "due", "delivered", "p50", "p99", "send lag p99", "generator", "relay"
    )?;
    for step in &capacity.steps {
        writeln!(
            out,
            "{:>4}{:>12}{:>12}{:>12}{:>12}{:>14}{:>11}{:>9}  {}{}",
            step.number,
            rate(step.rate_per_second),
            rate(step.delivered_per_second.round() as u64),
            time(step.message_p50_ns),
            time(step.message_p99_ns),
            step.send_lag_p99_ns.map_or_else(|| "-".to_owned(), show_ns),
            share(step.generator_busy),
            share(step.relay_busy),
            step.judgement.to_string().trim_end(),
            step.reasons.first().map(|reason| format!(": {reason}")).unwrap_or_default(),
        )?;
    }
    writeln!(out, "\ntargets   {}, and keep pace", capacity.targets.join(", "))?;
    let (low, high) = capacity.between;
    let knee = capacity.rate_per_second.map_or_else(|| "none".to_owned(), rate);
    match capacity.outcome {
        Outcome::Found => {
            writeln!(out, "capacity  {knee}, between {} and {}", rate(low), rate(high))?;
            if let (Some(kept), Some(missed)) = (capacity.kept, capacity.missed) {
                writeln!(out, "          {}; {}", kept_by(&kept), missed_by(&missed))?;
            }
        }
        Outcome::AtLeast => {
            writeln!(out, "capacity  at least {knee}")?;
            if let Some(kept) = capacity.kept {
                writeln!(out, "          {}", kept_by(&kept))?;
            }
        }
        Outcome::NothingKept => {
            let lowest = capacity.missed.map_or(0, |missed| missed.rate_per_second);
            writeln!(out, "capacity  none: not even {} keeps all targets", rate(lowest))?;
        }
        Outcome::Blind => writeln!(out, "capacity  unknown: no step says anything about the relay")?,
    }
    let fix = capacity.limit.fix.as_ref().map(|fix| format!(" ({fix})")).unwrap_or_default();
    writeln!(out, "limit     {}{fix}", capacity.limit.text)?;
    verdict(out, capacity)
}

fn verdict(out: &mut String, capacity: &Capacity) -> std::fmt::Result {
    use crate::exit::Exit;
    let asked = capacity.at_least.map(|wanted| format!(" {} asked for (--at-least)", rate(wanted))).unwrap_or_default();
    match capacity.exit() {
        Exit::Pass if capacity.at_least.is_some() => writeln!(out, "\n{}:{asked} and kept", Judgement::Pass),
        Exit::Missed if capacity.at_least.is_some() => writeln!(out, "\n{}:{asked} and not kept", Judgement::Fail),
        Exit::Missed => writeln!(out, "\n{}: no rate keeps all targets", Judgement::Fail),
        Exit::Invalid => {
            writeln!(out, "\n{}: the search says nothing of what the relay can do at most", Judgement::Invalid)
        }
        Exit::Pass | Exit::CouldNotRun | Exit::Usage => Ok(()),
    }
}

fn kept_by(record: &RateRecord) -> String {
    format!("{} kept all targets in {} of {} steps", rate(record.rate_per_second), record.kept, record.steps)
}

fn missed_by(record: &RateRecord) -> String {
    let missed = record.steps - record.kept;
    format!("{} missed one in {missed} of {}", rate(record.rate_per_second), record.steps)
}

fn rate(per_second: u64) -> String {
    format!("{}/s", show_count(per_second))
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "never".to_owned(), show_ns)
}

fn share(busy: Option<f64>) -> String {
    busy.map_or_else(|| "?".to_owned(), |busy| format!("{:.0} %", busy * 100.0))
}
