//! Secrets of the configuration: named there, never written there.

use super::Source;
use super::document::{ConfigError, Document, Section, Value};
use crate::env;
use std::path::{Component, Path, PathBuf};
use tokenkeep_core::Secret;
use tokenkeep_core::model::printable;

/// How a secret is given.
pub const EXPECTED: &str = "{ env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

/// Where secrets come from.
pub struct Secrets<'a> {
    document: &'a Document<'a>,
}

impl<'a> Secrets<'a> {
    /// For this configuration.
    #[must_use]
    pub fn new(document: &'a Document<'a>) -> Self {
        Self { document }
    }

    /// Reads the secret that `value` names, and notes where it came from; what is wrong is kept for the end.
    pub fn read(&self, section: &Section<'_>, key: &str, value: &Value<'_>) -> Option<Secret> {
        let (secret, place) = self.document.keep(self.find(key, value))?;
        self.note(section, key, &place, value.source());
        Some(secret)
    }

    /// As [`Secrets::read`], for a secret of several lines.
    pub fn read_lines(&self, section: &Section<'_>, key: &str, value: &Value<'_>) -> Option<Secret> {
        let (secret, place) = self.document.keep(self.find_text(key, value))?;
        self.note(section, key, &place, value.source());
        Some(Secret::new(secret))
    }

    fn note(&self, section: &Section<'_>, key: &str, place: &str, source: Source) {
        self.document.note(&section.name(), key, format!("(set, from {place})"), source);
    }

    fn find(&self, key: &str, value: &Value<'_>) -> Result<(Secret, String), ConfigError> {
        let (text, place) = self.find_text(key, value)?;
        Ok((checked(&text, value)?, place))
    }

    fn find_text(&self, key: &str, value: &Value<'_>) -> Result<(String, String), ConfigError> {
        if let Some((text, file)) = value.of_environment() {
            let place =
                file.map_or_else(|| "the environment".to_owned(), |file| format!("file {}", printable(file, 200)));
            return Ok((text.to_owned(), place));
        }
        if value.is_text() {
            return Err(value.error(
                "a secret must not stand in the configuration itself, where copies and backups spread it",
                format!("expected {key} = {EXPECTED}"),
            ));
        }
        let (kind, at) = value.choice(&["env", "file", "credential"], EXPECTED)?;
        let name = at.text("a string")?;
        Ok(match kind {
            "env" => (self.of_variable(name, &at)?, format!("variable {}", printable(name, 80))),
            "file" => {
                let path = self.document.folder().join(name);
                (self.of_file(&path, &at)?, format!("file {}", path.display()))
            }
            _ => (self.of_credential(name, &at)?, format!("credential {}", printable(name, 80))),
        })
    }

    fn of_variable(&self, name: &str, at: &Value<'_>) -> Result<String, ConfigError> {
        (self.document.sources().env)(name).ok_or_else(|| {
            at.error(
                format!("the environment variable {} is not set", printable(name, 80)),
                "set it in the environment of `tokenkeep serve`",
            )
        })
    }

    fn of_file(&self, path: &Path, at: &Value<'_>) -> Result<String, ConfigError> {
        (self.document.sources().file)(path).map(|text| text.trim_end_matches(['\r', '\n']).to_owned()).map_err(
            |cause| {
                at.error(
                    format!("the secret file {} cannot be read: {cause}", path.display()),
                    "name a file that this user can read; relative paths start at the configuration's folder",
                )
            },
        )
    }

    /// What systemd passed with `LoadCredential=` or `SetCredentialEncrypted=` (systemd.exec(5)).
    fn of_credential(&self, name: &str, at: &Value<'_>) -> Result<String, ConfigError> {
        let mut parts = Path::new(name).components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !is_plain {
            return Err(at.error(
                format!("`{}` is no name of a credential", printable(name, 80)),
                "expected the name before the colon of LoadCredential=",
            ));
        }
        let Some(folder) = (self.document.sources().env)(env::CREDENTIALS_DIRECTORY) else {
            return Err(at.error(
                format!("{} is not set: no service manager passed credentials", env::CREDENTIALS_DIRECTORY),
                format!("add LoadCredential={name}:PATH to the unit, and let systemd start `tokenkeep serve`"),
            ));
        };
        let path = PathBuf::from(folder).join(name);
        let text = (self.document.sources().file)(&path).map_err(|cause| {
            at.error(
                format!("the credential {} cannot be read: {cause}", path.display()),
                format!("add LoadCredential={name}:PATH to the unit"),
            )
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn checked(text: &str, at: &Value<'_>) -> Result<Secret, ConfigError> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(
            at.error("the secret is empty or has control characters", "put the secret there alone, on one line")
        );
    }
    Ok(Secret::new(text))
}
