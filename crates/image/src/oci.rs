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

impl Descriptor {
    /// Whether it is a layer that registries must not keep (base layers of Windows).
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }
}

/// What a manifest of an index is for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub(crate) os_version: String,
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

impl ConfigFile {
    /// Whether the image's programs run here. What does not say is taken at its word by everybody.
    pub(crate) fn fits_host(&self) -> bool {
        (self.os.is_empty() || self.os == "linux")
            && (self.architecture.is_empty() || rank(&self.architecture, "").is_some())
    }
}

/// How well a platform of Linux fits this machine, higher is better; `None` if it does not. Variants are ARM's `v7` and
/// the like, and x86-64's levels; a variant that is not named is the least one.
fn rank(architecture: &str, variant: &str) -> Option<u32> {
    let level = |text: &str, least: u32| match text.strip_prefix('v') {
        Some(number) => number.parse().ok(),
        None if text.is_empty() => Some(least),
        None => None,
    };
    match (host_architecture(), architecture) {
        ("amd64", "amd64") => level(variant, 1).filter(|l| *l <= x86_level()).map(|l| l + 10),
        ("amd64", "386") => Some(1),
        ("arm64", "arm64") => level(variant, 8).filter(|l| *l <= 8).map(|l| l + 10),
        // A 64-bit ARM that Linux runs on mostly runs the 32-bit programs too, as containerd assumes.
        ("arm64", "arm") => level(variant, 7).filter(|l| *l <= 7),
        (host, asked) => (host == asked && variant.is_empty()).then_some(10),
    }
}

/// The level of the x86-64 psABI that this processor has.
fn x86_level() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let two = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
        let three = two && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma");
        let three = three && has!("lzcnt") && has!("movbe") && has!("f16c");
        let four = three && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
        1 + u32::from(two) + u32::from(three) + u32::from(four && has!("avx512vl"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    1
}

/// The entry of an index that fits this machine best; the first of equals.
pub(crate) fn for_host(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        let platform = d.platform.as_ref().filter(|p| p.os == "linux" && p.os_version.is_empty())?;
        rank(&platform.architecture, &platform.variant)
    };
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in manifests {
        if let Some(rank) = fits(&entry)
            && best.is_none_or(|(before, _)| before < rank)
        {
            best = Some((rank, entry));
        }
    }
    // An index of one manifest without a platform is what several archive writers produce.
    best.map(|(_, entry)| entry).or_else(|| match manifests {
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
            platform: Some(Platform { os: os.into(), architecture: arch.into(), ..Default::default() }),
            ..Default::default()
        };
        let host = host_architecture();
        let list = [entry("windows", host, "w"), entry("linux", "s390x", "s"), entry("linux", host, "h")];
        assert_eq!(for_host(&list).unwrap().digest, "h");
        assert!(for_host(&list[..2]).is_none());
        assert!(for_host(&[Descriptor::default()]).is_some());
    }

    #[test]
    fn the_best_variant_is_chosen_and_none_that_cannot_run() {
        let entry = |arch: &str, variant: &str| Descriptor {
            digest: format!("{arch}{variant}"),
            platform: Some(Platform {
                os: "linux".into(),
                architecture: arch.into(),
                variant: variant.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        if host_architecture() == "amd64" {
            let list = [entry("386", ""), entry("amd64", "v9"), entry("amd64", ""), entry("arm64", "v8")];
            assert_eq!(for_host(&list).unwrap().digest, "amd64");
            assert_eq!(for_host(&list[..2]).unwrap().digest, "386");
            if x86_level() > 1 {
                let list = [entry("amd64", "v1"), entry("amd64", "v2"), entry("amd64", "v99")];
                assert_eq!(for_host(&list).unwrap().digest, "amd64v2");
            }
        }
        assert!(for_host(&[entry("s390x", ""), entry("riscv64", "")]).is_none());
        let config = |architecture: &str, os: &str| ConfigFile {
            architecture: architecture.into(),
            os: os.into(),
            ..Default::default()
        };
        assert!(config("", "").fits_host() && config(host_architecture(), "linux").fits_host());
        assert!(!config("s390x", "linux").fits_host() && !config(host_architecture(), "windows").fits_host());
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
