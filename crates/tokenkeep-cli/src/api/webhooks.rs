//! `/v1/webhooks`: where events are sent, and what became of each delivery.

use super::Api;
use super::import::whole;
use super::json::{EventJson, Page, Times, wall_text};
use super::openapi::Paged;
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::Arc;
use tokenkeep::store::Event;
use tokenkeep::webhooks::model::{
    Delivery, DeliveryId, DeliveryQuery, DeliveryStatus, Settings, Types, Webhook, WebhookId,
};
use tokenkeep::webhooks::{WebhookError, Webhooks};
use tokenkeep::{Error, TokenKeep};
use tokenkeep_core::event::EventKind;
use tokenkeep_core::model::{check_name, printable};
use tokenkeep_core::{Secret, Timestamp};
use utoipa::ToSchema;

/// The type of the message that `POST /v1/webhooks/{id}/test` sends.
pub const TEST_TYPE: &str = "webhook.test";
/// Why a webhook is disabled that somebody disabled.
const BY_HAND: &str = "It was disabled through the API.";

/// Lets the webhooks of this instance send events in the API's form.
///
/// # Errors
/// The store cannot be read.
pub async fn deliver(keep: &TokenKeep) -> Result<(), WebhookError> {
    let Ok(webhooks) = keep.webhooks() else { return Ok(()) };
    webhooks.deliver(Arc::new(body)).await
}

/// A message of Standard Webhooks.
#[derive(Serialize)]
struct MessageJson<'a, T> {
    r#type: &'a str,
    timestamp: Option<String>,
    data: T,
}

