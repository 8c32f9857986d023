//! Connecting pods: an address, a pair of links, a route to the one and a default route from the other. There is no
//! bridge and nobody asks for Ethernet addresses: both ends know each other's from the start, and the gateway is a
//! link-local address that no interface carries (RFC 3927 range, as Calico does).

mod ipam;
mod ports;

use crate::NetworkError;
use crate::netlink::route::{self, Mac, Via};
use crate::netlink::{NetlinkError, Socket};
use crate::range::Range;
use crate::state;
use ipam::Addresses;
pub use ports::HostPort;
pub(crate) use ports::TABLE as HOST_PORTS_TABLE;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

pub(crate) const STATE_FILE: &str = "pods.json";
/// What pods send through; only their neighbour table knows it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The host's end of every pair.
const HOST_MAC: Mac = [0xee; 6];
const POD_LINK: &str = "eth0";
const LOOPBACK: u32 = 1;
const HOST_LINK_PREFIX: &str = "kn";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Thirteen digits of five bits for a hash of 64.
const HASH_DIGITS: usize = 13;

/// The name of the host's end of a pod's pair of links: fifteen characters are all there may be.
pub fn host_link(uid: &str) -> String {
    let hash = crate::hash::fnv(uid);
    let digits = (0..HASH_DIGITS).map(|i| char::from(BASE32[(hash >> (5 * i)) as usize & 31]));
    HOST_LINK_PREFIX.chars().chain(digits).collect()
}

/// Whether a link has the name of a host's end.
pub(crate) fn is_host_link(name: &str) -> bool {
    name.strip_prefix(HOST_LINK_PREFIX)
        .is_some_and(|rest| rest.len() == HASH_DIGITS && rest.bytes().all(|b| BASE32.contains(&b)))
}

/// Connects pods of this node. All calls are short system calls; see the crate's tests for how short.
pub struct PodNetwork {
    range: Range,
    mtu: u32,
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    known: Known,
    socket: Socket,
    netfilter: Socket,
}

/// What must be known again after a restart.
#[derive(Default, Serialize, Deserialize)]
struct Known {
    addresses: Addresses,
    /// Ports of the host by pod UID.
    #[serde(default)]
    ports: BTreeMap<String, Vec<HostPort>>,
}

impl PodNetwork {
    /// The network of the pods in `range`, with state in `state_dir`. After a reboot all addresses are free again.
    pub fn open(range: Range, state_dir: &Path, mtu: u32) -> Result<Self, NetworkError> {
        std::fs::create_dir_all(state_dir).map_err(NetworkError::file("make the folder", state_dir))?;
        let path = state_dir.join(STATE_FILE);
        let known = match state::load::<Known>(&path)? {
            Some((known, true)) => known,
            Some((mut known, false)) => {
                known.addresses.forget_all();
                known.ports.clear();
                known
            }
            None => Known::default(),
        };
        let inner = Mutex::new(Inner { known, socket: Socket::route()?, netfilter: Socket::netfilter()? });
        Ok(Self { range, mtu, path, inner })
    }

    /// Connects the pod whose network namespace is at `netns`, and gives its address. A pod that is connected
    /// already keeps its address and its links.
    pub fn attach(&self, uid: &str, netns: &Path) -> Result<Ipv4Addr, NetworkError> {
        let mut inner = self.lock();
        let Inner { known, socket, .. } = &mut *inner;
        let before = known.addresses.by_uid.get(uid).copied();
        // A lost state file must not lead to an address being used twice.
        let taken = if before.is_some() { HashSet::new() } else { routed(socket)? };
        let address = known.addresses.allocate(uid, self.range, &taken);
        let address = address.ok_or(NetworkError::Exhausted(self.range))?;
        if before != Some(address) {
            state::save(&self.path, known)?;
        }
        match connect(socket, &host_link(uid), address, netns, self.mtu) {
            Ok(()) => Ok(address),
            Err(error) => {
                if before.is_none() {
                    let _ = route::remove_link(socket, &host_link(uid));
                    known.addresses.release(uid);
                    state::save(&self.path, known)?;
                }
                Err(error)
            }
        }
    }

