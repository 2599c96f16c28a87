//! What a provider says about itself (RFC 8414, OpenID Connect Discovery 1.0).

use super::RawAnswer;
use crate::model::printable;
use serde_json::{Map, Value};

/// The endpoints of a provider that was discovered from its issuer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Its identity, the very text that was asked for.
    pub issuer: String,
    /// Where a person signs in.
    pub authorization_endpoint: Option<String>,
    /// Where tokens are issued.
    pub token_endpoint: String,
    /// Where tokens are revoked.
    pub revocation_endpoint: Option<String>,
    /// Where a token's state is told.
    pub introspection_endpoint: Option<String>,
    /// Where a device sign-in starts.
    pub device_authorization_endpoint: Option<String>,
    /// Where it says whose account a token is for.
    pub userinfo_endpoint: Option<String>,
    /// It always sends `iss` with the redirect (RFC 9207 section 3).
    pub sends_issuer: bool,
}

/// The addresses at which an issuer's metadata may lie, in the order to ask them in: RFC 8414 section 3.1, then
/// OpenID Connect Discovery section 4.1, which appends where the other inserts.
#[must_use]
pub fn locations(issuer: &str) -> [String; 3] {
    let issuer = issuer.trim_end_matches('/');
    let (origin, path) = match issuer.find("://").and_then(|at| issuer[at + 3..].find('/').map(|slash| at + 3 + slash))
    {
        Some(at) => issuer.split_at(at),
        None => (issuer, ""),
    };
    [
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{issuer}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ]
}

/// Reads metadata of `issuer`.
///
/// # Errors
/// A sentence: it is no metadata, lacks a token endpoint, or names another issuer (RFC 8414 section 3.3: it must not
/// be used then).
pub fn read(answer: &RawAnswer, issuer: &str) -> Result<Metadata, String> {
    if answer.status == 200 { read_document(&answer.body, issuer) } else { Err(format!("HTTP {}", answer.status)) }
}

/// Reads a metadata document of `issuer`.
///
/// # Errors
/// As [`read`].
pub fn read_document(document: &[u8], issuer: &str) -> Result<Metadata, String> {
    let fields: Map<String, Value> = serde_json::from_slice(document).map_err(|_| "it is no JSON object".to_owned())?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let found = text("issuer").unwrap_or_default();
    // Everybody appends or drops a final slash; RFC 8414 compares exactly what stands in the document with what is used.
    if found.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(format!("it names the issuer `{}`", printable(&found, 200)));
    }
    Ok(Metadata {
        token_endpoint: text("token_endpoint").ok_or("it has no token_endpoint")?,
        issuer: found,
        authorization_endpoint: text("authorization_endpoint"),
        revocation_endpoint: text("revocation_endpoint"),
        introspection_endpoint: text("introspection_endpoint"),
        device_authorization_endpoint: text("device_authorization_endpoint"),
        userinfo_endpoint: text("userinfo_endpoint"),
        sends_issuer: fields.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn document(body: &str) -> RawAnswer {
        RawAnswer { status: 200, content_type: None, retry_after: None, body: Zeroizing::new(body.into()) }
    }

    #[test]
    fn metadata_lies_where_either_standard_says() {
        assert_eq!(
            locations("https://sso.example.com/realms/a/"),
            [
                "https://sso.example.com/.well-known/oauth-authorization-server/realms/a",
                "https://sso.example.com/realms/a/.well-known/openid-configuration",
                "https://sso.example.com/.well-known/openid-configuration/realms/a",
            ]
        );
        assert_eq!(locations("https://x")[0], "https://x/.well-known/oauth-authorization-server");
    }

    #[test]
    fn another_issuer_is_not_believed() {
        let body = r#"{"issuer":"https://x/","token_endpoint":"https://x/t","authorization_response_iss_parameter_supported":true}"#;
        let found = read(&document(body), "https://x").unwrap();
        assert!(found.sends_issuer && found.token_endpoint == "https://x/t" && found.issuer == "https://x/");
        assert!(read(&document(body), "https://y").unwrap_err().contains("https://x/"));
        assert!(read(&document(r#"{"issuer":"https://x"}"#), "https://x").unwrap_err().contains("token_endpoint"));
        assert!(read(&document("[]"), "https://x").is_err());
        assert_eq!(read(&RawAnswer { status: 404, ..document("{}") }, "https://x").unwrap_err(), "HTTP 404");
    }
}
