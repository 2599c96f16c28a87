//! What there is in the small Jira: a site with a few projects and some dozens of issues, all from the seed.

use crate::random::keyed;

/// The first issue was created at the beginning of 2026.
const FIRST_CREATED_MS: i64 = 1_767_225_600_000;
const HOUR_MS: u64 = 3_600_000;

/// The number of the first issue, as Jira counts.
const FIRST_ID: u64 = 10_000;

pub(crate) const PROJECTS: [Project; 3] = [
    Project { id: 10_000, key: "TK", name: "Tokenkeep", issues: 24 },
    Project { id: 10_001, key: "OPS", name: "Operations", issues: 18 },
    Project { id: 10_002, key: "WEB", name: "Website", issues: 12 },
];
pub(crate) const STATUSES: [Named; 3] =
    [Named { id: 1, name: "To Do" }, Named { id: 3, name: "In Progress" }, Named { id: 5, name: "Done" }];
pub(crate) const TYPES: [Named; 3] =
    [Named { id: 10_001, name: "Story" }, Named { id: 10_002, name: "Task" }, Named { id: 10_004, name: "Bug" }];
/// From the highest to the lowest.
pub(crate) const PRIORITIES: [Named; 3] =
    [Named { id: 2, name: "High" }, Named { id: 3, name: "Medium" }, Named { id: 4, name: "Low" }];
pub(crate) const PEOPLE: [&str; 3] = ["Ada Lovelace", "Grace Hopper", "Barbara Liskov"];

const DEEDS: [&str; 6] = ["Renew", "Rotate", "Store", "Revoke", "Watch", "Explain"];
const THINGS: [&str; 6] =
    ["the access token", "the refresh token", "the client secret", "the journal", "the schedule", "the consent"];
const PLACES: [&str; 4] = ["after a restart", "behind a proxy", "when the disk is full", "in time"];

/// A project of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Project {
    pub id: u64,
    pub key: &'static str,
    pub name: &'static str,
    issues: u64,
}

/// A value of a field, as Jira names and numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub id: u64,
    pub name: &'static str,
}

/// An issue of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issue {
    pub id: u64,
    /// Its number in its project.
    pub number: u64,
    pub project: Project,
    pub summary: String,
    pub status: Named,
    pub kind: Named,
    /// Its place in [`PRIORITIES`].
    pub priority: usize,
    pub assignee: Option<&'static str>,
    pub created_ms: i64,
    pub updated_ms: i64,
}

impl Issue {
    pub fn key(&self) -> String {
        format!("{}-{}", self.project.key, self.number)
    }

    pub fn priority(&self) -> Named {
        // Proof: it was drawn below the length.
        PRIORITIES.get(self.priority).copied().unwrap_or(PRIORITIES[0])
    }
}

/// The site.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub cloud_id: String,
    /// In the order in which they were created, which is the order of their ids.
    pub issues: Vec<Issue>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let numbered = PROJECTS.into_iter().flat_map(|project| (1..=project.issues).map(move |nth| (project, nth)));
        let issues = numbered.zip(0_u64..).map(|((project, number), nth)| issue(seed, nth, project, number));
        Self { cloud_id: cloud_id(seed), issues: issues.collect() }
    }

    /// The issue with this key or id.
    pub fn issue(&self, key_or_id: &str) -> Option<&Issue> {
        let is_it = |issue: &&Issue| issue.key().eq_ignore_ascii_case(key_or_id) || issue.id.to_string() == key_or_id;
        self.issues.iter().find(is_it)
    }
}

fn issue(seed: u64, nth: u64, project: Project, number: u64) -> Issue {
    let draw = |what: u64, below: usize| keyed(&[seed, nth, what]) as usize % below;
    let word = |what: u64, words: &[&'static str]| words.get(draw(what, words.len())).copied().unwrap_or_default();
    let named = |what: u64, values: [Named; 3]| values[draw(what, values.len())];
    let created_ms = FIRST_CREATED_MS + (nth * 6 * HOUR_MS) as i64;
    let changed_after_ms = draw(8, 20 * 24) as u64 * HOUR_MS;
    Issue {
        id: FIRST_ID + nth,
        number,
        project,
        summary: format!("{} {} {}", word(1, &DEEDS), word(2, &THINGS), word(3, &PLACES)),
        status: named(4, STATUSES),
        kind: named(5, TYPES),
        priority: draw(6, PRIORITIES.len()),
        assignee: PEOPLE.get(draw(7, PEOPLE.len() + 1)).copied(),
        created_ms,
        updated_ms: created_ms + changed_after_ms as i64,
    }
}

/// A number in the form of a UUID, as Atlassian names its sites.
fn cloud_id(seed: u64) -> String {
    let (high, low) = (keyed(&[seed, 1]), keyed(&[seed, 2]));
    let [a, b, c] = [high >> 32, (high >> 16) & 0xffff, high & 0xfff];
    let [d, e] = [(low >> 48) & 0x3fff | 0x8000, low & 0xffff_ffff_ffff];
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_world() {
        let world = World::new(7);
        assert_eq!(world.issues, World::new(7).issues);
        assert_ne!(world.issues, World::new(8).issues);
        assert_ne!(world.cloud_id, World::new(8).cloud_id);
        assert_eq!(world.issues.len(), 54);
        assert_eq!(world.cloud_id.len(), 36);
    }

    #[test]
    fn issues_are_found_by_key_and_by_id() {
        let world = World::new(7);
        let issue = world.issue("ops-3").unwrap();
        assert_eq!(issue.key(), "OPS-3");
        assert_eq!(world.issue(&issue.id.to_string()), Some(issue));
        assert_eq!(world.issue("OPS-99"), None);
    }
}
