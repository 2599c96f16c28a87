//! The authorization server as pure state: no clock, no socket, no task.
//!
//! Every method that depends on the time is told the time. The same configuration and the same calls give the same
//! answers, so a simulator can use a [`Provider`] in process, and its ledger as the oracle.

mod config;
mod device;
mod grant;
mod ledger;
mod revocation;
mod signin;
mod style;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

pub use config::{ClientAuth, ClientConfig, DEFAULT_SCOPE, GraceReuse, Offline, ProviderConfig};
pub use grant::Standing;
pub use ledger::{Death, DeathCause, GrantId, GrantLedger, ReuseEvent, ReusedToken, Totals, fingerprint};
pub use revocation::RevocationStyle;
pub use signin::{Ask, Decision, UnfitAsk};
pub use style::{AnswerStyle, DeviceStyle, RefusalStyle};

use crate::answer::{Answer, Refusal, Unfit};
use crate::demands::RedirectOnRefresh;
use crate::request::{Accepts, Credentials, OAuthRequest};
use crate::rotation::Rotation;
use crate::token::{Kind, Mint, Stamp};
use device::Device;
use grant::{GrantState, Refreshable, Rules};
use signin::Code;
use style::TokenBody;

/// The `grant_type` of the device flow (RFC 8628, 3.4).
pub(crate) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Marks the owner of a token as a client instead of a grant.
const CLIENT_OWNER: u64 = 1 << 63;

const UNKNOWN_TOKEN: Refusal = Refusal::InvalidGrant(Unfit::Unknown);

/// What a new grant is like; what it does not say comes from the [`ProviderConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantOptions {
    /// Its name. A name that is taken gets a number (`c`, `c-2`, `c-3`); the [`Grant`] tells.
    pub label: String,
    /// The account of its resource owner; its name where it does not say.
    pub owner: Option<Arc<str>>,
    /// The id of its client; the first client where it does not say.
    pub client: Option<String>,
    /// Its rotation class.
    pub rotation: Option<Rotation>,
    /// How long its access tokens live.
    pub access_ttl_ms: Option<i64>,
    /// Its scope; the configuration's where it does not say.
    pub scope: Option<Arc<str>>,
    /// Whether answers carry `expires_in`.
    pub expires_in: Option<bool>,
    /// How long ago it was made: its first access token has lived that long already.
    pub age_ms: i64,
}

/// A new grant and its first tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// Its name, which no other grant of this provider has.
    pub label: String,
    /// Its first tokens.
    pub token: TokenSet,
}

/// The first tokens of a grant, in the form in which client libraries store them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenSet {
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// The whole life of the access token in seconds, if the provider says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    /// When the access token ends, in seconds since 1970, if the provider says its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The granted scope.
    pub scope: String,
}

/// What is known about a token (RFC 7662, 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Introspection {
    /// Whether the token is good now.
    pub active: bool,
    /// The scope of its grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The client that it was issued to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The name of its grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The account of its resource owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// When it ends, in seconds since 1970; refresh tokens do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
}

/// A request at the token endpoint that was not answered yet: made by [`Provider::arrive`], ended by
/// [`Provider::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that never leaves overlaps with every later one"]
pub struct InFlight {
    token: Option<(GrantId, u64)>,
    nth: u64,
}

impl InFlight {
    /// The grant whose refresh token the request carries, if it is one of ours.
    pub fn grant(&self) -> Option<GrantId> {
        self.token.map(|(grant, _)| grant)
    }

    /// How many requests came before it: with a refresh token of its grant, else at all.
    pub fn nth(&self) -> u64 {
        self.nth
    }
}

