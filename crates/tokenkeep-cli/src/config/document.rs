//! A TOML document whose every value knows where it stands, so that every error can show it.

use super::shown::{Setting, Source};
use crate::env;
use crate::error::CliError;
use crate::span;
use crate::suggest;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokenkeep_core::model::printable;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;
use zeroize::Zeroizing;

/// How many errors are shown at once.
const ERRORS_SHOWN_MAX: usize = 100;
/// How many characters of a value are shown.
const SHOWN_MAX: usize = 200;

/// Where a configuration gets what is not in the file itself.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// An environment variable that is set and not empty.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The names of all variables that are set and not empty.
    pub variables: &'a [String],
    /// The text of a small file.
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The path without links, as far as it exists.
    pub real: &'a dyn Fn(&Path) -> PathBuf,
    /// `--listen`, which stands above everything else.
    pub listen: Option<SocketAddr>,
    /// The state folder, where it is known.
    pub state_dir: Option<&'a Path>,
}

#[cfg(test)]
impl<'a> Sources<'a> {
    /// These variables and files, no flags, and no variables of settings.
    #[must_use]
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>, file: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self { env, variables: &[], file, real: &Path::to_path_buf, listen: None, state_dir: None }
    }
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
        write!(f, "{}: {}", self.place, self.found)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column, .. } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Env(name) => f.write_str(name),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// The line with carets under the place; nothing for what stands in no file.
    fn excerpt(&self) -> Vec<String> {
        let Place::File { line, column, text, width, .. } = &self.place else { return Vec::new() };
        let margin = line.to_string();
        let blank = " ".repeat(margin.len());
        let under = format!("{}{}", " ".repeat(column - 1), "^".repeat(*width));
        vec![format!("{margin} | {text}"), format!("{blank} | {under}")]
    }

    /// The line of the file, for logs.
    #[must_use]
    pub fn line(&self) -> Option<&str> {
        if let Place::File { text, .. } = &self.place { Some(text) } else { None }
    }
}

/// Everything that is wrong with a configuration: at least one thing, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` where nothing is wrong.
    fn of(mut errors: Vec<ConfigError>) -> Option<Self> {
        errors.sort_by_key(|error| match &error.place {
            Place::File { line, column, .. } => (*line, *column, String::new()),
            Place::Env(name) => (usize::MAX, 0, name.clone()),
        });
        errors.dedup();
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigErrors> for CliError {
    fn from(ConfigErrors(errors): ConfigErrors) -> Self {
        if let [error] = &errors[..] {
            let told = Self::new(error.to_string());
            return error.excerpt().into_iter().fold(told, Self::evidence).next_step(&error.expected);
        }
        let mut told = Self::new(format!("{} things are wrong with the configuration", errors.len()));
        for error in errors.iter().take(ERRORS_SHOWN_MAX) {
            told = told.evidence("").evidence(error.to_string());
            told = error.excerpt().into_iter().fold(told, Self::evidence).evidence(format!("= {}", error.expected));
        }
        if errors.len() > ERRORS_SHOWN_MAX {
            told = told.evidence("").evidence(format!("and {} more", errors.len() - ERRORS_SHOWN_MAX));
        }
        told.next_step("correct them; `tokenkeep config check` looks again")
    }
}

/// A parsed file, and what became of reading it.
pub struct Document<'a> {
    text: &'a str,
    path: &'a Path,
    sources: Sources<'a>,
    root: Spanned<DeTable<'a>>,
    errors: RefCell<Vec<ConfigError>>,
    settings: RefCell<Vec<Setting>>,
    /// What the files say that `..._FILE` variables name, as far as they were read.
    files: RefCell<BTreeMap<String, Result<Zeroizing<String>, String>>>,
    /// For each variable that some setting has: the names of these settings.
    variables: RefCell<BTreeMap<String, Vec<String>>>,
}

