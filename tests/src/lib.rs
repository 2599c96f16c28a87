//! Whole-system tests of Tokenkeep: the simulation, and what the tests of the real binary need.
//!
//! Helpers panic with a sentence where something that a test relies on is missing: that is how a test fails.

pub mod bench;
pub mod browser;
pub mod callers;
pub mod daemon;
pub mod django;
pub mod foreign;
pub mod git_server;
pub mod http;
pub mod metrics;
pub mod mock;
pub mod mock_server;
pub mod oidc;
pub mod process;
pub mod proxy;
pub mod sign_in;
pub mod sim;
pub mod snapshot;
pub mod terminal;
pub mod tls_front;
pub mod told;
pub mod venv;
