//! The authorization request, and what comes back with the redirect (RFC 6749 section 4.1, RFC 7636, RFC 9207).

use crate::model::printable;
use crate::secret::Secret;

/// The longest query of a redirect that is read, in bytes.
pub const CALLBACK_BYTES_MAX: usize = 16 * 1024;

/// An authorization request.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizationRequest<'a> {
    /// The client id.
    pub client_id: &'a str,
    /// Where the provider sends the browser back to.
    pub redirect_uri: &'a str,
    /// The scopes.
    pub scopes: &'a [String],
    /// What stands between them.
    pub scope_separator: char,
    /// Binds the redirect to this request.
    pub state: &'a Secret,
    /// The SHA-256 of the PKCE verifier, base64url without padding.
    pub code_challenge: &'a str,
    /// Ties an id token to this request (OpenID Connect).
    pub nonce: Option<&'a str>,
    /// Who is expected to sign in.
    pub login_hint: Option<&'a str>,
    /// What the provider needs besides, and what the caller adds; a later one replaces an earlier one of its name.
    pub params: &'a [(&'a str, &'a str)],
}

/// The names that no further parameter may replace.
const RESERVED: [&str; 8] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "client_secret",
];

/// Whether a caller may give a parameter of this name.
#[must_use]
pub fn may_be_given(name: &str) -> bool {
    !RESERVED.contains(&name) && !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())
}

