//! Durations as Go writes them: `8640h0m0s`, `1h30m`, `1.5h`. Pure.

use std::time::Duration;

/// Parses `text` as Go's `time.ParseDuration` does.
///
/// # Errors
/// When Go would refuse it, and when it is negative: no life is.
pub(super) fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: u128 = 0;
    // Once at least: a duration has a number.
    loop {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(InvalidDuration);
        }
        let end = after.find(|letter: char| letter == '.' || letter.is_ascii_digit());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        total = total.saturating_add(nanoseconds(whole, fraction, unit)?);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let total = i64::try_from(total).map_err(|_| InvalidDuration)?;
    Ok(Duration::from_nanos(total.unsigned_abs()))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds(whole: &str, fraction: &str, unit: &str) -> Result<u128, InvalidDuration> {
    let unit: u128 = match unit {
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return Err(InvalidDuration),
    };
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse::<u64>().map(u128::from).map_err(|_| InvalidDuration),
    };
    // Digits of a fraction that count for less than a nanosecond of the largest unit.
    let fraction = &fraction[..fraction.len().min(FRACTION)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    Ok(number(whole)? * unit + number(fraction)? * unit / scale)
}

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration like 720h or 1h30m")]
pub(super) struct InvalidDuration;

/// An hour has 13 digits in nanoseconds.
const FRACTION: usize = 15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_answers() {
        for (text, seconds) in [
            ("8640h0m0s", 8640.0 * 3600.0),
            ("30m", 1800.0),
            ("1h30m", 5400.0),
            ("+1.5h", 5400.0),
            (".5s", 0.5),
            ("1.s", 1.0),
            ("0", 0.0),
            ("0s", 0.0),
            ("3000ms5\u{b5}s", 3.000_005),
            ("0.100000000000000000000000000001h", 360.0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for bad in [
            "",
            "+",
            "-1h",
            "1",
            "h",
            ".",
            ".h",
            "1 h",
            "1h ",
            "1d",
            "1h-1m",
            "1e3s",
            "infh",
            "2562048h",
            "99999999999999999999h",
            "1.2.3s",
            "\u{661}h",
            "+-1h",
            "1H",
        ] {
            assert_eq!(parse(bad), Err(InvalidDuration), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_go_prints_is_read(hours in 0u64..2_000_000, minutes in 0u64..60, seconds in 0u64..60) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(parse(&text), Ok(expected));
        }

        #[test]
        fn no_text_is_too_much(text in "[-+0-9.hmsnu\u{b5}e ]{0,60}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration.as_nanos() <= i64::MAX as u128);
            }
        }
    }
}
