//! What is compared: percentiles, throughput, and CPU time for each message.

use std::fmt;

use crate::units::{show_count, show_ns};

/// Histograms of which percentiles are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Response time of messages.
    Message,
    /// The same of acks.
    Ack,
    /// Joins and leaves as watchers saw them.
    Lobby,
}

/// One figure of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// A percentile, in nanoseconds.
    Percentile {
        /// Of what.
        series: Series,
        /// Up to 100.
        percent: f64,
    },
    /// Messages delivered a second.
    Throughput,
    /// CPU time of a spawned relay for each message, in nanoseconds.
    Cpu,
}

/// Percentiles that are compared.
const PERCENTS: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// And those of acks, which go along with messages: each further figure asks for more runs.
const ACK_PERCENTS: [f64; 2] = [50.0, 99.0];

impl Figure {
    /// All of them, in the order of tables.
    pub fn all() -> impl Iterator<Item = Self> {
        let percentiles = |series, percents: &'static [f64]| {
            percents.iter().map(move |&percent| Self::Percentile { series, percent })
        };
        percentiles(Series::Message, &PERCENTS)
            .chain(percentiles(Series::Ack, &ACK_PERCENTS))
            .chain(percentiles(Series::Lobby, &PERCENTS))
            .chain([Self::Throughput, Self::Cpu])
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|figure| figure.to_string() == name)
    }

    /// Whether more of it is worse.
    #[must_use]
    pub fn grows_worse(self) -> bool {
        self != Self::Throughput
    }

    /// Shows a value with its unit.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Throughput => format!("{}/s", show_count(value.round() as u64)),
            Self::Percentile { .. } if value >= NEVER_NS => "never".to_owned(),
            Self::Percentile { .. } | Self::Cpu => show_ns(value.round() as u64),
        }
    }
}

/// What stands for the time of a message that never came: more than any histogram tells apart.
pub(super) const NEVER_NS: f64 = 2.0 * crate::recorder::HIGHEST_NS as f64;

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percentile { series: Series::Message, percent } => f.pad(&format!("message.p{percent}")),
            Self::Percentile { series: Series::Ack, percent } => f.pad(&format!("ack.p{percent}")),
            Self::Percentile { series: Series::Lobby, percent } => f.pad(&format!("lobby.p{percent}")),
            Self::Throughput => f.pad("throughput"),
            Self::Cpu => f.pad("cpu"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Series};

    #[test]
    fn figures_are_found_by_their_names() {
        for figure in Figure::all() {
            assert_eq!(Figure::named(&figure.to_string()), Some(figure));
        }
        let tail = Figure::Percentile { series: Series::Lobby, percent: 99.9 };
        assert_eq!(Figure::named("lobby.p99.9"), Some(tail));
        assert_eq!(Figure::named("message.p98"), None);
        assert_eq!(tail.show(f64::MAX), "never");
    }
}
