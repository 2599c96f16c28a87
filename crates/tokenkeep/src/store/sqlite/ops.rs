//! What the writer does inside a transaction: one method for each call of the store.

use super::rows::{self, Loaded, SealedWork};
use super::{ClockAnchor, OpenClaim, Resealed, Shared, events, fault, providers, schema};
use crate::seal::{CheckValue, Sealer};
use crate::store::record::{self, Fingerprint, SealedTokens, TimeBase};
use crate::store::rules::{self, Brought};
use crate::store::{
    CLAIM_BATCH_MAX, Commit, Committed, Event, EventKind, Flag, Granted, NewEvent, NewGrant, Quota, StoreError,
};
use rusqlite::types::FromSql;
use rusqlite::{Connection as Database, OptionalExtension as _, ToSql, params};
use std::collections::{BTreeMap, BTreeSet};
use tokenkeep_core::model::{AttemptNumber, Connection, ConnectionId, Holder, State};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{ConnectionKey, Timestamp};

/// The numbers of a namespace and of a provider, whose connections are counted together.
type Tally = (i64, i64);

/// What the writer knows of the database's contents without reading them again.
#[derive(Clone)]
pub struct Scratch {
    base: TimeBase,
    highest_connection: i64,
    journal_sequence: u64,
    events: events::Numbers,
    namespaces: BTreeMap<String, i64>,
    providers: BTreeMap<String, i64>,
    /// Changes of the counts by tally and grade, not written yet.
    tallies: BTreeMap<(Tally, i64), i64>,
    /// Claims that this transaction opens and closes.
    claims: Vec<(i64, Option<OpenClaim>)>,
    changed: Changed,
}

#[derive(Clone, Copy, Default)]
struct Changed {
    highest_connection: bool,
    journal_sequence: bool,
}

impl Scratch {
    /// Reads it.
    ///
    /// # Errors
    /// As SQLite gave them.
    pub fn load(database: &Database) -> Result<Self, StoreError> {
        Ok(Self {
            base: time_base(database)?,
            highest_connection: meta(database, "highest_connection")?.unwrap_or(0),
            journal_sequence: journal_sequence(database)?,
            events: events::Numbers::load(database).map_err(|cause| fault(&cause))?,
            namespaces: interned(database, "SELECT name, id FROM namespace").map_err(|cause| fault(&cause))?,
            providers: interned(database, "SELECT name, id FROM provider").map_err(|cause| fault(&cause))?,
            tallies: BTreeMap::new(),
            claims: Vec::new(),
            changed: Changed::default(),
        })
    }

    /// Takes the changes of open claims out.
    pub fn take_claims(&mut self) -> Vec<(i64, Option<OpenClaim>)> {
        std::mem::take(&mut self.claims)
    }
}

