//! What is saved is what was imported, to the digest.

use super::*;
use crate::oci::Manifest;
use crate::store::tests::{layer, store};
use crate::{ImageConfig, build, silent};
use std::path::Path;

/// A layer with everything that has to come back as it was: long names, links, empty files, odd padding, data behind the
/// end.
fn odd_layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o750);
    header.set_size(0);
    builder.append_data(&mut header, "d/", io::empty()).unwrap();
    let long = format!("d/{}", "n".repeat(200));
    for (path, content) in [("d/empty", vec![]), (&*long, vec![7; 1000]), ("d/big", vec![9; 100_000])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(12345);
        builder.append_data(&mut header, path, &content[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", "d").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "d/hard", "d/big").unwrap();
    // Through the link: the file is in `d`.
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    builder.append_data(&mut header, "link/through", &b"abc"[..]).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.extend_from_slice(&[0; 10_240 - 7]);
    bytes
}

fn saved(images: &ImageStore, references: &[&str], format: Format, to: &Path) {
    let references: Vec<String> = references.iter().map(|r| (*r).to_owned()).collect();
    let mut file = fs::File::create(to).unwrap();
    images.save(&references, format, &mut file).unwrap();
}

#[tokio::test]
async fn saved_images_are_the_same_wherever_they_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir.path().join("from"));
    let config = ImageConfig { cmd: vec!["sh".into()], ..Default::default() };
    let (odd, top) = (odd_layer(), layer(&[("a", "1")]));
    let one = build::add_image(&images, "r.example/one:v1", &config, vec![Box::new(&odd[..])]).unwrap();
    let both: Vec<Box<dyn io::Read + Send>> = vec![Box::new(&odd[..]), Box::new(&top[..])];
    let two = build::add_image(&images, "two", &config, both).unwrap();
    let one = images.tag("r.example/one:v1", "r.example/one:v2").map(|i| Image { id: one.id, ..i }).unwrap();
    for format in [Format::DockerArchive, Format::OciArchive] {
        let file = dir.path().join("saved.tar");
        saved(&images, &["r.example/one:v1", "two", "r.example/one:v2"], format, &file);
        let loaded = store(&dir.path().join(format!("{format:?}")));
        let mut seen = loaded.import(&file, silent()).await.unwrap();
        seen.dedup();
        seen.sort_by(|a, b| a.id.cmp(&b.id));
        let mut wanted = [one.clone(), two.clone()];
        wanted.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(loaded.list().len(), 2, "{format:?}");
        for image in &wanted {
            assert_eq!(loaded.resolve(&image.id).as_ref(), Some(image), "{format:?}");
        }
        // And so once more: what was imported can be saved, and is the same archive.
        let again = dir.path().join("again.tar");
        saved(&loaded, &["r.example/one:v1", "two", "r.example/one:v2"], format, &again);
        assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap(), "{format:?}");
    }
}

#[tokio::test]
async fn an_archive_is_what_others_expect() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir.path().join("images"));
    let top = layer(&[("a", "1")]);
    let image =
        build::add_image(&images, "app:1", &ImageConfig::default(), vec![Box::new(&top[..])]).unwrap();
    let member = |file: &Path, name: &str| -> Vec<u8> {
        let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = entries.find(|e| e.path().unwrap() == Path::new(name)).unwrap();
        let mut content = Vec::new();
        io::Read::read_to_end(&mut entry, &mut content).unwrap();
        content
    };
    let hex = |digest: &str| digest["sha256:".len()..].to_owned();
    let file = dir.path().join("saved.tar");
    saved(&images, &["app:1"], Format::DockerArchive, &file);
    let manifest: serde_json::Value = serde_json::from_slice(&member(&file, "manifest.json")).unwrap();
    let (config, tar) = (format!("{}.json", hex(&image.id)), format!("{}.tar", hex(&image.diff_ids[0])));
    assert_eq!(
        manifest,
        json!([{"Config": config, "RepoTags": ["docker.io/library/app:1"], "Layers": [tar]}])
    );
    assert_eq!(member(&file, &tar), top);
    // By its identifier an image has no name in the archive, as with docker.
    saved(&images, &[&image.id], Format::OciArchive, &file);
    let index: Manifest = serde_json::from_slice(&member(&file, "index.json")).unwrap();
    assert!(index.manifests[0].annotations.is_empty());
    let manifest = member(&file, &blob(&index.manifests[0].digest));
    assert_eq!(digest::of(&manifest), index.manifests[0].digest);
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(
        (&*manifest.layers[0].digest, manifest.layers[0].size),
        (&*image.diff_ids[0], top.len() as u64)
    );
}

#[tokio::test]
async fn what_cannot_be_saved_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir.path().join("images"));
    let refused = |reference: &str| {
        let error = images.save(&[reference.to_owned()], Format::OciArchive, &mut Vec::new());
        error.unwrap_err().to_string()
    };
    assert!(refused("nothing").contains("not found"));
    let twice = layer(&[("a", "1"), ("a", "2")]);
    build::add_image(&images, "twice", &ImageConfig::default(), vec![Box::new(&twice[..])]).unwrap();
    assert!(refused("twice").contains("as it came"), "{}", refused("twice"));
    let plain = layer(&[("a", "123")]);
    let image =
        build::add_image(&images, "plain", &ImageConfig::default(), vec![Box::new(&plain[..])]).unwrap();
    let file = images.layer_path(&image.diff_ids[0]).unwrap().join("fs/a");
    fs::write(&file, "456").unwrap();
    assert!(refused("plain").contains("unexpected digest"), "{}", refused("plain"));
    fs::write(&file, "4").unwrap();
    assert!(refused("plain").contains("a: "), "{}", refused("plain"));
}

#[tokio::test]
async fn names_are_given_and_move() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let config = ImageConfig::default();
    let (a, b) = (layer(&[("a", "a")]), layer(&[("b", "b")]));
    let first = build::add_image(&images, "first", &config, vec![Box::new(&a[..])]).unwrap();
    let second = build::add_image(&images, "second", &config, vec![Box::new(&b[..])]).unwrap();
    let named = images.tag("first", "r.example/x").unwrap();
    assert_eq!(named.repo_tags, ["docker.io/library/first:latest", "r.example/x:latest"]);
    assert_eq!(images.tag(&second.id, "r.example/x").unwrap().id, second.id);
    assert_eq!(images.resolve("first").unwrap(), first);
    // An image that loses its last name goes.
    images.tag("second", "first").unwrap();
    assert_eq!(images.list().len(), 1);
    let digest = format!("x@sha256:{}", "0".repeat(64));
    for (bad, why) in [("A b", "invalid reference"), (&*digest, "digest reference")] {
        let error = images.tag("second", bad).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(images.tag("none", "x").unwrap_err().to_string().contains("not found"));
    let details = images.inspect("second").unwrap();
    assert_eq!((details.layer_bytes, &details.config_file["os"]), (vec![1], &json!("linux")));
}
