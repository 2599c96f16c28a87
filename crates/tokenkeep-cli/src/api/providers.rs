//! `/v1/providers`: the catalogue, as `tokenkeep providers --json` prints it.

use super::openapi::Name;
use super::params::Params;
use super::problem::Problem;
use crate::suggest;
use axum::Json;
use axum::extract::{Path, RawQuery};
use serde::Serialize;
use std::time::Duration;
use tokenkeep_core::catalogue::{Authority, CHECKED, PRESETS, Preset, preset};
use tokenkeep_core::model::printable;
use utoipa::ToSchema;

/// A row of the catalogue.
#[derive(Serialize, Debug, ToSchema)]
#[schema(as = Preset)]
pub struct PresetJson {
    /// What `preset` takes in the configuration.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Where tokens come from.
    pub token_url: &'static str,
    /// Where people sign in.
    pub authorize_url: &'static str,
    /// Where tokens are renewed, if elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_url: Option<&'static str>,
    /// Where grants are ended, where that is known.
    #[schema(required)]
    pub revoke_url: Option<&'static str>,
    /// Where devices ask for a code, where that is known.
    #[schema(required)]
    pub device_url: Option<&'static str>,
    /// What the configuration must fill in.
    pub parameters: Vec<&'static str>,
    /// What becomes of a refresh token that was used.
    pub rotation: String,
    /// How clients prove who they are; the first is the usual one.
    pub client_auth: Vec<&'static str>,
    /// What a sign-in asks for to get a refresh token.
    #[schema(value_type = Vec<String>)]
    pub offline_scopes: &'static [&'static str],
    /// How long an access token lives, in seconds.
    #[schema(required)]
    pub access_life_s: Option<u64>,
    /// How long an unused refresh token lives, in seconds.
    #[schema(required)]
    pub idle_life_s: Option<u64>,
    /// How long a refresh token lives at most, in seconds.
    #[schema(required)]
    pub absolute_life_s: Option<u64>,
    /// A new sign-in ends the former one of the same account.
    pub one_grant: bool,
    /// Where its API is.
    #[schema(value_type = Vec<String>)]
    pub api_hosts: &'static [&'static str],
    /// What else to know.
    #[schema(value_type = Vec<String>)]
    pub notes: &'static [&'static str],
    /// What no source confirms.
    #[schema(value_type = Vec<String>)]
    pub unverified: &'static [&'static str],
    /// Where these facts come from.
    pub sources: Vec<String>,
    /// When they were looked up.
    pub checked: &'static str,
}

impl PresetJson {
    /// Of a preset.
    #[must_use]
    pub fn new(preset: &Preset) -> Self {
        let rules = &preset.rules;
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
        Self {
            name: preset.id,
            title: preset.name,
            token_url: preset.token_url,
            authorize_url: preset.authorize_url,
            refresh_url: preset.refresh_url,
            revoke_url: preset.revocation.url(),
            device_url: preset.device_url,
            parameters: preset.parameters(),
            rotation: rules.rotation.to_string(),
            client_auth: preset.client_auths.iter().map(|auth| auth.as_str()).collect(),
            offline_scopes: preset.offline_scopes,
            access_life_s: seconds(rules.access_life),
            idle_life_s: seconds(rules.idle_life),
            absolute_life_s: seconds(rules.absolute_life),
            one_grant: rules.one_grant,
            api_hosts: preset.api_hosts,
            notes: preset.notes,
            unverified: preset.unverified,
            sources: preset
                .sources
                .iter()
                .map(|source| format!("{} ({})", source.page, said_by(source.authority)))
                .collect(),
            checked: CHECKED,
        }
    }
}

const fn said_by(authority: Authority) -> &'static str {
    match authority {
        Authority::Vendor => "vendor",
        Authority::Secondary => "secondary",
    }
}

/// The catalogue: known providers, each usable as a `preset` in the configuration.
#[utoipa::path(get, path = "/v1/providers", operation_id = "list_providers", tag = "fleet",
    security(("api_key" = [])), responses(
    (status = 200, description = "Every row.", body = Vec<PresetJson>, headers(("ETag" = String))),
    (status = 304, description = "What `If-None-Match` names is still it."),
))]
pub async fn list(RawQuery(query): RawQuery) -> Result<Json<Vec<PresetJson>>, Problem> {
    Params::new(query.as_deref()).finish()?;
    Ok(Json(PRESETS.iter().map(PresetJson::new).collect()))
}

/// One row of the catalogue.
#[utoipa::path(get, path = "/v1/providers/{name}", operation_id = "get_provider", tag = "fleet",
    params(("name" = Name, Path, description = "Its name in the catalogue.")),
    security(("api_key" = [])), responses(
    (status = 200, description = "The row.", body = PresetJson, headers(("ETag" = String))),
    (status = 304, description = "What `If-None-Match` names is still it."),
    (status = 404, description = "`not_found`: the catalogue has no such provider."),
))]
pub async fn show(Path(name): Path<String>, RawQuery(query): RawQuery) -> Result<Json<PresetJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    preset(&name).map(|preset| Json(PresetJson::new(preset))).ok_or_else(|| unknown(&name))
}

fn unknown(name: &str) -> Problem {
    let name = printable(name, 60);
    let detail = format!("the catalogue has no provider `{name}`");
    Problem::not_found(detail).next(match suggest::nearest(&name, PRESETS.iter().map(|preset| preset.id)) {
        Some(meant) => format!("Did you mean `{meant}`? GET /v1/providers lists them."),
        None => "GET /v1/providers lists them; any other provider is configured by its token_url.".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_provider_is_found_or_suggested() {
        let found = show(Path("atlassian".to_owned()), RawQuery(None)).await.unwrap().0;
        assert_eq!((found.name, found.rotation.as_str()), ("atlassian", "grace:600"));
        let missing = show(Path("atlasian".to_owned()), RawQuery(None)).await.unwrap_err();
        assert_eq!(missing.status, 404);
        assert!(missing.next_action.unwrap().contains("`atlassian`"));
        assert_eq!(list(RawQuery(None)).await.unwrap().0.len(), PRESETS.len());
        assert_eq!(list(RawQuery(Some("x=1".to_owned()))).await.unwrap_err().status, 400);
    }
}
