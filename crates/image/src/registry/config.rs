//! The registries' configuration file: `registries.yaml` as K3s and RKE2 document it ("Private Registry
//! Configuration"): mirrors with endpoints and rewrites, and credentials and TLS by host. Why this format: ADR 0025.

use super::auth::Auth;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Registries {
    /// By registry as image names have it; `*` is for all that are not named.
    mirrors: BTreeMap<String, Mirror>,
    /// By host as endpoints have it, with or without scheme and port; `*` is for all that are not named.
    configs: BTreeMap<String, Host>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    /// URLs, tried in this order before the registry itself.
    endpoint: Vec<String>,
    /// Regular expression to replacement, for the repository's path.
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    auth: Option<HostAuth>,
    tls: Option<HostTls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostAuth {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How a host's certificate is checked and which one it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostTls {
    /// PEM file of further roots.
    pub(super) ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub(super) cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub(super) key_file: Option<PathBuf>,
    /// Take any certificate.
    pub(super) insecure_skip_verify: bool,
}

/// Where to ask for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// URL up to and with the API's root, `https://host/v2`.
    pub(super) base: String,
    /// Host with port, as configured.
    pub(super) host: String,
    /// Path of the repository there.
    pub(super) path: String,
    /// Whether it is not the registry that the image names.
    pub(super) mirror: bool,
}

