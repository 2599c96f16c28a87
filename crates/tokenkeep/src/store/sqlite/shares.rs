//! Counts by provider. Each comes from the kept counts, corrected by what has ended or is claimed now; nothing here looks
//! at a connection that is well.

use super::providers;
use super::reader::{LATE, TIMELY, counts, own_counts, positive};
use super::{fault, providers::Held};
use crate::store::record::{GRADE_RETRYING, GRADE_WELL, TimeBase};
use crate::store::{ProviderSummary, StoreError};
use rusqlite::{Connection as Database, Row};
use std::collections::BTreeMap;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::Status;

/// By the numbers of providers.
type Numbers = BTreeMap<i64, i64>;

const NAMESPACES: &str = "namespace IN (SELECT id FROM namespace)";
const PROVIDERS: &str = "provider IN (SELECT id FROM provider)";

/// [`crate::store::Store::summary_by_provider`].
pub fn by_provider(
    database: &Database,
    base: TimeBase,
    now: Timestamp,
) -> Result<BTreeMap<String, ProviderSummary>, StoreError> {
    count(database, base, now).map_err(|cause| fault(&cause))
}

fn count(database: &Database, base: TimeBase, now: Timestamp) -> rusqlite::Result<BTreeMap<String, ProviderSummary>> {
    let now = base.store(now);
    let (grades, refreshing) = (by_grade(database)?, refreshing(database, now)?);
    let (ended_retrying, ended_well) = (ended_retrying(database, now)?, ended_well(database, now)?);
    let (held, expiries) = (providers::held(database, base)?, earliest_expiries(database, now)?);
    let mut shares = BTreeMap::new();
    for (number, name) in names(database)? {
        let Some(grades) = grades.get(&number) else { continue };
        let of = |counts: &Numbers| counts.get(&number).copied().unwrap_or(0);
        let ended = BTreeMap::from([(GRADE_RETRYING, of(&ended_retrying)), (GRADE_WELL, of(&ended_well))]);
        let own = own_counts(grades, &ended, of(&refreshing));
        let is_held = held.iter().any(|held: &Held| held.number == number);
        let by_status = positive(if is_held { all_held(own) } else { own });
        if by_status.is_empty() {
            continue;
        }
        let earliest_expiry = expiries.get(&number).filter(|at| **at != i64::MAX).map(|at| base.load(*at));
        shares.insert(name, ProviderSummary { by_status, earliest_expiry });
    }
    Ok(shares)
}

/// A provider's hold counts before everything but a sign-in that is needed and a pause.
fn all_held(own: BTreeMap<Status, i64>) -> BTreeMap<Status, i64> {
    let mut counts = BTreeMap::new();
    for (status, count) in own {
        let shown = match status {
            Status::NeedsReauth | Status::Paused => status,
            _ => Status::Held,
        };
        *counts.entry(shown).or_default() += count;
    }
    counts
}

fn names(database: &Database) -> rusqlite::Result<Vec<(i64, String)>> {
    database
        .prepare_cached("SELECT id, name FROM provider")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn by_grade(database: &Database) -> rusqlite::Result<BTreeMap<i64, Numbers>> {
    let sql = "SELECT provider, grade, sum(connections) FROM tally GROUP BY provider, grade";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let mut found: BTreeMap<i64, Numbers> = BTreeMap::new();
    for row in database.prepare_cached(sql)?.query_map([], row)? {
        let (provider, grade, connections): (i64, i64, i64) = row?;
        found.entry(provider).or_default().insert(grade, connections);
    }
    Ok(found)
}

fn refreshing(database: &Database, now: i64) -> rusqlite::Result<Numbers> {
    let sql = "SELECT s.provider, count(*) FROM claim cl CROSS JOIN schedule s ON s.id = cl.id \
               WHERE s.grade = 5 AND s.deadline > ?1 GROUP BY s.provider";
    counts(database, sql, [now])
}

fn ended_retrying(database: &Database, now: i64) -> rusqlite::Result<Numbers> {
    let sql = format!(
        "SELECT provider, count(*) FROM schedule INDEXED BY schedule_trouble \
         WHERE {NAMESPACES} AND grade = 4 AND grade < 5 AND deadline <= ?1 GROUP BY provider"
    );
    counts(database, &sql, [now])
}

fn ended_well(database: &Database, now: i64) -> rusqlite::Result<Numbers> {
    let late = format!(
        "SELECT provider, count(*) FROM schedule INDEXED BY schedule_late \
         WHERE {NAMESPACES} AND deadline <= ?1 AND {LATE} GROUP BY provider"
    );
    let timely = format!(
        "SELECT provider, count(*) FROM schedule INDEXED BY schedule_due \
         WHERE {PROVIDERS} AND claim_at <= ?1 AND deadline <= ?1 AND {TIMELY} GROUP BY provider"
    );
    let mut ended = counts(database, &late, [now])?;
    for (provider, count) in counts(database, &timely, [now])? {
        *ended.entry(provider).or_default() += count;
    }
    Ok(ended)
}

/// The first deadline of each provider after `now`.
fn earliest_expiries(database: &Database, now: i64) -> rusqlite::Result<Numbers> {
    let in_trouble = format!(
        "SELECT provider, min(deadline) FROM schedule INDEXED BY schedule_trouble \
         WHERE {NAMESPACES} AND grade IN (0, 1, 2, 3, 4) AND grade < 5 AND deadline > ?1 GROUP BY provider"
    );
    let late = format!(
        "SELECT provider, min(deadline) FROM schedule INDEXED BY schedule_late \
         WHERE {NAMESPACES} AND deadline > ?1 AND {LATE} GROUP BY provider"
    );
    // Nothing that comes due after the end of one can end before it.
    let timely = |provider: &str| {
        format!("FROM schedule INDEXED BY schedule_due WHERE provider = {provider} AND deadline > ?1 AND {TIMELY}")
    };
    let first =
        format!("SELECT p.id, (SELECT deadline {} ORDER BY claim_at LIMIT 1) AS bound FROM provider p", timely("p.id"));
    let first = format!("SELECT id, bound FROM ({first}) WHERE bound IS NOT NULL");
    let best = format!("SELECT ?2, min(deadline) {} AND claim_at <= ?3", timely("?2"));
    let mut earliest = counts(database, &in_trouble, [now])?;
    let mut keep = |found: Numbers| {
        for (provider, at) in found {
            earliest.entry(provider).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
    };
    keep(counts(database, &late, [now])?);
    for (provider, bound) in counts(database, &first, [now])? {
        keep(counts(database, &best, [now, provider, bound])?);
    }
    Ok(earliest)
}
