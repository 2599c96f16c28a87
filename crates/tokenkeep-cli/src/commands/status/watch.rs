//! `status --watch`: the live table.
//!
//! Three threads wait, each for one thing, and tell the one that draws: [`hear`] for the stream, [`fetch`] for what
//! that one wants to know, [`signals`] and [`keys`] for the person. So nothing that hangs keeps the screen.

use super::fleet::{Fetched, Fleet, WATCHED_MAX, Wanted, troubled};
use super::screen::Screen;
use super::{StatusArgs, counts, detail};
use crate::api::json::{ConnectionJson, EventJson};
use crate::cli::{Common, listing, shown, target};
use crate::client::follow::{Follower, News};
use crate::client::{Client, encode};
use crate::commands::{events, exit_of, list, with_suggestion};
use crate::error::{CliError, Exit};
use crate::output::{self, cut, relative, say};
use rustix::process::{Signal, getpid, kill_process};
use std::collections::{BTreeSet, VecDeque};
use std::io::{IsTerminal as _, Read as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Countdowns move this often.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// News show after this, together with what comes meanwhile.
const DRAW_SOON: Duration = Duration::from_millis(100);
/// What was wanted is fetched after this, together with what is wanted meanwhile.
const FETCH_SOON: Duration = Duration::from_millis(20);
/// The pause between two fetches; after one that failed, [`DRAW_EVERY`].
const FETCH_PAUSE: Duration = Duration::from_millis(200);
/// How many events of the one connection that is watched are shown below it.
const EVENTS_SHOWN: usize = 10;

/// What the thread that draws is told.
enum Message {
    News(News),
    Fetched(Result<Fetched, CliError>),
    Quit,
    Suspend,
    Redraw,
}

/// Watches until the person at the terminal ends it.
///
/// # Errors
/// There is no daemon at the beginning, no such connection, or nobody reads any more.
pub fn run(client: &Client, common: &Common, args: &StatusArgs) -> Result<Exit, CliError> {
    let whose = Whose { client: client.clone(), common: common.clone(), name: args.name.clone() };
    let (follower, _) = Follower::start(client, whose.stream_target())?;
    let first = whose.fetch(Wanted::All).map_err(|error| match &args.name {
        Some(name) => with_suggestion(error, client, common, name),
        None => error,
    })?;
    let (messages, told) = channel();
    let (wanted, wants) = channel();
    let mut watch = Watch::new(whose.clone(), wanted);
    watch.fleet.take(first);
    watch.fleet.next_wanted();
    hear(follower, messages.clone());
    fetch(whose, wants, messages.clone());
    if std::io::stdout().is_terminal() && !args.json {
        signals(messages.clone())?;
        let mut face = Face::Screen(Some(Screen::take()?));
        keys(messages);
        watch.run(&told, &mut face)
    } else {
        watch.run(&told, &mut if args.json { Face::Json } else { Face::Lines })
    }
}

/// Which connections are watched.
#[derive(Clone)]
struct Whose {
    client: Client,
    common: Common,
    name: Option<String>,
}

impl Whose {
    fn stream_target(&self) -> String {
        let namespace = encode(&self.common.namespace);
        let connection = self.name.as_deref().map(|name| format!("&connection={}", encode(name)));
        format!("/v1/events/stream?kinds=event,step&namespace={namespace}{}", connection.unwrap_or_default())
    }

    fn fetch(&self, wanted: Wanted) -> Result<Fetched, CliError> {
        let names = match (&wanted, &self.name) {
            (Wanted::All, Some(name)) => Some(BTreeSet::from([name.clone()])),
            (Wanted::All, None) => None,
            (Wanted::Named(names), _) => Some(names.clone()),
        };
        let connections = match (names, &wanted) {
            (None, _) => self.all()?,
            // The one that is watched must be there.
            (Some(names), Wanted::All) => names.iter().map(|name| self.one(name)).collect::<Result<_, _>>()?,
            (Some(names), Wanted::Named(_)) => self.some(&names)?,
        };
        let summary = match &self.name {
            Some(_) => None,
            None => {
                let namespace = encode(&self.common.namespace);
                Some(self.client.get(&format!("/v1/summary?namespace={namespace}"))?.json()?)
            }
        };
        Ok(Fetched { summary, wanted, connections })
    }

    /// Those in trouble first, then the others, up to the limit.
    fn all(&self) -> Result<Vec<ConnectionJson>, CliError> {
        let listing = listing(&self.common.namespace);
        let mut found: Vec<ConnectionJson> =
            self.client.pages_until(&format!("{listing}&status={}", troubled()), WATCHED_MAX)?;
        let known: BTreeSet<String> = found.iter().map(|connection| connection.name.clone()).collect();
        let others: Vec<ConnectionJson> = self.client.pages_until(&listing, WATCHED_MAX)?;
        found.extend(others.into_iter().filter(|connection| !known.contains(&connection.name)));
        Ok(found)
    }

    fn one(&self, name: &str) -> Result<ConnectionJson, CliError> {
        self.client.get(&target(&self.common.namespace, name, ""))?.json()
    }

    /// Without those that are not there any more.
    fn some(&self, names: &BTreeSet<String>) -> Result<Vec<ConnectionJson>, CliError> {
        let found = names.iter().map(|name| match self.one(name) {
            Err(error) if error.exit() == Exit::NotFound => Ok(None),
            other => other.map(Some),
        });
        found.filter_map(Result::transpose).collect()
    }
}

/// How what is watched is shown.
enum Face {
    /// A table that is drawn over itself; `None` while the process sleeps.
    Screen(Option<Screen>),
    /// A line for each change.
    Lines,
    /// The same as JSON.
    Json,
}

struct Watch {
    whose: Whose,
    fleet: Fleet,
    /// The last events of the one connection that is watched.
    events: VecDeque<EventJson>,
    wanted: Sender<Wanted>,
    is_fetching: bool,
    fetch_from: Instant,
    draw_at: Instant,
}

impl Watch {
    fn new(whose: Whose, wanted: Sender<Wanted>) -> Self {
        let now = Instant::now();
        let (fleet, events) = (Fleet::default(), VecDeque::new());
        Self { whose, fleet, events, wanted, is_fetching: false, fetch_from: now, draw_at: now }
    }

    fn run(mut self, told: &Receiver<Message>, face: &mut Face) -> Result<Exit, CliError> {
        loop {
            if self.draw_at <= Instant::now() {
                self.fleet.see_ends(output::now_ms());
                self.show(face)?;
                self.draw_at = Instant::now() + DRAW_EVERY;
            }
            self.fetch();
            let message = match told.recv_timeout(self.pause()) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => Message::Quit,
            };
            self.draw_at = self.draw_at.min(Instant::now() + DRAW_SOON);
            match message {
                Message::News(News::Refused(why)) => return Err(why),
                Message::News(news) => self.hear(news, face),
                Message::Fetched(fetched) => self.fetched(fetched)?,
                Message::Suspend => suspend(face)?,
                Message::Redraw => {}
                Message::Quit => return Ok(exit_of(self.fleet.by_urgency())),
            }
        }
    }

    /// Until there is something to draw or to fetch.
    fn pause(&self) -> Duration {
        let fetches = !self.is_fetching && self.fleet.is_wanting();
        let next = if fetches { self.draw_at.min(self.fetch_from) } else { self.draw_at };
        next.saturating_duration_since(Instant::now())
    }

    fn hear(&mut self, news: News, face: &Face) {
        if !self.fleet.is_wanting() {
            self.fetch_from = self.fetch_from.max(Instant::now() + FETCH_SOON);
        }
        self.fleet.hear(&news);
        match news {
            News::Event(event) if self.whose.name.is_some() => {
                self.events.push_front(event);
                self.events.truncate(EVENTS_SHOWN);
            }
            // A screen shows it by itself.
            News::Lost(why) if !matches!(face, Face::Screen(_)) => {
                output::to_stderr(&why.next_step("nothing to do: waiting for the daemon").report());
            }
            News::Back if !matches!(face, Face::Screen(_)) => say!("the daemon is back"),
            _ => {}
        }
    }

    fn fetch(&mut self) {
        if self.is_fetching || self.fetch_from > Instant::now() {
            return;
        }
        if let Some(wanted) = self.fleet.next_wanted() {
            self.is_fetching = self.wanted.send(wanted).is_ok();
        }
    }

    fn fetched(&mut self, fetched: Result<Fetched, CliError>) -> Result<(), CliError> {
        self.is_fetching = false;
        self.fetch_from = Instant::now() + FETCH_PAUSE;
        match fetched {
            Ok(fetched) => self.fleet.take(fetched),
            // The one that was watched is gone.
            Err(error) if error.exit() == Exit::NotFound => return Err(error),
            Err(error) => {
                self.fetch_from = Instant::now() + DRAW_EVERY;
                self.fleet.want_all();
                self.fleet.trouble(error.cause());
            }
        }
        Ok(())
    }

    fn show(&mut self, face: &Face) -> Result<(), CliError> {
        let now_ms = output::now_ms();
        match face {
            Face::Screen(Some(screen)) => screen.draw(&self.picture(screen.size(), now_ms)),
            Face::Screen(None) => Ok(()),
            Face::Lines => self
                .fleet
                .take_changes()
                .iter()
                .try_for_each(|(name, connection)| output::write(&change(name, *connection, now_ms))),
            Face::Json => self
                .fleet
                .take_changes()
                .into_iter()
                .filter_map(|(_, connection)| connection)
                .try_for_each(output::write_json_line),
        }
    }

    /// Everything that fits on a screen of this size.
    fn picture(&self, (columns, rows): (usize, usize), now_ms: i64) -> String {
        let mut lines: Vec<String> = Vec::new();
        if let Some(why) = self.fleet.why_old() {
            lines.push(format!("OLD: {why}; waiting for the daemon"));
        }
        match self.whose.name {
            Some(_) => self.fleet.by_urgency().for_each(|one| lines.extend(one_lines(one, &self.events, now_ms))),
            None => self.overview(&mut lines, (columns, rows), now_ms),
        }
        // A line of the table fits already, and must not be cut where it is coloured.
        let fits = |line: &String| line.contains('\x1b');
        lines.iter().map(|line| if fits(line) { line.clone() } else { cut(line, columns) } + "\n").collect()
    }

    fn overview(&self, lines: &mut Vec<String>, (columns, rows): (usize, usize), now_ms: i64) {
        lines.extend(
            self.fleet
                .summary()
                .iter()
                .flat_map(|summary| counts(summary, now_ms).lines().map(str::to_owned).collect::<Vec<_>>()),
        );
        lines.push(String::new());
        let sorted: Vec<&ConnectionJson> = self.fleet.by_urgency().collect();
        let remedies = remedies(&sorted, rows / 3);
        // The title of the table, and the line that says how many more there are.
        let room = rows.saturating_sub(lines.len() + remedies.len() + 2).max(1);
        let table = list::table(sorted.iter().take(room).copied(), now_ms, Some(columns));
        lines.extend(table.lines().map(str::to_owned));
        let total =
            self.fleet.summary().map_or(sorted.len(), |summary| usize::try_from(summary.total).unwrap_or(usize::MAX));
        if total > room {
            lines.push(format!("and {} more", total - room));
        }
        lines.extend(remedies);
    }
}

