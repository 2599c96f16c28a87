//! The configuration that the daemon works with, and what became of the last reload.

use super::Setting;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokenkeep_core::Timestamp;

/// What every part of the daemon may look at.
#[derive(Debug, Default)]
pub struct Live(Mutex<State>);

/// The state of the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// Since when these settings are in use (steady time).
    pub since: Option<Timestamp>,
    /// Every setting in use.
    pub settings: Vec<Setting>,
    /// Why the file as it is now is not in use, if it is not.
    pub refused: Option<Refused>,
}

/// A configuration that was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// When (steady time).
    pub at: Timestamp,
    /// Each thing that is wrong, on its own lines.
    pub report: String,
}

impl Live {
    /// As it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Whether the file as it is now was refused.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.lock().refused.is_some()
    }

    /// Whether this setting is in use as `true`.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.lock().settings.iter().any(|setting| setting.name == name && setting.value == "true")
    }

    /// These settings are in use from now on. Answers the names of those that only a restart changes, and which
    /// therefore stay as they were.
    pub fn take(&self, path: Option<PathBuf>, mut settings: Vec<Setting>, now: Timestamp) -> Vec<String> {
        let mut state = self.lock();
        let mut waiting = Vec::new();
        for name in super::RESTART_SETTINGS {
            let Some(old) = state.settings.iter().find(|old| old.name == *name) else { continue };
            let Some(new) = settings.iter_mut().find(|new| new.name == *name) else { continue };
            if new.value != old.value {
                *new = Setting { after_restart: Some(new.value.clone()), ..old.clone() };
                waiting.push((*name).to_owned());
            }
        }
        *state = State { path, since: Some(now), settings, refused: None };
        waiting
    }

    /// The file was looked at and refused; what was in use stays.
    pub fn refuse(&self, report: String, now: Timestamp) {
        self.lock().refused = Some(Refused { at: now, report });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: the state is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn setting(name: &str, value: &str) -> Setting {
        Setting { name: name.to_owned(), value: value.to_owned(), source: Source::Default, after_restart: None }
    }

    #[test]
    fn what_only_a_restart_changes_stays_and_is_named() {
        let live = Live::default();
        let at = Timestamp::from_millis;
        let first = vec![setting("server.listen", "a"), setting("refresh.max_retries", "3")];
        assert!(live.take(None, first, at(1)).is_empty());
        live.refuse("no".to_owned(), at(2));
        assert!(live.is_outdated() && live.state().since == Some(at(1)));
        let second = || vec![setting("server.listen", "b"), setting("refresh.max_retries", "4")];
        for now in [3, 4] {
            assert_eq!(live.take(None, second(), at(now)), ["server.listen"], "also when it is said again");
        }
        let state = live.state();
        assert_eq!((state.settings[0].value.as_str(), state.settings[0].after_restart.as_deref()), ("a", Some("b")));
        assert_eq!((state.settings[1].value.as_str(), state.refused), ("4", None));
        let back = vec![setting("server.listen", "a")];
        assert!(live.take(None, back, at(5)).is_empty());
        assert_eq!(live.state().settings[0].after_restart, None);
    }
}
