//! Many imports in one request: a line in, a line out, in order, in bounded memory.

use super::Api;
use super::access::{Caller, unwritable};
use super::import::{name_of, parts, read};
use super::json::{ImportFailedJson, ImportedJson};
use super::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::BodyExt as _;
use serde::Serialize;
use std::convert::Infallible;
use tokenkeep::audit::NewRecord;
use tokenkeep::{Error, Import, Imported};
use tokenkeep_core::Timestamp;
use zeroize::Zeroize as _;

/// The longest line, in bytes.
pub const LINE_MAX: usize = 256 * 1024;
/// The most lines that are taken over together.
pub const BATCH_LINES_MAX: usize = 1_000;
/// The most bytes of lines that are taken over together, besides the last line.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The media type.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// Answers with a stream: it reads on only as its reader takes the answers.
pub fn import(api: Api, caller: Caller, namespace: Option<String>, body: Body) -> Response {
    let importer = Importer { api, caller, namespace, body, lines: Lines::default() };
    let answers = stream::unfold(importer, |mut importer| async move {
        let answer = importer.next_batch().await?;
        Some((Ok::<_, Infallible>(answer), importer))
    });
    let mut response = Response::new(Body::from_stream(answers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

struct Importer {
    api: Api,
    caller: Caller,
    namespace: Option<String>,
    body: Body,
    lines: Lines,
}

impl Importer {
    /// The answers to the next batch; `None` at the end.
    async fn next_batch(&mut self) -> Option<Bytes> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_LINES_MAX && bytes < BATCH_BYTES_MAX {
            match self.next_line().await {
                Some(line) => {
                    bytes += line.text.as_ref().map_or(0, |text| text.0.len());
                    batch.push(line);
                }
                None => break,
            }
        }
        if batch.is_empty() { None } else { Some(self.take_over(batch).await) }
    }

    async fn next_line(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(line);
            }
            if self.lines.ended {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Some(Err(_)) => self.lines.break_off(),
                None => self.lines.end(),
            }
        }
    }

    async fn take_over(&mut self, batch: Vec<Line>) -> Bytes {
        let mut imports = Vec::with_capacity(batch.len());
        let mut read_ones = Vec::with_capacity(batch.len());
        for line in batch {
            let (read, name) = self.read(&line);
            let failed = read.map(|import| imports.push(import)).err();
            read_ones.push((line.number, name, failed));
        }
        let mut results = to_its_end(self.api.clone(), self.caller.clone(), imports).await.into_iter();
        let mut out = Vec::new();
        for (number, name, failed) in read_ones {
            match failed {
                Some(problem) => write_failed(&mut out, number, name, problem),
                None => self.write_result(&mut out, number, name, results.next()),
            }
        }
        Bytes::from(out)
    }

    fn read(&self, line: &Line) -> (Result<Import, Problem>, Option<String>) {
        match &line.text {
            Ok(text) => {
                let import = read(&text.0, self.namespace.as_deref()).and_then(|import| {
                    self.caller.check_stands(&self.api)?;
                    self.caller.check_new(&import.key)?;
                    Ok(import)
                });
                let name = match &import {
                    Ok(import) => Some(import.key.name().to_owned()),
                    Err(_) => name_of(&text.0),
                };
                (import, name)
            }
            Err(fault) => (Err(fault.problem()), None),
        }
    }

    fn write_result(
        &self,
        out: &mut Vec<u8>,
        number: u64,
        name: Option<String>,
        result: Option<Result<Imported, Problem>>,
    ) {
        match result {
            Some(Ok(imported)) => {
                let (result, connection) = parts(&imported);
                let name = connection.key.name().to_owned();
                write_line(out, &ImportedJson { name, result: result.to_owned(), connection: None });
            }
            Some(Err(problem)) => write_failed(out, number, name, problem),
            None => write_failed(out, number, name, self.api.problem(&tokenkeep::Error::ShuttingDown)),
        }
    }
}

/// Takes over what was read and notes it in the audit trail, also when the client goes away meanwhile.
async fn to_its_end(api: Api, caller: Caller, imports: Vec<Import>) -> Vec<Result<Imported, Problem>> {
    let work = async move {
        let now = api.wall();
        let results = api.keep.import_many(imports).await;
        let noted = note(&api, &caller, now, &results).await;
        let answer = |result: Result<Imported, Error>| match (result, &noted) {
            (Ok(_), Err(error)) => Err(unwritable(error)),
            (result, _) => result.map_err(|error| api.problem(&error)),
        };
        results.into_iter().map(answer).collect()
    };
    tokio::spawn(work).await.unwrap_or_default()
}

async fn note(api: &Api, caller: &Caller, now: Timestamp, results: &[Result<Imported, Error>]) -> Result<(), Error> {
    let Some(audit) = api.keep.audit() else { return Ok(()) };
    let record = |imported: &Imported| NewRecord {
        at: now,
        actor: caller.actor(),
        action: "connection.imported".to_owned(),
        target: Some(imported.connection().key.to_string()),
        outcome: u64::from(StatusCode::OK.as_u16()),
    };
    let records: Vec<NewRecord> = results.iter().flatten().map(record).collect();
    if records.is_empty() { Ok(()) } else { audit.write_all(records).await }
}

