//! The sign-ins of [`TokenKeep`].

use super::identity::{self, Expected};
use super::pending::{Redirect, SIGN_IN_LIFE, Step};
use super::settings::{Redirects, SignIn};
use super::{Pkce, SignInError, ask, random_text};
use crate::config::Provider;
use crate::error::Error;
use crate::import::Imported;
use crate::keep::TokenKeep;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokenkeep_core::classify::{Observation, Outcome, SetbackKind, classify, without_secrets};
use tokenkeep_core::model::Renewal;
use tokenkeep_core::oauth::authorize::{self, AuthorizationRequest, Callback, CallbackFault, ExpectedIssuer};
use tokenkeep_core::oauth::device::{self, DeviceAuthorization, Poll};
use tokenkeep_core::oauth::request::{
    Extras, Grant, ProviderRequest, authorization, device_request, introspection_request, token_request,
};
use tokenkeep_core::oauth::{RawAnswer, TokenAnswer};
use tokenkeep_core::{Connection, ConnectionKey, Secret, Timestamp};
use url::Url;

/// What a sign-in is to connect. An existing connection of this name keeps its history, and refuses another account.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The connection's name.
    pub key: ConnectionKey,
    /// The provider's name in the configuration.
    pub provider: String,
    /// The scopes; none asks for the usual ones.
    pub scopes: Vec<String>,
    /// Further parameters of the authorization request.
    pub params: Vec<(String, String)>,
    /// Labels; `None` keeps those of an existing connection.
    pub labels: Option<BTreeMap<String, String>>,
    /// Who is expected to sign in.
    pub login_hint: Option<String>,
    /// Where the browser goes when all is done.
    pub return_url: Option<String>,
}

impl Connect {
    /// With the provider's usual scopes, and nothing else said.
    #[must_use]
    pub fn new(key: ConnectionKey, provider: impl Into<String>) -> Self {
        Self {
            key,
            provider: provider.into(),
            scopes: Vec::new(),
            params: Vec::new(),
            labels: None,
            login_hint: None,
            return_url: None,
        }
    }
}

/// A sign-in that waits for a person in a browser.
#[derive(Debug)]
pub struct Begun {
    /// By which it is asked about.
    pub id: String,
    /// Where the person goes.
    pub url: Url,
    /// Whoever brings the redirect must show this: it never leaves the program or the browser that began.
    pub proof: Secret,
    /// When it ends by itself (steady time).
    pub expires_at: Timestamp,
}

/// A sign-in that waits for a person at another device.
#[derive(Debug)]
pub struct BegunDevice {
    /// By which it is asked about.
    pub id: String,
    /// What the person types in.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// When it ends by itself (steady time).
    pub expires_at: Timestamp,
}

/// How a sign-in stands.
#[derive(Debug)]
pub enum Standing {
    /// It waits for the person.
    Waiting,
    /// It is done.
    Connected(Box<Connection>),
    /// It has failed.
    Failed(SignInError),
}

/// A token set that a flow brought.
pub(crate) struct Brought {
    pub answer: TokenAnswer,
    /// t0, in steady time.
    pub sent_at: Timestamp,
    pub account: Option<String>,
    pub redirect_uri: Option<String>,
    /// What was asked for: it is what was granted where the answer does not say.
    pub scopes: Vec<String>,
}

impl TokenKeep {
    /// Begins a sign-in in a browser (authorization code with PKCE). `redirect_uri` is where the provider sends the
    /// browser back to; what comes there goes to [`TokenKeep::finish_sign_in`].
    ///
    /// ```no_run
    /// use tokenkeep::connect::Connect;
    ///
    /// # async fn example(keep: tokenkeep::TokenKeep) -> Result<(), Box<dyn std::error::Error>> {
    /// let key = tokenkeep::core::ConnectionKey::in_default("jira")?;
    /// let begun = keep.connect(Connect::new(key, "jira"), &"http://127.0.0.1:8123/callback".parse()?)?;
    /// println!("open {}", begun.url);
    /// let query = "code=...&state=..."; // of the request that the browser then makes to the redirect URI
    /// keep.finish_sign_in(query, &begun.proof).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The provider is unknown, or knows no such flow; a parameter may not be given; too many are under way.
    pub fn connect(&self, connect: Connect, redirect_uri: &Url) -> Result<Begun, Error> {
        let provider = self.provider_of(&connect.provider)?;
        let settings = &provider.sign_in;
        let authorize_url = settings.authorize_url.as_ref().ok_or_else(|| lacks(&provider, "authorize_url"))?;
        check_params(&connect.params)?;
        let (state, proof, pkce) = (random_text(), Secret::new(random_text()), Pkce::new());
        let scopes = settings.scopes_for(&self.wanted_scopes(&connect));
        let nonce = scopes.iter().any(|scope| scope == "openid").then(random_text);
        let url = authorization_url(
            &provider,
            authorize_url,
            &connect,
            &Asked { redirect_uri, scopes: &scopes, state: &state, pkce: &pkce, nonce: nonce.as_deref() },
        );
        let redirect = Redirect {
            proof: proof.duplicate(),
            provider: connect.provider,
            redirect_uri: redirect_uri.to_string(),
            verifier: pkce.verifier,
            nonce,
            scopes,
            labels: connect.labels,
            return_url: connect.return_url,
        };
        let now = self.now();
        self.sign_ins().begin(now, &state, connect.key, Step::Redirect(Box::new(redirect)), SIGN_IN_LIFE)?;
        Ok(Begun { id: state, url, proof, expires_at: now + SIGN_IN_LIFE })
    }

