//! What a folder holds, to show that nothing in it was changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Every file below a folder: its bytes and permissions. Sockets are left out: they hold nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, (u32, Vec<u8>)>);

impl Snapshot {
    /// Of this folder as it is now.
    pub fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("the folder is the test's own") {
                let entry = entry.expect("the folder is the test's own");
                let kind = entry.file_type().expect("the entry is there");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if !kind.is_socket() {
                    files.insert(entry.path(), Self::of_file(&entry.path()));
                }
            }
        }
        Self(files)
    }

    fn of_file(path: &Path) -> (u32, Vec<u8>) {
        let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        // A file that this user may not read is still there, with its permissions.
        (mode, fs::read(path).unwrap_or_default())
    }

    /// Panics, naming the files that came, went or changed, unless the folder is as it was. Files with a name among
    /// `besides` are left out.
    #[track_caller]
    pub fn expect_unchanged(&self, folder: &Path, besides: &[&str]) {
        let now = Self::of(folder);
        let counts = |path: &&PathBuf| !besides.iter().any(|name| path.ends_with(name));
        let differs = |path: &&PathBuf| self.0.get(*path) != now.0.get(*path);
        let mut changed: Vec<_> = self.0.keys().chain(now.0.keys()).filter(counts).filter(differs).collect();
        changed.dedup();
        assert!(changed.is_empty(), "files changed: {changed:?}");
    }

    /// Puts every file back as it was, and removes what came since.
    pub fn restore(&self, folder: &Path) {
        for path in Self::of(folder).0.keys().filter(|path| !self.0.contains_key(*path)) {
            fs::remove_file(path).expect("the file is the test's own");
        }
        for (path, (mode, bytes)) in &self.0 {
            fs::write(path, bytes).expect("the file is the test's own");
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).expect("the file is the test's own");
        }
    }
}
