//! Signing in by browser: the authorize endpoint and its codes (RFC 6749, 4.1; RFC 7636).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::grant::Refreshable;
use super::ledger::{DeathCause, GrantId};
use super::{GrantOptions, Offline, Provider, end};
use crate::answer::{Answer, Refusal, Unfit};
use crate::request::OAuthRequest;
use crate::token::{Kind, Stamp};

/// How long a code may be exchanged (RFC 6749, 4.1.2: at most 10 minutes).
const CODE_LIFE_MS: i64 = 60_000;

/// How many codes are remembered; older ones are unknown.
const CODES_MAX: usize = 10_000;

/// The name of the resource owner where no `login_hint` gives another.
pub(super) const OWNER_DEFAULT: &str = "user";

/// The longest `login_hint` that is taken.
const LOGIN_CHARS_MAX: usize = 100;

/// What a client asks a resource owner for, as its authorize URL says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    client: usize,
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
    scope: Arc<str>,
    challenge: Option<String>,
    owner: Arc<str>,
    refreshable: Refreshable,
}

impl Ask {
    /// The client that asks.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The scope that it asks for.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The account that is asked.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

/// What the resource owner answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// An authorize URL that asks for nothing that could be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnfitAsk {
    /// The client or its redirection cannot be trusted: the person is told (RFC 6749, 4.1.2.1).
    Told(&'static str),
    /// The client is told, by sending the browser to this URL.
    Redirected(String),
}

/// A code that was handed out.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    ask: Ask,
    /// The grant that it made, once it was exchanged.
    grant: Option<GrantId>,
}

type Parameters = BTreeMap<String, String>;

fn parameters(query: &str) -> Result<Parameters, UnfitAsk> {
    let mut found = Parameters::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if found.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(UnfitAsk::Told("A parameter is given twice."));
        }
    }
    Ok(found)
}

/// A redirection that fits a header and has no fragment (RFC 6749, 3.1.2).
fn redirection(parameters: &Parameters) -> Result<String, UnfitAsk> {
    let uri = parameters.get("redirect_uri").ok_or(UnfitAsk::Told("redirect_uri is missing."))?;
    let fits = uri.parse::<http::Uri>().is_ok_and(|parsed| parsed.scheme().is_some() && parsed.authority().is_some());
    if fits && !uri.contains('#') {
        Ok(uri.clone())
    } else {
        Err(UnfitAsk::Told("redirect_uri must be an absolute URL without a fragment."))
    }
}

fn redirected(uri: &str, state: Option<&str>, pairs: &[(&str, &str)]) -> String {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    if let Some(state) = state {
        query.append_pair("state", state);
    }
    format!("{uri}{separator}{}", query.finish())
}

