//! What a comparison prints, for people.

use std::fmt::{self, Write};

use super::figure::Figure;
use super::{Comparison, Row, SideRecord};
use crate::slo::Judgement;
use crate::units::show_count;

/// Renders a comparison.
#[must_use]
pub fn render(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = render_into(&mut out, comparison);
    out
}

fn render_into(out: &mut String, comparison: &Comparison) -> fmt::Result {
    writeln!(out)?;
    for (name, side) in [('A', &comparison.a), ('B', &comparison.b)] {
        writeln!(out, "{name}  {}", about(side))?;
    }
    for difference in &comparison.likeness.relay {
        writeln!(out, "   {difference}")?;
    }
    let (machine, workload) = (&comparison.likeness.machine, &comparison.likeness.workload);
    let same = |differences: &[super::likeness::Dissimilarity]| {
        if differences.is_empty() { "the same" } else { "NOT the same" }
    };
    let turns = if comparison.paired { ", runs took turns" } else { "" };
    writeln!(out, "   machine {}, workload {}{turns}", same(machine), same(workload))?;
    for caution in &comparison.cautions {
        writeln!(out, "caution: {caution}")?;
    }
    if !comparison.rows.is_empty() {
        writeln!(out, "\n{:<15}{:>12}{:>12}{:>10}   {:<20}{:>9}   verdict", "", "A", "B", "Δ", "95 % interval", "A–A")?;
    }
    for row in &comparison.rows {
        row_into(out, row)?;
    }
    for reason in &comparison.left_out {
        writeln!(out, "left out: {reason}")?;
    }
    writeln!(out)?;
    for term in &comparison.terms {
        let judgement = match term.judgement {
            Judgement::Pass => "kept",
            Judgement::Fail => "EXCEEDED",
            Judgement::Invalid => "CANNOT TELL",
        };
        writeln!(out, "{judgement:<11}  {}  (found: {})", term.term, term.found)?;
    }
    writeln!(out, "{}: {}", comparison.verdict.text().to_uppercase(), comparison.headline)
}

fn about(side: &SideRecord) -> String {
    let folder = match &side.runs[..] {
        [] => String::new(),
        [one] => one.display().to_string(),
        [first, .., last] => {
            let name = last.file_name().unwrap_or(last.as_os_str());
            format!("{} … {}", first.display(), name.display())
        }
    };
    let aside = if side.set_aside.is_empty() { String::new() } else { format!(", {} set aside", side.set_aside.len()) };
    let count = side.runs.len();
    let runs = if count == 1 { "run" } else { "runs" };
    format!(
        "{folder}: {count} {runs}{aside}, {} messages, {} undelivered",
        show_count(side.sent),
        show_count(side.undelivered)
    )
}

fn row_into(out: &mut String, row: &Row) -> fmt::Result {
    let show = |value: f64| Figure::named(&row.figure).map_or_else(|| value.to_string(), |figure| figure.show(value));
    writeln!(
        out,
        "{:<15}{:>12}{:>12}{:>10}   {:<20}{:>9}   {}",
        row.figure,
        show(row.a),
        show(row.b),
        show_change(row.change),
        row.interval.map_or_else(|| "unknown".to_owned(), show_interval),
        format!("±{}", show_percent(row.noise)),
        row.verdict.text(),
    )
}

/// A share as `+5.2 %`; what is more than tenfold as `×12`.
pub(super) fn show_change(change: f64) -> String {
    if change >= 9.0 { show_percent(change) } else { format!("{:+.1} %", change * 100.0) }
}

/// A share as people give it: `10 %`, `2.5 %`.
pub(super) fn show_given(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 100.0)
}

/// A share as `5.2 %`; what is more than tenfold as `×12`.
pub(super) fn show_percent(share: f64) -> String {
    if share >= 9.0 { format!("×{:.0}", (share + 1.0).min(1e6)) } else { format!("{:.1} %", share * 100.0) }
}

pub(super) fn show_interval([low, high]: [f64; 2]) -> String {
    format!("{} … {}", show_change(low), show_change(high))
}
