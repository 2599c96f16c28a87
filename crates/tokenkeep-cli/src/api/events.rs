//! `/v1/events`: the history, oldest first.

use super::Api;
use super::access::Caller;
use super::json::{EventJson, Page, Times, parse_time};
use super::openapi::{Name, OfNamespace, PagedByNumber, Time};
use super::params::{Params, key};
use super::problem::Problem;
use axum::Json;
use axum::extract::{RawQuery, State};
use tokenkeep::store::EventQuery;

/// What a number of an event is, for messages.
pub const EVENT_NUMBER: &str = "an event's number";

/// Reads the number of an event, or of a record; the store counts them in 64 bits with a sign.
#[must_use]
pub fn event_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&number| i64::try_from(number).is_ok())
}

/// A page: of one connection with `?connection=`, from a time with `?since=`, behind an event with `?after=`.
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "events",
    params(
        OfNamespace, PagedByNumber,
        ("connection" = Option<Name>, Query, description = "Of this connection alone; `namespace` needs it."),
        ("after" = Option<u64>, Query, description = "Behind the event of this number."),
        ("since" = Option<Time>, Query, description = "From this time on."),
    ),
    security(("api_key" = ["status"])), responses(
    (status = 200, description = "The page.", body = Page<EventJson>),
))]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<EventJson>>, Problem> {
    let times = api.times();
    let query = read(query.as_deref(), &times)?;
    // As of one that does not exist.
    if query.connection.as_ref().is_some_and(|key| !caller.sees(key)) {
        return Ok(Json(Page { items: Vec::new(), next_cursor: None }));
    }
    let events = api.keep.events(&query).await.map_err(|error| api.problem(&error))?;
    let full = events.len() >= query.limit;
    let next_cursor = events.last().filter(|_| full).map(|event| event.id.to_string());
    let heard = events.iter().filter(|event| caller.hears(event.event.connection.as_ref()));
    let items = heard.map(|event| EventJson::new(event, &times)).collect();
    Ok(Json(Page { items, next_cursor }))
}

fn read(query: Option<&str>, times: &Times) -> Result<EventQuery, Problem> {
    let mut params = Params::new(query);
    let namespace = params.namespace()?;
    let connection = params.take("connection")?;
    let after = params.parsed("after", EVENT_NUMBER, event_number)?;
    let cursor = params.parsed("cursor", EVENT_NUMBER, |text| match text {
        "" => Some(None),
        text => event_number(text).map(Some),
    })?;
    let after = after.or(cursor.flatten());
    let query = EventQuery {
        after: after.unwrap_or(0),
        since: params.parsed("since", "a time such as 2026-11-23T10:00:00Z", parse_time)?.map(|at| times.steady(at)),
        newest: false,
        connection: connection.map(|name| key(namespace.as_deref(), &name)).transpose()?,
        limit: params.limit()?,
    };
    params.finish()?;
    if namespace.is_some() && query.connection.is_none() {
        return Err(Problem::invalid(
            "the parameter `namespace` is given without `connection`",
            "Give both, or neither for the events of everything.",
        ));
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::times;
    use super::*;

    #[test]
    fn a_query_is_read() {
        let query = read(Some("connection=jira&namespace=team&after=7&since=2026-11-23T10:00:00Z&limit=5"), &times());
        let query = query.unwrap();
        assert_eq!(query.connection.unwrap().to_string(), "team/jira");
        assert_eq!((query.after, query.limit, query.since), (7, 5, Some(times().now)));
        assert_eq!(read(Some("cursor=9"), &times()).unwrap().after, 9);
        assert_eq!(read(Some("cursor="), &times()).unwrap().after, 0);
        assert_eq!(read(None, &times()).unwrap(), EventQuery { limit: 100, ..EventQuery::default() });
    }

    #[test]
    fn a_wrong_query_is_refused() {
        for query in [
            "after=x",
            "after=9223372036854775808",
            "cursor=-1",
            "since=yesterday",
            "limit=0",
            "conection=x",
            "namespace=team",
            "connection=a/b",
        ] {
            assert_eq!(read(Some(query), &times()).unwrap_err().status, 400, "{query}");
        }
    }
}