fn interned(database: &Database, sql: &str) -> rusqlite::Result<BTreeMap<String, i64>> {
    database.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// One value of the table `meta`.
pub fn meta<T: FromSql>(database: &Database, key: &str) -> Result<Option<T>, StoreError> {
    schema::meta(database, key).map_err(|cause| fault(&cause))
}

pub fn set_meta(database: &Database, key: &str, value: impl ToSql) -> Result<(), StoreError> {
    let write = || {
        database
            .prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2")?
            .execute(params![key, value])
    };
    write().map(|_| ()).map_err(|cause| fault(&cause))
}

fn unset_meta(database: &Database, key: &str) -> Result<(), StoreError> {
    let deleted = database.prepare_cached("DELETE FROM meta WHERE key = ?1").and_then(|mut s| s.execute([key]));
    deleted.map(drop).map_err(|cause| fault(&cause))
}

/// What stored times are counted from.
pub fn time_base(database: &Database) -> Result<TimeBase, StoreError> {
    Ok(TimeBase(meta(database, "time_base")?.unwrap_or(0)))
}

/// The highest journal sequence number that a commit has brought.
pub fn journal_sequence(database: &Database) -> Result<u64, StoreError> {
    Ok(meta::<i64>(database, "journal_sequence")?.unwrap_or(0).cast_unsigned())
}

/// The clock anchor.
pub fn clock_anchor(database: &Database) -> Result<Option<ClockAnchor>, StoreError> {
    let Some(boot) = meta::<i64>(database, "anchor_boot")? else { return Ok(None) };
    let part = |key| Ok::<i64, StoreError>(meta(database, key)?.unwrap_or(0));
    let (offset_ms, skew_ms) = (part("anchor_offset_ms")?, part("anchor_skew_ms")?);
    Ok(Some(ClockAnchor { boot: boot.cast_unsigned(), offset_ms, skew_ms }))
}

/// What a claim in SQL chooses among.
struct Candidate {
    id: i64,
    deadline: i64,
}

/// What the writer has for [`crate::store::Claimed`]: its token sets are still sealed.
#[derive(Default)]
pub struct SealedClaims {
    /// The claims, earliest deadline first within each provider.
    pub work: Vec<SealedWork>,
    /// When the next connection of each provider is due.
    pub next_due: BTreeMap<String, Timestamp>,
}

/// What the writer has for [`crate::store::ClaimOne`].
pub enum SealedClaimOne {
    /// It is yours.
    Claimed(Box<SealedWork>),
    /// It cannot be claimed.
    NotClaimable,
    /// There is no such connection.
    Absent,
}

/// One transaction, as a job sees it.
pub struct Batch<'a> {
    /// The database, inside the transaction.
    pub database: &'a Database,
    /// What is known of it.
    pub scratch: &'a mut Scratch,
    shared: &'a Shared,
}

impl<'a> Batch<'a> {
    /// Joins a transaction with what is known of the database.
    pub fn new(database: &'a Database, shared: &'a Shared, scratch: &'a mut Scratch) -> Self {
        Self { database, scratch, shared }
    }

    /// Writes what is written once for the whole transaction.
    pub fn finish(self) -> Result<(), StoreError> {
        let changed = std::mem::take(&mut self.scratch.changed);
        if changed.highest_connection {
            set_meta(self.database, "highest_connection", self.scratch.highest_connection)?;
        }
        if changed.journal_sequence {
            set_meta(self.database, "journal_sequence", self.scratch.journal_sequence.cast_signed())?;
        }
        let tallies = std::mem::take(&mut self.scratch.tallies);
        write_tallies(self.database, &tallies).map_err(|cause| fault(&cause))?;
        self.scratch.events.prune(self.database, self.shared.events_max).map_err(|cause| fault(&cause))
    }

    /// What stored times are counted from.
    pub const fn base(&self) -> TimeBase {
        self.scratch.base
    }

    /// What seals and opens.
    pub fn sealer(&self) -> &Sealer {
        &self.shared.sealer
    }

    /// [`crate::store::Store::claim_due`].
    pub fn claim_due(&mut self, now: Timestamp, holder: Holder, quotas: &[Quota]) -> Result<SealedClaims, StoreError> {
        let mut claims = SealedClaims::default();
        for quota in quotas {
            let next_due = match self.scratch.providers.get(&quota.provider).copied() {
                Some(provider) => {
                    claims.work.append(&mut self.claim_of_provider(now, holder, provider, quota)?);
                    next_due(self.database, self.base(), provider).map_err(|cause| fault(&cause))?
                }
                None => Timestamp::NEVER,
            };
            claims.next_due.insert(quota.provider.clone(), next_due);
        }
        Ok(claims)
    }

    fn claim_of_provider(
        &mut self,
        now: Timestamp,
        holder: Holder,
        provider: i64,
        quota: &Quota,
    ) -> Result<Vec<SealedWork>, StoreError> {
        let limit = quota.limit.min(CLAIM_BATCH_MAX);
        let now_stored = self.base().store(now);
        let mut candidates = due(self.database, provider, now_stored, 4 * limit).map_err(|cause| fault(&cause))?;
        if let Some(before) = quota.recover_before {
            let before = self.base().store(before);
            candidates.extend(recoverable(self.database, provider, before, limit).map_err(|cause| fault(&cause))?);
        }
        candidates.sort_by_key(|candidate| (candidate.deadline, candidate.id));
        candidates.dedup_by_key(|candidate| candidate.id);
        candidates.truncate(limit);
        // By id: neighbours in the tables are read and written together.
        let chosen: BTreeSet<i64> = candidates.into_iter().map(|candidate| candidate.id).collect();
        let mut work = Vec::with_capacity(chosen.len());
        for id in chosen {
            work.extend(self.claim_or_set_aside(now, holder, id, quota.recover_before)?);
        }
        work.sort_by(|left, right| rules::by_deadline(&left.connection, &right.connection));
        Ok(work)
    }

