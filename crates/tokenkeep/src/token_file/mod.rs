//! Token files: what other programs read a connection's token set from, kept current by the daemon.
//!
//! - [`format`]: the text, read leniently and written in the shape found;
//! - [`decide`]: what is to become of a file, as a pure function;
//! - [`place`]: the file on its disk, its locks, its replacement;
//! - [`sink`]: the task that looks after one file.
//!
//! The store is master: a commit is durable first, and the file follows it, in a task of its own that never holds a
//! refresh up. Changes of the file are noticed by looking at it every [`sink::LOOK_EVERY`]: few files make that cheap,
//! it works on every file system, and a watch would miss what another machine writes.

mod decide;
pub(crate) mod format;
mod place;
mod sink;

pub(crate) use decide::{Held, TOLD_IN_STEPS_OF_MIN, told_end};
pub(crate) use sink::Sinks;

use std::path::PathBuf;
use tokenkeep_core::Timestamp;

/// A token file as its keeper last saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptFile {
    /// Where it is, as an absolute path.
    pub path: PathBuf,
    /// When it was last written by this process (steady time).
    pub written_at: Option<Timestamp>,
    /// Why it is not current, if it is not. The connection itself goes on.
    pub trouble: Option<Trouble>,
}

/// What keeps a token file from being current.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Since when (steady time).
    pub since: Timestamp,
    /// One sentence for people; no secrets.
    pub message: String,
}
