//! The walls of ARCHITECTURE.md, held by reading the sources: they are absences, so no other test would notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tokenkeep_core::catalogue::PRESETS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Every Rust file below `folder`, with its text up to its unit tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing is in {folder}: the map has changed");
    let text = |path: &Path| {
        let text = fs::read_to_string(path).expect("a source file is text");
        text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
    };
    found.into_iter().map(|path| (path.clone(), text(&path))).collect()
}

/// Where one of `words` stands in code, as `path:line: text`. Comments do not count.
fn places(files: &[(PathBuf, String)], words: &[&str]) -> Vec<String> {
    let mut places = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                places.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    places
}

fn assert_absent(files: &[(PathBuf, String)], words: &[&str], wall: &str) {
    let found = places(files, words);
    assert!(found.is_empty(), "{wall}\n{}", found.join("\n"));
}

fn without(files: Vec<(PathBuf, String)>, parts: &[&str]) -> Vec<(PathBuf, String)> {
    files.into_iter().filter(|(path, _)| !parts.iter().any(|part| path.to_string_lossy().contains(part))).collect()
}

#[test]
fn the_core_never_asks_the_time_opens_anything_or_runs_anything() {
    let words = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant",
        "tokio",
        "async fn",
        "rand::",
        "OnceLock",
        "static mut",
    ];
    assert_absent(&sources("crates/tokenkeep-core/src"), &words, "the core decides; it does nothing");
}

#[test]
fn the_core_depends_on_nothing_that_could() {
    let manifest =
        fs::read_to_string(root().join("crates/tokenkeep-core/Cargo.toml")).expect("the core has a manifest");
    let dependencies =
        manifest.split("[dependencies]").nth(1).and_then(|text| text.split("\n[").next()).unwrap_or_default();
    let names: Vec<&str> =
        dependencies.lines().filter_map(|line| line.split_once(" =").map(|(name, _)| name)).collect();
    assert_eq!(names, ["base64", "form_urlencoded", "serde_json", "zeroize"]);
}

#[test]
fn nothing_that_schedules_sees_a_secret() {
    let files = sources("crates/tokenkeep-core/src");
    let scheduling: Vec<_> =
        files.into_iter().filter(|(path, _)| path.ends_with("schedule.rs") || path.ends_with("model.rs")).collect();
    assert_eq!(scheduling.len(), 2);
    assert_absent(&scheduling, &["Secret", "expose"], "times and states carry no secrets");
    let admission: Vec<_> =
        sources("crates/tokenkeep/src/engine").into_iter().filter(|(path, _)| path.ends_with("admission.rs")).collect();
    assert_absent(&admission, &["expose", "TokenSet", "access_token"], "admission carries no secrets");
}

#[test]
fn the_engine_is_deterministic_when_its_parts_are() {
    let files = sources("crates/tokenkeep/src/engine");
    let words = [
        "HashMap",
        "HashSet",
        "spawn_blocking",
        "SystemTime",
        "std::time::Instant",
        "tokio::time::Instant",
        "rand",
        "std::thread",
        "std::fs",
    ];
    let found: Vec<_> = places(&files, &words).into_iter().filter(|place| !place.contains("operand")).collect();
    assert!(found.is_empty(), "the simulation needs one order of events\n{}", found.join("\n"));
    for (path, text) in &files {
        let (selects, biased) = (text.matches("select! {").count(), text.matches("biased;").count());
        assert_eq!(selects, biased, "{}: a select that is not biased draws its own dice", path.display());
    }
}

#[test]
fn sql_is_only_in_its_store() {
    let files = without(sources("crates"), &["store/sqlite", "/tests/"]);
    let words = ["rusqlite", "\"SELECT ", "\"UPDATE ", "\"INSERT ", "\"DELETE FROM", "\"PRAGMA"];
    assert_absent(&files, &words, "SQL stands only in store/sqlite");
}

#[test]
fn the_api_s_json_is_only_in_its_room() {
    let files =
        without(sources("crates/tokenkeep-cli/src"), &["/api/", "/config", "/commands/", "/client", "output.rs"]);
    assert_absent(&files, &["derive(Serialize", "derive(Deserialize"], "the API's JSON stands in api/");
    let library = without(sources("crates/tokenkeep/src"), &["store/record.rs"]);
    assert_absent(&library, &["derive(Serialize", "derive(Deserialize"], "the stored form stands in store/record.rs");
    assert_absent(
        &sources("crates/tokenkeep-core/src"),
        &["serde::", "derive(Serialize"],
        "the model has no stored form",
    );
}

#[test]
fn every_environment_variable_is_declared_in_one_file() {
    // The library reads the variable that its caller names as the source of the master key.
    let exempt =
        ["tokenkeep-cli/src/env.rs", "tokenkeep/src/keys.rs", "/tests/", "/tests.rs", "_tests.rs", "conformance"];
    let files = without(sources("crates"), &exempt);
    assert_absent(&files, &["env::var", "env::vars", "var_os("], "only env.rs reads the environment");
    let named_here = |place: &String| place.contains("arg(") && !place.contains("env = env::");
    let stray: Vec<_> = places(&files, &["env = "]).into_iter().filter(named_here).collect();
    assert!(stray.is_empty(), "a flag's variable has its name from env.rs: {stray:#?}");
}

