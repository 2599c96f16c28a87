//! `tokenkeep connect` as a person at a terminal and a browser has it, and how it must end.

use std::time::Duration;

use url::Url;

use crate::browser::{Profile, Report};
use crate::daemon::Installation;
use crate::process::{Ran, Running, wait_for};

/// The connection that is signed in.
pub const NAME: &str = "jira";
/// The longest time for a command to say where to sign in, and to end after the browser came back.
pub const TELLS_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// What stands before the address.
pub const OPEN: &str = "open this address to sign in: ";

/// What a sentence must say, by what went wrong.
pub mod told {
    /// The person said no.
    pub const DENIED: &str = "denied";
    /// The state is none of ours, or the code was brought before.
    pub const UNKNOWN: &str = "not known here";
    /// The redirect came through another browser.
    pub const OTHER_BROWSER: &str = "another browser";
    /// The redirect came from another provider.
    pub const OTHER_ISSUER: &str = "the provider that was asked";
    /// Nobody confirmed the code of a device.
    pub const EXPIRED: &str = "in time";
    /// The person at the terminal ended the command before the browser came back.
    pub const GIVEN_UP: &str = "given up, and nothing was changed";
    /// The same, while the daemon waits for the person.
    pub const WAITS_NO_LONGER: &str = "waits no longer";
}

/// A `connect` that waits for its person.
#[derive(Debug)]
pub struct SignIn {
    /// The command.
    pub process: Running,
    /// Where the person goes.
    pub url: String,
}

impl SignIn {
    /// Connects [`NAME`] with these arguments, in a browser that the command does not start.
    #[track_caller]
    pub fn begin(installation: &Installation, arguments: &[&str]) -> Self {
        Self::of(installation, NAME, arguments)
    }

    /// The same for a connection of another name.
    #[track_caller]
    pub fn of(installation: &Installation, name: &str, arguments: &[&str]) -> Self {
        let mut process = installation.spawn(&[&["connect", name, "--no-browser"], arguments].concat());
        let url = line_after(&mut process, OPEN);
        Self { process, url }
    }

    /// A parameter of its address.
    #[track_caller]
    pub fn parameter(&self, name: &str) -> String {
        parameter(&self.url, name)
    }

    /// Where it waits for the browser.
    #[track_caller]
    pub fn redirect_uri(&self) -> String {
        self.parameter("redirect_uri")
    }

    /// The origin of the pages that it shows.
    #[track_caller]
    pub fn origin(&self) -> String {
        origin(&self.redirect_uri())
    }

    /// Has `anna` sign in, and keeps the redirect.
    #[track_caller]
    pub fn hold(&self, profile: &Profile<'_>) -> String {
        profile.hold_redirect(&self.url, "anna", &self.redirect_uri())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(self) -> Ran {
        self.process.finish(ENDS_WITHIN)
    }

    /// Panics unless it ends well, and says so once.
    #[track_caller]
    pub fn expect_connected(self) -> Ran {
        let ran = self.end().expect_code(0);
        assert_eq!(ran.stderr.lines().filter(|&line| line == format!("connected {NAME}")).count(), 1, "{ran:?}");
        ran
    }

    /// Brings this redirect to it, and panics unless it and the page end with that sentence.
    #[track_caller]
    pub fn expect_refused(self, profile: &Profile<'_>, redirect: &str, words: &str) {
        expect_page(&profile.open(redirect), &origin(redirect), words);
        expect_told(self.end(), words);
    }
}

/// What a command says after these words; waits for the line.
#[track_caller]
pub fn line_after(process: &mut Running, words: &str) -> String {
    wait_for(&format!("`{words}`"), TELLS_WITHIN, || {
        let (ended, said) = (process.ended(), process.stderr());
        let line = said.split_inclusive('\n').find(|line| line.contains(words) && line.ends_with('\n'));
        assert!(line.is_some() || ended.is_none(), "it ended before it said `{words}`:\n{said}");
        Some(line?.split_once(words)?.1.trim_end().to_owned())
    })
}

/// Panics unless a command failed with one sentence that has these words, and a next step.
#[track_caller]
pub fn expect_told(ran: Ran, words: &str) {
    let ran = ran.expect_code(1);
    let starting = |start: &str| ran.stderr.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
    let (errors, next) = (starting("error: "), starting("next: "));
    assert_eq!((errors.len(), next.len()), (1, 1), "{}", ran.stderr);
    assert!(errors[0].contains(words), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

/// Panics unless a page says that nothing was connected, with these words, and is clean.
#[track_caller]
pub fn expect_page(report: &Report, origin: &str, words: &str) {
    report.expect_clean(origin);
    assert!(report.text.contains(words), "{report:#?}");
    assert!(report.status.is_some_and(|status| (400..500).contains(&status)), "{report:#?}");
}

/// Scheme, host and port of an address.
#[track_caller]
pub fn origin(url: &str) -> String {
    Url::parse(url).expect("a URL").origin().ascii_serialization()
}

/// A parameter of an address.
#[track_caller]
pub fn parameter(url: &str, name: &str) -> String {
    let url = Url::parse(url).expect("a URL");
    let found = url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("no {name} in {url}"))
}

/// The address with these parameters in place of its own; `None` takes one out.
#[track_caller]
pub fn altered(url: &str, changes: &[(&str, Option<&str>)]) -> String {
    let url = Url::parse(url).expect("a URL");
    let kept = url.query_pairs().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let set = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let mut new = url.clone();
    new.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(set);
    new.into()
}
