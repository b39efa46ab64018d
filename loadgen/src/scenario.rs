//! What a run does beside an even stream of messages: bursts, favourites, a storm, slow readers, and who is
//! offline ([`offline`]).
//!
//! ```text
//! burst        = factor "x/" for "/" every        10x/1s/10s      ten times the rate for 1 s, every 10 s
//! skew         = keys ":" share                   1%:80%          1 % of the keys get 80 % of the messages
//! storm        = share "@" at ["/" back-over]     100%@10s        all drop at once after 10 s and come back
//! slow-readers = share ["@" from ["/" for]]       5%@2s/10s       5 % stop reading after 2 s, for 10 s
//! share        = 5% | 0.05
//! ```
//! Times count from the beginning of the steady phase. The same text stands on the command line, in
//! a scenario's file ([`mod@file`]) and in `summary.json`: what is shown reads back as itself.
//!
//! # Who takes part
//! By the number of the client, so that it is the same whatever the count of workers: favourites
//! are the first so many, those who drop, read slowly or are offline the last so many.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::{SECOND_NS, to_ns};
use crate::plan::{Rate, Workload};
use crate::schedule::{Profile, Stretch};
use crate::units::{RATE_MAX, parse_duration};

pub mod crash;
pub mod file;
pub mod offline;
pub mod outcome;
pub mod rooms;

pub use offline::Offline;
pub use rooms::Rooms;

/// Everything that is not steady. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scenario {
    /// When the rate is a multiple of itself.
    pub burst: Option<Burst>,
    /// Who gets most messages.
    pub skew: Option<Skew>,
    /// Who drops at once, and comes back.
    pub storm: Option<Storm>,
    /// Who stops reading.
    pub slow_readers: Option<SlowReaders>,
    /// Who is offline while messages are sent to them.
    pub offline: Option<Offline>,
    /// How often the relay is killed and started again.
    pub crash: Option<u32>,
}

/// A part of a whole: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Fraction(f64);

impl Fraction {
    /// The part as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// So many of `all`, rounded, and at least one.
    #[must_use]
    pub fn of(self, all: u32) -> u32 {
        ((f64::from(all) * self.0).round() as u32).clamp(1.min(all), all)
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        number
            .trim()
            .parse()
            .ok()
            .map(|number: f64| number / unit)
            .filter(|part| *part > 0.0 && *part <= 1.0)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no share; write it as 5% or 0.05, above 0 and at most 100%"))
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A percentage that was read as one is shown as that, without the dust of the division.
        let percent = (self.0 * 1e11).round() / 1e9;
        write!(f, "{percent}%")
    }
}

/// The rate is `factor` times itself for `length`, every so often. The first burst begins when half
/// of `every` has passed, so that quiet lies before and behind each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Above 1.
    pub factor: f64,
    /// How long one lasts.
    pub length: Duration,
    /// From one beginning to the next.
    pub every: Duration,
}

/// The shortest distance of bursts: 10 ms.
const BURST_EVERY_MIN: Duration = Duration::from_millis(10);

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no burst; write it as 10x/1s/10s: ten times the rate for 1s, every 10s");
        let (factor, rest) = text.split_once("x/").ok_or_else(wrong)?;
        let (length, every) = rest.split_once('/').ok_or_else(wrong)?;
        let factor = factor.trim().parse().map_err(|_| wrong())?;
        let (length, every) = (parse_duration(length)?, parse_duration(every)?);
        if !(factor > 1.0 && factor <= 1000.0) {
            return Err(format!("a burst's factor is above 1 and at most 1000, not {factor}"));
        }
        if length.is_zero() || length >= every || every < BURST_EVERY_MIN {
            return Err(format!(
                "a burst of {} every {} cannot be: it ends before the next begins, 10ms later at least",
                humantime::format_duration(length),
                humantime::format_duration(every)
            ));
        }
        Ok(Self { factor, length, every })
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = humantime::format_duration;
        write!(f, "{}x/{}/{}", self.factor, show(self.length), show(self.every))
    }
}

/// A few keys get most messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skew {
    /// How many of the clients are favourites: the first so many.
    pub keys: Fraction,
    /// How much of all messages they get. What a favourite sends to favourites goes to the others
    /// of them; the only one on a worker writes to nobody but the rest.
    pub share: Fraction,
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no skew; write it as 1%:80%: 1 % of the keys get 80 % of the messages");
        let (keys, share) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { keys: keys.parse()?, share: share.parse()? })
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.keys, self.share)
    }
}

