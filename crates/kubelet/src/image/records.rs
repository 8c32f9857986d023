//! Who may use the images that are here (KEP-2535, KubeletEnsureSecretPulledImages with its default policy): what
//! came with a pod's secret is for pods that have the secret, or know the same word; what came without one, or was
//! put here by other means, is for all. By image and repository: what one repository gives to all, another may not.
//! A pull is noted before it begins, so that an image is not taken for put here by other means after a crash.

use knarr_image::ImageStore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A secret that has credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    #[serde(default)]
    uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Hash of the credentials: the words themselves are kept nowhere.
    hash: String,
}

impl Source {
    pub(crate) fn new(uid: &str, namespace: &str, name: &str, auth: &knarr_image::Auth) -> Self {
        let mut hash = Sha256::new();
        for part in [&auth.username, &auth.password, &auth.registry_token, &auth.identity_token] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self { uid: uid.to_owned(), namespace: namespace.to_owned(), name: name.to_owned(), hash }
    }

    /// The same secret, whatever it says by now, or another with the same words.
    fn is_as_good_as(&self, other: &Self) -> bool {
        self.hash == other.hash || self.is_same(other)
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    image: String,
    /// By repository. One that is not here must be asked.
    #[serde(default)]
    repositories: BTreeMap<String, Access>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It could be had without credentials.
    anyone: bool,
    #[serde(default)]
    sources: Vec<Source>,
}

/// What was pulled by this kubelet, and how; by image id.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    records: Mutex<HashMap<String, Record>>,
    /// References that are being pulled, and by how many.
    intents: Mutex<HashMap<String, usize>>,
}

/// A pull under way. Dropped when it ended, one way or the other.
pub(crate) struct Intent<'a> {
    records: &'a Records,
    reference: String,
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        let mut intents = self.records.intents.lock().expect("intent lock is never poisoned");
        if let Some(count) = intents.get_mut(&self.reference) {
            *count -= 1;
            if *count == 0 {
                intents.remove(&self.reference);
                let _ = std::fs::remove_file(self.records.intent(&self.reference));
            }
        }
    }
}

impl Records {
    /// Reads what was kept below the kubelet's directory. Pulls that a crash ended are looked up in `images`: what came
    /// of them is asked for again by everybody.
    pub(crate) fn read(root: &Path, images: &ImageStore) -> Self {
        let dir = root.join("image_manager");
        let files = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut records = HashMap::new();
        for entry in files(&dir.join("pulled")) {
            let record =
                std::fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            if let Some(record) = record {
                records.insert(record.image.clone(), record);
            }
        }
        let all = Self { dir, records: Mutex::new(records), intents: Mutex::default() };
        for entry in files(&all.dir.join("pulling")) {
            let reference = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if let Some(image) = images.resolve(&reference) {
                all.change(&image.id, |_| {});
            }
            let _ = std::fs::remove_file(entry.path());
        }
        all
    }

