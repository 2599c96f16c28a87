//! A daemon that is reached by its URL: over TLS, or in the clear on this machine alone.

use super::{Answer, Wire, exit_of, problem_error};
use crate::api::problem::Problem;
use crate::env;
use crate::error::{CliError, Exit};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokenkeep::access::KEY_PREFIX;
use tokenkeep::endpoint::{CONNECT_TIMEOUT, TLS_TIMEOUT, tls_config};
use tokenkeep_core::Secret;
use tokenkeep_core::model::printable;
use url::{Host, Url};
use zeroize::Zeroizing;

/// The longest file that holds a key.
const KEY_FILE_MAX: u64 = 4 * 1024;
/// What [`Remote::read`] expects.
const EXPECTED: &str = "expected https://HOST[:PORT][/PATH], or http:// to this machine, as in http://127.0.0.1:7878";

/// The daemon behind a URL, and the key that it is asked with.
#[derive(Debug)]
pub struct Remote {
    /// As it is told to people: nothing in it is a secret.
    shown: Arc<str>,
    is_tls: bool,
    host: Host,
    port: u16,
    /// What stands in the `Host` header.
    authority: String,
    /// What every path begins with.
    base: String,
    key: Option<Secret>,
    /// Made for the first connection that needs it: it takes a while to read the root certificates.
    tls: OnceLock<Arc<ClientConfig>>,
}

/// The key that the environment holds, or the file that it names.
///
/// # Errors
/// Both are set, the file cannot be read, or what is there is no key.
pub fn key() -> Result<Option<Secret>, CliError> {
    let file_variable = format!("{}{}", env::API_KEY, env::FILE_SUFFIX);
    match (env::read(env::API_KEY).map(Zeroizing::new), env::read(&file_variable)) {
        (None, None) => Ok(None),
        (Some(text), None) => checked(&text, env::API_KEY).map(Some),
        (None, Some(path)) => {
            let wrong = |why: &str| {
                CliError::usage(format!("the file {} cannot be read: {why}", printable(&path, 200)))
                    .evidence(format!("{file_variable} names it"))
                    .next_step("name a file that this user can read, with the API key alone in it")
            };
            let mut text = Zeroizing::new(String::new());
            let read = std::fs::File::open(&path).and_then(|file| file.take(KEY_FILE_MAX).read_to_string(&mut text));
            read.map_err(|error| wrong(&error.to_string()))?;
            checked(&text, &file_variable).map(Some)
        }
        (Some(_), Some(_)) => Err(CliError::usage(format!("{} and {file_variable} are both set", env::API_KEY))
            .next_step("unset one of them")),
    }
}

/// What is no key is sent to nobody: it may be another secret, taken for one.
fn checked(text: &str, variable: &str) -> Result<Secret, CliError> {
    let text = text.trim();
    if text.starts_with(KEY_PREFIX) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(Secret::new(text));
    }
    Err(CliError::usage(format!("what {variable} gives is no API key"))
        .next_step(format!("expected what `tokenkeep api-key create` printed, which begins with {KEY_PREFIX}")))
}

