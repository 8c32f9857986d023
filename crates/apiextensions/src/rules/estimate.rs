//! What the rules of a definition may cost, told when the definition is written (upstream's `CELSchemaContext`): a
//! rule under lists and maps without bounds is run as often as a request has room for its values.

use crate::schema::Schema;
use knarr_cel::{DeclType, escape};
use knarr_meta::field::Path;
use serde_json::Value;
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

/// What one expression may cost.
pub(crate) const EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all expressions of one schema may cost together.
pub(crate) const SCHEMA_LIMIT: u64 = 100_000_000;
/// How many of the most expensive rules are named.
const NAMED: usize = 4;

/// How a schema hangs under its parent.
enum Step<'a> {
    Root,
    Field(&'a str),
    Element,
}

/// A schema on the way down, with what its values look like to rules and how many there may be.
pub(crate) struct Context<'a> {
    parent: Option<&'a Context<'a>>,
    step: Step<'a>,
    schema: &'a Schema,
    /// The schema as written.
    json: &'a Value,
    /// Whether there are rules here or above.
    in_scope: bool,
    /// How many values there may be; none if there is no bound.
    pub(crate) cardinality: Option<u64>,
    decl: OnceCell<Option<Arc<DeclType>>>,
    total: &'a RefCell<Total>,
}

/// The cost of all rules so far.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) cost: u64,
    /// The most expensive ones, worst first.
    pub(crate) worst: Vec<(Path, u64)>,
}

impl<'a> Context<'a> {
    pub(crate) fn root(schema: &'a Schema, json: &'a Value, total: &'a RefCell<Total>) -> Self {
        Self {
            parent: None,
            step: Step::Root,
            schema,
            json,
            in_scope: !schema.validations.is_empty(),
            cardinality: Some(1),
            decl: OnceCell::new(),
            total,
        }
    }

    fn child(&'a self, step: Step<'a>, schema: &'a Schema, json: &'a Value) -> Context<'a> {
        let factor = match (self.schema.type_.as_str(), self.schema.additional_properties.is_some()) {
            ("object", true) => self.schema.max_properties,
            ("array", _) => self.schema.max_items,
            _ => Some(1),
        };
        let factor = factor.map(|n| u64::try_from(n).unwrap_or(0));
        Context {
            parent: Some(self),
            step,
            schema,
            json,
            in_scope: self.in_scope || !schema.validations.is_empty(),
            cardinality: self.cardinality.zip(factor).map(|(count, factor)| count.saturating_mul(factor)),
            decl: OnceCell::new(),
            total: self.total,
        }
    }

    pub(crate) fn field(&'a self, name: &'a str, schema: &'a Schema) -> Context<'a> {
        self.child(Step::Field(name), schema, &self.json["properties"][name])
    }

    pub(crate) fn items(&'a self, schema: &'a Schema) -> Context<'a> {
        self.child(Step::Element, schema, &self.json["items"])
    }

    pub(crate) fn additional(&'a self, schema: &'a Schema) -> Context<'a> {
        self.child(Step::Element, schema, &self.json["additionalProperties"])
    }

    /// What values look like to rules; none out of their scope and where they cannot see values.
    pub(crate) fn decl(&self) -> Option<&Arc<DeclType>> {
        if !self.in_scope {
            return None;
        }
        let made = self.decl.get_or_init(|| {
            let parent = self.parent.and_then(Context::decl);
            let known = parent.and_then(|parent| match self.step {
                Step::Field(name) => parent.field(&escape(name)?).cloned(),
                Step::Element => parent.elem().cloned(),
                Step::Root => None,
            });
            let is_root = self.parent.is_none() || self.schema.embedded_resource;
            known.or_else(|| DeclType::from_schema(self.json, is_root))
        });
        made.as_ref()
    }

    /// Adds the cost of an expression, which stands at `path`, to that of all.
    pub(crate) fn observe(&self, path: Path, cost: u64) {
        let mut total = self.total.borrow_mut();
        total.cost = total.cost.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            total.worst.push((path, cost));
            total.worst.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            total.worst.truncate(NAMED);
        }
    }
}

/// The text about a cost beyond its limit.
pub(crate) fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
