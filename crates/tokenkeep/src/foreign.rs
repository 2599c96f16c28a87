//! Token sets in the files of other programs, made into token sets of the plain shape that imports take.
//!
//! Read are: what Nango's API answers for a connection, rclone's configuration, and MSAL's token cache.

use jiff::Timestamp as Instant;
use serde_json::{Map, Value, json};
use tokenkeep_core::Secret;
use tokenkeep_core::model::printable;

/// The most token sets that one file may hold.
pub const ENTRIES_MAX: usize = 10_000;

/// A token set that a foreign file holds.
#[derive(Debug)]
pub struct Entry {
    /// What the file calls it.
    pub name: String,
    /// What the file says about its provider: Nango's integration, rclone's type, MSAL's authority.
    pub provider: String,
    /// A JSON object as imports take it.
    pub token: Secret,
}

/// The programs whose files are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `GET /connections/{id}` of Nango, one or several.
    Nango,
    /// `rclone.conf`.
    Rclone,
    /// The serialized cache of MSAL for Python, .NET, Java or Node.
    Msal,
}

impl Format {
    /// What people call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nango => "nango",
            Self::Rclone => "rclone",
            Self::Msal => "msal",
        }
    }
}

/// Which of the known formats a text is in; `None`: none of them, so it may be a plain token set.
#[must_use]
pub fn format_of(text: &str) -> Option<Format> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        let has = |start: &str| text.lines().any(|line| line.trim_start().starts_with(start));
        return (has("[") && has("token") && has("type")).then_some(Format::Rclone);
    };
    if value.get("RefreshToken").or(value.get("AccessToken")).is_some_and(Value::is_object) {
        return Some(Format::Msal);
    }
    let is_nango = |value: &Value| value.get("provider_config_key").is_some() && value.get("credentials").is_some();
    let listed = value.get("connections").or(Some(&value)).and_then(Value::as_array);
    (is_nango(&value) || listed.is_some_and(|list| list.iter().any(is_nango))).then_some(Format::Nango)
}

/// Every token set that a file of this format holds, in the order of the file.
///
/// # Errors
/// A sentence that names the place, without its text.
pub fn read(format: Format, text: &str) -> Result<Vec<Entry>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let entries = match format {
        Format::Rclone => rclone(text)?,
        Format::Nango => nango(&json_of(text)?)?,
        Format::Msal => msal(&json_of(text)?),
    };
    match entries.len() {
        0 => Err("it holds no token set".to_owned()),
        1..=ENTRIES_MAX => Ok(entries),
        more => Err(format!("it holds {more} token sets, and at most {ENTRIES_MAX} are read")),
    }
}

fn json_of(text: &str) -> Result<Value, String> {
    // The position, and never the text around it: it may hold a token.
    serde_json::from_str(text)
        .map_err(|error| format!("broken JSON at line {}, column {}", error.line(), error.column()))
}

fn text_of<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A connection has `credentials` of type `OAUTH2`; `raw` in them is what the provider sent.
fn nango(value: &Value) -> Result<Vec<Entry>, String> {
    let listed = value.get("connections").unwrap_or(value);
    let connections = listed.as_array().map_or_else(|| vec![listed], |list| list.iter().collect());
    let mut entries = Vec::new();
    for connection in connections {
        let name = text_of(connection, "connection_id");
        let Some(credentials) = connection.get("credentials").filter(|found| text_of(found, "type") == "OAUTH2") else {
            continue;
        };
        let mut token = credentials.get("raw").and_then(Value::as_object).cloned().unwrap_or_default();
        for field in ["access_token", "refresh_token", "expires_at"] {
            if let Some(value) = credentials.get(field).filter(|value| !value.is_null()) {
                token.insert(field.to_owned(), value.clone());
            }
        }
        if !token.contains_key("access_token") {
            return Err(format!("the connection `{}` has no access_token in its credentials", printable(name, 60)));
        }
        entries.push(Entry {
            name: name.to_owned(),
            provider: text_of(connection, "provider_config_key").to_owned(),
            token: Secret::new(Value::Object(token).to_string()),
        });
    }
    Ok(entries)
}

/// A section for each remote; its `token` is one line of JSON as golang.org/x/oauth2 writes it, with `expiry`.
fn rclone(text: &str) -> Result<Vec<Entry>, String> {
    let (mut entries, mut name, mut kind) = (Vec::new(), String::new(), String::new());
    for (nth, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("RCLONE_ENCRYPT") {
            return Err("it is encrypted: run `rclone config show` and give its output".to_owned());
        }
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            (name, kind) = (section.to_owned(), String::new());
        } else if let Some((key, value)) = line.split_once('=') {
            match key.trim() {
                "type" => value.trim().clone_into(&mut kind),
                "token" if !value.trim().is_empty() => entries.push(Entry {
                    name: name.clone(),
                    provider: kind.clone(),
                    token: go_token(value.trim())
                        .ok_or_else(|| format!("line {}: its token is no JSON object with access_token", nth + 1))?,
                }),
                _ => {}
            }
        }
    }
    Ok(entries)
}

