//! How many shards there are, and on which cores they run.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::values::{CoreList, PinCores};
use crate::config::{Config, ConfigError};

/// The most shards there may be.
pub const SHARDS_MAX: u16 = 256;

/// Where the shards run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// How many, at least one.
    pub shards: u16,
    /// The core of each, or `None` if the system is to choose.
    pub cores: Option<Vec<usize>>,
}

impl Placement {
    /// Decides from the options and from what this process may use.
    ///
    /// # Errors
    /// Cores that the process may not use, or fewer cores than shards.
    pub fn of(config: &Config) -> Result<Self, ConfigError> {
        let parallelism = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::decide(config, &usable_cores(), parallelism)
    }

    /// `usable` is what the affinity of the process allows; `parallelism` may be less, where a
    /// container limits the processor time.
    fn decide(config: &Config, usable: &[usize], parallelism: usize) -> Result<Self, ConfigError> {
        let by_machine = || u16::try_from(parallelism).unwrap_or(u16::MAX).clamp(1, SHARDS_MAX);
        let shards = config.shards_wanted().unwrap_or_else(by_machine);
        let cores = match &config.pin_cores {
            PinCores::None => None,
            PinCores::Auto => (usable.len() == usize::from(shards)).then(|| usable.to_vec()),
            PinCores::Cores(list) => Some(Self::named(list, usable, shards)?),
        };
        Ok(Self { shards, cores })
    }

    fn named(list: &CoreList, usable: &[usize], shards: u16) -> Result<Vec<usize>, ConfigError> {
        let refuse = |fix| Err(ConfigError { option: "pin-cores", value: list.to_string(), fix });
        let CoreList(cores) = list;
        if let Some(core) = cores.iter().find(|core| !usable.contains(core)) {
            let usable = CoreList(usable.to_vec());
            return refuse(format!("this process may not use core {core}: take some of {usable}"));
        }
        if cores.len() != usize::from(shards) {
            return refuse(format!("{} cores for {shards} shards: name one for each", cores.len()));
        }
        Ok(cores.clone())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.shards == 1 { "" } else { "s" };
        write!(f, "{} shard{plural}", self.shards)?;
        match &self.cores {
            Some(cores) => {
                let plural = if cores.len() == 1 { "" } else { "s" };
                write!(f, " on core{plural} {}", CoreList(cores.clone()))
            }
            None => f.write_str(" on any core"),
        }
    }
}

/// Makes the calling thread run on this core alone.
///
/// # Errors
/// The operating system's, when the core is not allowed or gone.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// The cores that this process may use, ascending; empty if the system does not tell.
fn usable_cores() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Placement, SHARDS_MAX, pin, usable_cores};
    use crate::config::Config;
    use crate::config::values::PinCores;
    use std::thread;

    fn config(shards: Option<u16>, pin_cores: &str) -> Config {
        Config { shards, pin_cores: pin_cores.parse().unwrap(), ..Config::default() }
    }

    #[test]
    fn placements() {
        let table: &[(Option<u16>, &str, &[usize], &str)] = &[
            (None, "auto", &[0, 1], "2 shards on cores 0,1"),
            (None, "auto", &[5], "1 shard on core 5"),
            (None, "none", &[0, 1], "2 shards on any core"),
            (Some(1), "auto", &[0, 1], "1 shard on any core"),
            (Some(3), "auto", &[0, 1], "3 shards on any core"),
            (None, "3,1", &[0, 1, 2, 3], "2 shards on cores 3,1"),
            (Some(2), "0-1", &[0, 1, 2, 3], "2 shards on cores 0,1"),
        ];
        for (shards, pin_cores, usable, expected) in table {
            let placement = Placement::decide(&config(*shards, pin_cores), usable, usable.len()).unwrap();
            assert_eq!(placement.to_string(), *expected);
        }
    }

    #[test]
    fn less_processor_time_than_cores_means_fewer_shards() {
        let placement = Placement::decide(&config(None, "auto"), &[0, 1, 2, 3], 2).unwrap();
        assert_eq!(placement, Placement { shards: 2, cores: None });
    }

    #[test]
    fn a_huge_machine_gets_the_most_there_may_be() {
        let usable: Vec<_> = (0..1000).collect();
        let placement = Placement::decide(&config(None, "auto"), &usable, usable.len()).unwrap();
        assert_eq!(placement, Placement { shards: SHARDS_MAX, cores: None });
    }

    #[test]
    fn cores_that_cannot_be_used_are_refused_with_the_fix() {
        let error = Placement::decide(&config(None, "0,9"), &[0, 1], 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value '0,9' for '--pin-cores': this process may not use core 9: take some of 0,1"
        );
        let error = Placement::decide(&config(Some(3), "0-1"), &[0, 1], 2).unwrap_err();
        assert!(error.to_string().ends_with("2 cores for 3 shards: name one for each"));
    }

    #[test]
    fn a_pinned_thread_may_use_one_core() {
        let core = *usable_cores().last().unwrap();
        let after = thread::spawn(move || {
            pin(core).unwrap();
            usable_cores()
        });
        assert_eq!(after.join().unwrap(), [core]);
        assert!(matches!(config(None, "auto").pin_cores, PinCores::Auto));
    }
}
