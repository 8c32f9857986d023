//! Security contexts, seccomp and AppArmor (fields and their old annotations), user namespaces, and what
//! `spec.os` rules out.

use super::visit;
use super::volumes::local_descending_path;
use crate::util::{Errs, Flag, Items, Pairs};
use knarr_api::core::v1::{
    AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl, WindowsSecurityContextOptions,
};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";
const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(errs: &mut ErrorList, value: Option<i64>, path: impl FnOnce() -> Path) {
    if let Some(id) = value
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errs.add_invalid(&path(), id, format!("must be between 0 and {}, inclusive", i32::MAX));
    }
}

/// Errors of `spec.securityContext`.
pub fn pod(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(context) = &spec.security_context else { return errs };
    let path = path.child("securityContext");
    id(&mut errs, context.fs_group, || path.child("fsGroup"));
    id(&mut errs, context.run_as_user, || path.child("runAsUser"));
    id(&mut errs, context.run_as_group, || path.child("runAsGroup"));
    for (i, group) in context.supplemental_groups.items().iter().enumerate() {
        id(&mut errs, Some(*group), || path.child("supplementalGroups").index(i));
    }
    if spec.share_process_namespace.on() && spec.host_pid.on() {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errs.add_invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    errs.extend(sysctls(spec, context.sysctls.items(), &path.child("sysctls")));
    let choices: [(&str, &Option<String>, &[&str]); 1] =
        [("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"])];
    choice(&mut errs, &choices, &path);
    errs.extend(seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile")));
    errs.extend(windows(context.windows_options.as_ref(), &path.child("windowsOptions")));
    errs.extend(apparmor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile")));
    let choices: [(&str, &Option<String>, &[&str]); 2] = [
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    choice(&mut errs, &choices, &path);
    errs
}

fn choice(errs: &mut ErrorList, choices: &[(&'static str, &Option<String>, &[&str])], path: &Path) {
    for (field, value, supported) in choices {
        if let Some(value) = value
            && !supported.contains(&value.as_str())
        {
            errs.add_not_supported(&path.child(*field), value, supported);
        }
    }
}

fn sysctls(spec: &PodSpec, sysctls: &[Sysctl], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errs.add_required(&path, "");
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errs.add_invalid(&path, name, detail);
        } else if sysctls[..i].iter().any(|s| s.name == name) {
            errs.add_duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        if spec.host_network.on() && dotted.starts_with("net.") {
            errs.add_invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
            || dotted == "kernel.sem";
        if spec.host_ipc.on() && ipc {
            errs.add_invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
    errs
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|s| {
            let bytes = s.as_bytes();
            bytes.first().is_some_and(|b| edge(*b))
                && bytes.last().is_some_and(|b| edge(*b))
                && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
        })
}

/// Errors of a container's security context.
pub fn container(context: &SecurityContext, path: &Path, host_users: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    id(&mut errs, context.run_as_user, || path.child("runAsUser"));
    id(&mut errs, context.run_as_group, || path.child("runAsGroup"));
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        if !["Default", "Unmasked"].contains(&mount.as_str()) {
            errs.add_not_supported(&path, mount, &["Default", "Unmasked"]);
        }
        if host_users && mount == "Unmasked" {
            errs.add_invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    errs.extend(seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile")));
    if context.allow_privilege_escalation == Some(false) {
        let value = || serde_json::to_value(context).unwrap_or_default();
        if context.privileged.on() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errs.add_invalid(path, value(), detail);
        }
        let added = context.capabilities.as_ref().map(|c| c.add.items()).unwrap_or_default();
        if added.iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errs.add_invalid(path, value(), detail);
        }
    }
    errs.extend(windows(context.windows_options.as_ref(), &path.child("windowsOptions")));
    errs.extend(apparmor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile")));
    errs
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(profile) = profile else { return errs };
    let kind = profile.type_.as_str();
    if kind.is_empty() {
        errs.add_required(&path.child("type"), "type is required when seccompProfile is set");
    } else if !TYPES.contains(&kind) {
        errs.add_not_supported(&path.child("type"), kind, TYPES);
    }
    let path = path.child("localhostProfile");
    match (&profile.localhost_profile, kind == "Localhost") {
        (None, true) => errs.add_required(&path, "must be set when seccomp type is Localhost"),
        (Some(file), true) => local_descending_path(&mut errs, file, &path),
        (Some(file), false) => {
            let value: Value = json!({"type": kind, "localhostProfile": file});
            errs.add_invalid(&path, value, "can only be set when seccomp type is Localhost");
        }
        (None, false) => {}
    }
    errs
}

fn apparmor(profile: Option<&AppArmorProfile>, path: &Path) -> ErrorList {
    const MAX: usize = 4095;
    let mut errs = ErrorList::default();
    let Some(profile) = profile else { return errs };
    let at = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errs.add_required(&at, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errs.add_invalid(&at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errs.add_required(&at, "must be set when AppArmor type is Localhost");
            }
            if name.len() > MAX {
                errs.add_too_long(&at, MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errs.add_invalid(&at, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            errs.add_required(&path.child("type"), "type is required when appArmorProfile is set");
        }
        (other, _) => errs.add_not_supported(&path.child("type"), other, TYPES),
    }
    errs
}

fn windows(options: Option<&WindowsSecurityContextOptions>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(options) = options else { return errs };
    if let Some(name) = &options.gmsa_credential_spec_name {
        let problems = knarr_meta::validate::dns1123_subdomain(name);
        errs.add_all(&path.child("gmsaCredentialSpecName"), name, problems);
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errs.add_invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 * 1024 {
            errs.add_invalid(&path, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = &options.run_as_user_name {
        let path = path.child("runAsUserName");
        if user.is_empty() {
            errs.add_invalid(&path, user, "runAsUserName cannot be an empty string");
        } else if user.bytes().any(|b| b.is_ascii_control()) {
            errs.add_invalid(&path, user, "runAsUserName cannot contain control characters");
        }
    }
    errs
}

/// Errors of the annotations that seccomp and AppArmor once were configured by.
pub fn annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    if meta.annotations.is_none() {
        return errs;
    }
    for (key, value) in meta.annotations.pairs() {
        if key == SECCOMP_POD_ANNOTATION || key.starts_with(SECCOMP_CONTAINER_ANNOTATION) {
            let path = path.child(key.to_owned());
            if let Some(file) = value.strip_prefix("localhost/") {
                local_descending_path(&mut errs, file, &path);
            } else if !["runtime/default", "docker/default", "unconfined"].contains(&value.as_str()) {
                errs.add_invalid(&path, value, "must be a valid seccomp profile");
            }
        }
    }
    for (key, value) in meta.annotations.pairs() {
        let Some(name) = key.strip_prefix(APPARMOR_ANNOTATION) else { continue };
        if !visit(spec, path).iter().any(|(c, _)| c.name == name) {
            errs.add_invalid(&path.key(key), name, "container not found");
        }
        let good = value.is_empty()
            || value == "runtime/default"
            || value == "unconfined"
            || value.starts_with("localhost/");
        if !good {
            let detail = format!("invalid AppArmor profile name: \"{value}\"");
            errs.add_invalid(&path.key(key), value, detail);
        }
    }
    errs
}

/// Where both an annotation and a field are given, they say the same.
pub fn annotations_match_fields(meta: &ObjectMeta, spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let known = |k: &str| {
        k == SECCOMP_POD_ANNOTATION
            || k.starts_with(SECCOMP_CONTAINER_ANNOTATION)
            || k.starts_with(APPARMOR_ANNOTATION)
    };
    if !meta.annotations.pairs().any(|(key, _)| known(key)) {
        return errs;
    }
    let pod = spec.security_context.as_ref();
    if let (Some(profile), Some(value)) =
        (pod.and_then(|c| c.seccomp_profile.as_ref()), meta.annotations.at(SECCOMP_POD_ANNOTATION))
    {
        let path = path.child("securityContext").child("seccompProfile");
        must_match(&mut errs, "seccomp", &profile.type_, profile.localhost_profile.as_deref(), value, &path);
    }
    for (container, at) in visit(spec, path) {
        let context = container.security_context.as_ref();
        if let (Some(profile), Some(value)) = (
            context.and_then(|c| c.seccomp_profile.as_ref()),
            meta.annotations.at(&format!("{SECCOMP_CONTAINER_ANNOTATION}{}", container.name)),
        ) {
            let path = at.child("securityContext").child("seccompProfile");
            must_match(
                &mut errs,
                "seccomp",
                &profile.type_,
                profile.localhost_profile.as_deref(),
                value,
                &path,
            );
        }
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return errs;
    }
    for (container, at) in visit(spec, path) {
        let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
        let profile = own.or(pod.and_then(|c| c.app_armor_profile.as_ref()));
        if let (Some(profile), Some(value)) =
            (profile, meta.annotations.at(&format!("{APPARMOR_ANNOTATION}{}", container.name)))
        {
            let path = at.child("securityContext").child("appArmorProfile");
            must_match(
                &mut errs,
                "apparmor",
                &profile.type_,
                profile.localhost_profile.as_deref(),
                value,
                &path,
            );
        }
    }
    errs
}

fn must_match(
    errs: &mut ErrorList,
    what: &str,
    kind: &str,
    file: Option<&str>,
    annotation: &str,
    path: &Path,
) {
    let type_matches = match kind {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !type_matches {
        errs.add_forbidden(&path.child("type"), format!("{what} type in annotation and field must match"));
    } else if kind == "Localhost" && annotation.strip_prefix("localhost/") != file {
        let detail = format!("{what} profile in annotation and field must match");
        errs.add_forbidden(&path.child("localhostProfile"), detail);
    }
}

/// KEP-127: a pod with users of its own cannot use the host's other namespaces.
pub fn host_users(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    if spec.host_users != Some(false) {
        return errs;
    }
    for (field, set) in [
        ("hostNetwork", spec.host_network.on()),
        ("HostPID", spec.host_pid.on()),
        ("HostIPC", spec.host_ipc.on()),
    ] {
        if set {
            errs.add_forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
    for (container, at) in visit(spec, path) {
        if !container.volume_devices.items().is_empty() {
            errs.add_forbidden(&at.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
    errs
}

/// HostProcess containers come all or none, on the host's network.
pub fn windows_host_process(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let of_pod = spec.security_context.as_ref().and_then(|c| c.windows_options.as_ref()?.host_process);
    let is_host_process = |c: &knarr_api::core::v1::Container| {
        let own = c.security_context.as_ref().and_then(|c| c.windows_options.as_ref()?.host_process);
        own.or(of_pod) == Some(true)
    };
    let containers = visit(spec, path);
    let count = containers.iter().filter(|(c, _)| is_host_process(c)).count();
    if count == 0 {
        return errs;
    }
    if count < containers.len() {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errs.add_invalid(path, "", detail);
    }
    if !spec.host_network.on() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errs.add_invalid(&path.child("hostNetwork"), false, detail);
    }
    errs
}

/// Errors of `spec.os`, and of fields that the named system does not know.
pub fn operating_system(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(os) = &spec.os else { return errs };
    match os.name.as_str() {
        "" => errs.add_required(&path.child("os").child("name"), ""),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            if spec.security_context.as_ref().is_some_and(|c| c.windows_options.is_some()) {
                errs.add_forbidden(&path.child("securityContext").child("windowsOptions"), detail);
            }
            for (container, at) in visit(spec, path) {
                if container.security_context.as_ref().is_some_and(|c| c.windows_options.is_some()) {
                    errs.add_forbidden(&at.child("securityContext").child("windowsOptions"), detail);
                }
            }
        }
        "windows" => errs.extend(windows_pod(spec, path)),
        other => errs.add_not_supported(&path.child("os"), other, &["linux", "windows"]),
    }
    errs
}

fn windows_pod(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let detail = "cannot be set for a windows pod";
    if let Some(c) = &spec.security_context {
        let at = path.child("securityContext");
        for (path, set) in [
            (at.child("appArmorProfile"), c.app_armor_profile.is_some()),
            (at.child("seLinuxOptions"), c.se_linux_options.is_some()),
            (path.child("hostUsers"), spec.host_users.is_some()),
            (path.child("hostPID"), spec.host_pid.on()),
            (path.child("hostIPC"), spec.host_ipc.on()),
            (at.child("seccompProfile"), c.seccomp_profile.is_some()),
            (at.child("fsGroup"), c.fs_group.is_some()),
            (at.child("fsGroupChangePolicy"), c.fs_group_change_policy.is_some()),
            (at.child("sysctls"), !c.sysctls.items().is_empty()),
            (path.child("shareProcessNamespace"), spec.share_process_namespace.is_some()),
            (at.child("runAsUser"), c.run_as_user.is_some()),
            (at.child("runAsGroup"), c.run_as_group.is_some()),
            (at.child("supplementalGroups"), c.supplemental_groups.is_some()),
            (at.child("supplementalGroupsPolicy"), c.supplemental_groups_policy.is_some()),
            (at.child("seLinuxChangePolicy"), c.se_linux_change_policy.is_some()),
        ] {
            if set {
                errs.add_forbidden(&path, detail);
            }
        }
    }
    for (container, at) in visit(spec, path) {
        let Some(c) = &container.security_context else { continue };
        let at = at.child("securityContext");
        for (field, set) in [
            ("appArmorProfile", c.app_armor_profile.is_some()),
            ("seLinuxOptions", c.se_linux_options.is_some()),
            ("seccompProfile", c.seccomp_profile.is_some()),
            ("capabilities", c.capabilities.is_some()),
            ("readOnlyRootFilesystem", c.read_only_root_filesystem.is_some()),
            ("privileged", c.privileged.is_some()),
            ("allowPrivilegeEscalation", c.allow_privilege_escalation.is_some()),
            ("procMount", c.proc_mount.is_some()),
            ("runAsUser", c.run_as_user.is_some()),
            ("runAsGroup", c.run_as_group.is_some()),
        ] {
            if set {
                errs.add_forbidden(&at.child(field), detail);
            }
        }
    }
    errs
}
