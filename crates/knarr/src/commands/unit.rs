//! `knarr unit`: a systemd unit that starts the cluster with the machine.

use crate::output::say;
use anyhow::{Context, Result};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Arguments for `knarr up` in the unit
    #[arg(last = true)]
    up: Vec<String>,
}

/// Prints the unit.
pub fn run(arguments: &Arguments) -> Result<()> {
    let binary = std::env::current_exe().context("cannot find this binary")?;
    say(&unit(&binary.display().to_string(), &arguments.up));
    Ok(())
}

/// The cluster is there for other units once it is ready. KillMode and Delegate let containers outlive a restart of the service: stopping it ends only the daemon, and
/// systemd keeps its hands off the cgroups.
fn unit(binary: &str, up: &[String]) -> String {
    let command: Vec<&str> = [binary, "up"].into_iter().chain(up.iter().map(String::as_str)).collect();
    format!(
        "# Save as /etc/systemd/system/knarr.service, then: systemctl daemon-reload && systemctl enable --now knarr\n\
         [Unit]\nDescription=Knarr Kubernetes cluster\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nType=notify\nTimeoutStartSec=5min\nExecStart={}\nKillMode=process\nDelegate=yes\nRestart=always\nRestartSec=1\n\
         LimitNOFILE=1048576\nTasksMax=infinity\nOOMScoreAdjust=-999\n\n\
         [Install]\nWantedBy=multi-user.target",
        command.join(" ")
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn containers_outlive_the_service() {
        let unit = super::unit("/usr/local/bin/knarr", &["--node-name=a".to_owned()]);
        assert!(unit.contains("ExecStart=/usr/local/bin/knarr up --node-name=a\n"));
        assert!(unit.contains("KillMode=process\nDelegate=yes\n"));
        assert!(unit.contains("Type=notify\n"));
    }
}
