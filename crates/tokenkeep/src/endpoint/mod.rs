//! HTTP/1.1 to providers, with one thing that HTTP clients do not usually tell: whether a request that
//! failed was provably *unsent*, or whether nobody knows.

mod address;
mod dial;
pub(crate) mod forward;
pub mod hosts;
pub mod http;
mod pool;
mod target;

pub use dial::tls_config;

use async_trait::async_trait;
use std::time::Duration;
use tokenkeep_core::Failure;
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use url::Url;

/// Limits of `security.md` 12.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest TLS handshake.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for the first byte of an answer.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest request from its first byte to the answer's last.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest head of an answer, in bytes.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// The largest token answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Whether a connection to the provider may have carried requests before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// Opened for this request: nothing can be dead about it that was not dead just now.
    Fresh,
    /// From the pool, else opened.
    Pooled,
}

/// Opens channels to providers. Follows no redirects, resends nothing.
#[async_trait]
pub trait Endpoint: Send + Sync + 'static {
    /// Resolves, connects and shakes hands. A failure here means: provably unsent.
    async fn connect(&self, url: &Url, reuse: Reuse) -> Result<Box<dyn Channel>, Failure>;
}

/// An open connection to a provider that will carry one request.
#[async_trait]
pub trait Channel: Send {
    /// Sends `request` once, within `timeout` in all.
    async fn send(self: Box<Self>, request: ProviderRequest, timeout: Duration) -> Result<RawAnswer, SendFailure>;
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum SendFailure {
    /// Not a byte of it was handed to the connection.
    Unsent(Failure),
    /// It was sent, or may have been.
    Unknown(Failure),
}
