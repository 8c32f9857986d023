//! Registry credentials out of pull secrets (`kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`), found for a
//! repository as upstream's keyring finds them: keys are hosts with optional port and path, hosts may have `*` within a
//! label, and all that fit are tried, the most specific path first.

use super::records::Source;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use knarr_image::Auth;
use serde_json::Value;
use std::collections::BTreeMap;

/// Docker Hub's name in configurations.
const HUB: &str = "index.docker.io";

#[derive(Default)]
pub(super) struct Keyring {
    /// By key; within a key in the order of the pod's secrets. What is the node's own has no source.
    entries: BTreeMap<String, Vec<(Option<Source>, Auth)>>,
}

impl Keyring {
    /// Takes in a secret's data. What cannot be read is left out, as upstream does.
    pub(super) fn add(&mut self, data: &BTreeMap<String, Vec<u8>>, source: impl Fn(&Auth) -> Source) {
        let json = |key: &str| data.get(key).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        let auths = match json(".dockerconfigjson") {
            Some(mut config) => config["auths"].take(),
            None => json(".dockercfg").unwrap_or_default(),
        };
        for (location, entry) in auths.as_object().into_iter().flatten() {
            if let Some(auth) = auth(entry) {
                self.insert(location, Some(source(&auth)), auth);
            }
        }
    }

    /// Takes in credentials for a location.
    pub(super) fn insert(&mut self, location: &str, source: Option<Source>, auth: Auth) {
        if let Some(key) = key(location) {
            self.entries.entry(key).or_default().push((source, auth));
        }
    }

    /// What fits a repository of a registry.
    pub(super) fn lookup(&self, domain: &str, path: &str) -> Vec<(Option<Source>, Auth)> {
        let image = format!("{domain}/{path}");
        // From the end of the alphabet, so that longer paths of a host come before shorter ones.
        let fitting = self.entries.iter().rev().filter(|(key, _)| fits(key, &image));
        let found: Vec<_> = fitting.flat_map(|(_, entries)| entries.iter().cloned()).collect();
        match self.entries.get(HUB) {
            Some(hub) if found.is_empty() && domain == "docker.io" => hub.clone(),
            _ => found,
        }
    }
}

/// Host and path of a configuration's location; `/v1/` and `/v2/` are no path.
fn key(location: &str) -> Option<String> {
    let rest = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://"));
    let rest = rest.unwrap_or(location);
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let path = match path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")) {
        Some("") => "",
        Some(_) => &path[3..],
        None => path,
    };
    let path = if path == "/" { "" } else { path };
    (!host.is_empty()).then(|| format!("{host}{path}"))
}

fn auth(entry: &Value) -> Option<Auth> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let mut auth = Auth {
        username: text("username"),
        password: text("password"),
        registry_token: text("registrytoken"),
        identity_token: text("identitytoken"),
    };
    if let Some(packed) = entry["auth"].as_str().map(str::trim).filter(|packed| !packed.is_empty()) {
        // What `docker login` packed is the newer of the two. Some tools leave the padding out.
        let bytes = STANDARD.decode(packed).or_else(|_| STANDARD_NO_PAD.decode(packed)).ok()?;
        let unpacked = String::from_utf8(bytes).ok()?;
        let (user, password) = unpacked.split_once(':')?;
        (auth.username, auth.password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
    }
    Some(auth)
}

/// Whether a key is for an image: same port, each label of the host matches, and the path begins like the image's.
pub(super) fn fits(key: &str, image: &str) -> bool {
    let parts = |text: &str| {
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((name, port, path), (host, host_port, image_path)) = (parts(key), parts(image));
    let labels: (Vec<&str>, Vec<&str>) = (name.split('.').collect(), host.split('.').collect());
    port == host_port
        && labels.0.len() == labels.1.len()
        && image_path.starts_with(&path)
        && labels.0.iter().zip(&labels.1).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

/// `*` stands for any text, `?` for one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        Some((b'?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(key: &str, json: &Value) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(key.to_owned(), json.to_string().into_bytes())])
    }

    #[test]
    fn all_that_fit_are_tried_the_most_specific_first() {
        let mut keyring = Keyring::default();
        let source = |name: &'static str| move |auth: &Auth| Source::new("u", "ns", name, auth);
        keyring.add(
            &secret(
                ".dockerconfigjson",
                &json!({"auths": {
                    "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:p:1")},
                    "r.example": {"username": "wide", "password": "x"},
                    "https://r.example/v2/team": {"username": "narrow", "password": "y"},
                    "*.cloud.example:5000": {"auth": STANDARD_NO_PAD.encode("glob:z")},
                    "broken.example": {"auth": "%"},
                }}),
            ),
            source("one"),
        );
        keyring.add(&secret(".dockercfg", &json!({"r.example": {"username": "second"}})), source("two"));
        for (domain, path, users) in [
            ("docker.io", "library/busybox", &["hub"][..]),
            ("r.example", "other/app", &["wide", "second"]),
            ("r.example", "team/app", &["narrow", "wide", "second"]),
            ("r.example2", "team/app", &[]),
            ("r.example:443", "team/app", &[]),
            ("eu.cloud.example:5000", "a", &["glob"]),
            ("cloud.example:5000", "a", &[]),
            ("a.eu.cloud.example:5000", "a", &[]),
            ("broken.example", "a", &[]),
        ] {
            let found = keyring.lookup(domain, path);
            let found: Vec<_> = found.iter().map(|(_, auth)| auth.username.as_str()).collect();
            assert_eq!(found, users, "{domain}/{path}");
        }
    }
}
