//! Puts a container's spec for the runtime together.

use super::expand::expand;
use super::{env, files, resources, security};
use crate::kubelet::Shared;
use crate::pod::sizes::{Size, Sizes};
use crate::util::{Def, host_network};
use crate::volume::{Prepared, pod_dir};
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_image::Image;
use knarr_runtime::spec::{ContainerSpec, Mount, MountKind, Propagation, Resources, RootFs, SandboxSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where programs look for each other when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Labels by which a container is known again after a restart of the kubelet.
pub(crate) mod label {
    pub(crate) const IMAGE: &str = "knarr.dev/image";
    pub(crate) const IMAGE_ID: &str = "knarr.dev/image-id";
    pub(crate) const GRACE: &str = "knarr.dev/grace-seconds";
    /// A container's size when it was made, or a pod's and its containers'.
    pub(crate) const SIZE: &str = "knarr.dev/size";
}

/// What the container is made for.
pub(crate) struct Making<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) def: &'a Def,
    pub(crate) id: &'a str,
    pub(crate) attempt: u32,
    pub(crate) image: &'a Image,
    pub(crate) ips: &'a [IpAddr],
    pub(crate) volumes: &'a Prepared,
    /// The container whose processes it looks at.
    pub(crate) target: Option<&'a str>,
}