fn body(event: &Event, wall: &dyn Fn(Timestamp) -> Timestamp) -> String {
    let at = event.event.at;
    let data = EventJson::new(event, &Times::new(at, wall(at)));
    json(&MessageJson { r#type: event.event.kind.as_str(), timestamp: data.at.clone(), data })
}

fn json(value: &impl Serialize) -> String {
    // Structs of texts and numbers always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

/// A webhook.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Debug)]
pub struct WebhookJson {
    /// Its id: `wh_7`.
    pub id: String,
    /// Where its deliveries go.
    pub url: String,
    /// A word for people.
    pub description: String,
    /// The types of events that it gets; empty: all.
    pub types: Vec<String>,
    /// The namespace whose connections' events it gets; `null`: all events.
    pub namespace: Option<String>,
    /// Whether it sends.
    pub enabled: bool,
    /// Why it does not.
    pub disabled_reason: Option<String>,
    /// Since when it does not.
    pub disabled_at: Option<String>,
    /// When it was made.
    pub created_at: Option<String>,
    /// Deliveries that wait for their first or next attempt.
    pub pending: u64,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// When the first of them was.
    pub failing_since: Option<String>,
    /// The last success.
    pub last_delivered_at: Option<String>,
    /// Until when the former secret signs too.
    pub former_secret_until: Option<String>,
    /// The secret: shown once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl WebhookJson {
    /// As it is at `times.now`.
    #[must_use]
    pub fn new(webhook: &Webhook, times: &Times) -> Self {
        let text = |at: Option<Timestamp>| at.and_then(|at| times.text(at));
        let Settings { url, description, types, namespace } = webhook.settings.clone();
        Self {
            id: webhook.id.to_string(),
            url,
            description,
            types: types.names().to_vec(),
            namespace,
            enabled: webhook.disabled.is_none(),
            disabled_reason: webhook.disabled.as_ref().map(|disabled| disabled.reason.clone()),
            disabled_at: text(webhook.disabled.as_ref().map(|disabled| disabled.at)),
            created_at: times.text(webhook.created_at),
            pending: webhook.pending,
            failures: webhook.health.failures,
            failing_since: text(webhook.health.failing_since),
            last_delivered_at: text(webhook.delivered_at),
            former_secret_until: text(webhook.former_until.filter(|until| *until > times.now)),
            secret: None,
        }
    }

    fn with_secret(self, secret: &Secret) -> Self {
        Self { secret: Some(secret.expose().to_owned()), ..self }
    }
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Debug)]
pub struct DeliveryJson {
    /// Its id: `dlv_7`.
    pub id: String,
    /// `pending`, `delivered`, `failed` or `lost`.
    pub status: String,
    /// The `webhook-id` of the message: the same in every delivery of it.
    pub message_id: Option<String>,
    /// The event's number.
    pub event: Option<u64>,
    /// The event's type.
    pub r#type: Option<String>,
    /// The connection's namespace.
    pub namespace: Option<String>,
    /// The connection's name.
    pub connection: Option<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was written into the log.
    pub created_at: Option<String>,
    /// When the last attempt began.
    pub last_attempt_at: Option<String>,
    /// When the next attempt may begin; `null` also while it waits for an earlier event of its connection.
    pub next_attempt_at: Option<String>,
    /// The HTTP status of the last answer.
    pub answer_status: Option<u16>,
    /// What went wrong last.
    pub error: Option<String>,
    /// How long the last attempt took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// The delivery that this one repeats, because somebody asked.
    pub repeats: Option<String>,
}

impl DeliveryJson {
    /// As it is now.
    #[must_use]
    pub fn new(delivery: &Delivery, times: &Times) -> Self {
        let text = |at: Option<Timestamp>| at.and_then(|at| times.text(at));
        let message = delivery.message.as_ref();
        let key = message.and_then(|message| message.connection.as_ref());
        Self {
            id: delivery.id.to_string(),
            status: delivery.status.as_str().to_owned(),
            message_id: message.map(|message| message.id.clone()),
            event: message.and_then(|message| message.event),
            r#type: message.map(|message| message.kind.clone()),
            namespace: key.map(|key| key.namespace().to_owned()),
            connection: key.map(|key| key.name().to_owned()),
            attempts: delivery.attempts,
            created_at: times.text(delivery.created_at),
            last_attempt_at: text(delivery.last_at),
            next_attempt_at: text(delivery.next_at),
            answer_status: delivery.answer,
            error: delivery.error.clone(),
            duration_ms: delivery.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            repeats: delivery.repeats.map(|repeats| repeats.to_string()),
        }
    }
}

/// What a body may say about a webhook; of a `PATCH`, what is left out stays.
#[derive(Deserialize, Default, ToSchema, Debug)]
#[serde(deny_unknown_fields, default)]
struct WebhookBody {
    url: Option<String>,
    description: Option<String>,
    types: Option<Vec<String>>,
    /// The outer one: whether it is said at all.
    #[serde(deserialize_with = "said")]
    #[schema(value_type = Option<String>)]
    namespace: Option<Option<String>>,
    enabled: Option<bool>,
}

fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

const BODY_EXPECTED: &str = "Expected {\"url\": \"https://...\", \"types\": [\"connection.*\"], \"namespace\": \
     \"NAME\" or null, \"description\": \"...\", \"enabled\": true}; all but `url` may be left out.";

impl WebhookBody {
    async fn read(body: Body) -> Result<Self, Problem> {
        let body = whole(body).await?;
        serde_json::from_slice(&body).map_err(|error| Problem::unreadable(&error, BODY_EXPECTED))
    }

    /// Settings that differ from these in what it says.
    fn over(self, before: Settings) -> Result<Settings, Problem> {
        let types = self.types.map(|names| Types::new(names).map_err(|unknown| no_such_type(&unknown)));
        let namespace = self.namespace.unwrap_or(before.namespace);
        if let Some(wrong) = namespace.as_deref().filter(|name| check_name(name).is_err()) {
            let detail = format!("`namespace`: `{}` is no name of a namespace", printable(wrong, 60));
            return Err(Problem::invalid(detail, "Expected a namespace's name, or null for the events of all."));
        }
        Ok(Settings {
            url: self.url.unwrap_or(before.url),
            description: self.description.unwrap_or(before.description),
            types: types.transpose()?.unwrap_or(before.types),
            namespace,
        })
    }
}

fn no_such_type(unknown: &str) -> Problem {
    let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let what = match crate::suggest::nearest(unknown, names.iter().copied()) {
        Some(meant) => format!("Did you mean `{meant}`?"),
        None => format!("Expected `connection.*`, `provider.*`, `system.*`, or some of: {}.", names.join(", ")),
    };
    Problem::invalid(format!("`types`: there are no events of type `{}`", printable(unknown, 60)), what)
}

impl Api {
    fn webhooks(&self) -> Result<&Webhooks, Problem> {
        self.keep.webhooks().map_err(|error| self.problem(&error))
    }

    fn webhook_problem(&self, error: WebhookError) -> Problem {
        let detail = error.to_string();
        let conflict = |code, next: &str| Problem::new(StatusCode::CONFLICT, code, detail.clone()).next(next);
        match error {
            WebhookError::NotFound(_) => no_webhook(detail),
            WebhookError::NoDelivery(_) => Problem::not_found(detail)
                .next("List the deliveries with GET /v1/webhooks/{id}/deliveries; the oldest are forgotten."),
            WebhookError::Invalid { expected, .. } => Problem::invalid(detail, expected),
            WebhookError::TooMany => conflict("too_many", "Remove one that is not needed, or let one get more types."),
            WebhookError::Full => conflict("too_many", "Wait until some of them are delivered or given up."),
            WebhookError::Disabled => conflict("disabled", "Enable it first: PATCH with {\"enabled\": true}."),
            WebhookError::Lost => conflict("lost", "Nothing can be sent again; GET /v1/events has what is left."),
            WebhookError::Store(error) => self.problem(&Error::Store(error)),
        }
    }
}

fn no_webhook(detail: String) -> Problem {
    Problem::not_found(detail).next("List the webhooks with GET /v1/webhooks.")
}

fn webhook_id(text: &str) -> Result<WebhookId, Problem> {
    text.parse().map_err(|()| no_webhook(format!("there is no webhook `{}`", printable(text, 60))))
}

const NO_STORE: [(HeaderName, HeaderValue); 1] = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// Every webhook, in the order in which they were made; there are few, so one page is all.
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "list_webhooks", tag = "webhooks", security(("api_key" = ["manage"])),
    responses((status = 200, description = "All of them.", body = Page<WebhookJson>)))]
