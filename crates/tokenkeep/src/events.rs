//! What happened, published to whoever listens.

use crate::store::Event;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{AttemptNumber, ConnectionKey};
use tokio::sync::broadcast;

/// How many events a listener may fall behind before it misses some and is told so.
pub const EVENTS_BEHIND_MAX: usize = 1024;
/// How many steps of attempts a listener may fall behind before it misses some.
pub const PROGRESS_BEHIND_MAX: usize = 1024;

/// The publisher. Publishing never waits for a listener.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    highest: AtomicU64,
    progress: broadcast::Sender<Arc<Progress>>,
}

/// How far an attempt has come. Not kept: only who listens at the moment hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Whose attempt.
    pub connection: ConnectionKey,
    /// Which attempt of that connection.
    pub attempt: AttemptNumber,
    /// What has just been done.
    pub milestone: Milestone,
    /// When.
    pub at: Timestamp,
}

/// What an attempt passes, in this order. One that fails before it sends leaves out what it did not reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone {
    /// The claim is durable.
    Claimed,
    /// The request is about to be written.
    Sent,
    /// The answer has come, and is in the journal where that can be written.
    Answered,
    /// The outcome is durable in the store.
    Stored,
    /// The outcome is handed out and told.
    Published,
}

impl Milestone {
    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::Stored => "stored",
            Self::Published => "published",
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let (sender, progress) = (broadcast::channel(EVENTS_BEHIND_MAX).0, broadcast::channel(PROGRESS_BEHIND_MAX).0);
        Self { sender, highest: AtomicU64::new(0), progress }
    }
}

impl Events {
    /// Publishes a stored event. Attempts end side by side, so a lower number may follow a higher one; both
    /// are in the store by then.
    pub fn publish(&self, event: Event) {
        self.highest.fetch_max(event.id, Ordering::AcqRel);
        // Nobody listening is not an error.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }

    /// The highest number published since the process started, 0 for none.
    #[must_use]
    pub fn highest_id(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// Tells how far an attempt has come. Where nobody listens, `make` is not called.
    pub fn progress(&self, make: impl FnOnce() -> Progress) {
        if self.progress.receiver_count() > 0 {
            // The last listener may have left meanwhile.
            let _ = self.progress.send(Arc::new(make()));
        }
    }

    /// Every step of every attempt from now on.
    #[must_use]
    pub fn subscribe_progress(&self) -> broadcast::Receiver<Arc<Progress>> {
        self.progress.subscribe()
    }

    /// Calls `handler` with every event from now on, on a thread of its own, until the publisher is gone.
    ///
    /// A handler that is slow misses events once it is [`EVENTS_BEHIND_MAX`] behind; one that panics is logged
    /// and called again for the next event. Neither holds anybody else up.
    pub fn on_event(&self, handler: impl Fn(&Event) + Send + 'static) -> std::io::Result<()> {
        let mut receiver = self.subscribe();
        let serve = move || {
            loop {
                match receiver.blocking_recv() {
                    Ok(event) => call(&handler, &event),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "an event handler is too slow and missed events");
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        };
        std::thread::Builder::new().name("tokenkeep-events".to_owned()).spawn(serve).map(drop)
    }
}

fn call(handler: &impl Fn(&Event), event: &Event) {
    if catch_unwind(AssertUnwindSafe(|| handler(event))).is_err() {
        tracing::error!(event = event.event.kind.as_str(), "an event handler panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{EventKind, NewEvent};
    use std::sync::mpsc;

    fn event(id: u64) -> Event {
        Event { id, event: NewEvent::new(EventKind::Refreshed, Timestamp::EPOCH, None, "x") }
    }

    #[test]
    fn a_slow_or_panicking_handler_harms_nobody() {
        let events = Events::default();
        let (seen, all_seen) = mpsc::channel();
        let (release, wait) = mpsc::channel::<()>();
        events.on_event(move |_| assert!(wait.recv().is_err())).unwrap();
        events.on_event(|_| panic!("handler")).unwrap();
        events.on_event(move |event| seen.send(event.id).unwrap()).unwrap();
        for id in 1..=3 {
            events.publish(event(id));
        }
        assert_eq!(all_seen.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
        for id in 0..10 * EVENTS_BEHIND_MAX as u64 {
            events.publish(event(id));
        }
        drop(release);
    }

    #[test]
    fn progress_costs_nothing_while_nobody_listens() {
        let events = Events::default();
        let step = |milestone| Progress {
            connection: ConnectionKey::in_default("jira").unwrap(),
            attempt: AttemptNumber(1),
            milestone,
            at: Timestamp::EPOCH,
        };
        events.progress(|| panic!("a step was made for nobody"));
        let mut listener = events.subscribe_progress();
        events.progress(|| step(Milestone::Sent));
        assert_eq!(*listener.try_recv().unwrap(), step(Milestone::Sent));
        drop(listener);
        events.progress(|| panic!("a step was made for nobody"));
    }

    #[test]
    fn the_highest_number_stays_whatever_order_events_come_in() {
        let events = Events::default();
        for id in [3, 5, 4] {
            events.publish(event(id));
        }
        assert_eq!(events.highest_id(), 5);
    }
}
