//! The few things that the journal asks of a file; a test asks them of something that fails.

use crate::files::{remove_if_there, sync_folder_of};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: u64 = 1024 * 1024;

/// Positioned reads and writes, and one sync.
pub(super) trait Disk: Send + Sync + 'static {
    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;
}

#[cfg(unix)]
impl Disk for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(windows)]
impl Disk for File {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = std::os::windows::fs::FileExt::seek_read(self, buffer, offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[count..];
            offset += count as u64;
        }
        Ok(())
    }

    fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = std::os::windows::fs::FileExt::seek_write(self, bytes, offset)?;
            bytes = &bytes[count..];
            offset += count as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Opens an existing file for reading and writing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Puts a new file of `bytes` bytes at `path`: `header`, then zeros that were really written, so that
/// no later write inside it can find the disk full. It appears whole and durable, or not at all.
pub(super) fn create(path: &Path, header: &[u8], bytes: u64) -> io::Result<()> {
    let draft = draft_path(path);
    remove_if_there(&draft)?;
    let written = write_draft(&draft, header, bytes);
    if written.is_err() {
        remove_if_there(&draft)?;
    }
    written?;
    std::fs::rename(&draft, path)?;
    sync_folder_of(path)
}

fn draft_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_draft(draft: &Path, header: &[u8], bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(draft)?;
    file.write_all(header)?;
    let zeros = vec![0; usize::try_from(ZEROS_BYTES).map_err(io::Error::other)?];
    let mut left = bytes.saturating_sub(header.len() as u64);
    while left > 0 {
        let piece = left.min(ZEROS_BYTES);
        file.write_all(&zeros[..usize::try_from(piece).map_err(io::Error::other)?])?;
        left -= piece;
    }
    file.sync_all()
}
