//! Which fields a policy has and what each holds: the types that kube-apiserver decodes into, as a table.
//!
//! The server refuses a value of the wrong type and drops a field it does not know (`k8s.io/apiserver`
//! `pkg/apis/audit/v1/types.go`, `k8s.io/apimachinery` ObjectMeta). Checking against the table finds all of both at
//! once; a decoder would stop at the first.

use super::tree::{Entry, Node, Value, join};
use crate::audit::Finding;

/// What a value may be. Null is always allowed and leaves the field unset.
enum Shape {
    Text,
    Flag,
    /// A 64-bit signed integer.
    Integer,
    /// An RFC 3339 time as text.
    Time,
    Anything,
    List(&'static Shape),
    /// Free keys, values of one shape.
    Map(&'static Shape),
    Fields(&'static Fields),
}

/// The fields of one kind of mapping.
struct Fields {
    /// What it is called in a message, with its article.
    noun: &'static str,
    fields: &'static [(&'static str, Shape)],
}

const TEXTS: Shape = Shape::List(&Shape::Text);

/// The whole document.
static POLICY: Fields = Fields {
    noun: "the policy",
    fields: &[
        ("apiVersion", Shape::Text),
        ("kind", Shape::Text),
        ("metadata", Shape::Fields(&METADATA)),
        ("omitStages", TEXTS),
        ("omitManagedFields", Shape::Flag),
        ("rules", Shape::List(&Shape::Fields(&RULE))),
    ],
};

static RULE: Fields = Fields {
    noun: "a rule",
    fields: &[
        ("level", Shape::Text),
        ("users", TEXTS),
        ("userGroups", TEXTS),
        ("verbs", TEXTS),
        ("resources", Shape::List(&Shape::Fields(&GROUP_RESOURCES))),
        ("namespaces", TEXTS),
        ("nonResourceURLs", TEXTS),
        ("omitStages", TEXTS),
        ("omitManagedFields", Shape::Flag),
    ],
};

static GROUP_RESOURCES: Fields = Fields {
    noun: "an entry of a rule's `resources`",
    fields: &[("group", Shape::Text), ("resources", TEXTS), ("resourceNames", TEXTS)],
};

static METADATA: Fields = Fields {
    noun: "`metadata`",
    fields: &[
        ("name", Shape::Text),
        ("generateName", Shape::Text),
        ("namespace", Shape::Text),
        ("selfLink", Shape::Text),
        ("uid", Shape::Text),
        ("resourceVersion", Shape::Text),
        ("generation", Shape::Integer),
        ("creationTimestamp", Shape::Time),
        ("deletionTimestamp", Shape::Time),
        ("deletionGracePeriodSeconds", Shape::Integer),
        ("labels", Shape::Map(&Shape::Text)),
        ("annotations", Shape::Map(&Shape::Text)),
        ("ownerReferences", Shape::List(&Shape::Fields(&OWNER_REFERENCE))),
        ("finalizers", TEXTS),
        ("managedFields", Shape::List(&Shape::Fields(&MANAGED_FIELDS))),
    ],
};

static OWNER_REFERENCE: Fields = Fields {
    noun: "an owner reference",
    fields: &[
        ("apiVersion", Shape::Text),
        ("kind", Shape::Text),
        ("name", Shape::Text),
        ("uid", Shape::Text),
        ("controller", Shape::Flag),
        ("blockOwnerDeletion", Shape::Flag),
    ],
};

static MANAGED_FIELDS: Fields = Fields {
    noun: "an entry of `managedFields`",
    fields: &[
        ("manager", Shape::Text),
        ("operation", Shape::Text),
        ("apiVersion", Shape::Text),
        ("time", Shape::Time),
        ("fieldsType", Shape::Text),
        ("fieldsV1", Shape::Anything),
        ("subresource", Shape::Text),
    ],
};

/// Adds a finding for every value of the wrong type and every unknown field in a document.
pub(super) fn check(document: &Node, findings: &mut Vec<Finding>) {
    check_value(document, &Shape::Fields(&POLICY), "", findings);
}

fn check_value(node: &Node, shape: &Shape, path: &str, findings: &mut Vec<Finding>) {
    match (shape, &node.value) {
        (_, Value::Null)
        | (Shape::Anything, _)
        | (Shape::Text, Value::Text(_))
        | (Shape::Flag, Value::Bool(_))
        | (Shape::Integer, Value::Number { integer: true, .. }) => {}
        (Shape::Time, Value::Text(text)) if is_rfc3339(text) => {}
        (Shape::List(item), Value::List(items)) => {
            for (index, node) in items.iter().enumerate() {
                check_value(node, item, &format!("{path}[{index}]"), findings);
            }
        }
        (Shape::Map(item), Value::Map(entries)) => {
            for entry in entries {
                check_value(&entry.node, item, &join(path, &entry.key), findings);
            }
        }
        (Shape::Fields(fields), Value::Map(_)) => check_fields(node, fields, path, findings),
        _ => findings.push(wrong_type(node, shape, path)),
    }
}

fn check_fields(node: &Node, known: &'static Fields, path: &str, findings: &mut Vec<Finding>) {
    for entry in node.entries() {
        match known.fields.iter().find(|(name, _)| *name == entry.key) {
            Some((name, shape)) => check_value(&entry.node, shape, &join(path, name), findings),
            None => findings.push(unknown_field(entry, known, path)),
        }
    }
}

fn wrong_type(node: &Node, shape: &Shape, path: &str) -> Finding {
    let found = match &node.value {
        Value::Number { text, .. } => format!("the number {text}"),
        Value::Bool(flag) => {
            format!("the boolean {flag} (unquoted yes, no, on, off, y and n are booleans too)")
        }
        value => value.noun().to_owned(),
    };
    let (wanted, advice) = match (shape, &node.value) {
        (Shape::Text, Value::Number { .. } | Value::Bool(_)) => ("a string", "put it in quotes"),
        (Shape::Text, _) => ("a string", "write one string"),
        (Shape::Flag, Value::Text(_)) => ("true or false", "write it without quotes"),
        (Shape::Flag, _) => ("true or false", "write one of them"),
        (Shape::Integer, _) => ("a whole number", "correct or delete it"),
        (Shape::Time, _) => ("a time as 2006-01-02T15:04:05Z", "correct or delete it"),
        (Shape::List(_), Value::Text(_)) => ("a list", "write it as `[…]` or behind a dash"),
        (Shape::List(_), _) => ("a list", "write its items behind dashes"),
        (Shape::Anything | Shape::Map(_) | Shape::Fields(_), _) => {
            ("a mapping", "write it as `field: value`")
        }
    };
    let message = format!("must be {wanted}, not {found}: {advice}");
    Finding::server("wrong-type", path, message).at(node.position)
}

fn unknown_field(entry: &Entry, here: &'static Fields, path: &str) -> Finding {
    let key = &entry.key;
    let advice = if let Some(owner) = owner_of(key, here) {
        format!("it belongs to {}: correct its indentation", owner.noun)
    } else if let Some(name) = nearest(key, here) {
        format!("did you mean `{name}`?")
    } else {
        "delete it".to_owned()
    };
    // A condition that is dropped makes a rule match more; that is why this is no warning.
    let message = format!("unknown field `{key}`, which kube-apiserver ignores; {advice}");
    Finding::operator("unknown-field", join(path, key), message).at(entry.key_position)
}

/// Which other part of a policy has this very field.
fn owner_of(key: &str, here: &'static Fields) -> Option<&'static Fields> {
    [&RULE, &GROUP_RESOURCES, &POLICY]
        .into_iter()
        .filter(|other| !std::ptr::eq(*other, here))
        .find(|other| other.fields.iter().any(|(name, _)| *name == key))
}

/// The known field that `key` is most probably a misspelling of: at most two letters away, or the same but for
/// case, dashes and underscores.
fn nearest(key: &str, here: &'static Fields) -> Option<&'static str> {
    // The longest field name has 26 letters; do not compare with a page of text.
    if key.chars().count() > 40 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    here.fields
        .iter()
        .map(|(name, _)| (distance(&plain(key), &plain(name)), *name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len() / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Go's `time.Parse(time.RFC3339, text)`: `2006-01-02T15:04:05Z`, with a fraction or an offset if need be.
fn is_rfc3339(text: &str) -> bool {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse::<u32>().ok())
    };
    let sign = |at: usize, wanted: u8| text.as_bytes().get(at) == Some(&wanted);
    let signs = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
        return false;
    };
    let (Some(hour), Some(minute), Some(second)) = (number(11..13), number(14..16), number(17..19)) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => 0,
    };
    let mut rest = text.get(19..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let zone = match rest.as_bytes() {
        b"Z" => true,
        [b'+' | b'-', a, b, b':', c, d] if [a, b, c, d].iter().all(|x| x.is_ascii_digit()) => {
            (a - b'0') * 10 + (b - b'0') <= 24 && (c - b'0') * 10 + (d - b'0') < 60
        }
        _ => false,
    };
    signs.iter().all(|&(at, wanted)| sign(at, wanted))
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && zone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_field_that_was_meant() {
        assert_eq!(nearest("verb", &RULE), Some("verbs"));
        assert_eq!(nearest("Level", &RULE), Some("level"));
        assert_eq!(nearest("user_groups", &RULE), Some("userGroups"));
        assert_eq!(nearest("nonResourceUrls", &RULE), Some("nonResourceURLs"));
        assert_eq!(nearest("groups", &GROUP_RESOURCES), Some("group"));
        assert_eq!(nearest("comment", &RULE), None);
        assert_eq!(nearest("subresources", &RULE), None);
        assert_eq!(nearest("", &RULE), None);
        assert_eq!(nearest(&"verbs".repeat(1000), &RULE), None);
    }

    #[test]
    fn finds_the_level_a_field_belongs_to() {
        assert_eq!(owner_of("verbs", &GROUP_RESOURCES).map(|o| o.noun), Some(RULE.noun));
        assert_eq!(owner_of("resourceNames", &RULE).map(|o| o.noun), Some(GROUP_RESOURCES.noun));
        assert_eq!(owner_of("level", &POLICY).map(|o| o.noun), Some(RULE.noun));
        assert_eq!(owner_of("rules", &RULE).map(|o| o.noun), Some(POLICY.noun));
        assert_eq!(owner_of("nope", &RULE).map(|o| o.noun), None);
    }

    #[track_caller]
    fn check_time(text: &str, expected: bool) {
        assert_eq!(is_rfc3339(text), expected, "{text:?}");
    }

    #[test]
    fn times_as_go_reads_them() {
        check_time("2024-02-29T23:59:59Z", true);
        check_time("2024-01-01T00:00:00.123456Z", true);
        check_time("2024-01-01T00:00:00+02:00", true);
        check_time("2023-02-29T00:00:00Z", false);
        check_time("2024-13-01T00:00:00Z", false);
        check_time("2024-01-01T24:00:00Z", false);
        check_time("2024-01-01T00:00:60Z", false);
        check_time("2024-01-01 00:00:00Z", false);
        check_time("2024-01-01T00:00:00", false);
        check_time("2024-01-01T00:00:00.Z", false);
        check_time("2024-01-01T00:00:0é", false);
        check_time("", false);
    }
}
