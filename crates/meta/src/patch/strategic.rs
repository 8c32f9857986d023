//! Strategic merge patch: JSON merge patch that knows which lists have keys.
//!
//! Directives: `$patch` (`replace`, `delete`, in a list's element too), `$retainKeys`,
//! `$setElementOrder/<list>` and `$deleteFromPrimitiveList/<list>`. The behaviour is that of apimachinery's
//! `strategicpatch` when the server applies a patch.

use super::{PatchError, go_type, not_an_object};
use crate::go;
use crate::schema::{Field, ListType, Schema, Type};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
const ORDER_PREFIX: &str = "$setElementOrder";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

/// Merges `patch` into `target`, an object of type `ty`.
pub fn apply(schema: &Schema, ty: &Type, target: &mut Value, patch: &Value) -> Result<()> {
    let Value::Object(patch) = patch else { return Err(not_an_object(patch)) };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().expect("it was just made an object");
    Merger { schema }.merge_map(target, patch.clone(), ty)
}

fn bad_request<T>(message: &str) -> Result<T> {
    Err(PatchError::BadRequest(message.to_owned()))
}

fn unclassified<T>(message: String) -> Result<T> {
    Err(PatchError::Unclassified(message))
}

fn no_merge_key<T>(element: &Object, key: &str) -> Result<T> {
    let element = go::percent_v(&Value::Object(element.clone()));
    unclassified(format!("map: {element} does not contain declared merge key: {key}"))
}

fn bad_type<T>(expected: &Value, got: &Value) -> Result<T> {
    unclassified(format!("expected a {}, but received a {}", go_type(expected), go_type(got)))
}

fn bad_directive<T>(directive: &Value, map: &Object) -> Result<T> {
    let map = go::percent_v(&Value::Object(map.clone()));
    unclassified(format!("unknown patch type: {} in map: {map}", go::percent_v(directive)))
}

/// The name of the list that a directive is about.
fn list_name<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// Removes null fields at any depth; they have nothing to remove.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without whatever carries a `$patch` directive; none if that is the value itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// What a list's elements are told apart by.
fn identity<'a>(element: &'a Value, merge_key: Option<&str>) -> Option<&'a Value> {
    match merge_key {
        None => Some(element),
        Some(key) => element.get(key),
    }
}

fn position(list: &[Value], wanted: &Value, merge_key: Option<&str>) -> Option<usize> {
    let wanted = identity(wanted, merge_key)?;
    list.iter().position(|element| identity(element, merge_key) == Some(wanted))
}

/// Brings `merged` into order: elements that `order` names in its order, the others where they stood in `server`
/// relative to the named ones.
fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|element| position(order, element, merge_key).is_some());
    named.sort_by_cached_key(|element| position(order, element, merge_key));
    others.sort_by_cached_key(|element| position(server, element, merge_key).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let take_other = match (others.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => {
                match (position(server, other, merge_key), position(server, named, merge_key)) {
                    (Some(other), Some(named)) => other < named,
                    _ => false,
                }
            }
        };
        result.extend(if take_other { others.next() } else { named.next() });
    }
}

/// Whether the elements are objects; they must all be of one type, and no lists.
fn holds_maps(lists: [&[Value]; 2]) -> Result<bool> {
    let mut elements = lists.into_iter().flatten().filter(|element| !element.is_null());
    let Some(first) = elements.next() else { return Ok(false) };
    if first.is_array() {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    match elements.find(|element| std::mem::discriminant(*element) != std::mem::discriminant(first)) {
        Some(Value::Array(_)) => Err(PatchError::Unprocessable("lists of lists are not supported".into())),
        Some(_) => unclassified("list element types are not identical".into()),
        None => Ok(first.is_object()),
    }
}

struct Merger<'s> {
    schema: &'s Schema,
}

impl<'s> Merger<'s> {
    /// The declared field and the type of a value inside a value of type `ty`.
    fn lookup(&self, ty: &'s Type, name: &str) -> Result<(Option<&'s Field>, &'s Type)> {
        match ty {
            Type::Struct(id) => {
                let ty = self.schema.get(*id);
                match (ty.field(name), &ty.others) {
                    (Some(field), _) => Ok((Some(field), &field.ty)),
                    (None, Some(others)) => Ok((None, others)),
                    (None, None) => unclassified(format!(
                        "unable to find api field in struct {} for the json field {}",
                        ty.short_name(),
                        go::quote(name)
                    )),
                }
            }
            Type::Map(elem) => Ok((None, elem)),
            _ => Ok((None, &Type::Any)),
        }
    }

