//! Archives of every form, and what is wrong with those that cannot be used.

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
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["busybox:1", "localhost/b"], "Layers": ["l/layer.tar"]}]);
    let plain = archive(&[
        ("l/layer.tar", &tar),
        ("c.json", &config),
        ("./manifest.json", manifest.to_string().as_bytes()),
    ]);
    for (name, bytes) in [("p.tar", plain.clone()), ("z.tar.zst", zstd::encode_all(&plain[..], 1).unwrap())] {
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

/// The members of an OCI layout with one image of one compressed layer.
fn layout() -> Vec<(String, Vec<u8>)> {
    let tar = layer(&[("a", "1")]);
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    let config = config(&[digest::of(&tar)]);
    let manifest = json!({"schemaVersion": 2, "config": {"digest": digest::of(&config)},
        "layers": [{"digest": digest::of(&packed)}]})
    .to_string()
    .into_bytes();
    let index = json!({"manifests": [{"digest": digest::of(&manifest),
        "annotations": {"io.containerd.image.name": "docker.io/library/app:v2"}}]})
    .to_string()
    .into_bytes();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest::of(bytes)[7..]);
    vec![
        (blob(&packed), packed),
        (blob(&config), config),
        (blob(&manifest), manifest),
        ("index.json".to_owned(), index),
    ]
}

fn packed(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (&**name, &bytes[..])).collect();
    archive(&members)
}

#[tokio::test]
async fn oci_layouts_are_imported_from_files_directories_and_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout();
    let file = dir.path().join("layout.tar");
    std::fs::write(&file, packed(&layout)).unwrap();
    let open = dir.path().join("layout");
    for (name, bytes) in &layout {
        let path = open.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let (read, write) = std::io::pipe().unwrap();
    let bytes = zstd::encode_all(&packed(&layout)[..], 1).unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut { write }, &bytes));
    let pipe = File::from(std::os::fd::OwnedFd::from(read));
    for (number, (path, file)) in
        [(file.as_path(), None), (&open, None), (Path::new("standard input"), Some(pipe))]
            .into_iter()
            .enumerate()
    {
        let images = store(&dir.path().join(number.to_string()));
        let image = images.import_from(path, file, silent()).await.unwrap().remove(0);
        assert_eq!(image.repo_tags, ["docker.io/library/app:v2"]);
        assert_eq!(image.size_bytes, 1);
        assert_eq!(std::fs::read_dir(images.dir.join("tmp")).unwrap().count(), 0);
    }
    writer.join().unwrap().unwrap();
}

#[tokio::test]
async fn nothing_of_a_spoilt_layout_stays() {
    let dir = tempfile::tempdir().unwrap();
    let whole = packed(&layout());
    let without = |at: usize| {
        let mut members = layout();
        members.remove(at);
        packed(&members)
    };
    let spoilt = |at: usize| {
        let mut members = layout();
        *members[at].1.last_mut().unwrap() ^= 1;
        packed(&members)
    };
    // A second image that cannot be had takes the first one with it.
    let mut second = layout();
    let mut index: serde_json::Value = serde_json::from_slice(&second[3].1).unwrap();
    let missing = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    index["manifests"].as_array_mut().unwrap().push(missing);
    second[3].1 = index.to_string().into_bytes();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("no layer", without(0), "is missing"),
        ("no config", without(1), "is missing"),
        ("no manifest", without(2), "is missing"),
        ("layer", spoilt(0), "unexpected blob digest"),
        ("config", spoilt(1), "is damaged: unexpected digest"),
        ("manifest", spoilt(2), "is damaged: unexpected digest"),
        ("second", packed(&second), "is missing"),
        ("cut at its end", whole[..whole.len() - 1024 - 512].to_vec(), "it is cut off within index.json"),
        ("cut behind a member", whole[..1024].to_vec(), "it seems to be cut off"),
    ];
    for (case, bytes, text) in cases {
        let images = store(&dir.path().join(case));
        let file = dir.path().join("bad.tar");
        std::fs::write(&file, bytes).unwrap();
        let error = images.import(&file, silent()).await.expect_err(case).to_string();
        assert!(error.contains(text), "{case}: {error}");
        assert!(images.list().is_empty(), "{case}");
        for part in ["layers", "configs", "tmp"] {
            let left = std::fs::read_dir(images.dir.join(part)).unwrap().count();
            assert_eq!(left, 0, "{case}: {part}");
        }
    }
    let mut cut = layout();
    cut.rotate_right(1);
    let bytes = packed(&cut);
    let file = dir.path().join("bad.tar");
    std::fs::write(&file, &bytes[..bytes.len() - 1024 - 500]).unwrap();
    let images = store(&dir.path().join("cut in a member"));
    let error = images.import(&file, silent()).await.unwrap_err().to_string();
    assert!(error.contains("it is cut off within"), "{error}");
    std::fs::write(&file, &whole_gzip(&bytes)[..200]).unwrap();
    let error = images.import(&file, silent()).await.unwrap_err().to_string();
    assert!(error.contains("cannot read the archive"), "{error}");
}

fn whole_gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, bytes).unwrap();
    out.finish().unwrap()
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
