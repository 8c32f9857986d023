//! Eviction thresholds and reserves as upstream's kubelet takes them (node-pressure-eviction and
//! reserve-compute-resources pages): which there are by default, and reading them from text such as
//! `memory.available<100Mi,nodefs.available<10%`.

use crate::config::KubeletConfig;
use knarr_meta::quantity::{Format, Quantity};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory that is free or can be made so.
    MemoryAvailable,
    /// Memory that pods may still use together.
    AllocatableMemoryAvailable,
    /// Room where volumes and logs are.
    NodeFsAvailable,
    /// Inodes there.
    NodeFsInodesFree,
    /// Room where images are.
    ImageFsAvailable,
    /// Inodes there.
    ImageFsInodesFree,
    /// Room where containers write.
    ContainerFsAvailable,
    /// Inodes there.
    ContainerFsInodesFree,
    /// Processes that may still be started.
    PidAvailable,
}

/// What the node runs short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    /// As messages name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// An amount of it.
    pub(crate) fn amount(self, amount: u64) -> Quantity {
        let format = match self {
            Self::Memory | Self::EphemeralStorage => Format::BinarySi,
            Self::Inodes | Self::Pids => Format::DecimalSi,
        };
        Quantity::from_value(i64::try_from(amount).unwrap_or(i64::MAX), format)
    }
}

/// A node's condition of being short of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Disk,
    Memory,
    Pid,
}

impl Pressure {
    /// The condition's type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disk => "DiskPressure",
            Self::Memory => "MemoryPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// Every signal: its name, and which resource and condition it is about.
const SIGNALS: [(Signal, &str, Resource, Pressure); 9] = [
    (Signal::MemoryAvailable, "memory.available", Resource::Memory, Pressure::Memory),
    (Signal::AllocatableMemoryAvailable, "allocatableMemory.available", Resource::Memory, Pressure::Memory),
    (Signal::NodeFsAvailable, "nodefs.available", Resource::EphemeralStorage, Pressure::Disk),
    (Signal::NodeFsInodesFree, "nodefs.inodesFree", Resource::Inodes, Pressure::Disk),
    (Signal::ImageFsAvailable, "imagefs.available", Resource::EphemeralStorage, Pressure::Disk),
    (Signal::ImageFsInodesFree, "imagefs.inodesFree", Resource::Inodes, Pressure::Disk),
    (Signal::ContainerFsAvailable, "containerfs.available", Resource::EphemeralStorage, Pressure::Disk),
    (Signal::ContainerFsInodesFree, "containerfs.inodesFree", Resource::Inodes, Pressure::Disk),
    (Signal::PidAvailable, "pid.available", Resource::Pids, Pressure::Pid),
];

impl Signal {
    fn row(self) -> (Signal, &'static str, Resource, Pressure) {
        SIGNALS.into_iter().find(|row| row.0 == self).expect("every signal has its row")
    }

    /// Upstream's name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    pub(crate) fn resource(self) -> Resource {
        self.row().2
    }

    pub(crate) fn pressure(self) -> Pressure {
        self.row().3
    }
}

/// An amount, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So much.
    Absolute(u64),
    /// Between 0 and 1 of the capacity.
    Share(f64),
}

impl Amount {
    /// The amount where `capacity` is all there is.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(amount) => amount,
            // Whole bytes of a disk: what is lost of precision is far below anything that matters.
            Self::Share(share) => (capacity as f64 * share) as u64,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("{text:?} is no percentage"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!("{text:?} is not between 0% and 100%"));
            }
            return Ok(Self::Share(percent / 100.0));
        }
        let quantity = Quantity::parse(text).map_err(|e| format!("{text:?}: {e}"))?;
        u64::try_from(quantity.value()).map(Self::Absolute).map_err(|_| format!("{text:?} is negative"))
    }
}

/// Below `value` the node is short of something.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// What is looked at.
    pub signal: Signal,
    /// Less than this is too little.
    pub value: Amount,
    /// How long it may be so before pods are evicted; zero for a hard threshold.
    pub grace: Duration,
    /// So much more is to be free once something is reclaimed.
    pub min_reclaim: Option<Amount>,
}

