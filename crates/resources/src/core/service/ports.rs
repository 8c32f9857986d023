//! Node ports: taken are those that services have, and those of writes under way.

use crate::util::value::{list, number};
use knarr_apiserver::request::Reader;
use knarr_base::Rng;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

/// The ports given out (--service-node-port-range).
pub const NODE_PORTS: RangeInclusive<i64> = 30000..=32767;
/// So many of the lowest ports are left to those who ask for one (KEP-3668: a 32nd, at most 128).
const STATIC_BAND: i64 = 86;

/// Ports of writes under way.
#[derive(Default)]
pub struct InFlight(Mutex<BTreeSet<i64>>);

/// The ports of one write. Dropped, they are no longer in flight: what was written is in the cache by then.
pub struct Ports {
    in_flight: Arc<InFlight>,
    held: Vec<i64>,
}

impl Drop for Ports {
    fn drop(&mut self) {
        let mut taken = self.in_flight.0.lock().expect("the lock of ports is never poisoned");
        for port in &self.held {
            taken.remove(port);
        }
    }
}

impl Ports {
    /// Nothing held yet.
    pub fn new(in_flight: &Arc<InFlight>) -> Self {
        Self { in_flight: in_flight.clone(), held: Vec::new() }
    }

    /// Takes the port that was asked for; the error is upstream's text.
    pub fn take(&mut self, reader: &dyn Reader, port: i64) -> Result<(), String> {
        if !NODE_PORTS.contains(&port) {
            let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        }
        let used = used(reader);
        let mut taken = self.in_flight.0.lock().expect("the lock of ports is never poisoned");
        if used.contains(&port) || !taken.insert(port) {
            return Err("provided port is already allocated".to_owned());
        }
        self.held.push(port);
        Ok(())
    }

    /// Takes any port.
    pub fn take_any(&mut self, reader: &dyn Reader, rng: &dyn Rng) -> Result<i64, String> {
        let used = used(reader);
        let mut taken = self.in_flight.0.lock().expect("the lock of ports is never poisoned");
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let dynamic = first + STATIC_BAND;
        let size = (last - dynamic + 1).unsigned_abs();
        let start = rng.below(size).cast_signed();
        let upper = (0..size.cast_signed()).map(|i| dynamic + (start + i) % size.cast_signed());
        let port = upper.chain(first..dynamic).find(|p| !used.contains(p) && !taken.contains(p));
        let port = port.ok_or("range is full")?;
        taken.insert(port);
        self.held.push(port);
        Ok(port)
    }
}

/// All node ports of all services.
fn used(reader: &dyn Reader) -> BTreeSet<i64> {
    let mut used = BTreeSet::new();
    for service in reader.list("", "services", "") {
        used.extend(list(&service, &["spec", "ports"]).iter().map(|p| number(p, &["nodePort"])));
        used.insert(number(&service, &["spec", "healthCheckNodePort"]));
    }
    used.remove(&0);
    used
}
