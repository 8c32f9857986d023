//! A container's environment: service variables, envFrom, env with every valueFrom, `$(VAR)` expansion
//! (define-environment-variable pages; the order and the rules are upstream's).

use super::expand::expand;
use crate::kubelet::Shared;
use crate::util::{Def, milli, resource, value};
use crate::volume::Prepared;
use knarr_api::Kind;
use knarr_api::core::v1::{Container, EnvVarSource, Pod, ResourceFieldSelector, Service};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The environment as ordered `NAME=value` pairs. The error is a message for CreateContainerConfigError.
pub(crate) async fn environment(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    def: &Def,
    ips: &[IpAddr],
    volumes: &Prepared,
) -> Result<Vec<(String, String)>, String> {
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = kubelet.services.list("");
    let service_env = service_variables(pod.namespace(), links, services.iter().map(|s| &**s));
    let mut env = Env::default();
    for source in def.spec.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (what, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(r), _) => (crate::objects::What::ConfigMap, &r.name, r.optional),
            (_, Some(r)) => (crate::objects::What::Secret, &r.name, r.optional),
            _ => continue,
        };
        let data = kubelet.objects.get(what, pod.namespace(), name, pod.uid()).await?;
        let Some(data) = data else {
            if optional == Some(true) {
                continue;
            }
            return Err(format!("{} \"{name}\" not found", what.word()));
        };
        for (key, bytes) in &data.data {
            if let (false, Ok(text)) = (key.is_empty() || key.contains('='), std::str::from_utf8(bytes)) {
                env.set(format!("{prefix}{key}"), text.to_owned());
            }
        }
    }
    for var in def.spec.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                expand(text, |name| env.get(name).or_else(|| service_env.get(name).cloned()))
            }
            (_, Some(source)) => match from(kubelet, pod, def, ips, volumes, source).await? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        env.set(var.name.clone(), value);
    }
    for (name, value) in service_env {
        if env.get(&name).is_none() {
            env.0.push((name, value));
        }
    }
    Ok(env.0)
}

#[derive(Default)]
struct Env(Vec<(String, String)>);

impl Env {
    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }
}

async fn from(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    def: &Def,
    ips: &[IpAddr],
    volumes: &Prepared,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(file) = &source.file_key_ref {
        let volume = volumes.sources.get(&file.volume_name).ok_or_else(|| {
            format!("cannot find the volume \"{}\" referenced by FileKeyRef", file.volume_name)
        })?;
        let value = super::env_file::read(&volume.path, &file.path, &file.key).map_err(|error| {
            tracing::debug!(pod = pod.name(), error, "an environment file cannot be used");
            "couldn't parse env file".to_owned()
        })?;
        return match value.is_empty() {
            false => Ok(Some(value)),
            true if file.optional == Some(true) => Ok(None),
            true => {
                let path = volume.path.join(&file.path);
                Err(format!(
                    "environment variable key \"{}\" not found in file \"{}\"",
                    file.key,
                    path.display()
                ))
            }
        };
    }

    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, ips, kubelet).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let defs = crate::util::defs(pod);
        let name = selector.container_name.as_deref().filter(|n| !n.is_empty());
        let container = match name {
            Some(name) => {
                &defs.iter().find(|d| d.spec.name == name).ok_or(format!("container {name} not found"))?.spec
            }
            None => &def.spec,
        };
        return resource_value(container, selector, kubelet).map(Some);
    }
    let (what, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(r), _) => (crate::objects::What::ConfigMap, &r.name, &r.key, r.optional),
        (_, Some(r)) => (crate::objects::What::Secret, &r.name, &r.key, r.optional),
        _ => return Err("unsupported source of an environment variable".to_owned()),
    };
    let optional = optional == Some(true);
    let Some(data) = kubelet.objects.get(what, pod.namespace(), name, pod.uid()).await? else {
        return if optional { Ok(None) } else { Err(format!("{} \"{name}\" not found", what.word())) };
    };
    match data.data.get(key) {
        Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
        None if optional => Ok(None),
        None => {
            let kind = if what == crate::objects::What::ConfigMap { "ConfigMap" } else { "Secret" };
            Err(format!("couldn't find key {key} in {kind} {}/{name}", pod.namespace()))
        }
    }
}

