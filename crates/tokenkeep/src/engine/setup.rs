//! How the engine is set up, and what a change of that does to what is held.
//!
//! A change is one swap: whoever has taken the old setup finishes with it, whoever looks afterwards has the new one.

use super::{Engine, lock, recovery};
use crate::config::Provider;
use crate::engine::admission::lane_key;
use crate::store::{Event, EventKind, NewEvent, Noted, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokenkeep_core::classify::{Setback, SetbackKind};
use tokenkeep_core::model::Hold;
use tokenkeep_core::schedule::Policy;
use tokenkeep_core::{FailureCode, Timestamp};

/// What may change while the engine runs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// How eager refreshing is.
    pub policy: Policy,
    /// The providers by name.
    pub providers: BTreeMap<String, Arc<Provider>>,
}

impl Setup {
    pub(crate) fn new(policy: Policy, providers: Vec<Provider>) -> Self {
        let providers = providers.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect();
        Self { policy, providers }
    }
}

/// What a reload changed, by the names of providers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// They are new.
    pub added: Vec<String>,
    /// Their client, their URL or their rules are others: whatever was held because of them is released.
    pub changed: Vec<String>,
    /// They are gone: their connections are held until they come back.
    pub removed: Vec<String>,
    /// The refresh policy is another one.
    pub policy: Option<Policy>,
}

impl Changes {
    fn between(old: &Setup, new: &Setup) -> Self {
        let names = |of: &Setup, pick: &dyn Fn(&str, &Provider) -> bool| {
            of.providers.iter().filter(|(name, p)| pick(name, p)).map(|(name, _)| name.clone()).collect()
        };
        let is_other = |name: &str, provider: &Provider| {
            old.providers.get(name).is_some_and(|old| old.configuration() != provider.configuration())
        };
        Self {
            added: names(new, &|name, _| !old.providers.contains_key(name)),
            changed: names(new, &is_other),
            removed: names(old, &|name, _| !new.providers.contains_key(name)),
            policy: (old.policy != new.policy).then_some(new.policy),
        }
    }
}

impl Engine {
    /// What the engine is set up with at this moment.
    pub(crate) fn setup(&self) -> Arc<Setup> {
        Arc::clone(&lock(&self.setup))
    }

    /// Works with this policy and these providers from now on. Attempts in flight end with the provider that they
    /// began with. Calls follow one another.
    ///
    /// # Errors
    /// The store cannot be written. The new setup is in use all the same; what it releases is released by the next
    /// reload or start.
    pub(crate) async fn reload(&self, policy: Policy, providers: Vec<Provider>) -> Result<Changes, StoreError> {
        let _one_at_a_time = self.reloading.lock().await;
        let new = Arc::new(Setup::new(policy, providers));
        let old = self.swap(Arc::clone(&new));
        self.adopt(&new).await?;
        if new.providers.keys().any(|name| !old.providers.contains_key(name)) {
            // What another process left open, and nobody could settle without the provider.
            recovery::settle_claims(self, |holder| (holder.boot, holder.process) != (self.boot, self.process)).await?;
        }
        self.look_at_everything();
        Ok(Changes::between(&old, &new))
    }

    fn swap(&self, new: Arc<Setup>) -> Arc<Setup> {
        let now = self.now();
        lock(&self.admission).reconfigure(new.providers.values().map(Arc::as_ref), now);
        let old = std::mem::replace(&mut *lock(&self.setup), new);
        self.look_at_everything();
        old
    }

    /// Whatever was known of due times may be wrong now, and so may what readers are warned of.
    fn look_at_everything(&self) {
        self.tokens.forget_stored();
        lock(&self.next_due).clear();
        self.wake();
    }

