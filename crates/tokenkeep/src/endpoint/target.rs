//! What a token URL says, read and checked once: where to connect, and what every request to it has in common.

use super::address::is_public;
use super::http::{Options, Reach};
use super::pool::Pool;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tokenkeep_core::oauth::request::{self, ProviderRequest};
use tokenkeep_core::{Failure, FailureCode, Secret};
use url::{Host, Url};

pub(super) const AGENT: &str = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));

/// The body of a token request; its memory is wiped when the last handle to it goes.
pub(super) type RequestBody = Full<Bytes>;

/// Whether TLS is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Scheme {
    /// Over TLS.
    Https,
    /// In the clear: to this machine, or where the configuration says so.
    Http,
}

/// A server as it is connected to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Server {
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// Its name or address.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
}

/// A server and the idle connections to it.
#[derive(Debug)]
pub(super) struct Origin {
    /// The server.
    pub server: Server,
    /// Idle connections to it.
    pub pool: Arc<Pool>,
}

/// A token URL.
#[derive(Debug)]
pub(super) struct Target {
    /// Where to connect.
    pub origin: Arc<Origin>,
    path: Uri,
    headers: HeaderMap,
}

/// The bytes of a secret, wiped when they are dropped.
pub(super) struct SecretBytes(pub Secret);

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.expose().as_bytes()
    }
}

fn refused(url: &Url, why: &str) -> Failure {
    Failure::new(FailureCode::WrongEndpoint, &format!("{}: {why}", url.host_str().unwrap_or("no host")))
}

impl Server {
    /// Reads where a token URL leads.
    ///
    /// # Errors
    /// [`FailureCode::WrongEndpoint`]: no web address, a user name or password in it, or plain http to a host
    /// that is neither this machine nor allowed.
    pub(super) fn of(url: &Url, options: &Options) -> Result<Self, Failure> {
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(refused(url, "token_url is neither https nor http")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused(url, "token_url has a user name or password in it"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(refused(url, "token_url names no host"));
        };
        let server = Self { scheme, host: host.to_owned(), port };
        if let Reach::Public { except } = &options.reach {
            let is_fit = scheme == Scheme::Https || server.is_among(except);
            return if is_fit { Ok(server) } else { Err(refused(url, "it is plain http, and not an allowed host")) };
        }
        if scheme == Scheme::Http && !is_loopback_host(&server.host) && !listed(&options.allow_http_hosts, &server.host)
        {
            return Err(refused(url, "token_url is plain http, which only this machine or an allowed host may be"));
        }
        Ok(server)
    }

    /// Whether one of these, `host` or `host:port`, is it.
    fn is_among(&self, hosts: &[String]) -> bool {
        let with_port = format!("{}:{}", self.host, self.port);
        listed(hosts, &self.host) || hosts.iter().any(|listed| listed.eq_ignore_ascii_case(&with_port))
    }
}

/// Whether a URL may be connected to, as far as it says itself: a host's name may yet have addresses that are refused.
///
/// # Errors
/// [`FailureCode::WrongEndpoint`].
pub(super) fn check_url(url: &Url, options: &Options) -> Result<(), Failure> {
    let server = Server::of(url, options)?;
    let address = match server.host {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
        Host::Domain(_) if is_loopback_host(&server.host) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Host::Domain(_) => return Ok(()),
    };
    check_address(&server, address, options).map_err(|why| refused(url, why))
}

impl Target {
    pub(super) fn new(url: &Url, origin: Arc<Origin>) -> Result<Self, Failure> {
        let text = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let path = text.parse().map_err(|_| refused(url, "token_url has a path that cannot be sent"))?;
        let name = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let host = host.parse().map_err(|_| refused(url, "token_url has a host that cannot be sent"))?;
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Ok(Self { origin, path, headers })
    }

