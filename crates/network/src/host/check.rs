//! What on the host would get in the network's way: routes of a VPN or of Docker over the same addresses, and firewalls
//! that drop what is forwarded. Told before anything is changed, with the way out.

use super::{DEVICE, HostConfig, TABLE};
use crate::NetworkError;
use crate::netlink::{Socket, firewall, route};
use crate::range::Range;
use std::fmt;

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the cluster cannot work with it, as opposed to parts of it.
    pub fatal: bool,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  {}", self.message, self.hint)
    }
}

/// Looks for problems without changing anything.
pub fn check(config: &HostConfig) -> Result<Vec<Problem>, NetworkError> {
    let mut socket = Socket::route()?;
    let links = route::links(&mut socket)?;
    let name = |index: u32| links.iter().find(|(_, i)| *i == index).map_or("", |(name, _)| name.as_str());
    let ours =
        |link: &str| link == DEVICE || link == crate::nodes::OVERLAY || crate::pods::is_host_link(link);
    let mut seen: Vec<(Range, String, bool)> = Vec::new();
    for found in route::routes(&mut socket)? {
        if !found.ours && !ours(name(found.link)) {
            seen.push((found.to, name(found.link).to_owned(), found.gateway));
        }
    }
    let addresses = route::addresses(&mut socket)?;
    for (address, prefix, index) in addresses.iter().copied() {
        let range = Range::new(address, prefix);
        if !ours(name(index)) && !seen.iter().any(|(known, _, _)| *known == range) {
            seen.push((range, name(index).to_owned(), false));
        }
    }
    let mut problems = Vec::new();
    if let Some(ip) = config.node_ip.filter(|ip| !addresses.iter().any(|(address, ..)| address == ip)) {
        let others = addresses.iter().map(|(address, ..)| *address).filter(|a| !a.is_loopback());
        let others: Vec<String> = others.map(|a| a.to_string()).collect();
        problems.push(Problem {
            fatal: true,
            message: format!("the node address {ip} is none of this machine's ({})", others.join(", ")),
            hint: "Give one of them with --node-ip, or none: Knarr then uses a stable address of its own."
                .to_owned(),
        });
    }
    if config.cluster_cidr.overlaps(&config.service_cidr) {
        problems.push(Problem {
            fatal: true,
            message: format!(
                "the pod range {} and the service range {} overlap",
                config.cluster_cidr, config.service_cidr
            ),
            hint: "Choose ranges that do not, with --pod-cidr and --service-cidr.".to_owned(),
        });
    }
    for (what, flag, range) in
        [("pod", "--pod-cidr", config.cluster_cidr), ("service", "--service-cidr", config.service_cidr)]
    {
        problems.extend(seen.iter().filter_map(|taken| overlap(what, flag, range, taken)));
    }
    match Socket::netfilter().and_then(|mut socket| firewall::base_chains(&mut socket)) {
        Ok(chains) => problems.extend(firewalls(&chains, config.cluster_cidr)),
        Err(error) => problems.push(Problem {
            fatal: true,
            message: format!("the kernel has no usable nftables ({error})"),
            hint: "Load the module nf_tables (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES."
                .to_owned(),
        }),
    }
    Ok(problems)
}

fn overlap(
    what: &str,
    flag: &str,
    range: Range,
    (to, link, gateway): &(Range, String, bool),
) -> Option<Problem> {
    // Default routes, and their halves that VPNs set, are there to be overridden.
    if to.prefix <= 1 || !range.overlaps(to) {
        return None;
    }
    // A wide route to a gateway goes on working for all but the cluster's own addresses.
    let fatal = to.prefix >= range.prefix || !gateway;
    let over = if link.is_empty() { String::new() } else { format!(" over {link}") };
    Some(Problem {
        fatal,
        message: format!("the {what} range {range} overlaps the host's route {to}{over}"),
        hint: format!("Choose another range with {flag}, or take the route away (a VPN or Docker made it?)."),
    })
}

