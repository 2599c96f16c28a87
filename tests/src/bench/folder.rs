//! State folders with connections that are all due, made without the engine: it would begin at once.

use super::{Outcome, provider};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokenkeep::clock::{Clock, SystemClock};
use tokenkeep::journal::file::FileJournal;
use tokenkeep::keys;
use tokenkeep::seal::Sealer;
use tokenkeep::store::sqlite::SqliteStore;
use tokenkeep::store::{NewGrant, Store};
use tokenkeep_core::Secret;
use tokenkeep_core::model::{ConnectionKey, Renewal, TokenTimes, Waiting};
use tokenkeep_core::oauth::TokenSet;

/// How many connections one transaction makes.
const GRANTS_PER_TRANSACTION: usize = 1_000;

/// A state folder that goes away with this.
pub struct Folder {
    folder: TempDir,
}

impl Folder {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn empty(parent: &Path) -> Outcome<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("b").tempdir_in(parent)? })
    }

    /// One with a connection for each refresh token, all due, and a journal of `in_flight` places.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn all_due(parent: &Path, refresh_tokens: &[String], in_flight: u32) -> Outcome<Self> {
        let folder = Self::empty(parent)?;
        let sealer = Arc::new(Sealer::of(&keys::create_file(&folder.path().join("master.key"))?, &[]));
        let store = SqliteStore::open(&folder.store(), Arc::clone(&sealer))?;
        let now = SystemClock::new(None).now();
        for (chunk, tokens) in refresh_tokens.chunks(GRANTS_PER_TRANSACTION).enumerate() {
            let first = chunk * GRANTS_PER_TRANSACTION;
            let grants: Result<Vec<_>, _> =
                tokens.iter().enumerate().map(|(number, token)| due_at(now, first + number, token)).collect();
            store.grant(now, grants?).await?;
        }
        store.close().await?;
        drop(FileJournal::open(&folder.journal(), in_flight, sealer, Some(store.store_id()))?);
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its database.
    pub fn store(&self) -> PathBuf {
        self.path().join("tokenkeep.db")
    }

    /// Its journal.
    pub fn journal(&self) -> PathBuf {
        self.path().join("journal")
    }
}

/// The key of a connection.
///
/// # Errors
/// None: the name is good.
pub fn key(number: usize) -> Outcome<ConnectionKey> {
    Ok(ConnectionKey::in_default(format!("c{number:07}"))?)
}

fn due_at(now: tokenkeep_core::Timestamp, number: usize, refresh_token: &str) -> Outcome<NewGrant> {
    let life = Duration::from_secs(3_600);
    let issued_at = now - life;
    Ok(NewGrant {
        key: key(number)?,
        provider: provider::NAME.to_owned(),
        labels: None,
        scopes: Vec::new(),
        renewal: Renewal::RefreshToken,
        origin: tokenkeep_core::model::Origin::default(),
        times: TokenTimes {
            issued_at,
            expires_at: Some(now),
            lifetime: Some(life),
            lifetime_learned: false,
            planned_at: now,
            refresh_end: None,
            consent_end: None,
        },
        due_at: now,
        waiting: Waiting::Schedule,
        tokens: Some(TokenSet {
            access_token: Secret::new(format!("{number:0>800}")),
            refresh_token: Some(Secret::new(refresh_token.to_owned())),
            token_type: "Bearer".to_owned(),
            extra: Secret::new("{}"),
        }),
    })
}
