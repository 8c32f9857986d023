//! The store on disk. `images.json` lists images; `configs/<digest>` holds their configuration files;
//! `layers/<diff id>/` their unpacked layers, shared by all images; `containers/<id>/` the writable side of
//! containers; `ingest/` downloads that can be resumed. Everything appears by rename after it was synced, so
//! that a crash leaves either nothing or the whole thing.

use crate::digest;
use crate::error::{StoreError, io_error};
use crate::oci::{ConfigFile, ImageConfig};
use crate::reference::Reference;
use knarr_base::Ctx;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and the digest of its configuration file.
    pub id: String,
    /// Normalized references with tags, sorted.
    pub repo_tags: Vec<String>,
    /// `repository@sha256:...` for images that came from a registry.
    pub repo_digests: Vec<String>,
    /// Size of its unpacked layers.
    pub size_bytes: u64,
    /// How to run it.
    pub config: Arc<ImageConfig>,
    /// Its layers, lowest first, as digests of their uncompressed form.
    pub diff_ids: Vec<String>,
}

/// An image in full.
#[derive(Clone, Debug)]
pub struct Details {
    /// The image.
    pub image: Image,
    /// Its configuration file as it came.
    pub config_file: serde_json::Value,
    /// Size of the files of each layer, in the order of the image's diff IDs.
    pub layer_bytes: Vec<u64>,
}

/// How the store works.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registries (`host` or `host:port`) spoken to without TLS.
    pub plain_http: Vec<String>,
    /// File of PEM roots to trust instead of the system's.
    pub roots: Option<PathBuf>,
    /// Mirrors, credentials and TLS of registries: a `registries.yaml` as K3s and RKE2 have it. Read again when it
    /// changes; it need not exist.
    pub registries: Option<PathBuf>,
    /// Images pulled at once, as the kubelet's `maxParallelImagePulls`; 0 is five, 1 pulls them one after another.
    pub parallel_pulls: usize,
}

/// The store. One process at a time; the lock ends with it.
pub struct ImageStore {
    pub(crate) ctx: Ctx,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) registry: crate::registry::Shared,
    state: Mutex<State>,
    next_temp: AtomicU64,
    changes: tokio::sync::watch::Sender<u64>,
    _lock: rustix::fd::OwnedFd,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    configs: HashMap<String, Arc<ImageConfig>>,
    /// Layers that are being worked with but belong to no image yet, with how many hold them.
    pins: HashMap<String, usize>,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) images: Vec<Record>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
    pub(crate) layers: Vec<String>,
    size_bytes: u64,
}

/// Keeps layers from being collected while an image is put together.
pub(crate) struct Pins {
    store: Arc<ImageStore>,
    layers: Vec<String>,
}

impl Pins {
    pub(crate) fn new(store: &Arc<ImageStore>) -> Self {
        Self { store: store.clone(), layers: Vec::new() }
    }

    pub(crate) fn add(&mut self, diff_id: &str) {
        *self.store.lock().pins.entry(diff_id.to_owned()).or_default() += 1;
        self.layers.push(diff_id.to_owned());
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        for layer in &self.layers {
            if let Some(count) = state.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(layer);
                }
            }
        }
    }
}

impl ImageStore {
    /// Opens the store in `dir`, made if missing, and clears what a crash left behind.
    pub fn open(ctx: &Ctx, dir: &Path, options: Options) -> Result<Arc<Self>, StoreError> {
        for sub in ["configs", "layers", "containers", "tmp", "ingest"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        let lock_path = dir.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&lock_path, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| io_error("open", &lock_path)(e.into()))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::Locked(dir.to_owned()))?;
        let index_path = dir.join("images.json");
        let index = match fs::read(&index_path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| StoreError::Corrupt { path: index_path, detail: e.to_string() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(io_error("read", &index_path)(error)),
        };
        let tmp = dir.join("tmp");
        for left in fs::read_dir(&tmp).map_err(io_error("read", &tmp))?.flatten() {
            let _ = fs::remove_dir_all(left.path()).or_else(|_| fs::remove_file(left.path()));
        }
        let store = Arc::new(Self {
            ctx: ctx.child("images"),
            dir: dir.to_owned(),
            registry: crate::registry::Shared::new(options.parallel_pulls),
            options,
            state: Mutex::new(State { index, ..State::default() }),
            next_temp: AtomicU64::new(0),
            changes: tokio::sync::watch::Sender::new(0),
            _lock: lock,
        });
        store.gc()?;
        Ok(store)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("image store lock is never poisoned")
    }

