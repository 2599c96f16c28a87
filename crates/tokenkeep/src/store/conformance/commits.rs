//! What becomes of an attempt's result.

use super::*;
use crate::store::{Event, EventQuery};
use tokenkeep_core::model::{AttemptNumber, Doubt, DoubtStep, Stats};

pub(super) async fn all(make: &impl Fn() -> Arc<dyn Store>) {
    a_success_is_stored_with_its_events(&*make()).await;
    a_failure_keeps_tokens_and_generation(&*make()).await;
    a_commit_run_again_changes_nothing(&*make()).await;
    a_failure_needs_its_claim(&*make()).await;
    a_late_success_wins_over_every_state(&*make()).await;
    of_two_answers_the_later_attempts_wins(&*make()).await;
    flags_set_meanwhile_stay(&*make()).await;
    a_commit_changes_a_hold_only_as_it_may(&*make()).await;
    every_state_reads_back(&*make()).await;
    the_highest_journal_sequence_is_kept(&*make()).await;
    many_commits_at_once_are_all_written(&make()).await;
}

async fn a_success_is_stored_with_its_events(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let work = claim_one(store, 1, "jira").await;
    let commit = success(&work, 2, 5_000, "second");
    let expected = commit.next.clone();
    let new_events = commit.events.clone();
    let Committed::Applied(connection, events) = store.commit(commit).await.unwrap() else { panic!("not applied") };
    assert_eq!(*connection, expected);
    assert_eq!(get(store, "jira").await, expected);
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("second")));
    let stored = store.events(&EventQuery { after: 1, limit: 9, ..EventQuery::default() }).await.unwrap();
    assert_eq!(stored, events);
    assert_eq!(events, [Event { id: 2, event: new_events[0].clone() }]);
    assert_eq!(claim_due(store, 4_999, 9).await.next_due[PROVIDER], at(5_000));
    assert_eq!(names(&claim_due(store, 5_000, 9).await.work), ["jira"]);
}

async fn a_failure_keeps_tokens_and_generation(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let work = claim_one(store, 1, "jira").await;
    let mut commit = failure(&work, 2, retry(70));
    commit.next.generation = Generation(9);
    let connection = applied(store, commit).await;
    assert_eq!((connection.generation, connection.committed), (Generation(1), AttemptNumber(0)));
    assert_eq!(connection.stats, Stats { attempted: 1, succeeded: 0, failed: 1 });
    assert_eq!(connection.last_error.as_ref().unwrap().failure.detail, "HTTP 500");
    assert_eq!(get(store, "jira").await, connection);
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("jira")));
    assert_eq!(claim_due(store, 69, 9).await.next_due[PROVIDER], at(70));
}

async fn a_commit_run_again_changes_nothing(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let work = claim_one(store, 1, "jira").await;
    applied(store, success(&work, 2, 50, "second")).await;
    superseded(store, success(&work, 2, 50, "second")).await;
    let work = claim_one(store, 60, "jira").await;
    let stored = applied(store, failure(&work, 61, retry(70))).await;
    superseded(store, failure(&work, 61, retry(70))).await;
    assert_eq!(get(store, "jira").await, stored);
    assert_eq!(store.events(&EventQuery { limit: 9, ..EventQuery::default() }).await.unwrap().len(), 2);
}

async fn a_failure_needs_its_claim(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let first = claim_one(store, 1, "jira").await;
    applied(store, failure(&first, 2, retry(3))).await;
    let second = claim_one(store, 4, "jira").await;
    superseded(store, failure(&first, 5, State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(5) })).await;
    assert!(store.revalidate(&second.connection).await.unwrap());
}

