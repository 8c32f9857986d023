//! Images made on the spot, without a registry or an archive: the demo's image is made of the binary itself.

use crate::error::StoreError;
use crate::oci::{ConfigFile, ImageConfig, Layers, host_architecture};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, Pins};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Adds an image of the given layers (tar streams, lowest first) under `name`. Blocking.
pub fn add_image(
    store: &Arc<ImageStore>,
    name: &str,
    config: &ImageConfig,
    layers: Vec<Box<dyn Read + Send + '_>>,
) -> Result<Image, StoreError> {
    let reference = Reference::parse(name).map_err(|_| StoreError::NotFound(name.to_owned()))?;
    let mut pins = Pins::new(store);
    let mut diff_ids = Vec::new();
    for layer in layers {
        diff_ids.push(store.add_layer(layer, None, None, Some(&mut pins))?);
    }
    let file = ConfigFile {
        // Without a date the same content is the same image, however often it is made.
        created: None,
        architecture: host_architecture().to_owned(),
        os: "linux".to_owned(),
        config: config.clone(),
        rootfs: Layers { r#type: "layers".to_owned(), diff_ids },
    };
    let file = serde_json::to_vec(&file).expect("a configuration always encodes");
    store.commit(&file, reference.tagged(), None)
}

/// A layer of directories and one file, streamed from the host: `path` in the image with `mode`.
pub fn file_layer(
    directories: &[&str],
    path: &str,
    mode: u32,
    source: &Path,
) -> io::Result<Box<dyn Read + Send>> {
    let file = std::fs::File::open(source)?;
    let size = file.metadata()?.len();
    let mut head = tar::Builder::new(Vec::new());
    for directory in directories {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if *directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        head.append_data(&mut header, directory, io::empty())?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_path(path)?;
    header.set_cksum();
    // The entry's data follow from the file: only the header is written here. The builder would add the end
    // marker when dropped, so its buffer is taken first.
    let mut bytes = std::mem::take(head.get_mut());
    bytes.extend_from_slice(header.as_bytes());
    let padding = (512 - size % 512) % 512 + 1024;
    Ok(Box::new(io::Cursor::new(bytes).chain(file.take(size)).chain(io::repeat(0).take(padding))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn an_image_is_made_of_a_host_file_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("prog");
        std::fs::write(&source, vec![7; 1000]).unwrap();
        let images = store(&dir.path().join("images"));
        let config = ImageConfig { entrypoint: vec!["/bin/prog".into()], ..Default::default() };
        let make = || {
            let layer = file_layer(&["bin", "tmp"], "bin/prog", 0o755, &source).unwrap();
            add_image(&images, "knarr.local/demo:v1", &config, vec![layer]).unwrap()
        };
        let image = make();
        assert_eq!(make(), image);
        let rootfs = images.prepare(&image.id, "c").unwrap();
        let prog = rootfs.lower[0].join("bin/prog");
        assert_eq!(std::fs::read(&prog).unwrap(), vec![7; 1000]);
        assert_eq!(std::fs::metadata(&prog).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(images.resolve("knarr.local/demo:v1").unwrap().config.entrypoint, ["/bin/prog"]);
    }
}
