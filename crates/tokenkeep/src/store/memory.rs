//! A store of ordered maps behind one lock: deterministic, without clocks, threads or files.
//!
//! The simulator wraps it, and the conformance suite runs against it like against any other. Whatever it has
//! answered stays, so a crash is: drop everything but the store. [`MemoryStore::snapshot`] is a backup.

use super::rules::{self, Brought};
use super::{
    CLAIM_BATCH_MAX, ClaimOne, Claimed, Commit, Committed, EVENTS_MAX, Event, EventQuery, FINGERPRINTS_MAX, Flag,
    Granted, ListQuery, NewEvent, NewGrant, Noted, Outlook, PAGE_MAX, ProviderSummary, Quota, Store, StoreError,
    Summary, WARN_BATCH_MAX, Warned, Work,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokenkeep_core::lifecycle;
use tokenkeep_core::model::{Connection, ConnectionId, Hold, Holder, State, Waiting};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{ConnectionKey, Secret, Timestamp};

/// A store that lives as long as the process.
///
/// ```
/// use tokenkeep::store::{Store, memory::MemoryStore};
/// let store = MemoryStore::new();
/// let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// assert_eq!(runtime.block_on(store.journal_sequence()).unwrap(), 0);
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    rows: BTreeMap<ConnectionId, Row>,
    ids: BTreeMap<ConnectionKey, ConnectionId>,
    events: BTreeMap<u64, NewEvent>,
    highest_id: i64,
    highest_event: u64,
    journal_sequence: u64,
    providers: BTreeMap<String, Note>,
}

/// What is known of a provider.
#[derive(Debug, Default)]
struct Note {
    hold: Option<Hold>,
    configuration: Option<Secret>,
}

impl Note {
    fn duplicate(&self) -> Self {
        Self { hold: self.hold.clone(), configuration: self.configuration.as_ref().map(Secret::duplicate) }
    }
}

#[derive(Debug)]
struct Row {
    connection: Connection,
    tokens: Option<TokenSet>,
    used: Vec<Secret>,
}

impl Row {
    fn work(&self) -> Work {
        Work {
            connection: self.connection.clone(),
            tokens: self.tokens.as_ref().map(duplicate),
            was_due_at: self.connection.due_at(),
        }
    }

    fn refresh_token(&self) -> Option<&Secret> {
        self.tokens.as_ref()?.refresh_token.as_ref()
    }

    fn replace_tokens(&mut self, tokens: TokenSet) {
        if let Some(replaced) = self.refresh_token().filter(|token| Some(*token) != tokens.refresh_token.as_ref()) {
            let replaced = replaced.duplicate();
            self.used.retain(|token| *token != replaced);
            self.used.push(replaced);
            let surplus = self.used.len().saturating_sub(FINGERPRINTS_MAX);
            self.used.drain(..surplus);
        }
        self.tokens = Some(tokens);
    }
}

