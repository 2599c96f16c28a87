//! Random sequences of calls, compared with a model after each call.
//!
//! The model is written anew from the contract in `store/mod.rs`; it shares nothing with any store.

use super::*;
use crate::store::{EventQuery, ListQuery, Noted, Outlook, PAGE_MAX};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use tokenkeep_core::ConnectionId;
use tokenkeep_core::model::{Doubt, DoubtStep, Status};

/// How many calls one sequence has at most.
const CALLS_MAX: usize = 60;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Runs so many random sequences, each against an empty store. It brings its own runtime.
///
/// # Panics
/// When a store departs from the model, with the shortest sequence found that does.
pub fn sequences(make: impl Fn() -> Arc<dyn Store>, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
    let no_file: Option<Box<FileFailurePersistence>> = None;
    let config = Config { cases, failure_persistence: no_file.map(|file| file as _), ..Config::default() };
    let sequence = proptest::collection::vec(call(), 1..CALLS_MAX);
    let outcome = TestRunner::new(config).run(&sequence, |calls| {
        let store = make();
        runtime.block_on(run(&*store, calls));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[derive(Clone, Debug)]
enum Call {
    Grant { name: usize, token: u8, due_in: i64, life: i64 },
    ClaimDue { limit: usize, recover: bool },
    ClaimOne { name: usize },
    Succeed { work: Index, token: u8, due_in: i64 },
    Fail { work: Index, then: Then },
    Flag { name: usize, flag: ModelFlag },
    HoldProvider { probe_in: Option<i64> },
    ReleaseProvider,
    Configure { version: u8 },
    Remove { name: usize },
    Wait { millis: i64 },
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Retry { due_in: i64 },
    Doubt { due_in: i64 },
    End,
}

#[derive(Clone, Copy, Debug)]
enum ModelFlag {
    Pause,
    Resume,
    Hold { probe_in: Option<i64> },
}

fn call() -> impl Strategy<Value = Call> {
    let name = || 0..NAMES.len();
    let span = || 0..100_i64;
    let then = prop_oneof![
        span().prop_map(|due_in| Then::Retry { due_in }),
        span().prop_map(|due_in| Then::Doubt { due_in }),
        Just(Then::End),
    ];
    let flag = prop_oneof![
        1 => Just(ModelFlag::Pause),
        2 => Just(ModelFlag::Resume),
        1 => proptest::option::of(span()).prop_map(|probe_in| ModelFlag::Hold { probe_in }),
    ];
    prop_oneof![
        4 => (name(), 0..8_u8, span(), 1..200_i64)
            .prop_map(|(name, token, due_in, life)| Call::Grant { name, token, due_in, life }),
        4 => (0..4_usize, any::<bool>()).prop_map(|(limit, recover)| Call::ClaimDue { limit, recover }),
        2 => name().prop_map(|name| Call::ClaimOne { name }),
        4 => (any::<Index>(), 0..8_u8, span())
            .prop_map(|(work, token, due_in)| Call::Succeed { work, token, due_in }),
        3 => (any::<Index>(), then).prop_map(|(work, then)| Call::Fail { work, then }),
        2 => (name(), flag).prop_map(|(name, flag)| Call::Flag { name, flag }),
        1 => proptest::option::of(span()).prop_map(|probe_in| Call::HoldProvider { probe_in }),
        1 => Just(Call::ReleaseProvider),
        1 => (0..3_u8).prop_map(|version| Call::Configure { version }),
        1 => name().prop_map(|name| Call::Remove { name }),
        2 => span().prop_map(|millis| Call::Wait { millis }),
    ]
}

/// What the model knows of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    id: ConnectionId,
    grant: u32,
    generation: u64,
    committed: u64,
    attempt: u64,
    state: ModelState,
    paused: bool,
    /// Held, and when its probe is due.
    hold: Option<Option<i64>>,
    end: i64,
    failed_at: Option<i64>,
    refresh: String,
    used: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ModelState {
    Ready { due: i64, kind: Kind },
    Claimed { kind: Kind },
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Planned,
    Retry,
    Doubt,
}

impl Entry {
    fn due(&self) -> Option<i64> {
        match (self.state, self.paused, self.hold) {
            (ModelState::Ready { due, .. }, false, None) => Some(due),
            (ModelState::Ready { .. }, false, Some(probe)) => probe,
            _ => None,
        }
    }

    fn is_recoverable(&self, before: i64) -> bool {
        matches!(self.state, ModelState::Ready { kind: Kind::Retry, .. })
            && !self.paused
            && self.hold.is_none()
            && self.failed_at.is_some_and(|at| at < before)
    }

    fn status(&self, now: i64) -> Status {
        match self.state {
            ModelState::Ended => Status::NeedsReauth,
            _ if self.paused => Status::Paused,
            _ if self.hold.is_some() => Status::Held,
            ModelState::Ready { kind: Kind::Doubt, .. } | ModelState::Claimed { kind: Kind::Doubt } => Status::InDoubt,
            _ if self.end <= now => Status::Expired,
            ModelState::Ready { kind: Kind::Retry, .. } | ModelState::Claimed { kind: Kind::Retry } => Status::Retrying,
            ModelState::Claimed { .. } => Status::Refreshing,
            ModelState::Ready { .. } => Status::Fresh,
        }
    }

    /// As it is shown while its provider is held.
    fn shown(&self, provider: Option<Option<i64>>) -> Self {
        let due = if let ModelState::Ready { due, .. } = self.state { due } else { i64::MIN };
        let hold = match (self.hold, provider) {
            (own, None) | (own @ Some(None), _) => own,
            (_, Some(None)) => Some(None),
            (Some(Some(own)), Some(Some(probe))) => Some(Some(own.max(probe))),
            (None, Some(Some(probe))) => Some(Some(due.max(probe))),
        };
        Self { hold, ..self.clone() }
    }

    fn claim(&mut self) {
        if let ModelState::Ready { kind, .. } = self.state {
            self.attempt += 1;
            self.state = ModelState::Claimed { kind };
        }
    }
}

#[derive(Default)]
struct Model {
    now: i64,
    entries: BTreeMap<&'static str, Entry>,
    /// Every claim ever taken, as its attempt saw the connection.
    works: Vec<Connection>,
    events: u64,
    /// What holds the provider, and how it is configured.
    held: Option<Option<i64>>,
    configuration: Option<u8>,
}

async fn run(store: &dyn Store, calls: Vec<Call>) {
    let mut model = Model::default();
    for call in calls {
        model.step(store, call).await;
        model.compare(store).await;
    }
}

impl Model {
    async fn step(&mut self, store: &dyn Store, call: Call) {
        match call {
            Call::Grant { name, token, due_in, life } => self.grant(store, NAMES[name], token, due_in, life).await,
            Call::ClaimDue { limit, recover } => self.claim_due(store, limit, recover).await,
            Call::ClaimOne { name } => self.claim_one(store, NAMES[name]).await,
            Call::Succeed { work, token, due_in } => self.succeed(store, work, token, due_in).await,
            Call::Fail { work, then } => self.fail(store, work, then).await,
            Call::Flag { name, flag } => self.flag(store, NAMES[name], flag).await,
            Call::HoldProvider { probe_in } => self.hold_provider(store, Some(probe_in)).await,
            Call::ReleaseProvider => self.hold_provider(store, None).await,
            Call::Configure { version } => self.configure(store, version).await,
            Call::Remove { name } => self.remove(store, NAMES[name]).await,
            Call::Wait { millis } => self.now += millis,
        }
    }

    async fn grant(&mut self, store: &dyn Store, name: &'static str, token: u8, due_in: i64, life: i64) {
        let tokens = token_set(&format!("{name}{token}"));
        let refresh = texts(&tokens).1.expect("it has a refresh token");
        let (due, end) = (self.now + due_in, self.now + life);
        let answer = granted(store, self.now, NewGrant { tokens: Some(tokens), ..new_grant(name, due, end) }).await;
        let state = ModelState::Ready { due, kind: Kind::Planned };
        match (self.entries.get_mut(name), answer) {
            (None, Granted::Created(connection, _)) => {
                let fresh = Entry {
                    id: connection.id,
                    grant: 1,
                    generation: 1,
                    committed: 0,
                    attempt: 0,
                    state,
                    paused: false,
                    hold: None,
                    end,
                    failed_at: None,
                    refresh,
                    used: Vec::new(),
                };
                self.entries.insert(name, fresh);
                self.events += 1;
            }
            (Some(entry), Granted::AlreadyHeld(_)) => assert_eq!(entry.refresh, refresh),
            (Some(entry), Granted::AlreadyUsed(_)) => {
                assert!(entry.refresh != refresh && entry.used.contains(&refresh))
            }
            (Some(entry), Granted::Renewed(..)) => {
                assert!(entry.refresh != refresh && !entry.used.contains(&refresh), "{refresh} is known");
                let (grant, generation) = (entry.grant + 1, entry.generation + 1);
                let old = entry.clone();
                let reset = Entry { grant, generation, committed: 0, state, hold: None, end, refresh, ..old };
                *entry = Entry { failed_at: None, used: Vec::new(), ..reset };
                self.events += 1;
            }
            (entry, answer) => panic!("{name}: {entry:?}, and yet {answer:?}"),
        }
    }

    async fn claim_due(&mut self, store: &dyn Store, limit: usize, recover: bool) {
        let mut due: Vec<_> = self.entries.iter().filter(|(_, e)| e.due().is_some_and(|due| due <= self.now)).collect();
        due.sort_by_key(|(_, entry)| (entry.due(), entry.id));
        due.truncate(4 * limit);
        if recover {
            let waiting = self.entries.iter().filter(|(_, entry)| entry.is_recoverable(self.now));
            due.extend(waiting);
        }
        due.sort_by_key(|(_, entry)| (entry.end, entry.id));
        due.dedup_by_key(|(_, entry)| entry.id);
        let expected: Vec<&'static str> = due.into_iter().take(limit).map(|(name, _)| *name).collect();
        let quota = Quota { recover_before: recover.then(|| at(self.now)), ..quota(limit) };
        let claimed = store.claim_due(at(self.now), holder(1), &[quota]).await.unwrap();
        assert_eq!(names(&claimed.work), expected);
        for (work, name) in claimed.work.into_iter().zip(expected) {
            let entry = self.entries.get_mut(name).expect("it was found there");
            entry.claim();
            let refresh = work.tokens.as_ref().and_then(|tokens| texts(tokens).1);
            assert_eq!(refresh.as_ref(), Some(&entry.refresh), "a claim brings the refresh token in hand");
            self.works.push(work.connection);
        }
        let next = self.entries.values().filter_map(Entry::due).min();
        assert_eq!(claimed.next_due[PROVIDER], next.map_or(Timestamp::NEVER, at));
    }

    async fn claim_one(&mut self, store: &dyn Store, name: &'static str) {
        let answer = claim_as_seen(store, at(self.now), holder(2), &key(name)).await.unwrap();
        match (self.entries.get_mut(name), answer) {
            (None, ClaimOne::Absent) => {}
            (Some(entry), ClaimOne::NotClaimable) => {
                let ready = matches!(entry.state, ModelState::Ready { .. });
                assert!(!ready || entry.paused || entry.hold.is_some());
            }
            (Some(entry), ClaimOne::Claimed(work)) => {
                assert!(matches!(entry.state, ModelState::Ready { .. }) && !entry.paused && entry.hold.is_none());
                entry.claim();
                self.works.push(work.connection);
            }
            (entry, answer) => panic!("{name}: {entry:?}, and yet {answer:?}"),
        }
    }

    /// A claim taken at some time, answered or not, and what the model has of its connection now.
    fn work(&mut self, work: Index) -> Option<(Connection, Option<&mut Entry>)> {
        let connection = self.works.get(work.index(self.works.len().max(1)))?.clone();
        let entry = self.entries.values_mut().find(|entry| entry.id == connection.id);
        Some((connection, entry))
    }

    async fn succeed(&mut self, store: &dyn Store, work: Index, token: u8, due_in: i64) {
        let now = self.now;
        let Some((connection, entry)) = self.work(work) else { return };
        let work = Work { connection, tokens: None, was_due_at: None };
        let tokens = format!("{}{token}", work.connection.key.name());
        let mut commit = success(&work, now, now + due_in, &tokens);
        commit.next.times = times(now + due_in * 2);
        let answer = store.commit(commit).await.unwrap();
        let (generation, attempt) = (work.connection.generation.0 + 1, work.connection.attempt.0);
        match (entry, answer) {
            (None, Committed::Gone) => {}
            (Some(entry), Committed::Superseded) => assert!(!is_newer(entry, &work.connection)),
            (Some(entry), Committed::Applied(_, events)) => {
                assert!(is_newer(entry, &work.connection));
                let refresh = format!("refresh-{tokens}");
                if entry.refresh != refresh {
                    let replaced = std::mem::replace(&mut entry.refresh, refresh);
                    entry.used.retain(|used| *used != replaced);
                    entry.used.push(replaced);
                }
                (entry.generation, entry.committed) = (generation, attempt);
                entry.state = ModelState::Ready { due: now + due_in, kind: Kind::Planned };
                entry.end = now + due_in * 2;
                entry.failed_at = None;
                self.events += events.len() as u64;
            }
            (entry, answer) => panic!("{entry:?}, and yet {answer:?}"),
        }
    }

    async fn fail(&mut self, store: &dyn Store, work: Index, then: Then) {
        let now = self.now;
        let Some((connection, entry)) = self.work(work) else { return };
        let (state, expected) = match then {
            Then::Retry { due_in } => (retry(now + due_in), ModelState::Ready { due: now + due_in, kind: Kind::Retry }),
            Then::Doubt { due_in } => {
                let doubt = Doubt { first_sent_at: at(now), failures: 1, next: DoubtStep::Probe };
                let state = State::Ready { due_at: at(now + due_in), waiting: Waiting::InDoubt(doubt) };
                (state, ModelState::Ready { due: now + due_in, kind: Kind::Doubt })
            }
            Then::End => (State::NeedsReauth { cause: FailureCode::InvalidGrant, at: at(now) }, ModelState::Ended),
        };
        let work = Work { connection, tokens: None, was_due_at: None };
        let stands = entry.as_ref().is_some_and(|entry| stands(entry, &work.connection));
        let answer = store.commit(failure(&work, now, state)).await.unwrap();
        match (entry, answer) {
            (None, Committed::Gone) => {}
            (Some(_), Committed::Superseded) => assert!(!stands),
            (Some(entry), Committed::Applied(..)) => {
                assert!(stands);
                (entry.state, entry.failed_at) = (expected, Some(now));
                entry.end = end_of(&work.connection);
            }
            (entry, answer) => panic!("{entry:?}, and yet {answer:?}"),
        }
    }

    async fn flag(&mut self, store: &dyn Store, name: &'static str, flag: ModelFlag) {
        let now = self.now;
        let given = match flag {
            ModelFlag::Pause => Flag::Pause,
            ModelFlag::Resume => Flag::Resume,
            ModelFlag::Hold { probe_in } => Flag::Hold(hold(probe_in.map(|span| at(now + span)))),
        };
        let answer = store.flag(at(now), &key(name), given).await.unwrap();
        let Some(entry) = self.entries.get_mut(name) else {
            assert!(answer.is_none());
            return;
        };
        let news = match flag {
            ModelFlag::Pause => !std::mem::replace(&mut entry.paused, true),
            ModelFlag::Resume => std::mem::take(&mut entry.paused) | entry.hold.take().is_some(),
            ModelFlag::Hold { probe_in } => entry.hold.replace(probe_in.map(|span| now + span)).is_none(),
        };
        assert_eq!(answer.map(|(_, event)| event.is_some()), Some(news));
        self.events += u64::from(news);
    }

    async fn hold_provider(&mut self, store: &dyn Store, probe_in: Option<Option<i64>>) {
        self.held = probe_in.map(|probe_in| probe_in.map(|span| self.now + span));
        let hold = self.held.map(|probe_at| hold(probe_at.map(at)));
        store.hold_provider(PROVIDER, hold.clone()).await.unwrap();
        assert_eq!(store.providers().await.unwrap()[PROVIDER], hold);
    }

    async fn configure(&mut self, store: &dyn Store, version: u8) {
        let configuration = Secret::new(version.to_string());
        let noted = store.note_provider(at(self.now), PROVIDER, &configuration).await.unwrap();
        if self.configuration.replace(version) == Some(version) {
            assert!(matches!(noted, Noted::Same), "{noted:?}");
            return;
        }
        let mut released = 0;
        for entry in self.entries.values_mut().filter(|entry| matches!(entry.hold, Some(Some(_)))) {
            entry.hold = None;
            released += 1;
        }
        self.held = None;
        assert!(matches!(&noted, Noted::Changed(events) if events.len() == released), "{released}: {noted:?}");
        self.events += released as u64;
    }

    async fn remove(&mut self, store: &dyn Store, name: &'static str) {
        let removed = store.remove(at(self.now), &key(name)).await.unwrap();
        assert_eq!(removed.is_some(), self.entries.remove(name).is_some());
        self.events += u64::from(removed.is_some());
    }

    async fn compare(&self, store: &dyn Store) {
        for name in NAMES {
            let found = store.tokens(&key(name)).await.unwrap();
            let expected = self.entries.get(name).map(|entry| entry.shown(self.held));
            let expected = expected.as_ref();
            assert_eq!(found.as_ref().map(|work| seen(&work.connection)), expected.map(said), "{name}");
            let refresh = found.and_then(|work| texts(&work.tokens?).1);
            assert_eq!(refresh.as_ref(), expected.map(|entry| &entry.refresh), "{name}");
        }
        for work in &self.works {
            let expected = self.entries.values().any(|entry| stands(entry, work));
            assert_eq!(store.revalidate(work).await.unwrap(), expected, "{work:?}");
        }
        self.compare_counts(store).await;
        let open = store.open_claims(ConnectionId(0), 99).await.unwrap();
        let mut claimed: Vec<_> =
            self.entries.values().filter(|e| matches!(e.state, ModelState::Claimed { .. })).map(|e| e.id).collect();
        claimed.sort();
        assert_eq!(open.iter().map(|work| work.connection.id).collect::<Vec<_>>(), claimed);
        let events = store.events(&EventQuery { limit: PAGE_MAX, ..EventQuery::default() }).await.unwrap();
        let numbers: Vec<_> = events.iter().map(|event| event.id).collect();
        assert_eq!(numbers, (1..=self.events).collect::<Vec<_>>());
    }

    async fn compare_counts(&self, store: &dyn Store) {
        let mut expected = BTreeMap::new();
        let shown: Vec<_> = self.entries.iter().map(|(name, entry)| (*name, entry.shown(self.held))).collect();
        for (_, entry) in &shown {
            *expected.entry(entry.status(self.now)).or_insert(0_u64) += 1;
        }
        let summary = store.summary(at(self.now), None).await.unwrap();
        assert_eq!(summary.by_status, expected);
        assert_eq!(summary.next_due_at, shown.iter().filter_map(|(_, entry)| entry.due()).min().map(at));
        let ends = self.entries.values().map(|entry| entry.end).filter(|end| *end > self.now);
        assert_eq!(summary.earliest_expiry, ends.min().map(at));
        expect_shares_of_summary(store, self.now).await;
        let mut outlook = Outlook::default();
        for (_, entry) in &shown {
            let end = Some(entry.end).filter(|end| *end != i64::MAX).map(at);
            outlook.end(at(self.now), entry.status(self.now), end, 1);
            if let Some(due) = entry.due() {
                outlook.plan(at(self.now), at(due));
            }
        }
        assert_eq!(store.outlook(at(self.now), None).await.unwrap(), outlook);
        for status in Status::ALL {
            let query = ListQuery { statuses: vec![status], limit: 99, ..ListQuery::default() };
            let found = store.list(at(self.now), &query).await.unwrap();
            let found: Vec<_> = found.iter().map(|connection| connection.key.name()).collect();
            let of_status = shown.iter().filter(|(_, entry)| entry.status(self.now) == status);
            assert_eq!(found, of_status.map(|(name, _)| *name).collect::<Vec<_>>(), "{status:?}");
        }
    }
}

fn is_newer(entry: &Entry, work: &Connection) -> bool {
    entry.grant == work.grant.0 && (entry.generation, entry.committed) < (work.generation.0 + 1, work.attempt.0)
}

fn stands(entry: &Entry, work: &Connection) -> bool {
    entry.id == work.id
        && entry.grant == work.grant.0
        && entry.attempt == work.attempt.0
        && matches!(entry.state, ModelState::Claimed { .. })
}

fn end_of(connection: &Connection) -> i64 {
    connection.times.expires_at.map_or(i64::MAX, relative)
}

const fn relative(time: Timestamp) -> i64 {
    time.as_millis() - START
}

type Compared = (ConnectionId, [u64; 4], ModelState, bool, Option<Option<i64>>, i64);

fn said(entry: &Entry) -> Compared {
    let counters = [u64::from(entry.grant), entry.generation, entry.committed, entry.attempt];
    (entry.id, counters, entry.state, entry.paused, entry.hold, entry.end)
}

fn seen(connection: &Connection) -> Compared {
    let kind = |waiting: &Waiting| match waiting {
        Waiting::Retry { .. } => Kind::Retry,
        Waiting::InDoubt(_) => Kind::Doubt,
        _ => Kind::Planned,
    };
    let state = match &connection.state {
        State::Ready { due_at, waiting } => ModelState::Ready { due: relative(*due_at), kind: kind(waiting) },
        State::Claimed { waiting, .. } => ModelState::Claimed { kind: kind(waiting) },
        State::NeedsReauth { .. } => ModelState::Ended,
    };
    let counters =
        [u64::from(connection.grant.0), connection.generation.0, connection.committed.0, connection.attempt.0];
    let hold = connection.hold.as_ref().map(|hold| hold.probe_at.map(relative));
    (connection.id, counters, state, connection.paused, hold, end_of(connection))
}
