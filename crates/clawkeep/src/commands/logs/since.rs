use std::time::Duration;

/// `90s`, `5m`, `2h`, `1d`; a bare number is seconds.
///
/// # Errors
/// What it should look like.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no span of time: use 90s, 5m, 2h or 1d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

/// Where the first line begins that is not older than `from` (Unix milliseconds). Lines without a time belong to
/// the one above. `None` when no line has a time.
pub fn start(log: &[u8], from: i64) -> Option<usize> {
    let (mut at, mut any) = (0, false);
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        if let Some(time) = leading_time(line) {
            if time >= from {
                return Some(at);
            }
            any = true;
        }
        at += line.len();
    }
    any.then_some(log.len())
}

/// The time that a line begins with (RFC 3339, also in brackets), as Unix milliseconds.
fn leading_time(line: &[u8]) -> Option<i64> {
    let line = line.strip_prefix(b"[").unwrap_or(line);
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = line.get(from..to)?;
        digits
            .iter()
            .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| line.get(*at) == Some(mark))
        || !matches!(line.get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = line.get(19..)?;
    let mut ms = 0_i64;
    if let Some(fraction) = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let places = fraction[..digits].iter().map(|digit| i64::from(digit - b'0')).chain([0, 0, 0]);
        ms = places.take(3).fold(0, |ms, digit| ms * 10 + digit);
        rest = &fraction[digits..];
    }
    let offset = match rest.first() {
        Some(b'Z' | b'z') => 0,
        Some(sign @ (b'+' | b'-')) => {
            let at = line.len() - rest.len();
            let minutes = number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let days = days_since_1970(year, month, day);
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + ms)
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March, so that the leap day is the
/// last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("5m", 300), ("90s", 90), ("90", 90), ("2h", 7200), ("1d", 86_400), ("0", 0)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "m", "5 m", "-5m", "5w", "99999999999999999999", "9999999999999999999d"] {
            assert!(parse_span(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_at_the_start_of_a_line_are_read() {
        for (line, want) in [
            ("1970-01-01T00:00:00Z x", Some(0)),
            ("2000-03-01T00:00:00.5Z", Some(951_868_800_500)),
            ("[2026-11-24T07:17:27.123456+01:00] x", Some(1_795_501_047_123)),
            ("2024-02-29 12:00:00-0030", None),
            ("2024-02-29 12:00:00-00:30", Some(1_709_209_800_000)),
            ("x 2026-11-24T07:17:27Z", None),
            ("2026-13-24T07:17:27Z", None),
            ("2026-11-24T07:17:27 local", None),
            ("", None),
        ] {
            assert_eq!(leading_time(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn lines_without_a_time_go_with_the_one_above() {
        let log = b"old\n1970-01-01T00:00:01Z a\n  more\n1970-01-01T00:00:03Z b\n  more\n";
        assert_eq!(&log[start(log, 2000).unwrap()..], b"1970-01-01T00:00:03Z b\n  more\n");
        assert_eq!(start(log, 5000), Some(log.len()));
        assert_eq!(start(b"no\ntimes\n", 0), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(log in any::<Vec<u8>>(), from in any::<i64>()) {
            prop_assert!(start(&log, from).is_none_or(|at| at <= log.len()));
        }

        #[test]
        fn days_are_counted_without_a_gap(day in 0_i64..60_000) {
            // Through the calendar and back: each civil date of four centuries has its own number.
            let (mut year, mut left) = (1970, day);
            let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
            while left >= 365 + i64::from(leap(year)) {
                left -= 365 + i64::from(leap(year));
                year += 1;
            }
            let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let mut month = 0;
            while left >= lengths[month] {
                left -= lengths[month];
                month += 1;
            }
            prop_assert_eq!(days_since_1970(year, month as i64 + 1, left + 1), day);
        }
    }
}