    /// Leads ports of the host to a pod that is connected, instead of those that did before.
    pub fn publish(&self, uid: &str, ports: &[HostPort]) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let before = match ports {
            [] => inner.known.ports.remove(uid),
            _ => inner.known.ports.insert(uid.to_owned(), ports.to_vec()),
        };
        if before.unwrap_or_default() == ports {
            return Ok(());
        }
        state::save(&self.path, &inner.known)?;
        inner.write_ports()
    }

    /// Takes the pod's links, route and address away. No error if it has none.
    pub fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.publish(uid, &[])?;
        let mut inner = self.lock();
        // The route goes with the link.
        route::remove_link(&mut inner.socket, &host_link(uid))?;
        match inner.known.addresses.release(uid) {
            Some(_) => state::save(&self.path, &inner.known),
            None => Ok(()),
        }
    }

    /// The pod's address, if it is connected.
    pub fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.lock().known.addresses.by_uid.get(uid).copied()
    }

    /// Takes away what belongs to pods that are no more, links without a pod included.
    pub fn retain(&self, uids: &[&str]) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let links: HashSet<String> = uids.iter().map(|uid| host_link(uid)).collect();
        for (name, _) in route::links(&mut inner.socket)? {
            if is_host_link(&name) && !links.contains(&name) {
                route::remove_link(&mut inner.socket, &name)?;
            }
        }
        let Inner { known, .. } = &mut *inner;
        let before = (known.addresses.by_uid.len(), known.ports.len());
        known.addresses.by_uid.retain(|uid, _| uids.contains(&uid.as_str()));
        known.ports.retain(|uid, _| uids.contains(&uid.as_str()));
        let after = (known.addresses.by_uid.len(), known.ports.len());
        if before != after {
            state::save(&self.path, known)?;
        }
        if before.1 != after.1 {
            inner.write_ports()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("the pod network's lock is never poisoned")
    }
}

impl Inner {
    fn write_ports(&mut self) -> Result<(), NetworkError> {
        let Self { known, netfilter, .. } = self;
        let pods = known
            .ports
            .iter()
            .filter_map(|(uid, ports)| Some((*known.addresses.by_uid.get(uid)?, ports.as_slice())));
        Ok(ports::write(netfilter, &pods.collect())?)
    }
}

/// The addresses that routes of ours lead to.
fn routed(socket: &mut Socket) -> Result<HashSet<Ipv4Addr>, NetlinkError> {
    let routes = route::routes(socket)?;
    Ok(routes.into_iter().filter(|r| r.ours && r.to.prefix == 32).map(|r| r.to.network).collect())
}

fn connect(
    socket: &mut Socket,
    link: &str,
    address: Ipv4Addr,
    netns: &Path,
    mtu: u32,
) -> Result<(), NetworkError> {
    let namespace =
        std::fs::File::open(netns).map_err(NetworkError::file("open the network namespace", netns))?;
    let mut inside = Socket::route_in(netns)?;
    let [.., a, b, c, d] = u32::from(address).to_be_bytes();
    let pod_mac: Mac = [0x0a, 0x58, a, b, c, d];
    let mut pod_index = route::link_index(&mut inside, POD_LINK)?;
    if pod_index.is_none() || route::link_index(socket, link)?.is_none() {
        // A host's end without this pod's is that of a namespace on its way out.
        route::remove_link(socket, link)?;
        route::add_veth(socket, link, HOST_MAC, POD_LINK, pod_mac, namespace.as_fd(), mtu)?;
        pod_index = route::link_index(&mut inside, POD_LINK)?;
    }
    let missing = |name: &str| NetlinkError::Refused {
        what: format!("look up link {name}"),
        error: std::io::Error::from_raw_os_error(libc::ENODEV),
    };
    let pod_index = pod_index.ok_or_else(|| missing(POD_LINK))?;
    let host_index = route::link_index(socket, link)?.ok_or_else(|| missing(link))?;
    route::set_up(&mut inside, LOOPBACK)?;
    route::set_up(&mut inside, pod_index)?;
    route::add_address(&mut inside, pod_index, address, 32)?;
    route::set_neighbour(&mut inside, pod_index, GATEWAY, HOST_MAC)?;
    let everything = Range::new(Ipv4Addr::UNSPECIFIED, 0);
    route::set_route(&mut inside, everything, Via::Gateway { index: pod_index, gateway: GATEWAY }, 0)?;
    route::allow_loopback(socket, host_index)?;
    route::set_neighbour(socket, host_index, address, pod_mac)?;
    let onto_link = Via::Link { index: host_index, source: None };
    Ok(route::set_route(socket, Range::host(address), onto_link, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_fit_and_are_recognised() {
        let name = host_link("2d1f9d3e-7d0c-4b80-8d41-2a8a0c7a9b11");
        assert_eq!(name.len(), 15);
        assert!(is_host_link(&name));
        assert_ne!(name, host_link("2d1f9d3e-7d0c-4b80-8d41-2a8a0c7a9b12"));
        for foreign in ["knarr0", "kn0", "knabcdefghijkl1", "eth0"] {
            assert!(!is_host_link(foreign), "{foreign}");
        }
    }
}
