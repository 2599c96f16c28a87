//! HTTP/1.1 on a listener: limits, peers, and an end that waits for what is in flight.

mod bodies;
mod places;

pub use bodies::TooSlow;
pub use places::Place;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bodies::Patience;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use places::Places;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// The most connections of one listener; for one more, the one makes room that has waited longest for its client.
pub const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// A client that takes nothing of an answer for this long is dropped: it would hold its place for ever.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting pauses after it failed: it does so where file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the end waits for answers in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Who is at the other end. Every request carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A process of this user, on the socket.
    User(u32),
    /// Somebody on the network, or in another process.
    Network(SocketAddr),
}

/// Where connections come from.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection that may ask; `None` for one that may not, and was closed.
    fn accept(&self) -> impl Future<Output = io::Result<Option<(Self::Stream, Peer)>>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<Option<(TcpStream, Peer)>> {
        let (stream, address) = Self::accept(self).await?;
        // Answers are written whole; waiting for more to send only delays them.
        stream.set_nodelay(true)?;
        Ok(Some((stream, Peer::Network(address))))
    }
}

/// The socket in the state folder: answers this user, and root.
#[derive(Debug)]
pub struct OwnerSocket {
    listener: UnixListener,
    owner: u32,
}

impl OwnerSocket {
    /// Answers the user that this process runs as.
    #[must_use]
    pub fn new(listener: UnixListener) -> Self {
        Self { listener, owner: rustix::process::geteuid().as_raw() }
    }
}

impl Accept for OwnerSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<Option<(UnixStream, Peer)>> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?.uid();
        if may_ask(peer, self.owner) {
            return Ok(Some((stream, Peer::User(peer))));
        }
        tracing::warn!(uid = peer, "another user's connection to the socket was closed");
        Ok(None)
    }
}

fn may_ask(peer: u32, owner: u32) -> bool {
    peer == owner || peer == 0
}

/// Serves `app` until `stop` turns true, then waits for answers in flight, at most [`DRAIN_MAX`].
pub async fn serve(listener: impl Accept, app: Router, stop: watch::Receiver<bool>) {
    serve_within(WRITE_TIMEOUT, listener, |stream| std::future::ready(Ok(stream)), app, stop).await;
}

/// The same inside TLS. A client has as long for the handshake as for a request's head.
pub async fn serve_tls(listener: TcpListener, acceptor: TlsAcceptor, app: Router, stop: watch::Receiver<bool>) {
    let shake_hands = move |stream| {
        let handshake = acceptor.accept(stream);
        async { tokio::time::timeout(HEAD_TIMEOUT, handshake).await.map_err(|_| io::ErrorKind::TimedOut)? }
    };
    serve_within(WRITE_TIMEOUT, listener, shake_hands, app, stop).await;
}

async fn serve_within<L, S, F>(
    write_timeout: Duration,
    listener: L,
    establish: impl Fn(L::Stream) -> F,
    app: Router,
    mut stop: watch::Receiver<bool>,
) where
    L: Accept,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let places = Places::new(CONNECTIONS_MAX);
    while let Some((stream, peer, place)) = next(&listener, &places, &mut stop).await {
        let (of_request, of_answer) = (Arc::clone(&place), Arc::clone(&place));
        let patience = match peer {
            Peer::User(_) => Patience::Endless,
            Peer::Network(_) => Patience::Limited,
        };
        let with_peer = move |request: Request<Incoming>| {
            let mut request = bodies::watched(request, &of_request, patience);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&of_request));
            request
        };
        let answered = move |answer: Response<Body>| bodies::answered(answer, &of_answer);
        let service = TowerToHyperService::new(app.clone().map_request(with_peer).map_response(answered));
        let (established, watcher) = (establish(stream), graceful.watcher());
        tokio::spawn(async move {
            let served = async {
                let mut stream = match established.await {
                    Ok(stream) => TimeoutStream::new(stream),
                    Err(error) => return tracing::debug!(%error, "a connection was not established"),
                };
                stream.set_write_timeout(Some(write_timeout));
                let connection = http().serve_connection(TokioIo::new(Box::pin(stream)), service);
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%error, "a connection ended early");
                }
            };
            tokio::select! {
                () = served => {}
                () = place.asked_to_end() => tracing::debug!("a connection that waited made room for another"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy at the end");
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    http
}

/// The next connection and its place; `None` when it is time to stop.
async fn next<L: Accept>(
    listener: &L,
    places: &Arc<Places>,
    stop: &mut watch::Receiver<bool>,
) -> Option<(L::Stream, Peer, Arc<Place>)> {
    let accepted = async {
        loop {
            match listener.accept().await {
                Ok(Some((stream, peer))) => return Some((stream, peer, places.take().await)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => None,
        accepted = accepted => accepted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn only_this_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }

    #[tokio::test]
    async fn whoever_says_nothing_makes_room_for_whoever_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "hello" })), stopped));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = tokio::time::timeout(HEAD_TIMEOUT / 2, ask(&mut stream)).await.expect("before any of them ends");
        assert!(answer.ends_with("hello"), "{answer}");
        server.abort();
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_stop_lets_the_answer_in_flight_finish() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            "done"
        };
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Router::new().route("/", get(slow)), stopped));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = tokio::spawn(async move { ask(&mut stream).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send(true).unwrap();
        assert!(asked.await.unwrap().ends_with("done"));
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = || async {
            let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(vec![0; 64 * 1024]));
            axum::body::Body::from_stream(pieces)
        };
        let (_stop, stopped) = watch::channel(false);
        let app = Router::new().route("/", get(endless));
        let server = tokio::spawn(serve_within(
            Duration::from_millis(100),
            listener,
            |stream| std::future::ready(Ok(stream)),
            app,
            stopped,
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        // Nothing is read, until the server has closed its side: then writing fails.
        let dropped = async {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), dropped).await.expect("the connection is closed");
        server.abort();
    }

    #[tokio::test]
    async fn the_socket_answers_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = OwnerSocket::new(UnixListener::bind(&path).unwrap());
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(socket, Router::new().route("/", get(|| async { "hello" })), stopped));
        let answer = tokio::task::spawn_blocking(move || {
            let client = crate::client::Client::new(path);
            client.get("/").unwrap().body
        });
        assert_eq!(answer.await.unwrap(), b"hello");
        stop.send(true).unwrap();
        server.await.unwrap();
    }
}
