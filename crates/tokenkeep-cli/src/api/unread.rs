//! A body that its handler did not read, as when the path was wrong already: hyper would close the connection behind the
//! answer without a word, and a client's next request on it would fail. So the rest is read first, or the answer says
//! that the connection ends.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest rest that is read.
const REST_MAX: usize = 64 * 1024;
/// How long a client may take to send it.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// Reads what is left of a body that its handler has done with.
pub async fn read_rest(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let kept = Arc::new(Mutex::new(body));
    let lent = Body::new(Lent(Arc::clone(&kept)));
    let mut response = next.run(Request::from_parts(head, lent)).await;
    // Where somebody has it still, the answer goes on while it is read.
    if let Ok(body) = Arc::try_unwrap(kept)
        && !is_read(body.into_inner().unwrap_or_else(PoisonError::into_inner)).await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn is_read(mut body: Body) -> bool {
    let read = async {
        let mut rest = 0;
        while rest <= REST_MAX {
            match body.frame().await {
                Some(Ok(frame)) => rest += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    };
    tokio::time::timeout(REST_WITHIN, read).await.unwrap_or(false)
}

/// The body as a handler has it.
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn with<T>(&self, work: impl FnOnce(&mut Body) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = vec![0; 4_096];
        let length = stream.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// The head first, and the body a moment later, as many clients send them.
    async fn in_two_pieces(stream: &mut TcpStream, length: usize, sent: usize) -> String {
        let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&vec![b'x'; sent]).await.unwrap();
        answer(stream).await
    }

    #[tokio::test]
    async fn a_connection_outlives_a_body_that_nobody_reads_or_is_told_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", post(|| async { "no" })).layer(from_fn(read_rest));
        let (_stop, stopped) = watch::channel(false);
        let server = tokio::spawn(crate::server::serve(listener, app, stopped));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let said = in_two_pieces(&mut stream, 600, 600).await;
            assert!(said.ends_with("no") && !said.contains("connection: close"), "{said}");
        }
        let said = in_two_pieces(&mut stream, 10_000_000, 100_000).await;
        assert!(said.ends_with("no") && said.contains("connection: close"), "{said}");
        server.abort();
    }
}
