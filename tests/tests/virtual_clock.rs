//! When things happen, on a clock that tests own: the real engine, a simulated network, no waiting.

use std::time::Duration;
use tokenkeep::engine::STUCK_AFTER;
use tokenkeep::prometheus_client::encoding::prometheus_text::encode;
use tokenkeep::prometheus_client::registry::Registry;
use tokenkeep::{Imported, RefreshAsk, TokenAsk};
use tokenkeep_core::model::{State, Status};
use tokenkeep_core::{FailureCode, Timestamp};
use tokenkeep_tests::sim::on_virtual_time;
use tokenkeep_tests::sim::scene::{Scene, key, pass};
use tokenkeep_tests::sim::world::Faults;

const HOUR: u64 = 3600;

#[test]
fn every_life_is_refreshed_in_its_window_for_days() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        for n in 0..8 {
            scene.sign_in(&format!("hour{n}"), "strict", Some(3600)).await;
            scene.sign_in(&format!("two{n}"), "strict", Some(120)).await;
        }
        pass(48 * HOUR).await;
        for n in 0..8 {
            let (hour, two) = (format!("hour{n}"), format!("two{n}"));
            let margin = scene.shortest_margin(&hour);
            // The provider answers within 0.2 s of the request, and a worker looks every 0.1 s.
            assert!(margin >= Duration::from_secs(629) && margin <= Duration::from_secs(1170), "{hour}: {margin:?}");
            let refreshes = scene.ledger(&hour).refreshes;
            assert!(
                (58..=72).contains(&refreshes),
                "{hour} was refreshed {refreshes} times in 48 h: 49.5 to 40.5 minutes apart"
            );
            assert!(scene.shortest_margin(&two) >= Duration::from_secs(60), "{two}: {:?}", scene.shortest_margin(&two));
            assert!(scene.ledger(&two).refreshes < 48 * HOUR / 30, "{two} storms");
        }
    });
}

#[test]
fn a_token_without_expires_in_is_kept_fresh() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("quiet", "strict", None).await;
        pass(24 * HOUR).await;
        let handed = scene.keep.token(&key("quiet"), TokenAsk::default()).await.expect("a token");
        assert!(handed.warnings.iter().any(|warning| warning.as_str() == "life_learned"), "{:?}", handed.warnings);
        assert!(scene.ledger("quiet").refreshes >= 24, "{} refreshes in a day", scene.ledger("quiet").refreshes);
        assert!(scene.shortest_margin("quiet") > Duration::ZERO);
    });
}

#[test]
fn only_a_scheduler_that_stands_still_is_stuck() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("c", "strict", Some(600)).await;
        scene.machine.world.set_faults(Faults { unsent: 1.0, ..Faults::default() });
        pass(HOUR).await;
        assert_eq!(scene.get("c").await.status(scene.keep.now()), Status::Expired);
        assert_eq!(scene.keep.stuck_for(), None, "a provider that is down sticks nobody");
        scene.machine.world.set_faults(Faults { store_full: 1.0, ..Faults::default() });
        pass(HOUR).await;
        assert!(scene.keep.unready().is_some(), "a store that cannot be written is no work");
        assert_eq!(scene.keep.stuck_for(), None, "a full disk sticks nobody");
        // Every worker waits for ever from here on.
        scene.machine.world.kill();
        pass(STUCK_AFTER.as_secs() / 2).await;
        assert_eq!(scene.keep.stuck_for(), None);
        pass(STUCK_AFTER.as_secs()).await;
        assert!(scene.keep.stuck_for() >= Some(STUCK_AFTER), "{:?}", scene.keep.stuck_for());
    });
}

