//! Configuration: one typed structure, filled from defaults, then a YAML file, then flags of the same names.
//! Unknown keys are refused and all mistakes are reported at once.

mod housekeeping;
mod shutdown;

use clap::Args;
use knarr_kubelet::{CredentialProviders, Housekeeping, NodeShutdown};
use knarr_network::Range;
use knarr_store::etcd::{self, EtcdOptions};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the configuration file is looked for when `--config` does not name one.
pub const DEFAULT_FILE: &str = "/etc/knarr/config.yaml";

/// A node's share of the pods' addresses, upstream's default.
const NODE_PREFIX: u8 = 24;

/// Every setting, each absent unless given. The flag and the file's key are the same word.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Where everything is kept [default: /var/lib/knarr]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of this machine's node [default: its host name]
    #[arg(long, global = true, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this machine's node [default: a stable address of Knarr's own, inside the pod range]
    #[arg(long, global = true, value_name = "IP")]
    pub node_ip: Option<String>,
    /// Address the API server listens on [default: 0.0.0.0]
    #[arg(long, global = true, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Port of the API server [default: 6443]
    #[arg(long, global = true, value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Port of the kubelet [default: 10250]
    #[arg(long, global = true, value_name = "PORT")]
    pub kubelet_port: Option<u16>,
    /// Port of the cluster DNS on the node; pods reach it through the service kube-dns [default: 10053]
    #[arg(long, global = true, value_name = "PORT")]
    pub dns_port: Option<u16>,
    /// Addresses of pods on all nodes [default: 10.244.0.0/16]
    #[arg(long, global = true, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Length of the prefix of each node's share of them [default: 24]
    #[arg(long, global = true, value_name = "BITS")]
    pub node_cidr_mask_size: Option<u8>,
    /// Addresses of services [default: 10.96.0.0/16]
    #[arg(long, global = true, value_name = "CIDR")]
    pub service_cidr: Option<String>,
    /// Domain of the cluster [default: cluster.local]
    #[arg(long, global = true, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Kubeconfig that gets a context for this cluster; `none` for no file [default: ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// cgroup under which everything runs [default: knarr]
    #[arg(long, global = true, value_name = "NAME")]
    pub cgroup_root: Option<String>,
    /// Processes and threads that a pod may have [default: as many as the machine]
    #[arg(long, global = true, value_name = "N")]
    pub pod_max_pids: Option<u32>,
    /// Another OCI runtime for pods whose RuntimeClass names this handler, such as gvisor=/usr/local/bin/runsc
    #[arg(long, global = true, value_name = "HANDLER=PROGRAM", value_delimiter = ',')]
    pub runtime_handler: Vec<String>,
    /// Run no controllers: another controller manager works on this cluster
    #[arg(long, global = true)]
    pub disable_controller_manager: bool,
    /// Certificates that are asked for by CertificateSigningRequest are good for so long at most [default: 8760h0m0s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub cluster_signing_duration: Option<String>,
    /// Run no scheduler: another one binds this cluster's pods
    #[arg(long, global = true)]
    pub disable_scheduler: bool,
    /// Registries reached without TLS, host:port
    #[arg(long, global = true, value_name = "HOST", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,
    /// Mirrors, credentials and TLS of registries, as K3s' registries.yaml; read again when it changes [default:
    /// /etc/knarr/registries.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Programs that give credentials for images: a CredentialProviderConfig, as upstream's kubelet takes it
    #[arg(long, global = true, value_name = "FILE")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Where those programs are
    #[arg(long, global = true, value_name = "DIR")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Images pulled at once; 1 pulls them one after another [default: 5]
    #[arg(long, global = true, value_name = "COUNT")]
    pub max_parallel_image_pulls: Option<usize>,
    /// Members of an etcd cluster to keep everything in, https://HOST:PORT [default: a store of Knarr's own]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA of the members' certificates
    #[arg(long, global = true, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate to show to the members
    #[arg(long, global = true, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What keys start with in etcd [default: /registry]
    #[arg(long, global = true, value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
    /// How often the store's history is compacted, such as 5m0s; 0 for never [default: 5m0s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub etcd_compaction_interval: Option<String>,
    /// Pods are evicted below these [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%]
    #[arg(long, global = true, value_name = "THRESHOLDS")]
    pub eviction_hard: Option<String>,
    /// Pods are evicted below these for a grace period
    #[arg(long, global = true, value_name = "THRESHOLDS")]
    pub eviction_soft: Option<String>,
    /// Those grace periods, such as memory.available=1m30s
    #[arg(long, global = true, value_name = "PERIODS")]
    pub eviction_soft_grace_period: Option<String>,
    /// How much more is to be free after an eviction, such as nodefs.available=500Mi
    #[arg(long, global = true, value_name = "AMOUNTS")]
    pub eviction_minimum_reclaim: Option<String>,
    /// How long a pressure is shown after it was last seen [default: 5m0s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub eviction_pressure_transition_period: Option<String>,
    /// Grace of pods evicted below a soft threshold, at most [default: 0]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: Option<u32>,
    /// Kept from pods for the system, such as cpu=100m,memory=1Gi
    #[arg(long, global = true, value_name = "AMOUNTS")]
    pub system_reserved: Option<String>,
    /// Kept from pods for Kubernetes itself
    #[arg(long, global = true, value_name = "AMOUNTS")]
    pub kube_reserved: Option<String>,
    /// Unused images are removed when their disk is this full [default: 85]
    #[arg(long, global = true, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u8>,
    /// ... until it is this full [default: 80]
    #[arg(long, global = true, value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<u8>,
    /// Younger images are kept [default: 2m0s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub minimum_image_ttl_duration: Option<String>,
    /// Images unused for so long are removed anyway; 0 for never [default: 0]
    #[arg(long, global = true, value_name = "DURATION")]
    pub image_maximum_gc_age: Option<String>,
    /// Time that pods have when this machine is shut down (systemd-logind is asked to wait), such as 30s [default: 0]
    #[arg(long, global = true, value_name = "DURATION")]
    pub shutdown_grace_period: Option<String>,
    /// The part of it that is kept for critical pods [default: 0]
    #[arg(long, global = true, value_name = "DURATION")]
    pub shutdown_grace_period_critical_pods: Option<String>,
    /// Instead of both, seconds by priority, such as 100000=10,1000=60,0=30
    #[arg(long, global = true, value_name = "PERIODS")]
    pub shutdown_grace_period_by_pod_priority: Option<String>,
}

