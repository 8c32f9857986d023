//! What one validating policy says of one write with one parameter (upstream's `validator`).

use crate::expressions::{Compiled, Conditions, Input, Matched, Returns, Seen, Stop, evaluate};
use crate::util::value::{list, text};
use knarr_cel::{Composition, RUNTIME_COST_BUDGET};
use serde_json::Value;

/// The longest message that an expression may make.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// A compiled policy.
pub struct Validator {
    composition: Composition,
    conditions: Conditions,
    validations: Vec<Validation>,
    annotations: Vec<(String, Compiled)>,
}

struct Validation {
    expression: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: String,
}

/// A refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// Which of the policy's validations.
    pub index: usize,
    /// Why.
    pub message: String,
    /// Upstream's reason; empty when nothing was evaluated to be wrong.
    pub reason: String,
}

/// What is to go into the audit log, or why that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotation {
    /// Key and value.
    Publish(String, String),
    /// The text of a refusal.
    Error(String),
}

/// All that a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub denials: Vec<Denial>,
    pub annotations: Vec<Annotation>,
}

impl Validator {
    /// Compiles a stored policy. What does not compile is an error when it is used.
    pub fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let seen = Seen { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
        let mut composition = Composition::new(seen.env());
        // Messages do not see the authorizer.
        let mut plain = Composition::new(Seen { authorizer: false, ..seen }.env());
        for variable in list(spec, &["variables"]) {
            let (name, expression) = (text(variable, &["name"]), text(variable, &["expression"]));
            // What is wrong is told where the variable is used.
            let _ = composition.add(name, expression);
            let _ = plain.add(name, expression);
        }
        let env = composition.env().clone();
        let validation = |v: &Value| {
            let message = text(v, &["messageExpression"]);
            Validation {
                expression: Compiled::new(&env, text(v, &["expression"]), Returns::Bool),
                message: text(v, &["message"]).trim().to_owned(),
                message_expression: (!message.is_empty())
                    .then(|| Compiled::new(plain.env(), message, Returns::Text)),
                reason: text(v, &["reason"]).to_owned(),
            }
        };
        let annotation = |a: &Value| {
            let expression = Compiled::new(&env, text(a, &["valueExpression"]), Returns::TextOrNull);
            (text(a, &["key"]).to_owned(), expression)
        };
        Self {
            conditions: Conditions::new(&env, list(spec, &["matchConditions"])),
            validations: list(spec, &["validations"]).iter().map(validation).collect(),
            annotations: list(spec, &["auditAnnotations"]).iter().map(annotation).collect(),
            composition,
        }
    }

    /// Evaluates it; with `ignore` what fails counts for nothing.
    pub fn validate(&self, input: &Input, params: Option<&Value>, ignore: bool) -> Verdict {
        let failed = |message: String| match ignore {
            true => Verdict::default(),
            false => Verdict { denials: vec![Denial { message, ..Denial::default() }], ..Verdict::default() },
        };
        if !self.conditions.is_empty() {
            let bindings = input.bindings(params, true, Some(&self.composition));
            match self.conditions.evaluate(&bindings, ignore) {
                Matched::Yes => {}
                Matched::No => return Verdict::default(),
                Matched::Error(error) => return failed(error),
            }
        }
        let mut budget = RUNTIME_COST_BUDGET;
        let results = match self.results(input, params, &mut budget) {
            Ok(results) => results,
            Err(Stop(error)) => return failed(error),
        };
        let messages = self.messages(input, params, budget);
        let mut verdict = Verdict::default();
        for (index, (validation, result)) in self.validations.iter().zip(results).enumerate() {
            let denial = match (result, &messages) {
                (Err(_), _) if ignore => continue,
                (Err(message), _) => Denial { index, message, reason: String::new() },
                (Ok(_), Err(_)) if ignore => continue,
                (Ok(_), Err(Stop(error))) => {
                    let message = format!("failed messageExpression: {error}");
                    Denial { index, message, reason: String::new() }
                }
                (Ok(true), Ok(_)) => continue,
                (Ok(false), Ok(messages)) => Denial {
                    index,
                    message: validation.message(messages[index].as_deref()),
                    reason: match validation.reason.as_str() {
                        "" => "Invalid".to_owned(),
                        reason => reason.to_owned(),
                    },
                },
            };
            verdict.denials.push(denial);
        }
        match self.annotations(input, params, ignore) {
            Ok(annotations) => verdict.annotations = annotations,
            Err(Stop(error)) => return failed(error),
        }
        verdict
    }

    fn results(
        &self,
        input: &Input,
        params: Option<&Value>,
        budget: &mut u64,
    ) -> Result<Vec<Result<bool, String>>, Stop> {
        let bindings = input.bindings(params, true, Some(&self.composition));
        let each = self.validations.iter().map(|validation| {
            let result = evaluate(&validation.expression, &bindings, budget)?;
            Ok(result.map(|value| value.as_bool() == Some(true)))
        });
        each.collect()
    }

    /// The messages that expressions made; none where there is no expression or it failed.
    fn messages(
        &self,
        input: &Input,
        params: Option<&Value>,
        mut budget: u64,
    ) -> Result<Vec<Option<String>>, Stop> {
        let bindings = input.bindings(params, false, Some(&self.composition));
        let each = self.validations.iter().map(|validation| {
            let Some(expression) = &validation.message_expression else { return Ok(None) };
            let result = evaluate(expression, &bindings, &mut budget)?;
            Ok(result.ok().and_then(|value| value.as_str().map(str::to_owned)))
        });
        each.collect()
    }

    fn annotations(
        &self,
        input: &Input,
        params: Option<&Value>,
        ignore: bool,
    ) -> Result<Vec<Annotation>, Stop> {
        let bindings = input.bindings(params, false, Some(&self.composition));
        let mut budget = RUNTIME_COST_BUDGET;
        let mut annotations = Vec::new();
        for (key, expression) in &self.annotations {
            match evaluate(expression, &bindings, &mut budget)? {
                Err(_) if ignore => {}
                Err(error) => annotations.push(Annotation::Error(error)),
                Ok(value) => {
                    let value = value.as_str().unwrap_or_default().trim();
                    if !value.is_empty() {
                        annotations.push(Annotation::Publish(key.clone(), value.to_owned()));
                    }
                }
            }
        }
        Ok(annotations)
    }
}

impl Validation {
    /// The message of a refusal: the expression's if it is fit to be shown, else the policy's, else the expression.
    fn message(&self, made: Option<&str>) -> String {
        let made = made
            .map(str::trim)
            .filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n'));
        match (made, self.message.as_str()) {
            (Some(made), _) => made.to_owned(),
            (None, "") => format!("failed expression: {}", self.expression.source.trim()),
            (None, message) => message.to_owned(),
        }
    }
}
