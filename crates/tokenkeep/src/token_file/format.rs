//! A token file's text: a JSON object as requests-oauthlib, Authlib and a plain token answer write it.
//!
//! [`read`] is lenient about what programs write; [`write`] keeps the shape that it finds.

use crate::error::Error;
use jiff::Timestamp as Instant;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::time::Duration;
use tokenkeep_core::model::printable;
use tokenkeep_core::oauth::response::{is_token, jwt_expires_at, life, scopes};
use tokenkeep_core::oauth::{TokenAnswer, TokenSet};
use tokenkeep_core::schedule::{LIFETIME_MAX, LIFETIME_MIN};
use tokenkeep_core::{Secret, Timestamp};

/// The largest token set that is read, in bytes.
pub(crate) const BYTES_MAX: usize = 256 * 1024;
/// A number of seconds this large is taken for milliseconds: as seconds it would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// A token set as it was read.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) tokens: TokenSet,
    /// In wall time.
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) scopes: Vec<String>,
}

/// Reads a token set: `scope` as list or text; `expires_at` as integer, float, text, ISO 8601 or milliseconds;
/// `expires_in` as text, float, negative or missing. What is empty or null counts as missing, and a missing
/// `token_type` is Bearer. Without `expires_at`, a JWT's `exp` stands for it.
pub(crate) fn read(text: &Secret) -> Result<Brought, Error> {
    let mut fields = object(text.expose())?;
    let access_token = token(&mut fields, "access_token")?
        .ok_or_else(|| invalid("token.access_token", "nothing", "the access token, a text; is this a token file?"))?;
    let refresh_token = token(&mut fields, "refresh_token")?;
    let token_type = match fields.remove("token_type") {
        None | Some(Value::Null) => "Bearer".to_owned(),
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") || kind.is_empty() => "Bearer".to_owned(),
        Some(Value::String(kind)) if kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => kind,
        Some(other) => return Err(invalid("token.token_type", &kind_of(&other), "a text such as \"Bearer\"")),
    };
    let expires_at = match fields.remove("expires_at") {
        Some(value) if !is_empty(&value) => Some(moment(&value)?),
        _ => jwt_expires_at(access_token.expose()).map(|s| Timestamp::from_millis(s * 1000)),
    };
    let expires_in = life(fields.remove("expires_in").as_ref());
    let scope = fields.remove("scope").or_else(|| fields.remove("scopes"));
    let scopes = scope.as_ref().and_then(scopes).unwrap_or_default();
    let extra = Secret::new(Value::Object(fields).to_string());
    Ok(Brought { tokens: TokenSet { access_token, refresh_token, token_type, extra }, expires_at, expires_in, scopes })
}

/// A token set as it stands in the store, in the times that people read: what a token file is to say.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    pub(crate) access_token: &'a Secret,
    /// `None` where there is none, or where the file is to be without it.
    pub(crate) refresh_token: Option<&'a Secret>,
    pub(crate) token_type: &'a str,
    /// In wall time: until when a reader may count on the access token.
    pub(crate) expires_at: Option<Timestamp>,
    /// What is written where nobody knows.
    pub(crate) expires_at_assumed: Timestamp,
    /// How long before `expires_at` the file may say that it ends, and still be right.
    pub(crate) earlier_by: Duration,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) scopes: &'a [String],
    /// Every other field that the provider sent, as one JSON object.
    pub(crate) extra: &'a Secret,
    pub(crate) origin: Origin,
}

/// Where a token set came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Somebody brought it: what else the file says is at least as new as what it said then.
    Brought,
    /// The provider sent it: its further fields are the newest there are.
    Provider,
}

/// Two clocks' readings of one moment may differ by this much: `expires_at` is written in whole seconds.
const SAME_MOMENT: Duration = Duration::from_secs(2);