#[test]
fn lag_is_the_scheduler_s_and_not_a_provider_s() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        for n in 0..40 {
            scene.sign_in(&format!("c{n}"), "strict", Some(600)).await;
        }
        let worst = async |seconds: u64| {
            let mut worst = Duration::ZERO;
            for _ in 0..seconds {
                pass(1).await;
                worst = worst.max(scene.keep.gauges().lag);
            }
            worst
        };
        let well = worst(HOUR).await;
        assert!(well < Duration::from_secs(1), "{well:?} while all is well");
        for (what, faults) in [
            ("is down", Faults { unsent: 1.0, ..Faults::default() }),
            ("asks for patience", Faults { throttled: 1.0, ..Faults::default() }),
            ("knows no such client", Faults { wrong_client: 1.0, ..Faults::default() }),
        ] {
            scene.machine.world.set_faults(faults);
            let waited = worst(HOUR).await;
            assert!(waited < Duration::from_secs(5), "{waited:?} while the provider {what}");
        }
        assert_ne!(scene.get("c0").await.status(scene.keep.now()), Status::Fresh);
        let gauges = scene.keep.gauges();
        assert!(gauges.journal_slots > 0 && gauges.journal_slots_in_use <= gauges.journal_slots);
        // Every worker waits for ever from here on.
        scene.machine.world.kill();
        pass(90).await;
        let lag = scene.keep.gauges().lag;
        assert!((Duration::from_secs(55)..=Duration::from_secs(95)).contains(&lag), "{lag:?}");
    });
}

#[test]
fn an_attempt_counts_once_by_its_outcome_and_its_lateness() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("c", "strict", Some(600)).await;
        let mut registry = Registry::default();
        scene.keep.register_metrics(&mut registry);
        let sample = |series: &str| {
            let mut text = String::new();
            encode(&mut text, &registry).expect("a text can be written");
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{series} is missing in:\n{text}"))
        };
        let provider = scene.get("c").await.provider;
        let succeeded = format!(r#"refresh_total{{provider="{provider}",outcome="succeeded"}}"#);
        assert_eq!(sample(&succeeded), 0.0);
        pass(4 * HOUR).await;
        let stats = scene.get("c").await.stats;
        assert!(stats.succeeded > 10, "{stats:?}");
        assert_eq!(sample(&succeeded), stats.succeeded as f64);
        assert_eq!(sample("refresh_duration_seconds_count"), stats.attempted as f64);
        assert_eq!(sample("refresh_lateness_seconds_count"), stats.attempted as f64, "nobody asked for one");
        let late = sample("refresh_lateness_seconds_sum") / stats.attempted as f64;
        assert!(late < 1.0, "{late} s late");
        scene.machine.world.suspend(Duration::from_secs(1_800));
        pass(60).await;
        let after = sample("refresh_lateness_seconds_sum");
        assert!(after > 1_000.0, "a machine that slept through half an hour was late: {after} s");
        scene.machine.world.set_faults(Faults { unsent: 1.0, ..Faults::default() });
        pass(HOUR).await;
        let stats = scene.get("c").await.stats;
        let failed = sample(&format!(r#"refresh_total{{provider="{provider}",outcome="connect_failed"}}"#));
        assert_eq!((failed, sample(&succeeded)), (stats.failed as f64, stats.succeeded as f64));
    });
}

#[test]
fn an_hour_s_outage_loses_nothing_and_drains_within_admission() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        let consents = (0..400).map(|n| scene.machine.consent(&format!("c{n}"), "strict", Some(600))).collect();
        for imported in scene.keep.import_many(consents).await {
            imported.expect("a token set");
        }
        pass(1200).await;
        scene.machine.world.set_faults(Faults { unsent: 1.0, ..Faults::default() });
        pass(HOUR).await;
        let summary = scene.keep.summary(None).await.expect("a summary");
        assert_eq!(summary.by_status.get(&Status::Expired), Some(&400), "{summary:?}");
        let key0 = key("c0");
        let error = scene
            .keep
            .token(&key0, TokenAsk { wait: Duration::from_secs(1), ..TokenAsk::default() })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
        scene.machine.world.set_faults(Faults::default());
        // One paused try finds out within its pace (50 s here); then all go, at most 50 a second.
        pass(90).await;
        let summary = scene.keep.summary(None).await.expect("a summary");
        let well =
            [Status::Fresh, Status::Refreshing].iter().filter_map(|status| summary.by_status.get(status)).sum::<u64>();
        assert_eq!(well, 400, "{summary:?}");
        let (per_second, in_flight) = scene.machine.world.busiest();
        assert!(per_second <= 100, "{per_second} requests within one second: 50 saved up and 50 earned at the most");
        assert!(in_flight <= 64, "{in_flight} in flight");
        assert_eq!(scene.machine.provider().totals().reuses, 0);
    });
}

