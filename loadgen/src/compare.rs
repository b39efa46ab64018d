//! Two sets of runs set against each other: is B slower than A, or is it chance?
//!
//! # Flow
//! ```text
//! folders ── side::read ──> Archive, one at a time ──> sample::Run      INVALID runs are set aside
//! likeness                  same workload? same machine? what differs in the relay?
//! bootstrap                 difference, standard error, noise floor of each figure
//! judge                     the verdict of each figure, and of all ──> table, JSON, exit code
//! ```
//!
//! # What is called a change
//! A figure is `slower` or `faster` (worse or better: more CPU is slower too) only when
//! - its interval excludes zero, at a confidence so high that **all** figures of a comparison together
//!   are wrong once in twenty comparisons of equal builds (Bonferroni),
//! - the runs one by one tell the same, so that a few bad ones cannot carry it, and
//! - the difference is larger than what A differs from itself by, and larger than 1 %.
//!
//! What is not called is `no change` if the 95 % interval lies within ±10 % (`--resolution`): a change of
//! that size would have shown. If it does not, the figure is `undecided`.
//!
//! The headline is a change if any figure has one. Without, it is `no change` if the central figures
//! (median of messages or, in a closed loop, throughput; median of lobby changes; CPU) all are, and
//! `undecided` otherwise.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use crate::archive::ArchiveError;
use crate::exit::Exit;
use crate::slo::Judgement;
use crate::summary::Summary;
use crate::units::show_count;
use crate::validity::FindingKind;

use fail_on::TermOutcome;
use judge::judge;
use likeness::Likeness;
use sample::Run;

pub use fail_on::Term;
pub use live::{LiveError, Round, take_turns};
pub use side::{Side, SideRecord};

mod bootstrap;
mod fail_on;
pub mod figure;
mod judge;
pub mod likeness;
mod live;
mod sample;
mod side;
pub mod table;
#[cfg(test)]
mod tests;

/// Why runs cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A folder cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A folder cannot be looked into.
    #[error("{path}: {error}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A folder holds no runs.
    #[error(
        "{path} is no run's folder and holds none: name folders that `loadgen run --out` wrote, or one that holds such",
        path = path.display()
    )]
    NoRuns {
        /// The folder.
        path: PathBuf,
    },
    /// A run would count twice.
    #[error("{path} is named twice: a run counts once, on one side", path = path.display())]
    Twice {
        /// Its folder.
        path: PathBuf,
    },
    /// All runs of a side are INVALID.
    #[error("all {count} runs of {side} are INVALID, so there is nothing to compare; they say why:\n{why}")]
    AllInvalid {
        /// `A` or `B`.
        side: char,
        /// How many.
        count: usize,
        /// Reasons, one a line.
        why: String,
    },
    /// The workloads differ.
    #[error(
        "the workloads differ, so a difference says nothing about the relay:\n{differences}run both with the same options, \
         or add --force to compare nevertheless"
    )]
    OtherWorkload {
        /// One a line.
        differences: String,
    },
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The change that must not stay hidden for a figure to be `no change`: 0.1 is 10 %.
    pub resolution: f64,
    /// What makes the command fail.
    pub fail_on: Vec<Term>,
    /// Whether to compare different workloads.
    pub force: bool,
}

impl Default for Question {
    fn default() -> Self {
        Self { resolution: 0.1, fail_on: Vec::new(), force: false }
    }
}

/// What a comparison says of a figure, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A change of the resolution asked for would have shown.
    NoChange,
    /// B is worse.
    Slower,
    /// B is better.
    Faster,
    /// The runs cannot tell.
    Undecided,
}

impl Verdict {
    /// As people read it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoChange => "no change",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Undecided => "undecided",
        }
    }
}

/// One figure, compared. Changes are shares of A: 0.05 is 5 % more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub figure: String,
    /// Of all of A's runs together. Nanoseconds, or messages a second.
    pub a: f64,
    /// Of all of B's.
    pub b: f64,
    /// B over A, less one.
    pub change: f64,
    /// The 95 % interval of the change; `None` when there is nothing to tell it from: CPU time of one
    /// run a side.
    pub interval: Option<[f64; 2]>,
    /// What A differs from itself by: in 95 % of splits less than that.
    pub noise: f64,
    /// Whether the headline needs it.
    pub central: bool,
    /// What it says.
    pub verdict: Verdict,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The form of this record.
    pub schema: &'static str,
    /// A.
    pub a: SideRecord,
    /// B.
    pub b: SideRecord,
    /// What is not the same.
    pub likeness: Likeness,
    /// Whether runs took turns, and were enough of them to set neighbours against each other.
    pub paired: bool,
    /// Each figure.
    pub rows: Vec<Row>,
    /// Figures that were left out, with the reason.
    pub left_out: Vec<String>,
    /// Over all figures.
    pub verdict: Verdict,
    /// The verdict in a sentence, and what to do about it.
    pub headline: String,
    /// What a reader should know first.
    pub cautions: Vec<String>,
    /// `--fail-on`, judged.
    pub terms: Vec<TermOutcome>,
}

