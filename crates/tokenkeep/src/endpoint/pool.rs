//! Idle connections to one server, the last used first.

use super::http::{Connection, Content};
use super::target::RequestBody;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections to one server, each with the time when it became idle.
#[derive(Debug)]
pub(super) struct Pool<B = RequestBody> {
    idle: Mutex<Idle<B>>,
    idle_max: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle<B> {
    /// The longest idle first.
    connections: VecDeque<(Instant, Connection<B>)>,
    /// A task is there that drops connections in time.
    has_reaper: bool,
}

impl<B: Content> Pool<B> {
    pub(super) fn new(idle_max: usize, idle_timeout: Duration) -> Arc<Self> {
        let idle = Idle { connections: VecDeque::new(), has_reaper: false };
        Arc::new(Self { idle: Mutex::new(idle), idle_max, idle_timeout })
    }

    /// The connection that was used last among those that are still alive.
    pub(super) async fn take(&self) -> Option<Connection<B>> {
        loop {
            let mut connection = self.pop()?;
            if connection.is_alive().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection; when there are too many, the longest idle one goes.
    pub(super) fn put(self: &Arc<Self>, connection: Connection<B>) {
        if self.idle_max == 0 || connection.is_closed() {
            return;
        }
        let mut idle = self.idle();
        if idle.connections.len() >= self.idle_max {
            idle.connections.pop_front();
        }
        idle.connections.push_back((Instant::now(), connection));
        if !std::mem::replace(&mut idle.has_reaper, true) {
            tokio::spawn(reap(Arc::downgrade(self), self.idle_timeout));
        }
    }

    fn pop(&self) -> Option<Connection<B>> {
        let (since, connection) = self.idle().connections.pop_back()?;
        (since.elapsed() < self.idle_timeout).then_some(connection)
    }

    /// Drops what was idle too long. Says when to come again; `None` when nothing is left to watch.
    fn prune(&self) -> Option<Instant> {
        let mut idle = self.idle();
        while let Some((since, connection)) = idle.connections.front() {
            let ends_at = *since + self.idle_timeout;
            if ends_at > Instant::now() && !connection.is_closed() {
                return Some(ends_at);
            }
            idle.connections.pop_front();
        }
        idle.has_reaper = false;
        None
    }

    fn idle(&self) -> MutexGuard<'_, Idle<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops idle connections in time, as long as there are any.
async fn reap<B: Content>(pool: Weak<Pool<B>>, idle_timeout: Duration) {
    let mut next = Instant::now() + idle_timeout;
    loop {
        tokio::time::sleep_until(next).await;
        match pool.upgrade().and_then(|pool| pool.prune()) {
            Some(ends_at) => next = ends_at,
            None => return,
        }
    }
}
