//! Revocation otherwise than RFC 7009 says: by a call of the provider's own API.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::ledger::{DeathCause, GrantId};
use super::{Provider, end, grant_of};
use crate::answer::Answer;
use crate::request::Credentials;

/// How clients end a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationStyle {
    /// RFC 7009.
    Standard,
    /// `auth.revoke` with the access token in the header; refusals are `ok: false`.
    Slack,
    /// A call with the access token in the header and without arguments.
    Dropbox,
    /// `DELETE` with the client in the header (`Basic`) and an access token in JSON; it ends all that the account gave to
    /// the client.
    GitHub,
}

impl RevocationStyle {
    /// Where it is served for this client.
    pub fn path(self, client_id: &str) -> String {
        match self {
            RevocationStyle::Standard => "/revoke".to_owned(),
            RevocationStyle::Slack => "/api/auth.revoke".to_owned(),
            RevocationStyle::Dropbox => "/2/auth/token/revoke".to_owned(),
            RevocationStyle::GitHub => format!("/applications/{client_id}/grant"),
        }
    }
}

impl Provider {
    /// `auth.revoke`.
    pub(crate) fn revoke_at_slack(&mut self, now_ms: i64, access_token: Option<&str>) -> Answer {
        let answer = match access_token.map(|token| self.grant_behind(now_ms, token)) {
            Some(Some(id)) => {
                self.end_revoked(now_ms, id);
                json!({"ok": true, "revoked": true})
            }
            Some(None) => json!({"ok": false, "error": "invalid_auth"}),
            None => json!({"ok": false, "error": "not_authed"}),
        };
        Answer::json(StatusCode::OK, &answer)
    }

    /// `auth/token/revoke`: the only argument that it takes is none.
    pub(crate) fn revoke_at_dropbox(&mut self, now_ms: i64, access_token: Option<&str>, body: &[u8]) -> Answer {
        if !matches!(body, b"" | b"null") {
            return Answer::json(StatusCode::BAD_REQUEST, &json!("request body: expected null"));
        }
        match access_token.and_then(|token| self.grant_behind(now_ms, token)) {
            Some(id) => {
                self.end_revoked(now_ms, id);
                Answer::json(StatusCode::OK, &Value::Null)
            }
            None => {
                let error =
                    json!({"error_summary": "invalid_access_token/...", "error": {".tag": "invalid_access_token"}});
                Answer::json(StatusCode::UNAUTHORIZED, &error)
            }
        }
    }

    /// `DELETE /applications/{client_id}/grant`.
    pub(crate) fn revoke_at_github(
        &mut self,
        now_ms: i64,
        client_id: &str,
        credentials: &Credentials<'_>,
        body: &[u8],
    ) -> Answer {
        let told = |status: StatusCode, message: &str| Answer::json(status, &json!({"message": message}));
        let client = self.client_index(client_id).filter(|&index| self.shows_itself(index, credentials));
        let Some(client) = client else { return told(StatusCode::UNAUTHORIZED, "Bad credentials") };
        let fields: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(token) = fields.get("access_token").and_then(Value::as_str) else {
            return told(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request.");
        };
        let known = self.grant_behind(now_ms, token).and_then(|id| self.grants.get(id.0));
        let Some(owner) = known.filter(|grant| grant.client == client).map(|grant| grant.owner.clone()) else {
            return told(StatusCode::NOT_FOUND, "Not Found");
        };
        for grant in self.grants.iter_mut().filter(|grant| grant.client == client && grant.owner == owner) {
            end(grant, &mut self.totals, DeathCause::Revoked, now_ms);
        }
        Answer { status: StatusCode::NO_CONTENT, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// The API asks for the header, whichever way the client takes at the token endpoint.
    fn shows_itself(&self, client: usize, credentials: &Credentials<'_>) -> bool {
        let Credentials::Basic { id, secret } = credentials else { return false };
        let registered = self.config.clients.get(client);
        registered.is_some_and(|known| known.id == *id && known.secret.as_deref() == Some(secret.as_ref()))
    }

    /// The grant of an access token that is good now.
    fn grant_behind(&self, now_ms: i64, access_token: &str) -> Option<GrantId> {
        grant_of(self.live_access(now_ms, access_token)?.owner)
    }

    fn end_revoked(&mut self, now_ms: i64, id: GrantId) {
        if let Some(grant) = self.grants.get_mut(id.0) {
            end(grant, &mut self.totals, DeathCause::Revoked, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GrantOptions, ProviderConfig};
    use super::*;

    fn provider() -> (Provider, String) {
        let mut provider = Provider::new(ProviderConfig::default());
        let options = GrantOptions { label: "a".to_owned(), ..GrantOptions::default() };
        let token = provider.grant(0, options).token.access_token;
        (provider, token)
    }

    fn is_revoked(provider: &Provider) -> bool {
        let ledger = provider.find("a").and_then(|id| provider.ledger(id)).unwrap();
        ledger.killed.is_some_and(|death| death.cause == DeathCause::Revoked)
    }

    #[test]
    fn slack_ends_the_grant_of_a_good_token_and_says_no_with_200() {
        let (mut provider, token) = provider();
        for (bad, error) in [(None, "not_authed"), (Some("x"), "invalid_auth")] {
            let answer = provider.revoke_at_slack(1, bad);
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((answer.status, &told["error"]), (StatusCode::OK, &json!(error)));
        }
        assert!(!is_revoked(&provider));
        assert!(provider.revoke_at_slack(1, Some(&token)).body.starts_with(b"{\"ok\":true"));
        assert!(is_revoked(&provider));
    }

    #[test]
    fn dropbox_takes_no_argument() {
        let (mut provider, token) = provider();
        let refused = provider.revoke_at_dropbox(1, Some(&token), b"token=x");
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!(provider.revoke_at_dropbox(1, Some("x"), b"").status, StatusCode::UNAUTHORIZED);
        assert!(!is_revoked(&provider));
        assert_eq!(provider.revoke_at_dropbox(1, Some(&token), b"").body, "null");
        assert!(is_revoked(&provider));
    }

    #[test]
    fn github_asks_for_the_client_in_the_header_and_the_token_in_json() {
        let (mut provider, token) = provider();
        let (client, right) = ("mock-client", Credentials::basic("mock-client", "mock-secret"));
        let body = json!({"access_token": token}).to_string();
        let in_body = Credentials::post("mock-client", "mock-secret");
        for (credentials, body, status) in [
            (&in_body, body.as_str(), 401),
            (&Credentials::basic("mock-client", "x"), &body, 401),
            (&right, "token=x", 422),
            (&right, r#"{"access_token":"x"}"#, 404),
        ] {
            let answer = provider.revoke_at_github(1, client, credentials, body.as_bytes());
            assert_eq!(answer.status, status, "{body}");
        }
        assert!(!is_revoked(&provider));
        assert_eq!(provider.revoke_at_github(1, client, &right, body.as_bytes()).status, 204);
        assert!(is_revoked(&provider));
    }
}
