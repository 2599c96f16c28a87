//! The stored form: the only place that knows how a connection and its secrets look at rest.
//!
//! A connection is kept in three rows, so that little is written at a time: the narrow [`ScheduleRow`], the
//! rarely written [`NameRow`], and the [`RecordRow`] beside the sealed tokens. While an attempt is in flight
//! there is a [`ClaimRow`] too; taking a claim writes nothing else. Each row carries a checksum over what it
//! says; the sealed values authenticate themselves. JSON may hold fields that this version does not know (a
//! newer one wrote them); anything else unexpected is damage, and is named.

use super::{FINGERPRINTS_MAX, StoreError};
use crate::access::{ApiKey, Pattern, Rights, Scope};
use crate::audit::NewRecord;
use crate::seal::{Field, Place, Sealer};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokenkeep_core::deadline::Deadline;
use tokenkeep_core::model::{
    AttemptNumber, Claim, Connection, ConnectionId, Doubt, DoubtStep, Generation, GrantNumber, Hold, Holder, LastError,
    Origin, Renewal, State, Stats, TokenTimes, Waiting,
};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{ConnectionKey, Failure, FailureCode, Timestamp};

/// `phase` of a connection that is, or after its attempt in flight will be, refreshed.
pub const PHASE_READY: i64 = 0;
/// `phase` of a connection that a human must sign in again.
pub const PHASE_ENDED: i64 = 1;

/// `waiting` of [`Waiting::Retry`].
pub const WAITING_RETRY: i64 = 1;

/// `grade` of [`tokenkeep_core::model::Status::NeedsReauth`].
pub const GRADE_NEEDS_REAUTH: i64 = 0;
/// `grade` of [`tokenkeep_core::model::Status::Paused`].
pub const GRADE_PAUSED: i64 = 1;
/// `grade` of [`tokenkeep_core::model::Status::Held`].
pub const GRADE_HELD: i64 = 2;
/// `grade` of [`tokenkeep_core::model::Status::InDoubt`].
pub const GRADE_IN_DOUBT: i64 = 3;
/// `grade` of what is retrying, unless its access token has ended.
pub const GRADE_RETRYING: i64 = 4;
/// `grade` of what is fresh or refreshing, unless its access token has ended.
pub const GRADE_WELL: i64 = 5;

/// A keyed fingerprint of a refresh token.
pub type Fingerprint = [u8; 16];

/// What every stored time of a connection is counted from, so that moving all of them is one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeBase(pub i64);

impl TimeBase {
    /// As it is stored.
    pub fn store(self, time: Timestamp) -> i64 {
        if time == Timestamp::NEVER { i64::MAX } else { time.as_millis().saturating_sub(self.0) }
    }

    /// As it is meant.
    pub fn load(self, stored: i64) -> Timestamp {
        Timestamp::from_millis(if stored == i64::MAX { i64::MAX } else { stored.saturating_add(self.0) })
    }
}

/// The row that scheduling works on. The fields after `probe_at` follow from the others and the record. While
/// there is a [`ClaimRow`], its attempt counts, and the due times mean nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScheduleRow {
    pub id: i64,
    pub grant: i64,
    pub generation: i64,
    pub attempt: i64,
    pub committed: i64,
    pub phase: i64,
    pub waiting: i64,
    pub failures: i64,
    pub doubt_sent_at: Option<i64>,
    pub doubt_step: Option<i64>,
    pub due_at: Option<i64>,
    pub ended_cause: Option<String>,
    pub ended_at: Option<i64>,
    pub paused: i64,
    pub hold_cause: Option<String>,
    pub probe_at: Option<i64>,
    /// When it may be claimed; `None` while it may not.
    pub claim_at: Option<i64>,
    /// When the access token ends; the greatest number when nobody knows.
    pub deadline: i64,
    /// The status as far as neither time nor a claim decides it.
    pub grade: i64,
    /// When the last attempt failed.
    pub failed_at: Option<i64>,
    /// t0 of the token set in hand.
    pub issued_at: i64,
}

/// The row of an attempt in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimRow {
    /// The connection.
    pub id: i64,
    /// The attempt.
    pub attempt: i64,
    /// When it was claimed.
    pub claimed_at: i64,
    /// Boot, process, worker and incarnation of who claimed it.
    pub holder: [i64; 4],
}

