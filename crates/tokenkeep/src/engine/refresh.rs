//! One refresh, top to bottom, in the order of writes that loses no token (protocol 4):
//!
//! claim committed → connected → revalidated → journal SENDING → request written → **provider rotates** →
//! answer in memory → journal ANSWER → parse → commit → publish → journal record retired.
//!
//! Every fault has one line here where it is handled. Dropping this future at any await loses nothing that
//! [`super::recovery`] does not find again in the store and the journal.

use super::{Engine, Flight};
use crate::config::Provider;
use crate::endpoint::{Reuse, SendFailure, TOTAL_TIMEOUT};
use crate::events::Milestone;
use crate::journal::Slot;
use crate::store::{Commit, Committed, HoldChange, Work};
use crate::token_file::format::stated_life;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokenkeep_core::classify::{Observation, Outcome, classify, without_secrets};
use tokenkeep_core::lifecycle::{self, Step};
use tokenkeep_core::model::{Connection, Renewal};
use tokenkeep_core::oauth::request::{Extras, Grant, ProviderRequest, authorization, token_request};
use tokenkeep_core::oauth::{TokenAnswer, TokenSet};
use tokenkeep_core::provider::{Rotation, Rules};
use tokenkeep_core::{Failure, FailureCode, Secret, Timestamp};

/// How long a commit waits before it tries a store again that could not be written.
pub const COMMIT_RETRY_EVERY: Duration = Duration::from_secs(1);

/// Makes the one attempt that `work`'s claim allows, and sees it through to its commit.
pub(super) async fn refresh(engine: &Engine, provider: &Provider, work: Work, flight: &Flight) {
    let connection = &work.connection;
    engine.progress(connection, Milestone::Claimed);
    if connection.renewal == Renewal::Impossible {
        let step = engine.decide(provider, Timestamp::EPOCH, |context| lifecycle::not_renewable(connection, context));
        return settle(engine, &work, step, None, 0).await;
    }
    let rules = rules_for(provider, connection);
    let Some(request) = request_for(engine, &rules, provider, &work) else {
        return give_up_for_now(engine, provider, &work, "the claim holds no refresh token").await;
    };
    let place = match engine.reserve_place() {
        Ok(place) => place,
        Err(why) => return give_up_for_now(engine, provider, &work, &why).await,
    };

    let reuse = if rules.rotation.is_strict() { Reuse::Fresh } else { Reuse::Pooled };
    let channel = match engine.parts.endpoint.connect(provider.refreshes_at(), reuse).await {
        Ok(channel) => channel,
        Err(failure) => return conclude(engine, provider, work, engine.now(), Observation::Unsent(failure), 0).await,
    };

    // From here on a sign-in, an import or a removal waits for this attempt's end.
    let _gate = flight.gate.lock().await;
    match engine.parts.store.revalidate(connection).await {
        Ok(true) => {}
        Ok(false) => return tracing::info!(connection = %connection.key, "claim superseded before sending"),
        Err(error) => return give_up_for_now(engine, provider, &work, &error.to_string()).await,
    }

    let sent_at = engine.now();
    let attempt = connection.attempt_ref();
    if rules.rotation.rotates()
        && let Err(error) = engine.parts.journal.sending(place.slot(), attempt, sent_at)
    {
        engine.journal_failed(&error);
        return give_up_for_now(engine, provider, &work, &error.to_string()).await;
    }
    engine.progress(connection, Milestone::Sent);
    let (observation, sequence) = match channel.send(request, timeout_for(&rules)).await {
        Ok(answer) => {
            engine.metrics.endpoints.answered(&provider.name, answer.status, engine.now().since(sent_at));
            let journaled = engine.parts.journal.answer(place.slot(), attempt, sent_at, &answer).await;
            engine.progress(connection, Milestone::Answered);
            // Where it could not be kept, the answer lives on in memory; the commit below may still save it.
            let sequence = journaled.map(|()| place.slot().sequence).inspect_err(|error| engine.journal_failed(error));
            (Observation::Answer(answer), sequence.unwrap_or(0))
        }
        Err(failure) => {
            engine.metrics.endpoints.failed(&provider.name);
            match failure {
                SendFailure::Unsent(failure) => (Observation::Unsent(failure), 0),
                SendFailure::Unknown(failure) => (Observation::Unknown(failure), 0),
            }
        }
    };
    conclude(engine, provider, work, sent_at, observation, sequence).await;
    place.retire();
}

