//! The two things that the query of a list says to the audit policy: whether it is a watch, and of which name.
//!
//! The server decodes the query into ListOptions (`k8s.io/apimachinery` `pkg/fields/selector.go`,
//! `pkg/runtime/conversion.go`); a query that does not decode is answered with 400, but audited before. Of the label
//! selector this does not check the grammar, so a list with a malformed one and a field selector has a name here.

/// Whether the query asks to watch: `watch` is given, and neither `0` nor `false`.
pub(super) fn asks_to_watch(query: &str) -> bool {
    value(query, "watch").is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

/// The name that `fieldSelector=metadata.name=…` asks for.
pub(super) fn selected_name(query: &str) -> Option<String> {
    // One option that does not decode, and the server does not look at the others.
    let number = |key| value(query, key).is_none_or(|value| value.parse::<i64>().is_ok());
    if !number("limit") || !number("timeoutSeconds") {
        return None;
    }
    let name = exact_name(&value(query, "fieldSelector")?)?;
    let is_path_segment = !matches!(name.as_str(), "." | "..") && !name.contains(['/', '%']);
    is_path_segment.then_some(name)
}

/// The value that a field selector requires of `metadata.name`; `None` also when the selector is malformed.
fn exact_name(selector: &str) -> Option<String> {
    let mut terms = terms(selector);
    // As in the server, which sorts them: of two names the first in the alphabet is taken.
    terms.sort_unstable();
    let mut name = None;
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let equals = term.find('=')?;
        let (field, negated) = match term[..equals].strip_suffix('!') {
            Some(field) => (field, true),
            None => (&term[..equals], false),
        };
        let rest = &term[equals + 1..];
        let value = unescape(if negated { rest } else { rest.strip_prefix('=').unwrap_or(rest) })?;
        if field == "metadata.name" && !negated && name.is_none() {
            name = Some(value);
        }
    }
    name
}

/// Splits at commas that no backslash precedes.
fn terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// Undoes `\\`, `\,` and `\=`; `None` for any other escape, and for a bare `=` or `,`.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// The first value of a key (Go's `url.ParseQuery`, which skips what it cannot decode).
fn value(query: &str, key: &str) -> Option<String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter_map(|(k, v)| Some((decode_form(k)?, decode_form(v)?)))
        .find(|(k, _)| k == key)
        .map(|(_, v)| v)
}

fn decode_form(text: &str) -> Option<String> {
    percent_decode(&text.replace('+', " "))
}

/// Decodes `%41`; `None` where two hexadecimal digits are missing. Bytes that are not UTF-8 become U+FFFD.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(query: &str, expected: Option<&str>) {
        assert_eq!(selected_name(query).as_deref(), expected, "{query}");
    }

    #[test]
    fn the_first_name_in_the_alphabet_is_taken() {
        check_name("fieldSelector=metadata.name=b,metadata.name=a", Some("a"));
        check_name("fieldSelector=spec.x=y,metadata.name==b", Some("b"));
        check_name("fieldSelector=metadata.name!=a", None);
        check_name("fieldSelector=metadata.name=a&fieldSelector=metadata.name=b", Some("a"));
    }

    #[test]
    fn a_selector_that_is_malformed_anywhere_selects_nothing() {
        check_name("fieldSelector=metadata.name=a,spec", None);
        check_name("fieldSelector=metadata.name=a=b", None);
        check_name("fieldSelector=metadata.name=a%5Cb", None);
        check_name("fieldSelector=metadata.name=a&limit=many", None);
        check_name("fieldSelector=metadata.name=a&timeoutSeconds=", None);
        check_name("fieldSelector=metadata.name=a&limit=%2B5", Some("a"));
    }

    #[test]
    fn a_name_is_unescaped_and_must_be_a_path_segment() {
        check_name("fieldSelector=metadata.name%3Da%5C%2Cb", Some("a,b"));
        check_name("fieldSelector=metadata.name=a+b", Some("a b"));
        check_name("fieldSelector=metadata.name=..", None);
        check_name("fieldSelector=metadata.name=a%2Fb", None);
        check_name("fieldSelector=metadata.name=", Some(""));
    }

    #[test]
    fn pairs_that_go_does_not_decode_are_skipped() {
        check_name("fieldSelector=metadata.name=a;&fieldSelector=metadata.name=b", Some("b"));
        check_name("fieldSelector=%zz&fieldSelector=metadata.name=b", Some("b"));
        assert!(asks_to_watch("a;watch=false&watch"));
        assert!(asks_to_watch("watch=no"), "only 0 and false are false");
        assert!(!asks_to_watch("watch=FALSE&watch=true"), "the first counts");
        assert!(!asks_to_watch("Watch=true"));
    }
}