/// The authorization server.
///
/// ```
/// use tokenkeep_mock::{Credentials, GrantOptions, Provider, ProviderConfig};
///
/// let mut provider = Provider::new(ProviderConfig::default());
/// let grant = provider.grant(0, GrantOptions::default());
/// let client = Credentials::post("mock-client", "mock-secret");
///
/// let first = provider.refresh(1_000, &client, &grant.token.refresh_token, None);
/// assert_eq!(first.status, 200);
/// let again = provider.refresh(2_000, &client, &grant.token.refresh_token, None);
/// assert_eq!(again.status, 400);
/// assert_eq!(provider.totals().dead_families, 1);
/// ```
#[derive(Debug, Clone)]
pub struct Provider {
    config: ProviderConfig,
    mint: Mint,
    grants: Vec<GrantState>,
    /// Never iterated: its order would differ from run to run.
    by_label: HashMap<Arc<str>, GrantId>,
    /// How many grants asked for a label that was taken. Never iterated.
    label_clashes: HashMap<Arc<str>, u64>,
    /// Access tokens that were revoked one by one, by owner and serial number. Never iterated.
    revoked: HashSet<(u64, u64)>,
    /// The newest codes, by number.
    codes: BTreeMap<u64, Code>,
    codes_made: u64,
    /// The newest sign-ins of devices, by number.
    devices: BTreeMap<u64, Device>,
    devices_made: u64,
    totals: Totals,
}

impl Provider {
    /// A provider without grants.
    pub fn new(config: ProviderConfig) -> Self {
        Self {
            mint: Mint::new(config.seed),
            config,
            grants: Vec::new(),
            by_label: HashMap::new(),
            label_clashes: HashMap::new(),
            revoked: HashSet::new(),
            codes: BTreeMap::new(),
            codes_made: 0,
            devices: BTreeMap::new(),
            devices_made: 0,
            totals: Totals::default(),
        }
    }

    /// What it is like.
    pub fn config(&self) -> &ProviderConfig {
        &self.config
    }

    /// Forgets every grant and count. The same calls give the same tokens again.
    pub fn reset(&mut self) {
        *self = Self::new(self.config.clone());
    }

    // --- Grants ---

    /// Makes a grant, as if its resource owner had just consented, or `age_ms` ago. A client that is not registered
    /// counts as the first one: ask [`has_client`](Self::has_client) before.
    pub fn grant(&mut self, now_ms: i64, options: GrantOptions) -> Grant {
        let id = GrantId(self.grants.len());
        let client = options.client.and_then(|client| self.client_index(&client));
        let label = self.free_label(&options.label);
        let scope = options.scope.unwrap_or_else(|| Arc::clone(&self.config.scope));
        let rotation = options.rotation.unwrap_or(self.config.rotation);
        let mut grant = GrantState::new(Arc::clone(&label), client.unwrap_or(0), scope, rotation);
        grant.access_ttl_ms = options.access_ttl_ms.unwrap_or(self.config.access_ttl_ms).max(0);
        grant.says_expires_in = options.expires_in.unwrap_or(self.config.expires_in);
        if let Some(owner) = options.owner {
            grant.owner = owner;
        }
        grant.made_at_ms = now_ms.saturating_sub(options.age_ms);
        grant.used_at_ms = grant.made_at_ms;
        let token = self.first_tokens(id, &mut grant);
        self.grants.push(grant);
        self.by_label.insert(Arc::clone(&label), id);
        self.totals.grants += 1;
        Grant { id, label: label.as_ref().to_owned(), token }
    }

    fn first_tokens(&self, id: GrantId, grant: &mut GrantState) -> TokenSet {
        let access_token = issue_access(&self.mint, id, grant, grant.made_at_ms);
        let expires_at = grant.access.newest_expires_at_ms.div_euclid(1_000);
        TokenSet {
            access_token,
            refresh_token: refresh_token(&self.mint, id, grant.lineage.current()),
            token_type: "Bearer",
            expires_in: expires_in(grant),
            expires_at: grant.says_expires_in.then_some(expires_at),
            scope: grant.scope.as_ref().to_owned(),
        }
    }

