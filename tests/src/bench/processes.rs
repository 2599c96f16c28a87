//! The real binary: the daemon's start and memory, and one run of `tokenkeep token`.

use super::agent::Agent;
use super::folder::{self, Folder};
use super::provider::CLIENT_SECRET;
use super::report::{Report, Target, Times, Unit};
use super::{Options, Outcome, machine, million};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokenkeep::TokenKeep;

/// How many connections the small daemon keeps.
const CONNECTIONS: usize = 10;
/// How long a daemon is left alone before its memory is looked at.
const IDLE: Duration = Duration::from_secs(3);
/// The configuration of a daemon that knows the providers of [`million::config`].
const CONFIGURATION: &str = r#"
[providers.quiet]
token_url = "http://127.0.0.1:9/token"
client_id = "c"
client_auth = "none"
rotation = "persistent"

[providers.bench]
token_url = "http://127.0.0.1:9/token"
client_id = "d"
client_auth = "none"
rotation = "persistent"
"#;

/// Measures the small daemon and the command line.
///
/// # Errors
/// A process did not do what it should.
pub fn measure(runtime: &tokio::runtime::Runtime, options: &Options, report: &mut Report) -> Outcome<()> {
    println!("\nthe binary, with {CONNECTIONS} connections");
    let folder = Folder::empty(&options.folder)?;
    runtime.block_on(async {
        let keep = TokenKeep::open(million::config(&folder)?).await?;
        million::import(&keep, CONNECTIONS).await?;
        keep.shutdown().await;
        Outcome::Ok(())
    })?;
    let daemon = Daemon::start(folder.path())?;
    let memory = daemon.idle_memory()?;
    report.add("idle daemon, 10 connections, resident", Unit::Mebibytes, memory, Target::AtMost(25.0));
    // As an installation has it: the linker's own file lies in the page cache in small pieces, and starts more slowly.
    let binary = folder.path().join("tokenkeep");
    std::fs::copy(machine::tokenkeep_binary()?, &binary)?;
    let name = folder::key(0)?.name().to_owned();
    let token = || {
        let mut command = Command::new(&binary);
        command.arg("--state-dir").arg(folder.path()).args(["token", &name]);
        command
    };
    let agent = Agent::start(&"t".repeat(800))?;
    let mut commands: Vec<Box<dyn Fn() -> Command + '_>> = vec![Box::new(token), Box::new(|| Command::new("true"))];
    match &agent {
        Some(agent) => commands.push(Box::new(|| agent.token())),
        None => println!("left out: oidc-token; install Debian's oidc-agent-cli to measure it beside"),
    }
    let spent = in_turns(options.spawns, &commands)?;
    let (median, late) = spent[0];
    report.add("`tokenkeep token NAME`, whole process", Unit::Milliseconds, median, Target::AtMost(3.0));
    report.add("- 99 % of them", Unit::Milliseconds, late, Target::None);
    report.add("- `true` in turns with it", Unit::Milliseconds, spent[1].0, Target::None);
    if let Some((theirs, _)) = spent.get(2) {
        report.add("- `oidc-token` in turns with it", Unit::Milliseconds, *theirs, Target::None);
        report.add("- ours is so much of `oidc-token`", Unit::Times, median / theirs, Target::AtMost(0.8));
    }
    daemon.stop()
}

/// Milliseconds of each process from its start to its end: the median, and what 99 % stay below. They run in turns, so
/// that whatever else the machine does meets all.
fn in_turns(times: usize, commands: &[Box<dyn Fn() -> Command + '_>]) -> Outcome<Vec<(f64, f64)>> {
    let mut spent: Vec<Times> = commands.iter().map(|_| Times::default()).collect();
    for _ in 0..times {
        for (command, spent) in commands.iter().zip(&mut spent) {
            spent.push(time_of(command())?);
        }
    }
    let shown = |times: Times| {
        let (median, late) = times.p50_p99();
        (median / 1e6, late / 1e6)
    };
    Ok(spent.into_iter().map(shown).collect())
}

fn time_of(mut command: Command) -> Outcome<Duration> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let spent = started.elapsed();
    if output.status.success() {
        return Ok(spent);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// A daemon in a process of its own. It is killed if it is not stopped.
pub struct Daemon {
    process: Child,
    /// From the start of the process until it said that it is ready.
    pub ready_after: Duration,
    tcp: Option<SocketAddr>,
}

impl Daemon {
    /// Starts one on a state folder and waits until it is ready.
    ///
    /// # Errors
    /// It ends instead.
    pub fn start(folder: &Path) -> Outcome<Self> {
        Self::start_with(folder, CONFIGURATION)
    }

    /// The same with this configuration, whose `secret` is the benchmark's provider's.
    ///
    /// # Errors
    /// It ends instead.
    pub fn start_with(folder: &Path, text: &str) -> Outcome<Self> {
        let configuration = folder.join("bench.toml");
        std::fs::write(&configuration, text)?;
        std::fs::write(folder.join("secret"), CLIENT_SECRET)?;
        let started = Instant::now();
        let mut process = Command::new(machine::tokenkeep_binary()?)
            .arg("--state-dir")
            .arg(folder)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = process.stderr.take().ok_or("the daemon has no standard error")?;
        let mut lines = BufReader::new(said).lines();
        let mut before = Vec::new();
        loop {
            match lines.next() {
                Some(line) => {
                    let line = line?;
                    if line == "ready" {
                        break;
                    }
                    before.push(line);
                }
                None => return Err(format!("the daemon ended: {}", before.join("\n")).into()),
            }
        }
        let ready_after = started.elapsed();
        // Whoever does not read what it says would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let tcp = before.iter().find_map(|line| line.split_once("tcp=Some(")?.1.split_once(')')?.0.parse().ok());
        Ok(Self { process, ready_after, tcp })
    }

    /// Where it listens on TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Its resident memory when it has had nothing to do for a while, in MiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn idle_memory(&self) -> Outcome<f64> {
        std::thread::sleep(IDLE);
        machine::resident_mib(self.process.id())
    }

    /// Ends it cleanly.
    ///
    /// # Errors
    /// It failed.
    pub fn stop(mut self) -> Outcome<()> {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let ended = self.process.wait()?;
        if ended.success() { Ok(()) } else { Err(format!("the daemon ended with {ended}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Either fails where it was stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
