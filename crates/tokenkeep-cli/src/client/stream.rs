//! One stream of server-sent events (WHATWG HTML, section 9.2), read while it comes.

use super::{Answer, Client, Input, Length, ReadError, Request, Wire};
use super::{broken, read_body, read_chunk, read_head};
use crate::api::stream::HEARTBEAT_EVERY;
use crate::error::CliError;
use std::io::Read;
use std::time::Duration;

/// A stream that is silent for so long is dead: the daemon says something at least every [`HEARTBEAT_EVERY`].
pub const SILENCE_MAX: Duration = HEARTBEAT_EVERY.saturating_mul(3);
/// The most bytes of one message.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// What the daemon says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Message {
    /// `hello`, `event`, `summary`, `step` or `resync`.
    pub kind: String,
    /// Where to go on after it.
    pub id: Option<u64>,
    /// JSON.
    pub data: String,
}

/// An open stream.
pub struct EventStream {
    input: Input<Box<dyn Wire>>,
    lines: Lines,
}

impl Client {
    /// Opens a stream at a target that already has a query, behind the event `after` if one is given.
    ///
    /// # Errors
    /// Nobody answers, or the answer is a problem.
    pub fn stream(&self, target: &str, after: Option<u64>) -> Result<EventStream, CliError> {
        self.open(target, after)?.map_err(|answer| self.refused(&answer))
    }

    /// As [`Client::stream`]; the inner error is an answer that is no stream.
    pub(super) fn open(&self, target: &str, after: Option<u64>) -> Result<Result<EventStream, Answer>, CliError> {
        let target = after.map_or_else(|| target.to_owned(), |id| format!("{target}&after={id}"));
        let request = Request { method: "GET", target: &target, body: None, timeout: SILENCE_MAX };
        let mut wire = self.connect(request.timeout)?;
        let opened = || -> Result<_, ReadError> {
            self.write(&mut wire, &request)?;
            let mut input = Input::new(wire);
            match read_head(&mut input)? {
                (200, Length::Chunked) => Ok(Ok(EventStream::new(input))),
                (200, _) => Err(ReadError::Unreadable("it is not sent in chunks")),
                (status, length) => Ok(Err(Answer { status, body: read_body(&mut input, length)?, from: self.url() })),
            }
        };
        opened().map_err(|error| told(&error))
    }
}

/// Why a stream ended, for a person.
fn told(error: &ReadError) -> CliError {
    match error {
        ReadError::Io(error) => broken(error, SILENCE_MAX),
        ReadError::Unreadable(why) => CliError::new(format!("the stream is none that this client knows: {why}"))
            .next_step("use the same version of Tokenkeep for the daemon and the command"),
    }
}

impl EventStream {
    fn new(input: Input<Box<dyn Wire>>) -> Self {
        Self { input, lines: Lines::default() }
    }

    /// Waits for the next message; `None` when the daemon ended the stream.
    ///
    /// # Errors
    /// The stream broke, was silent for [`SILENCE_MAX`], or is none.
    pub fn next(&mut self) -> Result<Option<Message>, CliError> {
        next(&mut self.input, &mut self.lines).map_err(|error| told(&error))
    }
}

fn next(input: &mut Input<impl Read>, lines: &mut Lines) -> Result<Option<Message>, ReadError> {
    loop {
        if let Some(message) = lines.take_message() {
            return Ok(Some(message));
        }
        if lines.pending.len() > MESSAGE_MAX {
            return Err(ReadError::Unreadable("a message is too long"));
        }
        match read_chunk(input, MESSAGE_MAX)? {
            Some(chunk) => lines.pending.extend_from_slice(&chunk),
            None => return Ok(None),
        }
    }
}

/// Lines on their way to be messages.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// The next whole message; comments are none.
    fn take_message(&mut self) -> Option<Message> {
        loop {
            let end = self.pending.windows(2).position(|two| two == b"\n\n")?;
            let block: Vec<u8> = self.pending.drain(..end + 2).collect();
            let message = read_block(&String::from_utf8_lossy(&block));
            if message.is_some() {
                return message;
            }
        }
    }
}

fn read_block(block: &str) -> Option<Message> {
    let mut message = Message::default();
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut message.kind),
            "id" => message.id = value.parse().ok(),
            "data" => data.push(value),
            // A comment, or what a later version adds.
            _ => {}
        }
    }
    message.data = data.join("\n");
    (!data.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Slow;
    use super::*;

    fn chunked(pieces: &[&str]) -> Vec<u8> {
        let mut body: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        body.push_str("0\r\n\r\n");
        body.into_bytes()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Message>, String> {
        let read_all = |mut input: Input<&mut dyn Read>| {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            loop {
                match next(&mut input, &mut lines) {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => return Ok(found),
                    Err(error) => return Err(format!("{error:?}")),
                }
            }
        };
        let whole = read_all(Input::new(&mut &bytes[..]));
        assert_eq!(read_all(Input::new(&mut Slow(bytes))), whole);
        whole
    }

    fn message(kind: &str, id: Option<u64>, data: &str) -> Message {
        Message { kind: kind.to_owned(), id, data: data.to_owned() }
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let body = chunked(&[
            "event: hello\nda",
            "ta: {}\nid: 3\n\n:\n\nevent: event\nid: 4",
            "\ndata: a\ndata:b\n\n",
            ":\n\n",
        ]);
        let expected = [message("hello", Some(3), "{}"), message("event", Some(4), "a\nb")];
        assert_eq!(read(&body).unwrap(), expected);
    }

    #[test]
    fn what_is_cut_off_or_no_chunk_is_an_error() {
        let body = chunked(&["event: hello\ndata: {}\n\n"]);
        for cut in [1, 5, body.len() - 6] {
            assert!(read(&body[..cut]).is_err(), "{cut}");
        }
        assert!(read(b"zz\r\n").is_err());
        assert!(read(b"2\r\nabXX").is_err());
        assert!(read(b"ffffffff\r\n").is_err());
    }
}
