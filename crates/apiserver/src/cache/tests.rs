//! The parts of the cache by themselves; its behaviour as a whole is tested with the registry.

use super::*;
use crate::def::Selectable;
use crate::obj::Shape;
use knarr_meta::selector::LabelSelector;
use serde_json::json;

const PREFIX: &[u8] = b"/registry/pods/";

fn shape() -> Shape {
    Shape::new("", "v1", "Pod", &Selectable::table(&[("spec.nodeName", &["spec", "nodeName"], "")]))
}

fn pod(name: &str, node: &str, label: &str, revision: u64) -> Arc<Obj> {
    let value = json!({"metadata": {"name": name, "labels": {"app": label}}, "spec": {"nodeName": node}});
    let stored = shape().encode(&value);
    let obj = Obj::new(&shape(), PREFIX, key(PREFIX, "ns", name), stored.value, revision);
    Arc::new(obj.expect("a canonical value is read"))
}

#[test]
fn a_window_forgets_its_oldest_events_and_says_from_where_it_knows_all() {
    let mut window = Window::default();
    window.reset(10);
    for revision in 11..=5000 {
        window.push(Arc::new(Event::new(pod("a", "n", "x", revision), None, false)));
    }
    let since = window.since();
    assert!(since > 10 && since < 5000, "{since}");
    assert!(window.after(since - 1).is_none());
    assert_eq!(window.after(since).map(Iterator::count), Some((5000 - since) as usize));
    assert_eq!(window.after(4999).map(Iterator::count), Some(1));
    assert_eq!(window.after(6000).map(Iterator::count), Some(0));
}

#[test]
fn events_mean_different_things_to_different_filters() {
    let selector = LabelSelector::parse("app=x").expect("a valid selector");
    let filter = Filter { labels: Some(selector), ..Filter::default() };
    let (x, y) = (pod("a", "n", "x", 1), pod("a", "n", "y", 1));
    let event =
        |obj: &Arc<Obj>, prev: Option<&Arc<Obj>>, deleted| Event::new(obj.clone(), prev.cloned(), deleted);
    for (event, expected) in [
        (event(&x, None, false), Some("ADDED")),
        (event(&y, None, false), None),
        (event(&x, Some(&y), false), Some("ADDED")),
        (event(&x, Some(&x), false), Some("MODIFIED")),
        (event(&y, Some(&x), false), Some("DELETED")),
        (event(&y, Some(&y), false), None),
        (event(&x, Some(&x), true), Some("DELETED")),
        (event(&y, Some(&y), true), None),
    ] {
        assert_eq!(classify(&filter, &event).map(|matched| matched.name()), expected);
    }
}

#[test]
fn a_filter_looks_where_its_objects_are() {
    let requirement = |field, value: &str| Requirement { field, equal: true, value: value.to_owned() };
    let filter = |namespace: &str, fields: Vec<Requirement>| Filter {
        namespace: namespace.to_owned(),
        fields,
        ..Filter::default()
    };
    let name = requirement(Field::Name, "a");
    let node = requirement(Field::Slot(0), "n1");
    for (filter, trigger) in [
        (filter("", vec![]), Trigger::All),
        (filter("ns", vec![]), Trigger::Namespace("ns".into())),
        (filter("ns", vec![name.clone()]), Trigger::Key(key(PREFIX, "ns", "a"))),
        (filter("", vec![name]), Trigger::All),
        (filter("", vec![node.clone()]), Trigger::Field(0, "n1".into())),
        (filter("", vec![Requirement { equal: false, ..node }]), Trigger::All),
        (filter("", vec![requirement(Field::Slot(0), "")]), Trigger::All),
    ] {
        assert_eq!(filter.trigger(PREFIX, true), trigger);
    }
}

#[tokio::test]
async fn encodings_are_made_once_and_bounded() {
    let ctx = Ctx::system();
    let store = knarr_store::memory::MemoryStore::new(&ctx);
    let cache = Cache::new(&ctx, store, shape(), "/registry/pods");
    let obj = pod("a", "n", "x", 1);
    let made = AtomicU64::new(0);
    let make = |obj: &Obj| {
        let make = || {
            made.fetch_add(1, Ordering::Relaxed);
            Ok::<_, CacheError>(Bytes::from(vec![0; 1 << 20]))
        };
        cache.form(obj, 1, make).expect("it is made")
    };
    let first = make(&obj);
    assert_eq!((make(&obj).as_ptr(), made.load(Ordering::Relaxed)), (first.as_ptr(), 1));
    let others: Vec<_> = (0..8).map(|i| pod(&format!("b{i}"), "n", "x", 2)).collect();
    for other in &others {
        make(other);
    }
    make(&obj);
    assert_eq!(made.load(Ordering::Relaxed), 10, "the oldest was dropped to make room");
}
