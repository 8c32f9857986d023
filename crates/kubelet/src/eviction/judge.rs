//! What the readings mean: which thresholds are met, since when, which pressures the node shows, and for which one
//! something is to be reclaimed now. A pure state machine: readings and time in, verdict out.

use super::threshold::{Housekeeping, Pressure, Signal, Threshold};
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) available: u64,
    pub(crate) capacity: u64,
}

pub(crate) type Readings = BTreeMap<Signal, Reading>;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// Thresholds that are met, since when, by their place in the configuration.
    met_since: BTreeMap<usize, SystemTime>,
    /// Thresholds for which something is being reclaimed: over only when the minimum is reclaimed too.
    reclaiming: BTreeSet<usize>,
    last_seen: BTreeMap<Pressure, SystemTime>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Shown in the node's status.
    pub(crate) pressures: BTreeSet<Pressure>,
    /// Met, and their grace is over; the most urgent first.
    pub(crate) due: Vec<Threshold>,
}

/// Whether too little is left; `more`: with the minimum to be reclaimed on top.
pub(crate) fn is_met(threshold: &Threshold, readings: &Readings, more: bool) -> bool {
    let Some(reading) = readings.get(&threshold.signal) else { return false };
    let extra = threshold.min_reclaim.filter(|_| more).map_or(0, |m| m.of(reading.capacity));
    reading.available < threshold.value.of(reading.capacity).saturating_add(extra)
}

impl Judge {
    /// Judges what is read now.
    pub(crate) fn judge(&mut self, keep: &Housekeeping, readings: &Readings, now: SystemTime) -> Verdict {
        let met = |(at, t): &(usize, &Threshold)| {
            is_met(t, readings, false) || (self.reclaiming.contains(at) && is_met(t, readings, true))
        };
        let thresholds = keep.in_force();
        let met: Vec<(usize, &Threshold)> = thresholds.iter().enumerate().filter(met).collect();
        self.met_since =
            met.iter().map(|(at, _)| (*at, self.met_since.get(at).copied().unwrap_or(now))).collect();
        for (_, threshold) in &met {
            self.last_seen.insert(threshold.signal.pressure(), now);
        }
        self.last_seen.retain(|_, at| {
            *at == now || now.duration_since(*at).unwrap_or_default() < keep.pressure_transition
        });
        let over =
            |at: &usize, t: &Threshold| now.duration_since(self.met_since[at]).unwrap_or_default() >= t.grace;
        let due: Vec<(usize, &Threshold)> = met.into_iter().filter(|(at, t)| over(at, t)).collect();
        self.reclaiming = due.iter().map(|(at, _)| *at).collect();
        let mut due: Vec<Threshold> = due.into_iter().map(|(_, t)| t.clone()).collect();
        // Memory kills at once; everything else waits for it.
        due.sort_by_key(|t| {
            !matches!(t.signal, Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable)
        });
        Verdict { pressures: self.last_seen.keys().copied().collect(), due }
    }
}

#[cfg(test)]
mod tests {
    use super::super::threshold::thresholds;
    use super::*;
    use crate::pod::phase::tests::t;
    use std::time::Duration;

    fn keep() -> Housekeeping {
        let thresholds = thresholds(
            "memory.available<100,nodefs.available<10%",
            "memory.available<200",
            "memory.available=30s",
            "memory.available=50",
        );
        Housekeeping {
            thresholds: thresholds.unwrap(),
            pressure_transition: Duration::from_secs(60),
            ..Housekeeping::default()
        }
    }

    #[test]
    fn thresholds_are_met_and_left_as_time_goes_by() {
        let keep = keep();
        let mut judge = Judge::default();
        let none: &[Pressure] = &[];
        let memory: &[Pressure] = &[Pressure::Memory];
        // (second, memory and disk available, pressures, due: signal and whether hard)
        for (second, free, disk, pressures, due) in [
            (0, 500, 500, none, vec![]),
            // Soft: shown at once, acted on after its grace.
            (10, 150, 500, memory, vec![]),
            (30, 150, 500, memory, vec![]),
            (40, 150, 500, memory, vec![("memory.available", false)]),
            // Not over before the minimum is reclaimed as well.
            (50, 210, 500, memory, vec![("memory.available", false)]),
            (60, 260, 500, memory, vec![]),
            // Shown for a while after.
            (100, 260, 500, memory, vec![]),
            (110, 260, 500, none, vec![]),
            // Memory before disk, and the grace begins anew.
            (
                120,
                90,
                50,
                &[Pressure::Disk, Pressure::Memory],
                vec![("memory.available", true), ("nodefs.available", true)],
            ),
        ] {
            let reading = |available| Reading { available, capacity: 1000 };
            let readings = Readings::from([
                (Signal::MemoryAvailable, reading(free)),
                (Signal::NodeFsAvailable, reading(disk)),
            ]);
            let verdict = judge.judge(&keep, &readings, t(second));
            let seen: Vec<_> = verdict.due.iter().map(|t| (t.signal.name(), t.grace.is_zero())).collect();
            assert_eq!(verdict.pressures.into_iter().collect::<Vec<_>>(), pressures, "after {second} s");
            assert_eq!(seen, due, "after {second} s");
        }
    }

    #[test]
    fn pods_that_use_what_they_may_together_are_memory_pressure_too() {
        let reading = |available| Reading { available, capacity: 1000 };
        for (of_pods, due) in [(90, vec![("allocatableMemory.available", true)]), (150, vec![])] {
            let readings = Readings::from([
                (Signal::MemoryAvailable, reading(500)),
                (Signal::AllocatableMemoryAvailable, reading(of_pods)),
            ]);
            let verdict = Judge::default().judge(&keep(), &readings, t(0));
            let seen: Vec<_> = verdict.due.iter().map(|t| (t.signal.name(), t.grace.is_zero())).collect();
            assert_eq!(seen, due);
            assert_eq!(verdict.pressures.contains(&Pressure::Memory), !due.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_met() {
        let verdict = Judge::default().judge(&keep(), &Readings::new(), t(0));
        assert_eq!(verdict, Verdict::default());
    }
}
