//! A run's folder: what `loadgen run --out` writes, and what everything that looks at finished runs
//! reads. `summary.json` and `intervals.hlog`; the latter may be compressed (`intervals.hlog.gz`).
//!
//! # Invariants
//! - What is read back is what was written: the same counts in the same intervals, to the
//!   millisecond in time and to the histograms' 0.1 % in values.
//! - A folder of an earlier build of the same schema can be read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use crate::clock::SECOND_NS;
use crate::interval_log::{self, Interval, LogError};
use crate::recorder::{Metric, Missing, Recorder};
use crate::summary::{SCHEMA, Summary};
use crate::units::DURATION_MAX;

const SUMMARY: &str = "summary.json";
const LOG: &str = "intervals.hlog";
const COMPRESSED_LOG: &str = "intervals.hlog.gz";

/// A compressed log is read up to this size unpacked: a small file can hold any.
const LOG_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A finished run.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The folder it was read from.
    pub dir: PathBuf,
    /// Everything but the histograms.
    pub summary: Summary,
    /// When the steady phase began, by the generator's clock.
    pub began: SystemTime,
    /// In order. The first is all before the steady phase; behind it follow the seconds of the steady
    /// phase without a gap, empty ones included. What came in the drain is in the last.
    pub intervals: Vec<Interval>,
}

/// Why a folder cannot be read as a run; with the fix.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no such folder, or it is of something else.
    #[error("{dir} is no run's folder, it has no {file}: name a folder that `loadgen run --out` wrote", dir = dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// What it lacks.
        file: &'static str,
    },
    /// A file cannot be read.
    #[error("{file}: {error}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The summary is no JSON or lacks something.
    #[error("{file} is no summary of a run: {error}; if it was cut short, repeat the run", file = file.display())]
    Summary {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
    /// The summary has a form that this build does not know.
    #[error(
        "{file} has the form `{schema}`, and this loadgen reads `{SCHEMA}`: read it with the loadgen that wrote it, \
         or repeat the run with this one",
        file = file.display()
    )]
    Schema {
        /// The file.
        file: PathBuf,
        /// What it says of itself.
        schema: String,
    },
    /// The summary says what cannot be.
    #[error("{file} is no summary of a run: {what}; it is damaged, repeat the run", file = file.display())]
    Impossible {
        /// The file.
        file: PathBuf,
        /// What it says.
        what: &'static str,
    },
    /// The log is none, or was cut short.
    #[error("{file} cannot be read: {error}; if it was cut short, repeat the run", file = file.display())]
    Log {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: LogError,
    },
}

/// Reads a run's folder.
///
/// # Errors
/// [`ArchiveError`], which names the file and the fix.
pub fn read(dir: &Path) -> Result<Archive, ArchiveError> {
    let file = dir.join(SUMMARY);
    let json = contents(dir, SUMMARY)?.ok_or_else(|| ArchiveError::Missing { dir: dir.to_owned(), file: SUMMARY })?;
    let summary = parse_summary(&file, &json)?;
    let duration = Duration::from_nanos(summary.workload.duration_ns());
    if let Some(what) = impossible(&summary) {
        return Err(ArchiveError::Impossible { file, what });
    }

    let (file, log) = if let Some(log) = contents(dir, LOG)? {
        (dir.join(LOG), log)
    } else {
        let file = dir.join(COMPRESSED_LOG);
        let compressed =
            contents(dir, COMPRESSED_LOG)?.ok_or_else(|| ArchiveError::Missing { dir: dir.to_owned(), file: LOG })?;
        let mut log = Vec::new();
        GzDecoder::new(&compressed[..])
            .take(LOG_BYTES_MAX)
            .read_to_end(&mut log)
            .map_err(|error| ArchiveError::Io { file: file.clone(), error })?;
        (file, log)
    };
    let (began, intervals) = interval_log::read(&log).map_err(|error| ArchiveError::Log { file, error })?;
    Ok(Archive { dir: dir.to_owned(), began, intervals: lay_out(intervals, duration), summary })
}

/// Writes a run's folder, which is made; files of an earlier run in it are replaced.
///
/// # Errors
/// Those of the file system.
pub fn write(dir: &Path, summary: &Summary, began: SystemTime, intervals: &[Interval]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut json = serde_json::to_vec_pretty(summary)?;
    json.push(b'\n');
    fs::write(dir.join(SUMMARY), json)?;
    let mut log = BufWriter::new(File::create(dir.join(LOG))?);
    interval_log::write(&mut log, began, intervals)?;
    log.flush()
}

/// Whether a folder looks like a run's.
#[must_use]
pub fn is_run(dir: &Path) -> bool {
    dir.join(SUMMARY).is_file()
}