#[test]
fn imports_go_one_way() {
    assert_absent(
        &sources("crates/tokenkeep-core/src"),
        &["tokenkeep::", "tokenkeep_mock"],
        "the core imports nothing of ours",
    );
    assert_absent(&sources("crates/tokenkeep/src"), &["tokenkeep_mock", "tokenkeep_cli"], "the library ships no mock");
    assert_absent(&sources("crates/tokenkeep-mock/src"), &["tokenkeep::", "tokenkeep_core"], "the mock stands alone");
    let cli = without(sources("crates/tokenkeep-cli/src"), &["demo", "mock_provider", "cli.rs"]);
    assert_absent(&cli, &["tokenkeep_mock"], "only two commands, and their flags, use the mock");
}

#[test]
fn secrets_are_shown_only_where_they_must_be() {
    let shows =
        places(&without(sources("crates"), &["tokenkeep-mock", "/tests", "_tests.rs", "conformance"]), &[".expose()"]);
    let allowed = [
        "tokenkeep-core/src/secret.rs",
        "tokenkeep-core/src/oauth/",
        "tokenkeep/src/access.rs",
        "tokenkeep/src/connect/",
        "tokenkeep/src/endpoint/",
        "tokenkeep/src/seal.rs",
        "tokenkeep/src/keys.rs",
        "tokenkeep/src/token_file/",
        "tokenkeep/src/keep.rs",
        "tokenkeep/src/store/",
        "tokenkeep-cli/src/api/",
        "tokenkeep-cli/src/config",
        "tokenkeep-cli/src/client/",
        "tokenkeep-cli/src/commands/",
    ];
    let stray: Vec<_> = shows.iter().filter(|place| !allowed.iter().any(|room| place.contains(room))).collect();
    assert!(stray.is_empty(), "a secret is exposed outside the rooms that must: {stray:#?}");
}

#[test]
fn the_architecture_stays_short_and_true() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    assert!(text.lines().count() <= 190, "ARCHITECTURE.md has {} lines", text.lines().count());
    for word in text.split(|c: char| c.is_whitespace() || "()`,;".contains(c)) {
        if (word.starts_with("crates/") || word.starts_with("tests/")) && !word.contains('*') {
            let path = word.trim_end_matches(['.', ':']);
            assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}, which is not there");
        }
    }
}

/// The tests of a source file, by name.
fn tests_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let name = |pair: &[&str]| {
        let is_test = pair[0] == "#[test]" || pair[0].starts_with("#[tokio::test");
        let (_, after) = pair[1].split_once("fn ").filter(|_| is_test)?;
        after.split('(').next().map(str::to_owned)
    };
    lines.windows(2).filter_map(name).collect()
}

/// The cells of each row of the tables in a section of a document.
fn rows(document: &str, section: &str) -> Vec<Vec<String>> {
    let (_, rest) = document.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    section.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect()
}

#[test]
fn every_quirk_is_a_named_test() {
    let document = fs::read_to_string(root().join("docs/quirks.md")).expect("docs/quirks.md is there");
    let plain = |cell: &str| cell.trim_matches('`').to_owned();
    let files: BTreeMap<String, BTreeSet<String>> = rows(&document, "Where the tests are")
        .iter()
        .map(|row| (plain(&row[0]), tests_of(&root().join(plain(&row[1])))))
        .collect();
    let survived = rows(&document, "What clients must survive");
    let noted = rows(&document, "What the catalogue notes about each provider");

    let mut named = BTreeSet::new();
    for row in survived.iter().chain(&noted) {
        let [what, _, tests] = &row[..] else { panic!("a row has three cells: {row:?}") };
        for test in tests.split(", ").filter(|&test| test != "told") {
            let (file, name) = test.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("{what}: {test}"));
            let known = files.get(file).unwrap_or_else(|| panic!("{what}: no file is called {file}"));
            assert!(known.contains(name), "{what}: {file} has no test {name}");
            named.insert((file.to_owned(), name.to_owned()));
        }
    }
    for number in 1..=10 {
        let is_there = survived.iter().any(|row| row[0].starts_with(&format!("{number}. ")) && row[2] != "told");
        assert!(is_there, "quirk {number} has no test");
    }
    for (file, tests) in &files {
        let by_quirk = |name: &&String| name.starts_with("quirk_") || name.starts_with("atlassian_");
        // The mock's own tests are about the mock.
        for name in tests.iter().filter(by_quirk).filter(|_| file != "mock") {
            assert!(named.contains(&(file.clone(), name.clone())), "docs/quirks.md does not name {file}::{name}");
        }
    }
    let catalogue: BTreeSet<(&str, &str)> =
        PRESETS.iter().flat_map(|preset| preset.notes.iter().map(|note| (preset.id, *note))).collect();
    let written: BTreeSet<(&str, &str)> = noted.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let off: Vec<_> = written.symmetric_difference(&catalogue).collect();
    assert!(off.is_empty(), "docs/quirks.md has each note of the catalogue, word by word, and no other: {off:#?}");
}