/// The row that says whose connection it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameRow {
    pub namespace: String,
    pub name: String,
    pub provider: String,
    pub labels: String,
}

/// The row beside the sealed tokens, without them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordRow {
    /// `TokenSet::token_type`; `None` when there is no token set.
    pub token_type: Option<String>,
    /// [`Record`] as JSON.
    pub record: String,
    /// The fingerprint of the refresh token in hand.
    pub fingerprint: Option<Fingerprint>,
    /// Fingerprints of used refresh tokens, the oldest first.
    pub used: Vec<Fingerprint>,
}

/// The row of what is known of a provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProviderRow {
    pub provider: String,
    pub hold_cause: Option<String>,
    pub probe_at: Option<i64>,
    /// The fingerprint of its configuration.
    pub configuration: Option<Fingerprint>,
}

impl ProviderRow {
    /// What holds every connection of the provider. A cause that a newer version wrote holds nothing here.
    pub fn hold(&self, base: TimeBase) -> Option<Hold> {
        let cause = FailureCode::parse(self.hold_cause.as_deref()?)?;
        Some(Hold { cause, probe_at: self.probe_at.map(|at| base.load(at)) })
    }
}

/// The row of what is known of a provider.
pub fn provider_row(
    base: TimeBase,
    provider: &str,
    hold: Option<&Hold>,
    configuration: Option<Fingerprint>,
) -> ProviderRow {
    ProviderRow {
        provider: provider.to_owned(),
        hold_cause: hold.map(|hold| hold.cause.as_str().to_owned()),
        probe_at: hold.and_then(|hold| hold.probe_at).map(|at| base.store(at)),
        configuration,
    }
}

/// The sealed values of a token set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedTokens {
    /// As the provider wrote it.
    pub token_type: String,
    /// The sealed access token.
    pub access: Vec<u8>,
    /// The sealed refresh token.
    pub refresh: Option<Vec<u8>>,
    /// The sealed other fields.
    pub extra: Vec<u8>,
    /// The refresh token's fingerprint.
    pub fingerprint: Option<Fingerprint>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<String>,
    renewal: StoredRenewal,
    times: StoredTimes,
    last_success: i64,
    refreshed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<StoredError>,
    stats: StoredStats,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum StoredRenewal {
    RefreshToken,
    ClientCredentials,
    JwtBearer,
    Impossible,
}

