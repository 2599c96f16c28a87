//! What `status --watch` knows: the connections as they were fetched, and what is to be fetched again.

use crate::api::json::{ConnectionJson, LastErrorJson, StepJson, SummaryJson, parse_time};
use crate::client::follow::News;
use std::collections::{BTreeMap, BTreeSet};
use tokenkeep_core::model::Status;

/// The most connections that are watched at once: of more, the most urgent ones.
pub const WATCHED_MAX: usize = 10_000;
/// The most connections that one fetch asks for by name.
pub const NAMED_MAX: usize = 50;

/// The connections that are watched.
#[derive(Default, Debug)]
pub struct Fleet {
    rows: BTreeMap<String, Row>,
    summary: Option<SummaryJson>,
    wanted: Wanted,
    /// What the last fetch changed, for those who show changes.
    changed: BTreeSet<String>,
    /// Why what is shown may be old, if it may.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Row {
    connection: ConnectionJson,
    /// It was asked about when its access token ended, and need not be again.
    end_was_seen: bool,
}

/// What is to be fetched.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Wanted {
    /// Everything: at the beginning, and where something was missed.
    #[default]
    All,
    /// These; nothing where there are none.
    Named(BTreeSet<String>),
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The counts.
    pub summary: Option<SummaryJson>,
    /// What was asked for.
    pub wanted: Wanted,
    /// What is there of it.
    pub connections: Vec<ConnectionJson>,
}

impl Fleet {
    /// Takes note of what happened.
    pub fn hear(&mut self, news: &News) {
        match news {
            News::Event(event) => self.want(event.connection.as_deref()),
            News::Step(step) => self.heard_step(step),
            News::Resync(_) => self.wanted = Wanted::All,
            News::Back => {
                self.wanted = Wanted::All;
                self.trouble = None;
            }
            News::Lost(why) | News::Refused(why) => self.trouble(why.cause()),
        }
    }

    /// What is shown may be old, because of this.
    pub fn trouble(&mut self, why: &str) {
        self.trouble = Some(why.to_owned());
    }

    /// Why what is shown may be old.
    #[must_use]
    pub fn why_old(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn want(&mut self, name: Option<&str>) {
        if let (Wanted::Named(names), Some(name)) = (&mut self.wanted, name) {
            names.insert(name.to_owned());
        }
    }

    /// A claim shows at once; what came of it is fetched.
    fn heard_step(&mut self, step: &StepJson) {
        match step.step.as_str() {
            "claimed" => {
                if let Some(row) = self.rows.get_mut(&step.connection)
                    && matches!(row.connection.status.as_str(), "fresh" | "retrying")
                {
                    Status::Refreshing.as_str().clone_into(&mut row.connection.status);
                }
            }
            "published" => self.want(Some(&step.connection)),
            _ => {}
        }
    }

    /// Wants those whose access token has just ended: nobody says so.
    pub fn see_ends(&mut self, now_ms: i64) {
        let mut ended = Vec::new();
        for (name, row) in self.rows.iter_mut().filter(|(_, row)| !row.end_was_seen) {
            if row
                .connection
                .access_expires_at
                .as_deref()
                .and_then(parse_time)
                .is_some_and(|at| at.as_millis() <= now_ms)
            {
                row.end_was_seen = true;
                ended.push(name.clone());
            }
        }
        ended.iter().for_each(|name| self.want(Some(name)));
    }

    /// True when there is something to fetch.
    #[must_use]
    pub fn is_wanting(&self) -> bool {
        !matches!(&self.wanted, Wanted::Named(names) if names.is_empty())
    }

    /// What to fetch now, of which at most [`NAMED_MAX`] by name; `None` while nothing is wanted.
    pub fn next_wanted(&mut self) -> Option<Wanted> {
        match &mut self.wanted {
            Wanted::All => Some(std::mem::replace(&mut self.wanted, Wanted::Named(BTreeSet::new()))),
            Wanted::Named(names) if names.is_empty() => None,
            Wanted::Named(names) => {
                let later = names.iter().nth(NAMED_MAX).cloned().map(|first| names.split_off(&first));
                Some(Wanted::Named(std::mem::replace(names, later.unwrap_or_default())))
            }
        }
    }

    /// What could not be fetched is wanted again, and everything else that may have been missed.
    pub fn want_all(&mut self) {
        self.wanted = Wanted::All;
    }

    /// Takes over what was fetched.
    pub fn take(&mut self, fetched: Fetched) {
        self.summary = fetched.summary.or(self.summary.take());
        let there: BTreeSet<&str> = fetched.connections.iter().map(|connection| connection.name.as_str()).collect();
        let is_gone = |name: &String| match &fetched.wanted {
            Wanted::All => !there.contains(name.as_str()),
            Wanted::Named(names) => names.contains(name) && !there.contains(name.as_str()),
        };
        let gone: Vec<String> = self.rows.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            self.rows.remove(&name);
            self.changed.insert(name);
        }
        fetched.connections.into_iter().for_each(|connection| self.take_one(connection));
        self.forget_the_least_urgent();
    }

