//! `knarr down`: stops the cluster and its pods, and takes off the machine what was put there. The data stay unless
//! `--purge` is given. Works as well when the cluster is not running, or died.

use crate::Source;
use crate::cluster::{network, node};
use crate::commands::up::user_kubeconfig;
use crate::daemon::{Request, ask};
use crate::host::checks;
use crate::host::data::{self, Layout};
use crate::kubeconfig;
use crate::output::say;
use anyhow::{Context, Result};
use knarr_base::Ctx;
use knarr_runtime::Runtime;

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Delete the data too: every object, every image, every volume
    #[arg(long)]
    purge: bool,
}

/// Takes the cluster down.
pub fn run(arguments: Arguments) -> Result<()> {
    checks::require_root("down")?;
    knarr_base::logging::init("error");
    let config = arguments.source.load()?;
    let layout = Layout(config.data_dir.clone());
    if !config.data_dir.exists() {
        say(&format!("There is nothing at {}.", config.data_dir.display()));
        return Ok(());
    }
    if ask(&layout.socket(), &Request::Stop, |_| {})?.is_some() {
        say("Stopped the cluster.");
    }
    let lock = data::wait(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let pods = runtime.block_on(async {
        let runtime = Runtime::open(&Ctx::system(), node::runtime_options(&config))
            .await
            .context("cannot reach the pods")?;
        let pods = runtime.sandboxes().len();
        runtime.tear_down().await.context("cannot stop the pods")?;
        Ok::<_, anyhow::Error>(pods)
    })?;
    say(&format!("Stopped {pods} pods."));
    network::cleanup(&config)?;
    let unmounted = data::unmount_below(&config.data_dir)?;
    say(&format!("Removed links, routes, rules and {unmounted} mounts."));
    let logind = std::path::Path::new(knarr_kubelet::LOGIND_CONFIG_DIR);
    if knarr_kubelet::remove_logind_override(logind).context("cannot restore logind's configuration")? {
        say("Removed what was put into systemd-logind's configuration.");
    }
    if let Some(path) = &config.kubeconfig {
        let (path, owner) = user_kubeconfig(path);
        if path.exists() {
            kubeconfig::remove_from(&path, owner)?;
        }
    }
    if arguments.purge {
        std::fs::remove_dir_all(&config.data_dir)
            .with_context(|| format!("cannot delete {}", config.data_dir.display()))?;
        say(&format!("Deleted {}.", config.data_dir.display()));
    } else {
        say(&format!("The data are kept in {}; 'knarr up' continues from them.", config.data_dir.display()));
    }
    drop(lock);
    Ok(())
}