#[derive(Serialize, Deserialize)]
struct StoredTimes {
    issued_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifetime_ms: Option<u64>,
    #[serde(default)]
    lifetime_learned: bool,
    planned_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_told_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consent_expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consent_told_until: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredError {
    code: String,
    detail: String,
    at: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredStats {
    attempted: u64,
    succeeded: u64,
    failed: u64,
}

/// Names damage of what belongs to no connection.
pub fn damage_of(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{what}; nothing was changed: restore a backup"))
}

#[derive(Serialize, Deserialize)]
struct StoredApiKey {
    name: String,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    connections_per_hour: u32,
    created_at: i64,
    created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

/// The text that is stored of an API key. Its times are wall time, and move with nothing.
pub fn api_key_text(key: &ApiKey) -> String {
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
    json(&StoredApiKey {
        name: key.name.clone(),
        scopes: key.rights.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        namespaces: texts(&key.rights.namespaces),
        names: texts(&key.rights.names),
        connections_per_hour: key.connections_per_hour,
        created_at: key.created_at.as_millis(),
        created_by: key.created_by.clone(),
        expires_at: key.expires_at.map(Timestamp::as_millis),
    })
}

/// The API key that a text says.
///
/// # Errors
/// [`StoreError::Damaged`]: what is not understood must not be left out, for it limits the key.
pub fn api_key(id: String, text: &str) -> Result<ApiKey, StoreError> {
    let damaged = |what: &str| damage_of(format_args!("API key {id}: {what}"));
    let stored: StoredApiKey = serde_json::from_str(text).map_err(|cause| damaged(&cause.to_string()))?;
    let scopes = stored.scopes.iter().map(|scope| Scope::parse(scope)).collect::<Option<_>>();
    let patterns = |texts: &[String]| -> Result<Vec<Pattern>, StoreError> {
        texts.iter().map(|text| Pattern::parse(text).map_err(|cause| damaged(&cause))).collect()
    };
    let rights = Rights {
        scopes: scopes.ok_or_else(|| damaged("it has an unknown scope"))?,
        namespaces: patterns(&stored.namespaces)?,
        names: patterns(&stored.names)?,
    };
    Ok(ApiKey {
        id: id.clone(),
        name: stored.name,
        rights,
        connections_per_hour: stored.connections_per_hour,
        created_at: Timestamp::from_millis(stored.created_at),
        created_by: stored.created_by,
        expires_at: stored.expires_at.map(Timestamp::from_millis),
    })
}

#[derive(Serialize, Deserialize)]
struct StoredAudit {
    at: i64,
    actor: String,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    outcome: u64,
}

/// The text that is stored of a record of the audit trail.
pub fn audit_text(record: &NewRecord) -> String {
    json(&StoredAudit {
        at: record.at.as_millis(),
        actor: record.actor.clone(),
        action: record.action.clone(),
        target: record.target.clone(),
        outcome: record.outcome,
    })
}

/// The record that a text says.
///
/// # Errors
/// What is wrong with it.
pub fn audit(text: &str) -> Result<NewRecord, String> {
    let stored: StoredAudit = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
    let StoredAudit { at, actor, action, target, outcome } = stored;
    Ok(NewRecord { at: Timestamp::from_millis(at), actor, action, target, outcome })
}

/// Names damage: which connection, and what about it.
pub fn damage(id: i64, what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!(
        "connection number {id}: {what}; nothing was changed: restore a backup, or remove the connection and import it again"
    ))
}

/// The schedule row of a connection.
pub fn schedule_row(base: TimeBase, connection: &Connection) -> ScheduleRow {
    let mut row = ScheduleRow {
        id: connection.id.0,
        grant: i64::from(connection.grant.0),
        generation: connection.generation.0.cast_signed(),
        attempt: connection.attempt.0.cast_signed(),
        committed: connection.committed.0.cast_signed(),
        phase: PHASE_READY,
        waiting: 0,
        failures: 0,
        doubt_sent_at: None,
        doubt_step: None,
        due_at: None,
        ended_cause: None,
        ended_at: None,
        paused: i64::from(connection.paused),
        hold_cause: connection.hold.as_ref().map(|hold| hold.cause.as_str().to_owned()),
        probe_at: connection.hold.as_ref().and_then(|hold| hold.probe_at).map(|at| base.store(at)),
        claim_at: connection.due_at().map(|at| base.store(at)),
        deadline: connection.times.expires_at.map_or(i64::MAX, |at| base.store(at)),
        grade: grade(connection),
        failed_at: connection.last_error.as_ref().map(|error| base.store(error.at)),
        issued_at: base.store(connection.times.issued_at),
    };
    match &connection.state {
        State::Ready { due_at, waiting } => {
            row.due_at = Some(base.store(*due_at));
            set_waiting(base, &mut row, waiting);
        }
        State::Claimed { claim, waiting } => {
            row.due_at = Some(base.store(claim.claimed_at));
            set_waiting(base, &mut row, waiting);
        }
        State::NeedsReauth { cause, at } => {
            row.phase = PHASE_ENDED;
            row.ended_cause = Some(cause.as_str().to_owned());
            row.ended_at = Some(base.store(*at));
        }
    }
    row
}

fn set_waiting(base: TimeBase, row: &mut ScheduleRow, waiting: &Waiting) {
    (row.waiting, row.failures) = match waiting {
        Waiting::Schedule => (0, 0),
        Waiting::Retry { failures } => (WAITING_RETRY, i64::from(*failures)),
        Waiting::InDoubt(doubt) => {
            row.doubt_sent_at = Some(base.store(doubt.first_sent_at));
            row.doubt_step = Some(match doubt.next {
                DoubtStep::Resend => 0,
                DoubtStep::Probe => 1,
            });
            (2, i64::from(doubt.failures))
        }
        Waiting::Recheck => (3, 0),
        Waiting::End => (4, 0),
    };
}

/// The claim row of a connection; `None` when no attempt is in flight.
pub fn claim_row(base: TimeBase, connection: &Connection) -> Option<ClaimRow> {
    let State::Claimed { claim, .. } = &connection.state else { return None };
    let Holder { boot, process, worker, incarnation } = claim.holder;
    Some(ClaimRow {
        id: connection.id.0,
        attempt: claim.attempt.0.cast_signed(),
        claimed_at: base.store(claim.claimed_at),
        holder: [boot.cast_signed(), process.cast_signed(), i64::from(worker), i64::from(incarnation)],
    })
}

/// The part of [`Connection::status`] that neither time nor a claim changes.
pub fn grade(connection: &Connection) -> i64 {
    match (&connection.state, connection.waiting()) {
        (State::NeedsReauth { .. }, _) => GRADE_NEEDS_REAUTH,
        _ if connection.paused => GRADE_PAUSED,
        _ if connection.hold.is_some() => GRADE_HELD,
        (_, Some(Waiting::InDoubt(_))) => GRADE_IN_DOUBT,
        (_, Some(Waiting::Retry { .. } | Waiting::Recheck)) => GRADE_RETRYING,
        _ => GRADE_WELL,
    }
}

/// The name row of a connection.
pub fn name_row(connection: &Connection) -> NameRow {
    NameRow {
        namespace: connection.key.namespace().to_owned(),
        name: connection.key.name().to_owned(),
        provider: connection.provider.clone(),
        labels: json(&connection.labels),
    }
}

/// The [`RecordRow::record`] of a connection.
pub fn record_json(base: TimeBase, connection: &Connection) -> String {
    let times = &connection.times;
    json(&Record {
        scopes: connection.scopes.clone(),
        account: connection.origin.account.clone(),
        redirect_uri: connection.origin.redirect_uri.clone(),
        renewal: match connection.renewal {
            Renewal::RefreshToken => StoredRenewal::RefreshToken,
            Renewal::ClientCredentials => StoredRenewal::ClientCredentials,
            Renewal::JwtBearer => StoredRenewal::JwtBearer,
            Renewal::Impossible => StoredRenewal::Impossible,
        },
        times: StoredTimes {
            issued_at: base.store(times.issued_at),
            expires_at: times.expires_at.map(|at| base.store(at)),
            lifetime_ms: times.lifetime.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            lifetime_learned: times.lifetime_learned,
            planned_at: base.store(times.planned_at),
            refresh_expires_at: times.refresh_end.map(|end| base.store(end.at)),
            refresh_told_until: times.refresh_end.map(|end| base.store(end.told_until)),
            consent_expires_at: times.consent_end.map(|end| base.store(end.at)),
            consent_told_until: times.consent_end.map(|end| base.store(end.told_until)),
        },
        last_success: base.store(connection.last_success),
        refreshed: connection.refreshed,
        last_error: connection.last_error.as_ref().map(|error| StoredError {
            code: error.failure.code.as_str().to_owned(),
            detail: error.failure.detail.clone(),
            at: base.store(error.at),
        }),
        stats: StoredStats {
            attempted: connection.stats.attempted,
            succeeded: connection.stats.succeeded,
            failed: connection.stats.failed,
        },
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and maps with text keys are always JSON")
}

/// The connection that its rows say.
///
/// # Errors
/// [`StoreError::Damaged`], naming the connection and what is wrong.
pub fn connection(
    base: TimeBase,
    schedule: &ScheduleRow,
    claim: Option<&ClaimRow>,
    name: &NameRow,
    record: &RecordRow,
) -> Result<Connection, StoreError> {
    let id = schedule.id;
    let stored: Record =
        serde_json::from_str(&record.record).map_err(|cause| damage(id, format_args!("its record: {cause}")))?;
    let labels = serde_json::from_str(&name.labels).map_err(|cause| damage(id, format_args!("its labels: {cause}")))?;
    let key = ConnectionKey::new(name.namespace.as_str(), name.name.as_str()).map_err(|cause| damage(id, cause))?;
    let times = stored.times;
    Ok(Connection {
        id: ConnectionId(id),
        key,
        provider: name.provider.clone(),
        labels,
        scopes: stored.scopes,
        renewal: match stored.renewal {
            StoredRenewal::RefreshToken => Renewal::RefreshToken,
            StoredRenewal::ClientCredentials => Renewal::ClientCredentials,
            StoredRenewal::JwtBearer => Renewal::JwtBearer,
            StoredRenewal::Impossible => Renewal::Impossible,
        },
        grant: GrantNumber(small(id, "its grant number", schedule.grant)?),
        generation: Generation(schedule.generation.cast_unsigned()),
        attempt: AttemptNumber(claim.map_or(schedule.attempt, |claim| claim.attempt).cast_unsigned()),
        committed: AttemptNumber(schedule.committed.cast_unsigned()),
        origin: Origin { account: stored.account, redirect_uri: stored.redirect_uri },
        times: TokenTimes {
            issued_at: base.load(times.issued_at),
            expires_at: times.expires_at.map(|at| base.load(at)),
            lifetime: times.lifetime_ms.map(Duration::from_millis),
            lifetime_learned: times.lifetime_learned,
            planned_at: base.load(times.planned_at),
            refresh_end: deadline(base, times.issued_at, times.refresh_expires_at, times.refresh_told_until),
            consent_end: deadline(base, times.issued_at, times.consent_expires_at, times.consent_told_until),
        },
        state: state(base, schedule, claim)?,
        paused: flag(id, "paused", schedule.paused)?,
        hold: hold(base, schedule)?,
        last_success: base.load(stored.last_success),
        refreshed: stored.refreshed,
        last_error: stored.last_error.map(|error| last_error(base, id, error)).transpose()?,
        stats: Stats {
            attempted: stored.stats.attempted,
            succeeded: stored.stats.succeeded,
            failed: stored.stats.failed,
        },
    })
}

/// `told_until` is missing where an earlier Tokenkeep wrote the record.
fn deadline(base: TimeBase, set_at: i64, at: Option<i64>, told_until: Option<i64>) -> Option<Deadline> {
    let end = Deadline::set(base.load(set_at), base.load(at?));
    Some(told_until.map_or(end, |until| Deadline { told_until: base.load(until), ..end }))
}

fn state(base: TimeBase, row: &ScheduleRow, claim: Option<&ClaimRow>) -> Result<State, StoreError> {
    let missing = |what: &str| damage(row.id, format_args!("its {what} is missing"));
    match (row.phase, claim) {
        (PHASE_READY, None) => Ok(State::Ready {
            due_at: base.load(row.due_at.ok_or_else(|| missing("due time"))?),
            waiting: waiting(base, row)?,
        }),
        (PHASE_READY, Some(claim)) => Ok(State::Claimed {
            claim: Claim {
                attempt: AttemptNumber(claim.attempt.cast_unsigned()),
                holder: holder(row.id, claim.holder)?,
                claimed_at: base.load(claim.claimed_at),
            },
            waiting: waiting(base, row)?,
        }),
        (PHASE_ENDED, None) => Ok(State::NeedsReauth {
            cause: code(row.id, row.ended_cause.as_deref().ok_or_else(|| missing("cause"))?)?,
            at: base.load(row.ended_at.ok_or_else(|| missing("end"))?),
        }),
        (other, claim) => {
            let claimed = if claim.is_some() { ", and yet it is claimed" } else { "" };
            Err(damage(row.id, format_args!("its phase is {other}{claimed}")))
        }
    }
}

fn waiting(base: TimeBase, row: &ScheduleRow) -> Result<Waiting, StoreError> {
    let failures = || small(row.id, "its number of failures", row.failures);
    Ok(match (row.waiting, row.doubt_sent_at, row.doubt_step) {
        (0, ..) => Waiting::Schedule,
        (WAITING_RETRY, ..) => Waiting::Retry { failures: failures()? },
        (2, Some(sent_at), Some(step @ (0 | 1))) => Waiting::InDoubt(Doubt {
            first_sent_at: base.load(sent_at),
            failures: failures()?,
            next: if step == 0 { DoubtStep::Resend } else { DoubtStep::Probe },
        }),
        (3, ..) => Waiting::Recheck,
        (4, ..) => Waiting::End,
        (other, ..) => return Err(damage(row.id, format_args!("it waits for {other}, which is nothing"))),
    })
}

fn holder(id: i64, [boot, process, worker, incarnation]: [i64; 4]) -> Result<Holder, StoreError> {
    Ok(Holder {
        boot: boot.cast_unsigned(),
        process: process.cast_unsigned(),
        worker: small(id, "its holder", worker)?,
        incarnation: small(id, "its holder", incarnation)?,
    })
}

fn hold(base: TimeBase, row: &ScheduleRow) -> Result<Option<Hold>, StoreError> {
    let Some(cause) = &row.hold_cause else { return Ok(None) };
    Ok(Some(Hold { cause: code(row.id, cause)?, probe_at: row.probe_at.map(|at| base.load(at)) }))
}

fn last_error(base: TimeBase, id: i64, error: StoredError) -> Result<LastError, StoreError> {
    let failure = Failure { code: code(id, &error.code)?, detail: error.detail };
    Ok(LastError { failure, at: base.load(error.at) })
}

fn code(id: i64, text: &str) -> Result<FailureCode, StoreError> {
    FailureCode::parse(text).ok_or_else(|| damage(id, format_args!("`{text}` is no failure code")))
}

fn small(id: i64, what: &str, value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| damage(id, format_args!("{what} is {value}")))
}

fn flag(id: i64, what: &str, value: i64) -> Result<bool, StoreError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(damage(id, format_args!("`{what}` is {other}"))),
    }
}

/// Seals a token set for one generation of one grant.
pub fn seal(sealer: &Sealer, of: &Connection, tokens: &TokenSet) -> SealedTokens {
    let seal = |field, text: &str| sealer.seal(&place(of, field), text.as_bytes());
    SealedTokens {
        token_type: tokens.token_type.clone(),
        access: seal(Field::AccessToken, tokens.access_token.expose()),
        refresh: tokens.refresh_token.as_ref().map(|token| seal(Field::RefreshToken, token.expose())),
        extra: seal(Field::Extra, tokens.extra.expose()),
        fingerprint: tokens.refresh_token.as_ref().map(|token| sealer.fingerprint(token)),
    }
}

/// Opens what [`seal`] sealed.
///
/// # Errors
/// [`StoreError::Damaged`], naming the connection and the secret.
pub fn open(sealer: &Sealer, of: &Connection, sealed: &SealedTokens) -> Result<TokenSet, StoreError> {
    let open = |field, what: &str, bytes: &[u8]| {
        sealer
            .open_secret(&place(of, field), bytes)
            .map_err(|cause| damage(of.id.0, format_args!("({}) its {what}: {cause}", of.key)))
    };
    Ok(TokenSet {
        access_token: open(Field::AccessToken, "access token", &sealed.access)?,
        refresh_token: match &sealed.refresh {
            Some(bytes) => Some(open(Field::RefreshToken, "refresh token", bytes)?),
            None => None,
        },
        token_type: sealed.token_type.clone(),
        extra: open(Field::Extra, "token fields", &sealed.extra)?,
    })
}

/// Whether all of it is sealed under the current key.
pub fn is_current(sealer: &Sealer, sealed: &SealedTokens) -> bool {
    let values = [Some(&sealed.access), sealed.refresh.as_ref(), Some(&sealed.extra)];
    values.into_iter().flatten().all(|value| sealer.is_current(value))
}

const fn place(of: &Connection, field: Field) -> Place {
    Place { connection: of.id, grant: of.grant, generation: of.generation, field }
}

/// The used fingerprints after `replaced` was replaced by `new`: none twice, the oldest dropped.
pub fn push_used(used: &mut Vec<Fingerprint>, replaced: Option<Fingerprint>, new: Option<Fingerprint>) {
    let Some(replaced) = replaced.filter(|_| replaced != new) else { return };
    used.retain(|print| *print != replaced);
    used.push(replaced);
    let surplus = used.len().saturating_sub(FINGERPRINTS_MAX);
    used.drain(..surplus);
}

/// The checksum over what a schedule row says; what follows from other fields is left out.
pub fn schedule_check(row: &ScheduleRow) -> i64 {
    let mut sum = Checksum::default();
    for number in [row.id, row.grant, row.generation, row.attempt, row.committed, row.phase, row.waiting, row.failures]
    {
        sum.number(Some(number));
    }
    for number in [row.doubt_sent_at, row.doubt_step, row.due_at, row.ended_at, row.probe_at] {
        sum.number(number);
    }
    sum.number(Some(row.paused));
    sum.text(row.ended_cause.as_deref());
    sum.text(row.hold_cause.as_deref());
    sum.end()
}

/// The checksum over a claim row.
pub fn claim_check(row: &ClaimRow) -> i64 {
    let mut sum = Checksum::default();
    for number in [row.id, row.attempt, row.claimed_at].into_iter().chain(row.holder) {
        sum.number(Some(number));
    }
    sum.end()
}

/// The checksum over a name row.
pub fn name_check(id: i64, row: &NameRow) -> i64 {
    let mut sum = Checksum::default();
    sum.number(Some(id));
    for text in [&row.namespace, &row.name, &row.provider, &row.labels] {
        sum.text(Some(text));
    }
    sum.end()
}

/// The checksum over what is known of a provider.
pub fn provider_check(row: &ProviderRow) -> i64 {
    let mut sum = Checksum::default();
    sum.text(Some(&row.provider));
    sum.text(row.hold_cause.as_deref());
    sum.number(row.probe_at);
    sum.bytes(row.configuration.as_ref().map(|print| &print[..]));
    sum.end()
}

/// The checksum over a record row.
pub fn record_check(id: i64, row: &RecordRow) -> i64 {
    let mut sum = Checksum::default();
    sum.number(Some(id));
    sum.text(row.token_type.as_deref());
    sum.text(Some(&row.record));
    sum.bytes(row.fingerprint.as_ref().map(|print| &print[..]));
    sum.bytes(Some(row.used.as_flattened()));
    sum.end()
}

/// CRC-32 over values that cannot run into each other.
#[derive(Default)]
struct Checksum(crc32fast::Hasher);

impl Checksum {
    fn number(&mut self, number: Option<i64>) {
        self.0.update(&[u8::from(number.is_some())]);
        self.0.update(&number.unwrap_or(0).to_le_bytes());
    }

