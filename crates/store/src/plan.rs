//! What a batch of requests does to a keyspace, worked out before anything is written: expectations are
//! evaluated in the order of the requests, each seeing the effect of those before it, and every put or
//! delete that holds gets the next revision. Nothing here touches the disk or the index.

use crate::index::{Change, Index};
use crate::lease::Leases;
use crate::{Expect, KeyValue, LeaseId, Outcome, Revision, StoreError};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// A request that changes a keyspace.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// See [`crate::Store::put`].
    Put { key: Bytes, expect: Expect, value: Bytes, lease: LeaseId },
    /// See [`crate::Store::delete`].
    Delete { key: Bytes, expect: Revision },
    /// Remembers a lease.
    Grant(Grant),
    /// Ends a lease and deletes its keys.
    Revoke(LeaseId),
    /// See [`crate::Store::compact`].
    Compact(Revision),
}

/// A lease as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Its identifier, never 0.
    pub id: LeaseId,
    /// How long it was granted for.
    pub ttl_seconds: u64,
    /// When it expires, in milliseconds of wall-clock time since 1970, for use after a restart.
    pub expires_unix_ms: u64,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// To a put or delete.
    Outcome(Outcome),
    /// To everything else.
    Done,
}

/// The effects of the requests so far.
pub(crate) struct Plan<'a> {
    index: &'a Index,
    leases: &'a Leases,
    next: Revision,
    /// What the keys changed by this plan will be.
    pending: HashMap<Bytes, Option<KeyValue>>,
    effects: Effects,
}

/// What is to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Puts and deletes, with consecutive revisions.
    pub changes: Vec<Change>,
    /// Leases granted.
    pub granted: Vec<Grant>,
    /// Leases ended.
    pub revoked: Vec<LeaseId>,
    /// The revision to compact at, when asked for.
    pub compact: Option<Revision>,
}

impl Effects {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.granted.is_empty()
            && self.revoked.is_empty()
            && self.compact.is_none()
    }
}

/// An answer and whether it holds only if the plan is written.
pub(crate) struct Planned {
    /// What to answer.
    pub answer: Result<Answer, StoreError>,
    /// False when the answer follows from what is already durable.
    pub depends_on_commit: bool,
}

impl<'a> Plan<'a> {
    /// A plan on top of the present state.
    pub fn new(index: &'a Index, leases: &'a Leases) -> Self {
        Self {
            index,
            leases,
            next: index.revision() + 1,
            pending: HashMap::new(),
            effects: Effects::default(),
        }
    }

    /// What is to be written.
    pub fn finish(self) -> Effects {
        self.effects
    }

    /// Adds a request.
    pub fn add(&mut self, request: Request) -> Planned {
        let mut depends_on_commit = true;
        let answer = match request {
            Request::Put { key, expect, value, lease } => {
                if lease != 0 && !self.lease_exists(lease) {
                    return Planned { answer: Err(StoreError::NoLease), depends_on_commit: false };
                }
                let current = self.current(&key);
                let holds = match (expect, &current) {
                    (Expect::Absent | Expect::Unchanged(0), None) => true,
                    (Expect::Unchanged(revision), Some(kv)) => kv.mod_revision == revision,
                    _ => false,
                };
                if holds {
                    let created = current.map(|kv| kv.create_revision);
                    Ok(Answer::Outcome(Outcome::Done(self.put(key, value, created, lease))))
                } else {
                    depends_on_commit = self.pending.contains_key(&key);
                    Ok(Answer::Outcome(Outcome::Conflict(current)))
                }
            }
            Request::Delete { key, expect } => match self.current(&key) {
                Some(kv) if kv.mod_revision == expect => Ok(Answer::Outcome(Outcome::Done(self.delete(key)))),
                current => {
                    depends_on_commit = self.pending.contains_key(&key);
                    Ok(Answer::Outcome(Outcome::Conflict(current)))
                }
            },
            Request::Grant(grant) => {
                self.effects.granted.push(grant);
                Ok(Answer::Done)
            }
            Request::Revoke(lease) => self.revoke(lease).map(|()| Answer::Done),
            Request::Compact(revision) => {
                let planned = self.effects.compact.unwrap_or(0);
                match self.index.compactable(revision) {
                    Ok(()) if revision <= planned => Err(StoreError::Compacted { compacted: planned }),
                    Ok(()) => {
                        self.effects.compact = Some(revision);
                        Ok(Answer::Done)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        Planned { answer, depends_on_commit }
    }

    fn current(&self, key: &Bytes) -> Option<KeyValue> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.index.current(key),
        }
    }

    fn lease_exists(&self, lease: LeaseId) -> bool {
        !self.effects.revoked.contains(&lease)
            && (self.leases.contains(lease) || self.effects.granted.iter().any(|grant| grant.id == lease))
    }

    fn put(&mut self, key: Bytes, value: Bytes, created: Option<Revision>, lease: LeaseId) -> Revision {
        let revision = self.next;
        self.next += 1;
        let created = created.unwrap_or(revision);
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: created,
            mod_revision: revision,
            lease,
        };
        self.pending.insert(key.clone(), Some(kv));
        self.effects.changes.push(Change { revision, created, key, value: Some(value), lease });
        revision
    }

    fn delete(&mut self, key: Bytes) -> Revision {
        let revision = self.next;
        self.next += 1;
        self.pending.insert(key.clone(), None);
        self.effects.changes.push(Change { revision, created: 0, key, value: None, lease: 0 });
        revision
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        if !self.lease_exists(lease) {
            return Err(StoreError::NoLease);
        }
        let mut keys: HashSet<Bytes> = self.index.keys_of_lease(lease).into_iter().collect();
        for (key, pending) in &self.pending {
            match pending {
                Some(kv) if kv.lease == lease => keys.insert(key.clone()),
                _ => keys.remove(key),
            };
        }
        let mut keys: Vec<Bytes> = keys.into_iter().collect();
        keys.sort_unstable();
        for key in keys {
            self.delete(key);
        }
        self.effects.revoked.push(lease);
        Ok(())
    }
}