    fn free_label(&mut self, wanted: &str) -> Arc<str> {
        let wanted: Arc<str> = wanted.into();
        if !self.by_label.contains_key(&wanted) {
            return wanted;
        }
        let clashes = self.label_clashes.entry(Arc::clone(&wanted)).or_insert(1);
        loop {
            *clashes += 1;
            let label: Arc<str> = format!("{wanted}-{clashes}").into();
            if !self.by_label.contains_key(&label) {
                return label;
            }
        }
    }

    /// Ends a grant, as an administrator or its resource owner would. Says whether it was alive.
    pub fn kill(&mut self, now_ms: i64, grant: GrantId) -> bool {
        match self.grants.get_mut(grant.0) {
            Some(grant) => end(grant, &mut self.totals, DeathCause::Killed, now_ms),
            None => false,
        }
    }

    // --- The token endpoint ---

    /// Marks that a request reached the token endpoint, so that overlapping ones with the same refresh token are seen.
    /// Until [`leave`](Self::leave) it is in flight.
    pub fn arrive(&mut self, refresh_token: Option<&str>) -> InFlight {
        let token = refresh_token.and_then(|token| self.find_refresh_token(token));
        let mut nth = self.totals.requests;
        self.totals.requests += 1;
        if let Some((id, serial)) = token
            && let Some(grant) = self.grants.get_mut(id.0)
        {
            nth = grant.history.requests;
            self.totals.overlaps += u64::from(grant.arrive(serial));
        }
        InFlight { token, nth }
    }

    /// Marks that a request was answered, or that its answer was lost.
    pub fn leave(&mut self, request: InFlight) {
        if let Some((id, serial)) = request.token
            && let Some(grant) = self.grants.get_mut(id.0)
        {
            grant.leave(serial);
        }
    }

    /// Answers a request at the token endpoint.
    pub fn token(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        let answer = self.token_as_json(now_ms, request);
        self.as_accepted(answer, request.accepts)
    }

    fn as_accepted(&self, answer: Answer, accepts: Accepts) -> Answer {
        match (self.config.answers, accepts) {
            (AnswerStyle::GitHub, Accepts::Anything) => answer.form_encoded(),
            _ => answer,
        }
    }

    fn token_as_json(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        let scope = request.scope.as_deref();
        match request.grant_type.as_deref() {
            Some("refresh_token") => match request.refresh_token.as_deref() {
                Some(token) if !self.repeats_redirect(token, request.redirect_uri.as_deref()) => {
                    Answer::error(StatusCode::BAD_REQUEST, "invalid_grant", "")
                }
                Some(token) => self.refresh(now_ms, &request.credentials, token, scope),
                None => self.refused(Refusal::InvalidRequest("refresh_token is missing.")),
            },
            Some("client_credentials") => self.client_credentials(now_ms, &request.credentials, scope),
            Some("authorization_code") => self.exchange_code(now_ms, request),
            Some(DEVICE_GRANT) => self.exchange_device_code(now_ms, request),
            Some(_) => self.refused(Refusal::UnsupportedGrantType),
            None => self.refused(Refusal::InvalidRequest("grant_type is missing.")),
        }
    }

    /// Whether a refresh says where its sign-in was sent back to, if it must.
    fn repeats_redirect(&self, refresh_token: &str, said: Option<&str>) -> bool {
        let known = self.find_refresh_token(refresh_token).and_then(|(id, _)| self.grants.get(id.0));
        let needed = known.and_then(|grant| grant.redirect_uri.as_deref());
        self.config.demands.redirect_on_refresh == RedirectOnRefresh::Ignored
            || needed.is_none_or(|uri| said == Some(uri))
    }

    /// Answers a refresh. A wrong client or scope leaves the refresh token as it was; a reused token ends its grant.
    pub fn refresh(
        &mut self,
        now_ms: i64,
        credentials: &Credentials<'_>,
        refresh_token: &str,
        scope: Option<&str>,
    ) -> Answer {
        match self.try_refresh(now_ms, credentials, refresh_token, scope) {
            Ok(answer) => answer,
            Err(refusal) => self.refused(refusal),
        }
    }