/// Why there is no spec: reason and message.
pub(crate) type Refused = (&'static str, String);

const CONFIG_ERROR: &str = "CreateContainerConfigError";
const CREATE_ERROR: &str = "CreateContainerError";

/// The sandbox of a pod.
pub(crate) fn sandbox(kubelet: &Shared, pod: &Pod, attempt: u32) -> SandboxSpec {
    let spec = pod.spec.clone().unwrap_or_default();
    let sysctls = spec.security_context.and_then(|c| c.sysctls).unwrap_or_default();
    SandboxSpec {
        pod_uid: pod.uid().to_owned(),
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        attempt,
        hostname: files::hostname(pod, &kubelet.config, &kubelet.hostname),
        domainname: None,
        host_network: host_network(pod),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        cgroup: resources::pod_cgroup(pod, pod.uid()),
        resources: Resources {
            pids_limit: kubelet.config.pod_max_pids.map(i64::from),
            ..resources::pod(pod)
        },
        sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
        labels: BTreeMap::from([(label::SIZE.to_owned(), json(&Sizes::of(pod)))]),
        user_namespace: None,
        handler: None,
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts always encode")
}

/// Directory of a container's logs.
pub(crate) fn log_dir(root: &Path, pod: &Pod, container: &str) -> PathBuf {
    pod_log_dir(root, pod).join(container)
}

/// Directory of a pod's logs, named as in /var/log/pods.
pub(crate) fn pod_log_dir(root: &Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// The file a container leaves its last words in.
pub(crate) fn termination_log(root: &Path, uid: &str, container: &str, id: &str) -> PathBuf {
    pod_dir(root, uid).join("containers").join(container).join(&id[..id.len().min(8)])
}

/// The container's spec, its files written and its root file system prepared.
pub(crate) async fn build(kubelet: &Arc<Shared>, making: &Making<'_>) -> Result<ContainerSpec, Refused> {
    let Making { pod, def, id, attempt, image, ips, .. } = making;
    let config = &kubelet.config;
    let own =
        env::environment(kubelet, pod, def, ips, making.volumes).await.map_err(|m| (CONFIG_ERROR, m))?;
    let security = security::security(pod, def, &image.config.user, &config.root_dir.join("seccomp"))
        .map_err(|m| (CONFIG_ERROR, m))?;
    let lookup = |name: &str| own.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let words = |words: &[String]| words.iter().map(|w| expand(w, lookup)).collect::<Vec<_>>();
    let hostname = files::hostname(pod, config, &kubelet.hostname);
    let mounts = mounts(kubelet, making, &hostname, &lookup)?;
    let devices = devices(making)?;
    let mut groups = security.supplemental_groups.clone();
    groups.extend(making.volumes.sources.values().filter_map(|v| v.group));
    let rootfs = config.images.prepare(&image.id, id).map_err(|e| (CREATE_ERROR, e.to_string()))?;
    let args = command(
        &words(def.spec.command.as_deref().unwrap_or_default()),
        &words(def.spec.args.as_deref().unwrap_or_default()),
        &image.config,
    )
    .ok_or((CREATE_ERROR, "no command specified".to_owned()))?;
    let cwd = [def.spec.working_dir.as_deref().unwrap_or_default(), &image.config.working_dir, "/"];
    let log_dir = log_dir(&config.log_dir, pod, &def.spec.name);
    std::fs::create_dir_all(&log_dir).map_err(|e| (CREATE_ERROR, format!("{}: {e}", log_dir.display())))?;
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let tty = def.spec.tty == Some(true);
    let stop_signal = def.spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    let stop_signal = stop_signal.unwrap_or_else(|| image.config.stop_signal.clone());
    Ok(ContainerSpec {
        id: (*id).to_owned(),
        name: def.spec.name.clone(),
        attempt: *attempt,
        args,
        env: full_env(&image.config.env, own.clone(), &hostname, tty),
        cwd: cwd.iter().find(|c| !c.is_empty()).expect("the last is not empty").to_string(),
        user: security.user.map_or_else(|| image.config.user.clone(), |u| u.to_string()),
        run_as_group: security.group,
        supplemental_groups: groups,
        merge_image_groups: security.merge_image_groups,
        must_not_be_root: security.must_not_be_root,
        rootfs: RootFs { lower: rootfs.lower, upper: rootfs.upper, work: rootfs.work, target: rootfs.target },
        read_only_rootfs: security.read_only_rootfs,
        mounts,
        cap_add: security.cap_add,
        cap_drop: security.cap_drop,
        privileged: security.privileged,
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        apparmor: security.apparmor,
        unmasked_proc: security.unmasked_proc,
        resources: resources::container(pod, &def.spec),
        oom_score_adj: resources::oom_score_adj(pod, &def.spec, crate::node::capacity(config).memory_bytes),
        rlimits: Vec::new(),
        devices,
        tty,
        stdin: def.spec.stdin == Some(true),
        stdin_once: def.spec.stdin_once == Some(true),
        log_path: log_dir.join(format!("{attempt}.log")),
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
        stop_signal: if stop_signal.is_empty() { "SIGTERM".to_owned() } else { stop_signal },
        pid_of: making.target.map(str::to_owned),
        labels: BTreeMap::from([
            (label::IMAGE.to_owned(), shown_image(image, def)),
            (label::IMAGE_ID.to_owned(), shown_image_id(image)),
            (label::GRACE.to_owned(), grace.to_string()),
            (label::SIZE.to_owned(), json(&Size::of(def.spec.resources.as_ref()))),
        ]),
    })
}

/// The name under which a status shows the image.
pub(crate) fn shown_image(image: &Image, def: &Def) -> String {
    let asked = def.spec.image.as_deref().unwrap_or_default();
    let normal = knarr_image::Reference::parse(asked).map(|r| r.to_string()).unwrap_or_default();
    if image.repo_tags.contains(&normal) {
        return normal;
    }
    image.repo_tags.first().or(image.repo_digests.first()).cloned().unwrap_or_else(|| image.id.clone())
}

/// What a status shows as the image's identity.
pub(crate) fn shown_image_id(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone())
}

/// Command and arguments (define-command-argument-container page's table).
fn command(command: &[String], args: &[String], image: &knarr_image::ImageConfig) -> Option<Vec<String>> {
    let (command, args) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args),
        (true, false) => (&image.entrypoint[..], args),
        (true, true) => (&image.entrypoint[..], &image.cmd[..]),
    };
    Some(command.iter().chain(args).cloned().collect::<Vec<_>>()).filter(|all| !all.is_empty())
}

