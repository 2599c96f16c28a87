//! What every store promises, as tests: [`all`] runs the cases, [`sequences`] compares random sequences of
//! calls with a model. A store that passes both may be used by the engine.
//!
//! Each case gets an empty store of its own from `make`. Whatever keeps the store alive (a temporary folder)
//! is the caller's to hold.

#![allow(clippy::unwrap_used, reason = "these are tests, although a feature builds them for other crates")]

mod claims;
mod commits;
mod deadlines;
mod grants;
mod model;
mod providers;
mod reading;

pub use model::sequences;

use super::{
    ClaimOne, Claimed, Commit, Committed, EventKind, Flag, Granted, HoldChange, ListQuery, NewEvent, NewGrant,
    PAGE_MAX, Quota, Store, Work,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokenkeep_core::deadline::Deadline;
use tokenkeep_core::model::{
    Connection, ConnectionKey, Generation, Hold, Holder, LastError, Renewal, State, TokenTimes, Waiting,
};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{Failure, FailureCode, Secret, Timestamp};

/// Runs every case.
///
/// # Panics
/// When the store breaks a promise; the message says which.
pub async fn all(make: impl Fn() -> Arc<dyn Store>) {
    grants::all(&make).await;
    claims::all(&make).await;
    commits::all(&make).await;
    deadlines::all(&make).await;
    reading::all(&make).await;
    providers::all(&make).await;
}

/// The time at which the cases begin: far from the epoch, so that a store that keeps differences shows it.
const START: i64 = 1_800_000_000_000;
/// The provider of most connections.
const PROVIDER: &str = "atlassian";

/// So many milliseconds after [`START`].
const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

const fn holder(worker: u32) -> Holder {
    Holder { boot: u64::MAX, process: 1 << 63, worker, incarnation: 0 }
}

fn key(name: &str) -> ConnectionKey {
    ConnectionKey::in_default(name).expect("the cases use good names")
}

fn token_set(name: &str) -> TokenSet {
    TokenSet {
        access_token: Secret::new(format!("access-{name}")),
        refresh_token: Some(Secret::new(format!("refresh-{name}"))),
        token_type: "Bearer".to_owned(),
        extra: Secret::new(format!(r#"{{"id_token":"{name}"}}"#)),
    }
}

/// What tests compare of a token set.
fn texts(tokens: &TokenSet) -> (String, Option<String>, String, String) {
    (
        tokens.access_token.expose().to_owned(),
        tokens.refresh_token.as_ref().map(|token| token.expose().to_owned()),
        tokens.token_type.clone(),
        tokens.extra.expose().to_owned(),
    )
}

/// Times of a token set that was issued at [`START`] and ends then.
fn times(end: i64) -> TokenTimes {
    TokenTimes {
        issued_at: at(0),
        expires_at: Some(at(end)),
        lifetime: Some(Duration::from_hours(1)),
        lifetime_learned: false,
        planned_at: at(end / 2),
        refresh_end: None,
        consent_end: None,
    }
}

/// A grant whose first refresh is at `due`, and whose access token ends at `end`.
fn new_grant(name: &str, due: i64, end: i64) -> NewGrant {
    NewGrant {
        key: key(name),
        provider: PROVIDER.to_owned(),
        labels: None,
        scopes: vec!["offline_access".to_owned()],
        renewal: Renewal::RefreshToken,
        origin: tokenkeep_core::model::Origin::default(),
        times: times(end),
        due_at: at(due),
        waiting: Waiting::Schedule,
        tokens: Some(token_set(name)),
    }
}

async fn granted(store: &dyn Store, now: i64, grant: NewGrant) -> Granted {
    let mut granted = store.grant(at(now), vec![grant]).await.expect("a grant is taken over");
    assert_eq!(granted.len(), 1, "one grant, one answer");
    granted.remove(0)
}

/// Makes a connection.
async fn create(store: &dyn Store, name: &str, due: i64, end: i64) -> Connection {
    match granted(store, 0, new_grant(name, due, end)).await {
        Granted::Created(connection, _) => *connection,
        other => panic!("{name}: {other:?}"),
    }
}

fn quota(limit: usize) -> Quota {
    Quota { provider: PROVIDER.to_owned(), limit, recover_before: None }
}

async fn claim_due(store: &dyn Store, now: i64, limit: usize) -> Claimed {
    store.claim_due(at(now), holder(1), &[quota(limit)]).await.expect("claims are taken")
}

/// Claims a connection as it is found at this moment.
pub(crate) async fn claim_as_seen(
    store: &dyn Store,
    now: Timestamp,
    holder: Holder,
    key: &ConnectionKey,
) -> Result<ClaimOne, super::StoreError> {
    match store.get(key).await? {
        Some(seen) => store.claim_one(now, holder, &seen).await,
        None => Ok(ClaimOne::Absent),
    }
}

/// Counts by provider are those of the listings of each, and together the summary's.
async fn expect_shares_of_summary(store: &dyn Store, now: i64) {
    let (summary, shares) =
        (store.summary(at(now), None).await.unwrap(), store.summary_by_provider(at(now)).await.unwrap());
    let mut total = BTreeMap::new();
    for (provider, share) in &shares {
        let query = ListQuery { provider: Some(provider.clone()), limit: PAGE_MAX, ..ListQuery::default() };
        let mut listed = BTreeMap::new();
        for connection in store.list(at(now), &query).await.unwrap() {
            *listed.entry(connection.status(at(now))).or_insert(0_u64) += 1;
        }
        assert_eq!(share.by_status, listed, "{provider} at {now}");
        share.by_status.iter().for_each(|(status, count)| *total.entry(*status).or_insert(0) += count);
    }
    assert_eq!(total, summary.by_status);
    assert_eq!(shares.values().filter_map(|share| share.earliest_expiry).min(), summary.earliest_expiry);
}

async fn claim_one(store: &dyn Store, now: i64, name: &str) -> Work {
    match claim_as_seen(store, at(now), holder(1), &key(name)).await.expect("a claim is taken") {
        ClaimOne::Claimed(work) => *work,
        other => panic!("{name}: {other:?}"),
    }
}

fn names(work: &[Work]) -> Vec<&str> {
    work.iter().map(|work| work.connection.key.name()).collect()
}

async fn get(store: &dyn Store, name: &str) -> Connection {
    store.get(&key(name)).await.expect("a connection is read").expect("the connection is there")
}

async fn tokens(store: &dyn Store, name: &str) -> TokenSet {
    let work = store.tokens(&key(name)).await.expect("tokens are read").expect("the connection is there");
    work.tokens.expect("there is a token set")
}

/// The commit of a successful refresh: the next generation, due at `due`.
fn success(work: &Work, now: i64, due: i64, name: &str) -> Commit {
    let connection = &work.connection;
    let mut next = connection.clone();
    next.generation = Generation(connection.generation.0 + 1);
    next.committed = connection.attempt;
    next.times = times(due * 2);
    next.state = State::Ready { due_at: at(due), waiting: Waiting::Schedule };
    next.last_success = at(now);
    next.refreshed = true;
    next.last_error = None;
    next.stats.attempted += 1;
    next.stats.succeeded += 1;
    Commit {
        events: vec![NewEvent::new(EventKind::Refreshed, at(now), Some(&next.key), "Refreshed.")],
        next,
        attempt: connection.attempt,
        tokens: Some(token_set(name)),
        hold: HoldChange::Keep,
        journal_sequence: 0,
    }
}

/// The commit of a failed attempt that leads to `state`.
fn failure(work: &Work, now: i64, state: State) -> Commit {
    let mut next = work.connection.clone();
    next.state = state;
    next.last_error = Some(LastError { failure: Failure::new(FailureCode::ServerError, "HTTP 500"), at: at(now) });
    next.stats.attempted += 1;
    next.stats.failed += 1;
    Commit {
        next,
        attempt: work.connection.attempt,
        tokens: None,
        hold: HoldChange::Keep,
        events: Vec::new(),
        journal_sequence: 0,
    }
}

fn retry(due: i64) -> State {
    State::Ready { due_at: at(due), waiting: Waiting::Retry { failures: 1 } }
}

async fn applied(store: &dyn Store, commit: Commit) -> Connection {
    match store.commit(commit).await.expect("a commit is written") {
        Committed::Applied(connection, _) => *connection,
        other => panic!("{other:?}"),
    }
}

async fn superseded(store: &dyn Store, commit: Commit) {
    let committed = store.commit(commit).await.expect("a commit is judged");
    assert!(matches!(committed, Committed::Superseded), "{committed:?}");
}

async fn flag(store: &dyn Store, now: i64, name: &str, flag: Flag) -> (Connection, Option<EventKind>) {
    let (connection, event) =
        store.flag(at(now), &key(name), flag).await.expect("a flag is set").expect("the connection is there");
    (connection, event.map(|event| event.event.kind))
}

const fn hold(probe_at: Option<Timestamp>) -> Hold {
    Hold { cause: FailureCode::InvalidClient, probe_at }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
