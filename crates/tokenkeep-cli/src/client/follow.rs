//! Follows what happens, across restarts of the daemon.

use super::Client;
use super::stream::{EventStream, Message};
use crate::api::json::{EventJson, HelloJson, ResyncJson, StepJson};
use crate::error::CliError;
use serde::de::DeserializeOwned;
use std::thread;
use std::time::Duration;

/// How often a daemon that is gone is looked for.
pub const RECONNECT_EVERY: Duration = Duration::from_millis(500);

/// What a follower hears.
#[derive(Debug)]
pub enum News {
    /// The stream has begun again.
    Back,
    /// Something happened.
    Event(EventJson),
    /// An attempt came further.
    Step(StepJson),
    /// What is shown is to be fetched again: some events will not come.
    Resync(ResyncJson),
    /// The stream broke; it is being opened again. Comes once, before the next [`News::Back`].
    Lost(CliError),
    /// The daemon does not let this one follow any more, as when its key was revoked: nothing more will come.
    Refused(CliError),
}

/// Reads the stream, and opens it again behind the last event where it breaks.
pub struct Follower {
    client: Client,
    target: String,
    last: Option<u64>,
    stream: Option<EventStream>,
}

impl Follower {
    /// Opens the stream for the first time, from now on. `target` already has a query.
    ///
    /// # Errors
    /// There is no daemon, or it refuses.
    pub fn start(client: &Client, target: String) -> Result<(Self, HelloJson), CliError> {
        let mut stream = client.stream(&target, None)?;
        let first = stream.next()?.unwrap_or_default();
        let hello: HelloJson = serde_json::from_str(&first.data).map_err(|_| {
            CliError::new(format!("the stream begins with `{}` and not with `hello`", first.kind))
                .next_step("use the same version of Tokenkeep for the daemon and the command")
        })?;
        let follower = Self { client: client.clone(), target, last: Some(hello.last_id), stream: Some(stream) };
        Ok((follower, hello))
    }

    /// Opens the stream anew, behind another event.
    pub fn go_on_behind(&mut self, id: u64) {
        (self.stream, self.last) = (None, Some(id));
    }

    /// Waits for the next news, as long as that may take.
    pub fn next(&mut self) -> News {
        loop {
            let Some(stream) = &mut self.stream else {
                if let Some(refused) = self.reopen() {
                    return News::Refused(refused);
                }
                continue;
            };
            match stream.next() {
                Ok(Some(message)) => {
                    if let Some(news) = self.read(&message) {
                        return news;
                    }
                }
                Ok(None) => return self.lose(CliError::temporary("the daemon stopped")),
                Err(error) => return self.lose(error),
            }
        }
    }

    fn lose(&mut self, why: CliError) -> News {
        self.stream = None;
        News::Lost(why)
    }

    fn reopen(&mut self) -> Option<CliError> {
        match self.client.open(&self.target, self.last) {
            Ok(Ok(stream)) => self.stream = Some(stream),
            Ok(Err(answer)) if matches!(answer.status, 401 | 403) => return Some(self.client.refused(&answer)),
            _ => thread::sleep(RECONNECT_EVERY),
        }
        None
    }

    /// `None` for what is not known: a later version may say more.
    fn read(&mut self, message: &Message) -> Option<News> {
        fn of<T: DeserializeOwned>(message: &Message, news: fn(T) -> News) -> Option<News> {
            serde_json::from_str(&message.data).ok().map(news)
        }
        self.last = message.id.or(self.last);
        match message.kind.as_str() {
            "hello" => Some(News::Back),
            "event" => of(message, News::Event),
            "step" => of(message, News::Step),
            "resync" => of(message, News::Resync),
            _ => None,
        }
    }
}
