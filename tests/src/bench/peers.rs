//! Durable refreshes a second beside what people use today: Python loops with a synced token file, at one provider.

use super::provider::{self, Running};
use super::report::{Report, Target, Unit, median};
use super::{Options, Outcome, refreshes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokenkeep_core::provider::Rotation;

/// The libraries, as `tests/python/refresh_loop.py` names them.
const LIBRARIES: [&str; 2] = ["requests-oauthlib", "authlib"];
/// How often ours is to be at least as fast, by class.
const CLASSES: [(Rotation, f64); 2] = [(Rotation::Strict, 5.0), (Rotation::Persistent, 10.0)];
/// Where the interpreter is that has the libraries.
const PYTHON: &str = "TOKENKEEP_PYTHON";

/// Measures each library beside ours, in turns.
///
/// # Errors
/// A refresh did not work.
pub async fn measure(options: &Options, report: &mut Report) -> Outcome<()> {
    let Some(python) = python() else {
        println!("\nleft out: Python's libraries. Set {PYTHON} to a Python that has tests/python/requirements.txt");
        return Ok(());
    };
    for (class, target) in CLASSES {
        println!("\n{class} provider, ours and Python's loops in turns");
        let (mut ours, mut theirs) = (Vec::new(), LIBRARIES.map(|_| Vec::new()));
        for _ in 0..options.repetitions {
            ours.push(refreshes::once(options, class).await?);
            for (library, rates) in LIBRARIES.iter().zip(&mut theirs) {
                rates.push(python_loop(&python, library, options, class)?);
            }
        }
        let ours = median(ours);
        report.add(format!("refreshes, {class} provider, beside Python's"), Unit::PerSecond, ours, Target::None);
        for (library, rates) in LIBRARIES.iter().zip(theirs) {
            let rate = median(rates);
            report.add(format!("- a loop of {library}"), Unit::PerSecond, rate, Target::None);
            report.add(format!("- ours is so many times {library}"), Unit::Times, ours / rate, Target::AtLeast(target));
        }
    }
    Ok(())
}

/// The interpreter that was named, else that of the tests' own environment.
fn python() -> Option<PathBuf> {
    let made_by_tests = || super::machine::target_folder().ok().map(|target| target.join("tools/venv/bin/python"));
    std::env::var_os(PYTHON).map(PathBuf::from).or_else(made_by_tests).filter(|python| python.is_file())
}

/// Refreshes a second of one loop, at a provider of its own.
fn python_loop(python: &Path, library: &str, options: &Options, class: Rotation) -> Outcome<f64> {
    let running = Running::start(class, 1)?;
    let folder = tempfile::tempdir_in(&options.folder)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/refresh_loop.py");
    let mut process = Command::new(python)
        .arg(script)
        .args([library, running.provider.token_url.as_str(), provider::CLIENT_ID, &options.peer_seconds.to_string()])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().ok_or("the loop has no standard input")?;
    writeln!(stdin, "{}\n{}", provider::CLIENT_SECRET, running.refresh_tokens[0])?;
    drop(stdin);
    let output = process.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("the loop of {library} ended with {}", output.status).into());
    }
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| told[name].as_f64().ok_or_else(|| format!("the loop of {library} did not tell {name}"));
    Ok(number("refreshes")? / number("seconds")?)
}
