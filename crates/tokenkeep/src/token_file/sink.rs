//! The task that looks after one token file.

use super::decide::{self, Found, Held, Known, Step};
use super::place::{self, Contents, Fault, Keeper, Keeping, Locked, Replaced, Stamp};
use super::{KeptFile, Trouble, format};
use crate::config::{Declared, TOKEN_FILES_MAX, TokenFile};
use crate::engine::lock;
use crate::error::Error;
use crate::import::{Import, Imported};
use crate::keep::{TokenKeep, WeakKeep};
use crate::store::{Event, EventKind, NewEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokenkeep_core::model::printable;
use tokenkeep_core::{ConnectionKey, Secret};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often a file is looked at for changes that others made.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a file is read though nothing seems to have changed.
const READ_EVERY: Duration = Duration::from_secs(60);
/// The pause before a file is tried again that somebody has locked.
const LOCKED_RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long somebody may hold `FILE.lock` before that is a fault: a refresh under it takes at most 60 s.
const LOCKED_MAX: Duration = Duration::from_secs(90);
/// The longest pause between two tries while a file cannot be kept.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The pause before a file is looked at that is known to have changed.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The longest message of an event, in characters: a path may be long.
const MESSAGE_MAX: usize = 1_000;
/// How long the last writes may take when Tokenkeep stops.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// All token files that this instance keeps.
pub(crate) struct Sinks {
    declared: Vec<Declared>,
    files: Vec<Arc<Kept>>,
    stop: watch::Sender<bool>,
    // Dropping it ends the tasks.
    tasks: JoinSet<()>,
}

/// What a sink's task shares with others.
struct Kept {
    key: ConnectionKey,
    /// Its connection changed. Many changes are one.
    wake: Notify,
    shown: Mutex<KeptFile>,
}

/// The right to keep each declared file, as far as it could be had before the engine started.
pub(crate) type Keepers = BTreeMap<PathBuf, Keeper>;

impl Sinks {
    /// Takes the right to keep every file. One that another daemon keeps is an error: two that refresh one grant
    /// would end it. One whose place is not usable now is tried again later.
    pub(crate) fn claim(declared: &[Declared]) -> Result<Keepers, Error> {
        let count = declared.iter().map(|declared| declared.token_files.len()).sum::<usize>();
        if count > TOKEN_FILES_MAX {
            return Err(Error::Invalid {
                field: "token_file".to_owned(),
                found: format!("found {count} files in all"),
                expected: format!("at most {TOKEN_FILES_MAX}: let more programs ask the daemon itself"),
            });
        }
        let mut keepers = Keepers::new();
        for file in declared.iter().flat_map(|declared| &declared.token_files) {
            let keeping = place::target(&place::absolute(&file.path)).and_then(|target| Keeper::take(&target));
            match keeping {
                Ok(Keeping::Ours(keeper)) => drop(keepers.insert(file.path.clone(), keeper)),
                Ok(Keeping::Theirs(holder)) => {
                    return Err(Error::TokenFileKept { path: place::absolute(&file.path), holder });
                }
                Err(Fault(why)) => tracing::debug!(file = %file.path.display(), why, "token file not claimed yet"),
            }
        }
        Ok(keepers)
    }

    /// Starts to keep every declared file.
    pub(crate) fn start(keep: &TokenKeep, declared: &[Declared], mut keepers: Keepers) -> Self {
        let stop = watch::Sender::new(false);
        let mut sinks = Self { declared: declared.to_vec(), files: Vec::new(), stop, tasks: JoinSet::new() };
        for declared in declared {
            for file in &declared.token_files {
                let keeper = keepers.remove(&file.path);
                let file = TokenFile { path: place::absolute(&file.path), ..file.clone() };
                sinks.start_one(keep, declared, file, keeper);
            }
        }
        if !sinks.files.is_empty() {
            sinks.tasks.spawn(wake_each(keep.subscribe(), sinks.files.clone(), sinks.stop.subscribe()));
        }
        sinks
    }

    fn start_one(&mut self, keep: &TokenKeep, declared: &Declared, file: TokenFile, keeper: Option<Keeper>) {
        let shown = KeptFile { path: file.path.clone(), written_at: None, trouble: None };
        let kept = Arc::new(Kept { key: declared.key.clone(), wake: Notify::new(), shown: Mutex::new(shown) });
        let sink = Sink {
            keep: keep.downgrade(),
            kept: Arc::clone(&kept),
            declared: declared.clone(),
            desk: Some(Desk { keeper, ..Desk::new(&file) }),
            file,
            read_at: None,
            not_whole_since: None,
            locked_since: None,
            failures: 0,
        };
        self.files.push(kept);
        self.tasks.spawn(sink.run(self.stop.subscribe()));
    }

    /// The files of one connection.
    pub(crate) fn of(&self, key: &ConnectionKey) -> Vec<KeptFile> {
        self.files.iter().filter(|kept| kept.key == *key).map(|kept| lock(&kept.shown).clone()).collect()
    }

    /// What they were started with.
    pub(crate) fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Brings every file up to date a last time, and ends; what was declared. A place that does not answer is left.
    pub(crate) async fn finish(mut self) -> Vec<Declared> {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_MAX, all).await.is_err() {
            tracing::warn!("a token file could not be written in time; the next start will");
        }
        self.declared
    }
}

