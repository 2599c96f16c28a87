//! From a host name to an open connection: resolve, check, connect, shake hands.

use super::http::Timeouts;
use super::target::{Scheme, Server};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokenkeep_core::{Failure, FailureCode};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::Host;

/// What HTTP is spoken over.
pub(super) trait Stream: Read + Write + Send + Unpin + 'static {}

impl<T: Read + Write + Send + Unpin + 'static> Stream for T {}

fn connect_failed(detail: &str) -> Failure {
    Failure::new(FailureCode::ConnectFailed, detail)
}

/// Resolves, and connects to an address that `check` lets pass, all `within` this.
///
/// # Errors
/// [`FailureCode::DnsFailed`] or [`FailureCode::ConnectFailed`].
pub(super) async fn connect(
    server: &Server,
    within: Duration,
    check: impl Fn(IpAddr) -> Result<(), &'static str>,
) -> Result<TcpStream, Failure> {
    let deadline = Instant::now() + within;
    let addresses = resolve(server, deadline).await?;
    let (allowed, refused): (Vec<_>, Vec<_>) =
        addresses.into_iter().map(|address| (address, check(address.ip()))).partition(|(_, checked)| checked.is_ok());
    if let (true, Some((address, Err(why)))) = (allowed.is_empty(), refused.first()) {
        return Err(connect_failed(&format!("{} is not connected to: {why}", address.ip())));
    }
    let allowed: Vec<SocketAddr> = allowed.into_iter().map(|(address, _)| address).collect();
    connect_any(&allowed, deadline).await
}

async fn resolve(server: &Server, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
    let failed = |detail: &str| Failure::new(FailureCode::DnsFailed, &format!("{}: {detail}", server.host));
    let name = match &server.host {
        Host::Domain(name) => name.as_str(),
        Host::Ipv4(address) => return Ok(vec![SocketAddr::new(IpAddr::V4(*address), server.port)]),
        Host::Ipv6(address) => return Ok(vec![SocketAddr::new(IpAddr::V6(*address), server.port)]),
    };
    let found = timeout_at(deadline, tokio::net::lookup_host((name, server.port)))
        .await
        .map_err(|_| failed("no answer in time"))?
        .map_err(|cause| failed(&cause.to_string()))?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() { Err(failed("it has no address")) } else { Ok(addresses) }
}

/// Tries one address after the other; each gets its share of the time that is left.
async fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failure> {
    let mut last = connect_failed("there is no address to connect to");
    for (tried, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / untried;
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match stream.set_nodelay(true) {
                Ok(()) => return Ok(stream),
                Err(cause) => connect_failed(&format!("{address}: {cause}")),
            },
            Ok(Err(cause)) => connect_failed(&format!("{address}: {cause}")),
            Err(_) => connect_failed(&format!("{address}: no connection in time")),
        };
    }
    Err(last)
}

/// What shakes hands: with the machine's root certificates and these.
///
/// # Errors
/// [`FailureCode::TlsFailed`]: there is not one root certificate.
pub(super) async fn tls_connector(extra_roots: Vec<CertificateDer<'static>>) -> Result<TlsConnector, Failure> {
    // It reads files, so it may block.
    tokio::task::spawn_blocking(move || tls_config(extra_roots).map(TlsConnector::from))
        .await
        .unwrap_or_else(|error| Err(Failure::new(FailureCode::TlsFailed, &error.to_string())))
}

/// How this program speaks HTTP/1.1 over TLS as a client: it trusts the machine's root certificates and `extra_roots`.
/// Reads files, so it may block.
///
/// # Errors
/// [`FailureCode::TlsFailed`]: there is not one root certificate.
pub fn tls_config(extra_roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, Failure> {
    let failed = |detail: &str| Failure::new(FailureCode::TlsFailed, detail);
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    roots.add_parsable_certificates(extra_roots);
    if roots.is_empty() {
        let why = native.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(failed(&format!("this machine has no root certificates{why}")));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Shakes hands, within the TLS timeout.
///
/// # Errors
/// [`FailureCode::TlsName`] when the certificate is not for this host or not trusted, else
/// [`FailureCode::TlsFailed`].
pub(super) async fn shake_hands(
    server: &Server,
    connector: &TlsConnector,
    stream: TcpStream,
    timeouts: &Timeouts,
) -> Result<impl Stream + use<>, Failure> {
    debug_assert_eq!(server.scheme, Scheme::Https);
    let failed = |detail: &str| Failure::new(FailureCode::TlsFailed, &format!("{}: {detail}", server.host));
    let name = match &server.host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|error| failed(&error.to_string()))?,
        Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
        Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
    };
    match timeout(timeouts.tls, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
        Ok(Err(cause)) => Err(Failure { code: tls_code(&cause), ..failed(&cause.to_string()) }),
        Err(_) => Err(failed("no handshake in time")),
    }
}

/// A certificate that has merely run out is the provider's oversight (or our clock's): it is waited for, and
/// says nothing about `token_url`.
fn tls_code(cause: &std::io::Error) -> FailureCode {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        )) => FailureCode::TlsFailed,
        Some(rustls::Error::InvalidCertificate(_)) => FailureCode::TlsName,
        _ => FailureCode::TlsFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address whose connections hang: its queue of waiting connections is full.
    async fn hanging() -> (tokio::net::TcpListener, Vec<tokio::task::JoinHandle<std::io::Result<TcpStream>>>, SocketAddr)
    {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        (listener, waiting, address)
    }

    #[tokio::test]
    async fn a_dead_first_address_does_not_eat_all_the_time() {
        let (_listener, _waiting, dead) = hanging().await;
        let alive = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let deadline = || Instant::now() + Duration::from_millis(400);
        let alone = connect_any(&[dead], deadline()).await.unwrap_err();
        assert!(alone.detail.ends_with("no connection in time"), "{alone:?}");
        let started = Instant::now();
        let connected = connect_any(&[dead, alive.local_addr().unwrap()], deadline()).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), alive.local_addr().unwrap());
        assert!(started.elapsed() < Duration::from_millis(350), "the second address was given its share");
        assert!(connected.nodelay().unwrap());
    }

    #[test]
    fn a_certificate_that_ran_out_is_waited_for() {
        let code = |error| tls_code(&std::io::Error::other(rustls::Error::InvalidCertificate(error)));
        assert_eq!(code(CertificateError::Expired), FailureCode::TlsFailed);
        assert_eq!(code(CertificateError::UnknownIssuer), FailureCode::TlsName);
        assert_eq!(code(CertificateError::NotValidForName), FailureCode::TlsName);
        assert_eq!(tls_code(&std::io::ErrorKind::UnexpectedEof.into()), FailureCode::TlsFailed);
    }
}
