//! `knarr runtime`: the command line that runc and crun share (opencontainers/runtime-tools'
//! command-line-interface.md and what runc added), by which podman, conmon and containerd run containers. Every
//! command is a short single-threaded process; a container has no process of Knarr's beside its own.
//! See docs/adr/0020-oci-command-line.md.

mod args;
mod commands;
mod config;
mod create;
mod devices;
mod events;
mod exec;
mod features;
mod hooks;
mod init;
mod kill;
mod mounts;
mod namespaces;
mod notify;
mod program;
mod resources;
mod seal;
mod spec;
mod state;
mod terminal;
mod update;

use crate::container::{Context, Failure};
use args::{Given, Known};
use state::Container;
use std::io::Write;
use std::path::PathBuf;

/// A program of this name is the command line of its own.
pub const PROGRAM: &str = "knarr-oci";

/// Where containers' states are kept unless `--root` says otherwise.
const ROOT: &str = "/run/knarr-oci";

/// Flags before the command.
struct Globals {
    root: PathBuf,
    log: Option<PathBuf>,
    log_json: bool,
    systemd_cgroup: bool,
}

impl Globals {
    fn of(given: &Given) -> Self {
        let systemd_manager = given.value("cgroup-manager") == Some("systemd");
        Self {
            root: given.value("root").unwrap_or(ROOT).into(),
            log: given.value("log").filter(|path| !path.is_empty()).map(PathBuf::from),
            log_json: given.value("log-format") == Some("json"),
            systemd_cgroup: given.is_set("systemd-cgroup") || systemd_manager,
        }
    }

    /// Adds a line to the log file, if there is one. Callers look for the last error in it.
    fn log(&self, level: &str, text: &str) {
        let Some(path) = &self.log else { return };
        let time = crate::shim::rfc3339(crate::shim::now());
        let line = if self.log_json {
            serde_json::json!({ "level": level, "msg": text, "time": time }).to_string()
        } else {
            format!("time={time:?} level={level} msg={text:?}")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{line}");
        }
    }
}

const GLOBALS: Known = Known {
    valued: &["root", "log", "log-format", "log-level", "criu", "rootless", "cgroup-manager"],
    plain: &["debug", "systemd-cgroup|s", "version|v", "help|h"],
};

/// Commands and their flags.
const COMMANDS: [(&str, Known); 17] = [
    (
        "create",
        Known {
            valued: &["bundle|b", "config|f", "console-socket", "pid-file", "preserve-fds"],
            plain: &["no-pivot", "no-new-keyring", "no-subreaper"],
        },
    ),
    (
        "run",
        Known {
            valued: &["bundle|b", "config|f", "console-socket", "pid-file", "preserve-fds"],
            plain: &["no-pivot", "no-new-keyring", "detach|d", "no-subreaper", "keep"],
        },
    ),
    ("start", Known { valued: &[], plain: &[] }),
    ("state", Known { valued: &[], plain: &[] }),
    ("kill", Known { valued: &[], plain: &["all|a"] }),
    ("delete", Known { valued: &[], plain: &["force|f"] }),
    (
        "exec",
        Known {
            valued: &[
                "process|p",
                "pid-file",
                "console-socket",
                "cwd",
                "env|e",
                "user|u",
                "additional-gids|g",
                "process-label",
                "apparmor",
                "cap|c",
                "preserve-fds",
                "cgroup",
            ],
            plain: &["tty|t", "detach|d", "no-new-privs", "no-subreaper", "ignore-paused"],
        },
    ),
    ("ps", Known { valued: &["format|f"], plain: &[] }),
    ("list", Known { valued: &["format|f"], plain: &["quiet|q"] }),
    ("pause", Known { valued: &[], plain: &[] }),
    ("resume", Known { valued: &[], plain: &[] }),
    (
        "update",
        Known {
            valued: &[
                "resources|r",
                "blkio-weight",
                "cpu-period",
                "cpu-quota",
                "cpu-burst",
                "cpu-share",
                "cpu-rt-period",
                "cpu-rt-runtime",
                "cpuset-cpus",
                "cpuset-mems",
                "cpu-idle",
                "memory",
                "memory-reservation",
                "memory-swap",
                "kernel-memory",
                "kernel-memory-tcp",
                "pids-limit",
                "l3-cache-schema",
                "mem-bw-schema",
            ],
            plain: &[],
        },
    ),
    ("features", Known { valued: &[], plain: &[] }),
    ("events", Known { valued: &["interval"], plain: &["stats"] }),
    ("spec", Known { valued: &["bundle|b", "file|f"], plain: &["rootless"] }),
    ("checkpoint", Known { valued: &[], plain: &[] }),
    ("restore", Known { valued: &[], plain: &[] }),
];

