//! Ends that people are told of, and whose a connection is.

use super::*;
use crate::store::{Event, WARN_BATCH_MAX};

const DAY: i64 = 86_400_000;

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    each_mark_is_told_once(&*make()).await;
    what_a_refresh_puts_off_is_not_told(&*make()).await;
    what_comes_earlier_is_told_earlier(&*make()).await;
    what_was_told_while_an_attempt_was_in_flight_stays_told(&*make()).await;
    who_must_sign_in_anyway_is_not_told(&*make()).await;
    a_new_grant_begins_anew(&*make()).await;
    many_are_told_bit_by_bit(&*make()).await;
    the_connections_of_an_account_are_known(&*make()).await;
}

/// A consent that was given at [`START`] and ends so many days later.
fn consent(name: &str, days: i64) -> NewGrant {
    let mut grant = new_grant(name, 400 * DAY, 800 * DAY);
    grant.times.consent_end = Some(Deadline::set(at(0), at(days * DAY)));
    grant
}

async fn warn(store: &dyn Store, day: i64) -> Vec<Event> {
    store.warn_due(at(day * DAY)).await.expect("ends are looked at").events
}

/// Names and days left of what is told on each day from `first` on.
async fn told(store: &dyn Store, days: std::ops::Range<i64>) -> Vec<(i64, String)> {
    let mut told = Vec::new();
    for day in days {
        for event in warn(store, day).await {
            assert_eq!((event.event.kind, event.event.at), (EventKind::Expiring, at(day * DAY)));
            told.push((day, event.event.connection.expect("it is somebody's").name().to_owned()));
        }
    }
    told
}

fn days(told: &[(i64, String)]) -> Vec<i64> {
    told.iter().map(|(day, _)| *day).collect()
}

async fn each_mark_is_told_once(store: &dyn Store) {
    granted(store, 0, consent("jira", 365)).await;
    assert_eq!(days(&told(store, 0..367).await), [335, 351, 358, 364]);
    let connection = get(store, "jira").await;
    assert_eq!(connection.times.consent_end.unwrap().at, at(365 * DAY), "the end itself stands");
    let events = store.events(&crate::store::EventQuery { limit: 9, ..Default::default() }).await.unwrap();
    assert_eq!(events.len(), 5, "they are in the history");
}

async fn what_a_refresh_puts_off_is_not_told(store: &dyn Store) {
    let mut grant = new_grant("idle", 0, 9);
    grant.times.refresh_end = Some(Deadline::set(at(0), at(60 * DAY)));
    granted(store, 0, grant).await;
    for day in (0..300).step_by(20) {
        assert_eq!(told(store, day..day + 20).await, []);
        let work = claim_one(store, (day + 20) * DAY, "idle").await;
        let mut commit = success(&work, (day + 20) * DAY, (day + 40) * DAY, &format!("idle{day}"));
        commit.next.times.refresh_end = Some(Deadline::set(at((day + 20) * DAY), at((day + 80) * DAY)));
        applied(store, commit).await;
    }
    assert_eq!(days(&told(store, 300..361).await), [346, 353, 359], "it was last refreshed on day 300");
}

async fn what_comes_earlier_is_told_earlier(store: &dyn Store) {
    granted(store, 0, consent("jira", 365)).await;
    let work = claim_one(store, 1, "jira").await;
    let mut commit = success(&work, 2, 400 * DAY, "next");
    commit.next.times.consent_end = work.connection.times.consent_end;
    commit.next.times.refresh_end = Some(Deadline::set(at(0), at(100 * DAY)));
    applied(store, commit).await;
    assert_eq!(days(&told(store, 0..110).await), [70, 86, 93, 99]);
}

async fn what_was_told_while_an_attempt_was_in_flight_stays_told(store: &dyn Store) {
    granted(store, 0, consent("jira", 365)).await;
    let work = claim_one(store, 1, "jira").await;
    assert_eq!(warn(store, 340).await.len(), 1);
    let mut commit = success(&work, 340 * DAY, 900 * DAY, "next");
    commit.next.times.consent_end = work.connection.times.consent_end;
    applied(store, commit).await;
    assert_eq!(warn(store, 341).await, []);
    assert_eq!(warn(store, 351).await.len(), 1);
}

async fn who_must_sign_in_anyway_is_not_told(store: &dyn Store) {
    granted(store, 0, consent("jira", 365)).await;
    let work = claim_one(store, 1, "jira").await;
    applied(store, failure(&work, 2, State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(2) })).await;
    assert_eq!(told(store, 330..367).await, []);
}

async fn a_new_grant_begins_anew(store: &dyn Store) {
    granted(store, 0, consent("jira", 365)).await;
    assert_eq!(warn(store, 340).await.len(), 1);
    let mut again = consent("jira", 0);
    again.tokens = Some(token_set("again"));
    again.times.consent_end = Some(Deadline::set(at(341 * DAY), at(706 * DAY)));
    granted(store, 341 * DAY, again).await;
    assert_eq!(days(&told(store, 341..707).await), [676, 692, 699, 705]);
    store.remove(at(0), &key("jira")).await.unwrap();
    assert_eq!(told(store, 341..707).await, []);
}

async fn many_are_told_bit_by_bit(store: &dyn Store) {
    let many = (0..WARN_BATCH_MAX + 3).map(|n| consent(&format!("c{n}"), 365)).collect();
    store.grant(at(0), many).await.unwrap();
    let first = store.warn_due(at(340 * DAY)).await.unwrap();
    let rest = store.warn_due(at(340 * DAY)).await.unwrap();
    assert_eq!((first.events.len(), first.more), (WARN_BATCH_MAX, true));
    assert_eq!((rest.events.len(), rest.more), (3, false));
}

async fn the_connections_of_an_account_are_known(store: &dyn Store) {
    let of = |name: &str, account: Option<&str>| {
        let mut grant = new_grant(name, 0, 9);
        grant.origin.account = account.map(str::to_owned);
        grant
    };
    let grants = vec![of("b", Some("anna")), of("a", Some("anna")), of("c", Some("ben")), of("d", None)];
    store.grant(at(0), grants).await.unwrap();
    let of_anna = || store.of_account(PROVIDER, "anna");
    assert_eq!(of_anna().await.unwrap(), [key("a"), key("b")]);
    assert_eq!(store.of_account("other", "anna").await.unwrap(), []);
    let imported = NewGrant { tokens: Some(token_set("new")), ..of("a", None) };
    granted(store, 1, imported).await;
    store.remove(at(2), &key("b")).await.unwrap();
    assert_eq!(of_anna().await.unwrap(), [], "of an import nobody knows whose it is");
}