    /// One damaged connection must not keep the others from being claimed.
    fn claim_or_set_aside(
        &mut self,
        now: Timestamp,
        holder: Holder,
        id: i64,
        recover_before: Option<Timestamp>,
    ) -> Result<Option<SealedWork>, StoreError> {
        match rows::load_sealed(self.database, self.base(), id) {
            Ok(Some(stored)) if rules::is_due(&stored.connection, now, recover_before) => {
                self.claim(now, holder, stored)
            }
            // A column that follows from others is wrong: it is written anew.
            Ok(Some(stored)) => self.replace_schedule(&stored.connection, &stored.connection).map(|()| None),
            Err(StoreError::Unusable(why)) => Err(StoreError::Unusable(why)),
            Err(damage) => self.set_aside(now, id, &damage).map(|()| None),
            Ok(None) => {
                let damage = record::damage(id, "it has a schedule, but no name or no token set");
                self.set_aside(now, id, &damage).map(|()| None)
            }
        }
    }

    fn claim(&mut self, now: Timestamp, holder: Holder, stored: SealedWork) -> Result<Option<SealedWork>, StoreError> {
        let Some(connection) = rules::claimed(now, &stored.connection, holder) else { return Ok(None) };
        rows::insert_claim(self.database, self.base(), &connection).map_err(|cause| fault(&cause))?;
        self.note_claim(&connection);
        Ok(Some(SealedWork { connection, ..stored }))
    }

    /// Takes a connection that cannot be read out of the schedule, until somebody writes it anew.
    fn set_aside(&mut self, now: Timestamp, id: i64, damage: &StoreError) -> Result<(), StoreError> {
        tracing::error!(error = %damage, "a stored connection cannot be read, and is not refreshed");
        self.database
            .prepare_cached("UPDATE schedule SET claim_at = NULL WHERE id = ?1")
            .and_then(|mut statement| statement.execute([id]))
            .map_err(|cause| fault(&cause))?;
        self.write_event(NewEvent::new(EventKind::StorageDegraded, now, None, damage.to_string()))?;
        Ok(())
    }

    /// Undoes the claim of a connection whose secrets do not open, and takes it out of the schedule.
    pub fn set_aside_claimed(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        attempt: AttemptNumber,
        damage: &StoreError,
    ) -> Result<(), StoreError> {
        let Some(stored) = rows::load(self.database, self.base(), id.0)? else { return Ok(()) };
        let State::Claimed { claim, waiting } = &stored.connection.state else { return Ok(()) };
        if claim.attempt != attempt {
            return Ok(());
        }
        let state = State::Ready { due_at: claim.claimed_at, waiting: waiting.clone() };
        let next = Connection { state, ..stored.connection.clone() };
        self.replace_schedule(&stored.connection, &next)?;
        self.set_aside(now, id.0, damage)
    }

    /// [`crate::store::Store::claim_one`].
    pub fn claim_one(
        &mut self,
        now: Timestamp,
        holder: Holder,
        seen: &Connection,
    ) -> Result<SealedClaimOne, StoreError> {
        let id = seen.id.0;
        if rows::id_of(self.database, &seen.key)? != Some(id) {
            return Ok(SealedClaimOne::Absent);
        }
        let Some(stored) = rows::load_sealed(self.database, self.base(), id)? else {
            return Err(record::damage(id, "it has a name, but no schedule or no token set"));
        };
        if !rules::is_claimable_now(&stored.connection, seen) {
            return Ok(SealedClaimOne::NotClaimable);
        }
        let claimed = self.claim(now, holder, stored)?;
        Ok(claimed.map_or(SealedClaimOne::Absent, |work| SealedClaimOne::Claimed(Box::new(work))))
    }

