//! `strftime_now` for templates that tell the model the date. This room reads no clock: the time is passed in.

use std::fmt::Write as _;

/// A moment, in seconds since 1970-01-01 00:00:00, read as the local or universal time that templates should print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(pub i64);

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A date of the Gregorian calendar.
struct Date {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// Days since 1 January.
    day_of_year: i64,
    /// Days since Sunday.
    weekday: i64,
}

impl Date {
    /// Counts in eras of 400 years that begin on 1 March, so that leap days come last (H. Hinnant,
    /// "chrono-Compatible Low-Level Date Algorithms").
    fn of(days: i64) -> Self {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let january_based = if month <= 2 { from_march - 306 } else { from_march + 59 + i64::from(leap) };
        Self { year, month: month as usize, day, day_of_year: january_based, weekday: (days + 4).rem_euclid(7) }
    }
}

impl Timestamp {
    /// The moment as Python's `datetime.strftime` writes it in the C locale. What is no known directive stays as it is.
    /// `-` after the `%` leaves out padding, as the C library's does. `%Z` and `%z` are empty, as for a time without
    /// zone.
    pub fn format(self, pattern: &str) -> String {
        // Far enough in both directions, and safe from overflow.
        let seconds = self.0.clamp(-62_135_596_800, 253_402_300_799);
        let date = Date::of(seconds.div_euclid(DAY));
        let second = seconds.rem_euclid(DAY);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let spec = &rest[at + 1..];
            let unpadded = spec.starts_with('-');
            let letter = spec[usize::from(unpadded)..].chars().next();
            let mut number = |value: i64, width: usize| {
                let width = if unpadded { 1 } else { width };
                let _ = write!(out, "{value:0width$}");
            };
            match letter {
                Some('Y') => number(date.year, 4),
                Some('y') => number(date.year.rem_euclid(100), 2),
                Some('m') => number(date.month as i64, 2),
                Some('d') => number(date.day, 2),
                Some('j') => number(date.day_of_year + 1, 3),
                Some('H') => number(hour, 2),
                Some('I') => number((hour + 11) % 12 + 1, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second % 60, 2),
                Some('f') => number(0, 6),
                Some('w') => number(date.weekday, 1),
                Some('u') => number((date.weekday + 6) % 7 + 1, 1),
                Some('e') => {
                    let _ = if unpadded { write!(out, "{}", date.day) } else { write!(out, "{:2}", date.day) };
                }
                Some('B') => out.push_str(MONTHS[date.month - 1]),
                Some('b' | 'h') => out.push_str(&MONTHS[date.month - 1][..3]),
                Some('A') => out.push_str(DAYS[date.weekday as usize]),
                Some('a') => out.push_str(&DAYS[date.weekday as usize][..3]),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('F') => out.push_str(&self.format("%Y-%m-%d")),
                Some('T' | 'X') => out.push_str(&self.format("%H:%M:%S")),
                Some('R') => out.push_str(&self.format("%H:%M")),
                Some('D' | 'x') => out.push_str(&self.format("%m/%d/%y")),
                Some('c') => out.push_str(&self.format("%a %b %e %H:%M:%S %Y")),
                Some('s') => number(seconds, 1),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('Z' | 'z') => {}
                Some('%') => out.push('%'),
                // Not a directive: the text stays.
                _ => {
                    out.push('%');
                    rest = spec;
                    continue;
                }
            }
            rest = &spec[usize::from(unpadded) + 1..];
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        // Checked with datetime.datetime(…).strftime(…).
        for (seconds, pattern, expected) in [
            (0, "%Y-%m-%d %H:%M:%S", "1970-01-01 00:00:00"),
            (1_709_210_096, "%d %b %Y", "29 Feb 2024"),
            (
                1_709_210_096,
                "%A, %B %d, %Y at %I:%M %p (%a %j %w %u %y)",
                "Thursday, February 29, 2024 at 12:34 PM (Thu 060 4 4 24)",
            ),
            (1_735_689_599, "%-d/%-m/%y %j %c", "31/12/24 366 Tue Dec 31 23:59:59 2024"),
            (951_782_400, "%F %T %e%%", "2000-02-29 00:00:00 29%"),
            (-1, "%Y-%m-%dT%X%Z", "1969-12-31T23:59:59"),
            (1_772_323_200, "%D %R %h%e", "03/01/26 00:00 Mar 1"),
            (0, "100% %", "100% %"),
            (0, "é%é", "é%é"),
        ] {
            assert_eq!(Timestamp(seconds).format(pattern), expected, "{pattern}");
        }
        assert_eq!(Timestamp(i64::MAX).format("%Y"), "9999");
        assert_eq!(Timestamp(i64::MIN).format("%Y"), "0001");
    }
}
