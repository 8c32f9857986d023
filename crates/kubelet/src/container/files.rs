//! Files that every container finds: /etc/hosts, /etc/hostname and /etc/resolv.conf (dns-pod-service page).

use crate::config::KubeletConfig;
use crate::util::host_network;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use std::net::IpAddr;

/// Most nameservers and search domains that a resolver takes.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;

/// The pod's host name.
pub(crate) fn hostname(pod: &Pod, config: &KubeletConfig, node_hostname: &str) -> String {
    if host_network(pod) && overridden(pod).is_none() {
        return node_hostname.to_owned();
    }
    kernel_name(pod, config)
}

fn kernel_name(pod: &Pod, config: &KubeletConfig) -> String {
    let short = short_name(pod);
    let whole = pod.spec.as_ref().is_some_and(|s| s.set_hostname_as_fqdn == Some(true));
    match domain(pod, config).filter(|_| whole) {
        Some(domain) => format!("{short}.{domain}"),
        None => short,
    }
}

/// Refuses a host name that the kernel has no room for.
pub(crate) fn check_hostname(pod: &Pod, config: &KubeletConfig) -> Result<(), String> {
    const MOST: usize = 64;
    let name = kernel_name(pod, config);
    if name.len() <= MOST {
        return Ok(());
    }
    Err(format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({MOST} characters is the max, {} characters requested)",
        name.len()
    ))
}

fn overridden(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.hostname_override.as_deref().filter(|n| !n.is_empty())
}

fn short_name(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = overridden(pod).or(given).unwrap_or(pod.name());
    // A host name has 63 characters at most, and does not end in a dash or dot.
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

fn domain(pod: &Pod, config: &KubeletConfig) -> Option<String> {
    if overridden(pod).is_some() {
        return None;
    }
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{}", pod.namespace(), config.cluster_domain))
}

/// The content of /etc/hosts.
pub(crate) fn hosts(pod: &Pod, config: &KubeletConfig, ips: &[IpAddr], host_file: &str) -> String {
    let mut text = if host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n"
            .to_owned();
        let name = short_name(pod);
        for ip in ips {
            match domain(pod, config) {
                Some(domain) => text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
                None => text.push_str(&format!("{ip}\t{name}\n")),
            }
        }
        text
    };
    let aliases: Vec<_> = pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten()).collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The content of /etc/resolv.conf, from the pod's policy and the host's file.
pub(crate) fn resolv_conf(pod: &Pod, config: &KubeletConfig, host_file: &str) -> String {
    let host = parse(host_file);
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if host_network(pod) => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        other => other,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "ClusterFirst" if !config.cluster_dns.is_empty() => {
            let domain = &config.cluster_domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches);
            Resolver {
                nameservers: config.cluster_dns.iter().map(IpAddr::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => host,
    };
    if let Some(own) = spec.dns_config {
        resolver.nameservers.extend(own.nameservers.unwrap_or_default());
        resolver.searches.extend(own.searches.unwrap_or_default());
        for option in own.options.into_iter().flatten() {
            let name = option.name.unwrap_or_default();
            let key = format!("{name}:");
            resolver.options.retain(|o| *o != name && !o.starts_with(&key));
            resolver.options.push(match option.value.filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    render(resolver)
}

fn render(resolver: Resolver) -> String {
    let unique = |list: Vec<String>, most: usize| {
        let mut out: Vec<String> = Vec::new();
        for item in list {
            if !out.contains(&item) && out.len() < most {
                out.push(item);
            }
        }
        out
    };
    let mut text = String::new();
    let searches = unique(resolver.searches, MOST_SEARCHES);
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in unique(resolver.nameservers, MOST_NAMESERVERS) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                resolver.searches =
                    words.map(|w| w.trim_end_matches('.').to_owned()).filter(|w| !w.is_empty()).collect();
            }
            Some("options") => resolver.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

/// The host's resolver file that holds real servers: systemd-resolved's stub address means nothing in a pod.
pub(crate) fn host_resolv_conf(config: &KubeletConfig) -> String {
    let text = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let stub = parse(&text).nameservers.iter().any(|s| s == "127.0.0.53");
    match std::fs::read_to_string("/run/systemd/resolve/resolv.conf") {
        Ok(real) if stub => real,
        _ => text,
    }
}
