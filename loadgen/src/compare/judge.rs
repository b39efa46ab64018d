//! From samples to verdicts: everything of a comparison that is arithmetic.

use std::time::SystemTime;

use super::bootstrap::{Bench, Difference};
use super::fail_on::{TermOutcome, judge_terms};
use super::figure::{Figure, Series};
use super::sample::{Indexed, Run, Scale, Sum};
use super::{Question, Row, Verdict, table};
use crate::rng::mix;
use crate::units::show_count;

/// How often all figures of a comparison of equal builds together may be called changed.
const FALSE_ALARMS: f64 = 0.05;

/// Confidence of the intervals that are shown.
const CONFIDENCE: f64 = 0.95;

/// What is smaller is not called a change, however sure: histograms are right to 0.1 %, CPU time to
/// hundredths of a second, and nobody decides by less.
const NOISE_MIN: f64 = 0.01;

/// A percentile with fewer samples above it is not compared.
const SAMPLES_ABOVE_MIN: f64 = 20.0;

/// What [`judge`] finds.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) rows: Vec<Row>,
    pub(super) left_out: Vec<String>,
    pub(super) verdict: Verdict,
    pub(super) headline: String,
    pub(super) terms: Vec<TermOutcome>,
}

/// Judges samples.
pub(super) fn judge(a: &[Run], b: &[Run], paired: bool, closed: bool, question: &Question) -> Outcome {
    let scale = Scale::of(a, b);
    let (indexed_a, indexed_b) = (Indexed::new(a, &scale), Indexed::new(b, &scale));
    let seed = a.iter().chain(b).fold(0, seed_of);
    let bench = Bench { a: &indexed_a, b: &indexed_b, scale: &scale, paired, seed };
    let (mut figures, mut left_out) = (Vec::new(), Vec::new());
    let (whole_a, whole_b) = (bench.whole(&indexed_a), bench.whole(&indexed_b));
    for figure in Figure::all() {
        let above = |whole: &Sum| whole.samples_above(figure);
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
        Figure::Percentile { series: Series::Ack, .. } => false,
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
    let percent = table::show_given(resolution);
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