fn write_failed(out: &mut Vec<u8>, line: u64, name: Option<String>, error: Problem) {
    write_line(out, &ImportFailedJson { name, line, error });
}

fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Structs of strings and numbers always serialize, and a vector always takes them.
    let _ = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}

/// A line that holds tokens: wiped when it is done with.
struct Text(BytesMut);

impl Drop for Text {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

/// A line of the body, from 1.
struct Line {
    number: u64,
    text: Result<Text, Fault>,
}

/// Why a line cannot be read at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    TooLong,
    BrokenOff,
}

impl Fault {
    fn problem(self) -> Problem {
        match self {
            Self::TooLong => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("the line is longer than {LINE_MAX} bytes"),
            ),
            Self::BrokenOff => {
                Problem::invalid("the request broke off in this line", "Send this line and those after it again.")
            }
        }
    }
}

/// Splits a stream of bytes into lines; empty ones are counted and left out.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line break.
    searched: usize,
    number: u64,
    /// The rest of a line that was too long is being thrown away.
    skipping: bool,
    broken: bool,
    ended: bool,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The last line need not end with a line break.
    fn end(&mut self) {
        self.ended = true;
        if !self.buffer.is_empty() {
            self.buffer.extend_from_slice(b"\n");
        }
    }

    fn break_off(&mut self) {
        (self.ended, self.broken) = (true, true);
    }

    fn next(&mut self) -> Option<Line> {
        loop {
            let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') else {
                return self.without_break();
            };
            let mut line = self.buffer.split_to(self.searched + at);
            self.buffer.advance(1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            self.number += 1;
            if line.len() > LINE_MAX {
                return Some(self.line(Err(Fault::TooLong)));
            }
            if !line.trim_ascii().is_empty() {
                return Some(self.line(Ok(Text(line.split()))));
            }
        }
    }

    fn without_break(&mut self) -> Option<Line> {
        self.searched = self.buffer.len();
        if std::mem::take(&mut self.broken) {
            self.number += u64::from(!self.skipping);
            return Some(self.line(Err(Fault::BrokenOff)));
        }
        if self.buffer.len() <= LINE_MAX {
            return None;
        }
        self.buffer.clear();
        self.searched = 0;
        if std::mem::replace(&mut self.skipping, true) {
            return None;
        }
        self.number += 1;
        Some(self.line(Err(Fault::TooLong)))
    }

    fn line(&self, text: Result<Text, Fault>) -> Line {
        Line { number: self.number, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that comes out when these pieces go in.
    fn split(pieces: &[&[u8]], broken: bool) -> Vec<(u64, Result<String, Fault>)> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut drain = |lines: &mut Lines| {
            while let Some(line) = lines.next() {
                let text = line.text.map(|text| String::from_utf8(text.0.to_vec()).unwrap());
                out.push((line.number, text));
            }
        };
        for piece in pieces {
            lines.push(piece);
            drain(&mut lines);
        }
        if broken {
            lines.break_off()
        } else {
            lines.end()
        }
        drain(&mut lines);
        out
    }

    fn ok(number: u64, text: &str) -> (u64, Result<String, Fault>) {
        (number, Ok(text.to_owned()))
    }

    #[test]
    fn lines_come_out_however_the_bytes_arrive() {
        let expected = [ok(1, "a"), ok(3, "bc"), ok(4, "d")];
        assert_eq!(split(&[b"a\n\nbc\nd"], false), expected);
        assert_eq!(split(&[b"a", b"\n\nb", b"c", b"\n", b"d\n"], false), expected);
        let bytes: Vec<&[u8]> = b"a\n\nbc\nd".chunks(1).collect();
        assert_eq!(split(&bytes, false), expected);
        assert_eq!(split(&[], false), []);
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself_alone() {
        let long = vec![b'x'; LINE_MAX + 1];
        let expected = [ok(1, "a"), (2, Err(Fault::TooLong)), ok(3, "b")];
        assert_eq!(split(&[b"a\n", &long, &long, &long, b"x\nb"], false), expected);
        assert_eq!(split(&[b"a\n", &[&long[..], b"\nb"].concat()], false), expected);
        let fits = vec![b'x'; LINE_MAX];
        assert!(split(&[&fits, b"\n"], false)[0].1.is_ok());
    }

    #[test]
    fn a_request_that_breaks_off_says_in_which_line() {
        assert_eq!(split(&[b"a\nb"], true), [ok(1, "a"), (2, Err(Fault::BrokenOff))]);
        assert_eq!(split(&[b"a\n"], true), [ok(1, "a"), (2, Err(Fault::BrokenOff))]);
    }

    #[test]
    fn answers_have_the_documented_form() {
        let mut out = Vec::new();
        let done = ImportedJson { name: "j".to_owned(), result: "created".to_owned(), connection: None };
        write_line(&mut out, &done);
        write_failed(&mut out, 7, None, Fault::TooLong.problem());
        let text = String::from_utf8(out).unwrap();
        let (first, second) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(first, r#"{"name":"j","result":"created"}"#);
        assert!(second.starts_with(r#"{"line":7,"error":{"type":"about:blank","#), "{second}");
    }
}
