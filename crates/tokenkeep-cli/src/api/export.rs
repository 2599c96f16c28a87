//! `/v1/connections/{name}/export`: the whole token set, on the socket only.
//!
//! It is a POST, so that no page, prefetch or link does it.

use super::Api;
use super::json::Times;
use super::openapi::TokenFile;
use super::params::Named;
use super::problem::Problem;
use super::token::secret;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};
use tokenkeep::Exported;
use tokenkeep_core::Timestamp;

/// The token set as a token file (interface section 4). That it was given away stands in the log.
#[utoipa::path(post, path = "/v1/connections/{name}/export", operation_id = "export_connection", tag = "socket only",
    params(Named), extensions(("x-socket-only" = json!(true))), responses(
    (status = 200, description = "A token file.", body = TokenFile),
    (status = 404, description = "`not_found`: there is no such connection."),
    (status = 409, description = "`needs_reauth`: there is no token set."),
))]
pub async fn post(State(api): State<Api>, named: Named) -> Result<Response, Problem> {
    let key = named.only()?;
    let exported = api.keep.export(&key).await.map_err(|error| api.problem(&error))?;
    let internal = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", why);
    let fields = token_file(&exported, &api.times()).ok_or_else(|| internal("the stored fields are none".into()))?;
    let text = serde_json::to_string_pretty(&fields).map_err(|error| internal(error.to_string()))?;
    tracing::warn!(connection = %key, generation = exported.connection.generation.0, "the whole token set was exported");
    Ok(secret("application/json", text + "\n"))
}

/// As requests-oauthlib and Authlib write it: what the provider sent beside the token stays, `expires_at` is a whole
/// number, and what nobody knows is left out. `expires_in` is the life that the token had from its issue.
///
/// The files that the daemon keeps are written elsewhere (the library's `token_file/format.rs`): they must always state an
/// end, and keep what stands there. An export says what is known alone, so that an import of it reads back equal.
fn token_file(exported: &Exported, times: &Times) -> Option<Map<String, Value>> {
    let Exported { connection, tokens } = exported;
    let mut fields: Map<String, Value> = serde_json::from_str(tokens.extra.expose()).ok()?;
    // What the provider sent under our names is older, or was read into what follows.
    for name in ["expires_at", "expires_in"] {
        fields.remove(name);
    }
    let mut put = |name: &str, value: Option<Value>| value.and_then(|value| fields.insert(name.to_owned(), value));
    put("access_token", Some(tokens.access_token.expose().into()));
    put("refresh_token", tokens.refresh_token.as_ref().map(|token| token.expose().into()));
    put("token_type", Some(tokens.token_type.as_str().into()));
    put("scope", Some(connection.scopes.join(" ")).filter(|scope| !scope.is_empty()).map(Value::from));
    put("expires_at", connection.times.expires_at.and_then(|at| wall_seconds(at, times)).map(Value::from));
    let said = connection.times.lifetime.filter(|_| !connection.times.lifetime_learned);
    put("expires_in", said.map(|life| life.as_secs().into()));
    Some(fields)
}

/// Whole seconds since the Unix epoch on the wall clock, to the nearest: between the steady and the wall clock a
/// millisecond is lost now and then, and what was imported is to read back equal.
fn wall_seconds(at: Timestamp, times: &Times) -> Option<i64> {
    times.wall(at).map(|wall| (wall.as_millis() + 500).div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::{connection, times};
    use super::*;
    use serde_json::json;
    use std::time::Duration;
    use tokenkeep_core::Secret;
    use tokenkeep_core::oauth::TokenSet;

    fn exported(extra: &str) -> Exported {
        let tokens = TokenSet {
            access_token: Secret::new("a"),
            refresh_token: Some(Secret::new("r")),
            token_type: "Bearer".to_owned(),
            extra: Secret::new(extra),
        };
        let mut connection = connection();
        connection.scopes = vec!["x".to_owned(), "y".to_owned()];
        connection.times.lifetime = Some(Duration::from_secs(3_600));
        connection.times.lifetime_learned = false;
        Exported { connection, tokens }
    }

    #[test]
    fn a_token_file_has_whole_seconds_and_what_the_provider_sent() {
        let (times, mut exported) = (times(), exported(r#"{"id_token":"i","expires_at":"old","n":1.5}"#));
        exported.connection.times.expires_at = Some(times.steady(Timestamp::from_millis(1_799_999_999_999)));
        let expected = json!({
            "access_token": "a", "refresh_token": "r", "token_type": "Bearer", "scope": "x y",
            "expires_at": 1_800_000_000, "expires_in": 3_600, "id_token": "i", "n": 1.5,
        });
        assert_eq!(Value::Object(token_file(&exported, &times).unwrap()), expected);
    }

    #[test]
    fn what_nobody_knows_is_left_out() {
        let mut exported = exported("{}");
        exported.connection.times.expires_at = None;
        exported.connection.times.lifetime_learned = true;
        exported.connection.scopes.clear();
        exported.tokens.refresh_token = None;
        let file = token_file(&exported, &times()).unwrap();
        assert_eq!(Value::Object(file), json!({"access_token": "a", "token_type": "Bearer"}));
    }
}
