//! Ending a grant at its provider.

use super::SignInError;
use super::service::lacks;
use super::settings::Revocation;
use crate::config::Provider;
use crate::error::Error;
use crate::keep::{RefreshAsk, TokenKeep};
use tokenkeep_core::oauth::request::{
    Extras, ProviderRequest, TokenHint, grant_deletion_request, revocation_request, self_revocation_request,
};
use tokenkeep_core::oauth::response::{ErrorAnswer, Reading, read};
use tokenkeep_core::oauth::{RawAnswer, TokenSet};
use tokenkeep_core::{Connection, ConnectionKey, Failure, FailureCode};
use url::Url;

impl TokenKeep {
    /// Revokes the grant at its provider, then removes the connection. An attempt in flight is waited for, and none
    /// begins meanwhile. Where the provider asks for an access token that is good, one that has ended is renewed first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::SignIn`] where the provider knows no revocation, refuses it, or cannot be reached: then
    /// nothing was removed.
    pub async fn revoke_and_remove(&self, key: &ConnectionKey) -> Result<(), Error> {
        self.check_removal(key)?;
        let before = self.get(key).await?;
        let provider = self.provider_of(&before.provider)?;
        if provider.sign_in.revocation == Revocation::None {
            return Err(lacks(&provider, "revoke_url"));
        }
        if self.is_too_late(&provider, &before) {
            // What comes of it is looked at when nothing is in flight any more.
            let _ = self.refresh(key, RefreshAsk::default()).await;
        }
        self.pause(key).await?;
        let revoked = self.revoke(&provider, key).await;
        if revoked.is_err() && !before.paused {
            self.resume(key).await?;
        }
        revoked?;
        self.remove(key).await
    }

    /// Its access token has ended, and the provider ends grants by a good one. Asked with another, some answer as if the
    /// grant were gone.
    fn is_too_late(&self, provider: &Provider, connection: &Connection) -> bool {
        let by_access_token = matches!(provider.sign_in.revocation, Revocation::AccessToken(_) | Revocation::GitHub(_));
        by_access_token && connection.times.expires_at.is_some_and(|end| end <= self.now())
    }

    async fn revoke(&self, provider: &Provider, key: &ConnectionKey) -> Result<(), Error> {
        let _gate = self.wait_for_sent(key).await;
        if self.is_too_late(provider, &self.get(key).await?) {
            let detail = "it asks for a good access token, the one in hand has ended, and nothing was removed";
            return Err(SignInError::Failed(Failure::new(FailureCode::NotRevoked, detail)).into());
        }
        let Some(tokens) = self.token_set(key).await? else { return Ok(()) };
        match &provider.sign_in.revocation {
            Revocation::None => Ok(()),
            Revocation::Standard(url) => self.revoke_by_standard(provider, url, &tokens).await,
            Revocation::AccessToken(url) => self.revoke_once(url, self_revocation_request(&tokens.access_token)).await,
            Revocation::GitHub(url) => {
                self.revoke_once(url, grant_deletion_request(&provider.client, &tokens.access_token)).await
            }
        }
    }

    /// RFC 7009: the refresh token ends the whole grant; where the provider revokes no such tokens, the access token.
    async fn revoke_by_standard(&self, provider: &Provider, url: &Url, tokens: &TokenSet) -> Result<(), Error> {
        let assertion = self.client_assertion(provider, url);
        let extras = Extras { client_assertion: assertion.as_ref(), params: &[] };
        let ask_for = |token, hint| revocation_request(&provider.rules, &provider.client, token, hint, extras);
        if let Some(token) = &tokens.refresh_token {
            let answer = self.ask_once(url, ask_for(token, TokenHint::RefreshToken)).await?;
            match judged(&answer) {
                Err(error) if error.error == "unsupported_token_type" => {}
                judged => return judged.map_err(|error| refused(&answer, &error)),
            }
        }
        self.revoke_once(url, ask_for(&tokens.access_token, TokenHint::AccessToken)).await
    }

    async fn revoke_once(&self, url: &Url, request: ProviderRequest) -> Result<(), Error> {
        let answer = self.ask_once(url, request).await?;
        judged(&answer).map_err(|error| refused(&answer, &error))
    }
}

/// Success is what RFC 7009 section 2.2 calls so, also for a token that was dead already; and not Slack's `ok: false`.
fn judged(answer: &RawAnswer) -> Result<(), ErrorAnswer> {
    let gone = answer.status == 404;
    match read(answer) {
        Reading::Error(error) if error.error == "invalid_token" || error.error == "token_revoked" => Ok(()),
        Reading::Error(error) if !gone => Err(error),
        _ if gone || (200..300).contains(&answer.status) => Ok(()),
        _ => Err(ErrorAnswer::default()),
    }
}

/// The provider's words are not repeated: some repeat what they were sent.
fn refused(answer: &RawAnswer, error: &ErrorAnswer) -> Error {
    let code = if error.error.len() <= 40 { error.error.as_str() } else { "" };
    let said = format!("HTTP {} {code}", answer.status);
    let detail = format!("{}, and nothing was removed", said.trim_end());
    SignInError::Failed(Failure::new(FailureCode::NotRevoked, &detail)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn judged_of(status: u16, body: &str) -> Result<(), ErrorAnswer> {
        judged(&RawAnswer { status, content_type: None, retry_after: None, body: Zeroizing::new(body.into()) })
    }

    #[test]
    fn a_token_that_is_gone_is_revoked_and_a_refusal_is_none() {
        for (status, body) in [
            (200, ""),
            (204, ""),
            (200, "{}"),
            (200, r#"{"ok":true}"#),
            (404, "<html>"),
            (400, r#"{"error":"invalid_token"}"#),
        ] {
            assert!(judged_of(status, body).is_ok(), "{status} {body}");
        }
        for (status, body) in [
            (200, r#"{"ok":false,"error":"not_authed"}"#),
            (400, r#"{"error":"unsupported_token_type"}"#),
            (503, ""),
            (401, r#"{"error":"invalid_client"}"#),
        ] {
            assert!(judged_of(status, body).is_err(), "{status} {body}");
        }
    }
}
