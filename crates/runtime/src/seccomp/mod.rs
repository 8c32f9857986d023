//! seccomp filters (seccomp(2), Documentation/userspace-api/seccomp_filter.rst): the default profile, profiles
//! from files, and their translation to BPF.

mod compile;
mod default;
mod file;
mod write;

pub use file::{File, kernel_version};

use crate::container::capabilities;
use crate::spec::{ContainerSpec, Seccomp};
use crate::sys::SockFilter;

/// An instruction set whose system calls a filter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    /// 32-bit programs on x86_64.
    X86,
    Aarch64,
}

impl Arch {
    /// The machine's own.
    const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// `AUDIT_ARCH_*`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// Column of the table of system calls.
    fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::X86 => 2,
            Self::Aarch64 => 3,
        }
    }
}

/// What a filter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Log,
    Errno(u16),
    Trace(u16),
    Trap,
    /// A listener decides.
    Notify,
    KillThread,
    KillProcess,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Log => 0x7ffc_0000,
            Self::Errno(number) => 0x0005_0000 | u32::from(number),
            Self::Trace(number) => 0x7ff0_0000 | u32::from(number),
            Self::Notify => 0x7fc0_0000,
            Self::Trap => 0x0003_0000,
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
        }
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal under this mask.
    Masked(u64),
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub compare: Compare,
    pub value: u64,
}

/// Answer to some system calls when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// A filter before its translation. Of several rules for a call any that holds counts, the first one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub default: Action,
    pub arches: Vec<Arch>,
    pub rules: Vec<Rule>,
}

/// The table of system calls; see its head.
const TABLE: &str = include_str!("../../facts/syscalls.tsv");

/// The lines of the table, cut into columns.
fn table() -> impl Iterator<Item = [&'static str; 5]> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut columns = line.split('\t');
        let mut next = || columns.next();
        Some([next()?, next()?, next()?, next()?, next()?])
    })
}

/// The text of the profile's file, if the container has one.
pub fn read_profile(spec: &ContainerSpec) -> Result<Vec<u8>, String> {
    let Seccomp::Localhost(path) = &spec.seccomp else { return Ok(Vec::new()) };
    std::fs::read(path)
        .map_err(|error| format!("cannot load seccomp profile {:?}: {error}", path.display().to_string()))
}

/// The filter of a profile in a configuration: the program, its flags, and whether it needs a listener.
pub fn filter_of(file: &File, capabilities: u64) -> Result<(Vec<SockFilter>, u32, bool), String> {
    let profile = file::from_file(file, capabilities)?;
    if profile.default == Action::Notify {
        return Err("seccomp: SCMP_ACT_NOTIFY cannot be used as default action".to_owned());
    }
    let listens = profile.rules.iter().any(|rule| rule.action == Action::Notify);
    if listens && file.listener_path.is_empty() {
        return Err("seccomp: listenerPath is needed for SCMP_ACT_NOTIFY".to_owned());
    }
    Ok((compile::compile(&profile)?, file::flags(file)?, listens))
}

/// The profile of a container, whose profile's file has this text; `None` for no filter.
fn profile(spec: &ContainerSpec, text: &[u8]) -> Result<Option<Profile>, String> {
    if spec.privileged || spec.seccomp == Seccomp::Unconfined {
        return Ok(None);
    }
    let mask = capabilities::mask(spec).map_err(|name| format!("unknown capability \"CAP_{name}\""))?;
    let profile = match spec.seccomp {
        Seccomp::Localhost(_) => {
            file::parse(text, mask).map_err(|error| format!("decoding seccomp profile failed: {error}"))?
        }
        _ => default::profile(mask),
    };
    Ok(Some(profile))
}

/// The filter of a container, whose profile's file has this text; empty for none.
pub fn filter(spec: &ContainerSpec, text: &[u8]) -> Result<Vec<SockFilter>, String> {
    profile(spec, text)?.map_or(Ok(Vec::new()), |profile| compile::compile(&profile))
}

/// The same for a runtime that makes the filter itself: the `linux.seccomp` object.
pub fn in_oci_form(spec: &ContainerSpec, text: &[u8]) -> Result<Option<serde_json::Value>, String> {
    Ok(profile(spec, text)?.map(|profile| write::in_oci_form(&profile)))
}
