//! `[connections.X]`: connections that the configuration declares.

use super::document::{ConfigError, Section, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use tokenkeep::config::{Declared, TokenFile};
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::model::{DEFAULT_NAMESPACE, check_name, printable};

/// The keys of a connection's section.
pub const KEYS: &[&str] = &["provider", "namespace", "scopes", "labels", "token_file"];

/// The most token files of one connection.
const TOKEN_FILES_MAX: usize = 16;
/// The most scopes that a connection asks for.
const SCOPES_MAX: usize = 256;

const FILE_EXPECTED: &str =
    "a path, { path = \"PATH\", without_refresh_token = true }, or an array of these with at most 16 entries";
const SCOPES_EXPECTED: &str = "an array of scopes such as [\"read:jira-work\", \"offline_access\"], at most 256";
const LABELS_EXPECTED: &str = "at most 64 labels such as { team = \"core\" }, with names of letters, digits and \
     . _ - @ + :, and values of at most 256 bytes without control characters";

/// Reads all of them; what is wrong is kept for the end. `providers` are those that there are.
pub fn read(sections: &[(String, Section<'_>)], providers: &[&str]) -> Vec<Declared> {
    let mut files = BTreeMap::new();
    sections.iter().filter_map(|(name, section)| connection(name, section, providers, &mut files)).collect()
}

/// Token files, by their paths without links, and whose each is.
type Files = BTreeMap<PathBuf, String>;

fn connection(name: &str, section: &Section<'_>, providers: &[&str], files: &mut Files) -> Option<Declared> {
    let document = section.document();
    let namespace =
        section.read_or("namespace", (DEFAULT_NAMESPACE.to_owned(), DEFAULT_NAMESPACE.to_owned()), namespace);
    let key = ConnectionKey::new(namespace, name)
        .map_err(|error| section.error(error.to_string(), "give the connection another name"));
    let key = document.keep(key);
    let provider = section.read("provider", |value| known_provider(value, providers));
    if section.value("provider").is_none() {
        let next = "add provider = \"...\", one that has a section [providers.NAME]";
        document.keep::<()>(Err(section.error("this connection has no provider", next)));
    }
    let scopes = section.read("scopes", scopes).unwrap_or_default();
    let labels = section.read("labels", labels).unwrap_or_default();
    let token_files = section.read("token_file", |value| token_files(value, section, name, files)).unwrap_or_default();
    Some(Declared { key: key?, provider: provider?, scopes, labels, token_files })
}

fn namespace(value: &Value<'_>) -> Result<String, ConfigError> {
    let text = value.text("a name")?;
    check_name(text).map_err(|error| value.error(error.to_string(), "expected a namespace's name"))?;
    Ok(text.to_owned())
}

fn known_provider(value: &Value<'_>, providers: &[&str]) -> Result<String, ConfigError> {
    let name = value.text("a provider's name")?;
    if providers.contains(&name) {
        return Ok(name.to_owned());
    }
    let expected = match crate::suggest::nearest(name, providers.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("add a section [providers.{}], or name one that is there", printable(name, 60)),
    };
    Err(value.error(format!("there is no provider `{}` in this configuration", printable(name, 60)), expected))
}

fn scopes(value: &Value<'_>) -> Result<Vec<String>, ConfigError> {
    let found: Vec<String> = match value.of_environment() {
        Some((text, _)) => text.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
        None => {
            value.items().iter().map(|item| item.text(SCOPES_EXPECTED).map(str::to_owned)).collect::<Result<_, _>>()?
        }
    };
    // RFC 6749 appendix A.4.
    let is_scope =
        |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    match found.iter().find(|scope| !is_scope(scope)) {
        Some(wrong) => {
            Err(value.error(format!("`{}` is no scope", printable(wrong, 60)), format!("expected {SCOPES_EXPECTED}")))
        }
        None if found.len() > SCOPES_MAX => {
            Err(value.error(format!("there are {} scopes", found.len()), format!("expected {SCOPES_EXPECTED}")))
        }
        None => Ok(found),
    }
}

fn labels(value: &Value<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let wrong = |found: String| value.error(found, format!("expected {LABELS_EXPECTED}"));
    let found: BTreeMap<String, String> = match value.of_environment() {
        Some((text, _)) => text
            .split(',')
            .map(|pair| pair.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| value.error("this is no list of labels", "expected NAME=VALUE,NAME=VALUE"))?,
        None => {
            let entries = value.entries(LABELS_EXPECTED)?;
            let pair = |(name, value): &(&str, Value<'_>)| Ok(((*name).to_owned(), value.text("a string")?.to_owned()));
            entries.iter().map(pair).collect::<Result<_, ConfigError>>()?
        }
    };
    match found.iter().find(|(name, value)| !crate::api::import::is_label(name, value)) {
        Some((name, _)) => Err(wrong(format!("the label `{}` cannot be kept", printable(name, 60)))),
        None if found.len() > crate::api::import::LABELS_MAX => Err(wrong(format!("there are {} labels", found.len()))),
        None => Ok(found),
    }
}

fn token_files(
    value: &Value<'_>,
    section: &Section<'_>,
    connection: &str,
    files: &mut Files,
) -> Result<Vec<TokenFile>, ConfigError> {
    let items = value.items();
    if items.len() > TOKEN_FILES_MAX {
        return Err(value.error(format!("there are {} token files", items.len()), format!("expected {FILE_EXPECTED}")));
    }
    items.iter().map(|item| token_file(item, section, connection, files)).collect()
}

fn token_file(
    item: &Value<'_>,
    section: &Section<'_>,
    connection: &str,
    files: &mut Files,
) -> Result<TokenFile, ConfigError> {
    let mut without_refresh_token = false;
    let text = if item.is_text() || item.of_environment().is_some() {
        item.text(FILE_EXPECTED)?.to_owned()
    } else {
        let mut path = None;
        for (key, entry) in item.entries(FILE_EXPECTED)? {
            match key {
                "path" => path = Some(entry.text("a path")?.to_owned()),
                "without_refresh_token" => without_refresh_token = entry.truth()?,
                other => {
                    let found = format!("unknown key `{}` in a token file", printable(other, 60));
                    return Err(entry.error(found, format!("expected {FILE_EXPECTED}")));
                }
            }
        }
        path.ok_or_else(|| item.error("this token file has no path", format!("expected {FILE_EXPECTED}")))?
    };
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(item.error("a token file's path is empty or has control characters", "expected a path"));
    }
    let path = resolved(item, section, &text);
    check_place(item, section, connection, &path, files)?;
    Ok(TokenFile { path, without_refresh_token })
}

/// Relative paths of the file start in its folder, those of variables in the working directory.
fn resolved(item: &Value<'_>, section: &Section<'_>, text: &str) -> PathBuf {
    let given = match item.of_environment() {
        Some(_) => PathBuf::from(text),
        None => section.document().folder().join(text),
    };
    // Only an empty path has no absolute form.
    normal(&std::path::absolute(&given).unwrap_or(given))
}

/// `a/./b/../c` is `a/c`.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

fn check_place(
    item: &Value<'_>,
    section: &Section<'_>,
    connection: &str,
    path: &Path,
    files: &mut Files,
) -> Result<(), ConfigError> {
    let document = section.document();
    let sources = document.sources();
    let real = (sources.real)(path);
    let absolute = |path: &Path| (sources.real)(&normal(&std::path::absolute(path).unwrap_or(path.to_owned())));
    if sources.state_dir.is_some_and(|folder| real.starts_with(absolute(folder))) {
        return Err(item.error(
            format!("the token file {} lies in the state folder, which is the daemon's own", path.display()),
            "name a file elsewhere",
        ));
    }
    if real == absolute(document.path()) {
        return Err(item.error("the token file is the configuration itself", "name another file"));
    }
    match files.insert(real, connection.to_owned()) {
        Some(other) => Err(item.error(
            format!("the token file {} is one of connection `{}` already", path.display(), printable(&other, 80)),
            "give each its own file: two connections would overwrite each other's tokens",
        )),
        None => Ok(()),
    }
}
