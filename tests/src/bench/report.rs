//! The table, and the few statistics that it needs.

use std::time::Duration;

/// Rows of the table that is printed at the end.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 4]>,
}

/// Which side of its target a figure should be on.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// Only to compare with.
    None,
}

/// A figure with its unit.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    PerSecond,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Mebibytes,
    Times,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", grouped(value)),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Microseconds => format!("{value:.1} µs"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Times => format!("{value:.2}"),
        }
    }
}

impl Report {
    /// Adds a figure, and says it at once.
    pub fn add(&mut self, what: impl Into<String>, unit: Unit, measured: f64, target: Target) {
        let (wanted, ratio) = match target {
            Target::AtLeast(target) => (format!(">= {}", unit.show(target)), verdict(measured / target)),
            Target::AtMost(target) => (format!("<= {}", unit.show(target)), verdict(target / measured)),
            Target::None => ("-".to_owned(), "-".to_owned()),
        };
        let row = [what.into(), unit.show(measured), wanted, ratio];
        println!("{}: {}", row[0], row[1]);
        self.rows.push(row);
    }

    /// Prints the table as Markdown. A ratio of 1 or more has met its target.
    pub fn print(&self) {
        println!();
        let head = ["what", "measured", "target", "ratio"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let widths: Vec<usize> =
            (0..4).map(|column| rows().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
        for (number, row) in rows().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                println!("|-{}-|", rule.join("-|-"));
            }
        }
    }
}

/// How much better than its target.
fn verdict(ratio: f64) -> String {
    format!("{ratio:.2}{}", if ratio < 1.0 { " (missed)" } else { "" })
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// The middle one of some figures; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// How many there are of something that took a while, for each second.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn per_second(count: usize, spent: Duration) -> f64 {
    count as f64 / spent.as_secs_f64()
}

/// Times of single calls.
#[derive(Debug, Default)]
pub struct Times {
    nanoseconds: Vec<u64>,
}

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.nanoseconds.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The times below which 50 % and 99 % lie, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn p50_p99(mut self) -> (f64, f64) {
        self.nanoseconds.sort_unstable();
        let at = |percent: usize| self.nanoseconds.get(self.nanoseconds.len() * percent / 100).copied().unwrap_or(0);
        (at(50) as f64, at(99) as f64)
    }
}
