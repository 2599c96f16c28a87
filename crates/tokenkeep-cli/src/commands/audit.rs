//! `tokenkeep audit`: who did what.

use super::client;
use crate::api::audit::RecordJson;
use crate::api::json::Page;
use crate::cli::Common;
use crate::error::{CliError, Exit};
use crate::output::{self, Column, Field, say};
use clap::Args;
use tokenkeep::audit::PAGE_MAX;
use tokenkeep_core::model::printable;

/// Of `audit`.
#[derive(Args, Debug)]
#[command(before_help = "Examples:
  tokenkeep audit
  tokenkeep audit --json > audit.ndjson                              everything, a line each
  tokenkeep audit --json --after \"$(tail -n 1 audit.ndjson | jq .id)\" >> audit.ndjson
  tokenkeep doctor --audit                                           whether it is whole

WHO is uid:N (by the socket), key:ID (an API key), session:ID (a browser), system or anonymous. OUTCOME is the HTTP status;
of what is counted rather than written one by one (token.read, status.read, request.refused) it is how often.")]
pub struct AuditArgs {
    /// Only records behind the one of this number
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub after: u64,
    /// A line of JSON for each record, with its link in the chain
    #[arg(long)]
    pub json: bool,
}

/// Prints records, oldest first, a page at a time: the trail may be long.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(common: &Common, args: &AuditArgs) -> Result<Exit, CliError> {
    let client = client(common)?;
    let (mut after, mut told) = (args.after, 0);
    loop {
        let target = format!("/v1/audit?after={after}&limit={PAGE_MAX}");
        let page: Page<RecordJson> = client.get(&target)?.json()?;
        told += page.items.len();
        match (args.json, page.items.as_slice()) {
            (true, records) => records.iter().try_for_each(output::write_json_line)?,
            (false, []) => {}
            (false, records) => output::write(&table(records))?,
        }
        match page.items.last() {
            Some(last) if page.next_cursor.is_some() => after = last.id,
            _ => break,
        }
    }
    if told == 0 && !args.json {
        say!("no records");
    }
    Ok(Exit::Ok)
}

/// The columns of [`table`].
const COLUMNS: [Column; 6] = [
    Column { title: "NUMBER", expendable: 0 },
    Column { title: "AT", expendable: 0 },
    Column { title: "WHO", expendable: 0 },
    Column { title: "WHAT", expendable: 0 },
    Column { title: "TO", expendable: 0 },
    Column { title: "OUTCOME", expendable: 0 },
];

/// Whole, however long its lines are: a record that is cut proves nothing.
fn table(records: &[RecordJson]) -> String {
    let row = |record: &RecordJson| {
        let target = record.target.as_deref().map_or_else(|| "-".to_owned(), |target| printable(target, 200));
        let fields = [
            record.id.to_string(),
            record.at.clone().unwrap_or_else(|| "-".to_owned()),
            printable(&record.actor, 100),
            printable(&record.action, 200),
            target,
            record.outcome.to_string(),
        ];
        fields.map(Field::Text).to_vec()
    };
    let rows: Vec<Vec<Field>> = records.iter().map(row).collect();
    output::fitted(&COLUMNS, &rows, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_did_what() {
        let record = RecordJson {
            id: 7,
            at: Some("2026-11-23T10:00:00.000Z".to_owned()),
            actor: "key:1f".to_owned(),
            action: "POST /v1/connections/{name}/refresh".to_owned(),
            target: Some("jira".to_owned()),
            outcome: 200,
            tag: "00".to_owned(),
        };
        let other = RecordJson { id: 8, target: None, action: "a\u{1b}[31m".to_owned(), ..record.clone() };
        let text = table(&[record, other]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "7       2026-11-23T10:00:00.000Z  key:1f  POST /v1/connections/{name}/refresh  jira  200"
        );
        assert!(!text.contains('\u{1b}') && lines[2].ends_with("  -     200"), "{text}");
    }
}