fn full_env(image: &[String], own: Vec<(String, String)>, hostname: &str, tty: bool) -> Vec<String> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    if tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    env.push(("HOSTNAME".to_owned(), hostname.to_owned()));
    let image = image.iter().map(|e| e.split_once('=').unwrap_or((e, "")));
    let image = image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in image.chain(own) {
        match env.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn bind(source: PathBuf, target: &str, read_only: bool) -> Mount {
    Mount {
        source,
        target: target.into(),
        kind: MountKind::Bind,
        read_only,
        recursive_read_only: false,
        propagation: Propagation::None,
        options: Vec::new(),
    }
}

/// Volumes that the container has as devices: on the host, inside, and what it may do with them.
fn devices(making: &Making<'_>) -> Result<Vec<(PathBuf, PathBuf, String)>, Refused> {
    let wanted = making.def.spec.volume_devices.iter().flatten();
    let device = |wanted: &knarr_api::core::v1::VolumeDevice| {
        let volume = making.volumes.sources.get(&wanted.name).filter(|v| v.block).ok_or_else(|| {
            let message = format!("cannot find volume \"{}\" to map into container", wanted.name);
            (CONFIG_ERROR, message)
        })?;
        let allowed = if volume.read_only { "r" } else { "mrw" };
        Ok((volume.path.clone(), wanted.device_path.clone().into(), allowed.to_owned()))
    };
    wanted.map(device).collect()
}

fn mounts(
    kubelet: &Shared,
    making: &Making<'_>,
    hostname: &str,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<Mount>, Refused> {
    let Making { pod, def, id, ips, volumes, .. } = making;
    let config = &kubelet.config;
    let mut mounts = Vec::new();
    for (index, wanted) in def.spec.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.sources.get(&wanted.name).ok_or_else(|| {
            let message = format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                wanted.name, def.spec.name
            );
            (CONFIG_ERROR, message)
        })?;
        let sub = match (&wanted.sub_path_expr, &wanted.sub_path) {
            (Some(expr), _) if !expr.is_empty() => Some(expand(expr, lookup)),
            (_, Some(path)) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        let source = match sub {
            None => volume.path.clone(),
            Some(sub) => {
                let target = pod_dir(&config.root_dir, pod.uid())
                    .join("volume-subpaths")
                    .join(&wanted.name)
                    .join(&def.spec.name)
                    .join(index.to_string());
                crate::volume::subpath::bind(&volume.path, &sub, &target).map_err(|m| {
                    let message = format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {m}",
                        wanted.name, def.spec.name
                    );
                    (CONFIG_ERROR, message)
                })?
            }
        };
        let read_only = volume.read_only || wanted.read_only == Some(true);
        let target = if wanted.mount_path.starts_with('/') {
            wanted.mount_path.clone()
        } else {
            format!("/{}", wanted.mount_path)
        };
        mounts.push(Mount {
            recursive_read_only: matches!(
                wanted.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
            propagation: match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::None,
            },
            ..bind(source, &target, read_only)
        });
    }
    let dir = pod_dir(&config.root_dir, pod.uid());
    let host_hosts = if host_network(pod) {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        String::new()
    };
    let managed = [
        ("/etc/hosts", "etc-hosts", files::hosts(pod, config, ips, &host_hosts)),
        ("/etc/hostname", "etc-hostname", format!("{hostname}\n")),
        (
            "/etc/resolv.conf",
            "etc-resolv.conf",
            files::resolv_conf(pod, config, &files::host_resolv_conf(config)),
        ),
    ];
    for (target, name, content) in managed {
        if mounts.iter().any(|m| m.target == Path::new(target)) {
            continue;
        }
        let path = dir.join(name);
        write_if_new(&path, &content)?;
        let read_only =
            def.spec.security_context.as_ref().and_then(|c| c.read_only_root_filesystem) == Some(true);
        mounts.push(bind(path, target, read_only && name != "etc-hosts"));
    }
    if let Some(target) = def.spec.termination_message_path.as_deref().filter(|p| !p.is_empty()) {
        let path = termination_log(&config.root_dir, pod.uid(), &def.spec.name, id);
        write_if_new(&path, "")?;
        use std::os::unix::fs::PermissionsExt;
        // Any user of the container may leave a message.
        let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666));
        mounts.push(bind(path, target, false));
    }
    Ok(mounts)
}

/// Running containers have the file mounted, so it is written in place, and only if it changed.
fn write_if_new(path: &Path, content: &str) -> Result<(), Refused> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let parent = path.parent().expect("the file is in the pod's directory");
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, content))
        .map_err(|e| (CREATE_ERROR, format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_arguments_override_the_images_as_the_table_says() {
        let text = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let image =
            knarr_image::ImageConfig { entrypoint: text(&["ep"]), cmd: text(&["cm"]), ..Default::default() };
        for (own, args, expected) in [
            (&[][..], &[][..], &["ep", "cm"][..]),
            (&["c"], &[], &["c"]),
            (&[], &["a"], &["ep", "a"]),
            (&["c"], &["a"], &["c", "a"]),
        ] {
            assert_eq!(command(&text(own), &text(args), &image), Some(text(expected)));
        }
        assert_eq!(command(&[], &[], &Default::default()), None);
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let image = ["PATH=/x".to_owned(), "A=1".to_owned()];
        let env = full_env(&image, vec![("A".into(), "2".into())], "h", true);
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "HOSTNAME=h", "A=2"]);
    }
}
