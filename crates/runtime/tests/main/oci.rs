//! The OCI command line, by this very program under the name that makes it the command line.

use crate::pod::Test;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A bundle of busybox and a state directory.
struct Oci {
    root: PathBuf,
    bundle: PathBuf,
    config: Value,
}

impl Oci {
    fn new(test: &Test) -> Self {
        let bundle = test.path("bundle");
        std::fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        std::fs::create_dir_all(bundle.join("rootfs/etc")).unwrap();
        std::fs::copy("/usr/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        for name in ["sh", "cat", "id", "sleep", "hostname", "grep", "readlink", "touch", "stat", "kill"] {
            std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin").join(name)).unwrap();
        }
        let root = test.path("oci");
        let mut oci = Self { root, bundle, config: Value::Null };
        let bundle = oci.bundle.to_str().unwrap().to_owned();
        oci.good(&["spec", "--bundle", &bundle]);
        assert!(oci.bad(&["spec", "--bundle", &bundle]).contains("Remove it first"));
        let text = std::fs::read(oci.bundle.join("config.json")).unwrap();
        oci.config = serde_json::from_slice(&text).unwrap();
        oci.config["process"]["terminal"] = json!(false);
        oci.config["linux"]["cgroupsPath"] = json!(format!("/{}/oci", test.cgroup));
        oci
    }

    fn script(&mut self, script: &str) {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self.save();
    }

    fn save(&self) {
        std::fs::write(self.bundle.join("config.json"), self.config.to_string()).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("knarr-oci").arg("--root").arg(&self.root).args(words);
        command.output().unwrap()
    }