impl Archive {
    /// All intervals together: what the run's percentiles are of.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        let mut sum = Recorder::default();
        for interval in &self.intervals {
            sum.add(&interval.recorder);
        }
        sum
    }

    /// The seconds of the steady phase.
    #[must_use]
    pub fn steady(&self) -> &[Interval] {
        self.intervals.get(1..).unwrap_or_default()
    }

    /// Samples of the steady phase that never came: infinitely late.
    #[must_use]
    pub fn missing(&self) -> Missing {
        let mut missing = Missing::default();
        for metric in Metric::ALL {
            missing.set(metric, self.summary.metrics.get(metric.name()).map_or(0, |metric| metric.infinite));
        }
        missing
    }
}

/// A file of the folder, `None` if it is not there.
fn contents(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
    let file = dir.join(name);
    match fs::read(&file) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ArchiveError::Io { file, error }),
    }
}

/// The largest count that is believed, as everywhere in JSON: sums of such do not overflow.
const COUNT_MAX: u64 = 1 << 53;

/// What a summary says that no run can have come to; nobody has to reckon with it behind this.
fn impossible(summary: &Summary) -> Option<&'static str> {
    fn is_large(value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields.values().any(is_large),
            other => other.as_u64().is_some_and(|count| count > COUNT_MAX),
        }
    }
    let Summary { workload, metrics, steady, ledger, lobby, aside, reach, .. } = summary;
    let longest = Duration::from_nanos(workload.duration_ns().max(workload.warmup_ns()));
    // What was read from JSON can be JSON again.
    let counts = serde_json::to_value((metrics, steady, ledger, lobby, aside, reach)).unwrap_or_default();
    if longest > DURATION_MAX {
        Some("it is said to have taken more than 30 days")
    } else if counts.as_array().into_iter().flatten().any(is_large) {
        Some("it counts more than there can be")
    } else {
        None
    }
}

fn parse_summary(file: &Path, json: &[u8]) -> Result<Summary, ArchiveError> {
    /// What every form of the summary has.
    #[derive(Deserialize)]
    struct Form {
        schema: String,
    }
    let unreadable = |error| ArchiveError::Summary { file: file.to_owned(), error };
    let form: Form = serde_json::from_slice(json).map_err(unreadable)?;
    if form.schema != SCHEMA {
        return Err(ArchiveError::Schema { file: file.to_owned(), schema: form.schema });
    }
    serde_json::from_slice(json).map_err(unreadable)
}

