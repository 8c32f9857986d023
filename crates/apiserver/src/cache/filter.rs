//! Which objects a list or watch is about: a namespace, label and field requirements, and whether that comes
//! down to one key, so that the cache needs to look at (and wake for) that key alone.

use crate::def::Selectable;
use crate::obj::{Obj, Shape};
use bytes::Bytes;
use knarr_meta::selector::LabelSelector;

/// What a field requirement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// Another selectable field, by its index in the shape.
    Slot(usize),
}

impl Field {
    /// The field of that label, if the kind supports it.
    pub fn find(shape: &Shape, label: &str) -> Option<Self> {
        match label {
            "metadata.name" => Some(Self::Name),
            "metadata.namespace" => Some(Self::Namespace),
            _ => shape.field(label).map(Self::Slot),
        }
    }

    /// The same for a resource with labels of its own over a cache that it shares (events of the newer group).
    pub fn of_resource(shape: &Shape, selectable: &[Selectable], label: &str) -> Option<Self> {
        match selectable.iter().find(|field| *field.label == *label) {
            Some(field) => shape.field_at(&field.path).map(Self::Slot),
            None => Self::find(shape, label).filter(|field| !matches!(field, Self::Slot(_))),
        }
    }

    fn of(self, obj: &Obj) -> &str {
        match self {
            Self::Name => obj.name(),
            Self::Namespace => obj.namespace(),
            Self::Slot(slot) => obj.field(slot),
        }
    }
}

/// `field=value` or `field!=value`.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// The field.
    pub field: Field,
    /// Whether it must be equal, or must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this namespace, if not empty.
    pub namespace: String,
    /// Labels.
    pub labels: Option<LabelSelector>,
    /// Fields.
    pub fields: Vec<Requirement>,
}

/// The narrowest index of the cache under which all matching objects are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Any object.
    All,
    /// One key.
    Key(Bytes),
    /// A selectable field with that value.
    Field(usize, Box<str>),
    /// One namespace.
    Namespace(Box<str>),
}

impl Filter {
    /// Whether label or field selectors restrict it (a namespace alone does not count).
    pub fn is_selective(&self) -> bool {
        self.labels.is_some() || !self.fields.is_empty()
    }

    /// The value that a field must have, if one is required.
    pub fn exact(&self, field: Field) -> Option<&str> {
        self.fields.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Narrows an all-namespaces filter whose fields name one namespace.
    pub fn narrow(&mut self) {
        if self.namespace.is_empty()
            && let Some(namespace) = self.exact(Field::Namespace)
        {
            self.namespace = namespace.to_owned();
        }
    }

    /// Whether an object is meant.
    pub fn matches(&self, obj: &Obj) -> bool {
        (self.namespace.is_empty() || obj.namespace() == self.namespace)
            && self.fields.iter().all(|r| (r.field.of(obj) == r.value) == r.equal)
            && self.labels.as_ref().is_none_or(|labels| labels.matches_with(|key| obj.label(key)))
    }

    /// Where to look for what may match, below `prefix` (the resource's, with its slash).
    pub fn trigger(&self, prefix: &[u8], namespaced: bool) -> Trigger {
        if let Some(name) = self.exact(Field::Name)
            && (!namespaced || !self.namespace.is_empty())
        {
            return Trigger::Key(key(prefix, if namespaced { &self.namespace } else { "" }, name));
        }
        if let Some(field) = self.fields.iter().find_map(|r| match r.field {
            Field::Slot(slot) if r.equal && !r.value.is_empty() => {
                Some(Trigger::Field(slot, r.value.as_str().into()))
            }
            _ => None,
        }) {
            return field;
        }
        if self.namespace.is_empty() {
            Trigger::All
        } else {
            Trigger::Namespace(self.namespace.as_str().into())
        }
    }
}

/// The key of an object below `prefix`.
pub fn key(prefix: &[u8], namespace: &str, name: &str) -> Bytes {
    let mut key = Vec::with_capacity(prefix.len() + namespace.len() + name.len() + 1);
    key.extend_from_slice(prefix);
    if !namespace.is_empty() {
        key.extend_from_slice(namespace.as_bytes());
        key.push(b'/');
    }
    key.extend_from_slice(name.as_bytes());
    key.into()
}
