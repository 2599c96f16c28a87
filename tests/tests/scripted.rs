//! What is asked and made of an answer, where the answer matters to the letter: the real library on a clock that the
//! test owns, at the end of a network of which the test writes every answer.

use std::sync::Arc;
use std::time::Duration;

use tokenkeep::connect::settings::{Identity, Revocation};
use tokenkeep::connect::{BegunDevice, Connect, SignInError, Standing};
use tokenkeep::{Import, Provider, RefreshAsk, TokenAsk};
use tokenkeep_core::Secret;
use tokenkeep_core::catalogue::preset;
use tokenkeep_core::model::Status;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::Rules;
use tokenkeep_tests::sim::on_virtual_time;
use tokenkeep_tests::sim::scene::{Scene, key, pass};
use tokenkeep_tests::sim::script::Script;
use tokenkeep_tests::sim::world::{BEGINNING_MS, Faults};
use url::Url;

const DEVICE: &str = r#"{"device_code":"d","user_code":"AB-CD","verification_uri":"https://p.example/d","interval":5}"#;
const RESOURCES: [&str; 2] = ["https://one.example", "https://two.example"];

fn url(path: &str) -> Url {
    format!("https://p.example{path}").parse().expect("a well-formed address")
}

fn provider(rules: Rules) -> Provider {
    let client = Client { id: "app".into(), secret: Some(Secret::new("s3cret")) };
    let mut provider = Provider::new("p", url("/token"), client, rules);
    provider.sign_in.authorize_url = Some(url("/authorize"));
    provider.sign_in.device_url = Some(url("/device"));
    provider.sign_in.resources = RESOURCES.map(str::to_owned).to_vec();
    provider
}

async fn scene() -> (Scene, Arc<Script>) {
    Scene::scripted(7, provider(Rules::default())).await
}

async fn begin_device(scene: &Scene, script: &Script) -> BegunDevice {
    script.answer(200, DEVICE);
    scene.keep.connect_at_device(Connect::new(key("c"), "p")).await.expect("a device code")
}

/// Signs in by browser, with this answer to the code.
async fn sign_in_by_code(scene: &Scene, script: &Script, answer: &str) {
    let begun = scene.keep.connect(Connect::new(key("c"), "p"), &url("/callback")).expect("an address");
    script.answer(200, answer);
    let query = format!("code=k&state={}", begun.id);
    scene.keep.finish_sign_in(&query, &begun.proof).await.expect("a connection");
}

async fn sign_in_by_device(scene: &Scene, script: &Script, answer: &str) {
    begin_device(scene, script).await;
    script.answer(200, answer);
    pass(6).await;
}

/// How long the access token in hand lives, seen from the beginning.
async fn life_s(scene: &Scene) -> i64 {
    let expires_at = scene.get("c").await.times.expires_at.expect("it has an end");
    (expires_at.as_millis() - BEGINNING_MS) / 1_000
}

#[test]
fn every_token_request_of_a_sign_in_says_what_its_token_is_for() {
    on_virtual_time(async {
        let token = r#"{"access_token":"a","refresh_token":"r","expires_in":3600}"#;
        let (scene, script) = scene().await;
        sign_in_by_code(&scene, &script, token).await;
        sign_in_by_device(&scene, &script, token).await;
        script.answer(200, token);
        scene.keep.connect_as_client(Connect::new(key("client"), "p")).await.expect("a connection");
        let asked: Vec<_> = script.asked().into_iter().filter(|asked| asked.url == url("/token")).collect();
        let grants: Vec<_> = asked.iter().flat_map(|asked| asked.parameters("grant_type")).collect();
        let device = "urn:ietf:params:oauth:grant-type:device_code";
        assert_eq!(grants, ["authorization_code", device, "client_credentials"]);
        for asked in asked {
            assert_eq!(asked.parameters("resource"), RESOURCES, "RFC 8707 section 2.2: {asked:?}");
        }
    });
}

#[test]
fn what_the_client_itself_gets_again_is_for_the_same_resources() {
    let token = r#"{"access_token":"a","expires_in":3600}"#;
    on_virtual_time(async {
        let (scene, script) = scene().await;
        for _ in 0..2 {
            script.answer(200, token);
        }
        scene.keep.connect_as_client(Connect::new(key("c"), "p")).await.expect("a connection");
        scene.keep.refresh(&key("c"), RefreshAsk { force: true, ..RefreshAsk::default() }).await.expect("a refresh");
        let renewal = &script.asked()[1];
        assert_eq!(renewal.parameters("grant_type"), ["client_credentials"]);
        assert_eq!(renewal.parameters("resource"), RESOURCES, "{renewal:?}");
    });
}

