//! The commands that act on a container which is there.

use super::args::Given;
use super::config::{Config, Process};
use super::state::{Container, FAILURE, FIFO};
use super::{Globals, create, exec, hooks, notify, program, terminal};
use crate::container::{Context, Failure};
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// How long a killed container may take to end.
const KILL_PATIENCE_SECONDS: i64 = 10;

/// `create` and `run`: what both are told.
pub fn creation(globals: &Globals, given: &Given, runs: bool) -> Result<create::Options, Failure> {
    let number = |name| given.value(name).map_or(Ok(0), str::parse::<u32>);
    Ok(create::Options {
        root: globals.root.clone(),
        bundle: PathBuf::from(given.value("bundle").unwrap_or(".")),
        id: given.word(0, "container id")?.to_owned(),
        console_socket: given.value("console-socket").map(PathBuf::from),
        pid_file: given.value("pid-file").map(PathBuf::from),
        config: given.value("config").map(PathBuf::from),
        no_pivot: given.is_set("no-pivot"),
        new_keyring: !given.is_set("no-new-keyring"),
        preserve_fds: number("preserve-fds").map_err(|_| Failure::new("invalid --preserve-fds"))?,
        systemd_cgroup: globals.systemd_cgroup,
        // In the foreground nobody would attend to the terminal meanwhile.
        notify: given.is_set("detach") || !runs,
        own_console: None,
    })
}

/// `run`: create, start, and unless detached wait and delete.
pub fn run(globals: &Globals, given: &Given) -> Result<i32, Failure> {
    let mut options = creation(globals, given, true)?;
    if given.is_set("detach") {
        let container = create::create(options)?;
        start(&container).inspect_err(|_| drop(delete(globals, &container.record.id, true)))?;
        return Ok(0);
    }
    let mut near = None;
    if options.console_socket.is_none() {
        let (mine, far) = terminal::console_pair()?;
        (near, options.own_console) = (Some(mine), Some(far));
    }
    let signals = sys::oci::all_signals().context(|| "signals")?;
    let keep = given.is_set("keep");
    let container = create::create(options)?;
    let id = container.record.id.clone();
    let attended = (|| {
        let master = match &near {
            Some(near) if container.config()?.process.is_some_and(|p| p.terminal) => {
                Some(terminal::take_master(near)?)
            }
            _ => None,
        };
        start(&container)?;
        terminal::attend(container.record.pid, master, &signals)
    })();
    if !keep {
        delete(globals, &id, true)?;
    }
    attended
}

/// `start`.
pub fn start(container: &Container) -> Result<(), Failure> {
    let lock = container.lock()?;
    match container.status() {
        "created" => {}
        "stopped" | "creating" => return Err(Failure::new("cannot start a container that has stopped")),
        _ => return Err(Failure::new("cannot start an already running container")),
    }
    let fifo = container.dir.join(FIFO);
    let listener = notify::Listener::open(container)?;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let door = rustix::fs::open(&fifo, flags, Mode::empty())
        .context(|| "cannot start a container that has stopped")?;
    rustix::io::write(&door, b"0").context(|| "start the container")?;
    std::fs::remove_file(&fifo).context(|| "start the container")?;
    // The other end is closed when the program runs, or when there is nobody to run it.
    let mut fds = [PollFd::new(&door, PollFlags::empty())];
    while rustix::event::poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
    let late = std::fs::read_to_string(container.dir.join(FAILURE)).unwrap_or_default();
    if !late.is_empty() {
        return Err(Failure::new(format!("unable to start container process: {late}")));
    }
    let config = container.config()?;
    hooks::run("poststart", &config.hooks.poststart, &container.state("running")).inspect_err(|_| {
        let _ = sys::kill(container.record.pid, libc::SIGKILL);
    })?;
    // Others may stop it meanwhile.
    drop(lock);
    listener.map_or(Ok(()), |listener| listener.pass_on(container.record.pid))
}

/// `state`.
pub fn state(container: &Container) -> Value {
    let status = container.status();
    let record = &container.record;
    let mut state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": if status == "stopped" { 0 } else { record.pid },
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": "",
    });
    if !record.annotations.is_empty() {
        state["annotations"] = json!(record.annotations);
    }
    state
}

/// All containers under the root directory.
pub fn all(globals: &Globals) -> Vec<Container> {
    let entries = std::fs::read_dir(&globals.root).into_iter().flatten().flatten();
    let mut found: Vec<Container> = entries
        .filter_map(|entry| Container::load(&globals.root, entry.file_name().to_str()?).ok())
        .collect();
    found.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    found
}

