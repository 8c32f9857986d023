//! The real kubectl, in every version this machine has.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where the Google Cloud SDK's package keeps kubectl.1.NN.
const SDK: &str = "/usr/lib/google-cloud-sdk/bin";

/// A kubectl.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Minor version; 0 for a plain `kubectl` beside which no numbered one was found.
    pub minor: u32,
    /// The program.
    pub path: PathBuf,
}

/// All versions, oldest first. Looked for in `$KUBECTL_DIR`, `$PATH` and the Google Cloud SDK's folder.
pub fn all() -> &'static [Kubectl] {
    static FOUND: OnceLock<Vec<Kubectl>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = std::env::var_os("KUBECTL_DIR").map(PathBuf::from);
        let folders: Vec<PathBuf> =
            own.into_iter().chain(std::env::split_paths(&path)).chain([PathBuf::from(SDK)]).collect();
        let mut found: Vec<Kubectl> = Vec::new();
        for folder in &folders {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let minor = name.to_str().and_then(|name| name.strip_prefix("kubectl.1.")?.parse().ok());
                if let Some(minor) = minor
                    && !found.iter().any(|other| other.minor == minor)
                {
                    found.push(Kubectl { minor, path: entry.path() });
                }
            }
        }
        if found.is_empty() {
            let plain = folders.iter().map(|folder| folder.join("kubectl")).find(|path| Path::exists(path));
            found.extend(plain.map(|path| Kubectl { minor: 0, path }));
        }
        found.sort_by_key(|kubectl| kubectl.minor);
        assert!(!found.is_empty(), "no kubectl in $KUBECTL_DIR, $PATH or {SDK}; the suite needs one");
        found
    })
}

/// The newest.
pub fn newest() -> &'static Kubectl {
    all().last().expect("there is one")
}

/// The oldest: before 1.29 it streams over SPDY.
pub fn oldest() -> &'static Kubectl {
    all().first().expect("there is one")
}
