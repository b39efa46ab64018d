//! Pace, and how a search ends.

use std::time::Duration;

use super::limit::LimitKind;
use super::{Drift, Outcome, exit};
use crate::exit::Exit;
use crate::interval_log::Interval;
use crate::recorder::{Metric, Recorder};

/// Intervals as a run leaves them: all before the steady phase, then one a second with these median
/// response times in milliseconds. The last one is `last_ms` long.
fn intervals(medians_ms: &[u64], last_ms: u64) -> Vec<Interval> {
    let interval = |start: u64, length: u64, median_ms: u64| {
        let mut recorder = Box::<Recorder>::default();
        for ms in [median_ms / 2, median_ms, median_ms * 3] {
            recorder.record(Metric::Message, ms * 1_000_000);
        }
        Interval { start: Duration::from_secs(start), length: Duration::from_millis(length), recorder }
    };
    let mut all = vec![interval(0, 2000, 900)];
    for (second, &median_ms) in medians_ms.iter().enumerate() {
        let length = if second + 1 == medians_ms.len() { last_ms } else { 1000 };
        all.push(interval(second as u64, length, median_ms));
    }
    all
}

#[test]
fn a_step_drifts_by_what_its_median_grows_a_second() {
    let of = |medians_ms: &[u64], last_ms| Drift::of(&intervals(medians_ms, last_ms)).unwrap();
    let drift = of(&[10, 60, 110, 160, 210], 1000);
    assert!((drift.rate() - 0.05).abs() < 0.001 && drift.is_behind(), "{drift:?}");
    // The middles of a second and of the half second behind it are 0.75 s apart.
    let drift = of(&[10, 85], 500);
    assert!((drift.rate() - 0.1).abs() < 0.001 && drift.is_behind(), "{drift:?}");
    // A bad second in the middle is none of it, nor is what came before the steady phase.
    assert!(!of(&[10, 10, 400, 10, 12], 1000).is_behind());
    // Slow, and no slower than before.
    assert!(!of(&[400, 400, 401, 400, 402], 1000).is_behind());
    // 3 % a second, and yet too little to be sure.
    assert!(!of(&[1, 40], 1000).is_behind());
}

#[test]
fn too_short_a_step_has_no_drift() {
    assert_eq!(Drift::of(&intervals(&[10], 1000)), None);
    assert_eq!(Drift::of(&intervals(&[10, 90], 100)), None);
    assert_eq!(Drift::of(&[]), None);
}

#[test]
fn the_exit_code_says_what_was_asked() {
    use LimitKind::{Doubt, Generator, None as Nothing, Relay};
    for (outcome, enough, limit, expected) in [
        (Outcome::Found, None, Relay, Exit::Pass),
        (Outcome::Found, Some(true), Relay, Exit::Pass),
        (Outcome::Found, Some(false), Relay, Exit::Missed),
        (Outcome::AtLeast, None, Nothing, Exit::Pass),
        (Outcome::AtLeast, None, Generator, Exit::Invalid),
        (Outcome::AtLeast, None, Doubt, Exit::Invalid),
        (Outcome::AtLeast, Some(true), Generator, Exit::Pass),
        (Outcome::AtLeast, Some(false), Generator, Exit::Invalid),
        (Outcome::NothingKept, None, Relay, Exit::Missed),
        (Outcome::NothingKept, Some(false), Relay, Exit::Missed),
        (Outcome::Blind, None, Generator, Exit::Invalid),
    ] {
        assert_eq!(exit(outcome, enough, limit), expected, "{outcome:?} {enough:?} {limit:?}");
    }
}
