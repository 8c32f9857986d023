//! What image garbage collection needs to know and to do: which images there are, how big, when last used, whether
//! containers use them; and how much disk all of it takes. Deciding is the kubelet's.

use crate::error::{StoreError, io_error};
use crate::reference::Reference;
use crate::store::{Image, ImageStore};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// An image as garbage collection sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// The image.
    pub image: Image,
    /// When it was added, or when a container of it was last made or removed. Nanoseconds since 1970.
    pub last_used_unix_ns: i64,
    /// Whether a container or an image volume uses it.
    pub in_use: bool,
    /// Whether it is to be kept: no registry would give it back.
    pub pinned: bool,
}

/// What the store takes on disk, without the containers' writable layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes allocated.
    pub used_bytes: u64,
    /// Files and directories.
    pub inodes_used: u64,
}

impl ImageStore {
    /// Every image with what garbage collection asks about it.
    pub fn for_gc(&self) -> Vec<ImageUse> {
        let used = self.images_of_containers();
        let one = |image: Image| {
            let last_used_unix_ns = self.last_used(&image.id);
            let local = |name: &String| Reference::parse(name).is_ok_and(|r| r.is_local());
            let pinned = image.repo_tags.iter().any(local);
            ImageUse { in_use: used.contains(&image.id), image, last_used_unix_ns, pinned }
        };
        self.list().into_iter().map(one).collect()
    }

    /// Removes an image with all its names unless a container uses it; the bytes of files that went with it.
    pub fn remove_unused(&self, id: &str) -> Result<u64, StoreError> {
        let image = self.resolve(id).ok_or_else(|| StoreError::NotFound(id.to_owned()))?;
        if self.images_of_containers().contains(&image.id) {
            return Err(StoreError::InUse(id.to_owned()));
        }
        let sizes: Vec<_> = image.diff_ids.iter().map(|l| (l, self.layer_size(l))).collect();
        self.remove(&image.id)?;
        Ok(sizes.into_iter().filter(|(layer, _)| !self.has_layer(layer)).map(|(_, size)| size).sum())
    }

    /// Removes what no container uses: with `all` every such image, else those without a tag. Their names.
    pub fn prune(&self, all: bool) -> Result<Vec<Image>, StoreError> {
        let doomed = self.for_gc().into_iter().filter(|i| !i.in_use && !i.pinned);
        let doomed: Vec<_> = doomed.map(|i| i.image).filter(|i| all || i.repo_tags.is_empty()).collect();
        for image in &doomed {
            self.remove(&image.id)?;
        }
        Ok(doomed)
    }

    /// What layers, configurations and unfinished downloads take on disk. Reads every directory: blocking, and not
    /// for each heartbeat.
    pub fn disk_usage(&self) -> DiskUsage {
        let mut usage = DiskUsage::default();
        for part in ["layers", "configs", "ingest", "tmp"] {
            add_up(&self.dir.join(part), &mut usage);
        }
        usage
    }

    /// The store's directory, to ask about its file system.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The identifiers of images that containers have.
    pub(crate) fn images_of_containers(&self) -> HashSet<String> {
        let mut used = HashSet::new();
        for id in self.containers() {
            let dir = self.dir.join("containers").join(id);
            if let Ok(image) = fs::read_to_string(dir.join("image")) {
                used.insert(image);
                continue;
            }
            // Made before this file was: the layers tell.
            let layers = fs::read_to_string(dir.join("layers")).unwrap_or_default();
            let layers: Vec<_> = layers.lines().collect();
            used.extend(self.list().into_iter().filter(|i| i.diff_ids == layers).map(|i| i.id));
        }
        used
    }

    /// Notes that the image is used now: on its configuration file, where it costs no sync.
    pub(crate) fn touch(&self, id: &str) {
        let Ok(path) = self.config_path(id) else { return };
        let file = fs::File::options().append(true).open(path);
        let _ = file.and_then(|f| f.set_modified(self.ctx.clock.now()));
    }

    fn last_used(&self, id: &str) -> i64 {
        let modified = self.config_path(id).ok().and_then(|p| fs::metadata(p).ok()?.modified().ok());
        let since = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    pub(crate) fn layer_size(&self, diff_id: &str) -> u64 {
        let size = self.layer_path(diff_id).and_then(|p| {
            let path = p.join("size");
            fs::read_to_string(&path).map_err(io_error("read", &path))
        });
        size.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }
}

fn add_up(dir: &Path, usage: &mut DiskUsage) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        usage.used_bytes += metadata.blocks() * 512;
        usage.inodes_used += 1;
        if metadata.is_dir() {
            add_up(&entry.path(), usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::tests::{layer, store};
    use crate::{ImageConfig, StoreError, build};

    #[tokio::test]
    async fn only_images_without_containers_go_and_say_what_they_freed() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let config = ImageConfig::default();
        let (low, top) = (layer(&[("a", "12345")]), layer(&[("b", "123")]));
        let one = build::add_image(&images, "r.example/one", &config, vec![Box::new(&low[..])]).unwrap();
        let both: Vec<Box<dyn std::io::Read + Send>> = vec![Box::new(&low[..]), Box::new(&top[..])];
        let two = build::add_image(&images, "r.example/two", &config, both).unwrap();
        let local = build::add_image(&images, "localhost/l", &config, vec![Box::new(&top[..])]).unwrap();
        images.prepare(&one.id, "c").unwrap();
        let seen = images.for_gc();
        let flags = |id: &str| seen.iter().find(|i| i.image.id == id).map(|i| (i.in_use, i.pinned)).unwrap();
        assert_eq!(
            (flags(&one.id), flags(&two.id), flags(&local.id)),
            ((true, false), (false, false), (false, true))
        );
        assert!(seen.iter().all(|i| i.last_used_unix_ns > 0));
        assert!(matches!(images.remove_unused(&one.id), Err(StoreError::InUse(_))));
        let before = images.disk_usage();
        assert_eq!(images.remove_unused(&two.id).unwrap(), 0, "its layers are others' too");
        assert!(images.disk_usage().inodes_used < before.inodes_used);
        images.release("c").unwrap();
        assert_eq!(images.remove_unused(&one.id).unwrap(), 5);
        assert_eq!(images.prune(true).unwrap(), []);
        assert_eq!(images.list(), [local]);
    }

    #[tokio::test]
    async fn using_an_image_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let low = layer(&[("a", "1")]);
        let image =
            build::add_image(&images, "x", &ImageConfig::default(), vec![Box::new(&low[..])]).unwrap();
        let path = images.config_path(&image.id).unwrap();
        std::fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(images.for_gc()[0].last_used_unix_ns, 0);
        images.prepare("x", "c").unwrap();
        assert!(images.for_gc()[0].last_used_unix_ns > 0);
    }
}
