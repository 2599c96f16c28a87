//! `/v1/connections/{name}/timeline`: its token sets one after the other, and what is planned next.

use super::Api;
use super::json::Times;
use super::openapi::Time;
use super::params::Named;
use super::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokenkeep::store::{Event, EventKind, EventQuery};
use tokenkeep_core::model::{DoubtStep, State as Standing, Waiting};
use tokenkeep_core::{Connection, Timestamp};
use utoipa::ToSchema;

/// How many of a connection's newest events a timeline is made of.
pub const EVENTS_MAX: usize = 200;

/// A connection's token sets, oldest first, and what comes next.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Timeline)]
pub struct TimelineJson {
    /// The connection's name.
    pub connection: String,
    /// Its namespace.
    pub namespace: String,
    /// The newest token sets that its history tells of, oldest first.
    pub generations: Vec<GenerationJson>,
    /// What is planned.
    pub next: NextJson,
}

/// One token set.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, ToSchema)]
#[schema(as = Generation)]
pub struct GenerationJson {
    /// Its number.
    pub generation: u64,
    /// `connected` (a sign-in or an import) or `refreshed`.
    pub origin: &'static str,
    /// When it came.
    #[schema(required, value_type = Option<Time>)]
    pub issued_at: Option<String>,
    /// When its access token ends; `null` where nobody can say.
    #[schema(required, value_type = Option<Time>)]
    pub access_expires_at: Option<String>,
    /// The refresh was drawn from the time between this,
    #[schema(required, value_type = Option<Time>)]
    pub window_from: Option<String>,
    /// and this; `null` for what came with a sign-in or an import.
    #[schema(required, value_type = Option<Time>)]
    pub window_to: Option<String>,
    /// What was drawn; of the token set in hand alone.
    #[schema(required, value_type = Option<Time>)]
    pub planned_at: Option<String>,
    /// When the next one took its place.
    #[schema(required, value_type = Option<Time>)]
    pub replaced_at: Option<String>,
}

/// What is planned, and why then.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, ToSchema)]
#[schema(as = Next)]
pub struct NextJson {
    /// When; `null`: not by itself.
    #[schema(required, value_type = Option<Time>)]
    pub at: Option<String>,
    /// `schedule`, `retry`, `in_doubt`, `recheck`, `end`, `in_flight`, `held`, `paused` or `needs_reauth`.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
}

/// What the event of a refresh says in its `data`.
#[derive(Deserialize)]
struct Refreshed {
    generation: u64,
    life_seconds: u64,
    /// Since this is told.
    window_seconds: Option<(u64, u64)>,
}

#[derive(Deserialize)]
struct Connected {
    generation: u64,
}

/// Its token sets, from its history, and the refresh that is planned with the reason for its time.
#[utoipa::path(get, path = "/v1/connections/{name}/timeline", operation_id = "timeline", tag = "connections", params(Named),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The timeline.", body = TimelineJson),
    (status = 404, description = "`not_found`: there is no such connection."),
))]
pub async fn get(State(api): State<Api>, named: Named) -> Result<Json<TimelineJson>, Problem> {
    let key = named.only()?;
    let connection = api.keep.get(&key).await.map_err(|error| api.problem(&error))?;
    let query = EventQuery { connection: Some(key), newest: true, limit: EVENTS_MAX, ..EventQuery::default() };
    let events = api.keep.events(&query).await.map_err(|error| api.problem(&error))?;
    Ok(Json(timeline(&connection, &events, &api.times())))
}

fn timeline(connection: &Connection, events: &[Event], times: &Times) -> TimelineJson {
    let mut generations: Vec<GenerationJson> = Vec::new();
    for Event { event, .. } in events {
        let Some(generation) = generation(event.kind, event.at, &event.data, times) else { continue };
        if let Some(before) = generations.last_mut() {
            before.replaced_at.clone_from(&generation.issued_at);
        }
        generations.push(generation);
    }
    if let Some(in_hand) = generations.last_mut().filter(|last| last.generation == connection.generation.0) {
        let known = &connection.times;
        in_hand.issued_at = times.text(known.issued_at);
        in_hand.access_expires_at = known.expires_at.and_then(|at| times.text(at));
        in_hand.planned_at = times.text(known.planned_at);
    }
    TimelineJson {
        connection: connection.key.name().to_owned(),
        namespace: connection.key.namespace().to_owned(),
        generations,
        next: next(connection, times),
    }
}

