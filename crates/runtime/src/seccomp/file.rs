//! Profiles in files: the OCI runtime specification's `linux.seccomp` object, and Docker's form of it with
//! `archMap`, `includes` and `excludes`.

use super::{Action, Arch, Compare, Condition, Profile, Rule};
use crate::container::capabilities;
use serde::Deserialize;

/// A profile as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Option<Vec<Syscalls>>,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default)]
    flags: Vec<String>,
    /// Socket that gets the descriptor of `SCMP_ACT_NOTIFY`.
    #[serde(default)]
    pub listener_path: String,
    /// Told to the listener.
    #[serde(default)]
    pub listener_metadata: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// The profile in `text`, for a container with these capabilities.
pub fn parse(text: &[u8], capabilities: u64) -> Result<Profile, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let profile = from_file(&file, capabilities)?;
    if profile.rules.iter().map(|rule| rule.action).chain([profile.default]).any(|a| a == Action::Notify) {
        return Err("unsupported seccomp action \"SCMP_ACT_NOTIFY\"".to_owned());
    }
    Ok(profile)
}

/// `SECCOMP_FILTER_FLAG_*` that a profile asks for.
pub fn flags(file: &File) -> Result<u32, String> {
    file.flags.iter().try_fold(0, |sum, name| match name.as_str() {
        // TSYNC is for programs with threads.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(sum),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(sum | 2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(sum | 4),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Ok(sum | 32),
        other => Err(format!("seccomp flag {other:?} is not known")),
    })
}

/// The profile that is written in a file, for a container with these capabilities.
pub fn from_file(file: &File, capabilities: u64) -> Result<Profile, String> {
    let names = file.architectures.iter().map(String::as_str);
    let mapped =
        file.arch_map.iter().filter(|map| arch(&map.architecture) == Some(Arch::NATIVE)).flat_map(|map| {
            map.sub_architectures.iter().flatten().map(String::as_str).chain([map.architecture.as_str()])
        });
    let mut arches: Vec<Arch> = vec![Arch::NATIVE];
    for found in names.chain(mapped).filter_map(arch) {
        if !arches.contains(&found) {
            arches.push(found);
        }
    }
    let mut rules = Vec::new();
    for entry in file.syscalls.iter().flatten() {
        let includes = entry.includes.clone().unwrap_or_default();
        let excludes = entry.excludes.clone().unwrap_or_default();
        let included = includes.caps.iter().all(|name| has(capabilities, name))
            && (includes.arches.is_empty() || includes.arches.iter().any(|name| is_native(name)))
            && includes.min_kernel.as_deref().is_none_or(kernel_is_at_least);
        let excluded = excludes.caps.iter().any(|name| has(capabilities, name))
            || excludes.arches.iter().any(|name| is_native(name))
            || excludes.min_kernel.as_deref().is_some_and(kernel_is_at_least);
        if !included || excluded {
            continue;
        }
        let mut names = entry.names.clone();
        names.extend(entry.name.clone());
        let action = action(&entry.action, entry.errno_ret)?;
        let conditions: Vec<Condition> =
            entry.args.iter().flatten().map(condition).collect::<Result<_, _>>()?;
        // As runc does: several conditions on one argument are alternatives.
        let repeated = (0..6).any(|at| conditions.iter().filter(|c| c.argument == at).count() > 1);
        if repeated {
            let each =
                conditions.into_iter().map(|c| Rule { names: names.clone(), action, conditions: vec![c] });
            rules.extend(each);
        } else {
            rules.push(Rule { names, action, conditions });
        }
    }
    Ok(Profile { default: action(&file.default_action, file.default_errno_ret)?, arches, rules })
}

fn has(capabilities: u64, name: &str) -> bool {
    capabilities::bit(name).is_some_and(|bit| capabilities & bit != 0)
}

fn arch(name: &str) -> Option<Arch> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::X86),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        _ => None,
    }
}

fn is_native(name: &str) -> bool {
    match Arch::NATIVE {
        Arch::Aarch64 => name == "arm64",
        _ => name == "amd64",
    }
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    kernel_version(&release) >= kernel_version(wanted)
}

/// The first two numbers of a kernel's version.
pub fn kernel_version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(libc::EPERM as u16)),
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(libc::EPERM as u16)),
        "SCMP_ACT_NOTIFY" => Action::Notify,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        other => return Err(format!("unsupported seccomp action {other:?}")),
    })
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    if argument.index > 5 {
        return Err(format!("system calls have no argument {}", argument.index));
    }
    let (compare, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (Compare::Equal, argument.value),
        "SCMP_CMP_NE" => (Compare::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Compare::Less, argument.value),
        "SCMP_CMP_LE" => (Compare::LessOrEqual, argument.value),
        "SCMP_CMP_GT" => (Compare::Greater, argument.value),
        "SCMP_CMP_GE" => (Compare::GreaterOrEqual, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Compare::Masked(argument.value), argument.value_two),
        other => return Err(format!("unsupported seccomp operator {other:?}")),
    };
    Ok(Condition { argument: argument.index, compare, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_profile_are_read() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],
            "syscalls":[
              {"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":[]},
              {"name":"bpf","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
              {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"},"excludes":{"caps":["CAP_CHOWN"]}},
              {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}
            ]}"#;
        let profile = parse(text, 1).unwrap();
        assert_eq!(profile.default, Action::Errno(38));
        let names: Vec<&str> = profile.rules.iter().map(|r| r.names[0].as_str()).collect();
        assert_eq!(names, ["read", "clone"]);
        assert_eq!(profile.rules[1].conditions[0].compare, Compare::Masked(2_114_060_288));
        assert_eq!(parse(text, 1 << 39).unwrap().rules.len(), 4);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for text in [
            "{}",
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_ERRNO","args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
        ] {
            assert!(parse(text.as_bytes(), 0).is_err(), "{text}");
        }
    }
}
