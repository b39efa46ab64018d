//! The search against oracles that know the knee, exact and noisy ones.

use super::{Bound, Knee, STEPS_MAX, Search, Settings, Trial, middle, round};
use crate::rng::Rng;

const SETTINGS: Settings = Settings { from: 1000, up_to: None, resolution: 0.05, repeats: 3 };

/// Searches to the end. Returns what was found and which rates were tried.
fn search(settings: Settings, mut oracle: impl FnMut(u64) -> Trial) -> (Knee, Vec<u64>) {
    let (mut search, mut tried) = (Search::new(settings), Vec::new());
    while let Some(rate) = search.next() {
        assert!(rate >= 1 && settings.up_to.is_none_or(|most| rate <= most), "{tried:?} {rate}");
        search.note(rate, oracle(rate));
        tried.push(rate);
    }
    (search.knee(), tried)
}

fn exact(knee: u64) -> impl FnMut(u64) -> Trial {
    move |rate| if rate <= knee { Trial::Kept } else { Trial::Missed }
}

/// A share of how far two rates lie apart.
fn apart(low: u64, high: u64) -> f64 {
    high as f64 / low as f64 - 1.0
}

#[test]
fn an_exact_knee_is_found_within_the_resolution() {
    for knee in [1, 2, 3, 7, 40, 300, 999, 1000, 1001, 41_234, 999_999, 20_000_000] {
        for resolution in [0.01, 0.05, 0.2] {
            let (found, tried) = search(Settings { resolution, ..SETTINGS }, exact(knee));
            let ((kept, tally), (missed, against)) = (found.kept.unwrap(), found.missed.unwrap());
            assert!(kept <= knee && knee < missed, "{knee}: {found:?}");
            assert!(missed == kept + 1 || apart(kept, missed) <= resolution + 1e-9, "{knee}: {found:?}");
            assert_eq!((tally.kept, tally.missed, against.missed, against.kept), (2, 0, 2, 0), "{knee}: {found:?}");
            assert_eq!((found.bound, found.between), (Bound::Missed, (kept, missed)));
            assert!((kept..=missed).contains(&found.estimate().unwrap()));
            assert!(tried.len() <= 70, "{knee}: {tried:?}");
        }
    }
}

#[test]
fn the_way_there_doubles_then_halves_and_says_each_miss_twice() {
    let (_, tried) = search(Settings { resolution: 0.2, ..SETTINGS }, exact(5000));
    assert_eq!(tried, [1000, 2000, 4000, 8000, 8000, 5660, 5660, 4760, 4760]);
}

#[test]
fn a_first_rate_that_is_too_high_is_halved() {
    let (found, tried) = search(SETTINGS, exact(100));
    assert_eq!(&tried[..6], [1000, 1000, 500, 500, 250, 250]);
    assert!(found.kept.unwrap().0 <= 100);
}

#[test]
fn what_keeps_nothing_at_all_has_no_knee() {
    let (found, tried) = search(SETTINGS, |_| Trial::Missed);
    assert_eq!((found.kept, found.estimate()), (None, None));
    assert_eq!(found.missed.unwrap().0, 1);
    assert!(tried.len() <= 22, "{tried:?}");
}

#[test]
fn what_keeps_everything_ends_where_it_was_asked_to() {
    let (found, tried) = search(Settings { up_to: Some(5000), ..SETTINGS }, |_| Trial::Kept);
    assert_eq!(tried, [1000, 2000, 4000, 5000, 5000]);
    assert_eq!((found.kept.unwrap().0, found.bound, found.missed), (5000, Bound::Asked, None));
    assert_eq!(found.between, (5000, 5000));
    // A first rate above that is brought down to it.
    let (found, _) = search(Settings { up_to: Some(300), ..SETTINGS }, |_| Trial::Kept);
    assert_eq!(found.estimate(), Some(300));
    // Without an end it ends all the same.
    assert!(search(SETTINGS, |_| Trial::Kept).1.len() <= STEPS_MAX);
}

#[test]
fn a_generator_that_cannot_go_on_bounds_from_below_only() {
    let blind = |rate| if rate <= 30_000 { Trial::Kept } else { Trial::Blind };
    let (found, _) = search(SETTINGS, blind);
    let (kept, _) = found.kept.unwrap();
    assert_eq!((found.bound, found.estimate()), (Bound::Blind, Some(kept)));
    assert!(kept <= 30_000 && apart(kept, 30_000) <= 0.05, "{found:?}");
}

#[test]
fn steps_that_say_nothing_are_no_votes() {
    // Every third step is disturbed, whatever the rate.
    let mut step = 0;
    let (found, _) = search(SETTINGS, |rate| {
        step += 1;
        if step % 3 == 0 { Trial::Blind } else { exact(41_000)(rate) }
    });
    let (kept, missed) = (found.kept.unwrap().0, found.missed.unwrap().0);
    assert!(kept <= 41_000 && 41_000 < missed && apart(kept, missed) <= 0.05, "{found:?}");
    assert_eq!(found.bound, Bound::Missed);
}

