//! Import of image archives: `docker save` files (with or without an OCI layout inside) and OCI image layouts, as tar,
//! compressed or not, or as a directory. An archive is taken whole or not at all: names are given once all its images are
//! there, and layers of an import that failed go.

mod source;
#[cfg(test)]
mod tests;

use crate::digest;
use crate::error::{ImportError, StoreError};
use crate::layer::Staged;
use crate::oci::{self, ConfigFile, Descriptor, Manifest};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, Pins, unnamed};
use crate::{OnProgress, Progress};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use source::Source;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Manifests and configurations above this size are refused (containerd's own limit is 8 MiB).
pub(crate) const MOST_METADATA_BYTES: u64 = 8 << 20;
/// Indexes in indexes, at most.
const MOST_NESTED: usize = 4;

impl ImageStore {
    /// Imports every image of an archive file, or of a directory with an OCI layout.
    pub async fn import(
        self: &Arc<Self>,
        path: &Path,
        on_progress: OnProgress,
    ) -> Result<Vec<Image>, ImportError> {
        self.import_from(path, None, on_progress).await
    }

    /// Imports every image of `file`, which may also be a pipe; `path` is its name. Without a file, as [`Self::import`].
    pub async fn import_from(
        self: &Arc<Self>,
        path: &Path,
        file: Option<File>,
        on_progress: OnProgress,
    ) -> Result<Vec<Image>, ImportError> {
        let (store, path) = (self.clone(), path.to_owned());
        let work = move || {
            let imported = import(&store, &path, file, &on_progress);
            if imported.is_err() {
                let _ = store.gc();
            }
            imported
        };
        tokio::task::spawn_blocking(work).await.expect("the import does not panic")
    }
}

fn import(
    store: &Arc<ImageStore>,
    path: &Path,
    file: Option<File>,
    progress: &OnProgress,
) -> Result<Vec<Image>, ImportError> {
    let source = match file {
        None if path.is_dir() => Source::directory(path)?,
        None => {
            let opened = File::open(path);
            let file = opened.map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
            Source::tar(store, path, file)?
        }
        Some(file) => Source::tar(store, path, file)?,
    };
    let mut import =
        Import { store, source, progress, pins: Pins::new(store), staged: Vec::new(), found: Vec::new() };
    if import.source.has("manifest.json") {
        import.docker()?;
    } else if import.source.has("index.json") {
        import.layout()?;
    } else {
        return Err(import
            .source
            .missing("it has neither manifest.json (docker-archive) nor index.json (OCI layout)"));
    }
    import.commit()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

struct Import<'a> {
    store: &'a Arc<ImageStore>,
    source: Source,
    progress: &'a OnProgress,
    pins: Pins,
    /// Layers that are unpacked, and become the store's together.
    staged: Vec<Staged>,
    /// Images whose layers are unpacked or in the store: configuration and names.
    found: Vec<(Vec<u8>, Vec<Reference>)>,
}

/// A layer in the archive: its name, and what the archive says it hashes to.
type Layer = (String, Option<String>);

impl Import<'_> {
    fn docker(&mut self) -> Result<(), ImportError> {
        let entries: Vec<DockerEntry> = self.json("manifest.json", None)?;
        if entries.is_empty() {
            return Err(self.source.format("it holds no image"));
        }
        for entry in entries {
            // Configurations are called by their digest, by all who write such archives.
            let stem = entry.config.trim_end_matches(".json").rsplit('/').next().unwrap_or_default();
            let digest = Some(format!("sha256:{stem}")).filter(|d| digest::hex(d).is_some());
            let config = self.source.small(&entry.config, digest.as_deref())?;
            let layers: Vec<Layer> =
                entry.layers.unwrap_or_default().into_iter().map(|l| (l, None)).collect();
            self.add(config, &layers, &entry.repo_tags.unwrap_or_default())?;
        }
        Ok(())
    }

    fn layout(&mut self) -> Result<(), ImportError> {
        let index: Manifest = self.json("index.json", None)?;
        for entry in &index.manifests {
            let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .into_iter()
                .find_map(|key| entry.annotations.get(key).cloned());
            let mut manifest = self.manifest(entry)?;
            for depth in 0.. {
                if manifest.manifests.is_empty() {
                    break;
                }
                if depth == MOST_NESTED {
                    return Err(self.source.format("its indexes are nested too deeply"));
                }
                let chosen = oci::for_host(&manifest.manifests)
                    .ok_or_else(|| self.source.format("no match for platform in manifest"))?;
                manifest = self.manifest(chosen)?;
            }
            if entry.platform.is_some() && oci::for_host(std::slice::from_ref(entry)).is_none() {
                continue;
            }
            let config =
                manifest.config.as_ref().ok_or_else(|| self.source.format("a manifest has no config"))?;
            let config = self.source.small(&self.blob(config)?, Some(&config.digest))?;
            let layers = manifest
                .layers
                .iter()
                .map(|l| Ok((self.blob(l)?, Some(l.digest.clone()))))
                .collect::<Result<Vec<Layer>, ImportError>>()?;
            // Without a name in the layout, the archive's own name is the best there is.
            let name = name.filter(|n| Reference::parse(n).is_ok()).or_else(|| {
                let stem = self.source.path.file_stem()?.to_string_lossy();
                let stem = stem.trim_end_matches(".tar").to_lowercase();
                Some(format!("localhost/{stem}")).filter(|n| Reference::parse(n).is_ok())
            });
            self.add(config, &layers, &Vec::from_iter(name))?;
        }
        match self.found.is_empty() {
            true => Err(self.source.format("no match for platform in manifest")),
            false => Ok(()),
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &str, digest: Option<&str>) -> Result<T, ImportError> {
        let text = self.source.small(name, digest)?;
        serde_json::from_slice(&text).map_err(|e| self.source.format(format!("{name}: {e}")))
    }

    fn manifest(&self, entry: &Descriptor) -> Result<Manifest, ImportError> {
        self.json(&self.blob(entry)?, Some(&entry.digest))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<String, ImportError> {
        match digest::hex(&descriptor.digest) {
            Some(hex) => Ok(format!("blobs/sha256/{hex}")),
            None => Err(self.source.format(format!("{:?} is not a sha256 digest", descriptor.digest))),
        }
    }

    /// Takes in the layers of an image.
    fn add(&mut self, config: Vec<u8>, layers: &[Layer], tags: &[String]) -> Result<(), ImportError> {
        let file: ConfigFile = serde_json::from_slice(&config)
            .map_err(|e| self.source.format(format!("image configuration: {e}")))?;
        if !file.fits_host() {
            return Err(self.source.format("no match for platform in manifest"));
        }
        let diff_ids = &file.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(self.source.format(format!(
                "{} layers, but {} diff ids",
                layers.len(),
                diff_ids.len()
            )));
        }
        let name = |tag: &String| {
            Reference::parse(tag).map_err(|e| self.source.format(format!("image name {tag:?}: {e}")))
        };
        let names = tags.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        for ((name, blob), diff_id) in layers.iter().zip(diff_ids) {
            self.pins.add(diff_id);
            let part = self.source.open(name)?;
            let total_bytes = part.length();
            let tell = |done_bytes| {
                (self.progress)(Progress { item: diff_id.to_owned(), done_bytes, total_bytes });
            };
            let staged = self.staged.iter().any(|layer| layer.diff_id() == diff_id);
            if !staged && !self.store.has_layer(diff_id) {
                tell(0);
                self.staged.push(self.store.stage_layer(part, Some(diff_id), blob.as_deref())?);
            }
            tell(total_bytes);
        }
        self.found.push((config, names));
        Ok(())
    }

    /// Records what was found.
    fn commit(self) -> Result<Vec<Image>, ImportError> {
        self.store.publish(self.staged)?;
        let mut images = Vec::new();
        for (config, names) in self.found {
            let mut image = None;
            for name in names {
                image = Some(self.store.commit(&config, name.tagged(), None)?);
            }
            images.push(match image {
                Some(image) => image,
                // A nameless image is kept under its own identifier, so that it can be run and removed.
                None => {
                    let id = digest::of(&config);
                    self.store.commit(&config, None, Some(unnamed(&id)))?
                }
            });
        }
        Ok(images)
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
