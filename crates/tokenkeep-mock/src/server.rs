//! The provider over HTTP/1.1.

mod body;
mod connection;
mod control;
mod routes;
mod state;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub use state::State;

use crate::fault::FaultPlan;
use crate::provider::Provider;

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
/// | `POST /token` | tokens for `refresh_token` and `client_credentials`; form or JSON body; subject to faults |
/// | `POST /introspect`, `POST /revoke` | RFC 7662, RFC 7009 |
/// | `GET /api/whoami` | 200 and what is known about the bearer's token, or 401: a stand-in for a resource |
/// | `GET /.well-known/oauth-authorization-server` | RFC 8414 |
/// | `POST /control/grants` | makes grants; a JSON array, or lines where `Accept: application/x-ndjson` asks for them |
/// | `POST /control/grants/LABEL/kill` | ends one |
/// | `GET /control/ledger` | everything; with `?summary=1` the totals, with `?label=LABEL` one grant |
/// | `POST /control/faults`, `POST /control/script` | sets the [`FaultPlan`]; queues faults |
/// | `POST /control/clock` | shifts the clock |
/// | `POST /control/down` | closes every connection and refuses all but control requests, for a time or until told |
/// | `POST /control/reset` | begins anew |
///
/// The control interface asks for no credentials and answers only clients on the same machine.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `addr` (port 0: any free one) and serves from the current tokio runtime.
    pub async fn start(addr: SocketAddr, provider: Provider, plan: FaultPlan) -> io::Result<Self> {
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State::new(provider, plan));
        let accepting = tokio::spawn(accept(listener, addr, Arc::clone(&state)));
        Ok(Self { addr, state, accepting: Some(accepting) })
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
        if let Some(accepting) = self.accepting.take() {
            // It fails only where the runtime ends.
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
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

async fn accept(listener: TcpListener, local: SocketAddr, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = state.drained() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection::serve(stream, peer, local, Arc::clone(&state)));
                }
                Err(_) => sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is not finished by then ends with the set.
    let _ = timeout(Duration::from_millis(DRAIN_MS_MAX), drained).await;
}
