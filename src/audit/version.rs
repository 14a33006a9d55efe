//! The version of a kube-apiserver, as far as it decides how a policy is read.
//!
//! Between 1.24 and 1.37 two things that concern a policy changed: the group `*` (1.36) and the lost events of
//! patches (1.37). Pre-release and build suffixes are read and dropped: both changes came before the first beta.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Version of a kube-apiserver, as `1.37.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// Major, always 1 so far.
    pub major: u16,
    /// Minor, the release.
    pub minor: u16,
    /// Patch level, 0 where it is not known.
    pub patch: u16,
}

/// The text is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Kubernetes version: write it as 1.37.2, v1.37 or 1.36.0-beta.1")]
pub struct ParseVersionError(String);

impl ServerVersion {
    /// The newest release whose behaviour was verified; the default where no server is named.
    pub const LATEST: Self = Self::release(1, 37);
    /// The first release that accepts the group `*` in a policy (before, kube-apiserver does not start with it).
    pub const WILDCARD_GROUP: Self = Self::release(1, 36);
    /// The first release that keeps the event of a patch whose body is not JSON (kubernetes PR 139419).
    pub const PATCHES_KEPT: Self = Self::release(1, 37);

    /// A release, with patch level 0.
    pub const fn release(major: u16, minor: u16) -> Self {
        Self { major, minor, patch: 0 }
    }
}

impl FromStr for ServerVersion {
    type Err = ParseVersionError;

    /// Reads `v1.37.2`, `1.36`, `1.36.0-beta.1+x`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseVersionError(text.to_owned());
        let numbers = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| {
            // `u16::from_str` takes a leading `+`, a version does not; the split above has removed it.
            part.parse::<u16>().map_err(|_| error())
        });
        let mut next = || parts.next().transpose();
        let (major, minor, patch) = (next()?, next()?, next()?);
        match (major, minor, next()?) {
            (Some(major), Some(minor), None) => Ok(Self { major, minor, patch: patch.unwrap_or(0) }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Serialize for ServerVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(u16, u16, u16)>) {
        let version = text.parse::<ServerVersion>().ok().map(|v| (v.major, v.minor, v.patch));
        assert_eq!(version, expected, "{text:?}");
    }

    #[test]
    fn reads_what_clusters_call_themselves() {
        check("v1.37.2", Some((1, 37, 2)));
        check("1.36", Some((1, 36, 0)));
        check("1.36.0-beta.1+x", Some((1, 36, 0)));
        check("1.27+", Some((1, 27, 0)));
        check("v1.33.4+k3s1", Some((1, 33, 4)));
    }

    #[test]
    fn refuses_what_is_no_version() {
        for text in ["", "1", "v", "1.", "1.x", "1.2.3.4", "one", "vv1.2", "1.70000", " 1.37", "-1.2"] {
            check(text, None);
        }
    }

    #[test]
    fn orders_by_number_and_not_by_text() {
        let parse = |text: &str| text.parse::<ServerVersion>().unwrap();
        assert!(parse("1.9.0") < parse("1.36.0"));
        assert!(parse("1.36.10") > parse("1.36.9"));
        assert!(parse("1.35.99") < ServerVersion::WILDCARD_GROUP);
        assert!(parse("1.36.0-alpha.1") >= ServerVersion::WILDCARD_GROUP);
    }

    #[test]
    fn is_a_string_in_json() {
        let version: ServerVersion = serde_json::from_str(r#""v1.36.1""#).unwrap();
        assert_eq!(serde_json::to_string(&version).unwrap(), r#""1.36.1""#);
        assert!(serde_json::from_str::<ServerVersion>("1.36").is_err(), "a number would lose 1.30's zero");
    }
}
