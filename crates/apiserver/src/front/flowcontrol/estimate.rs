//! How many seats a request takes (apiserver's `util/flowcontrol/request`): lists by the bytes they hold at once,
//! writes by the watchers that are told of them, everything else one.

use super::queueset::Width;
use crate::request::RequestInfo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The most seats of a list.
const MAX_LIST_SEATS: u64 = 100;
/// The most seats of a write.
const MAX_WRITE_SEATS: u64 = 10;
/// A list gets a seat for so many bytes that it holds in memory at once.
const BYTES_PER_SEAT: u64 = 100_000;
/// What a list from the watch cache holds at once at most, as it is written in portions.
const STREAMED_BYTES: u64 = 1_000_000;
/// A write gets a seat for so many watchers.
const WATCHERS_PER_SEAT: usize = 10;
/// How long the watchers of a seat take to be told, in nanoseconds.
const EVENT_NANOS: u64 = 5_000_000;

/// How much there is of a resource.
pub trait Sizes: Send + Sync {
    /// Objects and bytes; `None` when nobody knows.
    fn sizes(&self, group: &str, resource: &str) -> Option<(u64, u64)>;
}

/// The width of a request, and for writes how many watchers it concerns. `most` bounds the seats of the level (0: not).
pub fn estimate(
    info: &RequestInfo,
    query: &[(String, String)],
    most: u64,
    sizes: &dyn Sizes,
    watches: &Watches,
) -> (Width, Option<usize>) {
    let bound = |limit: u64| if most == 0 { limit } else { most.min(limit) };
    match info.verb.as_str() {
        "list" | "watch" => (Width::seats(list_seats(info, query, bound(MAX_LIST_SEATS), sizes)), None),
        // A token is no event, although service accounts have watchers.
        _ if (info.resource.as_str(), info.subresource.as_str()) == ("serviceaccounts", "token") => {
            (Width::seats(1), None)
        }
        "create" | "update" | "patch" | "delete" => {
            let watchers = watches.concerned(info);
            (write_width(watchers, bound(MAX_WRITE_SEATS)), Some(watchers))
        }
        _ => (Width::seats(1), None),
    }
}

fn write_width(watchers: usize, most: u64) -> Width {
    if watchers < WATCHERS_PER_SEAT {
        return Width::seats(1);
    }
    let wanted = watchers.div_ceil(WATCHERS_PER_SEAT) as u64;
    // The same work with fewer seats takes longer.
    let final_seats = wanted.min(most);
    Width { initial_seats: 1, final_seats, latency: wanted * EVENT_NANOS / final_seats }
}