    /// Brings what is held in line with how providers are configured: at start, and after every swap.
    pub(super) async fn adopt(&self, setup: &Setup) -> Result<(), StoreError> {
        let known = self.parts.store.providers().await?;
        for (name, provider) in &setup.providers {
            self.adopt_provider(name, provider, known.get(name).cloned().flatten()).await?;
        }
        for (name, hold) in known.iter().filter(|(name, _)| !setup.providers.contains_key(*name)) {
            let unknown = Hold { cause: FailureCode::UnknownProvider, probe_at: None };
            if hold.as_ref() != Some(&unknown) {
                tracing::warn!(provider = name, "not configured any more: its connections are held");
                self.parts.store.hold_provider(name, Some(unknown)).await?;
            }
        }
        Ok(())
    }

    async fn adopt_provider(&self, name: &str, provider: &Provider, hold: Option<Hold>) -> Result<(), StoreError> {
        self.metrics.know(name);
        let (now, lane) = (self.now(), lane_key(provider));
        match (self.parts.store.note_provider(now, name, &provider.configuration()).await?, hold) {
            (Noted::Changed(events), _) => {
                lock(&self.admission).release(&lane, now);
                self.publish_all(events);
            }
            (Noted::Same, Some(Hold { cause: FailureCode::ProviderHeld, probe_at: Some(at) })) => {
                lock(&self.admission).hold_again(&lane, at, now);
            }
            (Noted::Same, Some(_)) => self.parts.store.hold_provider(name, None).await?,
            (Noted::Same, None) => {}
        }
        Ok(())
    }

    fn publish_all(&self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.events.publish(event));
    }

    /// Whether `setback` is about a configuration of this provider that is not in use any more: what it says against that
    /// one must not hold what follows.
    pub(super) fn has_replaced(&self, provider: &Provider, setback: &Setback) -> bool {
        matches!(setback.kind, SetbackKind::Misconfigured { .. })
            && self.provider(&provider.name).is_some_and(|current| current.configuration() != provider.configuration())
    }

    /// Tells the store whether this provider's lane is held, if that is news: so every connection of the lane is shown
    /// held, by one row for each provider. What the store does not take is told again after the next attempt.
    pub(super) async fn tell_standing(&self, provider: &Provider) {
        let lane = lane_key(provider);
        if !lock(&self.admission).is_untold(&lane) {
            return;
        }
        // The order of tellings is the order of changes.
        let _one_at_a_time = self.telling.lock().await;
        let Some((before, until)) = lock(&self.admission).untold(&lane) else { return };
        let hold = until.map(|at| Hold { cause: FailureCode::ProviderHeld, probe_at: Some(at) });
        let setup = self.setup();
        for (name, _) in setup.providers.iter().filter(|(_, provider)| lane_key(provider) == lane) {
            if let Err(error) = self.parts.store.hold_provider(name, hold.clone()).await {
                return self.store_failed(&error);
            }
        }
        lock(&self.admission).told(&lane, until);
        if before.is_some() != until.is_some() {
            self.tokens.forget_stored();
            self.record(standing_event(&provider.name, until, self.now())).await;
        }
    }

    /// Somebody says that the cause is gone: a held lane may probe at once.
    pub(crate) async fn probe_at_once(&self, provider: &str) {
        let Some(provider) = self.provider(provider) else { return };
        lock(&self.admission).probe_at_once(&lane_key(&provider), self.now());
        self.tell_standing(&provider).await;
    }
}

fn standing_event(provider: &str, held_until: Option<Timestamp>, now: Timestamp) -> NewEvent {
    // A provider's name needs no escaping: see `check_name`.
    let data = format!(r#"{{"provider":"{provider}"}}"#);
    match held_until {
        Some(_) => {
            let message = format!("Provider {provider} does not accept our client: all its connections are held.");
            let code = Some(FailureCode::ProviderHeld);
            NewEvent { code, data, ..NewEvent::new(EventKind::ProviderDegraded, now, None, message) }
        }
        None => {
            let message = format!("Provider {provider} accepts our client again: its connections go on.");
            NewEvent { data, ..NewEvent::new(EventKind::ProviderRecovered, now, None, message) }
        }
    }
}
