//! The search for the knee: which rate is tried next, and what is known at the end. A function of
//! verdicts; nothing here runs anything.
//!
//! # Flow
//! 1. **Up**: the rate doubles until one is decided against (or halves until one is kept).
//! 2. **In between**: the rate in the geometric middle, until the highest that was kept and the
//!    lowest that was not are as near as the resolution asks.
//! 3. **Again**: the highest that was kept is tried until most of `repeats` steps have kept it. If it
//!    does not hold, it becomes the lowest that was not, and the search goes on below.
//!
//! Going up, one step that keeps its targets is enough to go on. Everything else is decided by most
//! of `repeats` steps, since near the knee one step says little: a rate with a step that was missed
//! is tried again at once. A step that says nothing is no vote: only when there are `repeats` of them is
//! the rate given up.
//!
//! # Invariants
//! - A rate that was decided against is never passed over: the knee lies below the lowest of them,
//!   whatever higher ones did.
//! - Each rate is tried at most `2 * repeats` times, and the whole search ends after [`STEPS_MAX`].

use std::collections::BTreeMap;

/// Steps of one search at most: one that doubles 20 times and halves the rest to 1 % takes some 50.
pub const STEPS_MAX: usize = 100;

/// The lowest rate that is tried is this part of the first one.
const DESCENT_MAX: u64 = 1024;

/// What one step said of its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// All targets were kept.
    Kept,
    /// A target was missed.
    Missed,
    /// The step says nothing about the relay.
    Blind,
    /// There can be no step at this rate or above.
    Barred,
}

/// What all steps of one rate said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps that kept all targets.
    pub kept: u32,
    /// Steps that missed one.
    pub missed: u32,
    /// Steps that said nothing about the relay.
    pub blind: u32,
    /// Whether there can be no step.
    pub barred: bool,
}

impl Tally {
    /// Steps in all.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.kept + self.missed + self.blind
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The first rate, messages a second; at least 1.
    pub from: u64,
    /// The highest rate of interest.
    pub up_to: Option<u64>,
    /// How near the two sides of the knee are to come: 0.05 is 5 %.
    pub resolution: f64,
    /// Of how many steps most decide; 1 trusts each.
    pub repeats: u32,
}

/// Where a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Most steps kept it.
    Kept,
    /// The only step so far kept it.
    KeptOnce,
    /// Most steps missed it, or too many said nothing.
    Against(Bound),
    /// To be tried again.
    Open,
}

/// Why there is nothing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A target is missed there.
    Missed,
    /// Steps there say nothing about the relay: the generator's limit.
    Blind,
    /// There can be no step there.
    Barred,
    /// Nobody asked for more.
    Asked,
}

/// The search, as far as it has come.
#[derive(Clone, Debug)]
pub struct Search {
    settings: Settings,
    tallies: BTreeMap<u64, Tally>,
    steps: usize,
}

/// Where the knee lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knee {
    /// The highest rate that most steps kept, with none below that they did not. `None` if the lowest
    /// rate of the search was not kept.
    pub kept: Option<(u64, Tally)>,
    /// The lowest rate that was decided against. `None` where `bound` is [`Bound::Asked`].
    pub missed: Option<(u64, Tally)>,
    /// What stands above `kept`.
    pub bound: Bound,
    /// The uncertainty: the highest rate up to which every step kept its targets (0 if none), and the
    /// lowest from which on none did.
    pub between: (u64, u64),
}

impl Knee {
    /// The one figure: the geometric middle of both sides, or what was kept if nothing was missed.
    #[must_use]
    pub fn estimate(&self) -> Option<u64> {
        let (kept, _) = self.kept?;
        match (self.missed, self.bound) {
            (Some((missed, _)), Bound::Missed) => Some(middle(kept, missed)),
            _ => Some(kept),
        }
    }
}

