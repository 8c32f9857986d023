//! etcd's messages as far as a store needs them (<https://etcd.io/docs/v3.5/dev-guide/api_reference_v3/>;
//! field numbers are those of `etcdserverpb` and `mvccpb`).

use super::wire::{Malformed, Reader, Writer};
use crate::{Expect, KeyValue, LeaseId, Revision};
use bytes::Bytes;

/// Calls by their path.
pub(super) mod call {
    pub const RANGE: &str = "/etcdserverpb.KV/Range";
    pub const TXN: &str = "/etcdserverpb.KV/Txn";
    pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
    pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
    pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
}

/// A read of keys.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeRequest {
    pub key: Bytes,
    pub end: Bytes,
    pub limit: u64,
    pub revision: Revision,
    pub count_only: bool,
}

impl RangeRequest {
    /// The message.
    pub fn write(&self) -> Writer {
        Writer::default()
            .bytes(1, key_or_zero(&self.key))
            .bytes(2, &self.end)
            .uint(3, self.limit)
            .uint(4, self.revision)
            .flag(9, self.count_only)
    }
}

/// etcd has no empty key; the one before all others is a zero byte.
fn key_or_zero(key: &[u8]) -> &[u8] {
    if key.is_empty() { &[0] } else { key }
}

/// The answer to it.
#[derive(Debug, Default)]
pub(super) struct RangeResponse {
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    pub count: u64,
}

impl RangeResponse {
    /// Reads the message.
    pub fn read(message: Bytes) -> Result<Self, Malformed> {
        let mut this = Self::default();
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            match field {
                1 => this.revision = header(value.bytes())?.revision,
                2 => this.kvs.push(Pair::read(value.bytes())?.kv),
                4 => this.count = value.uint(),
                _ => {}
            }
        }
        Ok(this)
    }
}

/// What every answer starts with.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub member: u64,
    pub revision: Revision,
}

/// Reads a header.
pub(super) fn header(message: Bytes) -> Result<Header, Malformed> {
    let mut header = Header::default();
    let mut reader = Reader(message);
    while let Some((field, value)) = reader.next()? {
        match field {
            2 => header.member = value.uint(),
            3 => header.revision = value.uint(),
            _ => {}
        }
    }
    Ok(header)
}

/// A key with what only the compactor looks at.
#[derive(Debug)]
struct Pair {
    kv: KeyValue,
    /// How often the key was put since it was made.
    version: u64,
}

impl Pair {
    fn read(message: Bytes) -> Result<Self, Malformed> {
        let mut kv = KeyValue {
            key: Bytes::new(),
            value: Bytes::new(),
            create_revision: 0,
            mod_revision: 0,
            lease: 0,
        };
        let mut version = 0;
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            match field {
                1 => kv.key = value.bytes(),
                2 => kv.create_revision = value.uint(),
                3 => kv.mod_revision = value.uint(),
                4 => version = value.uint(),
                5 => kv.value = value.bytes(),
                6 => kv.lease = value.uint(),
                _ => {}
            }
        }
        Ok(Self { kv, version })
    }
}

/// What a transaction does where its condition holds.
pub(super) enum Write {
    /// Puts the key.
    Put(Bytes, LeaseId),
    /// Deletes it.
    Delete,
}

/// A write on the condition that the key was last changed at `expect`; otherwise the key is read.
pub(super) fn conditional(key: &Bytes, expect: Expect, write: &Write) -> Bytes {
    const EQUAL_MOD: u64 = 2;
    let revision = match expect {
        Expect::Absent => 0,
        Expect::Unchanged(revision) => revision,
    };
    let compare = Writer::default().uint(2, EQUAL_MOD).bytes(3, key).explicit(6, revision);
    transaction(compare, key, write)
}

/// The compactor's write: on the condition that the key was put `version` times.
pub(super) fn put_at_version(key: &Bytes, version: u64, value: Bytes) -> Bytes {
    let compare = Writer::default().bytes(3, key).explicit(4, version);
    transaction(compare, key, &Write::Put(value, 0))
}

fn transaction(compare: Writer, key: &Bytes, write: &Write) -> Bytes {
    let operation = match write {
        Write::Put(value, lease) => {
            let put = Writer::default().bytes(1, key).bytes(2, value).uint(3, *lease);
            Writer::default().message(2, put)
        }
        Write::Delete => Writer::default().message(3, Writer::default().bytes(1, key)),
    };
    let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let otherwise = Writer::default().message(1, read.write());
    Writer::default().message(1, compare).message(2, operation).message(3, otherwise).finish()
}

