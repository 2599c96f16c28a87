//! A small blocking HTTP/1.1 client: one connection a request, over TCP or a Unix socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest time that an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, as it was sent.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; panics where it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// Header lines, without the ones that every request has.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a str,
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path, headers: &[], body: "" }
    }

    /// `GET`.
    pub fn get(path: &'a str) -> Self {
        Self::new("GET", path)
    }

    /// `POST` with a body of this media type, which is the only header.
    pub fn post(path: &'a str, headers: &'a [(&'a str, &'a str)], body: &'a str) -> Self {
        Self { method: "POST", path, headers, body }
    }

    /// Asks at a Unix socket.
    ///
    /// # Errors
    /// Nobody listens, or the answer is none.
    pub fn at_socket(&self, socket: &Path) -> std::io::Result<Answer> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        self.send(stream, "localhost")
    }

    /// Asks at `host:port`.
    ///
    /// # Errors
    /// As [`Request::at_socket`].
    pub fn at_address(&self, address: &str) -> std::io::Result<Answer> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        self.send(stream, address)
    }

    /// Asks at `host:port`, and says itself to whom: for requests that no client makes. `Host` is among the headers, or
    /// there is none.
    ///
    /// # Errors
    /// As [`Request::at_socket`].
    pub fn as_it_is(&self, address: &str) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(self.head("").as_bytes())?;
        // An answer may come, and the connection be closed, before the body is taken.
        let _ = stream.write_all(self.body.as_bytes());
        whole(stream)
    }

    fn head(&self, host: &str) -> String {
        let Self { method, path, headers, body } = self;
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{lines}content-length: {length}\r\n\r\n")
    }

    fn send(&self, mut stream: impl Read + Write, host: &str) -> std::io::Result<Answer> {
        let head = self.head(&format!("host: {host}\r\n"));
        stream.write_all(&[head.as_bytes(), self.body.as_bytes()].concat())?;
        whole(stream)
    }
}

/// The answer; of a stream of events, the head alone.
fn whole(mut stream: impl Read) -> std::io::Result<Answer> {
    let mut answer = Vec::new();
    let mut piece = [0; 64 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            // What was sent and never read resets the connection behind the answer.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() => break,
            Err(error) => return Err(error),
        }
        if let Some(end) = end_of_head(&answer)
            && String::from_utf8_lossy(&answer[..end]).contains("\r\ncontent-type: text/event-stream")
        {
            return read(&answer[..end], b"").ok_or_else(|| std::io::Error::other("no HTTP answer came"));
        }
    }
    let end = end_of_head(&answer);
    let found = end.and_then(|end| read(&answer[..end], &answer[end + 4..]));
    found.ok_or_else(|| std::io::Error::other("no whole HTTP answer came"))
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n")
}

fn read(head: &[u8], body: &[u8]) -> Option<Answer> {
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let low = head.to_ascii_lowercase();
    let chunked = low.contains("\r\ntransfer-encoding: chunked") && !low.contains("text/event-stream");
    let body = if chunked { unchunked(body)? } else { body.to_vec() };
    Some(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line_end]).ok()?, 16).ok()?;
        let chunk_start = line_end + 2;
        if length == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(chunk_start..chunk_start + length)?);
        rest = rest.get(chunk_start + length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let read = |bytes: &[u8]| whole(bytes).ok().map(|answer| (answer.status, answer.body));
        let plain = read(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab");
        assert_eq!(plain, Some((200, "ab".to_owned())));
        let chunked = b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(chunked), Some((409, "abc".to_owned())));
        assert!(read(&chunked[..chunked.len() - 6]).is_none());
        assert!(read(b"HTTP/1.1 200 OK\r\n").is_none());
    }
}
