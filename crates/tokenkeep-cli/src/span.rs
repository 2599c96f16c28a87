//! Spans of time as people write and read them: `5m`, `300s`, `1h30m`, `300`.

use std::time::Duration;

/// The longest span that is taken: 10 years.
pub const SPAN_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What [`parse`] expects, for messages.
pub const EXPECTED: &str = "a span of time such as 300s, 5m, 1h30m or 300 (seconds)";

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a span: whole numbers with `d`, `h`, `m`, `s` or `ms`, one after the other, or a number of
/// seconds alone.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no span of time: expected {EXPECTED}", tokenkeep_core::model::printable(text, 40));
    let millis = match text.parse::<u64>() {
        Ok(seconds) => seconds.checked_mul(1_000),
        Err(_) => parts(text),
    };
    millis.map(Duration::from_millis).filter(|&span| span <= SPAN_MAX).ok_or_else(wrong)
}

fn parts(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).map_or(tail, |end| &tail[..end]);
        let &(_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
        rest = &tail[unit.len()..];
    }
    Some(total)
}

/// A span for people, with its one or two largest units: `45s`, `12m`, `3h 5m`, `89d`.
#[must_use]
pub fn show(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..10) => format!("{minutes}m {}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (1..10, _, _) => format!("{days}d {hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("300", 300), ("300s", 300), ("5m", 300), ("1h30m", 5_400), ("0", 0), ("2d", 172_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "-5", "5 m", "m", "5x", "1.5h", "5m3", "99999999999999999999", "4000d", "５m", "é"] {
            assert!(parse(text).unwrap_err().contains("expected"), "{text}");
        }
    }

    #[test]
    fn spans_are_shown_short() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (720, "12m"),
            (11_100, "3h 5m"),
            (90_000, "1d 1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(show(Duration::from_secs(seconds)), shown);
        }
    }
}
