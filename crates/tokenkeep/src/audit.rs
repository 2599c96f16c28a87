//! The audit trail: who did what, in a chain that shows whether a record was changed, removed or moved.
//!
//! Each record's tag is made with a key that only the daemon has, over the record and the tag before it. The tags of the
//! first and the last record are noted too, so that cutting either end off shows. What cannot show is that the whole
//! state folder was put back to an earlier state: for that, keep the head that [`Verified`] tells somewhere else.

use crate::error::Error;
use crate::seal::Sealer;
use crate::store::sqlite::SqliteStore;
use papaya::{Equivalent, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokenkeep_core::{ConnectionKey, Timestamp};

/// How many records are kept; the oldest go first.
pub const RECORDS_MAX: u64 = 1_000_000;
/// The most records on one page.
pub const PAGE_MAX: usize = 1_000;
/// How long what is counted waits at most until that is durable.
pub const COUNTED_WITHIN: Duration = Duration::from_secs(1);
/// How many counts are kept apart; more share one, of [`OTHERS`].
pub const COUNTED_APART_MAX: usize = 100_000;

/// What is called who where nobody is known.
pub const ANONYMOUS: &str = "anonymous";

/// Who stands for all that were too many to be counted apart.
pub const OTHERS: &str = "others";

/// A tag of the chain.
pub type Tag = [u8; 32];

/// What somebody did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRecord {
    /// When (wall time).
    pub at: Timestamp,
    /// Who: `uid:1000`, `key:ID`, `session:ID`, [`ANONYMOUS`] or `system`.
    pub actor: String,
    /// What: method and route, or a name such as `token.read`.
    pub action: String,
    /// To what, if to something.
    pub target: Option<String>,
    /// What came of it: an HTTP status, or the number of reads.
    pub outcome: u64,
}

/// A record of the trail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number: each is one more than the one before.
    pub id: u64,
    /// What it says.
    pub record: NewRecord,
    /// Its tag.
    pub tag: Tag,
}

/// What a look at the whole chain found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// How many records were looked at.
    pub records: u64,
    /// The number and tag of the last one: to be kept elsewhere, and compared.
    pub head: Option<(u64, Tag)>,
    /// What is wrong, and at which record; `None`: nothing.
    pub broken: Option<(u64, String)>,
}

/// Which records to read, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditQuery {
    /// Only those with greater numbers.
    pub after: u64,
    /// At most so many, and never more than [`PAGE_MAX`].
    pub limit: usize,
}

/// The tag of a record.
pub(crate) fn tag_of(sealer: &Sealer, before: &Tag, id: u64, text: &str) -> Tag {
    sealer.chain_tag(&[b"record", before, &id.to_be_bytes(), text.as_bytes()])
}

/// The tag of an end of the chain: `which` end, at which record.
pub(crate) fn tag_of_end(sealer: &Sealer, which: &str, id: u64, tag: &Tag) -> Tag {
    sealer.chain_tag(&[which.as_bytes(), &id.to_be_bytes(), tag])
}

/// Looks at records one by one.
pub(crate) struct Chain<'a> {
    sealer: &'a Sealer,
    at: (u64, Tag),
    looked_at: u64,
}

impl<'a> Chain<'a> {
    /// A chain that goes on behind the record of this number and tag.
    pub(crate) fn behind(sealer: &'a Sealer, base: (u64, Tag)) -> Self {
        Self { sealer, at: base, looked_at: 0 }
    }

    /// The next record in the order of numbers.
    pub(crate) fn next(&mut self, id: u64, text: &str, tag: &[u8]) -> Result<(), (u64, String)> {
        let (before, tag_before) = self.at;
        if id != before + 1 {
            return Err((before + 1, "it is missing".to_owned()));
        }
        if tag_of(self.sealer, &tag_before, id, text) != *tag {
            return Err((id, "it is not as it was written, or not where it was".to_owned()));
        }
        self.at = (id, tag.try_into().unwrap_or_default());
        self.looked_at += 1;
        Ok(())
    }