/// Clients drop at once, without a word, and come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storm {
    /// How many of the clients: the last so many.
    pub share: Fraction,
    /// When they drop.
    pub at: Duration,
    /// Over which time they come back, evenly; zero is all at once.
    pub back_over: Duration,
}

impl FromStr for Storm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no storm; write it as 100%@10s, or 100%@10s/1s to come back over 1s");
        let (share, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (at, back_over) = rest.split_once('/').unwrap_or((rest, "0"));
        Ok(Self { share: share.parse()?, at: parse_duration(at)?, back_over: parse_duration(back_over)? })
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = humantime::format_duration;
        write!(f, "{}@{}", self.share, show(self.at))?;
        if self.back_over.is_zero() { Ok(()) } else { write!(f, "/{}", show(self.back_over)) }
    }
}

/// Clients stop reading their sockets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowReaders {
    /// How many of the clients: the last so many.
    pub share: Fraction,
    /// From when on.
    pub from: Duration,
    /// For how long; `None` is to the end.
    pub length: Option<Duration>,
}

impl FromStr for SlowReaders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (share, rest) = text.split_once('@').unwrap_or((text, "0"));
        let (from, length) = rest.split_once('/').map_or((rest, None), |(from, length)| (from, Some(length)));
        let length = length.map(parse_duration).transpose()?;
        if length.is_some_and(|length| length.is_zero()) {
            return Err("slow readers stop for longer than nothing".to_owned());
        }
        Ok(Self { share: share.parse()?, from: parse_duration(from)?, length })
    }
}

impl fmt::Display for SlowReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = humantime::format_duration;
        write!(f, "{}@{}", self.share, show(self.from))?;
        self.length.map_or(Ok(()), |length| write!(f, "/{}", show(length)))
    }
}

/// A rate that changes while it is judged: evenly, or in equal steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// In the warm-up, and at the beginning of the steady phase.
    pub from: f64,
    /// At the end of the steady phase.
    pub to: f64,
    /// In so many steps, the first at `from` and the last at `to`; `None` is evenly.
    pub steps: Option<u32>,
}

/// The most steps of a [`Ramp`].
const STEPS_MAX: u32 = 1000;

impl FromStr for Ramp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no rising rate; write it as 1000..5000/s, or 1000..5000/s:5 for 5 steps");
        let (range, steps) = text.split_once(':').map_or((text, None), |(range, steps)| (range, Some(steps)));
        let (from, to) = range.strip_suffix("/s").unwrap_or(range).split_once("..").ok_or_else(wrong)?;
        let rate = |text: &str| text.trim().parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= RATE_MAX);
        let (from, to) = (rate(from).ok_or_else(wrong)?, rate(to).ok_or_else(wrong)?);
        let steps = steps.map(|steps| steps.parse().map_err(|_| wrong())).transpose()?;
        if steps.is_some_and(|steps| !(2..=STEPS_MAX).contains(&steps)) {
            return Err(format!("`{text}` has too few steps or too many: 2 to {STEPS_MAX}"));
        }
        Ok(Self { from, to, steps })
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}/s", self.from, self.to)?;
        self.steps.map_or(Ok(()), |steps| write!(f, ":{steps}"))
    }
}

impl Ramp {
    /// The rate when the part `done` of the steady phase has passed.
    fn at(&self, done: f64) -> f64 {
        let done = match self.steps {
            None => done,
            Some(steps) => (done * f64::from(steps)).floor().min(f64::from(steps - 1)) / f64::from(steps - 1),
        };
        self.from + (self.to - self.from) * done.clamp(0.0, 1.0)
    }
}

/// How messages go over time, from the beginning of the warm-up: the ramp over the steady phase,
/// the bursts on top of it.
#[must_use]
pub fn profile(ramp: Ramp, burst: Option<Burst>, warmup: Duration, duration: Duration) -> Profile {
    let (steady_ns, end_ns) = (to_ns(warmup), to_ns(warmup) + to_ns(duration));
    let part = |ns: u64| ns.saturating_sub(steady_ns) as f64 / (end_ns - steady_ns).max(1) as f64;
    let mut edges = vec![0, steady_ns, end_ns];
    let steps = u64::from(ramp.steps.unwrap_or(1));
    edges.extend((1..steps).map(|step| steady_ns + (end_ns - steady_ns) * step / steps));
    let bursts: Vec<_> = burst.into_iter().flat_map(|burst| begins(burst, steady_ns, end_ns)).collect();
    for &(begin_ns, over_ns) in &bursts {
        edges.extend([begin_ns, over_ns.min(end_ns)]);
    }
    edges.sort_unstable();
    edges.dedup();
    let stretches = edges.windows(2).map(|edge| {
        let middle_ns = edge[0].midpoint(edge[1]);
        // Bursts do not overlap: only the last that has begun can still go on.
        let begun = bursts.partition_point(|&(begin_ns, _)| begin_ns <= middle_ns);
        let is_burst = begun > 0 && middle_ns < bursts[begun - 1].1;
        let factor = burst.filter(|_| is_burst).map_or(1.0, |burst| burst.factor);
        let (begin, end) = match ramp.steps {
            Some(_) => (ramp.at(part(middle_ns)), ramp.at(part(middle_ns))),
            None => (ramp.at(part(edge[0])), ramp.at(part(edge[1]))),
        };
        // In the warm-up nothing rises yet, not even the first step.
        let (begin, end) = if middle_ns < steady_ns { (ramp.from, ramp.from) } else { (begin, end) };
        Stretch { length_ns: edge[1] - edge[0], begin: begin * factor, end: end * factor }
    });
    Profile::new(stretches, ramp.to)
}

