//! One connection: its socket, its requests, and its end.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::routes;
use super::state::State;
use super::tls::{Faces, TlsFace};

/// How long a client may take to shake hands.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long a client's first message may be; a longer one makes a cut handshake end with a reset.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What a connection's requests may decide about the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The URL of the server as this connection reaches it, which its metadata names.
    pub origin: String,
    /// Whether the client is on this machine, and may use the control interface.
    pub is_loopback: bool,
    /// Its end is a reset (RST) instead of a close (FIN).
    pub reset: AtomicBool,
    /// Its last request was a control request, so it survives when the provider goes down.
    pub controls: AtomicBool,
}

/// Greets a TLS client with the face of the moment, and serves it.
pub(crate) async fn serve_tls(
    mut tcp: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    state: Arc<State>,
    faces: Arc<Faces>,
) {
    let face = state.tls_face();
    let Some(acceptor) = faces.acceptor(face) else {
        if face == TlsFace::Plain {
            return serve(Stream::Plain(tcp), peer, format!("https://{local}"), state).await;
        }
        // What the client says first is read, so that it sees a close and no reset.
        let _ = timeout(HANDSHAKE_MAX, tcp.read(&mut [0; HELLO_BYTES_MAX])).await;
        return;
    };
    if let Ok(Ok(tls)) = timeout(HANDSHAKE_MAX, acceptor.accept(tcp)).await {
        serve(Stream::Tls(Box::new(tls)), peer, format!("https://{local}"), state).await;
    }
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve(stream: Stream, peer: SocketAddr, origin: String, state: Arc<State>) {
    // Without it, answers could wait for the client's acknowledgements. It fails only where the client has gone.
    let _ = stream.tcp().set_nodelay(true);
    let connection = Arc::new(Connection {
        origin,
        is_loopback: peer.ip().to_canonical().is_loopback(),
        reset: AtomicBool::new(false),
        controls: AtomicBool::new(false),
    });
    let mut signal = state.signal();
    let seen = *signal.borrow_and_update();
    let socket = TokioIo::new(Socket { stream, connection: Arc::clone(&connection) });
    let service = service_fn({
        let connection = Arc::clone(&connection);
        move |request| routes::answer(Arc::clone(&state), Arc::clone(&connection), request)
    });
    let mut serving = pin!(http1::Builder::new().serve_connection(socket, service));
    if seen.draining {
        serving.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            biased;
            // An error is a client that went away, or a cut that was asked for.
            _ = serving.as_mut() => return,
            changed = signal.changed() => {
                let now = *signal.borrow_and_update();
                if now.draining || changed.is_err() {
                    serving.as_mut().graceful_shutdown();
                }
                if now.cuts != seen.cuts && !connection.controls.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

/// The bytes of one connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// A socket that ends as its connection decided.
struct Socket {
    stream: Stream,
    connection: Arc<Connection>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed) {
            // If it fails, the client sees a close instead of a reset.
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}

/// Calls one method of whichever stream it is.
macro_rules! on_stream {
    ($socket:expr, $method:ident($($argument:expr),*)) => {
        match &mut $socket.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_shutdown(cx))
    }
}
