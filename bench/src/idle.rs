//! What a cluster costs that does nothing.

use crate::process::{Servers, disk_bytes};
use crate::table::Table;
use anyhow::Result;
use knarr_base::Ctx;
use std::time::Duration;

/// Memory, processor time and disk writes of `servers` over `length`, after `settle`.
pub async fn rows(
    ctx: &Ctx,
    servers: &Servers,
    settle: Duration,
    length: Duration,
    table: &mut Table,
) -> Result<()> {
    if !table.wants("idle") {
        return Ok(());
    }
    ctx.clock.sleep(settle).await;
    let (cpu, written, started) = (servers.cpu(), servers.written_bytes(), ctx.clock.instant());
    let disk = disk_bytes();
    ctx.clock.sleep(length).await;
    let took = (ctx.clock.instant() - started).as_secs_f64();
    let over = format!("over {:.0} s after {:.0} s", length.as_secs_f64(), settle.as_secs_f64());
    if let Some(kib) = servers.pss_kib() {
        table.value(
            "idle memory (PSS of all processes)",
            format!("{:.1} MiB", kib as f64 / 1024.0),
            "60 MiB control plane, 100 MiB everything",
        );
    }
    if let Some((now, before)) = servers.cpu().zip(cpu) {
        let percent = now.since(&before).as_secs_f64() / took * 100.0;
        table.value(&format!("idle CPU {over}"), format!("{percent:.2} % of a core"), "0.3 % (must: 1 %)");
    }
    if let Some((now, before)) = servers.written_bytes().zip(written) {
        let rate = now.saturating_sub(before) as f64 / took / 1e3;
        table.value("idle disk writes, the processes' own count", format!("{rate:.2} kB/s"), "");
    }
    if let Some((now, before)) = disk_bytes().zip(disk) {
        let rate = now.saturating_sub(before) as f64 / took / 1e3;
        table.value("idle disk writes, whole machine", format!("{rate:.2} kB/s"), "under 4 kB/s");
    }
    Ok(())
}

/// Memory alone.
pub fn memory(servers: &Servers, what: &str, target: &str, table: &mut Table) {
    if let Some(kib) = servers.pss_kib().filter(|_| table.wants(what)) {
        table.value(what, format!("{:.1} MiB", kib as f64 / 1024.0), target);
    }
}
