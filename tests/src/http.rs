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

    fn send(&self, mut stream: impl Read + Write, host: &str) -> std::io::Result<Answer> {
        let Self { method, path, headers, body } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for (name, value) in *headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        read(&answer).ok_or_else(|| std::io::Error::other("no whole HTTP answer came"))
    }
}

fn read(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if chunked { unchunked(body)? } else { body.to_vec() };
    Some(Answer { status, head, body: String::from_utf8(body).ok()? })
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
        let plain = read(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab").map(|a| (a.status, a.body));
        assert_eq!(plain, Some((200, "ab".to_owned())));
        let chunked = b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(chunked).map(|a| (a.status, a.body)), Some((409, "abc".to_owned())));
        assert!(read(&chunked[..chunked.len() - 6]).is_none());
        assert!(read(b"HTTP/1.1 200 OK\r\n").is_none());
    }
}
