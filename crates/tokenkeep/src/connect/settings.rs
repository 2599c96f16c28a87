//! What signing in at a provider needs to know, beside what refreshing does.

use std::sync::Arc;
use url::Url;

use super::assertion::SigningKey;

/// A provider as people sign in at it. The default knows no way.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// The provider's identity (RFC 8414), where it is known: what `iss` and id tokens must name.
    pub issuer: Option<String>,
    /// It always sends `iss` with the redirect (RFC 9207).
    pub sends_issuer: bool,
    /// Where a person signs in.
    pub authorize_url: Option<Url>,
    /// Where a device sign-in starts (RFC 8628).
    pub device_url: Option<Url>,
    /// How tokens are revoked.
    pub revocation: Revocation,
    /// Where a token's state is told (RFC 7662).
    pub introspect_url: Option<Url>,
    /// Where it says whose account a token is for.
    pub identity: Option<Identity>,
    /// To which addresses it sends browsers back.
    pub redirects: Redirects,
    /// What stands between scopes.
    pub scope_separator: char,
    /// The scopes that are asked for where nobody names any.
    pub scopes: Vec<String>,
    /// The scopes that are asked for besides: without them there is no refresh token.
    pub offline_scopes: Vec<String>,
    /// What the authorization request carries besides the standard's parameters.
    pub params: Vec<(String, String)>,
    /// What tokens are to be for (RFC 8707): `resource` of the authorization and of the token request.
    pub resources: Vec<String>,
    /// The key of `private_key_jwt`, and of assertions for others.
    pub signing_key: Option<Arc<SigningKey>>,
}

/// To which addresses a provider sends browsers back after a sign-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirects {
    /// To any port of this machine (RFC 8252 section 7.3).
    AnyLoopback,
    /// To registered addresses alone: the daemon's own.
    Registered,
}

/// How a provider revokes tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// There is no way that we know of.
    None,
    /// RFC 7009.
    Standard(Url),
    /// A call of its API with the access token, which ends the grant.
    AccessToken(Url),
    /// `DELETE` with the client's credentials in the header and the access token in a JSON body.
    GitHub(Url),
}

/// Where a provider says whose account a token is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Asked with `GET` and the access token.
    pub url: Url,
    /// The fields of the answer that together name the account, `a.b` being `b` in `a`.
    pub fields: Vec<String>,
}

impl Default for SignIn {
    fn default() -> Self {
        Self {
            issuer: None,
            sends_issuer: false,
            authorize_url: None,
            device_url: None,
            revocation: Revocation::None,
            introspect_url: None,
            identity: None,
            redirects: Redirects::AnyLoopback,
            scope_separator: ' ',
            scopes: Vec::new(),
            offline_scopes: Vec::new(),
            params: Vec::new(),
            resources: Vec::new(),
            signing_key: None,
        }
    }
}

impl SignIn {
    /// The scopes of a sign-in: those that are `wanted`, else the usual ones; and in each case those without which there
    /// is no refresh token.
    #[must_use]
    pub fn scopes_for(&self, wanted: &[String]) -> Vec<String> {
        let mut scopes = if wanted.is_empty() { self.scopes.clone() } else { wanted.to_vec() };
        for scope in &self.offline_scopes {
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        scopes
    }

    /// The `resource` parameters of the authorization request and of each token request for a new grant (RFC 8707).
    #[must_use]
    pub fn resource_params(&self) -> Vec<(&str, &str)> {
        self.resources.iter().map(|resource| ("resource", resource.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_access_is_asked_for_whatever_else_is() {
        let text = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
        let settings = SignIn { scopes: text(&["a"]), offline_scopes: text(&["offline_access"]), ..SignIn::default() };
        assert_eq!(settings.scopes_for(&[]), ["a", "offline_access"]);
        assert_eq!(settings.scopes_for(&text(&["offline_access", "b"])), ["offline_access", "b"]);
    }
}
