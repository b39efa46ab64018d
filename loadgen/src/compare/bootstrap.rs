//! How far a difference can be trusted: resampling of runs and their seconds, and A against itself.
//!
//! # Method
//! Differences are logarithms of ratios, B over A, of percentiles of **sums of histograms**.
//!
//! - **Standard error.** Runs, each a block of its seconds, are drawn with replacement; the figures of
//!   the sums vary from draw to draw. What differs from run to run (placement of memory, neighbours on
//!   the machine) is thereby counted, and whatever pattern the seconds of a run have stays whole.
//!   Draws of few runs vary too little, by (n - 1) / n, which is made up for. Of a single run its
//!   seconds are drawn.
//! - **Pairs.** Where runs of A and B took turns, each A with its neighbour B is drawn together: what
//!   both of them met at that time cancels out.
//! - **Interval.** Student's t around the difference, with Welch's degrees of freedom: with few runs a
//!   side it is wide, as it must be. One run beside several is taken to vary as they do; one run on
//!   each side says nothing of how runs vary, and no difference between them is ever called.
//! - **Run by run.** A percentile of a sum can be carried by few of its runs. So the runs' own
//!   percentiles, their logarithms compared by Student's t, have to tell the same before a change is
//!   called.
//! - **Noise floor.** A's runs are split at random into two halves, again and again; 95 % of splits
//!   differ by less than the floor. (Halves have fewer runs than A, and so differ more.)
//!
//! All draws come from a seed: the same runs give the same answer.

use distrs::StudentsT;

use super::figure::Figure;
use super::sample::{Indexed, IndexedRun, Scale, Sum};
use crate::rng::Rng;

/// Draws for the standard error, which they give to 2 %: 1 / sqrt(2 × 1000).
const DRAWS: usize = 1000;

/// Splits of A at most.
const SPLITS: usize = 400;

/// The share of splits below the noise floor.
const SPLITS_BELOW: f64 = 0.95;

/// Streams of the seed.
const DRAW_STREAM: u64 = 1;
const SPLIT_STREAM: u64 = 2;

/// One figure's difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) figure: Figure,
    /// Over all runs of a side.
    pub(super) a: f64,
    pub(super) b: f64,
    /// ln(b / a).
    pub(super) log_ratio: f64,
    pub(super) standard_error: f64,
    /// Degrees of freedom; `None` when nothing is known of how runs vary.
    pub(super) freedom: Option<f64>,
    /// |ln| that A differs from itself by.
    pub(super) noise: f64,
    /// The same difference as the mean of the runs' own, and the standard error of that.
    pub(super) run_by_run: (f64, f64),
}

impl Difference {
    /// Half the width of the interval around [`Difference::log_ratio`] that holds the truth with this
    /// probability. Without degrees of freedom it knows of seconds only.
    pub(super) fn margin(&self, confidence: f64) -> f64 {
        self.student(confidence) * self.standard_error
    }

    /// Whether there is a difference, at this confidence, all runs together and run by run.
    pub(super) fn is_sure(&self, confidence: f64) -> bool {
        let (mean, standard_error) = self.run_by_run;
        let towards = self.log_ratio.signum();
        self.freedom.is_some()
            && self.log_ratio.abs() > self.margin(confidence)
            && mean * towards > self.student(confidence) * standard_error
    }

    fn student(&self, confidence: f64) -> f64 {
        // Seconds are many: so many degrees of freedom make a normal distribution of it.
        StudentsT::ppf(0.5 + confidence / 2.0, self.freedom.unwrap_or(1000.0).max(1.0))
    }
}

/// Both sides, ready to be resampled.
#[derive(Clone, Debug)]
pub(super) struct Bench<'a> {
    pub(super) a: &'a Indexed,
    pub(super) b: &'a Indexed,
    pub(super) scale: &'a Scale,
    /// Whether runs took turns: the n-th of A and the n-th of B are neighbours in time.
    pub(super) paired: bool,
    pub(super) seed: u64,
}

