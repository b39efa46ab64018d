//! `--fail-on`: changes that a comparison must not have.
//!
//! ```text
//! term = figure ":" ("+" | "-") percent "%"      message.p99:+5%   throughput:-5%   cpu:+3%
//!      | "slower"                                 the headline
//! ```
//! A term with a bound is **exceeded** when the whole interval of the figure's change lies beyond the
//! bound, and **kept** when none of it does. In between the runs cannot tell. The interval is a 95 % one
//! over all terms together: the more terms, the wider.

use std::str::FromStr;

use serde::Serialize;

use super::Verdict;
use super::bootstrap::Difference;
use super::figure::Figure;
use super::table::{show_change, show_interval};
use crate::slo::Judgement;

/// One change that must not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    text: String,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// The headline must not be `slower`.
    Slower,
    /// The figure must not change by more, towards the worse: 0.05 is 5 %.
    Change { figure: Figure, share: f64 },
}

/// One term, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TermOutcome {
    /// As it was given.
    pub term: String,
    /// What was found, for a person.
    pub found: String,
    /// Kept, exceeded, or not to be told.
    pub judgement: Judgement,
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let names: Vec<String> = Figure::all().map(|figure| figure.to_string()).collect();
            names.join(", ")
        };
        if text == "slower" {
            return Ok(Self { text: text.to_owned(), bound: Bound::Slower });
        }
        let (name, bound) = text
            .split_once(':')
            .ok_or_else(|| format!("`{text}` has no bound; write it as message.p99:+5%, or `slower`"))?;
        let figure = Figure::named(name).ok_or_else(|| format!("`{name}` is not compared; there are {}", known()))?;
        let sign = if figure.grows_worse() { '+' } else { '-' };
        let share = bound
            .strip_prefix(sign)
            .and_then(|rest| rest.strip_suffix('%'))
            .and_then(|percent| percent.parse::<f64>().ok())
            .filter(|percent| {
                (0.0..100.0).contains(percent) || (*percent >= 100.0 && sign == '+' && percent.is_finite())
            })
            .ok_or_else(|| {
                format!(
                    "`{bound}` is no bound for {name}, which is worse the {} it is: write it as {name}:{sign}5%",
                    if sign == '+' { "higher" } else { "lower" }
                )
            })?;
        Ok(Self { text: text.to_owned(), bound: Bound::Change { figure, share: share / 100.0 } })
    }
}

/// Judges every term.
pub(super) fn judge_terms(terms: &[Term], differences: &[Difference], headline: Verdict) -> Vec<TermOutcome> {
    let confidence = 1.0 - 0.05 / terms.len().max(1) as f64;
    terms.iter().map(|term| term.judge(differences, headline, confidence)).collect()
}

impl Term {
    fn judge(&self, differences: &[Difference], headline: Verdict, confidence: f64) -> TermOutcome {
        let (found, judgement) = match self.bound {
            Bound::Slower => {
                let judgement = match headline {
                    Verdict::Slower => Judgement::Fail,
                    Verdict::Undecided => Judgement::Invalid,
                    Verdict::NoChange | Verdict::Faster => Judgement::Pass,
                };
                (headline.text().to_owned(), judgement)
            }
            Bound::Change { figure, share } => {
                match differences.iter().find(|difference| difference.figure == figure) {
                    None => ("the runs do not have it".to_owned(), Judgement::Invalid),
                    Some(difference) => judge_change(difference, figure, share, confidence),
                }
            }
        };
        TermOutcome { term: self.text.clone(), found, judgement }
    }
}

fn judge_change(difference: &Difference, figure: Figure, share: f64, confidence: f64) -> (String, Judgement) {
    let margin = difference.margin(confidence);
    let (low, high) = (difference.log_ratio - margin, difference.log_ratio + margin);
    let found = format!(
        "{}, between {}",
        show_change(difference.log_ratio.exp_m1()),
        show_interval([low.exp_m1(), high.exp_m1()])
    );
    // Towards the worse: the least and the most that it may be.
    let (bound, least, most) =
        if figure.grows_worse() { (share.ln_1p(), low, high) } else { (-(-share).ln_1p(), -high, -low) };
    let judgement = if difference.freedom.is_none() {
        Judgement::Invalid
    } else if least > bound {
        Judgement::Fail
    } else if most <= bound {
        Judgement::Pass
    } else {
        Judgement::Invalid
    };
    (found, judgement)
}

#[cfg(test)]
mod tests {
    use super::{Difference, Term, judge_terms};
    use crate::compare::Verdict;
    use crate::compare::figure::Figure;
    use crate::slo::Judgement;

    fn difference(name: &str, change: f64, standard_error: f64) -> Difference {
        Difference {
            figure: Figure::named(name).unwrap(),
            a: 1.0,
            b: 1.0 + change,
            log_ratio: change.ln_1p(),
            standard_error,
            freedom: Some(1e6),
            noise: 0.0,
            run_by_run: (0.0, 0.0),
        }
    }

    #[test]
    fn terms_are_read_or_refused_with_the_fix() {
        for text in ["message.p99:+5%", "throughput:-0.5%", "cpu:+150%", "slower"] {
            assert!(text.parse::<Term>().is_ok(), "{text}");
        }
        for (text, why) in [
            ("message.p99", "no bound"),
            ("message.p98:+5%", "message.p99.9"),
            ("message.p99:-5%", "message.p99:+5%"),
            ("throughput:+5%", "worse the lower"),
            ("throughput:-100%", "throughput:-5%"),
            ("cpu:+5", "cpu:+5%"),
        ] {
            let error = text.parse::<Term>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_bound_is_exceeded_kept_or_cannot_be_told() {
        let judged = |term: &str, change: f64, error: f64| {
            let (name, _) = term.split_once(':').unwrap();
            let outcomes = judge_terms(&[term.parse().unwrap()], &[difference(name, change, error)], Verdict::Slower);
            outcomes[0].judgement
        };
        // 1.96 standard errors on each side.
        assert_eq!(judged("cpu:+5%", 0.08, 0.01), Judgement::Fail);
        assert_eq!(judged("cpu:+5%", 0.06, 0.01), Judgement::Invalid);
        assert_eq!(judged("cpu:+5%", 0.02, 0.01), Judgement::Pass);
        assert_eq!(judged("cpu:+5%", -0.20, 0.01), Judgement::Pass);
        assert_eq!(judged("throughput:-5%", -0.08, 0.01), Judgement::Fail);
        assert_eq!(judged("throughput:-5%", -0.06, 0.01), Judgement::Invalid);
        assert_eq!(judged("throughput:-5%", 0.20, 0.01), Judgement::Pass);
        let several: Vec<Term> = vec!["cpu:+5%".parse().unwrap(); 40];
        assert_eq!(
            judge_terms(&several, &[difference("cpu", 0.073, 0.01)], Verdict::Slower)[0].judgement,
            Judgement::Invalid
        );
        assert_eq!(judge_terms(&several[..1], &[], Verdict::Slower)[0].judgement, Judgement::Invalid);
    }

    #[test]
    fn the_headline_can_be_a_term() {
        let slower: Term = "slower".parse().unwrap();
        let judged = |verdict| judge_terms(std::slice::from_ref(&slower), &[], verdict)[0].judgement;
        assert_eq!(judged(Verdict::Slower), Judgement::Fail);
        assert_eq!(judged(Verdict::Faster), Judgement::Pass);
        assert_eq!(judged(Verdict::NoChange), Judgement::Pass);
        assert_eq!(judged(Verdict::Undecided), Judgement::Invalid);
    }
}
