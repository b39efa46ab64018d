//! Two relays measured in turns: A B, B A, A B, … What drifts on the machine meets both alike.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::measure::{FileError, make_folder, measure};
use crate::progress::Progress;
use crate::run::{Request, RunError};

/// Why turns ended early.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A run could not be.
    #[error("round {round}, {side}: {error}; the runs so far are kept, compare them with `loadgen compare {a} {b}`",
        a = out.join("a").display(), b = out.join("b").display())]
    Run {
        /// From 1.
        round: u32,
        /// `A` or `B`.
        side: char,
        /// Where runs are kept.
        out: PathBuf,
        /// Why.
        error: RunError,
    },
    /// A folder cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is run next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// From 1.
    pub number: u32,
    /// Whether it is A's turn.
    pub is_a: bool,
    /// Where the run is kept.
    pub folder: PathBuf,
}

/// The order of turns, in which neither side is always the first.
fn turns(rounds: u32, out: &Path) -> impl Iterator<Item = Round> {
    (1..=rounds).flat_map(move |number| {
        let turn = |is_a: bool| Round {
            number,
            is_a,
            folder: out.join(if is_a { "a" } else { "b" }).join(format!("{number:02}")),
        };
        let a_first = number % 2 == 1;
        [turn(a_first), turn(!a_first)]
    })
}

/// Runs A and B in turns and files each run below `out`, in `a/01`, `b/01`, `b/02`, `a/02`, ….
/// `request` makes what is to be run, its folder already in it.
///
/// # Errors
/// [`LiveError`]; what was run until then is kept.
pub fn take_turns(
    rounds: u32,
    out: &Path,
    mut request: impl FnMut(&Round) -> Request,
    progress: &Progress,
    interrupted: &AtomicBool,
) -> Result<[PathBuf; 2], LiveError> {
    for turn in turns(rounds, out) {
        let side = if turn.is_a { 'A' } else { 'B' };
        make_folder(&turn.folder)?;
        progress.line(&format!("round {} of {rounds}: {side}", turn.number));
        let run = measure(request(&turn), progress, interrupted).map_err(|error| LiveError::Run {
            round: turn.number,
            side,
            out: out.to_owned(),
            error,
        })?;
        run.file(&turn.folder)?;
        for finding in &run.summary.findings {
            progress.line(&format!("  {}: {}", finding.text, finding.fix));
        }
    }
    Ok([out.join("a"), out.join("b")])
}

#[cfg(test)]
mod tests {
    use super::turns;
    use std::path::Path;

    #[test]
    fn neither_side_is_always_first() {
        let order: String = turns(4, Path::new("x")).map(|turn| if turn.is_a { 'A' } else { 'B' }).collect();
        assert_eq!(order, "ABBAABBA");
        let folders: Vec<_> = turns(2, Path::new("x")).map(|turn| turn.folder.display().to_string()).collect();
        assert_eq!(folders, ["x/a/01", "x/b/01", "x/b/02", "x/a/02"]);
    }
}
