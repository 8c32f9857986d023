//! Validation by rules (`x-kubernetes-validations`, KEP-2876): the rules of a schema as a tree beside it, run over
//! values within a budget (upstream's `schema/cel.Validator`).

mod compile;
pub(crate) mod estimate;

pub(crate) use compile::{Compiled, rules as compile_rules};

use crate::schema::Schema;
use crate::validate::{Correlation, list_key};
use knarr_cel::{Bindings, DeclType, PER_CALL_LIMIT, Program, RUNTIME_COST_BUDGET, escape};
use knarr_meta::field::{self, ErrorList, ErrorType, FieldError, Path};
use knarr_meta::go;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest message that an expression may make.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;
const NO_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of what is below it; only parts with rules are there.
#[derive(Debug)]
pub(crate) struct Validator {
    /// The type of the values, for error texts.
    type_: String,
    decl: Option<Arc<DeclType>>,
    rules: Vec<Compiled>,
    /// Rules without a declared type cannot be compiled.
    broken: bool,
    uses_old_self: bool,
    items: Option<Box<Validator>>,
    /// The keys by which elements are found again; none where they cannot be.
    map_keys: Option<Vec<String>>,
    properties: BTreeMap<String, Validator>,
    additional: Option<Box<Validator>>,
    correlatable: bool,
}

/// What rules found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub errors: ErrorList,
    /// What is wrong in parts that did not change.
    pub warnings: Vec<String>,
}

/// What a budget was used up for.
struct Exhausted;

/// Whether a schema or one below it, as far as rules may stand, has rules.
pub(crate) fn has_rules(schema: &Schema) -> bool {
    !schema.validations.is_empty()
        || schema.items.as_deref().is_some_and(has_rules)
        || schema.additional().is_some_and(has_rules)
        || schema.properties.values().any(has_rules)
}

impl Validator {
    /// Compiles the rules of a schema; none if there are none. `json` is the schema as it was written.
    pub(crate) fn new(schema: &Schema, json: &Value, is_root: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        Self::node(schema, json, DeclType::from_schema(json, is_root))
    }

    fn node(schema: &Schema, json: &Value, decl: Option<Arc<DeclType>>) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        let rules = decl.as_ref().map(|decl| compile_rules(schema, decl)).unwrap_or_default();
        let broken = decl.is_none() && !schema.validations.is_empty();
        let elem = || decl.as_ref().and_then(|decl| decl.elem().cloned());
        let items = schema.items.as_deref().and_then(|items| Self::node(items, &json["items"], elem()));
        let additional =
            schema.additional().and_then(|other| Self::node(other, &json["additionalProperties"], elem()));
        let mut properties = BTreeMap::new();
        for (name, field) in &schema.properties {
            let json = &json["properties"][name];
            let declared = match escape(name) {
                // Fields that expressions cannot see have no rules either.
                Some(identifier) => decl.as_ref().and_then(|decl| decl.field(&identifier).cloned()),
                None => DeclType::from_schema(json, field.embedded_resource),
            };
            if declared.is_some()
                && let Some(validator) = Self::node(field, json, declared)
            {
                properties.insert(name.clone(), validator);
            }
        }
        if rules.is_empty() && !broken && items.is_none() && additional.is_none() && properties.is_empty() {
            return None;
        }
        Some(Self {
            type_: schema.type_.clone(),
            uses_old_self: rules.iter().any(|rule| rule.uses_old_self),
            decl,
            rules,
            broken,
            items: items.map(Box::new),
            map_keys: (schema.list_type.as_deref() == Some("map")).then(|| schema.list_map_keys.clone()),
            properties,
            additional: additional.map(Box::new),
            correlatable: matches!(schema.map_type.as_deref(), None | Some("granular" | "atomic")),
        })
    }

    /// Runs the rules over a value, within the budget of one request.
    pub(crate) fn validate(
        &self,
        value: &Value,
        old: Option<&Value>,
        correlation: Option<Correlation<'_>>,
        path: &Path,
    ) -> Findings {
        let mut budget = RUNTIME_COST_BUDGET as i64;
        self.validate_within(value, old, correlation, path, &mut budget)
    }

    /// The same within a budget that is negative once it is used up.
    pub(crate) fn validate_within(
        &self,
        value: &Value,
        old: Option<&Value>,
        correlation: Option<Correlation<'_>>,
        path: &Path,
        budget: &mut i64,
    ) -> Findings {
        let mut run = Run { findings: Findings::default(), budget: *budget };
        let ratchet = Ratchet { current: correlation.map(|correlation| (correlation, value)), parent: None };
        if run.node(self, value, old, ratchet, path).is_err() {
            run.budget = -1;
        }
        *budget = run.budget;
        run.findings
    }
}