/// Decides what `observation` means, commits it, and publishes it. The journal's record may go afterwards.
/// `sequence` is the journal's number of a durable answer, 0 for none.
pub(super) async fn conclude(
    engine: &Engine,
    provider: &Provider,
    work: Work,
    sent_at: Timestamp,
    observation: Observation,
    sequence: u64,
) {
    let connection = &work.connection;
    let rules = rules_for(provider, connection);
    match classify(&rules, &observation) {
        Outcome::Refreshed(mut answer) => {
            answer.expires_in = stated_life(&answer, engine.wall(sent_at));
            engine.metrics.refreshed(&provider.name);
            engine.admission_succeeded(provider);
            let step = engine.decide(provider, Timestamp::EPOCH, |context| {
                lifecycle::refreshed(connection, sent_at, &answer, context)
            });
            let tokens = renewed(*answer, work.tokens.as_ref());
            settle(engine, &work, step, Some(tokens), sequence).await;
        }
        Outcome::Failed(setback) if engine.has_replaced(provider, &setback) => {
            tracing::info!(connection = %connection.key, code = %setback.failure.code, "the configuration has changed since: tried again");
            engine.metrics.failed(&provider.name, FailureCode::Interrupted);
            let step = engine.decide(provider, Timestamp::EPOCH, |context| lifecycle::interrupted(connection, context));
            settle(engine, &work, step, None, sequence).await;
        }
        Outcome::Failed(setback) => {
            engine.metrics.failed(&provider.name, setback.failure.code);
            let authorization = authorization(&rules, &provider.client);
            let secrets = secrets_of(provider, &work, authorization.as_ref());
            let setback = without_secrets(setback, &observation, &secrets);
            tracing::warn!(connection = %connection.key, code = %setback.failure.code, why = setback.failure.message(), "refresh failed");
            let not_before = engine.admission_failed(provider, connection.id, &setback);
            let step = engine
                .decide(provider, not_before, |context| lifecycle::failed(connection, sent_at, &setback, context));
            settle(engine, &work, step, None, sequence).await;
        }
    }
    engine.tell_standing(provider).await;
}

/// Puts a connection back whose attempt ended before anything was sent, for a reason of ours.
async fn give_up_for_now(engine: &Engine, provider: &Provider, work: &Work, why: &str) {
    tracing::warn!(connection = %work.connection.key, why, "attempt not made");
    let observation = Observation::Unsent(Failure::new(FailureCode::Interrupted, why));
    let Outcome::Failed(setback) = classify(&provider.rules, &observation) else { return };
    engine.metrics.failed(&provider.name, setback.failure.code);
    let now = engine.now();
    let step = engine.decide(provider, now, |context| lifecycle::failed(&work.connection, now, &setback, context));
    settle(engine, work, step, None, 0).await;
}

/// Commits a step, for ever if need be, and publishes what it made. While the store cannot be written, a new
/// token set is served from memory, flagged `not_durable`.
pub(super) async fn settle(engine: &Engine, work: &Work, step: Step, tokens: Option<TokenSet>, sequence: u64) {
    let mut tokens = tokens;
    loop {
        let commit = commit_of(work, &step, tokens.as_ref(), sequence);
        match engine.parts.store.commit(commit).await {
            Ok(Committed::Applied(connection, events)) => {
                engine.progress(&work.connection, Milestone::Stored);
                engine.publish(*connection, tokens.take(), events);
                return engine.progress(&work.connection, Milestone::Published);
            }
            Ok(Committed::Superseded | Committed::Gone) => {
                return tracing::info!(connection = %work.connection.key, attempt = work.connection.attempt.0, "answer for a superseded grant or a removed connection: not applied");
            }
            Err(error) => {
                engine.store_failed(&error);
                if let Some(tokens) = &tokens {
                    engine.tokens.publish_not_durable(&step.next, tokens);
                }
                tokio::time::sleep(COMMIT_RETRY_EVERY).await;
            }
        }
    }
}

fn commit_of(work: &Work, step: &Step, tokens: Option<&TokenSet>, sequence: u64) -> Commit {
    let hold = match &step.hold {
        HoldChange::Clear if tokens.is_none() && work.connection.hold.is_none() => HoldChange::Keep,
        other => other.clone(),
    };
    Commit {
        next: step.next.clone(),
        attempt: work.connection.attempt,
        tokens: tokens.map(duplicate),
        hold,
        events: step.events.clone(),
        journal_sequence: sequence,
    }
}

