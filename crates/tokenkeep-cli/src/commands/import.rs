//! `tokenkeep import`: takes over an existing token set, or with `--ndjson` many.

use super::client;
use crate::api::json::{ImportFailedJson, ImportedJson};
use crate::api::ndjson::{BATCH_BYTES_MAX, BATCH_LINES_MAX, CONTENT_TYPE, LINE_MAX};
use crate::cli::{Common, listing, shown};
use crate::client::{Client, Request, problem_error};
use crate::error::{CliError, Exit};
use crate::output;
use crate::output::{say, say_on};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokenkeep::foreign::{self, Entry};
use tokenkeep_core::model::printable;
use zeroize::Zeroizing;

/// Of `import`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep import jira --provider jira --file oauth_token.json
  vault read ... | tokenkeep import jira --provider jira
  tokenkeep import drive --provider google --file ~/.config/rclone/rclone.conf --entry gdrive
  tokenkeep import --ndjson tokens.ndjson

A token file is a JSON object as requests-oauthlib and Authlib write it. What Nango answers for a
connection, rclone's configuration and MSAL's token cache are read too. A line of NDJSON is
{\"name\": .., \"provider\": .., \"token\": {..}, \"labels\": {..}}. A token set that Tokenkeep holds
already, or has used, changes nothing, and the command says so.")]
pub struct ImportArgs {
    /// The connection's name; a new one, or one that gets a new grant
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson", value_parser = crate::cli::name)]
    pub name: Option<String>,
    /// The provider's name in the daemon's configuration
    #[arg(long, value_name = "P", required_unless_present = "ndjson", conflicts_with = "ndjson", value_parser = crate::cli::name)]
    pub provider: Option<String>,
    /// The token file; `-` is standard input
    #[arg(long, value_name = "F", conflicts_with = "ndjson", default_value = "-", hide_default_value = true)]
    pub file: PathBuf,
    /// Which token set, where the file of another program holds several
    #[arg(long, value_name = "E", conflicts_with = "ndjson")]
    pub entry: Option<String>,
    /// A label; may be given many times
    #[arg(long = "label", value_name = "K=V", conflicts_with = "ndjson", value_parser = crate::cli::label)]
    pub labels: Vec<(String, String)>,
    /// Many, a line each; `-` is standard input
    #[arg(long, value_name = "F")]
    pub ndjson: Option<PathBuf>,
    /// Print what became of it as JSON (with --ndjson: a line each)
    #[arg(long)]
    pub json: bool,
}

/// The largest token file.
const FILE_MAX: u64 = 512 * 1024;
/// How many names of a file's token sets an error shows.
const ENTRIES_SHOWN: usize = 20;
/// How long a daemon may take for one import, or one batch of them.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Imports.
///
/// # Errors
/// What was given is no token set, or the daemon refuses it.
pub fn run(common: &Common, args: &ImportArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    match (&args.ndjson, &args.name, &args.provider) {
        (Some(path), _, _) => many(&client, common, open(path)?, args.json),
        (None, Some(name), Some(provider)) => one(&client, common, args, name, provider),
        // The command line's definition asks for one or the other.
        _ => Err(CliError::usage("expected NAME and --provider, or --ndjson")),
    }
}

/// `-` is standard input, which must not be a terminal: nobody types tokens.
fn open(path: &Path) -> Result<Box<dyn Read>, CliError> {
    if path != Path::new("-") {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        return Ok(Box::new(file));
    }
    if io::stdin().is_terminal() {
        return Err(CliError::usage("standard input is a terminal")
            .next_step("give the token file with --file F, or pipe it in"));
    }
    Ok(Box::new(io::stdin().lock()))
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("{} cannot be read: {error}", path.display()))
        .next_step("name a file that this user can read, or `-` for standard input")
}

/// What the API takes. It has no `Debug`: it holds tokens.
#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    provider: &'a str,
    token: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<&'a str, &'a str>>,
}

fn one(client: &Client, common: &Common, args: &ImportArgs, name: &str, provider: &str) -> Result<Exit, CliError> {
    let text = plain(read_file(&args.file)?, args.entry.as_deref())?;
    let labels: BTreeMap<&str, &str> = args.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let labels = Some(labels).filter(|labels| !labels.is_empty());
    let body = Body { name, provider, token: token(&text)?, labels };
    let body = serde_json::to_vec(&body).map(Zeroizing::new).map_err(|_| not_a_token_file(0, 0))?;
    let answer = client.post_json(&listing(&common.namespace), &body, TIMEOUT)?;
    let imported: ImportedJson = answer.json()?;
    if args.json {
        output::write_json(&imported)?;
    }
    say!("{}", told(&imported.result, &shown(&common.namespace, name)));
    Ok(Exit::Ok)
}

