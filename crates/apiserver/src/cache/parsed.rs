//! Parsed objects that are kept for the next who asks: the latest of each object, the longest parsed go first.

use crate::obj::Obj;
use bytes::Bytes;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Parsed {
    ring: VecDeque<One>,
    bytes: usize,
}

struct One {
    key: Bytes,
    bytes: usize,
    _value: Arc<Value>,
}

impl Parsed {
    /// Keeps an object's value instead of the one it had before; of all objects no more than `limit` bytes, as stored,
    /// beside this one.
    pub fn keep(&mut self, obj: &Obj, value: Arc<Value>, limit: usize) {
        self.forget(&obj.key);
        while self.bytes > limit
            && let Some(oldest) = self.ring.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
        let bytes = obj.stored.value.len();
        self.bytes += bytes;
        self.ring.push_back(One { key: obj.key.clone(), bytes, _value: value });
    }

    /// Lets go of an object that is no more.
    pub fn forget(&mut self, key: &Bytes) {
        if let Some(at) = self.ring.iter().position(|one| one.key == *key) {
            self.bytes -= self.ring.remove(at).map_or(0, |one| one.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::obj::Shape;
    use std::sync::Weak;

    fn keep(parsed: &mut Parsed, name: u64) -> (u64, Weak<Value>) {
        let shape = Shape::new("", "v1", "Pod", &[]);
        let stored = shape.encode(&serde_json::json!({ "spec": "x".repeat(1000) }));
        let obj = Obj::new(&shape, b"/p/", Bytes::from(format!("/p/{name}")), stored.value, 1).unwrap();
        let (value, _) = obj.value();
        parsed.keep(&obj, value.clone(), 10_000);
        (name, Arc::downgrade(&value))
    }

    fn alive(kept: &[(u64, Weak<Value>)]) -> Vec<u64> {
        kept.iter().filter(|(_, value)| value.strong_count() > 0).map(|(name, _)| *name).collect()
    }

    #[test]
    fn the_latest_of_each_object_is_kept_within_bounds() {
        let mut parsed = Parsed::default();
        let mut kept: Vec<_> =
            [1; 100].into_iter().chain(2..=5).map(|name| keep(&mut parsed, name)).collect();
        assert_eq!(alive(&kept), [1, 2, 3, 4, 5], "of the first only the latest");
        kept.extend((6..=30).map(|name| keep(&mut parsed, name)));
        let alive = alive(&kept);
        assert!((9..=11).contains(&alive.len()) && alive.ends_with(&[28, 29, 30]), "{alive:?}");
        parsed.forget(&Bytes::from("/p/29"));
        assert_eq!(kept.iter().find(|(name, _)| *name == 29).map(|(_, value)| value.strong_count()), Some(0));
    }
}
