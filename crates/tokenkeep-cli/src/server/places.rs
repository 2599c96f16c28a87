//! The places of one listener. When they run out, the connection makes room that has waited longest for its client: so
//! whoever holds many and says nothing, or says it slowly, keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    max: usize,
    held: Mutex<Held>,
    /// A place became free, or its connection began to wait.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    taken: usize,
    /// Those that were asked to make room and have not ended yet.
    ending: usize,
    /// Whose clients are waited for, the longest first.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

/// The place of a connection: free again when the last hold of it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    end: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// For its client, since this turn.
    Waits(u64),
    Works,
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: Mutex::default(), changed: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, at which a client is waited for.
    pub async fn take(self: &Arc<Self>) -> Arc<Place> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(place) = self.try_take() {
                return place;
            }
            changed.await;
        }
    }

    /// A place; where there is none, whoever waits longest is asked to make room.
    fn try_take(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut held = self.held();
        if held.taken < self.max {
            held.taken += 1;
            let end = Arc::new(Notify::new());
            let state = Mutex::new(State::Waits(held.wait(&end)));
            return Some(Arc::new(Place { places: Arc::clone(self), end, state }));
        }
        if held.ending == 0
            && let Some((_, longest)) = held.waiting.pop_first()
        {
            held.ending += 1;
            longest.notify_one();
        }
        None
    }
}

impl Held {
    fn wait(&mut self, end: &Arc<Notify>) -> u64 {
        let turn = self.next;
        self.next += 1;
        self.waiting.insert(turn, Arc::clone(end));
        turn
    }
}

impl Place {
    /// It waits for its client from now on.
    pub fn waits(&self) {
        let mut state = self.state();
        if *state == State::Works {
            *state = State::Waits(self.places.held().wait(&self.end));
            self.places.changed.notify_one();
        }
    }

    /// It works for its client from now on.
    pub fn works(&self) {
        let mut state = self.state();
        if let State::Waits(turn) = *state {
            let mut held = self.places.held();
            // One that was asked to make room does so all the same.
            if held.waiting.remove(&turn).is_some() {
                *state = State::Works;
            }
        }
    }

    /// When it is to make room.
    pub async fn asked_to_end(&self) {
        self.end.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.taken -= 1;
        if let State::Waits(turn) = *self.state()
            && held.waiting.remove(&turn).is_none()
        {
            held.ending -= 1;
        }
        drop(held);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const AT_ONCE: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_longest_makes_room() {
        let places = Places::new(3);
        let first = places.take().await;
        let second = places.take().await;
        let third = places.take().await;
        first.works();
        first.waits();
        second.works();
        // The third waits longest by now, the first after it.
        let asked = tokio::spawn(async move {
            third.asked_to_end().await;
            drop(third);
        });
        let fourth = timeout(AT_ONCE, places.take()).await.expect("the third made room");
        asked.await.unwrap();
        assert!(timeout(AT_ONCE, first.asked_to_end()).await.is_err());
        fourth.works();
        let taking = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        timeout(AT_ONCE, first.asked_to_end()).await.expect("the first is next");
        assert!(!taking.is_finished(), "it has not ended yet");
        first.works();
        drop(first);
        let _fifth = timeout(AT_ONCE, taking).await.expect("the first made room").unwrap();
        let held = places.held();
        assert_eq!((held.taken, held.ending, held.waiting.len()), (3, 0, 1));
        drop(held);
        drop((second, fourth));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_works_is_left_alone() {
        let places = Places::new(1);
        let busy = places.take().await;
        busy.works();
        let taking = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        assert!(timeout(AT_ONCE, busy.asked_to_end()).await.is_err());
        busy.waits();
        timeout(AT_ONCE, busy.asked_to_end()).await.expect("now it waits");
        drop(busy);
        drop(taking.await.unwrap());
        assert_eq!(places.held().taken, 0);
    }
}