impl Bench<'_> {
    /// The differences of these figures; those without a value on either side are left out.
    pub(super) fn differences(&self, figures: &[Figure]) -> Vec<Difference> {
        let values = |side| self.whole(side).values(figures, self.scale);
        let both = values(self.a).into_iter().zip(values(self.b));
        let found: Vec<(Figure, f64, f64)> =
            figures.iter().zip(both).filter_map(|(&figure, (a, b))| Some((figure, a?, b?))).collect();
        let figures: Vec<Figure> = found.iter().map(|&(figure, ..)| figure).collect();
        let errors = self.errors(&figures);
        let noise = self.noise(&figures);
        let run_by_run = self.run_by_run(&figures);
        found
            .into_iter()
            .zip(errors)
            .zip(noise.into_iter().zip(run_by_run))
            .map(|(((figure, a, b), (standard_error, freedom)), (noise, run_by_run))| Difference {
                figure,
                a,
                b,
                log_ratio: (b / a).ln(),
                standard_error,
                freedom,
                noise,
                run_by_run,
            })
            .collect()
    }

    pub(super) fn whole(&self, side: &Indexed) -> Sum {
        let mut sum = Sum::new(self.scale);
        for run in &side.runs {
            sum.add_run(run);
        }
        sum
    }

    /// Standard error and degrees of freedom of each figure's difference.
    fn errors(&self, figures: &[Figure]) -> Vec<(f64, Option<f64>)> {
        let mut rng = Rng::new(self.seed, DRAW_STREAM);
        let (runs_a, runs_b) = (self.a.runs.len(), self.b.runs.len());
        let mut moments = vec![Moments::default(); figures.len()];
        let mut sum = Sum::new(self.scale);
        for _ in 0..DRAWS {
            let drawn_a = draw(&mut rng, runs_a);
            let drawn_b = if self.paired { drawn_a.clone() } else { draw(&mut rng, runs_b) };
            let a = self.resample(&mut sum, &mut rng, self.a, &drawn_a, figures);
            let b = self.resample(&mut sum, &mut rng, self.b, &drawn_b, figures);
            for ((moments, a), b) in moments.iter_mut().zip(a).zip(b) {
                moments.add(a, b);
            }
        }
        moments.iter().map(|moments| self.error(moments)).collect()
    }

    /// The figures' logarithms of the runs drawn, or of seconds drawn from a single one.
    fn resample(
        &self,
        sum: &mut Sum,
        rng: &mut Rng,
        side: &Indexed,
        drawn: &[usize],
        figures: &[Figure],
    ) -> Vec<Option<f64>> {
        sum.clear();
        match &side.runs[..] {
            [single] => add_drawn_seconds(sum, rng, single),
            runs => drawn.iter().for_each(|&run| sum.add_run(&runs[run])),
        }
        sum.values(figures, self.scale).into_iter().map(|value| value.map(f64::ln)).collect()
    }

    /// Standard error and degrees of freedom, from how a figure's logarithm varies over draws.
    fn error(&self, moments: &Moments) -> (f64, Option<f64>) {
        // Draws of n runs vary by (n - 1) / n of what means of n runs do.
        let of_mean = |variance: f64, runs: f64| if runs > 1.0 { variance * runs / (runs - 1.0) } else { variance };
        let (runs_a, runs_b) = (self.a.runs.len() as f64, self.b.runs.len() as f64);
        self.combine(
            of_mean(moments.a.variance(), runs_a),
            of_mean(moments.b.variance(), runs_b),
            of_mean(moments.difference.variance(), runs_a),
        )
    }

    /// Standard error and degrees of freedom of a difference, from the variances of both sides' means
    /// and, for pairs, of the difference's.
    fn combine(&self, a: f64, b: f64, difference: f64) -> (f64, Option<f64>) {
        let (runs_a, runs_b) = (self.a.runs.len() as f64, self.b.runs.len() as f64);
        if self.paired {
            return (difference.sqrt(), Some(runs_a - 1.0));
        }
        match (runs_a > 1.0, runs_b > 1.0) {
            (true, true) => {
                let welch = (a + b).powi(2) / (a * a / (runs_a - 1.0) + b * b / (runs_b - 1.0));
                ((a + b).sqrt(), Some(if welch.is_finite() { welch } else { runs_a + runs_b - 2.0 }))
            }
            // A single run varies as those of the other side do, whose mean varies by `a`.
            (true, false) => ((a + b.max(a * runs_a)).sqrt(), Some(runs_a - 1.0)),
            (false, true) => ((b + a.max(b * runs_b)).sqrt(), Some(runs_b - 1.0)),
            (false, false) => ((a + b).sqrt(), None),
        }
    }

    /// Each figure's difference as the mean of the runs' own, with its standard error. A figure that a
    /// run does not have gives a difference of zero, which is sure of nothing.
    fn run_by_run(&self, figures: &[Figure]) -> Vec<(f64, f64)> {
        let mut sum = Sum::new(self.scale);
        let mut own = |side: &Indexed| -> Vec<Vec<Option<f64>>> {
            let values = side.runs.iter().map(|run| {
                sum.clear();
                sum.add_run(run);
                sum.values(figures, self.scale).into_iter().map(|value| value.map(f64::ln)).collect()
            });
            values.collect()
        };
        let (a, b) = (own(self.a), own(self.b));
        let spread = |values: &mut dyn Iterator<Item = Option<f64>>| -> Option<Spread> {
            let mut spread = Spread::default();
            for value in values {
                spread.add(value?);
            }
            Some(spread)
        };
        (0..figures.len())
            .map(|at| {
                let of_a = spread(&mut a.iter().map(|run| run[at]));
                let of_b = spread(&mut b.iter().map(|run| run[at]));
                let pairs = spread(&mut a.iter().zip(&b).map(|(a, b)| Some(b[at]? - a[at]?)));
                let (Some(of_a), Some(of_b), Some(pairs)) = (of_a, of_b, pairs) else { return (0.0, 0.0) };
                let of_mean = |spread: &Spread| spread.variance() / spread.n;
                let (error, _) = self.combine(of_mean(&of_a), of_mean(&of_b), of_mean(&pairs));
                (of_b.mean - of_a.mean, error)
            })
            .collect()
    }

    /// What A differs from itself by, for each figure.
    fn noise(&self, figures: &[Figure]) -> Vec<f64> {
        let mut rng = Rng::new(self.seed, SPLIT_STREAM);
        let mut differences: Vec<Vec<f64>> = vec![Vec::new(); figures.len()];
        let (mut one, mut other) = (Sum::new(self.scale), Sum::new(self.scale));
        for _ in 0..SPLITS {
            one.clear();
            other.clear();
            self.split(&mut rng, &mut one, &mut other);
            let both = one.values(figures, self.scale).into_iter().zip(other.values(figures, self.scale));
            for (differences, halves) in differences.iter_mut().zip(both) {
                if let (Some(one), Some(other)) = halves {
                    differences.push((one / other).ln().abs());
                }
            }
        }
        differences.into_iter().map(|differences| percentile(differences, SPLITS_BELOW)).collect()
    }

    /// Splits A in two: its runs, or the seconds of a single one. Where A and B took turns, so do the
    /// halves: of two runs that follow each other, each gets one.
    fn split(&self, rng: &mut Rng, one: &mut Sum, other: &mut Sum) {
        match &self.a.runs[..] {
            [single] => {
                for second in split_order(rng, single.seconds.len(), false).chunks_exact(2) {
                    one.add_second(&single.seconds[second[0]], 1.0);
                    other.add_second(&single.seconds[second[1]], 1.0);
                }
            }
            runs => {
                for pair in split_order(rng, runs.len(), self.paired).chunks_exact(2) {
                    one.add_run(&runs[pair[0]]);
                    other.add_run(&runs[pair[1]]);
                }
            }
        }
    }
}