/// Becomes the command line when this process was started as `knarr runtime` or under the name [`PROGRAM`], and
/// never returns then. Called before anything else is set up: a start must not pay for it.
pub fn main_if_asked() {
    let mut words = std::env::args_os();
    let name = words.next().map(PathBuf::from).unwrap_or_default();
    let own_name = name.file_name().is_some_and(|name| name == PROGRAM);
    if own_name || words.next().is_some_and(|word| word == "runtime") {
        let args: Vec<String> = std::env::args_os()
            .skip(if own_name { 1 } else { 2 })
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        crate::sys::exit_now(main(&args));
    }
}

/// Runs one command; its exit code.
fn main(args: &[String]) -> i32 {
    let globals = match args::parse(args, &GLOBALS) {
        Ok(globals) => globals,
        Err(failure) => return complain(None, &failure),
    };
    let settings = Globals::of(&globals);
    match dispatch(&settings, &globals) {
        Ok(code) => code,
        Err(failure) => complain(Some(&settings), &failure),
    }
}

fn complain(globals: Option<&Globals>, failure: &Failure) -> i32 {
    let text = failure.text();
    if let Some(globals) = globals {
        globals.log("error", &text);
    }
    let name = if text.starts_with(PROGRAM) { String::new() } else { format!("{PROGRAM}: ") };
    let _ = writeln!(std::io::stderr(), "{name}{text}");
    1
}

fn dispatch(globals: &Globals, before: &Given) -> Result<i32, Failure> {
    if before.is_set("version") {
        return say(&format!(
            "{PROGRAM} version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            features::VERSION
        ));
    }
    let Some((command, rest)) = before.words.split_first() else { return usage() };
    if before.is_set("help") || command == "help" {
        return usage();
    }
    let Some((name, known)) = COMMANDS.iter().find(|(name, _)| name == command) else {
        return Err(Failure::new(format!("no command {command:?}")));
    };
    if matches!(*name, "checkpoint" | "restore") {
        return Err(Failure::new(format!("{name} is not supported")));
    }
    let given = args::parse(rest, known)?;
    if given.is_set("help") {
        return say(&format!("Usage: {PROGRAM} {name} [flags] [<container id>]\n\nFlags:\n{}", known.help()));
    }
    let load = || Container::load(&globals.root, given.word(0, "container id")?);
    match *name {
        "create" => {
            seal::seal().context(|| "run from a sealed copy")?;
            create::create(commands::creation(globals, &given, false)?)
                .map_err(|failure| prefixed("create", &failure))?;
        }
        "run" => {
            seal::seal().context(|| "run from a sealed copy")?;
            return commands::run(globals, &given).map_err(|failure| prefixed("run", &failure));
        }
        "exec" => {
            seal::seal().context(|| "run from a sealed copy")?;
            return commands::exec(&load()?, &given);
        }
        "start" => commands::start(&load()?)?,
        "state" => return say(&format!("{:#}\n", commands::state(&load()?))),
        "kill" => kill::kill(&load()?, &given)?,
        "delete" => commands::delete(globals, given.word(0, "container id")?, given.is_set("force"))?,
        "ps" => return say(&commands::ps(&load()?, &given)?),
        "list" => return say(&commands::list(globals, &given)?),
        "pause" => commands::pause(&load()?, true)?,
        "resume" => commands::pause(&load()?, false)?,
        "update" => update::update(&load()?, &given)?,
        "features" => return say(&format!("{:#}\n", features::document())),
        "events" => events::events(&load()?, &given)?,
        "spec" => {
            let dir = PathBuf::from(given.value("bundle").unwrap_or("."));
            spec::write(&dir.join(given.value("file").unwrap_or("config.json")), given.is_set("rootless"))?;
        }
        other => return Err(Failure::new(format!("{other} is not supported"))),
    }
    Ok(0)
}

fn prefixed(command: &str, failure: &Failure) -> Failure {
    Failure::new(format!("{PROGRAM} {command} failed: {}", failure.text()))
}

fn say(text: &str) -> Result<i32, Failure> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "write")?;
    Ok(0)
}

fn usage() -> Result<i32, Failure> {
    let names: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
    say(&format!(
        "Runs containers as the OCI runtime specification {} describes them.\n\n\
         Usage: {PROGRAM} [--root DIR] [--log FILE] [--log-format text|json] <command> [flags] <container id>\n\n\
         Commands: {}\n",
        features::VERSION,
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_commands_and_containers_end_with_an_error() {
        let run = |words: &[&str]| main(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(run(&["--version"]), 0);
        assert_eq!(run(&["fly"]), 1);
        assert_eq!(run(&["--root", "/nonexistent/knarr", "state", "c1"]), 1);
        assert_eq!(run(&["--root", "/nonexistent/knarr", "delete", "--force", "c1"]), 0);
        assert_eq!(run(&["checkpoint", "c1"]), 1);
    }
}
