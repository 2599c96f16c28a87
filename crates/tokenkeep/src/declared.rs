//! Connections that the configuration declares: of their provider and labels, the file is master.

use crate::config::Declared;
use crate::engine::lock;
use crate::error::Error;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::model::printable;

type Labels = BTreeMap<String, String>;

/// The connections that are declared at this moment.
#[derive(Debug, Default)]
pub(crate) struct DeclaredConnections(Mutex<BTreeMap<ConnectionKey, Declared>>);

impl DeclaredConnections {
    pub(crate) fn new(declared: Vec<Declared>) -> Self {
        let connections = Self::default();
        connections.replace(declared);
        connections
    }

    pub(crate) fn replace(&self, declared: Vec<Declared>) {
        *lock(&self.0) = declared.into_iter().map(|declared| (declared.key.clone(), declared)).collect();
    }

    pub(crate) fn all(&self) -> Vec<Declared> {
        lock(&self.0).values().cloned().collect()
    }

    /// The scopes that a connection is declared with; none where it is not declared.
    pub(crate) fn scopes_of(&self, key: &ConnectionKey) -> Vec<String> {
        lock(&self.0).get(key).map(|declared| declared.scopes.clone()).unwrap_or_default()
    }

    /// Whether somebody may remove this connection.
    pub(crate) fn check_removal(&self, key: &ConnectionKey) -> Result<(), Error> {
        if lock(&self.0).contains_key(key) { Err(Error::Declared(key.clone())) } else { Ok(()) }
    }

    /// The labels of a new grant, with what the file says of its connection.
    pub(crate) fn labels_of(
        &self,
        key: &ConnectionKey,
        provider: &str,
        labels: Option<Labels>,
    ) -> Result<Option<Labels>, Error> {
        let declared = lock(&self.0);
        let Some(declared) = declared.get(key) else { return Ok(labels) };
        let other = |field: &str, found: String, expected: &str| Error::Invalid {
            field: field.to_owned(),
            found,
            expected: format!("{expected}: the configuration declares `{key}`, and is master of it"),
        };
        if provider != declared.provider {
            let found = format!("found `{}`", printable(provider, 60));
            return Err(other("provider", found, &format!("`{}`", declared.provider)));
        }
        if labels.as_ref().is_some_and(|labels| *labels != declared.labels) {
            return Err(other("labels", "found others than declared".to_owned(), "none, or the same"));
        }
        Ok(Some(declared.labels.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("team".to_owned(), name.to_owned())])
    }

    #[test]
    fn the_file_is_master_of_provider_and_labels() {
        let key = ConnectionKey::in_default("jira").unwrap();
        let declared = Declared {
            key: key.clone(),
            provider: "atlassian".to_owned(),
            scopes: Vec::new(),
            labels: team("core"),
            token_files: Vec::new(),
        };
        let connections = DeclaredConnections::new(vec![declared]);
        let asked = |provider, labels: Option<&str>| connections.labels_of(&key, provider, labels.map(team));
        assert_eq!(asked("atlassian", None).unwrap(), Some(team("core")));
        assert!(asked("atlassian", Some("core")).is_ok());
        for (wrong, named) in [(asked("github", None), "`atlassian`"), (asked("atlassian", Some("ops")), "labels")] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("declares `jira`"), "{error}");
        }
        assert!(matches!(connections.check_removal(&key), Err(Error::Declared(_))));

        connections.replace(Vec::new());
        assert_eq!(asked("github", Some("ops")).unwrap(), Some(team("ops")));
        assert!(connections.check_removal(&key).is_ok());
    }
}
