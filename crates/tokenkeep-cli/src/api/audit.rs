//! `/v1/audit`: who did what, and whether the trail of it is whole.

use super::Api;
use super::events::event_number;
use super::json::{Page, wall_text};
use super::openapi::PagedByNumber;
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use tokenkeep::audit::{Audit, AuditQuery, Record, Tag, Verified};
use utoipa::ToSchema;

/// A record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
pub struct RecordJson {
    /// Its number.
    pub id: u64,
    /// When.
    pub at: Option<String>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: Option<String>,
    /// What came of it: an HTTP status, or how often.
    pub outcome: u64,
    /// Its link in the chain, in hex digits.
    pub tag: String,
}

/// What a look at the whole trail found.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, ToSchema)]
pub struct VerifiedJson {
    /// Whether it is whole.
    pub whole: bool,
    /// How many records were looked at.
    pub records: u64,
    /// The number of the last one.
    pub head_id: Option<u64>,
    /// The tag of the last one: keep it elsewhere, and compare.
    pub head_tag: Option<String>,
    /// The first record that is not as it was.
    pub broken_at: Option<u64>,
    /// What is wrong with it.
    pub message: Option<String>,
}

fn hex(tag: &Tag) -> String {
    tag.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl From<Record> for RecordJson {
    fn from(record: Record) -> Self {
        let Record { id, record, tag } = record;
        Self {
            id,
            at: wall_text(record.at),
            actor: record.actor,
            action: record.action,
            target: record.target,
            outcome: record.outcome,
            tag: hex(&tag),
        }
    }
}

impl From<Verified> for VerifiedJson {
    fn from(found: Verified) -> Self {
        let Verified { records, head, broken } = found;
        Self {
            whole: broken.is_none(),
            records,
            head_id: head.map(|(id, _)| id),
            head_tag: head.map(|(_, tag)| hex(&tag)),
            broken_at: broken.as_ref().map(|(id, _)| *id),
            message: broken.map(|(id, what)| format!("Record {id}: {what}.")),
        }
    }
}

fn trail(api: &Api) -> Result<&Audit, Problem> {
    api.keep.audit().ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, "no_state_folder", "an instance without a state folder has no audit trail")
    })
}

/// A page of records, oldest first.
#[utoipa::path(get, path = "/v1/audit", operation_id = "list_audit", tag = "admin",
    params(PagedByNumber, ("after" = Option<u64>, Query, description = "Behind the record of this number.")),
    security(("api_key" = ["admin"])), responses((status = 200, description = "The page.", body = Page<RecordJson>)))]
pub async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Page<RecordJson>>, Problem> {
    let mut params = Params::new(query.as_deref());
    let limit = params.limit()?;
    let number = "the number of a record";
    let after = params.parsed("after", number, event_number)?;
    let cursor = params.parsed("cursor", number, event_number)?;
    params.finish()?;
    let query = AuditQuery { after: cursor.or(after).unwrap_or(0), limit };
    let found = trail(&api)?.read(query).await.map_err(|error| api.problem(&error))?;
    let next_cursor = found.last().filter(|_| found.len() >= limit).map(|record| record.id.to_string());
    Ok(Json(Page { items: found.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Looks at every record.
#[utoipa::path(post, path = "/v1/audit/verify", operation_id = "verify_audit", tag = "admin",
    security(("api_key" = ["admin"])), responses((status = 200, description = "What was found.", body = VerifiedJson)))]
pub async fn verify(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<VerifiedJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let found = trail(&api)?.verify().await.map_err(|error| api.problem(&error))?;
    Ok(Json(found.into()))
}
