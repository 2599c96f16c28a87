//! Listings, counts and history.

use super::*;
use crate::store::{EventQuery, ListQuery, PAGE_MAX, Summary};
use tokenkeep_core::model::{Doubt, DoubtStep, Status};

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    listings_are_in_order_and_in_pages(&*make()).await;
    listings_are_filtered(&*make()).await;
    counts_and_listings_agree_with_every_status(&*make()).await;
    counts_are_told_apart_by_provider(&*make()).await;
    an_empty_store_counts_nothing(&*make()).await;
    events_are_numbered_and_found(&*make()).await;
}

fn in_namespace(namespace: &str, name: &str, due: i64, end: i64) -> NewGrant {
    NewGrant {
        key: ConnectionKey::new(namespace, name).unwrap(),
        tokens: Some(token_set(&format!("{namespace}{name}"))),
        ..new_grant(name, due, end)
    }
}

async fn listed(store: &dyn Store, now: i64, query: ListQuery) -> Vec<String> {
    let found = store.list(at(now), &query).await.unwrap();
    found.into_iter().map(|connection| connection.key.to_string()).collect()
}

fn page(limit: usize) -> ListQuery {
    ListQuery { limit, ..ListQuery::default() }
}

async fn listings_are_in_order_and_in_pages(store: &dyn Store) {
    for (namespace, name) in [("default", "b"), ("zeta", "a"), ("default", "a"), ("alpha", "z"), ("default", "B")] {
        granted(store, 0, in_namespace(namespace, name, 0, 9)).await;
    }
    let all = ["alpha/z", "B", "a", "b", "zeta/a"];
    assert_eq!(listed(store, 0, page(9)).await, all);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let found = store.list(at(0), &ListQuery { after: after.clone(), ..page(2) }).await.unwrap();
        let Some(last) = found.last() else { break };
        after = Some(last.key.clone());
        seen.extend(found.into_iter().map(|connection| connection.key.to_string()));
    }
    assert_eq!(seen, all);
    assert!(listed(store, 0, page(0)).await.is_empty());
    assert_eq!(store.list(at(0), &page(9)).await.unwrap()[2], get(store, "a").await);
}

async fn listings_are_filtered(store: &dyn Store) {
    for (namespace, name) in [("default", "jira-1"), ("default", "git_1"), ("team", "jira-2"), ("team", "x")] {
        granted(store, 0, in_namespace(namespace, name, 0, 9)).await;
    }
    granted(store, 0, NewGrant { provider: "github".to_owned(), ..in_namespace("team", "git-3", 0, 9) }).await;
    let of_team = ListQuery { namespace: Some("team".into()), ..page(9) };
    assert_eq!(listed(store, 0, of_team.clone()).await, ["team/git-3", "team/jira-2", "team/x"]);
    let named = |text: &str| ListQuery { name_contains: Some(text.into()), ..page(9) };
    assert_eq!(listed(store, 0, named("jira")).await, ["jira-1", "team/jira-2"]);
    assert_eq!(listed(store, 0, named("_")).await, ["git_1"], "no character is special");
    assert_eq!(listed(store, 0, named("JIRA")).await, Vec::<String>::new());
    let github = ListQuery { provider: Some("github".into()), ..page(9) };
    assert_eq!(listed(store, 0, github).await, ["team/git-3"]);
    let both = ListQuery { name_contains: Some("jira".into()), ..of_team };
    assert_eq!(listed(store, 0, both).await, ["team/jira-2"]);
}

/// Makes two connections of every status at [`NOW`]; those whose names begin with `x` have ended by then.
async fn one_of_each(store: &dyn Store) {
    let doubt = Waiting::InDoubt(Doubt { first_sent_at: at(1), failures: 1, next: DoubtStep::Probe });
    let states = [
        ("ended", Some(State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(2) })),
        ("paused", None),
        ("held", None),
        ("doubt", Some(State::Ready { due_at: at(700), waiting: doubt })),
        ("retry", Some(retry(800))),
        ("recheck", Some(State::Ready { due_at: at(900), waiting: Waiting::Recheck })),
        ("claimed", None),
        ("fresh", None),
    ];
    for (prefix, end) in [("", 2_000), ("x", NOW)] {
        for (name, state) in &states {
            let name = &format!("{prefix}{name}");
            create(store, name, 600, end).await;
            if let Some(state) = state {
                let work = claim_one(store, 1, name).await;
                applied(store, failure(&work, 2, state.clone())).await;
            }
        }
        flag(store, 3, &format!("{prefix}paused"), Flag::Pause).await;
        flag(store, 3, &format!("{prefix}held"), Flag::Hold(hold(Some(at(500))))).await;
        claim_one(store, 4, &format!("{prefix}claimed")).await;
    }
}

const NOW: i64 = 1_000;

