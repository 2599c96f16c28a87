//! Against servers that are nothing but sockets: no HTTP library sits on the other side.

use super::*;
use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use tokenkeep_core::Secret;
use tokenkeep_core::oauth::request::Method;

const SECOND: Duration = Duration::from_secs(1);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A server in a thread of its own.
struct Server<T> {
    url: Url,
    thread: std::thread::JoinHandle<(T, TcpListener)>,
}

fn serve<T: Send + 'static>(script: impl FnOnce(&TcpListener) -> T + Send + 'static) -> Server<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token?a=b", listener.local_addr().unwrap()).parse().unwrap();
    Server { url, thread: std::thread::spawn(move || (script(&listener), listener)) }
}

impl<T> Server<T> {
    /// What the script returned. Nobody may have come whom it did not expect.
    async fn finish(self) -> T {
        while !self.thread.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (result, listener) = self.thread.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "somebody came once more");
        result
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(10 * SECOND)).unwrap();
    stream
}

/// Reads one request; empty when the client closed before it sent any.
fn read_request(stream: &mut impl Read) -> String {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    let complete = |seen: &[u8]| {
        let text = String::from_utf8_lossy(seen);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        (body.len() == length.parse::<usize>().unwrap()).then_some(())
    };
    while complete(&seen).is_none() && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

fn reply(stream: &mut impl Write, text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).unwrap();
}

/// How many bytes still come until the client closes.
fn bytes_until_end(stream: &mut impl Read) -> usize {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    rest.len()
}

/// One connection, one request, this answer, and then the end of the connection.
fn answering(answer: impl Into<Vec<u8>>) -> Server<String> {
    let answer = answer.into();
    serve(move |listener| {
        let mut stream = accept(listener);
        let request = read_request(&mut stream);
        // A client that has seen enough may hang up.
        let _ = stream.write_all(&answer);
        request
    })
}

fn endpoint() -> HttpEndpoint {
    endpoint_with(Options::default())
}

fn endpoint_with(options: Options) -> HttpEndpoint {
    HttpEndpoint::new(options)
}

fn hurried(timeouts: Timeouts) -> HttpEndpoint {
    endpoint_with(Options { timeouts, ..Options::default() })
}

fn token_request() -> ProviderRequest {
    ProviderRequest {
        method: Method::Post,
        authorization: Some(Secret::new("Basic YTpi")),
        headers: Cow::Borrowed(&[]),
        content_type: Some("application/x-www-form-urlencoded"),
        body: Secret::new("grant_type=refresh_token"),
    }
}

async fn exchange(endpoint: &HttpEndpoint, url: &Url, reuse: Reuse) -> Result<RawAnswer, SendFailure> {
    let channel = endpoint.connect(url, reuse).await.map_err(SendFailure::Unsent)?;
    channel.send(token_request(), 10 * SECOND).await
}

async fn unknown(endpoint: &HttpEndpoint, url: &Url) -> FailureCode {
    match exchange(endpoint, url, Reuse::Fresh).await {
        Err(SendFailure::Unknown(failure)) => failure.code,
        other => panic!("expected Unknown, got {other:?}"),
    }
}

/// Gives the connections' tasks time to notice what happened at their sockets.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_request_says_what_it_must_and_no_more() {
    let server = answering(OK);
    let answer = exchange(&endpoint(), &server.url, Reuse::Fresh).await.unwrap();
    assert_eq!((answer.status, &**answer.body), (200, b"{}".as_slice()));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    let host = format!("host: 127.0.0.1:{}", server.url.port().unwrap());
    let request = server.finish().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /token?a=b HTTP/1.1"));
    let mut headers: Vec<_> = lines.collect();
    headers.sort_unstable();
    let agent = format!("user-agent: tokenkeep/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        "accept: application/json",
        "authorization: Basic YTpi",
        "content-length: 24",
        "content-type: application/x-www-form-urlencoded",
        &host,
        &agent,
    ];
    assert_eq!(headers, expected);
    assert_eq!(body, "grant_type=refresh_token");
}

#[tokio::test]
async fn a_pooled_connection_that_died_before_the_request_is_unsent() {
    let (close, closing) = mpsc::channel();
    let server = serve(move |listener| {
        let mut stream = accept(listener);
        read_request(&mut stream);
        reply(&mut stream, OK);
        closing.recv().unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        bytes_until_end(&mut stream)
    });
    let endpoint = endpoint();
    exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    let channel = endpoint.connect(&server.url, Reuse::Pooled).await.unwrap();
    close.send(()).unwrap();
    settle().await;
    match channel.send(token_request(), SECOND).await {
        Err(SendFailure::Unsent(failure)) => assert_eq!(failure.code, FailureCode::ConnectionDead),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.finish().await, 0, "no byte of a request that is called unsent was sent");
}

