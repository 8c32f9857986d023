//! What the cache holds: the objects by key, and by the values of those selectable fields that somebody has
//! asked for exactly (pods by node), so that a node's pods are found without looking at all others.

use super::watch::Watchers;
use super::{Filter, Listed, Trigger, Window};
use crate::obj::Obj;
use bytes::Bytes;
use knarr_store::prefix_end;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// The keys of the objects by a field's value; empty values are not kept.
type Index = HashMap<Box<str>, BTreeSet<Bytes>>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct State {
    objs: BTreeMap<Bytes, Arc<Obj>>,
    /// How many bytes they have together, as stored.
    bytes: usize,
    /// By the field's place in the shape, once it has been asked for.
    indexes: BTreeMap<usize, Index>,
    /// Every change up to this revision is in here.
    pub revision: u64,
    pub window: Window,
    pub watchers: Watchers,
}

impl State {
    /// Nothing yet. Of a store that cannot tell of the past cheaply (`remote`), more of it is kept here.
    pub fn new(remote: bool) -> Self {
        Self { window: Window::new(remote), ..Self::default() }
    }

    /// Starts over with these objects.
    pub fn replace(&mut self, objs: BTreeMap<Bytes, Arc<Obj>>, revision: u64) {
        // Whoever watched an earlier filling has missed something and must list again.
        self.watchers.clear();
        self.window.reset(revision);
        self.bytes = objs.values().map(|obj| obj.stored.value.len()).sum();
        self.objs = objs;
        self.revision = revision;
        for slot in std::mem::take(&mut self.indexes).into_keys() {
            self.index(slot);
        }
    }

    /// How many objects there are, and how many bytes they have together.
    pub fn sizes(&self) -> (usize, usize) {
        (self.objs.len(), self.bytes)
    }

    /// One object.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Obj>> {
        self.objs.get(key)
    }

    /// Stores an object; the one before is handed back.
    pub fn insert(&mut self, obj: Arc<Obj>) -> Option<Arc<Obj>> {
        let prev = self.objs.insert(obj.key.clone(), obj.clone());
        self.bytes += obj.stored.value.len();
        self.bytes -= prev.as_ref().map_or(0, |prev| prev.stored.value.len());
        for (slot, index) in &mut self.indexes {
            let before = prev.as_ref().map_or("", |prev| prev.field(*slot));
            if before != obj.field(*slot) {
                forget(index, before, &obj.key);
                remember(index, &obj, *slot);
            }
        }
        prev
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &[u8]) -> Option<Arc<Obj>> {
        let prev = self.objs.remove(key)?;
        self.bytes -= prev.stored.value.len();
        for (slot, index) in &mut self.indexes {
            forget(index, prev.field(*slot), key);
        }
        Some(prev)
    }

    /// Whether objects can be found by the field.
    pub fn is_indexed(&self, slot: usize) -> bool {
        self.indexes.contains_key(&slot)
    }

    /// Makes them so.
    pub fn index(&mut self, slot: usize) {
        let mut index = Index::new();
        for obj in self.objs.values() {
            remember(&mut index, obj, slot);
        }
        self.indexes.insert(slot, index);
    }

    /// The matching objects below `scope` in key order, `limit` of them at most (0: all), from `start` on.
    pub fn select(
        &self,
        scope: &[u8],
        trigger: &Trigger,
        filter: &Filter,
        start: &[u8],
        limit: usize,
    ) -> Listed {
        let mut listed = Listed { objs: Vec::new(), revision: self.revision, more: false, remaining: 0 };
        if let Trigger::Key(key) = trigger {
            let found = self.objs.get(key).filter(|obj| &key[..] >= start && filter.matches(obj));
            listed.objs.extend(found.cloned());
            return listed;
        }
        let end = prefix_end(scope);
        let from = if start > scope { start } else { scope };
        if from >= &end[..] {
            return listed;
        }
        let bounds = (Bound::Included(from), Bound::Excluded(&end[..]));
        match trigger {
            Trigger::Field(slot, value) if self.is_indexed(*slot) => {
                let keys = self.indexes[slot].get(value).into_iter();
                let keys = keys.flat_map(|keys| keys.range::<[u8], _>(bounds));
                collect(&mut listed, keys.filter_map(|key| self.objs.get(key)), filter, limit);
            }
            _ => collect(&mut listed, self.objs.range::<[u8], _>(bounds).map(|(_, obj)| obj), filter, limit),
        }
        listed
    }
}

fn collect<'a>(
    listed: &mut Listed,
    mut objs: impl Iterator<Item = &'a Arc<Obj>>,
    filter: &Filter,
    limit: usize,
) {
    let selective = filter.is_selective();
    while let Some(obj) = objs.next() {
        if limit > 0 && listed.objs.len() == limit {
            listed.more = true;
            listed.remaining = if selective { 0 } else { 1 + objs.count() };
            return;
        }
        if !selective || filter.matches(obj) {
            listed.objs.push(obj.clone());
        }
    }
}

fn remember(index: &mut Index, obj: &Obj, slot: usize) {
    let value = obj.field(slot);
    if value.is_empty() {
        return;
    }
    match index.get_mut(value) {
        Some(keys) => {
            keys.insert(obj.key.clone());
        }
        None => {
            index.insert(value.into(), BTreeSet::from([obj.key.clone()]));
        }
    }
}

fn forget(index: &mut Index, value: &str, key: &[u8]) {
    let Some(keys) = index.get_mut(value) else { return };
    keys.remove(key);
    if keys.is_empty() {
        index.remove(value);
    }
}
