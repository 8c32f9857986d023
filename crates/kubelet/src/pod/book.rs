//! Who was given how much of the node (KEP-1287, the allocation manager of upstream): admission and resizes
//! are decided here, one at a time, over all pods of the node. What a pod was given holds until it is over, also
//! when its spec asks for something else by now.

use super::admit::{Requests, refusal};
use super::setup::host_ports;
use super::sizes::{Part, Sizes, total};
use crate::config::Capacity;
use crate::container::resources::qos_class;
use crate::network::HostPort;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A resize that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// It will never be; otherwise it may be when others leave.
    pub(crate) infeasible: bool,
    pub(crate) message: String,
}

#[derive(Debug)]
struct Slot {
    /// The pod as it was given room.
    allocated: Arc<Pod>,
    /// What it asks for so.
    requests: Requests,
    /// Ports of the host that are its.
    ports: Vec<HostPort>,
    /// It ended: what it was given is free.
    over: bool,
    /// What it wants instead.
    desired: Option<Wish>,
}

#[derive(Debug)]
struct Wish {
    pod: Arc<Pod>,
    since: SystemTime,
    pending: Option<Pending>,
}

impl Slot {
    fn new(allocated: Arc<Pod>, over: bool, desired: Option<Wish>) -> Self {
        Self { requests: Requests::of(&allocated), ports: host_ports(&allocated), allocated, over, desired }
    }
}

/// The allocations of a node, by pod UID.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<HashMap<String, Slot>>);

type Slots = HashMap<String, Slot>;

fn fits(slots: &Slots, pod: &Pod, room: &Capacity) -> Result<(), (String, String)> {
    let others = slots.iter().filter(|(uid, slot)| !slot.over && *uid != pod.uid());
    match refusal(pod, others.map(|(_, slot)| slot.requests), room) {
        None => Ok(()),
        Some(refused) => Err(refused),
    }
}

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.0.lock().expect("book lock is never poisoned")
    }

    /// Takes a pod in that was never here before, if there is room: reason and message when not.
    pub(crate) fn admit(&self, pod: &Arc<Pod>, room: &Capacity) -> Result<(), (String, String)> {
        let mut slots = self.lock();
        fits(&slots, pod, room)?;
        let slot = Slot::new(pod.clone(), false, None);
        let taken = || slots.values().filter(|s| !s.over).flat_map(|s| &s.ports);
        if slot.ports.iter().any(|wanted| taken().any(|t| clash(t, wanted))) {
            let message =
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(("NodePorts".to_owned(), message.to_owned()));
        }
        slots.insert(pod.uid().to_owned(), slot);
        Ok(())
    }

    /// Takes a pod in that is here already, with what it was given. What it wants otherwise is decided by the
    /// next [`Book::decide`], when all pods that are here are in the book.
    pub(crate) fn adopt(&self, pod: &Arc<Pod>, given: Option<&Sizes>, over: bool, now: SystemTime) {
        let wants = given.is_some_and(|given| !Sizes::of(pod).same(given));
        let allocated = match given {
            Some(given) if wants => given.put_into(pod),
            _ => pod.clone(),
        };
        let desired = wants.then(|| Wish { pod: pod.clone(), since: now, pending: None });
        self.lock().insert(pod.uid().to_owned(), Slot::new(allocated, over, desired));
    }

    /// Notes what a pod wants now. [`Book::decide`] answers.
    pub(crate) fn wish(&self, pod: &Arc<Pod>, now: SystemTime) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(pod.uid()) else { return };
        if Sizes::of(&slot.allocated).same(&Sizes::of(pod)) {
            slot.desired = None;
            return;
        }
        let since = slot.desired.as_ref().map_or(now, |wish| wish.since);
        slot.desired = Some(Wish { pod: pod.clone(), since, pending: None });
    }

    /// Decides every open wish, in upstream's order: what asks for no more first, then by priority, class and
    /// age. Gives the UIDs for which the answer changed.
    pub(crate) fn decide(&self, room: &Capacity) -> Vec<String> {
        let mut slots = self.lock();
        let mut order: Vec<_> = slots
            .iter()
            .filter_map(|(uid, slot)| {
                let wish =
                    slot.desired.as_ref().filter(|w| !w.pending.as_ref().is_some_and(|p| p.infeasible))?;
                let priority = wish.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
                let class = qos_class(&wish.pod) != "Guaranteed";
                let key = (grows(&slot.allocated, &wish.pod), std::cmp::Reverse(priority), class, wish.since);
                Some((key, uid.clone(), wish.pod.clone()))
            })
            .collect();
        order.sort_by_key(|(key, ..)| *key);
        let mut changed = Vec::new();
        for (_, uid, pod) in order {
            let answer = fits(&slots, &pod, room);
            let Some(slot) = slots.get_mut(&uid) else { continue };
            match answer {
                Ok(()) => {
                    slot.requests = Requests::of(&pod);
                    slot.allocated = pod;
                    slot.desired = None;
                    changed.push(uid);
                }
                Err((_, message)) => {
                    let pending = Some(Pending { infeasible: false, message });
                    if let Some(wish) = slot.desired.as_mut().filter(|wish| wish.pending != pending) {
                        wish.pending = pending;
                        changed.push(uid);
                    }
                }
            }
        }
        changed
    }

    /// What the pod was given, and what became of its wish for more.
    pub(crate) fn of(&self, uid: &str) -> Option<(Sizes, Option<Pending>)> {
        let slots = self.lock();
        let slot = slots.get(uid)?;
        Some((Sizes::of(&slot.allocated), slot.desired.as_ref().and_then(|wish| wish.pending.clone())))
    }

    /// The pod ended; whether that made room for others' wishes.
    pub(crate) fn end(&self, uid: &str) -> bool {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(uid).filter(|slot| !slot.over) else { return false };
        slot.over = true;
        slot.desired = None;
        slots.values().any(|slot| slot.desired.is_some())
    }

    /// The pod is gone; whether that made room for others' wishes.
    pub(crate) fn forget(&self, uid: &str) -> bool {
        let made_room = self.end(uid);
        self.lock().remove(uid);
        made_room
    }
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let same = |a: Option<IpAddr>, b: Option<IpAddr>| a.is_none() || b.is_none() || a == b;
    a.host_port == b.host_port && a.protocol == b.protocol && same(a.host_ip, b.host_ip)
}