#[test]
fn quirk_2_a_sign_in_may_state_the_end_of_its_token_alone() {
    let token = r#"{"access_token":"a","refresh_token":"r","expires_at":1800001800}"#;
    on_virtual_time(async {
        let (scene, script) = scene().await;
        sign_in_by_code(&scene, &script, token).await;
        assert_eq!(life_s(&scene).await, 1_800);
    });
    on_virtual_time(async {
        let (scene, script) = scene().await;
        sign_in_by_device(&scene, &script, token).await;
        assert_eq!(life_s(&scene).await, 1_800);
    });
    on_virtual_time(async {
        let (scene, script) = scene().await;
        script.answer(200, token);
        scene.keep.connect_as_client(Connect::new(key("c"), "p")).await.expect("a connection");
        assert_eq!(life_s(&scene).await, 1_800);
    });
}

#[test]
fn a_sign_in_that_could_not_be_kept_here_is_no_refusal_of_the_provider() {
    on_virtual_time(async {
        let (scene, script) = scene().await;
        let begun = begin_device(&scene, &script).await;
        scene.machine.world.set_faults(Faults { store_full: 1.0, ..Faults::default() });
        script.answer(200, r#"{"access_token":"a","refresh_token":"r"}"#);
        pass(6).await;
        let Some((_, Standing::Failed(error))) = scene.keep.sign_in(&begun.id) else { panic!("it has failed") };
        assert!(matches!(error, SignInError::NotKept(_)), "{error:?}");
        assert_eq!(error.code(), "sign_in_not_kept");
        assert!(error.to_string().contains("simulated full disk") && !error.to_string().contains("refused"), "{error}");
        assert!(error.next_step().contains("sign in again"), "{}", error.next_step());
    });
}

/// An hour-long token set, new at the beginning.
const HOUR_LONG: &str = r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"expires_at":1800003600}"#;

/// A connection of this preset, of which the token set was imported.
async fn held(preset_id: &str, token: &str) -> (Scene, Arc<Script>) {
    let rules = preset(preset_id).expect("a row of the catalogue").rules.clone();
    let (scene, script) = Scene::scripted(7, provider(rules)).await;
    let import = Import { key: key("c"), provider: "p".to_owned(), token: Secret::new(token), labels: None };
    scene.keep.import(import).await.expect("a token set");
    (scene, script)
}

/// Refreshes now. Whether that ends in an error is not the question here.
async fn refresh(scene: &Scene) {
    let _ = scene.keep.refresh(&key("c"), RefreshAsk { force: true, ..RefreshAsk::default() }).await;
}

/// As [`held`], and its refresh is answered so.
async fn refused(preset_id: &str, status: u16, body: &str) -> (Scene, Arc<Script>) {
    let (scene, script) = held(preset_id, HOUR_LONG).await;
    script.answer(status, body);
    refresh(&scene).await;
    (scene, script)
}

async fn status(scene: &Scene) -> Status {
    scene.get("c").await.status(scene.keep.now())
}

/// What Atlassian answers to a dead refresh token, one or the other.
const ATLASSIAN: [&str; 2] = [
    r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
    r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
];

#[test]
fn atlassian_each_403_for_a_dead_token_is_checked_once_more_after_a_minute() {
    for body in ATLASSIAN {
        on_virtual_time(async {
            let (scene, script) = refused("atlassian", 403, body).await;
            pass(55).await;
            assert_eq!((script.asked().len(), status(&scene).await), (1, Status::Retrying), "{body}");
            script.answer(403, body);
            pass(3600).await;
            let asked = script.asked();
            assert_eq!((asked.len(), status(&scene).await), (2, Status::NeedsReauth), "{body}");
            assert!(asked[1].at - asked[0].at >= Duration::from_secs(60), "{body}");
            assert_eq!(asked[0].body, asked[1].body, "the same refresh token");
        });
    }
}

