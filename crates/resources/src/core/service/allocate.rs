//! What a service's write reserves: cluster addresses and node ports (pkg/registry/core/service/storage).

use super::addresses::{self, candidates, family_of, is_free};
use super::ports::{InFlight, Ports};
use super::{
    allocates_node_ports, families, has_node_ports, needs_cluster_ip, needs_health_check, node_ports,
};
use crate::util::value::{Object, each, ensure, list, number, object, text};
use crate::util::{Errs, ip, status_of};
use futures_util::future::BoxFuture;
use knarr_apiserver::def::Reservation;
use knarr_apiserver::request::RequestCx;
use knarr_base::Tasks;
use knarr_client::Client;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The allocators of one control plane.
#[derive(Default)]
pub struct Allocator {
    ports: Arc<InFlight>,
}

type Reserved = Result<Option<Box<dyn Reservation>>, Status>;

/// What one write holds.
struct Held {
    client: Client,
    tasks: Tasks,
    ports: Ports,
    /// Addresses whose objects this write created.
    taken: Vec<IpAddr>,
    /// Addresses the service gives up once the write is durable.
    released: Vec<IpAddr>,
}

impl Reservation for Held {
    fn commit(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        self.taken.clear();
        let (client, released) = (self.client.clone(), std::mem::take(&mut self.released));
        Box::pin(async move {
            for address in released {
                addresses::undo(client.clone(), address).await;
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for address in self.taken.drain(..) {
            self.tasks.spawn("service-address-release", addresses::undo(self.client.clone(), address));
        }
    }
}

impl Allocator {
    fn held(&self, cx: &RequestCx) -> Held {
        Held {
            client: cx.loopback.clone(),
            tasks: cx.ctx.tasks.clone(),
            ports: Ports::new(&self.ports),
            taken: Vec::new(),
            released: Vec::new(),
        }
    }

    /// For a new service.
    pub async fn create(&self, cx: &RequestCx, obj: &mut Value) -> Reserved {
        families::normalize(obj, None);
        let configured = configured(cx);
        families::init(obj, None, &configured)?;
        let mut held = self.held(cx);
        assign_addresses(cx, obj, &mut held, 0).await?;
        if has_node_ports(obj) {
            assign_ports(cx, obj, &mut held)?;
        }
        if needs_health_check(obj) {
            assign_health_check(cx, obj, &mut held)?;
        }
        Ok(Some(Box::new(held)))
    }

    /// For a changed service.
    pub async fn update(&self, cx: &RequestCx, new: &mut Value, old: &Value) -> Reserved {
        families::keep_allocated(new, old);
        keep_node_ports(new, old);
        families::normalize(new, Some(old));
        families::init(new, Some(old), &configured(cx))?;
        let mut held = self.held(cx);
        if !families::unchanged_prefer_dual(new, old) {
            update_addresses(cx, new, old, &mut held).await?;
        }
        if has_node_ports(new) {
            update_ports(cx, new, old, &mut held)?;
        }
        if !needs_health_check(old) && needs_health_check(new) {
            assign_health_check(cx, new, &mut held)?;
        }
        Ok(Some(Box::new(held)))
    }
}

fn configured(cx: &RequestCx) -> Vec<&'static str> {
    let mut out = Vec::new();
    for range in addresses::ranges(&*cx.reader) {
        let family = family_of(&range.network);
        if !out.contains(&family) {
            out.push(family);
        }
    }
    out
}

fn invalid(service: &Value, path: &Path, value: Value, detail: String) -> Status {
    let mut errs = ErrorList::default();
    errs.add_invalid(path, value, detail);
    Status::invalid("", "Service", text(service, &["metadata", "name"]), errs)
}

/// Gives the service an address in each of its families from the `first` on.
async fn assign_addresses(
    cx: &RequestCx,
    service: &mut Value,
    held: &mut Held,
    first: usize,
) -> Result<(), Status> {
    let wanted: Vec<String> =
        list(service, &["spec", "clusterIPs"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if !needs_cluster_ip(service) || wanted.first().is_some_and(|a| a == "None") {
        return Ok(());
    }
    let families: Vec<String> =
        list(service, &["spec", "ipFamilies"]).iter().filter_map(|f| f.as_str().map(str::to_owned)).collect();
    let mut given: Vec<String> = wanted.iter().take(first).cloned().collect();
    for (i, family) in families.iter().enumerate().skip(first) {
        let asked = wanted.get(i).map(String::as_str).unwrap_or_default();
        given.push(assign_address(cx, service, held, family, asked, &wanted).await?);
    }
    let spec = ensure(object(service), "spec");
    spec.insert("clusterIP".to_owned(), given.first().cloned().unwrap_or_default().into());
    spec.insert("clusterIPs".to_owned(), json!(given));
    Ok(())
}

async fn assign_address(
    cx: &RequestCx,
    service: &Value,
    held: &mut Held,
    family: &str,
    asked: &str,
    wanted: &[String],
) -> Result<String, Status> {
    // A body need not repeat the namespace of its path.
    let (namespace, name) = (cx.info.namespace.as_str(), text(service, &["metadata", "name"]));
    let mut ranges = addresses::ranges(&*cx.reader);
    ranges.retain(|r| family_of(&r.network) == family);
    if !asked.is_empty() {
        let path = Path::new("spec").child("clusterIPs");
        let refuse = |why: &str| {
            invalid(service, &path, json!(wanted), format!("failed to allocate IP {asked}: {why}"))
        };
        let address = ip::parse_sloppy(asked)
            .ok_or_else(|| Status::internal(format!("failed to parse service IP \"{asked}\"")))?;
        let Some(range) = ranges.iter().find(|r| r.contains(&address)) else {
            return Err(refuse("the provided network does not match the current range"));
        };
        if address == range.network {
            let why = format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            );
            return Err(refuse(&why));
        }
        return match addresses::take(cx, namespace, name, &address).await {
            Ok(true) => {
                if !cx.dry_run {
                    held.taken.push(address);
                }
                Ok(asked.to_owned())
            }
            Ok(false) => Err(refuse("provided IP is already allocated")),
            Err(err) => Err(status_of(err)),
        };
    }
    for range in &ranges {
        for address in candidates(range, &*cx.ctx.rng) {
            if !is_free(&*cx.reader, &address) {
                continue;
            }
            if addresses::take(cx, namespace, name, &address).await.map_err(status_of)? {
                if !cx.dry_run {
                    held.taken.push(address);
                }
                return Ok(address.to_string());
            }
        }
    }
    Err(Status::internal(format!("failed to allocate a serviceIP for Service \"{name}\": range is full")))
}

async fn update_addresses(
    cx: &RequestCx,
    new: &mut Value,
    old: &Value,
    held: &mut Held,
) -> Result<(), Status> {
    let old_addresses: Vec<IpAddr> =
        list(old, &["spec", "clusterIPs"]).iter().filter_map(|a| ip::parse_sloppy(a.as_str()?)).collect();
    match (needs_cluster_ip(old), needs_cluster_ip(new)) {
        (false, true) => return assign_addresses(cx, new, held, 0).await,
        (true, false) => held.released = old_addresses,
        (true, true) if text(old, &["spec", "clusterIP"]) != "None" => {
            let count = |s: &Value| list(s, &["spec", "ipFamilies"]).len();
            if count(old) == 1 && count(new) == 2 {
                return assign_addresses(cx, new, held, 1).await;
            }
            if count(old) == 2 && count(new) == 1 {
                held.released = old_addresses.into_iter().skip(1).collect();
            }
        }
        _ => {}
    }
    if cx.dry_run {
        held.released.clear();
    }
    Ok(())
}

/// Ports keep their node port when a client writes them without.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let needs = |s: &Value| {
        has_node_ports(s)
            && (text(s, &["spec", "type"]) == "NodePort"
                || s["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false))
    };
    if needs(old) && needs(new) {
        let both: Vec<i64> = node_ports(old).intersection(&node_ports(new)).copied().collect();
        let by_name: BTreeMap<String, i64> = list(old, &["spec", "ports"])
            .iter()
            .map(|p| (text(p, &["name"]).to_owned(), number(p, &["nodePort"])))
            .collect();
        each(ensure(object(new), "spec"), "ports", |port| {
            if node_port(port) == 0 {
                let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
                let before = by_name.get(name).copied().unwrap_or_default();
                if before != 0 && !both.contains(&before) {
                    port.insert("nodePort".to_owned(), before.into());
                }
            }
        });
    }
    if needs_health_check(old)
        && needs_health_check(new)
        && number(new, &["spec", "healthCheckNodePort"]) == 0
    {
        let before = number(old, &["spec", "healthCheckNodePort"]);
        if before != 0 {
            new["spec"]["healthCheckNodePort"] = before.into();
        }
    }
}

fn node_port(port: &Object) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or_default()
}

fn port_error(service: &Value, index: usize, port: i64, why: String) -> Status {
    let path = Path::new("spec").child("ports").index(index).child("nodePort");
    invalid(service, &path, port.into(), why)
}

/// Node ports of a new service: one for each service port, whatever its protocols.
fn assign_ports(cx: &RequestCx, service: &mut Value, held: &mut Held) -> Result<(), Status> {
    let allocates = allocates_node_ports(service);
    let ports = list(service, &["spec", "ports"]).to_vec();
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let (number_, wanted) = (number(port, &["port"]), number(port, &["nodePort"]));
        if wanted == 0 && !allocates {
            continue;
        }
        let given = match by_port.get(&number_) {
            Some(given) if wanted == 0 || wanted == *given => *given,
            Some(_) => {
                held.ports.take(&*cx.reader, wanted).map_err(|why| port_error(service, i, wanted, why))?;
                wanted
            }
            None => {
                let same_port = |p: &&Value| number(p, &["port"]) == number_ && number(p, &["nodePort"]) != 0;
                let given = match ports.iter().find(same_port).map(|p| number(p, &["nodePort"])) {
                    Some(asked) => {
                        held.ports
                            .take(&*cx.reader, asked)
                            .map_err(|why| port_error(service, i, asked, why))?;
                        asked
                    }
                    None => take_any(cx, held)?,
                };
                by_port.insert(number_, given);
                given
            }
        };
        service["spec"]["ports"][i]["nodePort"] = given.into();
    }
    Ok(())
}

fn take_any(cx: &RequestCx, held: &mut Held) -> Result<i64, Status> {
    let taken = held.ports.take_any(&*cx.reader, &*cx.ctx.rng);
    taken.map_err(|why| Status::internal(format!("failed to allocate a nodePort: {why}")))
}

/// Node ports of a changed service: what it had, it has.
fn update_ports(cx: &RequestCx, new: &mut Value, old: &Value, held: &mut Held) -> Result<(), Status> {
    let allocates = allocates_node_ports(new);
    let before = node_ports(old);
    let ports = list(new, &["spec", "ports"]).to_vec();
    let mut taken: Vec<i64> = Vec::new();
    let mut seen: Vec<(String, i64)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let mut number = number(port, &["nodePort"]);
        if number == 0 {
            if !allocates {
                continue;
            }
            number = take_any(cx, held)?;
            new["spec"]["ports"][i]["nodePort"] = number.into();
        } else if !before.contains(&number) && !taken.contains(&number) {
            held.ports.take(&*cx.reader, number).map_err(|why| port_error(new, i, number, why))?;
            taken.push(number);
        }
        let key = (text(port, &["protocol"]).to_owned(), number);
        if seen.contains(&key) {
            return Err(Status::internal(format!("duplicate nodePort: {{{} {}}}", key.0, key.1)));
        }
        seen.push(key);
    }
    Ok(())
}

fn assign_health_check(cx: &RequestCx, service: &mut Value, held: &mut Held) -> Result<(), Status> {
    let wanted = number(service, &["spec", "healthCheckNodePort"]);
    let given = if wanted != 0 {
        held.ports.take(&*cx.reader, wanted).map_err(|why| {
            Status::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}"))
        })?;
        wanted
    } else {
        held.ports
            .take_any(&*cx.reader, &*cx.ctx.rng)
            .map_err(|why| Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?
    };
    service["spec"]["healthCheckNodePort"] = given.into();
    Ok(())
}