/// The most stretches that an even rise is shown in.
const STRETCHES_MAX: u64 = 10;

/// How long each step of a rising rate is, in nanoseconds; an even rise is cut into at most ten
/// stretches of whole seconds. `None` for any other rate.
#[must_use]
pub fn steps(workload: &Workload) -> Option<Vec<u64>> {
    let Rate::Ramp(ramp) = workload.rate else { return None };
    let all_ns = to_ns(workload.duration);
    let step_ns = match ramp.steps {
        Some(steps) => all_ns / u64::from(steps),
        None => all_ns.div_ceil(SECOND_NS).div_ceil(STRETCHES_MAX) * SECOND_NS,
    };
    let begins = (0..).map(|step| step * step_ns).take_while(|&begin_ns| begin_ns < all_ns);
    Some(begins.map(|begin_ns| step_ns.min(all_ns - begin_ns)).collect())
}

/// Beginning and end of each burst that begins before the end.
fn begins(burst: Burst, steady_ns: u64, end_ns: u64) -> impl Iterator<Item = (u64, u64)> {
    let (every_ns, length_ns) = (to_ns(burst.every), to_ns(burst.length));
    (0..)
        .map(move |number: u64| steady_ns + every_ns / 2 + number * every_ns)
        .take_while(move |&begin_ns| begin_ns < end_ns)
        .map(move |begin_ns| (begin_ns, begin_ns + length_ns))
}

#[cfg(test)]
mod tests {
    use super::{Burst, Fraction, Ramp, Skew, SlowReaders, Storm, profile};
    use crate::clock::SECOND_NS;
    use crate::schedule::{Arrivals, Schedule, Share};
    use std::fmt::Display;
    use std::str::FromStr;
    use std::time::Duration;

    fn same<T: FromStr<Err = String> + Display>(text: &str) {
        assert_eq!(text.parse::<T>().map(|read| read.to_string()), Ok(text.to_owned()));
    }

