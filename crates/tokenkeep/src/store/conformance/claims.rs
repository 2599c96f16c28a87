//! Who may try, and when.

use super::*;
use crate::store::CLAIM_BATCH_MAX;
use std::collections::BTreeSet;
use tokenkeep_core::ConnectionId;
use tokenkeep_core::model::{AttemptNumber, Claim};

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    only_what_is_due_is_claimed(&*make()).await;
    a_claim_says_what_its_attempt_needs(&*make()).await;
    the_longest_due_are_considered_and_the_first_to_end_are_taken(&*make()).await;
    each_provider_has_its_own_quota(&*make()).await;
    no_call_claims_more_than_a_batch(&*make()).await;
    a_hold_lets_only_its_probe_through(&*make()).await;
    after_an_outage_waiting_retries_are_claimed(&*make()).await;
    one_connection_is_claimed_by_name(&*make()).await;
    no_connection_is_claimed_twice(&make()).await;
    a_claim_stands_until_it_is_answered(&*make()).await;
    open_claims_are_listed_with_their_tokens(&*make()).await;
    what_never_comes_due_is_never_claimed(&*make()).await;
}

async fn only_what_is_due_is_claimed(store: &dyn Store) {
    create(store, "later", 200, 900).await;
    create(store, "now", 100, 900).await;
    let claimed = claim_due(store, 99, 9).await;
    assert!(claimed.work.is_empty());
    assert_eq!(claimed.next_due[PROVIDER], at(100));
    let claimed = claim_due(store, 100, 9).await;
    assert_eq!(names(&claimed.work), ["now"]);
    assert_eq!(claimed.next_due[PROVIDER], at(200));
    assert!(claim_due(store, 150, 9).await.work.is_empty(), "it is claimed already");
    let unknown = Quota { provider: "unknown".to_owned(), limit: 9, recover_before: None };
    let claimed = store.claim_due(at(999), holder(1), &[unknown]).await.unwrap();
    assert!(claimed.work.is_empty() && claimed.next_due["unknown"] == Timestamp::NEVER);
}

async fn a_claim_says_what_its_attempt_needs(store: &dyn Store) {
    let before = create(store, "jira", 100, 900).await;
    let work = claim_due(store, 150, 9).await.work.remove(0);
    let claim = Claim { attempt: AttemptNumber(1), holder: holder(1), claimed_at: at(150) };
    let expected =
        Connection { attempt: AttemptNumber(1), state: State::Claimed { claim, waiting: Waiting::Schedule }, ..before };
    assert_eq!(work.connection, expected);
    assert_eq!(work.was_due_at, Some(at(100)));
    assert_eq!(get(store, "jira").await, expected);
    assert_eq!(texts(&work.tokens.unwrap()), texts(&token_set("jira")));
}

async fn the_longest_due_are_considered_and_the_first_to_end_are_taken(store: &dyn Store) {
    // Nine are due; with a limit of two, the eight longest due are looked at. The ninth ends first of all.
    for number in 0..8 {
        create(store, &format!("c{number}"), number, 1_000 - number).await;
    }
    create(store, "last", 50, 100).await;
    let claimed = claim_due(store, 60, 2).await;
    assert_eq!(names(&claimed.work), ["c7", "c6"]);
    assert_eq!(claimed.next_due[PROVIDER], at(0), "there is more");
    assert_eq!(names(&claim_due(store, 60, 2).await.work), ["last", "c5"]);
    assert_eq!(names(&claim_due(store, 60, 9).await.work), ["c4", "c3", "c2", "c1", "c0"]);
    assert!(claim_due(store, 60, 0).await.work.is_empty());
    // One whose end nobody knows comes last.
    let mut unknown = new_grant("unknown", 0, 0);
    unknown.times.expires_at = None;
    granted(store, 0, unknown).await;
    create(store, "known", 1, 5_000).await;
    assert_eq!(names(&claim_due(store, 60, 9).await.work), ["known", "unknown"]);
}

