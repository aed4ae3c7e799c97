//! Names of deployable things: artifact bases, artifacts and slice names.
//!
//! The grammar is `group:artifact[:version][@env]`. This module parses and
//! prints it; it does not know whether anything of that name exists.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest accepted coordinate, in bytes. Coordinates become file names and
/// KV keys, so they stay well below the usual 255 byte limit of a path part.
pub const COORDINATE_BYTES_MAX: usize = 200;

/// Why a coordinate was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CoordinateError {
    /// The text is longer than [`COORDINATE_BYTES_MAX`].
    #[error("coordinate is {0} bytes long; at most {COORDINATE_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// The number of `:`-separated parts is wrong.
    #[error("'{text}' is not of the form {form}")]
    Form {
        /// The offending text.
        text: String,
        /// The form that was expected.
        form: &'static str,
    },
    /// The group is malformed.
    #[error(
        "group '{0}' must be lower-case words joined by dots, with at least one dot, such as 'org.example'"
    )]
    Group(String),
    /// The artifact name is malformed.
    #[error(
        "artifact name '{0}' must be lower-case letters and digits joined by single dashes, such as 'my-slice'"
    )]
    Artifact(String),
    /// The environment is malformed.
    #[error(
        "environment '{0}' must be lower-case letters and digits joined by single dashes, such as 'staging'"
    )]
    Environment(String),
    /// The version is malformed.
    #[error(
        "version '{0}' must be semver (such as '2.0.0' or '2.0.0-rc.1+build') or four numbers (such as '1.2.3.4')"
    )]
    Version(String),
}

/// Shortens a refused text so that an error never repeats a megabyte.
fn quote(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{head}…")
}

fn is_group(text: &str) -> bool {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
    };
    text.contains('.') && text.split('.').all(word)
}

fn is_dashed(text: &str) -> bool {
    text.split('-').all(|word| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    })
}

fn is_version(text: &str) -> bool {
    let number = |part: &str| {
        part.parse::<u64>().is_ok()
            && part.chars().all(|c| c.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let four_numbers = || {
        let parts: Vec<&str> = text.split('.').collect();
        parts.len() == 4 && parts.iter().all(|part| number(part))
    };
    semver::Version::parse(text).is_ok() || four_numbers()
}

macro_rules! string_serde {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use string_serde;

/// A version of an artifact: semver, or four numbers. Kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// The version as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = CoordinateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= COORDINATE_BYTES_MAX && is_version(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CoordinateError::Version(quote(text)))
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
string_serde!(Version);

/// `group:artifact`: a deployable thing without version or environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactBase {
    group: String,
    artifact: String,
}

impl ArtifactBase {
    /// The group, such as `org.example`.
    pub fn group(&self) -> &str {
        &self.group
    }
    /// The artifact name within the group, such as `my-slice`.
    pub fn artifact(&self) -> &str {
        &self.artifact
    }
    /// This base at a version.
    pub fn at(&self, version: Version) -> Artifact {
        Artifact { base: self.clone(), version }
    }
}

impl FromStr for ArtifactBase {
    type Err = CoordinateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > COORDINATE_BYTES_MAX {
            return Err(CoordinateError::TooLong(text.len()));
        }
        let form = || CoordinateError::Form { text: quote(text), form: "group:artifact" };
        let (group, artifact) = text.split_once(':').ok_or_else(form)?;
        if artifact.contains(':') {
            return Err(form());
        }
        if !is_group(group) {
            return Err(CoordinateError::Group(quote(group)));
        }
        if !is_dashed(artifact) {
            return Err(CoordinateError::Artifact(quote(artifact)));
        }
        Ok(Self { group: group.to_owned(), artifact: artifact.to_owned() })
    }
}

impl fmt::Display for ArtifactBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.group, self.artifact)
    }
}
string_serde!(ArtifactBase);

/// `group:artifact:version`: one immutable, pushed artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Artifact {
    /// Group and name.
    pub base: ArtifactBase,
    /// Version.
    pub version: Version,
}

impl FromStr for Artifact {
    type Err = CoordinateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > COORDINATE_BYTES_MAX {
            return Err(CoordinateError::TooLong(text.len()));
        }
        let (base, version) =
            text.rsplit_once(':').filter(|(base, _)| base.contains(':')).ok_or_else(|| {
                CoordinateError::Form { text: quote(text), form: "group:artifact:version" }
            })?;
        Ok(Self { base: base.parse()?, version: version.parse()? })
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.base, self.version)
    }
}
string_serde!(Artifact);