/// Wakes the sinks of each connection that something happened to.
async fn wake_each(
    mut events: broadcast::Receiver<Arc<Event>>,
    files: Vec<Arc<Kept>>,
    mut stop: watch::Receiver<bool>,
) {
    let keys: BTreeSet<ConnectionKey> = files.iter().map(|kept| kept.key.clone()).collect();
    loop {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            event = events.recv() => event,
        };
        let key = match &event {
            Ok(event) if changes_tokens(event.event.kind) => match &event.event.connection {
                Some(key) if keys.contains(key) => Some(key),
                _ => continue,
            },
            Ok(_) => continue,
            // Some were missed: any file may be meant.
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        files.iter().filter(|kept| key.is_none_or(|key| *key == kept.key)).for_each(|kept| kept.wake.notify_one());
    }
}

fn changes_tokens(kind: EventKind) -> bool {
    matches!(kind, EventKind::Connected | EventKind::Refreshed | EventKind::Removed)
}

/// One token file's keeper.
struct Sink {
    keep: WeakKeep,
    kept: Arc<Kept>,
    declared: Declared,
    file: TokenFile,
    /// `None` while a thread works at it.
    desk: Option<Desk>,
    read_at: Option<Instant>,
    not_whole_since: Option<Instant>,
    locked_since: Option<Instant>,
    failures: u32,
}

/// What a thread needs that works at the file.
struct Desk {
    path: PathBuf,
    keeper: Option<Keeper>,
    known: Known,
    /// What the file was when it was last read or written.
    stamp: Option<Stamp>,
    /// What it said when it was last whole: its unknown fields outlive a truncation.
    shape: Option<Secret>,
}

/// What came of one look at the file.
enum Looked {
    /// Somebody has `FILE.lock`.
    Locked,
    /// It says what it must, or is none of our business.
    AsItMust,
    /// It was written; and what was wrong with it before.
    Written(Option<String>),
    /// It holds a newer grant.
    Newer(Secret),
    /// It is not whole.
    NotWhole,
    /// Somebody wrote meanwhile.
    Changed,
}

