//! Providers that people meet, as data: what each does otherwise than the standard says.

use std::fmt;
use std::str::FromStr;

use crate::provider::{AnswerStyle, DeviceStyle, Offline, ProviderConfig, RefusalStyle, RevocationStyle};
use crate::rotation::Rotation;

const DAY_S: u64 = 86_400;

/// A known provider, whose habits the mock takes on.
///
/// ```
/// use tokenkeep_mock::{Dialect, Rotation};
///
/// let atlassian: Dialect = "atlassian".parse().unwrap();
/// assert_eq!(atlassian.config().rotation, Rotation::Grace(600));
/// assert!("atlasian".parse::<Dialect>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// The standard to the letter, and strict rotation.
    #[default]
    Standard,
    /// Atlassian Cloud (Jira 3LO): a used token is good for 10 more minutes, after which the old access token ends too;
    /// refresh tokens die after 90 idle days and the grant at 365; answers carry no `token_type`; a dead token is
    /// refused by one of two 403s; only the scope `offline_access` gives a refresh token.
    Atlassian,
    /// GitHub Apps with expiring tokens: errors come with 200, answers are form-encoded unless JSON is asked for, the
    /// scope is always empty, and a refresh ends the old access token at once.
    GitHub,
    /// Google: the refresh token stays, only a sign-in's answer carries it, and only if `access_type=offline` asked.
    Google,
    /// Slack with token rotation: `ok: false` with 200, a user's tokens one level down, scopes with commas.
    Slack,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 5] =
        [Dialect::Standard, Dialect::Atlassian, Dialect::GitHub, Dialect::Google, Dialect::Slack];

    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Standard => "standard",
            Dialect::Atlassian => "atlassian",
            Dialect::GitHub => "github",
            Dialect::Google => "google",
            Dialect::Slack => "slack",
        }
    }

    /// A provider of this dialect, with lives as the vendor documents them.
    pub fn config(self) -> ProviderConfig {
        let standard = ProviderConfig::default();
        match self {
            Dialect::Standard => standard,
            Dialect::Atlassian => ProviderConfig {
                rotation: Rotation::Grace(600),
                rotation_ends_access_after_s: Some(600),
                refresh_idle_s: Some(90 * DAY_S),
                grant_life_s: Some(365 * DAY_S),
                answers: AnswerStyle::Atlassian,
                refusals: RefusalStyle::Atlassian,
                offline: Offline::Scope("offline_access"),
                scope: "read:jira-work read:jira-user read:me offline_access".into(),
                ..standard
            },
            Dialect::GitHub => ProviderConfig {
                rotation: Rotation::Strict,
                access_ttl_ms: 28_800_000,
                rotation_ends_access_after_s: Some(0),
                refresh_idle_s: Some(183 * DAY_S),
                answers: AnswerStyle::GitHub,
                refusals: RefusalStyle::GitHub,
                revocation: RevocationStyle::GitHub,
                scope: "".into(),
                ..standard
            },
            Dialect::Google => ProviderConfig {
                rotation: Rotation::Persistent,
                access_ttl_ms: 3_599_000,
                refresh_idle_s: Some(180 * DAY_S),
                refusals: RefusalStyle::Google,
                device: DeviceStyle::Google,
                offline: Offline::AccessType,
                scope: "openid email".into(),
                ..standard
            },
            Dialect::Slack => ProviderConfig {
                rotation: Rotation::Strict,
                access_ttl_ms: 43_200_000,
                answers: AnswerStyle::Slack,
                refusals: RefusalStyle::Slack,
                revocation: RevocationStyle::Slack,
                scope: "channels:read chat:write".into(),
                ..standard
            },
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDialect(String);

impl fmt::Display for UnknownDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Dialect::ALL.map(Dialect::name).join(", ");
        write!(f, "unknown dialect {:?}: expected one of {names}", self.0)
    }
}

impl std::error::Error for UnknownDialect {}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Dialect::ALL.into_iter().find(|dialect| dialect.name() == text);
        named.ok_or_else(|| UnknownDialect(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_reads_back_and_the_error_names_them_all() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
        }
        let error = "GitHub".parse::<Dialect>().unwrap_err().to_string();
        assert!(
            error.contains("\"GitHub\"") && error.contains("standard, atlassian, github, google, slack"),
            "{error}"
        );
    }
}
