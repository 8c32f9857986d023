//! File systems on block devices, for local volumes whose path is one: an empty device is formatted, what has a file system
//! is checked and mounted, and what has anything else on it is left alone. As upstream, by programs of the host: blkid,
//! mkfs.TYPE, fsck, mount.

use rustix::fs::{Dev, major, minor};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The type when the volume names none.
pub(super) const DEFAULT_TYPE: &str = "ext4";
/// What blkid ends with when it found nothing.
const NOTHING_FOUND: i32 = 2;
/// What fsck ends with when it left errors; beyond that it could not do its work.
const ERRORS_LEFT: i32 = 4;
/// Two pods that start at once must not both format.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A volume on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    /// Type of the file system.
    pub(super) fs_type: String,
    pub(super) read_only: bool,
    /// The volume's options to mount with.
    pub(super) options: Vec<String>,
}

/// How a program ended, and what it said.
struct Ended {
    code: i32,
    said: String,
}

/// Runs a program of the host.
type Run<'a> = &'a dyn Fn(&str, &[&str]) -> io::Result<Ended>;

/// Mounts the device's file system at `target`, which is made, unless that is done; makes the file system if there is
/// nothing on the device. The message of what went wrong is upstream's.
pub(super) fn mount(device: &Device, target: &Path) -> Result<(), String> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if super::mount_points(&table).any(|point| point == target) {
        return Ok(());
    }
    std::fs::create_dir_all(target).map_err(|e| format!("mkdir {}: {e}", target.display()))?;
    let number = std::fs::metadata(&device.path).map_err(|e| e.to_string())?.rdev();
    let made = prepare(device, target, is_mounted(&table, number), &run);
    if made.is_err() {
        let _ = std::fs::remove_dir(target);
    }
    made
}

fn run(program: &str, arguments: &[&str]) -> io::Result<Ended> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    // Ended by a signal: as the shell counts it.
    let code = output.status.code().unwrap_or(128);
    Ok(Ended { code, said: String::from_utf8_lossy(&said).into_owned() })
}

/// Whether a table of mounts has one of the device.
fn is_mounted(table: &str, number: Dev) -> bool {
    let number = format!("{}:{}", major(number), minor(number));
    table.lines().any(|line| line.split(' ').nth(2) == Some(&number))
}

/// What is on a device, in blkid's word; `None` for nothing.
fn format_of(ended: &Ended) -> Result<Option<String>, String> {
    match ended.code {
        0 => {}
        NOTHING_FOUND => return Ok(None),
        code => return Err(format!("exit status {code}")),
    }
    let mut found = None;
    for line in ended.said.lines().filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            Some(("PTTYPE", _)) => return Ok(Some("unknown data, probably partitions".to_owned())),
            Some(("TYPE", kind)) => found = Some(kind.to_owned()),
            Some(_) => {}
            None => return Err(format!("blkid returns invalid output: {}", ended.said)),
        }
    }
    // It found something that it has no name for.
    Ok(Some(found.unwrap_or_else(|| "unknown data".to_owned())))
}

fn failed_to_run(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("exec: \"{program}\": executable file not found in $PATH"),
        _ => format!("exec: \"{program}\": {error}"),
    }
}

fn prepare(device: &Device, target: &Path, in_use: bool, run: Run<'_>) -> Result<(), String> {
    let (source, at) = (device.path.to_string_lossy(), target.to_string_lossy());
    let kind = &*device.fs_type;
    let asked = run("blkid", &["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", &source]);
    let there = asked.map_err(|e| failed_to_run("blkid", &e)).and_then(|ended| format_of(&ended));
    let there = there.map_err(|why| format!("failed to get disk format of disk {source}: {why}"))?;
    match there {
        None if device.read_only => {
            return Err(format!(
                "cannot mount unformatted disk {source} as we are manipulating it in read-only mode"
            ));
        }
        None => make(&source, kind, run)?,
        Some(_) if device.read_only || in_use => {}
        Some(_) => check(&source, run)?,
    }
    let mounted = attach(device, &at, device.read_only, run);
    if device.read_only && in_use && mounted.is_err() {
        // Another pod writes, and a file system is read-only for all or for nobody. The container's mount is all the same.
        return attach(device, &at, false, run);
    }
    mounted
}

