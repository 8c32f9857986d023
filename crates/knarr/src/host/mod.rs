//! The machine under the cluster: what it must have, who else uses the data directory, which addresses it has.

pub mod checks;
pub mod data;
pub mod sys;
pub mod systemd;

/// The kernel's name for this machine.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" | "(none)" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