impl Current<'_> {
    /// Whether a file with this access and refresh token needs no writing.
    pub(crate) fn is_said_by(&self, brought: &Brought) -> bool {
        let tokens = &brought.tokens;
        *self.access_token == tokens.access_token
            && self.refresh_token == tokens.refresh_token.as_ref()
            && self.ends_as(brought.expires_at)
    }

    fn ends_as(&self, found: Option<Timestamp>) -> bool {
        match (self.expires_at, found) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(found)) => found <= end + SAME_MOMENT && end <= found + self.earlier_by.max(SAME_MOMENT),
        }
    }

    /// True where the file's access token outlives this one.
    pub(crate) fn ends_before(&self, brought: &Brought) -> bool {
        self.expires_at.zip(brought.expires_at).is_some_and(|(ours, theirs)| ours + SAME_MOMENT < theirs)
    }
}

/// What a token file is to say. Of the text that is `found` there, everything stays that is not the token set's:
/// unknown fields as they are written, the order, `scope` as list or text. `expires_at` is always an integer, and
/// `expires_in` never null.
pub(crate) fn write(found: Option<&Secret>, current: &Current<'_>) -> Secret {
    let found = found.map_or("", |text| text.expose().trim_start_matches('\u{feff}').trim());
    let mut fields: Fields = serde_json::from_str(found).unwrap_or_default();
    if current.origin == Origin::Provider || fields.0.is_empty() {
        fields.take_over(current.extra);
    }
    fields.put("access_token", current.access_token.expose());
    fields.put_or_remove("refresh_token", current.refresh_token.map(Secret::expose));
    if !fields.text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case(current.token_type)) {
        fields.put("token_type", current.token_type);
    }
    fields.put_or_remove("expires_in", current.lifetime.map(|life| life.as_secs().max(1)));
    let expires_at = current.expires_at.unwrap_or(current.expires_at_assumed);
    fields.put("expires_at", &expires_at.as_millis().div_euclid(1000));
    fields.put_scopes(current.scopes);
    Secret::new(fields.to_text(found.contains('\n')))
}

/// The fields that are the token set's own.
const OWN: [&str; 6] = ["access_token", "refresh_token", "token_type", "expires_in", "expires_at", "scope"];

/// The fields of a JSON object in their order, each value as it is written. It has no `Debug`: it holds secrets.
#[derive(Default)]
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry()? {
                    fields.set(name, value);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Of two fields of one name the last counts, as [`read`] has it.
    fn set(&mut self, name: String, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(found, _)| *found == name) {
            Some((_, place)) => *place = value,
            None => self.0.push((name, value)),
        }
    }

    fn put<T: serde::Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        let value = to_raw_value(value).expect("texts, numbers and lists of texts are JSON");
        self.set(name.to_owned(), value);
    }

    fn put_or_remove<T: serde::Serialize>(&mut self, name: &str, value: Option<T>) {
        match value {
            Some(value) => self.put(name, &value),
            None => self.0.retain(|(found, _)| found != name),
        }
    }

    /// The provider's further fields.
    fn take_over(&mut self, extra: &Secret) {
        let extra: Self = serde_json::from_str(extra.expose()).unwrap_or_default();
        for (name, value) in extra.0.into_iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            self.set(name, value);
        }
    }

    /// In the shape found; a text where there was none. Scopes that nobody knows change nothing.
    fn put_scopes(&mut self, current: &[String]) {
        let name = if self.get("scope").is_none() && self.get("scopes").is_some() { "scopes" } else { "scope" };
        let found: Option<Value> = self.get(name).and_then(|value| serde_json::from_str(value.get()).ok());
        if current.is_empty() || found.as_ref().and_then(scopes).as_deref() == Some(current) {
            return;
        }
        match found {
            Some(Value::Array(_)) => self.put(name, current),
            _ => self.put(name, &current.join(" ")),
        }
    }

    /// As Python's `json.dump` writes it: on one line, or one line a field.
    fn to_text(&self, in_lines: bool) -> String {
        let (open, between, close) = if in_lines { ("{\n  ", ",\n  ", "\n}\n") } else { ("{", ", ", "}") };
        let mut text = open.to_owned();
        for (nth, (name, value)) in self.0.iter().enumerate() {
            let separator = if nth == 0 { "" } else { between };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{}: {}", Value::from(name.as_str()), value.get());
        }
        text + close
    }
}