#[test]
fn no_rate_is_tried_for_ever() {
    for repeats in 1..=5 {
        // As many of each as can be without a decision.
        let mut steps = 0;
        let (_, tried) = search(Settings { repeats, up_to: Some(1000), ..SETTINGS }, |_| {
            steps += 1;
            [Trial::Blind, Trial::Missed, Trial::Kept][steps % 3]
        });
        for rate in &tried {
            let times = tried.iter().filter(|&other| other == rate).count();
            assert!(times <= 2 * repeats as usize, "{repeats}: {rate} {times} times");
        }
    }
}

#[test]
fn what_is_barred_is_not_tried_again() {
    let barred = |rate| if rate <= 1500 { Trial::Kept } else { Trial::Barred };
    let (found, tried) = search(SETTINGS, barred);
    assert_eq!(found.bound, Bound::Barred);
    for rate in tried.iter().filter(|&&rate| rate > 1500) {
        assert_eq!(tried.iter().filter(|&other| other == rate).count(), 1, "{tried:?}");
    }
}

#[test]
fn one_bad_step_does_not_move_the_knee() {
    for bad in 0..12 {
        let mut step = 0;
        let (found, _) = search(SETTINGS, |rate| {
            step += 1;
            if step == bad + 1 && rate <= 41_000 { Trial::Missed } else { exact(41_000)(rate) }
        });
        let (kept, missed) = (found.kept.unwrap().0, found.missed.unwrap().0);
        assert!(kept <= 41_000 && 41_000 < missed && apart(kept, missed) <= 0.05, "{bad}: {found:?}");
    }
}

#[test]
fn a_rate_that_was_kept_once_and_never_again_is_given_up() {
    let mut first = true;
    let (found, _) = search(SETTINGS, |rate| {
        let lucky = rate == 4000 && std::mem::take(&mut first);
        if lucky { Trial::Kept } else { exact(3000)(rate) }
    });
    let (kept, missed) = (found.kept.unwrap().0, found.missed.unwrap().0);
    assert!(kept <= 3000 && 3000 < missed, "{found:?}");
}

/// Keeps a rate with a chance that falls from 1 to 0 over a tenth of it around the knee.
fn noisy(knee: f64, seed: u64) -> impl FnMut(u64) -> Trial {
    let mut rng = Rng::new(seed, 0);
    move |rate| {
        let chance = (0.5 - (rate as f64 / knee - 1.0) / 0.1).clamp(0.0, 1.0);
        if (rng.below(1_000_000) as f64) < chance * 1e6 { Trial::Kept } else { Trial::Missed }
    }
}

#[test]
fn with_noise_the_uncertainty_holds_the_knee() {
    let (mut held, mut near, runs) = (0, 0, 500);
    for seed in 0..runs {
        let (found, tried) = search(SETTINGS, noisy(41_500.0, seed));
        let (low, high) = found.between;
        let (kept, missed) = (found.kept.unwrap().0, found.missed.unwrap().0);
        assert!(low <= kept && kept < missed && missed <= high, "{seed}: {found:?}");
        assert!(tried.len() < STEPS_MAX, "{seed}: {tried:?}");
        held += u32::from((low..=high).contains(&41_500));
        near += u32::from(found.estimate().unwrap().abs_diff(41_500) <= 4150);
    }
    // Seeds are fixed, so these are facts of the search and not chances.
    assert!(held * 100 >= 90 * runs as u32, "{held} of {runs} hold the knee");
    assert!(near * 100 >= 98 * runs as u32, "{near} of {runs} are within the noise");
}

#[test]
fn more_repeats_bring_the_estimate_nearer() {
    let error = |repeats| -> f64 {
        let of = |seed| {
            let (found, _) = search(Settings { repeats, resolution: 0.02, ..SETTINGS }, noisy(41_500.0, seed));
            (found.estimate().unwrap() as f64 / 41_500.0 - 1.0).abs()
        };
        (0..300).map(of).sum()
    };
    assert!(error(5) < error(1), "{} {}", error(5), error(1));
}

#[test]
fn whatever_the_oracle_says_the_search_ends() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed, 1);
        let any = |_| match rng.below(8) {
            0..4 => Trial::Kept,
            4..6 => Trial::Missed,
            6 => Trial::Blind,
            _ => Trial::Barred,
        };
        let (found, tried) = search(Settings { repeats: 1 + (seed % 5) as u32, ..SETTINGS }, any);
        assert!(tried.len() <= STEPS_MAX);
        if let (Some((kept, _)), Some((missed, _))) = (found.kept, found.missed) {
            assert!(kept < missed, "{seed}: {found:?}");
        }
    }
}

#[test]
fn rates_have_three_digits_where_there_is_room() {
    assert_eq!([round(0), round(7), round(999), round(1004), round(123_456)], [0, 7, 999, 1000, 123_000]);
    assert_eq!(middle(1000, 2000), 1410);
    // No room for three digits: the exact middle.
    assert_eq!(middle(100_000, 100_900), 100_449);
    assert_eq!(middle(5, 6), 5);
}
