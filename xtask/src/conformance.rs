//! The list of conformance tests that pass (`docs/conformance/passing.txt`, one name a line) against the results of a
//! run of the public suite: the list may only grow. The suite itself is not part of this tree; whoever runs it points
//! this command at the folder of its JUnit reports.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// The list, relative to the root.
const LIST: &str = "docs/conformance/passing.txt";

/// `cargo xtask conformance FOLDER [--add]`: fails and says which listed test failed in the reports; names what passed
/// and is not listed, and with `--add` lists it.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let (folder, add) = match arguments {
        [folder] => (folder, false),
        [folder, flag] if flag == "--add" => (folder, true),
        other => bail!("usage: cargo xtask conformance FOLDER [--add] (not {other:?})"),
    };
    let list = root.join(LIST);
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {LIST}"))?;
    let mut listed: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut results = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            read(&std::fs::read_to_string(&path)?, &mut results);
        }
    }
    let failed: Vec<&&str> = listed.iter().filter(|name| results.get(**name) == Some(&false)).collect();
    let new: Vec<&str> = results
        .iter()
        .filter(|(name, passed)| {
            **passed && name.contains("[Conformance]") && !listed.contains(&name.as_str())
        })
        .map(|(name, _)| name.as_str())
        .collect();
    for name in &new {
        println!("{} {name}", if add { "added:" } else { "passes, not listed:" });
    }
    for name in &failed {
        println!("FAILED, listed: {name}");
    }
    println!("{} in the reports, {} listed, {} of them failed", results.len(), listed.len(), failed.len());
    if !failed.is_empty() {
        bail!("{} tests of the list failed", failed.len());
    }
    if add {
        listed.extend(&new);
        listed.sort_unstable();
        std::fs::write(&list, listed.join("\n") + "\n")?;
    }
    Ok(())
}

/// Reads the test cases that ran. One that ran more than once (a flake attempt) must have passed each time.
fn read(report: &str, results: &mut BTreeMap<String, bool>) {
    for case in report.split("<testcase ").skip(1) {
        let head = case.split('>').next().unwrap_or_default();
        let (Some(name), Some(status)) = (attribute(head, "name"), attribute(head, "status")) else {
            continue;
        };
        let Some(name) = name.strip_prefix("[It] ") else { continue };
        if matches!(status.as_str(), "skipped" | "pending") {
            continue;
        }
        let name = name.rsplit_once("[Conformance]").map_or(name, |(before, _)| &name[..before.len() + 13]);
        *results.entry(name.to_owned()).or_insert(true) &= status == "passed";
    }
}

fn attribute(head: &str, name: &str) -> Option<String> {
    let value = head.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
    let mut text = value.to_owned();
    for (entity, plain) in
        [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, plain);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"<testsuite><testcase name="[It] [sig-x] a &lt;b&gt; [Conformance] [sig-x, Conformance]" status="passed"></testcase>
            <testcase name="[It] [sig-x] c [Conformance]" status="failed"><failure/></testcase>
            <testcase name="[It] [sig-x] d [Conformance]" status="skipped"/>
            <testcase name="[ReportAfterSuite]" status="passed"/></testsuite>"#;
        let mut results = BTreeMap::new();
        read(report, &mut results);
        let expected =
            [("[sig-x] a <b> [Conformance]".to_owned(), true), ("[sig-x] c [Conformance]".to_owned(), false)];
        assert_eq!(results.into_iter().collect::<Vec<_>>(), expected);
    }
}
