//! What the provider does with a used refresh token.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the provider does with a refresh token that was used: its rotation class.
///
/// Written as `persistent`, `grace:600`, `until-used` or `strict`, in text and in JSON:
///
/// ```
/// use tokenkeep_mock::Rotation;
///
/// assert_eq!("grace:600".parse(), Ok(Rotation::Grace(600)));
/// assert_eq!(Rotation::UntilUsed.to_string(), "until-used");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rotation {
    /// The refresh token never changes, and an answer to a refresh carries none (Google).
    Persistent,
    /// Each refresh issues a new refresh token. The one before it may be used again until this many seconds have passed
    /// since it was first used, and then yields a fresh pair (Atlassian: 600). Any other use of a used token, or a later
    /// one, is reuse and ends the grant.
    Grace(u32),
    /// Each refresh issues a new refresh token. The one before it stays valid until the new one, or the access token
    /// that came with it, is first used. Using an older one is reuse and ends the grant.
    UntilUsed,
    /// Each refresh issues a new refresh token and ends the old one at once. Using the old one is reuse and ends the
    /// grant, with every access token of it.
    Strict,
}

impl Rotation {
    /// Whether a refresh replaces the refresh token.
    pub fn rotates(self) -> bool {
        self != Rotation::Persistent
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rotation::Persistent => f.write_str("persistent"),
            Rotation::Grace(seconds) => write!(f, "grace:{seconds}"),
            Rotation::UntilUsed => f.write_str("until-used"),
            Rotation::Strict => f.write_str("strict"),
        }
    }
}

/// A text that names no rotation class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownRotation(String);

impl fmt::Display for UnknownRotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(f, "unknown rotation {text:?}: expected strict, grace:SECONDS, until-used or persistent")
    }
}

impl std::error::Error for UnknownRotation {}

impl FromStr for Rotation {
    type Err = UnknownRotation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownRotation(text.to_owned());
        match text {
            "persistent" => Ok(Rotation::Persistent),
            "until-used" => Ok(Rotation::UntilUsed),
            "strict" => Ok(Rotation::Strict),
            _ => {
                let seconds = text.strip_prefix("grace:").ok_or_else(unknown)?;
                seconds.parse().map(Rotation::Grace).map_err(|_| unknown())
            }
        }
    }
}

impl TryFrom<String> for Rotation {
    type Error = UnknownRotation;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rotation> for String {
    fn from(rotation: Rotation) -> Self {
        rotation.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let all = [
            Rotation::Persistent,
            Rotation::Grace(0),
            Rotation::Grace(u32::MAX),
            Rotation::UntilUsed,
            Rotation::Strict,
        ];
        for rotation in all {
            assert_eq!(rotation.to_string().parse(), Ok(rotation));
        }
    }

    #[test]
    fn nothing_else_is_a_rotation() {
        for text in ["", "Strict", "grace", "grace:", "grace:-1", "grace:4294967296", "grace:1s"] {
            assert!(text.parse::<Rotation>().is_err(), "{text:?}");
        }
    }
}
