//! What a connection is: its name, its token set's times, its state.
//!
//! There is no secret in here. The tokens themselves travel beside a [`Connection`], only where
//! they are needed.

use crate::deadline::Deadline;
use crate::failure::{Failure, FailureCode};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The namespace that a connection lives in unless said otherwise.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The longest name, namespace, or provider name, in bytes.
pub const NAME_LENGTH_MAX: usize = 128;

/// The store's own number of a connection. Never shown to users, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub i64);

/// Counts the sign-ins and imports of a connection; an answer for an older grant is never applied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GrantNumber(pub u32);

/// Counts the token sets that a connection has had; grows by one at each successful refresh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u64);

/// Counts the claims that a connection has had.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AttemptNumber(pub u64);

/// Why a text cannot name a connection, a namespace or a provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidName {
    /// The text as given, at most 160 characters of it, control characters replaced.
    pub found: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a name: expected 1 to {NAME_LENGTH_MAX} characters out of letters, digits and . _ - @ + :, the first a letter or digit",
            self.found
        )
    }
}

impl std::error::Error for InvalidName {}

/// Checks a name: 1 to [`NAME_LENGTH_MAX`] ASCII letters, digits and `. _ - @ + :`, the first of
/// them a letter or digit. So a name is safe in a path, a header, a log line and a shell.
///
/// # Errors
/// [`InvalidName`] with what was found.
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let all_allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@+:".contains(&b));
    if starts_well && all_allowed && text.len() <= NAME_LENGTH_MAX {
        return Ok(());
    }
    Err(InvalidName { found: printable(text, 160) })
}

/// Foreign text made safe to show: control and bidirectional characters replaced, cut at `most` characters.
#[must_use]
pub fn printable(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// True for what changes how the text around it is shown: control characters, ends of lines, and what turns the
/// direction of writing.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A connection's full name: its namespace and its name in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionKey {
    namespace: String,
    name: String,
}

impl ConnectionKey {
    /// Checks both parts with [`check_name`].
    ///
    /// # Errors
    /// [`InvalidName`] for the first part that is none.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, InvalidName> {
        let key = Self { namespace: namespace.into(), name: name.into() };
        check_name(&key.namespace)?;
        check_name(&key.name)?;
        Ok(key)
    }

    /// A name in the namespace [`DEFAULT_NAMESPACE`].
    ///
    /// # Errors
    /// [`InvalidName`] when it is none.
    pub fn in_default(name: impl Into<String>) -> Result<Self, InvalidName> {
        Self::new(DEFAULT_NAMESPACE, name)
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name in the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ConnectionKey {
    /// `name` in the default namespace, else `namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == DEFAULT_NAMESPACE {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// How a connection gets its next token set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// By its refresh token (RFC 6749 section 6).
    RefreshToken,
    /// By the client's own credentials (RFC 6749 section 4.4).
    ClientCredentials,
    /// By an assertion that the client signs for the account of its [`Origin`] (RFC 7523 section 2.1).
    JwtBearer,
    /// Not at all: there is no refresh token and no other grant.
    Impossible,
}

impl Renewal {
    /// True where the next token set is asked for with nothing that an answer brought, so that nothing rotates.
    #[must_use]
    pub const fn is_by_client(self) -> bool {
        matches!(self, Self::ClientCredentials | Self::JwtBearer)
    }
}

/// The times of the token set in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenTimes {
    /// t0: just before the request that brought this token set was sent (for an import, its
    /// best-known issue time).
    pub issued_at: Timestamp,
    /// E: when the access token ends. `None` when nobody could say.
    pub expires_at: Option<Timestamp>,
    /// L: the access token's life, said by the provider or learned; `None` when nobody could say.
    pub lifetime: Option<Duration>,
    /// True when `lifetime` was learned or guessed rather than said.
    pub lifetime_learned: bool,
    /// R: the refresh as drawn when this token set arrived. Retries move the due time, never this.
    pub planned_at: Timestamp,
    /// The refresh token's end, where the provider or its rules state one; a refresh may put it off.
    pub refresh_end: Option<Deadline>,
    /// The end of the consent: no refresh puts it off, only a human does.
    pub consent_end: Option<Deadline>,
}