/// Where the value stood before, and where its nearest ancestor that had one did.
#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    current: Option<(Correlation<'a>, &'a Value)>,
    parent: Option<(Correlation<'a>, &'a Value)>,
}

impl<'a> Ratchet<'a> {
    fn unchanged(&self) -> bool {
        self.current.or(self.parent).is_some_and(|(before, now)| before.is_equal(now))
    }

    fn key(self, name: &str, value: &'a Value) -> Self {
        let Some((current, _)) = self.current else { return self };
        // Old and new object are of one type here, whatever they were.
        if self.parent.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self::default();
        }
        Self { current: current.key(name).map(|child| (child, value)), parent: self.current }
    }

    fn index(self, value: &'a Value) -> Self {
        let Some((current, _)) = self.current else { return self };
        Self { current: current.index(value).map(|child| (child, value)), parent: self.current }
    }
}

struct Run {
    findings: Findings,
    budget: i64,
}

impl Run {
    fn node(
        &mut self,
        validator: &Validator,
        value: &Value,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
        path: &Path,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        self.rules(validator, value, old, ratchet, path)?;
        match value {
            Value::Array(list) => {
                let Some(items) = &validator.items else { return Ok(()) };
                let before = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for (index, value) in list.iter().enumerate() {
                    let old = validator.map_keys.as_ref().and_then(|keys| same_key(before, value, keys));
                    self.node(items, value, old, ratchet.index(value), &path.index(index))?;
                }
            }
            Value::Object(map) => {
                let before = old.filter(|_| validator.correlatable).and_then(Value::as_object);
                if let Some(additional) = &validator.additional {
                    for (name, value) in map {
                        let old = before.and_then(|before| before.get(name));
                        self.node(additional, value, old, ratchet.key(name, value), &path.key(name.clone()))?;
                    }
                }
                for (name, field) in &validator.properties {
                    let Some(value) = map.get(name) else { continue };
                    let old = before.and_then(|before| before.get(name));
                    self.node(field, value, old, ratchet.key(name, value), &path.child(name.clone()))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(
        &mut self,
        validator: &Validator,
        value: &Value,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
        path: &Path,
    ) -> Result<(), Exhausted> {
        let type_ = &validator.type_;
        let fail = |detail: String| field::invalid(path, type_, detail);
        let decl = match &validator.decl {
            Some(decl) if !validator.broken => decl,
            _ if validator.broken => {
                let detail = "rule compiler initialization error: failed to convert to declType for CEL validation rules";
                self.findings.errors.push(fail(detail.into()));
                return Ok(());
            }
            _ => return Ok(()),
        };
        if validator.rules.is_empty() {
            return Ok(());
        }
        if self.budget <= 0 {
            self.findings.errors.push(fail(NO_BUDGET.into()));
            return Err(Exhausted);
        }
        for compiled in &validator.rules {
            let rule = &compiled.rule;
            if let Some(error) = &compiled.error {
                self.findings.errors.push(fail(format!("rule compile error: {error}")));
                continue;
            }
            let Some(program) = &compiled.program else { continue };
            let optional = rule.optional_old_self == Some(true);
            if compiled.uses_old_self && old.is_none() && !optional {
                continue;
            }
            let bindings = match bind(value, old.filter(|_| validator.uses_old_self), decl, optional) {
                Ok(bindings) => bindings,
                Err(error) => {
                    self.findings.errors.push(fail(format!("{error} evaluating rule: {}", named(compiled))));
                    continue;
                }
            };
            let outcome = program.eval(&bindings, PER_CALL_LIMIT);
            if !self.spend(outcome.cost) {
                self.findings.errors.push(fail(NO_BUDGET.into()));
                return Err(Exhausted);
            }
            match outcome.value {
                Ok(result) if result.as_bool() == Some(true) => continue,
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    if error.is_cost_exceeded() {
                        let detail = format!(
                            "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                            named(compiled)
                        );
                        self.findings.errors.push(fail(detail));
                        return Err(Exhausted);
                    }
                    self.findings.errors.push(fail(if text.starts_with("no such overload") {
                        format!("'{text}': call arguments did not match a supported operator, function or macro signature for rule: {}", named(compiled))
                    } else {
                        format!("{text} evaluating rule: {}", named(compiled))
                    }));
                    continue;
                }
            }
            let at = match &compiled.path {
                Some(below) => path.child(below.clone()),
                None => path.clone(),
            };
            let (error, stop) = self.failure(compiled, validator, value, old, decl, &at);
            if !compiled.uses_old_self && ratchet.unchanged() {
                self.findings.warnings.push(error.to_string());
            } else {
                self.findings.errors.push(error);
            }
            if stop {
                return Err(Exhausted);
            }
        }
        Ok(())
    }

    /// Takes a cost from the budget; whether it was there.
    fn spend(&mut self, cost: u64) -> bool {
        match i64::try_from(cost) {
            Ok(cost) if cost <= self.budget => {
                self.budget -= cost;
                true
            }
            _ => false,
        }
    }

    /// The error of a rule that failed, and whether it is the last one.
    fn failure(
        &mut self,
        compiled: &Compiled,
        validator: &Validator,
        value: &Value,
        old: Option<&Value>,
        decl: &Arc<DeclType>,
        at: &Path,
    ) -> (FieldError, bool) {
        let mut detail = None;
        if let Some(program) = &compiled.message {
            match self.message(program, &compiled.rule.message_expression, validator, value, old, decl) {
                Ok(message) => detail = Some(message),
                Err(Some(problem)) => return (field::invalid(at, &validator.type_, problem), true),
                // Whatever else is wrong with the expression, the rule's own message is there.
                Err(None) => {}
            }
        }
        let detail = detail.unwrap_or_else(|| match compiled.rule.message.as_str() {
            "" => format!("failed rule: {}", compiled.rule.rule.trim()),
            message => message.trim().to_owned(),
        });
        // What is large is not shown.
        let hidden = matches!(validator.type_.as_str(), "object" | "array");
        let mut error = match compiled.rule.reason.as_deref() {
            Some("FieldValueForbidden") => field::forbidden(at, detail),
            Some("FieldValueRequired") => field::required(at, detail),
            Some("FieldValueDuplicate") => field::duplicate(at, value),
            _ => field::invalid(at, value, detail),
        };
        if hidden && matches!(error.kind, ErrorType::Invalid | ErrorType::Duplicate) {
            error.value = None;
        }
        (error, false)
    }

    /// What a message expression makes; a text in the error ends validation.
    fn message(
        &mut self,
        program: &Program,
        expression: &str,
        validator: &Validator,
        value: &Value,
        old: Option<&Value>,
        decl: &Arc<DeclType>,
    ) -> Result<String, Option<String>> {
        let bindings = bind(value, old.filter(|_| validator.uses_old_self), decl, false).map_err(|_| None)?;
        let outcome = program.eval(&bindings, PER_CALL_LIMIT);
        if i64::try_from(outcome.cost).is_ok_and(|cost| cost > self.budget) {
            return Err(Some(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .into(),
            ));
        }
        let result = match outcome.value {
            Err(error) if error.is_cost_exceeded() => {
                return Err(Some(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                    go::quote(expression)
                )));
            }
            result => result,
        };
        self.spend(outcome.cost);
        let result = result.map_err(|_| None)?;
        let text = result.as_str().ok_or(None)?.trim();
        if text.len() > MAX_MESSAGE_BYTES || text.contains('\n') || text.is_empty() {
            return Err(None);
        }
        Ok(text.to_owned())
    }
}

fn bind<'a>(
    value: &'a Value,
    old: Option<&'a Value>,
    decl: &'a DeclType,
    optional: bool,
) -> Result<Bindings<'a>, knarr_cel::EvalError> {
    let mut bindings = Bindings::new();
    bindings.set("self", knarr_cel::Value::typed(value, decl)?);
    match (old, optional) {
        (Some(old), false) => bindings.set("oldSelf", knarr_cel::Value::typed(old, decl)?),
        (Some(old), true) => {
            bindings.set("oldSelf", knarr_cel::Value::some(knarr_cel::Value::typed(old, decl)?));
        }
        (None, true) => bindings.set("oldSelf", knarr_cel::Value::none()),
        (None, false) => {}
    }
    Ok(bindings)
}

/// How error texts name a rule.
fn named(compiled: &Compiled) -> &str {
    let rule = &compiled.rule;
    if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() }
}

fn same_key<'a>(list: &'a [Value], element: &Value, keys: &[String]) -> Option<&'a Value> {
    let wanted = list_key(element, keys)?;
    list.iter().find(|old| list_key(old, keys).as_ref() == Some(&wanted))
}

/// Whether rules are skipped because what they would see is malformed.
pub(crate) fn blocked_by(errors: &ErrorList) -> bool {
    use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    errors.iter().any(|error| matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid))
}

/// The error that says so.
pub(crate) fn not_checked() -> FieldError {
    let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    field::invalid(&Path::nil(), Value::Null, detail)
}

#[cfg(test)]
mod tests;