#[tokio::test]
async fn a_fresh_connection_that_died_before_the_request_is_unsent() {
    let server = serve(|listener| {
        let mut stream = accept(listener);
        stream.shutdown(Shutdown::Write).unwrap();
        bytes_until_end(&mut stream)
    });
    match endpoint().connect(&server.url, Reuse::Fresh).await {
        Ok(channel) => {
            settle().await;
            let failed = channel.send(token_request(), SECOND).await;
            assert!(matches!(failed, Err(SendFailure::Unsent(failure)) if failure.code == FailureCode::ConnectFailed));
        }
        Err(failure) => assert_eq!(failure.code, FailureCode::ConnectFailed),
    }
    assert_eq!(server.finish().await, 0);
}

/// However the end of the connection and the request race, what is called unsent was never received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_between_close_and_request_never_lies() {
    let (mut unsent, mut not_unsent) = (0, 0);
    for round in 0..200 {
        let (close, closing) = mpsc::channel();
        let server = serve(move |listener| {
            let mut stream = accept(listener);
            read_request(&mut stream);
            reply(&mut stream, OK);
            closing.recv().unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            bytes_until_end(&mut stream)
        });
        let endpoint = endpoint();
        exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
        let channel = endpoint.connect(&server.url, Reuse::Pooled).await.unwrap();
        close.send(()).unwrap();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_micros(round % 50 * 4) {
            std::hint::spin_loop();
        }
        let outcome = channel.send(token_request(), SECOND).await;
        let received = server.finish().await;
        match outcome {
            Err(SendFailure::Unsent(_)) => {
                unsent += 1;
                assert_eq!(received, 0);
            }
            Err(SendFailure::Unknown(_)) => not_unsent += 1,
            Ok(answer) => panic!("{answer:?}"),
        }
    }
    println!("{unsent} unsent, {not_unsent} unknown");
}

#[tokio::test]
async fn a_pooled_connection_seen_dead_when_it_is_taken_is_replaced() {
    let server = serve(|listener| {
        for _ in 0..2 {
            let mut stream = accept(listener);
            read_request(&mut stream);
            reply(&mut stream, OK);
        }
    });
    let endpoint = endpoint();
    exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    settle().await;
    exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    server.finish().await;
}

#[tokio::test]
async fn nobody_knows_after_the_request_was_read() {
    for (answer, expected) in [
        ("", FailureCode::ConnectionLost),
        ("HTTP/1.1 200 OK\r\nContent-Le", FailureCode::ConnectionLost),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"", FailureCode::AnswerTruncated),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", FailureCode::AnswerTruncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"", FailureCode::AnswerTruncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", FailureCode::AnswerTruncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", FailureCode::AnswerTruncated),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", FailureCode::AnswerUnreadable),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", FailureCode::AnswerTooLarge),
    ] {
        let server = answering(answer);
        assert_eq!(unknown(&endpoint(), &server.url).await, expected, "{answer:?}");
        assert!(server.finish().await.ends_with("grant_type=refresh_token"));
    }
}

#[tokio::test]
async fn a_reset_after_the_request_was_read_is_unknown() {
    let server = serve(|listener| {
        let mut stream = accept(listener);
        let mut some = [0; 10];
        stream.read_exact(&mut some).unwrap();
        // Closing with bytes unread resets the connection.
    });
    assert_eq!(unknown(&endpoint(), &server.url).await, FailureCode::ConnectionLost);
    server.finish().await;
}

#[tokio::test]
async fn an_answer_has_a_size_up_to_which_it_is_taken() {
    let chunk = format!("{:x}\r\n{}\r\n", 16 * 1024, "x".repeat(16 * 1024));
    let chunked =
        |chunks: usize| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(chunks));
    let largest = answering(format!("{}0\r\n\r\n", chunked(4)));
    let answer = exchange(&endpoint(), &largest.url, Reuse::Fresh).await.unwrap();
    assert_eq!(answer.body.len(), ANSWER_BYTES_MAX);
    let headers = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(bytes));
    for too_large in [format!("{}1\r\nx\r\n", chunked(4)), chunked(100), headers(40_000), "x: y\r\n".repeat(9000)] {
        let too_large = too_large.replacen("x: y", "HTTP/1.1 200 OK\r\nx: y", 1);
        let server = answering(too_large);
        assert_eq!(unknown(&endpoint(), &server.url).await, FailureCode::AnswerTooLarge);
        server.finish().await;
    }
    let server = answering(headers(30_000));
    exchange(&endpoint(), &server.url, Reuse::Fresh).await.unwrap();
}

