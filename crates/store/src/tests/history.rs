//! Old versions are packed, and nobody can tell but by the memory they take.

use crate::Range;
use crate::index::{Change, Index};
use bytes::Bytes;
use std::fmt::Write;

/// The next number of a fixed sequence below `limit`.
fn next(seed: &mut u64, limit: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*seed >> 33) % limit
}

/// An object of some kilobytes whose state changes: most of it stays as it is from version to version.
fn object(key: u64, version: u64) -> Bytes {
    let mut text = format!("{{\"kind\":\"Pod\",\"name\":\"pod-{key}\",\"version\":{version}");
    for field in 0..60 {
        let since = version / (field + 1);
        write!(text, ",\"field-{field}\":{{\"since\":\"{since}\",\"of\":\"{}\"}}", key * 31 + field).unwrap();
    }
    text.push('}');
    text.into()
}

fn everything(at: u64) -> Range {
    Range { start: Bytes::new(), end: Bytes::from_static(&[0]), at: Some(at), ..Range::default() }
}

/// Packs whatever is old, as the store does.
fn pack(index: &mut Index, at_once: usize) {
    while let Some((cold, to)) = index.cold(at_once) {
        let packed = cold.into_iter().map(|cold| {
            let packed = cold.pack();
            (cold, packed)
        });
        let packed = packed.collect();
        index.settle(packed, to);
    }
}

fn same(one: &Index, other: &Index) {
    let (compacted, revision) = (one.compacted().max(1), one.revision());
    assert_eq!((other.compacted().max(1), other.revision()), (compacted, revision));
    for at in (compacted..=revision).step_by(37).chain([revision]) {
        let (one, other) = (one.range(&everything(at)).unwrap(), other.range(&everything(at)).unwrap());
        assert_eq!((one.count, one.kvs), (other.count, other.kvs), "at {at}");
    }
    let events = |index: &Index| index.events(&[], &[0], compacted + 1).unwrap();
    for (one, other) in events(one).iter().zip(&events(other)) {
        assert_eq!((&one.kv, &one.prev, one.deleted), (&other.kv, &other.prev, other.deleted));
    }
    assert_eq!(events(one).len(), events(other).len());
}

#[test]
fn packed_history_reads_as_it_was_written() {
    let (mut plain, mut packed, mut seed, mut dead) =
        (Index::default(), Index::default(), 7, (Vec::new(), Vec::new()));
    // Some keys change all the time, some now and then; pods come and go; some values do not pack.
    for step in 0..6000_u64 {
        let number = match next(&mut seed, 4) {
            0 => next(&mut seed, 3),
            1 => 10 + next(&mut seed, 400),
            _ => 1000 + step / 12,
        };
        let key = Bytes::from(format!("/registry/pods/{number:05}"));
        let current = plain.current(&key);
        let revision = plain.revision() + 1;
        let delete = current.is_some() && next(&mut seed, 8) == 0;
        let value = match next(&mut seed, 10) {
            0 => Bytes::from((0..300).map(|_| next(&mut seed, 256) as u8).collect::<Vec<_>>()),
            1 => Bytes::new(),
            _ => object(number, step),
        };
        let change = Change {
            revision,
            created: if delete { 0 } else { current.map_or(revision, |kv| kv.create_revision) },
            key,
            value: (!delete).then_some(value),
            lease: 0,
        };
        plain.apply(change.clone());
        packed.apply(change);
        if step % 50 == 0 {
            pack(&mut packed, 8);
        }
        if step % 2500 == 2400 {
            same(&plain, &packed);
            let at = revision - 1800;
            for (index, dead) in [(&mut plain, &mut dead.0), (&mut packed, &mut dead.1)] {
                index.compact(at).unwrap();
                while !index.forget(100, dead) {}
            }
            dead.0.sort_unstable();
            dead.1.sort_unstable();
            assert_eq!(dead.0, dead.1);
        }
    }
    same(&plain, &packed);
    let (before, after) = (plain.history_bytes(), packed.history_bytes());
    assert!(after < before / 10 * 6, "{before} bytes of history were packed to {after}");
    // What is forgotten in the end was accounted for to the byte.
    for index in [&mut plain, &mut packed] {
        index.compact(index.revision()).unwrap();
        while !index.forget(1000, &mut Vec::new()) {}
        assert_eq!(index.history_bytes(), 0);
    }
}

#[test]
fn what_changes_packs_to_a_fraction() {
    // The life of a hundred pods, eight versions each, and a lease that is renewed.
    let mut index = Index::default();
    let put = |index: &mut Index, key: String, value| {
        let revision = index.revision() + 1;
        index.apply(Change { revision, created: revision, key: key.into(), value, lease: 0 });
    };
    for pod in 0..100 {
        for version in 0..8 {
            put(&mut index, format!("/pods/{pod}"), Some(object(pod, version)));
            put(&mut index, "/lease".to_owned(), Some(object(999, 8 * pod + version)));
        }
        put(&mut index, format!("/pods/{pod}"), None);
    }
    let before = index.history_bytes();
    pack(&mut index, 32);
    // A third of the changes is too young.
    let old = 1.0 - 512.0 / index.revision() as f64;
    let packed = 1.0 - (before - index.history_bytes()) as f64 / (before as f64 * old);
    assert!(packed < 0.3, "the old part still takes {packed} of what it took");
}
