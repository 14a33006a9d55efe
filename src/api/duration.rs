//! Kubernetes' duration strings: Go's `time.ParseDuration` without a sign, such as `500ms` or `1m30s`.

use std::time::Duration;

/// The duration that `text` says; `None` when Go would refuse it, or when it is longer than 10,000 hours.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.');
        let unit = unit.map_or(rest.len(), |i| number + i);
        let factor = match &rest[number..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += rest[..number].parse::<f64>().ok()? * factor;
        rest = &rest[unit..];
    }
    (!text.is_empty() && seconds <= 36e6).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        check("0", Some(Duration::ZERO));
        check("0s", Some(Duration::ZERO));
        check("500ms", Some(Duration::from_millis(500)));
        check("1m30s", Some(Duration::from_secs(90)));
        check("1.5h", Some(Duration::from_secs(5400)));
        check("1h.5m", Some(Duration::from_secs(3630)));
        for text in ["", "1", "1 s", "s", "1d", "-1s", "1s2", "..s", "99999999999h"] {
            check(text, None);
        }
    }
}
