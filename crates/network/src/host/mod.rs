//! What the network puts on the host, and how it is taken off again: a local device that carries the node's stable
//! address and the route of the service range, an unreachable route below the pods' own ones, IP forwarding. Whatever
//! the host had before is remembered and restored.

mod check;

pub use check::{Problem, check};

use crate::netlink::{Socket, nft, route};
use crate::proxy::table;
use crate::range::Range;
use crate::{NetworkError, state};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The device of the node's address and the service range.
pub const DEVICE: &str = "knarr0";
/// The nftables table.
pub const TABLE: &str = "knarr";
/// The metric of the route that says "unreachable" for addresses of the pod range without a pod.
const LAST_RESORT: u32 = 4096;
const FORWARDING: &str = "net/ipv4/ip_forward";

/// What the host's network is to look like.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The range of this node's pods. Its first address is the node's unless `node_ip` is given.
    pub pod_cidr: Range,
    /// The range of all nodes' pods.
    pub cluster_cidr: Range,
    /// The range of service addresses.
    pub service_cidr: Range,
    /// The node's address if it is one the host has already.
    pub node_ip: Option<Ipv4Addr>,
    /// Where state is kept.
    pub state_dir: PathBuf,
}

impl HostConfig {
    /// The node's address: the one given, or the first of the pod range, which stays the same whatever happens to
    /// the host's own addresses.
    pub fn node_address(&self) -> Ipv4Addr {
        self.node_ip.or(self.pod_cidr.nth(1)).unwrap_or(self.pod_cidr.network)
    }
}

/// Settings of the kernel that were changed, with what they were before.
#[derive(Default, Serialize, Deserialize)]
struct Changed {
    sysctls: BTreeMap<String, String>,
}

/// A prepared host.
#[derive(Clone, Debug)]
pub struct Host {
    node_ip: Ipv4Addr,
}

impl Host {
    /// Makes device, routes, settings and the nftables table. What is there already is kept, so that services go on
    /// working while the daemon is replaced.
    pub fn prepare(config: &HostConfig) -> Result<Self, NetworkError> {
        if config.pod_cidr.prefix > 29 {
            return Err(NetworkError::TooSmall(config.pod_cidr));
        }
        let directory = &config.state_dir;
        std::fs::create_dir_all(directory).map_err(NetworkError::file("make the folder", directory))?;
        let node_ip = config.node_address();
        let mut socket = Socket::route()?;
        let index = match route::link_index(&mut socket, DEVICE)? {
            Some(index) => index,
            None => {
                route::add_bridge(&mut socket, DEVICE)?;
                route::link_index(&mut socket, DEVICE)?.unwrap_or_default()
            }
        };
        route::set_up(&mut socket, index)?;
        for (old, prefix, link) in route::addresses(&mut socket)? {
            if link == index && (old != node_ip || config.node_ip.is_some()) {
                route::remove_address(&mut socket, index, old, prefix)?;
            }
        }
        if config.node_ip.is_none() {
            route::add_address(&mut socket, index, node_ip, 32)?;
        }
        remove_stale_routes(&mut socket, config, index)?;
        // The route lookup comes before the translation in the output hook; the source address it picks stays.
        let onto_device = route::Via::Link { index, source: Some(node_ip) };
        route::set_route(&mut socket, config.service_cidr, onto_device, 0)?;
        route::set_route(&mut socket, config.cluster_cidr, route::Via::Unreachable, LAST_RESORT)?;
        set_sysctl(directory, FORWARDING, "1")?;
        let mut netfilter = Socket::netfilter()?;
        if !crate::netlink::firewall::has_table(&mut netfilter, TABLE)? {
            let ranges = table::Ranges {
                local: config.pod_cidr,
                pods: config.cluster_cidr,
                services: config.service_cidr,
            };
            netfilter.transaction(table::base(TABLE, &ranges), "make the nftables table")?;
        }
        Ok(Self { node_ip })
    }

    /// The node's address.
    pub fn node_ip(&self) -> Ipv4Addr {
        self.node_ip
    }

    /// Takes everything off the host: links, routes, the nftables table, settings. Works without
    /// [`Host::prepare`] and any number of times.
    pub fn cleanup(state_dir: &Path) -> Result<(), NetworkError> {
        let mut netfilter = Socket::netfilter()?;
        let tables = [TABLE, crate::pods::HOST_PORTS_TABLE].map(nft::Table);
        let removal = tables.iter().flat_map(|table| [table.add(), table.delete()]);
        netfilter.transaction(removal.collect(), "remove the nftables tables")?;
        let mut socket = Socket::route()?;
        for (name, _) in route::links(&mut socket)? {
            if name == DEVICE || name == crate::nodes::OVERLAY || crate::pods::is_host_link(&name) {
                route::remove_link(&mut socket, &name)?;
            }
        }
        // The routes over links went with them.
        for left in route::routes(&mut socket)?.into_iter().filter(|r| r.ours) {
            route::remove_any_route(&mut socket, left.to)?;
        }
        let path = state_dir.join("host.json");
        if let Some((changed, true)) = state::load::<Changed>(&path)? {
            for (name, before) in changed.sysctls {
                let file = Path::new("/proc/sys").join(&name);
                std::fs::write(&file, before).map_err(NetworkError::file("write", &file))?;
            }
        }
        state::remove(&path)?;
        state::remove(&state_dir.join(crate::pods::STATE_FILE))
    }
}

/// Removes our routes of a former configuration.
fn remove_stale_routes(socket: &mut Socket, config: &HostConfig, index: u32) -> Result<(), NetworkError> {
    for old in route::routes(socket)?.into_iter().filter(|r| r.ours) {
        let wanted = match old.link {
            0 => old.to == config.cluster_cidr,
            link if link == index => old.to == config.service_cidr,
            // Those to other nodes stay until the nodes are known (crate::nodes).
            _ => config.cluster_cidr.contains(old.to.network),
        };
        if !wanted {
            route::remove_any_route(socket, old.to)?;
        }
    }
    Ok(())
}

/// Sets a kernel setting, remembering what it was if that was something else.
fn set_sysctl(state_dir: &Path, name: &str, value: &str) -> Result<(), NetworkError> {
    let file = Path::new("/proc/sys").join(name);
    let before = std::fs::read_to_string(&file).map_err(NetworkError::file("read", &file))?;
    if before.trim() == value {
        return Ok(());
    }
    let path = state_dir.join("host.json");
    let mut changed = match state::load::<Changed>(&path)? {
        Some((changed, true)) => changed,
        _ => Changed::default(),
    };
    changed.sysctls.insert(name.to_owned(), before.trim().to_owned());
    state::save(&path, &changed)?;
    std::fs::write(&file, value).map_err(NetworkError::file("write", &file))
}
