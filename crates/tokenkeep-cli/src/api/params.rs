//! What a request gives besides its body: the name in the path, the parameters of the query.

use super::problem::Problem;
use crate::span;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use std::time::Duration;
use tokenkeep::store::PAGE_MAX;
use tokenkeep_core::ConnectionKey;
use tokenkeep_core::model::{DEFAULT_NAMESPACE, check_name, printable};

/// The items on a page unless said otherwise.
pub const PAGE_DEFAULT: usize = 100;

/// The parameters of a query. Each is taken once; what nobody took is unknown, and refused.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query.
    #[must_use]
    pub fn new(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// It is given twice.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(at) = self.0.iter().position(|(given, _)| given == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(at);
        if self.0.iter().any(|(given, _)| given == name) {
            return Err(Problem::invalid(format!("the parameter `{name}` is given twice"), "Give it once."));
        }
        Ok(Some(value))
    }

    /// A parameter that `read` makes something of.
    ///
    /// # Errors
    /// `read` refuses it; the problem names the parameter and what was expected.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name)? else {
            return Ok(None);
        };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::invalid(
                format!("the parameter `{name}` is `{}`", printable(&text, 80)),
                format!("Expected {expected}."),
            )),
        }
    }

    /// A span of time of at most `most`.
    ///
    /// # Errors
    /// It is none, or longer.
    pub fn span(&mut self, name: &str, most: Duration) -> Result<Option<Duration>, Problem> {
        let expected = format!("{}, at most {}", span::EXPECTED, span::show(most));
        self.parsed(name, &expected, |text| span::parse(text).ok().filter(|&span| span <= most))
    }

    /// How many items a page may have.
    ///
    /// # Errors
    /// It is not between 1 and [`PAGE_MAX`].
    pub fn limit(&mut self) -> Result<usize, Problem> {
        let expected = format!("a whole number between 1 and {PAGE_MAX}");
        let limit =
            self.parsed("limit", &expected, |text| text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)))?;
        Ok(limit.unwrap_or(PAGE_DEFAULT))
    }

    /// Where a page starts; an empty one is the beginning.
    ///
    /// # Errors
    /// It is given twice.
    pub fn cursor(&mut self) -> Result<Option<String>, Problem> {
        Ok(self.take("cursor")?.filter(|cursor| !cursor.is_empty()))
    }

    /// A namespace, where one is given.
    ///
    /// # Errors
    /// It is no name.
    pub fn namespace(&mut self) -> Result<Option<String>, Problem> {
        self.parsed("namespace", "a namespace's name", |text| check_name(text).ok().map(|()| text.to_owned()))
    }

    /// The namespace of a query that may have nothing else.
    ///
    /// # Errors
    /// It is no name, or there is something else.
    pub fn only_namespace(query: Option<&str>) -> Result<Option<String>, Problem> {
        let mut params = Params::new(query);
        let namespace = params.namespace()?;
        params.finish()?;
        Ok(namespace)
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// A parameter is unknown; the problem names it.
    pub fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid(
                format!("unknown parameter `{}`", printable(name, 60)),
                "Remove it, or correct its name.",
            )),
        }
    }
}

/// The connection that a path and `?namespace=` name, and the other parameters.
#[derive(Debug)]
pub struct Named {
    /// Which connection.
    pub key: ConnectionKey,
    /// The parameters that are left.
    pub params: Params,
}

impl Named {
    /// The connection alone: no other parameter is known.
    ///
    /// # Errors
    /// There is another parameter.
    pub fn only(self) -> Result<ConnectionKey, Problem> {
        self.params.finish()?;
        Ok(self.key)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|rejection: PathRejection| {
                Problem::invalid(rejection.body_text(), "Encode the connection's name as UTF-8.")
            })?;
        let mut params = Params::new(parts.uri.query());
        let namespace = params.namespace()?;
        let key = key(namespace.as_deref(), &name)?;
        Ok(Self { key, params })
    }
}

/// A connection's full name.
///
/// # Errors
/// It is none.
pub fn key(namespace: Option<&str>, name: &str) -> Result<ConnectionKey, Problem> {
    ConnectionKey::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name)
        .map_err(|error| Problem::invalid(error.to_string(), "Correct the name."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_parameters_are_taken_and_unknown_ones_are_named() {
        let mut params = Params::new(Some("min_ttl=5m&q=a%20b&limit=7&colour=red"));
        assert_eq!(params.span("min_ttl", Duration::from_secs(600)).unwrap(), Some(Duration::from_secs(300)));
        assert_eq!(params.take("q").unwrap().as_deref(), Some("a b"));
        assert_eq!(params.limit().unwrap(), 7);
        let problem = params.finish().unwrap_err();
        assert_eq!((problem.status, &*problem.detail), (400, "unknown parameter `colour`"));
        assert!(Params::new(None).finish().is_ok());
    }

    #[test]
    fn wrong_values_are_named_with_what_was_expected() {
        for (query, named) in [
            ("wait=61", "wait"),
            ("wait=soon", "wait"),
            ("wait=1&wait=2", "wait"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("namespace=a/b", "namespace"),
            ("namespace=", "namespace"),
        ] {
            let mut params = Params::new(Some(query));
            let problem = params
                .span("wait", Duration::from_secs(60))
                .err()
                .or_else(|| params.limit().err())
                .or_else(|| params.namespace().err())
                .unwrap();
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains(&format!("`{named}`")), "{query}: {}", problem.detail);
        }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(key(None, "jira").unwrap().to_string(), "jira");
        assert_eq!(key(Some("team"), "jira").unwrap().to_string(), "team/jira");
        assert_eq!(key(None, "../x").unwrap_err().status, 400);
    }
}
