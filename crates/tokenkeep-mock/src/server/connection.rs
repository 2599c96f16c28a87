//! One connection: its socket, its requests, and its end.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::routes;
use super::state::State;

/// What a connection's requests may decide about the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The server's own address, which its metadata names.
    pub local: SocketAddr,
    /// Whether the client is on this machine, and may use the control interface.
    pub is_loopback: bool,
    /// Its end is a reset (RST) instead of a close (FIN).
    pub reset: AtomicBool,
    /// Its last request was a control request, so it survives when the provider goes down.
    pub controls: AtomicBool,
}

/// Serves one connection until either side ends it.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, local: SocketAddr, state: Arc<State>) {
    // Without it, answers could wait for the client's acknowledgements. It fails only where the client has gone.
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection {
        local,
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

/// A socket that ends as its connection decided.
struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed) {
            // If it fails, the client sees a close instead of a reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
