//! How a token request is written.

use crate::provider::{BodyFormat, ClientAuth, Rules};
use crate::secret::Secret;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Our registration at a provider.
#[derive(Debug)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret; a public client has none.
    pub secret: Option<Secret>,
}

/// What asks for the next token set.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// RFC 6749 section 6. The scope is left out: it then stays as it was.
    RefreshToken(&'a Secret),
    /// RFC 6749 section 4.4, with these scopes.
    ClientCredentials(&'a [String]),
}

/// A token request, ready to be sent once.
#[derive(Debug)]
pub struct TokenRequest {
    /// The whole `Authorization` header, where the client authenticates by it.
    pub authorization: Option<Secret>,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Secret,
}

/// Writes the request that `grant` needs at a provider with these rules.
///
/// One style of client authentication, never a second try with another: the failed first try can
/// burn a rotating token (quirk 5).
#[must_use]
pub fn token_request(rules: &Rules, client: &Client, grant: Grant<'_>) -> TokenRequest {
    let mut fields: Vec<(&str, &str)> = Vec::with_capacity(4);
    let scope;
    match grant {
        Grant::RefreshToken(token) => {
            fields.push(("grant_type", "refresh_token"));
            fields.push(("refresh_token", token.expose()));
        }
        Grant::ClientCredentials(scopes) => {
            fields.push(("grant_type", "client_credentials"));
            scope = scopes.join(" ");
            if !scope.is_empty() {
                fields.push(("scope", &scope));
            }
        }
    }
    let secret = client.secret.as_ref().map(Secret::expose);
    let authorization = match (rules.client_auth, secret) {
        (ClientAuth::SecretBasic, secret) => Some(basic(&client.id, secret.unwrap_or_default())),
        (ClientAuth::SecretPost, Some(secret)) => {
            fields.extend([("client_id", client.id.as_str()), ("client_secret", secret)]);
            None
        }
        (ClientAuth::SecretPost | ClientAuth::PrivateKeyJwt | ClientAuth::None, _) => {
            fields.push(("client_id", &client.id));
            None
        }
    };
    let (content_type, body) = match rules.body_format {
        BodyFormat::Form => ("application/x-www-form-urlencoded", form(&fields)),
        BodyFormat::Json => ("application/json", json(&fields)),
    };
    TokenRequest { authorization, content_type, body: Secret::new(body) }
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::with_capacity(512)).extend_pairs(fields).finish()
}

fn json(fields: &[(&str, &str)]) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::Object(object).to_string()
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
fn basic(id: &str, secret: &str) -> Secret {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rules: Rules, grant: Grant<'_>) -> TokenRequest {
        let client = Client { id: "my app".into(), secret: Some(Secret::new("s:ec&ret")) };
        token_request(&rules, &client, grant)
    }

    #[test]
    fn a_refresh_carries_the_token_and_the_client_and_no_scope() {
        let token = Secret::new("r/1+2");
        let written = request(Rules::default(), Grant::RefreshToken(&token));
        assert_eq!(
            written.body.expose(),
            "grant_type=refresh_token&refresh_token=r%2F1%2B2&client_id=my+app&client_secret=s%3Aec%26ret"
        );
        assert!(written.authorization.is_none());
    }

    #[test]
    fn basic_authentication_encodes_both_parts_and_keeps_them_out_of_the_body() {
        let token = Secret::new("r");
        let rules = Rules { client_auth: ClientAuth::SecretBasic, ..Rules::default() };
        let written = request(rules, Grant::RefreshToken(&token));
        assert_eq!(written.body.expose(), "grant_type=refresh_token&refresh_token=r");
        let expected = format!("Basic {}", BASE64_STANDARD.encode("my+app:s%3Aec%26ret"));
        assert_eq!(written.authorization.unwrap().expose(), expected);
    }

    #[test]
    fn a_public_client_sends_its_id_alone() {
        let token = Secret::new("r");
        let rules = Rules { client_auth: ClientAuth::None, ..Rules::default() };
        let body = request(rules, Grant::RefreshToken(&token)).body;
        assert!(body.expose().ends_with("client_id=my+app") && !body.expose().contains("secret"));
    }

    #[test]
    fn atlassian_takes_json() {
        let token = Secret::new("r\"1");
        let rules = Rules { body_format: BodyFormat::Json, ..Rules::default() };
        let written = request(rules, Grant::RefreshToken(&token));
        let body: serde_json::Value = serde_json::from_str(written.body.expose()).unwrap();
        assert_eq!(body["refresh_token"], "r\"1");
        assert_eq!(written.content_type, "application/json");
    }

    #[test]
    fn client_credentials_carry_the_scopes() {
        let scopes = ["a".to_owned(), "b".to_owned()];
        let body = request(Rules::default(), Grant::ClientCredentials(&scopes)).body;
        assert!(body.expose().starts_with("grant_type=client_credentials&scope=a+b&"));
    }
}
