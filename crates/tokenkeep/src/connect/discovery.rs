//! Finding a provider's endpoints from its issuer (RFC 8414, OpenID Connect Discovery).

use super::ask;
use crate::endpoint::Endpoint;
use tokenkeep_core::oauth::metadata::{self, Metadata};
use tokenkeep_core::oauth::request::ProviderRequest;
use url::Url;

/// Asks an issuer what its endpoints are, at each place where that may stand.
///
/// # Errors
/// A sentence for each place that was asked, in the order of the asking.
pub async fn discover(endpoint: &dyn Endpoint, issuer: &str) -> Result<Metadata, String> {
    let mut tried = Vec::new();
    for location in metadata::locations(issuer) {
        let found = match Url::parse(&location) {
            Err(error) => Err(error.to_string()),
            Ok(url) => match ask(endpoint, &url, ProviderRequest::get(None)).await {
                Ok(answer) => metadata::read(&answer, issuer),
                Err(failure) => Err(failure.message()),
            },
        };
        match found {
            Ok(metadata) => return Ok(metadata),
            Err(why) => tried.push(format!("{location}: {why}")),
        }
    }
    tried.dedup();
    Err(tried.join("; "))
}
