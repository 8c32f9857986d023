//! The versions of one key. Old ones are rarely read and much like their successors, so that they are kept as their
//! difference to one of them: LZ4 with that one as its dictionary (`lz4_flex`: no unsafe code, no C, made for speed).
//! Each is read by itself, in one step, however many there are.

use crate::{KeyValue, LeaseId, Revision};
use bytes::Bytes;

/// So many versions of a key that goes on changing are packed together, all against the newest of them.
const TOGETHER: usize = 16;
/// What a packed version takes beside its bytes.
const PACKED_BYTES: usize = 48;
/// LZ4 looks no further back.
const DICTIONARY_BYTES: usize = 64 << 10;

/// What a key was from one revision on.
#[derive(Debug)]
pub(crate) struct Version {
    /// That revision.
    pub modified: Revision,
    /// The revision that created the key; for a deletion 0.
    pub created: Revision,
    /// The lease it was bound to, or 0.
    pub lease: LeaseId,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Deleted,
    Whole {
        value: Bytes,
        /// It stays whole: others are packed against it, or packing gains nothing.
        settled: bool,
    },
    Packed {
        /// The version it was packed against.
        against: Bytes,
        len: u32,
        data: Box<[u8]>,
    },
}

/// A version and what it packs to.
#[derive(Debug)]
pub(crate) struct Packed {
    modified: Revision,
    /// `None` if it is to stay as it is.
    data: Option<Box<[u8]>>,
}

/// Versions of a key that are to be packed against one of them.
#[derive(Debug)]
pub(crate) struct Cold {
    /// The key.
    pub key: Bytes,
    against: Bytes,
    /// The revision that `against` was put at.
    anchor: Revision,
    versions: Vec<(Revision, Bytes)>,
}

impl Cold {
    /// Packs them, which takes some microseconds each.
    pub fn pack(&self) -> Vec<Packed> {
        let dictionary = &self.against[self.against.len().saturating_sub(DICTIONARY_BYTES)..];
        let pack = |(modified, value): &(Revision, Bytes)| {
            let data = lz4_flex::block::compress_with_dict(value, dictionary);
            let gains = data.len() + PACKED_BYTES < value.len() / 4 * 3;
            Packed { modified: *modified, data: gains.then(|| data.into_boxed_slice()) }
        };
        self.versions.iter().map(pack).collect()
    }
}

impl Version {
    /// A version with its value, `None` for a deletion.
    pub fn new(modified: Revision, created: Revision, lease: LeaseId, value: Option<Bytes>) -> Self {
        let content = match value {
            Some(value) => Content::Whole { value, settled: false },
            None => Content::Deleted,
        };
        Self { modified, created, lease, content }
    }

    /// Whether it is the state after a deletion.
    pub fn is_deleted(&self) -> bool {
        matches!(self.content, Content::Deleted)
    }

    /// The value, `None` for a deletion.
    pub fn value(&self) -> Option<Bytes> {
        match &self.content {
            Content::Deleted => None,
            Content::Whole { value, .. } => Some(value.clone()),
            Content::Packed { against, len, data } => {
                let dictionary = &against[against.len().saturating_sub(DICTIONARY_BYTES)..];
                let value = lz4_flex::block::decompress_with_dict(data, *len as usize, dictionary);
                Some(value.expect("what was packed here can be unpacked").into())
            }
        }
    }

    /// The same as a key and value, `None` for a deletion.
    pub fn kv(&self, key: &Bytes) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            value: self.value()?,
            create_revision: self.created,
            mod_revision: self.modified,
            lease: self.lease,
        })
    }

    /// How many bytes of memory the value takes.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Deleted => 0,
            Content::Whole { value, .. } => value.len(),
            Content::Packed { data, .. } => data.len() + PACKED_BYTES,
        }
    }

    fn unsettled(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole { value, settled: false } => Some(value),
            _ => None,
        }
    }

    fn settle(&mut self) {
        if let Content::Whole { settled, .. } = &mut self.content {
            *settled = true;
        }
    }
}

/// The versions of a key that are still readable. Most keys have exactly one, which costs no allocation.
#[derive(Debug)]
pub(crate) struct History {
    /// Oldest first, all before `last`.
    pub older: Vec<Version>,
    /// What the key is now.
    pub last: Version,
}

impl History {
    /// What the key was at `revision`: a deletion counts as a version, a key not made yet does not.
    pub fn at(&self, revision: Revision) -> Option<&Version> {
        if self.last.modified <= revision {
            return Some(&self.last);
        }
        let after = self.older.partition_point(|version| version.modified <= revision);
        after.checked_sub(1).map(|index| &self.older[index])
    }

    /// What is to be packed now that changes up to `revision`, the last of them to this key, have become old: all
    /// that is older when the key has not changed since, else as soon as enough has gathered.
    pub fn cold(&self, key: &Bytes, revision: Revision) -> Option<Cold> {
        let quiet = self.last.modified <= revision;
        let superseded = self.older.partition_point(|version| version.modified <= revision);
        let superseded = &self.older[..if quiet { superseded } else { superseded.saturating_sub(1) }];
        let unsettled =
            superseded.iter().filter_map(|version| Some((version.modified, version.unsettled()?)));
        let mut versions: Vec<_> = unsettled.map(|(modified, value)| (modified, value.clone())).collect();
        let (anchor, against) = match &self.last.content {
            Content::Whole { value, .. } if quiet => (self.last.modified, value.clone()),
            _ if quiet || versions.len() >= TOGETHER => versions.pop()?,
            _ => return None,
        };
        (!versions.is_empty()).then(|| Cold { key: key.clone(), against, anchor, versions })
    }

    /// Puts packed versions in their place, where they are still there. `saved` is told the revision that superseded
    /// a version and how many bytes less it takes.
    pub fn settle(&mut self, cold: Cold, packed: Vec<Packed>, mut saved: impl FnMut(Revision, usize)) {
        if self.last.modified == cold.anchor {
            self.last.settle();
        } else if let Ok(at) = self.older.binary_search_by_key(&cold.anchor, |version| version.modified) {
            self.older[at].settle();
        }
        for Packed { modified, data } in packed {
            let Ok(at) = self.older.binary_search_by_key(&modified, |version| version.modified) else {
                continue;
            };
            let superseded_by = self.older.get(at + 1).unwrap_or(&self.last).modified;
            let version = &mut self.older[at];
            let (Some(data), Some(value)) = (data, version.unsettled()) else {
                version.settle();
                continue;
            };
            let before = version.bytes();
            let len = u32::try_from(value.len()).expect("a value fits in a request");
            version.content = Content::Packed { against: cold.against.clone(), len, data };
            saved(superseded_by, before - version.bytes());
        }
    }
}
