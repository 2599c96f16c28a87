//! `tokenkeep connect`: signs in, by a browser on this machine, at another device, or as the client itself.

use super::client;
use crate::api::connect::{BegunJson, ConnectBody, FinishBody, Flow, SignInJson};
use crate::api::json::ConnectionJson;
use crate::api::oauth::{Look, html};
use crate::cli::{Common, shown};
use crate::client::{Client, TIMEOUT, encode};
use crate::daemon::Signals;
use crate::error::{CliError, Exit};
use crate::output::{self, say};
use clap::Args;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Of `connect`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep connect jira --provider jira
  tokenkeep connect files --provider google --scopes \"openid https://www.googleapis.com/auth/drive\"
  tokenkeep connect mail --provider microsoft --device          on a machine without a browser
  tokenkeep connect worker --provider corp --client             client credentials, no person
  tokenkeep connect ada --provider corp --jwt --login-hint ada@example.com     acting for an account, by a signed assertion

The same name again re-authorizes the same connection: its history stays, and another account is refused.")]
pub struct ConnectArgs {
    /// The connection's name; a new one, or one that gets a new grant
    #[arg(value_parser = crate::cli::name)]
    pub name: String,
    /// The provider's name in the daemon's configuration
    #[arg(long, value_name = "P", value_parser = crate::cli::name)]
    pub provider: String,
    /// Show a code to type in at another device, instead of a browser here
    #[arg(long, conflicts_with = "client")]
    pub device: bool,
    /// As the client itself: nobody signs in
    #[arg(long)]
    pub client: bool,
    /// As the client acting for the account of --login-hint, by assertions that it signs with client_key (RFC 7523)
    #[arg(long, conflicts_with_all = ["device", "client"], requires = "login_hint")]
    pub jwt: bool,
    /// The scopes, separated by spaces [default: those of the provider's section]
    #[arg(long, value_name = "SCOPES")]
    pub scopes: Option<String>,
    /// A further parameter of the authorization request; may be given many times
    #[arg(long = "param", value_name = "K=V", value_parser = param)]
    pub params: Vec<(String, String)>,
    /// A label; may be given many times
    #[arg(long = "label", value_name = "K=V", value_parser = crate::cli::label)]
    pub labels: Vec<(String, String)>,
    /// Who is to sign in, for the provider to fill in
    #[arg(long, value_name = "H")]
    pub login_hint: Option<String>,
    /// Print the address, and start no browser
    #[arg(long)]
    pub no_browser: bool,
    /// The connection as JSON
    #[arg(long)]
    pub json: bool,
}

/// How long a sign-in is waited for; it ends by itself before.
const SIGN_IN_MAX: Duration = Duration::from_secs(1_860);
/// How often the daemon is asked whether a sign-in has ended that comes to an end elsewhere.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a browser may take to send its request.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a browser's request.
const HEAD_MAX: usize = 32 * 1024;
/// Where the redirect comes.
const CALLBACK: &str = "/callback";

fn param(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Signs in.
///
/// # Errors
/// The sign-in did not come to its end: why, and what to do. A connection of this name is as it was.
pub fn run(common: &Common, args: &ConnectArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let connection = match args {
        ConnectArgs { client: true, .. } => begin(&client, common, &body(args, Flow::Client, None))?.json()?,
        ConnectArgs { jwt: true, .. } => begin(&client, common, &body(args, Flow::Jwt, None))?.json()?,
        ConnectArgs { device: true, .. } => at_device(&client, common, args)?,
        _ => in_browser(&client, common, args)?,
    };
    if args.json {
        output::write_json(&connection)?;
    }
    say!("connected {}", shown(&connection.namespace, &connection.name));
    let sharing = super::connection(&client, common, &args.name)?.shares_grant_with;
    if !sharing.is_empty() {
        let (others, provider) = (sharing.join(", "), &args.provider);
        say!("it is one grant at {provider} with {others}: what ends one (`remove --revoke`) ends all");
    }
    Ok(Exit::Ok)
}

fn body(args: &ConnectArgs, flow: Flow, redirect_uri: Option<String>) -> ConnectBody {
    let labels = (!args.labels.is_empty()).then(|| args.labels.iter().cloned().collect());
    ConnectBody {
        name: args.name.clone(),
        provider: args.provider.clone(),
        flow,
        scopes: args.scopes.as_deref().unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        params: args.params.iter().cloned().collect(),
        labels,
        login_hint: args.login_hint.clone(),
        return_url: None,
        redirect_uri,
    }
}

fn begin(client: &Client, common: &Common, body: &ConnectBody) -> Result<crate::client::Answer, CliError> {
    let body =
        serde_json::to_vec(body).map_err(|error| CliError::new(format!("the request cannot be written: {error}")))?;
    client.post_json(&format!("/v1/connect?namespace={}", encode(&common.namespace)), &body, TIMEOUT * 3)
}

fn at_device(client: &Client, common: &Common, args: &ConnectArgs) -> Result<ConnectionJson, CliError> {
    let begun: BegunJson = begin(client, common, &body(args, Flow::Device, None))?.json()?;
    let (uri, code) = (begun.verification_uri.as_deref().unwrap_or("?"), begun.user_code.as_deref().unwrap_or("?"));
    let interrupt = Interrupt::listen()?;
    say!("open {uri} on any device, and type in the code {code}");
    if let Some(whole) = &begun.verification_uri_complete {
        say!("or open {whole}");
    }
    let client = client.clone();
    interrupt.or(WhoEnds::Daemon, move |_| wait(&client, &begun.id))
}

/// Takes the redirect here where the provider allows it, else waits for the daemon to have taken it.
fn in_browser(client: &Client, common: &Common, args: &ConnectArgs) -> Result<ConnectionJson, CliError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.as_ref().ok().and_then(|listener| listener.local_addr().ok());
    let own = address.map(|address| format!("http://{address}{CALLBACK}"));
    let begun: BegunJson = begin(client, common, &body(args, Flow::Code, own))?.json()?;
    let (life, interrupt) = (life_of(&begun), Interrupt::listen()?);
    let url = begun.url.as_deref().unwrap_or_default();
    say!("open this address to sign in: {url}");
    if !args.no_browser {
        open_browser(url);
    }
    let client = client.clone();
    match (begun.proof, listener) {
        (Some(proof), Ok(listener)) => {
            interrupt.or(WhoEnds::Us, move |ending| take_redirect(&client, listener, &proof, life, ending))
        }
        _ => interrupt.or(WhoEnds::Daemon, move |_| wait(&client, &begun.id)),
    }
}

