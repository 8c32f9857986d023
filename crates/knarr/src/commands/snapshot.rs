//! `knarr snapshot`: save the embedded store of a running cluster in a file, check such a file or the store itself, and
//! make a new store out of a file. Certificates and keys are files of their own (`<data>/pki`), to be kept beside it.

use crate::Source;
use crate::daemon::{Answer, Request, ask};
use crate::host::checks;
use crate::host::data::{self, Layout};
use crate::output::say;
use anyhow::{Context, Result};
use knarr_base::Ctx;
use knarr_store::embedded::snapshot::{self, Summary};
use knarr_store::embedded::{Engine, EngineOptions};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    source: Source,
}

/// What to do.
#[derive(clap::Subcommand)]
enum Action {
    /// Save a snapshot in a new file, of a running cluster or one that is stopped
    Save {
        /// The file
        file: PathBuf,
    },
    /// Make the store anew out of a snapshot, where there is none
    Restore {
        /// The file
        file: PathBuf,
    },
    /// Check a snapshot and say what is in it; without a file, check the store of a stopped cluster
    Status {
        /// The file
        file: Option<PathBuf>,
    },
}

/// Carries the request out.
pub fn run(arguments: Arguments) -> Result<()> {
    knarr_base::logging::init("warn");
    if let Action::Status { file: Some(file) } = &arguments.action {
        lines(&snapshot::inspect(file)?).iter().for_each(|line| say(line));
        return Ok(());
    }
    checks::require_root("snapshot")?;
    let config = arguments.source.load()?;
    anyhow::ensure!(config.etcd.is_none(), "the cluster's data are in etcd: use etcdctl snapshot");
    let layout = Layout(config.data_dir.clone());
    match arguments.action {
        Action::Save { file } => {
            let file = std::path::absolute(file)?;
            let show = |answer| {
                if let Answer::Line(line) = answer {
                    say(&line);
                }
            };
            let request = Request::SaveSnapshot { file: file.clone() };
            if ask(&layout.socket(), &request, show)?.is_none() {
                let _lock = data::open(&config.data_dir)?;
                let summary = with_engine(&layout.store(), |engine| Ok(snapshot::save(engine, &file)?))?;
                lines(&summary).iter().for_each(|line| say(line));
            }
            say(&format!("Saved {}. Keep {} with it.", file.display(), layout.pki().display()));
            Ok(())
        }
        Action::Restore { file } => {
            let _lock = data::open(&config.data_dir)?;
            let summary = in_runtime(|ctx| Ok(snapshot::restore(ctx, &file, &layout.store())?))?;
            lines(&summary).iter().for_each(|line| say(line));
            say(&format!("Restored into {}.", layout.store().display()));
            Ok(())
        }
        Action::Status { .. } => {
            let _lock = data::open(&config.data_dir)
                .context("the store of a running cluster was checked when it was opened; see knarr status")?;
            with_engine(&layout.store(), |engine| {
                let stats = engine.keyspace(crate::cluster::control::KEYSPACE).stats();
                say(&format!("{:<10} {}", "revision", stats.revision));
                say(&format!("{:<10} {}", "compacted", stats.compacted));
                say(&format!("{:<10} {}", "keys", stats.keys));
                say(&format!("{:<10} {} bytes", "size", stats.size_bytes));
                say("The store is sound.");
                Ok(())
            })
        }
    }
}

fn in_runtime<T>(act: impl FnOnce(&Ctx) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    act(&Ctx::system())
}

/// Opens the store, which checks all of it.
fn with_engine<T>(dir: &Path, act: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
    anyhow::ensure!(dir.exists(), "there is no store in {}", dir.display());
    in_runtime(|ctx| {
        let engine = Engine::open(ctx, EngineOptions::new(dir))?;
        let result = act(&engine);
        engine.close();
        result
    })
}

/// A summary for a person to read.
pub fn lines(summary: &Summary) -> Vec<String> {
    vec![
        format!("{:<10} {}", "hash", summary.hash),
        format!("{:<10} {}", "revision", summary.revision()),
        format!("{:<10} {}", "keys", summary.keys()),
        format!("{:<10} {} bytes", "size", summary.size_bytes),
    ]
}
