//! What is wrong with an expression, shown the way clients of the API know it:
//! `ERROR: <input>:1:5: message`, the line of the source and a caret under the place.

use std::fmt;
use std::sync::Arc;

/// Issues beyond this number are counted, not shown.
const MAX_SHOWN: usize = 100;
/// Lines longer than this are not repeated in an issue.
const MAX_SNIPPET: usize = 16384;

/// One problem, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Line, counted from 1; -1 when the problem has no place.
    pub line: i32,
    /// Column in characters, counted from 0; -1 when the problem has no place.
    pub column: i32,
    /// What is wrong.
    pub message: String,
}

/// Everything wrong with one expression. `Display` gives the text that API errors carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    items: Vec<Issue>,
    truncated: usize,
    source: Arc<str>,
}

impl Issues {
    pub(crate) fn new(source: Arc<str>) -> Self {
        Self { items: Vec::new(), truncated: 0, source }
    }

    /// The problems in the order of their places.
    pub fn items(&self) -> &[Issue] {
        &self.items
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a problem at a byte offset of the source.
    pub(crate) fn report(&mut self, offset: u32, message: impl Into<String>) {
        let (line, column) = self.position(offset as usize);
        self.push(Issue { line, column, message: message.into() });
    }

    /// Adds a problem that has no place.
    pub(crate) fn report_nowhere(&mut self, message: impl Into<String>) {
        self.push(Issue { line: -1, column: -1, message: message.into() });
    }

    fn push(&mut self, issue: Issue) {
        if self.items.len() < MAX_SHOWN {
            let place = (issue.line, issue.column);
            let at = self.items.partition_point(|other| (other.line, other.column) <= place);
            self.items.insert(at, issue);
        } else {
            self.truncated += 1;
        }
    }

    fn position(&self, offset: usize) -> (i32, i32) {
        let before = self.source.get(..offset).unwrap_or(&self.source);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[start..].chars().count();
        // An empty source has no line to point into.
        let column = if self.source.is_empty() { -1 } else { column as i32 };
        (line as i32, column)
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.items.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", issue.line, issue.column + 1, issue.message)?;
            if issue.line < 1 || self.source.is_empty() {
                continue;
            }
            let Some(snippet) = self.source.split('\n').nth(issue.line as usize - 1) else { continue };
            if snippet.len() > MAX_SNIPPET {
                continue;
            }
            let snippet = snippet.replace('\t', " ");
            write!(f, "\n | {snippet}\n | ")?;
            let mut chars = snippet.chars();
            for _ in 0..issue.column {
                match chars.next() {
                    Some(c) => f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?,
                    None => break,
                }
            }
            f.write_str(if chars.next().is_some_and(|c| c.len_utf8() > 1) { "\u{ff3e}" } else { "^" })?;
        }
        if self.truncated > 0 {
            write!(f, "\n{} more errors were truncated", self.truncated)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
