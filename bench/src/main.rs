//! Measures a cluster and prints one table: what, value, p50 and p99, the server's processor time per request,
//! and the target. It speaks only the Kubernetes API, so the same program measures upstream:
//! `knarr-bench --kubeconfig FILE --server-pid PID,PID`. With `--start BIN` it starts a cluster of its own in a
//! temporary directory and measures starting, restarting and idling too. With `--against FILE` it measures a second
//! cluster in the same run, group of rows by group of rows, and prints the ratios. With `--containers RUNTIME,RUNTIME`
//! it measures OCI runtimes instead of a cluster.
//!
//! All it makes in a cluster is inside one namespace, which it deletes. Every loop is bounded in count and time.

mod bench;
mod containers;
mod idle;
mod load;
mod process;
mod rows;
mod start;
mod table;

use anyhow::{Context, Result};
use bench::Bench;
use clap::Parser;
use knarr_base::Ctx;
use process::Servers;
use std::path::PathBuf;
use table::Table;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a cluster
#[derive(Parser, Clone, Debug)]
#[command(name = "knarr-bench")]
pub struct Arguments {
    /// Kubeconfig of the cluster to measure
    #[arg(long, value_name = "FILE", required_unless_present_any = ["start", "containers"])]
    kubeconfig: Option<PathBuf>,
    /// Processes whose processor time and memory count as the server's
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
    /// Kubeconfig of a second cluster to measure beside the first, its peer
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    against: Option<PathBuf>,
    /// The peer's processes, as --server-pid
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "against")]
    against_pid: Vec<u32>,
    /// Start this knarr binary on an empty directory, and measure that too
    #[arg(long, value_name = "BIN", conflicts_with_all = ["kubeconfig", "server_pid"])]
    start: Option<PathBuf>,
    /// Measure these OCI runtimes beside each other, without a cluster; as root
    #[arg(long, value_name = "RUNTIME", value_delimiter = ',', conflicts_with_all = ["kubeconfig", "start"])]
    containers: Vec<PathBuf>,
    /// With --containers: a static program that ends at once when it is run as `true`
    #[arg(long, value_name = "FILE", default_value = "/bin/busybox", requires = "containers")]
    program: PathBuf,
    /// With --containers: rounds of each runtime
    #[arg(long, value_name = "COUNT", default_value_t = 200, requires = "containers")]
    rounds: usize,
    /// With --start: the whole cluster with this machine as its node (`up`), not only the control plane. Do it in a
    /// network namespace of its own
    #[arg(long, requires = "start")]
    node: bool,
    /// With --start: how long to idle
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle_seconds: u64,
    /// With --start: where to make the temporary data directory
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// With --start --node: image archive to import before pods are started
    #[arg(long, value_name = "FILE", requires = "node")]
    image_archive: Option<PathBuf>,
    /// Image of the pods that are started; without it, or without a ready node, no pod is
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Command of those pods
    #[arg(long, value_name = "WORDS", default_value = "sleep 3600")]
    image_command: String,
    /// Program of the image that ends at once, for execs
    #[arg(long, value_name = "PROGRAM", default_value = "true")]
    exec_command: String,
    /// Concurrent clients
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// HTTP/2 connections they share
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// The longest a row may take
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    row_seconds: u64,
    /// A fraction of the usual number of requests, for a quick look
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only rows whose name contains one of these words
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    rows: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start threads")?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let ctx = Ctx::system();
    let mut table = Table::new("", &arguments.rows);
    let mut peer = Table::new("peer: ", &arguments.rows);
    let outcome = match &arguments.start {
        None if !arguments.containers.is_empty() => {
            containers::run(&ctx, &arguments.containers, &arguments.program, arguments.rounds, &mut table)
        }
        Some(binary) => start::run(&ctx, &arguments, binary, &mut table).await,
        None => connected(&ctx, &arguments, &mut table, &mut peer).await,
    };
    // What was measured before something went wrong is worth seeing.
    match arguments.against {
        Some(_) => table.print_beside(&peer),
        None => table.print(),
    }
    outcome
}

async fn connected(ctx: &Ctx, arguments: &Arguments, table: &mut Table, peer: &mut Table) -> Result<()> {
    let kubeconfig = arguments.kubeconfig.clone().expect("clap asks for one of the two");
    let bench = Bench::connect(ctx, arguments, &kubeconfig, Servers::pids(&arguments.server_pid)).await?;
    let Some(against) = &arguments.against else { return rows::all(&mut [(&bench, table)]).await };
    let other = Bench::connect(ctx, arguments, against, Servers::pids(&arguments.against_pid)).await?;
    rows::all(&mut [(&bench, table), (&other, peer)]).await
}
