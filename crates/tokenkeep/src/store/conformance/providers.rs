//! What holds a whole provider, and what a changed configuration releases.

use super::*;
use crate::store::{EventQuery, ListQuery, Noted};
use tokenkeep_core::model::Status;

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    a_held_provider_shows_its_connections_held(&*make()).await;
    a_provider_that_is_not_configured_holds_without_a_probe(&*make()).await;
    claims_and_commits_see_connections_as_they_are(&*make()).await;
    counts_of_a_namespace_count_holds_too(&*make()).await;
    a_changed_configuration_releases_what_the_old_one_held(&*make()).await;
    labels_are_replaced(&*make()).await;
}

fn provider_hold(probe_at: Option<Timestamp>) -> Option<Hold> {
    Some(Hold { cause: FailureCode::ProviderHeld, probe_at })
}

async fn other(store: &dyn Store, name: &str) {
    granted(store, 0, NewGrant { provider: "github".to_owned(), ..new_grant(name, 600, 2_000) }).await;
}

async fn with_status(store: &dyn Store, now: i64, status: Status) -> Vec<String> {
    let query = ListQuery { statuses: vec![status], limit: 99, ..ListQuery::default() };
    let found = store.list(at(now), &query).await.unwrap();
    assert!(found.iter().all(|connection| connection.status(at(now)) == status), "{found:?}");
    found.iter().map(|connection| connection.key.name().to_owned()).collect()
}

async fn counted(store: &dyn Store, now: i64) -> BTreeMap<Status, u64> {
    store.summary(at(now), None).await.unwrap().by_status
}

async fn a_held_provider_shows_its_connections_held(store: &dyn Store) {
    create(store, "early", 600, 2_000).await;
    create(store, "late", 1_900, 4_000).await;
    create(store, "paused", 600, 2_000).await;
    flag(store, 1, "paused", Flag::Pause).await;
    other(store, "other").await;
    assert_eq!(store.providers().await.unwrap(), BTreeMap::from([(PROVIDER.into(), None), ("github".into(), None)]));

    store.hold_provider(PROVIDER, provider_hold(Some(at(900)))).await.unwrap();
    assert_eq!(store.providers().await.unwrap()[PROVIDER], provider_hold(Some(at(900))));
    for (name, due) in [("early", 900), ("late", 1_900)] {
        let shown = get(store, name).await;
        assert_eq!(shown.status(at(10)), Status::Held, "{name}");
        assert_eq!(shown.hold, provider_hold(Some(at(due))), "{name}");
        assert_eq!(store.tokens(&key(name)).await.unwrap().unwrap().connection, shown);
    }
    assert_eq!(with_status(store, 10, Status::Held).await, ["early", "late"]);
    assert_eq!(with_status(store, 10, Status::Fresh).await, ["other"]);
    assert_eq!(with_status(store, 10, Status::Paused).await, ["paused"]);
    let summary = store.summary(at(10), None).await.unwrap();
    assert_eq!(summary.by_status, BTreeMap::from([(Status::Held, 2), (Status::Paused, 1), (Status::Fresh, 1)]));
    assert_eq!(summary.next_due_at, Some(at(600)), "the other provider's");
    store.remove(at(10), &key("other")).await.unwrap();
    assert_eq!(store.summary(at(10), None).await.unwrap().next_due_at, Some(at(900)), "the probe");
    assert!(matches!(flag(store, 11, "paused", Flag::Resume).await, (shown, Some(_)) if shown.hold.is_some()));
    let again = granted(store, 12, NewGrant { tokens: Some(token_set("new")), ..new_grant("early", 600, 2_000) }).await;
    assert!(matches!(again, Granted::Renewed(shown, _) if shown.hold.is_some()));

    store.hold_provider(PROVIDER, None).await.unwrap();
    assert_eq!(store.providers().await.unwrap()[PROVIDER], None);
    assert_eq!(with_status(store, 20, Status::Fresh).await, ["early", "late", "paused"]);
    assert_eq!(counted(store, 20).await, BTreeMap::from([(Status::Fresh, 3)]));
}

async fn a_provider_that_is_not_configured_holds_without_a_probe(store: &dyn Store) {
    create(store, "own", 600, 2_000).await;
    flag(store, 1, "own", Flag::Hold(hold(Some(at(500))))).await;
    create(store, "copy", 600, 2_000).await;
    flag(store, 1, "copy", Flag::Hold(Hold { cause: FailureCode::RestoredCopy, probe_at: None })).await;
    create(store, "well", 600, 2_000).await;
    let unknown = Hold { cause: FailureCode::UnknownProvider, probe_at: None };
    store.hold_provider(PROVIDER, Some(unknown.clone())).await.unwrap();
    assert_eq!(get(store, "well").await.hold, Some(unknown.clone()));
    assert_eq!(get(store, "own").await.hold, Some(unknown), "only the configuration can release it now");
    assert_eq!(get(store, "copy").await.hold.unwrap().cause, FailureCode::RestoredCopy, "only a human may");
    assert_eq!(store.summary(at(5), None).await.unwrap().next_due_at, None);
    store.hold_provider(PROVIDER, provider_hold(Some(at(900)))).await.unwrap();
    assert_eq!(get(store, "own").await.hold, Some(hold(Some(at(900)))), "its own cause, after the provider's probe");
    store.hold_provider("never seen", provider_hold(None)).await.unwrap();
    assert_eq!(counted(store, 5).await, BTreeMap::from([(Status::Held, 3)]));
}

