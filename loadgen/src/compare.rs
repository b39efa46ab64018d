//! Two sets of runs set against each other: is B slower than A, or is it chance?
//!
//! # Flow
//! ```text
//! folders ── Side::read ──> Archive, one at a time ──> sample::Run      INVALID runs are set aside
//! likeness                  same workload? same machine? what differs in the relay?
//! bootstrap                 difference, standard error, noise floor of each figure
//! judge ──> Row::verdict ──> Headline ──> table, JSON, exit code
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

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::archive::{self, ArchiveError};
use crate::exit::Exit;
use crate::rng::mix;
use crate::slo::Judgement;
use crate::summary::Summary;
use crate::units::show_count;
use crate::validity::FindingKind;

use bootstrap::{Bench, Difference};
use fail_on::{TermOutcome, judge_terms};
use figure::{Figure, Series};
use likeness::Likeness;
use sample::{Indexed, Run, Scale};

pub use fail_on::Term;
pub use live::{LiveError, Round, take_turns};

mod bootstrap;
mod fail_on;
pub mod figure;
pub mod likeness;
mod live;
mod sample;
pub mod table;
#[cfg(test)]
mod tests;

/// How often all figures of a comparison of equal builds together may be called changed.
const FALSE_ALARMS: f64 = 0.05;

/// Confidence of the intervals that are shown.
const CONFIDENCE: f64 = 0.95;

/// What is smaller is not called a change, however sure: histograms are right to 0.1 %, CPU time to
/// hundredths of a second, and nobody decides by less.
const NOISE_MIN: f64 = 0.01;

/// A percentile with fewer samples above it is not compared.
const SAMPLES_ABOVE_MIN: f64 = 20.0;

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

/// One side's runs.
#[derive(Clone, Debug)]
pub struct Side {
    name: char,
    runs: Vec<(PathBuf, Summary, Run)>,
    set_aside: Vec<(PathBuf, String)>,
}

/// One side, as a comparison tells of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SideRecord {
    /// Folders of the runs that were compared.
    pub runs: Vec<PathBuf>,
    /// Folders of runs that were not, and why.
    pub set_aside: Vec<(PathBuf, String)>,
    /// Messages due that did not arrive as sent.
    pub undelivered: u64,
    /// Messages sent.
    pub sent: u64,
    /// Everything else that was wrong: duplicates, faults.
    pub faults: u64,
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

impl Side {
    /// Reads runs: each path is a run's folder, or one that holds such. INVALID ones are set aside.
    ///
    /// # Errors
    /// [`CompareError`].
    pub fn read(name: char, paths: &[PathBuf]) -> Result<Self, CompareError> {
        let mut side = Self { name, runs: Vec::new(), set_aside: Vec::new() };
        for path in paths {
            for folder in run_folders(path)? {
                // The histograms of one run at a time are in memory.
                let archive = archive::read(&folder)?;
                match reason_to_set_aside(&archive.summary) {
                    Some(reason) => side.set_aside.push((folder, reason)),
                    None => side.runs.push((folder, archive.summary.clone(), Run::of(&archive))),
                }
            }
        }
        if side.runs.is_empty() {
            let why = side.set_aside.iter().map(|(folder, reason)| format!("  {}: {reason}\n", folder.display()));
            return Err(CompareError::AllInvalid { side: name, count: side.set_aside.len(), why: why.collect() });
        }
        side.runs.sort_by_key(|(_, _, run)| run.began);
        Ok(side)
    }

    fn samples(&self) -> Vec<Run> {
        self.runs.iter().map(|(_, _, run)| run.clone()).collect()
    }

    fn summaries(&self) -> Vec<&Summary> {
        self.runs.iter().map(|(_, summary, _)| summary).collect()
    }

