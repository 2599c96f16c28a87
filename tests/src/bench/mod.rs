//! The benchmark: figures that a README can quote, each beside its target, and what they consist of.
//!
//! The provider runs in a second process, so that its work is not counted as ours. State folders are on a disk.

mod agent;
pub mod api;
mod bare;
mod folder;
mod machine;
mod million;
mod peers;
mod processes;
pub mod provider;
mod reads;
mod refreshes;
mod report;
mod timed;

use report::Report;
use std::error::Error;
use std::path::PathBuf;

/// Whatever went wrong: the benchmark only says it and ends.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Every part, in the order in which they run.
const PARTS: [&str; 6] = ["refreshes", "peers", "reads", "million", "processes", "api"];

/// What to measure, how often, and where.
#[derive(Debug)]
pub struct Options {
    /// How often each throughput is measured; the median counts.
    pub repetitions: usize,
    /// How many connections one throughput run refreshes.
    pub refreshes: usize,
    /// How many attempts may be in flight.
    pub in_flight: u32,
    /// How many connections the large store has.
    pub large: usize,
    /// How many connections the small store beside it has.
    pub small: usize,
    /// How often the command line is run.
    pub spawns: usize,
    /// How long each loop of another library is measured.
    pub peer_seconds: u32,
    /// How long the API is asked each time.
    pub api_seconds: u32,
    /// Where the state folders go: a real disk.
    pub folder: PathBuf,
    /// The parts that are measured.
    parts: Vec<String>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// An argument that is not known.
    pub fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            repetitions: 5,
            refreshes: 20_000,
            in_flight: tokenkeep::config::IN_FLIGHT_MAX,
            large: 1_000_000,
            small: 10_000,
            spawns: 200,
            peer_seconds: 3,
            api_seconds: 5,
            folder: machine::target_folder()?.join("bench"),
            parts: Vec::new(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => {
                    (options.repetitions, options.refreshes) = (1, 4_000);
                    (options.large, options.small, options.spawns) = (50_000, 2_000, 20);
                    (options.peer_seconds, options.api_seconds) = (1, 1);
                }
                "--dir" => options.folder = value()?.into(),
                "--in-flight" => options.in_flight = value()?.parse()?,
                "--repetitions" => options.repetitions = value()?.parse::<usize>()?.max(1),
                "--only" => options.parts.push(known_part(value()?)?),
                _ => return Err(format!("unknown argument `{argument}`: {USAGE}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

const USAGE: &str = "tokenkeep-bench [--quick] [--dir FOLDER] [--in-flight N] [--repetitions N] \
                     [--only refreshes|peers|reads|million|processes|api]...";

fn known_part(name: &str) -> Outcome<String> {
    if PARTS.contains(&name) { Ok(name.to_owned()) } else { Err(format!("unknown part `{name}`: {USAGE}").into()) }
}

/// Measures what was asked for and prints the table.
///
/// # Errors
/// Something did not work at all; a missed target is none.
pub fn run(options: &Options) -> Outcome<()> {
    std::fs::create_dir_all(&options.folder)?;
    let mut report = Report::default();
    machine::describe(options);
    let runtime = machine::runtime()?;
    if options.wants("refreshes") {
        runtime.block_on(refreshes::measure(options, &mut report))?;
    }
    if options.wants("peers") {
        runtime.block_on(peers::measure(options, &mut report))?;
    }
    if options.wants("reads") || options.wants("million") {
        million::measure(&runtime, options, &mut report)?;
    }
    if options.wants("processes") {
        processes::measure(&runtime, options, &mut report)?;
    }
    if options.wants("api") {
        api::measure(&runtime, options, &mut report)?;
    }
    report.print();
    Ok(())
}
