//! The one binary: commands, configuration and wiring.

mod cluster;
mod commands;
mod config;
mod daemon;
mod demo;
mod host;
mod kubeconfig;
mod output;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: knarr_runtime::ShimAware<mimalloc::MiMalloc> =
    knarr_runtime::ShimAware::new(mimalloc::MiMalloc);

/// Knarr: a whole Kubernetes platform in one binary
#[derive(Parser)]
#[command(name = "knarr", version = commands::version::SHORT, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where settings come from, on every command that needs them.
#[derive(clap::Args, Clone, Debug)]
struct Source {
    /// Configuration file; its keys are the names of the flags [default: /etc/knarr/config.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: config::Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine
    Up(commands::up::Arguments),
    /// Stop the cluster and take everything off this machine but its data
    Down(commands::down::Arguments),
    /// Start a control plane without a node
    Server(commands::up::ServerArguments),
    /// Join this machine to a cluster, as another node of it
    Agent(commands::agent::Arguments),
    /// Make, list and delete the tokens by which machines join
    Token(commands::token::Arguments),
    /// Say how the cluster is
    Status(commands::status::Arguments),
    /// Look after images on this machine
    Image(commands::image::Arguments),
    /// Save, restore and check snapshots of the store
    Snapshot(commands::snapshot::Arguments),
    /// Be an OCI runtime, for podman, containerd and whoever else calls one: `knarr runtime help`
    Runtime {
        /// See `knarr runtime help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print a systemd unit that starts the cluster with the machine
    Unit(commands::unit::Arguments),
    /// Print the version
    Version,
    /// Be a tier of the demo application
    #[command(hide = true)]
    Demo {
        #[command(subcommand)]
        tier: demo::Tier,
    },
}

fn main() -> ExitCode {
    // A shim is a process of this binary too; it must not get any further, nor become large.
    knarr_runtime::zygote_main_if_asked();
    knarr_runtime::oci_main_if_asked();
    host::sys::heap_in_small_pages();
    let result = match Arguments::parse().command {
        Command::Up(arguments) => commands::up::run(arguments),
        Command::Down(arguments) => commands::down::run(arguments),
        Command::Server(arguments) => commands::up::run_server(arguments),
        Command::Agent(arguments) => commands::agent::run(arguments),
        Command::Token(arguments) => commands::token::run(arguments),
        Command::Status(arguments) => commands::status::run(arguments),
        Command::Image(arguments) => commands::image::run(arguments),
        Command::Snapshot(arguments) => commands::snapshot::run(arguments),
        // Only with something before the word: the command line was looked for above.
        Command::Runtime { .. } => Err(anyhow::anyhow!("`runtime` must be the first word")),
        Command::Unit(arguments) => commands::unit::run(&arguments),
        Command::Version => commands::version::run(),
        Command::Demo { tier } => demo::run(tier),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Source {
    fn load(self) -> anyhow::Result<config::Config> {
        config::load(self.config.as_deref(), self.settings, &host::hostname()).map_err(|problems| {
            let lines: Vec<&str> = problems.lines().collect();
            match &lines[..] {
                [one] => anyhow::anyhow!("{one}"),
                many => {
                    anyhow::anyhow!("the configuration has {} mistakes:\n  {}", many.len(), many.join("\n  "))
                }
            }
        })
    }
}