pub async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Page<WebhookJson>>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let found = api.webhooks()?.list().await.map_err(|error| api.webhook_problem(error))?;
    let times = api.times();
    Ok(Json(Page { items: found.iter().map(|found| WebhookJson::new(found, &times)).collect(), next_cursor: None }))
}

/// A new webhook: 201, with its secret, which is not shown again. It gets what happens from now on.
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "create_webhook", tag = "webhooks", request_body = WebhookBody, security(("api_key" = ["manage"])),
    responses(
    (status = 201, description = "The webhook, with its secret.", body = WebhookJson),
    (status = 409, description = "`too_many`: there are as many as there may be."),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn create(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    Params::new(query.as_deref()).finish()?;
    let mut body = WebhookBody::read(body).await?;
    let Some(url) = body.url.take() else {
        return Err(Problem::invalid("`url` is missing", BODY_EXPECTED));
    };
    let enabled = body.enabled.unwrap_or(true);
    let before = Settings { url, description: String::new(), types: Types::default(), namespace: None };
    let settings = body.over(before)?;
    let webhooks = api.webhooks()?;
    let (mut webhook, secret) = webhooks.create(settings).await.map_err(|error| api.webhook_problem(error))?;
    if !enabled {
        webhook = webhooks.disable(webhook.id, BY_HAND).await.map_err(|error| api.webhook_problem(error))?;
    }
    let made = WebhookJson::new(&webhook, &api.times()).with_secret(&secret);
    Ok((StatusCode::CREATED, NO_STORE, Json(made)))
}

/// One webhook.
#[utoipa::path(get, path = "/v1/webhooks/{id}", operation_id = "get_webhook", tag = "webhooks", params(("id" = String, Path, description = "The webhook's id.")), security(("api_key" = ["manage"])),
    responses((status = 200, description = "The webhook.", body = WebhookJson), (status = 404, description = "`not_found`: there is no such webhook.")))]
pub async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<WebhookJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let found = api.webhooks()?.get(webhook_id(&id)?).await.map_err(|error| api.webhook_problem(error))?;
    Ok(Json(WebhookJson::new(&found, &api.times())))
}