/// When pods are evicted, what is kept from them, and when images go.
#[derive(Clone, Debug, PartialEq)]
pub struct Housekeeping {
    /// Hard and soft thresholds.
    pub thresholds: Vec<Threshold>,
    /// A pressure is shown for this long after it was last seen.
    pub pressure_transition: Duration,
    /// The grace of pods that are evicted for a soft threshold, at most.
    pub soft_pod_grace: Duration,
    /// Kept for the system and for Kubernetes' own daemons together: thousandths of a CPU.
    pub reserved_cpu_millicores: u64,
    /// Bytes of memory kept for them.
    pub reserved_memory_bytes: u64,
    /// Bytes of disk kept for them.
    pub reserved_ephemeral_storage_bytes: u64,
    /// Unused images go when the disk is used to this many percent ...
    pub image_gc_high_percent: u8,
    /// ... until it is used to this many.
    pub image_gc_low_percent: u8,
    /// Younger images stay.
    pub image_min_age: Duration,
    /// Images that were not used for so long go anyway; zero for never.
    pub image_max_age: Duration,
}

/// The hard thresholds where nothing else is said, as upstream's on Linux.
pub const DEFAULT_HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

impl Default for Housekeeping {
    fn default() -> Self {
        Self {
            thresholds: thresholds(DEFAULT_HARD, "", "", "").expect("the defaults are well formed"),
            pressure_transition: Duration::from_secs(300),
            soft_pod_grace: Duration::ZERO,
            reserved_cpu_millicores: 0,
            reserved_memory_bytes: 0,
            reserved_ephemeral_storage_bytes: 0,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_min_age: Duration::from_secs(120),
            image_max_age: Duration::ZERO,
        }
    }
}

impl Housekeeping {
    /// The thresholds that are judged by: those of the configuration, and each hard one of the machine's memory also for the
    /// memory that pods have together.
    pub(crate) fn in_force(&self) -> Vec<Threshold> {
        let hard = |t: &&Threshold| t.signal == Signal::MemoryAvailable && t.grace.is_zero();
        let of_pods = |t: &Threshold| Threshold { signal: Signal::AllocatableMemoryAvailable, ..t.clone() };
        self.thresholds.iter().cloned().chain(self.thresholds.iter().filter(hard).map(of_pods)).collect()
    }

    /// The hard threshold of a signal, in amounts of `capacity`; none is 0.
    pub(crate) fn hard(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().find(|t| t.signal == signal && t.grace.is_zero());
        hard.map_or(0, |t| t.value.of(capacity))
    }

    /// Adds what is kept for the system, such as `cpu=100m,memory=1Gi,ephemeral-storage=1Gi`.
    pub fn reserve(&mut self, text: &str) -> Result<(), String> {
        for (name, amount) in pairs(text, "=")? {
            let quantity = Quantity::parse(amount).map_err(|e| format!("{amount:?}: {e}"))?;
            let whole = |value: i64| u64::try_from(value).map_err(|_| format!("{amount:?} is negative"));
            match name {
                "cpu" => self.reserved_cpu_millicores += whole(quantity.milli_value())?,
                "memory" => self.reserved_memory_bytes += whole(quantity.value())?,
                "ephemeral-storage" => self.reserved_ephemeral_storage_bytes += whole(quantity.value())?,
                other => return Err(format!("{other:?} cannot be reserved")),
            }
        }
        Ok(())
    }
}

/// What the node has for pods: its capacity less what is reserved and what must stay free.
pub(crate) fn allocatable(config: &KubeletConfig, capacity: crate::Capacity) -> crate::Capacity {
    let keep = &config.housekeeping;
    let memory = keep.reserved_memory_bytes + keep.hard(Signal::MemoryAvailable, capacity.memory_bytes);
    let disk = keep.reserved_ephemeral_storage_bytes
        + keep.hard(Signal::NodeFsAvailable, capacity.ephemeral_storage_bytes);
    crate::Capacity {
        cpu_millicores: capacity.cpu_millicores.saturating_sub(keep.reserved_cpu_millicores),
        memory_bytes: capacity.memory_bytes.saturating_sub(memory),
        ephemeral_storage_bytes: capacity.ephemeral_storage_bytes.saturating_sub(disk),
        ..capacity
    }
}