    /// The image that a reference, an identifier (`sha256:...`) or a beginning of one (12 digits or more) means.
    pub fn resolve(&self, reference: &str) -> Option<Image> {
        let mut state = self.lock();
        let wanted = Reference::parse(reference).ok();
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        let is_id = hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let by_id = |r: &Record| is_id && r.id["sha256:".len()..].starts_with(hex);
        let by_name = |r: &Record| {
            wanted.as_ref().is_some_and(|w| match &w.digest {
                Some(digest) => {
                    r.id == *digest || r.digests.contains(&format!("{}@{digest}", w.repository()))
                }
                None => w.tagged().is_some_and(|t| r.tags.contains(&t)),
            })
        };
        let images = &state.index.images;
        let record = images.iter().find(|r| by_name(r)).or_else(|| images.iter().find(|r| by_id(r)))?.clone();
        self.image(&mut state, &record).ok()
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        let mut state = self.lock();
        let records = state.index.images.clone();
        records.iter().filter_map(|r| self.image(&mut state, r).ok()).collect()
    }

    fn image(&self, state: &mut State, record: &Record) -> Result<Image, StoreError> {
        let config = match state.configs.get(&record.id) {
            Some(config) => config.clone(),
            None => {
                let path = self.config_path(&record.id)?;
                let text = fs::read(&path).map_err(io_error("read", &path))?;
                let file: ConfigFile = serde_json::from_slice(&text)
                    .map_err(|e| StoreError::Corrupt { path, detail: e.to_string() })?;
                let config = Arc::new(file.config);
                state.configs.insert(record.id.clone(), config.clone());
                config
            }
        };
        Ok(Image {
            id: record.id.clone(),
            repo_tags: record.tags.iter().cloned().collect(),
            repo_digests: record.digests.iter().cloned().collect(),
            size_bytes: record.size_bytes,
            config,
            diff_ids: record.layers.clone(),
        })
    }

    /// Everything about an image.
    pub fn inspect(&self, reference: &str) -> Result<Details, StoreError> {
        let image = self.resolve(reference).ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
        let path = self.config_path(&image.id)?;
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        let config_file =
            serde_json::from_slice(&text).map_err(|e| StoreError::Corrupt { path, detail: e.to_string() })?;
        let layer_bytes = image.diff_ids.iter().map(|layer| self.layer_size(layer)).collect();
        Ok(Details { image, config_file, layer_bytes })
    }

    /// Gives an image a further name; one that had it loses it. `localhost/unnamed` of an import without names goes.
    pub fn tag(&self, reference: &str, name: &str) -> Result<Image, StoreError> {
        let unusable = |detail: String| StoreError::Name { name: name.to_owned(), detail };
        let target = Reference::parse(name).map_err(|e| unusable(e.to_string()))?;
        if target.digest.is_some() {
            return Err(unusable("refusing to create a tag with a digest reference".to_owned()));
        }
        let image = self.resolve(reference).ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
        let mut state = self.lock();
        let mut images = state.index.images.clone();
        let tag = target.tagged().unwrap_or_default();
        for other in &mut images {
            other.tags.remove(&tag);
        }
        let gone = || StoreError::NotFound(reference.to_owned());
        let record = images.iter_mut().find(|r| r.id == image.id).ok_or_else(gone)?;
        record.tags.insert(tag);
        record.digests.remove(&unnamed(&image.id));
        self.record(&mut state, images, &image.id)
    }

