//! What the service manager is told (sd_notify(3)): that we are ready, how it goes, and that the engine moves.
//!
//! Where nobody asked, through `NOTIFY_SOCKET` and `WATCHDOG_USEC`, nothing is told.

use crate::env;
use sd_notify::NotifyState;
use std::fmt::Write as _;
use std::time::Duration;
use tokenkeep::TokenKeep;
use tokenkeep::store::Summary;
use tokenkeep_core::model::Status;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The watchdog is fed this many times in its time: after a suspend of the machine the scheduler may be late by
/// the engine's longest pause, and one feeding that is left out must not be the end.
const FEEDINGS: u32 = 4;
/// The shortest pause between two looks at the counts.
const LOOK_MIN: Duration = Duration::from_secs(1);
/// The longest: statuses also change by time alone, without an event.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// Counting takes at most one part in so many of the time.
const LOOK_SHARE: u32 = 100;

/// The socket answers; also the end of what [`reloading`] began.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] says that this has ended, well or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told about the reload"),
    }
}

/// The daemon stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Feeds the watchdog and tells how it goes, until what it returns is dropped.
#[must_use]
pub fn keep_telling(keep: &TokenKeep) -> JoinSet<()> {
    let mut telling = JoinSet::new();
    if let Some(patience) = sd_notify::watchdog_enabled() {
        let keep = keep.clone();
        telling.spawn(feed(patience / FEEDINGS, move || keep.stuck_for().is_none(), tell));
    }
    if env::read(env::NOTIFY_SOCKET).is_some() {
        telling.spawn(tell_status(keep.clone()));
    }
    telling
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Feeds the watchdog while the scheduler `moves`. It runs beside the engine on one runtime, so a runtime that is
/// blocked starves it too.
async fn feed(every: Duration, moves: impl Fn() -> bool, tell: impl Fn(&[NotifyState<'_>])) {
    loop {
        if moves() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the scheduler does not move: the watchdog is not fed");
        }
        sleep(every).await;
    }
}

/// One line for `systemctl status`, each time that it changes.
async fn tell_status(keep: TokenKeep) {
    let mut events = keep.subscribe();
    let mut told = String::new();
    loop {
        let started = Instant::now();
        let line = match keep.summary(None).await {
            Ok(summary) => status_line(&summary, keep.unready()),
            Err(error) => format!("not working: {error}"),
        };
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
        sleep((started.elapsed() * LOOK_SHARE).max(LOOK_MIN)).await;
        // Whether an event came, many were missed or none came: it is time to look.
        let _ = timeout(LOOK_MAX, events.recv()).await;
        events = events.resubscribe();
    }
}

/// `12 fresh, 1 needs you`: what is well first, what is worst last.
fn status_line(summary: &Summary, unready: Option<String>) -> String {
    let mut line = unready.map_or_else(String::new, |why| format!("not working: {why}; "));
    let counts = Status::ALL.iter().rev().filter_map(|status| Some((*status, *summary.by_status.get(status)?)));
    let mut separator = "";
    for (status, count) in counts.filter(|(_, count)| *count > 0) {
        let words = match (status, count) {
            (Status::NeedsReauth, 1) => "needs you",
            (Status::NeedsReauth, _) => "need you",
            _ => status.as_str(),
        };
        // Writing to a String cannot fail.
        let _ = write!(line, "{separator}{count} {words}");
        separator = ", ";
    }
    if separator.is_empty() {
        line.push_str("no connections");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_stands_still_is_not_fed_for_and_one_that_moves_again_is() {
        let (moves, fed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (looked, count) = (Arc::clone(&moves), Arc::clone(&fed));
        let every = Duration::from_secs(30);
        let feeding = tokio::spawn(feed(
            every,
            move || looked.load(Ordering::Relaxed),
            move |states| {
                assert!(matches!(states, [NotifyState::Watchdog]));
                count.fetch_add(1, Ordering::Relaxed);
            },
        ));
        let after = async |times: u32| {
            sleep(every * times).await;
            fed.load(Ordering::Relaxed)
        };
        sleep(every / 2).await;
        assert_eq!(fed.load(Ordering::Relaxed), 1);
        assert_eq!(after(3).await, 4);
        moves.store(false, Ordering::Relaxed);
        assert_eq!(after(100).await, 4);
        moves.store(true, Ordering::Relaxed);
        assert_eq!(after(1).await, 5);
        feeding.abort();
    }

    #[test]
    fn a_status_is_one_line_with_what_is_well_first() {
        let line = |counts: &[(Status, u64)], unready: Option<&str>| {
            let by_status = BTreeMap::from_iter(counts.iter().copied());
            let summary = Summary { by_status, next_due_at: None, earliest_expiry: None };
            status_line(&summary, unready.map(str::to_owned))
        };
        assert_eq!(line(&[], None), "no connections");
        assert_eq!(
            line(&[(Status::NeedsReauth, 1), (Status::Held, 0), (Status::Fresh, 12)], None),
            "12 fresh, 1 needs you"
        );
        assert_eq!(line(&[(Status::NeedsReauth, 2), (Status::InDoubt, 3)], None), "3 in_doubt, 2 need you");
        assert_eq!(line(&[(Status::Fresh, 1)], Some("disk full")), "not working: disk full; 1 fresh");
    }
}
