//! The check itself: every expression once for each kind that the policy is about (apiserver's
//! `policy/validating/typechecking.go`).

use super::schemas::{Checked, Types};
use knarr_api::admissionregistration::v1::{ValidatingAdmissionPolicySpec, Variable};
use knarr_cel::{Composition, DeclType, Env, Type};
use serde_json::{Value, json};
use std::sync::Arc;

/// What looks wrong, as `status.typeChecking.expressionWarnings`.
pub fn warnings(spec: &ValidatingAdmissionPolicySpec, types: &Types) -> Vec<Value> {
    let variables = spec.variables.as_deref().unwrap_or_default();
    let environments: Vec<(&Checked, Composition)> =
        types.checked.iter().map(|checked| (checked, environment(checked, types, variables))).collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().filter(|text| !text.is_empty());
        for (field, expression) in
            [("expression", Some(validation.expression.as_str())), ("messageExpression", message)]
        {
            let Some(expression) = expression else { continue };
            let issues: Vec<String> = environments
                .iter()
                .filter_map(|(checked, composition)| {
                    let issues = composition.env().compile(expression).err()?;
                    Some(format!("{}: {issues}\n", checked.name))
                })
                .collect();
            if !issues.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{index}].{field}"),
                    "warning": issues.join("\n"),
                }));
            }
        }
    }
    warnings
}

fn environment(checked: &Checked, types: &Types, variables: &[Variable]) -> Composition {
    let mut env = Env::kubernetes()
        .with_declared("namespaceObject", &DeclType::namespace())
        .with_declared("request", &DeclType::request())
        .with_variable("authorizer", Type::authorizer());
    env = declare(env, &["object", "oldObject"], checked.decl.as_ref());
    if let Some(params) = &types.params {
        env = declare(env, &["params"], params.as_ref());
    }
    let mut composition = Composition::new(env);
    for variable in variables {
        // What is wrong with it shows where it is used.
        let _ = composition.add(&variable.name, &variable.expression);
    }
    composition
}

fn declare(env: Env, names: &[&str], decl: Option<&Arc<DeclType>>) -> Env {
    let env = decl.map_or(env.clone(), |decl| env.with_types(decl));
    let ty = decl.map_or(Type::Dyn, |decl| decl.cel_type().clone());
    names.iter().fold(env, |env, name| env.with_variable(name, ty.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> ValidatingAdmissionPolicySpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn confusions_are_told_for_each_expression() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"replicas": {"type": "integer", "format": "int32"}}}}});
        let decl = DeclType::from_schema(&schema, true).map(|decl| decl.assign_type_name("Deployment0"));
        let checked = Checked { name: "apps/v1, Kind=Deployment".to_owned(), decl };
        let types = Types { checked: vec![checked], params: None };
        let good = spec(json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.n > 1", "messageExpression": "'n is ' + string(variables.n)"}]}));
        assert_eq!(warnings(&good, &types), Vec::<Value>::new());
        let bad = spec(json!({"validations": [{"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]}));
        let found = warnings(&bad, &types);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        let text = found[0]["warning"].as_str().unwrap();
        assert!(text.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:"), "{text}");
        assert!(text.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{text}");
        let text = found[1]["warning"].as_str().unwrap();
        assert!(text.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{text}");
    }
}