    fn try_refresh(
        &mut self,
        now_ms: i64,
        credentials: &Credentials<'_>,
        token: &str,
        scope: Option<&str>,
    ) -> Result<Answer, Refusal> {
        let client = self.authenticate(credentials)?;
        let (id, serial) = self.find_refresh_token(token).ok_or(UNKNOWN_TOKEN)?;
        let rules = self.rules(id);
        let grant = self.grants.get_mut(id.0).ok_or(UNKNOWN_TOKEN)?;
        if grant.client != client {
            return Err(Refusal::InvalidGrant(Unfit::OtherClient));
        }
        if let Some(cause) = grant.outlived(&self.config, now_ms) {
            end(grant, &mut self.totals, cause, now_ms);
            return Err(Refusal::InvalidGrant(Unfit::Outlived));
        }
        let standing = grant.lineage.standing(serial, rules, now_ms);
        match standing {
            Standing::Spent => {
                return Err(reuse(grant, &mut self.totals, now_ms, token, ReusedToken::Spent));
            }
            Standing::Superseded => {
                return Err(reuse(grant, &mut self.totals, now_ms, token, ReusedToken::Superseded));
            }
            _ if grant.killed.is_some() => return Err(Refusal::InvalidGrant(Unfit::Ended)),
            _ => {}
        }
        let scope = narrowed(scope, &grant.scope)?;
        let resent = standing == Standing::Resendable;
        rotate(grant, now_ms, resent, self.config.rotation_ends_access_after_s);
        self.totals.refreshes += 1;
        self.totals.grace_reuses += u64::from(resent);
        issue_access(&self.mint, id, grant, now_ms);
        let carries = grant.rotation.rotates();
        Ok(self.token_answer(id, scope, carries))
    }

    /// The newest tokens of a grant as an answer; `carries` says whether the refresh token is among them.
    fn token_answer(&self, id: GrantId, scope: Option<&str>, carries: bool) -> Answer {
        let Some(grant) = self.grants.get(id.0) else {
            // Proof: both callers have just had it in hand.
            return self.config.refusals.answer(UNKNOWN_TOKEN);
        };
        let carries = carries && grant.refreshable == Refreshable::Yes;
        let body = TokenBody {
            access_token: newest_access(&self.mint, id, grant),
            token_type: Some("Bearer"),
            expires_in: expires_in(grant),
            refresh_token: carries.then(|| refresh_token(&self.mint, id, grant.lineage.current())),
            refresh_token_expires_in: self.config.refresh_idle_s.filter(|_| carries),
            scope: scope.unwrap_or(&grant.scope).to_owned(),
        };
        self.config.answers.answer(body, &grant.owner)
    }

    fn rules(&self, id: GrantId) -> Rules {
        let grant = self.grants.get(id.0);
        Rules {
            rotation: grant.map_or(self.config.rotation, |grant| grant.rotation),
            grace_reuse: self.config.grace_reuse,
        }
    }

    /// Issues an access token to a client for itself (RFC 6749, 4.4). It lives as long as the configuration says.
    pub fn client_credentials(&mut self, now_ms: i64, credentials: &Credentials<'_>, scope: Option<&str>) -> Answer {
        let client = match self.authenticate(credentials) {
            Ok(client) => client,
            Err(refusal) => return self.refused(refusal),
        };
        let ttl_ms = self.config.access_ttl_ms.max(0);
        let stamp = Stamp {
            owner: CLIENT_OWNER | client as u64,
            serial: self.totals.client_tokens,
            expires_at_ms: now_ms.saturating_add(ttl_ms),
        };
        self.totals.client_tokens += 1;
        let body = TokenBody {
            access_token: self.mint.issue(Kind::Access, stamp),
            token_type: Some("Bearer"),
            expires_in: self.config.expires_in.then_some(ttl_ms / 1_000),
            refresh_token: None,
            refresh_token_expires_in: None,
            scope: scope.unwrap_or(&self.config.scope).to_owned(),
        };
        let owner = self.config.clients.get(client).map_or("", |client| &client.id);
        self.config.answers.answer(body, owner)
    }

