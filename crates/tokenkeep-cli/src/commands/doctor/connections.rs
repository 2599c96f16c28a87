//! The connections that want attention.

use super::{Check, Verdict};
use crate::api::json::{ConnectionJson, Page, SummaryJson};
use crate::cli::{listing, shown, target};
use crate::client::{Client, encode};
use crate::error::CliError;
use tokenkeep_core::model::Status;

/// The most connections that are told of one by one; `tokenkeep list` has the rest.
const TOLD_MAX: usize = 20;
/// What somebody must see to.
const FAULTS: [Status; 4] = [Status::NeedsReauth, Status::Held, Status::InDoubt, Status::Expired];
/// What passes by itself, or is somebody's wish.
const NOTES: [Status; 2] = [Status::Retrying, Status::Paused];

/// The counts, and each that is not well.
pub fn checks(client: &Client, namespace: &str, ask_providers: bool) -> Vec<Check> {
    let mut checks = look(client, namespace).unwrap_or_else(|error| vec![Check::of_error("connections", &error)]);
    if ask_providers {
        checks.extend(
            introspected(client, namespace).unwrap_or_else(|error| vec![Check::of_error("introspection", &error)]),
        );
    }
    checks
}

/// What providers that can be asked say about the access tokens of the first fresh connections.
fn introspected(client: &Client, namespace: &str) -> Result<Vec<Check>, CliError> {
    let target = format!("{}&status=fresh&limit={TOLD_MAX}", listing(namespace));
    let page: Page<ConnectionJson> = client.get(&target)?.json()?;
    Ok(page.items.iter().filter_map(|connection| introspection(client, connection)).collect())
}

/// `None`: the provider has no such endpoint.
fn introspection(client: &Client, connection: &ConnectionJson) -> Option<Check> {
    let name = shown(&connection.namespace, &connection.name);
    let title = format!("token of {name}");
    let asked = client.post(&target(&connection.namespace, &connection.name, "/introspect"));
    match asked.and_then(|answer| answer.json::<Introspected>()) {
        Ok(Introspected { active: Some(true) }) => Some(Check::ok(title, "its provider calls it good")),
        Ok(Introspected { active: Some(false) }) => {
            let mend =
                format!("`tokenkeep refresh {name}`; if that does not help, sign in again: `tokenkeep connect {name}`");
            Some(Check::fault(title, "its provider does not call it good", mend))
        }
        Ok(Introspected { active: None }) => None,
        Err(error) if error.cause().contains("introspect_url") => None,
        Err(error) => Some(Check::of_error(title, &error)),
    }
}

#[derive(serde::Deserialize)]
struct Introspected {
    active: Option<bool>,
}

fn look(client: &Client, namespace: &str) -> Result<Vec<Check>, CliError> {
    let summary: SummaryJson = client.get(&format!("/v1/summary?namespace={}", encode(namespace)))?.json()?;
    let mut checks = vec![counts(&summary)];
    for statuses in [&FAULTS[..], &NOTES] {
        let names: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
        let target = format!("{}&status={}&limit={TOLD_MAX}", listing(namespace), names.join(","));
        let page: Page<ConnectionJson> = client.get(&target)?.json()?;
        checks.extend(page.items.iter().map(one));
    }
    Ok(checks)
}

/// Where there are more than are told of, the counts are what says so.
fn counts(summary: &SummaryJson) -> Check {
    let of = |statuses: &[Status]| statuses.iter().filter_map(|s| summary.by_status.get(s.as_str())).sum::<u64>();
    let (faults, notes) = (of(&FAULTS), of(&NOTES));
    let found = format!("{}: {faults} need attention, {notes} are paused or being retried", summary.total);
    let verdict = if faults > 0 { Verdict::Fault } else { Verdict::Ok };
    let more = faults.max(notes) > TOLD_MAX as u64;
    let mend = more.then(|| {
        format!(
            "the first {TOLD_MAX} of each kind are told of here; `tokenkeep list --status needs_reauth,held` has all"
        )
    });
    Check { mend, ..Check::new("connections", verdict, found) }
}

fn one(connection: &ConnectionJson) -> Check {
    let is_fault = FAULTS.iter().any(|status| status.as_str() == connection.status);
    let verdict = if is_fault { Verdict::Fault } else { Verdict::Note };
    let name = shown(&connection.namespace, &connection.name);
    let (cause, mend) = match &connection.last_error {
        Some(error) => (format!(": {}", error.message), error.next_action.clone()),
        None if connection.status == Status::Paused.as_str() => {
            (String::new(), format!("`tokenkeep resume {}` when it is to be refreshed again", connection.name))
        }
        None => (String::new(), format!("`tokenkeep events {}` shows how it came to this", connection.name)),
    };
    Check { mend: Some(mend), ..Check::new(name, verdict, format!("{}{cause}", connection.status)) }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::with_status;
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_needs_somebody_is_a_fault_and_a_pause_is_not() {
        assert_eq!(one(&with_status("needs_reauth")).verdict, Verdict::Fault);
        let paused = one(&ConnectionJson { last_error: None, ..with_status("paused") });
        assert!(paused.verdict == Verdict::Note && paused.mend.unwrap().contains("tokenkeep resume jira"));
    }

    #[test]
    fn more_than_are_told_of_is_said() {
        let summary = |faults| SummaryJson {
            master_key_rotation: None,
            total: 100,
            by_status: BTreeMap::from([("held".to_owned(), faults), ("fresh".to_owned(), 1)]),
            next_refresh_at: None,
            earliest_expiry_at: None,
        };
        assert_eq!(counts(&summary(0)).verdict, Verdict::Ok);
        assert_eq!((counts(&summary(20)).verdict, counts(&summary(20)).mend), (Verdict::Fault, None));
        assert!(counts(&summary(21)).mend.unwrap().contains("tokenkeep list"));
    }
}