impl<'a> Document<'a> {
    /// Parses TOML.
    ///
    /// # Errors
    /// All that is no TOML.
    pub fn parse(text: &'a str, path: &'a Path, sources: Sources<'a>) -> Result<Self, ConfigErrors> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let wrong = |error: &toml::de::Error| ConfigError {
            place: place(text, path, &error.span().unwrap_or_default()),
            found: format!("this is not TOML: {}", printable(error.message().trim(), 200)),
            expected: "correct the file; https://toml.io describes the format".to_owned(),
        };
        match ConfigErrors::of(errors.iter().map(wrong).collect()) {
            Some(errors) => Err(errors),
            None => Ok(Self {
                text,
                path,
                sources,
                root,
                errors: RefCell::default(),
                settings: RefCell::default(),
                files: RefCell::default(),
                variables: RefCell::default(),
            }),
        }
    }

    /// The whole file as a section without a name.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section { document: self, path: Vec::new(), table: Some(self.root.get_ref()), place: Standing::Nowhere }
    }

    /// What a `..._FILE` variable's file says. Read once: it may be a pipe, and a setting is looked at several times.
    fn file(&self, path: &str) -> Result<String, String> {
        let read = || match (self.sources.file)(Path::new(path)) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(cause) => Err(cause.to_string()),
        };
        let mut files = self.files.borrow_mut();
        let text = files.entry(path.to_owned()).or_insert_with(read);
        text.as_ref().map(|text| text.trim_end().to_owned()).map_err(Clone::clone)
    }

    /// What is outside of the file.
    #[must_use]
    pub fn sources(&self) -> Sources<'a> {
        self.sources
    }

    /// The folder that the file is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The file itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Keeps an error for the end.
    pub fn keep<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        read.map_err(|error| self.errors.borrow_mut().push(error)).ok()
    }

    /// Notes what a setting is, and where from.
    pub fn note(&self, section: &str, key: &str, value: impl Into<String>, source: Source) {
        let name = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        self.settings.borrow_mut().push(Setting { name, value: value.into(), source, after_restart: None });
    }

    /// What was read, when everything has been.
    ///
    /// # Errors
    /// Everything that was found wrong, variables that mean nothing included.
    pub fn finish(self) -> Result<Vec<Setting>, ConfigErrors> {
        self.check_variables();
        match ConfigErrors::of(self.errors.into_inner()) {
            Some(errors) => Err(errors),
            None => Ok(self.settings.into_inner()),
        }
    }

    fn check_variables(&self) {
        let known = self.variables.borrow();
        for name in self.sources.variables.iter().filter(|name| env::is_setting(name)) {
            if let Some(error) = wrong_variable(name, &known, self.sources) {
                self.errors.borrow_mut().push(error);
            }
        }
    }

    fn error(&self, span: &Range<usize>, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        ConfigError { place: place(self.text, self.path, span), found: found.into(), expected: expected.into() }
    }
}