    fn refused(&mut self, refusal: Refusal) -> Answer {
        match refusal {
            Refusal::InvalidClient(_) => self.totals.client_refusals += 1,
            Refusal::InvalidGrant(_) => self.totals.grant_refusals += 1,
            _ => {}
        }
        self.config.refusals.answer(refusal)
    }

    // --- Clients ---

    /// Whether a client with this id is registered.
    pub fn has_client(&self, id: &str) -> bool {
        self.client_index(id).is_some()
    }

    fn client_index(&self, id: &str) -> Option<usize> {
        self.config.clients.iter().position(|client| client.id == id)
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<usize, Refusal> {
        let id = match credentials {
            Credentials::Missing => return Err(Refusal::InvalidClient("The client is missing.")),
            Credentials::Basic { id, .. } | Credentials::Post { id, .. } => id,
        };
        let index = self.client_index(id).ok_or(Refusal::InvalidClient("The client is unknown."))?;
        match self.config.clients.get(index) {
            Some(client) if client.accepts(credentials) => Ok(index),
            _ => Err(Refusal::InvalidClient("The client authentication failed.")),
        }
    }

    // --- Access tokens, introspection, revocation ---

    /// What is known about an access or refresh token. Asking does not count as using it.
    pub fn introspect(&self, now_ms: i64, token: &str) -> Introspection {
        if let Some(stamp) = self.live_access(now_ms, token) {
            return self.describe(stamp.owner, Some(stamp.expires_at_ms.div_euclid(1_000)));
        }
        match self.find_refresh_token(token) {
            Some((id, _)) if self.is_usable(now_ms, token) => self.describe(id.0 as u64, None),
            _ => Introspection::default(),
        }
    }

    /// Answers a request at the introspection endpoint (RFC 7662): only a registered client is told.
    pub fn introspection(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        match (self.authenticate(&request.credentials), &request.token) {
            (Ok(_), Some(token)) => Answer::json(StatusCode::OK, &self.introspect(now_ms, token)),
            (Ok(_), None) => self.refused(Refusal::InvalidRequest("token is missing.")),
            (Err(refusal), _) => self.refused(refusal),
        }
    }

    /// Uses an access token at a resource. What is known about it, if it is good now.
    ///
    /// The use of a grant's newest access token proves that its client has the newest answer: from then on a provider
    /// of the class [`Rotation::UntilUsed`] refuses the older refresh token.
    pub fn use_access_token(&mut self, now_ms: i64, token: &str) -> Option<Introspection> {
        let stamp = self.live_access(now_ms, token)?;
        if let Some(grant) = grant_of(stamp.owner).and_then(|id| self.grants.get_mut(id.0)) {
            grant.access_used(stamp.serial);
        }
        Some(self.describe(stamp.owner, Some(stamp.expires_at_ms.div_euclid(1_000))))
    }

    /// Answers a request at the revocation endpoint (RFC 7009): a refresh token takes its whole grant with it, an
    /// access token only itself, and an unknown token is no error.
    pub fn revoke(&mut self, now_ms: i64, credentials: &Credentials<'_>, token: &str) -> Answer {
        let client = match self.authenticate(credentials) {
            Ok(client) => client,
            Err(refusal) => return self.refused(refusal),
        };
        if let Some(stamp) = self.mint.read(Kind::Access, token) {
            if self.client_of(stamp.owner) == Some(client) {
                self.revoked.insert((stamp.owner, stamp.serial));
            }
        } else if let Some((id, _)) = self.find_refresh_token(token)
            && let Some(grant) = self.grants.get_mut(id.0)
            && grant.client == client
        {
            end(grant, &mut self.totals, DeathCause::Revoked, now_ms);
        }
        Answer::json(StatusCode::OK, &serde_json::json!({}))
    }

    /// Answers a request at the revocation endpoint as it was read.
    pub fn revocation(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        match &request.token {
            Some(token) => self.revoke(now_ms, &request.credentials, token),
            None => self.refused(Refusal::InvalidRequest("token is missing.")),
        }
    }

    fn live_access(&self, now_ms: i64, token: &str) -> Option<Stamp> {
        let stamp = self.mint.read(Kind::Access, token)?;
        let ended = now_ms >= stamp.expires_at_ms || self.revoked.contains(&(stamp.owner, stamp.serial));
        if ended {
            return None;
        }
        let lives = match grant_of(stamp.owner) {
            None => stamp.serial < self.totals.client_tokens,
            Some(id) => {
                let grant = self.grants.get(id.0)?;
                grant.killed.is_none() && grant.access.lives(stamp.serial, now_ms)
            }
        };
        lives.then_some(stamp)
    }

    fn describe(&self, owner: u64, exp: Option<i64>) -> Introspection {
        let grant = grant_of(owner).and_then(|id| self.grants.get(id.0));
        let client = self.client_of(owner).and_then(|client| self.config.clients.get(client));
        let client_id = client.map(|client| client.id.clone());
        Introspection {
            active: true,
            scope: Some(grant.map_or(&self.config.scope, |grant| &grant.scope).as_ref().to_owned()),
            sub: grant.map(|grant| grant.label.as_ref().to_owned()),
            username: grant.map(|grant| grant.owner.as_ref().to_owned()),
            client_id,
            exp,
        }
    }

    fn client_of(&self, owner: u64) -> Option<usize> {
        match grant_of(owner) {
            None => usize::try_from(owner & !CLIENT_OWNER).ok(),
            Some(id) => self.grants.get(id.0).map(|grant| grant.client),
        }
    }

    // --- The ledger ---

    /// What happened, counted over all grants.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many grants there are.
    pub fn grant_count(&self) -> usize {
        self.grants.len()
    }

    /// The number of the grant with this name.
    pub fn find(&self, label: &str) -> Option<GrantId> {
        self.by_label.get(label).copied()
    }

    /// The name of a grant.
    pub fn label(&self, grant: GrantId) -> Option<&str> {
        self.grants.get(grant.0).map(|grant| grant.label.as_ref())
    }

    /// What a refresh token is worth at this time. Asking changes nothing.
    pub fn standing(&self, now_ms: i64, refresh_token: &str) -> Standing {
        let Some((id, serial)) = self.find_refresh_token(refresh_token) else {
            return Standing::Unknown;
        };
        match self.grants.get(id.0) {
            Some(grant) if grant.killed.is_some() => Standing::Dead,
            Some(grant) if grant.outlived(&self.config, now_ms).is_some() => Standing::Dead,
            Some(grant) => grant.lineage.standing(serial, self.rules(id), now_ms),
            None => Standing::Unknown,
        }
    }

    /// Whether this is the current refresh token of a living grant.
    pub fn is_current(&self, refresh_token: &str) -> bool {
        // The time matters only to tokens that are not current.
        self.standing(0, refresh_token) == Standing::Current
    }

    /// Whether a refresh with this token would be answered with tokens.
    pub fn is_usable(&self, now_ms: i64, refresh_token: &str) -> bool {
        matches!(self.standing(now_ms, refresh_token), Standing::Current | Standing::Resendable)
    }

    /// What happened to one grant. Hashes two tokens.
    pub fn ledger(&self, id: GrantId) -> Option<GrantLedger> {
        let grant = self.grants.get(id.0)?;
        let history = &grant.history;
        let newest = newest_access(&self.mint, id, grant);
        Some(GrantLedger {
            id,
            label: grant.label.as_ref().to_owned(),
            rotation: grant.rotation,
            access_ttl_ms: grant.access_ttl_ms,
            refresh_token_fingerprint: fingerprint(&refresh_token(&self.mint, id, grant.lineage.current())),
            access_token_fingerprint: fingerprint(&newest),
            access_expires_at_ms: grant.access.newest_expires_at_ms,
            issues: grant.access.issued,
            requests: history.requests,
            refreshes: history.refreshes,
            last_refresh_at_ms: history.last_refresh_at_ms,
            margin_min_ms: history.margin_min_ms,
            grace_reuses: history.grace_reuses,
            overlaps: history.overlaps,
            reuse_count: history.reuse_count,
            reuses: history.reuses.clone(),
            killed: grant.killed,
        })
    }

    /// What happened to each grant, in the order in which they were made.
    pub fn ledgers(&self) -> impl Iterator<Item = GrantLedger> {
        (0..self.grants.len()).filter_map(|id| self.ledger(GrantId(id)))
    }

    /// The grant and the number of a refresh token that was issued.
    fn find_refresh_token(&self, token: &str) -> Option<(GrantId, u64)> {
        let stamp = self.mint.read(Kind::Refresh, token)?;
        let id = grant_of(stamp.owner)?;
        let grant = self.grants.get(id.0)?;
        (stamp.serial <= grant.lineage.current()).then_some((id, stamp.serial))
    }
}

/// The grant that owns a token, unless a client itself does.
fn grant_of(owner: u64) -> Option<GrantId> {
    if owner & CLIENT_OWNER != 0 {
        return None;
    }
    usize::try_from(owner).ok().map(GrantId)
}

fn refresh_token(mint: &Mint, id: GrantId, serial: u64) -> String {
    let stamp = Stamp { owner: id.0 as u64, serial, expires_at_ms: 0 };
    mint.issue(Kind::Refresh, stamp)
}

/// Issues the next access token of a grant.
fn issue_access(mint: &Mint, id: GrantId, grant: &mut GrantState, issued_at_ms: i64) -> String {
    grant.access.issue(issued_at_ms.saturating_add(grant.access_ttl_ms));
    newest_access(mint, id, grant)
}

fn newest_access(mint: &Mint, id: GrantId, grant: &GrantState) -> String {
    let stamp =
        Stamp { owner: id.0 as u64, serial: grant.access.newest(), expires_at_ms: grant.access.newest_expires_at_ms };
    mint.issue(Kind::Access, stamp)
}

/// Whole seconds, rounded down.
fn expires_in(grant: &GrantState) -> Option<i64> {
    grant.says_expires_in.then_some(grant.access_ttl_ms / 1_000)
}

/// Counts a refresh and replaces the refresh token where the rotation class says so.
fn rotate(grant: &mut GrantState, now_ms: i64, resent: bool, access_ends_after_s: Option<u32>) {
    grant.count_refresh(now_ms);
    grant.history.grace_reuses += u64::from(resent);
    if !grant.rotation.rotates() {
        return;
    }
    if resent {
        grant.lineage.resend();
    } else {
        grant.lineage.rotate(now_ms);
    }
    if let Some(after_s) = access_ends_after_s {
        grant.access.end_newest(now_ms, after_s);
    }
}

/// Counts the use of a spent token and ends its grant.
fn reuse(grant: &mut GrantState, totals: &mut Totals, now_ms: i64, token: &str, was: ReusedToken) -> Refusal {
    totals.reuses += 1;
    grant.count_reuse(ReuseEvent { at_ms: now_ms, fingerprint: fingerprint(token), token: was });
    end(grant, totals, DeathCause::Reuse, now_ms);
    Refusal::InvalidGrant(Unfit::Reused)
}

/// Ends a grant with all its tokens. Says whether it was alive; the first cause stays.
fn end(grant: &mut GrantState, totals: &mut Totals, cause: DeathCause, now_ms: i64) -> bool {
    if grant.killed.is_some() {
        return false;
    }
    totals.dead_families += 1;
    grant.killed = Some(Death { cause, at_ms: now_ms });
    true
}

/// The scope that was asked for, if it lies within what was granted (RFC 6749, 6).
fn narrowed<'a>(asked: Option<&'a str>, granted: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
        return Ok(None);
    };
    let is_granted = |scope: &str| granted.split_ascii_whitespace().any(|other| other == scope);
    if asked.split_ascii_whitespace().all(is_granted) { Ok(Some(asked)) } else { Err(Refusal::InvalidScope) }
}
