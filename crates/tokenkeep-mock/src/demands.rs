//! What a provider demands of requests beyond the standard: without it they are refused.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::answer::Answer;

/// A parameter or header with the value that it must have.
pub type Pair = (&'static str, &'static str);

/// What a provider demands of requests beyond the standard. The default demands nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demands {
    /// The form that bodies of token requests must have.
    pub body: BodyForm,
    /// Parameters of each token request.
    pub params: &'static [Pair],
    /// Headers of each token request, their names in lower case.
    pub headers: &'static [Pair],
    /// Parameters of the authorize URL.
    pub authorize: &'static [Pair],
    /// Whether a refresh must carry a `redirect_uri`.
    pub redirect_on_refresh: RedirectOnRefresh,
}

/// The form of a token request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyForm {
    /// A form or JSON.
    #[default]
    Either,
    /// A form alone.
    Form,
    /// JSON alone.
    Json,
}

/// Whether a refresh must repeat the `redirect_uri` of its sign-in, where that had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectOnRefresh {
    /// It need not.
    #[default]
    Ignored,
    /// Without it the answer is a bare `invalid_grant` (Jira Data Center).
    Needed,
}

impl Demands {
    /// The refusal of a token request that does not fulfil them.
    pub(crate) fn refusal(&self, headers: &HeaderMap, body: &[u8]) -> Option<Answer> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_json = header("content-type").starts_with("application/json");
        let wrong_form = match self.body {
            BodyForm::Either => false,
            BodyForm::Form => is_json,
            BodyForm::Json => !is_json,
        };
        let fields = fields(is_json, body);
        let lacks = |&(name, value): &Pair| !fields.iter().any(|(n, v)| n == name && v == value);
        if wrong_form || self.params.iter().any(lacks) || self.headers.iter().any(|&(n, v)| header(n) != v) {
            return Some(Answer::error(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "The request lacks what is demanded.",
            ));
        }
        None
    }
}

fn fields(is_json: bool, body: &[u8]) -> Vec<(String, String)> {
    if !is_json {
        return form_urlencoded::parse(body).into_owned().collect();
    }
    let object: serde_json::Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    object.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
}