    /// Takes up the redirect of a sign-in: exchanges the code once, finds out whose account it is, and connects.
    /// `query` is what the browser brought; `proof` is what [`TokenKeep::connect`] gave.
    ///
    /// # Errors
    /// [`Error::SignIn`] says what was wrong; the grant in hand, if there is one, is as it was.
    pub async fn finish_sign_in(&self, query: &str, proof: &Secret) -> Result<Finished, Error> {
        let state = authorize::state_of(query).ok_or(SignInError::Unknown)?;
        let id = state.expose();
        let (key, redirect) = self.sign_ins().take(self.now(), id, proof)?;
        let return_url = redirect.return_url.clone();
        let outcome = self.redirected(&key, redirect, query).await;
        self.note_outcome(id, &outcome);
        outcome.map(|imported| Finished { imported, return_url })
    }

    async fn redirected(&self, key: &ConnectionKey, redirect: Redirect, query: &str) -> Result<Imported, Error> {
        let provider = self.provider_of(&redirect.provider)?;
        let code = match authorize::read_callback(query, expected_issuer(&provider.sign_in)) {
            Ok(Callback::Code(code)) if self.sign_ins().is_first_use(self.now(), &code) => code,
            // Brought a second time, a provider would take it for stolen and end the grant that it gave.
            Ok(Callback::Code(_)) => return Err(SignInError::Unknown.into()),
            Ok(Callback::Refused { error, .. }) if error == "access_denied" => return Err(SignInError::Denied.into()),
            Ok(Callback::Refused { error, description }) => {
                return Err(SignInError::Refused(format!("{error} {description}").trim().to_owned()).into());
            }
            Err(CallbackFault::OtherIssuer) => return Err(SignInError::OtherIssuer.into()),
            Err(CallbackFault::Malformed | CallbackFault::Empty) => return Err(SignInError::Malformed.into()),
        };
        let grant = Grant::AuthorizationCode {
            code: &code,
            redirect_uri: &redirect.redirect_uri,
            verifier: &redirect.verifier,
        };
        let sent_at = self.now();
        let answer = self.exchange(&provider, grant).await?;
        let account = self.account(&provider, &answer, redirect.nonce.as_deref()).await?;
        let brought =
            Brought { answer, sent_at, account, redirect_uri: Some(redirect.redirect_uri), scopes: redirect.scopes };
        self.take_over(key.clone(), &provider, redirect.labels, brought, Renewal::RefreshToken).await
    }

    /// Begins a sign-in at another device (RFC 8628), and asks the provider until it has ended.
    ///
    /// # Errors
    /// As [`TokenKeep::connect`]; the provider refuses or cannot be reached.
    pub async fn connect_at_device(&self, connect: Connect) -> Result<BegunDevice, Error> {
        let provider = self.provider_of(&connect.provider)?;
        let url = provider.sign_in.device_url.as_ref().ok_or_else(|| lacks(&provider, "device_url"))?;
        let scopes = provider.sign_in.scopes_for(&self.wanted_scopes(&connect));
        let scope = scopes.join(&provider.sign_in.scope_separator.to_string());
        let assertion = self.client_assertion(&provider, url);
        let extras = Extras { client_assertion: assertion.as_ref(), params: &[] };
        let request = device_request(&provider.rules, &provider.client, &scope, extras);
        let authorization = authorization(&provider.rules, &provider.client);
        let answer = self.ask_once(url, request).await?;
        let secrets = secrets_of(&provider, authorization.as_ref(), None);
        let device = device::read_authorization(&answer, &secrets).map_err(SignInError::Refused)?;
        let (id, now) = (random_text(), self.now());
        let expires_at = now + device.expires_in;
        self.sign_ins().begin(now, &id, connect.key.clone(), Step::Busy, device.expires_in + SIGN_IN_LIFE)?;
        let begun = BegunDevice {
            id: id.clone(),
            user_code: device.user_code.clone(),
            verification_uri: device.verification_uri.clone(),
            verification_uri_complete: device.verification_uri_complete.clone(),
            expires_at,
        };
        let keep = self.downgrade();
        tokio::spawn(async move {
            let outcome = wait_for_device(&keep, &provider, connect, device, scopes, expires_at).await;
            if let Some(keep) = keep.upgrade() {
                keep.note_outcome(&id, &outcome);
            }
        });
        Ok(begun)
    }