/// A field of the pod, as the downward API names it.
pub(crate) fn field_value(pod: &Pod, path: &str, ips: &[IpAddr], kubelet: &Shared) -> Result<String, String> {
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
    };
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = subscript("metadata.labels") {
        return Ok(entry(&pod.metadata.labels, key));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(entry(&pod.metadata.annotations, key));
    }
    let node_ip = kubelet.config.node_ip.to_string();
    let ips: Vec<String> = match crate::util::host_network(pod) {
        true => vec![node_ip.clone()],
        false => ips.iter().map(IpAddr::to_string).collect(),
    };
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => quoted(&pod.metadata.labels),
        "metadata.annotations" => quoted(&pod.metadata.annotations),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => node_ip,
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Labels or annotations as lines of `key="value"`, the value quoted as Go's %q does.
fn quoted(map: &Option<BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| {
        format!("{key}={}", serde_json::to_string(value).expect("a string always encodes"))
    };
    map.iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// A container's resource in units of the divisor, rounded up; limits default to what the node has.
pub(crate) fn resource_value(
    container: &Container,
    selector: &ResourceFieldSelector,
    kubelet: &Shared,
) -> Result<String, String> {
    let (list, name) = selector
        .resource
        .split_once('.')
        .ok_or(format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.clone().unwrap_or_default();
    let found = match list {
        "limits" => resource(&resources.limits, name).cloned(),
        "requests" => resource(&resources.requests, name).or(resource(&resources.limits, name)).cloned(),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let capacity = crate::node::allocatable(&kubelet.config);
    let amount = match (name, &found, list) {
        ("cpu", Some(q), _) => milli(q),
        ("cpu", None, "limits") => capacity.cpu_millicores as i64,
        (_, Some(q), _) => value(q),
        ("memory", None, "limits") => capacity.memory_bytes as i64,
        ("ephemeral-storage", None, "limits") => capacity.ephemeral_storage_bytes as i64,
        _ => 0,
    };
    let divisor = selector.divisor.as_ref().filter(|d| milli(d) > 0);
    let divisor = match (name, divisor) {
        ("cpu", Some(d)) => milli(d),
        ("cpu", None) => 1000,
        (_, Some(d)) => value(d),
        (_, None) => 1,
    };
    Ok(((amount + divisor - 1) / divisor.max(1)).to_string())
}

/// The variables that describe services, in Docker's link style; those of the `kubernetes` service are
/// always there.
fn service_variables<'a>(
    namespace: &str,
    links: bool,
    services: impl Iterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut chosen: Vec<&Service> = Vec::new();
    for service in services {
        let master = service.namespace() == "default" && service.name() == "kubernetes";
        // A service of the pod's own namespace comes after, and so wins over the master's of the same name.
        if master {
            chosen.insert(0, service);
        } else if links && service.namespace() == namespace {
            chosen.push(service);
        }
    }
    for service in chosen {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let Some(ports) = spec.ports.as_ref().filter(|p| !p.is_empty()) else { continue };
        let name = variable(service.name());
        env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                env.insert(format!("{name}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
            }
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                env.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            env.insert(prefix.clone(), url);
            env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            env.insert(format!("{prefix}_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    env
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, ip: &str) -> Service {
        Service::from_value(
            &json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip,
            "ports": [{"name": "web-ui", "port": 80, "protocol": "TCP"}]}}),
        )
        .unwrap()
    }

    #[test]
    fn services_of_the_namespace_and_the_api_servers_are_variables() {
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "my-app", "10.0.0.2"),
            service("n", "none", "None"),
            service("other", "x", "10.0.0.3"),
        ];
        let env = service_variables("n", true, all.iter());
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(env["MY_APP_SERVICE_PORT_WEB_UI"], "80");
        assert_eq!(env["MY_APP_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert_eq!(env["MY_APP_PORT_80_TCP_ADDR"], "10.0.0.2");
        assert!(!env.keys().any(|k| k.starts_with("X_") || k.starts_with("NONE_")));
        let only = service_variables("n", false, all.iter());
        assert!(only.contains_key("KUBERNETES_PORT") && !only.contains_key("MY_APP_PORT"));
    }

    #[test]
    fn labels_are_quoted_lines() {
        let map =
            Some(BTreeMap::from([("a".to_owned(), "x\"y".to_owned()), ("b".to_owned(), "z".to_owned())]));
        assert_eq!(quoted(&map), "a=\"x\\\"y\"\nb=\"z\"");
    }
}
