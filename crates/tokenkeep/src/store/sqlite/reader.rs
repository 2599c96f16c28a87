//! The threads that read, each from a snapshot of its own, and the larger queries.

use super::fault;
use super::ops::time_base;
use super::providers::{self, Held};
use super::rows::{self, SealedWork};
use super::rows::{columns, sealed_columns, tables};
use crate::store::record::{GRADE_RETRYING, GRADE_WELL, TimeBase};
use crate::store::{ListQuery, PAGE_MAX, StoreError, Summary, rules};
use rusqlite::{Connection as Database, Row, ToSql};
use std::collections::BTreeMap;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{Connection, ConnectionId, Status};
use tokio::sync::{mpsc, oneshot};

/// How many reads may wait for one reader; further callers wait for a place.
pub const QUEUE_MAX: usize = 4_096;
/// Up to this many connections, a listing by status is found by an index and then sorted.
const SORTED_MAX: usize = 5_000;

/// Something to be read.
pub type Read = Box<dyn FnOnce(&Database) + Send>;

/// Works until everybody who could send has gone.
pub fn run(database: &Database, mut queue: mpsc::Receiver<Read>) {
    while let Some(read) = queue.blocking_recv() {
        read(database);
    }
}

/// Makes a read of a closure: it gets one snapshot, and what the times in it are counted from.
pub fn read<T: Send + 'static>(
    work: impl FnOnce(&Database, TimeBase) -> Result<T, StoreError> + Send + 'static,
    reply: oneshot::Sender<Result<T, StoreError>>,
) -> Read {
    Box::new(move |database| {
        // A caller that went away needs no answer.
        let _ = reply.send(in_snapshot(database, work));
    })
}

fn in_snapshot<T>(
    database: &Database,
    work: impl FnOnce(&Database, TimeBase) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let snapshot = database.unchecked_transaction().map_err(|cause| fault(&cause))?;
    let found = work(&snapshot, time_base(&snapshot)?);
    snapshot.finish().map_err(|cause| fault(&cause))?;
    found
}

