//! The provider over HTTP/1.1.

mod body;
mod connection;
mod consent;
mod control;
mod pages;
mod routes;
mod state;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub use state::{Endpoint, State};
pub use tls::TlsFace;

use crate::fault::FaultPlan;
use crate::provider::Provider;
use connection::Stream;
use tls::Faces;

/// How long a shutdown waits for what is in flight.
const DRAIN_MS_MAX: u64 = 5_000;

/// How many connections may wait to be accepted. Beyond it the system drops them, and a client tries again only after a
/// second: a burst of clients would measure that second.
const BACKLOG_MAX: u32 = 4_096;

/// How long accepting pauses after it failed. It fails where file descriptors run out, and then would fail at once again.
const ACCEPT_PAUSE_MS: u64 = 10;

/// A provider that serves HTTP/1.1 in the background. Dropping it ends every connection at once.
///
/// | request | answer |
/// |---|---|
/// | `POST /token` | tokens for `authorization_code`, `refresh_token`, `client_credentials` and the device flow; form or JSON body; subject to faults |
/// | `GET /authorize` | a consent form (PKCE: S256); with `&auto=allow` or `&auto=deny` the decision at once |
/// | `POST /device_authorization`, `GET /device` | RFC 8628; the page takes `?user_code=` and `&auto=` |
/// | `POST /introspect`, `POST /revoke` | RFC 7662, RFC 7009 |
/// | `/api/auth.revoke`, `/2/auth/token/revoke`, `DELETE /applications/{client_id}/grant` | as Slack, Dropbox and GitHub end a grant, each in its dialect |
/// | `GET /userinfo` | who consented (OpenID Connect Core, 5.3) |
/// | `GET /api/whoami` | 200 and what is known about the bearer's token, or 401: a stand-in for a resource |
/// | `GET /.well-known/oauth-authorization-server`, `/.well-known/openid-configuration` | RFC 8414, OpenID Connect Discovery |
/// | `GET /me`, `GET /oauth/token/accessible-resources` | as Atlassian's API answers |
/// | `/ex/jira/{cloudid}/rest/api/{2,3}/` | a small Jira Cloud: `serverInfo`, `myself`, `project`, `project/search`, `search/jql`, `issue/{key}`; `search` is gone (410); subject to faults of their own |
/// | `/rest/api/2/` | the same Jira as a Data Center, where `search` works |
/// | `POST /control/grants` | makes grants; a JSON array, lines where `Accept: application/x-ndjson` asks for them, or with `?as=token` one token set, as a token file has it |
/// | `POST /control/grants/LABEL/kill` | ends one |
/// | `GET /control/ledger` | everything; with `?summary=1` the totals, with `?label=LABEL` one grant |
/// | `GET /control/faults` | every kind of fault with an example, the plans, and what has happened |
/// | `POST /control/faults`, `POST /control/script` | sets the [`FaultPlan`]; queues faults; with `?at=api` for the Jira instead of the token endpoint |
/// | `POST /control/rate` | limits how often the Jira may be asked: `{"per_s": 5, "burst": 10}`, or `{}` for no limit |
/// | `GET /control/tls`, `POST /control/tls` | the authority's certificate (PEM); `{"face": "expired"}` sets the [`TlsFace`] |
/// | `POST /control/clock` | shifts the clock |
/// | `POST /control/down` | closes every connection and refuses all but control requests, for a time or until told |
/// | `POST /control/reset` | begins anew |
///
/// The control interface asks for no credentials and answers only clients on the same machine.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    state: Arc<State>,
    accepting: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens at `addr` (port 0: any free one) and serves from the current tokio runtime.
    pub async fn start(addr: SocketAddr, provider: Provider, plan: FaultPlan) -> io::Result<Self> {
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State::new(provider, plan));
        let serve = {
            let state = Arc::clone(&state);
            move |tcp, peer| connection::serve(Stream::Plain(tcp), peer, format!("http://{addr}"), Arc::clone(&state))
        };
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state), serve));
        Ok(Self { addr, tls_addr: None, state, accepting: vec![accepting] })
    }

    /// Listens with TLS too, at `addr` (port 0: any free one), with the same state behind. How it presents itself is
    /// set by [`State::set_tls_face`]. Gives the address.
    ///
    /// # Errors
    /// The address cannot be listened on, or no certificate can be made.
    pub async fn listen_tls(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let faces = Arc::new(Faces::new()?);
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        self.state.set_authority(&faces.authority_pem);
        let state = Arc::clone(&self.state);
        let serve = move |tcp, peer| connection::serve_tls(tcp, peer, addr, Arc::clone(&state), Arc::clone(&faces));
        self.accepting.push(tokio::spawn(accept(listener, Arc::clone(&self.state), serve)));
        self.tls_addr = Some(addr);
        Ok(addr)
    }

    /// Where it listens with TLS, if it does.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_addr
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Its state, for tests in the same process.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Stops accepting, cuts every wait short, lets what is in flight finish for at most 5 seconds, and ends the rest.
    pub async fn shutdown(mut self) {
        self.state.drain();
        for accepting in std::mem::take(&mut self.accepting) {
            // It fails only where the runtime ends.
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As every server: a restart takes over the port that its predecessor has just left.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG_MAX)
}

async fn accept<F>(listener: TcpListener, state: Arc<State>, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = state.drained() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => _ = connections.spawn(serve(tcp, peer)),
                Err(_) => sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is not finished by then ends with the set.
    let _ = timeout(Duration::from_millis(DRAIN_MS_MAX), drained).await;
}
