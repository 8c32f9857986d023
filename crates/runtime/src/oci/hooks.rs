//! Hooks (runtime-spec config.md, "POSIX-platform Hooks"): programs that get the container's state on standard
//! input. The first that fails ends the list.

use super::config::{Hook, State};
use crate::container::{Context, Failure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

/// Runs the hooks of one point in order.
pub fn run(kind: &str, hooks: &[Hook], state: &State<'_>) -> Result<(), Failure> {
    if hooks.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(state).map_err(|error| Failure::new(error.to_string()))?;
    for (at, hook) in hooks.iter().enumerate() {
        one(hook, &text).map_err(|why| Failure::new(format!("error running {kind} hook #{at}: {why}")))?;
    }
    Ok(())
}

fn one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", hook.path))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read it.
        let _ = input.write_all(state);
    }
    if let Some(seconds) = hook.timeout {
        let pid = Pid::from_raw(child.id() as i32).ok_or("no process")?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| e.to_string())?;
        let limit = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let ended = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
        if ended == Ok(0) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = child.wait();
            return Err(format!("hook ran past specified timeout of {seconds}.0s"));
        }
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let how = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    };
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{how}, stdout/stderr: {}", String::from_utf8_lossy(&said).trim_end()))
}

/// Runs hooks whose failure changes nothing; what went wrong is returned for the log.
pub fn run_all(kind: &str, hooks: &[Hook], state: &State<'_>) -> Vec<Failure> {
    let text = serde_json::to_vec(state).context(|| "state").unwrap_or_default();
    let each = hooks.iter().enumerate().filter_map(|(at, hook)| {
        one(hook, &text).err().map(|why| Failure::new(format!("error running {kind} hook #{at}: {why}")))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn hook(script: &str, timeout: Option<u32>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".to_owned(), args, env: vec!["A=1".to_owned()], timeout }
    }

    #[test]
    fn hooks_get_the_state_and_their_own_environment_and_the_first_failure_counts() {
        let none = BTreeMap::new();
        let state = State {
            oci_version: "1.2.0",
            id: "c1",
            status: "created",
            pid: 7,
            bundle: "/b",
            annotations: &none,
        };
        let good = hook(
            r#"test "$A" = 1 && test -z "$HOME" && grep -q '"id":"c1","status":"created","pid":7'"#,
            None,
        );
        run("prestart", &[good], &state).unwrap();
        let failed = run("prestart", &[hook("echo why >&2; exit 3", None)], &state).unwrap_err().text();
        assert_eq!(failed, "error running prestart hook #0: exit status 3, stdout/stderr: why");
        let slow = run("prestart", &[hook("exec sleep 60", Some(0))], &state).unwrap_err().text();
        assert!(slow.contains("timeout"), "{slow}");
        assert_eq!(run_all("poststop", &[hook("exit 1", None), hook("exit 0", None)], &state).len(), 1);
    }
}
