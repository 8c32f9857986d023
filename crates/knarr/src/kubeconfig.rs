//! Kubeconfig files: the admin's own, and the context merged into the user's file as kind and minikube do.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The name of cluster, user and context.
pub const NAME: &str = "knarr";

/// What a kubeconfig says: where the server is and who the user is.
pub struct Access<'a> {
    /// `https://host:port`.
    pub server: &'a str,
    /// CA certificate, PEM.
    pub ca: &'a [u8],
    /// Client certificate, PEM.
    pub certificate: &'a [u8],
    /// Client key, PEM.
    pub key: &'a [u8],
}

fn entries(access: &Access<'_>) -> [(&'static str, Value); 3] {
    let encode = |pem: &[u8]| STANDARD.encode(pem);
    [
        (
            "clusters",
            json!({ "name": NAME, "cluster": { "server": access.server, "certificate-authority-data": encode(access.ca) } }),
        ),
        (
            "users",
            json!({ "name": NAME, "user": {
            "client-certificate-data": encode(access.certificate), "client-key-data": encode(access.key) } }),
        ),
        ("contexts", json!({ "name": NAME, "context": { "cluster": NAME, "user": NAME } })),
    ]
}

fn merged(mut config: Value, access: &Access<'_>) -> Value {
    if !config.is_object() {
        config = json!({});
    }
    config["apiVersion"] = "v1".into();
    config["kind"] = "Config".into();
    for (list, entry) in entries(access) {
        if !config[list].is_array() {
            config[list] = json!([]);
        }
        let list = config[list].as_array_mut().expect("made an array above");
        match list.iter_mut().find(|item| item["name"] == NAME) {
            Some(item) => *item = entry,
            None => list.push(entry),
        }
    }
    config["current-context"] = NAME.into();
    config
}

/// Writes the admin's kubeconfig to `path`.
pub fn write_admin(path: &Path, access: &Access<'_>) -> Result<()> {
    write(path, &merged(json!({}), access), None)
}

/// The file that kubectl would read for the person who ran the command: under sudo the invoking user's, with
/// that owner.
pub fn user_file() -> (PathBuf, Option<(u32, u32)>) {
    if let Ok(first) = std::env::var("KUBECONFIG")
        && let Some(first) = first.split(':').find(|p| !p.is_empty())
    {
        return (first.into(), invoking_user().map(|(uid, gid, _)| (uid, gid)));
    }
    match invoking_user() {
        Some((uid, gid, home)) => (home.join(".kube/config"), Some((uid, gid))),
        None => {
            let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
            (home.join(".kube/config"), None)
        }
    }
}

fn invoking_user() -> Option<(u32, u32, PathBuf)> {
    let uid: u32 = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    let gid: u32 = std::env::var("SUDO_GID").ok()?.parse().ok()?;
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() > 5 && fields[2].parse() == Ok(uid)).then(|| PathBuf::from(fields[5]))
    })?;
    Some((uid, gid, home))
}

/// Merges the context into the file at `path` and makes it the current one.
pub fn merge_into(path: &Path, owner: Option<(u32, u32)>, access: &Access<'_>) -> Result<()> {
    edit(path, owner, |config| Some(merged(config, access)))
}

/// Takes the context out of the file at `path` again, if it is there.
pub fn remove_from(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    edit(path, owner, |mut config| {
        let mut found = false;
        for list in ["clusters", "users", "contexts"] {
            if let Some(list) = config[list].as_array_mut() {
                let before = list.len();
                list.retain(|item| item["name"] != NAME);
                found |= list.len() != before;
            }
        }
        if config["current-context"] == NAME {
            config["current-context"] = "".into();
            found = true;
        }
        found.then_some(config)
    })
}

fn edit(path: &Path, owner: Option<(u32, u32)>, change: impl FnOnce(Value) -> Option<Value>) -> Result<()> {
    let directory = path.parent().context("a kubeconfig has a directory")?;
    if !directory.exists() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        chown(directory, owner)?;
    }
    // kubectl's own lock: `<file>.lock`, created exclusively.
    let lock =
        path.with_file_name(format!("{}.lock", path.file_name().unwrap_or_default().to_string_lossy()));
    let held = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
    if let Err(error) = held {
        bail!(
            "cannot lock {}: {error}; if nothing else is changing it, remove {}",
            path.display(),
            lock.display()
        );
    }
    let result = (|| {
        let config = match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => json!({}),
            Ok(text) => serde_saphyr::from_str(&text)
                .with_context(|| format!("{} is not a kubeconfig", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let owner = owner.or_else(|| std::fs::metadata(path).ok().map(|m| (m.uid(), m.gid())));
        match change(config) {
            Some(config) => write(path, &config, owner),
            None => Ok(()),
        }
    })();
    let _ = std::fs::remove_file(&lock);
    result
}

fn write(path: &Path, config: &Value, owner: Option<(u32, u32)>) -> Result<()> {
    let text = serde_saphyr::to_string(config).context("a kubeconfig always encodes")?;
    // Through symbolic links, so that a linked ~/.kube/config stays a link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = path.with_extension("knarr-new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    chown(&temporary, owner)?;
    std::fs::rename(&temporary, &path).with_context(|| format!("cannot replace {}", path.display()))
}

fn chown(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    match owner {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} its owner", path.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access<'static> {
        Access { server: "https://127.0.0.1:6443", ca: b"ca", certificate: b"crt", key: b"key" }
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_removing_takes_only_ours() {
        let directory = std::env::temp_dir().join(format!("knarr-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let path = directory.join("config");
        std::fs::write(&path, "contexts:\n- name: other\n  context: {cluster: c, user: u}\npreferences: {colors: true}\ncurrent-context: other\n").expect("writable");
        merge_into(&path, None, &access()).expect("merges");
        merge_into(&path, None, &access()).expect("merges again");
        let read = || -> Value {
            serde_saphyr::from_str(&std::fs::read_to_string(&path).expect("readable")).expect("YAML")
        };
        let config = read();
        assert_eq!(config["contexts"].as_array().map(Vec::len), Some(2));
        assert_eq!(config["current-context"], NAME);
        assert_eq!(config["preferences"]["colors"], true);
        remove_from(&path, None).expect("removes");
        let config = read();
        assert_eq!(
            config["contexts"],
            json!([{ "name": "other", "context": { "cluster": "c", "user": "u" } }])
        );
        assert_eq!(config["clusters"], json!([]));
        std::fs::remove_dir_all(&directory).expect("removable");
    }
}
