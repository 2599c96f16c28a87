//! The one thread that writes, and its group commit.
//!
//! It takes whatever is queued, runs it in one transaction, commits once, and only then answers. A job that
//! fails spoils nothing for the others: the transaction is run again with each job in a savepoint of its own.

use super::ops::{Batch, Scratch};
use super::{Shared, checkpoint, fault};
use crate::store::StoreError;
use rusqlite::{Connection as Database, Transaction, TransactionBehavior};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// How many jobs may wait for the writer; further callers wait for a place.
pub const QUEUE_MAX: usize = 4_096;
/// How many jobs share one transaction at most.
const BATCH_JOBS_MAX: usize = 512;
/// How many bytes of sealed values share one transaction at most, unless one job alone has more.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Something to be written.
pub trait Job: Send {
    /// The connection that it is about, if it may change places with jobs about others.
    fn subject(&self) -> Option<i64>;
    /// Roughly how much it writes.
    fn bytes(&self) -> usize;
    /// Does it. It may be called again after the transaction was rolled back.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), StoreError>;
    /// Answers the caller, once it is known what became of the transaction.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// A [`Job`] made of a closure.
pub struct Task<F, T> {
    subject: Option<i64>,
    bytes: usize,
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Task<F, T>
where
    F: FnMut(&mut Batch<'_>) -> Result<T, StoreError>,
{
    /// A job that keeps its place in the queue.
    pub fn new(bytes: usize, work: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { subject: None, bytes, work, result: None, reply }
    }

    /// A job that may change places with neighbours about other connections.
    pub fn about(mut self, connection: i64) -> Self {
        self.subject = Some(connection);
        self
    }
}

impl<F, T> Job for Task<F, T>
where
    F: FnMut(&mut Batch<'_>) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn subject(&self) -> Option<i64> {
        self.subject
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), StoreError> {
        self.result = Some((self.work)(batch)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let nothing = || StoreError::Unusable("the writer lost a result".to_owned());
        let Self { result, reply, .. } = *self;
        // A caller that went away needs no answer; what it asked for is durable all the same.
        let _ = reply.send(outcome.and_then(|()| result.ok_or_else(nothing)));
    }
}

/// The writing thread's things.
pub struct Writer {
    database: Database,
    queue: mpsc::Receiver<Box<dyn Job>>,
    shared: Arc<Shared>,
    checkpoints: checkpoint::Schedule,
    /// What is known of the database's contents; `None` after a rollback, until it is read again.
    scratch: Option<Scratch>,
}

impl Writer {
    /// Takes the connection and the queue over.
    pub fn new(
        database: Database,
        queue: mpsc::Receiver<Box<dyn Job>>,
        shared: Arc<Shared>,
        checkpoints: checkpoint::Schedule,
    ) -> Self {
        Self { database, queue, shared, checkpoints, scratch: None }
    }

    /// Works until everybody who could send has gone; then leaves the database in one file.
    pub fn run(mut self) {
        while let Some(jobs) = self.next_batch() {
            self.write(jobs);
            self.checkpoints.after_commit(&self.database);
        }
        checkpoint::truncate(&self.database);
    }

    /// Waits for a job, then takes what else has come, within the limits of one transaction.
    fn next_batch(&mut self) -> Option<Vec<Box<dyn Job>>> {
        let first = self.queue.blocking_recv()?;
        let mut bytes = first.bytes();
        let mut jobs = vec![first];
        while jobs.len() < BATCH_JOBS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(job) = self.queue.try_recv()
        {
            bytes += job.bytes();
            jobs.push(job);
        }
        order(&mut jobs);
        Some(jobs)
    }

    fn write(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let outcomes = match self.transact(&mut jobs, Isolation::Together) {
            Err(Failed::OneJob) => self.transact(&mut jobs, Isolation::EachOnItsOwn),
            other => other,
        };
        match outcomes {
            Ok(outcomes) => {
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    job.answer(outcome);
                }
            }
            Err(Failed::Everything(why)) => {
                tracing::error!(error = %why, jobs = jobs.len(), "the store could not be written");
                for job in jobs {
                    job.answer(Err(StoreError::Unusable(why.clone())));
                }
            }
            // With savepoints no job fails for others.
            Err(Failed::OneJob) => {}
        }
    }

    fn transact(&mut self, jobs: &mut [Box<dyn Job>], isolation: Isolation) -> Result<Vec<Outcome>, Failed> {
        let mut scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => Scratch::load(&self.database)?,
        };
        let transaction = Transaction::new_unchecked(&self.database, TransactionBehavior::Immediate)
            .map_err(|cause| fault(&cause))?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let mut batch = Batch::new(&transaction, &self.shared, &mut scratch);
            outcomes.push(match isolation {
                Isolation::Together => Ok(job.run(&mut batch).map_err(Failed::of_job)?),
                Isolation::EachOnItsOwn => run_alone(job.as_mut(), &mut batch)?,
            });
        }
        Batch::new(&transaction, &self.shared, &mut scratch).finish()?;
        transaction.commit().map_err(|cause| fault(&cause))?;
        self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        self.shared.publish_claims(scratch.take_claims());
        self.scratch = Some(scratch);
        Ok(outcomes)
    }
}

type Outcome = Result<(), StoreError>;

#[derive(Clone, Copy)]
enum Isolation {
    Together,
    EachOnItsOwn,
}

/// Why a transaction was rolled back.
enum Failed {
    /// A job could not be done; the others can.
    OneJob,
    /// The file cannot be written.
    Everything(String),
}

impl Failed {
    fn of_job(error: StoreError) -> Self {
        if let StoreError::Unusable(why) = error { Self::Everything(why) } else { Self::OneJob }
    }
}

/// An error outside of any job.
impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Everything(match error {
            StoreError::Unusable(why) | StoreError::Damaged(why) => why,
            other => other.to_string(),
        })
    }
}

/// Runs a job in a savepoint. The outer error is the file's, the inner one the job's.
fn run_alone(job: &mut dyn Job, batch: &mut Batch<'_>) -> Result<Outcome, Failed> {
    let before = batch.scratch.clone();
    batch.database.execute_batch("SAVEPOINT job").map_err(|cause| fault(&cause))?;
    let outcome = match job.run(batch) {
        Err(StoreError::Unusable(why)) => return Err(Failed::Everything(why)),
        outcome => outcome,
    };
    if outcome.is_err() {
        batch.database.execute_batch("ROLLBACK TO job").map_err(|cause| fault(&cause))?;
        *batch.scratch = before;
    }
    batch.database.execute_batch("RELEASE job").map_err(|cause| fault(&cause))?;
    Ok(outcome)
}

/// Sorts each run of jobs that may change places by connection: pages are then written in their order.
fn order(jobs: &mut [Box<dyn Job>]) {
    for run in jobs.chunk_by_mut(|left, right| left.subject().is_some() && right.subject().is_some()) {
        run.sort_by_key(|job| job.subject());
    }
}
