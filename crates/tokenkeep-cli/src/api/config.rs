//! `/v1/config`: the configuration in use, each setting with its source. On the socket only, and no part of the public
//! contract: it serves `tokenkeep config show`.

use super::Api;
use super::params::Params;
use super::problem::Problem;
use crate::config::Setting;
use crate::config::live::State as Configured;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::{Deserialize, Serialize};
use tokenkeep::config::Declared;
use utoipa::ToSchema;

/// What the file of a declared connection is master of.
pub const FILE_IS_MASTER_OF: [&str; 4] = ["provider", "labels", "scopes", "token_file"];

/// The configuration in use.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Config)]
pub struct ConfigJson {
    /// The file, if there is one.
    pub file: Option<String>,
    /// Since when it is in use; `null` where it is only a file.
    pub since: Option<String>,
    /// Why the file as it is now is not in use, if it is not.
    pub refused: Option<RefusedJson>,
    /// Every setting.
    pub settings: Vec<Setting>,
    /// The connections that it declares.
    pub connections: Vec<DeclaredJson>,
    /// How many connections were made at run time, which is master of all they have; `null` where it is only a file.
    pub run_time_connections: Option<u64>,
}

/// A configuration that was not taken.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Refused)]
pub struct RefusedJson {
    /// When.
    pub at: Option<String>,
    /// What is wrong with it.
    pub report: String,
}

/// A declared connection.
#[derive(Serialize, Deserialize, Debug, ToSchema)]
#[schema(as = Declared)]
pub struct DeclaredJson {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The provider that it is declared with.
    pub provider: String,
    /// What the file is master of; run time is of everything else.
    pub file_is_master_of: Vec<String>,
    /// Whether there is such a connection; `null` where it is only a file.
    pub connected: Option<bool>,
    /// The other provider that it is connected to, if it is.
    pub connected_to: Option<String>,
}

impl DeclaredJson {
    /// As it is declared, before anybody looked for it.
    #[must_use]
    pub fn new(declared: &Declared) -> Self {
        Self {
            name: declared.key.name().to_owned(),
            namespace: declared.key.namespace().to_owned(),
            provider: declared.provider.clone(),
            file_is_master_of: FILE_IS_MASTER_OF.map(str::to_owned).to_vec(),
            connected: None,
            connected_to: None,
        }
    }
}

/// The configuration in use.
#[utoipa::path(get, path = "/v1/config", operation_id = "config", tag = "admin", security(("api_key" = ["admin"])), responses(
    (status = 200, description = "The configuration.", body = ConfigJson),
))]
pub async fn get(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<ConfigJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    let summary = api.keep.summary(None).await.map_err(|error| api.problem(&error))?;
    let mut connections = Vec::new();
    for declared in api.keep.declared() {
        connections.push(look_up(&api, &declared).await?);
    }
    let there = connections.iter().filter(|declared| declared.connected == Some(true)).count() as u64;
    let all: u64 = summary.by_status.values().sum();
    let times = api.times();
    let Configured { path, since, settings, refused } = api.config.state();
    Ok(Json(ConfigJson {
        file: path.map(|path| path.display().to_string()),
        since: since.and_then(|at| times.text(at)),
        refused: refused.map(|refused| RefusedJson { at: times.text(refused.at), report: refused.report }),
        settings,
        connections,
        run_time_connections: Some(all.saturating_sub(there)),
    }))
}

async fn look_up(api: &Api, declared: &Declared) -> Result<DeclaredJson, Problem> {
    let mut found = DeclaredJson::new(declared);
    match api.keep.get(&declared.key).await {
        Ok(connection) => {
            found.connected = Some(true);
            found.connected_to = (connection.provider != declared.provider).then_some(connection.provider);
        }
        Err(tokenkeep::Error::NotFound(_)) => found.connected = Some(false),
        Err(error) => return Err(api.problem(&error)),
    }
    Ok(found)
}