fn grows(from: &Pod, to: &Pod) -> bool {
    let (from, to) = (total(from, Part::Requests), total(to, Part::Requests));
    ["cpu", "memory"].iter().any(|name| match (from.get(*name), to.get(*name)) {
        (Some(from), Some(to)) => to > from,
        (None, Some(to)) => !to.is_zero(),
        (_, None) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, UNIX_EPOCH};

    const ROOM: Capacity =
        Capacity { cpu_millicores: 1000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1, pods: 10 };

    fn pod(uid: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        let value = json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(Pod::from_value(&value).unwrap())
    }

    fn cpu(book: &Book, uid: &str) -> String {
        book.of(uid).unwrap().0.containers["c"].requests["cpu"].clone()
    }

    #[test]
    fn a_resize_waits_until_there_is_room_and_the_most_important_comes_first() {
        let book = Book::default();
        let t = |s| UNIX_EPOCH + Duration::from_secs(s);
        for uid in ["a", "b", "c"] {
            book.admit(&pod(uid, "300m", 0), &ROOM).unwrap();
        }
        assert_eq!(book.admit(&pod("d", "200m", 0), &ROOM).unwrap_err().0, "OutOfcpu");
        book.wish(&pod("a", "400m", 0), t(0));
        assert_eq!(book.decide(&ROOM), ["a"]);
        assert_eq!(cpu(&book, "a"), "400m");
        book.wish(&pod("b", "500m", 0), t(1));
        book.wish(&pod("c", "600m", 5), t(2));
        assert_eq!(book.decide(&ROOM), ["c", "b"]);
        let (sizes, pending) = book.of("b").unwrap();
        assert_eq!(sizes.containers["c"].requests["cpu"], "300m");
        assert_eq!(
            pending.unwrap().message,
            "Node didn't have enough resource: cpu, requested: 500, used: 700, capacity: 1000"
        );
        assert!(book.decide(&ROOM).is_empty(), "nothing new to say");
        assert!(book.end("a"));
        assert_eq!(book.decide(&ROOM), ["c", "b"]);
        assert_eq!((cpu(&book, "b"), cpu(&book, "c")), ("300m".into(), "600m".into()));
        book.wish(&pod("b", "300m", 0), t(3));
        assert_eq!(book.of("b").unwrap().1, None);
    }

    #[test]
    fn what_asks_for_less_goes_before_what_asks_for_more() {
        let book = Book::default();
        book.admit(&pod("a", "600m", 0), &ROOM).unwrap();
        book.admit(&pod("b", "400m", 9), &ROOM).unwrap();
        book.wish(&pod("b", "700m", 9), UNIX_EPOCH);
        book.wish(&pod("a", "200m", 0), UNIX_EPOCH);
        assert_eq!(book.decide(&ROOM), ["a", "b"]);
        assert_eq!((cpu(&book, "a"), cpu(&book, "b")), ("200m".into(), "700m".into()));
    }

    #[test]
    fn what_was_given_is_kept_over_a_restart_until_all_are_known() {
        let book = Book::default();
        let given = Sizes::of(&pod("a", "300m", 0));
        book.adopt(&pod("a", "900m", 0), Some(&given), false, UNIX_EPOCH);
        book.adopt(&pod("b", "300m", 0), None, false, UNIX_EPOCH);
        assert_eq!(cpu(&book, "a"), "300m");
        assert_eq!(book.decide(&ROOM), ["a"]);
        assert!(book.of("a").unwrap().1.is_some());
        assert!(book.forget("b"));
        assert_eq!(book.decide(&ROOM), ["a"]);
        assert_eq!(cpu(&book, "a"), "900m");
    }
}
