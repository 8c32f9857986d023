//! The entries of `metadata.managedFields`: read, told apart, ordered, kept to a number, written.

use super::set::FieldsError;
use super::{FieldSet, Manager, Operation};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::time::UNIX_EPOCH;

/// How many entries of updates an object keeps; the oldest are merged beyond that.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that merged entries go to.
const ANCIENT: &str = "ancient-changes";

/// One manager and the fields it owns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: Option<String>,
    pub set: FieldSet,
}

impl Entry {
    /// A manager's entry without time.
    pub(super) fn new(manager: &Manager<'_>, set: FieldSet) -> Self {
        Self {
            manager: if manager.name.is_empty() { "unknown" } else { manager.name }.to_owned(),
            operation: manager.operation,
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: None,
            set,
        }
    }

    /// Whether both entries are one manager's. Appliers are the same whatever version they write.
    pub(super) fn is_same_manager(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as conflicts name it.
    pub(super) fn description(&self) -> String {
        let mut text = crate::go::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", crate::go::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn seconds(&self) -> i64 {
        let time = self.time.as_deref().and_then(|time| crate::time::parse(time).ok());
        time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs() as i64)
    }

    fn encode(self) -> Value {
        let mut entry = Map::new();
        entry.insert("apiVersion".into(), self.api_version.into());
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.set.into_fields_v1());
        entry.insert("manager".into(), self.manager.into());
        entry.insert("operation".into(), self.operation.as_str().into());
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.into());
        }
        if let Some(time) = self.time {
            entry.insert("time".into(), time.into());
        }
        Value::Object(entry)
    }
}

impl Operation {
    /// The text in `operation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Reads all entries; a malformed one makes all of them worthless.
pub(super) fn decode(entries: &[Value]) -> Result<Vec<Entry>, FieldsError> {
    let mut result: Vec<Entry> = Vec::with_capacity(entries.len() + 1);
    for (i, entry) in entries.iter().enumerate() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(FieldsError("operation must be `Apply` or `Update`".into())),
        };
        if text("apiVersion").is_empty() {
            return Err(FieldsError("apiVersion must not be empty".into()));
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(FieldsError(format!("missing fieldsType in managed fields entry {i}"))),
            other => {
                let other = crate::go::quote(other);
                return Err(FieldsError(format!("invalid fieldsType {other} in managed fields entry {i}")));
            }
        }
        let entry = Entry {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: entry["time"].as_str().map(str::to_owned),
            set: FieldSet::from_fields_v1(&entry["fieldsV1"])?,
        };
        match result.iter_mut().find(|other| other.is_same_manager(&entry)) {
            Some(other) => *other = entry,
            None => result.push(entry),
        }
    }
    Ok(result)
}

/// Writes all entries in upstream's order: appliers first, then by time and by name.
pub(super) fn encode(mut entries: Vec<Entry>) -> Vec<Value> {
    if entries.len() > 1 {
        entries.sort_by_cached_key(|entry| {
            let names = (entry.manager.clone(), entry.api_version.clone(), entry.subresource.clone());
            (entry.operation, entry.seconds(), names)
        });
    }
    entries.into_iter().map(Entry::encode).collect()
}

/// Merges the oldest entries of updates until there are no more than allowed, one bucket for each version.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    if updates <= MAX_UPDATE_MANAGERS {
        return;
    }
    let (mut oldest, rest): (Vec<Entry>, Vec<Entry>) =
        entries.drain(..).partition(|entry| entry.operation == Operation::Update);
    oldest.sort_by_cached_key(|entry| (entry.seconds(), entry.manager.clone(), entry.subresource.clone()));
    *entries = rest;
    let mut left = updates;
    // The bucket of each version: where it stands in `kept`.
    let mut buckets: HashMap<String, usize> = HashMap::new();
    let mut kept: Vec<Entry> = Vec::with_capacity(updates);
    for entry in oldest {
        if left <= MAX_UPDATE_MANAGERS {
            kept.push(entry);
            continue;
        }
        match buckets.get(&entry.api_version) {
            None => {
                buckets.insert(entry.api_version.clone(), kept.len());
                kept.push(entry);
            }
            Some(at) => {
                let bucket = &mut kept[*at];
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource.clear();
                bucket.set.add(&entry.set);
                bucket.time = entry.time;
                left -= 1;
            }
        }
    }
    // A bucket of an earlier capping may be among those that were kept.
    for entry in kept {
        match entries.iter_mut().find(|other| other.is_same_manager(&entry)) {
            Some(other) => other.set.add(&entry.set),
            None => entries.push(entry),
        }
    }
}
