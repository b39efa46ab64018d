//! Comparisons of made-up runs, many times over: how often equal builds are called changed, and how
//! often a slower one is not. Everything is seeded, so the counts are the same each time.

use std::time::{Duration, SystemTime};

use super::judge::{Outcome, judge};
use super::sample::{Run, Second};
use super::{Question, Verdict, took_turns};
use crate::rng::Rng;

/// A machine, by how its runs vary. Shares: 0.02 is 2 %.
#[derive(Clone, Copy)]
struct Machine {
    /// From run to run, everything together: placement of memory, frequency.
    run: f64,
    /// From run to run, times above the 98th percentile.
    tail: f64,
    /// Runs in which a neighbour makes the tail five times as long, of all.
    disturbed: f64,
    /// What drifts slowly: the share it wanders by from one run to the next.
    drift: f64,
    /// From second to second.
    second: f64,
}

const QUIET: Machine = Machine { run: 0.01, tail: 0.05, disturbed: 0.0, drift: 0.0, second: 0.02 };

/// As a shared virtual machine: the spread of three rounds of closed loops in the first results is
/// 2 % in throughput and 8 % in the 99th percentile; this is worse.
const SHARED: Machine = Machine { run: 0.03, tail: 0.4, disturbed: 0.25, drift: 0.01, second: 0.05 };

/// One whose speed wanders by more than what is looked for.
const DRIFTING: Machine = Machine { run: 0.01, tail: 0.1, disturbed: 0.1, drift: 0.06, second: 0.03 };

/// A number around zero with this standard deviation: twelve uniform ones added.
fn normal(rng: &mut Rng, deviation: f64) -> f64 {
    ((0..12).map(|_| rng.unit()).sum::<f64>() - 6.0) * deviation
}

/// Shares of messages, and their response time as a multiple of the median's.
fn shape() -> impl Iterator<Item = (u64, f64)> {
    let body = (0..20).map(|step| (1000, 0.6 + 0.04 * f64::from(step)));
    let tail = [(500, 1.6), (300, 1.9), (150, 2.5), (60, 3.5), (20, 5.0), (8, 8.0), (4, 12.0), (2, 20.0)];
    body.chain(tail)
}

/// A run of a build that needs `cost` times as long for each message, on a machine whose speed has
/// drifted by `drift`.
fn run(rng: &mut Rng, machine: Machine, cost: f64, drift: f64, number: u64, seconds: usize) -> Run {
    let whole = cost * (normal(rng, machine.run) + drift).exp();
    let disturbed = if rng.unit() < machine.disturbed { 5.0 } else { 1.0 };
    let tail = normal(rng, machine.tail).exp() * disturbed;
    let mut delivered_in_all = 0.0;
    let seconds: Vec<Second> = (0..seconds)
        .map(|_| {
            let pace = whole * normal(rng, machine.second).exp();
            let delivered = 20_000.0 / pace;
            delivered_in_all += delivered;
            let mut message: Vec<(u64, u64)> = shape()
                .map(|(count, multiple)| {
                    let ns = 1e6 * multiple * pace * if multiple > 2.0 { tail } else { 1.0 };
                    // To three digits, as histograms are.
                    ((ns / 1e3) as u64, count)
                })
                .collect();
            message.sort_unstable();
            Second { message, delivered, length: 1.0, ..Second::default() }
        })
        .collect();
    let cpu_ns = 15_000.0 * whole * normal(rng, machine.run / 2.0).exp() * delivered_in_all;
    let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number * 10);
    Run { began, seconds, cpu: Some((cpu_ns, delivered_in_all)) }
}

/// Runs of A and B in turns, B needing `cost` times as long.
fn turns(rng: &mut Rng, machine: Machine, cost: f64, rounds: u64, seconds: usize) -> [Vec<Run>; 2] {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut drift = 0.0;
    for number in 0..2 * rounds {
        // A B, B A, A B, …
        let is_a = number % 4 == 0 || number % 4 == 3;
        // It wanders, and comes back.
        drift = 0.9 * drift + normal(rng, machine.drift);
        let run = run(rng, machine, if is_a { 1.0 } else { cost }, drift, number, seconds);
        (if is_a { &mut a } else { &mut b }).push(run);
    }
    [a, b]
}

fn compared(a: &[Run], b: &[Run], question: &Question) -> Outcome {
    judge(a, b, took_turns(a, b), true, question)
}

