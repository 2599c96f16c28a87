//! The API's JSON forms (interface section 2): written by the daemon, read by the commands.

use super::openapi::{EventType, StatusName, Time};
use jiff::Timestamp as Date;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use tokenkeep::events::Progress;
use tokenkeep::store::{Event, Summary};
use tokenkeep::{Handed, KeptFile, KeyState, Rotation, TokenKeep};
use tokenkeep_core::failure::next_step_for;
use tokenkeep_core::model::{LastError, State, Status};
use tokenkeep_core::{Connection, FailureCode, Timestamp};
use utoipa::ToSchema;

/// Turns the library's steady times into what people read. Taken once for each answer.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Now, on the steady clock.
    pub now: Timestamp,
    /// The wall clock is this many milliseconds ahead of the steady one.
    offset_ms: i64,
}

impl Times {
    /// Of this moment.
    #[must_use]
    pub fn of(keep: &TokenKeep) -> Self {
        let now = keep.now();
        Self::new(now, keep.wall(now))
    }

    /// From both clocks at one moment.
    #[must_use]
    pub fn new(now: Timestamp, wall: Timestamp) -> Self {
        let offset_ms = wall.as_millis().saturating_sub(now.as_millis());
        Self { now, offset_ms }
    }

    /// RFC 3339 in UTC with milliseconds; `None` for what is never, or beyond any calendar.
    #[must_use]
    pub fn text(&self, at: Timestamp) -> Option<String> {
        let date = Date::from_millisecond(self.wall(at)?.as_millis()).ok()?;
        Some(format!("{date:.3}"))
    }

    /// A steady time as the wall clock shows it; `None` for what is never.
    #[must_use]
    pub fn wall(&self, at: Timestamp) -> Option<Timestamp> {
        (at != Timestamp::NEVER).then(|| at.shifted(self.offset_ms))
    }

    /// The steady time of a time that somebody read off the wall clock.
    #[must_use]
    pub fn steady(&self, wall: Timestamp) -> Timestamp {
        wall.shifted(self.offset_ms.saturating_neg())
    }
}

/// A time of the wall clock, as [`Times::text`] writes times.
#[must_use]
pub fn wall_text(at: Timestamp) -> Option<String> {
    Times { now: at, offset_ms: 0 }.text(at)
}

/// Reads an RFC 3339 time.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let date: Date = text.parse().ok()?;
    Some(Timestamp::from_millis(date.as_millisecond()))
}

/// One page of something.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
pub struct Page<T> {
    /// The page.
    pub items: Vec<T>,
    /// Where the next page starts; `null` at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// A connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Connection)]
pub struct ConnectionJson {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The provider's name in the configuration.
    pub provider: String,
    /// Where it stands.
    #[schema(value_type = StatusName)]
    pub status: String,
    /// Token sets so far.
    pub generation: u64,
    /// When the access token ends.
    #[schema(required, value_type = Option<Time>)]
    pub access_expires_at: Option<String>,
    /// When the next attempt may start.
    #[schema(required, value_type = Option<Time>)]
    pub refresh_due_at: Option<String>,
    /// When the refresh token ends, where known.
    #[schema(required, value_type = Option<Time>)]
    pub refresh_expires_at: Option<String>,
    /// When the consent ends, where known.
    #[schema(required, value_type = Option<Time>)]
    pub consent_expires_at: Option<String>,
    /// When somebody must have signed in again; left out until that is near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Time>)]
    pub sign_in_by: Option<String>,
    /// When it last got a token set by refresh.
    #[schema(required, value_type = Option<Time>)]
    pub last_refreshed_at: Option<String>,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// The last failure since the last success.
    #[schema(required)]
    pub last_error: Option<LastErrorJson>,
    /// Attempts since it was made.
    pub stats: StatsJson,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// What its owner attached.
    pub labels: BTreeMap<String, String>,
    /// The token files that are kept for it; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_files: Vec<TokenFileJson>,
    /// The other connections of its grant: what ends it ends them all. Told of a single connection alone, and left out
    /// where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares_grant_with: Vec<String>,
}

/// A token file that is kept for a connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = KeptTokenFile)]
pub struct TokenFileJson {
    /// Where it is.
    pub path: String,
    /// When this daemon last wrote it.
    #[schema(required, value_type = Option<Time>)]
    pub written_at: Option<String>,
    /// Why it is not current, if it is not.
    #[schema(required)]
    pub error: Option<String>,
}

/// A failure, with what to do about it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = LastError)]
pub struct LastErrorJson {
    /// Its code in the failure catalogue.
    pub code: String,
    /// What happened, with the evidence.
    pub message: String,
    /// When.
    #[schema(required, value_type = Option<Time>)]
    pub at: Option<String>,
    /// What to do.
    pub next_action: String,
}

/// Counts of attempts.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Stats)]
pub struct StatsJson {
    /// Attempts.
    pub attempted: u64,
    /// Those that brought a token set.
    pub succeeded: u64,
    /// Those that did not.
    pub failed: u64,
}

impl ConnectionJson {
    /// As it is at `times.now`.
    #[must_use]
    pub fn new(connection: &Connection, times: &Times) -> Self {
        let text = |at: Option<Timestamp>| at.and_then(|at| times.text(at));
        let refreshed = connection.refreshed.then_some(connection.last_success);
        Self {
            name: connection.key.name().to_owned(),
            namespace: connection.key.namespace().to_owned(),
            provider: connection.provider.clone(),
            status: connection.status(times.now).as_str().to_owned(),
            generation: connection.generation.0,
            access_expires_at: text(connection.times.expires_at),
            refresh_due_at: text(connection.due_at()),
            refresh_expires_at: text(connection.times.refresh_end.map(|end| end.at)),
            consent_expires_at: text(connection.times.consent_end.map(|end| end.at)),
            sign_in_by: text(connection.sign_in_by(times.now)),
            last_refreshed_at: text(refreshed),
            attempts: connection.failures(),
            last_error: last_error(connection, times),
            stats: StatsJson {
                attempted: connection.stats.attempted,
                succeeded: connection.stats.succeeded,
                failed: connection.stats.failed,
            },
            scopes: connection.scopes.clone(),
            labels: connection.labels.clone(),
            token_files: Vec::new(),
            shares_grant_with: Vec::new(),
        }
    }

