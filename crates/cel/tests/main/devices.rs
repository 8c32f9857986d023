//! Selectors of devices against what upstream's code answered: the first problem or the type, the estimate, the
//! result and its cost.

use knarr_cel::{DeclType, Env, PER_CALL_LIMIT, Type, Value};
use serde_json::{Value as Json, json};

#[test]
fn selectors() {
    let env = Env::device_selectors();
    let decl = DeclType::device();
    let mut defaults = Json::Null;
    let mut wrong = Vec::new();
    for line in include_str!("cases/devices.jsonl").lines() {
        let mut case: Json = serde_json::from_str(line).unwrap();
        if let Some(found) = case.get_mut("defaults") {
            defaults = found.take();
            continue;
        }
        let answer = answer(&env, &decl, case["expr"].as_str().unwrap(), &defaults);
        if answer != case {
            wrong.push(format!("{case}\n{answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn answer(env: &Env, decl: &DeclType, source: &str, input: &Json) -> Json {
    let ast = match env.compile(source) {
        Ok(ast) => ast,
        Err(issues) => return json!({"expr": source, "problem": format!("compilation failed: {issues}")}),
    };
    let found = ast.output_type();
    if !matches!(found, Type::Bool | Type::Any) {
        let problem = format!("must evaluate to bool or the unknown type, not {found}");
        return json!({"expr": source, "problem": problem});
    }
    let max = ast.estimate_cost_of("device", decl).max.to_string();
    let mut out = json!({"expr": source, "type": found.to_string(), "max": max});
    let device = match Value::device(input["driver"].as_str().unwrap(), &input["device"]) {
        Ok(device) => device,
        Err(problem) => {
            out["error"] = json!(problem.to_string());
            return out;
        }
    };
    let program = ast.program().unwrap();
    let mut bindings = knarr_cel::Bindings::new();
    bindings.set("device", device);
    let evaluation = program.eval(&bindings, PER_CALL_LIMIT);
    out["cost"] = json!(evaluation.cost);
    match evaluation.value.map(|value| value.as_bool().ok_or_else(|| value.type_name().to_owned())) {
        Ok(Ok(matches)) => out["value"] = json!(matches),
        Ok(Err(name)) => out["error"] = json!(name),
        Err(problem) => out["error"] = json!(problem.to_string()),
    }
    out
}