/// Of so many comparisons, how many have which verdict: no change, slower, faster, undecided.
fn verdicts(machine: Machine, cost: f64, rounds: u64, comparisons: u64) -> [u64; 4] {
    let mut counts = [0; 4];
    for repetition in 0..comparisons {
        let mut rng = Rng::new(repetition, (cost * 1000.0) as u64 + rounds);
        let [a, b] = turns(&mut rng, machine, cost, rounds, 3);
        counts[compared(&a, &b, &Question::default()).verdict as usize] += 1;
    }
    counts
}

#[test]
fn ten_runs_against_ten_of_the_same_build_are_no_change() {
    for (machine, comparisons) in [(QUIET, 10), (SHARED, 60), (DRIFTING, 40)] {
        let [no_change, slower, faster, undecided] = verdicts(machine, 1.0, 10, comparisons);
        let all = format!("{no_change} no change, {slower} slower, {faster} faster, {undecided} undecided");
        assert!(no_change * 10 >= comparisons * 9, "{all}");
        // What all figures together may be called by chance is a twentieth.
        assert!((slower + faster) * 20 <= comparisons + 20, "{all}");
    }
}

#[test]
fn a_build_that_needs_ten_percent_more_is_slower() {
    for (machine, comparisons) in [(QUIET, 10), (SHARED, 40)] {
        let [_, slower, faster, _] = verdicts(machine, 1.1, 10, comparisons);
        assert!(slower * 20 >= comparisons * 19 && faster == 0, "{slower} of {comparisons}");
        let [_, slower, faster, _] = verdicts(machine, 1.0 / 1.1, 10, comparisons / 2);
        assert!(faster * 10 >= comparisons / 2 * 9 && slower == 0, "{faster} of {}", comparisons / 2);
    }
    // Where the machine itself wanders by more than that, turns still tell in most cases.
    let [no_change, slower, faster, _] = verdicts(DRIFTING, 1.1, 10, 30);
    assert!(slower >= 18 && faster == 0 && no_change <= 3, "{slower} slower, {no_change} no change");
}

#[test]
fn few_runs_say_that_they_are_few() {
    let [_, slower, faster, undecided] = verdicts(DRIFTING, 1.0, 3, 40);
    assert!(slower + faster <= 2 && undecided >= 30, "{slower} slower, {faster} faster, {undecided} undecided");
    let mut rng = Rng::new(1, 1);
    let [a, b] = turns(&mut rng, DRIFTING, 1.0, 3, 3);
    let outcome = compared(&a, &b, &Question::default());
    assert_eq!(outcome.verdict, Verdict::Undecided);
    assert!(outcome.headline.contains("3 runs a side cannot tell") && outcome.headline.contains("--rounds"));
}

#[test]
fn one_run_a_side_calls_nothing_however_large() {
    let mut rng = Rng::new(3, 1);
    let (a, b) = (run(&mut rng, QUIET, 1.0, 0.0, 0, 10), run(&mut rng, QUIET, 3.0, 0.0, 1, 10));
    let outcome = compared(&[a], &[b], &Question::default());
    assert_eq!(outcome.verdict, Verdict::Undecided);
    assert!(outcome.rows.iter().all(|row| row.verdict == Verdict::Undecided));
    // Its seconds say how sure a percentile is, and nothing of the CPU time of the whole.
    let without: Vec<_> = outcome.rows.iter().filter(|row| row.interval.is_none()).collect();
    assert!(without.len() == 1 && without[0].figure == "cpu", "{without:?}");
    assert!(outcome.headline.contains("at least 5 a side"), "{}", outcome.headline);
}

#[test]
fn one_run_beside_ten_varies_as_they_do() {
    let mut called = [0; 2];
    for (called, cost) in called.iter_mut().zip([1.0, 1.5]) {
        for repetition in 0..20 {
            let mut rng = Rng::new(repetition, 77);
            let a: Vec<Run> = (0..10).map(|number| run(&mut rng, SHARED, 1.0, 0.0, number, 3)).collect();
            let b = run(&mut rng, SHARED, cost, 0.0, 10, 3);
            let verdict = compared(&a, &[b], &Question::default()).verdict;
            *called += u32::from(matches!(verdict, Verdict::Slower | Verdict::Faster));
        }
    }
    assert!(called[0] <= 1 && called[1] >= 18, "{called:?}");
}