impl Sink {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let kept = Arc::clone(&self.kept);
        let mut woken = true;
        loop {
            let stopping = *stop.borrow();
            let Some(pause) = self.round(woken || stopping).await else { return };
            if stopping {
                return;
            }
            woken = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => true,
                () = kept.wake.notified() => true,
                () = tokio::time::sleep(pause) => false,
            };
        }
    }

    /// One look, and what it leads to; how long until the next. `None`: Tokenkeep is gone.
    async fn round(&mut self, woken: bool) -> Option<Duration> {
        let keep = self.keep.upgrade()?;
        if !woken && self.seems_unchanged().await {
            return Some(LOOK_EVERY);
        }
        self.read_at = Some(Instant::now());
        Some(match self.look(&keep).await {
            Ok(pause) => pause,
            Err(fault) => self.failed(&keep, &fault.0).await,
        })
    }

    async fn seems_unchanged(&mut self) -> bool {
        let is_due = self.read_at.is_none_or(|at| at.elapsed() >= READ_EVERY);
        let is_quiet = self.failures == 0 && self.not_whole_since.is_none() && self.locked_since.is_none();
        if is_due || !is_quiet {
            return false;
        }
        let Ok(unchanged) = self.at_the_file(|desk| Ok(desk.seems_unchanged())).await else { return false };
        unchanged
    }

    /// Works at the file on a thread where that may block.
    async fn at_the_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Desk) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let mut desk = self.desk.take().unwrap_or_else(|| Desk::new(&self.file));
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut desk);
            (desk, done)
        });
        let (desk, done) = done.await.map_err(|error| Fault(format!("could not be looked at: {error}")))?;
        self.desk = Some(desk);
        done
    }

    async fn look(&mut self, keep: &TokenKeep) -> Result<Duration, Fault> {
        let held = self.held(keep).await?;
        let broken_for = self.not_whole_since.map_or(Duration::ZERO, |since| since.elapsed());
        let looked = self
            .at_the_file(move |desk| {
                desk.known.broken_for = broken_for;
                desk.look(held.as_ref())
            })
            .await?;
        if !matches!(looked, Looked::Locked) {
            self.locked_since = None;
        }
        if !matches!(looked, Looked::NotWhole | Looked::Locked) {
            self.not_whole_since = None;
        }
        match looked {
            Looked::Locked => self.locked(),
            Looked::NotWhole => {
                self.not_whole_since.get_or_insert_with(Instant::now);
                Ok(LOOK_EVERY)
            }
            Looked::Changed => Ok(self.again()),
            Looked::Newer(token) => self.adopt(keep, token).await,
            Looked::AsItMust => {
                self.mended(keep).await;
                Ok(LOOK_EVERY)
            }
            Looked::Written(was) => {
                lock(&self.kept.shown).written_at = Some(keep.now());
                if let Some(was) = was {
                    self.warn(keep, &was).await;
                }
                self.mended(keep).await;
                Ok(LOOK_EVERY)
            }
        }
    }

    async fn held(&self, keep: &TokenKeep) -> Result<Option<Held>, Fault> {
        keep.held_for(&self.kept.key, &self.file)
            .await
            .map_err(|error| Fault(format!("the store cannot be read: {error}")))
    }

    /// There is more to see at once.
    fn again(&mut self) -> Duration {
        self.read_at = None;
        AGAIN_AFTER
    }

    fn locked(&mut self) -> Result<Duration, Fault> {
        let since = self.locked_since.get_or_insert_with(Instant::now).elapsed();
        if since < LOCKED_MAX {
            return Ok(LOCKED_RETRY_EVERY);
        }
        Err(Fault(format!("another program has held its .lock file for more than {} s", LOCKED_MAX.as_secs())))
    }

    /// Takes over a grant that somebody put into the file: a sign-in, or a refresh by another program.
    async fn adopt(&mut self, keep: &TokenKeep, token: Secret) -> Result<Duration, Fault> {
        let key = &self.kept.key;
        let before = self.held(keep).await?;
        let provider = before.as_ref().map_or(&self.declared.provider, |held| &held.connection.provider).clone();
        let labels = Some(&self.declared.labels).filter(|labels| !labels.is_empty()).cloned();
        let import = Import { key: key.clone(), provider, token: token.duplicate(), labels };
        let imported =
            keep.import(import).await.map_err(|error| Fault(format!("its token set cannot be taken over: {error}")))?;
        let file = self.file.path.display();
        let used = match imported {
            Imported::Created(_) => {
                tracing::info!(connection = %key, %file, "token set taken over from the token file");
                None
            }
            Imported::Renewed(_) => {
                tracing::info!(connection = %key, %file, "the token file held a refresh token that was never held here: adopted");
                before.and_then(|held| held.tokens.refresh_token)
            }
            Imported::AlreadyUsed(_) => format::read(&token).ok().and_then(|brought| brought.tokens.refresh_token),
            Imported::AlreadyHeld(_) => None,
        };
        if let (Some(used), Some(desk)) = (used, &mut self.desk) {
            desk.known.remember_used(used);
        }
        Ok(self.again())
    }

    /// The file cannot be kept now: told once, and tried again, later each time.
    async fn failed(&mut self, keep: &TokenKeep, why: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let message = format!("The token file {} is not current: {why}.", self.file.path.display());
        let is_news = {
            let mut shown = lock(&self.kept.shown);
            let before = shown.trouble.take();
            let is_news = before.as_ref().is_none_or(|before| before.message != message);
            let since = before.map_or_else(|| keep.now(), |before| before.since);
            shown.trouble = Some(Trouble { since, message: message.clone() });
            is_news
        };
        if is_news {
            self.tell(keep, EventKind::StorageDegraded, &message).await;
        }
        (LOOK_EVERY * 2u32.saturating_pow(self.failures.min(10) - 1)).min(RETRY_MAX)
    }

    /// Something was wrong with the file, and has been mended.
    async fn warn(&mut self, keep: &TokenKeep, was: &str) {
        let message = format!("The token file {} {was}; it was written anew.", self.file.path.display());
        lock(&self.kept.shown).trouble = Some(Trouble { since: keep.now(), message: message.clone() });
        self.tell(keep, EventKind::StorageDegraded, &message).await;
    }

    async fn mended(&mut self, keep: &TokenKeep) {
        self.failures = 0;
        let was = lock(&self.kept.shown).trouble.take();
        if was.is_some() {
            let message = format!("The trouble with the token file {} is over.", self.file.path.display());
            self.tell(keep, EventKind::Recovered, &message).await;
        }
    }

    async fn tell(&self, keep: &TokenKeep, kind: EventKind, message: &str) {
        let key = &self.kept.key;
        match kind {
            EventKind::Recovered => tracing::info!(connection = %key, "{message}"),
            _ => tracing::warn!(connection = %key, "{message}"),
        }
        let mut event = NewEvent::new(kind, keep.now(), Some(key), printable(message, MESSAGE_MAX));
        event.data = serde_json::json!({ "token_file": self.file.path.to_string_lossy() }).to_string();
        keep.record(event).await;
    }
}

