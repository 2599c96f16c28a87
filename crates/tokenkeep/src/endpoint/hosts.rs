//! The hosts of a provider's API: where requests with an access token may go, and nowhere else.

use super::address::is_public;
use super::target::{Scheme, Server, is_link_local};
use std::fmt;
use std::net::IpAddr;
use url::{Host, Url};

/// What an API host looks like in the configuration.
pub const EXPECTED: &str = "a host such as \"api.example.com\", \"https://api.example.com:8443\", \"http://127.0.0.1:9400\", or \"*.example.com\" for all below a domain";

/// A host of a provider's API, or all hosts below a domain.
///
/// ```
/// use tokenkeep::endpoint::hosts::ApiHost;
/// assert_eq!(ApiHost::configured("api.example.com").unwrap().to_string(), "https://api.example.com");
/// assert!(ApiHost::configured("https://api.example.com/v1").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiHost(Rule);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    One(Place),
    /// Every host below this domain, by https.
    Below(String),
}

/// A server that requests with an access token may go to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place {
    pub(super) server: Server,
    reach: Reach,
}

/// Which addresses a host may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reach {
    /// Those of the public Internet.
    Public,
    /// Any, for the configuration names the host.
    Named,
}

/// Why a request has no target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoTarget {
    /// The provider has no API hosts.
    Unknown,
    /// The first API host is a whole domain: the caller must say which below it.
    Needed,
    /// What the caller said is not a plain `https://host`.
    Malformed,
    /// What the caller said is not one of the API hosts.
    Forbidden,
}

impl ApiHost {
    /// A host that the configuration names: it may have a private address, and speak plain http where it says so.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn configured(text: &str) -> Result<Self, String> {
        Self::read(text, Reach::Named)
    }

    /// A host of the catalogue: by https, at a public address.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn known(text: &str) -> Result<Self, String> {
        Self::read(text, Reach::Public)
    }

    fn read(text: &str, reach: Reach) -> Result<Self, String> {
        if let Some(domain) = text.strip_prefix("*.") {
            return match server(&format!("https://{domain}")).map(|server| server.host) {
                Some(Host::Domain(name)) if name.len() != domain.len() => {
                    Err("nothing may follow the domain after `*.`: it is https at the usual port".to_owned())
                }
                Some(Host::Domain(name)) if name.contains('.') => Ok(Self(Rule::Below(name))),
                Some(Host::Domain(_)) => Err("a whole top-level domain cannot be meant".to_owned()),
                _ => Err("what follows `*.` is no domain".to_owned()),
            };
        }
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let server =
            server(&whole).ok_or("it is no plain host: nothing may stand before or after it but scheme and port")?;
        if server.scheme == Scheme::Http && reach == Reach::Public {
            return Err("plain http is for hosts that the configuration names".to_owned());
        }
        Ok(Self(Rule::One(Place { server, reach })))
    }

    /// The place, where `server` is this host or below it.
    fn leads_to(&self, server: &Server) -> Option<Place> {
        match &self.0 {
            Rule::One(place) => (place.server == *server).then(|| place.clone()),
            Rule::Below(domain) => {
                let Host::Domain(name) = &server.host else { return None };
                let below = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
                let fits = !below.is_empty() && server.scheme == Scheme::Https && server.port == 443;
                fits.then(|| Place { server: server.clone(), reach: Reach::Public })
            }
        }
    }
}

impl fmt::Display for ApiHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::One(place) => place.fmt(f),
            Rule::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server.scheme == Scheme::Https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Place {
    /// Its name, and its port where that is not the usual one.
    pub(super) fn authority(&self) -> String {
        let Server { scheme, host, port } = &self.server;
        if *port == usual_port(*scheme) { host.to_string() } else { format!("{host}:{port}") }
    }

    /// Whether `address`, to which the host resolved, may be connected to.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        let is_literal = !matches!(self.server.host, Host::Domain(_));
        match self.reach {
            Reach::Public if !is_public(address) => {
                Err("it is not a public address, which only a host may have that the configuration names in api_hosts")
            }
            // Where clouds keep their metadata services; nobody means that by a name.
            Reach::Named if is_link_local(address.to_canonical()) && !is_literal => {
                Err("it is a link-local address, and api_hosts names the host, not the address")
            }
            _ => Ok(()),
        }
    }
}

/// Where a request goes: to the host that the caller asks for, which must be among `hosts`; else to the first of them.
pub(crate) fn target(hosts: &[ApiHost], asked: Option<&str>) -> Result<Place, NoTarget> {
    let Some(first) = hosts.first() else { return Err(NoTarget::Unknown) };
    let Some(asked) = asked else {
        return match &first.0 {
            Rule::One(place) => Ok(place.clone()),
            Rule::Below(_) => Err(NoTarget::Needed),
        };
    };
    let schemes: &[&str] = if asked.contains("://") { &[""] } else { &["https://", "http://"] };
    let servers: Vec<Server> = schemes.iter().filter_map(|scheme| server(&format!("{scheme}{asked}"))).collect();
    if servers.is_empty() {
        return Err(NoTarget::Malformed);
    }
    let leads = servers.iter().find_map(|server| hosts.iter().find_map(|host| host.leads_to(server)));
    leads.ok_or(NoTarget::Forbidden)
}

const fn usual_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Https => 443,
        Scheme::Http => 80,
    }
}

/// A server, written as it is read: an address in another spelling, a user, a path or anything encoded is none.
fn server(text: &str) -> Option<Server> {
    let text = text.to_ascii_lowercase();
    let written = text.strip_suffix('/').unwrap_or(&text);
    let url = Url::parse(&text).ok()?;
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return None,
    };
    let (host, port) = (url.host()?.to_owned(), url.port_or_known_default()?);
    let (plain, whole) = (format!("{}://{host}", url.scheme()), format!("{}://{host}:{port}", url.scheme()));
    let is_as_written = written == whole || (written == plain && port == usual_port(scheme));
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let is_name = |name: &str| name.split('.').all(is_label);
    let is_plain = !matches!(&host, Host::Domain(name) if !is_name(name));
    (is_as_written && is_plain && port != 0).then_some(Server { scheme, host, port })
}

#[cfg(test)]
mod tests;
