//! Token sets that somebody brings, flags, and removal.

use super::*;
use crate::store::{EventQuery, FINGERPRINTS_MAX};
use tokenkeep_core::model::{AttemptNumber, Doubt, DoubtStep, GrantNumber, Stats};

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    a_first_grant_makes_a_connection(&*make()).await;
    a_first_grant_without_tokens_has_generation_0(&*make()).await;
    a_further_grant_starts_anew_and_keeps_what_is_the_owners(&*make()).await;
    a_grant_that_brings_nothing_new_changes_nothing(&*make()).await;
    the_last_used_refresh_tokens_are_known_again(&*make()).await;
    grants_of_one_call_are_taken_in_order(&*make()).await;
    a_new_grant_ends_a_claim(&*make()).await;
    pause_and_resume(&*make()).await;
    hold_and_resume(&*make()).await;
    a_restored_copy_resumes_in_doubt(&*make()).await;
    removing_leaves_only_history(&*make()).await;
}

async fn a_first_grant_makes_a_connection(store: &dyn Store) {
    let grant = NewGrant { labels: Some(labels(&[("team", "ä \"x\"")])), ..new_grant("jira", 1_000, 2_000) };
    let Granted::Created(connection, event) = granted(store, 7, grant).await else { panic!("not created") };
    assert_eq!((connection.grant, connection.generation), (GrantNumber(1), Generation(1)));
    assert_eq!((connection.attempt, connection.committed), (AttemptNumber(0), AttemptNumber(0)));
    assert_eq!(connection.state, State::Ready { due_at: at(1_000), waiting: Waiting::Schedule });
    assert_eq!((connection.paused, &connection.hold, &connection.last_error), (false, &None, &None));
    assert_eq!((connection.last_success, connection.refreshed), (at(7), false));
    assert_eq!((connection.times, connection.stats), (times(2_000), Stats::default()));
    assert_eq!(connection.labels, labels(&[("team", "ä \"x\"")]));
    assert_eq!((event.event.kind, event.event.at), (EventKind::Connected, at(7)));
    assert_eq!(event.event.connection, Some(key("jira")));
    assert_eq!(get(store, "jira").await, *connection);
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("jira")));
    assert_eq!(store.get(&key("other")).await.unwrap(), None);
    assert!(store.tokens(&key("other")).await.unwrap().is_none());
}

async fn a_first_grant_without_tokens_has_generation_0(store: &dyn Store) {
    let grant = NewGrant { tokens: None, renewal: Renewal::ClientCredentials, ..new_grant("machine", 0, 0) };
    let Granted::Created(connection, _) = granted(store, 0, grant).await else { panic!("not created") };
    assert_eq!(connection.generation, Generation(0));
    assert!(store.tokens(&key("machine")).await.unwrap().unwrap().tokens.is_none());
    let work = claim_one(store, 0, "machine").await;
    assert!(work.tokens.is_none());
    assert_eq!(applied(store, success(&work, 1, 50, "first")).await.generation, Generation(1));
    assert_eq!(texts(&tokens(store, "machine").await), texts(&token_set("first")));
}

async fn a_further_grant_starts_anew_and_keeps_what_is_the_owners(store: &dyn Store) {
    let grant = NewGrant { labels: Some(labels(&[("a", "b")])), ..new_grant("jira", 0, 2_000) };
    granted(store, 0, grant).await;
    let work = claim_one(store, 1, "jira").await;
    let state = State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(2) };
    applied(store, failure(&work, 2, state)).await;
    flag(store, 3, "jira", Flag::Pause).await;
    flag(store, 3, "jira", Flag::Hold(hold(None))).await;
    let again = NewGrant { tokens: Some(token_set("again")), ..new_grant("jira", 9_000, 9_500) };
    let Granted::Renewed(connection, event) = granted(store, 10, again).await else { panic!("not renewed") };
    assert_eq!((connection.grant, connection.generation), (GrantNumber(2), Generation(2)));
    assert_eq!((connection.attempt, connection.committed), (AttemptNumber(1), AttemptNumber(0)));
    assert_eq!(connection.state, State::Ready { due_at: at(9_000), waiting: Waiting::Schedule });
    assert_eq!((connection.paused, &connection.hold, &connection.last_error), (true, &None, &None));
    assert_eq!(connection.stats, Stats { attempted: 1, succeeded: 0, failed: 1 });
    assert_eq!((connection.last_success, connection.refreshed), (at(10), false));
    assert_eq!(connection.labels, labels(&[("a", "b")]));
    assert_eq!(event.event.kind, EventKind::Connected);
    assert_eq!(get(store, "jira").await, *connection);
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("again")));
    let relabelled = NewGrant { labels: Some(labels(&[])), tokens: Some(token_set("x")), ..new_grant("jira", 0, 1) };
    granted(store, 11, relabelled).await;
    assert_eq!(get(store, "jira").await.labels, labels(&[]));
}