/// Why a variable cannot stand for a setting, if it cannot.
fn wrong_variable(name: &str, known: &BTreeMap<String, Vec<String>>, sources: Sources<'_>) -> Option<ConfigError> {
    let wrong =
        |found: String, expected: String| Some(ConfigError { place: Place::Env(name.to_owned()), found, expected });
    match known.get(name).map(Vec::as_slice) {
        None => {
            let expected = match suggest::nearest(name, known.keys().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("expected {}, or unset it", env::SETTING_EXPECTED),
            };
            wrong("no setting has this variable".to_owned(), expected)
        }
        Some([_]) => {
            let plain = name.strip_suffix(env::FILE_SUFFIX).filter(|plain| known.contains_key(*plain))?;
            (sources.env)(plain)?;
            wrong(format!("{plain} is set too"), "unset one of them".to_owned())
        }
        Some(several) => wrong(
            format!("it stands for more than one setting: {}", several.join(", ")),
            "set them in the file, or give one of them another name".to_owned(),
        ),
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

/// Where a section stands.
#[derive(Clone, Debug)]
enum Standing {
    Nowhere,
    File(Range<usize>),
    /// Only variables have it; this is one of them.
    Env(String),
}

/// A table of the file with the variables that stand above it; either may be missing.
pub struct Section<'a> {
    document: &'a Document<'a>,
    path: Vec<String>,
    table: Option<&'a DeTable<'a>>,
    place: Standing,
}

impl<'a> Section<'a> {
    /// The document.
    #[must_use]
    pub fn document(&self) -> &'a Document<'a> {
        self.document
    }

    /// Its name, as the file writes it.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// Notes every key that is not among `known` as wrong, with what was probably meant.
    pub fn only(&self, known: &[&str]) {
        for (key, _) in self.entries().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let found = format!("unknown key `{}`{}", printable(key.get_ref(), 60), self.within());
            let expected = match suggest::nearest(key.get_ref(), known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("expected one of: {}", known.join(", ")),
            };
            let mut error = self.document.error(&key.span(), found, expected);
            error.show_key_alone();
            self.document.errors.borrow_mut().push(error);
        }
    }

    /// As [`Section::only`], for a section whose settings variables may have too.
    pub fn settings(&self, known: &[&str]) {
        self.only(known);
        let mut variables = self.document.variables.borrow_mut();
        for key in known {
            let name = env::of_setting(&self.path, key);
            let setting = format!("{}.{key}", self.name());
            variables.entry(format!("{name}{}", env::FILE_SUFFIX)).or_default().push(setting.clone());
            variables.entry(name).or_default().push(setting);
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>)> {
        self.table.into_iter().flat_map(DeTable::iter)
    }

    fn within(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in [{}]", printable(&self.name(), 120)) }
    }

    /// The section under this key, which may be missing.
    #[must_use]
    pub fn section(&self, key: &str) -> Section<'a> {
        let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
        let found = self.table.and_then(|table| table.get_key_value(key));
        match found.and_then(|(key, value)| self.document.keep(self.as_section(key, value))) {
            Some(section) => section,
            None => Section { document: self.document, path, table: None, place: Standing::Nowhere },
        }
    }

    /// The sections in this section, in the order of their names; what is none is noted as wrong.
    #[must_use]
    pub fn sections(&self) -> Vec<(&'a str, Section<'a>)> {
        let sections = self.entries().filter_map(|(key, value)| {
            let section = self.document.keep(self.as_section(key, value))?;
            Some((key.get_ref().as_ref(), section))
        });
        sections.collect()
    }

    /// A section in this one that only variables have, one of them this.
    #[must_use]
    pub fn of_variables(&self, name: &str, variable: &str) -> Section<'a> {
        let path = self.path.iter().cloned().chain([name.to_owned()]).collect();
        Section { document: self.document, path, table: None, place: Standing::Env(variable.to_owned()) }
    }

    fn as_section(
        &self,
        key: &'a Spanned<Cow<'a, str>>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Result<Section<'a>, ConfigError> {
        let path: Vec<String> = self.path.iter().cloned().chain([key.get_ref().to_string()]).collect();
        let name = printable(&path.join("."), 80);
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Section { document: self.document, path, table: Some(table), place: Standing::File(key.span()) })
            }
            other => Err(self.document.error(
                &value.span(),
                format!("`{name}` is {}", kind(other)),
                format!("expected a section: [{name}]"),
            )),
        }
    }

    /// The value under this key: of the environment where a variable is set, else of the file.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        match self.document.keep(self.of_environment(key))? {
            Some(value) => Some(value),
            None => self.of_file(key),
        }
    }

    fn of_environment(&self, key: &str) -> Result<Option<Value<'a>>, ConfigError> {
        let sources = self.document.sources;
        let variable = env::of_setting(&self.path, key);
        let name = format!("{}.{key}", self.name());
        if let Some(text) = (sources.env)(&variable) {
            let raw = Raw::Env { variable, text, file: None };
            return Ok(Some(Value { document: self.document, name, raw }));
        }
        let variable = format!("{variable}{}", env::FILE_SUFFIX);
        let Some(path) = (sources.env)(&variable) else {
            return Ok(None);
        };
        match self.document.file(&path) {
            Ok(text) => {
                let raw = Raw::Env { variable, text, file: Some(path) };
                Ok(Some(Value { document: self.document, name, raw }))
            }
            Err(cause) => Err(ConfigError {
                place: Place::Env(variable),
                found: format!("the file {} cannot be read: {cause}", printable(&path, 200)),
                expected: "name a file that this user can read".to_owned(),
            }),
        }
    }

    fn of_file(&self, key: &str) -> Option<Value<'a>> {
        let value = self.table?.get(key)?;
        let name = format!("{}.{key}", self.name());
        Some(Value { document: self.document, name, raw: Raw::Toml { value } })
    }

    /// Reads the value under this key, and notes it; what is wrong is kept for the end.
    pub fn read<T>(&self, key: &str, read: impl FnOnce(&Value<'a>) -> Result<T, ConfigError>) -> Option<T> {
        let value = self.value(key)?;
        let found = self.document.keep(read(&value))?;
        self.document.note(&self.name(), key, value.shown(), value.source());
        Some(found)
    }

    /// As [`Section::read`], with a default that is `shown` so.
    pub fn read_or<T>(
        &self,
        key: &str,
        (default, shown): (T, String),
        read: impl FnOnce(&Value<'a>) -> Result<T, ConfigError>,
    ) -> T {
        if self.value(key).is_none() {
            self.document.note(&self.name(), key, shown, Source::Default);
            return default;
        }
        self.read(key, read).unwrap_or(default)
    }

    /// An error about the section as a whole.
    #[must_use]
    pub fn error(&self, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        match &self.place {
            Standing::File(span) => self.document.error(span, found, expected),
            Standing::Nowhere => self.document.error(&(0..0), found, expected),
            Standing::Env(variable) => {
                ConfigError { place: Place::Env(variable.clone()), found: found.into(), expected: expected.into() }
            }
        }
    }
}

/// One value, and where it stands.
pub struct Value<'a> {
    document: &'a Document<'a>,
    name: String,
    raw: Raw<'a>,
}

