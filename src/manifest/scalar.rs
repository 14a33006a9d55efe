//! Scalars: what plain text means to the kubelet, and how to write a string so that it stays one.
//!
//! The kubelet reads YAML 1.1 (sigs.k8s.io/yaml), where `yes`, `0644` and `1:30` are not strings. Writing is therefore
//! stricter than reading: what is not plainly a path, flag or name is quoted.

use granit_parser::ScalarStyle;

/// Whether a plain scalar is a string to a YAML 1.1 reader, and not a null, boolean or number.
pub(super) fn plain_is_string(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    if matches!(
        word.as_str(),
        "" | "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "<<"
    ) {
        return false;
    }
    let number = word.trim_start_matches(['+', '-']).replace('_', "");
    if matches!(number.as_str(), ".inf" | ".nan") {
        return false;
    }
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return true;
    }
    let radix = |prefix: &str, radix| {
        number.strip_prefix(prefix).is_some_and(|digits| u128::from_str_radix(digits, radix).is_ok())
    };
    let sexagesimal = number.contains(':') && number.split(':').all(|part| part.parse::<f64>().is_ok());
    !(number.parse::<f64>().is_ok() || radix("0x", 16) || radix("0o", 8) || radix("0b", 2) || sexagesimal)
}

/// Whether a YAML 1.1 reader takes this scalar of a boolean field for true.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "y")
}

/// `value` written in the style of its neighbour, or in double quotes where that would change its meaning.
pub(super) fn write(value: &str, style: ScalarStyle, in_flow: bool) -> String {
    match style {
        ScalarStyle::Plain if is_safe_plain(value, in_flow) => value.to_owned(),
        ScalarStyle::SingleQuoted if !value.contains(char::is_control) => {
            format!("'{}'", value.replace('\'', "''"))
        }
        ScalarStyle::Plain
        | ScalarStyle::SingleQuoted
        | ScalarStyle::DoubleQuoted
        | ScalarStyle::Literal
        | ScalarStyle::Folded => double_quoted(value),
    }
}

/// JSON's escapes are YAML's too.
pub(super) fn double_quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// Narrower than YAML: a word, flag or path of harmless characters. A comma ends a plain scalar in a flow collection.
fn is_safe_plain(value: &str, in_flow: bool) -> bool {
    let flag = value.strip_prefix("--").unwrap_or(value);
    let first =
        flag.starts_with(|c: char| c.is_ascii_alphabetic() || (c == '/' && flag.len() == value.len()));
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+~".contains(c) || (c == ',' && !in_flow);
    first && value.chars().all(harmless) && !value.ends_with(':') && plain_is_string(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_told_from_what_yaml_1_1_takes_for_something_else() {
        for string in [
            "--v=2",
            "/a",
            "a",
            "10s",
            "127.0.0.1",
            "1.2.3",
            "v1",
            "2379:",
            "1:x",
            "0xyz",
            "e3",
            "nulls",
            "-",
            "--",
        ] {
            assert!(plain_is_string(string), "{string}");
        }
        for other in [
            "", "~", "null", "True", "FALSE", "yes", "No", "on", "OFF", "y", "N", "0", "-1", "+1", "1_000",
            "0644", "0o17", "0x1F", "0b1", "1.5", ".5", "1e3", "-.inf", ".NaN", "12:30:45", "1:30.5", "<<",
        ] {
            assert!(!plain_is_string(other), "{other}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        use ScalarStyle::{DoubleQuoted, Literal, Plain, SingleQuoted};
        for (value, style, in_flow, written) in [
            ("--a=/b,c", Plain, false, "--a=/b,c"),
            ("--a=/b,c", Plain, true, "\"--a=/b,c\""),
            ("-a", Plain, false, "\"-a\""),
            ("a: b", Plain, false, "\"a: b\""),
            ("a:", Plain, false, "\"a:\""),
            ("30", Plain, false, "\"30\""),
            ("y", Plain, false, "\"y\""),
            ("it's", SingleQuoted, false, "'it''s'"),
            ("a\tb", SingleQuoted, false, "\"a\\tb\""),
            ("a\"\\", DoubleQuoted, false, "\"a\\\"\\\\\""),
            ("a", Literal, false, "\"a\""),
        ] {
            assert_eq!(write(value, style, in_flow), written);
            assert_eq!(serde_yaml::from_str::<String>(written).as_deref().ok(), Some(value));
        }
    }
}
