//! Layers as they come, and as an attacker would make them.

use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

fn tar(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

/// Adds an entry whose name is written as it is, however bad.
fn add(b: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_link_name_literal(link).unwrap();
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_mtime(1_000_000_000);
    header.set_uid(7);
    header.set_gid(8);
    header.set_cksum();
    b.append(&header, data).unwrap();
}

#[test]
fn a_layer_keeps_modes_owners_times_links_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar(|b| {
        add(b, EntryType::Directory, "bin/", "", 0o1777, b"");
        add(b, EntryType::Regular, "bin/su", "", 0o4755, b"hello");
        add(b, EntryType::Link, "bin/su2", "bin/su", 0, b"");
        add(b, EntryType::Symlink, "sbin", "bin", 0o777, b"");
        add(b, EntryType::Regular, "sbin/through", "", 0o644, b"x");
        add(b, EntryType::Fifo, "pipe", "", 0o600, b"");
        b.append_pax_extensions([
            ("SCHILY.xattr.user.colour", &b"blue"[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("mtime", b"5.25"),
        ])
        .unwrap();
        add(b, EntryType::Regular, "marked", "", 0o644, b"");
    });
    assert_eq!(unpack(&bytes[..], dir.path(), None).unwrap(), 6);
    let su = std::fs::metadata(dir.path().join("bin/su")).unwrap();
    assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.gid()), (0o4755, 7, 8));
    assert_eq!((su.mtime(), su.nlink()), (1_000_000_000, 2));
    let bin = std::fs::metadata(dir.path().join("bin")).unwrap();
    assert_eq!((bin.permissions().mode() & 0o7777, bin.mtime()), (0o1777, 1_000_000_000));
    assert!(dir.path().join("bin/through").exists());
    assert!(std::fs::metadata(dir.path().join("pipe")).unwrap().file_type().is_fifo());
    let marked = dir.path().join("marked");
    assert_eq!(std::fs::metadata(&marked).unwrap().mtime_nsec(), 250_000_000);
    assert!(rustix::fs::getxattr(&marked, "trusted.overlay.redirect", &mut [0; 9]).is_err());
    assert_eq!(rustix::fs::getxattr_query(&marked, "user.colour").ok(), Some(4));
}

#[test]
fn whiteouts_take_overlay_form() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar(|b| {
        add(b, EntryType::Regular, "etc/.wh.gone", "", 0, b"");
        add(b, EntryType::Regular, "var/.wh..wh..opq", "", 0, b"");
        add(b, EntryType::Regular, "var/kept", "", 0o644, b"1");
        add(b, EntryType::Regular, ".wh..wh.plnk", "", 0, b"");
    });
    unpack(&bytes[..], dir.path(), None).unwrap();
    let gone = std::fs::metadata(dir.path().join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(dir.path().join("var"), OPAQUE_XATTR, &mut value).unwrap(), 1);
    assert!(dir.path().join("var/kept").exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn nothing_reaches_outside_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    std::fs::create_dir(&root).unwrap();
    for bad in ["../evil", "a/../../evil"] {
        let bytes = tar(|b| add(b, EntryType::Regular, bad, "", 0o644, b"x"));
        assert!(unpack(&bytes[..], &root, None).is_err(), "{bad}");
    }
    let target = outside.path().to_str().unwrap();
    let bytes = tar(|b| {
        add(b, EntryType::Symlink, "abs", target, 0o777, b"");
        add(b, EntryType::Regular, "abs/evil", "", 0o644, b"x");
        add(b, EntryType::Symlink, "up", "../../..", 0o777, b"");
        add(b, EntryType::Regular, "up/evil2", "", 0o644, b"x");
    });
    unpack(&bytes[..], &root, None).unwrap();
    assert!(root.join("evil2").exists());
    assert!(root.join(target.trim_start_matches('/')).join("evil").exists());
    let bytes = tar(|b| add(b, EntryType::Link, "hard", "../../etc/passwd", 0, b""));
    assert!(unpack(&bytes[..], &root, None).is_err());
    let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["root"]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar(|b| {
        add(b, EntryType::Regular, "a/b", "", 0o644, b"1");
        add(b, EntryType::Symlink, "a", "/elsewhere", 0o777, b"");
        add(b, EntryType::Regular, "c", "", 0o644, b"1");
        add(b, EntryType::Directory, "c", "", 0o755, b"");
    });
    unpack(&bytes[..], dir.path(), None).unwrap();
    assert!(dir.path().join("a").is_symlink());
    assert!(dir.path().join("c").is_dir());
}

#[test]
fn a_truncated_stream_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar(|b| add(b, EntryType::Regular, "a", "", 0o644, &[1; 2000]));
    assert!(unpack(&bytes[..1000], dir.path(), None).is_err());
}