/// A sentence for each result. What changes nothing is no failure: the connection is in good hands.
fn told(result: &str, name: &str) -> String {
    match result {
        "created" => format!("imported {name}"),
        "renewed" => format!("imported {name}: a new grant of the existing connection"),
        "already_held" => format!("{name} holds this token set already; nothing was changed"),
        "already_used" => {
            format!("{name} has used this refresh token already and holds a newer one; nothing was changed")
        }
        other => format!("{name}: {other}"),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut text = Zeroizing::new(Vec::with_capacity(8 * 1024));
    open(path)?.take(FILE_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > FILE_MAX {
        return Err(CliError::new(format!("{} is longer than a token file can be ({FILE_MAX} bytes)", path.display())));
    }
    Ok(text)
}

/// The text itself where it is a token set, else the one that is meant of those in another program's file.
fn plain(text: Zeroizing<Vec<u8>>, entry: Option<&str>) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let format = std::str::from_utf8(&text).ok().and_then(|text| Some((foreign::format_of(text)?, text)));
    let Some((format, found)) = format else {
        return match entry {
            None => Ok(text),
            Some(_) => Err(CliError::usage("--entry names one of several token sets, and this file holds one alone")
                .next_step("leave --entry out; it is for files of Nango, rclone and MSAL")),
        };
    };
    let wrong = |why: String| CliError::new(format!("this {} file cannot be read: {why}", format.as_str()));
    let entries = foreign::read(format, found).map_err(wrong)?;
    let meant = |held: &&Entry| entry.map_or(entries.len() == 1, |entry| held.name == entry);
    match entries.iter().find(meant) {
        Some(held) => Ok(Zeroizing::new(held.token.expose().as_bytes().to_vec())),
        None => Err(which(&entries, entry)),
    }
}

fn which(entries: &[Entry], entry: Option<&str>) -> CliError {
    let error = match entry {
        Some(entry) => CliError::with_exit(Exit::NotFound, format!("the file holds no `{}`", printable(entry, 60))),
        None => CliError::usage(format!("the file holds {} token sets", entries.len())),
    };
    let shown = entries.iter().take(ENTRIES_SHOWN).map(|held| format!("{} ({})", held.name, held.provider));
    shown.fold(error, |error, line| error.evidence(printable(&line, 200))).next_step("name one with --entry")
}

/// The text as one JSON object; what is wrong with it is told by its place, never by its words.
fn token(text: &[u8]) -> Result<&RawValue, CliError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let token: &RawValue =
        serde_json::from_slice(text).map_err(|error| not_a_token_file(error.line(), error.column()))?;
    if token.get().starts_with('{') { Ok(token) } else { Err(not_a_token_file(1, 1)) }
}

fn not_a_token_file(line: usize, column: usize) -> CliError {
    CliError::new(format!("this is no token file: no JSON object at line {line}, column {column}")).next_step(
        "expected {\"access_token\": .., \"refresh_token\": .., \"expires_at\": .., ..}; for many, use --ndjson",
    )
}

/// What became of many.
#[derive(Default)]
struct Tally {
    lines: u64,
    results: BTreeMap<String, u64>,
    failed: u64,
}

fn many(client: &Client, common: &Common, input: Box<dyn Read>, json: bool) -> Result<Exit, CliError> {
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let mut tally = Tally::default();
    loop {
        let batch =
            read_batch(&mut input).map_err(|error| CliError::new(format!("the input cannot be read: {error}")))?;
        if batch.lines == 0 {
            break;
        }
        send(client, common, &batch, &mut tally, json).inspect_err(|_| {
            let next = tally.lines + 1;
            say!("note: nothing is known about the lines from {next} on; importing a line twice does no harm");
        })?;
        tally.lines += batch.lines;
    }
    say!("{}", tally.told());
    Ok(if tally.failed == 0 { Exit::Ok } else { Exit::Error })
}

struct Batch {
    text: Zeroizing<Vec<u8>>,
    lines: u64,
}

/// As many lines as the daemon takes over at once; so it has read them all before it answers.
fn read_batch(input: &mut impl BufRead) -> io::Result<Batch> {
    let mut batch = Batch { text: Zeroizing::new(Vec::new()), lines: 0 };
    while batch.lines < BATCH_LINES_MAX as u64 && batch.text.len() < BATCH_BYTES_MAX {
        if !read_line(input, &mut batch.text)? {
            break;
        }
        batch.lines += 1;
    }
    Ok(batch)
}

/// Reads a line, or says that there is none. A line that the daemon will refuse as too long is cut
/// where that is sure.
fn read_line(input: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    let most = LINE_MAX as u64 + 1;
    let read = input.by_ref().take(most).read_until(b'\n', text)?;
    if read as u64 == most && !text.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        text.push(b'\n');
    }
    Ok(read > 0)
}

/// One line of the answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Failed(ImportFailedJson),
    Done(Box<ImportedJson>),
}

fn send(client: &Client, common: &Common, batch: &Batch, tally: &mut Tally, json: bool) -> Result<(), CliError> {
    let answer = client.send(Request {
        method: "POST",
        target: &listing(&common.namespace),
        body: Some((CONTENT_TYPE, &batch.text)),
        timeout: TIMEOUT,
    })?;
    for line in answer.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let outcome =
            serde_json::from_slice(line).map_err(|_| CliError::new("the daemon's answer is not what was expected"))?;
        tally.take(outcome, json)?;
    }
    Ok(())
}

