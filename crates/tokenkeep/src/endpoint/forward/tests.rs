use super::*;
use crate::endpoint::hosts::{ApiHost, target};
use http_body_util::{BodyExt, StreamBody};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a request may make no progress in these tests.
const PATIENCE: Duration = Duration::from_millis(300);

fn forwarder() -> Forwarder {
    let timeouts = Timeouts { first_byte: PATIENCE, ..Timeouts::default() };
    Forwarder { timeouts, ..Forwarder::default() }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn place(address: SocketAddr) -> Place {
    target(&[ApiHost::configured(&format!("http://{address}")).unwrap()], None).unwrap()
}

/// Sends these bytes; a piece beyond the first comes later than [`PATIENCE`] allows in all.
async fn send(
    forwarder: &Forwarder,
    place: &Place,
    pieces: &'static [&'static str],
) -> Result<Response<Answer>, SendFailure> {
    let rest = futures_util::stream::unfold(0, move |nth| async move {
        let piece = pieces.get(nth)?;
        tokio::time::sleep(PATIENCE * 2 / 3).await;
        Some((Ok(Frame::data(Bytes::from_static(piece.as_bytes()))), nth + 1))
    });
    let rest = (!pieces.is_empty()).then(|| CallerBody::new(StreamBody::new(rest)));
    let call = Call {
        place,
        method: Method::POST,
        path: PathAndQuery::from_static("/x"),
        headers: HeaderMap::new(),
        token: &Secret::new("at-1"),
        body: Carried { first: Bytes::from_static(b"first"), rest },
    };
    forwarder.send(call, ()).await
}

/// Reads a request until `end`, and answers.
async fn answer(stream: &mut TcpStream, end: &str, answer: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with(end) {
        let mut buffer = [0; 1024];
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert_ne!(bytes, 0, "the request ended early: {seen:?}");
        seen.extend_from_slice(&buffer[..bytes]);
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(seen).unwrap()
}

async fn text(answer: Response<Answer>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn one_connection_carries_one_call_after_the_other() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = String::new();
        for _ in 0..2 {
            seen = answer(&mut stream, "first", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
        // The second call found the connection of the first: this one is for the third.
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, "first", "HTTP/1.1 204 No Content\r\n\r\n").await;
        seen
    });
    let (forwarder, place) = (forwarder(), place(address));
    for _ in 0..2 {
        assert_eq!(text(send(&forwarder, &place, &[]).await.unwrap()).await, "ok");
    }
    while forwarder.pool(&place).take().await.is_some() {}
    assert_eq!(send(&forwarder, &place, &[]).await.unwrap().status(), 204);
    let seen = server.await.unwrap();
    for line in
        ["POST /x HTTP/1.1\r\n", "authorization: Bearer at-1\r\n", "content-length: 5\r\n", "user-agent: tokenkeep/"]
    {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    assert!(seen.contains(&format!("host: {address}\r\n")), "{seen}");
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_given_up() {
    let (listener, address) = listen().await;
    let begun = Instant::now();
    let failed = send(&forwarder(), &place(address), &[]).await.unwrap_err();
    assert!(matches!(&failed, SendFailure::Unknown(failure) if failure.code == FailureCode::Timeout), "{failed:?}");
    assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test]
async fn a_slow_body_that_goes_on_is_waited_for() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, "\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    });
    let begun = Instant::now();
    assert_eq!(text(send(&forwarder(), &place(address), &["a", "b", "c"]).await.unwrap()).await, "ok");
    assert!(begun.elapsed() > PATIENCE, "{:?}", begun.elapsed());
    assert!(server.await.unwrap().contains("transfer-encoding: chunked"));
}

#[tokio::test]
async fn what_is_no_answer_is_told_by_whether_it_was_sent() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        for reply in
            ["HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "nonsense\r\n\r\n", ""]
        {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, "first", reply).await;
        }
    });
    let (forwarder, place) = (forwarder(), place(address));
    for _ in 0..3 {
        let failed = send(&forwarder, &place, &[]).await.unwrap_err();
        assert!(matches!(failed, SendFailure::Unknown(_)), "{failed:?}");
    }
    server.await.unwrap();
    let failed = send(&forwarder, &place, &[]).await.unwrap_err();
    assert!(matches!(failed, SendFailure::Unsent(_)), "nobody listens any more: {failed:?}");
}

#[tokio::test]
async fn a_host_of_the_catalogue_with_a_private_address_is_not_connected_to() {
    let (listener, address) = listen().await;
    for host in [format!("localhost:{}", address.port()), address.to_string()] {
        let place = target(&[ApiHost::known(&host).unwrap()], None).unwrap();
        let failed = send(&forwarder(), &place, &[]).await.unwrap_err();
        let SendFailure::Unsent(failure) = &failed else { panic!("{failed:?}") };
        assert!(failure.detail.contains("not a public address"), "{failure:?}");
    }
    let connected = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(connected.is_err(), "not even a connection was opened");
}

#[tokio::test]
async fn an_answer_that_is_dropped_early_closes_its_connection() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, "first", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
        stream.read(&mut [0; 1]).await.unwrap_or(0)
    });
    let answer = send(&forwarder(), &place(address), &[]).await.unwrap();
    drop(answer);
    assert_eq!(server.await.unwrap(), 0, "it is closed");
}