    /// Notes that a reference is about to be pulled.
    pub(crate) fn intend(&self, reference: &str) -> Intent<'_> {
        let mut intents = self.intents.lock().expect("intent lock is never poisoned");
        *intents.entry(reference.to_owned()).or_default() += 1;
        self.write(&self.intent(reference), reference.as_bytes());
        Intent { records: self, reference: reference.to_owned() }
    }

    /// Whether a pod with these credentials must show them to the registry before it may use the image under a name
    /// of this repository.
    pub(crate) fn must_ask(&self, image: &str, repository: &str, sources: &[Source]) -> bool {
        let records = self.records.lock().expect("record lock is never poisoned");
        let Some(record) = records.get(image) else { return false };
        let Some(access) = record.repositories.get(repository) else { return true };
        !access.anyone
            && !sources.iter().any(|source| access.sources.iter().any(|known| known.is_as_good_as(source)))
    }

    /// An image was pulled from a repository, with credentials or without.
    pub(crate) fn pulled(&self, image: &str, repository: &str, source: Option<Source>) {
        self.change(image, |record| {
            let access = record.repositories.entry(repository.to_owned()).or_default();
            match source {
                None => *access = Access { anyone: true, sources: Vec::new() },
                Some(source) if !access.anyone => {
                    access.sources.retain(|s| !s.is_same(&source));
                    access.sources.push(source);
                }
                Some(_) => {}
            }
        });
    }

    fn change(&self, image: &str, change: impl FnOnce(&mut Record)) {
        let mut records = self.records.lock().expect("record lock is never poisoned");
        let before = records.get(image).cloned();
        let record = records.entry(image.to_owned()).or_default();
        record.image = image.to_owned();
        change(record);
        if before.as_ref() != Some(&*record) {
            let text = serde_json::to_vec(record).expect("texts always encode");
            self.write(&self.path(image), &text);
        }
    }

    fn write(&self, path: &Path, content: &[u8]) {
        let new = path.with_extension("new");
        let kept = std::fs::create_dir_all(path.parent().unwrap_or(&self.dir))
            .and_then(|()| std::fs::write(&new, content))
            .and_then(|()| std::fs::rename(&new, path));
        if let Err(error) = kept {
            tracing::warn!(path = %path.display(), %error, "cannot keep who may use an image");
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

    fn intent(&self, reference: &str) -> PathBuf {
        let hash = Sha256::digest(reference.as_bytes());
        let name: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        self.dir.join("pulling").join(format!("sha256-{name}"))
    }

    fn path(&self, image: &str) -> PathBuf {
        self.dir.join("pulled").join(image.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uid: &str, namespace: &str, name: &str, password: &str) -> Source {
        let auth = knarr_image::Auth { password: password.to_owned(), ..Default::default() };
        Source::new(uid, namespace, name, &auth)
    }

    fn store(dir: &Path) -> std::sync::Arc<ImageStore> {
        ImageStore::open(&knarr_base::Ctx::system(), &dir.join("images"), Default::default()).unwrap()
    }

    #[tokio::test]
    async fn an_image_that_came_with_a_secret_is_for_those_who_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let (id, from) = ("sha256:1", "r.example/a");
        let records = Records::read(dir.path(), &images);
        let mine = source("u", "a", "s", "word");
        assert!(!records.must_ask(id, from, &[]), "put here by other means");
        records.pulled(id, from, Some(mine.clone()));
        let again = Records::read(dir.path(), &images);
        for (sources, asks) in [
            (vec![], true),
            (vec![mine.clone()], false),
            (vec![source("v", "b", "other", "word")], false),
            (vec![source("u", "a", "s", "changed")], false),
            (vec![source("new", "a", "s", "changed")], true),
            (vec![source("w", "b", "s", "guess")], true),
        ] {
            assert_eq!(again.must_ask(id, from, &sources), asks, "{sources:?}");
        }
        assert!(again.must_ask(id, "other.example/a", std::slice::from_ref(&mine)));
        again.pulled(id, from, None);
        assert!(!again.must_ask(id, from, &[]));
        assert!(again.must_ask(id, "other.example/a", &[]));
        again.retain(|_| false);
        assert!(Records::read(dir.path(), &images).records.into_inner().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_pull_that_a_crash_ended_leaves_an_image_that_must_be_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let images = store(dir.path());
        let image =
            knarr_image::build::add_image(&images, "r.example/a:1", &Default::default(), Vec::new()).unwrap();
        let records = Records::read(dir.path(), &images);
        let (first, second) = (records.intend("r.example/a:1"), records.intend("r.example/a:1"));
        drop(first);
        std::mem::forget(second);
        let after = Records::read(dir.path(), &images);
        assert!(after.must_ask(&image.id, "r.example/a", &[]));
        drop(after.intend("r.example/b:1"));
        assert_eq!(std::fs::read_dir(dir.path().join("image_manager/pulling")).unwrap().count(), 0);
    }
}
