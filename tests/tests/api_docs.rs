//! docs/api.md: every example, run in the order of the page against a real daemon, answers what the page states; and every
//! route of docs/openapi.json has one.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokenkeep_tests::daemon::binary;
use tokenkeep_tests::process::Running;

/// The whole page takes less than this, even on a busy machine.
const LASTS_AT_MOST: Duration = Duration::from_secs(120);
/// What `timeout` needs to end everything that the lines have started.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What stands in place of curl: what is asked of the daemon is noted with its status. A stream that was told to end by
/// `--max-time` has not failed.
const CURL: &str = r#"
curl() {
    case "$*" in
        *--unix-socket*|*"localhost:$api_port/"*)
            command curl -w '%{stderr}\n@asked %{method} %{url_effective} %{http_code}\n' "$@" 2>> "$noted" || [ $? = 28 ] ;;
        *) command curl "$@" ;;
    esac
}
"#;

/// A fenced block. Those without a route make ready or tidy up.
#[derive(Debug)]
struct Block {
    text: String,
    example: Option<Example>,
}

/// `# METHOD /path/{name} -> STATUS`, the first line of a block.
#[derive(Debug)]
struct Example {
    method: String,
    path: String,
    status: String,
}

#[test]
fn every_route_has_an_example() {
    let described: BTreeSet<String> = blocks()
        .iter()
        .filter_map(|block| block.example.as_ref())
        .map(|e| format!("{} {}", e.method, e.path))
        .collect();
    let document: Value = serde_json::from_str(&read("docs/openapi.json")).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("the document has paths");
    let routes: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path has operations").keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let missing: Vec<_> = routes.difference(&described).collect();
    assert!(missing.is_empty(), "docs/api.md has no example of {missing:?}");
    let unknown: Vec<_> = described.difference(&routes).collect();
    assert!(unknown.is_empty(), "docs/api.md describes what there is not: {unknown:?}");
    let page = read("docs/api.md");
    let headed: BTreeSet<String> = page.lines().filter_map(|line| line.strip_prefix("### ")).flat_map(headed).collect();
    assert_eq!(headed, routes, "the headings of docs/api.md");
}

#[test]
fn every_example_answers_what_the_page_states() {
    let blocks = blocks();
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let noted = folder.path().join("noted");
    let ran = run(&blocks, &noted);
    let noted = fs::read_to_string(&noted).expect("something was asked");
    let mut parts = noted.split("@block\n").skip(1);
    for block in &blocks {
        let part = parts.next().unwrap_or_else(|| panic!("it never came to\n{}\n{ran:#?}", block.text));
        let Some(example) = &block.example else { continue };
        let asked: Vec<&str> = part.lines().filter_map(|line| line.strip_prefix("@asked ")).collect();
        let [asked] = asked[..] else { panic!("not one request:\n{}\n{part}\n{ran:#?}", block.text) };
        let mut words = asked.split(' ');
        let (method, url, status) = (words.next(), words.next().unwrap_or_default(), words.next());
        assert_eq!(method, Some(&*example.method), "{}", block.text);
        assert!(is_of(url, &example.path), "{url} is none of {}", example.path);
        assert_eq!(status, Some(&*example.status), "{}\n{ran:#?}", block.text);
    }
    ran.expect_code(0);
}

#[test]
fn a_url_is_held_against_its_route() {
    assert!(is_of("http://localhost/v1/connections/jira/token?wait=1s", "/v1/connections/{name}/token"));
    assert!(!is_of("http://localhost/v1/connections/jira", "/v1/connections/{name}/token"));
    assert!(!is_of("http://localhost/v1/events", "/v1/summary"));
    assert!(is_of("http://localhost/v1/connections/jira/proxy/rest/api", "/v1/connections/{name}/proxy/{path}"));
    assert!(!is_of("http://localhost/v1/connections/jira/proxy", "/v1/connections/{name}/proxy/{path}"));
}

/// The routes of a heading: `GET, POST /path` are two.
fn headed(heading: &str) -> Vec<String> {
    let (methods, path) = heading.trim_matches('`').split_once(" /").unwrap_or_else(|| panic!("no route: {heading}"));
    methods.split(", ").map(|method| format!("{method} /{path}")).collect()
}

fn is_of(url: &str, template: &str) -> bool {
    let path = url.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("http://").and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
    let template = template.trim_start_matches('/');
    let takes_rest = template.ends_with("/{path}");
    let (found, wanted) = (path.split('/').count(), template.split('/').count());
    (found == wanted || takes_rest && found > wanted)
        && path.split('/').zip(template.split('/')).all(|(found, wanted)| wanted.starts_with('{') || found == wanted)
}

fn run(blocks: &[Block], noted: &Path) -> tokenkeep_tests::process::Ran {
    let mut script = format!("exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{CURL}");
    for block in blocks {
        script += &format!("echo @block >> \"$noted\"\n{}\necho\n", block.text);
    }
    let binary = binary();
    let folder = binary.parent().expect("a binary lies in a folder").display().to_string();
    let mut command = Command::new("timeout");
    command.args([&LASTS_AT_MOST.as_secs().to_string(), "bash", "-e", "-c", &script]);
    command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()));
    let (port, api_port) = (free_port(), free_port());
    command.env("port", port).env("api_port", api_port).env("noted", noted).env("NO_COLOR", "1");
    Running::start(command, Some(b"")).finish(LASTS_AT_MOST + ENDS_WITHIN)
}

fn blocks() -> Vec<Block> {
    let page = read("docs/api.md");
    let fenced = page.split("\n```sh\n").skip(1).map(|rest| rest.split_once("\n```").expect("a block ends").0);
    fenced.map(|text| Block { text: text.to_owned(), example: example(text) }).collect()
}

fn example(block: &str) -> Option<Example> {
    let line = block.lines().next()?.strip_prefix("# ")?;
    let (route, status) = line.split_once(" -> ").unwrap_or_else(|| panic!("not `# METHOD /path -> STATUS`: {line}"));
    let (method, path) = route.split_once(' ').unwrap_or_else(|| panic!("no route: {line}"));
    Some(Example { method: method.to_owned(), path: path.to_owned(), status: status.to_owned() })
}

fn read(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn free_port() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("the listener is bound").port().to_string()
}
