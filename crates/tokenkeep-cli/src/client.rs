//! A small blocking HTTP/1.1 client for the daemon, at its socket or its URL ([`remote`]).
//!
//! The commands use it because it starts in no time: no runtime, no pool, one exchange on one
//! connection. What happens is followed by [`stream`], across restarts of the daemon by [`follow`].

pub mod follow;
pub mod remote;
pub mod stream;

use crate::api::json::Page;
use crate::api::problem::{NEEDS_REAUTH, NOT_FOUND, Problem};
use crate::error::{CliError, Exit};
use remote::Remote;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long an answer may take unless said otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of an answer's head.
const HEAD_MAX: usize = 64 * 1024;
/// The most bytes of an answer's body: a page of 1,000 connections with every label is far below.
const BODY_MAX: usize = 256 * 1024 * 1024;

/// One daemon.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
}

/// Where it is.
#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
    Url(Arc<Remote>),
}

/// An open connection.
pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'static str,
    /// Path and query, encoded.
    pub target: &'a str,
    /// Media type and content.
    pub body: Option<(&'static str, &'a [u8])>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// An answer. It has no `Debug`: its body may hold a token.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The URL of the daemon; `None`: it came by the socket.
    from: Option<Arc<str>>,
}

/// What became of a body that was given on as it came.
#[derive(Debug)]
pub enum Received {
    /// It was taken whole: so many bytes.
    Whole(u64),
    /// Whoever was to take it did not.
    NotTaken(io::Error),
}

impl Client {
    /// Of the daemon behind this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { place: Place::Socket(socket) }
    }

    /// Of the daemon behind this URL.
    #[must_use]
    pub fn at(remote: Remote) -> Self {
        Self { place: Place::Url(Arc::new(remote)) }
    }

    /// Asks, and takes only success.
    ///
    /// # Errors
    /// Nobody answers, or the answer is a problem.
    pub fn get(&self, target: &str) -> Result<Answer, CliError> {
        self.send(Request { method: "GET", target, body: None, timeout: TIMEOUT })
    }

    /// Asks for something without a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, target: &str) -> Result<Answer, CliError> {
        self.send(Request { method: "POST", target, body: None, timeout: TIMEOUT })
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_json(&self, target: &str, json: &[u8], timeout: Duration) -> Result<Answer, CliError> {
        self.send(Request { method: "POST", target, body: Some(("application/json", json)), timeout })
    }

    /// Every item of a listing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn pages<T: DeserializeOwned>(&self, target: &str) -> Result<Vec<T>, CliError> {
        self.pages_until(target, usize::MAX)
    }

    /// As [`Client::pages`], and no further page once there are `enough`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn pages_until<T: DeserializeOwned>(&self, target: &str, enough: usize) -> Result<Vec<T>, CliError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < enough {
            let separator = if target.contains('?') { '&' } else { '?' };
            let mut target = format!("{target}{separator}limit=1000");
            if let Some(cursor) = &cursor {
                target.push_str("&cursor=");
                target.push_str(&encode(cursor));
            }
            let page: Page<T> = self.get(&target)?.json()?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(items)
    }

    /// Sends a request and takes only success.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send(&self, request: Request<'_>) -> Result<Answer, CliError> {
        let answer = self.exchange(request)?;
        if (200..300).contains(&answer.status) { Ok(answer) } else { Err(self.refused(&answer)) }
    }

    fn refused(&self, answer: &Answer) -> CliError {
        match &self.place {
            Place::Socket(_) => answer.problem(),
            Place::Url(remote) => remote.refused(answer),
        }
    }

    /// Posts, and gives the body of a success to `into` as it comes. Whatever was taken before an error is no answer.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Received::NotTaken`] where `into` does not take it.
    pub fn receive(&self, target: &str, timeout: Duration, into: &mut impl Write) -> Result<Received, CliError> {
        let request = Request { method: "POST", target, body: None, timeout };
        let mut wire = self.connect(timeout)?;
        let asked = self.write(&mut wire, &request).map_err(ReadError::Io);
        match asked.and_then(|()| receive(&mut wire, into)) {
            Ok(Ok(received)) => Ok(received),
            Ok(Err(answer)) => Err(self.refused(&answer)),
            Err(ReadError::Io(error)) => Err(broken(&error, timeout)),
            Err(ReadError::Unreadable(why)) => Err(self.unreadable(why)),
        }
    }

    fn connect(&self, timeout: Duration) -> Result<Box<dyn Wire>, CliError> {
        match &self.place {
            Place::Socket(socket) => {
                let stream = UnixStream::connect(socket).map_err(|error| no_daemon(socket, &error))?;
                let limited =
                    stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
                limited.map_err(|error| broken(&error, timeout))?;
                Ok(Box::new(stream))
            }
            Place::Url(remote) => remote.connect(timeout),
        }
    }

    fn unreadable(&self, why: &str) -> CliError {
        let told = CliError::new(format!("the answer is no HTTP that this client knows: {why}"));
        match &self.place {
            Place::Socket(socket) => told.evidence(socket.display().to_string()),
            Place::Url(remote) => {
                let variable = crate::env::URL;
                told.evidence(&**remote.shown())
                    .next_step(format!("check --url and {variable}: is it https, or no Tokenkeep?"))
            }
        }
    }

    fn exchange(&self, request: Request<'_>) -> Result<Answer, CliError> {
        let mut wire = self.connect(request.timeout)?;
        let broken = |error: &io::Error| broken(error, request.timeout);
        let wrote = self.write(&mut wire, &request);
        // A daemon that refuses a body answers before it has read it, so the answer counts.
        match (read_answer(&mut wire), wrote) {
            (Ok(answer), _) => Ok(Answer { from: self.url(), ..answer }),
            (Err(_), Err(error)) => Err(broken(&error)),
            (Err(ReadError::Io(error)), Ok(())) => Err(broken(&error)),
            (Err(ReadError::Unreadable(why)), Ok(())) => Err(self.unreadable(why)),
        }
    }

    fn url(&self) -> Option<Arc<str>> {
        match &self.place {
            Place::Socket(_) => None,
            Place::Url(remote) => Some(Arc::clone(remote.shown())),
        }
    }

    /// Writes a request for where the daemon is.
    fn write(&self, wire: &mut impl Write, request: &Request<'_>) -> io::Result<()> {
        match &self.place {
            Place::Socket(_) => write_request(wire, request, "localhost", "", ""),
            Place::Url(remote) => {
                write_request(wire, request, remote.authority(), remote.base(), &remote.authorization())
            }
        }
    }
}