    fn take_one(&mut self, connection: ConnectionJson) {
        let before = self.rows.get(&connection.name);
        let same_end = |row: &&Row| is_near(&row.connection.access_expires_at, &connection.access_expires_at);
        let end_was_seen = before.filter(same_end).is_some_and(|row| row.end_was_seen);
        if before.is_none_or(|row| !is_same(&row.connection, &connection)) {
            self.changed.insert(connection.name.clone());
        }
        self.rows.insert(connection.name.clone(), Row { connection, end_was_seen });
    }

    fn forget_the_least_urgent(&mut self) {
        if self.rows.len() > WATCHED_MAX {
            let forgotten: Vec<String> = self.by_urgency().skip(WATCHED_MAX).map(|c| c.name.clone()).collect();
            for name in forgotten {
                self.rows.remove(&name);
                // It was not removed: there is no room for it here.
                self.changed.remove(&name);
            }
        }
    }

    /// The names that changed since this was asked last, with what they are now; `None` for what was removed.
    pub fn take_changes(&mut self) -> Vec<(String, Option<&ConnectionJson>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|name| (name.clone(), self.rows.get(&name).map(|row| &row.connection))).collect()
    }

    /// The counts, once they were fetched.
    #[must_use]
    pub fn summary(&self) -> Option<&SummaryJson> {
        self.summary.as_ref()
    }

    /// What needs somebody first, then what ends first.
    pub fn by_urgency(&self) -> impl Iterator<Item = &ConnectionJson> {
        let mut sorted: Vec<&ConnectionJson> = self.rows.values().map(|row| &row.connection).collect();
        sorted.sort_by_cached_key(|connection| {
            let ends = connection.access_expires_at.as_deref().and_then(parse_time);
            (rank(&connection.status), ends.map_or(i64::MAX, |at| at.as_millis()))
        });
        sorted.into_iter()
    }
}

/// Two answers of the daemon give one time so much apart at most: it is told by two clocks, read one after the other.
const CLOCKS_DIFFER_MS: u64 = 50;

fn is_near(one: &Option<String>, other: &Option<String>) -> bool {
    let read = |time: &Option<String>| time.as_deref().and_then(parse_time).map(|at| at.as_millis());
    match (read(one), read(other)) {
        (Some(one), Some(other)) => one.abs_diff(other) <= CLOCKS_DIFFER_MS,
        (one, other) => one == other,
    }
}

/// The same, but for how the clocks were read.
fn is_same(one: &ConnectionJson, other: &ConnectionJson) -> bool {
    let times = |connection: &ConnectionJson| {
        [
            connection.access_expires_at.clone(),
            connection.refresh_due_at.clone(),
            connection.refresh_expires_at.clone(),
            connection.consent_expires_at.clone(),
            connection.sign_in_by.clone(),
            connection.last_refreshed_at.clone(),
            connection.last_error.as_ref().and_then(|error| error.at.clone()),
        ]
    };
    let without_times = |connection: &ConnectionJson| ConnectionJson {
        access_expires_at: None,
        refresh_due_at: None,
        refresh_expires_at: None,
        consent_expires_at: None,
        sign_in_by: connection.sign_in_by.as_ref().map(|_| String::new()),
        last_refreshed_at: None,
        last_error: connection.last_error.clone().map(|error| LastErrorJson { at: None, ..error }),
        ..connection.clone()
    };
    times(one).iter().zip(&times(other)).all(|(one, other)| is_near(one, other))
        && without_times(one) == without_times(other)
}

/// The statuses in the order in which they want attention.
const BY_URGENCY: [Status; 8] = [
    Status::NeedsReauth,
    Status::Expired,
    Status::InDoubt,
    Status::Held,
    Status::Retrying,
    Status::Refreshing,
    Status::Fresh,
    Status::Paused,
];

/// The statuses that all watched connections are searched for, however many there are.
#[must_use]
pub fn troubled() -> String {
    BY_URGENCY[..5].iter().map(|status| status.as_str()).collect::<Vec<_>>().join(",")
}

