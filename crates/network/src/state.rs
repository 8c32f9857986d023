//! Small state files: written whole and put in place by renaming, and tied to a boot, because what they tell of (links,
//! routes, settings of the kernel) does not survive one.

use crate::NetworkError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    boot_id: String,
    state: T,
}

/// Reads a state file. `None` if there is none or it cannot be understood; the flag says whether it is of this boot.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, bool)>, NetworkError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetworkError::file("read", path)(error)),
    };
    match serde_json::from_slice::<Stamped<T>>(&bytes) {
        Ok(stamped) => Ok(Some((stamped.state, stamped.boot_id == boot_id()))),
        Err(error) => {
            // Written without a sync: after a power loss it may be cut off, and then it is of another boot anyway.
            tracing::warn!(%error, path = %path.display(), "starting without unreadable network state");
            Ok(None)
        }
    }
}

/// Writes a state file. It is not synced: after a power loss its content is worth nothing.
pub fn save<T: Serialize>(path: &Path, state: &T) -> Result<(), NetworkError> {
    let stamped = Stamped { boot_id: boot_id(), state };
    let bytes = serde_json::to_vec(&stamped).expect("state is plain data");
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).map_err(NetworkError::file("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(NetworkError::file("replace", path))
}

/// Removes a state file; no error if there is none.
pub fn remove(path: &Path) -> Result<(), NetworkError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(NetworkError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
