//! Tokenkeep keeps OAuth 2.0 tokens fresh in the background.

pub mod clock;
pub mod config;
pub mod endpoint;
pub mod error;
pub mod journal;
pub mod seal;
pub mod store;

pub use config::{Config, Provider};
pub use error::Error;
pub use tokenkeep_core as core;
