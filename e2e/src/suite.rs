//! Runs groups of cases: the cases of a group share one cluster, in namespaces of their own. Failures are collected,
//! hosts are gone at the end of their group whatever happened in it.

use crate::cluster::{Cluster, Mode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// A case: what must hold, in words, and how it is seen.
pub type Case = (&'static str, fn(&Cluster));

/// Cases that share a cluster.
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What is started for it.
    pub mode: Mode,
    /// Its cases, in order.
    pub cases: &'static [Case],
}

/// A table of cases by the names of their functions.
#[macro_export]
macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), $case as fn(&$crate::Cluster))),*] };
}

/// Runs what the command line chooses: words that a case's or group's name must contain; `--list` only names them.
pub fn main(groups: &[Group]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chosen = |group: &Group, case: &Case| {
        let name = format!("{}::{}", group.name, case.0);
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let start = Instant::now();
    let (mut passed, mut failed) = (0, Vec::new());
    for group in groups {
        let cases: Vec<&Case> = group.cases.iter().filter(|case| chosen(group, case)).collect();
        if cases.is_empty() {
            continue;
        }
        if arguments.iter().any(|argument| argument == "--list") {
            cases.iter().for_each(|case| println!("{}::{}: test", group.name, case.0));
            continue;
        }
        let begun = Instant::now();
        let cluster = catch_unwind(|| Cluster::new(&group.name.replace('_', "-"), group.mode));
        let Ok(cluster) = cluster else {
            println!("test {}::(start) ... FAILED", group.name);
            failed.push(format!("{}::(start)", group.name));
            continue;
        };
        println!("group {}: started in {:.1} s", group.name, begun.elapsed().as_secs_f64());
        for (name, case) in cases {
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| case(&cluster)));
            let word = if outcome.is_ok() { "ok" } else { "FAILED" };
            println!("test {}::{name} ... {word} ({:.1} s)", group.name, begun.elapsed().as_secs_f64());
            match outcome {
                Ok(()) => passed += 1,
                Err(_) => {
                    failed.push(format!("{}::{name}", group.name));
                    let said = cluster.said();
                    let lines: Vec<&str> = said.lines().collect();
                    let last = lines.len().saturating_sub(30);
                    eprintln!("--- the cluster's last words:\n{}\n---", lines[last..].join("\n"));
                }
            }
        }
    }
    println!(
        "\ntest result: {passed} passed, {} failed in {:.0} s",
        failed.len(),
        start.elapsed().as_secs_f64()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