/// Reads a duration as Go writes it: `1h30m`, `5m0s`, `250ms`, `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 5m0s");
    let nanos = knarr_meta::duration::parse(text).map_err(|_| wrong())?;
    Ok(Duration::from_nanos(u64::try_from(nanos).map_err(|_| wrong())?))
}

/// Reads a range strictly: bits beyond the prefix are more likely a slip than meant.
fn parse_range(text: &str) -> Result<Range, String> {
    let wrong = || format!("{text:?} is not an IPv4 range such as 10.96.0.0/16");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
    let range = Range::new(address, prefix);
    if range.network != address {
        return Err(format!("{text:?} has bits set beyond its prefix; did you mean {range}?"));
    }
    Ok(range)
}

/// Where the registries' configuration is, unless it is elsewhere.
const REGISTRIES: &str = "/etc/knarr/registries.yaml";

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data directory, absolute.
    pub data_dir: PathBuf,
    /// Node name, a valid DNS subdomain.
    pub node_name: String,
    /// Node address the user asked for.
    pub node_ip: Option<Ipv4Addr>,
    /// API server's listening address.
    pub bind_address: Ipv4Addr,
    /// API server's port.
    pub https_port: u16,
    /// Kubelet's port.
    pub kubelet_port: u16,
    /// DNS port on the node.
    pub dns_port: u16,
    /// Range of all nodes' pods.
    pub pod_cidr: Range,
    /// Length of the prefix of a node's range.
    pub node_prefix: u8,
    /// Service range.
    pub service_cidr: Range,
    /// Cluster domain.
    pub cluster_domain: String,
    /// User's kubeconfig; `None` when it was declined, `Some(empty)` for the default place.
    pub kubeconfig: Option<PathBuf>,
    /// cgroup root.
    pub cgroup_root: String,
    /// Most processes and threads of a pod.
    pub pod_max_pids: Option<u32>,
    /// Programs of other OCI runtimes by the handler that a RuntimeClass names.
    pub runtime_handlers: BTreeMap<String, PathBuf>,
    /// Whether the controllers run in this process.
    pub controller_manager: bool,
    /// How long the certificates that are signed for requests are good.
    pub signing_duration: Duration,
    /// Whether the scheduler runs in this process.
    pub scheduler: bool,
    /// Plain-HTTP registries.
    pub insecure_registries: Vec<String>,
    /// The registries' configuration; it need not exist.
    pub registries: PathBuf,
    /// Programs that give credentials for images.
    pub credential_providers: Arc<CredentialProviders>,
    /// Images pulled at once, 0 for the store's own default.
    pub max_parallel_image_pulls: usize,
    /// The etcd cluster to keep everything in, if any.
    pub etcd: Option<EtcdOptions>,
    /// How often history is compacted; zero for never.
    pub compaction_interval: Duration,
    /// Eviction, reserves and image garbage collection.
    pub housekeeping: Housekeeping,
    /// How long pods have when the machine is shut down.
    pub shutdown: NodeShutdown,
}