    fn lookup_list(&self, ty: &'s Type, name: &str) -> Result<Option<&'s ListType>> {
        Ok(match self.lookup(ty, name)?.1 {
            Type::List(list) => Some(list),
            _ => None,
        })
    }

    fn merge_map(&self, target: &mut Object, mut patch: Object, ty: &'s Type) -> Result<()> {
        match patch.get(PATCH) {
            None => {}
            Some(directive) if directive == "replace" => {
                patch.remove(PATCH);
                *target = patch;
                return Ok(());
            }
            Some(directive) if directive == "delete" => {
                target.clear();
                return Ok(());
            }
            Some(directive) => return bad_directive(directive, &patch),
        }
        retain_keys(target, &mut patch)?;
        let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER_PREFIX)).cloned().collect();
        for key in orders {
            let order = patch.remove(&key).unwrap_or_default();
            self.merge_ordered(target, &mut patch, &key, order, ty)?;
        }
        for (key, value) in patch {
            if key.starts_with(DELETE_PREFIX) {
                let Some(name) = list_name(&key, DELETE_PREFIX) else {
                    return bad_request("invalid patch format of primitive list");
                };
                delete_from_list(target, name, value)?;
            } else {
                self.merge_field(target, key, value, ty)?;
            }
        }
        Ok(())
    }

    fn merge_field(&self, target: &mut Object, key: String, mut value: Value, ty: &'s Type) -> Result<()> {
        if value.is_null() {
            target.remove(&key);
            return Ok(());
        }
        match (target.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let (field, ty) = self.lookup(ty, &key)?;
                if field.is_some_and(|field| field.replace) {
                    *old = new;
                    Ok(())
                } else {
                    self.merge_map(old, new, ty)
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let list = self.lookup_list(ty, &key)?;
                *old = self.merge_list(std::mem::take(old), new, list)?;
                Ok(())
            }
            (old, new) => {
                value = new;
                // Scalars, and values of another type than the old one: the patch's replaces it.
                if old.is_none() || value.is_object() || value.is_array() {
                    drop_nulls(&mut value);
                }
                match without_directives(value) {
                    Some(value) => target.insert(key, value),
                    None => target.remove(&key),
                };
                Ok(())
            }
        }
    }

    fn merge_list(&self, old: Vec<Value>, new: Vec<Value>, list: Option<&'s ListType>) -> Result<Vec<Value>> {
        let Some(list) = list.filter(|list| list.patch.merge) else { return Ok(new) };
        if old.is_empty() && new.is_empty() {
            return Ok(old);
        }
        let key = list.patch.merge_key.as_deref();
        if !holds_maps([&old, &new])? {
            let server = old.clone();
            let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
            for element in old.into_iter().chain(new.iter().cloned()) {
                if !merged.contains(&element) {
                    merged.push(element);
                }
            }
            return Ok(in_order(merged, &new, &server, None));
        }
        let Some(key) = key else {
            return unclassified("cannot merge lists without merge key for struct".into());
        };
        let (old, new) = special_elements(old, new, key)?;
        let server = old.clone();
        let mut merged = old;
        for element in &new {
            let Some(patch) = element.as_object() else {
                return bad_type(&Value::Object(Map::new()), element);
            };
            if !patch.contains_key(key) {
                return no_merge_key(patch, key);
            }
            match position(&merged, element, Some(key)).and_then(|at| merged[at].as_object_mut()) {
                Some(target) => self.merge_map(target, patch.clone(), &list.elem)?,
                None => merged.push(element.clone()),
            }
        }
        if let Some(element) =
            merged.iter().filter_map(Value::as_object).find(|element| !element.contains_key(key))
        {
            return no_merge_key(element, key);
        }
        Ok(in_order(merged, &new, &server, Some(key)))
    }

    /// Merges the list that a `$setElementOrder` is about, and puts it in that order.
    fn merge_ordered(
        &self,
        target: &mut Object,
        patch: &mut Object,
        key: &str,
        order: Value,
        ty: &'s Type,
    ) -> Result<()> {
        const BAD: &str = "invalid patch format of setElementOrder list";
        let Value::Array(order) = order else { return bad_type(&Value::Array(Vec::new()), &order) };
        let Some(name) = list_name(key, ORDER_PREFIX) else { return bad_request(BAD) };
        for value in target.get(name).into_iter().chain(patch.get(name)) {
            if !value.is_array() {
                return bad_type(&Value::Array(Vec::new()), value);
            }
        }
        let list = self.lookup_list(ty, name)?;
        let merge_key = list.and_then(|list| list.patch.merge_key.as_deref());
        let new = match patch.remove(name) {
            Some(Value::Array(new)) => Some(new),
            _ => None,
        };
        validate_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let old = match target.get_mut(name) {
            Some(Value::Array(old)) => Some(std::mem::take(old)),
            _ => None,
        };
        let server = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => return Ok(()),
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(new)) => new,
                _ => Vec::new(),
            },
            (Some(old), Some(new)) => self.merge_list(old, new, list)?,
        };
        if let Some(merge_key) = merge_key {
            for element in merged.iter().chain(&order) {
                match element {
                    Value::Object(element) if element.contains_key(merge_key) => {}
                    Value::Object(element) => return no_merge_key(element, merge_key),
                    other => return bad_type(&Value::Object(Map::new()), other),
                }
            }
        }
        target.insert(name.to_owned(), Value::Array(in_order(merged, &order, &server, merge_key)));
        Ok(())
    }
}