impl Remote {
    /// Reads the URL of a daemon, which is asked with this key.
    ///
    /// # Errors
    /// It is none: what was found, never its password.
    pub fn read(text: &str, key: Option<Secret>) -> Result<Self, CliError> {
        let wrong = |what: &str| {
            CliError::usage(format!("the daemon's URL {what}"))
                .evidence(format!("--url or {} gives it", env::URL))
                .next_step(EXPECTED)
        };
        let url = Url::parse(text).map_err(|error| wrong(&format!("is none: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&format!("begins with {}:", printable(url.scheme(), 20))));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let told = wrong("has a user name or a password in it, where every list of processes shows it");
            return Err(told.next_step(format!("take it out, and put the API key into {}", env::API_KEY)));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has a query or a fragment"));
        }
        let (Some(host), Some(port)) = (url.host().map(|host| host.to_owned()), url.port_or_known_default()) else {
            return Err(wrong("names no host"));
        };
        let is_tls = url.scheme() == "https";
        let name = url.host_str().unwrap_or_default();
        let authority = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let base = url.path().trim_end_matches('/').to_owned();
        let shown = format!("{}://{authority}{base}", url.scheme());
        if !is_tls && !is_this_machine(&host) {
            return Err(CliError::usage(format!("{shown} is plain http to another machine"))
                .evidence("whoever is between could read the API key and every token")
                .next_step("use https, or a tunnel: `ssh -L 7878:127.0.0.1:7878 HOST` and http://127.0.0.1:7878"));
        }
        Ok(Self { shown: shown.into(), is_tls, host, port, authority, base, key, tls: OnceLock::new() })
    }

    /// As it is told to people.
    #[must_use]
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// A line of a request's head, wiped when it is dropped; nothing without a key.
    pub(super) fn authorization(&self) -> Zeroizing<String> {
        let line = |key: &Secret| format!("authorization: Bearer {}\r\n", key.expose());
        Zeroizing::new(self.key.as_ref().map(line).unwrap_or_default())
    }

    /// Opens a connection whose reads and writes each take no longer than `timeout`.
    ///
    /// # Errors
    /// Nobody listens there, or it is nobody to trust.
    pub(super) fn connect(&self, timeout: Duration) -> Result<Box<dyn Wire>, CliError> {
        let mut stream = self.dial()?;
        let unusable = |error: io::Error| self.unreachable(&error);
        // A request is written whole; waiting for more to send only delays it.
        stream.set_nodelay(true).map_err(unusable)?;
        let limit = |stream: &TcpStream, timeout| {
            stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)))
        };
        if !self.is_tls {
            limit(&stream, timeout).map_err(unusable)?;
            return Ok(Box::new(stream));
        }
        limit(&stream, TLS_TIMEOUT).map_err(unusable)?;
        let mut session = self.session()?;
        session.complete_io(&mut stream).map_err(|error| self.no_tls(&error))?;
        limit(&stream, timeout).map_err(unusable)?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }

    /// Tries one address after the other; each gets its share of the time that is left.
    fn dial(&self) -> Result<TcpStream, CliError> {
        let addresses = self.addresses()?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (tried, address) in addresses.iter().enumerate() {
            let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / untried;
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(self.unreachable(&last))
    }

    /// In the clear, a name that leads to another machine leads nowhere.
    fn addresses(&self) -> Result<Vec<SocketAddr>, CliError> {
        let name = match &self.host {
            Host::Domain(name) => name.as_str(),
            Host::Ipv4(address) => return Ok(vec![(IpAddr::V4(*address), self.port).into()]),
            Host::Ipv6(address) => return Ok(vec![(IpAddr::V6(*address), self.port).into()]),
        };
        let unknown = |why: String| {
            CliError::new(format!("the host of {} has no address", self.shown))
                .evidence(why)
                .next_step(format!("check --url and {}, and this machine's name service", env::URL))
        };
        let found = (name, self.port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        let found: Vec<_> = found.filter(|address| self.is_tls || address.ip().is_loopback()).collect();
        if found.is_empty() { Err(unknown(format!("none that may be used is known for {name}"))) } else { Ok(found) }
    }

    fn session(&self) -> Result<ClientConnection, CliError> {
        let failed = |why: String| CliError::new(format!("{} cannot be spoken to by TLS", self.shown)).evidence(why);
        let config = match self.tls.get() {
            Some(config) => Arc::clone(config),
            None => {
                let made = tls_config(Vec::new()).map_err(|failure| {
                    failed(failure.detail.to_string()).next_step(format!(
                        "install this machine's root certificates (ca-certificates), or name a file with {}",
                        env::SSL_CERT_FILE
                    ))
                })?;
                Arc::clone(self.tls.get_or_init(|| made))
            }
        };
        let name = match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|error| failed(error.to_string()))?,
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        ClientConnection::new(config, name).map_err(|error| failed(error.to_string()))
    }

    /// As without a daemon at the socket, trying again does not help until somebody does something.
    fn unreachable(&self, error: &io::Error) -> CliError {
        let told = match error.kind() {
            io::ErrorKind::ConnectionRefused => CliError::new(format!("nobody listens at {}", self.shown)),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                CliError::temporary(format!("nobody answers at {}", self.shown))
            }
            _ => CliError::temporary(format!("{} cannot be reached", self.shown)),
        };
        told.evidence(error.to_string()).next_step(format!(
            "start the daemon there (`tokenkeep serve`; its log says where it listens), or check --url and {}",
            env::URL
        ))
    }

    fn no_tls(&self, error: &io::Error) -> CliError {
        use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext};
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (what, next) = match cause {
            Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                ("the certificate is for another host", format!("check --url and {}", env::URL))
            }
            Some(rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })) => {
                ("the certificate has run out", "have it renewed, and check this machine's clock".to_owned())
            }
            Some(rustls::Error::InvalidCertificate(_)) => (
                "the certificate is not trusted",
                format!(
                    "add its issuer to this machine's root certificates, or name a file that holds it with {}",
                    env::SSL_CERT_FILE
                ),
            ),
            Some(rustls::Error::InvalidMessage(_)) => {
                ("what answers speaks no TLS", format!("check --url and {}: is it http?", env::URL))
            }
            None if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return CliError::temporary(format!("{}: no TLS handshake in time", self.shown)).next_step("try again");
            }
            _ => ("the TLS handshake failed", format!("check --url and {}", env::URL)),
        };
        CliError::new(format!("{}: {what}", self.shown)).evidence(error.to_string()).next_step(next)
    }

    /// What an answer that is no success means.
    pub(super) fn refused(&self, answer: &Answer) -> CliError {
        let problem = serde_json::from_slice::<Problem>(&answer.body);
        match (problem, answer.status) {
            (Ok(_), 401) if self.key.is_none() => {
                CliError::new(format!("{} wants an API key, and {} is not set", self.shown, env::API_KEY))
                    .next_step(format!(
                        "make a key on the daemon's machine with `tokenkeep api-key create`, and put it into {}",
                        env::API_KEY
                    ))
            }
            (Ok(problem), 401) => CliError::new(problem.detail.trim_end_matches('.'))
                .evidence(format!("asked at {}", self.shown))
                .next_step(format!(
                    "check {}; `tokenkeep api-key list` on the daemon's machine shows the keys, `api-key create` makes one",
                    env::API_KEY
                )),
            (Ok(problem), _) => problem_error(&problem),
            (Err(_), status @ (502..=504 | 429)) => {
                CliError::temporary(format!("{} answered {status}, in the words of no Tokenkeep", self.shown))
                    .next_step("try again; if that does not help, see whether the daemon behind it runs")
            }
            (Err(_), status @ 300..400) => {
                CliError::new(format!("{} leads elsewhere (it answered {status}), and is not followed", self.shown))
                    .next_step("give the address it leads to with --url")
            }
            (Err(_), status) => {
                let exit = exit_of(status, "");
                CliError::with_exit(exit, format!("what answers at {} is no Tokenkeep: {status}", self.shown))
                    .next_step(format!("check --url and {}, its path too", env::URL))
            }
        }
    }
}

