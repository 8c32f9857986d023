//! The root file systems of containers: which directories an overlay mount is made of. The shim mounts;
//! nothing here does.

use crate::error::{StoreError, io_error};
use crate::store::ImageStore;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directories of a container's overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFs {
    /// Unpacked layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// overlayfs' work directory.
    pub work: PathBuf,
    /// An empty directory to mount on.
    pub target: PathBuf,
}

impl ImageStore {
    /// Makes the directories for a container of the image. Done again for the same container, it gives the
    /// same directories.
    pub fn prepare(&self, image_id: &str, container_id: &str) -> Result<RootFs, StoreError> {
        let image = self.resolve(image_id).ok_or_else(|| StoreError::NotFound(image_id.to_owned()))?;
        let dir = self.container_dir(container_id)?;
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        // The list of layers is there before the container is: gc reads it.
        let layers = dir.join("layers");
        fs::write(&layers, image.diff_ids.join("\n")).map_err(io_error("write", &layers))?;
        let name = dir.join("image");
        fs::write(&name, &image.id).map_err(io_error("write", &name))?;
        self.touch(&image.id);
        let mut lower = Vec::new();
        for diff_id in image.diff_ids.iter().rev() {
            lower.push(self.layer_path(diff_id)?.join("fs"));
        }
        if lower.is_empty() {
            lower.push(dir.join("empty"));
        }
        let rootfs =
            RootFs { lower, upper: dir.join("upper"), work: dir.join("work"), target: dir.join("rootfs") };
        for path in [&rootfs.upper, &rootfs.work, &rootfs.target, &dir.join("empty")] {
            fs::create_dir_all(path).map_err(io_error("create", path))?;
        }
        // The merged root has the attributes of the writable layer's, so they come from the image's.
        if let Ok(top) = fs::metadata(&rootfs.lower[0]) {
            let _ = std::os::unix::fs::chown(&rootfs.upper, Some(top.uid()), Some(top.gid()));
            let _ = fs::set_permissions(&rootfs.upper, fs::Permissions::from_mode(top.mode() & 0o7777));
        }
        Ok(rootfs)
    }

    /// Deletes a container's writable side. Layers of removed images go with their last container.
    pub fn release(&self, container_id: &str) -> Result<(), StoreError> {
        let dir = self.container_dir(container_id)?;
        let image = fs::read_to_string(dir.join("image"));
        if let Ok(image) = &image {
            self.touch(image);
        }
        let doomed = self.temp();
        match fs::rename(&dir, &doomed) {
            Ok(()) => {
                fs::remove_dir_all(&doomed).map_err(io_error("remove", &doomed))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("rename", &dir)(error)),
        }
        Ok(())
    }

    /// The containers that have directories here.
    pub fn containers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("containers")).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// A container's writable layer, for measuring it.
    pub fn upper(&self, container_id: &str) -> Result<PathBuf, StoreError> {
        Ok(self.container_dir(container_id)?.join("upper"))
    }

    pub(crate) fn container_layers(&self) -> HashSet<String> {
        let mut used = HashSet::new();
        for id in self.containers() {
            let list = fs::read_to_string(self.dir.join("containers").join(id).join("layers"));
            used.extend(list.unwrap_or_default().lines().map(str::to_owned));
        }
        used
    }

    fn container_dir(&self, id: &str) -> Result<PathBuf, StoreError> {
        let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain {
            return Err(StoreError::NotFound(id.to_owned()));
        }
        Ok(Path::new(&self.dir).join("containers").join(id))
    }
}

#[cfg(test)]
mod tests {
    use crate::store::tests::{layer, store};
    use crate::{ImageConfig, build};

    #[tokio::test]
    async fn a_container_keeps_the_layers_of_a_removed_image() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let (low, top) = (layer(&[("a", "a")]), layer(&[("b", "b")]));
        let layers: Vec<Box<dyn std::io::Read + Send>> = vec![Box::new(&low[..]), Box::new(&top[..])];
        let image = build::add_image(&images, "localhost/x", &ImageConfig::default(), layers).unwrap();
        let rootfs = images.prepare(&image.id, "c1").unwrap();
        assert!(rootfs.lower[0].join("b").exists() && rootfs.lower[1].join("a").exists());
        assert!(rootfs.upper.is_dir() && rootfs.work.is_dir() && rootfs.target.is_dir());

        images.remove("localhost/x").unwrap();
        assert!(rootfs.lower[0].exists());
        images.release("c1").unwrap();
        images.gc().unwrap();
        assert!(!rootfs.lower[0].exists() && images.containers().is_empty());
        images.release("c1").unwrap();
        assert!(images.prepare("nothing", "c2").is_err());
        assert!(images.prepare("nothing", "../c2").is_err());
    }
}
