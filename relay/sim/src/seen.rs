//! What a run has met: a rule that was never put to the test holds easily.

use std::collections::BTreeMap;

/// Counts by name: `error offline`, `close 4409`, `http 404` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// Counts one more of a kind.
    pub(crate) fn note(&mut self, kind: &str, what: impl std::fmt::Display) {
        self.add(format!("{kind} {what}"), 1);
    }

    /// Adds to a count.
    pub(crate) fn add(&mut self, name: String, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    /// Adds all counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in other.iter() {
            *self.0.entry(name.to_owned()).or_default() += count;
        }
    }

    /// How often something was met.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All names and counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, &count)| (name.as_str(), count))
    }
}
