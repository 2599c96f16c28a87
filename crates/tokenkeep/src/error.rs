//! What can go wrong for a caller, named by what the caller can do about it.

use crate::backup::BackupError;
use crate::connect::SignInError;
use crate::keys::KeyError;
use crate::store::StoreError;
use std::path::PathBuf;
use tokenkeep_core::model::{ConnectionKey, LastError, Status};
use tokenkeep_core::{FailureCode, Timestamp};

/// Every error of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection has this name.
    #[error("there is no connection `{0}`")]
    NotFound(ConnectionKey),
    /// Something given is not what it must be; nothing was changed.
    #[error("{field}: {found}; expected {expected}")]
    Invalid {
        /// Which thing: a field's path, as the giver wrote it.
        field: String,
        /// What was found, without secrets.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// Nothing valid is in hand, and none will come by itself: why, and until when.
    #[error("`{key}` is {}: {}", status.as_str(), why(.last_error.as_deref()))]
    NoToken {
        /// The connection.
        key: ConnectionKey,
        /// Its status: says who must act.
        status: Status,
        /// What happened last.
        last_error: Option<Box<LastError>>,
        /// When it may be worth asking again (steady time).
        retry_at: Option<Timestamp>,
    },
    /// A refresh was asked for and nothing was sent.
    #[error("`{key}` was not refreshed: it is {}{}", status.as_str(), code.map(|c| format!(" ({})", c.sentence())).unwrap_or_default())]
    NotRefreshed {
        /// The connection.
        key: ConnectionKey,
        /// `needs_reauth`, `paused`, `held`, `in_doubt`, or `retrying` inside a Retry-After.
        status: Status,
        /// The cause, where there is one.
        code: Option<FailureCode>,
        /// When it will be tried by itself (steady time).
        retry_at: Option<Timestamp>,
    },
    /// A sign-in did not come to its end. The grant in hand, if there is one, is as it was.
    #[error(transparent)]
    SignIn(#[from] SignInError),
    /// Only the configuration can take it away.
    #[error("`{0}` is declared in the configuration")]
    Declared(ConnectionKey),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A rotation of the master key goes on, and this has to wait for its end.
    #[error("the master key is being rotated ({resealed} of {total} token sets are done)")]
    Rotating {
        /// How many token sets are done.
        resealed: u64,
        /// How many there are.
        total: u64,
    },
    /// The journal.
    #[error("{0}")]
    Journal(String),
    /// Another process uses the state folder.
    #[error("{0}")]
    Locked(String),
    /// Another daemon, on another state folder, keeps a token file that the configuration declares.
    #[error("another tokenkeep ({holder}) keeps the token file {path}")]
    TokenFileKept {
        /// The file.
        path: PathBuf,
        /// What that one wrote about itself: `pid N, since T`.
        holder: String,
    },
    /// A folder or file cannot be used.
    #[error("{path}: {cause}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The engine has stopped.
    #[error("tokenkeep is shutting down")]
    ShuttingDown,
}

fn why(last_error: Option<&LastError>) -> String {
    last_error.map_or_else(|| "there is no token yet".to_owned(), |error| error.failure.message())
}
