//! `tokenkeep credential kube`: a client-go credential plugin.
//!
//! kubectl says in `KUBERNETES_EXEC_INFO` which version of `ExecCredential` it speaks, and reads one from standard
//! output (kubernetes.io, "Authenticating", section "client-go credential plugins").

use crate::api::json::{TokenJson, parse_time};
use crate::cli::Common;
use crate::commands::token::{self, Wanted};
use crate::env;
use crate::error::{CliError, Exit};
use crate::output;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The API group of `ExecCredential`.
const GROUP: &str = "client.authentication.k8s.io";

/// Of `credential kube`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  kubectl config set-credentials me --exec-command=tokenkeep --exec-arg=credential --exec-arg=kube --exec-arg=cluster \\
      --exec-api-version=client.authentication.k8s.io/v1

or in the kubeconfig file:
  users:
  - name: me
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1     # v1beta1 is answered, too
        command: tokenkeep
        args: [credential, kube, cluster]               # the connection's name
        interactiveMode: Never")]
pub struct KubeArgs {
    /// The connection
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// How fresh.
    #[command(flatten)]
    pub wanted: Wanted,
}

/// The versions that are spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum ApiVersion {
    #[serde(rename = "client.authentication.k8s.io/v1")]
    V1,
    #[serde(rename = "client.authentication.k8s.io/v1beta1")]
    V1Beta1,
}

/// What kubectl reads. It has no `Debug`: it holds a token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential<'a> {
    api_version: ApiVersion,
    kind: &'static str,
    status: Status<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    token: &'a str,
    /// Without one, the token is used until the server refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_timestamp: Option<String>,
}

/// Prints an `ExecCredential`.
///
/// # Errors
/// There is no token, or kubectl speaks another version.
pub fn run(common: &Common, args: &KubeArgs) -> Result<Exit, CliError> {
    let api_version = asked_for(env::read(env::KUBERNETES_EXEC_INFO).as_deref())?;
    let answer = token::fetch(common, &args.name, args.wanted)?;
    let token: TokenJson<'_> = answer.json()?;
    token::say_warnings(&token);
    output::write_json_line(&credential(api_version, &token))?;
    Ok(Exit::Ok)
}

/// The version in `KUBERNETES_EXEC_INFO`; v1 where nobody says.
fn asked_for(info: Option<&str>) -> Result<ApiVersion, CliError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Info {
        api_version: String,
    }
    let Some(text) = info else { return Ok(ApiVersion::V1) };
    let wrong = |found: &str| {
        let found = tokenkeep_core::model::printable(found, 80);
        CliError::usage(format!("{}: {found}; expected {GROUP}/v1 or v1beta1", env::KUBERNETES_EXEC_INFO))
            .next_step(format!("set `apiVersion: {GROUP}/v1` under `exec` in the kubeconfig file"))
    };
    let info: Info = serde_json::from_str(text).map_err(|_| wrong("found no ExecCredential as JSON"))?;
    match info.api_version.strip_prefix(GROUP) {
        Some("/v1") => Ok(ApiVersion::V1),
        Some("/v1beta1") => Ok(ApiVersion::V1Beta1),
        _ => Err(wrong(&format!("found apiVersion `{}`", info.api_version))),
    }
}

fn credential<'a>(api_version: ApiVersion, token: &'a TokenJson<'_>) -> ExecCredential<'a> {
    let expiration_timestamp = token.expires_at.as_deref().and_then(whole_seconds);
    let status = Status { token: &token.access_token, expiration_timestamp };
    ExecCredential { api_version, kind: "ExecCredential", status }
}

/// RFC 3339 without a fraction, rounded down, as Kubernetes writes its times.
fn whole_seconds(at: &str) -> Option<String> {
    let seconds = parse_time(at)?.as_millis().div_euclid(1_000);
    jiff::Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_version_is_kubectl_s() {
        assert_eq!(asked_for(None).unwrap(), ApiVersion::V1);
        let info = |version: &str| {
            asked_for(Some(&json!({"apiVersion": version, "kind": "ExecCredential", "spec": {}}).to_string()))
        };
        assert_eq!(info("client.authentication.k8s.io/v1").unwrap(), ApiVersion::V1);
        assert_eq!(info("client.authentication.k8s.io/v1beta1").unwrap(), ApiVersion::V1Beta1);
        let report = info("client.authentication.k8s.io/v1alpha1").unwrap_err().report();
        assert!(report.contains("v1alpha1") && report.contains("kubeconfig"), "{report}");
        assert!(asked_for(Some("nonsense")).unwrap_err().report().contains("KUBERNETES_EXEC_INFO"));
    }

    #[test]
    fn a_credential_has_the_token_and_its_end() {
        let text = r#"{"access_token":"t","token_type":"Bearer","expires_at":"2026-11-23T10:00:00.999Z","expires_in":60,"scope":"","generation":1,"stale":false,"warnings":[]}"#;
        let mut token: TokenJson<'_> = serde_json::from_str(text).unwrap();
        let shown = |token: &TokenJson<'_>| serde_json::to_value(credential(ApiVersion::V1, token)).unwrap();
        assert_eq!(shown(&token)["status"], json!({"token": "t", "expirationTimestamp": "2026-11-23T10:00:00Z"}));
        token.expires_at = None;
        assert_eq!(shown(&token)["status"], json!({"token": "t"}));
    }
}