async fn each_provider_has_its_own_quota(store: &dyn Store) {
    let of = |name: &str, provider: &str| NewGrant { provider: provider.to_owned(), ..new_grant(name, 0, 100) };
    for (name, provider) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")] {
        granted(store, 0, of(name, provider)).await;
    }
    let quota = |provider: &str, limit| Quota { provider: provider.to_owned(), limit, recover_before: None };
    let claimed = store.claim_due(at(1), holder(1), &[quota("b", 2), quota("a", 1), quota("d", 5)]).await.unwrap();
    assert_eq!(names(&claimed.work), ["b1", "b2", "a1"]);
    let expected = [("a", at(0)), ("b", Timestamp::NEVER), ("d", Timestamp::NEVER)];
    let found: Vec<_> = claimed.next_due.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    assert_eq!(found, expected);
}

async fn no_call_claims_more_than_a_batch(store: &dyn Store) {
    let grants = (0..300).map(|number| new_grant(&format!("c{number:03}"), 0, 100)).collect();
    store.grant(at(0), grants).await.unwrap();
    assert_eq!(claim_due(store, 1, usize::MAX).await.work.len(), CLAIM_BATCH_MAX);
    assert_eq!(claim_due(store, 1, usize::MAX).await.work.len(), 300 - CLAIM_BATCH_MAX);
}

async fn a_hold_lets_only_its_probe_through(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    flag(store, 1, "jira", Flag::Hold(hold(Some(at(500))))).await;
    assert_eq!(claim_due(store, 499, 9).await.next_due[PROVIDER], at(500));
    let by_name = claim_as_seen(store, at(499), holder(1), &key("jira")).await.unwrap();
    assert!(matches!(by_name, ClaimOne::NotClaimable), "{by_name:?}");
    let work = claim_due(store, 500, 9).await.work.remove(0);
    assert_eq!(work.connection.hold, Some(hold(Some(at(500)))));
    applied(store, success(&work, 501, 800, "new")).await;
    flag(store, 502, "jira", Flag::Hold(hold(None))).await;
    assert_eq!(claim_due(store, 10_000, 9).await.next_due[PROVIDER], Timestamp::NEVER);
}

async fn after_an_outage_waiting_retries_are_claimed(store: &dyn Store) {
    for (name, end) in [("early", 3_000), ("late", 4_000), ("recent", 2_000), ("held", 1_000), ("paused", 1_000)] {
        create(store, name, 0, end).await;
    }
    create(store, "planned", 9_000, 9_900).await;
    for (name, failed) in [("early", 10), ("late", 20), ("recent", 50), ("held", 10), ("paused", 10)] {
        let work = claim_one(store, failed, name).await;
        applied(store, failure(&work, failed, retry(5_000))).await;
    }
    flag(store, 60, "held", Flag::Hold(hold(Some(at(6_000))))).await;
    flag(store, 60, "paused", Flag::Pause).await;
    assert!(claim_due(store, 100, 9).await.work.is_empty());
    let recover = |limit| Quota { recover_before: Some(at(50)), ..quota(limit) };
    let claimed = store.claim_due(at(100), holder(1), &[recover(1)]).await.unwrap();
    assert_eq!(names(&claimed.work), ["early"]);
    create(store, "due", 90, 3_500).await;
    let claimed = store.claim_due(at(100), holder(1), &[recover(9)]).await.unwrap();
    assert_eq!(names(&claimed.work), ["due", "late"]);
    assert_eq!(claimed.next_due[PROVIDER], at(5_000));
}

async fn one_connection_is_claimed_by_name(store: &dyn Store) {
    create(store, "jira", 9_000, 9_900).await;
    let claim = async || claim_as_seen(store, at(1), holder(1), &key("jira")).await.unwrap();
    flag(store, 1, "jira", Flag::Pause).await;
    assert!(matches!(claim().await, ClaimOne::NotClaimable));
    let seen = Connection { attempt: AttemptNumber(7), paused: false, ..get(store, "jira").await };
    flag(store, 1, "jira", Flag::Resume).await;
    let changed_since = store.claim_one(at(1), holder(1), &seen).await.unwrap();
    assert!(matches!(changed_since, ClaimOne::NotClaimable), "{changed_since:?}");
    flag(store, 1, "jira", Flag::Resume).await;
    let ClaimOne::Claimed(work) = claim().await else { panic!("it is not due, and yet claimable") };
    assert_eq!(texts(work.tokens.as_ref().unwrap()), texts(&token_set("jira")));
    assert!(matches!(claim().await, ClaimOne::NotClaimable));
    let in_flight = get(store, "jira").await;
    applied(store, success(&work, 1, 9_000, "new")).await;
    let ended_since = store.claim_one(at(1), holder(1), &in_flight).await.unwrap();
    assert!(matches!(ended_since, ClaimOne::NotClaimable), "{ended_since:?}");
    let ClaimOne::Claimed(work) = claim().await else { panic!("what is seen now is claimable") };
    applied(store, failure(&work, 2, State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(2) })).await;
    assert!(matches!(claim().await, ClaimOne::NotClaimable));
    assert!(matches!(claim_as_seen(store, at(1), holder(1), &key("absent")).await.unwrap(), ClaimOne::Absent));
}