/// A connection's last failed attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastError {
    /// What it was.
    pub failure: Failure,
    /// When it was.
    pub at: Timestamp,
}

/// Names one attempt: which connection, at which of its grants and generations, and the how manyth claim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttemptRef {
    /// The connection.
    pub connection: ConnectionId,
    /// Its grant when the claim was taken.
    pub grant: GrantNumber,
    /// Its generation when the claim was taken: the one whose refresh token is sent.
    pub generation: Generation,
    /// The claim's number.
    pub attempt: AttemptNumber,
}

/// Attempts since the connection was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Refresh requests that were due and tried.
    pub attempted: u64,
    /// Those that brought a token set.
    pub succeeded: u64,
    /// Those that did not.
    pub failed: u64,
}

/// What a connection waits for until it is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// The planned refresh.
    Schedule,
    /// Another try, after this many failed ones in a row.
    Retry {
        /// Failed attempts since the last success.
        failures: u32,
    },
    /// Word about an answer that was lost: whether the provider rotated is not known.
    InDoubt(Doubt),
    /// The one re-check that a rejection gets where the refresh token cannot have rotated away.
    Recheck,
    /// The end of a token that nothing can renew.
    End,
}

/// One or more sent requests whose answers were lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// When the first of them was sent.
    pub first_sent_at: Timestamp,
    /// Failed attempts since the last success, the lost ones included.
    pub failures: u32,
    /// What the next attempt is.
    pub next: DoubtStep,
}

/// What may follow a lost answer; the provider's rotation class decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DoubtStep {
    /// The provider accepts the same refresh token again: send it again.
    Resend,
    /// It may not: one late probe, when nobody else can hold the answer.
    Probe,
}

/// One worker's durable right to make one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// Who holds it.
    pub holder: Holder,
    /// When it was taken.
    pub claimed_at: Timestamp,
}

/// A claim's holder: one incarnation of one worker of one process in one boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Holder {
    /// The machine's boot, as a number that differs between boots.
    pub boot: u64,
    /// The process, as a number that differs between its starts.
    pub process: u64,
    /// The worker in the process.
    pub worker: u32,
    /// Counts the worker's restarts.
    pub incarnation: u32,
}

/// Where a connection stands. `paused` and `held` are flags beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing in flight; the next attempt is at `due_at` ([`Timestamp::NEVER`]: none is planned).
    Ready {
        /// When the next attempt may start.
        due_at: Timestamp,
        /// What that attempt is.
        waiting: Waiting,
    },
    /// One attempt is in flight.
    Claimed {
        /// Whose.
        claim: Claim,
        /// What the connection was waiting for when it was claimed.
        waiting: Waiting,
    },
    /// The provider ended the grant: a human must sign in.
    NeedsReauth {
        /// Why.
        cause: FailureCode,
        /// Since when.
        at: Timestamp,
    },
}

/// A cause that must be cleared before the connection may be refreshed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Why.
    pub cause: FailureCode,
    /// When one probe may find out whether the cause is gone; `None`: only a human may.
    pub probe_at: Option<Timestamp>,
}

/// One grant of one resource owner to one client, without its secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The store's number.
    pub id: ConnectionId,
    /// Namespace and name.
    pub key: ConnectionKey,
    /// The provider's name in the configuration.
    pub provider: String,
    /// What its owner attached.
    pub labels: BTreeMap<String, String>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// How it is renewed.
    pub renewal: Renewal,
    /// Sign-ins and imports so far.
    pub grant: GrantNumber,
    /// Token sets so far.
    pub generation: Generation,
    /// Claims so far.
    pub attempt: AttemptNumber,
    /// The attempt that brought the token set in hand; 0 for an import.
    pub committed: AttemptNumber,
    /// Where its grant comes from.
    pub origin: Origin,
    /// The times of the token set in hand.
    pub times: TokenTimes,
    /// Where it stands.
    pub state: State,
    /// Somebody asked for no refreshes. A commit never clears it.
    pub paused: bool,
    /// A cause to clear first. A commit clears it only when it proves the cause gone.
    pub hold: Option<Hold>,
    /// When it last got a token set by refresh; for a fresh import, when it was imported.
    pub last_success: Timestamp,
    /// True once a refresh has succeeded.
    pub refreshed: bool,
    /// The last failure since the last success, if any.
    pub last_error: Option<LastError>,
    /// Attempts so far.
    pub stats: Stats,
}

