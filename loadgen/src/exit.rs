//! Exit codes.

use std::process::ExitCode;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The run is over and every target is met.
    Pass,
    /// There was no run: the relay cannot be reached, the machine is too small, interrupted.
    CouldNotRun,
    /// The command line is wrong.
    Usage,
    /// The run is over and says nothing about the relay, or about a target.
    Invalid,
    /// The run is over and a target is missed.
    Missed,
}

impl Exit {
    /// 0, 1, 2, 3 or 99.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::CouldNotRun => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Missed => 99,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
