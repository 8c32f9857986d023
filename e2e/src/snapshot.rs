//! What a machine looks like, to be compared before and after.

use crate::host::TestHost;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Roots of the machine's cgroup hierarchies: the mount itself on v2, one a controller on v1.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    // Without the links that v1 has for combined controllers (cpu -> cpu,cpuacct).
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Names of all cgroups at the top of any hierarchy.
pub fn cgroup_names() -> BTreeSet<String> {
    let roots = hierarchies().into_iter();
    let entries = roots.flat_map(|root| std::fs::read_dir(root).into_iter().flatten().flatten());
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Links, addresses, routes, rules, tables, mounts, cgroups and processes of a test host, one a line.
pub fn take(host: &TestHost) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let looks: [(&str, &[&str]); 7] = [
        ("link", &["ip", "-o", "link"]),
        ("address", &["ip", "-o", "address"]),
        ("route", &["ip", "route", "show", "table", "all"]),
        ("route6", &["ip", "-6", "route", "show", "table", "all"]),
        ("rule", &["ip", "rule"]),
        ("mount", &["cut", "-d", " ", "-f", "4-", "/proc/self/mountinfo"]),
        ("netns", &["ls", "/run"]),
    ];
    for (what, command) in looks {
        found.extend(host.run(command).ok().lines().map(|line| format!("{what}: {line}")));
    }
    // `nft` is no dependency of Knarr's nor of every machine's; where it is, tables are compared too.
    let tables = host.run(&["sh", "-c", "command -v nft >/dev/null && nft list tables"]);
    found.extend(tables.stdout.lines().map(|line| format!("nftables: {line}")));
    for root in hierarchies() {
        if root.join(&host.cgroup).exists() {
            found.insert(format!("cgroup: {}", root.join(&host.cgroup).display()));
        }
    }
    let listing = r#"for p in /proc/[0-9]*; do
        [ "$(readlink $p/exe)" ] || continue
        [ ${p#/proc/} = $$ ] || echo $(tr '\0' ' ' < $p/cmdline)
    done 2>/dev/null"#;
    let own = |line: &&str| !line.contains("/proc/[0-9]*");
    found.extend(
        host.run(&["sh", "-c", listing]).stdout.lines().filter(own).map(|line| format!("process: {line}")),
    );
    found
}

/// What pods leave behind if they are not taken away whole: [`take`]'s view, and cgroups at any depth, namespaces,
/// rules of the firewall, folders and sockets of the data directory, and the daemon's open files. For clusters
/// that go on running between the two looks, so lines say nothing of what changes by itself.
pub fn of_pods(host: &TestHost) -> BTreeSet<String> {
    let mut found = take(host);
    // The zygote, which shims are forked from, is the daemon's and comes with the first pod.
    // A machine that was switched off and on has another address on the daemon's own link.
    found.retain(|line| !line.starts_with("process: knarr-shim ---") && !line.contains(" knarr0"));
    for root in hierarchies() {
        walk(&root.join(&host.cgroup), &mut |path| {
            // Those of the classes of service are made with the first pod of each and stay.
            let class = path.file_name().is_some_and(|name| {
                ["kubepods", "burstable", "besteffort"].iter().any(|class| name == *class)
            });
            if !class {
                found.insert(format!("cgroup: {}", path.display()));
            }
        });
    }
    let looks: [(&str, &str); 3] = [
        ("namespaces", "lsns -n -o TYPE | sort | uniq -c"),
        ("rule", "command -v nft >/dev/null && nft -s list ruleset | sort | uniq -c"),
        // What the store and images hold is not the pods', nor who may use an image; the images' folders of containers are.
        (
            "file",
            "find /srv/host/data -maxdepth 4 -not -path '*/store*' -not -path '*/layers/*' -not -path '*/blobs/*' -not -path '*/pki*' -not -path '*/network/pods.json' -not -path '*/image_manager*'",
        ),
    ];
    for (what, command) in looks {
        let seen = host.run(&["sh", "-c", command]);
        found.extend(seen.stdout.lines().map(|line| format!("{what}: {}", line.trim())));
    }
    found
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}

/// Waits until pods have left nothing: the host is again as it was `before`.
pub fn wait_until_as_before(host: &TestHost, before: &BTreeSet<String>, limit: std::time::Duration) {
    crate::wait_for("the host is as it was before", limit, || {
        let after = of_pods(host);
        let left: Vec<&String> = after.difference(before).collect();
        let lost: Vec<&String> = before.difference(&after).collect();
        match left.is_empty() && lost.is_empty() {
            true => Ok(()),
            false => Err(format!("left: {left:#?}\nlost: {lost:#?}")),
        }
    });
}
