//! SIGHUP: the configuration is read again, and the running engine goes on with it, or with the old one.

use crate::config::files::{self, Given, LoadError, Loaded};
use crate::config::live::Live;
use crate::config::{RESTART_SETTINGS, Settings};
use crate::discovered;
use crate::error::CliError;
use crate::notify;
use std::path::PathBuf;
use std::sync::Arc;
use tokenkeep::{Changes, TokenKeep};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, taken over.
pub struct Hangups(Signal);

impl Hangups {
    /// From now on the signal no longer ends the process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> Result<Self, CliError> {
        let hangups = signal(SignalKind::hangup());
        hangups.map(Self).map_err(|error| CliError::new(format!("SIGHUP cannot be received: {error}")))
    }
}

/// What a reload works on.
pub struct Reloader {
    /// What the command line says.
    pub given: Given,
    /// Where the engine lives.
    pub state_dir: PathBuf,
    /// The engine.
    pub keep: TokenKeep,
    /// What is in use.
    pub live: Arc<Live>,
    /// An issuer has not said its endpoints yet, and is to be asked again.
    pub lacking: bool,
}

impl Reloader {
    /// Reloads at every SIGHUP, for ever.
    pub async fn on(mut self, mut hangups: Hangups) {
        while self.is_time(&mut hangups).await {
            // A service manager waits for the second word, whatever came of it.
            notify::reloading();
            self.reload().await;
            notify::ready();
        }
    }

    /// Waits for a SIGHUP, or for the time to ask an issuer again; false when there is nothing more to wait for.
    async fn is_time(&self, hangups: &mut Hangups) -> bool {
        let again = async {
            match self.lacking {
                true => tokio::time::sleep(discovered::ASK_AGAIN_AFTER).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            hangup = hangups.0.recv() => hangup.is_some(),
            () = again => true,
        }
    }

    async fn reload(&mut self) {
        let given = self.given.clone();
        let loaded = match tokio::task::spawn_blocking(move || load_again(&given)).await {
            Ok(loaded) => loaded,
            Err(error) => return tracing::error!(%error, "the configuration could not be read"),
        };
        match loaded {
            Ok(Loaded { settings, path }) => self.take(settings, path).await,
            Err(error) => self.refuse(error),
        }
    }

    async fn take(&mut self, mut settings: Settings, path: Option<PathBuf>) {
        let providers = std::mem::take(&mut settings.providers);
        (settings.providers, self.lacking) = discovered::complete(providers, &self.state_dir).await;
        let shown = settings.shown.clone();
        let taken = self.keep.reload(settings.into_config(&self.state_dir)).await;
        for name in self.live.take(path, shown, self.keep.now()) {
            tracing::warn!(
                setting = name,
                "changed in the configuration; it needs a restart, and stays as it was until then"
            );
        }
        match taken {
            Ok(changes) => told(&changes),
            // The engine has the new one; what is held because of the old one is released by the next reload or start.
            Err(error) => {
                tracing::error!(%error, "the configuration is in use, but what it changes could not be stored: reload again");
            }
        }
    }

    fn refuse(&self, error: LoadError) {
        match &error {
            LoadError::File { cause, next } => {
                tracing::error!(cause, next, "the configuration was not reloaded; the one before stays in use");
            }
            LoadError::Wrong(errors) => {
                for error in errors.iter() {
                    tracing::error!(
                        at = %error.place,
                        found = error.found,
                        expected = error.expected,
                        line = error.line(),
                        "the configuration is wrong; the one before stays in use"
                    );
                }
            }
        }
        self.live.refuse(CliError::from(error).report(), self.keep.now());
    }
}

/// A pipe has been read to its end when the daemon started: it would be waited for in vain.
fn load_again(given: &Given) -> Result<Loaded, LoadError> {
    if let Some(path) = &given.config
        && path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir())
    {
        return Err(LoadError::File {
            cause: format!("the configuration {} is no file, and cannot be read again", path.display()),
            next: "restart the daemon to change it, or give it a file",
        });
    }
    files::load(given)
}

fn told(changes: &Changes) {
    tracing::info!(
        added = %changes.added.join(" "),
        changed = %changes.changed.join(" "),
        removed = %changes.removed.join(" "),
        policy = changes.policy.is_some(),
        restart = RESTART_SETTINGS.join(" "),
        "the configuration was reloaded"
    );
}