async fn a_grant_that_brings_nothing_new_changes_nothing(store: &dyn Store) {
    create(store, "jira", 0, 2_000).await;
    let work = claim_one(store, 1, "jira").await;
    let stored = applied(store, success(&work, 2, 50, "second")).await;
    let events = store.events(&EventQuery { limit: 99, ..EventQuery::default() }).await.unwrap();
    let held = NewGrant { tokens: Some(token_set("second")), ..new_grant("jira", 1, 1) };
    assert!(matches!(granted(store, 3, held).await, Granted::AlreadyHeld(found) if *found == stored));
    let used = new_grant("jira", 1, 1);
    assert!(matches!(granted(store, 3, used).await, Granted::AlreadyUsed(found) if *found == stored));
    let foreign = NewGrant { provider: "other".to_owned(), tokens: Some(token_set("new")), ..new_grant("jira", 1, 1) };
    assert!(matches!(granted(store, 3, foreign).await, Granted::OtherProvider(found) if *found == stored));
    assert_eq!(get(store, "jira").await, stored);
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("second")));
    assert_eq!(store.events(&EventQuery { limit: 99, ..EventQuery::default() }).await.unwrap(), events);
    // A new grant forgets what was used before it: it is another grant's.
    granted(store, 4, NewGrant { tokens: Some(token_set("third")), ..new_grant("jira", 1, 1) }).await;
    assert!(matches!(granted(store, 5, new_grant("jira", 1, 1)).await, Granted::Renewed(..)));
}

async fn the_last_used_refresh_tokens_are_known_again(store: &dyn Store) {
    create(store, "0", 0, 2_000).await;
    let rotate = async |to: &str| {
        let work = claim_one(store, 1, "0").await;
        applied(store, success(&work, 1, 50, to)).await;
    };
    for number in 1..=FINGERPRINTS_MAX + 1 {
        rotate(&number.to_string()).await;
    }
    // A refresh that keeps the refresh token uses none up.
    rotate(&(FINGERPRINTS_MAX + 1).to_string()).await;
    for number in 1..=FINGERPRINTS_MAX {
        let grant = NewGrant { tokens: Some(token_set(&number.to_string())), ..new_grant("0", 1, 1) };
        assert!(matches!(granted(store, 2, grant).await, Granted::AlreadyUsed(_)), "{number}");
    }
    assert!(matches!(granted(store, 3, new_grant("0", 1, 1)).await, Granted::Renewed(..)), "the oldest is forgotten");
}

async fn grants_of_one_call_are_taken_in_order(store: &dyn Store) {
    let second = NewGrant { tokens: Some(token_set("other")), ..new_grant("a", 2, 3) };
    let grants = vec![new_grant("a", 1, 2), new_grant("b", 1, 2), second, new_grant("b", 1, 2)];
    let granted = store.grant(at(0), grants).await.unwrap();
    let [Granted::Created(a, _), Granted::Created(b, _), Granted::Renewed(again, event), Granted::AlreadyHeld(_)] =
        &granted[..]
    else {
        panic!("{granted:?}")
    };
    assert!(a.id < b.id && again.id == a.id && again.generation == Generation(2));
    assert_eq!(event.id, 3);
    assert!(store.grant(at(0), Vec::new()).await.unwrap().is_empty());
}

async fn a_new_grant_ends_a_claim(store: &dyn Store) {
    create(store, "jira", 0, 2_000).await;
    let work = claim_one(store, 1, "jira").await;
    granted(store, 2, NewGrant { tokens: Some(token_set("new")), ..new_grant("jira", 5, 9) }).await;
    assert!(!store.revalidate(&work.connection).await.unwrap());
    superseded(store, success(&work, 3, 50, "late")).await;
    superseded(store, failure(&work, 3, retry(5))).await;
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("new")));
    let next = claim_one(store, 3, "jira").await;
    assert_eq!(next.connection.attempt, AttemptNumber(2), "a claim's number is never given twice");
}

