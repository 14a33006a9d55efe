//! What a plain YAML scalar means to kube-apiserver: YAML 1.1 as `go.yaml.in/yaml/v2` resolves it.
//!
//! `yes` is a boolean, `012` is ten, `1_000` is a number, and `1e3` too; in a list of strings each of them stops
//! the server. Dates are recognised there but handed on as text, so they need no rule here.
//! (`resolve.go` in that module.)

/// A scalar's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    /// A whole number that fits 64 bits, signed or unsigned.
    Integer(i128),
    Float(f64),
    Text(String),
}

/// Resolves a plain scalar without a tag.
pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'.' => float(text),
        b'+' | b'-' | b'0'..=b'9' => {
            let digits = text.replace('_', "");
            integer(&digits).or_else(|| float(&digits))
        }
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}

/// Go's `strconv.ParseInt(text, 0, 64)`, then `ParseUint`.
fn integer(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    let fits = if text.starts_with(['+', '-']) {
        i64::try_from(value).is_ok()
    } else {
        u64::try_from(value).is_ok()
    };
    fits.then_some(Scalar::Integer(value))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, and not too large for a float.
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (unsigned, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let well_formed = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && !exponent.is_empty()
        && digits(exponent);
    if !well_formed {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Scalar::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Scalar) {
        assert_eq!(resolve(text), expected, "{text:?}");
    }

    #[track_caller]
    fn check_text(text: &str) {
        check(text, Scalar::Text(text.to_owned()));
    }

    #[test]
    fn words_are_booleans_and_nulls_in_three_spellings_only() {
        check("yes", Scalar::Bool(true));
        check("Y", Scalar::Bool(true));
        check("OFF", Scalar::Bool(false));
        check("n", Scalar::Bool(false));
        check("", Scalar::Null);
        check("~", Scalar::Null);
        check("Null", Scalar::Null);
        for text in ["yES", "tRue", "nULL", "None", "oN"] {
            check_text(text);
        }
    }

    #[test]
    fn integers_in_every_base_go_knows() {
        check("0", Scalar::Integer(0));
        check("012", Scalar::Integer(10));
        check("0x10", Scalar::Integer(16));
        check("0o17", Scalar::Integer(15));
        check("0b101", Scalar::Integer(5));
        check("1_000", Scalar::Integer(1000));
        check("-0x1", Scalar::Integer(-1));
        check("+5", Scalar::Integer(5));
        check("18446744073709551615", Scalar::Integer(u64::MAX.into()));
    }

    #[test]
    fn floats_as_go_writes_them() {
        check("1e3", Scalar::Float(1000.0));
        check(".5", Scalar::Float(0.5));
        check("1.", Scalar::Float(1.0));
        check("-1.5E+2", Scalar::Float(-150.0));
        check("08", Scalar::Float(8.0));
        check("18446744073709551616", Scalar::Float(18_446_744_073_709_551_616.0));
        check("-.inf", Scalar::Float(f64::NEG_INFINITY));
    }

    #[test]
    fn everything_else_is_text() {
        for text in [
            "2001-01-01",
            "1:30",
            "=",
            "<<",
            "1.2.3",
            "0x",
            "1e",
            "e3",
            "-",
            "+",
            ".",
            "..",
            ".e5",
            "1e999",
            "_1",
            "+-1",
            "0x1p-2",
            "inf",
            "nan",
            "None",
            "a_1",
            "-_",
        ] {
            check_text(text);
        }
    }
}