async fn a_late_success_wins_over_every_state(store: &dyn Store) {
    let doubt = Doubt { first_sent_at: at(1), failures: 1, next: DoubtStep::Probe };
    let states = [
        ("doubt", State::Ready { due_at: at(9_000), waiting: Waiting::InDoubt(doubt) }),
        ("ended", State::NeedsReauth { cause: FailureCode::LostInFlight, at: at(3) }),
        ("retry", retry(9_000)),
    ];
    for (name, state) in states {
        create(store, name, 0, 900).await;
        let work = claim_one(store, 1, name).await;
        applied(store, failure(&work, 2, state)).await;
        let connection = applied(store, success(&work, 5, 50, "late")).await;
        assert_eq!(connection.state, State::Ready { due_at: at(50), waiting: Waiting::Schedule }, "{name}");
        assert_eq!(texts(&tokens(store, name).await), texts(&token_set("late")));
    }
    create(store, "claimed", 0, 900).await;
    let first = claim_one(store, 1, "claimed").await;
    applied(store, failure(&first, 2, retry(3))).await;
    let second = claim_one(store, 4, "claimed").await;
    let connection = applied(store, success(&first, 5, 50, "late")).await;
    assert_eq!((connection.committed, connection.attempt), (AttemptNumber(1), AttemptNumber(2)));
    assert!(!store.revalidate(&second.connection).await.unwrap());
    superseded(store, failure(&second, 6, retry(7))).await;
    let third = claim_one(store, 60, "claimed").await;
    assert_eq!(third.connection.attempt, AttemptNumber(3));
}

async fn of_two_answers_the_later_attempts_wins(store: &dyn Store) {
    create(store, "jira", 0, 900).await;
    let first = claim_one(store, 1, "jira").await;
    applied(store, failure(&first, 2, retry(3))).await;
    let second = claim_one(store, 4, "jira").await;
    applied(store, success(&first, 5, 50, "first")).await;
    let connection = applied(store, success(&second, 6, 60, "second")).await;
    assert_eq!((connection.generation, connection.committed), (Generation(2), AttemptNumber(2)));
    superseded(store, success(&first, 7, 70, "first")).await;
    assert_eq!(texts(&tokens(store, "jira").await), texts(&token_set("second")));
}

async fn flags_set_meanwhile_stay(store: &dyn Store) {
    granted(store, 0, NewGrant { labels: Some(labels(&[("a", "1")])), ..new_grant("jira", 0, 900) }).await;
    let work = claim_one(store, 1, "jira").await;
    flag(store, 2, "jira", Flag::Pause).await;
    flag(store, 2, "jira", Flag::Hold(hold(None))).await;
    let mut commit = success(&work, 3, 50, "new");
    commit.next.labels = labels(&[("b", "2")]);
    let connection = applied(store, commit).await;
    assert_eq!((connection.paused, &connection.hold), (true, &Some(hold(None))));
    assert_eq!(connection.labels, labels(&[("a", "1")]));
    assert_eq!(get(store, "jira").await, connection);
    assert!(claim_due(store, 9_999, 9).await.work.is_empty());
    flag(store, 4, "jira", Flag::Resume).await;
    assert_eq!(names(&claim_due(store, 50, 9).await.work), ["jira"]);
}

async fn a_commit_changes_a_hold_only_as_it_may(store: &dyn Store) {
    let commit = async |name: &str, change: HoldChange| {
        let work = claim_due(store, 9_000, 9).await.work.remove(0);
        assert_eq!(work.connection.key, key(name));
        applied(store, Commit { hold: change, ..success(&work, 9_000, 50, name) }).await.hold
    };
    let probed = Some(hold(Some(at(100))));
    create(store, "a", 0, 900).await;
    assert_eq!(commit("a", HoldChange::Set(hold(Some(at(100))))).await, probed);
    assert_eq!(get(store, "a").await.hold, probed);
    assert_eq!(commit("a", HoldChange::Keep).await, probed);
    assert_eq!(commit("a", HoldChange::Clear).await, None);
    assert_eq!(get(store, "a").await.hold, None);
    let work = claim_one(store, 9_000, "a").await;
    flag(store, 9_001, "a", Flag::Hold(hold(None))).await;
    let cleared = applied(store, Commit { hold: HoldChange::Clear, ..failure(&work, 9_002, retry(9_100)) }).await;
    assert_eq!(cleared.hold, Some(hold(None)), "only a human clears it");
}

