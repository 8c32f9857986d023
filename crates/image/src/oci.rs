//! The documents of the OCI image-spec v1.1 and of Docker's schema 2, as far as running an image needs them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types of single-image manifests.
pub(crate) const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of lists of manifests.
pub(crate) const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// A pointer to content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a manifest of an index is for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

/// A manifest or an index: which one, its fields tell.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Option<Descriptor>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image's configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub(crate) created: Option<String>,
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: Layers,
}

/// The layers of an image, lowest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Layers {
    pub(crate) r#type: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) diff_ids: Vec<String>,
}

/// How containers of an image run unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub user: String,
    /// Ports the image declares, such as `80/tcp`.
    #[serde(skip_serializing_if = "Keys::is_empty", deserialize_with = "null_default")]
    pub exposed_ports: Keys,
    /// `NAME=value`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub env: Vec<String>,
    /// Command.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or command when there is no entry point.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// Paths that are to be volumes.
    #[serde(skip_serializing_if = "Keys::is_empty", deserialize_with = "null_default")]
    pub volumes: Keys,
    /// Working directory; empty is `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the container to stop, empty for SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub stop_signal: String,
}

/// A set of strings that the format writes as an object with empty values.
pub type Keys = BTreeMap<String, serde_json::Value>;

/// Go writes empty collections as null.
fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The architecture of this machine in OCI's (Go's) words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The entry of an index that fits this machine.
pub(crate) fn for_host(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == host_architecture())
    };
    // An index of one manifest without a platform is what several archive writers produce.
    manifests.iter().find(fits).or_else(|| match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_for_this_machine_is_chosen() {
        let entry = |os: &str, arch: &str, digest: &str| Descriptor {
            digest: digest.into(),
            platform: Some(Platform { os: os.into(), architecture: arch.into(), variant: String::new() }),
            ..Default::default()
        };
        let host = host_architecture();
        let list = [entry("windows", host, "w"), entry("linux", "s390x", "s"), entry("linux", host, "h")];
        assert_eq!(for_host(&list).unwrap().digest, "h");
        assert!(for_host(&list[..2]).is_none());
        assert!(for_host(&[Descriptor::default()]).is_some());
    }

    #[test]
    fn null_collections_are_empty() {
        let file: ConfigFile = serde_json::from_str(
            r#"{"config":{"Env":null,"Cmd":["a"],"Volumes":null},"rootfs":{"diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(file.config.cmd, ["a"]);
        assert!(file.config.env.is_empty() && file.rootfs.diff_ids.is_empty());
    }
}