#[tokio::test]
async fn of_an_answer_that_may_be_cut_the_status_counts() {
    let endpoint = endpoint_with(Options { answer: AnswerLimit::Cut(100), ..Options::default() });
    let long = "x".repeat(ANSWER_BYTES_MAX);
    for (answer, bytes) in [
        (format!("HTTP/1.1 202 Accepted\r\nContent-Length: 99999999\r\n\r\n{long}"), 100),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 60\r\n\r\nbroken off".to_owned(), 10),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(), 0),
    ] {
        let server = answering(answer);
        let answer = exchange(&endpoint, &server.url, Reuse::Fresh).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (202, bytes));
        server.finish().await;
    }
}

#[tokio::test]
async fn what_users_name_is_looked_at_by_its_address_and_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let reach = |except: Vec<String>| endpoint_with(Options { reach: Reach::Public { except }, ..Options::default() });
    let url: Url = format!("https://localhost:{port}/").parse().unwrap();
    let failure = reach(Vec::new()).connect(&url, Reuse::Fresh).await.err().expect("it is refused");
    assert_eq!(failure.code, FailureCode::ConnectFailed);
    assert!(failure.detail.contains("no address of the public Internet"), "{failure:?}");
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let plain: Url = format!("http://localhost:{port}/").parse().unwrap();
    assert_eq!(reach(Vec::new()).connect(&plain, Reuse::Fresh).await.err().unwrap().code, FailureCode::WrongEndpoint);
    let allowed = reach(vec![format!("localhost:{port}")]);
    assert!(allowed.connect(&plain, Reuse::Fresh).await.is_ok());
}

