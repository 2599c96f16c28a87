//! A network of which a test writes every answer, and reads every request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokenkeep::endpoint::{Channel, Endpoint, Reuse, SendFailure};
use tokenkeep_core::Failure;
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::ProviderRequest;
use url::Url;
use zeroize::Zeroizing;

/// The answers that are to come, and the requests that came.
#[derive(Default)]
pub struct Script(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    answers: VecDeque<RawAnswer>,
    asked: Vec<Asked>,
}

/// A request as it was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where to.
    pub url: Url,
    /// When, on the test's clock.
    pub at: tokio::time::Instant,
    /// Its body.
    pub body: String,
}

impl Asked {
    /// The values of a parameter, in their order.
    #[must_use]
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.body.as_bytes());
        pairs.filter(|(found, _)| found == name).map(|(_, value)| value.into_owned()).collect()
    }
}

impl Script {
    /// The next request that has no answer yet is answered so.
    pub fn answer(&self, status: u16, body: &str) {
        self.answer_with(RawAnswer {
            status,
            content_type: Some("application/json".to_owned()),
            retry_after: None,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        });
    }

    /// As [`Script::answer`], with all that an answer may have.
    pub fn answer_with(&self, answer: RawAnswer) {
        self.lines().answers.push_back(answer);
    }

    /// Every request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.lines().asked.clone()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The network that follows a [`Script`].
pub struct ScriptedEndpoint(pub Arc<Script>);

struct ScriptedChannel {
    script: Arc<Script>,
    url: Url,
}

#[async_trait]
impl Endpoint for ScriptedEndpoint {
    async fn connect(&self, url: &Url, _reuse: Reuse) -> Result<Box<dyn Channel>, Failure> {
        Ok(Box::new(ScriptedChannel { script: Arc::clone(&self.0), url: url.clone() }))
    }
}

#[async_trait]
impl Channel for ScriptedChannel {
    async fn send(self: Box<Self>, request: ProviderRequest, _timeout: Duration) -> Result<RawAnswer, SendFailure> {
        let body = request.body.expose().to_owned();
        let asked = Asked { url: self.url, at: tokio::time::Instant::now(), body };
        let mut lines = self.script.lines();
        lines.asked.push(asked);
        Ok(lines.answers.pop_front().expect("the test has written an answer to each request"))
    }
}