impl Desk {
    fn new(file: &TokenFile) -> Self {
        Self { path: file.path.clone(), keeper: None, known: Known::default(), stamp: None, shape: None }
    }

    fn seems_unchanged(&self) -> bool {
        let Ok(target) = place::target(&self.path) else { return false };
        let kept = self.keeper.as_ref().is_some_and(|keeper| keeper.keeps(&target));
        kept && Stamp::at(&target) == self.stamp && self.stamp.is_none_or(|stamp| stamp.is_settled())
    }

    /// Reads the file and does what is to be done, under `FILE.lock`.
    fn look(&mut self, held: Option<&Held>) -> Result<Looked, Fault> {
        let target = place::target(&self.path)?;
        self.keep(&target)?;
        let Some(locked) = Locked::take(&target)? else { return Ok(Looked::Locked) };
        if let Some(looked) = self.look_at_displaced(&locked, held)? {
            return Ok(looked);
        }
        let contents = locked.read()?;
        self.stamp = contents.stamp();
        let found = Found::of(contents.bytes());
        let step = decide::decide(&found, held, &self.known);
        if let Found::Whole(whole) = &found {
            self.known.was_whole = true;
            self.shape = Some(whole.text.duplicate());
        }
        match (step, held) {
            (Step::Adopt, _) => Ok(newer(found)),
            (Step::Wait, _) => Ok(Looked::NotWhole),
            (Step::Refuse(why), _) => Err(Fault(why)),
            (Step::Write, Some(held)) => self.write(&locked, &contents, held, None),
            (Step::WriteWarning(was), Some(held)) => self.write(&locked, &contents, held, Some(was)),
            (Step::Leave | Step::Write | Step::WriteWarning(_), _) => {
                self.known.said = held.map(Held::number).or(self.known.said);
                if let Found::Whole(whole) = &found {
                    self.known.last = Some(decide::mark(&whole.brought.tokens).duplicate());
                }
                Ok(Looked::AsItMust)
            }
        }
    }

    fn keep(&mut self, target: &Path) -> Result<(), Fault> {
        if self.keeper.as_ref().is_some_and(|keeper| keeper.keeps(target)) {
            return Ok(());
        }
        self.keeper = None;
        match Keeper::take(target)? {
            Keeping::Ours(keeper) => self.keeper = Some(keeper),
            Keeping::Theirs(holder) => {
                return Err(Fault(format!(
                    "another tokenkeep ({holder}) keeps it: take token_file out of one of the two configurations"
                )));
            }
        }
        Ok(())
    }

    /// What a program wrote while the file was being replaced is treated as if it were the file.
    fn look_at_displaced(&self, locked: &Locked, held: Option<&Held>) -> Result<Option<Looked>, Fault> {
        let displaced = locked.displaced()?;
        let found = Found::of(displaced.bytes());
        match decide::decide(&found, held, &self.known) {
            _ if matches!(found, Found::Nothing) => return Ok(None),
            Step::Adopt => return Ok(Some(newer(found))),
            Step::Wait => return Ok(Some(Looked::NotWhole)),
            _ => locked.drop_displaced()?,
        }
        Ok(None)
    }

    fn write(&mut self, locked: &Locked, before: &Contents, held: &Held, was: Option<String>) -> Result<Looked, Fault> {
        let current = held.current();
        let text = format::write(self.shape.as_ref(), &current);
        let stamp = match locked.replace(before, &text)? {
            Replaced::Changed => return Ok(Looked::Changed),
            Replaced::Done(stamp) => stamp,
        };
        self.stamp = Some(stamp);
        self.known.said = Some(held.number());
        self.known.now_has(current.refresh_token.unwrap_or(current.access_token).duplicate());
        self.known.was_whole = true;
        self.shape = Some(text);
        Ok(Looked::Written(was))
    }
}

fn newer(found: Found) -> Looked {
    match found {
        Found::Whole(whole) => Looked::Newer(whole.text),
        Found::Nothing | Found::Broken { .. } => Looked::Changed,
    }
}