#[test]
fn turns_cancel_what_drifts() {
    let mut rng = Rng::new(9, 1);
    let [a, b] = turns(&mut rng, DRIFTING, 1.0, 10, 3);
    assert!(took_turns(&a, &b));
    let width = |paired: bool| {
        let rows = judge(&a, &b, paired, true, &Question::default()).rows;
        let throughput = rows.into_iter().find(|row| row.figure == "throughput").unwrap();
        throughput.interval.map(|[low, high]| high - low).unwrap()
    };
    assert!(width(true) < 0.8 * width(false), "{} {}", width(true), width(false));
    let all_before = |runs: &[Run], by: u64| {
        let earlier = |run: &Run| Run { began: run.began - Duration::from_secs(by), ..run.clone() };
        runs.iter().map(earlier).collect::<Vec<_>>()
    };
    assert!(!took_turns(&all_before(&a, 1_000), &b));
    assert!(!took_turns(&a[1..], &b));
}

#[test]
fn the_same_runs_give_the_same_answer() {
    let mut rng = Rng::new(5, 1);
    let [a, b] = turns(&mut rng, SHARED, 1.02, 5, 3);
    let rows = || compared(&a, &b, &Question::default()).rows;
    assert_eq!(rows(), rows());
}

#[test]
fn what_is_below_a_percent_or_below_the_noise_of_a_is_no_change() {
    let mut rng = Rng::new(5, 1);
    let still = Machine { run: 0.0, tail: 0.0, disturbed: 0.0, drift: 0.0, second: 0.0005 };
    let [a, b] = turns(&mut rng, still, 1.008, 10, 3);
    let outcome = compared(&a, &b, &Question::default());
    assert_eq!(outcome.verdict, Verdict::NoChange, "{}", outcome.headline);
    let [a, b] = turns(&mut rng, still, 1.02, 10, 3);
    assert_eq!(compared(&a, &b, &Question::default()).verdict, Verdict::Slower);
}

#[test]
fn messages_that_never_come_make_the_tail_infinite() {
    let mut rng = Rng::new(6, 1);
    let [a, mut b] = turns(&mut rng, QUIET, 1.0, 6, 3);
    for second in b.iter_mut().flat_map(|run| &mut run.seconds) {
        second.never = 100.0;
    }
    let outcome = compared(&a, &b, &Question::default());
    let tail = outcome.rows.iter().find(|row| row.figure == "message.p99.9").unwrap();
    assert_eq!((tail.verdict, outcome.verdict), (Verdict::Slower, Verdict::Slower));
    assert_eq!(super::figure::Figure::named("message.p99.9").unwrap().show(tail.b), "never");
}

#[test]
fn percentiles_without_samples_are_left_out_and_named() {
    let mut rng = Rng::new(6, 1);
    let [mut a, b] = turns(&mut rng, QUIET, 1.0, 5, 3);
    for second in a.iter_mut().flat_map(|run| &mut run.seconds) {
        second.message.truncate(5);
        second.message.iter_mut().for_each(|(_, count)| *count = 4);
    }
    // 5 × 3 × 20 samples: 30 lie above the 90th percentile, and 3 above the 99th.
    let outcome = compared(&a, &b, &Question::default());
    let named: Vec<&str> = outcome.rows.iter().map(|row| row.figure.as_str()).collect();
    assert_eq!(named, ["message.p50", "message.p90", "throughput", "cpu"]);
    assert_eq!(outcome.left_out.len(), 2);
    assert!(outcome.left_out[0].starts_with("message.p99: 3 samples"), "{:?}", outcome.left_out);
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    const COMPARISONS: u64 = 40;
    for paired in [true, false] {
        let mut held = [0_u64; 3];
        for repetition in 0..COMPARISONS {
            let mut rng = Rng::new(repetition, 77);
            let [a, b] = turns(&mut rng, SHARED, 1.1, 5, 3);
            let rows = judge(&a, &b, paired, true, &Question::default()).rows;
            let truths = [("message.p50", 0.1), ("throughput", 1.0 / 1.1 - 1.0), ("cpu", 0.1)];
            for (held, (figure, truth)) in held.iter_mut().zip(truths) {
                let row = rows.iter().find(|row| row.figure == figure).unwrap();
                *held += u64::from(row.interval.is_some_and(|[low, high]| (low..=high).contains(&truth)));
            }
        }
        // 38 of 40 expected, with a deviation of 1.4: three of them less is chance at most.
        assert!(held.iter().all(|&held| held >= COMPARISONS - 6), "{paired}: {held:?} of {COMPARISONS}");
    }
}
