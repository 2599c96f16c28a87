use super::*;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;

fn known(bytes: usize) -> CallerBody {
    CallerBody::new(Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}))
}

/// Pieces of this size, each after a pause; their number nobody tells.
fn pieces(count: usize, bytes: usize, pause: Duration) -> CallerBody {
    let pieces = futures_util::stream::unfold(0, move |nth| async move {
        tokio::time::sleep(pause).await;
        (nth < count).then(|| (Ok(Frame::data(Bytes::from(vec![b'x'; bytes]))), nth + 1))
    });
    CallerBody::new(StreamBody::new(pieces))
}

/// A body whose length is told, and which does not come.
struct Stalled;

impl Body for Stalled {
    type Data = Bytes;
    type Error = crate::endpoint::forward::BodyError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(5)
    }
}

/// How much is in hand, and whether that is all.
async fn ahead(body: CallerBody) -> (usize, bool) {
    let carried = read_ahead(body).await.unwrap();
    (carried.first.len(), carried.rest.is_none())
}

#[tokio::test(start_paused = true)]
async fn small_bodies_are_taken_into_hand_and_no_others() {
    assert_eq!(ahead(known(0)).await, (0, true));
    assert_eq!(ahead(known(REPLAY_BYTES_MAX)).await, (REPLAY_BYTES_MAX, true));
    assert_eq!(ahead(known(REPLAY_BYTES_MAX + 1)).await, (0, false));

    let soon = REPLAY_WAIT / 10;
    assert_eq!(ahead(pieces(3, 10, soon)).await, (30, true));
    let (taken, whole) = ahead(pieces(1_000, 10, soon)).await;
    assert!(!whole && taken < 110, "{taken} bytes");
    let (taken, whole) = ahead(pieces(100, REPLAY_BYTES_MAX / 10, Duration::ZERO)).await;
    assert!(!whole && taken <= REPLAY_BYTES_MAX + REPLAY_BYTES_MAX / 10, "{taken} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let begun = Instant::now();
    let failed = read_ahead(CallerBody::new(Stalled)).await.unwrap_err();
    assert!(matches!(failed, ForwardError::Body(_)), "{failed:?}");
    assert_eq!(begun.elapsed(), READ_AHEAD_WITHIN);
}

#[test]
fn one_provider_cannot_take_all_places() {
    let proxy = Proxy::default();
    let held: Vec<_> = (0..CALLS_PER_PROVIDER_MAX).map(|_| proxy.slots("slow").unwrap()).collect();
    assert!(matches!(proxy.slots("slow"), Err(ForwardError::Busy(CALLS_PER_PROVIDER_MAX))));
    let others: Vec<_> = (0..CALLS_MAX - held.len()).map(|nth| proxy.slots(&format!("p{nth}")).unwrap()).collect();
    assert!(matches!(proxy.slots("another"), Err(ForwardError::Busy(CALLS_MAX))));
    drop(held);
    assert!(proxy.slots("slow").is_ok());
    drop(others);
    drop(proxy.slots("slow"));
    assert_eq!(proxy.by_provider.lock().unwrap().len(), 1, "idle providers are forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_came_of_a_refused_one_is_not_reported_again_at_once() {
    let (proxy, key) = (Proxy::default(), ConnectionKey::in_default("jira").unwrap());
    assert!(!proxy.was_mended(&key, 2));
    proxy.note_mended(&key, 2);
    assert!(proxy.was_mended(&key, 2) && !proxy.was_mended(&key, 3));
    tokio::time::advance(MENDED_AGAIN_AFTER).await;
    assert!(!proxy.was_mended(&key, 2));
    proxy.note_mended(&key, 3);
    proxy.note_taken(&key);
    assert!(!proxy.was_mended(&key, 3), "it was taken since");
    for nth in 0..MENDED_MAX + 10 {
        proxy.note_mended(&ConnectionKey::in_default(format!("c{nth}")).unwrap(), 1);
    }
    assert_eq!(proxy.mended.lock().unwrap().len(), MENDED_MAX);
}