#[tokio::test]
async fn a_slow_answer_times_out_and_is_unknown() {
    let (short, long) = (Duration::from_millis(80), 5 * SECOND);
    let silent = || {
        serve(|listener| {
            let mut stream = accept(listener);
            read_request(&mut stream);
            bytes_until_end(&mut stream)
        })
    };
    let server = silent();
    let endpoint = hurried(Timeouts { first_byte: short, ..Timeouts::default() });
    assert_eq!(unknown(&endpoint, &server.url).await, FailureCode::Timeout);
    assert_eq!(server.finish().await, 0, "the connection was closed with nothing more in it");

    let server = silent();
    let channel = hurried(Timeouts::default()).connect(&server.url, Reuse::Fresh).await.unwrap();
    let failed = channel.send(token_request(), short).await;
    assert!(matches!(failed, Err(SendFailure::Unknown(failure)) if failure.code == FailureCode::Timeout));
    server.finish().await;

    let server = serve(|listener| {
        let mut stream = accept(listener);
        read_request(&mut stream);
        reply(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let endpoint = hurried(Timeouts { first_byte: long, total: 2 * short, ..Timeouts::default() });
    let started = Instant::now();
    assert_eq!(unknown(&endpoint, &server.url).await, FailureCode::Timeout);
    assert!(started.elapsed() < 2 * SECOND);
    server.finish().await;
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let server = answering(answer);
    assert_eq!(exchange(&endpoint(), &server.url, Reuse::Fresh).await.unwrap().status, 302);
    server.finish().await;
}

#[tokio::test]
async fn an_interim_answer_is_none() {
    let server = answering(format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n{OK}"));
    assert_eq!(exchange(&endpoint(), &server.url, Reuse::Fresh).await.unwrap().status, 200);
    server.finish().await;
}

/// Serves `connections` in turn, each with as many requests as come, and says how many each had.
fn counting(connections: usize, answer: &'static str) -> Server<Vec<usize>> {
    serve(move |listener| {
        let count = move |mut stream: TcpStream| {
            let mut requests = 0;
            while !read_request(&mut stream).is_empty() {
                requests += 1;
                reply(&mut stream, answer);
            }
            requests
        };
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let stream = accept(listener);
                std::thread::spawn(move || count(stream))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[tokio::test]
async fn pooled_requests_share_a_connection_and_fresh_ones_never_do() {
    let server = counting(3, OK);
    let endpoint = endpoint();
    let mut other_path = server.url.clone();
    other_path.set_path("/other");
    for url in [&server.url, &other_path, &server.url] {
        exchange(&endpoint, url, Reuse::Pooled).await.unwrap();
    }
    for _ in 0..2 {
        exchange(&endpoint, &server.url, Reuse::Fresh).await.unwrap();
    }
    exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    drop(endpoint);
    assert_eq!(server.finish().await, [4, 1, 1]);
}

#[tokio::test]
async fn the_pool_has_a_size_and_gives_the_last_used_first() {
    let server = counting(4, OK);
    let endpoint = endpoint_with(Options { pool_idle_max: 2, ..Options::default() });
    let mut channels = Vec::new();
    for _ in 0..3 {
        channels.push(endpoint.connect(&server.url, Reuse::Pooled).await.unwrap());
    }
    for channel in channels {
        channel.send(token_request(), SECOND).await.unwrap();
    }
    for _ in 0..5 {
        exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    }
    let kept = [
        endpoint.connect(&server.url, Reuse::Pooled).await.unwrap(),
        endpoint.connect(&server.url, Reuse::Pooled).await.unwrap(),
    ];
    let fourth = endpoint.connect(&server.url, Reuse::Pooled).await.unwrap();
    fourth.send(token_request(), SECOND).await.unwrap();
    drop((endpoint, kept));
    assert_eq!(server.finish().await, [1, 1, 6, 1], "the first was one too many, the third was used again and again");
}

#[tokio::test]
async fn a_server_that_says_close_is_not_asked_again() {
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    let server = counting(2, closing);
    let endpoint = endpoint();
    for _ in 0..2 {
        exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    }
    assert_eq!(server.finish().await, [1, 1]);
}

#[tokio::test]
async fn idle_connections_and_their_tasks_end_by_themselves() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let server = counting(1, OK);
    let endpoint = endpoint_with(Options { pool_idle_timeout: Duration::from_millis(60), ..Options::default() });
    exchange(&endpoint, &server.url, Reuse::Pooled).await.unwrap();
    assert_eq!(tasks(), before + 2, "a driver and a reaper");
    assert_eq!(server.finish().await, [1], "the server saw the end of it while the endpoint was still there");
    settle().await;
    assert_eq!(tasks(), before);
    drop(endpoint);
}

#[tokio::test]
async fn a_channel_that_is_dropped_ends_its_connection() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let server = counting(1, OK);
    drop(endpoint().connect(&server.url, Reuse::Fresh).await.unwrap());
    assert_eq!(server.finish().await, [0]);
    settle().await;
    assert_eq!(tasks(), before);
}

/// A stream that takes everything, says nothing, and never finishes closing.
struct Stuck;

impl hyper::rt::Read for Stuck {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: hyper::rt::ReadBufCursor<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Pending
    }
}

impl hyper::rt::Write for Stuck {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_connection_that_never_finishes_closing_leaves_no_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let connection: Connection = Connection::over(Stuck, &Timeouts::default()).await.unwrap();
    assert_eq!(tasks(), before + 1);
    drop(connection);
    settle().await;
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn what_cannot_be_reached_says_how_far_it_came() {
    let timeouts = Timeouts { connect: 2 * SECOND, ..Timeouts::default() };
    let options = Options { allow_http_hosts: vec!["169.254.169.254".into()], timeouts, ..Options::default() };
    let endpoint = endpoint_with(options);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    for (url, expected) in [
        (closed.as_str(), FailureCode::ConnectFailed),
        ("http://169.254.169.254/latest/meta-data", FailureCode::ConnectFailed),
        ("http://nobody.invalid/", FailureCode::WrongEndpoint),
        ("http://nobody.localhost.invalid/", FailureCode::WrongEndpoint),
    ] {
        let failure = endpoint.connect(&url.parse().unwrap(), Reuse::Pooled).await.err().unwrap();
        assert_eq!(failure.code, expected, "{url}: {failure:?}");
    }
    let options = Options { allow_http_hosts: vec!["nobody.invalid".into()], timeouts, ..Options::default() };
    let unresolved = endpoint_with(options).connect(&"http://nobody.invalid/".parse().unwrap(), Reuse::Pooled).await;
    assert_eq!(unresolved.err().unwrap().code, FailureCode::DnsFailed);
}

#[tokio::test]
async fn credentials_that_fit_no_header_are_unsent() {
    let server = serve(|listener| bytes_until_end(&mut accept(listener)));
    let channel = endpoint().connect(&server.url, Reuse::Fresh).await.unwrap();
    let request = ProviderRequest { authorization: Some(Secret::new("Basic a\r\nX: y")), ..token_request() };
    let failed = channel.send(request, SECOND).await;
    assert!(matches!(failed, Err(SendFailure::Unsent(failure)) if failure.code == FailureCode::InvalidRequest));
    assert_eq!(server.finish().await, 0);
}

/// A TLS server for `name`, its certificate, and how many bytes of requests it received.
fn serve_tls(name: &str) -> (Server<usize>, CertificateDer<'static>) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let server = serve(move |listener| {
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, accept(listener));
        let request = read_request(&mut stream);
        if !request.is_empty() {
            reply(&mut stream, OK);
            stream.flush().unwrap();
        }
        request.len()
    });
    (server, cert.der().clone())
}

fn https(url: &Url) -> Url {
    url.as_str().replace("http://127.0.0.1", "https://localhost").parse().unwrap()
}

#[tokio::test]
async fn a_trusted_server_is_spoken_to() {
    let (server, certificate) = serve_tls("localhost");
    let endpoint = endpoint_with(Options { extra_roots: vec![certificate], ..Options::default() });
    assert_eq!(exchange(&endpoint, &https(&server.url), Reuse::Pooled).await.unwrap().status, 200);
    assert!(server.finish().await > 100);
}

#[tokio::test]
async fn a_server_that_is_not_trusted_receives_nothing() {
    let another = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    let (untrusted, _) = serve_tls("localhost");
    let (misnamed, certificate) = serve_tls("other.test");
    for (server, root) in [(untrusted, another), (misnamed, certificate)] {
        let endpoint = endpoint_with(Options { extra_roots: vec![root], ..Options::default() });
        let failure = endpoint.connect(&https(&server.url), Reuse::Fresh).await.err().unwrap();
        assert_eq!(failure.code, FailureCode::TlsName, "{failure:?}");
        assert_eq!(server.finish().await, 0);
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_receives_no_request() {
    let root = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    let timeouts = Timeouts { tls: Duration::from_millis(300), ..Timeouts::default() };
    let endpoint = endpoint_with(Options { extra_roots: vec![root], timeouts, ..Options::default() });
    for answer in [Some(OK), None] {
        let server = serve(move |listener| {
            let mut stream = accept(listener);
            if let Some(answer) = answer {
                reply(&mut stream, answer);
            }
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received);
            received
        });
        let failure = endpoint.connect(&https(&server.url), Reuse::Fresh).await.err().unwrap();
        assert_eq!(failure.code, FailureCode::TlsFailed, "{failure:?}");
        let received = server.finish().await;
        assert!(!received.windows(4).any(|window| window == b"POST"), "a client hello and no request");
    }
}

#[test]
fn retry_after_is_a_span_whichever_way_it_is_written() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 2044 08:49:37 GMT").unwrap();
    let read = |pairs: &[(HeaderName, &str)]| {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        retry_after(&headers, now)
    };
    let seconds = |count| Some(Duration::from_secs(count));
    assert_eq!(read(&[]), None);
    assert_eq!(read(&[(RETRY_AFTER, "120")]), seconds(120));
    assert_eq!(read(&[(RETRY_AFTER, " 0 ")]), seconds(0));
    assert_eq!(read(&[(RETRY_AFTER, "99999999999999999999999")]), seconds(RETRY_AFTER_SECONDS_MAX));
    for nonsense in ["soon", "", "-1", "1.5", "1e3"] {
        assert_eq!(read(&[(RETRY_AFTER, nonsense)]), None, "{nonsense}");
    }
    let date = (RETRY_AFTER, "Sun, 06 Nov 2044 08:50:07 GMT");
    assert_eq!(read(std::slice::from_ref(&date)), seconds(30), "against our clock");
    assert_eq!(
        read(&[date.clone(), (DATE, "Sun, 06 Nov 2044 08:50:00 GMT")]),
        seconds(7),
        "against the server's clock"
    );
    assert_eq!(read(&[date, (DATE, "Sun, 06 Nov 2044 08:51:00 GMT")]), seconds(0), "in the past");
}

#[test]
fn a_growing_body_keeps_its_bytes() {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4));
    for piece in [b"ab".as_slice(), b"cdefgh", b"", b"ijk"] {
        append(&mut bytes, piece);
    }
    assert_eq!(&**bytes, b"abcdefghijk");
}