/// Changes what the body says. Enabling goes on where the webhook stopped, with everything that waits at once.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", operation_id = "change_webhook", tag = "webhooks", params(("id" = String, Path, description = "The webhook's id.")),
    request_body = WebhookBody, security(("api_key" = ["manage"])), responses(
    (status = 200, description = "The webhook.", body = WebhookJson),
    (status = 404, description = "`not_found`: there is no such webhook."),
    (status = 413, description = "`too_large`: the body is too long."),
))]
pub async fn change(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Json<WebhookJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let (id, webhooks) = (webhook_id(&id)?, api.webhooks()?);
    let problem = |error| api.webhook_problem(error);
    let body = WebhookBody::read(body).await?;
    let mut webhook = webhooks.get(id).await.map_err(problem)?;
    let enabled = body.enabled;
    let settings = body.over(webhook.settings.clone())?;
    if settings != webhook.settings {
        webhook = webhooks.set(id, settings).await.map_err(problem)?;
    }
    webhook = match enabled {
        Some(true) => webhooks.enable(id).await.map_err(problem)?,
        Some(false) => webhooks.disable(id, BY_HAND).await.map_err(problem)?,
        None => webhook,
    };
    Ok(Json(WebhookJson::new(&webhook, &api.times())))
}

/// Removes a webhook with its secrets and its log: 204.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", operation_id = "remove_webhook", tag = "webhooks", params(("id" = String, Path, description = "The webhook's id.")), security(("api_key" = ["manage"])),
    responses((status = 204, description = "It is removed."), (status = 404, description = "`not_found`: there is no such webhook.")))]