    /// Runs a command that must succeed; its output.
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {out} {err}");
        out.into_owned()
    }

    /// Runs a command that must fail; its complaint.
    fn bad(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Makes the container. It inherits the streams, so none may be a pipe that somebody waits at.
    fn create(&self) {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("knarr-oci").arg("--root").arg(&self.root);
        command.args(["create", "--bundle", self.bundle.to_str().unwrap(), "c1"]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success());
    }

    /// The container in the foreground.
    fn foreground(&self) -> (i32, String) {
        let output = self.run(&["run", "--bundle", self.bundle.to_str().unwrap(), "c1"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.good(&["state", "c1"])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

/// Create, start, exec, kill, delete, with the states and refusals between.
pub async fn oci_life_of_a_container(test: &Test) {
    let mut oci = Oci::new(test);
    oci.script("exec sleep 60");
    oci.create();
    assert_eq!(oci.status(), "created");
    // Until it is started it is Knarr's program, by way of a read-only mount; a copy of it would take longer to make
    // than everything else.
    let state: Value = serde_json::from_str(&oci.good(&["state", "c1"])).unwrap();
    let program = std::fs::read_link(format!("/proc/{}/exe", state["pid"])).unwrap();
    assert!(!program.to_string_lossy().starts_with("/memfd:"), "{}", program.display());
    assert!(oci.bad(&["create", "--bundle", oci.bundle.to_str().unwrap(), "c1"]).contains("already exists"));
    oci.good(&["start", "c1"]);
    assert_eq!(oci.status(), "running");
    assert!(oci.bad(&["start", "c1"]).contains("already running"));
    assert!(oci.bad(&["delete", "c1"]).contains("not stopped"));
    assert_eq!(
        oci.good(&["exec", "c1", "sh", "-c", "echo $$ is not 1; exit 0"]).trim().len(),
        "7 is not 1".len()
    );
    let failed = oci.run(&["exec", "c1", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    assert!(oci.bad(&["exec", "c1", "nothing"]).contains("executable file not found in $PATH"));
    let pids: Vec<i32> = serde_json::from_str(&oci.good(&["ps", "--format", "json", "c1"])).unwrap();
    assert_eq!(pids.len(), 1);
    oci.good(&["pause", "c1"]);
    assert_eq!(oci.status(), "paused");
    oci.good(&["resume", "c1"]);
    oci.good(&["update", "--memory", "64M", "--pids-limit", "50", "c1"]);
    oci.good(&["kill", "c1", "KILL"]);
    assert!((0..1000).any(|_| oci.status() == "stopped"), "it does not stop");
    assert!(oci.bad(&["kill", "c1", "KILL"]).contains("not running"));
    oci.good(&["delete", "c1"]);
    assert!(oci.bad(&["state", "c1"]).contains("does not exist"));
}

/// What a configuration says holds inside: names, user, capabilities, limits, masks, seccomp, and the exit code.
pub async fn oci_configuration_holds(test: &Test) {
    let mut oci = Oci::new(test);
    oci.config["hostname"] = json!("boxed");
    oci.config["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o27 });
    oci.config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 78 }]);
    oci.config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17 }] });
    oci.script(
        "hostname; id; umask; grep CapEff /proc/self/status; ulimit -n; cat /proc/keys | grep -c . ; \
         busybox mkdir /dev/shm/x 2>&1; touch /x 2>&1; exit 5",
    );
    let (code, text) = oci.foreground();
    assert_eq!(code, 5, "{text}");
    for part in [
        "boxed",
        "uid=7 gid=8 groups=9",
        "0027",
        "CapEff:\t0000000000000000",
        "\n77\n0\n",
        "File exists",
        "/x: Read-only file system",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    oci.script("nothing");
    oci.config["process"]["args"] = json!(["/bin/nothing"]);
    oci.save();
    let (code, text) = oci.foreground();
    assert!(code == 1 && text.contains("stat /bin/nothing: no such file or directory"), "{text}");
}

/// A user namespace, ID-mapped and bind mounts, and a failing hook that leaves nothing behind.
pub async fn oci_user_namespace_and_hooks(test: &Test) {
    let mut oci = Oci::new(test);
    let volume = test.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("f"), "from the host").unwrap();
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    oci.config["linux"]["uidMappings"] = mapping.clone();
    oci.config["linux"]["gidMappings"] = mapping.clone();
    let namespaces = oci.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    let mounts = oci.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/v", "source": volume, "options": ["bind", "idmap"],
        "uidMappings": mapping, "gidMappings": mapping }));
    oci.config["root"]["readonly"] = json!(false);
    oci.script(
        "id; cat /proc/self/uid_map; stat -c %u:%g /v/f; cat /v/f; echo inside > /v/g; echo x > /dev/null",
    );
    for dir in ["v", "proc", "sys", "dev"] {
        std::fs::create_dir_all(oci.bundle.join("rootfs").join(dir)).unwrap();
    }
    let (code, text) = oci.foreground();
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("uid=0") && text.contains("100000") && text.contains("0:0\nfrom the host"),
        "{text}"
    );
    let made = std::fs::metadata(volume.join("g")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0, "an ID-mapped file is root's on the host");

    let mounts = oci.config["mounts"].as_array_mut().unwrap();
    let mount = mounts.last_mut().unwrap();
    let good = std::mem::replace(&mut mount["source"], json!("/proc"));
    oci.save();
    let (code, text) = oci.foreground();
    assert!(code == 1 && text.contains("cannot show other owners of files on this file system"), "{text}");

    oci.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = good;
    oci.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    oci.save();
    let (code, text) = oci.foreground();
    assert!(code == 1 && text.contains("error running createRuntime hook #0"), "{text}");
    assert!(oci.bad(&["state", "c1"]).contains("does not exist"));
}

/// The first process of a PID namespace loses signals it has no handler for; one that comes right after `start`
/// must not be lost because it came before the program's first lines.
pub async fn oci_a_signal_waits_for_a_program_just_started(test: &Test) {
    let mut oci = Oci::new(test);
    oci.script("busybox usleep 20000; trap 'exit 9' TERM; sleep 60 & wait $!");
    oci.create();
    oci.good(&["start", "c1"]);
    oci.good(&["kill", "c1", "TERM"]);
    assert!((0..1000).any(|_| oci.status() == "stopped"), "the signal was lost");
    oci.good(&["delete", "c1"]);
}

