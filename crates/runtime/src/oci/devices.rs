//! `linux.devices` and the default devices (config-linux.md, "Devices").

use super::config::{Config, Device};
use super::init::host_dev;
use crate::container::devices::{self, Node};
use crate::container::target::{self, Shape};
use crate::container::{Context, Failure};
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use std::path::{Path, PathBuf};

/// Makes the nodes and links in `/dev`. `bind`: the host's nodes are mounted, since in a user namespace none can
/// be made.
pub fn make(root: BorrowedFd<'_>, config: &Config, bind: bool) -> Result<(), Failure> {
    if host_dev(config) {
        return Ok(());
    }
    let mut nodes = Vec::new();
    for device in &config.linux.devices {
        let number = |n: i64| u32::try_from(n).unwrap_or(0);
        let block = match device.kind.as_str() {
            "b" => true,
            "c" | "u" => false,
            "p" => {
                make_fifo(root, device)?;
                continue;
            }
            other => return Err(Failure::new(format!("invalid device type {other:?}"))),
        };
        nodes.push(Node {
            path: PathBuf::from(&device.path),
            block,
            device: rustix::fs::makedev(number(device.major), number(device.minor)),
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
            access: "rwm".to_owned(),
            host: PathBuf::from(&device.path),
        });
    }
    for node in devices::default_nodes() {
        if !nodes.iter().any(|known| known.path == node.path) {
            nodes.push(node);
        }
    }
    let taken = if bind { Some(devices::take(&nodes)?) } else { None };
    devices::make(root, &nodes, taken)
}

fn make_fifo(root: BorrowedFd<'_>, device: &Device) -> Result<(), Failure> {
    let path = Path::new(&device.path);
    let what = || format!("error creating device nodes: mknod {}", device.path);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let dir = target::ensure(root, dir, Shape::Directory)?;
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&dir, name, FileType::Fifo, mode, 0) {
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        other => other.context(what)?,
    }
    rustix::fs::chmodat(&dir, name, mode, AtFlags::empty()).context(what)?;
    let owner = (device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw));
    rustix::fs::chownat(&dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).context(what)
}