/// Exit code 1, not 75: trying again does not help until somebody starts a daemon.
fn no_daemon(path: &Path, error: &io::Error) -> CliError {
    let socket = path.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return CliError::new(format!("this user may not use the daemon's socket {socket}"))
            .evidence(error.to_string())
            .next_step("run this as the daemon's user, or choose your own daemon with --state-dir");
    }
    let found = fs::metadata(path).map(|found| found.file_type());
    if let Some(kind) = found.ok().filter(|kind| !kind.is_socket()) {
        let kind = if kind.is_dir() { "a folder" } else { "no socket" };
        return CliError::new(format!("{socket} is {kind}, and should be the daemon's socket"))
            .evidence(error.to_string())
            .next_step("move it away and start the daemon with `tokenkeep serve`, or choose another with --state-dir");
    }
    if error.kind() == io::ErrorKind::NotADirectory {
        return CliError::new(format!("there is no socket {socket}: what should be the state folder is none"))
            .evidence(error.to_string())
            .next_step("name the daemon's state folder with --state-dir");
    }
    let mut told = CliError::new(format!("no daemon answers at {socket}")).evidence(error.to_string());
    if error.kind() == io::ErrorKind::ConnectionRefused {
        told = told.evidence("its socket is left from a daemon that did not stop cleanly");
    }
    told.next_step("start one with `tokenkeep serve`, or choose another with --state-dir")
}

