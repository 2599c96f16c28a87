//! Tokenkeep keeps OAuth 2.0 tokens fresh in the background.

pub mod backup;
pub mod clock;
pub mod config;
pub mod connect;
mod declared;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod events;
mod files;
pub mod foreign;
mod import;
pub mod journal;
pub mod keep;
pub mod keys;
mod rotation;
pub mod seal;
pub mod store;
mod token_file;
mod tokens;
pub mod webhooks;

pub use config::{Config, Provider};
pub use engine::Changes;
pub use error::Error;
pub use import::{Import, Imported, TOKEN_SET_BYTES_MAX};
pub use keep::{Exported, RefreshAsk, Refreshed, TokenAsk, TokenKeep, fingerprint};
pub use keys::{KeySource, MasterKey};
pub use rotation::{KeyState, Rotation};
pub use token_file::{KeptFile, Trouble};
pub use tokenkeep_core as core;
pub use tokens::{CACHED_TOKENS_MAX, Handed, Token, Warning};