impl Tally {
    fn take(&mut self, outcome: Outcome, json: bool) -> Result<(), CliError> {
        match outcome {
            Outcome::Done(done) => {
                *self.results.entry(done.result.clone()).or_default() += 1;
                if json { output::write_json_line(&*done) } else { Ok(()) }
            }
            Outcome::Failed(mut failed) => {
                self.failed += 1;
                // The daemon counts the lines of one request, people those of the whole input.
                failed.line += self.lines;
                if json {
                    return output::write_json_line(&failed);
                }
                let name = failed.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
                say_on!("line {}{name}: {}", failed.line, problem_error(&failed.error).report());
                Ok(())
            }
        }
    }

    fn told(&self) -> String {
        let mut parts: Vec<String> = self.results.iter().map(|(result, count)| format!("{count} {result}")).collect();
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        if parts.is_empty() { "nothing to import".to_owned() } else { format!("import: {}", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_taken_as_it_is() {
        assert_eq!(token(b"\xef\xbb\xbf {\"access_token\": 1.0}\n").unwrap().get(), "{\"access_token\": 1.0}");
        for wrong in [&b""[..], b"[]", b"\"hunter2\"", b"{\"access_token\": hunter2}", b"{} {}"] {
            let report = token(wrong).unwrap_err().report();
            assert!(report.contains("no token file") && !report.contains("hunter2"), "{report}");
        }
    }

    #[test]
    fn another_program_s_file_gives_the_entry_that_is_meant() {
        let file = "[a]\ntype = drive\ntoken = {\"access_token\":\"hunter1\"}\n[b]\ntype = box\ntoken = {\"access_token\":\"hunter2\"}\n";
        let given = |entry| plain(Zeroizing::new(file.as_bytes().to_vec()), entry);
        assert_eq!(given(Some("b")).unwrap().as_slice(), b"{\"access_token\":\"hunter2\"}");
        for (entry, exit) in [(None, Exit::Usage), (Some("c"), Exit::NotFound)] {
            let error = given(entry).unwrap_err();
            assert_eq!(error.exit(), exit);
            let report = error.report();
            assert!(report.contains("b (box)") && report.contains("--entry") && !report.contains("hunter"), "{report}");
        }
        let token = Zeroizing::new(b"{\"access_token\":\"x\"}".to_vec());
        assert_eq!(plain(token.clone(), None).unwrap(), token);
        assert_eq!(plain(token, Some("b")).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn the_body_is_what_the_api_reads() {
        let raw = token(b"{\"access_token\": \"a\"}").unwrap();
        let labels = Some(BTreeMap::from([("k", "v")]));
        let body = serde_json::to_vec(&Body { name: "jira", provider: "p", token: raw, labels }).unwrap();
        let import = crate::api::import::read(&body, Some("team")).unwrap();
        assert_eq!(import.key.to_string(), "team/jira");
        assert_eq!(import.token.expose(), "{\"access_token\": \"a\"}");
        assert_eq!(import.labels.unwrap()["k"], "v");
    }

    #[test]
    fn batches_keep_every_line() {
        let text = "{}\n".repeat(BATCH_LINES_MAX) + "last";
        let mut input = text.as_bytes();
        let sizes: Vec<(u64, usize)> =
            (0..3).map(|_| read_batch(&mut input).unwrap()).map(|batch| (batch.lines, batch.text.len())).collect();
        assert_eq!(sizes, [(1_000, 3_000), (1, 4), (0, 0)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_costs_itself_alone() {
        let text = [&vec![b'x'; 3 * LINE_MAX][..], b"\n{}\n"].concat();
        let batch = read_batch(&mut &text[..]).unwrap();
        assert_eq!((batch.lines, batch.text.len()), (2, LINE_MAX + 2 + 3));
        assert!(batch.text.ends_with(b"x\n{}\n"));
    }

    #[test]
    fn results_are_counted_and_lines_numbered_over_batches() {
        let mut tally = Tally { lines: 1_000, ..Tally::default() };
        let read = |text: &str| serde_json::from_str::<Outcome>(text).unwrap();
        tally.take(read(r#"{"name":"a","result":"created"}"#), false).unwrap();
        tally.take(read(r#"{"name":"b","result":"created"}"#), false).unwrap();
        let failed = r#"{"line":7,"error":{"type":"about:blank","title":"Bad Request","status":400,"detail":"no","code":"invalid","next_action":null,"retry_at":null}}"#;
        tally.take(read(failed), false).unwrap();
        assert_eq!(tally.told(), "import: 2 created, 1 failed");
        assert_eq!(Tally::default().told(), "nothing to import");
    }

    #[test]
    fn every_result_is_told() {
        assert_eq!(told("created", "jira"), "imported jira");
        assert!(told("already_used", "jira").contains("nothing was changed"));
    }
}
