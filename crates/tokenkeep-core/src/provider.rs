//! What a provider is like: its rules as data. The known ones are in [`crate::catalogue`].

use std::borrow::Cow;
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
    /// A JWT signed with the client's private key (RFC 7523 section 2.2).
    PrivateKeyJwt,
    /// A public client: only the id, in the body.
    None,
}

impl ClientAuth {
    /// Reads the names of RFC 7591 and OpenID Connect: `client_secret_post`, `client_secret_basic`, `private_key_jwt`,
    /// `none`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "client_secret_post" => Ok(Self::SecretPost),
            "client_secret_basic" => Ok(Self::SecretBasic),
            "private_key_jwt" => Ok(Self::PrivateKeyJwt),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "`{}` is no client authentication: expected client_secret_post, client_secret_basic, private_key_jwt or none",
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
            Self::PrivateKeyJwt => "private_key_jwt",
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

/// What an error of a provider's own means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// The refresh token is dead, as `invalid_grant` (RFC 6749 section 5.2) says it.
    Dead,
    /// The refresh token is dead because it was used twice.
    Reused,
    /// Too many requests.
    Throttled,
    /// The client's id or secret is wrong, as `invalid_client` says it.
    WrongClient,
    /// The request was refused before it was looked at: it may be repeated whatever the rotation class.
    NotProcessed,
}

/// How a provider says something in words of its own. The first rule that fits decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorRule {
    /// Only with this status; `None`: with any.
    pub status: Option<u16>,
    /// The value of `error`.
    pub error: Cow<'static, str>,
    /// What `error_description` must contain, compared without case; empty: anything.
    pub description_contains: Cow<'static, str>,
    /// What it means.
    pub means: Means,
}

impl ErrorRule {
    /// A rule that is known at compile time.
    #[must_use]
    pub const fn known(
        status: Option<u16>,
        error: &'static str,
        description_contains: &'static str,
        means: Means,
    ) -> Self {
        Self { status, error: Cow::Borrowed(error), description_contains: Cow::Borrowed(description_contains), means }
    }

    /// Whether an answer with this status and these words is meant.
    #[must_use]
    pub fn fits(&self, status: u16, error: &str, description: &str) -> bool {
        let contains = || description.to_ascii_lowercase().contains(&self.description_contains.to_ascii_lowercase());
        self.status.is_none_or(|wanted| wanted == status) && self.error == error && contains()
    }
}

/// A name and a value that every request to a provider carries.
pub type Param = (Cow<'static, str>, Cow<'static, str>);

/// The rules of one provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What becomes of a used refresh token.
    pub rotation: Rotation,
    /// How the client authenticates.
    pub client_auth: ClientAuth,
    /// How parameters travel.
    pub body_format: BodyFormat,
    /// What its own errors mean, beside the standard's.
    pub errors: Cow<'static, [ErrorRule]>,
    /// What every token request carries besides the standard's parameters.
    pub token_params: Cow<'static, [Param]>,
    /// What headers every token request carries besides the standard's, their names in lower case.
    pub headers: Cow<'static, [Param]>,
    /// A refresh repeats the `redirect_uri` of the sign-in.
    pub redirect_uri_on_refresh: bool,
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
    /// All sign-ins of one account at one client are one grant: what ends it ends them all.
    pub one_grant: bool,
}

impl Rules {
    /// RFC 6749 to the letter, with the rotation class unknown.
    pub const STANDARD: Self = Self {
        rotation: Rotation::Unknown,
        client_auth: ClientAuth::SecretPost,
        body_format: BodyFormat::Form,
        errors: Cow::Borrowed(&[]),
        token_params: Cow::Borrowed(&[]),
        headers: Cow::Borrowed(&[]),
        redirect_uri_on_refresh: false,
        unavailable_is_unprocessed: false,
        access_life: None,
        idle_life: None,
        absolute_life: None,
        rotation_ends_access_after: None,
        one_grant: false,
    };

    /// What the first rule that fits an error answer says about it.
    #[must_use]
    pub fn meaning(&self, status: u16, error: &str, description: &str) -> Option<Means> {
        self.errors.iter().find(|rule| rule.fits(status, error, description)).map(|rule| rule.means)
    }
}

impl Default for Rules {
    /// [`Rules::STANDARD`].
    fn default() -> Self {
        Self::STANDARD
    }
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
}