/// The rules that hold for this connection: client credentials do not rotate.
pub(super) fn rules_for<'a>(provider: &'a Provider, connection: &Connection) -> Cow<'a, Rules> {
    match connection.renewal {
        Renewal::ClientCredentials | Renewal::JwtBearer => {
            Cow::Owned(Rules { rotation: Rotation::Persistent, ..provider.rules.clone() })
        }
        Renewal::RefreshToken | Renewal::Impossible => Cow::Borrowed(&provider.rules),
    }
}

fn request_for(engine: &Engine, rules: &Rules, provider: &Provider, work: &Work) -> Option<ProviderRequest> {
    let wall = engine.parts.clock.wall();
    let assertion;
    let grant = match work.connection.renewal {
        Renewal::JwtBearer => {
            let account = work.connection.origin.account.as_deref()?;
            assertion = provider.assertion_for(account, wall)?;
            Grant::JwtBearer { assertion: &assertion, scopes: &work.connection.scopes }
        }
        Renewal::ClientCredentials => Grant::ClientCredentials { scopes: &work.connection.scopes },
        Renewal::RefreshToken | Renewal::Impossible => {
            let token = work.tokens.as_ref()?.refresh_token.as_ref()?;
            Grant::RefreshToken { token, redirect_uri: work.connection.origin.redirect_uri.as_deref() }
        }
    };
    let client_assertion = provider.client_assertion(provider.refreshes_at(), wall);
    // A refresh is for what its grant was for; a grant of the client's own is a new one each time.
    let is_new = work.connection.renewal.is_by_client();
    let resources = if is_new { provider.sign_in.resource_params() } else { Vec::new() };
    let extras = Extras { client_assertion: client_assertion.as_ref(), params: &resources };
    Some(token_request(rules, &provider.client, grant, extras))
}

/// Every secret that the provider has seen from us, or may have.
fn secrets_of<'a>(provider: &'a Provider, work: &'a Work, authorization: Option<&'a Secret>) -> Vec<&'a Secret> {
    let tokens = work.tokens.as_ref();
    let access_token = tokens.map(|tokens| &tokens.access_token);
    let refresh_token = tokens.and_then(|tokens| tokens.refresh_token.as_ref());
    [access_token, refresh_token, provider.client.secret.as_ref(), authorization].into_iter().flatten().collect()
}

/// Within a grace there must be time for a resend: a third of it at the most for one request.
fn timeout_for(rules: &Rules) -> Duration {
    match rules.rotation {
        Rotation::Grace(grace) => TOTAL_TIMEOUT.min(grace / 3),
        _ => TOTAL_TIMEOUT,
    }
}

/// An answer without a refresh token keeps the old one (quirk 4).
fn renewed(answer: TokenAnswer, previous: Option<&TokenSet>) -> TokenSet {
    let old = || previous.and_then(|tokens| tokens.refresh_token.as_ref()).map(Secret::duplicate);
    TokenSet {
        access_token: answer.access_token,
        refresh_token: answer.refresh_token.or_else(old),
        token_type: answer.token_type,
        extra: answer.extra,
    }
}

/// A second copy of a token set, for the store.
pub(super) fn duplicate(tokens: &TokenSet) -> TokenSet {
    TokenSet {
        access_token: tokens.access_token.duplicate(),
        refresh_token: tokens.refresh_token.as_ref().map(Secret::duplicate),
        token_type: tokens.token_type.clone(),
        extra: tokens.extra.duplicate(),
    }
}

/// A place in the journal that finds its own way back.
pub(super) struct Place {
    journal: Arc<dyn crate::journal::Journal>,
    slot: Option<Slot>,
}

impl Place {
    pub(super) fn new(journal: Arc<dyn crate::journal::Journal>, slot: Slot) -> Self {
        Self { journal, slot: Some(slot) }
    }

    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("only `retire` and `drop` take the slot, and both end the place")
    }

    fn retire(mut self) {
        if let Some(slot) = self.slot.take() {
            self.journal.retire(slot);
        }
    }
}

impl Drop for Place {
    /// What was never written is free again; what was written stays until recovery has settled it.
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.journal.release(slot);
        }
    }
}