impl Registries {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let parsed: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for mirror in parsed.mirrors.values() {
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|e| format!("rewrite {pattern:?}: {e}"))?;
            }
            for endpoint in &mirror.endpoint {
                split(endpoint).ok_or_else(|| format!("endpoint {endpoint:?}: not an http or https URL"))?;
            }
        }
        Ok(parsed)
    }

    /// The places of a repository in the order to ask them: its mirrors, then the registry itself, which `direct` is.
    pub(super) fn places(&self, domain: &str, path: &str, direct: &str) -> Vec<Place> {
        let mut places = Vec::new();
        let mut named_itself = false;
        if let Some(mirror) = self.mirrors.get(domain).or_else(|| self.mirrors.get("*")) {
            let rewritten = mirror.rewritten(path);
            for endpoint in &mirror.endpoint {
                let Some((base, host)) = split(endpoint) else { continue };
                let itself = split(direct).is_some_and(|(_, h)| h == host);
                named_itself |= itself;
                let path = if itself { path.to_owned() } else { rewritten.clone() };
                places.push(Place { base, host, path, mirror: !itself });
            }
        }
        if !named_itself && let Some((base, host)) = split(direct) {
            places.push(Place { base, host, path: path.to_owned(), mirror: false });
        }
        places
    }

    fn host(&self, host: &str) -> Option<&Host> {
        let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let plain = |key: &str| {
            let key = key.trim_start_matches("https://").trim_start_matches("http://");
            key.split('/').next().unwrap_or_default().to_owned()
        };
        let find =
            |wanted: &str| self.configs.iter().find(|(key, _)| plain(key) == wanted).map(|(_, host)| host);
        find(host)
            .or_else(|| find(bare))
            .or_else(|| {
                // Docker's registry answers under a name of its own.
                if host == "registry-1.docker.io" { find("docker.io") } else { None }
            })
            .or_else(|| self.configs.get("*"))
    }

    /// The credentials configured for a host.
    pub(super) fn auth(&self, host: &str) -> Option<Auth> {
        let configured = self.host(host)?.auth.as_ref()?;
        let mut auth = Auth {
            username: configured.username.clone(),
            password: configured.password.clone(),
            identity_token: configured.identity_token.clone(),
            ..Auth::default()
        };
        let packed = STANDARD.decode(configured.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((user, password)) = packed.as_deref().and_then(|p| p.split_once(':')) {
            (auth.username, auth.password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        Some(auth)
    }

    /// The TLS configured for a host.
    pub(super) fn tls(&self, host: &str) -> Option<&HostTls> {
        self.host(host)?.tls.as_ref()
    }
}

impl Mirror {
    fn rewritten(&self, path: &str) -> String {
        for (pattern, replacement) in &self.rewrite {
            let Ok(pattern) = regex::Regex::new(pattern) else { continue };
            if pattern.is_match(path) {
                return pattern.replace_all(path, replacement.as_str()).into_owned();
            }
        }
        path.to_owned()
    }
}

/// The API's root and the host of an endpoint. Without a path it is `/v2`.
fn split(endpoint: &str) -> Option<(String, String)> {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return None,
        None => ("https", endpoint),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains('@') {
        return None;
    }
    let path = match path.trim_matches('/') {
        "" => "v2",
        path => path,
    };
    Some((format!("{scheme}://{host}/{path}"), host.to_owned()))
}

/// The file as it was read last, by length and time.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<(Stamp, Arc<Registries>)>>);

type Stamp = Option<(u64, Option<SystemTime>)>;

impl Cache {
    /// What the file says now; nothing if there is none.
    pub(super) fn get(&self, file: Option<&Path>) -> Result<Arc<Registries>, String> {
        let Some(file) = file else { return Ok(Arc::default()) };
        let stamp = std::fs::metadata(file).ok().map(|m| (m.len(), m.modified().ok()));
        let mut held = self.0.lock().expect("configuration lock is never poisoned");
        if let Some((was, registries)) = &*held
            && *was == stamp
        {
            return Ok(registries.clone());
        }
        let parsed = match std::fs::read_to_string(file) {
            Ok(text) => Registries::parse(&text).map_err(|e| format!("{}: {e}", file.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Registries::default(),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        let parsed = Arc::new(parsed);
        *held = Some((stamp, parsed.clone()));
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://one.example:5000", "http://two.example/v2/hub"]
    rewrite:
      "^library/(.*)": "mirrored/$1"
  quay.io:
    endpoint: ["https://quay.io"]
    rewrite: {".*": "never"}
  "*":
    endpoint: ["https://all.example"]
configs:
  "one.example:5000":
    auth: {username: me, password: secret}
    tls: {insecure_skip_verify: true}
  docker.io:
    auth: {auth: aHViOnA6MQ==}
  "*":
    tls: {ca_file: /ca.pem}
"#;

    #[test]
    fn mirrors_come_first_and_the_registry_itself_last() {
        let registries = Registries::parse(FILE).unwrap();
        let ask = |domain: &str, path: &str, direct: &str| {
            let places = registries.places(domain, path, direct);
            places.into_iter().map(|p| format!("{}/{} {}", p.base, p.path, p.mirror)).collect::<Vec<_>>()
        };
        assert_eq!(
            ask("docker.io", "library/busybox", "https://registry-1.docker.io"),
            [
                "https://one.example:5000/v2/mirrored/busybox true",
                "http://two.example/v2/hub/mirrored/busybox true",
                "https://registry-1.docker.io/v2/library/busybox false"
            ]
        );
        assert_eq!(ask("quay.io", "a/b", "https://quay.io"), ["https://quay.io/v2/a/b false"]);
        assert_eq!(
            ask("ghcr.io", "a/b", "https://ghcr.io"),
            ["https://all.example/v2/a/b true", "https://ghcr.io/v2/a/b false"]
        );
        let none = Registries::default().places("ghcr.io", "a", "http://ghcr.io");
        assert_eq!(none.len(), 1);
        assert_eq!(none[0].base, "http://ghcr.io/v2");
    }

    #[test]
    fn credentials_and_tls_are_found_by_host() {
        let registries = Registries::parse(FILE).unwrap();
        let user = |host: &str| registries.auth(host).map(|a| (a.username, a.password));
        assert_eq!(user("one.example:5000"), Some(("me".into(), "secret".into())));
        assert_eq!(user("registry-1.docker.io"), Some(("hub".into(), "p:1".into())));
        assert_eq!(user("two.example"), None);
        assert!(registries.tls("one.example:5000").unwrap().insecure_skip_verify);
        assert_eq!(registries.tls("x.example").unwrap().ca_file.as_deref(), Some(Path::new("/ca.pem")));
        assert!(!format!("{registries:?}").contains("secret"));
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        for (text, part) in [
            ("mirror: {}", "mirror"),
            ("mirrors: {a: {endpoint: [\"ftp://x\"]}}", "ftp://x"),
            ("mirrors: {a: {rewrite: {\"(\": x}}}", "rewrite"),
        ] {
            let error = Registries::parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(Registries::parse("\n").is_ok());
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.yaml");
        let cache = Cache::default();
        let first = |cache: &Cache| {
            cache.get(Some(&file)).map(|r| r.places("a.example", "b", "https://a.example").len())
        };
        assert_eq!(first(&cache), Ok(1));
        std::fs::write(&file, "mirrors: {a.example: {endpoint: [\"https://m.example\"]}}").unwrap();
        assert_eq!(first(&cache), Ok(2));
        std::fs::write(&file, "mirrors: []").unwrap();
        assert!(first(&cache).is_err());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(first(&cache), Ok(1));
    }
}