#[test]
fn atlassian_a_403_that_the_second_answer_takes_back_costs_nobody_a_sign_in() {
    for body in ATLASSIAN {
        on_virtual_time(async {
            let (scene, script) = refused("atlassian", 403, body).await;
            script.answer(200, r#"{"access_token":"b","refresh_token":"r2","expires_in":3600}"#);
            pass(75).await;
            assert_eq!((script.asked().len(), status(&scene).await), (2, Status::Fresh), "{body}");
        });
    }
}

#[test]
fn github_and_slack_refusals_with_status_200_are_believed_without_a_second_request() {
    for (id, body) in [
        ("github-app", r#"{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect."}"#),
        ("github-app", "error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect."),
        ("slack", r#"{"ok":false,"error":"invalid_refresh_token"}"#),
        ("slack", r#"{"ok":false,"error":"token_revoked"}"#),
    ] {
        on_virtual_time(async {
            let (scene, script) = refused(id, 200, body).await;
            assert_eq!(status(&scene).await, Status::NeedsReauth, "{body}");
            pass(3600).await;
            assert_eq!(script.asked().len(), 1, "{body}");
        });
    }
}

/// A connection whose access token has ended and which its first refresh did not renew, at a provider that revokes so.
async fn ended(revocation: Revocation) -> (Scene, Arc<Script>) {
    let mut provider = provider(Rules::default());
    provider.sign_in.revocation = revocation;
    let (scene, script) = Scene::scripted(7, provider).await;
    let token = r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"expires_at":1799999000}"#;
    let import = Import { key: key("c"), provider: "p".to_owned(), token: Secret::new(token), labels: None };
    script.answer(403, "<html>");
    scene.keep.import(import).await.expect("a token set");
    pass(1).await;
    assert_eq!((script.asked().len(), status(&scene).await), (1, Status::Expired));
    (scene, script)
}

#[test]
fn a_grant_is_revoked_with_an_access_token_that_is_renewed_first_where_it_has_ended() {
    for revocation in [Revocation::GitHub(url("/grant")), Revocation::AccessToken(url("/grant"))] {
        on_virtual_time(async {
            let (scene, script) = ended(revocation).await;
            script.answer(200, r#"{"access_token":"b","refresh_token":"r2","expires_in":3600}"#);
            script.answer(200, r#"{"ok":true}"#);
            scene.keep.revoke_and_remove(&key("c")).await.expect("it is revoked");
            let asked: Vec<_> = script.asked().into_iter().map(|asked| asked.url).collect();
            assert_eq!(asked[1..], [url("/token"), url("/grant")]);
            assert!(scene.keep.get(&key("c")).await.is_err(), "it is removed");
        });
    }
}

#[test]
fn nothing_is_called_revoked_by_an_access_token_that_has_ended() {
    on_virtual_time(async {
        let (scene, script) = ended(Revocation::GitHub(url("/grant"))).await;
        script.answer(403, "<html>");
        // What GitHub says of a token that it knows no more, as of a grant that is gone.
        script.answer(404, r#"{"message":"Not Found"}"#);
        let error = scene.keep.revoke_and_remove(&key("c")).await.expect_err("the grant is alive");
        assert!(
            error.to_string().contains("has ended") && error.to_string().contains("nothing was removed"),
            "{error}"
        );
        assert!(script.asked().iter().all(|asked| asked.url == url("/token")), "{:?}", script.asked());
        assert_eq!(status(&scene).await, Status::Expired, "and it goes on as before");
    });
}

#[test]
fn quirk_4_without_a_new_refresh_token_the_old_one_is_used_again() {
    for id in ["google", "dropbox", "snowflake", "spotify"] {
        on_virtual_time(async {
            let (scene, script) = held(id, HOUR_LONG).await;
            for _ in 0..2 {
                script.answer(200, r#"{"access_token":"b","expires_in":3600}"#);
                refresh(&scene).await;
            }
            let used: Vec<_> = script.asked().iter().flat_map(|asked| asked.parameters("refresh_token")).collect();
            assert_eq!((used, status(&scene).await), (vec!["r".to_owned(); 2], Status::Fresh), "{id}");
        });
    }
}

#[test]
fn quirk_5_a_refused_client_is_not_tried_in_another_style() {
    for id in ["github-app", "zoom", "atlassian"] {
        on_virtual_time(async {
            let (scene, script) = refused(id, 401, r#"{"error":"invalid_client"}"#).await;
            pass(600).await;
            assert_eq!((script.asked().len(), status(&scene).await), (1, Status::Held), "{id}");
        });
    }
}

#[test]
fn quirk_6_the_same_retry_is_safe_at_some_and_would_cost_the_grant_at_others() {
    for (id, repeats) in
        [("atlassian", true), ("xero", true), ("github-app", false), ("box", false), ("zendesk", false)]
    {
        on_virtual_time(async {
            // Nobody knows whether it rotated before it broke.
            let (scene, script) = refused(id, 502, "<html>").await;
            if repeats {
                script.answer(200, r#"{"access_token":"b","refresh_token":"r2","expires_in":3600}"#);
            }
            pass(600).await;
            let used: Vec<_> = script
                .asked()
                .iter()
                .flat_map(|asked| match serde_json::from_str::<serde_json::Value>(&asked.body) {
                    Ok(json) => vec![json["refresh_token"].as_str().expect("a text").to_owned()],
                    Err(_) => asked.parameters("refresh_token"),
                })
                .collect();
            let (times, shown) = if repeats { (2, Status::Fresh) } else { (1, Status::InDoubt) };
            assert_eq!((used, status(&scene).await), (vec!["r".to_owned(); times], shown), "{id}");
        });
    }
}

#[test]
fn quirk_8_a_token_that_dies_idle_is_refreshed_though_nobody_asks() {
    const DAY: u64 = 86_400;
    on_virtual_time(async {
        // Of 30 days; Okta's refresh tokens die after 7 without use.
        let month = r#"{"access_token":"a","refresh_token":"r","expires_in":2592000,"expires_at":1802592000}"#;
        let began = tokio::time::Instant::now();
        let (scene, script) = held("okta", month).await;
        for _ in 0..200 {
            script.answer(200, r#"{"access_token":"b","refresh_token":"r2","expires_in":2592000}"#);
        }
        pass(28 * DAY).await;
        let used: Vec<_> = [began].into_iter().chain(script.asked().into_iter().map(|asked| asked.at)).collect();
        let longest = used.windows(2).map(|pair| pair[1] - pair[0]).max().expect("it was refreshed");
        assert!(longest <= Duration::from_secs(7 * DAY / 2 + 60), "unused for {longest:?}");
        assert!(began.elapsed() - (*used.last().expect("one") - began) <= Duration::from_secs(7 * DAY / 2 + 60));
        assert_eq!(status(&scene).await, Status::Fresh);
    });
}

#[test]
fn quirk_9_a_refresh_url_may_differ_from_the_token_url() {
    on_virtual_time(async {
        let provider = Provider { refresh_url: Some(url("/refresh")), ..provider(Rules::default()) };
        let (scene, script) = Scene::scripted(7, provider).await;
        sign_in_by_code(&scene, &script, HOUR_LONG).await;
        script.answer(200, HOUR_LONG);
        refresh(&scene).await;
        let asked: Vec<_> = script.asked().into_iter().map(|asked| asked.url).collect();
        assert_eq!(asked, [url("/token"), url("/refresh")]);
    });
}

#[test]
fn atlassian_no_token_is_handed_out_for_longer_than_its_rotation_lets_it_live() {
    on_virtual_time(async {
        let (scene, _script) = held("atlassian", HOUR_LONG).await;
        let due_at = scene.get("c").await.due_at().expect("it is due some time");
        let handed = scene.keep.token(&key("c"), TokenAsk::default()).await.expect("a token");
        let end = handed.token.ends_at.expect("it has an end");
        assert_eq!(handed.expires_at, Some(end.min(due_at + Duration::from_secs(600))));
        assert!(handed.expires_at < Some(end), "the rotation ends it before its hour is over");
    });
}

#[test]
fn atlassian_without_the_scope_that_names_the_account_the_sign_in_is_good_and_unnamed() {
    on_virtual_time(async {
        let mut provider = provider(preset("atlassian").expect("a row").rules.clone());
        let fields = vec!["account_id".to_owned()];
        provider.sign_in.identity = Some(Identity { url: url("/me"), fields });
        let (scene, script) = Scene::scripted(7, provider).await;
        let begun = scene.keep.connect(Connect::new(key("c"), "p"), &url("/callback")).expect("an address");
        script.answer(200, HOUR_LONG);
        script.answer(403, r#"{"code":403,"message":"scope does not match"}"#);
        let query = format!("code=k&state={}", begun.id);
        scene.keep.finish_sign_in(&query, &begun.proof).await.expect("a connection");
        assert_eq!((scene.get("c").await.origin.account, status(&scene).await), (None, Status::Fresh));
    });
}

#[test]
fn a_token_without_an_end_and_without_a_refresh_token_is_served_on() {
    // GitHub and Slack where the application does not let tokens expire.
    for (id, answer) in [
        ("github-app", r#"{"access_token":"ghu","token_type":"bearer","scope":""}"#),
        ("slack", r#"{"ok":true,"access_token":"xoxb","scope":"chat:write"}"#),
    ] {
        on_virtual_time(async {
            let rules = preset(id).expect("a row of the catalogue").rules.clone();
            let (scene, script) = Scene::scripted(7, provider(rules)).await;
            sign_in_by_code(&scene, &script, answer).await;
            pass(90 * 86_400).await;
            assert_eq!(status(&scene).await, Status::Fresh, "{id}");
            let handed = scene.keep.token(&key("c"), TokenAsk::default()).await.expect("a token");
            assert_eq!((handed.expires_at, script.asked().len()), (None, 1), "{id}");
        });
    }
}
