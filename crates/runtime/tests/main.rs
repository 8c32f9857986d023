//! Containers for real: needs root, overlayfs and a static busybox (Debian's busybox-static). Every test has a
//! state directory and a cgroup of its own, and afterwards the host's mounts, cgroups and processes must be
//! what they were.
#![allow(clippy::unwrap_used)]

#[path = "main/cases.rs"]
mod cases;
#[path = "main/handler.rs"]
mod handler;
#[path = "main/host.rs"]
mod host;
#[path = "main/oci.rs"]
mod oci;
#[path = "main/pod.rs"]
mod pod;
#[path = "main/users.rs"]
mod users;

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;

fn main() {
    knarr_runtime::zygote_main_if_asked();
    knarr_runtime::oci_main_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == [oci::SAYS_READY] {
        oci::say_ready();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [word, dir, cgroup] = &args[..]
        && word == pod::DAEMON
    {
        runtime.block_on(pod::daemon(dir.as_ref(), cgroup));
        return;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let chosen: Vec<_> = cases::ALL
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
        .collect();
    if args.iter().any(|arg| arg == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    host::check();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, case) in chosen {
        let before = host::Snapshot::take();
        let test = pod::Test::new();
        let outcome = runtime.block_on(async {
            let outcome = AssertUnwindSafe(case(&test)).catch_unwind().await;
            let cleaned = AssertUnwindSafe(test.clean_up()).catch_unwind().await;
            outcome.and(cleaned)
        });
        drop(test);
        let left = before.left_over();
        if let Err(what) = &left {
            println!("left on the host: {what}");
        }
        let good = outcome.is_ok() && left.is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if !good {
            failed.push(*name);
        }
    }
    println!("\ntest result: {} failed {failed:?}", failed.len());
    if !failed.is_empty() {
        std::process::exit(101);
    }
}
