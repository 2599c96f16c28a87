//! A daemon that is reached by its URL: what can be told from here.

use super::daemon::{ANSWERS_WITHIN, Alive, clock, readiness};
use super::{Check, Verdict, connections, trail};
use crate::api::json::parse_time;
use crate::api::session::CallerJson;
use crate::cli::Common;
use crate::client::{Client, Request};
use crate::error::CliError;
use crate::output::{now_ms, relative};
use std::time::Duration;
use tokenkeep::access::Scope;

/// A key that ends within this is told of.
const ENDS_SOON: Duration = Duration::from_secs(7 * 86_400);

/// Whether it answers, what the key may do there, and how the connections stand. The state folder is another machine's.
pub fn checks(client: &Client, common: &Common, ask_providers: bool, verify_trail: bool) -> Vec<Check> {
    let alive = Request { method: "GET", target: "/livez", body: None, timeout: ANSWERS_WITHIN };
    let alive: Alive = match client.send(alive).and_then(|answer| answer.json()) {
        Ok(alive) => alive,
        Err(error) => return vec![Check::of_error("address", &error)],
    };
    let times = alive.time().and_then(parse_time).map(|at| (at.as_millis(), now_ms()));
    let mut checks =
        vec![Check::ok("address", "a daemon answers"), readiness(client.get("/readyz").err().as_ref()), clock(times)];
    let caller = client.get("/v1/session").and_then(|answer| answer.json::<CallerJson>());
    checks.push(key(&caller, now_ms()));
    let Ok(caller) = caller else { return checks };
    if may(&caller, Scope::Status) {
        checks.extend(connections::checks(client, &common.namespace, ask_providers));
    } else {
        checks.push(Check::skipped("connections", "the key has no scope `status`"));
    }
    if verify_trail {
        checks.push(trail::check(client));
    }
    checks
}

fn may(caller: &CallerJson, scope: Scope) -> bool {
    [scope, Scope::Admin].iter().any(|scope| caller.scopes.iter().any(|own| own == scope.as_str()))
}

/// Who this command is to the daemon.
fn key(caller: &Result<CallerJson, CliError>, now_ms: i64) -> Check {
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return Check::of_error("API key", error),
    };
    let limit = |noun: &str, patterns: &[String]| match patterns {
        [] => String::new(),
        patterns => format!(", {noun} {}", patterns.join(" ")),
    };
    let may = caller.scopes.join(", ");
    let limits = limit("only namespaces", &caller.namespaces) + &limit("only connections", &caller.names);
    let found = format!("{}: {may}{limits}", caller.actor);
    let Some(end) = caller.expires_at.as_deref() else { return Check::ok("API key", found) };
    let found = format!("{found}; ends {}", relative(Some(end), now_ms));
    let left_ms = parse_time(end).map_or(i64::MAX, |end| end.as_millis() - now_ms);
    if u128::try_from(left_ms).is_ok_and(|left| left > ENDS_SOON.as_millis()) {
        return Check::ok("API key", found);
    }
    let mend = "have another made in time with `tokenkeep api-key create`, and revoke this one".to_owned();
    Check { mend: Some(mend), ..Check::new("API key", Verdict::Note, found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(expires_at: Option<&str>) -> CallerJson {
        CallerJson {
            actor: "key:1f".to_owned(),
            scopes: vec!["status".to_owned(), "token".to_owned()],
            namespaces: Vec::new(),
            names: vec!["jira*".to_owned()],
            expires_at: expires_at.map(str::to_owned),
        }
    }

    #[test]
    fn a_key_that_ends_soon_is_told_of() {
        let now = parse_time("2026-11-23T09:30:00Z").unwrap().as_millis();
        let check = |expires_at| key(&Ok(caller(expires_at)), now);
        assert_eq!(check(None), Check::ok("API key", "key:1f: status, token, only connections jira*"));
        assert_eq!(check(Some("2026-12-23T09:30:00Z")).verdict, Verdict::Ok);
        let soon = check(Some("2026-11-29T10:00:00Z"));
        assert!(soon.verdict == Verdict::Note && soon.found.ends_with("ends in 6d 0h"), "{soon:?}");
        assert_eq!(key(&Err(CliError::new("no").next_step("x")), now).verdict, Verdict::Fault);
        assert!(may(&caller(None), Scope::Token) && !may(&caller(None), Scope::Admin));
    }
}