async fn counts_and_listings_agree_with_every_status(store: &dyn Store) {
    one_of_each(store).await;
    granted(store, 0, in_namespace("team", "far", 5_000, 9_000)).await;
    let all = store.list(at(NOW), &page(PAGE_MAX)).await.unwrap();
    assert_eq!(all.len(), 17);
    let summary = store.summary(at(NOW), None).await.unwrap();
    for status in Status::ALL {
        let judged: Vec<_> = all.iter().filter(|c| c.status(at(NOW)) == status).map(|c| c.key.to_string()).collect();
        let query = ListQuery { statuses: vec![status], ..page(99) };
        assert_eq!(listed(store, NOW, query).await, judged, "{status:?}");
        assert_eq!(summary.by_status.get(&status).copied().unwrap_or(0), judged.len() as u64, "{status:?}");
        assert!(!judged.is_empty(), "{status:?} is not covered");
    }
    let two = ListQuery { statuses: vec![Status::Retrying, Status::NeedsReauth], ..page(99) };
    assert_eq!(listed(store, NOW, two).await, ["ended", "recheck", "retry", "xended"]);
    let mixed = ListQuery { statuses: vec![Status::Fresh, Status::Held], ..page(99) };
    assert_eq!(listed(store, NOW, mixed).await, ["fresh", "held", "xheld", "team/far"]);
    assert_eq!((summary.next_due_at, summary.earliest_expiry), (Some(at(500)), Some(at(2_000))));
    expect_shares_of_summary(store, NOW).await;
    let team = store.summary(at(NOW), Some("team")).await.unwrap();
    let expected = Summary {
        by_status: BTreeMap::from([(Status::Fresh, 1)]),
        next_due_at: Some(at(5_000)),
        earliest_expiry: Some(at(9_000)),
    };
    assert_eq!(team, expected);
    store.remove(at(NOW), &ConnectionKey::new("team", "far").unwrap()).await.unwrap();
    assert_eq!(store.summary(at(NOW), Some("team")).await.unwrap(), Summary::default());
}

async fn counts_are_told_apart_by_provider(store: &dyn Store) {
    one_of_each(store).await;
    let of = |provider: &str, grant| NewGrant { provider: provider.to_owned(), ..grant };
    granted(store, 0, of("github", in_namespace("default", "g1", 100, 3_000))).await;
    granted(store, 0, of("github", in_namespace("team", "g2", 100, 1_500))).await;
    granted(store, 0, of("google", in_namespace("team", "late", 9_000, 4_000))).await;
    for now in [0, NOW, 1_600, 3_500, 5_000] {
        expect_shares_of_summary(store, now).await;
    }
    let shares = store.summary_by_provider(at(NOW)).await.unwrap();
    assert_eq!(shares.len(), 3);
    assert_eq!(shares["github"].by_status, BTreeMap::from([(Status::Fresh, 2)]));
    assert_eq!(shares["github"].earliest_expiry, Some(at(1_500)));
    assert_eq!(shares["google"].earliest_expiry, Some(at(4_000)));
    assert_eq!(store.summary_by_provider(at(2_000)).await.unwrap()["github"].earliest_expiry, Some(at(3_000)));

    store.hold_provider("github", Some(hold(Some(at(8_000))))).await.unwrap();
    expect_shares_of_summary(store, 2_000).await;
    let held = store.summary_by_provider(at(2_000)).await.unwrap();
    assert_eq!(held["github"].by_status, BTreeMap::from([(Status::Held, 2)]), "ended ones too");
    for name in ["g1", "g2"] {
        let namespace = if name == "g1" { "default" } else { "team" };
        store.remove(at(2_000), &ConnectionKey::new(namespace, name).unwrap()).await.unwrap();
    }
    assert!(!store.summary_by_provider(at(2_000)).await.unwrap().contains_key("github"));
}

async fn an_empty_store_counts_nothing(store: &dyn Store) {
    assert_eq!(store.summary(at(0), None).await.unwrap(), Summary::default());
    assert!(store.summary_by_provider(at(0)).await.unwrap().is_empty());
    assert_eq!(store.summary(at(0), Some("absent")).await.unwrap(), Summary::default());
    assert!(store.list(at(0), &page(9)).await.unwrap().is_empty());
    assert!(store.events(&EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap().is_empty());
    assert!(store.open_claims(tokenkeep_core::ConnectionId(0), 9).await.unwrap().is_empty());
}

async fn events_are_numbered_and_found(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let of_system =
        NewEvent { data: r#"{"n":1}"#.to_owned(), ..NewEvent::new(EventKind::SystemStarted, at(5), None, "é") };
    let failed = NewEvent::new(EventKind::RefreshFailed, at(9), Some(&key("jira")), "No.")
        .with_failure(&Failure::new(FailureCode::Timeout, ""));
    let written = store.record(vec![of_system.clone(), failed.clone()]).await.unwrap();
    assert_eq!(written.iter().map(|event| event.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(written.iter().map(|event| event.event.clone()).collect::<Vec<_>>(), [of_system, failed]);
    let numbers = async |query: EventQuery| {
        let found = store.events(&query).await.unwrap();
        found.into_iter().map(|event| event.id).collect::<Vec<_>>()
    };
    let all = EventQuery { limit: 9, ..EventQuery::default() };
    assert_eq!(store.events(&all).await.unwrap()[1..], written[..]);
    assert_eq!(numbers(EventQuery { after: 2, ..all.clone() }).await, [3]);
    assert_eq!(numbers(EventQuery { after: u64::MAX, ..all.clone() }).await, [0; 0]);
    assert_eq!(numbers(EventQuery { since: Some(at(5)), ..all.clone() }).await, [2, 3]);
    assert_eq!(numbers(EventQuery { connection: Some(key("jira")), ..all.clone() }).await, [1, 3]);
    let both = EventQuery { connection: Some(key("jira")), since: Some(at(5)), ..all.clone() };
    assert_eq!(numbers(both).await, [3]);
    assert_eq!(numbers(EventQuery { limit: 2, ..all.clone() }).await, [1, 2]);
    assert_eq!(numbers(EventQuery { limit: 2, newest: true, ..all.clone() }).await, [2, 3]);
    let last = EventQuery { connection: Some(key("jira")), limit: 1, newest: true, ..all.clone() };
    assert_eq!(numbers(last).await, [3]);
    assert_eq!(numbers(EventQuery { connection: Some(key("absent")), ..all }).await, [0; 0]);
    assert!(store.record(Vec::new()).await.unwrap().is_empty());
}
