//! A TOML document whose every value knows where it stands, so that every error can show it.

use crate::env;
use crate::error::CliError;
use crate::span;
use crate::suggest;
use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokenkeep_core::model::printable;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

/// Where a configuration gets what is not in the file itself.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The text of files.
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What was found; never a secret.
    pub found: String,
    /// What was expected, and what to do.
    pub expected: String,
}

/// Where something in a configuration stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The line's text.
        text: String,
        /// How many characters of the line are meant.
        width: usize,
    },
    /// In an environment variable.
    Env(String),
}

impl ConfigError {
    /// Cuts the shown line after the place: nobody knows what an unknown key holds.
    fn show_key_alone(&mut self) {
        if let Place::File { text, column, width, .. } = &mut self.place {
            *text = text.chars().take(*column - 1 + *width).collect();
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { path, line, column, .. } => {
                write!(f, "{}:{line}:{column}: {}", path.display(), self.found)
            }
            Place::Env(name) => write!(f, "{name}: {}", self.found),
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let mut told = Self::new(error.to_string());
        if let Place::File { line, column, text, width, .. } = &error.place {
            let margin = line.to_string();
            let blank = " ".repeat(margin.len());
            let carets = "^".repeat(*width);
            told = told
                .evidence(format!("{margin} | {text}"))
                .evidence(format!("{blank} | {}{carets}", " ".repeat(column - 1)));
        }
        told.next_step(error.expected)
    }
}

/// A parsed file.
pub struct Document<'a> {
    text: &'a str,
    path: &'a Path,
    sources: Sources<'a>,
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Parses TOML.
    ///
    /// # Errors
    /// What is no TOML.
    pub fn parse(text: &'a str, path: &'a Path, sources: Sources<'a>) -> Result<Self, ConfigError> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, path, sources, root }),
            Err(error) => Err(ConfigError {
                place: place(text, path, &error.span().unwrap_or_default()),
                found: format!("this is not TOML: {}", printable(error.message().trim(), 200)),
                expected: "correct the file; https://toml.io describes the format".to_owned(),
            }),
        }
    }

    /// The whole file as a section without a name.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section { document: self, name: String::new(), table: self.root.get_ref(), span: 0..0 }
    }

    fn error(&self, span: &Range<usize>, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        ConfigError { place: place(self.text, self.path, span), found: found.into(), expected: expected.into() }
    }
}

fn place(text: &str, path: &Path, span: &Range<usize>) -> Place {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let (start, end) = (floor(span.start), floor(span.end));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let column = text[line_start..start].chars().count() + 1;
    let shown = without_secret(text[line_start..line_end].trim_end());
    let width = text[start..end.clamp(start, line_end)].trim_end().chars().count();
    Place::File {
        path: path.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        column,
        width: width.min((shown.chars().count() + 1).saturating_sub(column)).max(1),
        text: printable(&shown, 200).replace(['\u{fffd}', '\t'], " "),
    }
}

/// The line up to a secret that somebody wrote into it, whatever they called it.
fn without_secret(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if let Some(at) = lower.find("://").filter(|&at| lower[at..].contains('@')) {
        return format!("{}://...", &line[..at]);
    }
    let named = ["secr", "passw", "token ", "token=", "key ", "key="].iter().filter_map(|word| lower.find(word)).min();
    let value = named.and_then(|at| Some(at + lower[at..].find('=')? + 1));
    match value {
        Some(at) if !line[at..].trim_start().starts_with('{') => format!("{} \"...\"", &line[..at]),
        _ => line.to_owned(),
    }
}

/// A table of the file.
pub struct Section<'a> {
    document: &'a Document<'a>,
    name: String,
    table: &'a DeTable<'a>,
    span: Range<usize>,
}

