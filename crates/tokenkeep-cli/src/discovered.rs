//! Providers whose endpoints are asked of their issuers (RFC 8414, OpenID Connect Discovery).
//!
//! They are asked at the start and at each reload. What they said is kept in the state folder, so that a start does not
//! depend on them: it holds no secret.

use crate::config::files::read_text;
use crate::config::{ProviderSettings, check_endpoint};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokenkeep::connect::discovery::discover;
use tokenkeep::connect::settings::{Identity, Revocation};
use tokenkeep::endpoint::http::{HttpEndpoint, Options};
use tokenkeep_core::oauth::metadata::{self, Metadata};
use tokio::task::JoinSet;
use url::Url;

/// The file in the state folder.
const FILE: &str = "discovered.json";
/// The largest such file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a start or a reload waits for all issuers together.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long it takes until those are asked again that did not answer.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Fills in the endpoints of every provider that is to be asked for them. One that does not answer, and has not been
/// known before, is left out and told of; the answer is whether there is such.
pub async fn complete(providers: Vec<ProviderSettings>, state_dir: &Path) -> (Vec<ProviderSettings>, bool) {
    let issuers: BTreeSet<String> = providers.iter().filter_map(|provider| provider.discover.clone()).collect();
    if issuers.is_empty() {
        return (providers, false);
    }
    let mut known = Known::read(state_dir);
    known.ask(issuers).await;
    let (mut whole, mut lacking) = (Vec::new(), false);
    for mut settings in providers {
        let Some(issuer) = settings.discover.clone() else {
            whole.push(settings);
            continue;
        };
        match known.metadata(&issuer).and_then(|metadata| fill(&mut settings, &metadata)) {
            Ok(()) => whole.push(settings),
            Err(why) => {
                let (provider, again_s) = (&settings.provider.name, ASK_AGAIN_AFTER.as_secs());
                tracing::error!(
                    provider,
                    issuer,
                    why,
                    again_s,
                    "the issuer does not say its endpoints: left out until it does"
                );
                lacking = true;
            }
        }
    }
    (whole, lacking)
}

/// What issuers said about themselves, by issuer.
struct Known {
    path: PathBuf,
    documents: Map<String, Value>,
    faults: Map<String, Value>,
}

impl Known {
    fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = read_text(&path, FILE_BYTES_MAX).unwrap_or_default();
        Self { path, documents: serde_json::from_str(&text).unwrap_or_default(), faults: Map::new() }
    }

    /// Asks all at once. Who does not answer in time stays as it was known.
    async fn ask(&mut self, issuers: BTreeSet<String>) {
        // One for all: it reads the system's root certificates.
        let endpoint = Arc::new(HttpEndpoint::new(Options::default()));
        let mut asked = JoinSet::new();
        for issuer in issuers {
            let endpoint = Arc::clone(&endpoint);
            asked.spawn(async move { (discover(&*endpoint, &issuer).await, issuer) });
        }
        let before = self.documents.clone();
        let all = async {
            while let Some(Ok((found, issuer))) = asked.join_next().await {
                match found {
                    Ok(metadata) => drop(self.documents.insert(issuer, document(&metadata))),
                    Err(why) => drop(self.faults.insert(issuer, why.into())),
                }
            }
        };
        if tokio::time::timeout(WAIT_MAX, all).await.is_err() {
            tracing::warn!(wait_s = WAIT_MAX.as_secs(), "not every issuer answered in time");
        }
        if self.documents != before
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, file = %self.path.display(), "what issuers said could not be kept");
        }
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Private, as every file beside it.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, Value::Object(self.documents.clone()).to_string().as_bytes())?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }

    fn metadata(&self, issuer: &str) -> Result<Metadata, String> {
        let Some(document) = self.documents.get(issuer) else {
            let why = self.faults.get(issuer).and_then(Value::as_str).unwrap_or("no answer in time");
            return Err(why.to_owned());
        };
        metadata::read_document(document.to_string().as_bytes(), issuer)
    }
}

/// What is kept of metadata, in its own words.
fn document(metadata: &Metadata) -> Value {
    serde_json::json!({
        "issuer": metadata.issuer,
        "authorization_endpoint": metadata.authorization_endpoint,
        "token_endpoint": metadata.token_endpoint,
        "revocation_endpoint": metadata.revocation_endpoint,
        "introspection_endpoint": metadata.introspection_endpoint,
        "device_authorization_endpoint": metadata.device_authorization_endpoint,
        "userinfo_endpoint": metadata.userinfo_endpoint,
        "authorization_response_iss_parameter_supported": metadata.sends_issuer,
    })
}

/// Endpoints that the configuration states stand above those that were discovered.
fn fill(settings: &mut ProviderSettings, metadata: &Metadata) -> Result<(), String> {
    let url = |text: &str| checked(text).map_err(|why| format!("its endpoint `{text}` {why}"));
    let maybe = |text: &Option<String>| text.as_deref().map(url).transpose();
    let provider = &mut settings.provider;
    provider.token_url = url(&metadata.token_endpoint)?;
    let sign_in = &mut provider.sign_in;
    sign_in.issuer = Some(metadata.issuer.clone());
    sign_in.sends_issuer = metadata.sends_issuer;
    sign_in.authorize_url = sign_in.authorize_url.take().or(maybe(&metadata.authorization_endpoint)?);
    sign_in.device_url = sign_in.device_url.take().or(maybe(&metadata.device_authorization_endpoint)?);
    sign_in.introspect_url = sign_in.introspect_url.take().or(maybe(&metadata.introspection_endpoint)?);
    if let (Revocation::None, Some(url)) = (&sign_in.revocation, maybe(&metadata.revocation_endpoint)?) {
        sign_in.revocation = Revocation::Standard(url);
    }
    if let (None, Some(url)) = (&sign_in.identity, maybe(&metadata.userinfo_endpoint)?) {
        sign_in.identity = Some(Identity { url, fields: vec!["sub".to_owned()] });
    }
    Ok(())
}

/// What is discovered may lead where what is configured may.
fn checked(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    check_endpoint(&url).map_err(|unfit| unfit.found)?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_kept_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = Metadata {
            issuer: "https://idp".into(),
            token_endpoint: "https://idp/token".into(),
            sends_issuer: true,
            ..Metadata::default()
        };
        let mut known = Known::read(folder.path());
        assert!(known.metadata("https://idp").unwrap_err().contains("no answer"));
        known.documents.insert("https://idp".into(), document(&metadata));
        known.write().unwrap();
        assert_eq!(Known::read(folder.path()).metadata("https://idp").unwrap(), metadata);
        fs::write(folder.path().join(FILE), "garbage").unwrap();
        assert!(Known::read(folder.path()).metadata("https://idp").is_err());
    }

    #[test]
    fn a_discovered_endpoint_must_be_as_safe_as_a_configured_one() {
        assert!(checked("https://x/t").is_ok() && checked("http://127.0.0.1:1/t").is_ok());
        for unsafe_one in [
            "http://x/t",
            "ftp://x/",
            "javascript:x",
            "no url",
            "http://localhost.evil.example/",
            "https://user:word@x/t",
            "https://x/t#part",
        ] {
            assert!(checked(unsafe_one).is_err(), "{unsafe_one}");
        }
    }
}