impl Search {
    /// Begins a search.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let from = settings.from.max(1).min(settings.up_to.unwrap_or(u64::MAX));
        Self { settings: Settings { from, ..settings }, tallies: BTreeMap::new(), steps: 0 }
    }

    /// Steps that make up a majority.
    fn most(&self) -> u32 {
        self.settings.repeats / 2 + 1
    }

    fn standing(&self, tally: &Tally) -> Standing {
        let most = self.most();
        if tally.barred {
            Standing::Against(Bound::Barred)
        } else if tally.missed >= most {
            Standing::Against(Bound::Missed)
        } else if tally.blind >= self.settings.repeats.max(1) {
            Standing::Against(Bound::Blind)
        } else if tally.kept >= most {
            Standing::Kept
        } else if tally.missed + tally.blind == 0 {
            Standing::KeptOnce
        } else {
            Standing::Open
        }
    }

    /// The lowest rate that was decided against.
    fn against(&self) -> Option<(u64, Bound)> {
        self.tallies.iter().find_map(|(&rate, tally)| match self.standing(tally) {
            Standing::Against(bound) => Some((rate, bound)),
            _ => None,
        })
    }

    /// The highest rate below `limit` that was tried.
    fn highest_below(&self, limit: u64) -> Option<(u64, Standing)> {
        self.tallies.range(..limit).next_back().map(|(&rate, tally)| (rate, self.standing(tally)))
    }

    /// The rate to try next; `None` when all is known.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        if self.steps >= STEPS_MAX {
            return None;
        }
        let against = self.against();
        let limit = against.map_or(u64::MAX, |(rate, _)| rate);
        let open = self.tallies.range(..limit).find(|(_, tally)| self.standing(tally) == Standing::Open);
        if let Some((&rate, _)) = open {
            return Some(rate);
        }
        let highest = self.highest_below(limit);
        match (highest, against) {
            (None, None) => Some(self.settings.from),
            (None, Some((missed, _))) => {
                let lowest = (self.settings.from / DESCENT_MAX).max(1);
                (missed > lowest).then(|| round(missed / 2).max(lowest))
            }
            (Some((kept, standing)), None) => {
                let most = self.settings.up_to.unwrap_or(u64::MAX);
                if kept < most {
                    Some(kept.saturating_mul(2).min(most))
                } else {
                    (standing == Standing::KeptOnce).then_some(kept)
                }
            }
            (Some((kept, standing)), Some((missed, _))) => {
                let near = missed as f64 <= kept as f64 * (1.0 + self.settings.resolution);
                let between = middle(kept, missed);
                if !near && between > kept && between < missed {
                    Some(between)
                } else {
                    (standing == Standing::KeptOnce).then_some(kept)
                }
            }
        }
    }

    /// Takes what a step said.
    pub fn note(&mut self, rate: u64, trial: Trial) {
        self.steps += 1;
        let tally = self.tallies.entry(rate).or_default();
        match trial {
            Trial::Kept => tally.kept += 1,
            Trial::Missed => tally.missed += 1,
            Trial::Blind => tally.blind += 1,
            Trial::Barred => tally.barred = true,
        }
    }

    /// What is known of the knee now.
    #[must_use]
    pub fn knee(&self) -> Knee {
        let against = self.against();
        let limit = against.map_or(u64::MAX, |(rate, _)| rate);
        let kept = self
            .tallies
            .range(..limit)
            .rfind(|(_, tally)| matches!(self.standing(tally), Standing::Kept | Standing::KeptOnce))
            .map(|(&rate, tally)| (rate, *tally));
        let missed = against.map(|(rate, _)| (rate, self.tallies[&rate]));
        let always = self.tallies.iter().take_while(|(_, tally)| tally.kept == tally.steps() && !tally.barred);
        let never = self.tallies.iter().rev().take_while(|(_, tally)| tally.kept == 0);
        let highest = self.tallies.keys().next_back().copied().unwrap_or(0);
        Knee {
            kept,
            missed,
            bound: against.map_or(Bound::Asked, |(_, bound)| bound),
            between: (always.last().map_or(0, |(&rate, _)| rate), never.last().map_or(highest, |(&rate, _)| rate)),
        }
    }
}

/// The geometric middle, rounded where that still lies between.
fn middle(low: u64, high: u64) -> u64 {
    let exact = (low as f64 * high as f64).sqrt();
    let rounded = round(exact.round() as u64);
    if rounded > low && rounded < high { rounded } else { exact.round() as u64 }
}

/// Three digits, so that rates can be remembered.
fn round(rate: u64) -> u64 {
    let unit = 10_u64.pow(rate.max(1).ilog10().saturating_sub(2));
    (rate + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests;
