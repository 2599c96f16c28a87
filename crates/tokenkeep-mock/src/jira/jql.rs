//! As much of JQL as people try first: conditions joined by `AND`, and `ORDER BY`. Anything else is refused by name.

use std::cmp::Ordering;

use super::world::{Issue, PEOPLE, PRIORITIES, PROJECTS, STATUSES, TYPES};

/// The longest query.
const JQL_BYTES_MAX: usize = 10_000;

const DAY_MS: i64 = 86_400_000;

/// A query that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    conditions: Vec<Condition>,
    order: Vec<(Field, Direction)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Project,
    Key,
    Status,
    Type,
    Priority,
    Assignee,
    Summary,
    Created,
    Updated,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// The field has one of these values, or, where negated, none of them. No value stands for an empty field.
    Among { field: Field, values: Vec<Option<String>>, negated: bool },
    /// The summary contains this, in lower case.
    Contains { part: String, negated: bool },
    /// The time lies so.
    Time { field: Field, comparison: Comparison, at_ms: i64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Before,
    NotAfter,
    After,
    NotBefore,
}

impl Query {
    /// Reads a query. The time is what `-7d` counts from.
    ///
    /// # Errors
    /// What Jira would say, or what of JQL is not known here.
    pub fn read(text: &str, now_ms: i64) -> Result<Self, String> {
        if text.len() > JQL_BYTES_MAX {
            return Err(format!("The JQL query is longer than {JQL_BYTES_MAX} bytes."));
        }
        Reader { tokens: tokens(text)?.into(), now_ms }.query()
    }

    /// Whether it asks for every issue there is.
    pub fn is_unbounded(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The issues that it asks for, in its order; the newest first where it has none.
    pub fn run<'a>(&self, issues: &'a [Issue]) -> Vec<&'a Issue> {
        let mut found: Vec<&Issue> = issues
            .iter()
            .rev()
            .filter(|issue| self.conditions.iter().all(|condition| condition.holds(issue)))
            .collect();
        found.sort_by(|a, b| {
            let by = |&(field, direction): &(Field, Direction)| match direction {
                Direction::Ascending => field.compare(a, b),
                Direction::Descending => field.compare(b, a),
            };
            self.order.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        found
    }
}

impl Field {
    fn named(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "project" => Ok(Field::Project),
            "key" | "issuekey" | "issue" | "id" => Ok(Field::Key),
            "status" => Ok(Field::Status),
            "type" | "issuetype" => Ok(Field::Type),
            "priority" => Ok(Field::Priority),
            "assignee" => Ok(Field::Assignee),
            "summary" | "text" => Ok(Field::Summary),
            "created" | "createddate" => Ok(Field::Created),
            "updated" | "updateddate" => Ok(Field::Updated),
            _ => Err(format!("Field '{name}' does not exist or you do not have permission to view it.")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Project => "project",
            Field::Key => "key",
            Field::Status => "status",
            Field::Type => "issuetype",
            Field::Priority => "priority",
            Field::Assignee => "assignee",
            Field::Summary => "summary",
            Field::Created => "created",
            Field::Updated => "updated",
        }
    }

    /// Whether some issue could have this value: Jira refuses a query that names an unknown one.
    fn knows(self, value: &str) -> bool {
        let is = |other: &str| other.eq_ignore_ascii_case(value);
        match self {
            Field::Project => PROJECTS.iter().any(|p| is(p.key) || is(p.name) || is(&p.id.to_string())),
            Field::Status => STATUSES.iter().any(|status| is(status.name)),
            Field::Type => TYPES.iter().any(|kind| is(kind.name)),
            Field::Priority => PRIORITIES.iter().any(|priority| is(priority.name)),
            Field::Assignee => PEOPLE.iter().any(|person| is(person)),
            _ => true,
        }
    }

    fn has(self, issue: &Issue, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return self == Field::Assignee && issue.assignee.is_none();
        };
        let is = |other: &str| other.eq_ignore_ascii_case(value);
        match self {
            Field::Project => is(issue.project.key) || is(issue.project.name) || is(&issue.project.id.to_string()),
            Field::Key => is(&issue.key()) || is(&issue.id.to_string()),
            Field::Status => is(issue.status.name),
            Field::Type => is(issue.kind.name),
            Field::Priority => is(issue.priority().name),
            Field::Assignee => issue.assignee.is_some_and(is),
            Field::Summary | Field::Created | Field::Updated => false,
        }
    }

