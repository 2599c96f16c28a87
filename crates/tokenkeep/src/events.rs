//! What happened, published to whoever listens.

use crate::store::Event;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many events a listener may fall behind before it misses some and is told so.
pub const EVENTS_BEHIND_MAX: usize = 1024;

/// The publisher. Publishing never waits for a listener.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::channel(EVENTS_BEHIND_MAX).0 }
    }
}

impl Events {
    /// Publishes a stored event.
    pub fn publish(&self, event: Event) {
        // Nobody listening is not an error.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
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
    use tokenkeep_core::Timestamp;

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
}