/// How long a sign-in lives from now on.
fn life_of(begun: &BegunJson) -> Duration {
    let ends: Option<jiff::Timestamp> = begun.expires_at.parse().ok();
    let left = ends.map(|ends| ends.duration_since(jiff::Timestamp::now()));
    left.map_or(SIGN_IN_MAX, |left| left.try_into().unwrap_or(Duration::ZERO)).min(SIGN_IN_MAX)
}

/// Starts what opens addresses here. It may be missing, or do nothing: the address is printed above.
fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Ok(mut browser) = started {
        // So that it leaves no zombie.
        thread::spawn(move || browser.wait());
    }
}

/// Who brings a sign-in to its end once the person has signed in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhoEnds {
    /// This command: without it nothing comes of the sign-in.
    Us,
    /// The daemon, whoever waits for it.
    Daemon,
}

/// The right to end a sign-in, or to say that nobody will: it is taken once.
struct Ending(AtomicBool);

impl Ending {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
}

/// Ctrl-C and SIGTERM, which from now on do not end the process by themselves.
struct Interrupt {
    runtime: tokio::runtime::Runtime,
    signals: Signals,
}

impl Interrupt {
    fn listen() -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(|error| CliError::new(format!("signals cannot be received: {error}")))?;
        let signals = runtime.block_on(async { Signals::new() })?;
        Ok(Self { runtime, signals })
    }

    /// What becomes of a sign-in, unless the person at the terminal gives it up before. A `sign_in` that we end
    /// ourselves takes the [`Ending`] first.
    fn or(
        mut self,
        who: WhoEnds,
        sign_in: impl FnOnce(&Ending) -> Result<ConnectionJson, CliError> + Send + 'static,
    ) -> Result<ConnectionJson, CliError> {
        let ending = Arc::new(Ending(AtomicBool::new(who == WhoEnds::Daemon)));
        let theirs = Arc::clone(&ending);
        let outcome = self.runtime.block_on(async {
            tokio::select! {
                biased;
                ended = tokio::task::spawn_blocking(move || sign_in(&theirs)) => {
                    ended.unwrap_or_else(|error| Err(CliError::new(format!("the sign-in is not waited for: {error}"))))
                }
                () = self.signals.next() => Err(given_up(&ending)),
            }
        });
        // What still waits ends with this process.
        self.runtime.shutdown_background();
        outcome
    }
}

const GIVEN_UP: &str = "the sign-in was given up, and nothing was changed";

fn given_up(ending: &Ending) -> CliError {
    if ending.take() {
        return begin_again(GIVEN_UP);
    }
    CliError::new("this command waits no longer, while the sign-in may still come to its end")
        .next_step("look at `tokenkeep status NAME`; what nobody ends is over in a while, and changes nothing")
}

fn begin_again(cause: &str) -> CliError {
    CliError::new(cause).next_step("begin again with `tokenkeep connect NAME`")
}

fn too_late() -> CliError {
    begin_again("nobody has signed in in time")
}

/// The daemon forgets a sign-in whose time is over, and every one when it ends.
fn or_forgotten(error: CliError) -> CliError {
    match error.exit() {
        Exit::NotFound => begin_again("nobody has signed in in time, or the daemon was started anew meanwhile"),
        _ => error,
    }
}

