//! Times as texts, in the form of RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The days of 400 years, after which the calendar repeats itself.
const ERA_DAYS: u64 = 146_097;

/// A time in UTC, to the microsecond: `2026-01-02T03:04:05.000006Z`. What is before 1970 is its beginning.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = date(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// Now.
pub fn now() -> String {
    rfc3339(SystemTime::now())
}

/// So long from now.
pub fn after(duration: Duration) -> Option<String> {
    SystemTime::now().checked_add(duration).map(rfc3339)
}

/// Year, month and day so many days after the beginning of 1970. The year is taken to begin with March, so that the day that
/// some years have more is their last.
fn date(days: u64) -> (u64, u64, u64) {
    // The 1st of March of the year 0 is 719,468 days before.
    let days = days + 719_468;
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Of the five months from March 153 days, and again from August.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_one_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_nanos(1_500)), "1970-01-01T00:00:00.000001Z");
    }
}