impl Config {
    /// The range of the pods of the node that runs beside the control plane: the first of the cluster's.
    pub fn first_node_cidr(&self) -> Range {
        Range::new(self.pod_cidr.network, self.node_prefix)
    }
    /// Address of the service `kubernetes`: the first of the service range.
    pub fn kubernetes_service_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(1).expect("a service range has room")
    }
    /// Address of the service `kube-dns`: the tenth of the service range.
    pub fn dns_service_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(10).expect("a service range has room")
    }
    /// The admin's kubeconfig inside the data directory.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }
}

/// Reads the file (`explicit`, or the default one if it exists), lets `flags` win, and checks everything.
pub fn load(explicit: Option<&Path>, flags: Settings, hostname: &str) -> Result<Config, String> {
    let path = explicit.unwrap_or(Path::new(DEFAULT_FILE));
    let file: Settings = match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Settings::default(),
        Ok(text) => serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?,
        Err(error) if explicit.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Settings::default()
        }
        Err(error) => return Err(format!("cannot read the configuration {}: {error}", path.display())),
    };
    resolve(merge(file, flags), hostname)
}

fn merge(file: Settings, flags: Settings) -> Settings {
    Settings {
        data_dir: flags.data_dir.or(file.data_dir),
        node_name: flags.node_name.or(file.node_name),
        node_ip: flags.node_ip.or(file.node_ip),
        bind_address: flags.bind_address.or(file.bind_address),
        https_port: flags.https_port.or(file.https_port),
        kubelet_port: flags.kubelet_port.or(file.kubelet_port),
        dns_port: flags.dns_port.or(file.dns_port),
        pod_cidr: flags.pod_cidr.or(file.pod_cidr),
        node_cidr_mask_size: flags.node_cidr_mask_size.or(file.node_cidr_mask_size),
        service_cidr: flags.service_cidr.or(file.service_cidr),
        cluster_domain: flags.cluster_domain.or(file.cluster_domain),
        kubeconfig: flags.kubeconfig.or(file.kubeconfig),
        cgroup_root: flags.cgroup_root.or(file.cgroup_root),
        pod_max_pids: flags.pod_max_pids.or(file.pod_max_pids),
        runtime_handler: if flags.runtime_handler.is_empty() {
            file.runtime_handler
        } else {
            flags.runtime_handler
        },
        disable_controller_manager: flags.disable_controller_manager || file.disable_controller_manager,
        cluster_signing_duration: flags.cluster_signing_duration.or(file.cluster_signing_duration),
        disable_scheduler: flags.disable_scheduler || file.disable_scheduler,
        insecure_registry: if flags.insecure_registry.is_empty() {
            file.insecure_registry
        } else {
            flags.insecure_registry
        },
        registries: flags.registries.or(file.registries),
        image_credential_provider_config: flags
            .image_credential_provider_config
            .or(file.image_credential_provider_config),
        image_credential_provider_bin_dir: flags
            .image_credential_provider_bin_dir
            .or(file.image_credential_provider_bin_dir),
        max_parallel_image_pulls: flags.max_parallel_image_pulls.or(file.max_parallel_image_pulls),
        etcd_servers: if flags.etcd_servers.is_empty() { file.etcd_servers } else { flags.etcd_servers },
        etcd_cafile: flags.etcd_cafile.or(file.etcd_cafile),
        etcd_certfile: flags.etcd_certfile.or(file.etcd_certfile),
        etcd_keyfile: flags.etcd_keyfile.or(file.etcd_keyfile),
        etcd_prefix: flags.etcd_prefix.or(file.etcd_prefix),
        etcd_compaction_interval: flags.etcd_compaction_interval.or(file.etcd_compaction_interval),
        eviction_hard: flags.eviction_hard.or(file.eviction_hard),
        eviction_soft: flags.eviction_soft.or(file.eviction_soft),
        eviction_soft_grace_period: flags.eviction_soft_grace_period.or(file.eviction_soft_grace_period),
        eviction_minimum_reclaim: flags.eviction_minimum_reclaim.or(file.eviction_minimum_reclaim),
        eviction_pressure_transition_period: flags
            .eviction_pressure_transition_period
            .or(file.eviction_pressure_transition_period),
        eviction_max_pod_grace_period: flags
            .eviction_max_pod_grace_period
            .or(file.eviction_max_pod_grace_period),
        system_reserved: flags.system_reserved.or(file.system_reserved),
        kube_reserved: flags.kube_reserved.or(file.kube_reserved),
        image_gc_high_threshold: flags.image_gc_high_threshold.or(file.image_gc_high_threshold),
        image_gc_low_threshold: flags.image_gc_low_threshold.or(file.image_gc_low_threshold),
        minimum_image_ttl_duration: flags.minimum_image_ttl_duration.or(file.minimum_image_ttl_duration),
        image_maximum_gc_age: flags.image_maximum_gc_age.or(file.image_maximum_gc_age),
        shutdown_grace_period: flags.shutdown_grace_period.or(file.shutdown_grace_period),
        shutdown_grace_period_critical_pods: flags
            .shutdown_grace_period_critical_pods
            .or(file.shutdown_grace_period_critical_pods),
        shutdown_grace_period_by_pod_priority: flags
            .shutdown_grace_period_by_pod_priority
            .or(file.shutdown_grace_period_by_pod_priority),
    }
}

