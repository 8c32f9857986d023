//! What goes into configMap, secret, downwardAPI and projected volumes.

use super::atomic::{File, Payload};
use crate::container::env::{field_value, resource_value};
use crate::kubelet::Shared;
use crate::objects::What;
use knarr_api::Kind;
use knarr_api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, SecretVolumeSource, Volume,
    VolumeProjection,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

const DEFAULT_MODE: i32 = 0o644;

/// A ConfigMap or Secret and how its keys become files.
struct Keys<'a> {
    what: What,
    name: &'a str,
    items: &'a [KeyToPath],
    optional: bool,
    mode: i32,
}

/// Whether a volume holds anything secret.
pub(super) fn is_secret(volume: &Volume) -> bool {
    let secret = |p: &VolumeProjection| p.secret.is_some() || p.service_account_token.is_some();
    volume.secret.is_some()
        || volume.projected.as_ref().is_some_and(|p| p.sources.iter().flatten().any(secret))
}

/// Collects a volume's files.
pub(super) async fn collect(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    volume: &Volume,
    ips: &[IpAddr],
    refresh_at: &mut Option<SystemTime>,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    if let Some(ConfigMapVolumeSource { name, items, optional, default_mode }) = &volume.config_map {
        let items = items.as_deref().unwrap_or_default();
        let mode = default_mode.unwrap_or(DEFAULT_MODE);
        let keys = Keys { what: What::ConfigMap, name, items, optional: *optional == Some(true), mode };
        add_keys(kubelet, pod, &keys, &mut payload).await?;
    } else if let Some(SecretVolumeSource { secret_name, items, optional, default_mode }) = &volume.secret {
        let name = secret_name.as_deref().unwrap_or_default();
        let items = items.as_deref().unwrap_or_default();
        let mode = default_mode.unwrap_or(DEFAULT_MODE);
        let keys = Keys { what: What::Secret, name, items, optional: *optional == Some(true), mode };
        add_keys(kubelet, pod, &keys, &mut payload).await?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        add_fields(kubelet, pod, source.items.as_deref().unwrap_or_default(), mode, ips, &mut payload)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            add_projection(kubelet, pod, projection, mode, ips, &mut payload, refresh_at).await?;
        }
    }
    Ok(payload)
}

async fn add_projection(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    projection: &VolumeProjection,
    mode: i32,
    ips: &[IpAddr],
    payload: &mut Payload,
    refresh_at: &mut Option<SystemTime>,
) -> Result<(), String> {
    if let Some(source) = &projection.config_map {
        let items = source.items.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        let keys = Keys { what: What::ConfigMap, name: &source.name, items, optional, mode };
        return add_keys(kubelet, pod, &keys, payload).await;
    }
    if let Some(source) = &projection.secret {
        let items = source.items.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        let keys = Keys { what: What::Secret, name: &source.name, items, optional, mode };
        return add_keys(kubelet, pod, &keys, payload).await;
    }
    if let Some(source) = &projection.downward_api {
        return add_fields(kubelet, pod, source.items.as_deref().unwrap_or_default(), mode, ips, payload);
    }
    if let Some(source) = &projection.service_account_token {
        let audience = source.audience.as_deref().filter(|a| !a.is_empty());
        let seconds = source.expiration_seconds.unwrap_or(3600);
        let (token, refresh) = super::token::get(kubelet, pod, audience, seconds).await?;
        *refresh_at = Some(refresh_at.map_or(refresh, |r| r.min(refresh)));
        let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let uid = only_user(pod);
        // A token that has one reader is for that reader alone.
        let private = uid.is_some() || context.and_then(|c| c.fs_group).is_some();
        let mode = if private { 0o600 } else { mode.unsigned_abs() };
        payload.insert(source.path.clone(), File { content: token.into_bytes(), mode, uid });
        return Ok(());
    }
    Err("this kind of projection is not supported by this kubelet".to_owned())
}

/// The user that all containers of the pod run as, if the spec says so.
fn only_user(pod: &Pod) -> Option<u32> {
    let shared = pod.spec.as_ref()?.security_context.as_ref().and_then(|c| c.run_as_user);
    let users = crate::util::defs(pod)
        .iter()
        .map(|d| d.spec.security_context.as_ref().and_then(|c| c.run_as_user).or(shared))
        .collect::<Option<Vec<i64>>>()?;
    let first = *users.first()?;
    users.iter().all(|u| *u == first).then(|| u32::try_from(first).ok()).flatten()
}

async fn add_keys(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    keys: &Keys<'_>,
    payload: &mut Payload,
) -> Result<(), String> {
    let Keys { what, name, items, optional, mode } = keys;
    let Some(object) = kubelet.objects.get(*what, pod.namespace(), name, pod.uid()).await? else {
        return if *optional { Ok(()) } else { Err(format!("{} \"{name}\" not found", what.word())) };
    };
    let file = |content: &Vec<u8>, mode: i32| File {
        content: content.clone(),
        mode: mode.unsigned_abs(),
        uid: None,
    };
    if items.is_empty() {
        payload.extend(object.data.iter().map(|(key, content)| (key.clone(), file(content, *mode))));
        return Ok(());
    }
    for item in *items {
        match object.data.get(&item.key) {
            Some(content) => {
                payload.insert(item.path.clone(), file(content, item.mode.unwrap_or(*mode)));
            }
            None if *optional => {}
            None => {
                let kind = if *what == What::ConfigMap { "configmap" } else { "secret" };
                return Err(format!("{kind} references non-existent {kind} key: {}", item.key).replace(
                    "configmap references non-existent configmap key",
                    "configmap references non-existent config key",
                ));
            }
        }
    }
    Ok(())
}

fn add_fields(
    kubelet: &Shared,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    ips: &[IpAddr],
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, &field.field_path, ips, kubelet)?,
            (_, Some(selector)) => {
                let wanted = selector.container_name.as_deref().unwrap_or_default();
                let defs = crate::util::defs(pod);
                let def = defs
                    .iter()
                    .find(|d| d.spec.name == wanted)
                    .ok_or(format!("container {wanted} not found"))?;
                resource_value(&def.spec, selector, kubelet)?
            }
            _ => continue,
        };
        let mode = item.mode.unwrap_or(mode).unsigned_abs();
        payload.insert(item.path.clone(), File { content: text.into_bytes(), mode, uid: None });
    }
    Ok(())
}