    /// Takes away a name; the image goes with its last name. An identifier takes away the whole image.
    pub fn remove(&self, reference: &str) -> Result<(), StoreError> {
        let image = self.resolve(reference).ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
        let parsed = Reference::parse(reference).ok();
        {
            let mut state = self.lock();
            let before = state.index.images.clone();
            if let Some(record) = state.index.images.iter_mut().find(|r| r.id == image.id) {
                match parsed
                    .filter(|p| p.digest.is_some() || p.tagged().is_some_and(|t| record.tags.contains(&t)))
                {
                    Some(name) => {
                        match &name.digest {
                            Some(digest) => record.digests.remove(&format!("{}@{digest}", name.repository())),
                            None => record.tags.remove(&name.tagged().unwrap_or_default()),
                        };
                        if record.tags.is_empty() {
                            record.digests.clear();
                        }
                    }
                    None => {
                        record.tags.clear();
                        record.digests.clear();
                    }
                }
            }
            state.index.images.retain(|r| !r.tags.is_empty() || !r.digests.is_empty());
            if let Err(error) = self.write_index(&state.index) {
                state.index.images = before;
                return Err(error);
            }
        }
        self.gc()
    }

    /// Records an image whose layers are all in the store.
    pub(crate) fn commit(
        &self,
        config: &[u8],
        tag: Option<String>,
        repo_digest: Option<String>,
    ) -> Result<Image, StoreError> {
        let id = digest::of(config);
        let path = self.config_path(&id)?;
        let file: ConfigFile = serde_json::from_slice(config)
            .map_err(|e| StoreError::Corrupt { path: path.clone(), detail: e.to_string() })?;
        let mut size_bytes = 0;
        for diff_id in &file.rootfs.diff_ids {
            let path = self.layer_path(diff_id)?.join("size");
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            size_bytes += text.trim().parse::<u64>().unwrap_or_default();
        }
        // The names of layers have to last before an image does that needs them (see `publish`).
        self.sync_dir(&self.dir.join("layers"))?;
        self.write_durably(&path, config)?;
        let mut state = self.lock();
        let mut images = state.index.images.clone();
        for other in &mut images {
            if let Some(tag) = &tag {
                other.tags.remove(tag);
            }
        }
        match images.iter_mut().find(|r| r.id == id) {
            Some(record) => {
                record.tags.extend(tag);
                record.digests.extend(repo_digest);
            }
            None => images.push(Record {
                id: id.clone(),
                tags: tag.into_iter().collect(),
                digests: repo_digest.into_iter().collect(),
                layers: file.rootfs.diff_ids,
                size_bytes,
            }),
        }
        self.record(&mut state, images, &id)
    }

    /// Makes `images` the list, in which `id` has just been named.
    fn record(&self, state: &mut State, mut images: Vec<Record>, id: &str) -> Result<Image, StoreError> {
        // An image that lost its only tag to this one stays reachable through its digest, else it goes.
        images.retain(|r| r.id == id || !r.tags.is_empty() || !r.digests.is_empty());
        let index = Index { images };
        self.write_index(&index)?;
        state.index = index;
        let record = state.index.images.iter().find(|r| r.id == id).expect("it was put there").clone();
        self.image(state, &record)
    }