/// `events` tells readings and kills for want of memory until the container ends; `update` changes limits.
pub async fn oci_events_and_limits(test: &Test) {
    let mut oci = Oci::new(test);
    // A hog that is asked for, whenever that is; the shell stays.
    oci.script(
        "trap go=1 USR1; until test $go; do busybox usleep 10000; done; busybox tail /dev/zero; sleep 60",
    );
    oci.create();
    oci.good(&["start", "c1"]);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("knarr-oci").arg("--root").arg(&oci.root).args(["events", "--interval", "20ms", "c1"]);
    let mut events = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.stdout.take().unwrap()));
    let mut next = || -> Option<Value> { Some(serde_json::from_str(&lines.next()?.unwrap()).unwrap()) };

    let first = next().unwrap();
    assert_eq!((&first["type"], &first["id"]), (&json!("stats"), &json!("c1")));
    assert!(first["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{first}");
    oci.good(&["update", "--memory", "24M", "--pids-limit", "50", "c1"]);
    let limited = |event: &Value| {
        event["data"]["memory"]["usage"]["limit"] == 24 << 20 && event["data"]["pids"]["limit"] == 50
    };
    assert!((0..500).any(|_| limited(&next().unwrap())), "the limits are not seen");
    oci.good(&["kill", "c1", "USR1"]);
    assert!((0..500).any(|_| next().unwrap()["type"] == "oom"), "no kill is told");
    oci.good(&["kill", "c1", "KILL"]);
    while next().is_some() {}
    assert!(events.wait().unwrap().success());
    assert!(oci.bad(&["events", "--stats", "c1"]).contains("is not running"));
    oci.good(&["delete", "c1"]);
}

/// An argument of this program, by which it is one that says when it is ready.
pub const SAYS_READY: &str = "says-ready";

/// Says that it is ready, after something else; never returns.
pub fn say_ready() -> ! {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let path = std::env::var("NOTIFY_SOCKET").unwrap();
    for text in ["STATUS=on its way", "READY=1\nSTATUS=here"] {
        socket.send_to(text.as_bytes(), &path).unwrap();
    }
    loop {
        std::thread::park();
    }
}

/// `start` comes back when the program is ready, and tells the manager.
pub async fn oci_start_waits_for_readiness(test: &Test) {
    let mut oci = Oci::new(test);
    let path = test.path("manager.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    oci.config["process"]["args"] = json!(["/ready", SAYS_READY]);
    std::fs::copy(std::env::current_exe().unwrap(), oci.bundle.join("rootfs/ready")).unwrap();
    oci.save();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("knarr-oci").env("NOTIFY_SOCKET", &path).arg("--root").arg(&oci.root);
    command.args(["run", "--detach", "--bundle", oci.bundle.to_str().unwrap(), "c1"]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    let mut bytes = [0; 256];
    let count = manager.recv(&mut bytes).unwrap();
    let state: Value = serde_json::from_str(&oci.good(&["state", "c1"])).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes[..count]), format!("READY=1\nMAINPID={}\n", state["pid"]));
    oci.good(&["kill", "c1", "KILL"]);
    assert!((0..1000).any(|_| oci.status() == "stopped"), "it does not stop");
    oci.good(&["delete", "c1"]);
}

/// Sockets of a service manager reach the program; an exec goes to a cgroup below the container's.
pub async fn oci_sockets_and_cgroups_are_passed(test: &Test) {
    let mut oci = Oci::new(test);
    let program = test.path("knarr-oci");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::write(test.path("passed"), "by the manager").unwrap();
    oci.script("echo $LISTEN_FDS $LISTEN_PID; cat <&3");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --root \"$1\" run --bundle \"$2\" c1 3< \"$3\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&program).arg(&oci.root).arg(&oci.bundle).arg(test.path("passed"));
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 1\nby the manager", "{error}");

    oci.script("exec sleep 60");
    oci.create();
    oci.good(&["start", "c1"]);
    assert!(oci.bad(&["exec", "--cgroup", "absent", "c1", "id"]).contains("unable to apply cgroup"));
    assert!(oci.bad(&["exec", "--cgroup", "../..", "c1", "id"]).contains("invalid --cgroup"));
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pids = host.lines().find(|line| line.ends_with("rw,pids") && line.contains(" - cgroup "));
    if let Some(mount) = pids.and_then(|line| line.split(' ').nth(4)) {
        let below = format!("{mount}/{}/oci/below", test.cgroup);
        std::fs::create_dir(&below).unwrap();
        let script = "cat /proc/self/cgroup";
        let text = oci.good(&["exec", "--cgroup", "pids:below", "c1", "sh", "-c", script]);
        assert!(text.contains(":pids:/below\n") && text.contains(":memory:/\n"), "{text}");
    }
    oci.good(&["kill", "c1", "KILL"]);
    assert!((0..1000).any(|_| oci.status() == "stopped"), "it does not stop");
    oci.good(&["delete", "c1"]);
}
