//! A fake OAuth 2.0 provider that misbehaves on request.
//!
//! It stands alone: it shares no code with the product that is tested against it, so that one misreading cannot hide in
//! both.
//!
//! - [`Provider`] is the authorization server as pure state. It is told the time, asks for nothing, and gives the same
//!   answers to the same calls. It holds grants of every [`Rotation`] class at once, and a ledger of what happened to
//!   each of them. A simulator uses it in process.
//! - [`Dialect`] is what a known provider does otherwise than the standard says, as data.
//! - [`Fault`] is one way to misbehave. A [`FaultPlan`] draws faults by seed and probability; a script names them one by
//!   one. [`Fault::apply`] is pure too: it says what goes over the wire, and whether the provider rotated before.
//! - [`Server`] puts both behind HTTP/1.1, with a small Jira that knows the ledger, a TLS listener that fails on request,
//!   a clock that can be shifted, and a control interface under `/control/`.
//!
//! ```
//! use tokenkeep_mock::{Fault, GrantOptions, FaultPlan, Provider, ProviderConfig, Rotation, Server};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let config = ProviderConfig { rotation: Rotation::Grace(600), ..ProviderConfig::default() };
//! let loopback = ([127, 0, 0, 1], 0).into();
//! let server = Server::start(loopback, Provider::new(config), FaultPlan::none()).await.unwrap();
//!
//! let state = server.state();
//! let grant = state.grant(GrantOptions { label: "jira".to_owned(), ..GrantOptions::default() });
//! state.script(Some("jira"), vec![Fault::DropAfter]).unwrap();
//! // Now a client that posts `grant.token.refresh_token` to `server.url("/token")` gets no answer: the provider has
//! // rotated the token, and the next request finds out.
//! assert_eq!(state.totals().grants, 1);
//! server.shutdown().await;
//! # });
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod catalogue;
mod demands;
mod dialect;
mod fault;
mod jira;
mod provider;
mod random;
mod request;
mod rotation;
mod server;
mod token;

pub use answer::{Answer, Refusal, Unfit};
pub use catalogue::{KNOWN, Known};
pub use demands::{BodyForm, Demands, Pair, RedirectOnRefresh};
pub use dialect::{Dialect, UnknownDialect};
pub use fault::{
    Chance, DEEP_LEVELS_MAX, DELAY_MS_MAX, Drip, Entry, Fault, FaultPlan, Faults, ImpossiblePlan, OVERSIZED_BYTES_MAX,
    OddExpiry, Reply, SCRIPT_MAX, ScriptFull, UnknownPlan, entries,
};
pub use jira::RateLimit;
pub use provider::{
    AnswerStyle, Ask, ClientAuth, ClientConfig, DEFAULT_SCOPE, Death, DeathCause, Decision, DeviceStyle, GraceReuse,
    Grant, GrantId, GrantLedger, GrantOptions, InFlight, Introspection, Offline, Provider, ProviderConfig,
    RefusalStyle, ReuseEvent, ReusedToken, RevocationStyle, Standing, TokenSet, Totals, UnfitAsk, fingerprint,
};
pub use request::{Accepts, Credentials, OAuthRequest};
pub use rotation::{Rotation, UnknownRotation};
pub use server::{Endpoint, Server, State, TlsFace};