#[test]
fn invalid_grant_from_a_strict_provider_causes_no_second_request() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("dead", "strict", Some(60)).await;
        scene.kill("dead");
        pass(HOUR).await;
        let dead = scene.get("dead").await;
        assert!(matches!(dead.state, State::NeedsReauth { cause: FailureCode::InvalidGrant, .. }), "{:?}", dead.state);
        assert_eq!(scene.ledger("dead").requests, 1);
        let refused = scene.keep.refresh(&key("dead"), RefreshAsk::default()).await.unwrap_err();
        assert!(refused.to_string().contains("needs_reauth"), "{refused}");
        assert_eq!(scene.ledger("dead").requests, 1);
    });
}

#[test]
fn invalid_grant_from_the_others_is_checked_once_more_after_a_minute() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        for class in ["persistent", "until-used", "grace:600"] {
            let name = class.replace(':', "-");
            scene.sign_in(&name, class, Some(60)).await;
            scene.kill(&name);
        }
        pass(45).await;
        for name in ["persistent", "until-used", "grace-600"] {
            assert_eq!(
                (scene.ledger(name).requests, scene.get(name).await.status(scene.keep.now())),
                (1, Status::Retrying),
                "{name}"
            );
        }
        pass(HOUR).await;
        for name in ["persistent", "until-used", "grace-600"] {
            assert_eq!(scene.ledger(name).requests, 2, "{name}");
            assert_eq!(scene.get(name).await.status(scene.keep.now()), Status::NeedsReauth, "{name}");
        }
    });
}

#[test]
fn a_new_token_set_recovers_a_dead_connection_and_a_used_one_changes_nothing() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        let first = scene.machine.consent("jira", "strict", Some(600));
        let again = |token: &str| tokenkeep::Import {
            key: key("jira"),
            provider: "strict".into(),
            token: tokenkeep_core::Secret::new(token),
            labels: None,
        };
        let text = first.token.expose().to_owned();
        scene.keep.import(first).await.expect("a token set");
        let held = scene.keep.import(again(&text)).await.expect("an answer");
        assert!(matches!(held, Imported::AlreadyHeld(_)), "{held:?}");
        scene.keep.refresh(&key("jira"), RefreshAsk::default()).await.expect("a refresh");
        let used = scene.keep.import(again(&text)).await.expect("an answer");
        assert!(matches!(used, Imported::AlreadyUsed(_)), "{used:?}");
        scene.kill("jira");
        pass(HOUR).await;
        assert_eq!(scene.get("jira").await.status(scene.keep.now()), Status::NeedsReauth);
        let new = scene.machine.consent("jira-again", "strict", Some(600));
        let renewed = scene.keep.import(again(new.token.expose())).await.expect("a token set");
        assert!(matches!(renewed, Imported::Renewed(_)), "{renewed:?}");
        pass(HOUR).await;
        assert_eq!(scene.get("jira").await.status(scene.keep.now()), Status::Fresh);
        assert!(scene.ledger("jira-again").refreshes >= 6);
    });
}

