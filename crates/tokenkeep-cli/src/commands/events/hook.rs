//! `--exec`: a command that gets each event as a line of JSON on its standard input.

use crate::api::json::EventJson;
use crate::cli::shown;
use crate::error::CliError;
use crate::span;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt as _;

/// A command that takes longer for one event is killed: the next event waits for it.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// A program and its arguments. No shell reads them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    program: OsString,
    arguments: Vec<OsString>,
    timeout: Duration,
}

impl Hook {
    /// From the words behind `--exec`; `None` where there are none.
    #[must_use]
    pub fn new(words: &[OsString]) -> Option<Self> {
        let (program, arguments) = words.split_first()?;
        Some(Self { program: program.clone(), arguments: arguments.to_vec(), timeout: HOOK_TIMEOUT })
    }

    /// Runs the command for one event and waits for its end. Its output and errors are ours.
    ///
    /// # Errors
    /// It cannot be started, ends with another code than 0, or takes too long.
    pub fn call(&self, event: &EventJson) -> Result<(), CliError> {
        let program = self.program.display();
        let failed = |what: String| about(CliError::new(what), event);
        let mut child = self.start().map_err(|error| {
            failed(format!("`{program}` cannot be started: {error}"))
                .next_step("give --exec an executable file, or a program's name that PATH finds")
        })?;
        give(&mut child, event);
        let cannot_wait = |error: std::io::Error| failed(format!("`{program}` cannot be waited for: {error}"));
        match child.wait_timeout(self.timeout).map_err(cannot_wait)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(format!("`{program}` {}", ended(status)))
                .next_step("mend it; this event is not given to it again, the next ones are")),
            None => {
                // It may have ended just now.
                let _ = child.kill();
                child.wait().map_err(cannot_wait)?;
                Err(failed(format!("`{program}` did not end within {} and was killed", span::show(self.timeout)))
                    .next_step("let it hand long work to another process; the next events are given to it"))
            }
        }
    }

    fn start(&self) -> std::io::Result<Child> {
        Command::new(&self.program).args(&self.arguments).stdin(Stdio::piped()).spawn()
    }
}

/// A command need not read its input.
fn give(child: &mut Child, event: &EventJson) {
    if let (Some(mut input), Ok(mut line)) = (child.stdin.take(), serde_json::to_vec(event)) {
        line.push(b'\n');
        let _ = input.write_all(&line);
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn about(error: CliError, event: &EventJson) -> CliError {
    let namespace = event.namespace.as_deref().unwrap_or_default();
    let whose = event.connection.as_deref().map(|name| format!(" of {}", shown(namespace, name)));
    error.evidence(format!("for event {}: {}{}", event.id, event.r#type, whose.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn event() -> EventJson {
        EventJson {
            id: 7,
            at: None,
            namespace: Some("default".to_owned()),
            connection: Some("jira".to_owned()),
            r#type: "connection.refreshed".to_owned(),
            code: None,
            message: "It is $(so).".to_owned(),
            data: RawValue::NULL.to_owned(),
        }
    }

    fn hook(script: &str, timeout: Duration) -> Hook {
        let words = ["sh", "-c", script].map(OsString::from);
        Hook { timeout, ..Hook::new(&words).unwrap() }
    }

    #[test]
    fn the_event_comes_as_one_line_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        hook(&format!("cat > {}", path.display()), HOOK_TIMEOUT).call(&event()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let read: EventJson = serde_json::from_str(&text).unwrap();
        assert_eq!((read.id, read.message.as_str()), (7, "It is $(so)."));
    }

    #[test]
    fn every_way_to_fail_is_told_with_the_event() {
        let report = |hook: &Hook| hook.call(&event()).unwrap_err().report();
        let failed = report(&hook("exit 3", HOOK_TIMEOUT));
        assert!(
            failed.contains("`sh` ended with exit code 3") && failed.contains("event 7: connection.refreshed of jira"),
            "{failed}"
        );
        let killed = report(&hook("kill -9 $$", HOOK_TIMEOUT));
        assert!(killed.contains("signal 9"), "{killed}");
        let slow = report(&hook("exec sleep 60", Duration::from_millis(50)));
        assert!(slow.contains("was killed"), "{slow}");
        let absent = report(&Hook::new(&["/no/such/program".into()]).unwrap());
        assert!(absent.contains("cannot be started") && absent.contains("next: "), "{absent}");
        assert_eq!(Hook::new(&[]), None);
    }
}