#[test]
fn sparse_files_keep_their_holes() {
    let data = [&[7u8; 512][..], &[9; 512]].concat();
    let block = |map: &str| [map.as_bytes(), &vec![0; 512 - map.len()][..]].concat();
    let new = [block("2\n1048576\n512\n2097152\n512\n"), data.clone()].concat();
    type Fields<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(&str, Fields, &[u8]); 3] = [
        (
            "1.0",
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"dir/f"),
                ("GNU.sparse.realsize", b"3145728"),
            ],
            &new,
        ),
        (
            "0.1",
            &[
                ("GNU.sparse.name", b"dir/f"),
                ("GNU.sparse.size", b"3145728"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.map", b"1048576,512,2097152,512"),
            ],
            &data,
        ),
        (
            "0.0",
            &[
                ("GNU.sparse.size", b"3145728"),
                ("GNU.sparse.offset", b"1048576"),
                ("GNU.sparse.numbytes", b"512"),
                ("GNU.sparse.offset", b"2097152"),
                ("GNU.sparse.numbytes", b"512"),
            ],
            &data,
        ),
    ];
    for (version, fields, content) in cases {
        let dir = tempfile::tempdir().unwrap();
        let named = fields.iter().any(|(name, _)| *name == "GNU.sparse.name");
        let bytes = tar(|b| {
            b.append_pax_extensions(fields.iter().copied()).unwrap();
            let name = if named { "GNUSparseFile.0/f" } else { "dir/f" };
            add(b, EntryType::Regular, name, "", 0o644, content);
        });
        assert_eq!(unpack(&bytes[..], dir.path(), None).unwrap(), 1024, "{version}");
        let file = std::fs::read(dir.path().join("dir/f")).unwrap();
        assert_eq!(file.len(), 3 << 20, "{version}");
        assert_eq!((file[1 << 20], file[(1 << 20) + 512], file[2 << 20]), (7, 0, 9), "{version}");
        assert!(std::fs::metadata(dir.path().join("dir/f")).unwrap().blocks() < 64, "{version}");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for (size, map) in
        [("10", "0,20"), ("100", "50,10,0,10"), ("100", "0,18446744073709551615"), ("100", "x,1")]
    {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(|b| {
            b.append_pax_extensions([
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ])
            .unwrap();
            add(b, EntryType::Regular, "f", "", 0o644, &[1; 20]);
        });
        assert!(unpack(&bytes[..], dir.path(), None).is_err(), "{size} {map}");
    }
}

#[test]
fn names_attributes_and_owners_of_any_size_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    // security.capability of cap_net_raw=ep, as `getcap` and Docker write it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let bytes = tar(|b| {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        b.append_data(&mut header, &long, &b"x"[..]).unwrap();
        b.append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("uid", b"3000000"),
            ("gid", b"3000001"),
        ])
        .unwrap();
        add(b, EntryType::Regular, "ping", "", 0o4755, b"");
        b.append_pax_extensions([("SCHILY.xattr.trusted.note", &b"n"[..])]).unwrap();
        add(b, EntryType::Symlink, "link", "ping", 0o777, b"");
        add(b, EntryType::Fifo, "pipe", "", 0o666, b"");
        add(b, EntryType::Char, "blank", "", 0, b"");
    });
    unpack(&bytes[..], dir.path(), None).unwrap();
    assert!(dir.path().join(&long).exists());
    let ping = dir.path().join("ping");
    let meta = std::fs::metadata(&ping).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (3_000_000, 3_000_001, 0o4755));
    let mut value = [0; 32];
    assert_eq!(rustix::fs::getxattr(&ping, "security.capability", &mut value).unwrap(), capability.len());
    assert_eq!(rustix::fs::lgetxattr(dir.path().join("link"), "trusted.note", &mut value).unwrap(), 1);
    assert!(std::fs::metadata(dir.path().join("blank")).unwrap().file_type().is_char_device());
}

/// Whatever is done to the bytes of a layer, unpacking ends, with or without an error, and touches nothing else.
#[test]
fn damaged_streams_end_and_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let whole = tar(|b| {
        add(b, EntryType::Directory, "a/", "", 0o755, b"");
        add(b, EntryType::Symlink, "a/up", "../..", 0o777, b"");
        b.append_pax_extensions([("path", &b"a/up/x"[..]), ("GNU.sparse.size", b"9")]).unwrap();
        add(b, EntryType::Regular, "x", "", 0o644, &[5; 700]);
        add(b, EntryType::Link, "a/l", "x", 0, b"");
        add(b, EntryType::Regular, "a/.wh.up", "", 0, b"");
    });
    for at in (0..whole.len()).step_by(7) {
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut bytes = whole.clone();
        // The value depends on the place, so that digits, slashes and letters are hit with different ones.
        bytes[at] ^= [1, 0x80, 0x10, 0xff][at % 4];
        let start = at / 512 * 512;
        if at % 2 == 0 && bytes.len() >= start + 512 {
            let mut header = tar::Header::from_byte_slice(&bytes[start..start + 512]).clone();
            header.set_cksum();
            bytes[start..start + 512].copy_from_slice(header.as_bytes());
        }
        let _ = unpack(&bytes[..], &root, None);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "at {at}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