/// `group:artifact[@env]`: what has a route, a target and updates of its own.
/// Without a suffix the environment is `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    base: ArtifactBase,
    environment: Option<String>,
}

impl SliceName {
    /// Group and artifact name.
    pub fn base(&self) -> &ArtifactBase {
        &self.base
    }
    /// The environment, `default` if none was named.
    pub fn environment(&self) -> &str {
        self.environment.as_deref().unwrap_or("default")
    }
}

impl FromStr for SliceName {
    type Err = CoordinateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > COORDINATE_BYTES_MAX {
            return Err(CoordinateError::TooLong(text.len()));
        }
        let (base, environment) = match text.split_once('@') {
            None => (text, None),
            Some((base, environment)) if is_dashed(environment) => (base, Some(environment)),
            Some((_, environment)) => {
                return Err(CoordinateError::Environment(quote(environment)));
            }
        };
        Ok(Self {
            base: base.parse()?,
            environment: environment.filter(|name| *name != "default").map(str::to_owned),
        })
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.environment {
            None => write!(f, "{}", self.base),
            Some(environment) => write!(f, "{}@{environment}", self.base),
        }
    }
}
string_serde!(SliceName);

/// `group:artifact[:version][@env]`: what a user may type where either a slice
/// or one version of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceReference {
    /// The slice.
    pub slice: SliceName,
    /// The version, where one was named.
    pub version: Option<Version>,
}

impl FromStr for SliceReference {
    type Err = CoordinateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > COORDINATE_BYTES_MAX {
            return Err(CoordinateError::TooLong(text.len()));
        }
        let (coordinates, environment) = match text.split_once('@') {
            None => (text, String::new()),
            Some((coordinates, environment)) => (coordinates, format!("@{environment}")),
        };
        let parts: Vec<&str> = coordinates.split(':').collect();
        match parts.as_slice() {
            [group, artifact] => Ok(Self {
                slice: format!("{group}:{artifact}{environment}").parse()?,
                version: None,
            }),
            [group, artifact, version] => Ok(Self {
                slice: format!("{group}:{artifact}{environment}").parse()?,
                version: Some(version.parse()?),
            }),
            _ => Err(CoordinateError::Form {
                text: quote(text),
                form: "group:artifact[:version][@env]",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_grammar_round_trips() {
        for text in ["org.example:my-slice", "org.example:my-slice@staging", "a.b_c-d:x1"] {
            let name: SliceName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
        }
        let named: SliceName = "org.example:a@default".parse().unwrap();
        assert_eq!(named, "org.example:a".parse().unwrap());
        let artifact: Artifact = "org.example:a:1.2.3-rc.1+7".parse().unwrap();
        assert_eq!(artifact.version.as_str(), "1.2.3-rc.1+7");
        assert!("1.2.3.4".parse::<Version>().is_ok());
        let reference: SliceReference = "org.example:a:2.0.0@blue".parse().unwrap();
        assert_eq!(reference.slice.environment(), "blue");
        assert_eq!(reference.version.unwrap().as_str(), "2.0.0");
    }

    #[test]
    fn malformed_coordinates_are_refused_by_part() {
        use CoordinateError as E;
        let slice = |text: &str| text.parse::<SliceName>().unwrap_err();
        assert!(matches!(slice("example:a"), E::Group(_)));
        assert!(matches!(slice("org.Example:a"), E::Group(_)));
        assert!(matches!(slice("org.example:../x"), E::Artifact(_)));
        assert!(matches!(slice("org.example:a--b"), E::Artifact(_)));
        assert!(matches!(slice("org.example"), E::Form { .. }));
        assert!(matches!(slice("org.example:a:1"), E::Form { .. }));
        assert!(matches!(slice("org.example:a@"), E::Environment(_)));
        assert!(matches!(slice("org.ex\0ample:a"), E::Group(_)));
        assert!(matches!(slice(&"a".repeat(1 << 20)), E::TooLong(_)));
        for text in ["1", "1.2", "01.2.3", "v1.2.3", "1.2.3.4.5", "", "1.2.3.04", "1.2.3.+4"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