    fn time(self, issue: &Issue) -> i64 {
        if self == Field::Updated { issue.updated_ms } else { issue.created_ms }
    }

    fn compare(self, a: &Issue, b: &Issue) -> Ordering {
        match self {
            Field::Project => a.project.key.cmp(b.project.key),
            Field::Key => (a.project.key, a.number).cmp(&(b.project.key, b.number)),
            Field::Status => a.status.id.cmp(&b.status.id),
            Field::Type => a.kind.name.cmp(b.kind.name),
            // Ascending means from low to high, as in Jira.
            Field::Priority => b.priority.cmp(&a.priority),
            Field::Assignee => a.assignee.cmp(&b.assignee),
            Field::Summary => a.summary.cmp(&b.summary),
            Field::Created | Field::Updated => self.time(a).cmp(&self.time(b)),
        }
    }
}

impl Condition {
    fn holds(&self, issue: &Issue) -> bool {
        match self {
            Condition::Among { field, values, negated } => {
                values.iter().any(|value| field.has(issue, value.as_deref())) != *negated
            }
            Condition::Contains { part, negated } => issue.summary.to_lowercase().contains(part) != *negated,
            Condition::Time { field, comparison, at_ms } => {
                let order = field.time(issue).cmp(at_ms);
                match comparison {
                    Comparison::Before => order.is_lt(),
                    Comparison::NotAfter => order.is_le(),
                    Comparison::After => order.is_gt(),
                    Comparison::NotBefore => order.is_ge(),
                }
            }
        }
    }
}

// --- Reading ---

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A bare word, which may be a keyword.
    Word(String),
    Quoted(String),
    Symbol(&'static str),
}