fn invalid(field: &str, found: &str, expected: &str) -> Error {
    Error::Invalid { field: field.to_owned(), found: format!("found {found}"), expected: expected.to_owned() }
}

fn object(text: &str) -> Result<Map<String, Value>, Error> {
    let expected = "a JSON object such as {\"access_token\": \"...\", \"refresh_token\": \"...\"}; nothing was changed";
    if text.len() > BYTES_MAX {
        return Err(invalid("token", &format!("{} bytes", text.len()), "at most 262144 bytes"));
    }
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(invalid("token", "nothing", expected));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(invalid("token", &kind_of(&other), expected)),
        // The position, and never the text around it: it may hold a token.
        Err(error) => {
            Err(invalid("token", &format!("broken JSON at line {}, column {}", error.line(), error.column()), expected))
        }
    }
}

fn token(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Secret>, Error> {
    let field = format!("token.{name}");
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if is_token(&text) => Ok(Some(Secret::new(text))),
        Some(Value::String(text)) => Err(invalid(
            &field,
            &format!("a text of {} bytes with characters that no header may carry", text.len()),
            "printable ASCII without spaces, at most 16 KiB",
        )),
        Some(other) => Err(invalid(&field, &kind_of(&other), "a text")),
    }
}

/// Seconds since the epoch as integer, float or text; milliseconds; or ISO 8601.
fn moment(value: &Value) -> Result<Timestamp, Error> {
    let expected = "seconds or milliseconds since 1970, or a time such as 2026-11-23T12:00:00Z";
    let wrong = || invalid("token.expires_at", &shown(value), expected);
    let seconds = match value {
        Value::Number(number) => number.as_f64().ok_or_else(wrong)?,
        Value::String(text) => match text.trim().parse() {
            Ok(seconds) => seconds,
            Err(_) => return iso(text.trim()).ok_or_else(wrong),
        },
        _ => return Err(wrong()),
    };
    let millis = if seconds >= MILLISECONDS_FROM { seconds } else { seconds * 1000.0 };
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (0.0..253_402_300_800_000.0).contains(&millis).then(|| Timestamp::from_millis(millis as i64)).ok_or_else(wrong)
}

/// The life that a token answer states: by `expires_in`, or only by its end (`expires_at`, Square), for a request sent at
/// `sent_at` in wall time. Believed only between 1 s and 10 years.
pub(crate) fn stated_life(answer: &TokenAnswer, sent_at: Timestamp) -> Option<Duration> {
    answer.expires_in.or_else(|| life_to_end(&answer.extra, sent_at))
}

fn life_to_end(extra: &Secret, sent_at: Timestamp) -> Option<Duration> {
    let fields: Map<String, Value> = serde_json::from_str(extra.expose()).ok()?;
    let life = sent_at.until(moment(fields.get("expires_at")?).ok()?);
    (LIFETIME_MIN..=LIFETIME_MAX).contains(&life).then_some(life)
}

