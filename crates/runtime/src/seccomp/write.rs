//! A profile as the OCI runtime specification writes it, for runtimes that make the filter themselves.
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>

use super::{Action, Arch, Compare, Profile};
use serde_json::{Value, json};

/// The `linux.seccomp` object of a profile.
pub fn in_oci_form(profile: &Profile) -> Value {
    let rules = profile.rules.iter().map(|rule| {
        let arguments = rule.conditions.iter().map(|condition| {
            let (operator, value, second) = match condition.compare {
                Compare::Equal => ("SCMP_CMP_EQ", condition.value, 0),
                Compare::NotEqual => ("SCMP_CMP_NE", condition.value, 0),
                Compare::Less => ("SCMP_CMP_LT", condition.value, 0),
                Compare::LessOrEqual => ("SCMP_CMP_LE", condition.value, 0),
                Compare::Greater => ("SCMP_CMP_GT", condition.value, 0),
                Compare::GreaterOrEqual => ("SCMP_CMP_GE", condition.value, 0),
                Compare::Masked(mask) => ("SCMP_CMP_MASKED_EQ", mask, condition.value),
            };
            json!({"index": condition.argument, "value": value, "valueTwo": second, "op": operator})
        });
        let (name, number) = action(rule.action);
        let mut value = json!({"names": rule.names, "action": name, "args": arguments.collect::<Vec<_>>()});
        if let Some(number) = number {
            value["errnoRet"] = json!(number);
        }
        value
    });
    let arches = profile.arches.iter().map(|arch| match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::X86 => "SCMP_ARCH_X86",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
    });
    let (name, number) = action(profile.default);
    let mut value = json!({
        "defaultAction": name, "architectures": arches.collect::<Vec<_>>(), "syscalls": rules.collect::<Vec<_>>(),
    });
    if let Some(number) = number {
        value["defaultErrnoRet"] = json!(number);
    }
    value
}

/// The name of an action, and the number that goes with it.
fn action(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Errno(number) => ("SCMP_ACT_ERRNO", Some(number)),
        Action::Trace(number) => ("SCMP_ACT_TRACE", Some(number)),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Notify => ("SCMP_ACT_NOTIFY", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{default, file};

    /// What is written is read as the same profile.
    #[test]
    fn the_default_profile_survives_being_written() {
        for capabilities in [0, u64::MAX] {
            let profile = default::profile(capabilities);
            let text = in_oci_form(&profile).to_string();
            assert_eq!(file::parse(text.as_bytes(), capabilities).unwrap(), profile);
        }
    }
}
