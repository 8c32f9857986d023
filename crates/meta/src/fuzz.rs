//! Random input to everything that reads what clients send: nothing may panic, and a few laws hold.

use crate::managed::{self, FieldSet, Manager, Operation};
use crate::schema::testing::pod_like;
use crate::schema::{Mode, check};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{patch, quantity, time, validate};
use serde_json::{Map, Value, json};

/// A repeatable sequence (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    fn text(&mut self, parts: &[&str]) -> String {
        (0..self.roll(6)).map(|_| self.pick(parts)).collect()
    }

    /// A value under names that the schema of the tests mostly knows.
    fn value(&mut self, depth: usize) -> Value {
        const NAMES: [&str; 26] = [
            "metadata",
            "spec",
            "status",
            "labels",
            "finalizers",
            "containers",
            "ports",
            "containerPort",
            "protocol",
            "name",
            "image",
            "replicas",
            "strategy",
            "type",
            "rollingUpdate",
            "extra",
            "selector",
            "volumes",
            "tolerations",
            "limits",
            "managedFields",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "odd",
        ];
        match self.roll(if depth == 0 { 5 } else { 12 }) {
            0 => Value::Null,
            1 => self.roll(3).into(),
            2 => Value::Bool(self.roll(2) == 0),
            3 | 4 => self.pick(&["a", "b", "", "1", "replace", "delete", "TCP"]).into(),
            5 | 6 => (0..self.roll(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let mut map = Map::new();
                for _ in 0..self.roll(5) {
                    map.insert(self.pick(&NAMES).to_owned(), self.value(depth - 1));
                }
                Value::Object(map)
            }
        }
    }

    /// An object that fits the schema.
    fn object(&mut self) -> Value {
        let mut containers = Vec::new();
        for name in ["a", "b", "c"] {
            if self.roll(3) > 0 {
                let ports: Vec<Value> =
                    (0..self.roll(3)).map(|port| json!({"containerPort": port})).collect();
                containers.push(json!({"name": name, "image": self.pick(&["x", "y"]), "ports": ports}));
            }
        }
        let mut spec = json!({"containers": containers, "extra": self.value(2)});
        for field in ["replicas", "seconds", "ratio"] {
            if self.roll(2) == 0 {
                spec[field] = self.roll(3).into();
            }
        }
        let labels: Map<String, Value> = (0..self.roll(3))
            .map(|_| (self.pick(&["k", "l", "m"]).to_owned(), self.pick(&["1", "2"]).into()))
            .collect();
        json!({"apiVersion": "apps/v1", "kind": "Thing", "metadata": {"name": "x", "labels": labels}, "spec": spec})
    }
}

#[test]
fn random_texts_are_read_or_refused() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    const PARTS: [&str; 30] = [
        "a",
        "b",
        "in",
        "notin",
        "(",
        ")",
        ",",
        "=",
        "!",
        "<",
        ">",
        " ",
        "1",
        "0",
        ".",
        "-",
        "+",
        "e",
        "E",
        "Ki",
        "m",
        "n",
        "999999999999",
        "é",
        "\0",
        "\\",
        "T",
        ":",
        "Z",
        "2026-11-21T09:00:00",
    ];
    for _ in 0..5_000 {
        let text = dice.text(&PARTS);
        if let Ok(selector) = LabelSelector::parse(&text) {
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text:?}");
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector), "{text:?}");
        }
        if let Ok(canonical) = quantity::canonicalize(&text) {
            let (a, b) =
                (quantity::Quantity::parse(&text).unwrap(), quantity::Quantity::parse(&canonical).unwrap());
            assert_eq!(a, b, "{text:?}");
        }
        let _ =
            (time::parse(&text), validate::qualified_name(&text), validate::cidr(&text), validate::ip(&text));
        let _ = validate::mask_trailing_dash(&text);
    }
}