fn iso(text: &str) -> Option<Timestamp> {
    let zoned = text.parse::<Instant>().ok();
    // Python's datetime.isoformat() of a naive UTC time has no offset.
    let instant = zoned.or_else(|| {
        let naive: jiff::civil::DateTime = text.parse().ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(naive).ok()
    })?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
    .to_owned()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("`{}`", printable(text, 40)),
        other => kind_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brought(text: &str) -> Brought {
        read(&Secret::new(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_answer_may_state_only_its_end() {
        let at = Timestamp::from_millis(1_800_000_000_000);
        let life = |end: &str| life_to_end(&Secret::new(format!(r#"{{"expires_at":{end}}}"#)), at);
        for end in ["1800000600", "1800000600000", "\"1800000600\"", "\"2027-01-15T08:10:00Z\""] {
            assert_eq!(life(end), Some(Duration::from_secs(600)), "{end}");
        }
        for absent in ["null", "1000", "\"next week\"", "[]", "3000000000"] {
            assert_eq!(life(absent), None, "{absent}");
        }
        assert_eq!(life_to_end(&Secret::new("{}"), at), None);
    }

    #[test]
    fn the_shapes_that_libraries_write() {
        let requests = brought(
            r#"{"access_token":"a","refresh_token":"r","expires_in":3600,"expires_at":1800000000.25,"token_type":"bearer","scope":["x","y"]}"#,
        );
        assert_eq!(requests.expires_at, Some(Timestamp::from_millis(1_800_000_000_250)));
        assert_eq!(
            (requests.scopes.as_slice(), requests.tokens.token_type.as_str()),
            (&["x".to_owned(), "y".to_owned()][..], "Bearer")
        );
        let authlib = brought(r#"{"access_token":"a","expires_at":1800000000,"scope":"x y","expires_in":"3600"}"#);
        assert_eq!((authlib.scopes.len(), authlib.expires_in), (2, Some(Duration::from_secs(3600))));
        assert!(authlib.tokens.refresh_token.is_none());
    }

    /// Made by `samples/make.py` with the libraries themselves.
    const SAMPLES: [(&str, &str); 4] = [
        ("requests-oauthlib, Atlassian", include_str!("samples/requests_oauthlib_atlassian.json")),
        ("requests-oauthlib, refreshed", include_str!("samples/requests_oauthlib_full_refreshed.json")),
        ("Authlib, Atlassian", include_str!("samples/authlib_atlassian.json")),
        ("Authlib", include_str!("samples/authlib_full.json")),
    ];

    #[test]
    fn the_files_of_real_libraries() {
        for (library, text) in SAMPLES {
            let found = brought(text);
            let tokens = &found.tokens;
            assert_eq!(tokens.access_token.expose(), "sample-access-1", "{library}");
            assert_eq!(tokens.refresh_token.as_ref().map(Secret::expose), Some("sample-refresh-1"), "{library}");
            assert_eq!(tokens.token_type, "Bearer", "{library}");
            assert_eq!(found.scopes, ["read:jira-work", "offline_access"], "{library}");
            assert_eq!(found.expires_in, Some(Duration::from_secs(3600)), "{library}");
            assert!(found.expires_at.is_some_and(|end| end.as_millis() > 1_790_000_000_000), "{library}");
        }
    }

    struct Next {
        access_token: Secret,
        refresh_token: Secret,
        scopes: Vec<String>,
        extra: Secret,
    }

    impl Next {
        fn new(extra: &str) -> Self {
            Self {
                access_token: Secret::new("sample-access-2"),
                refresh_token: Secret::new("sample-refresh-2"),
                scopes: vec!["read:jira-work".to_owned(), "offline_access".to_owned()],
                extra: Secret::new(extra),
            }
        }

        fn current(&self, origin: Origin) -> Current<'_> {
            Current {
                access_token: &self.access_token,
                refresh_token: Some(&self.refresh_token),
                token_type: "Bearer",
                expires_at: Some(Timestamp::from_millis(1_800_000_000_999)),
                expires_at_assumed: Timestamp::from_millis(1_700_000_000_000),
                earlier_by: Duration::ZERO,
                lifetime: Some(Duration::from_millis(3_600_500)),
                scopes: &self.scopes,
                extra: &self.extra,
                origin,
            }
        }

        fn written(&self, found: &str) -> String {
            write(Some(&Secret::new(found)), &self.current(Origin::Provider)).expose().to_owned()
        }
    }

    #[test]
    fn the_files_of_real_libraries_keep_their_shape() {
        for (library, text) in SAMPLES {
            let written = Next::new(r#"{"id_token":"sample-id-2"}"#).written(text);
            let value = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
            let (before, after) = (value(text), value(&written));
            assert_eq!(after["access_token"], "sample-access-2", "{library}");
            assert_eq!(after["refresh_token"], "sample-refresh-2", "{library}");
            assert_eq!(after["expires_at"], Value::from(1_800_000_000), "{library}: whole seconds, never too late");
            assert_eq!((&after["expires_in"], &after["id_token"]), (&3600.into(), &"sample-id-2".into()), "{library}");
            assert_eq!(after["scope"], before["scope"], "{library}");
            assert_eq!(after.get("instance_url"), before.get("instance_url"), "{library}");
            assert_eq!(written.contains('\n'), text.contains('\n'), "{library}");
        }
    }

    #[test]
    fn a_file_is_written_in_the_shape_found() {
        let next = Next::new("{}");
        let written = next.written(r#"{"note": 1.50, "big": 123456789012345678901234567890, "scope": ["old"], "token_type": "bearer", "access_token": "a", "expires_in": null, "note": "two"}"#);
        assert_eq!(
            written,
            r#"{"note": "two", "big": 123456789012345678901234567890, "scope": ["read:jira-work","offline_access"], "token_type": "bearer", "access_token": "sample-access-2", "expires_in": 3600, "refresh_token": "sample-refresh-2", "expires_at": 1800000000}"#
        );
        assert_eq!(next.written(&written), written, "writing again changes nothing");
        let texts = next.written("{\"scopes\": \"old\",\n\"access_token\": \"a\"}");
        assert!(texts.starts_with("{\n  \"scopes\": \"read:jira-work offline_access\",\n  "), "{texts}");
        assert!(!texts.contains("\"scope\""), "{texts}");
        for nothing in ["", "[]", "{\"access_tok", "\0\0"] {
            let made = brought(&next.written(nothing));
            assert_eq!((made.scopes.len(), made.expires_in), (2, Some(Duration::from_secs(3600))), "{nothing:?}");
        }
    }

    #[test]
    fn what_the_provider_did_not_say_is_not_invented() {
        let next = Next::new(r#"{"id_token":"sample-id-2","scope":"evil","access_token":"evil"}"#);
        let bare = Current {
            refresh_token: None,
            lifetime: None,
            expires_at: None,
            scopes: &[],
            ..next.current(Origin::Brought)
        };
        let found =
            Secret::new(r#"{"access_token":"a","refresh_token":"r","expires_in":60,"id_token":"mine","scope":"x"}"#);
        let written = write(Some(&found), &bare);
        assert_eq!(
            written.expose(),
            r#"{"access_token": "sample-access-2", "id_token": "mine", "scope": "x", "token_type": "Bearer", "expires_at": 1700000000}"#
        );
        let new = write(None, &bare);
        assert_eq!(
            new.expose(),
            r#"{"id_token": "sample-id-2", "access_token": "sample-access-2", "token_type": "Bearer", "expires_at": 1700000000}"#
        );
    }

    #[test]
    fn a_file_agrees_within_the_seconds_that_it_is_written_in() {
        let next = Next::new("{}");
        let current = next.current(Origin::Provider);
        let mut found = brought(&next.written(""));
        assert!(current.is_said_by(&found) && !current.ends_before(&found));
        found.expires_at = found.expires_at.map(|end| end - Duration::from_secs(30));
        assert!(!current.is_said_by(&found));
        assert!(Current { earlier_by: Duration::from_secs(60), ..next.current(Origin::Provider) }.is_said_by(&found));
        found.expires_at = None;
        assert!(!current.is_said_by(&found), "expires_at is always there");
        found.expires_at = Some(Timestamp::from_millis(1_900_000_000_000));
        assert!(!current.is_said_by(&found) && current.ends_before(&found));
    }

    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z\"\\\\{}\u{0}-\u{1f}äöü]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_and_written_keeps_unknown_fields_and_shape(
            unknown in proptest::collection::btree_map("[a-z_ \"\\\\ä]{0,10}", json(), 0..6),
            scope in prop_oneof![Just(None), Just(Some(Value::from("a b"))), Just(Some(serde_json::json!(["a", "b"]))), Just(Some(Value::Null))],
            pretty in any::<bool>(),
        ) {
            let is_own = |name: &String| OWN.contains(&name.as_str()) || name == "scopes";
            let unknown: Map<String, Value> = unknown.into_iter().filter(|(name, _)| !is_own(name)).collect();
            let mut fields = unknown.clone();
            fields.insert("access_token".to_owned(), "a".into());
            fields.extend(scope.clone().map(|scope| ("scope".to_owned(), scope)));
            let fields = Value::Object(fields);
            let text = if pretty { serde_json::to_string_pretty(&fields).unwrap() } else { fields.to_string() };
            let next = Next::new("{}");
            let written = next.written(&text);
            prop_assert_eq!(&next.written(&written), &written);
            let found = brought(&written);
            prop_assert!(next.current(Origin::Provider).is_said_by(&found));
            let raw = |text: &str| -> Vec<(String, String)> {
                let fields: Fields = serde_json::from_str(text).unwrap();
                let unknown = fields.0.into_iter().filter(|(name, _)| !is_own(name));
                unknown.map(|(name, value)| (name, value.get().to_owned())).collect()
            };
            prop_assert_eq!(raw(&written), raw(&text), "each as it was written, in its order");
            prop_assert_eq!(raw(&written).len(), unknown.len());
            let after: Map<String, Value> = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(after["scope"].is_array(), scope.is_some_and(|scope| scope.is_array()));
            prop_assert!(after["expires_at"].is_i64() && !after["expires_in"].is_null());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), object in "\\{[\\[\\]{}\":,a-z0-9.]{0,40}") {
            let next = Next::new("{}");
            for text in [text, object] {
                let _ = read(&Secret::new(text.as_str()));
                prop_assert!(read(&Secret::new(next.written(&text))).is_ok());
            }
        }
    }

    #[test]
    fn expires_at_of_every_shape() {
        let end = Some(Timestamp::from_millis(1_800_000_000_000));
        for text in [
            "1800000000",
            "1800000000.0",
            "1800000000000",
            "\"1800000000\"",
            "\"2027-01-15T08:00:00Z\"",
            "\"2027-01-15T09:00:00+01:00\"",
            "\"2027-01-15T08:00:00\"",
            "\"2027-01-15 08:00:00\"",
            "\"2027-01-15 08:00:00+00:00\"",
            "\"2027-01-15T08:00:00.000000+00:00\"",
            "\" 1800000000.0 \"",
            "\"1800000000000\"",
            "1.8e9",
        ] {
            assert_eq!(brought(&format!(r#"{{"access_token":"a","expires_at":{text}}}"#)).expires_at, end, "{text}");
        }
        for missing in ["null", "\"\"", "\" \""] {
            assert_eq!(brought(&format!(r#"{{"access_token":"a","expires_at":{missing}}}"#)).expires_at, None);
        }
        for odd in ["-1", "null", "\"x\"", "0"] {
            assert_eq!(brought(&format!(r#"{{"access_token":"a","expires_in":{odd}}}"#)).expires_in, None);
        }
    }

    #[test]
    fn what_is_none_says_where_and_what_was_expected_and_shows_no_secret() {
        for (text, says) in [
            ("", "nothing"),
            ("  ", "nothing"),
            ("[]", "a list"),
            ("\"hunter2\"", "a text"),
            (r#"{"access_token":"hunter2","#, "broken JSON at line 1"),
            (r#"{"refresh_token":"hunter2"}"#, "token.access_token"),
            (r#"{"access_token":7}"#, "a number"),
            (r#"{"access_token":"hunter2 x"}"#, "printable ASCII"),
            (r#"{"access_token":"a","refresh_token":["hunter2"]}"#, "token.refresh_token"),
            (r#"{"access_token":"a","expires_at":"tomorrow"}"#, "`tomorrow`"),
            (r#"{"access_token":"a","expires_at":-5}"#, "-5"),
            (r#"{"access_token":"a","expires_at":true}"#, "true or false"),
            (r#"{"access_token":"a","token_type":3}"#, "token.token_type"),
        ] {
            let message = read(&Secret::new(text)).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("expected"), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