/// The answer to such a write.
#[derive(Debug, Default)]
pub(super) struct TxnResponse {
    pub revision: Revision,
    pub succeeded: bool,
    /// The key as it is, where the condition did not hold.
    pub current: Option<KeyValue>,
    /// How often it was put.
    pub version: u64,
}

impl TxnResponse {
    /// Reads the message.
    pub fn read(message: Bytes) -> Result<Self, Malformed> {
        let mut this = Self::default();
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            match field {
                1 => this.revision = header(value.bytes())?.revision,
                2 => this.succeeded = value.flag(),
                3 => this.read_operation(value.bytes())?,
                _ => {}
            }
        }
        Ok(this)
    }

    fn read_operation(&mut self, message: Bytes) -> Result<(), Malformed> {
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            if field != 1 {
                continue;
            }
            let mut range = Reader(value.bytes());
            while let Some((field, value)) = range.next()? {
                if field == 2 {
                    let pair = Pair::read(value.bytes())?;
                    self.version = pair.version;
                    self.current = Some(pair.kv);
                }
            }
        }
        Ok(())
    }
}

/// Starts a watch of `key..end` from a revision: previous values, fragments, and word on its progress from time
/// to time.
pub(super) fn watch_create(key: &[u8], end: &[u8], from: Revision) -> Bytes {
    let create = Writer::default()
        .bytes(1, key_or_zero(key))
        .bytes(2, end)
        .uint(3, from)
        .flag(4, true)
        .flag(6, true)
        .flag(8, true);
    Writer::default().message(1, create).finish()
}

/// Asks for word on the progress of a stream's watches.
pub(super) fn watch_progress() -> Bytes {
    Writer::default().message(3, Writer::default()).finish()
}

/// One change.
#[derive(Debug)]
pub(super) struct Event {
    pub deleted: bool,
    pub kv: KeyValue,
    pub prev: Option<KeyValue>,
}

/// What a watch says.
#[derive(Debug, Default)]
pub(super) struct WatchResponse {
    pub revision: Revision,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: Revision,
    pub cancel_reason: String,
    /// More of the same changes follow in another message.
    pub fragment: bool,
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Reads the message.
    pub fn read(message: Bytes) -> Result<Self, Malformed> {
        let mut this = Self::default();
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            match field {
                1 => this.revision = header(value.bytes())?.revision,
                3 => this.created = value.flag(),
                4 => this.canceled = value.flag(),
                5 => this.compact_revision = value.uint(),
                6 => this.cancel_reason = String::from_utf8_lossy(&value.bytes()).into_owned(),
                7 => this.fragment = value.flag(),
                11 => this.events.push(event(value.bytes())?),
                _ => {}
            }
        }
        Ok(this)
    }
}

fn event(message: Bytes) -> Result<Event, Malformed> {
    let (mut deleted, mut kv, mut prev) = (false, None, None);
    let mut reader = Reader(message);
    while let Some((field, value)) = reader.next()? {
        match field {
            1 => deleted = value.uint() == 1,
            2 => kv = Some(Pair::read(value.bytes())?.kv),
            3 => prev = Some(Pair::read(value.bytes())?.kv),
            _ => {}
        }
    }
    Ok(Event { deleted, kv: kv.ok_or(Malformed)?, prev })
}

/// Forgets history before a revision.
pub(super) fn compaction(revision: Revision) -> Bytes {
    Writer::default().uint(1, revision).finish()
}

/// Asks for a lease of `ttl_seconds`; etcd chooses the identifier.
pub(super) fn lease_grant(ttl_seconds: u64) -> Bytes {
    Writer::default().uint(1, ttl_seconds).finish()
}

/// The lease that was granted.
pub(super) fn lease_granted(message: Bytes) -> Result<LeaseId, Malformed> {
    let mut id = 0;
    let mut reader = Reader(message);
    while let Some((field, value)) = reader.next()? {
        if field == 2 {
            id = value.uint();
        }
    }
    if id == 0 { Err(Malformed) } else { Ok(id) }
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusResponse {
    /// Who answers.
    pub member: u64,
    pub revision: Revision,
    pub version: String,
    pub db_size: u64,
    /// Who leads, 0 when nobody does.
    pub leader: u64,
}

impl StatusResponse {
    /// Reads the message.
    pub fn read(message: Bytes) -> Result<Self, Malformed> {
        let mut this = Self::default();
        let mut reader = Reader(message);
        while let Some((field, value)) = reader.next()? {
            match field {
                1 => {
                    let header = header(value.bytes())?;
                    (this.member, this.revision) = (header.member, header.revision);
                }
                2 => this.version = String::from_utf8_lossy(&value.bytes()).into_owned(),
                3 => this.db_size = value.uint(),
                4 => this.leader = value.uint(),
                _ => {}
            }
        }
        Ok(this)
    }
}