    /// With the token files that are kept for it.
    #[must_use]
    pub fn with_token_files(mut self, files: Vec<KeptFile>, times: &Times) -> Self {
        let json = |file: KeptFile| TokenFileJson {
            path: file.path.to_string_lossy().into_owned(),
            written_at: file.written_at.and_then(|at| times.text(at)),
            error: file.trouble.map(|trouble| trouble.message),
        };
        self.token_files = files.into_iter().map(json).collect();
        self
    }
}

/// What holds or ended the connection, where that says more than its last failure.
fn last_error(connection: &Connection, times: &Times) -> Option<LastErrorJson> {
    let told = |code: FailureCode, message: String, at: Option<String>| LastErrorJson {
        code: code.as_str().to_owned(),
        message,
        at,
        next_action: next_step_for(code.next_step(), &connection.key.to_string()),
    };
    let last = connection.last_error.as_ref();
    let of = |error: &LastError| told(error.failure.code, error.failure.message(), times.text(error.at));
    let same = |code: FailureCode| last.filter(|error| error.failure.code == code).map(of);
    let bare = |code: FailureCode, at| Some(told(code, code.sentence().to_owned(), at));
    match (&connection.state, &connection.hold) {
        (State::NeedsReauth { cause, at }, _) => same(*cause).or_else(|| bare(*cause, times.text(*at))),
        (_, Some(hold)) => same(hold.cause).or_else(|| bare(hold.cause, None)),
        _ => last.map(of),
    }
}

/// A token, for whoever asked. It has no `Debug`: it holds a secret.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenJson<'a> {
    /// The access token.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub access_token: Cow<'a, str>,
    /// Its type, `Bearer` nearly always.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub token_type: Cow<'a, str>,
    /// When it ends; `null` when nobody knows.
    #[schema(required, value_type = Option<Time>)]
    pub expires_at: Option<String>,
    /// Whole seconds until then.
    #[schema(required)]
    pub expires_in: Option<u64>,
    /// Granted scopes, separated by blanks.
    pub scope: String,
    /// Which token set it belongs to.
    pub generation: u64,
    /// It lives shorter than asked for.
    pub stale: bool,
    /// What to know about it.
    #[serde(borrow)]
    #[schema(value_type = Vec<String>)]
    pub warnings: Vec<Cow<'a, str>>,
}

impl<'a> TokenJson<'a> {
    /// What was handed out at `times.now`.
    #[must_use]
    pub fn new(handed: &'a Handed, times: &Times) -> Self {
        let token = &handed.token;
        Self {
            access_token: token.access_token.expose().into(),
            token_type: token.token_type.as_str().into(),
            expires_at: handed.expires_at.and_then(|at| times.text(at)),
            expires_in: handed.expires_at.map(|at| times.now.until(at).as_secs()),
            scope: token.scopes.join(" "),
            generation: token.generation,
            stale: handed.stale,
            warnings: handed.warnings.iter().map(|code| Cow::Borrowed(code.as_str())).collect(),
        }
    }
}

