//! The configuration, and whether its providers can be reached.

use super::Check;
use crate::config::{ProviderSettings, Settings};
use crate::daemon::block_on;
use crate::error::CliError;
use std::path::Path;
use tokenkeep::endpoint::http::{HttpEndpoint, Options};
use tokenkeep::endpoint::{Endpoint as _, Reuse};

/// The configuration as the daemon reads it; with `network`, connects to each provider.
pub fn configuration(path: &Path, settings: Result<Settings, CliError>, network: bool) -> Vec<Check> {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return vec![Check::of_error("configuration", &error)],
    };
    let (file, count) = (path.display(), settings.providers.len());
    let noun = if count == 1 { "provider" } else { "providers" };
    let mut checks = vec![Check::ok("configuration", format!("{file}: {count} {noun}"))];
    if network {
        checks.extend(reach(&settings.providers).unwrap_or_else(|error| vec![Check::of_error("network", &error)]));
    }
    checks
}

/// Resolves, connects and shakes hands as a refresh would, and sends nothing.
fn reach(providers: &[ProviderSettings]) -> Result<Vec<Check>, CliError> {
    block_on(async {
        let endpoint = HttpEndpoint::new(Options::default());
        let mut checks = Vec::new();
        for ProviderSettings { provider, .. } in providers {
            let name = format!("provider {}", provider.name);
            let url = &provider.token_url;
            let server = url.host_str().unwrap_or_default();
            checks.push(match endpoint.connect(url, Reuse::Fresh).await {
                Ok(_) => Check::ok(name, format!("{server} can be reached")),
                Err(failure) => Check::fault(name, failure.message(), failure.code.next_step()),
            });
        }
        Ok(checks)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::commands::serve;
    use std::net::TcpListener;

    #[test]
    fn a_provider_that_listens_is_reached_and_one_that_does_not_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenkeep.toml");
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        // Closed again at once: nobody listens there.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let section = |name: &str, address| {
            format!(
                "[providers.{name}]\ntoken_url = \"http://{address}/token\"\nclient_id = \"c\"\nclient_auth = \"none\"\n"
            )
        };
        let text = section("here", there.local_addr().unwrap()) + &section("there", gone);
        std::fs::write(&path, text).unwrap();
        let checks = configuration(&path, serve::settings(&path, folder.path()), true);
        let verdicts: Vec<Verdict> = checks.iter().map(|check| check.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Fault], "{checks:?}");
        assert!(checks[2].mend.as_deref().unwrap().contains("network"), "{checks:?}");
    }

    #[test]
    fn what_only_a_daemon_with_this_state_folder_refuses_is_a_fault_too() {
        let folder = tempfile::tempdir().unwrap();
        let (path, state_dir) = (folder.path().join("tokenkeep.toml"), folder.path().join("state"));
        let text = "[providers.p]\ntoken_url = \"https://p.example/token\"\nclient_id = \"c\"\nclient_auth = \"none\"\n\
                    [connections.jira]\nprovider = \"p\"\ntoken_file = { path = \"state/jira.json\" }\n";
        std::fs::write(&path, text).unwrap();
        let verdict_in = |state_dir: &Path| configuration(&path, serve::settings(&path, state_dir), false)[0].verdict;
        assert_eq!(verdict_in(&folder.path().join("elsewhere")), Verdict::Ok);
        assert_eq!(verdict_in(&state_dir), Verdict::Fault);
    }

    #[test]
    fn a_wrong_configuration_is_a_fault_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenkeep.toml");
        std::fs::write(&path, "[refresh]\nmax_retires = 3\n").unwrap();
        let checks = configuration(&path, serve::settings(&path, folder.path()), false);
        assert!(checks[0].verdict == Verdict::Fault && checks[0].found.contains("toml:2:1"), "{checks:?}");
    }
}