/// The form of [`Comparison`].
const SCHEMA: &str = "relay-loadgen-comparison/1";

impl Comparison {
    /// How the command ends: by `--fail-on` if there is any, and otherwise by whether the runs tell
    /// anything.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let any = |judgement| self.terms.iter().any(|term| term.judgement == judgement);
        if any(Judgement::Fail) {
            Exit::Missed
        } else if any(Judgement::Invalid) || (self.terms.is_empty() && self.verdict == Verdict::Undecided) {
            Exit::Invalid
        } else {
            Exit::Pass
        }
    }
}

/// Sets B against A.
///
/// # Errors
/// [`CompareError::OtherWorkload`], [`CompareError::Twice`].
pub fn compare(a: &Side, b: &Side, question: &Question) -> Result<Comparison, CompareError> {
    if let Some(path) = a.same_run(b) {
        return Err(CompareError::Twice { path });
    }
    let likeness = Likeness::of(&a.summaries(), &b.summaries());
    if !likeness.workload.is_empty() && !question.force {
        let differences = likeness.workload.iter().map(|difference| format!("  {difference}\n")).collect();
        return Err(CompareError::OtherWorkload { differences });
    }
    let (runs_a, runs_b) = (a.samples(), b.samples());
    let paired = took_turns(&runs_a, &runs_b);
    let workload = &a.runs[0].1.workload;
    let outcome = judge(&runs_a, &runs_b, paired, workload.is_closed_loop(), question);
    let (record_a, record_b) = (a.record(), b.record());
    let cautions = cautions(a, b, &likeness, &record_a, &record_b, paired);
    Ok(Comparison {
        schema: SCHEMA,
        a: record_a,
        b: record_b,
        likeness,
        paired,
        rows: outcome.rows,
        left_out: outcome.left_out,
        verdict: outcome.verdict,
        headline: outcome.headline,
        cautions,
        terms: outcome.terms,
    })
}

/// With fewer pairs than this, pairs cost more certainty than they give: half of the degrees of
/// freedom.
const PAIRS_MIN: usize = 5;

/// Whether runs alternated: sorted by time, each two that follow each other are one of A and one of B.
fn took_turns(a: &[Run], b: &[Run]) -> bool {
    if a.len() != b.len() || a.len() < PAIRS_MIN {
        return false;
    }
    let mut order: Vec<(SystemTime, char)> = a.iter().map(|run| (run.began, 'A')).collect();
    order.extend(b.iter().map(|run| (run.began, 'B')));
    order.sort_unstable();
    order.chunks_exact(2).all(|pair| pair[0].1 != pair[1].1)
}

/// What a reader has to know before the figures.
fn cautions(
    a: &Side,
    b: &Side,
    likeness: &Likeness,
    record_a: &SideRecord,
    record_b: &SideRecord,
    paired: bool,
) -> Vec<String> {
    let mut cautions = Vec::new();
    for side in [a, b] {
        for (folder, reason) in &side.set_aside {
            cautions.push(format!("set aside from {}, INVALID: {}: {reason}", side.name, folder.display()));
        }
    }
    for difference in &likeness.workload {
        cautions.push(format!("ANOTHER WORKLOAD: {difference}"));
    }
    for difference in &likeness.machine {
        cautions.push(format!("ANOTHER MACHINE: {difference}"));
    }
    for difference in &likeness.generator {
        cautions.push(format!("ANOTHER GENERATOR: {difference}"));
    }
    let floored = |side: &Side| {
        let is_floor = |summary: &Summary| summary.findings.iter().any(|finding| finding.kind == FindingKind::Floor);
        side.runs.iter().filter(|(_, summary, _)| is_floor(summary)).count()
    };
    if floored(a) + floored(b) > 0 {
        cautions.push(format!(
            "the generator was the bound in {} of A's runs and {} of B's: throughput and times are its own there, and only \
             cpu tells the relays apart; add --workers, or use a --rate",
            floored(a),
            floored(b)
        ));
    }
    let before = |one: &Side, other: &Side| {
        one.runs.iter().map(|(_, _, run)| run.began).max() < other.runs.iter().map(|(_, _, run)| run.began).min()
    };
    if !paired && (before(a, b) || before(b, a)) {
        cautions.push(
            "all runs of one side came before those of the other: what changed on the machine in between counts as a \
             change; `loadgen compare --live` takes turns"
                .to_owned(),
        );
    }
    if (record_a.undelivered == 0) != (record_b.undelivered == 0) || (record_a.faults == 0) != (record_b.faults == 0) {
        let told = |record: &SideRecord| {
            format!(
                "{} of {} undelivered, {} other faults",
                show_count(record.undelivered),
                show_count(record.sent),
                show_count(record.faults)
            )
        };
        cautions.push(format!("MESSAGES WENT WRONG ON ONE SIDE: A {}; B {}", told(record_a), told(record_b)));
    }
    cautions
}