fn generation(kind: EventKind, at: Timestamp, data: &str, times: &Times) -> Option<GenerationJson> {
    let after = |seconds| times.text(at + Duration::from_secs(seconds));
    let bare = |generation, origin| GenerationJson {
        generation,
        origin,
        issued_at: times.text(at),
        access_expires_at: None,
        window_from: None,
        window_to: None,
        planned_at: None,
        replaced_at: None,
    };
    match kind {
        EventKind::Connected => {
            serde_json::from_str(data).ok().map(|told: Connected| bare(told.generation, "connected"))
        }
        EventKind::Refreshed => serde_json::from_str(data).ok().map(|told: Refreshed| GenerationJson {
            access_expires_at: after(told.life_seconds),
            window_from: told.window_seconds.and_then(|(from, _)| after(from)),
            window_to: told.window_seconds.and_then(|(_, to)| after(to)),
            ..bare(told.generation, "refreshed")
        }),
        _ => None,
    }
}

fn next(connection: &Connection, times: &Times) -> NextJson {
    let (reason, message): (_, String) = match (&connection.state, &connection.hold) {
        (Standing::NeedsReauth { cause, .. }, _) => ("needs_reauth", cause.sentence().into()),
        _ if connection.paused => ("paused", "It is paused until somebody resumes it.".into()),
        (_, Some(hold)) => ("held", format!("{} It is tried again now and then.", hold.cause.sentence())),
        (Standing::Ready { waiting, .. }, None) => match waiting {
            Waiting::Schedule => (
                "schedule",
                "Drawn from the window, so that connections do not come together; the window leaves time for trouble \
                 before the access token ends."
                    .into(),
            ),
            Waiting::Retry { failures } => ("retry", format!("Tried again after {failures} failed attempts.")),
            Waiting::InDoubt(doubt) => ("in_doubt", doubted(doubt.next).into()),
            Waiting::Recheck => ("recheck", "The provider refused, which is checked once more.".into()),
            Waiting::End => ("end", "Nothing can renew it: then it ends.".into()),
        },
        (_, None) => ("in_flight", "An attempt is in flight.".into()),
    };
    NextJson { at: connection.due_at().and_then(|at| times.text(at)), reason, message }
}

const fn doubted(next: DoubtStep) -> &'static str {
    match next {
        DoubtStep::Resend => "An answer was lost; this provider takes the same refresh token again.",
        _ => "An answer was lost; whether the provider rotated is asked once, late.",
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::{connection, times};
    use super::*;
    use tokenkeep::store::NewEvent;
    use tokenkeep_core::FailureCode;
    use tokenkeep_core::model::Hold;

    fn event(id: u64, kind: EventKind, seconds: u64, data: &str) -> Event {
        let at = times().now + Duration::from_secs(seconds);
        Event { id, event: NewEvent { data: data.to_owned(), ..NewEvent::new(kind, at, None, "x") } }
    }

    #[test]
    fn each_token_set_has_its_window_and_its_end() {
        let events = [
            event(1, EventKind::Connected, 0, r#"{"grant":1,"generation":1}"#),
            event(2, EventKind::Refreshed, 100, r#"{"generation":2,"attempt":1,"life_seconds":3600}"#),
            event(3, EventKind::RefreshFailed, 150, "{}"),
            event(4, EventKind::Refreshed, 200, r#"{"generation":3,"life_seconds":3600,"window_seconds":[2000,2400]}"#),
        ];
        let found = timeline(&connection(), &events, &times());
        let [first, second, third] = &found.generations[..] else { panic!("{found:#?}") };
        assert_eq!((first.generation, first.origin, &first.replaced_at), (1, "connected", &second.issued_at));
        assert_eq!(second.access_expires_at.as_deref(), Some("2026-11-23T11:01:40.000Z"));
        assert_eq!((second.window_from.as_deref(), &second.planned_at), (None, &None));
        assert_eq!(third.window_from.as_deref(), Some("2026-11-23T10:36:40.000Z"));
        assert_eq!(third.window_to.as_deref(), Some("2026-11-23T10:43:20.000Z"));
        assert_eq!((third.planned_at.is_some(), &third.replaced_at), (true, &None));
        assert_eq!((found.next.reason, found.next.at.as_deref()), ("schedule", Some("2026-11-23T10:40:00.000Z")));
    }

    #[test]
    fn what_comes_next_has_its_reason() {
        let of = |connection: &Connection| next(connection, &times()).reason;
        let paused = Connection { paused: true, ..connection() };
        assert_eq!((of(&paused), next(&paused, &times()).at), ("paused", None));
        let hold = Some(Hold { cause: FailureCode::InvalidClient, probe_at: None });
        assert_eq!(of(&Connection { hold, ..connection() }), "held");
        let state = Standing::NeedsReauth { cause: FailureCode::InvalidGrant, at: times().now };
        assert_eq!(of(&Connection { state, ..connection() }), "needs_reauth");
        let state = Standing::Ready { due_at: times().now, waiting: Waiting::Retry { failures: 2 } };
        assert_eq!(of(&Connection { state, ..connection() }), "retry");
    }
}
