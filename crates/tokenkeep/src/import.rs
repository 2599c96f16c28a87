//! Token sets that people bring.

use crate::token_file::format::BYTES_MAX;
use std::collections::BTreeMap;
use tokenkeep_core::Secret;
use tokenkeep_core::model::{Connection, ConnectionKey};

/// The largest token set that is read, in bytes.
pub const TOKEN_SET_BYTES_MAX: usize = BYTES_MAX;

/// A token set that somebody brings.
#[derive(Debug)]
pub struct Import {
    /// What the connection is or will be called.
    pub key: ConnectionKey,
    /// The provider's name in the configuration.
    pub provider: String,
    /// The token set: the text of a JSON object.
    pub token: Secret,
    /// Labels; `None` keeps those of an existing connection.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What became of an [`Import`].
#[derive(Debug)]
pub enum Imported {
    /// A new connection.
    Created(Connection),
    /// A new grant of an existing one.
    Renewed(Connection),
    /// It is the token set in hand; nothing was changed.
    AlreadyHeld(Connection),
    /// Its refresh token was used before the one in hand; nothing was changed.
    AlreadyUsed(Connection),
}

impl Imported {
    /// The connection, whatever became of the import.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        match self {
            Self::Created(connection)
            | Self::Renewed(connection)
            | Self::AlreadyHeld(connection)
            | Self::AlreadyUsed(connection) => connection,
        }
    }
}
