use super::*;
use crate::classify::{Observation, Outcome, Reach, SetbackKind, classify};
use crate::oauth::RawAnswer;
use std::collections::BTreeSet;
use zeroize::Zeroizing;

#[test]
fn every_row_is_whole() {
    let mut ids = BTreeSet::new();
    for row in &PRESETS {
        let id = row.id;
        assert!(ids.insert(id), "{id} stands twice");
        assert!(crate::model::check_name(id).is_ok() && !row.name.is_empty(), "{id}");
        assert!(!row.sources.is_empty() && row.sources.iter().all(|source| !source.page.is_empty()), "{id}");
        assert!(!row.notes.is_empty() && row.notes.iter().all(|note| note.ends_with('.')), "{id}");
        assert_eq!(
            row.client_auths.first(),
            Some(&row.rules.client_auth),
            "{id}: the first way is the one in its rules"
        );
        assert!(!row.api_hosts.is_empty(), "{id}");
        assert!(row.rules.headers.iter().all(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
}

#[test]
fn every_address_is_https_once_its_parameters_are_filled_in() {
    for row in &PRESETS {
        let identity = row.identity.map(|identity| identity.url);
        let addresses = [
            Some(row.token_url),
            row.refresh_url,
            Some(row.authorize_url),
            row.revocation.url(),
            row.device_url,
            identity,
        ];
        for template in addresses.into_iter().flatten() {
            let value = |name: &str| {
                assert!(name == "client_id" || row.parameters().contains(&name), "{}: {name}", row.id);
                Some(if name == "base" { "https://jira.example.com" } else { "x.example" }.to_owned())
            };
            let url = fill(template, value).unwrap();
            assert!(url.starts_with("https://") && !url.contains(['{', '}', ' ']), "{}: {url}", row.id);
        }
    }
}

#[test]
fn a_template_says_what_it_lacks() {
    assert_eq!(fill("https://{a}.x/{b}", |name| (name == "a").then(|| "q".to_owned())), Err("b".to_owned()));
    assert_eq!(fill("https://{a}.x/", |_| Some("q".to_owned())).unwrap(), "https://q.x/");
    assert_eq!(parameters("https://{a}.x/{b}").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(preset("zendesk").unwrap().parameters(), ["subdomain"]);
    assert_eq!(preset("keycloak").unwrap().parameters(), ["base", "realm"]);
}

/// What is meant to come of an answer.
#[derive(PartialEq, Eq, Debug)]
enum Meant {
    Dead,
    Throttled,
    WrongClient,
    Busy,
    InDoubt,
}

fn meant(id: &str, status: u16, body: &str) -> Meant {
    let answer = RawAnswer { status, content_type: None, retry_after: None, body: Zeroizing::new(body.into()) };
    match classify(&preset(id).unwrap().rules, &Observation::Answer(answer)) {
        Outcome::Refreshed(_) => panic!("{id}: {body} is a token"),
        Outcome::Failed(setback) => match setback.kind {
            SetbackKind::Rejected => Meant::Dead,
            SetbackKind::Throttled { .. } => Meant::Throttled,
            SetbackKind::Misconfigured { reach: Reach::Pair } => Meant::WrongClient,
            SetbackKind::InDoubt { .. } => Meant::InDoubt,
            SetbackKind::Transient { alarm: false } => Meant::Busy,
            other => panic!("{id}: {body} is {other:?}"),
        },
    }
}

/// What providers send, as their pages or their users quote it, and what it means.
const ANSWERS: &[(&str, u16, &str, Meant)] = &[
    (
        "atlassian",
        403,
        r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
        Meant::Dead,
    ),
    (
        "atlassian",
        403,
        r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
        Meant::Dead,
    ),
    ("atlassian", 401, r#"{"error":"invalid_client"}"#, Meant::WrongClient),
    ("atlassian", 429, r#"{"code":429,"message":"Rate limit exceeded"}"#, Meant::Throttled),
    ("jira-data-center", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    (
        "microsoft",
        400,
        r#"{"error":"invalid_grant","error_description":"AADSTS70008: The refresh token has expired due to inactivity.","error_codes":[70008]}"#,
        Meant::Dead,
    ),
    ("microsoft", 400, r#"{"error":"interaction_required","error_description":"AADSTS50076: ..."}"#, Meant::Dead),
    (
        "microsoft",
        401,
        r#"{"error":"invalid_client","error_description":"AADSTS7000222: expired."}"#,
        Meant::WrongClient,
    ),
    ("microsoft", 400, r#"{"error":"temporarily_unavailable","error_description":"AADSTS90033"}"#, Meant::Busy),
    (
        "google",
        400,
        r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
        Meant::Dead,
    ),
    ("google", 503, "", Meant::Busy),
    (
        "github-app",
        200,
        r#"{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired."}"#,
        Meant::Dead,
    ),
    ("github-app", 200, "error=bad_refresh_token&error_description=expired", Meant::Dead),
    ("github-app", 200, r#"{"error":"incorrect_client_credentials"}"#, Meant::WrongClient),
    ("github-app", 503, "<html>", Meant::InDoubt),
    (
        "gitlab",
        400,
        r#"{"error":"invalid_grant","error_description":"The provided authorization grant is invalid"}"#,
        Meant::Dead,
    ),
    ("slack", 200, r#"{"ok":false,"error":"invalid_refresh_token"}"#, Meant::Dead),
    ("slack", 200, r#"{"ok":false,"error":"token_expired"}"#, Meant::Dead),
    ("slack", 200, r#"{"ok":false,"error":"token_revoked"}"#, Meant::Dead),
    ("slack", 200, r#"{"ok":false,"error":"bad_client_secret"}"#, Meant::WrongClient),
    ("slack", 200, r#"{"ok":false,"error":"ratelimited"}"#, Meant::Throttled),
    ("salesforce", 400, r#"{"error":"invalid_grant","error_description":"expired access/refresh token"}"#, Meant::Dead),
    ("hubspot", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("zoom", 400, r#"{"reason":"Invalid Token!","error":"invalid_grant"}"#, Meant::Dead),
    ("zoom", 400, r#"{"error":"4704","error_description":"Invalid client secret."}"#, Meant::WrongClient),
    ("zoom", 401, r#"{"error":4702,"error_description":"Invalid client"}"#, Meant::WrongClient),
    ("box", 400, r#"{"error":"invalid_grant","error_description":"Refresh token has expired"}"#, Meant::Dead),
    ("dropbox", 400, r#"{"error":"invalid_grant","error_description":"refresh token is malformed"}"#, Meant::Dead),
    ("asana", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("linear", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("notion", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    (
        "okta",
        400,
        r#"{"error":"invalid_grant","error_description":"The refresh token is invalid or expired."}"#,
        Meant::Dead,
    ),
    ("auth0", 403, r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#, Meant::Dead),
    (
        "keycloak",
        400,
        r#"{"error":"invalid_grant","error_description":"Maximum allowed refresh token reuse exceeded"}"#,
        Meant::Dead,
    ),
    ("keycloak", 400, r#"{"error":"invalid_grant","error_description":"Session not active"}"#, Meant::Dead),
    ("quickbooks", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("xero", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("bitbucket", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("discord", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("spotify", 400, r#"{"error":"invalid_grant","error_description":"Refresh token revoked"}"#, Meant::Dead),
    ("x", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("linkedin", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("shopify", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("zendesk", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("servicenow", 401, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("snowflake", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
    ("databricks", 400, r#"{"error":"invalid_grant"}"#, Meant::Dead),
];

#[test]
fn what_providers_say_is_understood() {
    for (id, status, body, expected) in ANSWERS {
        assert_eq!(&meant(id, *status, body), expected, "{id} {status} {body}");
    }
}

#[test]
fn every_row_has_a_sample_of_each_thing_that_it_says_in_words_of_its_own() {
    for row in &PRESETS {
        assert!(ANSWERS.iter().any(|(id, ..)| *id == row.id), "{} has no sample", row.id);
        for rule in row.rules.errors.iter() {
            let said = ANSWERS.iter().any(|(id, _, body, _)| *id == row.id && body.contains(&*rule.error));
            assert!(
                said || row.id == "zoom" || rule.error == "consent_required",
                "{}: {} has no sample",
                row.id,
                rule.error
            );
        }
    }
}

fn rules_of(id: &str) -> &'static Rules {
    &preset(id).unwrap().rules
}

#[test]
fn quirk_6_a_grace_is_a_fact_of_its_row() {
    let grace = |seconds| Rotation::Grace(Duration::from_secs(seconds));
    for (id, rotation) in [
        ("atlassian", grace(600)),
        ("xero", grace(1800)),
        ("okta", grace(30)),
        ("shopify", Rotation::UntilUsed),
        ("github-app", Rotation::Strict),
        ("box", Rotation::Strict),
        ("zendesk", Rotation::Strict),
        ("google", Rotation::Persistent),
    ] {
        assert_eq!(rules_of(id).rotation, rotation, "{id}");
    }
}

#[test]
fn quirk_7_the_ends_that_only_a_person_can_mend_are_known() {
    for (id, life) in
        [("atlassian", 365), ("spotify", 180), ("linkedin", 365), ("quickbooks", 5 * 365), ("snowflake", 90)]
    {
        assert_eq!(rules_of(id).absolute_life, days(life), "{id}");
    }
}

#[test]
fn quirk_8_the_tokens_that_die_idle_are_known() {
    for (id, life) in [("okta", 7), ("box", 60), ("atlassian", 90), ("xero", 60), ("quickbooks", 100)] {
        assert_eq!(rules_of(id).idle_life, days(life), "{id}");
    }
}

#[test]
fn what_a_refresh_token_asks_of_the_sign_in_is_asked() {
    for (id, scope) in [
        ("atlassian", "offline_access"),
        ("microsoft", "offline_access"),
        ("okta", "offline_access"),
        ("keycloak", "offline_access"),
        ("x", "offline.access"),
    ] {
        assert_eq!(preset(id).unwrap().offline_scopes, [scope], "{id}");
    }
    for (id, param) in [("google", ("prompt", "consent")), ("dropbox", ("token_access_type", "offline"))] {
        assert!(preset(id).unwrap().authorize_params.contains(&param), "{id}");
    }
    let bitbucket = preset("bitbucket").unwrap();
    assert!(bitbucket.offline_scopes.is_empty() && bitbucket.authorize_params.is_empty());
    assert!(preset("jira-data-center").unwrap().offline_scopes.is_empty());
}

#[test]
fn the_forms_of_bodies_and_clients_are_those_of_the_pages() {
    for id in ["atlassian", "notion"] {
        assert_eq!(rules_of(id).body_format, BodyFormat::Json, "{id}");
    }
    assert_eq!(rules_of("discord").body_format, BodyFormat::Form);
    for id in ["x", "xero", "zoom", "spotify", "databricks"] {
        assert_eq!(rules_of(id).client_auth, ClientAuth::SecretBasic, "{id}");
    }
    assert!(!preset("hubspot").unwrap().token_url.contains("/oauth/v1/"));
}