/// `list`.
pub fn list(globals: &Globals, given: &Given) -> Result<String, Failure> {
    let containers = all(globals);
    if given.is_set("quiet") {
        return Ok(containers.iter().fold(String::new(), |text, c| text + &c.record.id + "\n"));
    }
    match given.value("format").unwrap_or("table") {
        "json" => {
            let listed = containers.iter().map(|container| {
                let mut state = state(container);
                state["owner"] = owner(container).into();
                state
            });
            Ok(Value::from(listed.collect::<Vec<_>>()).to_string() + "\n")
        }
        "table" => {
            let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
            let rows = containers.iter().map(|container| {
                let (record, status) = (&container.record, container.status());
                let pid = if status == "stopped" { 0 } else { record.pid };
                let [id, bundle, created] = [&record.id, &record.bundle, &record.created].map(Clone::clone);
                [id, pid.to_string(), status.to_owned(), bundle, created, owner(container)]
            });
            Ok(table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
        }
        _ => Err(Failure::new("invalid format option")),
    }
}

/// The user who made a container.
fn owner(container: &Container) -> String {
    let uid = rustix::fs::stat(&container.dir).map_or(0, |stat| stat.st_uid);
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name =
        entries.filter(|fields| fields.len() > 2 && fields[2].parse() == Ok(uid)).map(|fields| fields[0]);
    name.map(str::to_owned).next().unwrap_or_else(|| uid.to_string())
}

/// Columns as runc has them: at least 12 wide, three apart.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", row[5]);
    }
    text
}

/// `delete`.
pub fn delete(globals: &Globals, id: &str, force: bool) -> Result<(), Failure> {
    let container = match Container::load(&globals.root, id) {
        Err(_) if force => {
            // Half a container, or none.
            if !id.contains('/') && !id.starts_with('.') && !id.is_empty() {
                let _ = std::fs::remove_dir_all(globals.root.join(id));
            }
            return Ok(());
        }
        other => other?,
    };
    let _lock = container.lock()?;
    let status = container.status();
    match status {
        "stopped" | "creating" => {}
        "created" => end(&container)?,
        _ if force => end(&container)?,
        _ => {
            return Err(Failure::new(format!("cannot delete container {id} that is not stopped: {status}")));
        }
    }
    let cgroup = container.record.cgroup.cgroup()?;
    if cgroup.exists() {
        cgroup.kill();
        cgroup.remove(Duration::from_secs(5)).context(|| "remove cgroup")?;
    }
    if let Ok(config) = container.config() {
        for failure in hooks::run_all("poststop", &config.hooks.poststop, &container.state("stopped")) {
            globals.log("warning", &failure.text());
        }
    }
    container.remove_files();
    Ok(())
}

/// Kills a container and waits for its end.
fn end(container: &Container) -> Result<(), Failure> {
    let cgroup = container.record.cgroup.cgroup()?;
    let pid = Pid::from_raw(container.record.pid).ok_or_else(|| Failure::new("container has no process"))?;
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    if !container.is_alive() {
        return Ok(());
    }
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    cgroup.kill();
    if cgroup.is_frozen() {
        let _ = cgroup.freeze(false);
    }
    let limit = Timespec { tv_sec: KILL_PATIENCE_SECONDS, tv_nsec: 0 };
    match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Err(Failure::new("container init still running")),
        _ => Ok(()),
    }
}

/// `pause` and `resume`.
pub fn pause(container: &Container, frozen: bool) -> Result<(), Failure> {
    let _lock = container.lock()?;
    match (container.status(), frozen) {
        ("running" | "created", true) | ("paused", false) => {
            container.record.cgroup.cgroup()?.freeze(frozen).context(|| "freeze")
        }
        (_, true) => Err(Failure::new("container not running or created")),
        (_, false) => Err(Failure::new("container not paused")),
    }
}

