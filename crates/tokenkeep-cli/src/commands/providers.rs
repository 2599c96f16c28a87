//! `tokenkeep providers`: the catalogue.

use crate::api::providers::PresetJson;
use crate::error::{CliError, Exit};
use crate::{output, span, suggest};
use clap::Args;
use std::fmt::Write as _;
use std::time::Duration;
use tokenkeep_core::catalogue::{PRESETS, preset};

/// Of `providers`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep providers
  tokenkeep providers atlassian
  tokenkeep providers --json | jq -r '.[] | select(.rotation == \"strict\") | .name'

A row is used by `preset = \"NAME\"` in the configuration, where each of its facts can be overridden.")]
pub struct ProvidersArgs {
    /// One of them, in detail
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the catalogue, or one row of it.
///
/// # Errors
/// There is no such row.
pub fn run(args: &ProvidersArgs) -> Result<Exit, CliError> {
    let Some(name) = &args.name else {
        let rows: Vec<PresetJson> = PRESETS.iter().map(PresetJson::new).collect();
        if args.json {
            output::write_json(&rows)?
        } else {
            output::write(&table(&rows))?
        }
        return Ok(Exit::Ok);
    };
    let found = preset(name).map(PresetJson::new).ok_or_else(|| unknown(name))?;
    // An array in each case, so that one filter serves both.
    if args.json {
        output::write_json(&[found])?
    } else {
        output::write(&detail(&found))?
    }
    Ok(Exit::Ok)
}

fn unknown(name: &str) -> CliError {
    let name = tokenkeep_core::model::printable(name, 60);
    let error = CliError::with_exit(Exit::NotFound, format!("the catalogue has no provider `{name}`"));
    match suggest::nearest(&name, PRESETS.iter().map(|preset| preset.id)) {
        Some(meant) => error.next_step(format!("did you mean `{meant}`?")),
        None => error.next_step("any other provider is configured by its token_url; no catalogue row is needed"),
    }
}

fn life(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| span::show(Duration::from_secs(seconds)))
}

fn table(rows: &[PresetJson]) -> String {
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

fn detail(row: &PresetJson) -> String {
    let facts = [
        ("name", row.name.to_owned()),
        ("title", row.title.to_owned()),
        ("token_url", row.token_url.to_owned()),
        ("refresh_url", row.refresh_url.unwrap_or_default().to_owned()),
        ("authorize_url", row.authorize_url.to_owned()),
        ("revoke_url", row.revoke_url.unwrap_or_default().to_owned()),
        ("device_url", row.device_url.unwrap_or_default().to_owned()),
        ("parameters", row.parameters.join(", ")),
        ("rotation", row.rotation.clone()),
        ("client_auth", row.client_auth.join(", ")),
        ("offline_scopes", row.offline_scopes.join(" ")),
        ("access_life", life(row.access_life_s)),
        ("idle_life", life(row.idle_life_s)),
        ("absolute_life", life(row.absolute_life_s)),
        ("one_grant", if row.one_grant { "for all sign-ins of an account".to_owned() } else { String::new() }),
        ("api_hosts", row.api_hosts.join(", ")),
    ];
    let mut text = String::new();
    for (title, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let doubt = if row.unverified.contains(title) { "   (unverified)" } else { "" };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{title:<16}{value}{doubt}");
    }
    let others: Vec<&str> = row
        .unverified
        .iter()
        .copied()
        .filter(|fact| facts.iter().all(|(title, value)| title != fact || value.is_empty()))
        .collect();
    if !others.is_empty() {
        let _ = writeln!(text, "{:<16}{}", "also unverified", others.join(", "));
    }
    for (title, lines) in
        [("notes", row.notes.iter().map(|note| (*note).to_owned()).collect()), ("sources", row.sources.clone())]
    {
        let _ = writeln!(text, "\n{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    let _ = writeln!(text, "\ncompared with its sources in {}", row.checked);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let rows: Vec<PresetJson> = PRESETS.iter().map(PresetJson::new).collect();
        let text = table(&rows);
        assert!(text.lines().count() == rows.len() + 1 && text.contains("grace:600"), "{text}");
    }

    #[test]
    fn a_row_marks_what_nobody_has_verified() {
        let of = |id: &str| detail(&PresetJson::new(tokenkeep_core::catalogue::preset(id).unwrap()));
        let zoom = of("zoom");
        assert!(zoom.contains("https://zoom.us/oauth/revoke   (unverified)"), "{zoom}");
        assert!(zoom.contains("(vendor)") && zoom.contains("compared with its sources in"), "{zoom}");
        let atlassian = of("atlassian");
        assert!(atlassian.contains("also unverified revoke_url, device_url"), "{atlassian}");
        assert!(!atlassian.contains("(unverified)"), "{atlassian}");
    }

    #[test]
    fn an_unknown_row_is_not_found() {
        let error = unknown("atlasian");
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.report().contains("did you mean `atlassian`?"));
    }
}
