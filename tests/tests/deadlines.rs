//! Ends that people must know of before they come, on a clock that tests own: months pass in a moment.

use std::time::Duration;
use tokenkeep::store::EventKind;
use tokenkeep_core::FailureCode;
use tokenkeep_core::model::{State, Status};
use tokenkeep_mock::ProviderConfig;
use tokenkeep_tests::sim::on_virtual_time;
use tokenkeep_tests::sim::scene::{Scene, key, pass};

const DAY: u64 = 86_400;
const NAME: &str = "jira";

fn days(days: u64) -> Option<Duration> {
    Some(Duration::from_secs(days * DAY))
}

/// A provider whose grants die of ten days' disuse, and whose access tokens live for sixty.
fn forgetful() -> ProviderConfig {
    ProviderConfig { access_ttl_ms: 60 * 86_400_000, refresh_idle_s: Some(10 * DAY), ..ProviderConfig::default() }
}

/// Days left, as people were told, and the code of it.
async fn told(scene: &Scene) -> Vec<(u64, FailureCode)> {
    let read = |data: &str| -> u64 {
        let data: serde_json::Value = serde_json::from_str(data).expect("an object");
        data["days_left"].as_u64().expect("a number of days")
    };
    let events = scene.events(EventKind::Expiring).await;
    events.iter().map(|told| (read(&told.event.data), told.event.code.expect("a code"))).collect()
}

#[test]
fn a_grant_that_dies_of_disuse_is_kept_alive_though_nobody_asks() {
    on_virtual_time(async {
        let scene = Scene::at(forgetful(), |rules| rules.idle_life = days(10)).await;
        scene.consent(NAME, "strict").await;
        pass(200 * DAY).await;
        assert_eq!(scene.get(NAME).await.status(scene.keep.now()), Status::Fresh);
        let refreshes = scene.ledger("user").refreshes;
        assert!((40..=100).contains(&refreshes), "{refreshes} in 200 days: five days apart at most");
        assert_eq!(told(&scene).await, [], "nobody needs to know");
    });
}

/// That the provider of the test above does forget.
#[test]
fn a_grant_whose_disuse_nobody_knows_of_dies() {
    on_virtual_time(async {
        let scene = Scene::at(forgetful(), |_| {}).await;
        scene.consent(NAME, "strict").await;
        pass(200 * DAY).await;
        assert_eq!(scene.get(NAME).await.status(scene.keep.now()), Status::NeedsReauth);
    });
}

#[test]
fn people_are_told_30_14_7_and_1_day_before_a_consent_ends() {
    on_virtual_time(async {
        let year =
            ProviderConfig { access_ttl_ms: 86_400_000, grant_life_s: Some(365 * DAY), ..ProviderConfig::default() };
        let scene = Scene::at(year, |rules| rules.absolute_life = days(365)).await;
        scene.consent(NAME, "strict").await;
        pass(340 * DAY).await;
        assert_eq!(told(&scene).await, [(30, FailureCode::ConsentEnding)]);
        let ends = scene.get(NAME).await.sign_in_by(scene.keep.now()).expect("it is near");
        assert_eq!(scene.keep.now().until(ends).as_secs().div_ceil(DAY), 25);
        let providers = scene.machine.providers();
        let scene = scene.restart(providers).await;
        pass(24 * DAY + DAY / 2).await;
        assert_eq!(told(&scene).await, [30, 14, 7, 1].map(|days| (days, FailureCode::ConsentEnding)));
        assert_eq!(scene.get(NAME).await.status(scene.keep.now()), Status::Fresh, "served to the end");
        pass(2 * DAY).await;
        assert!(matches!(scene.get(NAME).await.state, State::NeedsReauth { .. }), "the provider keeps its word");
    });
}

#[test]
fn signing_in_again_in_time_puts_the_end_off() {
    on_virtual_time(async {
        let scene = Scene::at(ProviderConfig::default(), |rules| rules.absolute_life = days(60)).await;
        scene.consent(NAME, "strict").await;
        pass(50 * DAY).await;
        assert_eq!(told(&scene).await.len(), 1);
        let again = scene.consent(NAME, "strict").await;
        assert_eq!(again.sign_in_by(scene.keep.now()), None);
        pass(45 * DAY).await;
        assert_eq!(told(&scene).await.len(), 1, "not a word of the end that was");
        pass(15 * DAY).await;
        assert_eq!(told(&scene).await.len(), 4);
    });
}

#[test]
fn a_paused_connection_is_told_of_before_its_refresh_token_dies_of_disuse() {
    on_virtual_time(async {
        let week = ProviderConfig { refresh_idle_s: Some(7 * DAY), ..ProviderConfig::default() };
        let scene = Scene::at(week, |rules| rules.idle_life = days(7)).await;
        scene.consent(NAME, "strict").await;
        pass(20 * DAY).await;
        assert_eq!(told(&scene).await, []);
        scene.keep.pause(&key(NAME)).await.expect("it is there");
        pass(6 * DAY + DAY / 2).await;
        assert_eq!(told(&scene).await, [(1, FailureCode::RefreshTokenEnding)]);
        scene.keep.resume(&key(NAME)).await.expect("it is there");
        pass(DAY).await;
        assert_eq!(scene.get(NAME).await.status(scene.keep.now()), Status::Fresh);
    });
}