/// One thing that happened.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Event)]
pub struct EventJson {
    /// Its number.
    pub id: u64,
    /// When.
    #[schema(required, value_type = Option<Time>)]
    pub at: Option<String>,
    /// The connection's namespace.
    #[schema(required)]
    pub namespace: Option<String>,
    /// The connection's name; `null` for what concerns a provider or the system.
    #[schema(required)]
    pub connection: Option<String>,
    /// What kind of thing.
    #[schema(value_type = EventType)]
    pub r#type: String,
    /// The failure's code, where it is about one.
    #[schema(required)]
    pub code: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Numbers and names for programs.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

impl EventJson {
    /// Of a stored event.
    #[must_use]
    pub fn new(event: &Event, times: &Times) -> Self {
        let Event { id, event } = event;
        let data = RawValue::from_string(event.data.clone());
        Self {
            id: *id,
            at: times.text(event.at),
            namespace: event.connection.as_ref().map(|key| key.namespace().to_owned()),
            connection: event.connection.as_ref().map(|key| key.name().to_owned()),
            r#type: event.kind.as_str().to_owned(),
            code: event.code.map(|code| code.as_str().to_owned()),
            message: event.message.clone(),
            data: data.unwrap_or_else(|_| RawValue::NULL.to_owned()),
        }
    }
}

/// The beginning of a stream.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HelloJson {
    /// The daemon's time.
    pub at: Option<String>,
    /// The number of the newest event.
    pub last_id: u64,
}

/// What a reader of a stream shows is to be fetched again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ResyncJson {
    /// `gone`, `unknown` or `behind`.
    pub reason: String,
    /// The stream goes on behind this event.
    pub last_id: u64,
}

/// How far an attempt has come.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct StepJson {
    /// The connection's namespace.
    pub namespace: String,
    /// The connection's name.
    pub connection: String,
    /// Which attempt of it.
    pub attempt: u64,
    /// `claimed`, `sent`, `answered`, `stored` or `published`.
    pub step: String,
    /// When.
    pub at: Option<String>,
}

impl StepJson {
    /// Of what the engine told.
    #[must_use]
    pub fn new(progress: &Progress, times: &Times) -> Self {
        Self {
            namespace: progress.connection.namespace().to_owned(),
            connection: progress.connection.name().to_owned(),
            attempt: progress.attempt.0,
            step: progress.milestone.as_str().to_owned(),
            at: times.text(progress.at),
        }
    }
}

/// Counts of the whole fleet or of one namespace.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Summary)]
pub struct SummaryJson {
    /// How many connections there are.
    pub total: u64,
    /// How many have each status; every status is there.
    pub by_status: BTreeMap<String, u64>,
    /// When the next refresh is due.
    #[schema(required, value_type = Option<Time>)]
    pub next_refresh_at: Option<String>,
    /// When the first access token ends.
    #[schema(required, value_type = Option<Time>)]
    pub earliest_expiry_at: Option<String>,
    /// The rotation of the master key that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key_rotation: Option<RotationJson>,
}

impl SummaryJson {
    /// Of the library's counts.
    #[must_use]
    pub fn new(summary: &Summary, times: &Times) -> Self {
        let count = |status: Status| summary.by_status.get(&status).copied().unwrap_or(0);
        Self {
            total: Status::ALL.into_iter().map(count).sum(),
            by_status: Status::ALL.into_iter().map(|s| (s.as_str().to_owned(), count(s))).collect(),
            next_refresh_at: summary.next_due_at.and_then(|at| times.text(at)),
            earliest_expiry_at: summary.earliest_expiry.and_then(|at| times.text(at)),
            master_key_rotation: None,
        }
    }
}

/// The master key in use; it is never shown itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = MasterKey)]
pub struct KeyJson {
    /// The number by which sealed values name it, in hex.
    pub key_id: String,
    /// Where it comes from.
    pub source: String,
    /// The file with the current key, while the configured source still gives the former one.
    #[schema(required)]
    pub take_over_from: Option<String>,
    /// The rotation that goes on.
    #[schema(required)]
    pub rotation: Option<RotationJson>,
}

