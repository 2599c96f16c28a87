//! The decisions of Tokenkeep, as pure functions.
//!
//! When to refresh ([`schedule`]), what an answer means ([`classify`]), what a connection becomes
//! ([`lifecycle`]), how a request is written and an answer read ([`oauth`]), and what a provider is
//! like ([`provider`], and the known ones in [`catalogue`]).
//!
//! Everything here takes the time and the random draw as arguments. Nothing here asks a clock,
//! opens anything, or runs anything; a test in the workspace holds that wall.
//!
//! Read in this order: [`model`] (what a connection is), [`schedule`], [`classify`], [`lifecycle`].

pub mod catalogue;
pub mod classify;
pub mod deadline;
pub mod event;
pub mod failure;
pub mod lifecycle;
pub mod model;
pub mod oauth;
pub mod provider;
pub mod schedule;
pub mod secret;
pub mod time;

pub use failure::{Failure, FailureCode};
pub use model::{Connection, ConnectionId, ConnectionKey};
pub use secret::Secret;
pub use time::Timestamp;
