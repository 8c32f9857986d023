//! Rules about files: every Rust file says what it is, none grows without end, none names this machine.

use anyhow::Result;
use std::path::{Path, PathBuf};

/// Lines beyond which a file must be split (tests and tables count).
const LONGEST: usize = 1200;

/// Checks all Rust files of the workspace.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in ["crates", "testkit", "e2e", "xtask"] {
        collect(&root.join(folder), &mut files)?;
    }
    let mut findings = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        findings.extend(problems(&text).into_iter().map(|problem| format!("{name}: {problem}")));
    }
    Ok(findings)
}

fn problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//! ") {
        problems.push("does not open with //! and what it is".to_owned());
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        problems.push(format!("has {lines} lines; would two names tell more than one?"));
    }
    problems
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_opening_is_a_finding() {
        assert!(problems("//! Says what it is.\n").is_empty());
        assert_eq!(problems("fn main() {}\n").len(), 1);
    }
}
