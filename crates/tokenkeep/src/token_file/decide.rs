//! What is to become of a token file: the store is master, and no refresh token that we never held is lost.

use super::format::{self, Brought, Current};
use crate::error::Error;
use std::time::Duration;
use tokenkeep_core::model::{Connection, State};
use tokenkeep_core::oauth::TokenSet;
use tokenkeep_core::{Secret, Timestamp};

/// How long a file that is not whole is left alone: a program may be writing it, or an editor have it open.
pub const BROKEN_LEFT_FOR: Duration = Duration::from_secs(10);
/// Where the end of an access token moves on with an overdue refresh, a file follows in steps of at least this.
pub(crate) const TOLD_IN_STEPS_OF_MIN: Duration = Duration::from_secs(60);
/// How many used refresh tokens are remembered for a file, beside those that the store knows.
const USED_MAX: usize = 32;
/// How far a program's clock may be from ours when token sets are compared by their age.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);

/// What lies where a token file belongs.
pub(super) enum Found {
    /// No file.
    Nothing,
    /// A token set.
    Whole(Box<Whole>),
    /// No token set: what instead, and whether it looks like what is left of one.
    Broken { why: String, remains: Remains },
}

/// A token set in a file.
pub(super) struct Whole {
    pub(super) text: Secret,
    pub(super) brought: Brought,
}

/// What a file that holds no token set looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remains {
    /// Empty, truncated, or without its tokens.
    OfATokenFile,
    /// Something that Tokenkeep did not write and must not overwrite.
    OfSomethingElse,
}

impl Found {
    pub(super) fn of(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else { return Self::Nothing };
        let remains = remains_of(bytes);
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::Broken { why: "no UTF-8 text".to_owned(), remains };
        };
        let text = Secret::new(text);
        match format::read(&text) {
            Ok(brought) => Self::Whole(Box::new(Whole { text, brought })),
            Err(Error::Invalid { field, found, .. }) => {
                Self::Broken { why: format!("no token set ({field}: {found})"), remains }
            }
            Err(error) => Self::Broken { why: format!("no token set ({error})"), remains },
        }
    }
}

