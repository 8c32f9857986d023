//! What this server knows to have changed before the store's watch has told the cache: its own writes on a store that
//! others share, and single objects that were read from it. Server parts that read without waiting (admission,
//! authentication) see these, so that whoever has been answered is believed; clients never do.

use crate::obj::Obj;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// An object, or that there is none, at a revision.
type Entry = (u64, Option<Arc<Obj>>);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Ahead {
    entries: Mutex<BTreeMap<Bytes, Entry>>,
    /// How many there are: spares the lock where there are none.
    len: AtomicUsize,
}

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Bytes, Entry>> {
        self.entries.lock().expect("no holder of the notes panics")
    }

    /// Notes what a key is since a revision.
    pub fn note(&self, key: &Bytes, revision: u64, obj: Option<Arc<Obj>>) {
        let mut entries = self.lock();
        if entries.get(key).is_none_or(|(known, _)| *known < revision) {
            entries.insert(key.clone(), (revision, obj));
        }
        self.len.store(entries.len(), Ordering::Release);
    }

    /// Forgets what the cache has by now.
    pub fn forget(&self, seen: u64) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut entries = self.lock();
        entries.retain(|_, (revision, _)| *revision > seen);
        self.len.store(entries.len(), Ordering::Release);
    }

    /// What is noted of a key: an object, or that there is none.
    pub fn get(&self, key: &[u8]) -> Option<Option<Arc<Obj>>> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lock().get(key).map(|(_, obj)| obj.clone())
    }

    /// What is noted of the keys that start with `scope`.
    pub fn below(&self, scope: &[u8]) -> Vec<(Bytes, Option<Arc<Obj>>)> {
        if self.len.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let entries = self.lock();
        let noted = entries.iter().filter(|(key, _)| key.starts_with(scope));
        noted.map(|(key, (_, obj))| (key.clone(), obj.clone())).collect()
    }
}
