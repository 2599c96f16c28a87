//! A proxy that eats answers: what no server does on its own, and every network does.
//!
//! It reads the server's whole answer, so that the server has committed, and then resets the client's connection.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// A running proxy. It ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

/// What passed through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Answers that the server gave.
    pub answers: u64,
    /// Those of them that renewed a token.
    pub renewals: u64,
    /// Renewals whose answer was eaten.
    pub dropped: u64,
    /// Requests that brought the refresh token of an eaten answer again.
    pub repeated: u64,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    seed: u64,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    passed: Passed,
    /// The refresh tokens whose answers were eaten: the next answer to each arrives.
    eaten: HashSet<String>,
    /// How many answers might have been eaten so far.
    draws: u64,
}

impl Proxy {
    /// Stands in front of `upstream` and eats one renewal in five, never two of one connection running. The same seed
    /// eats the same ones, counted as they come.
    pub fn start(upstream: SocketAddr, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread for the proxy");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = runtime.block_on(TcpListener::bind(loopback)).expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let shared = Arc::new(Shared { upstream, seed, ledger: Mutex::default() });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What passed through it so far.
    pub fn passed(&self) -> Passed {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).passed
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Whatever ends a connection from this side is a reset, and nothing does but an eaten answer.
        stream.set_zero_linger().expect("the socket is open");
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // An error is an eaten answer, or a client that went away.
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Why a client gets no answer.
#[derive(Debug)]
struct NoAnswer(String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

impl From<hyper::Error> for NoAnswer {
    fn from(error: hyper::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let refresh_token = refresh_token(&body);
    let request = Request::from_parts(head, Full::new(body));
    let answer = whole_answer(shared.upstream, request).await?;
    if shared.eats(refresh_token, answer.status()) {
        return Err(NoAnswer("the answer is eaten".to_owned()));
    }
    Ok(answer)
}

fn refresh_token(form: &[u8]) -> Option<String> {
    let token = url::form_urlencoded::parse(form).find(|(name, _)| name == "refresh_token");
    token.map(|(_, token)| token.into_owned())
}

/// Asks the server on a connection of its own and reads to the end.
async fn whole_answer(server: SocketAddr, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, driver) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    // These are of the connection to the server; the one to the client has its own.
    for name in [hyper::header::CONNECTION, hyper::header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, Full::new(body)))
}

impl Shared {
    /// Counts an answer, and says whether it is eaten.
    fn eats(&self, refresh_token: Option<String>, status: StatusCode) -> bool {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.passed.answers += 1;
        let Some(token) = refresh_token else { return false };
        let is_repeated = ledger.eaten.remove(&token);
        ledger.passed.repeated += u64::from(is_repeated);
        if status != StatusCode::OK {
            return false;
        }
        ledger.passed.renewals += 1;
        if is_repeated {
            return false;
        }
        ledger.draws += 1;
        // Every eaten answer is asked for again, and then arrives: one in four of the others is one in five of all.
        let is_eaten = mixed(self.seed, ledger.draws).is_multiple_of(4);
        if is_eaten {
            ledger.passed.dropped += 1;
            ledger.eaten.insert(token);
        }
        is_eaten
    }
}

/// A number that looks random and follows from both arguments (SplitMix64).
fn mixed(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_renewal_in_five_is_eaten_and_its_repetition_arrives() {
        let shared = Shared { upstream: SocketAddr::from(([127, 0, 0, 1], 9)), seed: 7, ledger: Mutex::default() };
        for nth in 0..10_000 {
            let ask = || shared.eats(Some(nth.to_string()), StatusCode::OK);
            assert!(!(ask() && ask()), "two answers of one token were eaten");
        }
        assert!(!shared.eats(Some("refused".to_owned()), StatusCode::BAD_REQUEST));
        let passed = shared.ledger.lock().unwrap().passed;
        assert_eq!(passed.repeated, passed.dropped);
        let part = passed.dropped as f64 / passed.renewals as f64;
        assert!((0.19..0.21).contains(&part), "{passed:?}");
    }
}
