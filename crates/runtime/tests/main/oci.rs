//! The OCI command line, by this very program under the name that makes it the command line.

use crate::pod::Test;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

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
        assert!(oci.run(&["spec", "--bundle", &bundle]).status.success());
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
    // The container inherits these, so none may be a pipe that somebody waits at.
    let created = Command::new("/proc/self/exe")
        .arg0("knarr-oci")
        .arg("--root")
        .arg(&oci.root)
        .args(["create", "--bundle", oci.bundle.to_str().unwrap(), "c1"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
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

    oci.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    oci.save();
    let (code, text) = oci.foreground();
    assert!(code == 1 && text.contains("error running createRuntime hook #0"), "{text}");
    assert!(oci.bad(&["state", "c1"]).contains("does not exist"));
}
