//! The Python that has the servers and clients of `tests/python/requirements.txt`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `TOKENKEEP_PYTHON`, else the environment that `scripts/test` makes below `target`.
///
/// Panics where there is none: a test that cannot run must not pass.
pub fn python() -> PathBuf {
    if let Some(given) = env::var_os("TOKENKEEP_PYTHON") {
        let path = PathBuf::from(given);
        assert!(path.is_file(), "TOKENKEEP_PYTHON names {}, which is no file", path.display());
        return path;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/python");
    assert!(path.is_file(), "there is no Python environment: run `./scripts/test tools`, or set TOKENKEEP_PYTHON");
    path
}

/// That Python with a script of `tests/python`.
pub fn script(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    let mut command = Command::new(python());
    command.arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