#[test]
fn a_stepped_wall_clock_moves_nothing_but_what_people_read() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("a", "strict", Some(3600)).await;
        for step_ms in [5 * 3_600_000, -9 * 3_600_000, 4 * 3_600_000] {
            let before = scene.ledger("a").refreshes;
            scene.machine.world.step_wall(step_ms);
            pass(60).await;
            assert_eq!(scene.ledger("a").refreshes, before, "a step of {step_ms} ms caused a refresh");
            assert_eq!(scene.get("a").await.status(scene.keep.now()), Status::Fresh);
            pass(4 * HOUR).await;
        }
        scene.machine.world.step_wall(7 * 3_600_000);
        scene.sign_in("b", "strict", Some(3600)).await;
        let due_in = scene.keep.now().until(scene.get("b").await.due_at().expect("it is due some time"));
        assert!((2400..=2980).contains(&due_in.as_secs()), "stated in stepped wall time, due in {due_in:?}");
        pass(24 * HOUR).await;
        assert!(
            scene.shortest_margin("a") >= Duration::from_secs(629)
                && scene.shortest_margin("b") >= Duration::from_secs(629)
        );
        assert_eq!(scene.keep.wall(Timestamp::EPOCH), Timestamp::from_millis(7 * 3_600_000));
    });
}

#[test]
fn after_a_suspend_what_is_due_is_refreshed_without_a_stampede() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        let consents = (0..300).map(|n| scene.machine.consent(&format!("c{n}"), "strict", Some(600))).collect();
        for imported in scene.keep.import_many(consents).await {
            imported.expect("a token set");
        }
        pass(100).await;
        scene.machine.world.suspend(Duration::from_secs(8 * HOUR));
        // At most 30 s until a worker looks, then 300 at 50 a second.
        pass(60).await;
        let summary = scene.keep.summary(None).await.expect("a summary");
        assert_eq!(summary.by_status.get(&Status::Fresh), Some(&300), "{summary:?}");
        assert!(scene.machine.world.busiest().0 <= 100);
    });
}

#[test]
fn a_rejected_token_is_refreshed_once_however_many_report_it() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("jira", "strict", Some(3600)).await;
        let handed = scene.keep.token(&key("jira"), TokenAsk::default()).await.expect("a token");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, handed.token.access_token.expose().as_bytes());
        let rejected: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        for _ in 0..5 {
            let ask = RefreshAsk { rejected: Some(rejected.clone()), ..RefreshAsk::default() };
            scene.keep.refresh(&key("jira"), ask).await.expect("an answer");
        }
        assert_eq!(scene.ledger("jira").refreshes, 1);
        let name = key("jira");
        let asks = (0..5).map(|_| scene.keep.refresh(&name, RefreshAsk::default()));
        for asked in futures_util::future::join_all(asks).await {
            asked.expect("an answer");
        }
        assert_eq!(scene.ledger("jira").refreshes, 2, "five callers share one attempt");
    });
}

#[test]
fn a_lost_answer_of_a_strict_provider_waits_for_its_probe_unless_forced() {
    on_virtual_time(async {
        let scene = Scene::new(7).await;
        scene.sign_in("jira", "strict", Some(3600)).await;
        scene.machine.world.set_faults(Faults { lost_after: 1.0, ..Faults::default() });
        let pending = scene.keep.refresh(&key("jira"), RefreshAsk::default()).await.expect("it is in flight");
        assert!(matches!(pending, tokenkeep::Refreshed::Pending(_)), "the answer is waited for a minute: {pending:?}");
        pass(60).await;
        scene.machine.world.set_faults(Faults::default());
        assert_eq!(scene.get("jira").await.status(scene.keep.now()), Status::InDoubt);
        let refused = scene.keep.refresh(&key("jira"), RefreshAsk::default()).await.unwrap_err();
        assert!(
            matches!(&refused, tokenkeep::Error::NotRefreshed { status: Status::InDoubt, retry_at: Some(_), .. }),
            "{refused}"
        );
        let handed = scene.keep.token(&key("jira"), TokenAsk::default()).await.expect("the token in hand is valid");
        assert!(handed.warnings.iter().any(|warning| warning.as_str() == "in_doubt"));
        assert_eq!(scene.ledger("jira").requests, 1, "no probe before its time");
        scene.keep.refresh(&key("jira"), RefreshAsk { force: true, ..RefreshAsk::default() }).await.expect("forced");
        let lost = scene.get("jira").await;
        assert!(matches!(lost.state, State::NeedsReauth { cause: FailureCode::LostInFlight, .. }), "{:?}", lost.state);
    });
}
