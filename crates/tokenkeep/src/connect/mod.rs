//! Signing in: how a person, or the client itself, gets a connection its first token set.

pub mod assertion;
pub mod discovery;
mod error;
pub mod identity;
mod pending;
mod revoke;
mod service;
pub mod settings;
#[cfg(test)]
mod tests;

pub use settings::Redirects;

pub use error::SignInError;
pub(crate) use pending::Pending;
pub use pending::SIGN_INS_MAX;
pub(crate) use service::Brought;
pub use service::{Begun, BegunDevice, Connect, Finished, Standing};

use crate::endpoint::{Endpoint, Reuse, SendFailure, TOTAL_TIMEOUT};
use crate::seal::random_bytes;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use tokenkeep_core::{Failure, Secret};
use url::Url;

/// Sends one request to a provider, and waits for its answer. Nothing is sent twice.
///
/// # Errors
/// What happened, whether the request was sent or not: no request of a sign-in may be repeated by itself.
pub(crate) async fn ask(endpoint: &dyn Endpoint, url: &Url, request: ProviderRequest) -> Result<RawAnswer, Failure> {
    let channel = endpoint.connect(url, Reuse::Fresh).await?;
    channel.send(request, TOTAL_TIMEOUT).await.map_err(|failure| match failure {
        SendFailure::Unsent(failure) | SendFailure::Unknown(failure) => failure,
    })
}

/// A text that nobody can guess: 256 bits, base64url without padding, 43 characters.
pub(crate) fn random_text() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<32>())
}

/// A PKCE verifier and its challenge (RFC 7636 section 4).
#[derive(Debug)]
pub struct Pkce {
    /// Sent with the code.
    pub verifier: Secret,
    /// Sent with the person: base64url of the verifier's SHA-256.
    pub challenge: String,
}

impl Pkce {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Secret::new(random_text()))
    }

    fn of(verifier: Secret) -> Self {
        let hash = digest::digest(&digest::SHA256, verifier.expose().as_bytes());
        Self { challenge: BASE64_URL_SAFE_NO_PAD.encode(hash), verifier }
    }
}

impl Default for Pkce {
    fn default() -> Self {
        Self::new()
    }
}
