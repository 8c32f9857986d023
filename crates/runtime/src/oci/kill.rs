//! `kill`: a signal for the container's first process, or for all of them.

use super::args::Given;
use super::state::Container;
use crate::cgroup;
use crate::container::{Context, Failure};
use crate::sys;
use std::time::Duration;

/// How long after `start` a signal waits for the program to be ready for it.
///
/// The first process of a PID namespace never gets a signal that it has no handler for (pid_namespaces(7)): one
/// sent between the `execve` and the program's first lines would be lost without a word, and a caller who stops
/// what was just started would wait for its whole grace period. So is one, to the same end, that a shell takes
/// between its `trap` and the `wait` that the signal was to end. Runtimes that need tens of milliseconds for a
/// command meet that gap more seldom. A shell on a busy machine is past it within 200 ms, on an emulated
/// one within half a second.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// `kill`.
pub fn kill(container: &Container, given: &Given) -> Result<(), Failure> {
    let name = given.words.get(1).map_or("SIGTERM", String::as_str);
    let signal = crate::daemon::signal_number(name).map_err(|error| Failure::new(error.to_string()))?;
    let all = given.is_set("all");
    if !container.is_alive() {
        if all {
            container.record.cgroup.cgroup()?.kill();
            return Ok(());
        }
        return Err(Failure::new("container not running"));
    }
    let cgroup = container.record.cgroup.cgroup()?;
    let shares_pids = container.config()?.namespace("pid") != Some("");
    if signal == libc::SIGKILL && (all || shares_pids) {
        cgroup.kill();
    } else {
        wait_until_ready(container, signal);
        if all {
            for pid in cgroup.processes() {
                let _ = sys::kill(pid, signal);
            }
        }
    }
    sys::kill(container.record.pid, signal).context(|| "unable to signal init")?;
    if signal == libc::SIGKILL && cgroup.is_frozen() {
        // On v1 a frozen process does not die.
        let _ = cgroup.freeze(false);
    }
    Ok(())
}

/// Waits for a program that has only just been started to have a handler for the signal, and to be at rest: past
/// its beginning.
fn wait_until_ready(container: &Container, signal: i32) {
    if !(1..=64).contains(&signal) || matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGCONT) {
        return;
    }
    let step = Duration::from_millis(1);
    let mut left = READY_PATIENCE.saturating_sub(since_start(container));
    while !left.is_zero() && container.is_alive() && may_be_lost(container.record.pid, signal) {
        cgroup::pause(step);
        left = left.saturating_sub(step);
    }
}

/// How long ago the container was started; that took its fifo from its directory. Long ago for one not started.
fn since_start(container: &Container) -> Duration {
    let Ok(stat) = rustix::fs::stat(&container.dir) else { return Duration::MAX };
    if container.status() == "created" {
        return Duration::MAX;
    }
    let (seconds, nanos) = crate::shim::now();
    let age = (seconds - stat.st_mtime) * 1000 + (i64::from(nanos) - stat.st_mtime_nsec as i64) / 1_000_000;
    u64::try_from(age).map_or(Duration::MAX, Duration::from_millis)
}

/// Whether the kernel would drop the signal, or the program may get it too early.
fn may_be_lost(pid: i32, signal: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_early(&status, signal))
}

/// Of `/proc/PID/status`: the process is the first of its PID namespace, and has no handler or is still busy.
fn is_early(status: &str, signal: i32) -> bool {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("", |rest| rest.trim_start_matches(':').trim())
    };
    // One number a level, the last is the innermost; a single one is the host's own init.
    let numbers = field("NSpid").split_ascii_whitespace().skip(1);
    let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX) & 1 << (signal - 1) != 0;
    let at_rest = field("State").starts_with('S');
    let unwanted = set("SigIgn") || set("SigBlk");
    let ready = set("SigCgt") && at_rest;
    numbers.last() == Some("1") && !unwanted && !ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_process_of_a_namespace_can_get_a_signal_too_early() {
        let status = |numbers: &str, blocked: u64, ignored: u64, caught: u64| {
            let state = if caught == 0 { "R (running)" } else { "S (sleeping)" };
            format!(
                "Name:\tsh\nState:\t{state}\nNSpid:\t{numbers}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let term = 1 << (libc::SIGTERM - 1);
        for (text, lost) in [
            (status("700\t1", 0, 0, 0), true),
            (status("700\t1", 0, 0, 2), true),
            (status("700\t1", 0, 0, term), false),
            // It wants to wait for it, or not to have it.
            (status("700\t1", term, 0, 0), false),
            (status("700\t1", 0, term, 0), false),
            (status("700\t6", 0, 0, 0), false),
            (status("1", 0, 0, 0), false),
            (status("700\t1", 0, 0, term).replace("S (sleeping)", "R (running)"), true),
            (String::new(), false),
        ] {
            assert_eq!(is_early(&text, libc::SIGTERM), lost, "{text}");
        }
    }
}
