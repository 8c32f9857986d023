//! Who may use the images that are here (KEP-2535, KubeletEnsureSecretPulledImages with its default policy): what
//! came with a pod's secret is for pods that have the secret, or know the same word; what came without one, or was
//! put here by other means, is for all.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A secret that has credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Hash of the credentials: the words themselves are kept nowhere.
    hash: String,
}

impl Source {
    pub(crate) fn new(namespace: &str, name: &str, auth: &knarr_image::Auth) -> Self {
        let mut hash = Sha256::new();
        for part in [&auth.username, &auth.password, &auth.registry_token] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self { namespace: namespace.to_owned(), name: name.to_owned(), hash }
    }

    /// The same secret, whatever it says by now, or another with the same words.
    fn is_as_good_as(&self, other: &Self) -> bool {
        self.hash == other.hash || (self.namespace == other.namespace && self.name == other.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    image: String,
    /// It could be had without credentials.
    anyone: bool,
    #[serde(default)]
    sources: Vec<Source>,
}

/// What was pulled by this kubelet, and how; by image id.
#[derive(Debug)]
pub(crate) struct Pulls {
    dir: PathBuf,
    records: Mutex<HashMap<String, Record>>,
}

impl Pulls {
    /// Reads what was kept below the kubelet's directory.
    pub(crate) fn read(root: &Path) -> Self {
        let dir = root.join("image_manager");
        let mut records = HashMap::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let record =
                std::fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            if let Some(record) = record {
                records.insert(record.image.clone(), record);
            }
        }
        Self { dir, records: Mutex::new(records) }
    }

    /// Whether a pod with these credentials must show them to the registry before it may use the image.
    pub(crate) fn must_ask(&self, image: &str, sources: &[Source]) -> bool {
        let records = self.records.lock().expect("record lock is never poisoned");
        let Some(record) = records.get(image).filter(|r| !r.anyone) else { return false };
        !sources.iter().any(|source| record.sources.iter().any(|known| known.is_as_good_as(source)))
    }

    /// An image was pulled, with credentials or without.
    pub(crate) fn pulled(&self, image: &str, source: Option<Source>) {
        let mut records = self.records.lock().expect("record lock is never poisoned");
        let record = records.entry(image.to_owned()).or_default();
        let before = record.clone();
        record.image = image.to_owned();
        match source {
            None => record.anyone = true,
            Some(source) => {
                record.sources.retain(|s| (&s.namespace, &s.name) != (&source.namespace, &source.name));
                record.sources.push(source);
            }
        }
        if *record == before {
            return;
        }
        let path = self.path(image);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(record).expect("texts always encode");
        let kept = std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = kept {
            tracing::warn!(image, %error, "cannot keep who may use an image");
        }
    }

    /// Forgets images that are not here any more: what comes after is another pull.
    pub(crate) fn retain(&self, is_here: impl Fn(&str) -> bool) {
        let mut records = self.records.lock().expect("record lock is never poisoned");
        records.retain(|image, _| {
            let here = is_here(image);
            if !here {
                let _ = std::fs::remove_file(self.path(image));
            }
            here
        });
    }

    fn path(&self, image: &str) -> PathBuf {
        self.dir.join(image.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(namespace: &str, name: &str, password: &str) -> Source {
        let auth = knarr_image::Auth { password: password.to_owned(), ..Default::default() };
        Source::new(namespace, name, &auth)
    }

    #[test]
    fn an_image_that_came_with_a_secret_is_for_those_who_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let pulls = Pulls::read(dir.path());
        let mine = source("a", "s", "word");
        assert!(!pulls.must_ask("sha256:1", &[]), "put here by other means");
        pulls.pulled("sha256:1", Some(mine.clone()));
        let again = Pulls::read(dir.path());
        for (sources, asks) in [
            (vec![], true),
            (vec![mine], false),
            (vec![source("b", "other", "word")], false),
            (vec![source("a", "s", "changed")], false),
            (vec![source("b", "s", "guess")], true),
        ] {
            assert_eq!(again.must_ask("sha256:1", &sources), asks, "{sources:?}");
        }
        again.pulled("sha256:1", None);
        assert!(!again.must_ask("sha256:1", &[]));
        again.retain(|_| false);
        assert!(Pulls::read(dir.path()).records.into_inner().unwrap().is_empty());
    }
}
