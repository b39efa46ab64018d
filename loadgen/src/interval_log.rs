//! `intervals.hlog`: every metric in intervals of a second, as HdrHistogram's tools read it (V2,
//! compressed). The tag is the metric's name, the maximum is in milliseconds.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

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

#[cfg(test)]
mod tests {
    use super::{Interval, write};
    use crate::recorder::{Metric, Recorder};
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_log_is_read_back_by_the_library() {
        let mut recorder = Box::<Recorder>::default();
        recorder.record(Metric::Message, 1_500_000);
        recorder.record(Metric::LobbyJoin, 7);
        let interval = Interval { start: Duration::from_secs(3), length: Duration::from_secs(1), recorder };
        let mut log = Vec::new();
        write(&mut log, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), &[interval]).unwrap();

        let mut seen = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                assert_eq!(interval.start_timestamp(), Duration::from_secs(3));
                let encoded = decode_base64(interval.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &encoded[..]).unwrap();
                seen.push((interval.tag().unwrap().as_str().to_owned(), histogram.len(), histogram.max()));
            }
        }
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].0.as_str(), seen[0].1), ("message", 1));
        assert!(seen[0].2.abs_diff(1_500_000) <= 1_500, "{seen:?}");
        assert_eq!(seen[1], ("lobby.join".to_owned(), 1, 7));
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
        for digit in text.bytes().filter(|&digit| digit != b'=') {
            let value = DIGITS.iter().position(|&known| known == digit).unwrap() as u32;
            bits = bits << 6 | value;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        bytes
    }
}