/// What is wrong with the most urgent ones and what to do, in at most so many lines.
fn remedies(sorted: &[&ConnectionJson], lines_max: usize) -> Vec<String> {
    let failed = sorted.iter().filter_map(|connection| Some((connection, connection.last_error.as_ref()?)));
    let told = failed.flat_map(|(connection, error)| {
        let name = shown(&connection.namespace, &connection.name);
        [String::new(), format!("{name}: {}", error.message), format!("  next: {}", error.next_action)]
    });
    told.take(lines_max / 3 * 3).collect()
}

fn one_lines(connection: &ConnectionJson, events: &VecDeque<EventJson>, now_ms: i64) -> Vec<String> {
    let mut lines: Vec<String> = detail(connection, now_ms).lines().map(str::to_owned).collect();
    lines.push(String::new());
    lines.extend(events.iter().map(|event| events::line(event).trim_end().to_owned()));
    lines
}

/// A change as a line.
fn change(name: &str, connection: Option<&ConnectionJson>, now_ms: i64) -> String {
    let now = jiff::Timestamp::from_millisecond(now_ms).map_or_else(|_| "-".to_owned(), |now| format!("{now:.3}"));
    let Some(connection) = connection else { return format!("{now}  {name}  removed\n") };
    format!(
        "{now}  {name}  {}  generation {}, expires {}, refresh {}{}\n",
        connection.status,
        connection.generation,
        relative(connection.access_expires_at.as_deref(), now_ms),
        relative(connection.refresh_due_at.as_deref(), now_ms),
        connection.last_error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default()
    )
}