fn resolve(settings: Settings, hostname: &str) -> Result<Config, String> {
    let mut wrong = Vec::new();
    let mut note = |key: &str, problem: String| wrong.push(format!("{key}: {problem}"));
    let housekeeping = housekeeping::read(&settings, &mut note);
    let shutdown = shutdown::read(&settings, &mut note);
    let any = Range::new(Ipv4Addr::UNSPECIFIED, 0);

    let mut range = |key: &str, text: Option<String>, default: &str, longest: u8| match parse_range(
        text.as_deref().unwrap_or(default),
    ) {
        Ok(cidr) if cidr.prefix > longest => {
            note(key, format!("{cidr} is too small; the prefix may be /{longest} at most"));
            any
        }
        Ok(cidr) => cidr,
        Err(problem) => {
            note(key, problem);
            any
        }
    };
    let pod_cidr = range("pod-cidr", settings.pod_cidr, "10.244.0.0/16", 28);
    let service_cidr = range("service-cidr", settings.service_cidr, "10.96.0.0/16", 27);
    // A cluster's range that is no larger than a node's is one node's.
    let node_prefix = settings.node_cidr_mask_size.unwrap_or(NODE_PREFIX.max(pod_cidr.prefix));
    if pod_cidr != any && !(pod_cidr.prefix..=28).contains(&node_prefix) {
        note(
            "node-cidr-mask-size",
            format!("{node_prefix} is not between {} (of pod-cidr) and 28", pod_cidr.prefix),
        );
    }
    if pod_cidr != any && service_cidr != any && pod_cidr.overlaps(&service_cidr) {
        note("pod-cidr", format!("{pod_cidr} overlaps the service range {service_cidr}"));
    }
    let mut address = |key: &str, text: Option<String>| {
        text.and_then(|text| match text.parse::<Ipv4Addr>() {
            Ok(address) => Some(address),
            Err(_) => {
                note(key, format!("{text:?} is not an IPv4 address"));
                None
            }
        })
    };
    let node_ip = address("node-ip", settings.node_ip);
    let bind_address = address("bind-address", settings.bind_address).unwrap_or(Ipv4Addr::UNSPECIFIED);

    let node_name = settings.node_name.unwrap_or_else(|| hostname.to_ascii_lowercase());
    if let Some(problem) = knarr_meta::validate::dns1123_subdomain(&node_name).first() {
        note("node-name", format!("{node_name:?}: {problem}"));
    }
    let data_dir = settings.data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/knarr"));
    if !data_dir.is_absolute() {
        note("data-dir", format!("{} is not an absolute path", data_dir.display()));
    }
    let cgroup_root = settings.cgroup_root.unwrap_or_else(|| "knarr".to_owned());
    let cgroup_root = cgroup_root.trim_matches('/').to_owned();
    if cgroup_root.is_empty() || cgroup_root.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        note("cgroup-root", format!("{cgroup_root:?} is not a name for a cgroup"));
    }
    let compaction_interval = match settings.etcd_compaction_interval.as_deref().map(parse_duration) {
        None => knarr_apiserver::COMPACTION_INTERVAL,
        Some(Ok(interval)) => interval,
        Some(Err(problem)) => {
            note("etcd-compaction-interval", problem);
            Duration::ZERO
        }
    };
    let signing_duration = match settings.cluster_signing_duration.as_deref().map(parse_duration) {
        None => knarr_controllers::SIGNING_DURATION,
        Some(Ok(duration)) if !duration.is_zero() => duration,
        Some(Ok(_)) => {
            note("cluster-signing-duration", "a certificate has to be good for some time".to_owned());
            Duration::ZERO
        }
        Some(Err(problem)) => {
            note("cluster-signing-duration", problem);
            Duration::ZERO
        }
    };
    let etcd = EtcdOptions {
        ca_file: settings.etcd_cafile,
        cert_file: settings.etcd_certfile,
        key_file: settings.etcd_keyfile,
        prefix: settings.etcd_prefix.unwrap_or_else(|| etcd::PREFIX.to_owned()),
        servers: settings.etcd_servers,
    };
    let etcd = (!etcd.servers.is_empty()).then_some(etcd);
    if let Some(Err(problem)) = etcd.as_ref().map(EtcdOptions::check) {
        note("etcd-servers", problem);
    }
    let ports = [
        ("https-port", settings.https_port.unwrap_or(6443)),
        ("kubelet-port", settings.kubelet_port.unwrap_or(10250)),
        ("dns-port", settings.dns_port.unwrap_or(10053)),
    ];
    for (i, (key, port)) in ports.iter().enumerate() {
        if *port == 0 {
            note(key, "0 is not a port".to_owned());
        }
        if let Some((other, _)) = ports[..i].iter().find(|(_, p)| p == port) {
            note(key, format!("{port} is also {other}"));
        }
    }
    if settings.pod_max_pids == Some(0) {
        note("pod-max-pids", "a pod needs at least one process".to_owned());
    }
    let providers = (settings.image_credential_provider_config, settings.image_credential_provider_bin_dir);
    let credential_providers = match providers {
        (None, None) => CredentialProviders::default(),
        (Some(config), Some(programs)) => {
            CredentialProviders::read(&config, &programs).unwrap_or_else(|problem| {
                note("image-credential-provider-config", problem);
                CredentialProviders::default()
            })
        }
        _ => {
            let both = "needs image-credential-provider-bin-dir, and the other way round";
            note("image-credential-provider-config", both.to_owned());
            CredentialProviders::default()
        }
    };
    let mut runtime_handlers = BTreeMap::new();
    for text in &settings.runtime_handler {
        match text.split_once('=') {
            Some((name, program)) if is_label(name) && program.starts_with('/') => {
                runtime_handlers.insert(name.to_owned(), PathBuf::from(program));
            }
            _ => note("runtime-handler", format!("{text:?} is not HANDLER=/PATH/OF/PROGRAM")),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    Ok(Config {
        data_dir,
        node_name,
        node_ip,
        bind_address,
        https_port: ports[0].1,
        kubelet_port: ports[1].1,
        dns_port: ports[2].1,
        pod_cidr,
        node_prefix,
        service_cidr,
        cluster_domain: settings.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
        kubeconfig: match settings.kubeconfig {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) => Some(path),
            None => Some(PathBuf::new()),
        },
        cgroup_root,
        pod_max_pids: settings.pod_max_pids,
        runtime_handlers,
        controller_manager: !settings.disable_controller_manager,
        signing_duration,
        scheduler: !settings.disable_scheduler,
        insecure_registries: settings.insecure_registry,
        registries: settings.registries.unwrap_or_else(|| PathBuf::from(REGISTRIES)),
        credential_providers: Arc::new(credential_providers),
        max_parallel_image_pulls: settings.max_parallel_image_pulls.unwrap_or_default(),
        etcd,
        compaction_interval,
        housekeeping,
        shutdown,
    })
}