/// Where a grant comes from, as far as anybody knows. Of an import nothing is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Whose it is, as the provider names the account.
    pub account: Option<String>,
    /// The redirect URI of the sign-in, which some providers want to see again at each refresh.
    pub redirect_uri: Option<String>,
}

/// The status that people see: the first that applies, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// A human must sign in.
    NeedsReauth,
    /// Somebody asked for no refreshes.
    Paused,
    /// A cause must be cleared first.
    Held,
    /// An answer was lost.
    InDoubt,
    /// The access token has ended.
    Expired,
    /// The last attempts failed.
    Retrying,
    /// An attempt is in flight.
    Refreshing,
    /// All is well.
    Fresh,
}

impl Status {
    /// Every status, in the order of precedence.
    pub const ALL: [Self; 8] = [
        Self::NeedsReauth,
        Self::Paused,
        Self::Held,
        Self::InDoubt,
        Self::Expired,
        Self::Retrying,
        Self::Refreshing,
        Self::Fresh,
    ];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeedsReauth => "needs_reauth",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::InDoubt => "in_doubt",
            Self::Expired => "expired",
            Self::Retrying => "retrying",
            Self::Refreshing => "refreshing",
            Self::Fresh => "fresh",
        }
    }

    /// Reads what [`Status::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl Connection {
    /// The status shown at `now` (protocol 2: the first that applies).
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        if matches!(self.state, State::NeedsReauth { .. }) {
            return Status::NeedsReauth;
        }
        if self.paused {
            return Status::Paused;
        }
        if self.hold.is_some() {
            return Status::Held;
        }
        if matches!(self.waiting(), Some(Waiting::InDoubt(_))) {
            return Status::InDoubt;
        }
        if self.times.expires_at.is_some_and(|end| end <= now) {
            return Status::Expired;
        }
        if matches!(self.waiting(), Some(Waiting::Retry { .. } | Waiting::Recheck)) {
            return Status::Retrying;
        }
        if matches!(self.state, State::Claimed { .. }) {
            return Status::Refreshing;
        }
        Status::Fresh
    }

    /// What it waits for, or waited for when it was claimed.
    #[must_use]
    pub fn waiting(&self) -> Option<&Waiting> {
        match &self.state {
            State::Ready { waiting, .. } | State::Claimed { waiting, .. } => Some(waiting),
            State::NeedsReauth { .. } => None,
        }
    }

    /// When the next attempt may start, with pauses and holds counted in.
    #[must_use]
    pub fn due_at(&self) -> Option<Timestamp> {
        let State::Ready { due_at, .. } = &self.state else { return None };
        let due_at = match &self.hold {
            _ if self.paused => return None,
            None => *due_at,
            Some(hold) => hold.probe_at?,
        };
        (due_at != Timestamp::NEVER).then_some(due_at)
    }

    /// When a human must have signed in again, where that is near ([`Deadline::is_near`]).
    #[must_use]
    pub fn sign_in_by(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = [self.times.refresh_end, self.times.consent_end].into_iter().flatten();
        ends.filter(|end| end.is_near(now)).map(|end| end.at).min()
    }

    /// The attempt that the latest claim allows.
    #[must_use]
    pub fn attempt_ref(&self) -> AttemptRef {
        AttemptRef { connection: self.id, grant: self.grant, generation: self.generation, attempt: self.attempt }
    }

    /// Failed attempts since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        match self.waiting() {
            Some(Waiting::Retry { failures } | Waiting::InDoubt(Doubt { failures, .. })) => *failures,
            Some(Waiting::Recheck) => 1,
            Some(Waiting::Schedule | Waiting::End) | None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere_they_appear() {
        for good in ["jira", "a", "Team-1.prod@x+y:z_0"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-x", ".x", "a/b", "a b", "a\nb", "ä", "a\0", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn foreign_text_is_made_printable() {
        assert_eq!(printable("a\x1b[31mb\r\n\u{202e}c", 99), "a\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn every_status_reads_back() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("great"), None);
    }
}