/// Longer ones first: the first that fits is taken.
const SYMBOLS: [&str; 11] = ["!=", "!~", ">=", "<=", "=", "~", ">", "<", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else if first == '"' || first == '\'' {
            let (quoted, after) =
                rest[1..].split_once(first).ok_or("Error in the JQL Query: a quote is not closed.")?;
            tokens.push(Token::Quoted(quoted.to_owned()));
            rest = after;
        } else {
            let ends = |letter: char| letter.is_whitespace() || "!=~<>(),\"'".contains(letter);
            let end = rest.find(ends).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("Error in the JQL Query: '{first}' is not expected here."));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

struct Reader {
    tokens: std::collections::VecDeque<Token>,
    now_ms: i64,
}

impl Reader {
    fn query(mut self) -> Result<Query, String> {
        let mut conditions = Vec::new();
        while !self.tokens.is_empty() && !self.is_next("order") {
            if !conditions.is_empty() && !self.take("and") {
                return Err(self.unexpected("AND or ORDER BY"));
            }
            conditions.push(self.condition()?);
        }
        let order = if self.take("order") { self.order()? } else { Vec::new() };
        Ok(Query { conditions, order })
    }

    fn is_next(&self, keyword: &str) -> bool {
        matches!(self.tokens.front(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    fn take(&mut self, keyword: &str) -> bool {
        let is_next = self.is_next(keyword);
        if is_next {
            self.tokens.pop_front();
        }
        is_next
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let is_next = matches!(self.tokens.front(), Some(Token::Symbol(next)) if *next == symbol);
        if is_next {
            self.tokens.pop_front();
        }
        is_next
    }

    fn unexpected(&self, expected: &str) -> String {
        let found = match self.tokens.front() {
            Some(Token::Word(text) | Token::Quoted(text)) => format!("'{text}'"),
            Some(Token::Symbol(symbol)) => format!("'{symbol}'"),
            None => "the end".to_owned(),
        };
        format!(
            "Error in the JQL Query: expecting {expected} but got {found}. \
             (This mock knows conditions joined by AND, and ORDER BY; no OR, NOT, functions or brackets around conditions.)"
        )
    }

    fn text(&mut self, expected: &str) -> Result<String, String> {
        match self.tokens.front() {
            Some(Token::Word(text) | Token::Quoted(text)) => {
                let text = text.clone();
                self.tokens.pop_front();
                Ok(text)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let field = Field::named(&self.text("a field")?)?;
        match field {
            Field::Summary => self.contains(),
            Field::Created | Field::Updated => self.time(field),
            _ => self.among(field),
        }
    }

    fn among(&mut self, field: Field) -> Result<Condition, String> {
        let negated = self.take_symbol("!=");
        if negated || self.take_symbol("=") {
            return Ok(Condition::Among { field, values: vec![self.value(field)?], negated });
        }
        if self.take("is") {
            let negated = self.take("not");
            if !self.is_next("empty") && !self.is_next("null") {
                return Err(self.unexpected("EMPTY"));
            }
            return Ok(Condition::Among { field, values: vec![self.value(field)?], negated });
        }
        let negated = self.take("not");
        if !self.take("in") || !self.take_symbol("(") {
            return Err(self.unexpected("=, !=, IN (...), NOT IN (...) or IS EMPTY"));
        }
        let mut values = vec![self.value(field)?];
        while self.take_symbol(",") {
            values.push(self.value(field)?);
        }
        if self.take_symbol(")") {
            Ok(Condition::Among { field, values, negated })
        } else {
            Err(self.unexpected("')'"))
        }
    }

    /// A value of a field, or `EMPTY`.
    fn value(&mut self, field: Field) -> Result<Option<String>, String> {
        if self.take("empty") || self.take("null") {
            return Ok(None);
        }
        let value = self.text("a value")?;
        if field.knows(&value) {
            Ok(Some(value))
        } else {
            Err(format!("The value '{value}' does not exist for the field '{}'.", field.name()))
        }
    }

    fn contains(&mut self) -> Result<Condition, String> {
        let negated = self.take_symbol("!~");
        if !negated && !self.take_symbol("~") {
            return Err(self.unexpected("~ or !~"));
        }
        let part = self.text("a text")?.trim_matches('*').to_lowercase();
        Ok(Condition::Contains { part, negated })
    }

    fn time(&mut self, field: Field) -> Result<Condition, String> {
        let comparisons = [
            (">=", Comparison::NotBefore),
            ("<=", Comparison::NotAfter),
            (">", Comparison::After),
            ("<", Comparison::Before),
        ];
        let found = comparisons.into_iter().find(|(symbol, _)| self.take_symbol(symbol));
        let (_, comparison) = found.ok_or_else(|| self.unexpected(">=, <=, > or <"))?;
        let text = self.text("a date")?;
        let at_ms = moment(&text, self.now_ms).ok_or_else(|| {
            format!(
                "Date value '{text}' for field '{}' is invalid. Valid formats here: 'yyyy-MM-dd', or a period such as '-5d' or '-3w'.",
                field.name()
            )
        })?;
        Ok(Condition::Time { field, comparison, at_ms })
    }

    fn order(&mut self) -> Result<Vec<(Field, Direction)>, String> {
        if !self.take("by") {
            return Err(self.unexpected("BY"));
        }
        let mut order = Vec::new();
        loop {
            let field = Field::named(&self.text("a field")?)?;
            let descends = self.take("desc");
            if !descends {
                self.take("asc");
            }
            order.push((field, if descends { Direction::Descending } else { Direction::Ascending }));
            if !self.take_symbol(",") {
                break;
            }
        }
        if self.tokens.is_empty() { Ok(order) } else { Err(self.unexpected("',' or the end")) }
    }
}

/// `2026-01-31`, or a time before now: `-30m`, `-5h`, `-7d`, `-2w`.
fn moment(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(span) = text.strip_prefix('-') {
        let unit_ms = match span.chars().last()? {
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => DAY_MS,
            'w' => 7 * DAY_MS,
            _ => return None,
        };
        let count: i64 = span[..span.len() - 1].parse().ok().filter(|count| *count >= 0)?;
        return Some(now_ms.saturating_sub(count.saturating_mul(unit_ms)));
    }
    let date: jiff::civil::Date = text.replace('/', "-").parse().ok()?;
    let midnight: jiff::Timestamp = format!("{date}T00:00:00Z").parse().ok()?;
    Some(midnight.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    const NOW_MS: i64 = 1_768_089_600_000;

    fn run(jql: &str) -> Vec<String> {
        let world = World::new(7);
        let query = Query::read(jql, NOW_MS).unwrap_or_else(|error| panic!("{jql}: {error}"));
        query.run(&world.issues).into_iter().map(Issue::key).collect()
    }

    #[test]
    fn conditions_and_order_do_what_they_say() {
        assert_eq!(run("project = OPS").len(), 18);
        assert_eq!(run("project = OPS ORDER BY key"), (1..=18).map(|nth| format!("OPS-{nth}")).collect::<Vec<_>>());
        assert_eq!(run("PROJECT in (\"Website\", TK) order by created desc").len(), 36);
        assert_eq!(run("key = TK-3"), ["TK-3"]);
        assert_eq!(run("key in (WEB-2, TK-1) ORDER BY key ASC"), ["TK-1", "WEB-2"]);
        let done = run("project = TK AND status = Done").len();
        assert!(done > 0 && done + run("project = TK AND status != Done").len() == 24);
        let nobody = run("assignee is EMPTY").len();
        assert!(nobody > 0 && nobody + run("assignee is not empty").len() == 54);
        assert_eq!(run("assignee = EMPTY").len(), nobody);
        assert_eq!(run("created >= 2026-01-01 AND created < 2026-01-02").len(), 4);
        assert_eq!(run("created >= -1d AND created <= -1m").len(), 4);
        let token = run("summary ~ token AND text !~ 'refresh'").len();
        assert!(token > 0 && token < run("summary ~ token").len());
        assert_eq!(run("status not in (Done, 'In Progress')"), run("status = \"To Do\""));
    }

    #[test]
    fn priority_orders_from_low_to_high() {
        let world = World::new(7);
        let query = Query::read("project = TK ORDER BY priority DESC, key", 0).unwrap();
        let found = query.run(&world.issues);
        let names: Vec<&str> = found.iter().map(|issue| issue.priority().name).collect();
        assert_eq!((names.first(), names.last()), (Some(&"High"), Some(&"Low")));
    }

    #[test]
    fn only_a_condition_bounds_a_query() {
        assert!(Query::read("", 0).unwrap().is_unbounded());
        assert!(Query::read("ORDER BY created", 0).unwrap().is_unbounded());
        assert!(!Query::read("project = TK", 0).unwrap().is_unbounded());
    }

    #[test]
    fn what_is_not_known_is_named() {
        let cases = [
            ("foo = 1", "Field 'foo' does not exist"),
            ("project = NOPE", "The value 'NOPE' does not exist for the field 'project'"),
            ("project = TK OR project = OPS", "but got 'OR'"),
            ("project", "got the end"),
            ("project = ", "got the end"),
            ("(project = TK)", "got '('"),
            ("NOT project = TK", "Field 'NOT'"),
            ("assignee = currentUser()", "The value 'currentUser' does not exist"),
            ("project = \"TK", "quote is not closed"),
            ("created >= yesterday", "Date value 'yesterday'"),
            ("created = 2026-01-01", "expecting >=, <=, > or <"),
            ("status in (Done", "expecting ')'"),
            ("project = TK ORDER key", "expecting BY"),
            ("project = TK ORDER BY key key", "expecting ','"),
            ("status is Done", "expecting EMPTY"),
            ("project = !", "'!' is not expected"),
        ];
        for (jql, expected) in cases {
            let error = Query::read(jql, 0).unwrap_err();
            assert!(error.contains(expected), "{jql}: {error}");
        }
        assert!(Query::read(&"x".repeat(JQL_BYTES_MAX + 1), 0).is_err());
    }

    #[test]
    fn hostile_queries_never_panic() {
        for seed in 0..5_000_u64 {
            let letters = "project=TK AND()'\",~!<>é-1d ORDER BY in\u{0}";
            let drawn = (0..seed % 40).filter_map(|nth| {
                letters.chars().nth(crate::random::keyed(&[seed, nth]) as usize % letters.chars().count())
            });
            let _ = Query::read(&drawn.collect::<String>(), 0);
            let _ = Query::read(&format!("created > -{}d", u64::MAX - seed), 0);
        }
        let _ = Query::read("created > -é", 0);
    }
}