    /// Connects as the client itself (RFC 6749 section 4.4): there is no person, and no refresh token.
    ///
    /// # Errors
    /// The provider is unknown, refuses, or cannot be reached: then nothing was connected.
    pub async fn connect_as_client(&self, connect: Connect) -> Result<Imported, Error> {
        let provider = self.provider_of(&connect.provider)?;
        let scopes = self.client_scopes(&provider, &connect);
        let sent_at = self.now();
        let answer = self.exchange(&provider, Grant::ClientCredentials { scopes: &scopes }).await?;
        let brought = Brought { answer, sent_at, account: None, redirect_uri: None, scopes };
        self.take_over(connect.key, &provider, connect.labels, brought, Renewal::ClientCredentials).await
    }

    /// Connects as the client acting for `account`, by assertions that it signs (RFC 7523 section 2.1).
    ///
    /// # Errors
    /// As [`TokenKeep::connect_as_client`]; the provider's section has no signing key.
    pub async fn connect_for(&self, connect: Connect, account: &str) -> Result<Imported, Error> {
        let provider = self.provider_of(&connect.provider)?;
        let scopes = self.client_scopes(&provider, &connect);
        let assertion = provider.assertion_for(account, self.wall(self.now()));
        let assertion = assertion.ok_or_else(|| lacks(&provider, "client_key"))?;
        let sent_at = self.now();
        let answer = self.exchange(&provider, Grant::JwtBearer { assertion: &assertion, scopes: &scopes }).await?;
        let brought = Brought { answer, sent_at, account: Some(account.to_owned()), redirect_uri: None, scopes };
        self.take_over(connect.key, &provider, connect.labels, brought, Renewal::JwtBearer).await
    }

