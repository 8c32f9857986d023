//! Writing images out: docker-archive (what `docker save` writes and everybody reads) and oci-archive (an OCI image layout
//! as tar). Layers are written uncompressed and to the bit as they came, by the notes taken when they were unpacked, so
//! that the image has the same identifier wherever it is loaded; an archive that cannot be written so is not written.

use crate::digest::{self, Written};
use crate::error::{SaveError, StoreError, io_error};
use crate::layer::NOTES;
use crate::oci::{Descriptor, MANIFESTS, Platform, host_architecture};
use crate::reference::Reference;
use crate::store::{Image, ImageStore};
use crate::unpack::notes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Write};

/// The form of a saved archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `manifest.json`, as `docker save` writes it.
    #[default]
    DockerArchive,
    /// An OCI image layout.
    OciArchive,
}

/// An image, and the names by which it was asked for.
struct Wanted {
    image: Image,
    config: Vec<u8>,
    names: BTreeSet<String>,
}

impl ImageStore {
    /// Writes the images that `references` mean as one archive. An image asked for by its identifier has no name in it.
    /// Blocking.
    pub fn save(&self, references: &[String], format: Format, out: &mut dyn Write) -> Result<(), SaveError> {
        let mut images: Vec<Wanted> = Vec::new();
        for reference in references {
            let image = self.resolve(reference).ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
            let name = Reference::parse(reference).ok().and_then(|r| r.tagged());
            let name = name.filter(|n| image.repo_tags.contains(n));
            let at = match images.iter().position(|w| w.image.id == image.id) {
                Some(at) => at,
                None => {
                    let path = self.config_path(&image.id)?;
                    let config = fs::read(&path).map_err(io_error("read", &path))?;
                    images.push(Wanted { image, config, names: BTreeSet::new() });
                    images.len() - 1
                }
            };
            images[at].names.extend(name);
        }
        let mut archive =
            Archive { store: self, out: tar::Builder::new(BufWriter::new(out)), there: BTreeSet::new() };
        match format {
            Format::DockerArchive => archive.docker(&images)?,
            Format::OciArchive => archive.oci(&images)?,
        }
        let written = archive.out.into_inner().and_then(|mut out| out.flush());
        written.map_err(SaveError::Write)
    }
}

struct Archive<'a> {
    store: &'a ImageStore,
    out: tar::Builder<BufWriter<&'a mut dyn Write>>,
    /// Members written already: images share layers.
    there: BTreeSet<String>,
}

impl Archive<'_> {
    fn docker(&mut self, images: &[Wanted]) -> Result<(), SaveError> {
        let mut entries = Vec::new();
        for Wanted { image, config, names } in images {
            let name = |digest: &str, end: &str| format!("{}.{end}", digest.trim_start_matches("sha256:"));
            let mut layers = Vec::new();
            for diff_id in &image.diff_ids {
                self.layer(&name(diff_id, "tar"), diff_id)?;
                layers.push(name(diff_id, "tar"));
            }
            let config_name = name(&image.id, "json");
            self.member(&config_name, config)?;
            entries.push(json!({ "Config": config_name, "RepoTags": names, "Layers": layers }));
        }
        self.member("manifest.json", json!(entries).to_string().as_bytes())
    }

    fn oci(&mut self, images: &[Wanted]) -> Result<(), SaveError> {
        let mut index = Vec::new();
        self.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for Wanted { image, config, names } in images {
            let mut layers = Vec::new();
            for diff_id in &image.diff_ids {
                let size = self.layer(&blob(diff_id), diff_id)?;
                layers.push(descriptor("application/vnd.oci.image.layer.v1.tar", diff_id, size));
            }
            self.member(&blob(&image.id), config)?;
            let size = config.len() as u64;
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFESTS[0],
                "config": descriptor("application/vnd.oci.image.config.v1+json", &image.id, size),
                "layers": layers,
            })
            .to_string();
            let id = digest::of(manifest.as_bytes());
            self.member(&blob(&id), manifest.as_bytes())?;
            let mut entry = descriptor(MANIFESTS[0], &id, manifest.len() as u64);
            let architecture = host_architecture().to_owned();
            entry.platform = Some(Platform { architecture, os: "linux".to_owned(), ..Platform::default() });
            // containerd looks for the first of these, podman and skopeo for the second.
            for name in names {
                let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
                let annotations = keys.map(|key| (key.to_owned(), name.clone()));
                index.push(Descriptor { annotations: BTreeMap::from(annotations), ..entry.clone() });
            }
            if names.is_empty() {
                index.push(entry);
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": index,
        });
        self.member("index.json", index.to_string().as_bytes())
    }

    /// Writes a layer, unless it is there; its size.
    fn layer(&mut self, name: &str, diff_id: &str) -> Result<u64, SaveError> {
        let dir = self.store.layer_path(diff_id)?;
        let notes = dir.join(NOTES);
        let length = match notes::length(&notes) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SaveError::NoNotes(diff_id.to_owned()));
            }
            Err(source) => return Err(SaveError::Layer { layer: diff_id.to_owned(), source }),
        };
        if self.there.insert(name.to_owned()) {
            self.header(name, length)?;
            let mut written = Written::new(self.out.get_mut());
            notes::rebuild(&notes, &dir.join("fs"), &mut written).map_err(|source| match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::StorageFull => SaveError::Write(source),
                _ => SaveError::Layer { layer: diff_id.to_owned(), source },
            })?;
            let (count, actual) = written.finish();
            if actual != *diff_id || count != length {
                return Err(StoreError::Digest { actual, expected: diff_id.to_owned() }.into());
            }
            self.pad(length)?;
        }
        Ok(length)
    }

    fn member(&mut self, name: &str, content: &[u8]) -> Result<(), SaveError> {
        if self.there.insert(name.to_owned()) {
            self.header(name, content.len() as u64)?;
            self.out.get_mut().write_all(content).map_err(SaveError::Write)?;
            self.pad(content.len() as u64)?;
        }
        Ok(())
    }

    /// Every archive of the same images is the same: no times, no owners.
    fn header(&mut self, name: &str, size: u64) -> Result<(), SaveError> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_path(name).map_err(SaveError::Write)?;
        header.set_cksum();
        self.out.get_mut().write_all(header.as_bytes()).map_err(SaveError::Write)
    }

    fn pad(&mut self, size: u64) -> Result<(), SaveError> {
        let padding = (512 - size % 512) % 512;
        self.out.get_mut().write_all(&[0; 512][..padding as usize]).map_err(SaveError::Write)
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest: digest.to_owned(), size, ..Descriptor::default() }
}

#[cfg(test)]
mod tests;