/// The query of the authorization request, to be added to the authorization endpoint's own.
#[must_use]
pub fn query(request: &AuthorizationRequest<'_>) -> String {
    let scope = request.scopes.join(&request.scope_separator.to_string());
    let mut query = form_urlencoded::Serializer::new(String::with_capacity(512));
    query
        .append_pair("response_type", "code")
        .append_pair("client_id", request.client_id)
        .append_pair("redirect_uri", request.redirect_uri)
        .append_pair("state", request.state.expose())
        .append_pair("code_challenge", request.code_challenge)
        .append_pair("code_challenge_method", "S256");
    let own = [
        ("scope", (!scope.is_empty()).then_some(scope.as_str())),
        ("nonce", request.nonce),
        ("login_hint", request.login_hint),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let replaced = |name: &str| request.params.iter().any(|(given, _)| *given == name);
    query.extend_pairs(own.filter(|(name, _)| !replaced(name)));
    let params = request.params.iter().filter(|(name, _)| may_be_given(name));
    for (nth, (name, value)) in params.clone().enumerate() {
        // RFC 8707: `resource` may stand several times.
        if *name == "resource" || params.clone().skip(nth + 1).all(|(later, _)| later != name) {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// What the redirect brought.
#[derive(Debug)]
pub enum Callback {
    /// A code, to be exchanged once.
    Code(Secret),
    /// The provider or the person said no.
    Refused {
        /// `error`: `access_denied` when the person denied (RFC 6749 section 4.1.2.1).
        error: String,
        /// `error_description`, printable. May be empty.
        description: String,
    },
}

/// Why a redirect is not taken. None of these ends the grant in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallbackFault {
    /// It is longer than [`CALLBACK_BYTES_MAX`], or has a parameter twice.
    Malformed,
    /// `iss` names another provider, or is missing where the provider says that it sends it (RFC 9207): a mix-up.
    OtherIssuer,
    /// It has neither a code nor an error.
    Empty,
}

/// The value of `state` in a redirect's query; `None` when it is missing or stands twice.
#[must_use]
pub fn state_of(query: &str) -> Option<Secret> {
    one(query, "state").ok().flatten().map(Secret::new)
}

/// What is expected of `iss`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpectedIssuer<'a> {
    /// The provider has no issuer that we know: whatever stands there is not looked at.
    Unknown,
    /// Where `iss` stands it must be this.
    IfSent(&'a str),
    /// The provider's metadata says that it always sends it.
    Always(&'a str),
}

/// Reads the query of a redirect whose state was found right.
///
/// # Errors
/// [`CallbackFault`].
pub fn read_callback(query: &str, issuer: ExpectedIssuer<'_>) -> Result<Callback, CallbackFault> {
    if query.len() > CALLBACK_BYTES_MAX {
        return Err(CallbackFault::Malformed);
    }
    let iss = one(query, "iss")?;
    let right = match (issuer, iss.as_deref()) {
        (ExpectedIssuer::Unknown, _) | (ExpectedIssuer::IfSent(_), None) => true,
        (ExpectedIssuer::Always(_), None) => false,
        (ExpectedIssuer::IfSent(expected) | ExpectedIssuer::Always(expected), Some(found)) => expected == found,
    };
    if !right {
        return Err(CallbackFault::OtherIssuer);
    }
    if let Some(error) = one(query, "error")? {
        let description = one(query, "error_description")?.unwrap_or_default();
        return Ok(Callback::Refused { error: printable(&error, 60), description: printable(&description, 300) });
    }
    match one(query, "code")? {
        Some(code) if !code.is_empty() => Ok(Callback::Code(Secret::new(code))),
        _ => Err(CallbackFault::Empty),
    }
}

/// The value of a parameter that may stand once (RFC 6749 section 3.1).
fn one(query: &str, name: &str) -> Result<Option<String>, CallbackFault> {
    let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(CallbackFault::Malformed),
        (first, None) => Ok(first.map(std::borrow::Cow::into_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(
        state: &'a Secret,
        scopes: &'a [String],
        params: &'a [(&'a str, &'a str)],
    ) -> AuthorizationRequest<'a> {
        AuthorizationRequest {
            client_id: "app",
            redirect_uri: "http://127.0.0.1:1/callback",
            scopes,
            scope_separator: ' ',
            state,
            code_challenge: "challenge",
            nonce: None,
            login_hint: None,
            params,
        }
    }

    #[test]
    fn the_request_says_what_it_must_and_pkce_is_always_there() {
        let (state, scopes) = (Secret::new("s"), ["read:me".to_owned(), "offline_access".to_owned()]);
        assert_eq!(
            query(&request(&state, &scopes, &[("audience", "api.atlassian.com"), ("prompt", "consent")])),
            "response_type=code&client_id=app&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback&state=s\
             &code_challenge=challenge&code_challenge_method=S256&scope=read%3Ame+offline_access\
             &audience=api.atlassian.com&prompt=consent"
        );
        let slack = AuthorizationRequest { scope_separator: ',', ..request(&state, &scopes, &[]) };
        assert!(query(&slack).contains("scope=read%3Ame%2Coffline_access"));
    }

    #[test]
    fn what_is_given_replaces_what_is_usual_and_never_what_keeps_it_safe() {
        let (state, scopes) = (Secret::new("s"), ["a".to_owned()]);
        let params = [
            ("prompt", "consent"),
            ("prompt", "login"),
            ("state", "evil"),
            ("redirect_uri", "https://evil"),
            ("scope", "b"),
            ("resource", "1"),
            ("resource", "2"),
        ];
        let text = query(&request(&state, &scopes, &params));
        assert!(text.ends_with("&prompt=login&scope=b&resource=1&resource=2") && !text.contains("evil"), "{text}");
        assert_eq!(text.matches("scope=").count(), 1);
        assert!(!may_be_given("code_challenge_method") && !may_be_given("a b") && may_be_given("audience"));
    }

    fn fault(query: &str, issuer: ExpectedIssuer<'_>) -> CallbackFault {
        read_callback(query, issuer).unwrap_err()
    }

    #[test]
    fn a_code_is_read_and_a_refusal_is_shown_safely() {
        let Ok(Callback::Code(code)) = read_callback("state=s&code=a%2Fb", ExpectedIssuer::Unknown) else { panic!() };
        assert_eq!(code.expose(), "a/b");
        let denied = read_callback("error=access_denied&error_description=no%0A%1b%5B31m", ExpectedIssuer::Unknown);
        let Ok(Callback::Refused { error, description }) = denied else { panic!() };
        assert_eq!((error.as_str(), description.as_str()), ("access_denied", "no\u{fffd}\u{fffd}[31m"));
    }

    #[test]
    fn a_mix_up_is_noticed() {
        let honest = "https://honest.example";
        assert!(read_callback("code=a&iss=https%3A%2F%2Fhonest.example", ExpectedIssuer::Always(honest)).is_ok());
        assert!(read_callback("code=a", ExpectedIssuer::IfSent(honest)).is_ok());
        assert_eq!(fault("code=a", ExpectedIssuer::Always(honest)), CallbackFault::OtherIssuer);
        for issuer in [ExpectedIssuer::IfSent(honest), ExpectedIssuer::Always(honest)] {
            assert_eq!(fault("code=a&iss=https%3A%2F%2Fevil.example", issuer), CallbackFault::OtherIssuer);
            assert_eq!(fault("error=x&iss=https%3A%2F%2Fhonest.example%2F", issuer), CallbackFault::OtherIssuer);
        }
    }

    #[test]
    fn what_stands_twice_or_not_at_all_is_refused() {
        assert_eq!(fault("code=a&code=b", ExpectedIssuer::Unknown), CallbackFault::Malformed);
        assert_eq!(fault(&format!("code={}", "a".repeat(20_000)), ExpectedIssuer::Unknown), CallbackFault::Malformed);
        assert_eq!(fault("", ExpectedIssuer::Unknown), CallbackFault::Empty);
        assert_eq!(fault("code=", ExpectedIssuer::Unknown), CallbackFault::Empty);
        assert!(state_of("state=a&state=b").is_none() && state_of("code=x").is_none());
        assert_eq!(state_of("code=x&state=a%20b").unwrap().expose(), "a b");
    }
}
