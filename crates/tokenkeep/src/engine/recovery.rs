//! What becomes of claims whose holder is gone: at start every one from before, and in a running process those of
//! a worker that ended.
//!
//! The store says who had claimed; the journal says how far they came.

use super::{Engine, refresh};
use crate::journal::Entry;
use crate::store::{StoreError, Work};
use std::collections::{BTreeMap, BTreeSet};
use tokenkeep_core::classify::Observation;
use tokenkeep_core::lifecycle;
use tokenkeep_core::model::{AttemptRef, Claim, ConnectionId, Holder, State};
use tokenkeep_core::{Failure, FailureCode, Timestamp};

/// How many open claims are looked at at once.
const PAGE: usize = 256;

/// Settles every open claim whose holder `is_gone`, and retires the journal's records of attempts that no claim
/// stands for any more: their commits had come through, or their grants were superseded or removed. Returns how many
/// claims it settled.
pub(super) async fn settle_claims(engine: &Engine, is_gone: impl Fn(&Holder) -> bool) -> Result<usize, StoreError> {
    let entries: BTreeMap<AttemptRef, Entry> =
        engine.parts.journal.open_entries().into_iter().map(|entry| (entry.attempt, entry)).collect();
    let mut settled = 0;
    let mut standing = BTreeSet::new();
    let mut after = ConnectionId(i64::MIN);
    loop {
        let page = engine.parts.store.open_claims(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.connection.id;
        for work in page {
            let State::Claimed { claim, .. } = work.connection.state.clone() else { continue };
            let attempt = work.connection.attempt_ref();
            if !is_gone(&claim.holder) || engine.is_in_flight(attempt.connection) {
                standing.insert(attempt);
                continue;
            }
            let entry = entries.get(&attempt);
            if !settle_claim(engine, work, &claim, entry).await {
                // The journal's record is what tells, once the provider is back, that this one was sent.
                standing.insert(attempt);
                continue;
            }
            if let Some(entry) = entry {
                engine.parts.journal.retire_entry(entry.sequence);
            }
            settled += 1;
        }
    }
    for (attempt, entry) in &entries {
        if !standing.contains(attempt) && !engine.is_in_flight(attempt.connection) {
            engine.parts.journal.retire_entry(entry.sequence);
        }
    }
    Ok(settled)
}

/// Settles one claim; not where the configuration lacks its provider.
async fn settle_claim(engine: &Engine, work: Work, claim: &Claim, entry: Option<&Entry>) -> bool {
    let Some(provider) = engine.provider(&work.connection.provider) else {
        tracing::warn!(connection = %work.connection.key, provider = work.connection.provider, "open claim of an unknown provider left as it is");
        return false;
    };
    let rotates = refresh::rules_for(&provider, &work.connection).rotation.rotates();
    let lost = || Observation::Unknown(Failure::new(FailureCode::AnswerLost, ""));
    match entry {
        Some(Entry { answer: Some(answer), sent_at, sequence, .. }) => {
            let answer = Observation::Answer(answer.clone());
            refresh::conclude(engine, &provider, work, *sent_at, answer, *sequence).await;
        }
        // No answer became durable, so the store must not claim to have one of this number.
        Some(Entry { answer: None, sent_at, .. }) => {
            refresh::conclude(engine, &provider, work, *sent_at, lost(), 0).await;
        }
        // After another boot a SENDING may be missing that was never synced.
        None if rotates && claim.holder.boot != engine.boot => {
            refresh::conclude(engine, &provider, work, claim.claimed_at, lost(), 0).await;
        }
        None => {
            let step =
                engine.decide(&provider, Timestamp::EPOCH, |context| lifecycle::interrupted(&work.connection, context));
            refresh::settle(engine, &work, step, None, 0).await;
        }
    }
    true
}

/// At start, before the first claim: settles everything that a process before this one left open.
pub(super) async fn at_start(engine: &Engine) -> Result<usize, StoreError> {
    settle_claims(engine, |_| true).await
}
