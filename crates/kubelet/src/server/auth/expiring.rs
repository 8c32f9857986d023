//! Answers that hold for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Answers kept at most; callers are few, and whoever makes up tokens must not fill the memory.
const MOST: usize = 1024;

/// A map whose entries end.
pub(super) struct Expiring<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    /// What is known and still holds.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let held = self.0.lock().expect("no holder of the answers panics");
        held.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Holds from now on for `ttl`.
    pub(super) fn put(&self, key: K, value: V, now: Instant, ttl: Duration) {
        let mut held = self.0.lock().expect("no holder of the answers panics");
        if held.len() >= MOST {
            held.retain(|_, (_, until)| *until > now);
        }
        if held.len() >= MOST {
            held.clear();
        }
        held.insert(key, (value, now + ttl));
    }
}