/// Gives the terminal back, sleeps until the shell wakes us, and takes it again.
fn suspend(face: &mut Face) -> Result<(), CliError> {
    if let Face::Screen(screen) = face {
        drop(screen.take());
        // It returns when the process goes on.
        let _ = kill_process(getpid(), Signal::STOP);
        *screen = Some(Screen::take()?);
    }
    Ok(())
}

/// Passes on what happens.
fn hear(mut follower: Follower, messages: Sender<Message>) {
    thread::spawn(move || while messages.send(Message::News(follower.next())).is_ok() {});
}

/// Fetches what is wanted, one after the other.
fn fetch(whose: Whose, wants: Receiver<Wanted>, messages: Sender<Message>) {
    thread::spawn(move || {
        for wanted in wants {
            if messages.send(Message::Fetched(whose.fetch(wanted))).is_err() {
                return;
            }
        }
    });
}

/// `q` ends it, where there is a keyboard.
fn keys(messages: Sender<Message>) {
    if std::io::stdin().is_terminal() {
        thread::spawn(move || {
            let pressed = std::io::stdin().lock().bytes().map_while(Result::ok);
            for key in pressed.filter(|key| b"qQ".contains(key)) {
                let _ = (key, messages.send(Message::Quit));
            }
        });
    }
}

/// Passes on what the terminal and the system say.
fn signals(messages: Sender<Message>) -> Result<(), CliError> {
    let refused = |error: std::io::Error| CliError::new(format!("signals cannot be received: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(refused)?;
    let guard = runtime.enter();
    let listen = |kind: SignalKind| signal(kind).map_err(refused);
    let suspend = SignalKind::from_raw(Signal::TSTP.as_raw());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (mut hangup, mut quit) = (listen(SignalKind::hangup())?, listen(SignalKind::quit())?);
    let (mut resized, mut suspended) = (listen(SignalKind::window_change())?, listen(suspend)?);
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let message = tokio::select! {
                    _ = interrupt.recv() => Message::Quit,
                    _ = terminate.recv() => Message::Quit,
                    _ = hangup.recv() => Message::Quit,
                    _ = quit.recv() => Message::Quit,
                    _ = resized.recv() => Message::Redraw,
                    _ = suspended.recv() => Message::Suspend,
                };
                if messages.send(message).is_err() {
                    return;
                }
            }
        });
    });
    Ok(())
}
