//! The failure catalogue: one code, one sentence and one next step for each way a refresh fails.
//!
//! CLI, API, events and documentation all take their words from here.

use std::fmt;

macro_rules! catalogue {
    ($($variant:ident = $code:literal, $sentence:literal, $next:literal;)*) => {
        /// What went wrong, as a stable code.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FailureCode {
            $(#[doc = $sentence] $variant,)*
        }

        impl FailureCode {
            /// The whole catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as programs see it: stable, lower case, with underscores.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What happened, as one sentence for a person.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What to do about it, as one sentence for a person.
            #[must_use]
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

catalogue! {
    DnsFailed = "dns_failed", "The provider's host name could not be resolved.",
        "Check the host in token_url and this machine's name resolution; Tokenkeep keeps trying.";
    ConnectFailed = "connect_failed", "No connection to the provider could be opened.",
        "Check the network and the provider's status page; Tokenkeep keeps trying.";
    TlsFailed = "tls_failed", "The TLS handshake with the provider failed before anything was sent.",
        "Check the network and this machine's root certificates; Tokenkeep keeps trying.";
    TlsName = "tls_name", "The provider's certificate is not for the host in token_url, or not trusted.",
        "Check token_url for a typing error, and whether a proxy intercepts TLS.";
    ConnectionDead = "connection_dead", "A pooled connection to the provider was dead before the request was written.",
        "Nothing to do: Tokenkeep tries again on a new connection.";
    Timeout = "timeout", "The provider did not answer in time.",
        "Check the provider's status page; Tokenkeep goes on as its rotation class allows.";
    ConnectionLost = "connection_lost", "The connection broke after the request was sent.",
        "Check the network; Tokenkeep goes on as the provider's rotation class allows.";
    AnswerTruncated = "answer_truncated", "The provider's answer ended before it was complete.",
        "Check the network and any proxy between; Tokenkeep goes on as the provider's rotation class allows.";
    AnswerTooLarge = "answer_too_large", "The provider's answer was larger than a token answer may be.",
        "Check that token_url is the token endpoint.";
    AnswerUnreadable = "answer_unreadable", "The provider answered with success but with neither a token nor an error.",
        "Check that token_url is the token endpoint and that no captive portal or proxy answers for it.";
    AnswerInvalid = "answer_invalid", "The provider's answer held an access token that cannot be used in a header.",
        "Report it to the provider; Tokenkeep does not hand such a token out.";
    RateLimited = "rate_limited", "The provider asked us to slow down.",
        "Nothing to do: Tokenkeep waits as long as the provider says. Lower refresh_per_second if it happens often.";
    Unavailable = "unavailable", "The provider says that it is temporarily unavailable.",
        "Check the provider's status page; Tokenkeep keeps trying.";
    ServerError = "server_error", "The provider failed while it handled the request.",
        "Check the provider's status page; Tokenkeep goes on as its rotation class allows.";
    UnknownAnswer = "unknown_answer", "The provider answered with something that Tokenkeep does not know.",
        "Read the detail; if the provider means something by it, add it to `errors` in its section of the configuration.";
    InvalidGrant = "invalid_grant", "The provider says that the refresh token is no longer valid.",
        "Sign in again: `tokenkeep connect NAME`, or give a new token set to `tokenkeep import NAME`.";
    ForeignRotation = "foreign_rotation", "The provider says that somebody else has used this refresh token, which ended the grant.",
        "Find the other program that refreshes with it (give it a token file `without_refresh_token`, or let it ask here), then sign in again: `tokenkeep connect NAME`.";
    LostInFlight = "lost_in_flight", "An answer with a new refresh token was lost on its way, and the old one is no longer valid.",
        "Sign in again: `tokenkeep connect NAME`, or give a new token set to `tokenkeep import NAME`.";
    NoRefreshToken = "no_refresh_token", "The access token ends and there is no refresh token to renew it with.",
        "Sign in again and ask for offline access (for example the scope offline_access): `tokenkeep connect NAME`.";
    ConsentEnding = "consent_ending", "The consent ends soon, and no refresh puts that off.",
        "Sign in again before it ends: `tokenkeep connect NAME`.";
    RefreshTokenEnding = "refresh_token_ending", "The refresh token ends soon, and no refresh has put that off.",
        "Sign in again before it ends: `tokenkeep connect NAME`. Where refreshes are paused or held, `tokenkeep resume NAME` may do.";
    InvalidClient = "invalid_client", "The provider does not accept our client id, secret, or the way they are sent.",
        "Check client_id, client_secret and client_auth of this provider in the configuration; a reload (SIGHUP) of a mended one releases it at once. If the mistake was the provider's, `tokenkeep resume NAME`.";
    UnauthorizedClient = "unauthorized_client", "The provider does not let this client use this kind of grant.",
        "Check the application's settings at the provider, then `tokenkeep resume NAME`.";
    InvalidScope = "invalid_scope", "The provider does not grant these scopes to this connection.",
        "Correct the scopes of this connection, then `tokenkeep resume NAME`.";
    InvalidRequest = "invalid_request", "The provider says that the request is malformed or of an unsupported kind.",
        "Check token_url, client_auth and the provider's preset; a reload (SIGHUP) of a mended configuration releases it at once.";
    WrongEndpoint = "wrong_endpoint", "token_url answers with a redirect, or as if it did not exist.",
        "Correct token_url of this provider in the configuration; a reload (SIGHUP) releases it at once.";
    UnknownProvider = "unknown_provider", "The configuration no longer has this connection's provider.",
        "Add the provider to the configuration again and reload it (SIGHUP).";
    ProviderHeld = "provider_held", "Another connection of the same provider and client found the client misconfigured.",
        "Mend the provider's client in the configuration and reload it (SIGHUP); else one probe every 15 minutes finds out by itself.";
    RestoredCopy = "restored_copy", "The database is a restored copy: its refresh tokens may have been used since it was made.",
        "If no other copy of this database runs, `tokenkeep resume NAME` tries this one, and `tokenkeep resume --all-sole-copy` all; else sign in again.";
    NotRevoked = "not_revoked", "The provider did not revoke the grant.",
        "Try again, or remove the connection without --revoke and end the grant in the account's settings at the provider.";
    Interrupted = "interrupted", "The attempt ended before anything was sent.",
        "Nothing to do: Tokenkeep tries again.";
    AnswerLost = "answer_lost", "The process ended between sending the request and keeping its answer.",
        "Nothing to do yet: Tokenkeep goes on as the provider's rotation class allows.";
}

/// A next step for one connection: the catalogue's `NAME` becomes its name.
#[must_use]
pub fn next_step_for(next_step: &str, name: &str) -> String {
    next_step.replace("NAME", name)
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FailureCode {
    /// Reads what [`FailureCode::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// One failure: its code, and the evidence in the provider's or the system's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What it was.
    pub code: FailureCode,
    /// The evidence: printable, short, without secrets. May be empty.
    pub detail: String,
}

impl Failure {
    /// A failure with its evidence, which is made printable and cut at 300 characters.
    #[must_use]
    pub fn new(code: FailureCode, detail: &str) -> Self {
        Self { code, detail: crate::model::printable(detail, 300) }
    }

    /// The sentence and the evidence, for a person.
    #[must_use]
    pub fn message(&self) -> String {
        if self.detail.is_empty() {
            self.code.sentence().to_owned()
        } else {
            format!("{} ({})", self.code.sentence(), self.detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_says_what_to_do() {
        for &code in FailureCode::ALL {
            assert_eq!(FailureCode::parse(code.as_str()), Some(code));
            assert!(code.sentence().ends_with('.') && code.next_step().ends_with(['.', ')']), "{code}");
        }
    }
}