/// How far a rotation of the master key is.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Rotation)]
pub struct RotationJson {
    /// Token sets.
    pub total: u64,
    /// Those that are done with.
    pub resealed: u64,
    /// Those among them that could not be read, and were left.
    pub unreadable: u64,
    /// Places of the journal whose attempts are waited for.
    pub journal_places: usize,
    /// Why it does not go on at the moment.
    #[schema(required)]
    pub waits_for: Option<String>,
}

impl KeyJson {
    /// Of the library's state.
    #[must_use]
    pub fn new(state: &KeyState) -> Self {
        Self {
            key_id: format!("{:08x}", state.key_id),
            source: state.source.clone(),
            take_over_from: state.take_over_from.as_ref().map(|path| path.display().to_string()),
            rotation: state.rotation.as_ref().map(RotationJson::new),
        }
    }
}

impl RotationJson {
    /// Of the library's state.
    #[must_use]
    pub fn new(rotation: &Rotation) -> Self {
        Self {
            total: rotation.total,
            resealed: rotation.resealed,
            unreadable: rotation.unreadable,
            journal_places: rotation.journal_places,
            waits_for: rotation.waits_for.clone(),
        }
    }
}

/// What became of an import.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Imported)]
pub struct ImportedJson {
    /// The connection's name.
    pub name: String,
    /// `created`, `renewed`, `already_held` or `already_used`.
    pub result: String,
    /// The connection as it is now; left out in answers to many imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionJson>,
}

/// An import of many that failed.
#[derive(Serialize, Deserialize, Debug)]
pub struct ImportFailedJson {
    /// The connection's name, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The line, from 1.
    pub line: u64,
    /// Why.
    pub error: super::problem::Problem,
}

/// How many connections were resumed.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Resumed)]
pub struct ResumedJson {
    /// How many.
    pub resumed: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;
    use tokenkeep::Token;
    use tokenkeep::Warning;
    use tokenkeep::store::{EventKind, NewEvent};
    use tokenkeep_core::model::{
        AttemptNumber, ConnectionId, ConnectionKey, Generation, GrantNumber, Hold, Renewal, Stats, TokenTimes, Waiting,
    };
    use tokenkeep_core::{Failure, Secret};

    /// 2026-11-23T10:00:00Z by the wall clock, one second less by the steady one.
    pub(crate) fn times() -> Times {
        let wall = parse_time("2026-11-23T10:00:00Z").unwrap();
        Times::new(wall - Duration::from_secs(1), wall)
    }

    pub(crate) fn connection() -> Connection {
        let now = times().now;
        Connection {
            id: ConnectionId(7),
            key: ConnectionKey::in_default("jira").unwrap(),
            provider: "atlassian".to_owned(),
            labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
            scopes: vec!["read".to_owned(), "offline_access".to_owned()],
            renewal: Renewal::RefreshToken,
            grant: GrantNumber(1),
            generation: Generation(3),
            attempt: AttemptNumber(2),
            committed: AttemptNumber(2),
            origin: tokenkeep_core::model::Origin::default(),
            times: TokenTimes {
                issued_at: now,
                expires_at: Some(now + Duration::from_secs(3600)),
                lifetime: Some(Duration::from_secs(3600)),
                lifetime_learned: false,
                planned_at: now,
                refresh_end: None,
                consent_end: None,
            },
            state: State::Ready { due_at: now + Duration::from_secs(2400), waiting: Waiting::Schedule },
            paused: false,
            hold: None,
            last_success: now,
            refreshed: true,
            last_error: None,
            stats: Stats { attempted: 3, succeeded: 2, failed: 1 },
        }
    }