fn list_seats(info: &RequestInfo, query: &[(String, String)], most: u64, sizes: &dyn Sizes) -> u64 {
    let param =
        |name: &str| query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let version = param("resourceVersion");
    if info.verb == "watch" {
        let initial =
            super::super::info::truthy(param("sendInitialEvents")) && !param("sendInitialEvents").is_empty();
        if !initial && !matches!(version, "" | "0") {
            return 1;
        }
    }
    let Some((count, bytes)) = sizes.sizes(&info.group, &info.resource) else { return 1 };
    let limit: u64 = param("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let limited = count.min(limit);
    let old = !param("continue").is_empty() || (limit < u64::MAX && !matches!(version, "" | "0"));
    let from_history = info.verb != "watch"
        && match param("resourceVersionMatch") {
            "Exact" => true,
            "NotOlderThan" => false,
            "" => old,
            _ => true,
        };
    let selective = !param("fieldSelector").is_empty() || !param("labelSelector").is_empty();
    let objects = match () {
        () if !info.name.is_empty() => 1,
        () if from_history && selective => limited.max(count / 2),
        () => limited,
    };
    let mut held = objects * bytes.checked_div(count).unwrap_or(0);
    if !from_history {
        held = held.min(STREAMED_BYTES);
    }
    held.div_ceil(BYTES_PER_SEAT).clamp(1, most.max(1))
}

/// The watches under way, by what they look at.
#[derive(Default)]
pub struct Watches(Mutex<HashMap<String, Count>>);

#[derive(Default)]
struct Count {
    all: usize,
    /// By namespace, and by namespace and name.
    namespaces: HashMap<String, usize>,
    names: HashMap<(String, String), usize>,
}

/// A watch under way; dropping it ends its count.
pub struct Counted {
    watches: Arc<Watches>,
    resource: String,
    namespace: String,
    name: String,
}

fn key(info: &RequestInfo) -> String {
    if info.group.is_empty() { info.resource.clone() } else { format!("{}.{}", info.resource, info.group) }
}

impl Watches {
    /// Counts a watch while the result lives. A watch for one node's pods is not counted: an event concerns few
    /// of them, which the cache finds by an index.
    pub fn count(self: &Arc<Self>, info: &RequestInfo, query: &[(String, String)]) -> Option<Counted> {
        let selector = query.iter().find(|(key, _)| key == "fieldSelector").map_or("", |(_, value)| value);
        let by_node = |(field, value): &(String, String)| field == "spec.nodeName" && !value.is_empty();
        if info.resource == "pods" && super::super::info::exact_fields(selector).iter().any(by_node) {
            return None;
        }
        let counted = Counted {
            watches: self.clone(),
            resource: key(info),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
        };
        counted.change(|count| *count += 1);
        Some(counted)
    }

    /// How many watches a write may concern: those of all objects, of its namespace, and of the object.
    pub fn concerned(&self, info: &RequestInfo) -> usize {
        let counts = self.0.lock().expect("no holder of the watch counts panics");
        let found = if info.group.is_empty() { counts.get(&info.resource) } else { counts.get(&key(info)) };
        let Some(count) = found else { return 0 };
        let mut concerned = count.all;
        if !info.namespace.is_empty() {
            concerned += count.namespaces.get(&info.namespace).copied().unwrap_or(0);
        }
        if !info.name.is_empty() && !count.names.is_empty() {
            concerned += count.names.get(&(info.namespace.clone(), info.name.clone())).copied().unwrap_or(0);
        }
        concerned
    }
}

impl Counted {
    fn change(&self, change: impl FnOnce(&mut usize)) {
        let mut counts = self.watches.0.lock().expect("no holder of the watch counts panics");
        let count = counts.entry(self.resource.clone()).or_default();
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => change(&mut count.all),
            (namespace, "") => {
                let one = count.namespaces.entry(namespace.to_owned()).or_default();
                change(one);
                count.namespaces.retain(|_, count| *count > 0);
            }
            (namespace, name) => {
                change(count.names.entry((namespace.to_owned(), name.to_owned())).or_default());
                count.names.retain(|_, count| *count > 0);
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.change(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::info::{parse_query, resolve};

    struct Fixed;
    impl Sizes for Fixed {
        fn sizes(&self, _group: &str, resource: &str) -> Option<(u64, u64)> {
            match resource {
                "pods" => Some((1000, 5_000_000)),
                "nodes" => Some((10, 20_000)),
                "secrets" => Some((0, 0)),
                _ => None,
            }
        }
    }

    fn width(method: &str, url: &str, most: u64, watches: &Watches) -> Width {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = parse_query(query);
        estimate(&resolve(&method.parse().unwrap(), path, &query), &query, most, &Fixed, watches).0
    }

    #[test]
    fn lists_take_seats_by_what_they_hold_at_once() {
        for (url, most, seats) in [
            ("/api/v1/pods", 0, 10),
            ("/api/v1/pods", 4, 4),
            ("/api/v1/pods?limit=500", 0, 10),
            ("/api/v1/pods?limit=100", 0, 5),
            ("/api/v1/pods?limit=10", 0, 1),
            ("/api/v1/pods?resourceVersion=5&resourceVersionMatch=Exact", 0, 50),
            ("/api/v1/pods?resourceVersion=5&resourceVersionMatch=NotOlderThan", 0, 10),
            ("/api/v1/pods?limit=400&continue=x", 0, 20),
            ("/api/v1/pods?limit=100&continue=x&labelSelector=a", 0, 25),
            ("/api/v1/pods?limit=400&resourceVersion=7", 0, 20),
            ("/api/v1/pods?fieldSelector=metadata.name%3Da", 0, 1),
            ("/api/v1/pods?watch=1", 0, 10),
            ("/api/v1/pods?watch=1&resourceVersion=7", 0, 1),
            ("/api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=true", 0, 10),
            ("/api/v1/nodes", 0, 1),
            ("/api/v1/secrets", 0, 1),
            ("/api/v1/unknown", 0, 1),
            ("/api/v1/nodes/a", 0, 1),
        ] {
            assert_eq!(width("GET", url, most, &Watches::default()), Width::seats(seats), "{url}");
        }
    }

    #[test]
    fn writes_take_seats_for_the_watchers_they_wake() {
        let watches = Arc::new(Watches::default());
        let watch = |url: &str| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let query = parse_query(query);
            watches.count(&resolve(&http::Method::GET, path, &query), &query)
        };
        let mut held: Vec<_> = (0..15).map(|_| watch("/api/v1/pods?watch=1")).collect();
        held.extend((0..10).map(|_| watch("/api/v1/namespaces/a/pods?watch=1")));
        held.push(watch("/api/v1/namespaces/a/pods?watch=1&fieldSelector=metadata.name%3Dx"));
        assert!(watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn").is_none());
        let of = |method: &str, url: &str, most| width(method, url, most, &watches);
        let wide = |final_seats, latency| Width { initial_seats: 1, final_seats, latency };
        assert_eq!(of("POST", "/api/v1/namespaces/b/pods", 0), wide(2, 5_000_000));
        assert_eq!(of("POST", "/api/v1/namespaces/a/pods", 0), wide(3, 5_000_000));
        assert_eq!(of("PUT", "/api/v1/namespaces/a/pods/x", 2), wide(2, 7_500_000));
        assert_eq!(of("POST", "/api/v1/namespaces/a/secrets", 0), Width::seats(1));
        assert_eq!(of("DELETE", "/api/v1/namespaces/a/pods", 0), Width::seats(1));
        assert_eq!(of("POST", "/api/v1/namespaces/a/serviceaccounts/d/token", 0), Width::seats(1));
        held.truncate(3);
        assert_eq!(of("PUT", "/api/v1/namespaces/a/pods/x", 0), Width::seats(1));
        drop(held);
        assert!(
            watches
                .0
                .lock()
                .unwrap()
                .values()
                .all(|count| count.namespaces.is_empty() && count.names.is_empty())
        );
    }
}
