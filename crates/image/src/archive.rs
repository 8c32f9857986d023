//! Import of image archives: `docker save` files (with or without an OCI layout inside) and OCI image
//! layouts as tar, compressed or not. The archive is read in place: one pass finds where its members are,
//! then the members are read by position.

use crate::digest::{self, decompressed};
use crate::error::{ImportError, StoreError, io_error};
use crate::oci::{self, ConfigFile, Descriptor, Manifest};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, Pins};
use crate::{OnProgress, Progress};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Manifests and configurations above this size are refused (containerd's own limit is 8 MiB).
pub(crate) const MOST_METADATA_BYTES: u64 = 8 << 20;

impl ImageStore {
    /// Imports every image of an archive file.
    pub async fn import(
        self: &Arc<Self>,
        path: &Path,
        on_progress: OnProgress,
    ) -> Result<Vec<Image>, ImportError> {
        let (store, path) = (self.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || import(&store, &path, &on_progress))
            .await
            .expect("the import does not panic")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

struct Archive {
    path: PathBuf,
    file: File,
    members: HashMap<String, Member>,
}

enum Member {
    File { at: u64, size: u64 },
    Link(String),
}

/// Removes the decompressed copy of a compressed archive.
struct Temp(Option<PathBuf>);

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn import(store: &Arc<ImageStore>, path: &Path, progress: &OnProgress) -> Result<Vec<Image>, ImportError> {
    let read_error = |source| ImportError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let mut magic = [0; 4];
    let got = file.read(&mut magic).map_err(read_error)?;
    file.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let compressed = got >= 2 && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd]);
    let mut temp = Temp(None);
    if compressed {
        let plain = store.temp();
        temp.0 = Some(plain.clone());
        let options = File::options().read(true).write(true).create_new(true).open(&plain);
        let mut out = options.map_err(io_error("create", &plain))?;
        io::copy(&mut decompressed(file).map_err(read_error)?, &mut out).map_err(read_error)?;
        out.seek(SeekFrom::Start(0)).map_err(read_error)?;
        file = out;
    }
    let mut archive = Archive { path: path.to_owned(), members: members(&file).map_err(read_error)?, file };
    archive.file.seek(SeekFrom::Start(0)).map_err(read_error)?;
    if archive.members.contains_key("manifest.json") {
        return docker(store, &archive, progress);
    }
    if archive.members.contains_key("index.json") {
        return layout(store, &archive, progress);
    }
    Err(archive.format("it has neither manifest.json (docker-archive) nor index.json (OCI layout)"))
}

fn members(file: &File) -> io::Result<HashMap<String, Member>> {
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = normal(&entry.path()?.to_string_lossy());
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(name, Member::File { at: entry.raw_file_position(), size: entry.size() });
        } else if let (true, Some(target)) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?) {
            let target = target.to_string_lossy().into_owned();
            let base = Path::new(&name).parent().unwrap_or(Path::new(""));
            let target = if kind.is_symlink() {
                normal(&base.join(&target).to_string_lossy())
            } else {
                normal(&target)
            };
            members.insert(name, Member::Link(target));
        }
    }
    Ok(members)
}