async fn pause_and_resume(store: &dyn Store) {
    create(store, "jira", 0, 2_000).await;
    let (paused, event) = flag(store, 1, "jira", Flag::Pause).await;
    assert_eq!((paused.paused, event), (true, Some(EventKind::Paused)));
    assert_eq!(flag(store, 2, "jira", Flag::Pause).await, (paused.clone(), None));
    assert_eq!(get(store, "jira").await, paused);
    let claimed = claim_due(store, 5, 9).await;
    assert!(claimed.work.is_empty() && claimed.next_due[PROVIDER] == Timestamp::NEVER, "{claimed:?}");
    let (resumed, event) = flag(store, 3, "jira", Flag::Resume).await;
    assert_eq!((resumed.paused, event), (false, Some(EventKind::Resumed)));
    assert_eq!(flag(store, 4, "jira", Flag::Resume).await, (resumed, None));
    assert_eq!(names(&claim_due(store, 5, 9).await.work), ["jira"]);
    assert!(store.flag(at(6), &key("absent"), Flag::Pause).await.unwrap().is_none());
}

async fn hold_and_resume(store: &dyn Store) {
    create(store, "jira", 0, 2_000).await;
    let (held, event) = flag(store, 1, "jira", Flag::Hold(hold(Some(at(100))))).await;
    assert_eq!((held.hold.clone(), event), (Some(hold(Some(at(100)))), Some(EventKind::Held)));
    assert_eq!(flag(store, 1, "jira", Flag::Hold(hold(Some(at(100))))).await, (held.clone(), None));
    assert_eq!(get(store, "jira").await, held);
    let (moved, event) = flag(store, 1, "jira", Flag::Hold(hold(Some(at(200))))).await;
    assert_eq!((moved.hold, event), (Some(hold(Some(at(200)))), None), "the same cause is no news");
    let (resumed, event) = flag(store, 1, "jira", Flag::Resume).await;
    assert_eq!((resumed.hold.clone(), event), (None, Some(EventKind::Resumed)));
    assert_eq!(resumed.state, State::Ready { due_at: at(0), waiting: Waiting::Schedule });
    assert_eq!(get(store, "jira").await, resumed);
}

async fn a_restored_copy_resumes_in_doubt(store: &dyn Store) {
    create(store, "jira", 500, 2_000).await;
    let restored = Hold { cause: FailureCode::RestoredCopy, probe_at: None };
    flag(store, 1, "jira", Flag::Hold(restored)).await;
    assert!(claim_due(store, 1_000, 9).await.work.is_empty());
    let (resumed, _) = flag(store, 2, "jira", Flag::Resume).await;
    let doubt = Doubt { first_sent_at: at(2), failures: 0, next: DoubtStep::Probe };
    assert_eq!(resumed.state, State::Ready { due_at: at(2), waiting: Waiting::InDoubt(doubt) });
    assert_eq!(get(store, "jira").await, resumed);
    assert_eq!(names(&claim_due(store, 2, 9).await.work), ["jira"]);
}

async fn removing_leaves_only_history(store: &dyn Store) {
    let first = create(store, "jira", 0, 2_000).await;
    let work = claim_one(store, 1, "jira").await;
    let event = store.remove(at(2), &key("jira")).await.unwrap().unwrap();
    assert_eq!((event.event.kind, event.event.connection), (EventKind::Removed, Some(key("jira"))));
    assert_eq!(store.get(&key("jira")).await.unwrap(), None);
    assert!(store.tokens(&key("jira")).await.unwrap().is_none());
    assert!(store.open_claims(tokenkeep_core::ConnectionId(0), 9).await.unwrap().is_empty());
    assert!(!store.revalidate(&work.connection).await.unwrap());
    assert!(matches!(store.commit(success(&work, 3, 50, "late")).await.unwrap(), Committed::Gone));
    assert!(store.remove(at(4), &key("jira")).await.unwrap().is_none());
    let second = create(store, "jira", 0, 2_000).await;
    assert!(second.id > first.id, "a number is never used again");
    assert!(matches!(store.commit(success(&work, 5, 50, "late")).await.unwrap(), Committed::Gone));
    let query = EventQuery { connection: Some(key("jira")), limit: 9, ..EventQuery::default() };
    let kinds: Vec<_> = store.events(&query).await.unwrap().into_iter().map(|event| event.event.kind).collect();
    assert_eq!(kinds, [EventKind::Connected, EventKind::Removed, EventKind::Connected]);
}
