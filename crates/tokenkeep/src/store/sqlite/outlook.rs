//! What the fleet will do: ends and planned refreshes, counted over the indexes alone where no provider is held.

use super::fault;
use super::providers;
use crate::store::record::{GRADE_RETRYING, GRADE_WELL, TimeBase};
use crate::store::{Outlook, StoreError};
use rusqlite::{Connection as Database, Row};
use std::collections::{BTreeMap, BTreeSet};
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::Status;

/// Which namespaces a count is about; ?1 is a name or NULL.
const NAMESPACES: &str = "(SELECT id FROM namespace WHERE ?1 IS NULL OR name = ?1)";
/// `grade` of what is in doubt.
const GRADE_IN_DOUBT: i64 = 3;

/// [`crate::store::Store::outlook`].
///
/// # Errors
/// SQLite's.
pub fn outlook(
    database: &Database,
    base: TimeBase,
    now: Timestamp,
    namespace: Option<&str>,
) -> Result<Outlook, StoreError> {
    let count = || -> rusqlite::Result<Outlook> {
        let held = providers::held(database, base)?;
        let held = held.into_iter().map(|held| (held.number, held.hold.probe_at)).collect();
        let claimed = database.prepare_cached("SELECT id FROM claim")?;
        let claimed = { claimed }.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut counter = Counter { base, now, held, claimed, outlook: Outlook::default() };
        counter.in_trouble(database, namespace)?;
        counter.due(database, namespace)?;
        counter.late(database, namespace)?;
        counter.held_in_trouble(database, namespace)?;
        Ok(counter.outlook)
    };
    count().map_err(|cause| fault(&cause))
}

struct Counter {
    base: TimeBase,
    now: Timestamp,
    /// Held providers, with their probes.
    held: BTreeMap<i64, Option<Timestamp>>,
    claimed: BTreeSet<i64>,
    outlook: Outlook,
}

impl Counter {
    /// What is not well: `schedule_trouble` has all that counts, but for holds of whole providers.
    fn in_trouble(&mut self, database: &Database, namespace: Option<&str>) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT grade, deadline FROM schedule INDEXED BY schedule_trouble \
             WHERE namespace IN {NAMESPACES} AND grade < 5"
        );
        each(database, &sql, namespace, |row| {
            let (grade, deadline) = (row.get(0)?, row.get(1)?);
            self.ends(self.status(grade, deadline, false), deadline, 1);
            Ok(())
        })
    }

    /// What may be claimed, by `schedule_due`: when, and, of what is well, until when its access token lives.
    fn due(&mut self, database: &Database, namespace: Option<&str>) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT provider, claim_at, id, deadline, grade FROM schedule INDEXED BY schedule_due \
             WHERE provider IN (SELECT id FROM provider) AND claim_at IS NOT NULL \
             AND (?1 IS NULL OR namespace IN {NAMESPACES})"
        );
        each(database, &sql, namespace, |row| {
            let (provider, claim_at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (id, deadline, grade): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
            let is_claimed = self.claimed.contains(&id);
            let hold = self.held.get(&provider).copied();
            if grade == GRADE_WELL && claim_at <= deadline {
                let status = if hold.is_some() { Status::Held } else { self.status(grade, deadline, is_claimed) };
                self.ends(status, deadline, 1);
            } else if hold.is_some() && (GRADE_IN_DOUBT..GRADE_WELL).contains(&grade) {
                self.moved(grade, deadline);
            }
            let at = match hold {
                Some(probe_at) => probe_at.map(|probe_at| self.base.load(claim_at).max(probe_at)),
                None => Some(self.base.load(claim_at)),
            };
            if let Some(at) = at.filter(|_| !is_claimed) {
                self.outlook.plan(self.now, at);
            }
            Ok(())
        })
    }

    /// What is well and will not be due before its access token ends.
    fn late(&mut self, database: &Database, namespace: Option<&str>) -> rusqlite::Result<()> {
        let sql = format!(
            "SELECT deadline, id, provider FROM schedule INDEXED BY schedule_late \
             WHERE namespace IN {NAMESPACES} AND grade = 5 AND (claim_at IS NULL OR claim_at > deadline)"
        );
        each(database, &sql, namespace, |row| {
            let (deadline, id, provider) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let own = self.status(GRADE_WELL, deadline, self.claimed.contains(&id));
            let status = if self.held.contains_key(&provider) { Status::Held } else { own };
            self.ends(status, deadline, 1);
            Ok(())
        })
    }

    /// Of what [`Self::in_trouble`] counted, what a held provider holds and nothing may claim.
    fn held_in_trouble(&mut self, database: &Database, namespace: Option<&str>) -> rusqlite::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT provider, grade, deadline FROM schedule INDEXED BY schedule_trouble \
             WHERE namespace IN {NAMESPACES} AND grade IN (3, 4) AND grade < 5 AND claim_at IS NULL"
        );
        each(database, &sql, namespace, |row| {
            let (provider, grade, deadline) = (row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?);
            if self.held.contains_key(&provider) {
                self.moved(grade, deadline);
            }
            Ok(())
        })
    }

    fn status(&self, grade: i64, deadline: i64, is_claimed: bool) -> Status {
        match grade {
            0 => Status::NeedsReauth,
            1 => Status::Paused,
            2 => Status::Held,
            GRADE_IN_DOUBT => Status::InDoubt,
            _ if deadline <= self.base.store(self.now) => Status::Expired,
            GRADE_RETRYING => Status::Retrying,
            _ if is_claimed => Status::Refreshing,
            _ => Status::Fresh,
        }
    }

    fn moved(&mut self, grade: i64, deadline: i64) {
        self.ends(self.status(grade, deadline, false), deadline, -1);
        self.ends(Status::Held, deadline, 1);
    }

    fn ends(&mut self, status: Status, deadline: i64, by: i64) {
        let end = (deadline != i64::MAX).then(|| self.base.load(deadline));
        self.outlook.end(self.now, status, end, by);
    }
}

fn each(
    database: &Database,
    sql: &str,
    namespace: Option<&str>,
    mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([namespace])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}