    /// What was found, where the chain should end at the record of this number and tag.
    pub(crate) fn end(self, head: (u64, Tag)) -> Verified {
        let broken = (self.at != head).then(|| (self.at.0 + 1, format!("the trail should go on to record {}", head.0)));
        Verified { records: self.looked_at, head: Some(self.at).filter(|at| at.0 > 0), broken }
    }

    pub(crate) fn broken(self, broken: (u64, String)) -> Verified {
        Verified { records: self.looked_at, head: Some(self.at).filter(|at| at.0 > 0), broken: Some(broken) }
    }
}

/// The trail of one daemon.
pub struct Audit {
    store: Arc<SqliteStore>,
    counts: HashMap<Counted, AtomicU64>,
}

/// What is counted: what somebody did to a connection, or to none.
type Counted = (String, &'static str, Option<ConnectionKey>);

/// Finds a count without owning what it counts.
struct Found<'a>(&'a str, &'static str, Option<&'a ConnectionKey>);

impl Hash for Found<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, self.1, self.2).hash(state);
    }
}

impl Equivalent<Counted> for Found<'_> {
    fn equivalent(&self, counted: &Counted) -> bool {
        (self.0, self.1, self.2) == (counted.0.as_str(), counted.1, counted.2.as_ref())
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    pub(crate) fn new(store: Arc<SqliteStore>) -> Self {
        Self { store, counts: HashMap::new() }
    }

    /// Writes a record; it is durable when this returns.
    ///
    /// # Errors
    /// The store cannot be written: then there is no such record.
    pub async fn write(&self, record: NewRecord) -> Result<(), Error> {
        self.write_all(vec![record]).await
    }

    /// Writes records together; they are durable when this returns.
    ///
    /// # Errors
    /// The store cannot be written: then there is none of them.
    pub async fn write_all(&self, records: Vec<NewRecord>) -> Result<(), Error> {
        Ok(self.store.write_audit(records).await?)
    }

    /// Counts what somebody did that is too frequent for a record each: it is durable within [`COUNTED_WITHIN`].
    pub fn count(&self, actor: &str, action: &'static str, connection: Option<&ConnectionKey>) {
        let counts = self.counts.pin();
        if let Some(count) = counts.get(&Found(actor, action, connection)) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let counted = if counts.len() < COUNTED_APART_MAX {
            (actor.to_owned(), action, connection.cloned())
        } else {
            (OTHERS.to_owned(), action, None)
        };
        counts.get_or_insert_with(counted, || AtomicU64::new(0)).fetch_add(1, Ordering::Relaxed);
    }

    /// Writes what was counted since the last time; what cannot be written is counted on.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn write_counts(&self, now: Timestamp) -> Result<(), Error> {
        let counts = self.counts.pin_owned();
        let take = |(counted, count): (&Counted, &AtomicU64)| {
            Some(count.swap(0, Ordering::Relaxed)).filter(|&taken| taken > 0).map(|taken| (counted.clone(), taken))
        };
        let taken: Vec<(Counted, u64)> = counts.iter().filter_map(take).collect();
        if taken.is_empty() {
            if counts.len() > COUNTED_APART_MAX / 2 {
                counts.retain(|_, count| count.load(Ordering::Relaxed) > 0);
            }
            return Ok(());
        }
        let record = |((actor, action, connection), taken): &(Counted, u64)| NewRecord {
            at: now,
            actor: actor.clone(),
            action: (*action).to_owned(),
            target: connection.as_ref().map(ToString::to_string),
            outcome: *taken,
        };
        let written = self.store.write_audit(taken.iter().map(record).collect()).await;
        if written.is_err() {
            for (counted, taken) in taken {
                counts.get_or_insert_with(counted, || AtomicU64::new(0)).fetch_add(taken, Ordering::Relaxed);
            }
        }
        Ok(written?)
    }

    /// Reads records, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read(&self, query: AuditQuery) -> Result<Vec<Record>, Error> {
        Ok(self.store.audit(query).await?)
    }

    /// Looks at every record.
    ///
    /// # Errors
    /// The store cannot be read; a broken chain is none, but what was found.
    pub async fn verify(&self) -> Result<Verified, Error> {
        Ok(self.store.verify_audit().await?)
    }
}
