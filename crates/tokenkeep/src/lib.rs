//! Tokenkeep keeps OAuth 2.0 tokens fresh in the background.

pub mod clock;
pub mod endpoint;
pub mod journal;
pub mod seal;
pub mod store;

pub use tokenkeep_core as core;
