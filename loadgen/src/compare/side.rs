//! One side of a comparison: its runs, read from their folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CompareError;
use super::sample::Run;
use crate::archive;
use crate::summary::Summary;

/// One side's runs.
#[derive(Clone, Debug)]
pub struct Side {
    pub(super) name: char,
    pub(super) runs: Vec<(PathBuf, Summary, Run)>,
    pub(super) set_aside: Vec<(PathBuf, String)>,
}

/// One side, as a comparison tells of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SideRecord {
    /// Folders of the runs that were compared.
    pub runs: Vec<PathBuf>,
    /// Folders of runs that were not, and why.
    pub set_aside: Vec<(PathBuf, String)>,
    /// Messages due that did not arrive as sent.
    pub undelivered: u64,
    /// Messages sent.
    pub sent: u64,
    /// Everything else that was wrong: duplicates, faults.
    pub faults: u64,
}

impl Side {
    /// Reads runs: each path is a run's folder, or one that holds such. INVALID ones are set aside.
    ///
    /// # Errors
    /// [`CompareError`].
    pub fn read(name: char, paths: &[PathBuf]) -> Result<Self, CompareError> {
        let mut side = Self { name, runs: Vec::new(), set_aside: Vec::new() };
        let mut read = BTreeSet::new();
        for path in paths {
            for folder in run_folders(path)? {
                if !read.insert(place(&folder)) {
                    return Err(CompareError::Twice { path: folder });
                }
                // The histograms of one run at a time are in memory.
                let archive = archive::read(&folder)?;
                match reason_to_set_aside(&archive.summary) {
                    Some(reason) => side.set_aside.push((folder, reason)),
                    None => side.runs.push((folder, archive.summary.clone(), Run::of(&archive))),
                }
            }
        }
        if side.runs.is_empty() {
            let why = side.set_aside.iter().map(|(folder, reason)| format!("  {}: {reason}\n", folder.display()));
            return Err(CompareError::AllInvalid { side: name, count: side.set_aside.len(), why: why.collect() });
        }
        side.runs.sort_by_key(|(_, _, run)| run.began);
        Ok(side)
    }

    /// A run that is on both sides.
    pub(super) fn same_run(&self, other: &Self) -> Option<PathBuf> {
        let places: BTreeSet<PathBuf> = other.runs.iter().map(|(folder, ..)| place(folder)).collect();
        self.runs.iter().map(|(folder, ..)| folder).find(|folder| places.contains(&place(folder))).cloned()
    }

    pub(super) fn samples(&self) -> Vec<Run> {
        self.runs.iter().map(|(_, _, run)| run.clone()).collect()
    }

    pub(super) fn summaries(&self) -> Vec<&Summary> {
        self.runs.iter().map(|(_, summary, _)| summary).collect()
    }

    pub(super) fn record(&self) -> SideRecord {
        let sum = |count: fn(&Summary) -> u64| self.runs.iter().map(|(_, summary, _)| count(summary)).sum();
        SideRecord {
            runs: self.runs.iter().map(|(folder, ..)| folder.clone()).collect(),
            set_aside: self.set_aside.clone(),
            undelivered: sum(|summary| summary.ledger.undelivered()),
            sent: sum(|summary| summary.ledger.sent),
            faults: sum(|summary| summary.ledger.duplicates + summary.ledger.faults()),
        }
    }
}

/// Where a folder is, however it is written.
fn place(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// The run's folder itself, or those that it holds, by name.
fn run_folders(path: &Path) -> Result<Vec<PathBuf>, CompareError> {
    if archive::is_run(path) {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| CompareError::Folder { path: path.to_owned(), error };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        if archive::is_run(&folder) {
            folders.push(folder);
        }
    }
    if folders.is_empty() {
        return Err(CompareError::NoRuns { path: path.to_owned() });
    }
    folders.sort();
    Ok(folders)
}

/// Why a run says nothing about the relay, if it does.
fn reason_to_set_aside(summary: &Summary) -> Option<String> {
    let reasons: Vec<&str> =
        summary.findings.iter().filter(|finding| finding.spoils_run()).map(|finding| finding.text.as_str()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
