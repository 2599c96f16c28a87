//! What a provider is like: rules as data, and the catalogue of known ones.

use std::fmt;
use std::time::Duration;

/// What a provider does with a refresh token that has been used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rotation {
    /// It stays valid.
    Persistent,
    /// A new one is issued; the previous one is still taken for this long.
    Grace(Duration),
    /// A new one is issued; the previous one is taken until the new one is first used.
    UntilUsed,
    /// A new one is issued and the previous one is dead at once; using it again may end the grant.
    Strict,
    /// Nobody has found out yet: treated as [`Rotation::Strict`].
    Unknown,
}

impl Rotation {
    /// True where a refresh token may be dead after one use.
    #[must_use]
    pub const fn rotates(self) -> bool {
        !matches!(self, Self::Persistent)
    }

    /// True where a lost answer may mean a lost grant.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::Strict | Self::Unknown)
    }

    /// Reads `persistent`, `grace:SECONDS`, `until-used`, `strict` or `unknown`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let seconds = |s: &str| s.parse().ok().filter(|&s: &u64| (1..=86_400).contains(&s));
        match text {
            "persistent" => Ok(Self::Persistent),
            "until-used" => Ok(Self::UntilUsed),
            "strict" => Ok(Self::Strict),
            "unknown" => Ok(Self::Unknown),
            _ => match text.strip_prefix("grace:").and_then(seconds) {
                Some(s) => Ok(Self::Grace(Duration::from_secs(s))),
                None => Err(format!(
                    "`{}` is no rotation class: expected persistent, grace:SECONDS (1 to 86400), until-used, strict or unknown",
                    crate::model::printable(text, 60)
                )),
            },
        }
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Persistent => f.write_str("persistent"),
            Self::Grace(span) => write!(f, "grace:{}", span.as_secs()),
            Self::UntilUsed => f.write_str("until-used"),
            Self::Strict => f.write_str("strict"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// How the client proves who it is at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// Id and secret in the body.
    SecretPost,
    /// Id and secret in an `Authorization: Basic` header, each form-encoded first.
    SecretBasic,
    /// A public client: only the id, in the body.
    None,
}

impl ClientAuth {
    /// Reads the names of RFC 7591: `client_secret_post`, `client_secret_basic`, `none`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "client_secret_post" => Ok(Self::SecretPost),
            "client_secret_basic" => Ok(Self::SecretBasic),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "`{}` is no client authentication: expected client_secret_post, client_secret_basic or none",
                crate::model::printable(text, 60)
            )),
        }
    }

    /// The name of RFC 7591.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretPost => "client_secret_post",
            Self::SecretBasic => "client_secret_basic",
            Self::None => "none",
        }
    }
}

/// How a request's parameters travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded`, as RFC 6749 says.
    Form,
    /// A JSON object, as Atlassian's documentation says.
    Json,
}

/// An error of this provider's own that means: this refresh token is dead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadAlias {
    /// The value of `error`.
    pub error: String,
    /// What `error_description` must contain, compared without case; empty: anything.
    pub description_contains: String,
}

/// The rules of one provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What becomes of a used refresh token.
    pub rotation: Rotation,
    /// How the client authenticates.
    pub client_auth: ClientAuth,
    /// How parameters travel.
    pub body_format: BodyFormat,
    /// Errors besides `invalid_grant` that mean a dead refresh token.
    pub dead_aliases: Vec<DeadAlias>,
    /// A 503 means that the request was not processed, so that it may be repeated.
    pub unavailable_is_unprocessed: bool,
    /// The access token's life where the answer does not say.
    pub access_life: Option<Duration>,
    /// The refresh token dies when it is not used for this long.
    pub idle_life: Option<Duration>,
    /// The grant ends this long after the consent, whatever happens.
    pub absolute_life: Option<Duration>,
    /// A rotation ends the old access token after this long.
    pub rotation_ends_access_after: Option<Duration>,
}

impl Default for Rules {
    /// RFC 6749 to the letter, with the rotation class unknown.
    fn default() -> Self {
        Self {
            rotation: Rotation::Unknown,
            client_auth: ClientAuth::SecretPost,
            body_format: BodyFormat::Form,
            dead_aliases: Vec::new(),
            unavailable_is_unprocessed: false,
            access_life: None,
            idle_life: None,
            absolute_life: None,
            rotation_ends_access_after: None,
        }
    }
}

/// A row of the catalogue: a provider that is known by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preset {
    /// Its name in `preset = "..."`.
    pub id: &'static str,
    /// Its token endpoint.
    pub token_url: &'static str,
    /// Its rules.
    pub rules: Rules,
    /// Where the facts come from.
    pub source: &'static str,
}

const DAY: u64 = 86_400;

/// The presets that ship with Tokenkeep, in the order of their names.
#[must_use]
pub fn presets() -> Vec<Preset> {
    let days = |days: u64| Some(Duration::from_secs(days * DAY));
    vec![
        Preset {
            id: "atlassian",
            token_url: "https://auth.atlassian.com/oauth/token",
            rules: Rules {
                rotation: Rotation::Grace(Duration::from_secs(600)),
                body_format: BodyFormat::Json,
                dead_aliases: vec![DeadAlias {
                    error: "unauthorized_client".to_owned(),
                    description_contains: "refresh_token is invalid".to_owned(),
                }],
                access_life: Some(Duration::from_secs(3600)),
                idle_life: days(90),
                absolute_life: days(365),
                rotation_ends_access_after: Some(Duration::from_secs(600)),
                ..Rules::default()
            },
            source: "developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens (2026-11); staff in community.developer.atlassian.com/t/54172 and t/60806",
        },
        Preset {
            id: "github-app",
            token_url: "https://github.com/login/oauth/access_token",
            rules: Rules {
                rotation: Rotation::Strict,
                dead_aliases: vec![DeadAlias {
                    error: "bad_refresh_token".to_owned(),
                    description_contains: String::new(),
                }],
                access_life: Some(Duration::from_secs(28_800)),
                absolute_life: None,
                idle_life: days(183),
                rotation_ends_access_after: Some(Duration::ZERO),
                ..Rules::default()
            },
            source: "docs.github.com: refreshing user access tokens (2026-11)",
        },
        Preset {
            id: "google",
            token_url: "https://oauth2.googleapis.com/token",
            rules: Rules {
                rotation: Rotation::Persistent,
                access_life: Some(Duration::from_secs(3599)),
                idle_life: days(180),
                ..Rules::default()
            },
            source: "developers.google.com/identity/protocols/oauth2, as quoted by others (secondary)",
        },
    ]
}

/// The preset of this name.
#[must_use]
pub fn preset(id: &str) -> Option<Preset> {
    presets().into_iter().find(|preset| preset.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_classes_read_back() {
        for text in ["persistent", "grace:600", "until-used", "strict", "unknown"] {
            assert_eq!(Rotation::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "grace", "grace:0", "grace:x", "Strict", "grace:99999999"] {
            assert!(Rotation::parse(bad).unwrap_err().contains("expected persistent"), "{bad}");
        }
    }

    #[test]
    fn presets_are_https_and_name_their_source() {
        for preset in presets() {
            assert!(preset.token_url.starts_with("https://") && !preset.source.is_empty(), "{}", preset.id);
        }
    }
}
