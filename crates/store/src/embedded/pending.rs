//! What has been committed to the journal and is not in the database yet, and how a commit is written as the
//! payload of a journal frame: a row of entries, each `kind (1) | keyspace (4) | ...`, little endian.

use super::record;
use crate::index::Change;
use crate::plan::{Effects, Grant};
use crate::{LeaseId, Revision};
use std::collections::BTreeMap;

const CHANGE: u8 = 1;
const NAME: u8 = 2;
const GRANT: u8 = 3;
const REVOKE: u8 = 4;
const COMPACT: u8 = 5;

/// What one keyspace adds to a commit.
pub(crate) struct Section<'a> {
    /// Its number.
    pub id: u32,
    /// Its name, when the disk does not know it yet.
    pub new_name: Option<&'a str>,
    /// What to write.
    pub effects: &'a Effects,
}

/// Commits in the form in which the database takes them. By keyspace number.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Puts and deletes; those that nobody can read any more are taken out again.
    pub changes: BTreeMap<(u32, Revision), Change>,
    /// New keyspaces.
    pub names: BTreeMap<u32, String>,
    /// Leases granted (`Some`) or ended.
    pub leases: BTreeMap<(u32, LeaseId), Option<Grant>>,
    /// Compaction revisions.
    pub compacted: BTreeMap<u32, Revision>,
}

impl Pending {
    /// Whether there is nothing to move to the database.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.names.is_empty()
            && self.leases.is_empty()
            && self.compacted.is_empty()
    }

    /// Adds what a section commits.
    pub fn add(&mut self, section: &Section<'_>) {
        let (id, effects) = (section.id, section.effects);
        if let Some(name) = section.new_name {
            self.names.insert(id, name.to_owned());
        }
        for grant in &effects.granted {
            self.leases.insert((id, grant.id), Some(*grant));
        }
        for lease in &effects.revoked {
            self.leases.insert((id, *lease), None);
        }
        for change in &effects.changes {
            self.changes.insert((id, change.revision), change.clone());
        }
        if let Some(revision) = effects.compact {
            self.compacted.insert(id, revision);
        }
    }

    /// Adds what a journal frame holds; the error says what is wrong with it.
    pub fn add_payload(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut reader = Reader(payload);
        while !reader.0.is_empty() {
            let kind = reader.bytes(1)?[0];
            let id = reader.u32()?;
            match kind {
                CHANGE => {
                    let (revision, len) = (reader.u64()?, reader.u32()?);
                    let change = record::decode(revision, reader.bytes(len as usize)?)?;
                    self.changes.insert((id, revision), change);
                }
                NAME => {
                    let len = reader.u32()?;
                    let name = std::str::from_utf8(reader.bytes(len as usize)?);
                    self.names.insert(id, name.map_err(|_| "a keyspace's name is not text")?.to_owned());
                }
                GRANT => {
                    let (lease, ttl_seconds, expires_unix_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
                    let grant = Grant { id: lease, ttl_seconds, expires_unix_ms };
                    self.leases.insert((id, lease), Some(grant));
                }
                REVOKE => drop(self.leases.insert((id, reader.u64()?), None)),
                COMPACT => drop(self.compacted.insert(id, reader.u64()?)),
                kind => return Err(format!("a journal entry is of unknown kind {kind}")),
            }
        }
        Ok(())
    }
}

/// Adds a section to a payload.
pub(crate) fn encode(section: &Section<'_>, payload: &mut Vec<u8>, record: &mut Vec<u8>) {
    let (id, effects) = (section.id, section.effects);
    let mut entry = |kind: u8, numbers: &[u64]| {
        payload.push(kind);
        payload.extend_from_slice(&id.to_le_bytes());
        for number in numbers {
            payload.extend_from_slice(&number.to_le_bytes());
        }
    };
    for grant in &effects.granted {
        entry(GRANT, &[grant.id, grant.ttl_seconds, grant.expires_unix_ms]);
    }
    for lease in &effects.revoked {
        entry(REVOKE, &[*lease]);
    }
    if let Some(revision) = effects.compact {
        entry(COMPACT, &[revision]);
    }
    if let Some(name) = section.new_name {
        entry(NAME, &[]);
        length_and(name.as_bytes(), payload);
    }
    for change in &effects.changes {
        payload.push(CHANGE);
        payload.extend_from_slice(&id.to_le_bytes());
        payload.extend_from_slice(&change.revision.to_le_bytes());
        record::encode(change, record);
        length_and(record, payload);
    }
}

fn length_and(bytes: &[u8], payload: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("a batch is far below 4 GB");
    payload.extend_from_slice(&len.to_le_bytes());
    payload.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or("a journal entry is cut short")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().expect("eight bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_commit_reads_back_from_its_payload_and_a_cut_one_is_refused() {
        let put = Change {
            revision: 9,
            created: 9,
            key: Bytes::from_static(b"k"),
            value: Some(Bytes::from_static(b"v")),
            lease: 5,
        };
        let effects = Effects {
            changes: vec![put.clone(), Change { revision: 10, created: 0, value: None, lease: 0, ..put }],
            granted: vec![Grant { id: 5, ttl_seconds: 60, expires_unix_ms: 61_000 }],
            revoked: vec![6],
            compact: Some(8),
        };
        let section = Section { id: 3, new_name: Some("tenant"), effects: &effects };
        let (mut expected, mut read) = (Pending::default(), Pending::default());
        expected.add(&section);
        let mut payload = Vec::new();
        encode(&section, &mut payload, &mut Vec::new());
        read.add_payload(&payload).unwrap();
        assert_eq!(format!("{read:?}"), format!("{expected:?}"));
        let whole = (0..payload.len()).filter(|len| Pending::default().add_payload(&payload[..*len]).is_ok());
        assert!(whole.count() <= 6, "only cuts between entries can be read");
        assert!(Pending::default().add_payload(&[9, 0, 0, 0, 0]).is_err());
    }
}