/// Whether a name is an RFC 1123 label, as the API wants of a RuntimeClass's handler.
fn is_label(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let settings = Settings {
            node_ip: Some("here".into()),
            runtime_handler: vec!["gvisor=runsc".into(), "kata=/bin/kata".into()],
            pod_cidr: Some("10.96.1.0/24".into()),
            https_port: Some(10250),
            ..Settings::default()
        };
        let error = resolve(settings, "alpha").expect_err("three mistakes");
        assert_eq!(
            error,
            "pod-cidr: 10.96.1.0/24 overlaps the service range 10.96.0.0/16\n\
             node-ip: \"here\" is not an IPv4 address\nkubelet-port: 10250 is also https-port\n\
             runtime-handler: \"gvisor=runsc\" is not HANDLER=/PATH/OF/PROGRAM"
        );
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_refused() {
        let file: Settings = serde_saphyr::from_str("https-port: 7443\nnode-name: a\n").expect("valid");
        let config =
            resolve(merge(file, Settings { node_name: Some("b".into()), ..Settings::default() }), "x");
        let config = config.expect("valid");
        assert_eq!((config.https_port, config.node_name.as_str()), (7443, "b"));
        assert!(serde_saphyr::from_str::<Settings>("colour: red").is_err());
    }

    #[test]
    fn durations_are_go_s_and_etcd_is_checked() {
        for (text, seconds) in [("5m0s", Some(300)), ("0", Some(0)), ("1h30m", Some(5400)), ("0s", Some(0))] {
            assert_eq!(parse_duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["", "5", "m", "5x", "-5s", "s5"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let settings = Settings {
            etcd_servers: vec!["https://a:2379".into(), "http://b:2379".into()],
            etcd_compaction_interval: Some("soon".into()),
            cluster_signing_duration: Some("0s".into()),
            ..Settings::default()
        };
        let error = resolve(settings, "alpha").expect_err("three mistakes");
        assert_eq!(
            error,
            "etcd-compaction-interval: \"soon\" is not a duration such as 5m0s\n\
             cluster-signing-duration: a certificate has to be good for some time\n\
             etcd-servers: https needs the CA of etcd's certificates (etcd-cafile)"
        );
        let one = Settings { etcd_servers: vec!["http://b:2379".into()], ..Settings::default() };
        let etcd = resolve(one, "alpha").expect("valid").etcd.expect("named");
        assert_eq!(etcd.prefix, "/registry");
        assert!(resolve(Settings::default(), "alpha").expect("valid").etcd.is_none());
    }

    #[test]
    fn a_range_with_stray_bits_is_refused() {
        assert_eq!(parse_range("10.96.0.0/16").map(|r| r.prefix), Ok(16));
        assert!(parse_range("10.96.0.1/16").expect_err("stray bits").contains("did you mean 10.96.0.0/16?"));
    }
}