    /// [`crate::store::Store::commit`]. `commit.tokens` has been taken out and sealed.
    pub fn commit(&mut self, commit: &Commit, sealed: Option<&SealedTokens>) -> Result<Committed, StoreError> {
        if commit.journal_sequence > self.scratch.journal_sequence {
            self.scratch.journal_sequence = commit.journal_sequence;
            self.scratch.changed.journal_sequence = true;
        }
        let Some(stored) = rows::load(self.database, self.base(), commit.next.id.0)? else {
            return Ok(Committed::Gone);
        };
        let Some(next) = rules::committed(&stored.connection, commit, Brought::of(sealed)) else {
            return Ok(Committed::Superseded);
        };
        self.replace_schedule(&stored.connection, &next)?;
        let renewed = self.under_the_current_key(&next, sealed)?;
        self.replace_record(&stored, &next, renewed.as_ref().or(sealed)).map_err(|cause| fault(&cause))?;
        let events = self.write_events_of(&next, &commit.events)?;
        Ok(Committed::Applied(Box::new(next), events))
    }

    fn replace_record(
        &self,
        stored: &Loaded,
        next: &Connection,
        sealed: Option<&SealedTokens>,
    ) -> rusqlite::Result<()> {
        if sealed.is_none() {
            return rows::update_record(self.database, self.base(), next, &stored.record);
        }
        let mut used = stored.record.used.clone();
        record::push_used(&mut used, stored.record.fingerprint, sealed.and_then(|sealed| sealed.fingerprint));
        rows::update_tokens(self.database, self.base(), next, used, sealed)
    }