/// Puts what a log holds into its places: a log has no lines for an interval without samples.
fn lay_out(read: Vec<Interval>, duration: Duration) -> Vec<Interval> {
    let second = Duration::from_nanos(SECOND_NS);
    let seconds = duration.as_nanos().div_ceil(u128::from(SECOND_NS)).max(1) as usize;
    // Both what was before the steady phase and its first second have the start 0.
    let ramp_is_there = match &read[..] {
        [first, second, ..] if second.start.is_zero() => first.start.is_zero(),
        [first, ..] => first.start.is_zero() && first.length.abs_diff(duration.min(second)) > Duration::from_millis(1),
        [] => false,
    };
    let mut places: Vec<Interval> = (0..=seconds)
        .map(|number| {
            let start = Duration::from_secs(number.saturating_sub(1) as u64);
            let length = if number == 0 { Duration::ZERO } else { duration.saturating_sub(start).min(second) };
            Interval { start, length, recorder: Box::default() }
        })
        .collect();
    for (at, interval) in read.into_iter().enumerate() {
        if at == 0 && ramp_is_there {
            places[0] = interval;
        } else {
            let number = (interval.start.as_secs_f64().round() as usize).saturating_add(1);
            places[number.min(seconds)].recorder.add(&interval.recorder);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::{ArchiveError, lay_out, read, write};
    use crate::interval_log::Interval;
    use crate::recorder::{Metric, Recorder};
    use crate::summary::Summary;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    /// Runs of the first build that wrote this schema.
    fn first_results() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/2026-11-21-first-figures")
    }

    fn run_folders(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                run_folders(&entry.path(), found);
            } else if entry.file_name() == "summary.json" {
                found.push(dir.to_owned());
            }
        }
    }

    #[test]
    fn runs_of_the_first_build_can_be_read_and_say_the_same() {
        let mut folders = Vec::new();
        run_folders(&first_results(), &mut folders);
        assert!(folders.len() > 20, "{folders:?}");
        for folder in folders {
            let archive = read(&folder).unwrap_or_else(|error| panic!("{error}"));
            let recorder = archive.recorder();
            for metric in Metric::ALL {
                let Some(said) = archive.summary.metrics.get(metric.name()) else { continue };
                assert_eq!(recorder.of(metric).len(), said.n, "{}: {}", folder.display(), metric.name());
            }
            let seconds = archive.summary.workload.duration_ns() / 1_000_000_000;
            assert_eq!(archive.steady().len() as u64, seconds, "{}", folder.display());
        }
    }

    fn interval(start_ms: u64, length_ms: u64, metric: Metric, ns: u64) -> Interval {
        let mut recorder = Box::<Recorder>::default();
        recorder.record(metric, ns);
        Interval { start: Duration::from_millis(start_ms), length: Duration::from_millis(length_ms), recorder }
    }

    fn counts(intervals: &[Interval], metric: Metric) -> Vec<u64> {
        intervals.iter().map(|interval| interval.recorder.of(metric).len()).collect()
    }

    #[test]
    fn silent_seconds_have_their_place() {
        let duration = Duration::from_millis(3500);
        let ramp = interval(0, 2_345, Metric::Connect, 5);
        let last = interval(3_000, 500, Metric::Message, 7);
        let read = lay_out(vec![ramp.clone(), last.clone()], duration);
        assert_eq!(counts(&read, Metric::Message), [0, 0, 0, 0, 1]);
        assert_eq!(counts(&read, Metric::Connect), [1, 0, 0, 0, 0]);
        assert_eq!(read.iter().map(|interval| interval.length.as_millis()).sum::<u128>(), 2345 + 3500);
        // A ramp of exactly a second is still no part of the steady phase.
        let ramp = Interval { length: Duration::from_secs(1), ..ramp };
        let first = interval(0, 1_000, Metric::Message, 7);
        let read = lay_out(vec![ramp, first.clone(), last], duration);
        assert_eq!(counts(&read, Metric::Connect), [1, 0, 0, 0, 0]);
        assert_eq!(counts(&read, Metric::Message), [0, 1, 0, 0, 1]);
        assert_eq!(counts(&lay_out(vec![first], duration), Metric::Message), [0, 1, 0, 0, 0]);
    }

    /// A summary that a run wrote, in memory.
    fn stored_summary() -> serde_json::Value {
        let file = first_results().join("latency.ring.1/summary.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let summary: Summary = serde_json::from_value(stored_summary()).unwrap();
        let intervals = [interval(0, 400, Metric::Auth, 9), interval(0, 1_000, Metric::Message, 1_234_567)];
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_125);
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a/b"), &summary, began, &intervals).unwrap();
        let archive = read(&dir.path().join("a/b")).unwrap();
        assert_eq!(archive.began, began);
        assert_eq!(archive.intervals[0].recorder.of(Metric::Auth), intervals[0].recorder.of(Metric::Auth));
        assert_eq!(archive.intervals[1].recorder.of(Metric::Message), intervals[1].recorder.of(Metric::Message));
        assert_eq!(serde_json::to_value(&archive.summary).unwrap(), serde_json::to_value(&summary).unwrap());
        assert_eq!(archive.steady().len(), 10);
    }

    #[test]
    fn fields_of_later_builds_are_passed_over() {
        let mut later = stored_summary();
        later["added_later"] = "x".into();
        later["ledger"]["added_later"] = 5.into();
        assert!(serde_json::from_value::<Summary>(later).is_ok());
    }

    #[test]
    fn what_is_no_run_is_named_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let message = |path: &Path| read(path).unwrap_err().to_string();
        assert!(message(&path.join("nowhere")).contains("nowhere is no run's folder"));
        fs::write(path.join("summary.json"), "{\"schema\":").unwrap();
        assert!(message(path).contains("summary.json is no summary"), "{}", message(path));
        let mut summary = stored_summary();
        fs::write(path.join("summary.json"), summary.to_string()).unwrap();
        assert!(matches!(read(path), Err(ArchiveError::Missing { file: "intervals.hlog", .. })));
        fs::write(path.join("intervals.hlog"), "Tag=message,0.000,1.000,4.9,HISTFAAAB").unwrap();
        assert!(message(path).contains("intervals.hlog cannot be read"), "{}", message(path));
        summary["workload"]["duration_ms"] = u64::MAX.into();
        fs::write(path.join("summary.json"), summary.to_string()).unwrap();
        assert!(message(path).contains("more than 30 days"), "{}", message(path));
        let mut large = stored_summary();
        large["metrics"]["message"]["infinite"] = u64::MAX.into();
        fs::write(path.join("summary.json"), large.to_string()).unwrap();
        assert!(message(path).contains("more than there can be"), "{}", message(path));
        summary["schema"] = "relay-loadgen-summary/2".into();
        fs::write(path.join("summary.json"), summary.to_string()).unwrap();
        assert!(message(path).contains("`relay-loadgen-summary/2`"), "{}", message(path));
    }
}
