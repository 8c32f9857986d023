//! Runs the tables in `cases/`: one JSON object a line. An object with `defaults` says what the cases after it have
//! in common.

use knarr_cel::{
    Authorizer, AuthorizerAttributes, AuthorizerDecision, AuthorizerUser, Bindings, DeclType, Env,
    PER_CALL_LIMIT, ResourceCheck, Type, Value,
};
use serde_json::Value as Json;
use std::sync::Arc;

/// Says what it was asked.
struct Echo;

impl Authorizer for Echo {
    fn authorize(&self, a: &AuthorizerAttributes) -> AuthorizerDecision {
        let mut reason = format!(
            "{}|{}|{}|{}/{}/{}/{}|{}|{}|{}",
            a.user.name,
            a.verb,
            a.is_resource,
            a.group,
            a.version,
            a.resource,
            a.subresource,
            a.namespace,
            a.name,
            a.path
        );
        match &a.field_selector {
            Some(Ok(selector)) => {
                let terms: Vec<String> = selector
                    .requirements()
                    .iter()
                    .map(|term| {
                        format!("{{{} {} {}}}", if term.negated { "!=" } else { "=" }, term.field, term.value)
                    })
                    .collect();
                reason += &format!("|fs:[{}]", terms.join(" "));
            }
            Some(Err(why)) => reason += &format!("|fserr:{why}"),
            None => {}
        }
        match &a.label_selector {
            Some(Ok(selector)) => {
                let terms: Vec<String> = selector.requirements().iter().map(ToString::to_string).collect();
                reason += &format!("|ls:{}", terms.join(", "));
            }
            Some(Err(why)) => reason += &format!("|lserr:{why}"),
            None => {}
        }
        let error = (a.verb == "fail").then(|| "boom".to_owned());
        AuthorizerDecision { allowed: !matches!(a.verb.as_str(), "fail" | "deny"), reason, error }
    }
}

fn user() -> AuthorizerUser {
    AuthorizerUser { name: "jane".to_owned(), ..AuthorizerUser::default() }
}

/// What this crate answers, in the same form as the table.
fn answer(case: &Json) -> Json {
    let mut out = serde_json::Map::new();
    let source = case["expr"].as_str().unwrap();
    let mut env = Env::kubernetes()
        .with_variable("authorizer", Type::authorizer())
        .with_variable("authorizer.requestResource", Type::resource_check())
        .with_patch_types();
    let empty = serde_json::Map::new();
    let vars = case.get("vars").and_then(Json::as_object).unwrap_or(&empty);
    for name in vars.keys() {
        env = env.with_variable(name, Type::Dyn);
    }
    let root = case["root"].as_bool().unwrap_or(false);
    let decl = case.get("schema").map(|schema| DeclType::from_schema(schema, root).unwrap());
    let decl = decl.map(|decl| decl.assign_type_name("selfType"));
    if let Some(decl) = &decl {
        env = env.with_declared_pair("self", "oldSelf", true, decl);
    }
    let ast = match env.compile(source) {
        Ok(ast) => ast,
        Err(issues) => {
            out.insert("issues".into(), issues.to_string().into());
            return Json::Object(out);
        }
    };
    out.insert("type".into(), ast.output_type().to_string().into());
    let estimate = ast.estimate_cost(decl.as_deref());
    out.insert("estimate".into(), serde_json::json!([estimate.min.to_string(), estimate.max.to_string()]));
    let program = match ast.program() {
        Ok(program) => program,
        Err(problem) => {
            out.insert("instantiation".into(), problem.to_string().into());
            return Json::Object(out);
        }
    };
    let mut bindings = Bindings::new();
    for (name, value) in vars {
        bindings.set(name.as_str(), Value::json(value));
    }
    bindings.set("authorizer", Value::authorizer(Arc::new(Echo), user()));
    let check = ResourceCheck {
        group: "apps".into(),
        resource: "deployments".into(),
        subresource: "scale".into(),
        namespace: "ns1".into(),
        name: "n1".into(),
    };
    bindings.set("authorizer.requestResource", Value::resource_check(Arc::new(Echo), user(), check));
    if let Some(decl) = &decl {
        bindings.set("self", Value::typed(&case["self"], decl).unwrap());
        let old = case.get("old").map(|old| Value::some(Value::typed(old, decl).unwrap()));
        bindings.set("oldSelf", old.unwrap_or(Value::none()));
    }
    let limit = case["limit"].as_u64().unwrap_or(PER_CALL_LIMIT);
    let evaluation = program.eval(&bindings, limit);
    out.insert("cost".into(), evaluation.cost.into());
    match evaluation.value {
        Ok(value) => out.insert("value".into(), value.to_string().into()),
        Err(problem) => out.insert("error".into(), problem.to_string().into()),
    };
    Json::Object(out)
}

fn run(table: &str, name: &str) {
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut defaults = serde_json::Map::new();
    for line in table.lines().filter(|line| !line.trim().is_empty()) {
        let mut case: serde_json::Map<String, Json> = serde_json::from_str(line).unwrap();
        if let Some(Json::Object(common)) = case.remove("defaults") {
            defaults = common;
            continue;
        }
        for (key, value) in &defaults {
            case.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let case = Json::Object(case);
        count += 1;
        let got = answer(&case);
        for key in ["issues", "type", "estimate", "instantiation", "cost", "value", "error"] {
            if case.get(key) != got.get(key) {
                let show = |of: &Json| {
                    of.get(key).map_or("nothing".to_owned(), |value| match value {
                        Json::String(text) => text.clone(),
                        other => other.to_string(),
                    })
                };
                wrong.push(format!(
                    "{}\n  {key}: want {}\n  {key}:  got {}",
                    case["expr"],
                    show(&case),
                    show(&got)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {count} expectations wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 0, "{name} is empty");
}

macro_rules! tables {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(include_str!(concat!("cases/", stringify!($name), ".jsonl")), stringify!($name));
        })*
    };
}

tables! {
    conversions, issues, kubernetes, limits, lists, macros, operators, optionals, patches, random, random_typed, real, strings, syntax,
    times, typed,
}

/// A table made elsewhere, such as one of random expressions: the file that `CEL_CASES` names.
#[test]
#[ignore = "wants a table in CEL_CASES"]
fn from_file() {
    let path = std::env::var("CEL_CASES").unwrap();
    run(&std::fs::read_to_string(&path).unwrap(), &path);
}
