//! The rows of the table that any cluster has, in groups: where two clusters are measured beside each other, they
//! take turns group by group.

mod api;
mod exec;
mod pods;
pub use pods::node_is_ready;
mod watch;

use crate::bench::Bench;
use crate::table::Table;
use anyhow::Result;

/// Rows that are measured together.
#[derive(Clone, Copy, Debug)]
enum Group {
    /// Starting pods; first, on a cluster that is not full of other things.
    Starts,
    ConfigMaps,
    Pods,
    Leases,
    Watches,
    Crowd,
}

const GROUPS: [Group; 6] =
    [Group::Starts, Group::ConfigMaps, Group::Pods, Group::Leases, Group::Watches, Group::Crowd];

impl Group {
    async fn measure(self, bench: &Bench, table: &mut Table) -> Result<()> {
        match self {
            Self::Starts => pods::rows(bench, table).await,
            Self::ConfigMaps => api::config_maps(bench, table).await,
            Self::Pods => api::pods(bench, table).await,
            Self::Leases => api::leases(bench, table).await,
            Self::Watches => watch::rows(bench, table).await,
            Self::Crowd => watch::crowd(bench, table).await,
        }
    }
}

/// Measures everything on each cluster, and deletes what was made, whatever happens.
pub async fn all(clusters: &mut [(&Bench, &mut Table)]) -> Result<()> {
    let mut outcome = Ok(());
    'measuring: for group in GROUPS {
        for (bench, table) in clusters.iter_mut() {
            outcome = group.measure(bench, table).await;
            if outcome.is_err() {
                break 'measuring;
            }
        }
    }
    for (bench, _) in clusters {
        outcome = outcome.and(bench.clean_up().await);
    }
    outcome
}
