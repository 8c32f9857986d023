//! The busybox image of the tests: Debian's static busybox with a link for each applet, as `docker save` writes
//! images (docker-archive).

use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Debian's busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";
/// The names the image gets.
pub const TAGS: [&str; 2] = ["busybox:1.35", "busybox:latest"];

/// Writes the archive to `path`.
pub fn write(path: &Path) {
    write_with(path, &TAGS, "");
}

/// Writes an archive with names of its own to `path`; `note` makes its layer another one.
pub fn write_with(path: &Path, tags: &[&str], note: &str) {
    assert!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: apt-get install busybox-static");
    let layer = layer(note).expect("a layer can be packed in memory");
    let layer_digest = digest(&layer, path);
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "busybox-static" }],
    })
    .to_string();
    let name = format!("{}.json", digest(config.as_bytes(), path));
    let manifest = json!([{ "Config": name, "RepoTags": tags, "Layers": ["layer.tar"] }]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in
        [("manifest.json", manifest.as_bytes()), (name.as_str(), config.as_bytes()), ("layer.tar", &layer)]
    {
        file(&mut archive, name, data, 0o644).expect("memory is writable");
    }
    std::fs::write(path, archive.into_inner().expect("memory is writable"))
        .expect("the directory is writable");
}

fn layer(note: &str) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (folder, mode) in
        [("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777), ("www", 0o755)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, folder, std::io::empty())?;
    }
    file(
        &mut layer,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        0o644,
    )?;
    file(&mut layer, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
    if !note.is_empty() {
        file(&mut layer, "etc/note", note.as_bytes(), 0o644)?;
    }
    file(&mut layer, "bin/busybox", &std::fs::read(BUSYBOX)?, 0o755)?;
    let applets = Command::new(BUSYBOX).arg("--list").output()?.stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    layer.into_inner()
}

fn file(archive: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8], mode: u32) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    archive.append_data(&mut header, name, data)
}

/// By coreutils, which every machine has; this package has no digests of its own.
fn digest(data: &[u8], near: &Path) -> String {
    let path = near.with_extension("digest");
    std::fs::write(&path, data).expect("the directory is writable");
    let output = Command::new("sha256sum").arg(&path).output().expect("sha256sum (coreutils) can be run");
    let _ = std::fs::remove_file(&path);
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().expect("a digest").to_owned()
}