/// A member's name without `./` and with `..` worked out.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Archive {
    fn format(&self, detail: impl Into<String>) -> ImportError {
        ImportError::Format { path: self.path.clone(), detail: detail.into() }
    }

    fn find(&self, name: &str) -> Result<(u64, u64), ImportError> {
        let mut name = normal(name);
        for _ in 0..8 {
            match self.members.get(&name) {
                Some(Member::File { at, size }) => return Ok((*at, *size)),
                Some(Member::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(self.format(format!("{name} is missing")))
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        let (at, size) = self.find(name)?;
        if size > MOST_METADATA_BYTES {
            return Err(self.format(format!("{name} has {size} bytes")));
        }
        let mut content = vec![0; size as usize];
        self.file
            .read_exact_at(&mut content, at)
            .map_err(|source| ImportError::Read { path: self.path.clone(), source })?;
        Ok(content)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ImportError> {
        serde_json::from_slice(&self.small(name)?).map_err(|e| self.format(format!("{name}: {e}")))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<String, ImportError> {
        match digest::hex(&descriptor.digest) {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.format(format!("{:?} is not a sha256 digest", descriptor.digest))),
        }
    }

    fn add_layer(
        &self,
        store: &Arc<ImageStore>,
        name: &str,
        diff_id: &str,
        pins: &mut Pins,
        progress: &OnProgress,
    ) -> Result<(), ImportError> {
        pins.add(diff_id);
        let (at, size) = self.find(name)?;
        let tell =
            |done_bytes| progress(Progress { item: diff_id.to_owned(), done_bytes, total_bytes: size });
        if !store.has_layer(diff_id) {
            tell(0);
            let part = Part { file: &self.file, at, end: at + size };
            store.add_layer(part, Some(diff_id), None, None)?;
        }
        tell(size);
        Ok(())
    }
}

/// A member of the archive as a reader.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = (self.end - self.at).min(buf.len() as u64) as usize;
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn docker(
    store: &Arc<ImageStore>,
    archive: &Archive,
    progress: &OnProgress,
) -> Result<Vec<Image>, ImportError> {
    let entries: Vec<DockerEntry> = archive.json("manifest.json")?;
    let mut images = Vec::new();
    for entry in entries {
        let config = archive.small(&entry.config)?;
        let tags = entry.repo_tags.unwrap_or_default();
        images.push(add(store, archive, &config, &entry.layers, &tags, progress)?);
    }
    Ok(images)
}

fn layout(
    store: &Arc<ImageStore>,
    archive: &Archive,
    progress: &OnProgress,
) -> Result<Vec<Image>, ImportError> {
    let index: Manifest = archive.json("index.json")?;
    let mut images = Vec::new();
    for entry in &index.manifests {
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .find_map(|key| entry.annotations.get(key).cloned());
        let mut manifest: Manifest = archive.json(&archive.blob(entry)?)?;
        if !manifest.manifests.is_empty() {
            let chosen = oci::for_host(&manifest.manifests)
                .ok_or_else(|| archive.format("no match for platform in manifest"))?;
            manifest = archive.json(&archive.blob(chosen)?)?;
        } else if entry.platform.is_some() && oci::for_host(std::slice::from_ref(entry)).is_none() {
            continue;
        }
        let config = manifest.config.as_ref().ok_or_else(|| archive.format("a manifest has no config"))?;
        let config = archive.small(&archive.blob(config)?)?;
        let layers = manifest.layers.iter().map(|l| archive.blob(l)).collect::<Result<Vec<_>, _>>()?;
        // Without a name in the layout, the file's own name is the best there is.
        let name = name.filter(|n| Reference::parse(n).is_ok()).or_else(|| {
            let stem = archive.path.file_stem()?.to_string_lossy().trim_end_matches(".tar").to_lowercase();
            Some(format!("localhost/{stem}")).filter(|n| Reference::parse(n).is_ok())
        });
        images.push(add(store, archive, &config, &layers, &Vec::from_iter(name), progress)?);
    }
    if images.is_empty() {
        return Err(archive.format("no match for platform in manifest"));
    }
    Ok(images)
}

fn add(
    store: &Arc<ImageStore>,
    archive: &Archive,
    config: &[u8],
    layers: &[String],
    tags: &[String],
    progress: &OnProgress,
) -> Result<Image, ImportError> {
    let file: ConfigFile =
        serde_json::from_slice(config).map_err(|e| archive.format(format!("image configuration: {e}")))?;
    if !file.fits_host() {
        return Err(archive.format("no match for platform in manifest"));
    }
    let diff_ids = &file.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(archive.format(format!("{} layers, but {} diff ids", layers.len(), diff_ids.len())));
    }
    let mut pins = Pins::new(store);
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        archive.add_layer(store, layer, diff_id, &mut pins, progress)?;
    }
    let mut image = None;
    for tag in tags {
        let reference =
            Reference::parse(tag).map_err(|e| archive.format(format!("image name {tag:?}: {e}")))?;
        image = Some(store.commit(config, reference.tagged(), None)?);
    }
    match image {
        Some(image) => Ok(image),
        // A nameless image is kept under its own identifier, so that it can be run and removed.
        None => {
            let id = digest::of(config);
            Ok(store.commit(config, None, Some(format!("localhost/unnamed@{id}")))?)
        }
    }
}

impl From<ImportError> for StoreError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error,
            other => StoreError::Layer { layer: "archive".to_owned(), detail: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent;
    use crate::store::tests::{layer, store};
    use serde_json::json;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn config(diff_ids: &[String]) -> Vec<u8> {
        json!({"architecture": oci::host_architecture(), "os": "linux", "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes()
    }

    #[tokio::test]
    async fn docker_archives_are_imported_whatever_the_order_and_compression() {
        let dir = tempfile::tempdir().unwrap();
        let tar = layer(&[("etc/hello", "hi")]);
        let config = config(&[digest::of(&tar)]);
        let manifest = json!([{"Config": "c.json", "RepoTags": ["busybox:1", "localhost/b"], "Layers": ["l/layer.tar"]}]);
        let plain = archive(&[
            ("l/layer.tar", &tar),
            ("c.json", &config),
            ("./manifest.json", manifest.to_string().as_bytes()),
        ]);
        for (name, bytes) in
            [("p.tar", plain.clone()), ("z.tar.zst", zstd::encode_all(&plain[..], 1).unwrap())]
        {
            let images = store(&dir.path().join(name.replace('.', "-")));
            let file = dir.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let image = images.import(&file, silent()).await.unwrap().remove(0);
            assert_eq!(image.id, digest::of(&config));
            assert_eq!(image.repo_tags, ["docker.io/library/busybox:1", "localhost/b:latest"]);
            assert_eq!(image.config.cmd, ["sh"]);
            let rootfs = images.prepare("busybox:1", "c").unwrap();
            assert_eq!(std::fs::read(rootfs.lower[0].join("etc/hello")).unwrap(), b"hi");
        }
    }

    #[tokio::test]
    async fn oci_layouts_are_imported_with_compressed_layers() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(&dir.path().join("images"));
        let tar = layer(&[("a", "1")]);
        let packed = zstd::encode_all(&tar[..], 1).unwrap();
        let config = config(&[digest::of(&tar)]);
        let manifest = json!({"schemaVersion": 2, "config": {"digest": digest::of(&config)},
            "layers": [{"digest": digest::of(&packed)}]})
        .to_string();
        let index = json!({"manifests": [{"digest": digest::of(manifest.as_bytes()),
            "annotations": {"io.containerd.image.name": "docker.io/library/app:v2"}}]})
        .to_string();
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest::of(bytes)[7..]);
        let file = dir.path().join("layout.tar");
        let members: [(&str, &[u8]); 4] = [
            (&blob(&packed), &packed),
            (&blob(&config), &config),
            (&blob(manifest.as_bytes()), manifest.as_bytes()),
            ("index.json", index.as_bytes()),
        ];
        std::fs::write(&file, archive(&members)).unwrap();
        let image = images.import(&file, silent()).await.unwrap().remove(0);
        assert_eq!(image.repo_tags, ["docker.io/library/app:v2"]);
        assert_eq!(image.size_bytes, 1);
    }

    #[tokio::test]
    async fn unusable_archives_say_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(&dir.path().join("images"));
        let tar = layer(&[("a", "1")]);
        let wrong = config(&[format!("sha256:{}", "0".repeat(64))]);
        let entry = |layers: &str| format!(r#"[{{"Config":"c","RepoTags":null,"Layers":[{layers}]}}]"#);
        let cases: [(Vec<u8>, &str); 4] = [
            (archive(&[("x", b"")]), "neither manifest.json"),
            (archive(&[("manifest.json", entry("").as_bytes())]), "c is missing"),
            (archive(&[("manifest.json", entry("").as_bytes()), ("c", &wrong)]), "0 layers, but 1 diff ids"),
            (
                archive(&[("manifest.json", entry("\"l\"").as_bytes()), ("c", &wrong), ("l", &tar)]),
                "unexpected digest",
            ),
        ];
        for (bytes, text) in cases {
            let file = dir.path().join("bad.tar");
            std::fs::write(&file, bytes).unwrap();
            let error = images.import(&file, silent()).await.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(images.list().is_empty());
    }
}
