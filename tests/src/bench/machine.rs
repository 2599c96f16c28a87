//! What the benchmark asks of the operating system: where it runs, and what a process has used of it.

use super::{Options, Outcome};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What Linux counts processor time in: `USER_HZ`, 100 on every architecture that we build for.
const TICK: Duration = Duration::from_millis(10);

/// A runtime with a worker for each processor, as the daemon has.
pub fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The build's own folder.
pub fn target_folder() -> Outcome<PathBuf> {
    let binary = std::env::current_exe()?;
    Ok(binary.ancestors().nth(2).ok_or("the benchmark is not in a build folder")?.to_owned())
}

/// The release build of the daemon, beside the benchmark.
pub fn tokenkeep_binary() -> Outcome<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("tokenkeep");
    if binary.exists() {
        return Ok(binary);
    }
    Err(format!("there is no {}: build it first, with `cargo build --release`", binary.display()).into())
}

/// Says what the figures depend on.
pub fn describe(options: &Options) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{processors} processors ({}), load {} before; {} attempts in flight; medians of {}",
        model.map_or("unknown", |(_, name)| name),
        load.split_whitespace().next().unwrap_or("unknown"),
        options.in_flight,
        options.repetitions
    );
}

/// The processor time that a process has used, by the names of its threads. Threads that have ended are left out.
pub fn processor_time(process: u32) -> Outcome<BTreeMap<String, Duration>> {
    let mut used = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(line) = std::fs::read_to_string(thread?.path().join("stat")) else { continue };
        let Some((name, ticks)) = name_and_ticks(&line) else { continue };
        *used.entry(name.to_owned()).or_default() += TICK * ticks;
    }
    Ok(used)
}

/// Fields 2, 14 and 15 of proc_pid_stat(5); the name may hold spaces.
fn name_and_ticks(line: &str) -> Option<(&str, u32)> {
    let (head, fields) = line.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<u32>);
    Some((name, ticks.next()?.ok()? + ticks.next()?.ok()?))
}

/// The resident memory of a process, in MiB.
pub fn resident_mib(process: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("a process without memory")?;
    let kibibytes: f64 = line.split_whitespace().nth(1).ok_or("no number of kibibytes")?.parse()?;
    Ok(kibibytes / 1_024.0)
}

/// The size of a folder's files, in MiB.
pub fn files_mib(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes >> 20)
}