async fn claims_and_commits_see_connections_as_they_are(store: &dyn Store) {
    create(store, "probe", 600, 2_000).await;
    store.hold_provider(PROVIDER, provider_hold(Some(at(900)))).await.unwrap();
    let claimed = claim_due(store, 700, 9).await;
    assert_eq!(names(&claimed.work), ["probe"], "admission keeps a held provider back, not the store");
    let work = claimed.work.into_iter().next().unwrap();
    assert_eq!(work.connection.hold, None);
    assert_eq!(with_status(store, 700, Status::Held).await, ["probe"]);
    assert_eq!(counted(store, 700).await, BTreeMap::from([(Status::Held, 1)]));
    let next = applied(store, success(&work, 710, 1_000, "probe-2")).await;
    assert_eq!(next.hold, None);
    store.hold_provider(PROVIDER, None).await.unwrap();
    assert_eq!(get(store, "probe").await, next);
}

async fn counts_of_a_namespace_count_holds_too(store: &dyn Store) {
    for namespace in ["red", "blue"] {
        let key = ConnectionKey::new(namespace, "a").unwrap();
        granted(store, 0, NewGrant { key, tokens: Some(token_set(namespace)), ..new_grant("a", 600, 2_000) }).await;
    }
    // Nothing will ever be due of this one.
    let never = NewGrant { due_at: Timestamp::NEVER, ..new_grant("never", 0, 2_000) };
    granted(store, 0, never).await;
    store.hold_provider(PROVIDER, provider_hold(Some(at(900)))).await.unwrap();
    let red = store.summary(at(5), Some("red")).await.unwrap();
    assert_eq!(red.by_status, BTreeMap::from([(Status::Held, 1)]));
    assert_eq!(counted(store, 5).await, BTreeMap::from([(Status::Held, 3)]));
    assert_eq!(counted(store, 3_000).await, BTreeMap::from([(Status::Held, 3)]), "held comes before expired");
    assert_eq!(with_status(store, 5, Status::Held).await, ["a", "never", "a"]);
}

async fn note(store: &dyn Store, now: i64, configuration: &str) -> Option<usize> {
    match store.note_provider(at(now), PROVIDER, &Secret::new(configuration)).await.unwrap() {
        Noted::Same => None,
        Noted::Changed(events) => Some(events.len()),
    }
}

async fn a_changed_configuration_releases_what_the_old_one_held(store: &dyn Store) {
    assert_eq!(note(store, 0, "one").await, Some(0), "the first is a change");
    assert_eq!(note(store, 0, "one").await, None);
    for name in ["client", "scope", "copy", "well"] {
        create(store, name, 600, 2_000).await;
    }
    other(store, "other").await;
    let restored = Hold { cause: FailureCode::RestoredCopy, probe_at: None };
    flag(store, 1, "client", Flag::Hold(hold(Some(at(900))))).await;
    flag(store, 1, "scope", Flag::Hold(hold(Some(at(901))))).await;
    flag(store, 2, "scope", Flag::Pause).await;
    flag(store, 1, "copy", Flag::Hold(restored.clone())).await;
    flag(store, 1, "other", Flag::Hold(hold(Some(at(900))))).await;
    store.hold_provider(PROVIDER, provider_hold(Some(at(900)))).await.unwrap();
    assert_eq!(note(store, 3, "one").await, None);
    assert_eq!(counted(store, 3).await[&Status::Held], 4, "nothing has changed");

    assert_eq!(note(store, 4, "two").await, Some(2));
    assert_eq!(with_status(store, 5, Status::Held).await, ["copy", "other"]);
    let scope = get(store, "scope").await;
    assert!(scope.paused && scope.hold.is_none(), "a pause is somebody's wish");
    assert_eq!(get(store, "client").await.due_at(), Some(at(600)), "due times stay");
    assert_eq!(get(store, "copy").await.hold, Some(restored));
    assert_eq!(note(store, 6, "two").await, None);
    let all = store.events(&EventQuery { limit: 99, ..EventQuery::default() }).await.unwrap();
    let resumed = all.iter().filter(|event| event.event.kind == EventKind::Resumed);
    let names: Vec<_> = resumed.map(|event| event.event.connection.as_ref().unwrap().name()).collect();
    assert_eq!(names, ["client", "scope"]);
}

async fn labels_are_replaced(store: &dyn Store) {
    create(store, "jira", 600, 2_000).await;
    let before = get(store, "jira").await;
    let given = Flag::Labels(labels(&[("team", "core")]));
    assert!(matches!(flag(store, 1, "jira", given.clone()).await, (_, None)), "no event");
    let after = get(store, "jira").await;
    assert_eq!(after, Connection { labels: labels(&[("team", "core")]), ..before });
    let absent = store.flag(at(1), &key("absent"), given).await.unwrap();
    assert!(absent.is_none());
}