fn attach(device: &Device, at: &str, read_only: bool, run: Run<'_>) -> Result<(), String> {
    let source = device.path.to_string_lossy();
    let mut options: Vec<&str> = read_only.then_some("ro").into_iter().collect();
    options.extend(device.options.iter().map(String::as_str));
    options.push("defaults");
    let options = options.join(",");
    let arguments = ["-t", &*device.fs_type, "-o", &options, &source, at];
    let ended = run("mount", &arguments).map_err(|e| failed_to_run("mount", &e))?;
    match ended.code {
        0 => Ok(()),
        code => Err(format!(
            "mount failed: exit status {code}\nMounting command: mount\nMounting arguments: {}\nOutput: {}",
            arguments.join(" "),
            ended.said
        )),
    }
}

/// Makes a file system on a device that has nothing on it.
fn make(source: &str, kind: &str, run: Run<'_>) -> Result<(), String> {
    let program = format!("mkfs.{kind}");
    let arguments: &[&str] = match kind {
        "ext3" | "ext4" => &["-F", "-m0", source],
        "xfs" => &["-f", source],
        _ => &[source],
    };
    tracing::info!(source, kind, "an empty device is formatted");
    let why = match run(&program, arguments) {
        Ok(ended) if ended.code == 0 => return Ok(()),
        Ok(ended) => format!("errcode:(exit status {}) output:({})", ended.code, ended.said),
        Err(error) => format!("errcode:({}) output:()", failed_to_run(&program, &error)),
    };
    Err(format!("format of disk {source:?} failed: type:({kind:?}) {why}"))
}

