//! What fuzzers and bounded tests feed bytes to: plain functions that must neither panic nor run on, whatever the
//! bytes, and that check the laws their parts promise. `fuzz/` has a libFuzzer target for each; [`drive`] runs one
//! over mutations of seeds, the same ones every time, for tests.

use crate::managed::{self, FieldSet, Manager, Operation};
use crate::schema::{Mode, Schema, Type, check};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{object, patch};
use serde_json::{Map, Value, json};

/// Decisions out of bytes; zeros when they have run out.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.byte() as usize % bound.max(1)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Up to the next zero byte, as text.
    pub fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        text
    }

    /// A value: JSON text, or something whose members the type mostly knows.
    pub fn value(&mut self, schema: &Schema, ty: &Type) -> Value {
        if self.below(4) == 0 {
            let text = self.text();
            return serde_json::from_str(&text).unwrap_or(Value::Null);
        }
        let mut left = 64;
        self.shaped(schema, ty, 6, &mut left)
    }

    fn shaped(&mut self, schema: &Schema, ty: &Type, depth: usize, left: &mut usize) -> Value {
        const SCALARS: [&str; 8] = ["", "a", "b", "1", "delete", "replace", "merge", "TCP"];
        if *left == 0 || depth == 0 || self.0.is_empty() {
            return Value::Null;
        }
        *left -= 1;
        let kind = self.byte();
        match (kind % 16, ty) {
            (0, _) => Value::Null,
            (1, _) => Value::Bool(kind & 16 != 0),
            (2, _) => i64::from(kind >> 4).into(),
            (3, _) => SCALARS[self.below(SCALARS.len())].into(),
            (4, _) => {
                Value::Array((0..self.below(3)).map(|_| self.shaped(schema, ty, depth - 1, left)).collect())
            }
            (_, Type::Struct(id)) => {
                let fields = &schema.get(*id).fields;
                let mut map = Map::new();
                for _ in 0..self.below(4) {
                    let (name, value) = match self.byte() {
                        0..=15 => self.directive(schema, ty, depth, left),
                        chosen if !fields.is_empty() => {
                            let field = &fields[chosen as usize % fields.len()];
                            (field.name.clone(), self.shaped(schema, &field.ty, depth - 1, left))
                        }
                        _ => ("odd".to_owned(), 1.into()),
                    };
                    map.insert(name, value);
                }
                Value::Object(map)
            }
            (_, Type::List(list)) => Value::Array(
                (0..self.below(4)).map(|_| self.shaped(schema, &list.elem, depth - 1, left)).collect(),
            ),
            (_, Type::Map(elem)) => {
                let keys = ["k", "l", "$patch", ""];
                (0..self.below(4))
                    .map(|_| (keys[self.below(4)].to_owned(), self.shaped(schema, elem, depth - 1, left)))
                    .collect()
            }
            _ => SCALARS[self.below(SCALARS.len())].into(),
        }
    }

    /// A directive of strategic merge patches.
    fn directive(&mut self, schema: &Schema, ty: &Type, depth: usize, left: &mut usize) -> (String, Value) {
        let names = ["containers", "ports", "finalizers", "volumes", "tolerations", "spec"];
        let name = names[self.below(names.len())];
        match self.below(4) {
            0 => ("$patch".to_owned(), ["delete", "replace", "merge", "odd"][self.below(4)].into()),
            1 => ("$retainKeys".to_owned(), json!([name])),
            2 => (format!("$setElementOrder/{name}"), self.shaped(schema, ty, depth - 1, left)),
            _ => (format!("$deleteFromPrimitiveList/{name}"), json!(["a", 1])),
        }
    }
}

/// Every kind of patch, made of the bytes, on an object made of them.
pub fn patches(schema: &Schema, ty: &Type, data: &[u8]) {
    let mut input = Input::new(data);
    let (target, change) = (input.value(schema, ty), input.value(schema, ty));
    let _ = patch::merge::apply(&mut target.clone(), &change);
    let mut merged = target.clone();
    if patch::strategic::apply(schema, ty, &mut merged, &change).is_ok() {
        let _ = check(schema, ty, &mut merged, Mode::Report);
    }
    let paths =
        ["/spec", "/metadata/labels", "/spec/containers/0", "/a~1b", "/spec/containers/-", "", "/", "~"];
    let operations: Vec<Value> = (0..input.below(6))
        .map(|_| {
            let operation = ["add", "remove", "replace", "move", "copy", "test", "odd"][input.below(7)];
            let path = match input.below(3) {
                0 => input.text(),
                _ => paths[input.below(paths.len())].to_owned(),
            };
            let from = paths[input.below(paths.len())];
            json!({"op": operation, "path": path, "from": from, "value": input.byte()})
        })
        .collect();
    let mut patched = target.clone();
    let _ = patch::json::apply(&mut patched, &Value::Array(operations));
    let _ = patch::json::apply(&mut target.clone(), &change);
}