    fn bytes(&mut self, bytes: Option<&[u8]>) {
        self.number(bytes.map(|bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX)));
        self.0.update(bytes.unwrap_or_default());
    }

    fn text(&mut self, text: Option<&str>) {
        self.bytes(text.map(str::as_bytes));
    }

    fn end(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const BASE: TimeBase = TimeBase(1_000_000);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn example() -> Connection {
        Connection {
            id: ConnectionId(7),
            key: ConnectionKey::in_default("jira").unwrap(),
            provider: "atlassian".to_owned(),
            labels: BTreeMap::from([("team".to_owned(), "\u{1f600}".to_owned())]),
            scopes: vec!["read".to_owned()],
            renewal: Renewal::RefreshToken,
            grant: GrantNumber(u32::MAX),
            generation: Generation(u64::MAX),
            attempt: AttemptNumber(1 << 63),
            committed: AttemptNumber(3),
            origin: Origin { account: Some("u1".to_owned()), redirect_uri: Some("http://127.0.0.1/".to_owned()) },
            times: TokenTimes {
                issued_at: at(1),
                expires_at: Some(at(2)),
                lifetime: Some(Duration::from_millis(3)),
                lifetime_learned: true,
                planned_at: at(4),
                refresh_end: Some(Deadline { at: Timestamp::NEVER, told_until: at(7) }),
                consent_end: None,
            },
            state: State::Ready { due_at: at(5), waiting: Waiting::Retry { failures: 6 } },
            paused: true,
            hold: Some(Hold { cause: FailureCode::RestoredCopy, probe_at: None }),
            last_success: at(-8),
            refreshed: true,
            last_error: Some(LastError { failure: Failure::new(FailureCode::Timeout, "x"), at: at(9) }),
            stats: Stats { attempted: 10, succeeded: 11, failed: u64::MAX },
        }
    }

    fn record(connection: &Connection) -> RecordRow {
        RecordRow { token_type: None, record: record_json(BASE, connection), fingerprint: None, used: Vec::new() }
    }

    fn read_back(connection: &Connection) -> Result<Connection, StoreError> {
        let claim = claim_row(BASE, connection);
        let (schedule, name) = (schedule_row(BASE, connection), name_row(connection));
        super::connection(BASE, &schedule, claim.as_ref(), &name, &record(connection))
    }

    #[test]
    fn what_is_written_reads_back() {
        let ready = example();
        assert_eq!(read_back(&ready).unwrap(), ready);
        let holder = Holder { boot: u64::MAX, process: 1 << 63, worker: u32::MAX, incarnation: 0 };
        let claim = Claim { attempt: ready.attempt, holder, claimed_at: at(12) };
        let doubt = Doubt { first_sent_at: at(13), failures: 1, next: DoubtStep::Resend };
        let claimed = Connection { state: State::Claimed { claim, waiting: Waiting::InDoubt(doubt) }, ..ready.clone() };
        assert_eq!(read_back(&claimed).unwrap(), claimed);
        let ended = State::NeedsReauth { cause: FailureCode::InvalidGrant, at: Timestamp::NEVER };
        let ended = Connection { state: ended, ..ready };
        assert_eq!(read_back(&ended).unwrap(), ended);
    }

    #[test]
    fn fields_of_a_newer_version_do_no_harm() {
        let connection = example();
        let (schedule, name) = (schedule_row(BASE, &connection), name_row(&connection));
        let newer = record(&connection).record.replacen('{', r#"{"brand_new":{"x":[1]},"#, 1);
        let newer = RecordRow { record: newer, ..record(&connection) };
        assert_eq!(super::connection(BASE, &schedule, None, &name, &newer).unwrap(), connection);
    }

    #[test]
    fn what_an_old_version_wrote_still_reads() {
        let (schedule, name) = (schedule_row(BASE, &example()), name_row(&example()));
        let old = r#"{"scopes":["read"],"renewal":"refresh_token","times":{"issued_at":-999999,"planned_at":-999996},
            "last_success":-1000008,"refreshed":true,"stats":{"attempted":1,"succeeded":1,"failed":0}}"#;
        let old = RecordRow { record: old.to_owned(), ..record(&example()) };
        let found = super::connection(BASE, &schedule, None, &name, &old).unwrap();
        assert_eq!((found.times.issued_at, found.times.expires_at, found.last_error), (at(1), None, None));
    }

    #[test]
    fn damage_is_named() {
        let connection = example();
        let (schedule, name, record) = (schedule_row(BASE, &connection), name_row(&connection), record(&connection));
        let read = |schedule: &ScheduleRow, name: &NameRow, record: &RecordRow| {
            super::connection(BASE, schedule, None, name, record).unwrap_err().to_string()
        };
        let cases = [
            (read(&ScheduleRow { phase: 9, ..schedule.clone() }, &name, &record), "phase is 9"),
            (read(&ScheduleRow { due_at: None, ..schedule.clone() }, &name, &record), "due time is missing"),
            (read(&ScheduleRow { waiting: 2, ..schedule.clone() }, &name, &record), "waits for 2"),
            (read(&ScheduleRow { grant: -1, ..schedule.clone() }, &name, &record), "grant number is -1"),
            (read(&ScheduleRow { paused: 2, ..schedule.clone() }, &name, &record), "`paused` is 2"),
            (read(&schedule, &NameRow { name: "a/b".into(), ..name.clone() }, &record), "`a/b` is not a name"),
            (read(&schedule, &NameRow { labels: "[]".into(), ..name.clone() }, &record), "its labels: "),
            (read(&schedule, &name, &RecordRow { record: "{".into(), ..record.clone() }), "its record: "),
        ];
        for (message, what) in cases {
            assert!(message.contains("connection number 7: ") && message.contains(what), "{message}");
        }
    }

    #[test]
    fn never_stays_never_and_every_other_time_moves_with_its_base() {
        assert_eq!(BASE.store(Timestamp::NEVER), i64::MAX);
        assert_eq!(BASE.load(i64::MAX), Timestamp::NEVER);
        let moved = TimeBase(BASE.0 + 5);
        assert_eq!(moved.load(BASE.store(at(1))), at(6));
    }

    #[test]
    fn used_fingerprints_are_kept_once_and_not_without_end() {
        let print = |number: u8| [number; 16];
        let mut used = Vec::new();
        push_used(&mut used, None, Some(print(0)));
        push_used(&mut used, Some(print(0)), Some(print(0)));
        assert!(used.is_empty());
        for number in 0..40 {
            push_used(&mut used, Some(print(number)), Some(print(number + 1)));
        }
        assert_eq!((used.len(), used[0]), (FINGERPRINTS_MAX, print(8)));
        push_used(&mut used, Some(print(9)), None);
        assert_eq!((used.len(), used[31]), (FINGERPRINTS_MAX, print(9)));
    }
}