/// The challenge that a `code_verifier` answers (RFC 7636, 4.2: S256).
fn challenge_of(verifier: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

impl Provider {
    /// Reads the query of an authorize URL. Parameters that it does not know are ignored. `login_hint` names the
    /// account; PKCE is checked where it is used, must be S256, and is demanded from public clients.
    ///
    /// # Errors
    /// Who is to be told, and what.
    pub fn ask(&self, query: &str) -> Result<Ask, UnfitAsk> {
        let parameters = parameters(query)?;
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let client_id = get("client_id").unwrap_or_default();
        let client = self.client_index(client_id).ok_or(UnfitAsk::Told("The client is unknown."))?;
        let redirect_uri = redirection(&parameters)?;
        let refused = |error: &str, why: &str| {
            let pairs = [("error", error), ("error_description", why)];
            UnfitAsk::Redirected(redirected(&redirect_uri, get("state"), &pairs))
        };
        if get("response_type") != Some("code") {
            return Err(refused("unsupported_response_type", "response_type must be code."));
        }
        let is_public = self.config.clients.get(client).is_some_and(|client| client.secret.is_none());
        if self.config.demands.authorize.iter().any(|&(name, value)| get(name) != Some(value)) {
            return Err(refused("invalid_request", "The request lacks what is demanded."));
        }
        match (get("code_challenge"), get("code_challenge_method")) {
            (None, None) if is_public => return Err(refused("invalid_request", "A public client must use PKCE.")),
            (None, None) | (Some(_), Some("S256")) => {}
            _ => return Err(refused("invalid_request", "PKCE needs code_challenge and the method S256.")),
        }
        let scope: Arc<str> = get("scope").map_or_else(|| Arc::clone(&self.config.scope), Arc::from);
        let owner = get("login_hint").filter(|hint| !hint.is_empty() && hint.chars().count() <= LOGIN_CHARS_MAX);
        Ok(Ask {
            client,
            client_id: client_id.to_owned(),
            state: parameters.get("state").cloned(),
            challenge: parameters.get("code_challenge").cloned(),
            owner: owner.unwrap_or(OWNER_DEFAULT).into(),
            refreshable: self.refreshable(&scope, get("access_type")),
            scope,
            redirect_uri,
        })
    }

    /// Whether a sign-in with this scope yields a refresh token.
    pub(super) fn refreshable(&self, scope: &str, access_type: Option<&str>) -> Refreshable {
        let offline = match self.config.offline {
            Offline::Always => true,
            Offline::Scope(needed) => scope.split_ascii_whitespace().any(|scope| scope == needed),
            Offline::AccessType => access_type == Some("offline"),
        };
        if offline { Refreshable::Yes } else { Refreshable::No }
    }

    /// The resource owner answers. Gives the URL to send the browser to, which carries a code or `access_denied`.
    pub fn decide(&mut self, now_ms: i64, ask: &Ask, decision: Decision) -> String {
        let state = ask.state.as_deref();
        match decision {
            Decision::Allow => {
                let code = self.new_code(now_ms, ask.clone());
                redirected(&ask.redirect_uri, state, &[("code", &code)])
            }
            Decision::Deny => {
                let pairs = [("error", "access_denied"), ("error_description", Refusal::AccessDenied.why())];
                redirected(&ask.redirect_uri, state, &pairs)
            }
        }
    }

    fn new_code(&mut self, now_ms: i64, ask: Ask) -> String {
        let number = self.codes_made;
        self.codes_made += 1;
        self.codes.insert(number, Code { ask, grant: None });
        if self.codes.len() > CODES_MAX {
            self.codes.pop_first();
        }
        let expires_at_ms = now_ms.saturating_add(CODE_LIFE_MS);
        self.mint.issue(Kind::Code, Stamp { owner: number, serial: 0, expires_at_ms })
    }

    /// Answers the exchange of a code for tokens. A code that is used twice takes its grant with it.
    pub(super) fn exchange_code(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        match self.try_exchange_code(now_ms, request) {
            Ok(id) => self.token_answer(id, None, true),
            Err(refusal) => self.refused(refusal),
        }
    }

    fn try_exchange_code(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Result<GrantId, Refusal> {
        let unfit = |why| Refusal::InvalidGrant(Unfit::Code(why));
        let client = self.authenticate(&request.credentials)?;
        let code = request.code.as_deref().ok_or(Refusal::InvalidRequest("code is missing."))?;
        let stamp = self.mint.read(Kind::Code, code).ok_or(unfit("The code is unknown."))?;
        let known = self.codes.get(&stamp.owner).ok_or(unfit("The code is unknown."))?;
        if known.ask.client != client {
            return Err(unfit("The code is another client's."));
        }
        if let Some(id) = known.grant {
            self.end_reused(now_ms, id);
            return Err(unfit("The code was used before; its grant is revoked."));
        }
        if now_ms >= stamp.expires_at_ms {
            return Err(unfit("The code has expired."));
        }
        if request.redirect_uri.as_deref() != Some(&known.ask.redirect_uri) {
            return Err(unfit("redirect_uri differs from the one that was asked with."));
        }
        let answered = request.code_verifier.as_deref().map(challenge_of);
        if answered != known.ask.challenge {
            return Err(unfit("code_verifier does not answer the code_challenge."));
        }
        let ask = known.ask.clone();
        let id = self.sign_in(now_ms, client, &ask.owner, ask.scope, ask.refreshable);
        if let Some(grant) = self.grants.get_mut(id.0) {
            grant.redirect_uri = Some(ask.redirect_uri);
        }
        if let Some(code) = self.codes.get_mut(&stamp.owner) {
            code.grant = Some(id);
        }
        Ok(id)
    }

    fn end_reused(&mut self, now_ms: i64, id: GrantId) {
        if let Some(grant) = self.grants.get_mut(id.0) {
            end(grant, &mut self.totals, DeathCause::CodeReuse, now_ms);
        }
    }

    /// Makes the grant of a sign-in. It is labelled with the name of its owner.
    pub(super) fn sign_in(
        &mut self,
        now_ms: i64,
        client: usize,
        owner: &Arc<str>,
        scope: Arc<str>,
        refreshable: Refreshable,
    ) -> GrantId {
        let options = GrantOptions {
            label: owner.as_ref().to_owned(),
            owner: Some(Arc::clone(owner)),
            scope: Some(scope),
            ..GrantOptions::default()
        };
        let id = self.grant(now_ms, options).id;
        if let Some(grant) = self.grants.get_mut(id.0) {
            grant.client = client;
            grant.refreshable = refreshable;
        }
        id
    }
}