fn broken(error: &io::Error, timeout: Duration) -> CliError {
    let text = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the daemon did not answer within {}", crate::span::show(timeout))
        }
        _ => format!("the daemon broke off before it had answered: {error}"),
    };
    CliError::temporary(text).next_step("try again; its log says what happened")
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is not what was expected.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // Only the place and kind: the text around may be a token.
            let told =
                CliError::new(format!("the daemon's answer is not what was expected ({:?} error)", error.classify()));
            match &self.from {
                None => told.next_step("use the same version of Tokenkeep for the daemon and the command"),
                Some(url) => told.evidence(format!("asked at {url}")).next_step(
                    "check that this is a Tokenkeep's address, and use the same version for the daemon and the command",
                ),
            }
        })
    }

    fn problem(&self) -> CliError {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem_error(&problem),
            Err(_) => CliError::with_exit(exit_of(self.status, ""), format!("the daemon answered {}", self.status)),
        }
    }
}

/// A problem as it is told at the terminal.
#[must_use]
pub fn problem_error(problem: &Problem) -> CliError {
    let temporary = problem.retry_at.is_some() && *problem.code != *NEEDS_REAUTH;
    let exit = if temporary { Exit::Temporary } else { exit_of(problem.status, &problem.code) };
    let mut error = CliError::with_exit(exit, problem.detail.trim_end_matches('.'));
    if let Some(at) = &problem.retry_at {
        error = error.evidence(format!("it may be worth trying again at {at}"));
    }
    match &problem.next_action {
        Some(action) => error.next_step(&**action),
        None => error,
    }
}

/// 503 and its kin pass by themselves; a 404 without our code is another's, not a missing name.
fn exit_of(status: u16, code: &str) -> Exit {
    match (status, code) {
        (_, NEEDS_REAUTH) => Exit::NeedsReauth,
        (404, NOT_FOUND) => Exit::NotFound,
        (429 | 502..=504, _) => Exit::Temporary,
        _ => Exit::Error,
    }
}

/// Encodes text for a path segment or a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// `authorization` is a whole line of the head, or nothing.
fn write_request(
    wire: &mut impl Write,
    request: &Request<'_>,
    host: &str,
    base: &str,
    authorization: &str,
) -> io::Result<()> {
    // Enough that the key is not left behind in memory that was outgrown.
    let mut head = Zeroizing::new(String::with_capacity(512 + request.target.len() + base.len() + authorization.len()));
    let (method, target) = (request.method, request.target);
    // Writing to a String cannot fail.
    let _ = write!(head, "{method} {base}{target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{authorization}");
    if let Some((content_type, body)) = request.body {
        let _ = write!(head, "content-type: {content_type}\r\ncontent-length: {}\r\n", body.len());
    } else if method == "POST" {
        head.push_str("content-length: 0\r\n");
    }
    head.push_str("\r\n");
    wire.write_all(head.as_bytes())?;
    if let Some((_, body)) = request.body {
        wire.write_all(body)?;
    }
    wire.flush()
}

/// Why an answer could not be read.
#[derive(Debug)]
enum ReadError {
    Io(io::Error),
    Unreadable(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    Known(usize),
    Chunked,
    ToTheEnd,
}

fn read_answer(stream: &mut impl Read) -> Result<Answer, ReadError> {
    let mut input = Input::new(stream);
    loop {
        let (status, length) = read_head(&mut input)?;
        match length {
            // 100 Continue and its kin come before the answer.
            _ if (100..200).contains(&status) => {}
            _ if status == 204 => {
                return Ok(Answer { status, body: Vec::new(), from: None });
            }
            length => {
                return Ok(Answer { status, body: read_body(&mut input, length)?, from: None });
            }
        }
    }
}

/// Reads an answer whose body may be large. The inner error is one that is no success.
fn receive(stream: &mut impl Read, into: &mut impl Write) -> Result<Result<Received, Answer>, ReadError> {
    let mut input = Input { stream, buffer: Vec::with_capacity(4096), taken: 0 };
    let (status, length) = read_head(&mut input)?;
    if !(200..300).contains(&status) {
        return Ok(Err(Answer { status, body: read_body(&mut input, length)?, from: None }));
    }
    let Length::Chunked = length else { return Err(ReadError::Unreadable("its transfer coding")) };
    let mut bytes = 0;
    while let Some(chunk) = read_chunk(&mut input, BODY_MAX)? {
        if let Err(error) = into.write_all(&chunk) {
            return Ok(Ok(Received::NotTaken(error)));
        }
        bytes += chunk.len() as u64;
    }
    Ok(Ok(Received::Whole(bytes)))
}

fn read_head(input: &mut Input<impl Read>) -> Result<(u16, Length), ReadError> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(input.rest()).map_err(|_| ReadError::Unreadable("its head"))?;
        if let httparse::Status::Complete(size) = parsed {
            let status = head.code.ok_or(ReadError::Unreadable("its status"))?;
            let length = length_of(head.headers)?;
            input.taken += size;
            return Ok((status, length));
        }
        if input.rest().len() > HEAD_MAX {
            return Err(ReadError::Unreadable("its head is too long"));
        }
        input.fill()?;
    }
}