fn remains_of(bytes: &[u8]) -> Remains {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
    // A power cut leaves zeros where a program did not sync.
    let is_blank = text.iter().all(|&byte| byte == 0);
    let has_token = |text: &[u8]| [&b"\"access_token\""[..], b"\"refresh_token\""].iter().any(|name| holds(text, name));
    let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
    let is_part = text.starts_with(b"{") && text.len() <= format::BYTES_MAX;
    if is_blank || text == b"{}" || (is_part && (!is_whole || has_token(text))) {
        Remains::OfATokenFile
    } else {
        Remains::OfSomethingElse
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What the store has for the file.
pub(crate) struct Held {
    pub(crate) connection: Connection,
    pub(crate) tokens: TokenSet,
    /// When the token set in hand was issued, in wall time.
    pub(crate) issued_at: Timestamp,
    /// See [`Current`].
    pub(crate) expires_at: Option<Timestamp>,
    /// See [`Current`].
    pub(crate) expires_at_assumed: Timestamp,
    /// See [`Current`].
    pub(crate) earlier_by: Duration,
    /// The file is to have no refresh token.
    pub(crate) without_refresh_token: bool,
}

impl Held {
    /// What the file is to say.
    pub(super) fn current(&self) -> Current<'_> {
        let origin = if self.connection.committed.0 > 0 { format::Origin::Provider } else { format::Origin::Brought };
        Current {
            access_token: &self.tokens.access_token,
            refresh_token: self.tokens.refresh_token.as_ref().filter(|_| !self.without_refresh_token),
            token_type: &self.tokens.token_type,
            expires_at: self.expires_at,
            expires_at_assumed: self.expires_at_assumed,
            earlier_by: self.earlier_by,
            lifetime: self.connection.times.lifetime,
            scopes: &self.connection.scopes,
            extra: &self.tokens.extra,
            origin,
        }
    }

    /// Which token set it is.
    pub(super) fn number(&self) -> (u32, u64) {
        (self.connection.grant.0, self.connection.generation.0)
    }
}

/// What the keeper of a file knows besides.
#[derive(Default)]
pub(super) struct Known {
    /// The store's token set that the file has last been seen or made to say.
    pub(super) said: Option<(u32, u64)>,
    /// In this run it was whole, so it is a token file.
    pub(super) was_whole: bool,
    /// For how long it has not been whole.
    pub(super) broken_for: Duration,
    /// Refresh tokens that are known to have been used.
    pub(super) used: Vec<Secret>,
    /// The refresh token, else the access token, that the file last had.
    pub(super) last: Option<Secret>,
}

impl Known {
    /// The file was written with this mark: what it had before is not to come back.
    pub(super) fn now_has(&mut self, mark: Secret) {
        if let Some(before) = self.last.take().filter(|before| *before != mark) {
            self.remember_used(before);
        }
        self.last = Some(mark);
    }

    /// Remembers a refresh token that must not come back.
    pub(super) fn remember_used(&mut self, token: Secret) {
        if self.used.len() >= USED_MAX {
            self.used.remove(0);
        }
        self.used.push(token);
    }
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It is as it must be, or none of our business.
    Leave,
    /// Write it, because it is not as it must be.
    Write,
    /// Write it, and warn of what it was: the sentence's end.
    WriteWarning(String),
    /// It holds a grant that is newer than ours.
    Adopt,
    /// Somebody may be writing it: look again soon.
    Wait,
    /// Nothing may be done to it: the sentence's end.
    Refuse(String),
}

/// Decides what becomes of a file.
pub(super) fn decide(found: &Found, held: Option<&Held>, known: &Known) -> Step {
    let Some(held) = held else { return without_connection(found, known) };
    match found {
        Found::Nothing => Step::Write,
        Found::Broken { .. } if known.broken_for < BROKEN_LEFT_FOR => Step::Wait,
        Found::Broken { why, remains } if *remains == Remains::OfATokenFile || known.was_whole => {
            Step::WriteWarning(format!("held {why}"))
        }
        Found::Broken { why, .. } => {
            Step::Refuse(format!("it holds {why} and is no token file: move it away, or correct token_file"))
        }
        Found::Whole(whole) => whole_file(&whole.brought, held, known),
    }
}

/// At the first look the file is where the connection comes from. Later only what is new in it is: a connection that
/// somebody removed does not come back by itself.
fn without_connection(found: &Found, known: &Known) -> Step {
    match found {
        Found::Whole(whole) if known.last.as_ref() != Some(mark(&whole.brought.tokens)) => Step::Adopt,
        Found::Broken { .. } if known.broken_for < BROKEN_LEFT_FOR => Step::Wait,
        Found::Broken { why, .. } => Step::Refuse(format!(
            "it holds {why}, so there is nothing to begin with: sign in again, or give a token set to `tokenkeep import`"
        )),
        Found::Whole(_) | Found::Nothing => Step::Leave,
    }
}

/// What a token set in a file is recognised by.
pub(super) fn mark(tokens: &TokenSet) -> &Secret {
    tokens.refresh_token.as_ref().unwrap_or(&tokens.access_token)
}

fn whole_file(brought: &Brought, held: &Held, known: &Known) -> Step {
    match (&brought.tokens.refresh_token, &held.tokens.refresh_token) {
        (Some(theirs), Some(ours)) if theirs == ours => same_grant(brought, held, known),
        (Some(theirs), _) => another_grant(theirs, brought, held, known),
        (None, Some(_)) if held.without_refresh_token => same_grant(brought, held, known),
        (None, Some(_)) if brought.tokens.access_token == held.tokens.access_token => Step::Write,
        (None, Some(_)) if known.broken_for < BROKEN_LEFT_FOR => Step::Wait,
        (None, Some(_)) => Step::WriteWarning("had lost its refresh token".to_owned()),
        (None, None) if brought.tokens.access_token == held.tokens.access_token => same_grant(brought, held, known),
        (None, None) if can_adopt(held) && !is_older(brought, held) && held.current().ends_before(brought) => {
            Step::Adopt
        }
        (None, None) => Step::Write,
    }
}

/// The refresh token in the file is ours. A program that got itself another access token with it (providers whose
/// refresh tokens persist allow that) may use it until our next.
fn same_grant(brought: &Brought, held: &Held, known: &Known) -> Step {
    let current = held.current();
    let other_token = brought.tokens.access_token != held.tokens.access_token;
    let is_news = known.said.is_some_and(|said| said != held.number());
    let lacks_nothing = brought.tokens.refresh_token.as_ref() == current.refresh_token;
    if current.is_said_by(brought) || (other_token && !is_news && lacks_nothing && current.ends_before(brought)) {
        Step::Leave
    } else {
        Step::Write
    }
}

/// The refresh token in the file is not the one in hand.
fn another_grant(theirs: &Secret, brought: &Brought, held: &Held, known: &Known) -> Step {
    if known.last.as_ref() == Some(theirs) {
        // It is what the file had before: the news came to the store by another way, and the file lags behind.
        Step::Write
    } else if known.used.contains(theirs) {
        Step::WriteWarning("held a refresh token that has been used: a program saved a stale copy".to_owned())
    } else if is_older(brought, held) {
        Step::WriteWarning("held an older token set than the one in hand: a program saved a stale copy".to_owned())
    } else if can_adopt(held) {
        Step::Adopt
    } else {
        Step::WriteWarning("held a refresh token, which this connection does without".to_owned())
    }
}

fn can_adopt(held: &Held) -> bool {
    !held.connection.renewal.is_by_client()
}

/// True for a token set that was issued before the one in hand: the store remembers only so many used refresh tokens,
/// and using one again may end the grant. A file that does not say how long its token lives has certainly been issued
/// before its end. While a human must sign in anyway, there is nothing to lose.
fn is_older(brought: &Brought, held: &Held) -> bool {
    let issued_at = brought.expires_at.map(|end| end - brought.expires_in.unwrap_or(Duration::ZERO));
    let needs_sign_in = matches!(held.connection.state, State::NeedsReauth { .. });
    !needs_sign_in && issued_at.is_some_and(|issued_at| issued_at + CLOCKS_APART_MAX < held.issued_at)
}

/// Until when the readers of a file are told that they may count on the access token: what callers are told
/// (`handed`), which may end with the next refresh. Where that is overdue, the file must not tell its readers to
/// refresh on their own: it goes on a little at a time, never beyond the token's own end.
pub(crate) fn told_end(own: Option<Timestamp>, handed: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let own = own?;
    Some(handed?.max(now + 2 * TOLD_IN_STEPS_OF_MIN).min(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokenkeep_core::FailureCode;
    use tokenkeep_core::model::{
        AttemptNumber, ConnectionId, ConnectionKey, Generation, GrantNumber, Renewal, Stats, TokenTimes, Waiting,
    };

    const ISSUED: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    /// The store holds `access-1` and `refresh-1`, issued at [`ISSUED`] for an hour, as generation 1.
    fn held() -> Held {
        let connection = Connection {
            id: ConnectionId(1),
            key: ConnectionKey::in_default("jira").unwrap(),
            provider: "p".to_owned(),
            labels: BTreeMap::new(),
            scopes: vec![],
            renewal: Renewal::RefreshToken,
            grant: GrantNumber(1),
            generation: Generation(1),
            attempt: AttemptNumber(1),
            origin: tokenkeep_core::model::Origin::default(),
            committed: AttemptNumber(1),
            times: TokenTimes {
                issued_at: ISSUED,
                expires_at: Some(ISSUED + HOUR),
                lifetime: Some(HOUR),
                lifetime_learned: false,
                planned_at: ISSUED,
                refresh_end: None,
                consent_end: None,
            },
            state: State::Ready { due_at: ISSUED, waiting: Waiting::Schedule },
            paused: false,
            hold: None,
            last_success: ISSUED,
            refreshed: true,
            last_error: None,
            stats: Stats::default(),
        };
        let tokens = TokenSet {
            access_token: Secret::new("access-1"),
            refresh_token: Some(Secret::new("refresh-1")),
            token_type: "Bearer".to_owned(),
            extra: Secret::new("{}"),
        };
        Held {
            connection,
            tokens,
            issued_at: ISSUED,
            expires_at: Some(ISSUED + HOUR),
            expires_at_assumed: ISSUED + HOUR,
            earlier_by: Duration::ZERO,
            without_refresh_token: false,
        }
    }

    /// A file with these tokens whose access token was issued `age` before the one in hand.
    fn file(access: &str, refresh: Option<&str>, age: Duration) -> Found {
        let refresh = refresh.map(|token| format!(r#","refresh_token":"{token}""#)).unwrap_or_default();
        let end = (ISSUED + HOUR - age).as_millis() / 1000;
        let text = format!(r#"{{"access_token":"{access}"{refresh},"expires_in":3600,"expires_at":{end}}}"#);
        Found::of(Some(text.as_bytes()))
    }

    fn newer(access: &str, refresh: Option<&str>) -> Found {
        let refresh = refresh.map(|token| format!(r#","refresh_token":"{token}""#)).unwrap_or_default();
        let end = (ISSUED + HOUR + HOUR / 2).as_millis() / 1000;
        let text = format!(r#"{{"access_token":"{access}"{refresh},"expires_in":3600,"expires_at":{end}}}"#);
        Found::of(Some(text.as_bytes()))
    }

    const SAME_AGE: Duration = Duration::ZERO;

    fn step(found: &Found, held: &Held) -> Step {
        decide(found, Some(held), &Known::default())
    }

    #[track_caller]
    fn assert_warns(step: &Step, of: &str) {
        assert!(matches!(step, Step::WriteWarning(was) if was.contains(of)), "{step:?}");
    }

    #[test]
    fn the_store_is_master() {
        assert_eq!(step(&Found::Nothing, &held()), Step::Write);
        assert_eq!(step(&file("access-1", Some("refresh-1"), SAME_AGE), &held()), Step::Leave);
        assert_eq!(step(&file("access-0", Some("refresh-1"), HOUR), &held()), Step::Write, "an older access token");
        let by_hand = Found::of(Some(br#"{"access_token":"access-1","refresh_token":"refresh-1","expires_at":null}"#));
        assert_eq!(step(&by_hand, &held()), Step::Write, "expires_at is always there");
    }

    #[test]
    fn a_refresh_token_that_was_never_held_is_adopted() {
        assert_eq!(step(&file("access-2", Some("refresh-2"), SAME_AGE), &held()), Step::Adopt);
        assert_eq!(step(&newer("access-2", Some("refresh-2")), &held()), Step::Adopt);
        let of_unknown_age = Found::of(Some(br#"{"access_token":"access-2","refresh_token":"refresh-2"}"#));
        assert_eq!(step(&of_unknown_age, &held()), Step::Adopt);
    }

    #[test]
    fn a_stale_copy_is_overwritten_with_a_warning() {
        let mut known = Known::default();
        known.remember_used(Secret::new("refresh-0"));
        let used = newer("access-0", Some("refresh-0"));
        assert_warns(&decide(&used, Some(&held()), &known), "has been used");
        // The store has forgotten it: its age tells.
        let old = file("access-0", Some("refresh-0"), HOUR);
        assert_warns(&step(&old, &held()), "older");
        let within_clocks = file("access-2", Some("refresh-2"), Duration::from_secs(4));
        assert_eq!(step(&within_clocks, &held()), Step::Adopt);
        let mut ended = held();
        ended.connection.state = State::NeedsReauth { cause: FailureCode::InvalidGrant, at: ISSUED };
        assert_eq!(step(&old, &ended), Step::Adopt, "there is nothing to lose");
        for nth in 0..100 {
            known.remember_used(Secret::new(format!("used-{nth}")));
        }
        assert_eq!(known.used.len(), USED_MAX);
    }

    #[test]
    fn a_sign_in_by_another_way_is_not_undone_by_the_file() {
        let mut known = Known { last: Some(Secret::new("refresh-0")), ..Known::default() };
        let lags = file("access-0", Some("refresh-0"), SAME_AGE);
        assert_eq!(decide(&lags, Some(&held()), &known), Step::Write);
        known.now_has(Secret::new("refresh-1"));
        assert_warns(&decide(&lags, Some(&held()), &known), "has been used");
        known.now_has(Secret::new("refresh-1"));
        assert_eq!(known.used.len(), 1, "writing the same again uses nothing up");
    }

    #[test]
    fn another_access_token_of_our_grant_stays_until_our_next() {
        let theirs = newer("access-2", Some("refresh-1"));
        assert_eq!(step(&theirs, &held()), Step::Leave);
        let said_before = Known { said: Some((1, 0)), ..Known::default() };
        assert_eq!(decide(&theirs, Some(&held()), &said_before), Step::Write, "a commit of ours is newer");
        let said_this = Known { said: Some((1, 1)), ..Known::default() };
        assert_eq!(decide(&theirs, Some(&held()), &said_this), Step::Leave);
    }

    #[test]
    fn a_file_without_refresh_token_is_mended_where_it_should_have_one() {
        let lost = file("access-9", None, SAME_AGE);
        assert_eq!(step(&lost, &held()), Step::Wait, "a program may be writing it");
        let long = Known { broken_for: BROKEN_LEFT_FOR, ..Known::default() };
        assert_warns(&decide(&lost, Some(&held()), &long), "lost its refresh token");
        assert_eq!(step(&file("access-1", None, SAME_AGE), &held()), Step::Write, "the option was taken back");
        let without = Held { without_refresh_token: true, ..held() };
        assert_eq!(step(&file("access-1", None, SAME_AGE), &without), Step::Leave);
        assert_eq!(step(&file("access-0", None, HOUR), &without), Step::Write);
        assert_eq!(step(&file("access-1", Some("refresh-1"), SAME_AGE), &without), Step::Write, "it is taken out");
        assert_eq!(step(&file("access-2", Some("refresh-2"), SAME_AGE), &without), Step::Adopt, "somebody signed in");
    }

    #[test]
    fn what_nothing_can_renew_is_told_apart_by_its_access_token() {
        let mut bare = held();
        bare.tokens.refresh_token = None;
        bare.connection.renewal = Renewal::Impossible;
        assert_eq!(step(&file("access-1", None, SAME_AGE), &bare), Step::Leave);
        assert_eq!(step(&newer("access-2", None), &bare), Step::Adopt);
        assert_eq!(step(&file("access-0", None, HOUR), &bare), Step::Write);
        bare.connection.renewal = Renewal::ClientCredentials;
        assert_eq!(step(&newer("access-2", None), &bare), Step::Write);
        assert_warns(&step(&newer("access-2", Some("r")), &bare), "does without");
    }

    #[test]
    fn what_does_not_say_its_life_is_older_only_when_that_is_certain() {
        let ends_at = |end: Timestamp| {
            let end = end.as_millis() / 1000;
            Found::of(Some(
                format!(r#"{{"access_token":"access-2","refresh_token":"refresh-2","expires_at":{end}}}"#).as_bytes(),
            ))
        };
        assert_eq!(step(&ends_at(ISSUED + Duration::from_secs(60)), &held()), Step::Adopt, "a shorter life");
        assert_warns(&step(&ends_at(ISSUED - Duration::from_secs(60)), &held()), "older");
    }

    #[test]
    fn an_overdue_refresh_does_not_tell_readers_to_refresh_themselves() {
        let (now, minutes) = (ISSUED, |minutes: u64| ISSUED + Duration::from_secs(60 * minutes));
        assert_eq!(told_end(Some(minutes(60)), Some(minutes(50)), now), Some(minutes(50)));
        assert_eq!(told_end(Some(minutes(60)), Some(now), now), Some(minutes(2)), "the next refresh ends it at once");
        assert_eq!(told_end(Some(minutes(1)), Some(now), now), Some(minutes(1)), "never beyond its own end");
        assert_eq!(told_end(None, None, now), None);
    }

    #[test]
    fn a_file_that_is_not_whole_is_left_first_and_mended_then() {
        let long = Known { broken_for: BROKEN_LEFT_FOR, ..Known::default() };
        for rest in
            ["", " \n", "\0\0\0", "{}", "{\"access_tok", "{\"access_token\": \"acc", "{\"refresh_token\": \"r\"}"]
        {
            let found = Found::of(Some(rest.as_bytes()));
            assert_eq!(step(&found, &held()), Step::Wait, "{rest:?}");
            assert_warns(&decide(&found, Some(&held()), &long), "held no token set");
        }
        let was_whole = Known { was_whole: true, broken_for: BROKEN_LEFT_FOR, ..Known::default() };
        for other in [&b"[package]\nname = 1"[..], b"{\"name\": \"a package\"}", b"\xff\xfe", b"[]", b"<html>"] {
            let found = Found::of(Some(other));
            let refused = decide(&found, Some(&held()), &long);
            assert!(matches!(&refused, Step::Refuse(why) if why.contains("no token file")), "{refused:?}");
            assert!(matches!(decide(&found, Some(&held()), &was_whole), Step::WriteWarning(_)), "it was ours");
        }
    }

    #[test]
    fn a_connection_comes_from_its_file_and_does_not_come_back_by_itself() {
        let found = file("access-1", Some("refresh-1"), HOUR);
        assert_eq!(decide(&found, None, &Known::default()), Step::Adopt);
        let removed = Known { last: Some(Secret::new("refresh-1")), ..Known::default() };
        assert_eq!(decide(&found, None, &removed), Step::Leave);
        assert_eq!(decide(&file("access-2", Some("refresh-2"), HOUR), None, &removed), Step::Adopt);
        assert_eq!(decide(&Found::Nothing, None, &Known::default()), Step::Leave);
        let broken = Found::of(Some(b"{"));
        assert_eq!(decide(&broken, None, &Known::default()), Step::Wait);
        let long = Known { broken_for: BROKEN_LEFT_FOR, ..Known::default() };
        assert!(matches!(decide(&broken, None, &long), Step::Refuse(_)));
    }

    #[test]
    fn no_sentence_shows_a_secret() {
        let long = Known { broken_for: BROKEN_LEFT_FOR, was_whole: true, ..Known::default() };
        for text in ["{\"access_token\": \"hunter2", "{\"access_token\": \"hun ter2 hunter2\"}", "hunter2"] {
            let said = format!("{:?}", decide(&Found::of(Some(text.as_bytes())), Some(&held()), &long));
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
