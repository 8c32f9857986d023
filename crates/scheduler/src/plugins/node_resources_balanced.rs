//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory fill up evenly.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{MAX_SCORE, Plugin};

pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        if pod.requests.is_empty() {
            return None; // best-effort pods do not tilt the balance
        }
        let fraction = |name: &str| {
            let has = node.allocatable.get(name).copied().filter(|has| *has > 0)? as f64;
            let used = node.requested.get(name).copied().unwrap_or_default()
                + pod.requests.get(name).copied().unwrap_or_default();
            Some((used as f64 / has).min(1.0))
        };
        let (cpu, memory) = (fraction("cpu")?, fraction("memory")?);
        // With two resources the standard deviation is half their distance.
        Some(((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64)
    }

    fn normalized(&self) -> bool {
        true
    }
}