async fn every_state_reads_back(store: &dyn Store) {
    let doubt = |next| Waiting::InDoubt(Doubt { first_sent_at: at(-5), failures: u32::MAX, next });
    let ready = |waiting| State::Ready { due_at: at(7), waiting };
    let states = [
        ready(Waiting::Schedule),
        ready(Waiting::Retry { failures: u32::MAX }),
        ready(doubt(DoubtStep::Resend)),
        ready(doubt(DoubtStep::Probe)),
        ready(Waiting::Recheck),
        ready(Waiting::End),
        State::Ready { due_at: Timestamp::NEVER, waiting: Waiting::End },
        State::Ready { due_at: Timestamp::EPOCH, waiting: Waiting::Schedule },
        State::NeedsReauth { cause: FailureCode::LostInFlight, at: at(3) },
    ];
    for (number, state) in states.into_iter().enumerate() {
        let name = format!("c{number}");
        create(store, &name, 0, 900).await;
        let work = claim_one(store, 1, &name).await;
        let mut commit = failure(&work, 2, state.clone());
        commit.next.scopes = vec!["read:jira \"x\" \u{1f600}".to_owned(), String::new()];
        commit.next.renewal = [Renewal::RefreshToken, Renewal::ClientCredentials, Renewal::Impossible][number % 3];
        commit.next.times = TokenTimes {
            issued_at: Timestamp::EPOCH,
            expires_at: None,
            lifetime: (number % 2 == 0).then_some(Duration::from_millis(59_500)),
            lifetime_learned: true,
            planned_at: Timestamp::NEVER,
            refresh_end: Some(Deadline { at: at(1 << 40), told_until: at(3) }),
            consent_end: Some(Deadline { at: Timestamp::NEVER, told_until: Timestamp::NEVER }),
        };
        commit.next.stats = Stats { attempted: u64::MAX, succeeded: 1 << 63, failed: 0 };
        let connection = applied(store, commit).await;
        assert_eq!(connection.state, state);
        assert_eq!(get(store, &name).await, connection, "{state:?}");
        if matches!(state, State::Ready { .. }) {
            let work = claim_one(store, 8, &name).await;
            assert_eq!(work.connection.waiting(), connection.waiting());
            assert_eq!(get(store, &name).await, work.connection);
        }
    }
}

async fn the_highest_journal_sequence_is_kept(store: &dyn Store) {
    assert_eq!(store.journal_sequence().await.unwrap(), 0);
    create(store, "jira", 0, 900).await;
    let work = claim_one(store, 1, "jira").await;
    applied(store, Commit { journal_sequence: 7, ..failure(&work, 2, retry(3)) }).await;
    assert_eq!(store.journal_sequence().await.unwrap(), 7);
    let work = claim_one(store, 4, "jira").await;
    applied(store, Commit { journal_sequence: 5, ..success(&work, 5, 50, "x") }).await;
    assert_eq!(store.journal_sequence().await.unwrap(), 7);
    // An answer that came too late has been seen all the same.
    superseded(store, Commit { journal_sequence: 9, ..success(&work, 5, 50, "x") }).await;
    assert_eq!(store.journal_sequence().await.unwrap(), 9);
}

async fn many_commits_at_once_are_all_written(store: &Arc<dyn Store>) {
    let grants = (0..200).map(|number| new_grant(&format!("c{number:03}"), 0, 100)).collect();
    store.grant(at(0), grants).await.unwrap();
    let mut work = claim_due(&**store, 1, 256).await.work;
    work.reverse();
    let commits = work.iter().map(|work| store.commit(success(work, 2, 50, work.connection.key.name())));
    for committed in futures_util::future::join_all(commits).await {
        assert!(matches!(committed.unwrap(), Committed::Applied(_, events) if events.len() == 1));
    }
    for work in work {
        let name = work.connection.key.name().to_owned();
        assert_eq!(get(&**store, &name).await.generation, Generation(2));
        assert_eq!(texts(&tokens(&**store, &name).await), texts(&token_set(&name)));
    }
}
