//! Timestamps: exactly `YYYY-MM-DDTHH:MM:SS.mmmZ`, so that text order is time order.

/// A moment in milliseconds since 1970-01-01T00:00:00Z, within the years 0000 to 9999 that the
/// form can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// Bytes of the text form.
pub const TEXT_BYTES: usize = 24;

/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z.
const FIRST_MS: i64 = days_from_civil(0, 1, 1) * DAY_MS;
const LAST_MS: i64 = days_from_civil(10_000, 1, 1) * DAY_MS - 1;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl Timestamp {
    /// From milliseconds since the Unix epoch; clamped to what the text form can hold.
    #[must_use]
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms.clamp(FIRST_MS, LAST_MS))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// Reads the one allowed form; `None` for anything else: other lengths, other separators,
    /// dates that do not exist, leap seconds.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let t: &[u8; TEXT_BYTES] = text.as_bytes().try_into().ok()?;
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
        if separators.iter().any(|&(at, byte)| t[at] != byte) {
            return None;
        }
        let number = |from: usize, to: usize| {
            t[from..to]
                .iter()
                .try_fold(0i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
        let date_exists = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        if !date_exists || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = (hour * 60 + minute) * 60 + second;
        Some(Self(days_from_civil(year, month, day) * DAY_MS + seconds * 1000 + ms))
    }

    /// The text form, on the stack.
    #[must_use]
    pub fn to_text(self) -> [u8; TEXT_BYTES] {
        let (days, ms) = (self.0.div_euclid(DAY_MS), self.0.rem_euclid(DAY_MS));
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |from: usize, to: usize, mut value: i64| {
            for at in (from..to).rev() {
                text[at] = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(0, 4, year);
        put(5, 7, month);
        put(8, 10, day);
        put(11, 13, ms / 3_600_000);
        put(14, 16, ms / 60_000 % 60);
        put(17, 19, ms / 1000 % 60);
        put(20, 23, ms % 1000);
        text
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).expect("a timestamp is ASCII"))
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar. Counts in eras of 400
/// years (146,097 days) that begin on the first of March, so that the leap day comes last.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2026-11-21T12:34:56.789Z", 1_795_264_496_789),
            ("0000-01-01T00:00:00.000Z", -62_167_219_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(Timestamp::parse(text).map(Timestamp::unix_ms), Some(unix_ms), "{text}");
            assert_eq!(Timestamp::from_unix_ms(unix_ms).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_round_trips_and_follows_its_predecessor() {
        let mut before = String::new();
        for day in -719_528..(-719_528 + 146_097 * 2) {
            let text = Timestamp::from_unix_ms(day * DAY_MS).to_string();
            assert_eq!(Timestamp::parse(&text).map(Timestamp::unix_ms), Some(day * DAY_MS));
            assert!(before < text, "{before} is before {text}");
            before = text;
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "2026-11-21T12:34:56Z",
            "2026-11-21T12:34:56.7890Z",
            "2026-11-21 12:34:56.789Z",
            "2026-11-21T12:34:56.789z",
            "2026-11-21T12:34:56.789+",
            "2026-02-29T00:00:00.000Z",
            "1900-02-29T00:00:00.000Z",
            "2026-00-10T00:00:00.000Z",
            "2026-13-10T00:00:00.000Z",
            "2026-04-31T00:00:00.000Z",
            "2026-04-00T00:00:00.000Z",
            "2026-04-01T24:00:00.000Z",
            "2026-04-01T00:60:00.000Z",
            "2026-06-30T23:59:60.000Z",
            "+026-04-01T00:00:00.000Z",
            "٢026-04-01T00:00:00.000",
            "",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
