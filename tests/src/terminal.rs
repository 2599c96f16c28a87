//! A terminal that a process runs in, as far as the process can tell.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A process in a terminal of its own. It is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    /// The side of the person.
    person: File,
    /// The side of the process, kept open so that its settings can be looked at.
    process: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a command in a terminal of so many columns and rows.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&person).expect("the terminal is ours");
        unlockpt(&person).expect("the terminal is ours");
        let name = ptsname(&person, Vec::new()).expect("the terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let process = rustix::fs::open(name, flags, Mode::empty()).expect("the terminal's other side");
        let side = || Stdio::from(process.try_clone().expect("a file descriptor"));
        let child = command.stdin(side()).stdout(side()).stderr(side());
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (person, into) = (File::from(person), Arc::clone(&shown));
        let mut from = person.try_clone().expect("a file descriptor");
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..length]);
            }
        });
        resize(&person, columns, rows);
        Self { child: child.spawn().expect("the command starts"), person, process, shown }
    }

    /// Everything that the process has written so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The last whole picture: what was written since the cursor last went home.
    pub fn picture(&self) -> Option<String> {
        let shown = self.shown();
        let (before, _) = shown.rsplit_once("\x1b[J")?;
        Some(before.rsplit_once("\x1b[H")?.1.to_owned())
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &[u8]) {
        self.person.write_all(keys).expect("the terminal is open");
    }

    /// Gives it another size, and says so to the process.
    pub fn resize(&self, columns: u16, rows: u16) {
        resize(&self.person, columns, rows);
        self.signal(Signal::WINCH);
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is ours");
    }

    /// The exit code, once the process has ended.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        self.child.try_wait().expect("the process is ours").map(|status| status.code())
    }

    /// True when the terminal shows what is typed, as a shell's does.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.process).expect("a terminal has settings").local_modes.contains(LocalModes::ECHO)
    }
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
