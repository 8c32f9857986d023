//! The host's resolvers, from resolv.conf(5). Where systemd-resolved has put its stub there, its own list of the real
//! ones is used: pods cannot reach the host's loopback, and neither should answers depend on what it rewrites.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

const DNS_PORT: u16 = 53;
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Where other names are asked for.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// These servers.
    Fixed(Vec<SocketAddr>),
    /// Those the host uses, read again when they change.
    Host {
        /// `/etc/resolv.conf`.
        resolv_conf: PathBuf,
        /// `/run/systemd/resolve/resolv.conf`.
        behind_stub: PathBuf,
    },
}

impl Upstreams {
    /// The host's resolvers in their usual places.
    pub fn of_host() -> Self {
        Self::Host {
            resolv_conf: "/etc/resolv.conf".into(),
            behind_stub: "/run/systemd/resolve/resolv.conf".into(),
        }
    }

    /// The servers as of now.
    pub fn read(&self) -> Vec<SocketAddr> {
        match self {
            Self::Fixed(servers) => servers.clone(),
            Self::Host { resolv_conf, behind_stub } => {
                let servers = |path| parse(&std::fs::read_to_string(path).unwrap_or_default());
                let first = servers(resolv_conf);
                let is_stub = |s: &SocketAddr| matches!(s.ip(), IpAddr::V4(v4) if STUBS.contains(&v4));
                if first.iter().any(is_stub) {
                    let real = servers(behind_stub);
                    if !real.is_empty() {
                        return real;
                    }
                }
                first
            }
        }
    }
}

/// The servers named in a resolv.conf.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|w| *w == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, DNS_PORT))
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_is_replaced_by_what_is_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let behind_stub = write("real", "# made by systemd\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n");
        let cases = [
            ("nameserver 127.0.0.53\noptions edns0\n", vec!["192.0.2.1:53", "[2001:db8::1]:53"]),
            ("search x\nnameserver\t192.0.2.9 \nnameserver nonsense\n", vec!["192.0.2.9:53"]),
            ("", vec![]),
        ];
        for (text, wanted) in cases {
            let upstreams =
                Upstreams::Host { resolv_conf: write("resolv.conf", text), behind_stub: behind_stub.clone() };
            let found: Vec<String> = upstreams.read().iter().map(ToString::to_string).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