    #[test]
    fn what_is_shown_reads_back_as_itself() {
        for text in ["5%", "100%", "0.1%", "33.3%", "7%"] {
            same::<Fraction>(text);
        }
        same::<Burst>("10x/1s/10s");
        same::<Burst>("2.5x/200ms/1s 500ms");
        same::<Skew>("1%:80%");
        same::<Storm>("100%@10s");
        same::<Storm>("50%@1m 10s/500ms");
        same::<SlowReaders>("5%@2s/10s");
        same::<SlowReaders>("5%@0s");
        same::<Ramp>("1000..5000/s");
        same::<Ramp>("1000..500/s:5");
        assert_eq!("0.05".parse::<Fraction>().unwrap().to_string(), "5%");
        assert_eq!("5%".parse::<SlowReaders>().unwrap().to_string(), "5%@0s");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_form() {
        let error = |error: String, named: &str| assert!(error.contains(named), "{error}");
        for text in ["0%", "101%", "-1", "x", "", "NaN", "inf%"] {
            error(text.parse::<Fraction>().unwrap_err(), "no share");
        }
        for (text, named) in [
            ("10/1s/10s", "10x/1s/10s"),
            ("10x/1s", "10x/1s/10s"),
            ("1x/1s/10s", "above 1"),
            ("NaNx/1s/10s", "above 1"),
            ("10x/10s/10s", "cannot be"),
            ("10x/0/10s", "cannot be"),
            ("10x/1ms/2ms", "cannot be"),
            ("10x/1/10s", "no duration"),
        ] {
            error(text.parse::<Burst>().unwrap_err(), named);
        }
        error("1%".parse::<Skew>().unwrap_err(), "1%:80%");
        error("1%:0".parse::<Skew>().unwrap_err(), "no share");
        error("100%".parse::<Storm>().unwrap_err(), "100%@10s");
        error("100%@10".parse::<Storm>().unwrap_err(), "no duration");
        error("5%@1s/0s".parse::<SlowReaders>().unwrap_err(), "longer than nothing");
        for text in ["5..", "5", "0..5/s", "1..2/s:1", "1..2/s:x", "1..inf", "1..2/s:2000"] {
            let refused = text.parse::<Ramp>().unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }

    #[test]
    fn a_share_is_so_many_and_at_least_one() {
        let of = |text: &str, all| text.parse::<Fraction>().unwrap().of(all);
        assert_eq!((of("5%", 1000), of("5%", 8), of("100%", 8), of("1%", 1)), (50, 1, 8, 1));
        assert_eq!((of("50%", 3), of("33%", 3)), (2, 1));
        assert_eq!(of("50%", 0), 0);
    }

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    fn flat(rate: f64) -> Ramp {
        Ramp { from: rate, to: rate, steps: None }
    }

    /// Arrivals in each half second, of one worker with constant arrivals.
    fn by_half_second(ramp: Ramp, burst: Option<Burst>, warmup: Duration, duration: Duration) -> Vec<u64> {
        let profile = profile(ramp, burst, warmup, duration);
        let share = Share { worker: 0, workers: 1 };
        let schedule = Schedule::new(Arrivals::Constant, profile, share, 1, 0);
        let halves = (warmup + duration).as_millis() as u64 / 500;
        let before = |half: u64| schedule.count_before(half * SECOND_NS / 2);
        (0..halves).map(|half| before(half + 1) - before(half)).collect()
    }

    #[test]
    fn bursts_come_in_the_middle_of_each_period_of_the_steady_phase() {
        let burst = Some("10x/500ms/2s".parse().unwrap());
        let counts = by_half_second(flat(100.0), burst, SECONDS(1), SECONDS(4));
        // One second of warm-up; then bursts begin at 1 s and at 3 s.
        assert_eq!(counts, [50, 50, 50, 50, 500, 50, 50, 50, 500, 50]);
    }

    #[test]
    fn a_burst_that_outlives_the_run_is_cut() {
        let burst = Some("3x/1s/2s".parse().unwrap());
        assert_eq!(by_half_second(flat(100.0), burst, SECONDS(0), Duration::from_millis(1500)), [50, 50, 150]);
    }

    #[test]
    fn a_ramp_in_steps_has_equal_ones_from_the_first_rate_to_the_last() {
        let ramp = "100..300/s:3".parse().unwrap();
        let counts = by_half_second(ramp, None, SECONDS(1), SECONDS(3));
        assert_eq!(counts, [50, 50, 50, 50, 100, 100, 150, 150]);
    }

    #[test]
    fn an_even_ramp_rises_with_each_message() {
        // From 0.1 k to 0.5 k over 4 s: 100 t + 50 t² have come by t.
        let ramp: Ramp = "100..500/s".parse().unwrap();
        let counts = by_half_second(ramp, None, SECONDS(0), SECONDS(4));
        let by = |half: u64| 25 * 2 * half + 50 * half * half / 4;
        for (half, count) in counts.iter().enumerate() {
            let expected = by(half as u64 + 1) - by(half as u64);
            assert!(count.abs_diff(expected) <= 1, "{half}: {count} {expected}");
        }
        assert_eq!(counts.iter().sum::<u64>(), 1200);
        assert_eq!(profile(ramp, None, SECONDS(0), SECONDS(4)).peak(), 500.0);
    }

    #[test]
    fn a_falling_ramp_falls() {
        let counts = by_half_second("500..100/s".parse().unwrap(), None, SECONDS(0), SECONDS(4));
        assert_eq!(counts.iter().sum::<u64>(), 1200);
        assert!(counts.is_sorted_by(|one, two| one > two), "{counts:?}");
    }

    #[test]
    fn bursts_multiply_the_ramp() {
        let (ramp, burst): (Ramp, Burst) = ("100..300/s:2".parse().unwrap(), "4x/500ms/2s".parse().unwrap());
        let profile = profile(ramp, Some(burst), SECONDS(0), SECONDS(4));
        assert_eq!(profile.peak(), 1200.0);
        assert_eq!(profile.count_by(4 * SECOND_NS), 150.0 + 200.0 + 450.0 + 600.0);
        let counts = by_half_second(ramp, Some(burst), SECONDS(0), SECONDS(4));
        assert_eq!(counts, [50, 50, 200, 50, 150, 150, 600, 150]);
    }
}