/// As many numbers below `n`, drawn with replacement.
fn draw(rng: &mut Rng, n: usize) -> Vec<usize> {
    (0..n).map(|_| rng.below(n as u64) as usize).collect()
}

/// Numbers below `n` in an order in which every second one belongs to the same half: at random, or
/// with neighbours on different sides.
fn split_order(rng: &mut Rng, n: usize, neighbours: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    if neighbours {
        for pair in order.chunks_exact_mut(2) {
            if rng.below(2) == 1 {
                pair.swap(0, 1);
            }
        }
    } else {
        for at in (1..n).rev() {
            order.swap(at, rng.below(at as u64 + 1) as usize);
        }
    }
    order
}

fn add_drawn_seconds(sum: &mut Sum, rng: &mut Rng, run: &IndexedRun) {
    let mut times = vec![0_u32; run.seconds.len()];
    for second in draw(rng, run.seconds.len()) {
        times[second] += 1;
    }
    for (second, &times) in run.seconds.iter().zip(&times) {
        if times > 0 {
            sum.add_second(second, f64::from(times));
        }
    }
    // CPU time is known of the whole only: it does not vary with the seconds.
    sum.add_cpu(run);
}

/// The value that a share of all does not exceed; zero of none.
fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// How one figure varies over draws: on each side, and between them.
#[derive(Clone, Debug, Default)]
struct Moments {
    a: Spread,
    b: Spread,
    difference: Spread,
}

impl Moments {
    /// A draw without a value on a side is none.
    fn add(&mut self, a: Option<f64>, b: Option<f64>) {
        if let (Some(a), Some(b)) = (a, b) {
            self.a.add(a);
            self.b.add(b);
            self.difference.add(b - a);
        }
    }
}

/// Mean and variance as they come (Welford).
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, value: f64) {
        self.n += 1.0;
        let from_mean = value - self.mean;
        self.mean += from_mean / self.n;
        self.squares += from_mean * (value - self.mean);
    }

    fn variance(&self) -> f64 {
        if self.n > 1.0 { self.squares / (self.n - 1.0) } else { 0.0 }
    }
}
