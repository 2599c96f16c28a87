//! The bodies that the server sends: whole, cut short, or made piece by piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::fault::Drip;

/// A body of the server.
pub(crate) enum MockBody {
    /// Sent at once.
    Whole(Full<Bytes>),
    /// Announces more than it sends, or nothing, and then fails, which closes the connection.
    Cut(CutBody),
    /// Sent a few bytes at a time.
    Drip(DripBody),
    /// Made while it is sent, so that a million grants need not lie in memory as text.
    Pieces(Pieces),
}

/// Yields the next piece of a body, or nothing at its end.
pub(crate) type Pieces = Box<dyn FnMut() -> Option<Bytes> + Send>;

impl MockBody {
    pub fn whole(body: impl Into<Bytes>) -> Self {
        MockBody::Whole(Full::new(body.into()))
    }

    /// Announces `body` and sends its first `sent` bytes.
    pub fn cut(body: Bytes, sent: usize) -> Self {
        let announced = body.len() as u64;
        MockBody::Cut(CutBody { announced: SizeHint::with_exact(announced), ..CutBody::chunked(body, sent) })
    }

    /// Announces nothing, so that `body` goes in chunks, and sends its first `sent` bytes.
    pub fn chunked_cut(body: Bytes, sent: usize) -> Self {
        MockBody::Cut(CutBody::chunked(body, sent))
    }

    /// Sends `body` slowly.
    pub fn drip(body: Bytes, drip: Drip) -> Self {
        MockBody::Drip(DripBody { rest: body, drip, pause: None })
    }
}

pub(crate) struct DripBody {
    rest: Bytes,
    drip: Drip,
    pause: Option<Pin<Box<Sleep>>>,
}

impl DripBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.rest.split_to(self.drip.bytes.min(self.rest.len()));
        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(self.drip.every_ms))));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

pub(crate) struct CutBody {
    announced: SizeHint,
    sent: Option<Bytes>,
    flushed: bool,
}

impl CutBody {
    fn chunked(mut body: Bytes, sent: usize) -> Self {
        body.truncate(sent);
        Self { announced: SizeHint::default(), sent: Some(body), flushed: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(sent) = self.sent.take().filter(|sent| !sent.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(sent))));
        }
        if !self.flushed {
            // The connection writes out what it has before it asks again.
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Cut)))
    }
}

/// Closes a connection without another byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is closed on request")
    }
}

impl std::error::Error for Cut {}

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            MockBody::Whole(body) => Pin::new(body).poll_frame(cx).map_err(Cut::from),
            MockBody::Cut(body) => body.poll(cx),
            MockBody::Drip(body) => body.poll(cx),
            MockBody::Pieces(next) => Poll::Ready(next().map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            MockBody::Whole(body) => body.is_end_stream(),
            MockBody::Drip(body) => body.rest.is_empty(),
            MockBody::Cut(_) | MockBody::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            MockBody::Whole(body) => body.size_hint(),
            MockBody::Cut(body) => body.announced,
            MockBody::Drip(body) => SizeHint::with_exact(body.rest.len() as u64),
            MockBody::Pieces(_) => SizeHint::default(),
        }
    }
}
