//! The rows of the table that any cluster has.

mod api;
mod pods;
pub use pods::node_is_ready;
mod watch;

use crate::bench::Bench;
use crate::table::Table;
use anyhow::Result;

/// Measures everything, and deletes what was made, whatever happens.
pub async fn all(bench: &Bench, table: &mut Table) -> Result<()> {
    let outcome = measure(bench, table).await;
    let cleaned = bench.clean_up().await;
    outcome.and(cleaned)
}

async fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    // Starting pods comes first, on a cluster that is not full of other things.
    pods::rows(bench, table).await?;
    api::rows(bench, table).await?;
    watch::rows(bench, table).await
}
