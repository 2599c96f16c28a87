//! Sign-ins that a person has begun and not ended. They live in memory alone: after a restart the person begins again.

use super::SignInError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokenkeep_core::{Connection, ConnectionKey, Secret, Timestamp};

/// How long a sign-in may take, and how long its outcome is kept.
pub const SIGN_IN_LIFE: Duration = Duration::from_secs(600);
/// The most sign-ins that are remembered at once.
pub const SIGN_INS_MAX: usize = 1_000;

/// A sign-in.
#[derive(Debug)]
pub(super) struct SignInEntry {
    /// The connection that it is for.
    pub key: ConnectionKey,
    /// What it waits for.
    pub step: Step,
    /// When it is forgotten.
    pub ends_at: Timestamp,
}

/// Where a sign-in stands.
#[derive(Debug)]
pub(super) enum Step {
    /// A redirect with this state, from whoever holds the proof.
    Redirect(Box<Redirect>),
    /// The person, at another device; or the answer to the code.
    Busy,
    /// Nothing: it has ended.
    Ended(Result<Box<Connection>, SignInError>),
}

/// What is needed to take a redirect up.
#[derive(Debug)]
pub(super) struct Redirect {
    pub proof: Secret,
    pub provider: String,
    pub redirect_uri: String,
    pub verifier: Secret,
    pub nonce: Option<String>,
    pub scopes: Vec<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub return_url: Option<String>,
}

/// All of them, by id; an id is the state of its redirect, so nobody can guess it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: BTreeMap<String, SignInEntry>,
    /// The fingerprints of codes that were exchanged, and until when they are remembered.
    codes: BTreeMap<String, Timestamp>,
}

impl Pending {
    /// Remembers one.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn begin(
        &mut self,
        now: Timestamp,
        id: &str,
        key: ConnectionKey,
        step: Step,
        life: Duration,
    ) -> Result<(), SignInError> {
        self.entries.retain(|_, entry| entry.ends_at > now);
        if self.entries.len() >= SIGN_INS_MAX {
            return Err(SignInError::TooMany);
        }
        self.entries.insert(id.to_owned(), SignInEntry { key, step, ends_at: now + life });
        Ok(())
    }

    /// Whether this code comes for the first time; from now on it does not.
    pub(super) fn is_first_use(&mut self, now: Timestamp, code: &Secret) -> bool {
        self.codes.retain(|_, forgotten_at| *forgotten_at > now);
        self.codes.insert(crate::keep::fingerprint(code.expose()), now + SIGN_IN_LIFE).is_none()
    }

    /// Takes the redirect of a sign-in up, once: whoever comes second finds nothing, whether the first was right or not.
    ///
    /// # Errors
    /// There is none of this state, it was used, or it has ended; or the proof is another's.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        id: &str,
        proof: &Secret,
    ) -> Result<(ConnectionKey, Redirect), SignInError> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.ends_at > now).ok_or(SignInError::Unknown)?;
        match std::mem::replace(&mut entry.step, Step::Busy) {
            Step::Redirect(redirect) if redirect.proof == *proof => Ok((entry.key.clone(), *redirect)),
            Step::Redirect(_) => {
                entry.step = Step::Ended(Err(SignInError::OtherBrowser));
                Err(SignInError::OtherBrowser)
            }
            other => {
                entry.step = other;
                Err(SignInError::Unknown)
            }
        }
    }

    /// It has ended; the outcome stays for a while, for whoever asks.
    pub(super) fn end(&mut self, now: Timestamp, id: &str, outcome: Result<Box<Connection>, SignInError>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.step = Step::Ended(outcome);
            entry.ends_at = now + SIGN_IN_LIFE;
        }
    }

    /// The sign-in of this id.
    pub(super) fn get(&self, now: Timestamp, id: &str) -> Option<&SignInEntry> {
        self.entries.get(id).filter(|entry| entry.ends_at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(pending: &mut Pending, now: i64, id: &str) -> Result<(), SignInError> {
        let redirect = Redirect {
            proof: Secret::new("mine"),
            provider: "p".into(),
            redirect_uri: "http://127.0.0.1/".into(),
            verifier: Secret::new("v"),
            nonce: None,
            scopes: Vec::new(),
            labels: None,
            return_url: None,
        };
        let key = ConnectionKey::in_default("jira").unwrap();
        pending.begin(Timestamp::from_millis(now), id, key, Step::Redirect(Box::new(redirect)), SIGN_IN_LIFE)
    }

    fn take(pending: &mut Pending, now: i64, id: &str, proof: &str) -> Result<(), SignInError> {
        pending.take(Timestamp::from_millis(now), id, &Secret::new(proof)).map(|_| ())
    }

    #[test]
    fn a_state_is_used_once_by_whoever_began_it_within_its_life() {
        let mut pending = Pending::default();
        begun(&mut pending, 0, "a").unwrap();
        assert_eq!(take(&mut pending, 1, "forged", "mine"), Err(SignInError::Unknown));
        assert_eq!(take(&mut pending, 1, "a", "mine"), Ok(()));
        assert_eq!(take(&mut pending, 2, "a", "mine"), Err(SignInError::Unknown), "a replay");
        begun(&mut pending, 0, "b").unwrap();
        assert_eq!(take(&mut pending, 1, "b", "another's"), Err(SignInError::OtherBrowser));
        assert_eq!(take(&mut pending, 1, "b", "mine"), Err(SignInError::Unknown), "it is used up");
        begun(&mut pending, 0, "c").unwrap();
        assert_eq!(take(&mut pending, 600_000, "c", "mine"), Err(SignInError::Unknown), "too late");
    }

    #[test]
    fn a_code_is_exchanged_once() {
        let (mut pending, now) = (Pending::default(), Timestamp::from_millis);
        assert!(pending.is_first_use(now(0), &Secret::new("c")));
        assert!(!pending.is_first_use(now(599_999), &Secret::new("c")));
        assert!(pending.is_first_use(now(1), &Secret::new("d")));
    }

    #[test]
    fn there_is_a_limit_and_what_has_ended_makes_room() {
        let mut pending = Pending::default();
        for nth in 0..SIGN_INS_MAX {
            begun(&mut pending, 0, &nth.to_string()).unwrap();
        }
        assert_eq!(begun(&mut pending, 1, "more"), Err(SignInError::TooMany));
        assert_eq!(begun(&mut pending, 600_000, "more"), Ok(()));
    }
}
