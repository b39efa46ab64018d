//! Axes: where a value lies between the edges of a plot, and which values are named there.
//!
//! A place is a share of the plot's width or height, 0 to 1, from the left or from below.

use crate::clock::SECOND_NS;
use crate::units::{show_count, trim_zeros};

/// The most nines that an axis of percentiles shows: 99.99999 %, one in ten million.
const NINES_MAX: f64 = 7.0;

/// Room behind the last sample, so that its mark is not cut.
const HDR_MARGIN: f64 = 0.12;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// Evenly from `low` to `high`.
    Linear {
        /// At the left or the foot.
        low: f64,
        /// At the right or the top.
        high: f64,
    },
    /// By the logarithm, from `low` to `high`, both above zero.
    Log {
        /// At the left or the foot.
        low: f64,
        /// At the right or the top.
        high: f64,
    },
    /// Shares of samples as HdrHistogram draws them: by the logarithm of `1 / (1 - share)`, which gives
    /// each further nine the same room.
    Hdr {
        /// The nines that have room: 3 ends at 99.9 %.
        nines: f64,
    },
}

/// A named place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// Where it is.
    pub(super) place: f64,
    /// What stands there.
    pub(super) label: String,
    /// Whether it goes where there is little room.
    pub(super) minor: bool,
}

impl Scale {
    /// For times between `low` and `high` nanoseconds, widened to the next 1, 2 or 5.
    pub(super) fn log(low: u64, high: u64) -> Self {
        let low = round_down(low.max(1) as f64);
        let high = round_up(high.max(1) as f64);
        Self::Log { low, high: if high > low { high } else { low * 10.0 } }
    }

    /// For counts from zero to `high`, widened to the next round step.
    pub(super) fn from_zero(high: f64) -> Self {
        let step = count_step(high.max(1.0));
        // Room above the highest value, so that a line is not drawn upon the edge.
        Self::Linear { low: 0.0, high: ((high.max(1.0) * 1.02) / step).ceil() * step }
    }

    /// For so many samples: up to the share that leaves one of them out.
    pub(super) fn hdr(samples: u64) -> Self {
        let nines = (samples.max(1) as f64).log10().clamp(2.0, NINES_MAX);
        Self::Hdr { nines: nines + HDR_MARGIN }
    }

    /// Where a value lies; what is outside lies on the edge.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { low, high } => (value - low) / (high - low),
            Self::Log { low, high } => (value.max(low) / low).ln() / (high / low).ln(),
            Self::Hdr { nines } => -(1.0 - value.min(1.0)).log10() / nines,
        };
        place.clamp(0.0, 1.0)
    }

    /// The share of samples at a place of [`Scale::Hdr`]; the value there on other scales.
    pub(super) fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear { low, high } => low + place * (high - low),
            Self::Log { low, high } => low * (high / low).powf(place),
            Self::Hdr { nines } => 1.0 - 10_f64.powf(-place * nines),
        }
    }

    /// Times on a logarithmic axis: each decade, and 2 and 5 between them where few decades are shown.
    pub(super) fn time_ticks(self) -> Vec<Tick> {
        let Self::Log { low, high } = self else { return Vec::new() };
        let decades = (high / low).log10();
        let mut ticks = Vec::new();
        let mut decade = 10_f64.powf(low.log10().floor());
        while decade <= high * 1.001 {
            for factor in [1.0, 2.0, 5.0] {
                let value = decade * factor;
                let shown = factor == 1.0 || decades <= 1.5 || (decades <= 2.5 && factor == 2.0);
                if shown && value >= low * 0.999 && value <= high * 1.001 {
                    ticks.push(Tick { place: self.place(value), label: round_time(value), minor: false });
                }
            }
            decade *= 10.0;
        }
        ticks
    }

    /// Counts on a linear axis.
    pub(super) fn count_ticks(self) -> Vec<Tick> {
        let Self::Linear { low, high } = self else { return Vec::new() };
        let step = count_step(high - low);
        self.every(step, |value| show_count(value.round() as u64))
    }

    /// Moments of a run on a linear axis of nanoseconds.
    pub(super) fn moment_ticks(self) -> Vec<Tick> {
        const STEPS_S: [u64; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600];
        let Self::Linear { low, high } = self else { return Vec::new() };
        let seconds = (high - low) / SECOND_NS as f64;
        let step = STEPS_S.into_iter().find(|&step| seconds / step as f64 <= 12.0).unwrap_or(86_400);
        let label = |ns: f64| {
            let at = (ns / SECOND_NS as f64).round() as u64;
            if step.is_multiple_of(3600) {
                format!("{} h", at / 3600)
            } else if step.is_multiple_of(60) {
                format!("{} min", at / 60)
            } else {
                format!("{at} s")
            }
        };
        let mut ticks = self.every(step as f64 * SECOND_NS as f64, label);
        for (at, tick) in ticks.iter_mut().enumerate() {
            tick.minor = at % 2 == 1;
        }
        ticks
    }

    /// Percentiles: 0 %, 50 %, and each number of nines that has room.
    pub(super) fn percentile_ticks(self) -> Vec<Tick> {
        let Self::Hdr { nines } = self else { return Vec::new() };
        let mut ticks = vec![
            Tick { place: 0.0, label: "0 %".to_owned(), minor: true },
            Tick { place: self.place(0.5), label: "50 %".to_owned(), minor: false },
        ];
        for count in 1..=nines as u32 {
            let label = match count {
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                _ => format!("99.{} %", "9".repeat(count as usize - 2)),
            };
            // On a phone every other of many labels has room.
            let minor = nines > 3.5 && (nines as u32 - count) % 2 == 1;
            ticks.push(Tick { place: f64::from(count) / nines, label, minor });
        }
        ticks
    }

    fn every(self, step: f64, label: impl Fn(f64) -> String) -> Vec<Tick> {
        let Self::Linear { low, high } = self else { return Vec::new() };
        let mut ticks = Vec::new();
        let mut value = low;
        while value <= high * 1.000_001 {
            ticks.push(Tick { place: self.place(value), label: label(value), minor: false });
            value += step;
        }
        ticks
    }
}

