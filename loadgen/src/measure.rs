//! One run as commands use it: run, judged, and filed in its folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use crate::archive;
use crate::exit::Exit;
use crate::interval_log::Interval;
use crate::progress::Progress;
use crate::report;
use crate::report_page;
use crate::run::{self, Request, RunError};
use crate::summary::Summary;

/// A run that is over.
#[derive(Debug)]
pub struct Measurement {
    /// Everything but the histograms.
    pub summary: Summary,
    /// How the command should end.
    pub exit: Exit,
    began: SystemTime,
    intervals: Vec<Interval>,
}

/// Why a folder cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("--out {dir}: {error}", dir = dir.display())]
pub struct FileError {
    dir: PathBuf,
    error: io::Error,
}

/// Runs once and judges.
///
/// # Errors
/// [`RunError`], when there is no result.
pub fn measure(request: Request, progress: &Progress, interrupted: &AtomicBool) -> Result<Measurement, RunError> {
    let started = SystemTime::now();
    let spawn = request.spawn.as_ref().map(|(spawn, _)| spawn.clone());
    let result = run::run(request, progress, interrupted)?;
    let (summary, exit) = report::summarize(&result, spawn.as_ref(), started, std::env::args().collect());
    Ok(Measurement { summary, exit, began: result.steady_began, intervals: result.intervals })
}

impl Measurement {
    /// A run whose summary was made elsewhere. `began` is when its steady phase did.
    #[must_use]
    pub fn new(summary: Summary, exit: Exit, began: SystemTime, intervals: Vec<Interval>) -> Self {
        Self { summary, exit, began, intervals }
    }

    /// What was measured, by interval; the first is all before the steady phase.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// Writes the run's folder, with the page about it.
    ///
    /// # Errors
    /// [`FileError`], which names the folder.
    pub fn file(&self, dir: &Path) -> Result<(), FileError> {
        archive::write(dir, &self.summary, self.began, &self.intervals)
            .and_then(|()| report_page::write(dir, &self.summary, &self.intervals).map(drop))
            .map_err(|error| FileError::new(dir, error))
    }
}

/// Makes a folder before the run, so that one that cannot be made costs no run.
///
/// # Errors
/// [`FileError`], which names the folder.
pub fn make_folder(dir: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(dir).map_err(|error| FileError::new(dir, error))
}

impl FileError {
    fn new(dir: &Path, error: io::Error) -> Self {
        Self { dir: dir.to_owned(), error }
    }
}