    /// Asks the provider whether the access token in hand is good (RFC 7662 section 2.2); `None`: there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::SignIn`]: the provider has no such endpoint, refuses, or cannot be reached.
    pub async fn introspect(&self, key: &ConnectionKey) -> Result<Option<bool>, Error> {
        let provider = self.provider_of(&self.get(key).await?.provider)?;
        let url = provider.sign_in.introspect_url.as_ref().ok_or_else(|| lacks(&provider, "introspect_url"))?;
        let Some(tokens) = self.token_set(key).await? else { return Ok(None) };
        let assertion = self.client_assertion(&provider, url);
        let extras = Extras { client_assertion: assertion.as_ref(), params: &[] };
        let request = introspection_request(&provider.rules, &provider.client, &tokens.access_token, extras);
        let answer = self.ask_once(url, request).await?;
        let said: Option<Value> = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200);
        match said.and_then(|said| said.get("active")?.as_bool()) {
            Some(active) => Ok(Some(active)),
            None => Err(SignInError::Refused(format!("HTTP {} without a word about the token", answer.status)).into()),
        }
    }

    /// How the sign-in of this id stands; `None`: there is none, or it ended more than ten minutes ago.
    #[must_use]
    pub fn sign_in(&self, id: &str) -> Option<(ConnectionKey, Standing)> {
        let now = self.now();
        let sign_ins = self.sign_ins();
        let entry = sign_ins.get(now, id)?;
        let standing = match &entry.step {
            Step::Redirect(_) | Step::Busy => Standing::Waiting,
            Step::Ended(Ok(connection)) => Standing::Connected(connection.clone()),
            Step::Ended(Err(error)) => Standing::Failed(error.clone()),
        };
        Some((entry.key.clone(), standing))
    }

    fn note_outcome(&self, id: &str, outcome: &Result<Imported, Error>) {
        let outcome = match outcome {
            Ok(imported) => Ok(Box::new(imported.connection().clone())),
            Err(Error::SignIn(error)) => Err(error.clone()),
            Err(other) => Err(SignInError::NotKept(other.to_string())),
        };
        self.sign_ins().end(self.now(), id, outcome);
    }

    /// The scopes that somebody names, else those that the connection is declared with.
    fn wanted_scopes(&self, connect: &Connect) -> Vec<String> {
        if !connect.scopes.is_empty() {
            return connect.scopes.clone();
        }
        self.declared_scopes(&connect.key)
    }

    /// The scopes that the client itself asks for: those, else the provider's usual ones.
    fn client_scopes(&self, provider: &Provider, connect: &Connect) -> Vec<String> {
        let wanted = self.wanted_scopes(connect);
        if wanted.is_empty() { provider.sign_in.scopes.clone() } else { wanted }
    }

    /// To which addresses a provider sends browsers back.
    ///
    /// # Errors
    /// The provider is unknown.
    pub fn redirects(&self, provider: &str) -> Result<Redirects, Error> {
        Ok(self.provider_of(provider)?.sign_in.redirects)
    }

    /// One request, never sent again.
    pub(super) async fn ask_once(&self, url: &Url, request: ProviderRequest) -> Result<RawAnswer, SignInError> {
        ask(self.endpoint(), url, request).await.map_err(SignInError::Failed)
    }

    /// Exchanges a grant at the token endpoint, once.
    async fn exchange(&self, provider: &Provider, grant: Grant<'_>) -> Result<TokenAnswer, SignInError> {
        let request = self.grant_request(provider, grant);
        let authorization = authorization(&provider.rules, &provider.client);
        let answer = self.ask_once(&provider.token_url, request).await?;
        let secrets = secrets_of(provider, authorization.as_ref(), Some(grant));
        let observation = Observation::Answer(answer);
        match classify(&provider.rules, &observation) {
            Outcome::Refreshed(answer) => Ok(*answer),
            Outcome::Failed(setback) => {
                let setback = without_secrets(setback, &observation, &secrets);
                Err(match setback.kind {
                    // What was refused is the code: nobody's refresh token.
                    SetbackKind::Rejected => SignInError::Refused(setback.failure.detail),
                    _ => SignInError::Failed(setback.failure),
                })
            }
        }
    }

    /// What is sent to the token endpoint for this grant, with what its token is to be for (RFC 8707 section 2.2).
    fn grant_request(&self, provider: &Provider, grant: Grant<'_>) -> ProviderRequest {
        let assertion = self.client_assertion(provider, &provider.token_url);
        let resources = provider.sign_in.resource_params();
        let extras = Extras { client_assertion: assertion.as_ref(), params: &resources };
        token_request(&provider.rules, &provider.client, grant, extras)
    }

    /// The client's assertion for one request to `url`, where it authenticates by a key.
    pub(crate) fn client_assertion(&self, provider: &Provider, url: &Url) -> Option<Secret> {
        provider.client_assertion(url, self.wall(self.now()))
    }

    /// Whose account a fresh token set is for: by its id token, else by what the provider's own endpoint says.
    async fn account(
        &self,
        provider: &Provider,
        answer: &TokenAnswer,
        nonce: Option<&str>,
    ) -> Result<Option<String>, SignInError> {
        let settings = &provider.sign_in;
        if let Some(token) = identity::id_token(&answer.extra) {
            let expected = Expected {
                issuer: settings.issuer.as_deref(),
                client_id: &provider.client.id,
                nonce,
                now: self.wall(self.now()),
            };
            return Ok(Some(identity::subject_of(token.expose(), expected)?));
        }
        let Some(asked) = &settings.identity else { return Ok(None) };
        let answer = ask(self.endpoint(), &asked.url, ProviderRequest::get(Some(&answer.access_token))).await;
        // A scope for it may be missing: the sign-in is good all the same, only unnamed.
        Ok(answer.ok().and_then(|answer| identity::account_of(&answer, &asked.fields)))
    }
}

/// What came of a redirect.
#[derive(Debug)]
pub struct Finished {
    /// What became of the connection.
    pub imported: Imported,
    /// Where the browser goes now.
    pub return_url: Option<String>,
}

pub(super) fn lacks(provider: &Provider, key: &'static str) -> Error {
    SignInError::NotOffered { provider: provider.name.clone(), lacks: key }.into()
}

