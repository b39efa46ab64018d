//! `intervals.hlog`: every metric in intervals of a second, as HdrHistogram's tools read it (V2,
//! compressed). The tag is the metric's name, the maximum is in milliseconds.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, IntervalLogWriterError, LogEntry, LogIteratorError, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use crate::recorder::{Metric, Recorder};

/// What was measured in one stretch of a run.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, from the start of the steady phase; the first one, before it, has zero.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// The values.
    pub recorder: Box<Recorder>,
}

/// Nanoseconds in a millisecond.
const MAX_DIVISOR: f64 = 1e6;

/// Writes the intervals, in their order. `begin` is when the steady phase began.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, begin: SystemTime, intervals: &[Interval]) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.with_start_time(begin).with_base_time(begin).with_max_value_divisor(MAX_DIVISOR);
    builder.add_comment("loadgen: nanoseconds, one tag a metric; connect and auth of the ramp have start 0");
    let mut log = builder.begin_log_with(out, &mut serializer)?;
    for interval in intervals {
        for metric in Metric::ALL {
            let histogram = interval.recorder.of(metric);
            if histogram.is_empty() {
                continue;
            }
            log.write_histogram(histogram, interval.start, interval.length, Tag::new(metric.name())).map_err(
                |error| match error {
                    IntervalLogWriterError::IoError(error) => error,
                    IntervalLogWriterError::SerializeError(error) => io::Error::other(error.to_string()),
                },
            )?;
        }
    }
    Ok(())
}

/// Why a log cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A line is none of a log.
    #[error("what begins at byte {offset} is no line of an interval log")]
    Line {
        /// From the beginning of the file.
        offset: usize,
    },
    /// A histogram is none.
    #[error("the histogram of `{tag}` at {start_ms} ms is damaged: {why}")]
    Histogram {
        /// Its metric.
        tag: String,
        /// When its interval began.
        start_ms: u128,
        /// What is wrong with it.
        why: String,
    },
    /// It does not say when it began, or no time there is.
    #[error("it has no StartTime that can be")]
    NoStart,
}

/// Reads a log that [`write()`] wrote: when the steady phase began, and the intervals that have samples,
/// in their order. Metrics that this build does not know are passed over.
///
/// # Errors
/// [`LogError`].
pub fn read(log: &[u8]) -> Result<(SystemTime, Vec<Interval>), LogError> {
    let mut began = None;
    let mut intervals: Vec<Interval> = Vec::new();
    // The metrics of an interval come in the order of `Metric::ALL`: one that does not begins the next.
    let mut last = None;
    for entry in IntervalLogIterator::new(log) {
        let entry = entry.map_err(|LogIteratorError::ParseError { offset }| LogError::Line { offset })?;
        let line = match entry {
            LogEntry::StartTime(time) => {
                began = SystemTime::UNIX_EPOCH.checked_add(time);
                continue;
            }
            LogEntry::BaseTime(_) => continue,
            LogEntry::Interval(line) => line,
        };
        let tag = line.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
        let Some(metric) = Metric::ALL.into_iter().find(|metric| metric.name() == tag) else { continue };
        let (start, length) = (line.start_timestamp(), line.duration());
        let damaged = |why: String| LogError::Histogram { tag: tag.clone(), start_ms: start.as_millis(), why };
        let bytes = STANDARD.decode(line.encoded_histogram()).map_err(|error| damaged(error.to_string()))?;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut &bytes[..]).map_err(|error| damaged(error.to_string()))?;
        let place = (start, length, metric as usize);
        let goes_on =
            last.is_some_and(|(began, lasted, before)| (began, lasted) == (start, length) && before < place.2);
        if !goes_on {
            intervals.push(Interval { start, length, recorder: Box::default() });
        }
        last = Some(place);
        if let Some(interval) = intervals.last_mut() {
            interval.recorder.merge(metric, &histogram).map_err(|error| damaged(error.to_string()))?;
        }
    }
    Ok((began.ok_or(LogError::NoStart)?, intervals))
}

#[cfg(test)]
mod tests {
    use super::{Interval, LogError, read, write};
    use crate::recorder::{Metric, Recorder};
    use std::time::{Duration, SystemTime};

    fn written() -> (SystemTime, Vec<Interval>, Vec<u8>) {
        let interval = |start, length, values: &[(Metric, u64)]| {
            let mut recorder = Box::<Recorder>::default();
            for &(metric, ns) in values {
                recorder.record(metric, ns);
            }
            Interval { start: Duration::from_secs(start), length: Duration::from_secs(length), recorder }
        };
        let intervals = vec![
            interval(0, 1, &[(Metric::Connect, 80_000), (Metric::Auth, 1)]),
            interval(0, 1, &[(Metric::Message, 1_500_000), (Metric::Message, u64::MAX), (Metric::Connect, 9)]),
            interval(3, 1, &[(Metric::Message, 3), (Metric::LobbyJoin, 7)]),
        ];
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = Vec::new();
        write(&mut log, began, &intervals).unwrap();
        (began, intervals, log)
    }

    #[test]
    fn a_log_is_read_back_as_it_was() {
        let (began, intervals, log) = written();
        let (read_began, read) = read(&log).unwrap();
        assert_eq!(read_began, began);
        assert_eq!(read.len(), intervals.len());
        for (read, interval) in read.iter().zip(&intervals) {
            assert_eq!((read.start, read.length), (interval.start, interval.length));
            for metric in Metric::ALL {
                assert_eq!(read.recorder.of(metric), interval.recorder.of(metric), "{metric:?}");
            }
        }
    }

    #[test]
    fn metrics_of_later_builds_are_passed_over() {
        let (_, _, log) = written();
        let later = String::from_utf8(log).unwrap().replace("Tag=lobby.join", "Tag=added.later");
        let (_, read) = read(later.as_bytes()).unwrap();
        assert_eq!(read[2].recorder.of(Metric::Message).len(), 1);
        assert!(read[2].recorder.of(Metric::LobbyJoin).is_empty());
    }

    #[test]
    fn what_is_damaged_is_said() {
        let (_, _, log) = written();
        let text = String::from_utf8(log).unwrap();
        let (whole, _) = text.trim_end().rsplit_once('\n').unwrap();
        let cut = &text[..whole.len() + 4];
        assert_eq!(read(cut.as_bytes()).unwrap_err(), LogError::Line { offset: whole.len() + 1 });
        let short = &text[..text.len() - 25];
        let error = read(format!("{short}\n").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("`lobby.join` at 3000 ms is damaged"), "{error}");
        let headless = text.lines().filter(|line| !line.contains("StartTime")).collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!(read(headless.as_bytes()).unwrap_err(), LogError::NoStart);
        let far = text.replace("StartTime: 17", "StartTime: 184467440737");
        assert_eq!(read(far.as_bytes()).unwrap_err(), LogError::NoStart);
    }
}
