//! Security contexts: a container's setting wins over the pod's (SecurityContext's API page).

use crate::util::Def;
use knarr_api::core::v1::{Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use knarr_runtime::spec::Seccomp;
use std::path::{Path, PathBuf};

/// What a container may do, worked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Security {
    /// `uid`, or empty for the image's.
    pub(crate) user: Option<i64>,
    pub(crate) group: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) merge_image_groups: bool,
    pub(crate) must_not_be_root: bool,
    pub(crate) read_only_rootfs: bool,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) privileged: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) apparmor: Option<String>,
    pub(crate) unmasked_proc: bool,
}

/// Whether a container that must not be root will not be, by what its image says where the spec says nothing.
fn verify_not_root(pod: &Pod, def: &Def, user: Option<i64>, image_user: &str) -> Result<(), String> {
    let about = format!("(pod: \"{}\", container: {})", crate::util::format_pod(pod), def.spec.name);
    let image_user = image_user.split(':').next().unwrap_or_default();
    match (user, image_user.parse::<i64>()) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {about}")),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if image_user.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {about}"))
        }
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {about}"
        )),
    }
}

/// Works a container's security out. `image_user` is the image's; localhost seccomp profiles lie under `seccomp_root`.
pub(crate) fn security(
    pod: &Pod,
    def: &Def,
    image_user: &str,
    seccomp_root: &Path,
) -> Result<Security, String> {
    let pod_context = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let context = def.spec.security_context.clone().unwrap_or_default();
    let user = context.run_as_user.or(pod_context.run_as_user);
    let must_not_be_root = context.run_as_non_root.or(pod_context.run_as_non_root).unwrap_or(false);
    if must_not_be_root {
        verify_not_root(pod, def, user, image_user)?;
    }
    let privileged = context.privileged == Some(true);
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let cap_add = capabilities.add.unwrap_or_default();
    let gains = privileged || cap_add.iter().any(|c| c == "CAP_SYS_ADMIN" || c == "SYS_ADMIN");
    let groups = pod_context.supplemental_groups.iter().flatten().chain(pod_context.fs_group.as_ref());
    Ok(Security {
        user,
        group: context.run_as_group.or(pod_context.run_as_group).map(id).transpose()?,
        supplemental_groups: groups.map(|g| id(*g)).collect::<Result<_, _>>()?,
        merge_image_groups: pod_context.supplemental_groups_policy.as_deref() != Some("Strict"),
        must_not_be_root,
        read_only_rootfs: context.read_only_root_filesystem == Some(true),
        cap_add: cap_add.iter().map(|c| plain(c)).collect(),
        cap_drop: capabilities.drop.iter().flatten().map(|c| plain(c)).collect(),
        privileged,
        no_new_privileges: context.allow_privilege_escalation == Some(false) && !gains,
        seccomp: seccomp(&context, &pod_context, privileged, seccomp_root),
        apparmor: apparmor(&context, &pod_context),
        unmasked_proc: context.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn id(id: i64) -> Result<u32, String> {
    u32::try_from(id).map_err(|_| format!("{id} is not a valid user or group id"))
}

fn plain(capability: &str) -> String {
    let upper = capability.to_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

fn seccomp(context: &SecurityContext, pod: &PodSecurityContext, privileged: bool, root: &Path) -> Seccomp {
    let profile: Option<&SeccompProfile> = context.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    match profile.map(|p| p.type_.as_str()) {
        _ if privileged => Seccomp::Unconfined,
        Some("RuntimeDefault") => Seccomp::RuntimeDefault,
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            Seccomp::Localhost(root.join(PathBuf::from(name)))
        }
        // Upstream's default without SeccompDefault.
        _ => Seccomp::Unconfined,
    }
}

fn apparmor(context: &SecurityContext, pod: &PodSecurityContext) -> Option<String> {
    let profile = context.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref())?;
    match profile.type_.as_str() {
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use crate::util::defs;
    use serde_json::json;

    #[test]
    fn the_containers_context_wins_over_the_pods() {
        let pod = pod(json!({
            "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {"name": "a"},
                {"name": "b", "securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_ADMIN"], "drop": ["all"]},
                    "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}}},
                {"name": "c", "securityContext": {"privileged": true, "allowPrivilegeEscalation": false}},
                {"name": "d", "securityContext": {"runAsUser": 0, "runAsNonRoot": true}}]}));
        let defs = defs(&pod);
        let of = |i: usize| security(&pod, &defs[i], "", Path::new("/s"));
        let a = of(0).unwrap();
        assert_eq!((a.user, a.group, a.seccomp), (Some(1), Some(2), Seccomp::RuntimeDefault));
        assert_eq!(a.supplemental_groups, [4, 3]);
        let b = of(1).unwrap();
        assert_eq!(
            (b.user, b.cap_add, b.cap_drop),
            (Some(5), vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
        );
        assert!(b.no_new_privileges);
        assert_eq!(b.seccomp, Seccomp::Localhost("/s/p.json".into()));
        let c = of(2).unwrap();
        assert!(c.privileged && !c.no_new_privileges && c.seccomp == Seccomp::Unconfined);
        assert!(of(3).unwrap_err().contains("breaks non-root policy"));
    }

    #[test]
    fn a_container_that_must_not_be_root_is_judged_by_its_image() {
        let pod = pod(json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}));
        let def = &defs(&pod)[0];
        for (user, expected) in [
            ("", Some("image will run as root")),
            ("0:5", Some("image will run as root")),
            (
                "web",
                Some(
                    "non-numeric user (web), cannot verify user is non-root (pod: \"p_n(u)\", container: c)",
                ),
            ),
            ("7", None),
        ] {
            let error = security(&pod, def, user, Path::new("/s")).err();
            assert_eq!(error.is_some(), expected.is_some(), "{user}");
            assert!(error.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }
}
