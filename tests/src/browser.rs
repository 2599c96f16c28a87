//! People at a browser: `tests/browser/driver.mjs` with Debian's Chromium.

use std::cell::{Cell, RefCell};
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::foreign::npm_script;
use crate::process::{Running, try_wait_for, wait_for};

/// Where the package `chromium` puts it; `TOKENKEEP_CHROMIUM` names another.
const CHROMIUM: &str = "/usr/bin/chromium";
/// The longest time that the driver takes for an answer: a page may take half a minute.
const ANSWERS_WITHIN: Duration = Duration::from_secs(90);
/// The longest time that the browser takes to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A running browser. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: RefCell<Running>,
    /// How many answers have been read.
    answers: Cell<usize>,
    profiles: Cell<usize>,
    /// Where it keeps its files.
    _folder: TempDir,
}

/// Whether a browser runs the scripts of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scripts {
    /// As most people's does.
    Run,
    /// As in the browsers of the careful.
    Off,
}

/// What a person does with a form that asks for consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// Nothing: the form stays on the screen.
    Leave,
}

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Leave => "leave",
        }
    }
}

/// A form that a page asks a person to go through.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// Where the person goes.
    pub url: &'a str,
    /// Who signs in; empty: whom the page proposes.
    pub account: &'a str,
    /// What the person does when asked for consent.
    pub answer: Answer,
    /// The code of a device, where the page asks for one.
    pub user_code: &'a str,
    /// What goes to an address that starts so never leaves the browser.
    pub hold: Option<&'a str>,
}

impl<'a> Visit<'a> {
    /// Signs in as `account`, and allows what is asked.
    pub fn new(url: &'a str, account: &'a str) -> Self {
        Self { url, account, answer: Answer::Allow, user_code: "", hold: None }
    }

    fn command(&self) -> Value {
        json!({
            "do": "visit",
            "url": self.url,
            "account": self.account,
            "answer": self.answer.word(),
            "user_code": self.user_code,
            "hold": self.hold,
        })
    }
}

fn chromium() -> PathBuf {
    let path = env::var_os("TOKENKEEP_CHROMIUM").map_or_else(|| PathBuf::from(CHROMIUM), PathBuf::from);
    assert!(path.is_file(), "there is no {}: install the package chromium first", path.display());
    path
}

impl Browser {
    /// Starts it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tk-browser").tempdir().expect("a folder for temporary files");
        let mut command = Command::new("node");
        command
            .arg(npm_script("browser", "playwright-core", "driver.mjs"))
            .arg(chromium())
            .env("TMPDIR", folder.path());
        Self {
            driver: RefCell::new(Running::start(command, None)),
            answers: Cell::new(0),
            profiles: Cell::new(0),
            _folder: folder,
        }
    }

    /// A browser of its own: no cookies, nothing remembered.
    #[track_caller]
    pub fn profile(&self, scripts: Scripts) -> Profile<'_> {
        let number = self.profiles.replace(self.profiles.get() + 1);
        let profile = Profile { browser: self, number };
        profile.command(json!({"do": "open", "scripts": scripts == Scripts::Run}));
        profile
    }

    #[track_caller]
    fn command(&self, command: &Value) -> Value {
        let mut driver = self.driver.borrow_mut();
        driver.tell(&command.to_string());
        let nth = self.answers.replace(self.answers.get() + 1);
        let answer = wait_for("the browser's answer", ANSWERS_WITHIN, || {
            if let Some(status) = driver.ended() {
                panic!("the browser's driver ended with {status}:\n{}", driver.stderr());
            }
            let said = driver.stdout();
            // Without its end a line may be half of one.
            said.split_inclusive('\n').nth(nth).filter(|line| line.ends_with('\n')).map(str::to_owned)
        });
        serde_json::from_str(&answer).expect("a line of JSON")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let driver = self.driver.get_mut();
        driver.end_input();
        // Else it is killed, and the browser sees its pipe end.
        let _ = try_wait_for(ENDS_WITHIN, || driver.ended());
    }
}

/// One person's browser, with one page.
#[derive(Debug)]
pub struct Profile<'b> {
    browser: &'b Browser,
    number: usize,
}

impl Profile<'_> {
    #[track_caller]
    fn command(&self, mut command: Value) -> Value {
        command["profile"] = self.number.into();
        self.browser.command(&command)
    }

    /// Goes to an address and through the forms there.
    #[track_caller]
    pub fn visit(&self, visit: Visit<'_>) -> Report {
        Report::read(&self.command(visit.command()))
    }

    /// Goes to an address where no form is expected.
    #[track_caller]
    pub fn open(&self, url: &str) -> Report {
        self.visit(Visit { answer: Answer::Leave, ..Visit::new(url, "") })
    }

    /// Goes to an address, signs in, consents, and keeps the redirect that comes of it, which must start with `at`: it
    /// was not sent.
    #[track_caller]
    pub fn hold_redirect(&self, url: &str, account: &str, at: &str) -> String {
        let report = self.visit(Visit { hold: Some(at), ..Visit::new(url, account) });
        assert!(report.url.starts_with(at) && report.title == "held", "no redirect was held: {report:#?}");
        report.url
    }

    /// Closes it, whatever it shows.
    #[track_caller]
    pub fn close(self) {
        self.command(json!({"do": "close"}));
    }
}

/// What a person sees at the end of a visit, and what the browser has to say of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where the browser is.
    pub url: String,
    /// The status of the page; `None` where no answer came.
    pub status: Option<u64>,
    /// The page's title.
    pub title: String,
    /// The page's text.
    pub text: String,
    /// The cookies of the profile: name, domain, path, `httpOnly`, `secure`, `sameSite`.
    pub cookies: Vec<Value>,
    /// Every address that the page was at, redirects included.
    pub visited: Vec<String>,
    /// What a Content Security Policy forbade: `url` and `directive`.
    pub csp_violations: Vec<Value>,
    /// What went to the console as an error: `url` and `text`.
    pub console_errors: Vec<Value>,
    /// Why the visit did not come to its end.
    pub failure: Option<String>,
}

impl Report {
    fn read(told: &Value) -> Self {
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let list = |field: &str| told[field].as_array().cloned().unwrap_or_default();
        Self {
            url: text("url"),
            status: told["status"].as_u64(),
            title: text("title"),
            text: text("text"),
            cookies: list("cookies"),
            visited: list("visited").iter().filter_map(|url| url.as_str().map(str::to_owned)).collect(),
            csp_violations: list("csp_violations"),
            console_errors: list("console_errors"),
            failure: told["failure"].as_str().map(str::to_owned),
        }
    }

    /// Panics unless the page came whole, and the browser has nothing to complain of in what `origin` served: no
    /// violation of its policy, no error of a script. That a page has the status of an error is no complaint.
    #[track_caller]
    pub fn expect_clean(&self, origin: &str) -> &Self {
        let of_origin = |entry: &&Value| entry["url"].as_str().is_some_and(|url| url.starts_with(origin));
        let is_status = |entry: &&Value| {
            entry["text"].as_str().is_some_and(|text| text.starts_with("Failed to load resource"))
                && (entry["url"] == self.url || entry["url"].as_str().is_some_and(|url| url.ends_with("/favicon.ico")))
        };
        let violations: Vec<_> = self.csp_violations.iter().filter(of_origin).collect();
        let errors: Vec<_> = self.console_errors.iter().filter(of_origin).filter(|entry| !is_status(entry)).collect();
        assert!(self.failure.is_none(), "{self:#?}");
        assert!(violations.is_empty() && errors.is_empty(), "{violations:#?}\n{errors:#?}");
        self
    }
}