impl<'a> Section<'a> {
    /// Refuses every key that is not among `known`.
    ///
    /// # Errors
    /// The first one, with what was probably meant.
    pub fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        let Some((key, _)) = self.table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref())) else {
            return Ok(());
        };
        let found = format!("unknown key `{}`{}", printable(key.get_ref(), 60), self.within());
        let expected = match suggest::nearest(key.get_ref(), known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("expected one of: {}", known.join(", ")),
        };
        let mut error = self.document.error(&key.span(), found, expected);
        error.show_key_alone();
        Err(error)
    }

    fn within(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) }
    }

    /// The section under this key; absent is `None`.
    ///
    /// # Errors
    /// It is no table.
    pub fn section(&self, key: &str) -> Result<Option<Section<'a>>, ConfigError> {
        self.table.get_key_value(key).map(|(key, value)| self.as_section(key, value)).transpose()
    }

    /// The sections in this section, in the order of their names.
    ///
    /// # Errors
    /// Something in it is no table.
    pub fn sections(&self) -> Result<Vec<(&'a str, Section<'a>)>, ConfigError> {
        self.table.iter().map(|(key, value)| Ok((key.get_ref().as_ref(), self.as_section(key, value)?))).collect()
    }

    fn as_section(
        &self,
        key: &'a Spanned<std::borrow::Cow<'a, str>>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Result<Section<'a>, ConfigError> {
        let key_text = key.get_ref();
        let name = if self.name.is_empty() { key_text.to_string() } else { format!("{}.{key_text}", self.name) };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Section { document: self.document, name, table, span: key.span() }),
            other => Err(self.document.error(
                &value.span(),
                format!("`{}` is {}", printable(&name, 80), kind(other)),
                format!("expected a section: [{}]", printable(&name, 80)),
            )),
        }
    }

    /// The value under this key: of the environment where a variable is set, else of the file.
    ///
    /// # Errors
    /// A `..._FILE` variable names a file that cannot be read.
    pub fn setting(&self, key: &str) -> Result<Option<Value<'a>>, ConfigError> {
        match env_setting(self.document.sources, &self.name, key)? {
            Some(value) => Ok(Some(value)),
            None => Ok(self.value(key)),
        }
    }

    /// The value under this key in the file.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        let value = self.table.get(key)?;
        let name = format!("{}.{key}", self.name);
        Some(Value { name, raw: Raw::Toml { document: self.document, value } })
    }

    /// An error about the section as a whole.
    #[must_use]
    pub fn error(&self, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        self.document.error(&self.span, found, expected)
    }
}

/// A value that only the environment has, for a section that the file lacks.
///
/// # Errors
/// As [`Section::setting`].
pub fn env_setting<'a>(sources: Sources<'_>, section: &str, key: &str) -> Result<Option<Value<'a>>, ConfigError> {
    let variable = env::of_setting(section, key);
    let name = format!("{section}.{key}");
    if let Some(text) = (sources.env)(&variable) {
        return Ok(Some(Value { name, raw: Raw::Env { variable, text } }));
    }
    let variable = format!("{variable}_FILE");
    let Some(path) = (sources.env)(&variable) else {
        return Ok(None);
    };
    match (sources.file)(Path::new(&path)) {
        Ok(text) => Ok(Some(Value { name, raw: Raw::Env { variable, text: text.trim_end().to_owned() } })),
        Err(cause) => Err(ConfigError {
            place: Place::Env(variable),
            found: format!("the file {path} cannot be read: {cause}"),
            expected: "name a file that this user can read".to_owned(),
        }),
    }
}

/// One value, and where it stands.
pub struct Value<'a> {
    name: String,
    raw: Raw<'a>,
}

enum Raw<'a> {
    Toml { document: &'a Document<'a>, value: &'a Spanned<DeValue<'a>> },
    Env { variable: String, text: String },
}

impl<'a> Value<'a> {
    /// An error about this value.
    #[must_use]
    pub fn error(&self, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        match &self.raw {
            Raw::Toml { document, value } => document.error(&value.span(), found, expected),
            Raw::Env { variable, .. } => {
                ConfigError { place: Place::Env(variable.clone()), found: found.into(), expected: expected.into() }
            }
        }
    }

    fn wrong_type(&self, expected: &str) -> ConfigError {
        let kind = match &self.raw {
            Raw::Toml { value, .. } => kind(value.get_ref()),
            Raw::Env { .. } => "a string",
        };
        self.error(format!("`{}` is {kind}", self.name), format!("expected {expected}"))
    }

    /// The text of a string.
    ///
    /// # Errors
    /// It is no string.
    pub fn text(&self, expected: &str) -> Result<&str, ConfigError> {
        match &self.raw {
            Raw::Env { text, .. } => Ok(text),
            Raw::Toml { value, .. } => value.get_ref().as_str().ok_or_else(|| self.wrong_type(expected)),
        }
    }