pub async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    Params::new(query.as_deref()).finish()?;
    api.webhooks()?.remove(webhook_id(&id)?).await.map_err(|error| api.webhook_problem(error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new secret, which is not shown again; for a day the one before it signs too.
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate-secret", operation_id = "rotate_webhook_secret", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id.")), security(("api_key" = ["manage"])), responses(
    (status = 200, description = "The webhook, with its new secret.", body = WebhookJson),
    (status = 404, description = "`not_found`: there is no such webhook."),
))]
pub async fn rotate_secret(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, Problem> {
    Params::new(query.as_deref()).finish()?;
    let rotated = api.webhooks()?.rotate_secret(webhook_id(&id)?).await;
    let (webhook, secret) = rotated.map_err(|error| api.webhook_problem(error))?;
    Ok((NO_STORE, Json(WebhookJson::new(&webhook, &api.times()).with_secret(&secret))))
}

/// Sends a message of type [`TEST_TYPE`], once, and answers with what came of it: look at `status`.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", operation_id = "test_webhook", tag = "webhooks", params(("id" = String, Path, description = "The webhook's id.")), security(("api_key" = ["manage"])),
    responses(
    (status = 200, description = "What came of it.", body = DeliveryJson),
    (status = 404, description = "`not_found`: there is no such webhook."),
    (status = 409, description = "`disabled`, `too_many`: it is disabled, or too many deliveries wait."),
))]
pub async fn test(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<DeliveryJson>, Problem> {
    #[derive(Serialize)]
    struct TestJson {
        webhook: String,
        message: &'static str,
    }
    Params::new(query.as_deref()).finish()?;
    let id = webhook_id(&id)?;
    let data = TestJson { webhook: id.to_string(), message: "This is a test." };
    let timestamp = wall_text(api.keep.wall(api.keep.now()));
    let body = json(&MessageJson { r#type: TEST_TYPE, timestamp, data });
    let sent = api.webhooks()?.test(id, TEST_TYPE, body).await.map_err(|error| api.webhook_problem(error))?;
    Ok(Json(DeliveryJson::new(&sent, &api.times())))
}

/// A page of the log, newest first: of one status with `?status=`.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", operation_id = "list_webhook_deliveries", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id."), Paged, ("status" = Option<String>, Query, description = "`pending`, `delivered`, `failed` or `lost`.")),
    security(("api_key" = ["manage"])), responses((status = 200, description = "The page.", body = Page<DeliveryJson>), (status = 404, description = "`not_found`: there is no such webhook.")))]
pub async fn deliveries(
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<DeliveryJson>>, Problem> {
    let query = read_query(query.as_deref())?;
    let found = api.webhooks()?.deliveries(webhook_id(&id)?, query).await;
    let found = found.map_err(|error| api.webhook_problem(error))?;
    let full = found.len() >= query.limit;
    let next_cursor = found.last().filter(|_| full).map(|delivery| delivery.id.to_string());
    let times = api.times();
    Ok(Json(Page { items: found.iter().map(|found| DeliveryJson::new(found, &times)).collect(), next_cursor }))
}

fn read_query(query: Option<&str>) -> Result<DeliveryQuery, Problem> {
    let mut params = Params::new(query);
    let known: Vec<&str> = DeliveryStatus::ALL.iter().map(|status| status.as_str()).collect();
    let expected = format!("one of {}", known.join(", "));
    let query = DeliveryQuery {
        status: params.parsed("status", &expected, DeliveryStatus::parse)?,
        before: params.parsed("cursor", "the `next_cursor` of the page before", |text| text.parse().ok())?,
        limit: params.limit()?,
    };
    params.finish()?;
    Ok(query)
}

/// Sends a delivery once more as soon as may be: 202 with its new entry, or with its own where it still waits.
#[utoipa::path(post, path = "/v1/webhooks/{id}/deliveries/{delivery}/redeliver", operation_id = "redeliver", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id."), ("delivery" = String, Path, description = "The delivery's id.")), security(("api_key" = ["manage"])), responses(
    (status = 202, description = "Its entry in the log.", body = DeliveryJson),
    (status = 404, description = "`not_found`: there is no such webhook or delivery."),
    (status = 409, description = "`disabled`, `lost`, `too_many`: it cannot be sent."),
))]
pub async fn redeliver(
    State(api): State<Api>,
    Path((id, delivery)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<DeliveryJson>), Problem> {
    Params::new(query.as_deref()).finish()?;
    let id = webhook_id(&id)?;
    let problem = |error| api.webhook_problem(error);
    let unknown = || problem(WebhookError::NoDelivery(printable(&delivery, 60)));
    let number: DeliveryId = delivery.parse().map_err(|()| unknown())?;
    let queued = api.webhooks()?.redeliver(id, number).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryJson::new(&queued, &api.times()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenkeep_core::ConnectionKey;
    use tokenkeep_core::event::NewEvent;

    fn patched(text: &str) -> Result<Settings, Problem> {
        let before = Settings {
            url: "https://a.test/".to_owned(),
            description: "old".to_owned(),
            types: Types::new(vec!["system.*".to_owned()]).unwrap(),
            namespace: Some("team".to_owned()),
        };
        serde_json::from_str::<WebhookBody>(text).unwrap().over(before)
    }

    #[test]
    fn what_a_patch_leaves_out_stays_and_null_is_said() {
        assert_eq!(patched("{}").unwrap().namespace.as_deref(), Some("team"));
        let changed = patched(r#"{"namespace": null, "types": [], "description": "new"}"#).unwrap();
        assert_eq!((changed.namespace, changed.types, &*changed.description), (None, Types::default(), "new"));
        assert_eq!(changed.url, "https://a.test/");
    }

    #[test]
    fn wrong_fields_are_named_with_what_was_meant() {
        let problem = patched(r#"{"types": ["connection.refershed"]}"#).unwrap_err();
        assert!(problem.detail.contains("`types`") && problem.next_action.unwrap().contains("connection.refreshed"));
        let problem = patched(r#"{"namespace": "a/b"}"#).unwrap_err();
        assert!(problem.status == 400 && problem.detail.contains("`namespace`"));
        assert!(serde_json::from_str::<WebhookBody>(r#"{"uri": "x"}"#).is_err());
        for wrong in ["status=good", "cursor=7", "limit=0", "colour=red"] {
            assert_eq!(read_query(Some(wrong)).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn a_body_is_the_event_in_the_standard_s_form() {
        let key = ConnectionKey::in_default("jira").unwrap();
        let at = Timestamp::from_millis(1_800_000_000_000);
        let event = Event { id: 7, event: NewEvent::new(EventKind::Held, at, Some(&key), "It is held.") };
        let later = |at: Timestamp| at.shifted(1_000);
        let expected = r#"{"type":"connection.held","timestamp":"2027-01-15T08:00:01.000Z","data":{"id":7,"at":"2027-01-15T08:00:01.000Z","namespace":"default","connection":"jira","type":"connection.held","code":null,"message":"It is held.","data":{}}}"#;
        assert_eq!(body(&event, &later), expected);
    }
}