    fn record(&self) -> SideRecord {
        let sum = |count: fn(&Summary) -> u64| self.runs.iter().map(|(_, summary, _)| count(summary)).sum();
        SideRecord {
            runs: self.runs.iter().map(|(folder, ..)| folder.clone()).collect(),
            set_aside: self.set_aside.clone(),
            undelivered: sum(|summary| summary.ledger.undelivered()),
            sent: sum(|summary| summary.ledger.sent),
            faults: sum(|summary| summary.ledger.duplicates + summary.ledger.faults()),
        }
    }
}

/// The run's folder itself, or those that it holds, by name.
fn run_folders(path: &Path) -> Result<Vec<PathBuf>, CompareError> {
    if archive::is_run(path) {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| CompareError::Folder { path: path.to_owned(), error };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        if archive::is_run(&folder) {
            folders.push(folder);
        }
    }
    if folders.is_empty() {
        return Err(CompareError::NoRuns { path: path.to_owned() });
    }
    folders.sort();
    Ok(folders)
}

/// Why a run says nothing about the relay, if it does.
fn reason_to_set_aside(summary: &Summary) -> Option<String> {
    let reasons: Vec<&str> =
        summary.findings.iter().filter(|finding| finding.spoils_run()).map(|finding| finding.text.as_str()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Sets B against A.
///
/// # Errors
/// [`CompareError::OtherWorkload`].
pub fn compare(a: &Side, b: &Side, question: &Question) -> Result<Comparison, CompareError> {
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

/// What [`judge`] finds.
#[derive(Debug)]
struct Outcome {
    rows: Vec<Row>,
    left_out: Vec<String>,
    verdict: Verdict,
    headline: String,
    terms: Vec<TermOutcome>,
}

/// Judges samples: everything of a comparison that is arithmetic.
fn judge(a: &[Run], b: &[Run], paired: bool, closed: bool, question: &Question) -> Outcome {
    let scale = Scale::of(a, b);
    let (indexed_a, indexed_b) = (Indexed::new(a, &scale), Indexed::new(b, &scale));
    let seed = a.iter().chain(b).fold(0, seed_of);
    let bench = Bench { a: &indexed_a, b: &indexed_b, scale: &scale, paired, seed };
    let (mut figures, mut left_out) = (Vec::new(), Vec::new());
    let (whole_a, whole_b) = (bench.whole(&indexed_a), bench.whole(&indexed_b));
    for figure in Figure::all() {
        let above = |whole: &sample::Sum| whole.samples_above(figure);
        let (least, most) = (above(&whole_a).min(above(&whole_b)), above(&whole_a).max(above(&whole_b)));
        if least >= SAMPLES_ABOVE_MIN {
            figures.push(figure);
        } else if most > 0.0 {
            left_out.push(format!(
                "{figure}: {} samples lie above it on one side, and {SAMPLES_ABOVE_MIN} are needed: run longer",
                show_count(least as u64)
            ));
        }
    }
    let differences = bench.differences(&figures);
    let confidence = 1.0 - FALSE_ALARMS / differences.len().max(1) as f64;
    let rows: Vec<Row> = differences
        .iter()
        .map(|difference| row(difference, confidence, is_central(difference.figure, closed), question.resolution))
        .collect();
    let (verdict, headline) = headline(&rows, &differences, a.len().min(b.len()), question.resolution);
    let terms = judge_terms(&question.fail_on, &differences, verdict);
    Outcome { rows, left_out, verdict, headline, terms }
}

/// Whether the headline needs this figure.
fn is_central(figure: Figure, closed: bool) -> bool {
    match figure {
        Figure::Percentile { series: Series::Message, percent } => !closed && percent == 50.0,
        Figure::Percentile { series: Series::Lobby, percent } => percent == 50.0,
        Figure::Throughput => closed,
        Figure::Cpu => true,
    }
}

/// The same runs give the same draws.
fn seed_of(seed: u64, run: &Run) -> u64 {
    let began = run.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let counts = run.seconds.iter().flat_map(|second| second.message.iter().chain(&second.lobby));
    counts.fold(mix(seed ^ began.as_millis() as u64), |seed, &(value, count)| mix(seed ^ value ^ count << 40))
}

fn row(difference: &Difference, confidence: f64, central: bool, resolution: f64) -> Row {
    let change = |log: f64| log.exp_m1();
    let noise = difference.noise.exp_m1().max(NOISE_MIN);
    let margin = difference.margin(CONFIDENCE);
    let ends = [change(difference.log_ratio - margin), change(difference.log_ratio + margin)];
    let known = difference.freedom.is_some() || difference.figure != Figure::Cpu;
    let verdict = if difference.is_sure(confidence) && difference.log_ratio.abs() > noise.ln_1p() {
        if (difference.log_ratio > 0.0) == difference.figure.grows_worse() { Verdict::Slower } else { Verdict::Faster }
    } else if difference.freedom.is_some() && ends.iter().all(|end| end.abs() <= resolution) {
        Verdict::NoChange
    } else {
        Verdict::Undecided
    };
    Row {
        figure: difference.figure.to_string(),
        a: difference.a,
        b: difference.b,
        change: change(difference.log_ratio),
        interval: known.then_some(ends),
        noise,
        central,
        verdict,
    }
}

/// The verdict over all rows, and its sentence.
fn headline(rows: &[Row], differences: &[Difference], runs: usize, resolution: f64) -> (Verdict, String) {
    let list = |wanted: Verdict| {
        let named = rows.iter().filter(|row| row.verdict == wanted);
        let shown = named.map(|row| format!("{} {}", row.figure, table::show_change(row.change)));
        shown.collect::<Vec<_>>().join(", ")
    };
    let (slower, faster) = (list(Verdict::Slower), list(Verdict::Faster));
    let percent = table::show_percent(resolution);
    if !slower.is_empty() {
        let but = if faster.is_empty() { String::new() } else { format!("; faster: {faster}") };
        return (Verdict::Slower, format!("B is slower: {slower}{but}"));
    }
    if !faster.is_empty() {
        return (Verdict::Faster, format!("B is faster: {faster}"));
    }
    if rows.is_empty() {
        return (
            Verdict::Undecided,
            "there is nothing to compare: the runs have no messages and no visitors".to_owned(),
        );
    }
    if differences.iter().any(|difference| difference.freedom.is_none()) {
        return (
            Verdict::Undecided,
            "one run on each side does not tell what differs from build to build from what differs from run to run: \
             take at least 5 a side, in turns (loadgen compare --live)"
                .to_owned(),
        );
    }
    let central = || rows.iter().zip(differences).filter(|(row, _)| row.central);
    let wide: Vec<_> = central().filter(|(row, _)| row.verdict != Verdict::NoChange).collect();
    if wide.is_empty() && central().next().is_some() {
        let hidden: Vec<String> = rows
            .iter()
            .filter(|row| row.verdict == Verdict::Undecided)
            .filter_map(|row| Some(format!("{} ({})", row.figure, table::show_interval(row.interval?))))
            .collect();
        let but = if hidden.is_empty() { String::new() } else { format!("; too noisy to tell: {}", hidden.join(", ")) };
        return (Verdict::NoChange, format!("no change of {percent} or more{but}"));
    }
    let names: Vec<&str> = wide.iter().map(|(row, _)| row.figure.as_str()).collect();
    // The error shrinks with the square root of the runs. Two of them are to be half of the resolution,
    // so that an equal build's chance difference finds room in the other half.
    let widest = wide.iter().map(|(_, difference)| 2.0 * difference.standard_error).fold(0.0, f64::max);
    let needed = (runs as f64 * (widest / (resolution / 2.0).ln_1p()).powi(2)).ceil().max(runs as f64 + 2.0);
    let advice = if needed <= 100.0 {
        format!("take about {needed:.0} a side, in turns (loadgen compare --live --rounds {needed:.0})")
    } else {
        "the machine is too noisy for that: keep it quiet, pin cores, run longer".to_owned()
    };
    (
        Verdict::Undecided,
        format!("{} runs a side cannot tell a change of {percent} in {}: {advice}", runs, names.join(", ")),
    )
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
