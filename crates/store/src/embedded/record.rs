//! How a change looks on disk: the value of a row whose key is the keyspace and the revision.
//! `kind (1 byte: 1 put, 0 delete) | created (8) | lease (8) | key length (4) | key | value`, little endian.

use crate::Revision;
use crate::index::Change;
use bytes::Bytes;

const DELETE: u8 = 0;
const PUT: u8 = 1;
const HEADER: usize = 1 + 8 + 8 + 4;

/// Writes a change into `out`, which is emptied first.
pub(crate) fn encode(change: &Change, out: &mut Vec<u8>) {
    let value = change.value.as_deref();
    out.clear();
    out.reserve(HEADER + change.key.len() + value.map_or(0, <[u8]>::len));
    out.push(if value.is_some() { PUT } else { DELETE });
    out.extend_from_slice(&change.created.to_le_bytes());
    out.extend_from_slice(&change.lease.to_le_bytes());
    let key_len = u32::try_from(change.key.len()).expect("keys are far below 4 GB");
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(&change.key);
    out.extend_from_slice(value.unwrap_or_default());
}

/// Reads a change back; the error says what is wrong with the bytes.
pub(crate) fn decode(revision: Revision, record: &[u8]) -> Result<Change, String> {
    let wrong = |what: &str| Err(format!("the record of revision {revision} {what}"));
    let Some((header, rest)) = record.split_at_checked(HEADER) else { return wrong("is too short") };
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let key_len = u32::from_le_bytes(header[17..21].try_into().expect("four bytes")) as usize;
    let Some((key, value)) = rest.split_at_checked(key_len) else { return wrong("has a key beyond its end") };
    let value = match header[0] {
        PUT => Some(Bytes::copy_from_slice(value)),
        DELETE if value.is_empty() => None,
        _ => return wrong("is of an unknown kind"),
    };
    let created = u64_at(1);
    if created > revision {
        return wrong("was created after itself");
    }
    Ok(Change { revision, created, key: Bytes::copy_from_slice(key), value, lease: u64_at(9) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_back_as_written_and_cut_records_are_refused() {
        let put = Change {
            revision: 9,
            created: 3,
            key: Bytes::from_static(b"/registry/pods/a/b"),
            value: Some(Bytes::from_static(b"{}")),
            lease: 77,
        };
        let delete = Change { created: 0, value: None, lease: 0, ..put.clone() };
        let empty = Change { value: Some(Bytes::new()), ..put.clone() };
        let mut record = Vec::new();
        for change in [put, delete, empty] {
            encode(&change, &mut record);
            assert_eq!(decode(9, &record), Ok(change.clone()));
            assert!(decode(2, &record).is_err() || change.created == 0);
            for len in 0..HEADER + change.key.len() {
                assert!(decode(9, &record[..len]).is_err(), "cut to {len}");
            }
            record[0] = 7;
            assert!(decode(9, &record).is_err());
        }
    }
}
