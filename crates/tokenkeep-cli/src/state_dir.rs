//! Where the state folder and the daemon's socket are.

use crate::env;
use crate::error::CliError;
use std::path::{Path, PathBuf};

/// The socket's name in the state folder.
pub const SOCKET: &str = "tokenkeep.sock";
/// The longest path of a Unix socket: systems take 104 (macOS) to 108 bytes (Linux), the final zero included.
pub const SOCKET_PATH_MAX: usize = 103;

/// The state folder: as given (`--state-dir` or `TOKENKEEP_STATE_DIR`), else for root
/// `/var/lib/tokenkeep`, else `$XDG_STATE_HOME/tokenkeep`.
///
/// # Errors
/// There is nothing to derive it from.
pub fn resolve(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let is_root = rustix::process::geteuid().is_root();
    choose(given, is_root, &env::read).ok_or_else(|| {
        CliError::usage("there is no state folder: neither XDG_STATE_HOME nor HOME is set")
            .next_step("name one with --state-dir")
    })
}

fn choose(given: Option<&Path>, is_root: bool, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    if is_root {
        return Some(PathBuf::from("/var/lib/tokenkeep"));
    }
    // The specification says that a relative path is to be ignored.
    let home = env(env::XDG_STATE_HOME).map(PathBuf::from).filter(|path| path.is_absolute());
    home.or_else(|| Some(PathBuf::from(env(env::HOME)?).join(".local/state"))).map(|home| home.join("tokenkeep"))
}

/// The socket in a state folder.
///
/// # Errors
/// The path is longer than systems take.
pub fn socket(state_dir: &Path) -> Result<PathBuf, CliError> {
    let socket = state_dir.join(SOCKET);
    let length = socket.as_os_str().len();
    if length <= SOCKET_PATH_MAX {
        return Ok(socket);
    }
    Err(CliError::usage(format!(
        "the socket's path has {length} bytes, and a Unix socket's may have {SOCKET_PATH_MAX}"
    ))
    .evidence(socket.display().to_string())
    .next_step("choose a state folder with a shorter path: --state-dir"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(given: Option<&str>, is_root: bool, set: &[(&str, &str)]) -> Option<PathBuf> {
        let env = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        choose(given.map(Path::new), is_root, &env)
    }

    #[test]
    fn the_state_folder_is_where_the_documentation_says() {
        let set = [("XDG_STATE_HOME", "/x/state"), ("HOME", "/home/u")];
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(chosen(Some("/d"), true, &set), path("/d"));
        assert_eq!(chosen(None, true, &set), path("/var/lib/tokenkeep"));
        assert_eq!(chosen(None, false, &set), path("/x/state/tokenkeep"));
        assert_eq!(chosen(None, false, &set[1..]), path("/home/u/.local/state/tokenkeep"));
        let relative = [("XDG_STATE_HOME", "state"), ("HOME", "/home/u")];
        assert_eq!(chosen(None, false, &relative), path("/home/u/.local/state/tokenkeep"));
        assert_eq!(chosen(None, false, &[]), None);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_by_us() {
        assert_eq!(socket(Path::new("/s")).unwrap(), Path::new("/s/tokenkeep.sock"));
        let long = format!("/{}", "x".repeat(120));
        let report = socket(Path::new(&long)).unwrap_err().report();
        assert!(report.contains("136 bytes") || report.contains("bytes"), "{report}");
        assert!(report.contains("--state-dir"), "{report}");
    }
}