/// Other people's chains that would drop forwarded packets: an accept in one table does not save a packet from another.
fn firewalls(chains: &[firewall::BaseChain], pods: Range) -> Vec<Problem> {
    let others = chains.iter().filter(|c| c.hook == firewall::FORWARD && c.table != TABLE);
    let others = others.filter(|c| ["ip", "inet"].contains(&c.family));
    // firewalld lets its chains end in a reject instead.
    let (mut firewalld, others): (Vec<_>, Vec<_>) = others.partition(|c| c.table == "firewalld");
    firewalld.truncate(1);
    let firewalld = firewalld.into_iter().map(|_| Problem {
        fatal: false,
        message: "firewalld is running and may refuse packets to and from pods".to_owned(),
        hint: format!(
            "Let pods through: firewall-cmd --permanent --zone=trusted --add-source={pods} && firewall-cmd --reload"
        ),
    });
    others
        .into_iter()
        .filter(|c| c.drops)
        .map(|chain| {
            let hint = if chain.family == "ip" && chain.table == "filter" {
                let into = if chains.iter().any(|c| c.table == "filter" && c.name == "DOCKER-USER") {
                    "DOCKER-USER"
                } else {
                    "FORWARD"
                };
                format!(
                    "Let pods through: iptables -I {into} -s {pods} -j ACCEPT; iptables -I {into} -d {pods} -j ACCEPT"
                )
            } else {
                format!(
                    "Let pods through: nft insert rule {f} {t} {c} ip saddr {pods} accept; nft insert rule {f} {t} {c} ip daddr {pods} accept",
                    f = chain.family,
                    t = chain.table,
                    c = chain.name
                )
            };
            Problem {
                fatal: false,
                message: format!(
                    "the firewall's chain {} (nftables table {} {}) drops forwarded packets, pods may not reach \
                     anything outside",
                    chain.name, chain.family, chain.table
                ),
                hint,
            }
        })
        .chain(firewalld)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_routes_are_named_and_default_routes_are_not() {
        let pods: Range = "10.244.0.0/16".parse().unwrap();
        let cases = [
            ("0.0.0.0/0", "eth0", true, None),
            ("128.0.0.0/1", "tun0", true, None),
            ("192.168.0.0/16", "eth0", false, None),
            ("10.244.7.0/24", "docker0", false, Some(true)),
            ("10.244.0.0/16", "tun0", true, Some(true)),
            ("10.0.0.0/8", "tun0", true, Some(false)),
            ("10.0.0.0/8", "eth0", false, Some(true)),
        ];
        for (to, link, gateway, fatal) in cases {
            let taken = (to.parse().unwrap(), link.to_owned(), gateway);
            let problem = overlap("pod", "--pod-cidr", pods, &taken);
            assert_eq!(problem.as_ref().map(|p| p.fatal), fatal, "{to}");
            if let Some(problem) = problem {
                assert!(problem.message.contains(to) && problem.message.contains(link), "{problem}");
            }
        }
    }

    #[test]
    fn only_foreign_chains_that_drop_forwarded_packets_are_reported() {
        let chain = |family, table: &str, hook, drops| firewall::BaseChain {
            family,
            table: table.to_owned(),
            name: "FORWARD".to_owned(),
            hook,
            drops,
        };
        let pods = "10.244.0.0/16".parse().unwrap();
        let chains = [
            chain("ip", "filter", 2, true),
            chain("ip", "filter", 1, true),
            chain("ip6", "filter", 2, true),
            chain("inet", "other", 2, false),
            chain("inet", "firewalld", 2, false),
            chain("inet", "firewalld", 2, false),
            chain("ip", TABLE, 2, true),
        ];
        let found = firewalls(&chains, pods);
        assert_eq!(found.len(), 2);
        assert!(found[0].hint.contains("iptables -I FORWARD -s 10.244.0.0/16"), "{}", found[0]);
        assert!(found[1].hint.contains("--add-source=10.244.0.0/16"), "{}", found[1]);
    }
}
