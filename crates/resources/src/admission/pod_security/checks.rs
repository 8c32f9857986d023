//! The checks of the Pod Security Standards: k8s.io/pod-security-admission/policy, with its texts.

use crate::core::pod::aggregate::all;
use crate::util::value::{at, flag, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// Sysctls that do no harm, with the version (1.x) since which they are allowed.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// A pod (or a template) under the rules of version 1.`minor`.
pub struct Subject<'a> {
    /// Its annotations.
    pub annotations: &'a Value,
    /// Its spec.
    pub spec: &'a Value,
    /// The version of the rules.
    pub minor: u32,
}

/// What a pod violates: a reason, and details that may be empty.
pub type Violation = (&'static str, String);

/// What the baseline forbids. `restricted` leaves out what its own rules replace.
pub fn baseline(pod: &Subject<'_>, restricted: bool) -> Vec<Violation> {
    let kept = |from: u32, found: Option<Violation>| found.filter(|_| !restricted || pod.minor < from);
    [
        pod.app_armor(),
        kept(22, pod.capabilities()),
        pod.host_namespaces(),
        kept(0, pod.host_paths()),
        pod.host_ports(),
        pod.hosts_of_handlers(),
        pod.privileged(),
        kept(35, if pod.minor >= 35 && pod.has_user_namespace() { None } else { pod.proc_mount() }),
        pod.selinux(),
        kept(19, pod.seccomp_baseline()),
        pod.sysctls(),
        pod.windows_host_process(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is forbidden beyond the baseline.
pub fn restricted(pod: &Subject<'_>) -> Vec<Violation> {
    let windows = pod.minor >= 25 && text(pod.spec, &["os", "name"]) == "windows";
    let user_namespace = pod.minor >= 35 && pod.has_user_namespace();
    let from = |minor: u32, exempt: bool| pod.minor >= minor && !exempt;
    [
        from(8, windows).then(|| pod.privilege_escalation()).flatten(),
        from(22, windows).then(|| pod.dropped_capabilities()).flatten(),
        from(35, false).then(|| pod.proc_mount()).flatten(),
        pod.volumes(),
        from(0, user_namespace).then(|| pod.run_as_non_root()).flatten(),
        from(23, user_namespace).then(|| pod.run_as_user()).flatten(),
        from(19, windows).then(|| pod.seccomp_restricted()).flatten(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

fn context<'a>(of: &'a Value, path: &[&str]) -> Option<&'a Value> {
    at(of, &["securityContext"]).and_then(|c| at(c, path)).filter(|v| !v.is_null())
}

impl<'a> Subject<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        all(self.spec)
    }

    /// The names of the containers that `bad` holds for.
    fn which(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(|c| text(c, &["name"])).collect()
    }

    fn has_user_namespace(&self) -> bool {
        at(self.spec, &["hostUsers"]) == Some(&Value::Bool(false))
    }

    /// Who sets a field of the security context to a value that `bad` holds for: `pod and container "a"`.
    fn setters(&self, path: &[&str], bad: impl Fn(&Value) -> bool) -> (Vec<String>, Vec<&'a Value>) {
        let mut setters = Vec::new();
        let mut values = Vec::new();
        if let Some(value) = context(self.spec, path).filter(|v| bad(v)) {
            setters.push("pod".to_owned());
            values.push(value);
        }
        let found: Vec<_> = self
            .containers()
            .filter_map(|c| Some((text(c, &["name"]), context(c, path).filter(|v| bad(v))?)))
            .collect();
        if !found.is_empty() {
            setters.push(containers(&found.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
        }
        values.extend(found.iter().map(|(_, value)| *value));
        (setters, values)
    }

    fn app_armor(&self) -> Option<Violation> {
        let path = ["appArmorProfile", "type"];
        let (mut setters, values) =
            self.setters(&path, |v| !matches!(v.as_str(), Some("RuntimeDefault" | "Localhost")));
        let mut values: Vec<String> = sorted(values).into_iter().map(str::to_owned).collect();
        let notes: Vec<String> = self
            .annotations
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, v)| Some((key, v.as_str()?)))
            .filter(|(key, v)| {
                let fine = v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/");
                key.starts_with(APPARMOR_PREFIX) && !fine
            })
            .map(|(key, v)| format!("{key}=\"{v}\""))
            .collect();
        if !notes.is_empty() {
            setters.push(plural("annotation", "annotations", notes.len()).to_owned());
        }
        values.extend(notes);
        let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
        let who = setters.join(" and ");
        let detail = format!("{who} must not set AppArmor profile type to {}", quoted(values));
        (!setters.is_empty()).then_some((reason, detail))
    }

    fn added(container: &Value) -> impl Iterator<Item = &str> {
        list(container, &["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str)
    }

    fn forbidden_capabilities(&self, allowed: &[&str]) -> Option<String> {
        let bad = |c: &&str| !allowed.contains(c);
        let names = self.which(|c| Self::added(c).any(|c| bad(&c)));
        let found: BTreeSet<&str> = self.containers().flat_map(Self::added).filter(bad).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers(&names),
                quoted(found)
            )
        })
    }

    fn capabilities(&self) -> Option<Violation> {
        Some(("non-default capabilities", self.forbidden_capabilities(CAPABILITIES)?))
    }

    fn dropped_capabilities(&self) -> Option<Violation> {
        let keeps = |c: &Value| {
            !list(c, &["securityContext", "capabilities", "drop"]).iter().any(|c| c.as_str() == Some("ALL"))
        };
        let names = self.which(keeps);
        let mut details = Vec::new();
        if !names.is_empty() {
            let who = containers(&names);
            details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
        }
        details.extend(self.forbidden_capabilities(&["NET_BIND_SERVICE"]));
        (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
    }

    fn host_namespaces(&self) -> Option<Violation> {
        let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .into_iter()
            .filter(|field| flag(self.spec, &[field]))
            .map(|field| format!("{field}=true"))
            .collect();
        (!set.is_empty()).then(|| ("host namespaces", set.join(", ")))
    }

    fn host_paths(&self) -> Option<Violation> {
        let names: Vec<&str> = list(self.spec, &["volumes"])
            .iter()
            .filter(|v| v.get("hostPath").is_some_and(Value::is_object))
            .map(|v| text(v, &["name"]))
            .collect();
        let noun = plural("volume", "volumes", names.len());
        (!names.is_empty()).then(|| ("hostPath volumes", format!("{noun} {}", quoted(names))))
    }

    fn host_ports(&self) -> Option<Violation> {
        let ports = |c: &Value| -> Vec<i64> {
            list(c, &["ports"]).iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).collect()
        };
        let names = self.which(|c| !ports(c).is_empty());
        let found: BTreeSet<String> = self.containers().flat_map(ports).map(|p| p.to_string()).collect();
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", found.len()),
            found.into_iter().collect::<Vec<_>>().join(", ")
        );
        (!names.is_empty()).then_some(("hostPort", detail))
    }

    fn hosts_of_handlers(&self) -> Option<Violation> {
        if self.minor < 34 {
            return None;
        }
        const HANDLERS: &[&[&str]] = &[
            &["livenessProbe"],
            &["readinessProbe"],
            &["startupProbe"],
            &["lifecycle", "postStart"],
            &["lifecycle", "preStop"],
        ];
        let hosts = |c: &Value| -> Vec<String> {
            let handlers = HANDLERS.iter().filter_map(|path| at(c, path));
            handlers
                .flat_map(|h| [text(h, &["httpGet", "host"]), text(h, &["tcpSocket", "host"])])
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let mut names = self.which(|c| !hosts(c).is_empty());
        names.sort_unstable();
        let found: BTreeSet<String> = self.containers().flat_map(hosts).collect();
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", found.len()),
            quoted(found)
        );
        (!names.is_empty()).then_some(("probe or lifecycle host", detail))
    }

    fn privileged(&self) -> Option<Violation> {
        let names = self.which(|c| flag(c, &["securityContext", "privileged"]));
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        (!names.is_empty()).then_some(("privileged", detail))
    }

    fn proc_mount(&self) -> Option<Violation> {
        let mount =
            |c: &'a Value| context(c, &["procMount"]).and_then(Value::as_str).filter(|m| *m != "Default");
        let names: Vec<&str> =
            self.containers().filter(|c| mount(c).is_some()).map(|c| text(c, &["name"])).collect();
        let found: BTreeSet<&str> = self.containers().filter_map(mount).collect();
        let detail =
            format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(found));
        (!names.is_empty()).then_some(("procMount", detail))
    }

    fn selinux(&self) -> Option<Violation> {
        let engine = if self.minor >= 31 { "container_engine_t" } else { "" };
        let fine =
            |kind: &str| ["", "container_t", "container_init_t", "container_kvm_t", engine].contains(&kind);
        let (setters, options) = self.setters(&["seLinuxOptions"], |o| {
            !fine(text(o, &["type"])) || !text(o, &["user"]).is_empty() || !text(o, &["role"]).is_empty()
        });
        if setters.is_empty() {
            return None;
        }
        let types: BTreeSet<&str> = options.iter().map(|o| text(o, &["type"])).filter(|t| !fine(t)).collect();
        let mut data = Vec::new();
        if !types.is_empty() {
            data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
        }
        for field in ["user", "role"] {
            if options.iter().any(|o| !text(o, &[field]).is_empty()) {
                data.push(format!("{field} may not be set"));
            }
        }
        let who = setters.join(" and ");
        let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; "));
        Some(("seLinuxOptions", detail))
    }

    fn seccomp_set(&self) -> Option<Violation> {
        let (setters, values) = self.setters(&["seccompProfile", "type"], |v| !is_confined(v));
        let detail = format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(sorted(values))
        );
        (!setters.is_empty()).then_some(("seccompProfile", detail))
    }

    fn seccomp_baseline(&self) -> Option<Violation> {
        if self.minor >= 19 {
            return self.seccomp_set();
        }
        let of_containers = self.containers().map(|c| format!("{SECCOMP_PREFIX}{}", text(c, &["name"])));
        let bad: BTreeSet<String> = std::iter::once(SECCOMP_POD.to_owned())
            .chain(of_containers)
            .filter_map(|key| {
                let value = self.annotations.get(&key)?.as_str()?;
                let fine =
                    matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
                (!fine).then(|| format!("{key}=\"{value}\""))
            })
            .collect();
        let noun = plural("annotation", "annotations", bad.len());
        let all = bad.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        (!bad.is_empty()).then(|| ("seccompProfile", format!("forbidden {noun} {all}")))
    }

    fn seccomp_restricted(&self) -> Option<Violation> {
        let path = ["seccompProfile", "type"];
        if let Some(violation) = self.seccomp_set() {
            return Some(violation);
        }
        if context(self.spec, &path).is_some() {
            return None;
        }
        let names = self.which(|c| context(c, &path).is_none());
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&names)
        );
        (!names.is_empty()).then_some(("seccompProfile", detail))
    }

    fn sysctls(&self) -> Option<Violation> {
        let fine = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= self.minor);
        let bad: Vec<&str> = list(self.spec, &["securityContext", "sysctls"])
            .iter()
            .map(|s| text(s, &["name"]))
            .filter(|name| !fine(name))
            .collect();
        (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
    }

    fn windows_host_process(&self) -> Option<Violation> {
        let (setters, _) = self.setters(&["windowsOptions", "hostProcess"], |v| *v == Value::Bool(true));
        let who = setters.join(" and ");
        let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
        (!setters.is_empty()).then_some(("hostProcess", detail))
    }

    fn privilege_escalation(&self) -> Option<Violation> {
        let path = ["allowPrivilegeEscalation"];
        let names = self.which(|c| context(c, &path) != Some(&Value::Bool(false)));
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        (!names.is_empty()).then_some(("allowPrivilegeEscalation != false", detail))
    }

    fn volumes(&self) -> Option<Violation> {
        let source = |v: &'a Value| {
            v.as_object()?
                .iter()
                .find(|(key, source)| *key != "name" && !source.is_null())
                .map(|(key, _)| key)
        };
        let bad: Vec<(&str, &str)> = list(self.spec, &["volumes"])
            .iter()
            .map(|v| (text(v, &["name"]), source(v).map_or("unknown", String::as_str)))
            .filter(|(_, kind)| !VOLUMES.contains(kind))
            .collect();
        let kinds: BTreeSet<&str> = bad.iter().map(|(_, kind)| *kind).collect();
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(bad.iter().map(|(name, _)| name)),
            plural("uses", "use", bad.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds)
        );
        (!bad.is_empty()).then_some(("restricted volume types", detail))
    }

    fn run_as_non_root(&self) -> Option<Violation> {
        let (path, reason) = (["runAsNonRoot"], "runAsNonRoot != true");
        let (setters, _) = self.setters(&path, |v| *v == Value::Bool(false));
        if !setters.is_empty() {
            let who = setters.join(" and ");
            return Some((reason, format!("{who} must not set securityContext.runAsNonRoot=false")));
        }
        if context(self.spec, &path).is_some() {
            return None;
        }
        let names = self.which(|c| context(c, &path).is_none());
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names));
        (!names.is_empty()).then_some((reason, detail))
    }

    fn run_as_user(&self) -> Option<Violation> {
        let (setters, _) = self.setters(&["runAsUser"], |v| v.as_i64() == Some(0));
        let detail = format!("{} must not set runAsUser=0", setters.join(" and "));
        (!setters.is_empty()).then_some(("runAsUser=0", detail))
    }
}

fn is_confined(profile: &Value) -> bool {
    matches!(profile.as_str(), Some("RuntimeDefault" | "Localhost"))
}

fn sorted(values: Vec<&Value>) -> BTreeSet<&str> {
    values.into_iter().filter_map(Value::as_str).collect()
}