    /// [`crate::store::Store::grant`], for one of them. `fingerprint` is its refresh token's.
    pub fn grant(
        &mut self,
        now: Timestamp,
        grant: &NewGrant,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Granted, StoreError> {
        let held = providers::hold_of(self.database, self.base(), &grant.provider)?;
        let granted = self.grant_stored(now, grant, fingerprint)?;
        Ok(granted.map(|connection| rules::shown(connection, held.as_ref())))
    }

    fn grant_stored(
        &mut self,
        now: Timestamp,
        grant: &NewGrant,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Granted, StoreError> {
        let Some(id) = rows::id_of(self.database, &grant.key)? else { return self.create(now, grant) };
        let Some(stored) = rows::load(self.database, self.base(), id)? else {
            return Err(record::damage(id, "it has a name, but no schedule or no token set"));
        };
        if stored.connection.provider != grant.provider {
            return Ok(Granted::OtherProvider(Box::new(stored.connection)));
        }
        if rules::is_another_s(&stored.connection, grant) {
            return Ok(Granted::OtherAccount(Box::new(stored.connection)));
        }
        if fingerprint.is_some() && stored.record.fingerprint == fingerprint {
            return Ok(Granted::AlreadyHeld(Box::new(stored.connection)));
        }
        if fingerprint.is_some_and(|print| stored.record.used.contains(&print)) {
            return Ok(Granted::AlreadyUsed(Box::new(stored.connection)));
        }
        let next = rules::renewed(now, &stored.connection, grant);
        let sealed = self.seal(&next, grant.tokens.as_ref());
        self.replace_schedule(&stored.connection, &next)?;
        self.note_account(&next)?;
        rows::update_name(self.database, &next).map_err(|cause| fault(&cause))?;
        rows::update_tokens(self.database, self.base(), &next, Vec::new(), sealed.as_ref())
            .map_err(|cause| fault(&cause))?;
        let event = self.write_event_of(&next, rules::connected_event(now, &next))?;
        Ok(Granted::Renewed(Box::new(next), event))
    }

    fn create(&mut self, now: Timestamp, grant: &NewGrant) -> Result<Granted, StoreError> {
        self.scratch.highest_connection += 1;
        self.scratch.changed.highest_connection = true;
        let connection = rules::created(now, ConnectionId(self.scratch.highest_connection), grant);
        let sealed = self.seal(&connection, grant.tokens.as_ref());
        let namespace = self.namespace(connection.key.namespace())?;
        let provider = self.provider(&connection.provider)?;
        rows::insert(self.database, self.base(), (namespace, provider), &connection, sealed.as_ref(), now)?;
        self.note_warning(None, &connection)?;
        self.note_account(&connection)?;
        events::attach(self.database, &connection.key, connection.id.0).map_err(|cause| fault(&cause))?;
        self.count((namespace, provider), record::grade(&connection), 1);
        let event = self.write_event_of(&connection, rules::connected_event(now, &connection))?;
        Ok(Granted::Created(Box::new(connection), event))
    }

    /// What was sealed just before a rotation began is sealed anew: the rows that are sealed anew after it may have
    /// been passed already.
    fn under_the_current_key(
        &self,
        of: &Connection,
        sealed: Option<&SealedTokens>,
    ) -> Result<Option<SealedTokens>, StoreError> {
        let sealed = sealed.filter(|sealed| !record::is_current(&self.shared.sealer, sealed));
        let open = |sealed| Ok(record::seal(&self.shared.sealer, of, &record::open(&self.shared.sealer, of, sealed)?));
        sealed.map(open).transpose()
    }

    /// Only the writer knows number and generation of a new grant, so it seals here.
    fn seal(&self, of: &Connection, tokens: Option<&TokenSet>) -> Option<SealedTokens> {
        tokens.map(|tokens| record::seal(&self.shared.sealer, of, tokens))
    }

    /// [`crate::store::Store::flag`].
    pub fn flag(
        &mut self,
        now: Timestamp,
        key: &ConnectionKey,
        flag: &Flag,
    ) -> Result<Option<(Connection, Option<Event>)>, StoreError> {
        let Some(id) = rows::id_of(self.database, key)? else { return Ok(None) };
        let Some(stored) = rows::load(self.database, self.base(), id)? else {
            return Err(record::damage(id, "it has a name, but no schedule or no token set"));
        };
        let (next, event) = rules::flagged(now, &stored.connection, flag);
        if next != stored.connection {
            self.replace_schedule(&stored.connection, &next)?;
        }
        if next.labels != stored.connection.labels {
            rows::update_name(self.database, &next).map_err(|cause| fault(&cause))?;
        }
        let event = event.map(|event| self.write_event(event)).transpose()?;
        Ok(Some((providers::shown(self.database, self.base(), next)?, event)))
    }

    /// [`crate::store::Store::remove`]. It works on a damaged connection too: it is the way to get rid of one.
    pub fn remove(&mut self, now: Timestamp, key: &ConnectionKey) -> Result<Option<Event>, StoreError> {
        let Some(id) = rows::id_of(self.database, key)? else { return Ok(None) };
        let counted: Option<(Tally, i64)> = self
            .database
            .prepare_cached("SELECT namespace, provider, grade FROM schedule WHERE id = ?1")
            .and_then(|mut statement| {
                statement.query_row([id], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).optional()
            })
            .map_err(|cause| fault(&cause))?;
        if let Some((tally, grade)) = counted {
            self.count(tally, grade, -1);
        }
        events::detach(self.database, key, id).map_err(|cause| fault(&cause))?;
        rows::delete(self.database, ConnectionId(id)).map_err(|cause| fault(&cause))?;
        self.scratch.claims.push((id, None));
        self.write_event(rules::removed_event(now, key)).map(Some)
    }

    /// Writes one event.
    pub fn write_event(&mut self, event: NewEvent) -> Result<Event, StoreError> {
        self.scratch.events.write(self.database, event, None).map_err(|cause| fault(&cause))
    }

    /// Writes events in their order.
    pub fn write_events(&mut self, events: &[NewEvent]) -> Result<Vec<Event>, StoreError> {
        events.iter().map(|event| self.write_event(event.clone())).collect()
    }

    /// Writes one event that is most likely of this connection.
    pub fn write_event_of(&mut self, connection: &Connection, event: NewEvent) -> Result<Event, StoreError> {
        let whose = (event.connection.as_ref() == Some(&connection.key)).then_some(connection.id.0);
        self.scratch.events.write(self.database, event, whose).map_err(|cause| fault(&cause))
    }

    fn write_events_of(&mut self, connection: &Connection, events: &[NewEvent]) -> Result<Vec<Event>, StoreError> {
        events.iter().map(|event| self.write_event_of(connection, event.clone())).collect()
    }

    /// Notes that a rotation goes on to the key of this check value.
    pub fn begin_rotation(&self, next: CheckValue) -> Result<(), StoreError> {
        set_meta(self.database, schema::NEXT_KEY_CHECK, next)
    }

    /// Seals the next `limit` token sets after `after` under the current key, where they are not yet.
    pub fn reseal(&mut self, after: i64, limit: usize) -> Result<Resealed, StoreError> {
        let ids = token_sets(self.database, after, limit).map_err(|cause| fault(&cause))?;
        let mut resealed = Resealed { last: ids.last().copied(), ..Resealed::default() };
        for id in ids {
            match self.reseal_one(id) {
                Ok(()) => resealed.done += 1,
                Err(StoreError::Damaged(what)) => {
                    tracing::error!(error = %what, "a stored token set cannot be sealed anew");
                    resealed.unreadable += 1;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(resealed)
    }

    fn reseal_one(&self, id: i64) -> Result<(), StoreError> {
        let Some(SealedWork { connection, sealed, .. }) = rows::load_sealed(self.database, self.base(), id)? else {
            return Err(record::damage(id, "it has a token set, but no name or no schedule"));
        };
        let Some(renewed) = self.under_the_current_key(&connection, sealed.as_ref())? else { return Ok(()) };
        rows::update_sealed(self.database, id, &renewed).map_err(|cause| fault(&cause))
    }

    /// Everything is sealed under the current key: the former one is good for nothing from now on.
    pub fn finish_rotation(&self) -> Result<(), StoreError> {
        let sealer = &self.shared.sealer;
        set_meta(self.database, schema::FINGERPRINT_KEY, sealer.sealed_fingerprint_key())?;
        set_meta(self.database, schema::KEY_CHECK, sealer.check_value())?;
        unset_meta(self.database, schema::NEXT_KEY_CHECK)
    }

    /// Counts on what the journal has seen, where the two do not belong together.
    pub fn accept_journal(&mut self, highest_answer: u64) -> Result<(), StoreError> {
        self.scratch.journal_sequence = highest_answer;
        self.scratch.changed.journal_sequence = true;
        unset_meta(self.database, schema::RESTORED_FROM)
    }

    /// Keeps the clock anchor.
    pub fn set_clock_anchor(&self, anchor: ClockAnchor) -> Result<(), StoreError> {
        set_meta(self.database, "anchor_boot", anchor.boot.cast_signed())?;
        set_meta(self.database, "anchor_offset_ms", anchor.offset_ms)?;
        set_meta(self.database, "anchor_skew_ms", anchor.skew_ms)
    }

    /// Moves every time of every connection.
    pub fn shift_times(&mut self, by_ms: i64) -> Result<(), StoreError> {
        self.scratch.base = TimeBase(self.scratch.base.0.saturating_add(by_ms));
        set_meta(self.database, "time_base", self.scratch.base.0)
    }

    /// Makes due what claims to have been issued after `now`.
    pub fn due_if_issued_after(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let ids: Vec<i64> = issued_after(self.database, self.base().store(now)).map_err(|cause| fault(&cause))?;
        let mut changed = 0;
        for id in ids {
            let Some(stored) = rows::load(self.database, self.base(), id)? else { continue };
            if let Some(next) = rules::due_if_issued_after(now, &stored.connection) {
                self.replace_schedule(&stored.connection, &next)?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// Writes the schedule row, and keeps counts and open claims in step.
    pub fn replace_schedule(&mut self, stored: &Connection, next: &Connection) -> Result<(), StoreError> {
        let row = record::schedule_row(self.base(), next);
        let before = record::grade(stored);
        if before != row.grade {
            let tally = (self.namespace(stored.key.namespace())?, self.provider(&stored.provider)?);
            self.count(tally, before, -1);
            self.count(tally, row.grade, 1);
        }
        rows::update_schedule(self.database, &row).map_err(|cause| fault(&cause))?;
        if matches!(stored.state, State::Claimed { .. }) && !matches!(next.state, State::Claimed { .. }) {
            rows::delete_claim(self.database, next.id.0).map_err(|cause| fault(&cause))?;
        }
        self.note_claim(next);
        self.note_warning(Some(stored), next)
    }

    /// The number of a provider that connections have named.
    pub fn known_provider(&self, name: &str) -> Option<i64> {
        self.scratch.providers.get(name).copied()
    }

    fn note_claim(&mut self, connection: &Connection) {
        self.scratch.claims.push((connection.id.0, OpenClaim::of(connection)));
    }

    fn count(&mut self, tally: Tally, grade: i64, by: i64) {
        *self.scratch.tallies.entry((tally, grade)).or_default() += by;
    }

    fn namespace(&mut self, name: &str) -> Result<i64, StoreError> {
        let sql = "INSERT INTO namespace (name) VALUES (?1) RETURNING id";
        intern(self.database, &mut self.scratch.namespaces, sql, name).map_err(|cause| fault(&cause))
    }

    fn provider(&mut self, name: &str) -> Result<i64, StoreError> {
        let sql = "INSERT INTO provider (name) VALUES (?1) RETURNING id";
        intern(self.database, &mut self.scratch.providers, sql, name).map_err(|cause| fault(&cause))
    }
}

fn intern(database: &Database, known: &mut BTreeMap<String, i64>, sql: &str, name: &str) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    let id = database.prepare_cached(sql)?.query_row([name], |row| row.get(0))?;
    known.insert(name.to_owned(), id);
    Ok(id)
}

fn due(database: &Database, provider: i64, now: i64, limit: usize) -> rusqlite::Result<Vec<Candidate>> {
    let sql = "SELECT id, deadline FROM schedule INDEXED BY schedule_due \
               WHERE provider = ?1 AND claim_at <= ?2 AND id NOT IN (SELECT id FROM claim) ORDER BY claim_at, id LIMIT ?3";
    candidates(database, sql, provider, now, limit)
}

fn recoverable(database: &Database, provider: i64, before: i64, limit: usize) -> rusqlite::Result<Vec<Candidate>> {
    let sql = "SELECT id, deadline FROM schedule INDEXED BY schedule_retry \
               WHERE provider = ?1 AND waiting = 1 AND hold_cause IS NULL AND claim_at IS NOT NULL AND failed_at < ?2 \
               AND id NOT IN (SELECT id FROM claim) ORDER BY deadline, id LIMIT ?3";
    candidates(database, sql, provider, before, limit)
}

fn candidates(
    database: &Database,
    sql: &str,
    provider: i64,
    time: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Candidate>> {
    let read = |row: &rusqlite::Row<'_>| Ok(Candidate { id: row.get(0)?, deadline: row.get(1)? });
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    database.prepare_cached(sql)?.query_map([provider, time, limit], read)?.collect()
}

fn next_due(database: &Database, base: TimeBase, provider: i64) -> rusqlite::Result<Timestamp> {
    let sql = "SELECT claim_at FROM schedule INDEXED BY schedule_due \
               WHERE provider = ?1 AND claim_at IS NOT NULL AND id NOT IN (SELECT id FROM claim) \
               ORDER BY claim_at LIMIT 1";
    let first: Option<i64> = database.prepare_cached(sql)?.query_row([provider], |row| row.get(0)).optional()?;
    Ok(first.map_or(Timestamp::NEVER, |at| base.load(at)))
}

fn issued_after(database: &Database, now: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT id FROM schedule WHERE phase = 0 AND issued_at > ?1 AND due_at > ?1 ORDER BY id";
    database.prepare(sql)?.query_map([now], |row| row.get(0))?.collect()
}

fn token_sets(database: &Database, after: i64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT id FROM token_set WHERE id > ?1 ORDER BY id LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    database.prepare_cached(sql)?.query_map([after, limit], |row| row.get(0))?.collect()
}

fn write_tallies(database: &Database, changes: &BTreeMap<(Tally, i64), i64>) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tally (namespace, provider, grade, connections) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT DO UPDATE SET connections = connections + excluded.connections";
    for (&((namespace, provider), grade), &by) in changes.iter().filter(|(_, by)| **by != 0) {
        database.prepare_cached(sql)?.execute([namespace, provider, grade, by])?;
    }
    Ok(())
}
