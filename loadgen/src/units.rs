//! How rates, times, sizes and core lists are read and shown.

use std::time::Duration;

/// The longest time of a command line: 30 days.
pub const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The highest rate of a command line: some hundred times what a core can send. More would take long only to
/// count.
pub const RATE_MAX: f64 = 10_000_000.0;

/// Reads `2000/s`, `2000` or `0.5/s`.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_per_second(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|rate: &f64| (0.0..=RATE_MAX).contains(rate))
        .ok_or_else(|| format!("`{text}` is no rate up to {RATE_MAX}/s; write it as 2000/s"))
}

/// Reads a duration as `5s`, `500ms` or `1m 30s`.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration =
        humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration; write it as 5s or 500ms"))?;
    if duration > DURATION_MAX {
        return Err(format!("`{text}` is too long; 30 days at most"));
    }
    Ok(duration)
}

/// Reads a list of cores as `0,2-3`.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("`{text}` is no list of cores; write it as 1 or 0,2-3");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if last < first || last >= 1024 {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// Shows nanoseconds with three digits and the unit that fits.
#[must_use]
pub fn show_ns(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// Shows a time that somebody chose: `500 ms`, `1.5 s`, `10 s`, as short as it can be.
#[must_use]
pub fn show_ms(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{} s", trim_zeros(&format!("{}.{:03}", show_count(ms / 1000), ms % 1000)))
    }
}

/// Shows a whole number with a comma at each thousand.
#[must_use]
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Shows a rate: whole, or with the decimals of a small one.
#[must_use]
pub fn show_rate(per_second: f64) -> String {
    if per_second < 10.0 && per_second.fract() != 0.0 {
        trim_zeros(&format!("{per_second:.2}")).to_owned()
    } else {
        show_count(per_second.round() as u64)
    }
}

/// A number without the zeros, and the point, that end it behind a decimal point.
#[must_use]
pub fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// What a stranger says, made fit for a line on a terminal: without control characters, and not too long.
#[must_use]
pub fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut line: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.trim_end().len());
    if text.chars().nth(CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// Shows bytes in binary units.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let bytes = bytes as f64;
    if bytes < 10.0 * KIB {
        format!("{bytes:.0} B")
    } else if bytes < 10.0 * KIB * KIB {
        format!("{:.1} KiB", bytes / KIB)
    } else if bytes < 10.0 * KIB * KIB * KIB {
        format!("{:.1} MiB", bytes / KIB / KIB)
    } else {
        format!("{:.1} GiB", bytes / KIB / KIB / KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        parse_cores, parse_duration, parse_per_second, show_bytes, show_count, show_ms, show_ns, show_rate, trim_zeros,
    };
    use std::time::Duration;

    #[test]
    fn rates_are_read() {
        assert_eq!(parse_per_second("2000/s"), Ok(2000.0));
        assert_eq!(parse_per_second("0.5"), Ok(0.5));
        for wrong in ["", "x/s", "-1/s", "inf", "NaN/s", "5/m", "1e8/s"] {
            assert!(parse_per_second(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["5", "31days", "500000000000years"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn core_lists_are_read() {
        assert_eq!(parse_cores("0,2-4"), Ok(vec![0, 2, 3, 4]));
        for wrong in ["", "a", "3-1", "1,", "0-9999999"] {
            assert!(parse_cores(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(show_ns(999), "999 ns");
        assert_eq!(show_ns(34_120), "34.1 µs");
        assert_eq!(show_ns(1_234_000), "1.23 ms");
        assert_eq!(show_ns(734_000_000), "734 ms");
        assert_eq!(show_ns(61_000_000_000), "61.0 s");
        assert_eq!(show_count(1), "1");
        assert_eq!(show_count(1_234_567), "1,234,567");
        assert_eq!((trim_zeros("99.90"), trim_zeros("50.0"), trim_zeros("100")), ("99.9", "50", "100"));
        assert_eq!(
            (show_rate(0.5).as_str(), show_rate(2000.4).as_str(), show_rate(2.0).as_str()),
            ("0.5", "2,000", "2")
        );
        assert_eq!(show_ms(500), "500 ms");
        assert_eq!((show_ms(1500).as_str(), show_ms(3_600_000).as_str()), ("1.5 s", "3,600 s"));
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(20 * 1024), "20.0 KiB");
        assert_eq!(show_bytes(25_000_000_000), "23.3 GiB");
    }
}