fn duplicate(tokens: &TokenSet) -> TokenSet {
    TokenSet {
        access_token: tokens.access_token.duplicate(),
        refresh_token: tokens.refresh_token.as_ref().map(Secret::duplicate),
        token_type: tokens.token_type.clone(),
        extra: tokens.extra.duplicate(),
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of everything, as a backup would hold it.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let from = self.contents();
        let copy = |row: &Row| Row {
            connection: row.connection.clone(),
            tokens: row.tokens.as_ref().map(duplicate),
            used: row.used.iter().map(Secret::duplicate).collect(),
        };
        Self(Mutex::new(Contents {
            rows: from.rows.iter().map(|(id, row)| (*id, copy(row))).collect(),
            ids: from.ids.clone(),
            events: from.events.clone(),
            providers: from.providers.iter().map(|(name, note)| (name.clone(), note.duplicate())).collect(),
            ..*from
        }))
    }

    /// Moves every time of every connection by so many milliseconds; the history stays as it is.
    pub fn shift_times(&self, by_ms: i64) {
        let mut contents = self.contents();
        for row in contents.rows.values_mut() {
            row.connection = shifted(&row.connection, by_ms);
        }
        let holds = contents.providers.values_mut().filter_map(|note| note.hold.as_mut()?.probe_at.as_mut());
        holds.for_each(|at| *at = at.shifted(by_ms));
    }

    /// Makes due what waits for its planned refresh or a retry and whose token set claims to have been
    /// issued after `now`; says how many that were.
    pub fn due_if_issued_after(&self, now: Timestamp) -> u64 {
        let mut changed = 0;
        for row in self.contents().rows.values_mut() {
            if let Some(next) = rules::due_if_issued_after(now, &row.connection) {
                row.connection = next;
                changed += 1;
            }
        }
        changed
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn row(&self, key: &ConnectionKey) -> Option<&Row> {
        self.rows.get(self.ids.get(key)?)
    }

    /// The connection as people see it.
    fn shown(&self, connection: &Connection) -> Connection {
        let note = self.providers.get(&connection.provider);
        rules::shown(connection.clone(), note.and_then(|note| note.hold.as_ref()))
    }

    fn row_mut(&mut self, key: &ConnectionKey) -> Option<&mut Row> {
        self.rows.get_mut(self.ids.get(key)?)
    }

    fn write(&mut self, event: NewEvent) -> Event {
        self.highest_event += 1;
        self.events.insert(self.highest_event, event.clone());
        while self.events.len() as u64 > EVENTS_MAX {
            self.events.pop_first();
        }
        Event { id: self.highest_event, event }
    }

    fn claim(&mut self, now: Timestamp, holder: Holder, quota: &Quota) -> Vec<Work> {
        let limit = quota.limit.min(CLAIM_BATCH_MAX);
        let of_provider = || self.rows.values().map(|row| &row.connection).filter(|c| c.provider == quota.provider);
        let mut due: Vec<_> = of_provider().filter(|c| c.due_at().is_some_and(|due_at| due_at <= now)).collect();
        due.sort_by_key(|c| (c.due_at(), c.id));
        due.truncate(4 * limit);
        if let Some(before) = quota.recover_before {
            due.extend(of_provider().filter(|c| rules::is_recoverable(c, before)));
        }
        due.sort_by(|left, right| rules::by_deadline(left, right));
        due.dedup_by_key(|c| c.id);
        due.truncate(limit);
        let chosen: Vec<_> = due.into_iter().map(|c| c.id).collect();
        chosen.into_iter().filter_map(|id| self.claim_row(now, holder, id)).collect()
    }

    fn claim_row(&mut self, now: Timestamp, holder: Holder, id: ConnectionId) -> Option<Work> {
        let row = self.rows.get_mut(&id)?;
        let was_due_at = row.connection.due_at();
        row.connection = rules::claimed(now, &row.connection, holder)?;
        Some(Work { was_due_at, ..row.work() })
    }

    fn next_due(&self, provider: &str) -> Timestamp {
        let of_provider = self.rows.values().map(|row| &row.connection).filter(|c| c.provider == provider);
        of_provider.filter_map(Connection::due_at).min().unwrap_or(Timestamp::NEVER)
    }

    fn shown_grant(&self, granted: Granted) -> Granted {
        granted.map(|connection| self.shown(&connection))
    }

    fn grant(&mut self, now: Timestamp, grant: NewGrant) -> Granted {
        let Some(row) = self.row_mut(&grant.key) else { return self.create(now, grant) };
        let stored = || Box::new(row.connection.clone());
        if row.connection.provider != grant.provider {
            return Granted::OtherProvider(stored());
        }
        if rules::is_another_s(&row.connection, &grant) {
            return Granted::OtherAccount(stored());
        }
        if let Some(token) = grant.tokens.as_ref().and_then(|tokens| tokens.refresh_token.as_ref()) {
            if row.refresh_token() == Some(token) {
                return Granted::AlreadyHeld(stored());
            }
            if row.used.contains(token) {
                return Granted::AlreadyUsed(stored());
            }
        }
        let next = rules::renewed(now, &row.connection, &grant);
        *row = Row { connection: next.clone(), tokens: grant.tokens, used: Vec::new() };
        let event = self.write(rules::connected_event(now, &next));
        Granted::Renewed(Box::new(next), event)
    }

    fn create(&mut self, now: Timestamp, grant: NewGrant) -> Granted {
        self.highest_id += 1;
        let id = ConnectionId(self.highest_id);
        let connection = rules::created(now, id, &grant);
        self.ids.insert(grant.key, id);
        self.rows.insert(id, Row { connection: connection.clone(), tokens: grant.tokens, used: Vec::new() });
        let event = self.write(rules::connected_event(now, &connection));
        Granted::Created(Box::new(connection), event)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim_due(&self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<Claimed, StoreError> {
        let mut contents = self.contents();
        let mut claimed = Claimed::default();
        for quota in quotas {
            claimed.work.extend(contents.claim(now, holder, quota));
            claimed.next_due.insert(quota.provider.clone(), contents.next_due(&quota.provider));
        }
        Ok(claimed)
    }

    async fn claim_one(&self, now: Timestamp, holder: Holder, seen: &Connection) -> Result<ClaimOne, StoreError> {
        let mut contents = self.contents();
        let Some(row) = contents.row_mut(&seen.key) else { return Ok(ClaimOne::Absent) };
        if !rules::is_claimable_now(&row.connection, seen) {
            return Ok(ClaimOne::NotClaimable);
        }
        let id = row.connection.id;
        Ok(contents.claim_row(now, holder, id).map_or(ClaimOne::Absent, |work| ClaimOne::Claimed(Box::new(work))))
    }

    async fn revalidate(&self, connection: &Connection) -> Result<bool, StoreError> {
        let contents = self.contents();
        let Some(row) = contents.rows.get(&connection.id) else { return Ok(false) };
        let stored = &row.connection;
        let (State::Claimed { claim: stands, .. }, State::Claimed { claim, .. }) = (&stored.state, &connection.state)
        else {
            return Ok(false);
        };
        Ok(stored.grant == connection.grant && stands.attempt == claim.attempt && stands.holder == claim.holder)
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, StoreError> {
        let mut contents = self.contents();
        contents.journal_sequence = contents.journal_sequence.max(commit.journal_sequence);
        let Some(row) = contents.rows.get_mut(&commit.next.id) else { return Ok(Committed::Gone) };
        let tokens = commit.tokens.take();
        let Some(next) = rules::committed(&row.connection, &commit, Brought::of(tokens.as_ref())) else {
            return Ok(Committed::Superseded);
        };
        row.connection = next.clone();
        if let Some(tokens) = tokens {
            row.replace_tokens(tokens);
        }
        let events = commit.events.into_iter().map(|event| contents.write(event)).collect();
        Ok(Committed::Applied(Box::new(next), events))
    }

    async fn warn_due(&self, now: Timestamp) -> Result<Warned, StoreError> {
        let mut contents = self.contents();
        let is_due = |row: &&mut Row| lifecycle::next_warning(&row.connection).is_some_and(|at| at <= now);
        let mut told = Vec::new();
        for row in contents.rows.values_mut().filter(is_due).take(WARN_BATCH_MAX) {
            let (next, event) = lifecycle::warned(&row.connection, now);
            row.connection = next;
            told.push(event);
        }
        let more = told.len() == WARN_BATCH_MAX;
        Ok(Warned { events: told.into_iter().flatten().map(|event| contents.write(event)).collect(), more })
    }

    async fn of_account(&self, provider: &str, account: &str) -> Result<Vec<ConnectionKey>, StoreError> {
        let contents = self.contents();
        let connections = contents.ids.values().filter_map(|id| contents.rows.get(id)).map(|row| &row.connection);
        let theirs = connections.filter(|c| c.provider == provider && c.origin.account.as_deref() == Some(account));
        Ok(theirs.take(PAGE_MAX).map(|c| c.key.clone()).collect())
    }

    async fn get(&self, key: &ConnectionKey) -> Result<Option<Connection>, StoreError> {
        let contents = self.contents();
        Ok(contents.row(key).map(|row| contents.shown(&row.connection)))
    }

    async fn tokens(&self, key: &ConnectionKey) -> Result<Option<Work>, StoreError> {
        let contents = self.contents();
        Ok(contents.row(key).map(|row| Work { connection: contents.shown(&row.connection), ..row.work() }))
    }

    async fn list(&self, now: Timestamp, query: &ListQuery) -> Result<Vec<Connection>, StoreError> {
        let contents = self.contents();
        let rows = contents.ids.values().filter_map(|id| contents.rows.get(id));
        let in_order = rows.map(|row| contents.shown(&row.connection));
        let wanted = |c: &Connection| {
            query.namespace.as_ref().is_none_or(|namespace| c.key.namespace() == namespace)
                && (query.statuses.is_empty() || query.statuses.contains(&c.status(now)))
                && query.provider.as_ref().is_none_or(|provider| c.provider == *provider)
                && query.name_contains.as_ref().is_none_or(|text| c.key.name().contains(text.as_str()))
                && query.after.as_ref().is_none_or(|after| c.key > *after)
        };
        Ok(in_order.filter(wanted).take(query.limit.min(PAGE_MAX)).collect())
    }

    async fn summary(&self, now: Timestamp, namespace: Option<&str>) -> Result<Summary, StoreError> {
        let contents = self.contents();
        let mut summary = Summary::default();
        for connection in contents.rows.values().map(|row| contents.shown(&row.connection)) {
            if namespace.is_some_and(|namespace| connection.key.namespace() != namespace) {
                continue;
            }
            *summary.by_status.entry(connection.status(now)).or_default() += 1;
            keep_earlier(&mut summary.next_due_at, connection.due_at());
            keep_earlier(&mut summary.earliest_expiry, connection.times.expires_at.filter(|end| *end > now));
        }
        Ok(summary)
    }

    async fn summary_by_provider(&self, now: Timestamp) -> Result<BTreeMap<String, ProviderSummary>, StoreError> {
        let contents = self.contents();
        let mut summaries: BTreeMap<String, ProviderSummary> = BTreeMap::new();
        for connection in contents.rows.values().map(|row| contents.shown(&row.connection)) {
            let summary = summaries.entry(connection.provider.clone()).or_default();
            *summary.by_status.entry(connection.status(now)).or_default() += 1;
            keep_earlier(&mut summary.earliest_expiry, connection.times.expires_at.filter(|end| *end > now));
        }
        Ok(summaries)
    }

    async fn outlook(&self, now: Timestamp, namespace: Option<&str>) -> Result<Outlook, StoreError> {
        let contents = self.contents();
        let mut outlook = Outlook::default();
        for connection in contents.rows.values().map(|row| contents.shown(&row.connection)) {
            if namespace.is_none_or(|namespace| connection.key.namespace() == namespace) {
                outlook.end(now, connection.status(now), connection.times.expires_at, 1);
                if let Some(at) = connection.due_at() {
                    outlook.plan(now, at);
                }
            }
        }
        Ok(outlook)
    }

    async fn grant(&self, now: Timestamp, grants: Vec<NewGrant>) -> Result<Vec<Granted>, StoreError> {
        let mut contents = self.contents();
        let grant = |grant| {
            let granted = contents.grant(now, grant);
            contents.shown_grant(granted)
        };
        Ok(grants.into_iter().map(grant).collect())
    }

    async fn flag(
        &self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError> {
        let mut contents = self.contents();
        let Some(row) = contents.row_mut(key) else { return Ok(None) };
        let (next, event) = rules::flagged(now, &row.connection, &flag);
        row.connection = next.clone();
        let event = event.map(|event| contents.write(event));
        Ok(Some((contents.shown(&next), event)))
    }

    async fn remove(&self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError> {
        let mut contents = self.contents();
        let Some(id) = contents.ids.remove(key) else { return Ok(None) };
        contents.rows.remove(&id);
        Ok(Some(contents.write(rules::removed_event(now, key))))
    }

    async fn open_claims(&self, after: ConnectionId, limit: usize) -> Result<Vec<Work>, StoreError> {
        let contents = self.contents();
        let open = contents
            .rows
            .range(after..)
            .map(|(_, row)| row)
            .filter(|row| row.connection.id > after && matches!(row.connection.state, State::Claimed { .. }));
        Ok(open.take(limit).map(Row::work).collect())
    }

    async fn record(&self, events: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        let mut contents = self.contents();
        Ok(events.into_iter().map(|event| contents.write(event)).collect())
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let contents = self.contents();
        let later = contents.events.range(query.after.saturating_add(1)..);
        let wanted = later.filter(|(_, event)| {
            query.since.is_none_or(|since| event.at >= since)
                && query.connection.as_ref().is_none_or(|key| event.connection.as_ref() == Some(key))
        });
        let limit = query.limit.min(PAGE_MAX);
        let skipped = if query.newest { wanted.clone().count().saturating_sub(limit) } else { 0 };
        let found = wanted.skip(skipped).take(limit);
        Ok(found.map(|(id, event)| Event { id: *id, event: event.clone() }).collect())
    }

    async fn providers(&self) -> Result<BTreeMap<String, Option<Hold>>, StoreError> {
        let contents = self.contents();
        let named = contents.rows.values().map(|row| (row.connection.provider.clone(), None));
        let noted = contents.providers.iter().map(|(name, note)| (name.clone(), note.hold.clone()));
        Ok(named.chain(noted).collect())
    }

    async fn hold_provider(&self, provider: &str, hold: Option<Hold>) -> Result<(), StoreError> {
        self.contents().providers.entry(provider.to_owned()).or_default().hold = hold;
        Ok(())
    }

    async fn note_provider(&self, now: Timestamp, provider: &str, configuration: &Secret) -> Result<Noted, StoreError> {
        let mut contents = self.contents();
        let note = contents.providers.entry(provider.to_owned()).or_default();
        if note.configuration.as_ref() == Some(configuration) {
            return Ok(Noted::Same);
        }
        *note = Note { hold: None, configuration: Some(configuration.duplicate()) };
        let mut released = Vec::new();
        for row in contents.rows.values_mut().filter(|row| row.connection.provider == provider) {
            if let Some((next, event)) = rules::released(now, &row.connection) {
                row.connection = next;
                released.push(event);
            }
        }
        Ok(Noted::Changed(released.into_iter().map(|event| contents.write(event)).collect()))
    }

    async fn journal_sequence(&self) -> Result<u64, StoreError> {
        Ok(self.contents().journal_sequence)
    }
}

fn keep_earlier(earliest: &mut Option<Timestamp>, other: Option<Timestamp>) {
    *earliest = earliest.iter().copied().chain(other).min();
}

/// `stored` with each of its times moved by so many milliseconds.
fn shifted(stored: &Connection, by_ms: i64) -> Connection {
    let mut next = stored.clone();
    let shift = |time: &mut Timestamp| *time = time.shifted(by_ms);
    let times = &mut next.times;
    [&mut times.issued_at, &mut times.planned_at, &mut next.last_success].into_iter().for_each(shift);
    times.expires_at.iter_mut().for_each(shift);
    for end in [&mut times.refresh_end, &mut times.consent_end].into_iter().flatten() {
        [&mut end.at, &mut end.told_until].into_iter().for_each(shift);
    }
    next.hold.iter_mut().filter_map(|hold| hold.probe_at.as_mut()).for_each(shift);
    next.last_error.iter_mut().for_each(|error| shift(&mut error.at));
    match &mut next.state {
        State::Ready { due_at, waiting } => {
            shift(due_at);
            shift_doubt(waiting, by_ms);
        }
        State::Claimed { claim, waiting } => {
            shift(&mut claim.claimed_at);
            shift_doubt(waiting, by_ms);
        }
        State::NeedsReauth { at, .. } => shift(at),
    }
    next
}

fn shift_doubt(waiting: &mut Waiting, by_ms: i64) {
    if let Waiting::InDoubt(doubt) = waiting {
        doubt.first_sent_at = doubt.first_sent_at.shifted(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use std::sync::Arc;

    #[tokio::test]
    async fn it_keeps_every_promise() {
        conformance::all(|| Arc::new(MemoryStore::new())).await;
    }

    #[test]
    fn it_behaves_like_the_model() {
        conformance::sequences(|| Arc::new(MemoryStore::new()), 256);
    }

    #[tokio::test]
    async fn a_snapshot_is_a_store_of_its_own() {
        let store = MemoryStore::new();
        let started = NewEvent::new(crate::store::EventKind::SystemStarted, Timestamp::EPOCH, None, "");
        store.record(vec![started.clone()]).await.unwrap();
        let copy = store.snapshot();
        store.record(vec![started]).await.unwrap();
        let all = EventQuery { limit: 9, ..EventQuery::default() };
        assert_eq!((store.events(&all).await.unwrap().len(), copy.events(&all).await.unwrap().len()), (2, 1));
    }
}
