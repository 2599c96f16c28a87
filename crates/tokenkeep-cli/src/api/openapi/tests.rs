use super::*;
use crate::api::access::{Need, RULES};
use crate::api::{pages, routes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn value() -> Value {
    serde_json::from_str(text()).unwrap()
}

/// `METHOD path` of every operation in the document.
fn documented() -> BTreeSet<String> {
    let value = value();
    let of = |(path, item): (&String, &Value)| {
        let methods: Vec<String> =
            item.as_object().unwrap().keys().map(|m| format!("{} {path}", m.to_uppercase())).collect();
        methods
    };
    value["paths"].as_object().unwrap().iter().flat_map(of).collect()
}

/// What the routers serve, as they show it for debugging: axum tells it in no other way.
fn served() -> BTreeSet<String> {
    [routes(), pages()].into_iter().flat_map(|router| in_router(&axum::Router::from(router))).collect()
}

fn in_router<S>(router: &axum::Router<S>) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let (routes, node) = shown.split_once("node: Node { paths: {").expect("the router shows its paths");
    // RouteId(1): MethodRouter(MethodRouter { get: BoxedHandler, ..., allow_header: Bytes(b"GET,HEAD") })
    let methods: BTreeMap<&str, &str> = entries(routes).filter_map(|(id, rest)| Some((id, quoted(rest)?))).collect();
    // RouteId(1): "/livez"
    let paths = entries(node.split_once("\"}").expect("the paths end").0);
    let mut all = BTreeSet::new();
    for (id, path) in paths {
        let path = quoted(path).expect("a path is quoted");
        // HEAD comes with every GET.
        all.extend(
            methods[id]
                .split(',')
                .filter(|method| *method != "HEAD")
                .map(|method| format!("{method} {}", path.replace("{*", "{"))),
        );
    }
    all
}

fn entries(shown: &str) -> impl Iterator<Item = (&str, &str)> {
    shown.split("RouteId(").skip(1).filter_map(|entry| entry.split_once("): "))
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

#[test]
fn the_document_and_the_router_agree() {
    let (served, documented) = (served(), documented());
    let undocumented: Vec<_> = served.difference(&documented).collect();
    assert!(undocumented.is_empty(), "served and not documented (register them with `routes!`): {undocumented:?}");
    let unserved: Vec<_> = documented.difference(&served).collect();
    assert!(unserved.is_empty(), "documented and not served: {unserved:?}");
    assert!(served.contains("DELETE /v1/connections/{name}") && served.len() >= 26, "{served:?}");
}

#[test]
fn a_route_that_only_the_router_has_is_seen() {
    let router: axum::Router = axum::Router::new().route("/a/{b}", axum::routing::get(|| async {}).post(|| async {}));
    assert_eq!(in_router(&router), BTreeSet::from(["GET /a/{b}".to_owned(), "POST /a/{b}".to_owned()]));
}

/// What the document says that a route needs, in the words of the rules.
fn documented_need(operation: &Value) -> String {
    if operation["tags"][0] == "socket only" {
        return "Socket".to_owned();
    }
    match operation["security"][0]["api_key"].as_array() {
        Some(scopes) => scopes.first().map_or("Known", |scope| scope.as_str().unwrap()).to_owned(),
        None => "Nothing".to_owned(),
    }
}

fn ruled_need(need: Need) -> String {
    match need {
        Need::Scope(scope) | Need::Filtered(scope) | Need::Everything(scope) => scope.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_document_and_the_authorization_table_agree() {
    let value = value();
    let mut documented = BTreeSet::new();
    for (path, item) in value["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            documented.insert((path.clone(), method.to_uppercase(), documented_need(operation)));
        }
    }
    documented.retain(|(path, ..)| !path.starts_with("/oauth/"));
    let any = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let ruled = RULES.iter().flat_map(|rule| {
        let methods = if rule.method == "*" { any.to_vec() } else { vec![rule.method] };
        let of = |method: &str| (rule.path.replace("{*", "{"), method.to_owned(), ruled_need(rule.need));
        methods.into_iter().map(of).collect::<Vec<_>>()
    });
    let ruled = ruled.collect();
    let differ: Vec<_> = documented.symmetric_difference(&ruled).collect();
    assert!(differ.is_empty(), "in one of the two alone: {differ:#?}");
}

/// Every `$ref` of the document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let value = value();
    assert!(value["openapi"].as_str().unwrap().starts_with("3.1."), "{}", value["openapi"]);
    let mut wanted = BTreeSet::new();
    references(&value, &mut wanted);
    let missing: Vec<_> =
        wanted.iter().filter(|reference| value.pointer(reference.trim_start_matches('#')).is_none()).collect();
    assert!(missing.is_empty(), "these are nowhere: {missing:?}");
    let mut ids = BTreeSet::new();
    for item in value["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "twice: {}", operation["operationId"]);
            assert!(operation["summary"].is_string(), "{}", operation["operationId"]);
        }
    }
}

#[test]
fn problems_have_their_form_and_their_codes() {
    let value = value();
    for (path, item) in value["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let answer = match answer["$ref"].as_str() {
                    Some(reference) => value.pointer(reference.trim_start_matches('#')).unwrap(),
                    None => answer,
                };
                let is_page = answer["content"]["text/html"].is_object();
                if status.starts_with(['4', '5']) && !is_page {
                    let codes = &answer["content"][problem::CONTENT_TYPE]["schema"]["allOf"][1]["properties"]["code"];
                    assert!(codes["enum"].is_array(), "{method} {path} {status}: {answer}");
                }
            }
        }
    }
    let codes = &value["paths"]["/v1/connections/{name}/refresh"]["post"]["responses"]["409"];
    let codes = &codes["content"][problem::CONTENT_TYPE]["schema"]["allOf"][1]["properties"]["code"]["enum"];
    let of_keys = ["idempotency_key_in_flight", "idempotency_answer_not_kept"];
    assert_eq!(*codes, json!(["needs_reauth", "held", "paused", "in_doubt", of_keys[0], of_keys[1]]));
}

#[test]
fn every_post_of_ours_takes_an_idempotency_key() {
    let value = value();
    for (path, item) in value["paths"].as_object().unwrap() {
        let Some(post) = item.get("post") else { continue };
        let takes = post["parameters"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "Idempotency-Key"));
        assert_eq!(takes, post["responses"]["422"].is_object(), "{path}");
        assert_eq!(takes, path != "/v1/session" && !path.contains("/proxy/"), "{path}");
    }
}

#[test]
fn what_a_provider_answers_has_any_form() {
    let value = value();
    for method in ["get", "post", "delete"] {
        let responses = &value["paths"]["/v1/connections/{name}/proxy/{path}"][method]["responses"];
        assert_eq!(responses.as_object().unwrap().keys().collect::<Vec<_>>(), ["default"], "{method}");
    }
}

#[test]
fn a_session_does_what_a_key_of_its_scope_does() {
    let value = value();
    let token = &value["paths"]["/v1/connections/{name}/token"]["get"]["security"];
    assert_eq!(*token, json!([{"api_key": ["token"]}, {"session": ["token"]}]));
    assert!(value["paths"]["/livez"]["get"]["security"].is_null());
}

#[test]
fn the_committed_document_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, text()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text(),
        "docs/openapi.json is not what the handlers say: run `UPDATE_OPENAPI=1 cargo test -p tokenkeep-cli openapi` and commit it"
    );
}