fn go_token(text: &str) -> Option<Secret> {
    let mut token: Map<String, Value> = serde_json::from_str(text).ok()?;
    if !token.contains_key("access_token") {
        return None;
    }
    if let Some(Value::String(expiry)) = token.remove("expiry")
        // Go's zero time means that the token does not end.
        && !expiry.starts_with("0001-")
    {
        token.insert("expires_at".to_owned(), expiry.into());
    }
    Some(Secret::new(Value::Object(token).to_string()))
}

/// One token set for each refresh token: with the access token of the same account and client that ends last.
fn msal(cache: &Value) -> Vec<Entry> {
    let values = |name: &str| cache.get(name).and_then(Value::as_object).into_iter().flat_map(Map::values);
    let same = |a: &Value, b: &Value, field: &str| text_of(a, field) == text_of(b, field);
    let mut entries = Vec::new();
    for refresh in values("RefreshToken") {
        let of_it = |access: &&Value| same(access, refresh, "home_account_id") && same(access, refresh, "client_id");
        let Some(access) = values("AccessToken").filter(of_it).max_by_key(|access| ends_at(access)) else { continue };
        let account = values("Account").find(|account| same(account, refresh, "home_account_id"));
        let name = account.map_or_else(|| text_of(refresh, "home_account_id"), |account| text_of(account, "username"));
        let token = json!({
            "access_token": text_of(access, "secret"),
            "refresh_token": text_of(refresh, "secret"),
            "token_type": "Bearer",
            "expires_at": ends_at(access),
            "scope": text_of(access, "target"),
        });
        entries.push(Entry {
            name: name.to_owned(),
            provider: format!("{}/{}", text_of(access, "environment"), text_of(access, "realm")),
            token: Secret::new(token.to_string()),
        });
    }
    entries
}

/// `expires_on` is in seconds since 1970, as text or as a number.
fn ends_at(access: &Value) -> Option<i64> {
    match access.get("expires_on")? {
        Value::String(text) => text.parse().ok().or_else(|| Some(text.parse::<Instant>().ok()?.as_second())),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NANGO: &str = include_str!("../tests/imports/nango.json");
    const RCLONE: &str = include_str!("../tests/imports/rclone.conf");
    const MSAL: &str = include_str!("../tests/imports/msal.json");

    fn fields(entry: &Entry) -> Value {
        serde_json::from_str(entry.token.expose()).unwrap()
    }

    #[test]
    fn a_nango_connection_brings_what_its_provider_sent() {
        assert_eq!(format_of(NANGO), Some(Format::Nango));
        let entries = read(Format::Nango, NANGO).unwrap();
        assert_eq!((entries.len(), entries[0].name.as_str(), entries[0].provider.as_str()), (1, "acme-7", "jira-prod"));
        let token = fields(&entries[0]);
        assert_eq!(
            (&token["access_token"], &token["refresh_token"]),
            (&"nango-access".into(), &"nango-refresh".into())
        );
        assert_eq!(
            (&token["expires_at"], &token["scope"]),
            (&"2026-11-24T10:00:00.000Z".into(), &"read:jira-work offline_access".into())
        );
        let both = format!(
            r#"{{"connections":[{NANGO},{{"connection_id":"k","provider_config_key":"x","credentials":{{"type":"API_KEY"}}}}]}}"#
        );
        assert_eq!((format_of(&both), read(Format::Nango, &both).unwrap().len()), (Some(Format::Nango), 1));
    }

    #[test]
    fn rclone_s_remotes_bring_their_tokens() {
        assert_eq!(format_of(RCLONE), Some(Format::Rclone));
        let entries = read(Format::Rclone, RCLONE).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.provider.as_str())).collect();
        assert_eq!(names, [("gdrive", "drive"), ("files", "dropbox")]);
        assert_eq!(fields(&entries[0])["expires_at"], "2026-11-24T11:12:13.456789+01:00");
        assert_eq!(fields(&entries[1]).get("expires_at"), None, "Go's zero time");
        let error = read(Format::Rclone, "[x]\ntype = drive\ntoken = hunter2\n").unwrap_err();
        assert!(error.contains("line 3") && !error.contains("hunter2"), "{error}");
        assert!(read(Format::Rclone, "RCLONE_ENCRYPT_V0:\nabc").unwrap_err().contains("rclone config show"));
    }

    #[test]
    fn an_msal_cache_brings_each_account_with_its_latest_access_token() {
        assert_eq!(format_of(MSAL), Some(Format::Msal));
        let entries = read(Format::Msal, MSAL).unwrap();
        assert_eq!((entries.len(), entries[0].name.as_str()), (1, "ada@example.com"));
        let token = fields(&entries[0]);
        assert_eq!(
            (&token["access_token"], &token["refresh_token"]),
            (&"msal-access-later".into(), &"msal-refresh".into())
        );
        assert_eq!(token["expires_at"], 1_795_601_000);
    }

    #[test]
    fn what_is_none_of_them_is_left_to_plain_imports() {
        for text in ["", "{}", r#"{"access_token":"a"}"#, "[]", "hello", "token type"] {
            assert_eq!(format_of(text), None, "{text}");
        }
        assert!(read(Format::Nango, "{\"secret\": ").unwrap_err().contains("line 1"));
        assert_eq!(read(Format::Msal, "{}").unwrap_err(), "it holds no token set");
    }
}