    /// Whether a layer is there, whole.
    pub(crate) fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_path(diff_id).is_ok_and(|p| p.join("size").exists())
    }

    /// Deletes layers that belong to no image, no container and no work in progress, and configurations
    /// without an image.
    pub fn gc(&self) -> Result<(), StoreError> {
        let used_by_containers = self.container_layers();
        let state = self.lock();
        let used = |id: &str| {
            state.pins.contains_key(id)
                || used_by_containers.contains(id)
                || state.index.images.iter().any(|r| r.layers.iter().any(|l| l == id))
        };
        let layers = self.dir.join("layers");
        for entry in fs::read_dir(&layers).map_err(io_error("read", &layers))?.flatten() {
            let name = entry.file_name();
            let id = format!("sha256:{}", name.to_string_lossy());
            if !used(&id) {
                // Renamed first: a half-deleted layer must not look whole after a crash.
                let doomed = self.temp();
                if fs::rename(entry.path(), &doomed).is_ok() {
                    let _ = fs::remove_dir_all(&doomed);
                }
            }
        }
        for entry in fs::read_dir(self.dir.join("configs")).into_iter().flatten().flatten() {
            let id = format!("sha256:{}", entry.file_name().to_string_lossy());
            if !state.index.images.iter().any(|r| r.id == id) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(index).expect("an index always encodes");
        self.write_durably(&self.dir.join("images.json"), &text)?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Counts additions and removals of images from now on.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Writes a file so that after a crash it is there in whole or as it was before.
    pub(crate) fn write_durably(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temp = self.temp();
        let mut file = fs::File::create(&temp).map_err(io_error("create", &temp))?;
        file.write_all(content).map_err(io_error("write", &temp))?;
        file.sync_all().map_err(io_error("sync", &temp))?;
        fs::rename(&temp, path).map_err(io_error("rename", path))?;
        self.sync_dir(path.parent().unwrap_or(&self.dir))
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        fs::File::open(path).and_then(|d| d.sync_all()).map_err(io_error("sync", path))
    }

    pub(crate) fn temp(&self) -> PathBuf {
        self.dir.join("tmp").join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn config_path(&self, id: &str) -> Result<PathBuf, StoreError> {
        Ok(self.dir.join("configs").join(checked_hex(id)?))
    }

    /// Where a layer lies or would lie; its files are in `fs` under it.
    pub(crate) fn layer_path(&self, diff_id: &str) -> Result<PathBuf, StoreError> {
        Ok(self.dir.join("layers").join(checked_hex(diff_id)?))
    }
}

/// Under which an image without a name is kept.
pub(crate) fn unnamed(id: &str) -> String {
    format!("localhost/unnamed@{id}")
}

fn checked_hex(id: &str) -> Result<&str, StoreError> {
    digest::hex(id)
        .ok_or_else(|| StoreError::Layer { layer: id.to_owned(), detail: "not a sha256 digest".to_owned() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::build;

    pub(crate) fn store(dir: &Path) -> Arc<ImageStore> {
        ImageStore::open(&Ctx::system(), dir, Options::default()).unwrap()
    }

    pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[tokio::test]
    async fn images_survive_reopening_and_share_layers() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let config = ImageConfig { cmd: vec!["sh".into()], ..Default::default() };
        let base = layer(&[("etc/base", "1")]);
        let one = build::add_image(&images, "localhost/one", &config, vec![Box::new(&base[..])]).unwrap();
        let top = layer(&[("etc/top", "22")]);
        let both: Vec<Box<dyn std::io::Read + Send>> = vec![Box::new(&base[..]), Box::new(&top[..])];
        let two = build::add_image(&images, "two:v1", &config, both).unwrap();
        assert_eq!(two.size_bytes, 3);
        assert_eq!(two.repo_tags, ["docker.io/library/two:v1"]);
        assert!(matches!(
            ImageStore::open(&Ctx::system(), dir.path(), Options::default()),
            Err(StoreError::Locked(_))
        ));
        drop(images);

        let images = store(dir.path());
        assert_eq!(images.resolve("localhost/one"), Some(one.clone()));
        assert_eq!(images.resolve(&one.id[..20]).unwrap().id, one.id);
        assert_eq!(images.resolve(&two.id), Some(two.clone()));
        assert_eq!(images.resolve("two"), None);
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 2);

        images.remove("two:v1").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 1);
        assert_eq!(images.list(), [one]);
        assert!(matches!(images.remove("two:v1"), Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn a_layer_that_is_not_what_it_says_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let wrong = format!("sha256:{}", "0".repeat(64));
        let tar = layer(&[("a", "b")]);
        let error = images.add_layer(&tar[..], Some(&wrong), None, None).unwrap_err();
        assert!(matches!(error, StoreError::Digest { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_tag_moves_to_the_image_that_took_it() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let config = ImageConfig::default();
        let (a, b) = (layer(&[("a", "a")]), layer(&[("b", "b")]));
        let old = build::add_image(&images, "app", &config, vec![Box::new(&a[..])]).unwrap();
        let new = build::add_image(&images, "app", &config, vec![Box::new(&b[..])]).unwrap();
        assert_ne!(old.id, new.id);
        assert_eq!(images.list(), [new]);
    }

    #[test]
    fn a_broken_index_is_reported_not_replaced() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_runtime = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("images.json"), "{").unwrap();
        let error = ImageStore::open(&Ctx::system(), dir.path(), Options::default()).err().unwrap();
        assert!(error.to_string().contains("images.json is corrupt"), "{error}");
    }
}