/// [`crate::store::Store::open_claims`], sealed; what cannot be read is reported and left out.
pub fn open_claims(
    database: &Database,
    base: TimeBase,
    after: ConnectionId,
    limit: usize,
) -> Result<Vec<SealedWork>, StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        sealed_columns!(),
        " FROM claim o CROSS JOIN schedule s ON s.id = o.id",
        tables!(),
        "WHERE o.id > ?1 ORDER BY o.id"
    );
    let mut statement = database.prepare_cached(sql).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query([after.0]).map_err(|cause| fault(&cause))?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next().map_err(|cause| fault(&cause))?
    {
        match rows::sealed_work(base, row) {
            Ok(work) => found.push(work),
            Err(StoreError::Damaged(what)) => tracing::error!(error = %what, "an open claim cannot be read"),
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// How many connections there are.
pub fn count_token_sets(database: &Database) -> Result<u64, StoreError> {
    let count = database.query_row("SELECT count(*) FROM token_set", [], |row| row.get::<_, i64>(0));
    Ok(count.map_err(|cause| fault(&cause))?.cast_unsigned())
}

/// [`crate::store::Store::list`].
pub fn list(
    database: &Database,
    base: TimeBase,
    now: Timestamp,
    query: &ListQuery,
) -> Result<Vec<Connection>, StoreError> {
    let held = providers::held(database, base).map_err(|cause| fault(&cause))?;
    let (sql, filter) = listing(database, base.store(now), query, &Numbers::of(&held))?;
    let mut statement = database.prepare_cached(&sql).map_err(|cause| fault(&cause))?;
    let mut rows = statement.query(filter.values().as_slice()).map_err(|cause| fault(&cause))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(|cause| fault(&cause))? {
        let connection = rows::loaded(base, row)?.connection;
        let hold = held.iter().find(|held| held.name == connection.provider).map(|held| &held.hold);
        found.push(rules::shown(connection, hold));
    }
    Ok(found)
}

/// The statement of a listing, and the values in it.
fn listing(database: &Database, now: i64, query: &ListQuery, held: &Numbers) -> Result<(String, Filter), StoreError> {
    let mut filter = Filter::default();
    let now = filter.value(now);
    let narrow = match narrow_by_status(&query.statuses, &now, held) {
        Some(narrow) if is_small(database, &narrow, &filter)? => Some(narrow),
        _ => None,
    };
    filter.query(query, &now, held);
    let from = match &narrow {
        Some(narrow) => format!("({narrow}) n CROSS JOIN connection c ON c.id = n.id"),
        None => "connection c".to_owned(),
    };
    let (columns, condition, limit) = (columns!(), filter.condition(), query.limit.min(PAGE_MAX));
    let sql = format!(
        "SELECT {columns} FROM {from} CROSS JOIN schedule s ON s.id = c.id CROSS JOIN token_set t ON t.id = s.id \
         LEFT JOIN claim cl ON cl.id = s.id WHERE {condition} ORDER BY c.namespace, c.name LIMIT {limit}"
    );
    Ok((sql, filter))
}

/// The conditions of a listing with the values in them.
#[derive(Default)]
struct Filter {
    conditions: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Filter {
    fn value(&mut self, value: impl ToSql + 'static) -> String {
        self.values.push(Box::new(value));
        format!("?{}", self.values.len())
    }

    fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(AsRef::as_ref).collect()
    }

    fn condition(&self) -> String {
        if self.conditions.is_empty() { "TRUE".to_owned() } else { self.conditions.join(" AND ") }
    }

    fn query(&mut self, query: &ListQuery, now: &str, held: &Numbers) {
        if let Some(namespace) = &query.namespace {
            let namespace = self.value(namespace.clone());
            self.conditions.push(format!("c.namespace = {namespace}"));
        }
        match &query.after {
            // The index of a namespace's provider goes on by the name alone.
            Some(after) if query.namespace.as_deref() == Some(after.namespace()) => {
                let name = self.value(after.name().to_owned());
                self.conditions.push(format!("c.name > {name}"));
            }
            Some(after) => {
                let (namespace, name) = (self.value(after.namespace().to_owned()), self.value(after.name().to_owned()));
                self.conditions.push(format!("(c.namespace, c.name) > ({namespace}, {name})"));
            }
            None => {}
        }
        if let Some(provider) = &query.provider {
            let provider = self.value(provider.clone());
            self.conditions.push(format!("c.provider = {provider}"));
        }
        if let Some(text) = &query.name_contains {
            let text = self.value(text.clone());
            self.conditions.push(format!("instr(c.name, {text}) > 0"));
        }
        if !query.statuses.is_empty() {
            let any: Vec<_> = query.statuses.iter().map(|status| is_status(*status, now, held)).collect();
            self.conditions.push(format!("({})", any.join(" OR ")));
        }
        // `now` is always bound, so it is always used.
        self.conditions.push(format!("{now} IS NOT NULL"));
    }
}

/// The numbers of held providers, as SQL lists them.
struct Numbers(Option<String>);

impl Numbers {
    fn of(held: &[Held]) -> Self {
        let numbers: Vec<String> = held.iter().map(|held| held.number.to_string()).collect();
        Self((!numbers.is_empty()).then(|| numbers.join(", ")))
    }

    /// [`Connection::status`] as a condition on the schedule row, its provider's hold counted in.
    fn counted_in(&self, status: Status, own: &str) -> String {
        match (&self.0, status) {
            (None, _) | (_, Status::NeedsReauth | Status::Paused) => own.to_owned(),
            (Some(numbers), Status::Held) => format!("({own} OR s.grade > 2 AND s.provider IN ({numbers}))"),
            (Some(numbers), _) => format!("({own} AND s.provider NOT IN ({numbers}))"),
        }
    }
}

/// [`Connection::status`] as a condition on the schedule row.
fn is_status(status: Status, now: &str, held: &Numbers) -> String {
    held.counted_in(status, &own_status(status, now))
}

fn own_status(status: Status, now: &str) -> String {
    match status {
        Status::NeedsReauth => "s.grade = 0".to_owned(),
        Status::Paused => "s.grade = 1".to_owned(),
        Status::Held => "s.grade = 2".to_owned(),
        Status::InDoubt => "s.grade = 3".to_owned(),
        Status::Expired => format!("(s.grade >= 4 AND s.deadline <= {now})"),
        Status::Retrying => format!("(s.grade = 4 AND s.deadline > {now})"),
        Status::Refreshing => format!("(s.grade = 5 AND cl.id IS NOT NULL AND s.deadline > {now})"),
        Status::Fresh => format!("(s.grade = 5 AND cl.id IS NULL AND s.deadline > {now})"),
    }
}

/// The connections that may have these statuses, by indexes; `None` where there is no index for it.
fn narrow_by_status(statuses: &[Status], now: &str, held: &Numbers) -> Option<String> {
    let by_index = |status: &Status| match (status, &held.0) {
        (Status::Held, Some(numbers)) => {
            Some(format!("{} UNION SELECT id FROM ({})", by_index(*status, now)?, of_held(numbers, "id")))
        }
        _ => by_index(*status, now),
    };
    let parts: Option<Vec<String>> = statuses.iter().map(by_index).collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join(" UNION "))
}

fn by_index(status: Status, now: &str) -> Option<String> {
    let trouble = |grade: i64, deadline: &str| {
        format!(
            "SELECT id FROM schedule INDEXED BY schedule_trouble \
             WHERE namespace IN (SELECT id FROM namespace) AND grade = {grade} AND grade < 5{deadline}"
        )
    };
    match status {
        Status::NeedsReauth => Some(trouble(0, "")),
        Status::Paused => Some(trouble(1, "")),
        Status::Held => Some(trouble(2, "")),
        Status::InDoubt => Some(trouble(3, "")),
        Status::Retrying => Some(trouble(4, "")),
        Status::Refreshing => Some("SELECT id FROM claim".to_owned()),
        Status::Expired => Some(format!(
            "{} UNION \
             SELECT id FROM schedule INDEXED BY schedule_due WHERE provider IN (SELECT id FROM provider) \
             AND claim_at <= {now} AND claim_at <= deadline AND deadline <= {now} AND grade = 5 UNION \
             SELECT id FROM schedule INDEXED BY schedule_late WHERE namespace IN (SELECT id FROM namespace) \
             AND deadline <= {now} AND grade = 5 AND (claim_at IS NULL OR claim_at > deadline)",
            trouble(4, &format!(" AND deadline <= {now}"))
        )),
        Status::Fresh => None,
    }
}

/// What the holds of these providers hold that has no hold of its own: what may be claimed by one index, what may not
/// by the other two.
fn of_held(numbers: &str, columns: &str) -> String {
    let unclaimable =
        format!("namespace IN (SELECT id FROM namespace) AND claim_at IS NULL AND provider IN ({numbers})");
    format!(
        "SELECT {columns} FROM schedule INDEXED BY schedule_due \
         WHERE provider IN ({numbers}) AND claim_at IS NOT NULL AND grade > 2 \
         UNION ALL SELECT {columns} FROM schedule INDEXED BY schedule_late \
         WHERE {unclaimable} AND grade = 5 AND (claim_at IS NULL OR claim_at > deadline) \
         UNION ALL SELECT {columns} FROM schedule INDEXED BY schedule_trouble \
         WHERE {unclaimable} AND grade IN (3, 4) AND grade < 5"
    )
}

fn is_small(database: &Database, narrow: &str, filter: &Filter) -> Result<bool, StoreError> {
    let sql = format!("SELECT count(*) FROM ({narrow} LIMIT {}) WHERE ?1 IS NOT NULL", SORTED_MAX + 1);
    let count = || {
        let mut statement = database.prepare_cached(&sql)?;
        statement.query_row(filter.values().as_slice(), |row| row.get::<_, i64>(0))
    };
    let count = count().map_err(|cause| fault(&cause))?;
    Ok(usize::try_from(count).is_ok_and(|count| count <= SORTED_MAX))
}

/// [`crate::store::Store::summary`]: from the kept counts, corrected by what has ended or is claimed now.
pub fn summary(
    database: &Database,
    base: TimeBase,
    now: Timestamp,
    namespace: Option<&str>,
) -> Result<Summary, StoreError> {
    count(database, base, now, namespace).map_err(|cause| fault(&cause))
}

/// Which namespaces a count is about; ?1 is a name or NULL.
const NAMESPACES: &str = "(SELECT id FROM namespace WHERE ?1 IS NULL OR name = ?1)";
/// Rows of the index `schedule_late`.
pub(super) const LATE: &str = "grade = 5 AND (claim_at IS NULL OR claim_at > deadline)";
/// Rows of grade 5 that are not in it; the index `schedule_due` has them.
pub(super) const TIMELY: &str = "claim_at IS NOT NULL AND claim_at <= deadline AND grade = 5";

fn count(database: &Database, base: TimeBase, now: Timestamp, namespace: Option<&str>) -> rusqlite::Result<Summary> {
    let now = base.store(now);
    let grades = counts(
        database,
        &format!("SELECT grade, sum(connections) FROM tally WHERE namespace IN {NAMESPACES} GROUP BY grade"),
        [namespace],
    )?;
    let refreshing = number(
        database,
        &format!(
            "SELECT count(*) FROM claim cl CROSS JOIN schedule s ON s.id = cl.id \
             WHERE s.grade = 5 AND s.deadline > ?2 AND s.namespace IN {NAMESPACES}"
        ),
        (namespace, now),
    )?;
    let ended = ended(database, now, namespace)?;
    let held = providers::held(database, base)?;
    let mut own = own_counts(&grades, &ended, refreshing.unwrap_or(0));
    if let Some(numbers) = Numbers::of(&held).0 {
        move_held(&mut own, &by_their_own(database, &numbers, now, namespace)?);
    }
    let at = |stored: Option<i64>| stored.filter(|at| *at != i64::MAX).map(|at| base.load(at));
    Ok(Summary {
        by_status: positive(own),
        next_due_at: at(next_due(database, base, namespace, &held)?),
        earliest_expiry: at(earliest_expiry(database, now, namespace)?),
    })
}

/// How many of each of the two last grades have ended.
fn ended(database: &Database, now: i64, namespace: Option<&str>) -> rusqlite::Result<BTreeMap<i64, i64>> {
    let sql = format!(
        "SELECT 4, count(*) FROM schedule INDEXED BY schedule_trouble \
         WHERE namespace IN {NAMESPACES} AND grade = 4 AND grade < 5 AND deadline <= ?2 \
         UNION ALL SELECT 5, \
         (SELECT count(*) FROM schedule INDEXED BY schedule_late \
          WHERE namespace IN {NAMESPACES} AND deadline <= ?2 AND {LATE}) + \
         (SELECT count(*) FROM schedule INDEXED BY schedule_due \
          WHERE provider IN (SELECT id FROM provider) AND claim_at <= ?2 AND deadline <= ?2 AND {TIMELY} \
          AND (?1 IS NULL OR namespace IN {NAMESPACES}))"
    );
    counts(database, &sql, (namespace, now))
}

/// The first deadline after `now`, of trouble and latecomers by their indexes.
fn earliest_expiry(database: &Database, now: i64, namespace: Option<&str>) -> rusqlite::Result<Option<i64>> {
    let in_trouble = format!(
        "SELECT min((SELECT min(deadline) FROM schedule INDEXED BY schedule_trouble \
         WHERE namespace = n.id AND grade = g.grade AND grade < 5 AND deadline > ?2)) \
         FROM namespace n CROSS JOIN (SELECT DISTINCT grade FROM tally WHERE grade < 5) g WHERE n.id IN {NAMESPACES}"
    );
    let late = format!(
        "SELECT min((SELECT min(deadline) FROM schedule INDEXED BY schedule_late \
         WHERE namespace = n.id AND deadline > ?2 AND {LATE})) FROM namespace n WHERE n.id IN {NAMESPACES}"
    );
    let found = [number(database, &in_trouble, (namespace, now))?, number(database, &late, (namespace, now))?];
    Ok(found.into_iter().chain([earliest_timely_expiry(database, now, namespace)?]).flatten().min())
}

/// Of the others, by the order in which they come due: nothing that comes due after the end of one can end
/// before it.
fn earliest_timely_expiry(database: &Database, now: i64, namespace: Option<&str>) -> rusqlite::Result<Option<i64>> {
    let timely = format!(
        "FROM schedule INDEXED BY schedule_due WHERE provider = p.id AND deadline > ?2 AND {TIMELY} \
         AND (?1 IS NULL OR namespace IN {NAMESPACES})"
    );
    let first = format!("SELECT min((SELECT deadline {timely} ORDER BY claim_at LIMIT 1)) FROM provider p");
    let Some(bound) = number(database, &first, (namespace, now))? else { return Ok(None) };
    let best = format!("SELECT min((SELECT min(deadline) {timely} AND claim_at <= ?3)) FROM provider p");
    number(database, &best, (namespace, now, bound))
}

/// What held providers hold, counted by the statuses that it would have otherwise.
fn by_their_own(
    database: &Database,
    numbers: &str,
    now: i64,
    namespace: Option<&str>,
) -> rusqlite::Result<BTreeMap<Status, i64>> {
    let sql = format!(
        "SELECT CASE WHEN grade = 3 THEN 3 WHEN deadline <= ?2 THEN 4 WHEN grade = 4 THEN 5 \
         WHEN id IN (SELECT id FROM claim) THEN 6 ELSE 7 END AS status, count(*) \
         FROM ({}) WHERE ?1 IS NULL OR namespace IN {NAMESPACES} GROUP BY status",
        of_held(numbers, "id, namespace, grade, deadline")
    );
    let by_number = counts(database, &sql, (namespace, now))?;
    // Statuses in the order of precedence.
    let status = |number: i64| usize::try_from(number).ok().and_then(|number| Status::ALL.get(number).copied());
    Ok(by_number.into_iter().filter_map(|(number, count)| Some((status(number)?, count))).collect())
}

fn move_held(counts: &mut BTreeMap<Status, i64>, held: &BTreeMap<Status, i64>) {
    for (status, count) in held {
        *counts.entry(*status).or_default() -= count;
        *counts.entry(Status::Held).or_default() += count;
    }
}

/// When the next one is due: of the others, and of each held provider not before its probe.
fn next_due(
    database: &Database,
    base: TimeBase,
    namespace: Option<&str>,
    held: &[Held],
) -> rusqlite::Result<Option<i64>> {
    let others = Numbers::of(held).0.map_or_else(|| "TRUE".to_owned(), |numbers| format!("p.id NOT IN ({numbers})"));
    let mut earliest = first_due(database, namespace, &others)?;
    for held in held {
        let Some(probe_at) = held.hold.probe_at else { continue };
        let first = first_due(database, namespace, &format!("p.id = {}", held.number))?;
        earliest = earliest.into_iter().chain(first.map(|first| first.max(base.store(probe_at)))).min();
    }
    Ok(earliest)
}

/// Each provider's first, or its first of the namespace.
fn first_due(database: &Database, namespace: Option<&str>, providers: &str) -> rusqlite::Result<Option<i64>> {
    let sql = format!(
        "SELECT min((SELECT claim_at FROM schedule INDEXED BY schedule_due \
         WHERE provider = p.id AND claim_at IS NOT NULL AND id NOT IN (SELECT id FROM claim) \
         AND (?1 IS NULL OR namespace IN {NAMESPACES}) ORDER BY claim_at LIMIT 1)) FROM provider p WHERE {providers}"
    );
    number(database, &sql, [namespace])
}

pub(super) fn own_counts(
    grades: &BTreeMap<i64, i64>,
    ended: &BTreeMap<i64, i64>,
    refreshing: i64,
) -> BTreeMap<Status, i64> {
    let all = |grade| grades.get(&grade).copied().unwrap_or(0);
    let over = |grade| ended.get(&grade).copied().unwrap_or(0);
    BTreeMap::from([
        (Status::NeedsReauth, all(0)),
        (Status::Paused, all(1)),
        (Status::Held, all(2)),
        (Status::InDoubt, all(3)),
        (Status::Expired, over(GRADE_RETRYING) + over(GRADE_WELL)),
        (Status::Retrying, all(GRADE_RETRYING) - over(GRADE_RETRYING)),
        (Status::Refreshing, refreshing),
        (Status::Fresh, all(GRADE_WELL) - over(GRADE_WELL) - refreshing),
    ])
}

pub(super) fn positive(counts: BTreeMap<Status, i64>) -> BTreeMap<Status, u64> {
    let positive = |(status, count)| u64::try_from(count).ok().filter(|count| *count > 0).map(|count| (status, count));
    counts.into_iter().filter_map(positive).collect()
}

pub(super) fn counts(
    database: &Database,
    sql: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<BTreeMap<i64, i64>> {
    let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    database.prepare_cached(sql)?.query_map(values, pair)?.collect()
}

fn number(database: &Database, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<Option<i64>> {
    database.prepare_cached(sql)?.query_row(values, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Sealer;
    use crate::store::sqlite::schema;
    use tokenkeep_core::model::{ConnectionKey, DEFAULT_NAMESPACE};

    #[test]
    fn a_page_of_a_provider_begins_at_its_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        schema::prepare(&path, &Sealer::new(&[7; 32])).unwrap();
        let database = schema::reader(&path).unwrap();
        let plan = |query: &ListQuery| {
            let (sql, filter) = listing(&database, 0, query, &Numbers(None)).unwrap();
            let mut statement = database.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines = statement.query_map(filter.values().as_slice(), |row| row.get::<_, String>("detail")).unwrap();
            lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
        };
        let query = ListQuery {
            namespace: Some(DEFAULT_NAMESPACE.to_owned()),
            provider: Some("jira".to_owned()),
            after: Some(ConnectionKey::in_default("m").unwrap()),
            statuses: vec![Status::Fresh],
            limit: 100,
            ..ListQuery::default()
        };
        let plan = plan(&query);
        assert!(plan.contains("connection_of_provider (namespace=? AND provider=? AND name>?)"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
