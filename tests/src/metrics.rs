//! What the daemon serves at `/metrics`, read as Prometheus reads it, and Prometheus' own tool.

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::http::Request;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// As it was served.
    pub text: String,
    /// The type of each family.
    pub types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks the daemon.
    ///
    /// # Panics
    /// What it serves is not Prometheus' text format.
    #[track_caller]
    pub fn of(daemon: &Daemon) -> Self {
        let answer = daemon.ask(Request::get("/metrics"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        Self::read(answer.body)
    }

    fn read(text: String) -> Self {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { types, samples, text }
    }

    /// The value of a series, written as it is served; `None` where there is none.
    #[must_use]
    pub fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The value of a series that must be there.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    #[must_use]
    pub fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("{series} is not served:\n{}", self.text))
    }

    /// Whether a family of this name is served, or one that has a series of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        self.types.contains_key(name)
            || of_histogram.is_some_and(|family| self.types.get(family).is_some_and(|kind| kind == "histogram"))
    }
}

/// `TOKENKEEP_PROMTOOL`, else the one that `scripts/test` puts below `target`.
///
/// # Panics
/// There is none: a test that cannot run must not pass.
#[must_use]
pub fn promtool() -> PathBuf {
    let given = env::var_os("TOKENKEEP_PROMTOOL").map(PathBuf::from);
    let path = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/promtool"));
    assert!(path.is_file(), "there is no promtool: run `./scripts/test tools`, or set TOKENKEEP_PROMTOOL");
    path
}

/// Runs promtool with these arguments in this folder, `input` on its standard input; what it said.
///
/// # Panics
/// It finds fault.
#[track_caller]
pub fn run_promtool(folder: &Path, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(promtool());
    command.args(arguments).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}
