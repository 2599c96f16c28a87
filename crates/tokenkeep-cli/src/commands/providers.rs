//! `tokenkeep providers`: the catalogue.

use crate::error::{CliError, Exit};
use crate::{output, span, suggest};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;
use tokenkeep_core::provider::{Preset, presets};

/// Of `providers`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep providers
  tokenkeep providers atlassian")]
pub struct ProvidersArgs {
    /// One of them, in detail
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A row of the catalogue.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    token_url: &'static str,
    rotation: String,
    client_auth: &'static str,
    access_life_s: Option<u64>,
    idle_life_s: Option<u64>,
    absolute_life_s: Option<u64>,
    source: &'static str,
}

/// Prints the catalogue, or one row of it.
///
/// # Errors
/// There is no such row.
pub fn run(args: &ProvidersArgs) -> Result<Exit, CliError> {
    let mut rows: Vec<Row> = presets().iter().map(row).collect();
    if let Some(name) = &args.name {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        if !names.contains(&name.as_str()) {
            return Err(unknown(name, &names));
        }
        rows.retain(|row| row.name == name);
    }
    match (args.json, &args.name) {
        (true, _) => output::write_json(&rows)?,
        (false, None) => output::write(&table(&rows))?,
        (false, Some(_)) => output::write(&rows.iter().map(detail).collect::<String>())?,
    }
    Ok(Exit::Ok)
}

fn unknown(name: &str, names: &[&str]) -> CliError {
    let error = CliError::with_exit(Exit::NotFound, format!("the catalogue has no provider `{name}`"));
    match suggest::nearest(name, names.iter().copied()) {
        Some(meant) => error.next_step(format!("did you mean `{meant}`?")),
        None => error.next_step("any other provider is configured by its token_url; no catalogue row is needed"),
    }
}

fn row(preset: &Preset) -> Row {
    let rules = &preset.rules;
    let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
    Row {
        name: preset.id,
        token_url: preset.token_url,
        rotation: rules.rotation.to_string(),
        client_auth: rules.client_auth.as_str(),
        access_life_s: seconds(rules.access_life),
        idle_life_s: seconds(rules.idle_life),
        absolute_life_s: seconds(rules.absolute_life),
        source: preset.source,
    }
}

fn life(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| span::show(Duration::from_secs(seconds)))
}

fn table(rows: &[Row]) -> String {
    let mut table = output::table(&["NAME", "ROTATION", "ACCESS", "IDLE", "ABSOLUTE", "TOKEN URL"]);
    for row in rows {
        table.add_row([
            row.name.to_owned(),
            row.rotation.clone(),
            life(row.access_life_s),
            life(row.idle_life_s),
            life(row.absolute_life_s),
            row.token_url.to_owned(),
        ]);
    }
    output::text_of(&table)
}

fn detail(row: &Row) -> String {
    let mut text = String::new();
    for (title, value) in [
        ("name", row.name),
        ("token_url", row.token_url),
        ("rotation", &row.rotation),
        ("client_auth", row.client_auth),
        ("access life", &life(row.access_life_s)),
        ("idle life", &life(row.idle_life_s)),
        ("absolute life", &life(row.absolute_life_s)),
        ("source", row.source),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{title:<16}{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_a_row() {
        let rows: Vec<Row> = presets().iter().map(row).collect();
        let text = table(&rows);
        assert!(text.lines().count() == rows.len() + 1 && text.contains("grace:600"), "{text}");
        assert!(detail(&rows[0]).contains("source"), "{}", detail(&rows[0]));
    }

    #[test]
    fn an_unknown_row_is_not_found() {
        let error = unknown("atlasian", &["atlassian"]);
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.report().contains("did you mean `atlassian`?"));
    }
}