fn length_of(headers: &[httparse::Header<'_>]) -> Result<Length, ReadError> {
    let value = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunked),
        (Some(_), _) => Err(ReadError::Unreadable("its transfer coding")),
        (None, Some(length)) => std::str::from_utf8(length)
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|&length| length <= BODY_MAX)
            .map(Length::Known)
            .ok_or(ReadError::Unreadable("its length")),
        (None, None) => Ok(Length::ToTheEnd),
    }
}

fn read_body(input: &mut Input<impl Read>, length: Length) -> Result<Vec<u8>, ReadError> {
    match length {
        Length::Known(length) => input.take(length),
        Length::Chunked => read_chunks(input),
        Length::ToTheEnd => input.take_all(),
    }
}

fn read_chunks(input: &mut Input<impl Read>) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = read_chunk(input, BODY_MAX - body.len())? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// One chunk; `None` at the end. Trailers, if any, are of no interest, and the connection ends here.
fn read_chunk(input: &mut Input<impl Read>, bytes_max: usize) -> Result<Option<Vec<u8>>, ReadError> {
    let size = read_chunk_size(input)?;
    if size > bytes_max {
        return Err(ReadError::Unreadable("its length"));
    }
    if size == 0 {
        return Ok(None);
    }
    let chunk = input.take(size)?;
    if input.take(2)? != b"\r\n" {
        return Err(ReadError::Unreadable("the end of a chunk"));
    }
    Ok(Some(chunk))
}

fn read_chunk_size(input: &mut Input<impl Read>) -> Result<usize, ReadError> {
    loop {
        let wrong = || ReadError::Unreadable("the size of a chunk");
        match httparse::parse_chunk_size(input.rest()).map_err(|_| wrong())? {
            httparse::Status::Complete((taken, size)) => {
                input.taken += taken;
                return usize::try_from(size).map_err(|_| wrong());
            }
            httparse::Status::Partial if input.rest().len() > 1024 => return Err(wrong()),
            httparse::Status::Partial => input.fill()?,
        }
    }
}

/// What has been read and not been taken yet.
struct Input<R> {
    stream: R,
    buffer: Vec<u8>,
    taken: usize,
}

impl<R: Read> Input<R> {
    fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::with_capacity(4096), taken: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Reads on; the end is an error here.
    fn fill(&mut self) -> Result<(), ReadError> {
        match self.read_some()? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let size = read?;
                    self.buffer.drain(..std::mem::take(&mut self.taken));
                    self.buffer.extend_from_slice(&piece[..size]);
                    return Ok(size);
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        while self.rest().len() < length {
            self.fill()?;
        }
        let taken = self.rest()[..length].to_vec();
        self.taken += length;
        Ok(taken)
    }

    fn take_all(&mut self) -> Result<Vec<u8>, ReadError> {
        while self.read_some()? > 0 {
            if self.buffer.len() > BODY_MAX {
                return Err(ReadError::Unreadable("its length"));
            }
        }
        Ok(self.buffer.split_off(self.taken))
    }
}

#[cfg(test)]
mod tests;
