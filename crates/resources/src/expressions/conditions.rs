//! Match conditions (KEP-3716): a webhook or policy is passed over when one of them is false (apiserver's
//! `admission/plugin/webhook/matchconditions`).

use super::CONDITIONS_BUDGET;
use super::compile::{Compiled, Returns};
use super::input::{Stop, evaluate};
use crate::util::value::text;
use knarr_cel::{Bindings, Env};
use serde_json::Value;

/// The conditions of one webhook or policy.
#[derive(Default)]
pub struct Conditions(Vec<Compiled>);

/// What they come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// All hold.
    Yes,
    /// One does not, or one fails and failures are to be passed over.
    No,
    /// None is false, but some fail.
    Error(String),
}

impl Conditions {
    /// Compiles `matchConditions`.
    pub fn new(env: &Env, conditions: &[Value]) -> Self {
        let compiled = |c: &Value| Compiled::new(env, text(c, &["expression"]), Returns::Bool);
        Self(conditions.iter().map(compiled).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates them; with `ignore` a failure passes the webhook over.
    pub fn evaluate<'a>(&'a self, bindings: &Bindings<'a>, ignore: bool) -> Matched {
        let mut budget = CONDITIONS_BUDGET;
        let mut results = Vec::with_capacity(self.0.len());
        for condition in &self.0 {
            match evaluate(condition, bindings, &mut budget) {
                Ok(result) => results.push(result.map(|value| value.as_bool())),
                Err(Stop(_)) if ignore => return Matched::No,
                Err(Stop(text)) => return Matched::Error(text),
            }
        }
        let mut errors: Vec<String> = Vec::new();
        for result in results {
            match result {
                Ok(Some(false)) => return Matched::No,
                Ok(_) => {}
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Matched::Yes,
            _ if ignore => Matched::No,
            [only] => Matched::Error(only.clone()),
            several => Matched::Error(format!("[{}]", several.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expressions::Seen;
    use knarr_cel::Value as Cel;
    use serde_json::json;

    #[test]
    fn false_beats_failure_and_failure_beats_true() {
        let object = json!({"metadata": {"name": "a"}});
        for (conditions, closed, open) in [
            (vec!["true", "object.metadata.name == 'a'"], Matched::Yes, Matched::Yes),
            (vec!["true", "object.metadata.name == 'b'"], Matched::No, Matched::No),
            (vec!["object.spec.x == 1", "false"], Matched::No, Matched::No),
            (
                vec!["object.spec.x == 1", "true"],
                Matched::Error(
                    "expression 'object.spec.x == 1' resulted in error: no such key: spec".to_owned(),
                ),
                Matched::No,
            ),
        ] {
            let listed: Vec<Value> =
                conditions.iter().map(|e| json!({"name": "n", "expression": e})).collect();
            let compiled = Conditions::new(&Seen::default().env(), &listed);
            let mut bindings = Bindings::new();
            bindings.set("object", Cel::json(&object));
            assert_eq!(compiled.evaluate(&bindings, false), closed, "{conditions:?}");
            assert_eq!(compiled.evaluate(&bindings, true), open, "{conditions:?}");
        }
    }
}