/// Lets fsck mend what it can without asking. Without it the device is mounted as it is.
fn check(source: &str, run: Run<'_>) -> Result<(), String> {
    match run("fsck", &["-a", source]) {
        Ok(Ended { code: ERRORS_LEFT, said }) => {
            Err(format!("'fsck' found errors on device {source} but could not correct them: {said}"))
        }
        Ok(ended) => {
            if ended.code != 0 {
                tracing::info!(source, code = ended.code, said = ended.said, "fsck had something to say");
            }
            Ok(())
        }
        Err(error) => {
            tracing::warn!(source, %error, "mounting a device without a check: fsck cannot be run");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Runs [`prepare`] with programs that end so, or are not there (`None`); what was run, and the outcome.
    fn tried(
        device: &Device,
        in_use: bool,
        programs: &[(&str, i32, &str)],
    ) -> (Vec<String>, Result<(), String>) {
        let ran = RefCell::new(Vec::new());
        let run = |program: &str, arguments: &[&str]| {
            let found = programs.iter().find(|(name, ..)| *name == program);
            let (_, code, said) = found.ok_or(io::ErrorKind::NotFound)?;
            ran.borrow_mut().push(format!("{program} {}", arguments.join(" ")));
            Ok(Ended { code: *code, said: (*said).to_owned() })
        };
        let outcome = prepare(device, Path::new("/t"), in_use, &run);
        (ran.into_inner(), outcome)
    }

    const BLKID: &str = "blkid -p -s TYPE -s PTTYPE -o export /dev/d";

    fn device(fs_type: &str, read_only: bool, options: &[&str]) -> Device {
        let options = options.iter().map(|&o| o.to_owned()).collect();
        Device { path: "/dev/d".into(), fs_type: fs_type.to_owned(), read_only, options }
    }

    #[test]
    fn only_what_is_empty_is_formatted() {
        let all = |code, said| {
            [
                ("blkid", code, said),
                ("mkfs.ext4", 0, ""),
                ("mkfs.xfs", 0, ""),
                ("fsck", 0, ""),
                ("mount", 0, ""),
            ]
        };
        let plain = device(DEFAULT_TYPE, false, &[]);
        for (device, in_use, programs, expected) in [
            (
                &plain,
                false,
                all(2, ""),
                vec!["mkfs.ext4 -F -m0 /dev/d", "mount -t ext4 -o defaults /dev/d /t"],
            ),
            (
                &device("xfs", false, &["noatime"]),
                false,
                all(2, ""),
                vec!["mkfs.xfs -f /dev/d", "mount -t xfs -o noatime,defaults /dev/d /t"],
            ),
            (
                &plain,
                false,
                all(0, "DEVNAME=/dev/d\nTYPE=ext4\n"),
                vec!["fsck -a /dev/d", "mount -t ext4 -o defaults /dev/d /t"],
            ),
            (&plain, true, all(0, "TYPE=ext4\n"), vec!["mount -t ext4 -o defaults /dev/d /t"]),
            (
                &device("ext4", true, &[]),
                false,
                all(0, "TYPE=ext4\n"),
                vec!["mount -t ext4 -o ro,defaults /dev/d /t"],
            ),
            // Another file system, partitions, or what has no name: mounting fails, and nothing is lost.
            (
                &plain,
                false,
                all(0, "TYPE=xfs\n"),
                vec!["fsck -a /dev/d", "mount -t ext4 -o defaults /dev/d /t"],
            ),
            (
                &plain,
                false,
                all(0, "PTTYPE=gpt\n"),
                vec!["fsck -a /dev/d", "mount -t ext4 -o defaults /dev/d /t"],
            ),
            (&plain, false, all(0, ""), vec!["fsck -a /dev/d", "mount -t ext4 -o defaults /dev/d /t"]),
        ] {
            let (ran, outcome) = tried(device, in_use, &programs);
            assert_eq!(ran, [&[BLKID], &*expected].concat(), "{device:?} {}", programs[0].2);
            assert_eq!(outcome, Ok(()));
        }
    }

    #[test]
    fn what_goes_wrong_is_said_in_upstreams_words_and_nothing_is_formatted_on_a_doubt() {
        let plain = device(DEFAULT_TYPE, false, &[]);
        let ok = |name| (name, 0, "");
        for (device, programs, text, formatted) in [
            (
                &plain,
                vec![ok("mkfs.ext4"), ok("mount")],
                "failed to get disk format of disk /dev/d: exec: \"blkid\": executable file not found in $PATH",
                false,
            ),
            (
                &plain,
                vec![("blkid", 8, "ambivalent"), ok("mkfs.ext4")],
                "failed to get disk format of disk /dev/d: exit status 8",
                false,
            ),
            (
                &plain,
                vec![("blkid", 0, "what"), ok("mkfs.ext4")],
                "failed to get disk format of disk /dev/d: blkid returns invalid output: what",
                false,
            ),
            (
                &device(DEFAULT_TYPE, true, &[]),
                vec![("blkid", 2, ""), ok("mkfs.ext4")],
                "cannot mount unformatted disk /dev/d as we are manipulating it in read-only mode",
                false,
            ),
            (
                &device("btrfs", false, &[]),
                vec![("blkid", 2, "")],
                "format of disk \"/dev/d\" failed: type:(\"btrfs\") errcode:(exec: \"mkfs.btrfs\": executable file not found in $PATH) output:()",
                false,
            ),
            (
                &plain,
                vec![("blkid", 2, ""), ("mkfs.ext4", 1, "too small")],
                "format of disk \"/dev/d\" failed: type:(\"ext4\") errcode:(exit status 1) output:(too small)",
                true,
            ),
            (
                &plain,
                vec![("blkid", 0, "TYPE=ext4"), ("fsck", 4, "bad"), ok("mount")],
                "'fsck' found errors on device /dev/d but could not correct them: bad",
                false,
            ),
            (
                &plain,
                vec![("blkid", 0, "TYPE=ext4"), ("mount", 32, "wrong fs type")],
                "mount failed: exit status 32\nMounting command: mount\nMounting arguments: -t ext4 -o defaults /dev/d /t\nOutput: wrong fs type",
                false,
            ),
        ] {
            let (ran, outcome) = tried(device, false, &programs);
            assert_eq!(outcome.as_ref().map_err(String::as_str), Err(text));
            assert_eq!(ran.iter().any(|line| line.starts_with("mkfs")), formatted, "{text}");
        }
        // Where another pod writes, the one that only reads has the same file system.
        let reader = device(DEFAULT_TYPE, true, &[]);
        let (ran, _) = tried(&reader, true, &[("blkid", 0, "TYPE=ext4"), ("mount", 32, "busy")]);
        let both = ["mount -t ext4 -o ro,defaults /dev/d /t", "mount -t ext4 -o defaults /dev/d /t"];
        assert_eq!(ran[1..], both);
        // Errors that fsck mended, or a check that is not possible, are no obstacle.
        for programs in [
            vec![("blkid", 0, "TYPE=ext4"), ("fsck", 1, ""), ok("mount")],
            vec![("blkid", 0, "TYPE=ext4"), ok("mount")],
        ] {
            assert_eq!(tried(&plain, false, &programs).1, Ok(()));
        }
    }

    #[test]
    fn a_device_is_in_use_where_the_table_says() {
        let table = "1 2 7:3 / /a rw - ext4 /dev/loop3 rw\n";
        assert!(is_mounted(table, rustix::fs::makedev(7, 3)));
        assert!(!is_mounted(table, rustix::fs::makedev(7, 30)));
    }
}
