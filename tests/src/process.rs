//! Processes that cannot outlive the test that started them.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Looks at a condition until it gives something; panics with `what` when it does not in time.
pub fn wait_for<T>(what: &str, at_most: Duration, condition: impl FnMut() -> Option<T>) -> T {
    try_wait_for(at_most, condition).unwrap_or_else(|| panic!("waited {at_most:?} in vain for {what}"))
}

/// Looks at a condition until it gives something, or the time is over.
pub fn try_wait_for<T>(at_most: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if started.elapsed() >= at_most {
            return None;
        }
        thread::sleep(POLL_EVERY);
    }
}

/// How a process ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// Panics unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }
}

/// A running process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Heard,
    stderr: Heard,
}

/// Everything that a process has said on one stream so far.
#[derive(Debug)]
struct Heard {
    text: Arc<Mutex<Vec<u8>>>,
    /// Ends with the stream.
    reader: Option<JoinHandle<()>>,
}

impl Heard {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let into = Arc::clone(&text);
        let reader = stream.map(|stream| thread::spawn(move || hear(stream, &into)));
        Self { text, reader }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for the end of the stream.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            // It cannot panic: it only copies.
            let _ = reader.join();
        }
        self.text()
    }
}

fn hear(mut stream: impl Read, into: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..length]);
    }
}

impl Running {
    /// Starts a process; `stdin` goes in, and then its standard input ends. `None` keeps the input open.
    #[track_caller]
    pub fn start(mut command: Command, stdin: Option<&[u8]>) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (stdout, stderr) = (Heard::of(child.stdout.take()), Heard::of(child.stderr.take()));
        if let Some(bytes) = stdin {
            // A process that does not read its input is no fault of the test's.
            let _ = child.stdin.take().map(|mut pipe| pipe.write_all(bytes));
        }
        Self { child, stdout, stderr }
    }

    /// What it has said on standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        let pipe = self.child.stdin.as_mut().expect("its standard input is open");
        pipe.write_all(format!("{line}\n").as_bytes()).unwrap_or_else(|error| {
            panic!("it does not hear: {error}\n{}", self.stderr.text());
        });
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is ours")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} cannot be sent: {error}"));
    }

    /// Ends it as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    /// Waits for its end; kills it and panics when that does not come in time.
    #[track_caller]
    pub fn finish(mut self, at_most: Duration) -> Ran {
        let Some(status) = try_wait_for(at_most, || self.ended()) else {
            self.kill();
            panic!("did not end in {at_most:?}\nstdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        };
        Ran { code: status.code(), stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