async fn no_connection_is_claimed_twice(store: &Arc<dyn Store>) {
    let grants = (0..200).map(|number| new_grant(&format!("c{number:03}"), 0, 100)).collect();
    store.grant(at(0), grants).await.unwrap();
    let quotas = [quota(7)];
    let calls = (0..40).map(|worker| store.claim_due(at(1), holder(worker), &quotas));
    let mut seen = BTreeSet::new();
    for claimed in futures_util::future::join_all(calls).await {
        for work in claimed.unwrap().work {
            assert!(seen.insert(work.connection.id), "{} was claimed twice", work.connection.key);
        }
    }
    assert_eq!(seen.len(), 200);
}

async fn a_claim_stands_until_it_is_answered(store: &dyn Store) {
    let ready = create(store, "jira", 0, 900).await;
    assert!(!store.revalidate(&ready).await.unwrap());
    let first = claim_one(store, 1, "jira").await;
    assert!(store.revalidate(&first.connection).await.unwrap());
    let mut other_holder = first.connection.clone();
    if let State::Claimed { claim, .. } = &mut other_holder.state {
        claim.holder = holder(2);
    }
    assert!(!store.revalidate(&other_holder).await.unwrap());
    flag(store, 2, "jira", Flag::Pause).await;
    assert!(store.revalidate(&first.connection).await.unwrap(), "a pause lets an attempt in flight finish");
    flag(store, 2, "jira", Flag::Resume).await;
    applied(store, failure(&first, 2, retry(3))).await;
    assert!(!store.revalidate(&first.connection).await.unwrap());
    let second = claim_one(store, 4, "jira").await;
    assert_eq!(second.connection.attempt, AttemptNumber(2));
    assert_eq!(second.connection.waiting(), Some(&Waiting::Retry { failures: 1 }));
    assert!(!store.revalidate(&first.connection).await.unwrap());
    assert!(store.revalidate(&second.connection).await.unwrap());
}

async fn open_claims_are_listed_with_their_tokens(store: &dyn Store) {
    for name in ["c", "a", "b", "d"] {
        create(store, name, 0, 900).await;
    }
    for name in ["d", "a", "c"] {
        claim_one(store, 1, name).await;
    }
    let all = store.open_claims(ConnectionId(0), 9).await.unwrap();
    assert_eq!(names(&all), ["c", "a", "d"], "in the order of their numbers");
    assert_eq!(texts(all[1].tokens.as_ref().unwrap()), texts(&token_set("a")));
    assert_eq!(names(&store.open_claims(ConnectionId(0), 2).await.unwrap()), ["c", "a"]);
    assert_eq!(names(&store.open_claims(all[1].connection.id, 9).await.unwrap()), ["d"]);
}

async fn what_never_comes_due_is_never_claimed(store: &dyn Store) {
    let forever = NewGrant { due_at: Timestamp::NEVER, waiting: Waiting::End, ..new_grant("pat", 0, 900) };
    granted(store, 0, NewGrant { renewal: Renewal::Impossible, ..forever }).await;
    let claimed = claim_due(store, i64::MAX - START - 1, 9).await;
    assert!(claimed.work.is_empty() && claimed.next_due[PROVIDER] == Timestamp::NEVER);
    let stored = get(store, "pat").await;
    assert_eq!(stored.state, State::Ready { due_at: Timestamp::NEVER, waiting: Waiting::End });
}
