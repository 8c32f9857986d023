//! Processes inside a test host, and what they said.

use crate::wait::wait_for;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 124 if it had to be ended for taking too long, -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "{self}");
        self.stdout
    }

    /// Standard error of a command that must have failed.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code != 0, "this was to be refused: {self}");
        self.stderr
    }

    /// Standard output as JSON of a command that must have succeeded.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let what = self.command.clone();
        serde_json::from_str(&self.ok()).unwrap_or_else(|error| panic!("{what}: no JSON: {error}"))
    }

    /// Whether it succeeded, for [`wait_for`].
    pub fn result(self) -> Result<String, String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(self.to_string()) }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}: {}{}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// A command that runs on in a test host; ended when dropped.
pub struct Spawned {
    pub(crate) command: String,
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Spawned {
    /// Everything it said so far, both streams.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has said `text`; panics if it ends before.
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) -> String {
        wait_for(&format!("`{}` says {text:?}", self.command), limit, || {
            let ended = self.child.try_wait().ok().flatten();
            let said = self.said();
            if said.contains(text) {
                return Ok(said);
            }
            if let Some(status) = ended {
                panic!("`{}` ended with {status} before it said {text:?}: {said}", self.command);
            }
            Err(said)
        })
    }

    /// Waits until it has ended; its exit code.
    pub fn wait_for_end(&mut self, limit: Duration) -> i32 {
        wait_for(&format!("`{}` ends", self.command), limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            _ => Err(format!(
                "running; it said: {}",
                String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default())
            )),
        })
    }

    /// Process number of the command itself, seen from outside of the test host.
    pub fn pid(&self) -> Option<u32> {
        children(self.child.id()).first().copied()
    }

    /// Sends a signal to the command itself (not to the helper that entered the test host for it).
    pub fn signal(&self, signal: &str) {
        let children = children(self.child.id());
        for pid in children {
            let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal("KILL");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        // The second field, the name, may hold anything; the parent is the second field after its last bracket.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}