fn pairs<'a>(text: &'a str, between: &str) -> Result<Vec<(&'a str, &'a str)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &'a str| {
        part.split_once(between)
            .map(|(name, value)| (name.trim(), value.trim()))
            .ok_or_else(|| format!("{part:?} lacks a {between:?}"))
    };
    parts.map(pair).collect()
}

fn signal(name: &str) -> Result<Signal, String> {
    let row = SIGNALS.into_iter().find(|row| row.1 == name);
    row.map(|row| row.0).ok_or_else(|| format!("unsupported eviction signal {name}"))
}

fn statements(text: &str) -> Result<BTreeMap<Signal, Amount>, String> {
    let mut all = BTreeMap::new();
    for (name, value) in pairs(text, "<")? {
        // A threshold of nothing or of everything turns the signal off.
        if value == "0%" || value == "100%" {
            signal(name)?;
            continue;
        }
        if all.insert(signal(name)?, Amount::parse(value)?).is_some() {
            return Err(format!("found duplicate eviction threshold for signal {name}"));
        }
    }
    Ok(all)
}

/// Reads thresholds: `hard` and `soft` as `signal<value,…`, `grace` as `signal=1m30s,…` (each soft threshold needs
/// one), `reclaim` as `signal=500Mi,…`.
pub fn thresholds(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Result<Vec<Threshold>, String> {
    let mut graces = BTreeMap::new();
    for (name, value) in pairs(grace, "=")? {
        let period = crate::util::parse_go_duration(value)
            .ok_or_else(|| format!("{value:?} is no duration such as 1m30s"))?;
        graces.insert(signal(name)?, period);
    }
    let mut reclaims = BTreeMap::new();
    for (name, value) in pairs(reclaim, "=")? {
        reclaims.insert(signal(name)?, Amount::parse(value)?);
    }
    let mut all = Vec::new();
    let min = |signal| reclaims.get(&signal).copied();
    for (signal, value) in statements(hard)? {
        all.push(Threshold { signal, value, grace: Duration::ZERO, min_reclaim: min(signal) });
    }
    for (signal, value) in statements(soft)? {
        let grace = graces.get(&signal).copied().ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {}", signal.name())
        })?;
        all.push(Threshold { signal, value, grace, min_reclaim: min(signal) });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_upstream_reads_them() {
        let all = thresholds(
            "memory.available<1.5Gi, nodefs.available<10%,nodefs.inodesFree<0%",
            "memory.available<2Gi",
            "memory.available=1m30s",
            "nodefs.available=2Gi",
        )
        .unwrap();
        let seen: Vec<_> =
            all.iter().map(|t| (t.signal.name(), t.value, t.grace.as_secs(), t.min_reclaim)).collect();
        assert_eq!(
            seen,
            [
                ("memory.available", Amount::Absolute(3 << 29), 0, None),
                ("nodefs.available", Amount::Share(0.1), 0, Some(Amount::Absolute(2 << 30))),
                ("memory.available", Amount::Absolute(2 << 30), 90, None),
            ]
        );
        for (hard, soft, words) in [
            ("memory.free<1Gi", "", "unsupported eviction signal memory.free"),
            ("memory.available<1Gi,memory.available<2Gi", "", "duplicate"),
            ("memory.available", "", "lacks a"),
            ("memory.available<-1", "", "negative"),
            ("memory.available<120%", "", "between"),
            (
                "",
                "pid.available<1k",
                "grace period must be specified for the soft eviction threshold pid.available",
            ),
        ] {
            let error = thresholds(hard, soft, "", "").unwrap_err();
            assert!(error.contains(words), "{hard}{soft}: {error}");
        }
    }

    #[test]
    fn what_is_reserved_adds_up() {
        let mut keep = Housekeeping::default();
        keep.reserve("cpu=100m,memory=1Gi").unwrap();
        keep.reserve("memory=1Gi,ephemeral-storage=1k").unwrap();
        assert_eq!(
            (keep.reserved_cpu_millicores, keep.reserved_memory_bytes, keep.reserved_ephemeral_storage_bytes),
            (100, 2 << 30, 1000)
        );
        assert!(keep.reserve("pods=1").is_err());
        assert_eq!(keep.hard(Signal::MemoryAvailable, 1 << 40), 100 << 20);
        assert_eq!(keep.hard(Signal::NodeFsAvailable, 1000), 100);
        assert_eq!(keep.hard(Signal::PidAvailable, 1000), 0);
    }
}