/// A percentile as people write it: `99.9 %`.
pub(super) fn show_share(share: f64) -> String {
    // As many decimals as it takes to tell the share from 1.
    let decimals = (-(1.0 - share).max(1e-9).log10()).ceil().clamp(1.0, 9.0) as usize;
    format!("{} %", trim_zeros(&format!("{:.*}", decimals.saturating_sub(1), share * 100.0)))
}

/// A round number of nanoseconds without needless decimals: `5 ms`.
fn round_time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "µs"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{value:.0} {unit}")
}

/// The step of an axis of counts that gives it four to ten parts: 1, 2 or 5 times a power of ten.
fn count_step(span: f64) -> f64 {
    round_up(span / 8.0).max(1.0)
}

/// The next of …, 1, 2, 5, 10, 20, … that is not below.
fn round_up(value: f64) -> f64 {
    rounds(value).find(|&round| round >= value * 0.999_999).unwrap_or(value)
}

/// The last of …, 1, 2, 5, 10, 20, … that is not above.
fn round_down(value: f64) -> f64 {
    rounds(value).take_while(|&round| round <= value * 1.000_001).last().unwrap_or(value)
}

fn rounds(value: f64) -> impl Iterator<Item = f64> {
    let decade = 10_f64.powf(value.log10().floor());
    [0.5, 1.0, 2.0, 5.0, 10.0].into_iter().map(move |factor| factor * decade)
}

#[cfg(test)]
mod tests {
    use super::{Scale, Tick, show_share};

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    fn near(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn each_nine_has_the_same_room() {
        let scale = Scale::Hdr { nines: 4.0 };
        near(scale.place(0.0), 0.0);
        near(scale.place(0.5), std::f64::consts::LOG10_2 / 4.0);
        for (share, place) in [(0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (0.9999, 1.0)] {
            near(scale.place(share), place);
            near(scale.value(place), share);
        }
        // The largest sample of all has no nines that would tell it: it lies at the edge.
        near(scale.place(1.0), 1.0);
    }

    #[test]
    fn percentiles_are_named_as_far_as_samples_go() {
        let ticks = |samples| Scale::hdr(samples).percentile_ticks();
        assert_eq!(labels(&ticks(20_000)), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(labels(&ticks(0)), ["0 %", "50 %", "90 %", "99 %"]);
        assert_eq!(ticks(u64::MAX).last().unwrap().label, "99.99999 %");
    }

    #[test]
    fn times_lie_by_their_logarithm_between_round_ends() {
        let scale = Scale::log(419, 500_000_000);
        assert_eq!(scale, Scale::Log { low: 200.0, high: 5e8 });
        assert_eq!(labels(&scale.time_ticks()), ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]);
        near(scale.place(200.0), 0.0);
        near(scale.place(5e8), 1.0);
        near(scale.place(1.0), 0.0);
        let decade = scale.place(1e6) - scale.place(1e5);
        near(scale.place(1e7) - scale.place(1e6), decade);
        assert_eq!(labels(&Scale::log(1_000_000, 9_000_000).time_ticks()), ["1 ms", "2 ms", "5 ms", "10 ms"]);
        // All alike is still an axis.
        assert_eq!(Scale::log(1000, 1000), Scale::Log { low: 1000.0, high: 10_000.0 });
        assert_eq!(Scale::log(0, 0), Scale::Log { low: 1.0, high: 10.0 });
    }

    #[test]
    fn counts_begin_at_zero_and_end_at_a_round_step() {
        let scale = Scale::from_zero(2000.0);
        assert_eq!(scale, Scale::Linear { low: 0.0, high: 2500.0 });
        assert_eq!(labels(&scale.count_ticks()), ["0", "500", "1,000", "1,500", "2,000", "2,500"]);
        assert_eq!(Scale::from_zero(0.0).count_ticks().len(), 3);
    }

    #[test]
    fn moments_are_told_in_the_unit_that_fits() {
        let ticks = |seconds: f64| Scale::Linear { low: 0.0, high: seconds * 1e9 }.moment_ticks();
        assert_eq!(labels(&ticks(10.0)).first(), Some(&"0 s"));
        assert_eq!(labels(&ticks(10.0)).last(), Some(&"10 s"));
        assert_eq!(labels(&ticks(3600.0))[1], "5 min");
        assert!(ticks(3600.0).len() <= 13 && ticks(86_400.0).len() <= 13 && ticks(0.5).len() == 1);
    }

    #[test]
    fn shares_have_the_decimals_they_need() {
        for (share, shown) in [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.99995, "99.995 %")] {
            assert_eq!(show_share(share), shown);
        }
    }
}