/// `ps`.
pub fn ps(container: &Container, given: &Given) -> Result<String, Failure> {
    let pids = container.record.cgroup.cgroup()?.processes();
    match given.value("format").unwrap_or("table") {
        "json" => Ok(json!(pids).to_string() + "\n"),
        "table" => {
            let options: Vec<String> =
                if given.words.len() > 1 { given.words[1..].to_vec() } else { vec!["-ef".to_owned()] };
            let output = std::process::Command::new("ps").args(options).output().context(|| "ps")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut lines = text.lines();
            let head = lines.next().unwrap_or_default();
            let column = head.split_whitespace().position(|name| name == "PID");
            let column = column.ok_or_else(|| Failure::new("couldn't find PID field in ps output"))?;
            let mut kept = format!("{head}\n");
            for line in lines {
                let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
                if pid.is_some_and(|pid| pids.contains(&pid)) {
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
            Ok(kept)
        }
        _ => Err(Failure::new("invalid format option")),
    }
}

/// `exec`.
pub fn exec(container: &Container, given: &Given) -> Result<i32, Failure> {
    match container.status() {
        "running" | "created" => {}
        "paused" if given.is_set("ignore-paused") => {}
        "paused" => {
            return Err(Failure::new("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        _ => return Err(Failure::new("cannot exec in a stopped container")),
    }
    let config = container.config()?;
    let process = process_of(&config, given)?;
    let detach = given.is_set("detach");
    let console_socket = given.value("console-socket").map(PathBuf::from);
    if process.terminal && detach && console_socket.is_none() {
        let text = "cannot allocate tty if the runtime will detach without setting console socket";
        return Err(Failure::new(text));
    }
    let (mut near, mut console) = (None, None);
    match console_socket {
        Some(path) => console = Some(program::connect(&path).context(|| "connect to console socket")?),
        None if process.terminal => {
            let (mine, far) = terminal::console_pair()?;
            (near, console) = (Some(mine), Some(far));
        }
        None => {}
    }
    let signals = if detach { None } else { Some(sys::oci::all_signals().context(|| "signals")?) };
    let options = exec::Options {
        console,
        pid_file: given.value("pid-file").map(PathBuf::from),
        preserve_fds: given.value("preserve-fds").and_then(|n| n.parse().ok()).unwrap_or(0),
        cgroup: given.values("cgroup").map(below).collect::<Result<_, _>>()?,
    };
    let pid = exec::exec(container, &config, &process, options)?;
    let Some(signals) = signals else { return Ok(0) };
    let master = near.map(|near| terminal::take_master(&near)).transpose()?;
    terminal::attend(pid, master, &signals)
}

/// `[controller[,controller]:]path`: a cgroup below the container's, in some hierarchies or all.
fn below(text: &str) -> Result<(Vec<String>, String), Failure> {
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return Err(Failure::new(format!("invalid --cgroup argument: {text}")));
    }
    let names = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
    Ok((names.collect(), path.to_owned()))
}

/// The process of an exec: from a file, or the container's with what the flags change.
fn process_of(config: &Config, given: &Given) -> Result<Process, Failure> {
    if let Some(path) = given.value("process") {
        let text = std::fs::read(path).context(|| format!("open {path}"))?;
        return serde_json::from_slice(&text)
            .map_err(|error| Failure::new(format!("invalid process file {path}: {error}")));
    }
    let mut process = config.process.clone().unwrap_or_default();
    process.args = given.words.get(1..).unwrap_or_default().to_vec();
    if process.args.is_empty() {
        return Err(Failure::new("process args cannot be empty"));
    }
    process.terminal = given.is_set("tty");
    if let Some(cwd) = given.value("cwd") {
        cwd.clone_into(&mut process.cwd);
    }
    if let Some(label) = given.value("process-label") {
        label.clone_into(&mut process.selinux_label);
    }
    if let Some(profile) = given.value("apparmor") {
        profile.clone_into(&mut process.apparmor_profile);
    }
    process.env.extend(given.values("env").map(str::to_owned));
    if given.is_set("no-new-privs") {
        process.no_new_privileges = true;
    }
    let id =
        |text: &str| text.parse::<u32>().map_err(|_| Failure::new(format!("invalid user or group {text:?}")));
    if let Some(user) = given.value("user") {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        process.user.uid = id(uid)?;
        if let Some(gid) = gid {
            process.user.gid = id(gid)?;
        }
    }
    for gid in given.values("additional-gids") {
        process.user.additional_gids.push(id(gid)?);
    }
    if let Some(sets) = &mut process.capabilities {
        for name in given.values("cap") {
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.push(name.to_owned());
            }
        }
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"],
            ["c1", "7", "running", "/a/long/bundle", "now", "root"],
        ];
        assert_eq!(
            table(&rows.map(|row| row.map(str::to_owned))),
            "ID          PID         STATUS      BUNDLE           CREATED     OWNER\n\
             c1          7           running     /a/long/bundle   now         root\n"
        );
    }
}
