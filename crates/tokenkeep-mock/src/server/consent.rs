//! What the resource owner sees and decides, over HTTP: the authorize endpoint and the device page.

use std::collections::BTreeMap;

use http::request::Parts;
use http::{Method, StatusCode};

use super::pages;
use super::state::State;
use crate::answer::Answer;
use crate::provider::{Decision, UnfitAsk};

/// Shows the consent form, or takes its decision; `auto` in the query decides at once.
pub(crate) fn authorize(state: &State, parts: &Parts, body: &[u8]) -> Answer {
    let query = parts.uri.query().unwrap_or_default();
    let ask = match state.with_provider(|provider| provider.ask(query)) {
        Ok(ask) => ask,
        Err(UnfitAsk::Told(why)) => return pages::told(StatusCode::BAD_REQUEST, why),
        Err(UnfitAsk::Redirected(url)) => return pages::sent_to(&url),
    };
    let now_ms = state.now_ms();
    match decision(parts, &pairs(query), &pairs_of_body(body)) {
        Ok(None) => pages::consent(&ask),
        Ok(Some(decision)) => pages::sent_to(&state.with_provider(|provider| provider.decide(now_ms, &ask, decision))),
        Err(why) => pages::told(StatusCode::BAD_REQUEST, why),
    }
}

/// Asks for a user code, shows what waits behind it, or takes the decision.
pub(crate) fn device(state: &State, parts: &Parts, body: &[u8]) -> Answer {
    let (query, form) = (pairs(parts.uri.query().unwrap_or_default()), pairs_of_body(body));
    let Some(user_code) = form.get("user_code").or(query.get("user_code")) else {
        return pages::device_code();
    };
    let now_ms = state.now_ms();
    let decision = match decision(parts, &query, &form) {
        Ok(decision) => decision,
        Err(why) => return pages::told(StatusCode::BAD_REQUEST, why),
    };
    let page = state.with_provider(|provider| match decision {
        None => provider.device_ask(now_ms, user_code).map(|(client, scope)| pages::device(client, scope, user_code)),
        Some(decision) => provider
            .decide_device(now_ms, user_code, decision)
            .then(|| pages::told(StatusCode::OK, "Done: go back to the device.")),
    });
    page.unwrap_or_else(|| pages::told(StatusCode::NOT_FOUND, "No device waits with this code."))
}

type Pairs = BTreeMap<String, String>;

fn pairs(query: &str) -> Pairs {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn pairs_of_body(body: &[u8]) -> Pairs {
    form_urlencoded::parse(body).into_owned().collect()
}

/// What was decided: by the form's buttons, or by `auto` in the query.
fn decision(parts: &Parts, query: &Pairs, form: &Pairs) -> Result<Option<Decision>, &'static str> {
    let decided = if parts.method == Method::POST { form.get("decision") } else { query.get("auto") };
    match decided.map(String::as_str) {
        Some("allow") => Ok(Some(Decision::Allow)),
        Some("deny") => Ok(Some(Decision::Deny)),
        None if parts.method == Method::GET => Ok(None),
        _ => Err("The decision must be allow or deny."),
    }
}
