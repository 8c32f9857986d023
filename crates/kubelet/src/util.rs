//! Small things used all over the kubelet.

use knarr_api::core::v1::{Container, EphemeralContainer, Pod};
use knarr_api::{Kind, Quantity};
use knarr_client::ObjectRef;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// How upstream's log lines and messages name a pod.
pub(crate) fn format_pod(pod: &Pod) -> String {
    format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid())
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container that keeps running (KEP-753).
    Sidecar,
    /// An ordinary container.
    Main,
    /// A debugging container added later.
    Ephemeral,
}

/// A container of a pod's spec with its role.
#[derive(Clone, Debug)]
pub(crate) struct Def {
    pub(crate) role: Role,
    pub(crate) spec: Container,
    /// The container that an ephemeral one looks at.
    pub(crate) target: Option<String>,
}

impl Def {
    /// The field path by which events point at it.
    pub(crate) fn field_path(&self) -> String {
        let list = match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.spec.name)
    }
}

/// All containers of a pod: init containers in order, then the ordinary ones, then ephemeral ones.
pub(crate) fn defs(pod: &Pod) -> Vec<Def> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| Def {
        role: if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        spec: c.clone(),
        target: None,
    });
    let main = spec.containers.iter().map(|c| Def { role: Role::Main, spec: c.clone(), target: None });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| Def {
        role: Role::Ephemeral,
        spec: debug(c),
        target: c.target_container_name.clone().filter(|name| !name.is_empty()),
    });
    init.chain(main).chain(ephemeral).collect()
}

fn debug(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// What an event about the pod, or one of its containers, points at.
pub(crate) fn about(pod: &Pod, def: Option<&Def>) -> ObjectRef {
    ObjectRef { field_path: def.map(Def::field_path), ..knarr_client::recorder::reference(pod) }
}

/// The pod's restart policy.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether the pod lives in the host's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// A quantity in whole units.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    knarr_meta::quantity::Quantity::parse(&quantity.0).map_or(0, |q| q.value())
}

/// A quantity in thousandths.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    knarr_meta::quantity::Quantity::parse(&quantity.0).map_or(0, |q| q.milli_value())
}

/// An entry of a resource list.
pub(crate) fn resource<'a>(list: &'a Option<BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    list.as_ref().and_then(|l| l.get(name))
}

/// The time of so many nanoseconds since 1970; `None` for 0.
pub(crate) fn from_ns(ns: i64) -> Option<SystemTime> {
    (ns > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns.unsigned_abs()))
}

/// A duration as Go prints it when it is a number of whole seconds or milliseconds: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    if secs == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let fraction =
        if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    let (hours, minutes, rest) = (secs / 3600, secs / 60 % 60, secs % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

/// Reads a duration as Go writes it: `1h30m`, `1m30s`, `250ms`, `0`.
pub(crate) fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..end] {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = &rest[end..];
    }
    Some(total).filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (10_000, "10s"),
            (1_500, "1.5s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, seconds) in
            [("0", Some(0)), ("1m30s", Some(90)), ("2h", Some(7200)), ("", None), ("5", None), ("1x", None)]
        {
            assert_eq!(parse_go_duration(text).map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
