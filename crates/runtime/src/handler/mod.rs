//! Runtime handlers (<https://kubernetes.io/docs/concepts/containers/runtime-class/>): containers that another OCI
//! runtime runs, by the command line that runc, crun and runsc share
//! (<https://github.com/opencontainers/runtime-spec>). The shim stays what it is for every pod: it owns the pod's
//! namespaces, the streams and the logs, and the container's process becomes its child when the runtime's own process
//! ends, as a subreaper's do.

mod config;
mod launch;

pub use launch::{CreateLaunch, ExecLaunch, INIT, run_command, run_create, run_exec};

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The files of one container of another runtime, in a directory that goes with the sandbox.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    /// The bundle of container `id` in a sandbox's directory. A socket is below it, so its name is short: the first
    /// digits of an identifier are as unique among the containers of one pod.
    pub fn new(sandbox: &Path, id: &str) -> Self {
        Self { dir: sandbox.join("h").join(id.get(..16).unwrap_or(id)) }
    }

    /// The runtime's own state, of all containers of the sandbox.
    pub fn state(sandbox: &Path) -> PathBuf {
        sandbox.join("oci")
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the runtime writes what went wrong.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log.json")
    }

    /// Where the runtime writes the number of the process that `tag` stands for.
    pub fn pid_file(&self, tag: &str) -> PathBuf {
        self.dir.join(format!("{tag}.pid"))
    }

    /// The socket over which the runtime hands over the terminal of that process.
    pub fn console(&self, tag: &str) -> PathBuf {
        self.dir.join(format!("{tag}.tty"))
    }

    /// The number in a file that the runtime has written.
    pub fn read_pid(&self, tag: &str) -> Option<i32> {
        std::fs::read_to_string(self.pid_file(tag)).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
    }

    /// What the runtime says went wrong: the last error in its log.
    pub fn complaint(&self) -> Option<String> {
        complaint(&std::fs::read_to_string(self.log()).ok()?)
    }
}

fn complaint(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.rfind(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic")).map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_the_complaint() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
                   not json\n{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\"\"}\n";
        assert_eq!(complaint(log).as_deref(), Some("exec: \"x\""));
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn a_bundle_has_room_for_a_socket() {
        let pod = Path::new("/var/lib/knarr/runtime/pods/0b9f7ab8-9d6c-4a39-8f1c-2f7a4b3c9d10");
        let console = Bundle::new(pod, &"a".repeat(64)).console("exec-4294967295");
        assert!(console.as_os_str().len() < 108, "{}", console.display());
    }
}