fn check_params(params: &[(String, String)]) -> Result<(), Error> {
    let unfit = params.iter().find(|(name, _)| !authorize::may_be_given(name));
    unfit.map_or(Ok(()), |(name, _)| {
        Err(Error::Invalid {
            field: format!("params.{}", tokenkeep_core::model::printable(name, 60)),
            found: "it is a parameter that Tokenkeep sets itself".to_owned(),
            expected: "other parameters of the authorization request, such as prompt or audience".to_owned(),
        })
    })
}

fn expected_issuer(settings: &SignIn) -> ExpectedIssuer<'_> {
    match &settings.issuer {
        None => ExpectedIssuer::Unknown,
        Some(issuer) if settings.sends_issuer => ExpectedIssuer::Always(issuer),
        Some(issuer) => ExpectedIssuer::IfSent(issuer),
    }
}

/// Every secret that the provider has seen with a request of this header, for this grant.
fn secrets_of<'a>(
    provider: &'a Provider,
    authorization: Option<&'a Secret>,
    grant: Option<Grant<'a>>,
) -> Vec<&'a Secret> {
    let mut secrets: Vec<&Secret> = provider.client.secret.iter().chain(authorization).collect();
    match grant {
        Some(Grant::AuthorizationCode { code, verifier, .. }) => secrets.extend([code, verifier]),
        Some(Grant::DeviceCode { device_code }) => secrets.push(device_code),
        Some(Grant::JwtBearer { assertion, .. }) => secrets.push(assertion),
        Some(Grant::RefreshToken { token, .. }) => secrets.push(token),
        Some(Grant::ClientCredentials { .. }) | None => {}
    }
    secrets
}

struct Asked<'a> {
    redirect_uri: &'a Url,
    scopes: &'a [String],
    state: &'a str,
    pkce: &'a Pkce,
    nonce: Option<&'a str>,
}

fn authorization_url(provider: &Provider, at: &Url, connect: &Connect, asked: &Asked<'_>) -> Url {
    let settings = &provider.sign_in;
    let resources = settings.resource_params();
    let params: Vec<(&str, &str)> = pairs(&settings.params).chain(resources).chain(pairs(&connect.params)).collect();
    let query = authorize::query(&AuthorizationRequest {
        client_id: &provider.client.id,
        redirect_uri: asked.redirect_uri.as_str(),
        scopes: asked.scopes,
        scope_separator: settings.scope_separator,
        state: &Secret::new(asked.state),
        code_challenge: &asked.pkce.challenge,
        nonce: asked.nonce,
        login_hint: connect.login_hint.as_deref(),
        params: &params,
    });
    let mut url = at.clone();
    let own = at.query().filter(|own| !own.is_empty());
    url.set_query(Some(&own.map_or_else(|| query.clone(), |own| format!("{own}&{query}"))));
    url
}

fn pairs(params: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    params.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Asks until the person has signed in, said no, or let the codes end.
async fn wait_for_device(
    keep: &crate::keep::WeakKeep,
    provider: &Provider,
    connect: Connect,
    device: DeviceAuthorization,
    scopes: Vec<String>,
    expires_at: Timestamp,
) -> Result<Imported, Error> {
    let mut interval = device.interval;
    loop {
        tokio::time::sleep(interval).await;
        let keep = keep.upgrade().ok_or(Error::ShuttingDown)?;
        if keep.now() >= expires_at {
            return Err(SignInError::Expired.into());
        }
        match keep.poll(provider, &device.device_code, interval).await {
            (Poll::Signed(answer), sent_at) => {
                let account = keep.account(provider, &answer, None).await?;
                let brought = Brought { answer: *answer, sent_at, account, redirect_uri: None, scopes };
                return keep.take_over(connect.key, provider, connect.labels, brought, Renewal::RefreshToken).await;
            }
            (Poll::Again(pause), _) => interval = pause,
            (Poll::Denied, _) => return Err(SignInError::Denied.into()),
            (Poll::Expired, _) => return Err(SignInError::Expired.into()),
            (Poll::Failed(why), _) => return Err(SignInError::Refused(why).into()),
        }
    }
}

impl TokenKeep {
    async fn poll(&self, provider: &Provider, device_code: &Secret, interval: Duration) -> (Poll, Timestamp) {
        let grant = Grant::DeviceCode { device_code };
        let request = self.grant_request(provider, grant);
        let authorization = authorization(&provider.rules, &provider.client);
        let sent_at = self.now();
        match ask(self.endpoint(), &provider.token_url, request).await {
            Ok(answer) => {
                let secrets = secrets_of(provider, authorization.as_ref(), Some(grant));
                (device::read_poll(&answer, interval, &secrets), sent_at)
            }
            Err(_) => (Poll::Again(device::slower(interval)), sent_at),
        }
    }
}
