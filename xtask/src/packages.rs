//! What the dependencies may be: permissive licences only, and one version of each, but for the exceptions that
//! `packages.txt` names with their reason.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PERMITTED: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "Unlicense",
    "Apache-2.0 WITH LLVM-exception",
    "CDLA-Permissive-2.0",
];

/// Checks licences and duplicate versions.
pub fn check(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let table = std::fs::read_to_string(root.join("packages.txt")).context("packages.txt")?;
    let excepted: BTreeSet<&str> =
        table.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_whitespace().next()).collect();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut findings = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages.iter().filter(|p| !p["source"].is_null()) {
        let (name, version) =
            (package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default());
        let license = package["license"].as_str().unwrap_or_default();
        if !permits(license) {
            findings.push(format!("{name} {version}: licence {license:?} is not on the permitted list"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for (name, versions) in versions {
        match (versions.len() > 1, excepted.contains(name)) {
            (true, false) => {
                findings.push(format!("{name} is there in several versions: {versions:?} (packages.txt)"))
            }
            (false, true) => findings.push(format!("packages.txt excepts {name}, which is there only once")),
            _ => {}
        }
    }
    Ok(findings)
}

/// Whether an SPDX expression can be met by permitted licences alone.
fn permits(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|licence| PERMITTED.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_permitted_choice_is_enough_but_every_part_needs_one() {
        assert!(permits("MIT OR GPL-3.0"));
        assert!(permits("MIT/Apache-2.0"));
        assert!(permits("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!permits("GPL-3.0"));
        assert!(!permits("MIT AND GPL-2.0"));
        assert!(!permits(""));
    }
}