    #[test]
    fn a_connection_has_the_documented_form() {
        let value = serde_json::to_value(ConnectionJson::new(&connection(), &times())).unwrap();
        let expected = json!({
            "name": "jira", "namespace": "default", "provider": "atlassian", "status": "fresh", "generation": 3,
            "access_expires_at": "2026-11-23T11:00:00.000Z", "refresh_due_at": "2026-11-23T10:40:00.000Z",
            "refresh_expires_at": null, "consent_expires_at": null,
            "last_refreshed_at": "2026-11-23T10:00:00.000Z", "attempts": 0, "last_error": null,
            "stats": {"attempted": 3, "succeeded": 2, "failed": 1},
            "scopes": ["read", "offline_access"], "labels": {"team": "a"}
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn an_import_that_was_never_refreshed_says_so() {
        let imported = Connection { refreshed: false, ..connection() };
        assert_eq!(ConnectionJson::new(&imported, &times()).last_refreshed_at, None);
    }

    #[test]
    fn the_last_error_names_the_cause_and_the_remedy() {
        let at = times().now;
        let failed = LastError { failure: Failure::new(FailureCode::Timeout, "after 30 s"), at };
        let mut connection = Connection { last_error: Some(failed), ..connection() };
        let error = ConnectionJson::new(&connection, &times()).last_error.unwrap();
        assert_eq!(
            serde_json::to_value(&error).unwrap(),
            json!({
                "code": "timeout", "message": "The provider did not answer in time. (after 30 s)",
                "at": "2026-11-23T10:00:00.000Z", "next_action": FailureCode::Timeout.next_step()
            })
        );
        connection.state = State::NeedsReauth { cause: FailureCode::LostInFlight, at };
        let json = ConnectionJson::new(&connection, &times());
        assert_eq!((json.status.as_str(), json.last_error.unwrap().code.as_str()), ("needs_reauth", "lost_in_flight"));
        connection.state = State::Ready { due_at: at, waiting: Waiting::Schedule };
        connection.hold = Some(Hold { cause: FailureCode::InvalidClient, probe_at: None });
        let json = ConnectionJson::new(&connection, &times());
        assert_eq!((json.status.as_str(), json.refresh_due_at), ("held", None));
        assert_eq!(json.last_error.unwrap().code, "invalid_client");
    }

    #[test]
    fn a_token_has_the_documented_form() {
        let token = Token {
            access_token: Secret::new("aaa\"1"),
            token_type: "Bearer".to_owned(),
            ends_at: None,
            scopes: vec!["a".to_owned(), "b".to_owned()],
            generation: 4,
        };
        let handed = Handed {
            token: Arc::new(token),
            expires_at: Some(times().now + Duration::from_millis(59_999)),
            stale: true,
            warnings: Arc::new([Warning::UnknownAge]),
        };
        let text = serde_json::to_string(&TokenJson::new(&handed, &times())).unwrap();
        assert_eq!(
            text,
            r#"{"access_token":"aaa\"1","token_type":"Bearer","expires_at":"2026-11-23T10:00:59.999Z","expires_in":59,"scope":"a b","generation":4,"stale":true,"warnings":["unknown_age"]}"#
        );
        let read: TokenJson<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!((read.access_token.as_ref(), read.expires_in), ("aaa\"1", Some(59)));
    }

    #[test]
    fn an_event_has_the_documented_form() {
        let key = ConnectionKey::new("team", "jira").unwrap();
        let event = NewEvent {
            code: Some(FailureCode::Timeout),
            data: r#"{"attempt": 3}"#.to_owned(),
            ..NewEvent::new(EventKind::RefreshFailed, times().now, Some(&key), "no answer")
        };
        let value = serde_json::to_value(EventJson::new(&Event { id: 9, event }, &times())).unwrap();
        let expected = json!({
            "id": 9, "at": "2026-11-23T10:00:00.000Z", "namespace": "team", "connection": "jira",
            "type": "connection.refresh_failed", "code": "timeout", "message": "no answer", "data": {"attempt": 3}
        });
        assert_eq!(value, expected);
        let system = NewEvent::new(EventKind::SystemStarted, times().now, None, "up");
        let value = serde_json::to_value(EventJson::new(&Event { id: 1, event: system }, &times())).unwrap();
        assert_eq!((&value["connection"], &value["code"], &value["data"]), (&json!(null), &json!(null), &json!({})));
    }

    #[test]
    fn a_summary_counts_every_status() {
        let summary = Summary {
            by_status: BTreeMap::from([(Status::Fresh, 2), (Status::Held, 1)]),
            next_due_at: Some(times().now),
            earliest_expiry: Some(Timestamp::NEVER),
        };
        let value = serde_json::to_value(SummaryJson::new(&summary, &times())).unwrap();
        assert_eq!(value["total"], 3);
        assert_eq!(value["by_status"].as_object().unwrap().len(), Status::ALL.len());
        assert_eq!((&value["by_status"]["fresh"], &value["by_status"]["paused"]), (&json!(2), &json!(0)));
        assert_eq!(value["next_refresh_at"], "2026-11-23T10:00:00.000Z");
        assert_eq!(value["earliest_expiry_at"], json!(null));
    }

    #[test]
    fn times_beyond_the_calendar_are_absent() {
        assert_eq!(times().text(Timestamp::NEVER), None);
        assert_eq!(times().text(Timestamp::from_millis(i64::MAX - 5)), None);
        let wall = parse_time("2026-11-23T10:00:00Z").unwrap();
        assert_eq!(times().steady(wall), times().now);
    }
}
