//! From values of the store to objects: at once where they are stored in the form that is served, by way of the
//! codec (pruned, defaulted, converted) where they may be stored in any of several versions.

use super::Cache;
use crate::obj::{Obj, ObjError, Stored};
use knarr_meta::status::Status;
use knarr_store::{KeyValue, StoreError};
use serde_json::Value;

/// How many objects are brought into another version at once: conversion webhooks take lists, but not endless ones.
const BATCH: usize = 500;

/// Why the cache cannot be filled.
pub(super) enum FillError {
    /// The store does not answer.
    Store(StoreError),
    /// The objects cannot be brought into the version that is wanted.
    Unreadable(Status),
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Cache {
    /// Values as objects, in their order. What is damaged is an error of its own; a failed conversion fails all.
    pub async fn read(&self, kvs: Vec<KeyValue>) -> Result<Vec<Result<Obj, ObjError>>, Status> {
        let mut all = Vec::with_capacity(kvs.len());
        let Some(codec) = &self.codec else {
            let read = |kv: KeyValue| Obj::new(&self.shape, &self.prefix, kv.key, kv.value, kv.mod_revision);
            all.extend(kvs.into_iter().map(read));
            return Ok(all);
        };
        for kvs in kvs.chunks(BATCH) {
            let mut damaged = Vec::new();
            let mut values = Vec::with_capacity(kvs.len());
            for kv in kvs {
                match parse(kv) {
                    Ok(value) => values.push(value),
                    Err(error) => damaged.push((&kv.key, error)),
                }
            }
            let mut values = codec.decode(values).await?.into_iter();
            let mut damaged = damaged.into_iter().peekable();
            for kv in kvs {
                if let Some((_, error)) = damaged.next_if(|(key, _)| **key == kv.key) {
                    all.push(Err(error));
                    continue;
                }
                let stored = self.shape.encode(&values.next().unwrap_or_default()).sharing(&kv.value);
                all.push(Obj::of(&self.shape, &self.prefix, kv.key.clone(), stored.at(kv.mod_revision)));
            }
        }
        Ok(all)
    }

    /// One value in the form that requests work on.
    pub async fn read_one(&self, kv: &KeyValue) -> Result<Stored, Status> {
        let Some(codec) = &self.codec else {
            return self.shape.adopt(&kv.key, kv.value.clone(), kv.mod_revision).map_err(Status::internal);
        };
        // Whoever lists or watches has had it read already.
        if let Some(obj) = self.get(&kv.key).filter(|obj| obj.revision() == kv.mod_revision) {
            return Ok(obj.stored.clone());
        }
        let value = parse(kv).map_err(Status::internal)?;
        let value = codec.decode(vec![value]).await?.pop().unwrap_or_default();
        Ok(self.shape.encode(&value).sharing(&kv.value).at(kv.mod_revision))
    }
}

fn parse(kv: &KeyValue) -> Result<Value, ObjError> {
    serde_json::from_slice(&kv.value)
        .map_err(|source| ObjError::Json { key: String::from_utf8_lossy(&kv.key).into_owned(), source })
}