/// Handles elements with `$patch`: `delete` removes the old element of that key, `replace` all old elements.
fn special_elements(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replaces = false;
    for element in new {
        let Some(map) = element.as_object() else { return bad_type(&Value::Object(Map::new()), &element) };
        match map.get(PATCH) {
            None => plain.push(element),
            Some(directive) if directive == "delete" => {
                if !map.contains_key(key) {
                    return no_merge_key(map, key);
                }
                old.retain(|other| identity(other, Some(key)) != identity(&element, Some(key)));
            }
            Some(directive) if directive == "replace" => replaces = true,
            Some(directive) if directive == "merge" => {
                return unclassified("merging lists cannot yet be specified in the patch".into());
            }
            Some(directive) => return bad_directive(directive, map),
        }
    }
    Ok(if replaces { (plain, Vec::new()) } else { (old, plain) })
}

/// Checks that the elements of a patch stand in the order list, in that order; deletions do not count.
fn validate_order(new: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<()> {
    if new.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in new.iter().filter(|element| element.get(PATCH).is_none()) {
        let wanted = identity(element, merge_key);
        if let (None, Some(key), Some(map)) = (wanted, merge_key, element.as_object()) {
            return no_merge_key(map, key);
        }
        if !rest.any(|other| identity(other, merge_key) == wanted) {
            return unclassified(format!(
                "The order in patch list:\n{}\n doesn't match {ORDER_PREFIX} list:\n{}\n",
                go::percent_v(&Value::Array(new.to_vec())),
                go::percent_v(&Value::Array(order.to_vec()))
            ));
        }
    }
    Ok(())
}

/// Handles `$retainKeys`: fields it does not name go; the patch must not set others.
fn retain_keys(target: &mut Object, patch: &mut Object) -> Result<()> {
    const BAD: &str = "invalid patch format of retainKeys";
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return bad_request(BAD) };
    let retained = |name: &String| keys.iter().any(|key| key == name.as_str());
    let foreign = |(name, value): (&String, &Value)| {
        !value.is_null()
            && !name.starts_with(DELETE_PREFIX)
            && !name.starts_with(ORDER_PREFIX)
            && !retained(name)
    };
    if patch.iter().any(foreign) {
        return bad_request(BAD);
    }
    target.retain(|name, _| retained(name));
    Ok(())
}

/// Removes scalars from a list.
fn delete_from_list(target: &mut Object, name: &str, values: Value) -> Result<()> {
    match (target.get_mut(name), values) {
        (_, Value::Null) => {
            target.remove(name);
        }
        (Some(Value::Array(old)), Value::Array(values)) => {
            if holds_maps([old, &values])? {
                return unclassified("cannot merge lists without merge key for struct".into());
            }
            old.retain(|element| !values.contains(element));
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
