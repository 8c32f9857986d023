//! Service addresses: which ranges there are, and the IPAddress objects that hold what is taken.

use crate::util::ip::Cidr;
use crate::util::value::{list, text};
use http::Method;
use knarr_apiserver::request::{Reader, RequestCx};
use knarr_base::Rng;
use knarr_client::Error;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const URL: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const GROUP: &str = "networking.k8s.io";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The name of an address's family.
pub fn family_of(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The ranges that addresses come from, that of the cluster's start first.
pub fn ranges(reader: &dyn Reader) -> Vec<Cidr> {
    let mut objects = reader.list(GROUP, "servicecidrs", "");
    objects.retain(|o| {
        let not_ready = |c: &&Value| text(c, &["type"]) == "Ready" && text(c, &["status"]) == "False";
        text(o, &["metadata", "deletionTimestamp"]).is_empty()
            && list(o, &["status", "conditions"]).iter().find(not_ready).is_none()
    });
    objects.sort_by_key(|o| {
        (text(o, &["metadata", "name"]) != "kubernetes", text(o, &["metadata", "name"]).to_owned())
    });
    objects
        .iter()
        .flat_map(|o| list(o, &["spec", "cidrs"]))
        .filter_map(|c| Cidr::parse(c.as_str()?))
        .collect()
}

/// The IPAddress object that reserves `address` for a service.
pub fn address_object(namespace: &str, service: &str, address: &IpAddr) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": { (FAMILY): family_of(address), (MANAGED_BY.0): MANAGED_BY.1 },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

/// Whether an IPAddress object is one of the allocator's.
pub fn is_managed(object: &Value) -> bool {
    text(object, &["metadata", "labels", MANAGED_BY.0]) == MANAGED_BY.1
}

/// Whether nobody holds the address, as far as the cache knows.
pub fn is_free(reader: &dyn Reader, address: &IpAddr) -> bool {
    reader.get(GROUP, "ipaddresses", "", &address.to_string()).is_none()
}

/// Takes an address by creating its object: `false` when somebody has it.
pub async fn take(cx: &RequestCx, namespace: &str, service: &str, address: &IpAddr) -> Result<bool, Error> {
    if cx.dry_run {
        return Ok(is_free(&*cx.reader, address));
    }
    match cx.loopback.call(Method::POST, URL, &address_object(namespace, service, address)).await {
        Ok(_) => Ok(true),
        Err(err) if err.is_conflict() => Ok(false),
        Err(err) => Err(err),
    }
}

/// Gives an address back, if it is that service's.
pub async fn release(cx: &RequestCx, namespace: &str, service: &str, address: &str) {
    if address == "None" || address.is_empty() || cx.dry_run {
        return;
    }
    let Some(object) = cx.reader.get(GROUP, "ipaddresses", "", address) else { return };
    let parent = |field: &str| text(&object, &["spec", "parentRef", field]);
    if parent("resource") == "services" && parent("namespace") == namespace && parent("name") == service {
        let url = format!("{URL}/{address}");
        forget(cx.loopback.call(Method::DELETE, &url, &Value::Null).await, &url);
    }
}

/// Deletes an address's object that a failed write had created.
pub async fn undo(client: knarr_client::Client, address: IpAddr) {
    let url = format!("{URL}/{address}");
    forget(client.call(Method::DELETE, &url, &Value::Null).await, &url);
}

/// What is left over is found by the repair at the next start; meanwhile it only keeps an address busy.
pub fn forget<T>(result: Result<T, Error>, what: &str) {
    match result {
        Err(err) if !err.is_not_found() => tracing::warn!(what, %err, "could not clean up after a service"),
        _ => {}
    }
}

/// The free addresses of a range to try, in upstream's order of preference: random ones of the upper part,
/// the whole upper part from a random place on, then the lower part, which is left to static requests.
pub fn candidates<'a>(range: &Cidr, rng: &'a dyn Rng) -> Box<dyn Iterator<Item = IpAddr> + Send + 'a> {
    const RANDOM_TRIES: usize = 16;
    // Beyond 2^64 addresses nobody runs out; the arithmetic stays in u64.
    let (base, bits) = match range.network {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32 - u32::from(range.prefix)),
        IpAddr::V6(ip) => (u128::from(ip), (128 - u32::from(range.prefix)).min(63)),
    };
    let v4 = range.network.is_ipv4();
    let all = 1u64 << bits;
    // Network and broadcast address are not given out.
    let usable = if v4 { all.saturating_sub(2) } else { all.saturating_sub(1) };
    if usable == 0 {
        return Box::new(std::iter::empty());
    }
    let static_band = (usable / 16).clamp(16, 256);
    let lower = if usable <= 16 { 0 } else { static_band.min(usable) };
    let address = move |offset: u64| {
        let value = base + 1 + u128::from(offset);
        if v4 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(value))
        }
    };
    let upper = usable - lower;
    let start = if upper == 0 { 0 } else { rng.below(upper) };
    let random = (0..RANDOM_TRIES).filter(move |_| upper > 0).map(move |_| lower + rng.below(upper));
    let upper = (0..upper).map(move |i| lower + (start + i) % upper);
    let lower_start = if lower == 0 { 0 } else { rng.below(lower) };
    let lower = (0..lower).map(move |i| (lower_start + i) % lower);
    Box::new(random.chain(upper).chain(lower).map(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_base::rng::SeededRng;
    use std::collections::BTreeSet;

    #[test]
    fn every_usable_address_is_tried_and_no_other() {
        let rng = SeededRng::new(7);
        for (cidr, count) in [("10.96.0.0/24", 254), ("10.96.0.0/28", 14), ("10.96.0.0/31", 0)] {
            let range = Cidr::parse(cidr).unwrap();
            let all: BTreeSet<IpAddr> = candidates(&range, &rng).collect();
            assert_eq!(all.len(), count, "{cidr}");
            assert!(all.iter().all(|ip| range.contains(ip)));
            assert!(!all.contains(&"10.96.0.0".parse().unwrap()));
        }
    }

    #[test]
    fn the_lower_part_comes_last() {
        let rng = SeededRng::new(7);
        let range = Cidr::parse("10.96.0.0/16").unwrap();
        let first: Vec<IpAddr> = candidates(&range, &rng).take(1000).collect();
        let band: IpAddr = "10.96.1.0".parse().unwrap();
        assert!(first.iter().all(|ip| *ip > band), "static addresses are kept for those who ask for them");
    }
}