    /// True where the file has a string here.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(&self.raw, Raw::Toml { value, .. } if value.get_ref().is_str())
    }

    /// A value that `read` makes of the text.
    ///
    /// # Errors
    /// It is no string, or `read` refuses it with a sentence.
    pub fn parsed<T>(&self, expected: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let text = self.text(expected)?;
        read(text).map_err(|_| {
            self.error(format!("`{}` is `{}`", self.name, printable(text, 80)), format!("expected {expected}"))
        })
    }

    /// A span of time within bounds: a string, or a whole number of seconds.
    ///
    /// # Errors
    /// It is none, or out of bounds.
    pub fn span(&self, bounds: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let expected =
            format!("{} between {} and {}", span::EXPECTED, span::show(*bounds.start()), span::show(*bounds.end()));
        let read = |text: &str| match span::parse(text) {
            Ok(found) if bounds.contains(&found) => Ok(found),
            _ => Err(String::new()),
        };
        match self.integer() {
            Some(text) => read(text).map_err(|_| {
                self.error(format!("`{}` is {}", self.name, printable(text, 40)), format!("expected {expected}"))
            }),
            None => self.parsed(&expected, read),
        }
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// It is none, or out of bounds.
    pub fn number(&self, bounds: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let expected = format!("expected a whole number between {} and {}", bounds.start(), bounds.end());
        let text = match (&self.raw, self.integer()) {
            (Raw::Env { text, .. }, _) => text,
            (Raw::Toml { .. }, Some(text)) => text,
            (Raw::Toml { .. }, None) => return Err(self.wrong_type(&expected["expected ".len()..])),
        };
        match text.parse().ok().filter(|number| bounds.contains(number)) {
            Some(number) => Ok(number),
            None => Err(self.error(format!("`{}` is {}", self.name, printable(text, 40)), expected)),
        }
    }

    /// The decimal digits of an integer in the file.
    fn integer(&self) -> Option<&str> {
        let Raw::Toml { value, .. } = &self.raw else {
            return None;
        };
        value.get_ref().as_integer().filter(|number| number.radix() == 10).map(|number| number.as_str())
    }

    /// An endpoint: https, or http on a loopback host.
    ///
    /// # Errors
    /// It is none.
    pub fn endpoint(&self) -> Result<Url, ConfigError> {
        let url = self.parsed("a URL such as https://sso.example.com/token", |text| {
            Url::parse(text).map_err(|error| error.to_string())
        })?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(self.error(
                format!("`{}` has a user, a password or a fragment", self.name),
                "expected a plain URL; secrets belong in client_secret",
            ));
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_loopback(&url) => Ok(url),
            "http" => Err(self.error(
                format!("`{}` would send secrets unencrypted", self.name),
                "expected https://; plain http:// is taken for loopback hosts alone (localhost, 127.0.0.1, [::1])",
            )),
            other => {
                Err(self
                    .error(format!("`{}` has the scheme `{}`", self.name, printable(other, 20)), "expected https://"))
            }
        }
    }

    /// The values of an array; a value that is none stands for itself.
    #[must_use]
    pub fn items(self) -> Vec<Value<'a>> {
        let Raw::Toml { document, value } = &self.raw else { return vec![self] };
        let Some(items) = value.get_ref().as_array() else { return vec![self] };
        let item = |(nth, value)| Value { name: format!("{}[{nth}]", self.name), raw: Raw::Toml { document, value } };
        items.iter().enumerate().map(item).collect()
    }

    /// The section that an inline table is.
    ///
    /// # Errors
    /// It is no table.
    pub fn as_section(&self, expected: &str) -> Result<Section<'a>, ConfigError> {
        match &self.raw {
            Raw::Toml { document, value } => match value.get_ref() {
                DeValue::Table(table) => Ok(Section { document, name: self.name.clone(), table, span: value.span() }),
                _ => Err(self.wrong_type(expected)),
            },
            Raw::Env { .. } => Err(self.wrong_type(expected)),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// It is none.
    pub fn boolean(&self) -> Result<bool, ConfigError> {
        let found = match &self.raw {
            Raw::Toml { value, .. } => value.get_ref().as_bool(),
            Raw::Env { text, .. } => text.parse().ok(),
        };
        found.ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The one entry of an inline table such as `{ env = "NAME" }`.
    ///
    /// # Errors
    /// It is no such table, or its key is not among `keys`.
    pub fn choice(&self, keys: &[&str], expected: &str) -> Result<(&'a str, Value<'a>), ConfigError> {
        let Raw::Toml { document, value } = &self.raw else {
            return Err(self.wrong_type(expected));
        };
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong_type(expected))?;
        let mut entries = table.iter();
        match (entries.next(), entries.next()) {
            (Some((key, value)), None) if keys.contains(&key.get_ref().as_ref()) => {
                let name = format!("{}.{}", self.name, key.get_ref());
                Ok((key.get_ref().as_ref(), Value { name, raw: Raw::Toml { document, value } }))
            }
            (Some((key, _)), None) => Err(document.error(
                &key.span(),
                format!("unknown key `{}` in `{}`", printable(key.get_ref(), 60), self.name),
                format!("expected {expected}"),
            )),
            _ => Err(self.error(format!("`{}` must have one key", self.name), format!("expected {expected}"))),
        }
    }
}

/// A value's type with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// True for hosts that cannot be anywhere but on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
