//! Tokenkeep keeps OAuth 2.0 tokens fresh in the background.

pub mod clock;
pub mod config;
pub mod connect;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod events;
mod import;
pub mod journal;
pub mod keep;
pub mod seal;
pub mod store;
mod tokens;

pub use config::{Config, Provider};
pub use error::Error;
pub use import::{Import, Imported, TOKEN_SET_BYTES_MAX};
pub use keep::{Exported, RefreshAsk, Refreshed, TokenAsk, TokenKeep, fingerprint};
pub use tokenkeep_core as core;
pub use tokens::{CACHED_TOKENS_MAX, Handed, Token, Warning};
