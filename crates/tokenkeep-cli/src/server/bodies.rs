//! The bodies of requests and answers, with an eye on whom their connection waits for, and for how long.

use super::places::Place;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a body may be waited for in all, on a connection that anybody can make.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(20);
/// What comes faster than this is waited for longer.
pub const BODY_BYTES_PER_SECOND_MIN: u64 = 500;

/// A body that did not come in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body did not come in time")
    }
}

impl std::error::Error for TooSlow {}

/// Whether bodies must come in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// For the owner's own programs, which may write a line an hour.
    Endless,
    /// For everybody else.
    Limited,
}

/// A request whose body is watched; its connection works from now on.
pub fn watched(request: Request<Incoming>, place: &Arc<Place>, patience: Patience) -> Request<Body> {
    place.works();
    let place = Arc::clone(place);
    request.map(|body| Body::new(Asked { body, place, pace: Pace::new(patience) }))
}

/// An answer; when it was given or given up, its connection waits for the next request.
pub fn answered(answer: Response<Body>, place: &Arc<Place>) -> Response<Body> {
    let place = Arc::clone(place);
    answer.map(|body| Body::new(Given { body, place }))
}

struct Asked<B> {
    body: B,
    place: Arc<Place>,
    pace: Pace,
}

/// How long was waited, and what came.
struct Pace {
    patience: Patience,
    waited: Duration,
    bytes: u64,
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    fn new(patience: Patience) -> Self {
        Self { patience, waited: Duration::ZERO, bytes: 0, waits: None }
    }

    fn came(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waits.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes as u64;
    }

    /// Ready when it was waited for too long.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.patience == Patience::Endless {
            return Poll::Pending;
        }
        let most = BODY_WAIT_MAX + Duration::from_secs(self.bytes / BODY_BYTES_PER_SECOND_MIN);
        let left = most.saturating_sub(self.waited);
        let (_, timer) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        timer.as_mut().poll(context)
    }
}

impl<B> HttpBody for Asked<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
                this.pace.came(data.map_or(0, Bytes::len));
                this.place.works();
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                this.place.waits();
                this.pace.poll_wait(context).map(|()| {
                    // For an answer that says so.
                    this.place.works();
                    Some(Err(TooSlow.into()))
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Given {
    body: Body,
    place: Arc<Place>,
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.place.waits();
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::Places;
    use super::*;
    use axum::body::to_bytes;
    use futures_util::stream;

    /// What becomes of a body of which a piece comes so often.
    async fn read(patience: Patience, piece: usize, every: Duration, pieces: usize) -> Result<usize, String> {
        let place = Places::new(1).take().await;
        let pieces = stream::unfold(0, move |nth| async move {
            tokio::time::sleep(every).await;
            (nth < pieces).then(|| (Ok::<_, std::convert::Infallible>(Bytes::from(vec![0; piece])), nth + 1))
        });
        let body = Asked { body: Body::from_stream(pieces), place, pace: Pace::new(patience) };
        to_bytes(Body::new(body), usize::MAX).await.map(|bytes| bytes.len()).map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_in_time_or_not_at_all() {
        let second = Duration::from_secs(1);
        assert_eq!(read(Patience::Limited, 1, second, 15).await, Ok(15));
        assert_eq!(read(Patience::Limited, 1, second, 60).await, Err(TooSlow.to_string()));
        assert_eq!(read(Patience::Limited, 1, second * 60, 1).await, Err(TooSlow.to_string()));
        assert_eq!(read(Patience::Limited, 1_000, second, 60).await, Ok(60_000), "slow, and fast enough");
        assert_eq!(read(Patience::Endless, 1, second * 60, 60).await, Ok(60));
    }
}
