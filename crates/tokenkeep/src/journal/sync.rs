//! One sync for all who wait for one: a thread that drains its queue, syncs once, and wakes them all.

use super::JournalError;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What the thread does for a whole group of sequence numbers: one sync.
pub(super) type SyncGroup = Box<dyn Fn(&[u64]) -> Result<(), JournalError> + Send>;

struct Waiter {
    sequence: u64,
    done: oneshot::Sender<Result<(), JournalError>>,
}

/// The thread. It ends when this is dropped, after it has served everyone who waits.
#[derive(Debug)]
pub(super) struct SyncThread {
    /// From whoever has written an answer to the thread. `None` only while this is dropped.
    queue: Option<Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl SyncThread {
    pub(super) fn start(sync: SyncGroup) -> std::io::Result<Self> {
        let (queue, waiters) = mpsc::channel();
        let thread = std::thread::Builder::new().name("journal-sync".into()).spawn(move || run(&sync, &waiters))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Waits for a sync that began after this call. Whoever stops waiting does not stop the sync.
    pub(super) async fn synced(&self, sequence: u64) -> Result<(), JournalError> {
        let gone = || JournalError("its sync thread has ended".into());
        let (done, outcome) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(Waiter { sequence, done }).map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was already told to everyone who waited, as its end.
            let _ = thread.join();
        }
    }
}

fn run(sync: &SyncGroup, waiters: &Receiver<Waiter>) {
    while let Ok(first) = waiters.recv() {
        let group: Vec<Waiter> = std::iter::once(first).chain(waiters.try_iter()).collect();
        let sequences: Vec<u64> = group.iter().map(|waiter| waiter.sequence).collect();
        let outcome = sync(&sequences);
        for waiter in group {
            // Whoever no longer waits needs no word.
            let _ = waiter.done.send(outcome.clone());
        }
    }
}