/// A name that means this machine, or one of its own addresses.
fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// What a command says that the daemon serves on its socket alone.
#[must_use]
pub fn socket_only(command: &str) -> CliError {
    CliError::with_exit(Exit::Usage, format!("`tokenkeep {command}` works on the daemon's socket alone"))
        .evidence(format!("--url or {} names a daemon by its address", env::URL))
        .next_step(format!(
            "run it on the daemon's machine, as its user, without --url and with {} unset; --state-dir goes before that",
            env::URL
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn read(text: &str) -> Result<Remote, String> {
        Remote::read(text, None).map_err(|error| {
            assert_eq!(error.exit(), Exit::Usage);
            error.report()
        })
    }

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |text: &str| {
            let remote = read(text).unwrap();
            (remote.shown.to_string(), remote.authority, remote.port, remote.base)
        };
        let expected = |shown: &str, authority: &str, port, base: &str| {
            (shown.to_owned(), authority.to_owned(), port, base.to_owned())
        };
        assert_eq!(parts("http://127.0.0.1:7878"), expected("http://127.0.0.1:7878", "127.0.0.1:7878", 7_878, ""));
        assert_eq!(
            parts("https://Keep.example/a/b//"),
            expected("https://keep.example/a/b", "keep.example", 443, "/a/b")
        );
        assert_eq!(parts("http://[::1]:1/"), expected("http://[::1]:1", "[::1]:1", 1, ""));
        assert_eq!(parts("http://LOCALHOST"), expected("http://localhost", "localhost", 80, ""));
    }

    #[test]
    fn what_is_no_url_of_a_daemon_is_refused_and_no_password_is_told() {
        for (text, says) in [
            ("127.0.0.1:7878", "is none"),
            ("localhost:7878", "begins with localhost:"),
            ("ftp://127.0.0.1", "begins with ftp:"),
            ("https://", "is none"),
            ("https://u:hunter2@keep.example", "user name or a password"),
            ("https://hunter2@keep.example", "user name or a password"),
            ("https://keep.example/?key=hunter2", "query"),
            ("https://keep.example/#hunter2", "fragment"),
            ("http://keep.example", "plain http to another machine"),
            ("http://10.0.0.1:7878", "plain http to another machine"),
            ("http://localhost.evil.example", "plain http to another machine"),
        ] {
            let report = read(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(report.contains(says) && report.contains("next: "), "{text}: {report}");
            assert!(!report.contains("hunter2"), "{report}");
        }
    }

    #[test]
    fn only_a_key_is_taken_for_one() {
        assert_eq!(checked(" tk_0aB\n", "V").unwrap().expose(), "tk_0aB");
        for wrong in ["", "hunter2", "tk_a\r\nx: y", "tk_a b", "tk_é"] {
            let report = checked(wrong, "V").unwrap_err().report();
            assert!(report.contains("what V gives is no API key"), "{report}");
            assert!(wrong.is_empty() || !report.contains(wrong), "{report}");
        }
    }

    #[test]
    fn a_name_that_means_another_machine_is_not_spoken_to_in_the_clear() {
        let mut remote = read("http://localhost:9").unwrap();
        // As if the machine's name service said so of `localhost`.
        remote.host = Host::parse("192.0.2.1.invalid").unwrap();
        let report = remote.addresses().unwrap_err().report();
        assert!(report.contains("has no address"), "{report}");
    }

    #[test]
    fn nobody_who_listens_is_an_error_that_says_what_to_do() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let remote = read(&format!("http://127.0.0.1:{port}")).unwrap();
        let Err(error) = remote.connect(Duration::from_secs(1)) else { panic!("nobody listens") };
        assert_eq!(error.exit(), Exit::Error);
        assert!(error.report().contains("nobody listens at http://127.0.0.1:") && error.report().contains("--url"));
    }

    fn refused(remote: &Remote, status: u16, body: &str) -> (Exit, String) {
        let answer = Answer { status, body: body.as_bytes().to_vec(), from: None };
        let error = remote.refused(&answer);
        (error.exit(), error.report())
    }

    #[test]
    fn what_refuses_is_told_apart() {
        let without = read("https://keep.example/t").unwrap();
        let with = Remote::read("https://keep.example/t", Some(Secret::new("tk_hunter2"))).unwrap();
        let problem = |status: u16| {
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            serde_json::to_string(&Problem::new(status, "x", "it is so.").next("Do it.")).unwrap()
        };
        for (remote, status, body, exit, says) in [
            (&without, 401, problem(401), Exit::Error, "TOKENKEEP_API_KEY is not set"),
            (&with, 401, problem(401), Exit::Error, "error: it is so\n"),
            (&with, 403, problem(403), Exit::Error, "next: Do it."),
            (&with, 503, problem(503), Exit::Temporary, "next: Do it."),
            (&with, 404, "<html>".to_owned(), Exit::Error, "is no Tokenkeep: 404"),
            (&with, 302, String::new(), Exit::Error, "leads elsewhere"),
            (&with, 502, "<html>".to_owned(), Exit::Temporary, "answered 502"),
        ] {
            let (found, report) = refused(remote, status, &body);
            assert!(found == exit && report.contains(says), "{status}: {report}");
            assert!(report.contains("next: ") && !report.contains("hunter2"), "{report}");
        }
        assert!(!format!("{with:?}").contains("hunter2"));
    }
}