    /// The request as it is sent. Its length is told by the connection, from the body.
    ///
    /// # Errors
    /// [`FailureCode::InvalidRequest`]: the client's credentials do not fit a header.
    pub(super) fn request(&self, asked: ProviderRequest) -> Result<Request<RequestBody>, Failure> {
        let ProviderRequest { method, authorization, headers, content_type, body } = asked;
        let mut request = Request::new(Full::new(Bytes::from_owner(SecretBytes(body))));
        *request.method_mut() = match method {
            request::Method::Post => Method::POST,
            request::Method::Get => Method::GET,
            request::Method::Delete => Method::DELETE,
        };
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        for (name, value) in headers.iter() {
            let unfit = |what: &str| {
                Failure::new(FailureCode::InvalidRequest, &format!("the header {name}: its {what} does not fit"))
            };
            let header = HeaderName::try_from(name.as_ref()).map_err(|_| unfit("name"))?;
            request.headers_mut().insert(header, HeaderValue::from_str(value).map_err(|_| unfit("value"))?);
        }
        if let Some(authorization) = authorization {
            let mut value =
                HeaderValue::from_maybe_shared(Bytes::from_owner(SecretBytes(authorization))).map_err(|_| {
                    Failure::new(FailureCode::InvalidRequest, "the client's credentials do not fit a header")
                })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// Whether the name means this machine (RFC 6761 section 6.3) or the address is a loopback one.
pub(super) fn is_loopback_host(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Whether the configuration names this host.
fn listed(hosts: &[String], host: &Host<String>) -> bool {
    let name = host.to_string();
    let name = name.trim_matches(['[', ']']);
    hosts.iter().any(|listed| listed.trim_matches(['[', ']']).eq_ignore_ascii_case(name))
}

/// Whether `address`, to which the server's host resolved, may be connected to (`security.md` 11).
///
/// # Errors
/// Why not: link-local addresses, where clouds keep their metadata services, unless the host is allowed;
/// and an address that is not loopback for plain http to a name that means this machine.
pub(super) fn check_address(server: &Server, address: IpAddr, options: &Options) -> Result<(), &'static str> {
    if let Reach::Public { except } = &options.reach {
        return if server.is_among(except) || is_public(address) { Ok(()) } else { Err(NOT_PUBLIC) };
    }
    if listed(&options.allow_private_hosts, &server.host) {
        return Ok(());
    }
    let address = address.to_canonical();
    if is_link_local(address) {
        return Err("it is a link-local address, and the host is not allowed to have one");
    }
    let http_by_loopback = server.scheme == Scheme::Http && !listed(&options.allow_http_hosts, &server.host);
    if http_by_loopback && !address.is_loopback() {
        return Err("it is not on this machine, and the host is not allowed to speak plain http");
    }
    Ok(())
}

const NOT_PUBLIC: &str = "it is no address of the public Internet, and not an allowed host";

pub(super) fn is_link_local(address: IpAddr) -> bool {
    /// Amazon's metadata service; it lies in the unique-local range.
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
    match address {
        IpAddr::V4(address) => Ipv4Addr::is_link_local(&address),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, options: &Options) -> Result<Server, Failure> {
        Server::of(&url.parse().unwrap(), options)
    }

    #[test]
    fn plain_http_is_for_this_machine_and_allowed_hosts() {
        let options = Options { allow_http_hosts: vec!["Idp.Test".into(), "::2".into()], ..Options::default() };
        let allowed =
            ["http://localhost/t", "http://a.localhost:1/", "http://127.9.9.9/", "http://[::1]/", "https://x.test/"];
        for url in allowed.into_iter().chain(["http://idp.test:81/", "http://[::2]/"]) {
            assert!(server(url, &options).is_ok(), "{url}");
        }
        for url in [
            "http://x.test/",
            "http://localhost.x.test/",
            "http://10.0.0.1/",
            "http://notlocalhost/",
            "ftp://localhost/",
        ] {
            assert_eq!(server(url, &options).unwrap_err().code, FailureCode::WrongEndpoint, "{url}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        for url in ["https://user:hunter2@x.test/", "https://hunter2@x.test/", "https://:hunter2@x.test/"] {
            let failure = server(url, &Options::default()).unwrap_err();
            assert_eq!(failure.code, FailureCode::WrongEndpoint);
            assert!(!failure.detail.contains("hunter2"), "{failure:?}");
        }
    }

    #[test]
    fn metadata_addresses_are_refused_unless_the_host_is_allowed() {
        let options = Options { allow_private_hosts: vec!["inside.test".into()], ..Options::default() };
        let evil = server("https://evil.test/", &options).unwrap();
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"] {
            assert!(check_address(&evil, address.parse().unwrap(), &options).is_err(), "{address}");
            let inside = server("https://inside.test/", &options).unwrap();
            assert!(check_address(&inside, address.parse().unwrap(), &options).is_ok(), "{address}");
        }
        assert!(check_address(&evil, "93.184.216.34".parse().unwrap(), &options).is_ok());
        let local = server("http://localhost/", &options).unwrap();
        assert!(check_address(&local, "127.0.0.1".parse().unwrap(), &options).is_ok());
        assert!(check_address(&local, "93.184.216.34".parse().unwrap(), &options).is_err(), "a poisoned localhost");
    }

    #[test]
    fn what_users_name_reaches_the_public_internet_and_allowed_hosts_alone() {
        let except = vec!["127.0.0.1:9000".into(), "inside.test".into(), "[fd00::1]:8443".into()];
        let options = Options { reach: Reach::Public { except }, ..Options::default() };
        let check = |url: &str| check_url(&url.parse().unwrap(), &options).map_err(|failure| failure.code);
        for url in [
            "https://example.com/h",
            "https://93.184.216.34/",
            "http://127.0.0.1:9000/h",
            "https://127.0.0.1:9000/h",
            "http://inside.test:81/",
            "https://[fd00::1]:8443/",
            "https://[2606:4700::1111]/",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in [
            "http://example.com/",
            "https://127.0.0.1/",
            "https://127.0.0.1:9001/",
            "https://localhost/",
            "https://a.localhost:9000/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://10.1.2.3/",
            "https://169.254.169.254/latest/meta-data",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://user:pass@example.com/",
            "ftp://example.com/",
        ] {
            assert_eq!(check(url), Err(FailureCode::WrongEndpoint), "{url}");
        }
        let evil = server("https://evil.test/", &options).unwrap();
        let inside = server("https://inside.test/", &options).unwrap();
        let private = "0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.0.1 192.0.2.1 192.88.99.1 \
                       192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 \
                       ::ffff:127.0.0.1 64:ff9b::7f00:1 100::1 2001::1 2001:db8::1 2002:7f00:1::1 3fff::1 fc00::1 fd00:ec2::254 \
                       fe80::1 ff02::1";
        for address in private.split_whitespace() {
            let address = address.parse().unwrap();
            assert!(check_address(&evil, address, &options).is_err(), "{address}");
            assert!(check_address(&inside, address, &options).is_ok(), "{address}");
        }
        for address in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(check_address(&evil, address.parse().unwrap(), &options).is_ok(), "{address}");
        }
    }

    #[test]
    fn the_host_header_names_a_port_only_where_it_is_not_the_usual_one() {
        for (url, expected) in [
            ("https://x.test/a?b=c", "x.test"),
            ("https://x.test:443/", "x.test"),
            ("https://x.test:8443/", "x.test:8443"),
            ("http://[::1]:80/", "[::1]"),
        ] {
            let url: Url = url.parse().unwrap();
            let server = Server::of(&url, &Options::default()).unwrap();
            let origin = Arc::new(Origin { server, pool: Pool::new(1, std::time::Duration::ZERO) });
            assert_eq!(Target::new(&url, origin).unwrap().headers[HOST], expected);
        }
    }
}