/// Asks until the sign-in has ended.
fn wait(client: &Client, id: &str) -> Result<ConnectionJson, CliError> {
    let started = Instant::now();
    while started.elapsed() < SIGN_IN_MAX {
        let answer = client.get(&format!("/v1/connect/{}", encode(id)));
        let sign_in: SignInJson = answer.map_err(or_forgotten)?.json()?;
        match (sign_in.status.as_str(), sign_in.connection) {
            ("connected", Some(connection)) => return Ok(connection),
            ("failed", _) => {
                let error = CliError::new(sign_in.message.unwrap_or_else(|| "the sign-in failed".to_owned()));
                return Err(error.next_step(sign_in.next_action.unwrap_or_default()));
            }
            _ => thread::sleep(ASK_EVERY),
        }
    }
    Err(too_late())
}

/// Waits for the browser to come back, and brings the daemon what it carries.
fn take_redirect(
    client: &Client,
    listener: TcpListener,
    proof: &str,
    life: Duration,
    ending: &Ending,
) -> Result<ConnectionJson, CliError> {
    let (found, redirects) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let found = found.clone();
            // A browser that opens a connection ahead and sends nothing must not hold the others up.
            thread::spawn(move || {
                if let Some(redirect) = read_redirect(stream) {
                    // Nobody listens any more: another redirect came first.
                    let _ = found.send(redirect);
                }
            });
        }
    });
    let (query, stream) = redirects.recv_timeout(life).map_err(|error| match error {
        RecvTimeoutError::Timeout => too_late(),
        RecvTimeoutError::Disconnected => CliError::new("the redirect cannot be waited for any more"),
    })?;
    let outcome = if ending.take() { finish(client, &query, proof) } else { Err(begin_again(GIVEN_UP)) };
    let page = match &outcome {
        Ok(connection) => html(
            Look::Plain,
            "Connected",
            &format!("{} is connected, and will be kept fresh.", connection.name),
            "You may close this page.",
        ),
        Err(error) => {
            html(Look::Plain, "Not connected", &format!("{}.", error.cause()), "The terminal says what to do.")
        }
    };
    answer(stream, if outcome.is_ok() { "200 OK" } else { "400 Bad Request" }, &page);
    outcome
}

fn finish(client: &Client, query: &str, proof: &str) -> Result<ConnectionJson, CliError> {
    let body = FinishBody { query: query.to_owned(), proof: proof.to_owned() };
    let body =
        serde_json::to_vec(&body).map_err(|error| CliError::new(format!("the request cannot be written: {error}")))?;
    let body = zeroize::Zeroizing::new(body);
    client.post_json("/v1/connect/finish", &body, TIMEOUT * 5)?.json()
}

/// The query of a redirect, and who waits for an answer. Anything else is answered, and is none.
fn read_redirect(mut stream: TcpStream) -> Option<(String, TcpStream)> {
    let target = read_target(&mut stream).ok().flatten();
    match target.as_deref().map(|target| target.split_once('?').unwrap_or((target, ""))) {
        Some((CALLBACK, query)) => Some((query.to_owned(), stream)),
        _ => {
            answer(stream, "404 Not Found", &html(Look::Plain, "Nothing is here", "Only the end of a sign-in is.", ""));
            None
        }
    }
}

/// The target of a `GET` for this machine: a page elsewhere that found the port by a name of its own is not heard.
fn read_target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(BROWSER_TIMEOUT))?;
    stream.set_write_timeout(Some(BROWSER_TIMEOUT))?;
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut piece)?;
        if length == 0 || head.len() > HEAD_MAX {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..length]);
    }
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(&head).is_ok_and(|status| status.is_complete());
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|header| std::str::from_utf8(header.value).ok());
    let for_us = host.is_some_and(crate::api::guard::is_loopback) && hosts.next().is_none();
    Ok(request.path.filter(|_| parsed && for_us && request.method == Some("GET")).map(str::to_owned))
}

fn answer(mut stream: TcpStream, status: &str, page: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         content-security-policy: default-src 'none'; frame-ancestors 'none'\r\nreferrer-policy: no-referrer\r\n\
         connection: close\r\n\r\n",
        page.len()
    );
    // A browser that is gone needs no answer.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str) -> Option<String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut browser = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        browser.write_all(request.as_bytes()).unwrap();
        read_redirect(listener.accept().unwrap().0).map(|(query, _)| query)
    }

    #[test]
    fn a_redirect_is_taken_from_this_machine_alone() {
        assert_eq!(
            asked("GET /callback?code=a&state=b HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n").unwrap(),
            "code=a&state=b"
        );
        assert_eq!(asked("GET /callback HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(), "");
        for other in [
            "GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /callback?code=a HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            "GET /callback?code=a HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
            "POST /callback?code=a HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn a_sign_in_is_ended_or_given_up_and_never_both() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut browser = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        browser.write_all(b"GET /callback?code=a&state=b HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let ending = Ending(AtomicBool::new(false));
        assert_eq!(given_up(&ending).cause(), GIVEN_UP);
        // It would have to say that there is no daemon.
        let nobody = Client::new("/nowhere/tokenkeep.sock".into());
        let late = take_redirect(&nobody, listener, "proof", Duration::from_secs(60), &ending).unwrap_err();
        assert_eq!(late.cause(), GIVEN_UP);
        assert!(given_up(&ending).cause().contains("may still come to its end"), "it was taken up");
    }
}
