//! Why a sign-in did not come to its end.

use super::identity::IdTokenError;
use tokenkeep_core::{Failure, FailureCode};

/// Each ends the sign-in, and none of them touches the grant in hand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignInError {
    /// The state is not one of ours.
    #[error(
        "this sign-in is not known here: it took longer than ten minutes, was used already, or was begun elsewhere"
    )]
    Unknown,
    /// The redirect came through another browser or program than the one that began.
    #[error("this sign-in was begun in another browser or program")]
    OtherBrowser,
    /// `iss` names another provider, or is missing (RFC 9207).
    #[error("the answer does not come from the provider that was asked")]
    OtherIssuer,
    /// The redirect cannot be read.
    #[error("the provider sent the browser back with neither a code nor an error, or with one of them twice")]
    Malformed,
    /// The person said no.
    #[error("access was denied at the provider")]
    Denied,
    /// The provider said no.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// The code was not confirmed in time.
    #[error("the code was not confirmed in time")]
    Expired,
    /// The provider could not be reached, or what it answered is no token set.
    #[error("{}", .0.message())]
    Failed(Failure),
    /// It ended here, and not at the provider: the store failed, or the process is ending.
    #[error("tokenkeep could not keep this sign-in: {0}")]
    NotKept(String),
    /// The id token is not ours.
    #[error("{0}")]
    IdToken(#[from] IdTokenError),
    /// Somebody else signed in.
    #[error("this connection belongs to the account `{connected}`, and `{found}` signed in")]
    OtherAccount {
        /// Whose it is.
        connected: String,
        /// Who signed in.
        found: String,
    },
    /// Nobody could say who signed in, and the connection is somebody's.
    #[error("this connection belongs to the account `{connected}`, and the provider did not say who signed in")]
    UnknownAccount {
        /// Whose it is.
        connected: String,
    },
    /// Too many are under way.
    #[error("too many sign-ins are under way")]
    TooMany,
    /// The provider cannot do it, as far as the configuration knows.
    #[error("the provider `{provider}` has no {lacks} in the configuration")]
    NotOffered {
        /// Its name.
        provider: String,
        /// The key that is missing.
        lacks: &'static str,
    },
}

impl SignInError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "sign_in_unknown",
            Self::OtherBrowser => "sign_in_other_browser",
            Self::OtherIssuer => "sign_in_other_issuer",
            Self::Malformed => "sign_in_malformed",
            Self::Denied => "sign_in_denied",
            Self::Refused(_) => "sign_in_refused",
            Self::Expired => "sign_in_expired",
            Self::Failed(_) => "sign_in_failed",
            Self::NotKept(_) => "sign_in_not_kept",
            Self::IdToken(_) => "sign_in_id_token",
            Self::OtherAccount { .. } => "sign_in_other_account",
            Self::UnknownAccount { .. } => "sign_in_unknown_account",
            Self::TooMany => "sign_in_too_many",
            Self::NotOffered { .. } => "sign_in_not_offered",
        }
    }

    /// What to do about it, as one sentence.
    #[must_use]
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::Unknown | Self::Malformed | Self::Expired => "Begin again with `tokenkeep connect NAME`.",
            Self::OtherBrowser => "Begin again, and end the sign-in in the same browser or terminal.",
            Self::OtherIssuer => {
                "Begin again; if it happens twice, check the provider's issuer in the configuration: somebody may be mixing providers up."
            }
            Self::Denied => "Begin again and allow the access, or ask the account's administrator to.",
            Self::Refused(_) => {
                "Check the application's settings at the provider: redirect URI, scopes, who may use it."
            }
            Self::Failed(failure) if matches!(failure.code, FailureCode::NotRevoked) => failure.code.next_step(),
            Self::Failed(_) => "Begin again; check the provider's status page and its section in the configuration.",
            Self::NotKept(_) => {
                "Nothing was changed here: mend the cause, then sign in again with `tokenkeep connect NAME`."
            }
            Self::IdToken(_) => "Check client_id and issuer of this provider, and this machine's clock.",
            Self::OtherAccount { .. } => {
                "Sign out at the provider and begin again with the right account, or connect the other account under another name."
            }
            Self::UnknownAccount { .. } => {
                "Begin again when the provider's identity_url answers, with the scope that it needs; or connect under another name."
            }
            Self::TooMany => "Wait: each ends by itself after ten minutes.",
            Self::NotOffered { .. } => {
                "Add it to the provider's section, or use another flow: --device, or `tokenkeep import`."
            }
        }
    }
}