#[test]
fn random_patches_are_applied_or_refused() {
    let mut dice = Dice(0xdead_beef_cafe_f00d);
    let (schema, ty) = pod_like();
    for _ in 0..5_000 {
        let (target, patch) = (dice.value(4), dice.value(4));
        for apply in [patch::json::apply, patch::merge::apply] {
            let _ = apply(&mut target.clone(), &patch);
        }
        let _ = patch::strategic::apply(&schema, &ty, &mut target.clone(), &patch);
        let mut object = dice.object();
        let _ = patch::strategic::apply(&schema, &ty, &mut object, &patch);
        let ops: Vec<Value> = (0..dice.roll(4))
            .map(|_| {
                let path = dice.text(&["/spec", "/containers", "/0", "/-", "/-1", "/a~1", "~", "/"]);
                let op = dice.pick(&["add", "remove", "replace", "move", "copy", "test"]);
                json!({"op": op, "path": path, "from": "/spec", "value": dice.value(1)})
            })
            .collect();
        let _ = patch::json::apply(&mut object, &Value::Array(ops));
    }
}

#[test]
fn checking_twice_is_checking_once() {
    let mut dice = Dice(0x0123_4567_89ab_cdef);
    let (schema, ty) = pod_like();
    for _ in 0..5_000 {
        let mut value = if dice.roll(2) == 0 { dice.value(5) } else { dice.object() };
        if check(&schema, &ty, &mut value, Mode::Report).type_error.is_none() {
            let once = value.clone();
            assert_eq!(check(&schema, &ty, &mut value, Mode::Report), Default::default());
            assert_eq!(value, once);
        }
    }
}

#[test]
fn managed_fields_obey_their_laws() {
    let mut dice = Dice(0xfeed_face_dead_beef);
    let (schema, ty) = pod_like();
    let manager = |name, operation| Manager {
        name,
        operation,
        api_version: "apps/v1",
        subresource: "",
        reset: managed::reset_fields(""),
        custom: false,
        versions: managed::ONE_FORM,
        time: "2026-11-21T09:00:00Z",
    };
    for _ in 0..1_000 {
        let [mut a, mut b] = [dice.object(), dice.object()];
        for object in [&mut a, &mut b] {
            assert_eq!(check(&schema, &ty, object, Mode::Report).type_error, None);
        }
        let (x, y) = (FieldSet::of(&schema, &ty, &a), FieldSet::of(&schema, &ty, &b));
        assert_eq!(x.difference(&y).union(&x.intersection(&y)), x);
        assert!(x.difference(&y).intersection(&y).is_empty());
        assert_eq!(FieldSet::from_fields_v1(&x.to_fields_v1()), Ok(x.clone()));

        // Whoever applies by force gets what was applied; doing so again changes nothing.
        let mut live = a.clone();
        managed::update(&schema, &ty, None, &mut live, &manager("writer", Operation::Update));
        let applier = manager("applier", Operation::Apply);
        let first = managed::apply(&schema, &ty, Some(&live), &b, &applier, true).unwrap();
        // (An empty free-form map that is merged into another one is not to be seen in the outcome.)
        let mut plain = b.clone();
        crate::object::remove_path(&mut plain, &["spec", "extra"]);
        if plain["spec"] == json!({}) {
            crate::object::remove_path(&mut plain, &["spec"]);
        }
        let missing = FieldSet::of(&schema, &ty, &plain).difference(&FieldSet::of(&schema, &ty, &first));
        assert!(missing.is_empty(), "{missing:?} of {b} is not in {first}");
        let again = managed::apply(&schema, &ty, Some(&first), &b, &applier, false)
            .unwrap_or_else(|error| panic!("{error}: {live} then {b} made {first}"));
        assert_eq!(again, first);
        // Giving everything up leaves only what others own or nobody applied.
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Thing", "metadata": {"name": "x"}});
        let last = managed::apply(&schema, &ty, Some(&again), &nothing, &applier, false)
            .unwrap_or_else(|error| panic!("{error}: {live} then {b} made {again}"));
        assert!(crate::object::managed_fields(&last).iter().all(|entry| entry["manager"] != "applier"));

        // Any update leaves each field with one updater at most.
        let mut new = b.clone();
        managed::update(&schema, &ty, Some(&live), &mut new, &manager("other", Operation::Update));
        let sets: Vec<FieldSet> = crate::object::managed_fields(&new)
            .iter()
            .map(|entry| FieldSet::from_fields_v1(&entry["fieldsV1"]).unwrap())
            .collect();
        if let [one, two] = sets.as_slice() {
            assert!(one.intersection(two).is_empty());
        }
    }
}
