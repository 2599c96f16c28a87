//! What a changed configuration does to a running engine, and to the next one: on a clock that tests own.

use std::time::Duration;
use tokenkeep::store::EventKind;
use tokenkeep::{Config, RefreshAsk, Refreshed, TokenAsk};
use tokenkeep_core::FailureCode;
use tokenkeep_core::model::Status;
use tokenkeep_core::provider::{Rotation, Rules};
use tokenkeep_tests::sim::on_virtual_time;
use tokenkeep_tests::sim::scene::{Scene, key, pass};
use tokenkeep_tests::sim::world::Faults;

/// How many connections share the strict provider.
const MANY: usize = 30;

/// A scene with [`MANY`] connections of the strict provider.
async fn scene_of_many() -> Scene {
    let scene = Scene::new(11).await;
    let consents = (0..MANY).map(|n| scene.machine.consent(&format!("c{n}"), "strict", Some(600))).collect();
    for imported in scene.keep.import_many(consents).await {
        imported.expect("a token set");
    }
    scene
}

#[test]
fn a_wrong_secret_holds_all_of_its_connections_and_a_mended_one_releases_them_at_once() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        let changes = scene.reload(scene.with_secret("wrong")).await;
        assert_eq!((changes.changed.as_slice(), changes.added.len()), (&["strict".to_owned()][..], 0));
        pass(900).await;
        assert_eq!(scene.with_status(Status::Held).await, MANY, "also those that never got the answer");
        assert!(scene.attempts().await <= 6, "{} attempts", scene.attempts().await);
        assert_eq!(scene.told(EventKind::ProviderDegraded).await, 1, "one event, not one for each");
        let held = scene.get("c7").await;
        let refused = scene.keep.refresh(&key("c7"), RefreshAsk::default()).await.expect_err("it is held");
        assert!(matches!(refused, tokenkeep::Error::NotRefreshed { status: Status::Held, .. }), "{refused}");
        assert!(held.due_at().expect("its probe") > scene.keep.now());

        scene.reload(scene.with_secret("mock-secret")).await;
        assert_eq!(scene.with_status(Status::Held).await, 0);
        pass(5).await;
        assert_eq!(scene.with_status(Status::Fresh).await, MANY, "within admission, at once");
        let handed = scene.keep.token(&key("c7"), TokenAsk::default()).await.expect("a token");
        assert_eq!(handed.warnings.len(), 0, "{:?}", handed.warnings);
    });
}

#[test]
fn the_probe_that_succeeds_releases_the_others() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        scene.machine.world.set_faults(Faults { wrong_client: 1.0, ..Faults::default() });
        pass(900).await;
        assert_eq!(scene.with_status(Status::Held).await, MANY);
        scene.machine.world.set_faults(Faults::default());
        pass(900 + 60).await;
        assert_eq!(scene.with_status(Status::Held).await, 0);
        assert_eq!(scene.told(EventKind::ProviderRecovered).await, 1);
    });
}

#[test]
fn a_resume_lets_a_held_provider_be_probed_at_once() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        scene.machine.world.set_faults(Faults { wrong_client: 1.0, ..Faults::default() });
        pass(900).await;
        scene.machine.world.set_faults(Faults::default());
        scene.keep.resume(&key("c7")).await.expect("it is there");
        pass(5).await;
        assert!(scene.with_status(Status::Held).await < 6, "at most those that have holds of their own");
    });
}

#[test]
fn a_hold_outlives_a_restart_and_a_changed_configuration_ends_it_there_too() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        scene.reload(scene.with_secret("wrong")).await;
        pass(700).await;
        let attempts = scene.attempts().await;
        let wrong = scene.with_secret("wrong");
        let scene = scene.restart(wrong).await;
        assert_eq!(scene.with_status(Status::Held).await, MANY, "before anything was tried");
        pass(30).await;
        assert_eq!(scene.attempts().await, attempts, "the probe has its time");

        let right = scene.with_secret("mock-secret");
        let scene = scene.restart(right).await;
        assert_eq!(scene.with_status(Status::Held).await, 0);
        pass(30).await;
        assert_eq!(scene.with_status(Status::Fresh).await, MANY);
    });
}

#[test]
fn an_attempt_in_flight_ends_with_the_provider_that_it_began_with() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        let name = key("c0");
        let asked = scene.keep.refresh(&name, RefreshAsk::default());
        let swapped = async {
            tokio::time::sleep(Duration::from_millis(25)).await;
            scene.reload(scene.without_strict()).await
        };
        let (refreshed, changes) = tokio::join!(asked, swapped);
        assert!(matches!(refreshed, Ok(Refreshed::Settled(_))), "{refreshed:?}");
        assert_eq!(changes.removed, ["strict"]);
        let held = scene.get("c0").await;
        assert_eq!(held.generation.0, 2, "the answer was applied");
        assert_eq!(held.hold.as_ref().map(|hold| hold.cause), Some(FailureCode::UnknownProvider));
        assert_eq!(scene.with_status(Status::Held).await, MANY);

        let before = scene.attempts().await;
        pass(1_000).await;
        assert_eq!(scene.attempts().await, before, "nobody is asked");
        let refused = scene.keep.refresh(&name, RefreshAsk::default()).await.expect_err("it is held");
        assert!(refused.to_string().contains("no longer has"), "{refused}");

        assert_eq!(scene.reload(scene.machine.providers()).await.added, ["strict"]);
        pass(5).await;
        assert_eq!(scene.with_status(Status::Fresh).await, MANY);
    });
}

#[test]
fn what_is_said_of_the_old_client_does_not_hold_the_new_one() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        scene.reload(scene.with_secret("wrong")).await;
        let names: Vec<_> = (0..3).map(|n| key(&format!("c{n}"))).collect();
        let asked = names.iter().map(|name| scene.keep.refresh(name, RefreshAsk::default()));
        let swapped = async {
            tokio::time::sleep(Duration::from_millis(25)).await;
            scene.reload(scene.with_secret("mock-secret")).await
        };
        let (_, _) = tokio::join!(futures_util::future::join_all(asked), swapped);
        assert_eq!(scene.with_status(Status::Held).await, 0);
        pass(5).await;
        for name in ["c0", "c1", "c2"] {
            assert_eq!(scene.get(name).await.generation.0, 2, "{name} was tried again with the new client");
        }
    });
}

#[test]
fn a_new_policy_and_new_limits_are_used_from_now_on() {
    on_virtual_time(async {
        let scene = scene_of_many().await;
        let mut config = Config { providers: scene.machine.providers(), ..Config::new("unused") };
        config.policy.refresh_threshold = Duration::from_secs(30);
        for provider in config.providers.iter_mut().filter(|provider| provider.name == "strict") {
            provider.refresh_per_second = 1;
            // The same provider by the same rules: limits release nothing.
            assert_eq!(provider.rules, Rules { rotation: Rotation::Strict, ..Rules::default() });
        }
        let changes = scene.keep.reload(config).await.expect("a reload");
        assert_eq!(changes.policy.map(|policy| policy.refresh_threshold.as_secs()), Some(30));
        assert_eq!(changes.changed.len(), 0);
        scene.keep.refresh(&key("c0"), RefreshAsk::default()).await.expect("an answer");
        let window = scene.get("c0").await.times;
        let left = window.planned_at.until(window.expires_at.expect("its end"));
        assert!(left <= Duration::from_secs(150), "planned {left:?} before the end, 300 s with the old threshold");
        pass(600).await;
        assert!(scene.machine.world.busiest().0 <= 2, "{:?}", scene.machine.world.busiest());
    });
}