/// One that a later version knows comes first.
fn rank(status: &str) -> usize {
    BY_URGENCY.iter().position(|known| known.as_str() == status).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::with_status;
    use super::*;

    fn named(name: &str, status: &str, ends: Option<&str>) -> ConnectionJson {
        ConnectionJson { name: name.to_owned(), access_expires_at: ends.map(str::to_owned), ..with_status(status) }
    }

    fn fetched(wanted: Wanted, connections: Vec<ConnectionJson>) -> Fetched {
        Fetched { summary: None, wanted, connections }
    }

    fn only(names: &[&str]) -> Wanted {
        Wanted::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn step(name: &str, step: &str) -> News {
        News::Step(StepJson {
            namespace: "default".to_owned(),
            connection: name.to_owned(),
            attempt: 1,
            step: step.to_owned(),
            at: None,
        })
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        assert_eq!(fleet.next_wanted(), Some(Wanted::All));
        let later = Some("2026-11-23T11:00:00Z");
        fleet.take(fetched(
            Wanted::All,
            vec![
                named("a", "fresh", Some("2026-11-23T12:00:00Z")),
                named("b", "fresh", later),
                named("c", "needs_reauth", None),
                named("d", "paused", later),
            ],
        ));
        fleet
    }

    fn order(fleet: &Fleet) -> String {
        fleet.by_urgency().map(|connection| connection.name.as_str()).collect()
    }

    #[test]
    fn what_needs_somebody_comes_first_and_then_what_ends_first() {
        assert_eq!(order(&fleet()), "cbad");
        assert_eq!(BY_URGENCY.len(), Status::ALL.len());
        assert_eq!(troubled(), "needs_reauth,expired,in_doubt,held,retrying");
    }

    #[test]
    fn only_what_something_happened_to_is_fetched() {
        let mut fleet = fleet();
        assert_eq!(fleet.take_changes().len(), 4);
        assert_eq!(fleet.next_wanted(), None);
        fleet.hear(&step("a", "claimed"));
        assert_eq!(fleet.rows["a"].connection.status, "refreshing");
        assert_eq!(fleet.next_wanted(), None, "what a claim does is known");
        fleet.hear(&step("a", "published"));
        fleet.hear(&step("d", "published"));
        assert_eq!(fleet.next_wanted(), Some(only(&["a", "d"])));
        fleet.take(fetched(only(&["a", "d"]), vec![named("a", "retrying", None)]));
        let changes: Vec<(String, bool)> = fleet.take_changes().into_iter().map(|(n, c)| (n, c.is_some())).collect();
        assert_eq!(changes, [("a".to_owned(), true), ("d".to_owned(), false)], "d was removed");
        assert_eq!(order(&fleet), "cab");
        fleet.take(fetched(only(&["a"]), vec![named("a", "retrying", None)]));
        assert!(fleet.take_changes().is_empty(), "nothing changed");
    }

    #[test]
    fn a_time_that_two_clocks_tell_a_little_differently_is_no_change() {
        let at = |time| named("a", "fresh", Some(time));
        let before = at("2026-11-23T11:00:00.000Z");
        assert!(is_same(&before, &at("2026-11-23T11:00:00.001Z")));
        assert!(!is_same(&before, &at("2026-11-23T11:00:01.000Z")));
        assert!(!is_same(&before, &named("a", "fresh", None)));
        assert!(!is_same(&before, &ConnectionJson { generation: 9, ..before.clone() }));
    }

    #[test]
    fn a_token_that_ended_is_looked_at_once() {
        let mut fleet = fleet();
        let at = |text| parse_time(text).unwrap().as_millis();
        fleet.see_ends(at("2026-11-23T10:59:59Z"));
        assert_eq!(fleet.next_wanted(), None);
        fleet.see_ends(at("2026-11-23T11:00:00Z"));
        assert_eq!(fleet.next_wanted(), Some(only(&["b", "d"])));
        fleet.take(fetched(only(&["b"]), vec![named("b", "expired", Some("2026-11-23T11:00:00Z"))]));
        fleet.see_ends(at("2026-11-23T11:00:01Z"));
        assert_eq!(fleet.next_wanted(), None);
    }

    #[test]
    fn many_are_fetched_bit_by_bit() {
        let mut fleet = fleet();
        for nth in 0..NAMED_MAX + 3 {
            fleet.hear(&step(&format!("n{nth:03}"), "published"));
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| fleet.next_wanted())
            .map(|wanted| if let Wanted::Named(names) = wanted { names.len() } else { 0 })
            .collect();
        assert_eq!(sizes, [NAMED_MAX, 3]);
        fleet.hear(&News::Back);
        assert_eq!(fleet.next_wanted(), Some(Wanted::All));
    }

    #[test]
    fn of_too_many_the_most_urgent_are_kept() {
        let mut fleet = Fleet::default();
        let mut many: Vec<_> = (0..WATCHED_MAX).map(|nth| named(&format!("n{nth}"), "fresh", None)).collect();
        many.push(named("z", "held", None));
        fleet.take(fetched(Wanted::All, many));
        assert_eq!(fleet.rows.len(), WATCHED_MAX);
        assert!(fleet.take_changes().iter().all(|(_, connection)| connection.is_some()), "none was removed");
        assert_eq!(fleet.by_urgency().next().unwrap().name, "z");
    }
}
