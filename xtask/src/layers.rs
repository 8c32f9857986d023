//! The permitted edges between rooms: `layers.txt` says which room may depend on which, and this compares it
//! with what cargo says. What only tests use may also be testkit, or stand in a row as `tests:<room>`.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Compares `layers.txt` with the workspace.
pub fn check(root: &Path, metadata: &Value) -> Result<Vec<String>> {
    let table = std::fs::read_to_string(root.join("layers.txt")).context("layers.txt")?;
    Ok(compare(&parse(&table), &edges(metadata)))
}

fn parse(table: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows =
        table.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty());
    rows.filter_map(|row| {
        let (room, allowed) = row.split_once(':')?;
        Some((room.trim().to_owned(), allowed.split_whitespace().map(str::to_owned).collect()))
    })
    .collect()
}

/// Room -> (room it depends on, whether only its tests do).
fn edges(metadata: &Value) -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let room = |name: &str| name.strip_prefix("knarr-").unwrap_or(name).to_owned();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = packages.iter().filter(|p| p["source"].is_null());
    let names: BTreeSet<&str> = ours.clone().filter_map(|p| p["name"].as_str()).collect();
    ours.filter_map(|package| {
        let dependencies = package["dependencies"].as_array()?.iter().filter_map(|d| {
            let name = d["name"].as_str()?;
            names.contains(name).then(|| (room(name), d["kind"] == "dev"))
        });
        Some((room(package["name"].as_str()?), dependencies.collect()))
    })
    .collect()
}

fn compare(
    allowed: &BTreeMap<String, BTreeSet<String>>,
    edges: &BTreeMap<String, BTreeSet<(String, bool)>>,
) -> Vec<String> {
    let mut findings = Vec::new();
    for (room, uses) in edges {
        let Some(allowed) = allowed.get(room) else {
            findings.push(format!("layers.txt has no row for {room}"));
            continue;
        };
        for (used, test_only) in uses {
            let in_tests = used == "testkit" || used == room || allowed.contains(&format!("tests:{used}"));
            if !(allowed.contains(used) || allowed.contains("*") || *test_only && in_tests) {
                findings.push(format!("{room} may not depend on {used} (layers.txt)"));
            }
        }
    }
    findings.extend(
        allowed
            .keys()
            .filter(|r| !edges.contains_key(*r))
            .map(|r| format!("layers.txt names {r}, which does not exist")),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_the_table_lacks_is_a_finding() {
        let allowed = parse("base:\nstore: base tests:meta # comment\n");
        let edges = |uses: &[(&str, bool)]| {
            let uses = uses.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect();
            BTreeMap::from([("base".to_owned(), BTreeSet::new()), ("store".to_owned(), uses)])
        };
        assert!(compare(&allowed, &edges(&[("base", false), ("testkit", true), ("meta", true)])).is_empty());
        assert_eq!(
            compare(&allowed, &edges(&[("client", false)])),
            ["store may not depend on client (layers.txt)"]
        );
    }
}
