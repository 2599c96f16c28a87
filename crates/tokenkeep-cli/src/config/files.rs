//! Which file is read, and how.

use super::{ConfigErrors, Settings, Sources, parse};
use crate::env;
use crate::error::CliError;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The largest configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// The largest file that holds one value.
pub const VALUE_BYTES_MAX: u64 = 64 * 1024;
/// The configuration's name in its folder.
const FILE_NAME: &str = "tokenkeep.toml";

/// What the command line says beside the file.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `--config`, or `TOKENKEEP_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// The state folder, where it is known.
    pub state_dir: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read: why, and what to do.
    File {
        /// What happened.
        cause: String,
        /// What to do.
        next: &'static str,
    },
    /// It is wrong.
    Wrong(ConfigErrors),
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::File { cause, next } => Self::new(cause).next_step(next),
            LoadError::Wrong(errors) => errors.into(),
        }
    }
}

/// A configuration that was read, and the file that it was read from, if there is one.
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// Where.
    pub path: Option<PathBuf>,
}

/// Reads the configuration: the file that was named, else the one at the usual place if it is there, else the
/// environment and the defaults alone.
///
/// # Errors
/// [`LoadError`].
pub fn load(given: &Given) -> Result<Loaded, LoadError> {
    let path = match &given.config {
        Some(named) => Some(named.clone()),
        None => usual_place().filter(|usual| usual.symlink_metadata().is_ok()),
    };
    let text = path.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let variables = env::names();
    let file = |path: &Path| read_text(path, VALUE_BYTES_MAX);
    let sources = Sources {
        env: &env::read,
        variables: &variables,
        file: &file,
        real: &real,
        listen: given.listen,
        state_dir: given.state_dir.as_deref(),
    };
    let named = path.as_deref().unwrap_or(Path::new("(no configuration)"));
    let settings = parse(&text, named, sources).map_err(LoadError::Wrong)?;
    Ok(Loaded { settings, path })
}

/// Where a configuration is looked for that nobody named: for root `/etc/tokenkeep/tokenkeep.toml`, else
/// `$XDG_CONFIG_HOME/tokenkeep/tokenkeep.toml`.
#[must_use]
pub fn usual_place() -> Option<PathBuf> {
    usual(rustix::process::geteuid().is_root(), &env::read)
}

fn usual(is_root: bool, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from("/etc/tokenkeep").join(FILE_NAME));
    }
    // The specification says that a relative path is to be ignored.
    let home = env(env::XDG_CONFIG_HOME).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.or_else(|| Some(PathBuf::from(env(env::HOME)?).join(".config")))?;
    Some(home.join("tokenkeep").join(FILE_NAME))
}

fn read_config(path: &Path) -> Result<String, LoadError> {
    read_text(path, CONFIG_BYTES_MAX).map_err(|error| LoadError::File {
        cause: format!("the configuration {} cannot be read: {error}", path.display()),
        next: "name a readable TOML file with --config, or leave it out for the usual place and the defaults",
    })
}

/// The text of a file that is no larger than `bytes_max`.
///
/// # Errors
/// As the system says; a folder, a file that is too large, and one that is no UTF-8 are named as such.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8 text, from line {line} on"))
    })
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_place_is_where_the_documentation_says() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let path = |text: &str| Some(PathBuf::from(text));
        let both = set(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/home/u")]);
        assert_eq!(usual(true, &both), path("/etc/tokenkeep/tokenkeep.toml"));
        assert_eq!(usual(false, &both), path("/x/tokenkeep/tokenkeep.toml"));
        let home = path("/home/u/.config/tokenkeep/tokenkeep.toml");
        assert_eq!(usual(false, &set(&[("HOME", "/home/u")])), home);
        assert_eq!(usual(false, &set(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/home/u")])), home);
        assert_eq!(usual(false, &set(&[])), None);
    }

    #[test]
    fn what_is_no_text_file_is_named_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("latin"), b"a = 1\nb = \"\xe9\"\n").unwrap();
        fs::write(at("large"), "x".repeat(11)).unwrap();
        fs::write(at("fits"), "x".repeat(10)).unwrap();
        let said = |path: &Path| read_text(path, 10_000).unwrap_err().to_string();
        assert_eq!(said(folder.path()), "it is a folder");
        assert_eq!(said(&at("latin")), "it is not UTF-8 text, from line 2 on");
        assert!(said(&at("none")).contains("No such file"));
        assert_eq!(read_text(&at("large"), 10).unwrap_err().to_string(), "it has more than 10 bytes");
        assert_eq!(read_text(&at("fits"), 10).unwrap().len(), 10);
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        fs::create_dir(base.join("a")).unwrap();
        std::os::unix::fs::symlink(base.join("a"), base.join("link")).unwrap();
        assert_eq!(real(&base.join("link/not/yet")), base.join("a/not/yet"));
    }
}