/// Field sets in their stored form, and applies of objects made of the bytes.
pub fn apply(schema: &Schema, ty: &Type, data: &[u8]) {
    let mut input = Input::new(data);
    let manager = |name, operation| Manager {
        name,
        operation,
        api_version: "v1",
        subresource: "",
        reset: managed::reset_fields(""),
        custom: false,
        versions: managed::ONE_FORM,
        time: "2026-11-21T09:00:00Z",
    };
    if input.below(3) == 0 {
        let texts = [input.text(), input.text()];
        let sets = texts
            .map(|text| serde_json::from_str(&text).ok().and_then(|v| FieldSet::from_fields_v1(&v).ok()));
        if let [Some(x), Some(y)] = sets {
            assert_eq!(
                x.difference(&y).union(&x.intersection(&y)),
                x,
                "a set is what it shares and what it does not"
            );
            assert!(x.difference(&y).intersection(&y).is_empty());
            assert_eq!(FieldSet::from_fields_v1(&x.to_fields_v1()), Ok(x.clone()), "stored and read again");
        }
        return;
    }
    let mut object = || {
        let mut value = input.value(schema, ty);
        if !value.is_object() {
            value = json!({});
        }
        object::set_type(&mut value, "v1", "Pod");
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        object::set_name(&mut value, "x");
        object::set_managed_fields(&mut value, Vec::new());
        let report = check(schema, ty, &mut value, Mode::Report);
        report.type_error.is_none().then_some(value)
    };
    let (Some(mut live), Some(applied), Some(mut next)) = (object(), object(), object()) else { return };
    managed::update(schema, ty, None, &mut live, &manager("writer", Operation::Update));
    let applier = manager("applier", Operation::Apply);
    let _ = managed::apply(schema, ty, Some(&live), &applied, &applier, false);
    if let Ok(first) = managed::apply(schema, ty, Some(&live), &applied, &applier, true) {
        let again = managed::apply(schema, ty, Some(&first), &applied, &applier, false);
        assert!(again.is_ok(), "what was forced conflicts with nobody: {again:?}");
        live = first;
    }
    managed::update(schema, ty, Some(&live), &mut next, &manager("other", Operation::Update));
    let _ = managed::apply(schema, ty, Some(&next), &applied, &applier, false);
}

/// Label and field selectors: what is read is written and read again as the same.
pub fn selectors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(selector) = LabelSelector::parse(&text) {
        assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text:?}");
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        // Terms are read in the order of their texts, which writing may change.
        let again = FieldSelector::parse(&selector.to_string()).expect("what was written is read");
        let same = |a: &FieldSelector, b: &FieldSelector| {
            a.requirements().iter().all(|requirement| b.requirements().contains(requirement))
        };
        assert!(same(&selector, &again) && same(&again, &selector), "{text:?}: {again:?}");
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data)
        && let Ok(selector) = LabelSelector::from_label_selector(&value)
    {
        let _ = LabelSelector::parse(&selector.to_string());
    }
}

/// Feeds `target` with `rounds` mutations of `seeds`, always the same ones.
pub fn drive(seeds: &[&[u8]], rounds: usize, mut target: impl FnMut(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = move |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % sides.max(1) as u64) as usize
    };
    seeds.iter().for_each(|seed| target(seed));
    for _ in 0..rounds {
        let mut bytes =
            if seeds.is_empty() || roll(4) == 0 { Vec::new() } else { seeds[roll(seeds.len())].to_vec() };
        for _ in 0..=roll(8) {
            let at = roll(bytes.len() + 1);
            match roll(6) {
                0 => bytes.extend((0..roll(40)).map(|_| roll(256) as u8)),
                1 if at < bytes.len() => bytes[at] ^= 1 << roll(8),
                2 if at < bytes.len() => bytes[at] = roll(256) as u8,
                3 => bytes.truncate(at),
                4 if !seeds.is_empty() => {
                    let other = seeds[roll(seeds.len())];
                    let from = roll(other.len() + 1);
                    bytes.splice(at..at, other[from..].iter().take(roll(64)).copied());
                }
                _ => bytes.insert(at, roll(256) as u8),
            }
        }
        target(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_selector_is_read_or_refused() {
        let seeds: [&[u8]; 4] = [
            b"a in (b,c),d notin (e),f,!g,h!=i,j>1",
            b"metadata.name=a\\,b,spec.nodeName!=c",
            b"x.y/z==w, q",
            br#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["v"]}]}"#,
        ];
        drive(&seeds, 30_000, selectors);
    }
}