enum Raw<'a> {
    Toml { value: &'a Spanned<DeValue<'a>> },
    Env { variable: String, text: String, file: Option<String> },
}

impl<'a> Value<'a> {
    /// An error about this value.
    #[must_use]
    pub fn error(&self, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
        match &self.raw {
            Raw::Toml { value } => self.document.error(&value.span(), found, expected),
            Raw::Env { variable, .. } => {
                ConfigError { place: Place::Env(variable.clone()), found: found.into(), expected: expected.into() }
            }
        }
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        match &self.raw {
            Raw::Env { variable, .. } => Source::Env { name: variable.clone() },
            Raw::Toml { value } => match place(self.document.text, self.document.path, &value.span()) {
                Place::File { path, line, .. } => Source::File { path: path.display().to_string(), line },
                Place::Env(name) => Source::Env { name },
            },
        }
    }

    /// As it is written, on one line. Not for secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.raw {
            Raw::Env { text, .. } => printable(text, SHOWN_MAX),
            Raw::Toml { value } => match value.get_ref().as_str() {
                Some(text) => printable(text, SHOWN_MAX),
                None => {
                    let written = self.document.text.get(value.span()).unwrap_or_default();
                    printable(&written.split_whitespace().collect::<Vec<_>>().join(" "), SHOWN_MAX)
                }
            },
        }
    }

    /// What a variable holds, and the file that it was read from, if a `..._FILE` names one; `None` for the file's values.
    #[must_use]
    pub fn of_environment(&self) -> Option<(&str, Option<&str>)> {
        match &self.raw {
            Raw::Env { text, file, .. } => Some((text, file.as_deref())),
            Raw::Toml { .. } => None,
        }
    }

    /// The entries of an array; a value that is none is its only entry.
    #[must_use]
    pub fn items(&self) -> Vec<Value<'a>> {
        let item = |value| Value { document: self.document, name: self.name.clone(), raw: Raw::Toml { value } };
        match &self.raw {
            Raw::Toml { value } => match value.get_ref().as_array() {
                Some(array) => array.iter().map(item).collect(),
                None => vec![item(*value)],
            },
            Raw::Env { variable, text, file } => {
                let raw = Raw::Env { variable: variable.clone(), text: text.clone(), file: file.clone() };
                vec![Value { document: self.document, name: self.name.clone(), raw }]
            }
        }
    }

    /// The entries of a table, by their keys.
    ///
    /// # Errors
    /// It is none.
    pub fn entries(&self, expected: &str) -> Result<Vec<(&'a str, Value<'a>)>, ConfigError> {
        let Raw::Toml { value } = &self.raw else { return Err(self.wrong_type(expected)) };
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong_type(expected))?;
        let entry = |(key, value): (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| {
            let key: &str = key.get_ref().as_ref();
            let name = format!("{}.{key}", self.name);
            (key, Value { document: self.document, name, raw: Raw::Toml { value } })
        };
        Ok(table.iter().map(entry).collect())
    }

    /// True or false.
    ///
    /// # Errors
    /// It is neither.
    pub fn truth(&self) -> Result<bool, ConfigError> {
        let found = match &self.raw {
            Raw::Toml { value } => value.get_ref().as_bool(),
            Raw::Env { text, .. } => text.parse().ok(),
        };
        found.ok_or_else(|| self.wrong_type("true or false"))
    }

    fn wrong_type(&self, expected: &str) -> ConfigError {
        let kind = match &self.raw {
            Raw::Toml { value } => kind(value.get_ref()),
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
            Raw::Toml { value } => value.get_ref().as_str().ok_or_else(|| self.wrong_type(expected)),
        }
    }

    /// True where the file has a string here.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(&self.raw, Raw::Toml { value } if value.get_ref().is_str())
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
        let Raw::Toml { value } = &self.raw else {
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
        match check_endpoint(&url) {
            Ok(()) => Ok(url),
            Err(Unfit { found, expected }) => Err(self.error(format!("`{}` {found}", self.name), expected)),
        }
    }

    /// The one entry of an inline table such as `{ env = "NAME" }`.
    ///
    /// # Errors
    /// It is no such table, or its key is not among `keys`.
    pub fn choice(&self, keys: &[&str], expected: &str) -> Result<(&'a str, Value<'a>), ConfigError> {
        let Raw::Toml { value } = &self.raw else {
            return Err(self.wrong_type(expected));
        };
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong_type(expected))?;
        let mut entries = table.iter();
        match (entries.next(), entries.next()) {
            (Some((key, value)), None) if keys.contains(&key.get_ref().as_ref()) => {
                let name = format!("{}.{}", self.name, key.get_ref());
                Ok((key.get_ref().as_ref(), Value { document: self.document, name, raw: Raw::Toml { value } }))
            }
            (Some((key, _)), None) => Err(self.document.error(
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

/// Why no secret may be sent to a URL.
#[derive(Debug)]
pub struct Unfit {
    /// What it is or does: the rest of a sentence that begins with the URL.
    pub found: String,
    /// What it must be.
    pub expected: &'static str,
}

/// Whether secrets may be sent to a URL: over TLS, or to this machine.
///
/// # Errors
/// [`Unfit`].
pub fn check_endpoint(url: &Url) -> Result<(), Unfit> {
    let unfit = |found: String, expected| Err(Unfit { found, expected });
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return unfit(
            "has a user, a password or a fragment".to_owned(),
            "expected a plain URL; secrets belong in client_secret",
        );
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        "http" => unfit(
            "would send secrets unencrypted".to_owned(),
            "expected https://; plain http:// is taken for loopback hosts alone (localhost, 127.0.0.1, [::1])",
        ),
        other => unfit(format!("has the scheme `{}`", printable(other, 20)), "expected https://"),
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
