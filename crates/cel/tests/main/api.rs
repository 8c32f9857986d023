//! What callers build on: environments, compositions, patches, permissions, limits.

use knarr_cel::{
    Bindings, CompileError, Composition, DeclType, Env, EvalError, JsonPatchOp, PER_CALL_LIMIT, Type, Value,
};
use serde_json::json;

fn objects() -> Env {
    Env::kubernetes().with_variable("object", Type::Dyn)
}

#[test]
fn a_rule_over_an_object() {
    let ast = objects().compile("object.spec.replicas <= 5").unwrap();
    assert_eq!(*ast.output_type(), Type::Bool);
    assert!(ast.references("object") && !ast.references("oldObject"));
    let program = ast.program().unwrap();
    let object = json!({"spec": {"replicas": 3}});
    let mut bindings = Bindings::new();
    bindings.set("object", Value::json(&object));
    let evaluation = program.eval(&bindings, PER_CALL_LIMIT);
    assert_eq!(evaluation.value.unwrap().as_bool(), Some(true));
    assert_eq!(evaluation.cost, 4);
}

#[test]
fn a_variable_without_a_value() {
    let program = objects().compile("object.a").unwrap().program().unwrap();
    let problem = program.eval(&Bindings::new(), PER_CALL_LIMIT).value.unwrap_err();
    assert_eq!(problem.to_string(), "no such attribute(s): object");
}

#[test]
fn admission_types() {
    let env = Env::kubernetes()
        .with_declared("request", &DeclType::request())
        .with_declared("namespaceObject", &DeclType::namespace());
    let cases = [
        ("request.userInfo.groups.exists(g, g == 'x')", "bool"),
        ("request.kind.group", "string"),
        ("request.dryRun", "bool"),
        ("request.options", "dyn"),
        ("namespaceObject.metadata.labels['a']", "string"),
        ("namespaceObject.metadata.creationTimestamp", "google.protobuf.Timestamp"),
        ("namespaceObject.status.conditions[0].type", "string"),
    ];
    for (source, t) in cases {
        assert_eq!(env.compile(source).unwrap().output_type().to_string(), t, "{source}");
    }
    let issues = env.compile("request.object").unwrap_err().to_string();
    assert!(issues.starts_with("ERROR: <input>:1:8: undefined field 'object'"), "{issues}");
}

#[test]
fn variables_are_lazy_and_evaluated_once() {
    let mut composition = Composition::new(objects());
    assert_eq!(composition.add("replicas", "object.spec.replicas").unwrap(), Type::Dyn);
    assert_eq!(composition.add("double", "variables.replicas * 2").unwrap(), Type::Int);
    assert_eq!(composition.add("names", "object.names.map(n, n + '!')").unwrap().to_string(), "list(string)");
    composition.add("fails", "object.missing.field").unwrap();
    let broken = composition.add("broken", "1 +").unwrap_err();
    assert!(matches!(broken, CompileError::Issues(_)));
    let later = composition.add("early", "variables.late").unwrap_err().to_string();
    assert!(later.contains("undefined field 'late'"), "{later}");

    let compile = |source: &str| composition.env().compile(source).unwrap().program().unwrap();
    let (used, twice) = (compile("variables.double == 6"), compile("variables.double + variables.double"));
    let (unused, fails, broken) =
        (compile("true || variables.fails"), compile("variables.fails == 1"), compile("variables.broken"));
    let object = json!({"spec": {"replicas": 3}, "names": ["a"]});
    let mut bindings = Bindings::new();
    bindings.set("object", Value::json(&object));
    bindings.set_composition(&composition);

    let evaluation = used.eval(&bindings, PER_CALL_LIMIT);
    assert_eq!(evaluation.value.unwrap().as_bool(), Some(true));
    assert_eq!(evaluation.cost, 3);
    // replicas costs 3, double another 3.
    assert_eq!(bindings.take_composition_cost(), 6);
    assert_eq!(twice.eval(&bindings, PER_CALL_LIMIT).value.unwrap().to_string(), "12");
    assert_eq!(bindings.take_composition_cost(), 0, "known by now");
    assert_eq!(unused.eval(&bindings, PER_CALL_LIMIT).value.unwrap().as_bool(), Some(true));
    let problem = fails.eval(&bindings, PER_CALL_LIMIT).value.unwrap_err().to_string();
    assert_eq!(problem, "composited variable \"fails\" fails to evaluate: no such key: missing");
    let problem = broken.eval(&bindings, PER_CALL_LIMIT).value.unwrap_err().to_string();
    assert!(
        problem.starts_with("composited variable \"broken\" fails to compile: compilation failed: ERROR")
    );
}

#[test]
fn a_variable_that_refers_to_itself_is_an_error() {
    let mut composition = Composition::new(objects());
    composition.add("a", "dyn(variables).a").unwrap();
    let program = composition.env().compile("variables.a").unwrap().program().unwrap();
    let mut bindings = Bindings::new();
    bindings.set_composition(&composition);
    let problem = program.eval(&bindings, PER_CALL_LIMIT).value.unwrap_err().to_string();
    assert!(problem.contains("refers to itself"), "{problem}");
}

fn patch(source: &str) -> Result<Value<'static>, EvalError> {
    let env = objects().with_patch_types();
    let program = Box::leak(Box::new(env.compile(source).unwrap().program().unwrap()));
    program.eval(&Bindings::new(), PER_CALL_LIMIT).value
}

#[test]
fn apply_configurations() {
    let value = patch(
        "Object{spec: Object.spec{replicas: 3, ?unset: optional.none(), names: ['a'], \
         list: [Object.spec.list{name: 'x'}]}, metadata: Object.metadata{labels: {'a': 'b'}}}",
    )
    .unwrap();
    let want = json!({
        "spec": {"replicas": 3, "names": ["a"], "list": [{"name": "x"}]},
        "metadata": {"labels": {"a": "b"}}
    });
    assert_eq!(value.to_json().unwrap(), want);
    assert_eq!(value.check_object_type_names(), Ok(()));
    let wrong = patch("Object{spec: Object.metadata{}}").unwrap().check_object_type_names();
    assert_eq!(
        wrong.unwrap_err(),
        "unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path from root \
         Object type"
    );
}

#[test]
fn json_patches() {
    let value = patch(
        "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: {'k': [1, 2]}}, \
         JSONPatch{op: 'remove', path: '/spec'}, JSONPatch{op: 'move', from: '/a', path: '/b'}]",
    );
    let op = |op: &str, path: &str, from: &str, value| JsonPatchOp {
        op: op.into(),
        path: path.into(),
        from: from.into(),
        value,
    };
    let want = vec![
        op("add", "/metadata/labels/a~1b", "", Some(json!({"k": [1, 2]}))),
        op("remove", "/spec", "", None),
        op("move", "/b", "/a", None),
    ];
    assert_eq!(value.unwrap().as_json_patches().unwrap(), want);
    assert!(objects().compile("jsonpatch.escapeKey('a')").is_err(), "not without patches");
}

#[test]
fn values_as_json() {
    let cases = [
        ("duration('90s')", json!("90s")),
        ("timestamp('2020-01-01T00:00:00Z')", json!("2020-01-01T00:00:00Z")),
        ("b'hi'", json!("aGk=")),
        ("[1, 2].map(x, x * 2)", json!([2, 4])),
        ("{'a': {'b': null}}", json!({"a": {"b": null}})),
        ("2.0", json!(2)),
        ("optional.of(1)", json!(1)),
    ];
    for (source, want) in cases {
        assert_eq!(patch(source).unwrap().to_json().unwrap(), want, "{source}");
    }
    for source in ["{1: 2}", "optional.none()", "type(1)", "quantity('1')", "double('NaN')"] {
        assert!(patch(source).unwrap().to_json().is_err(), "{source}");
    }
}

#[test]
fn data_that_is_not_as_declared() {
    let schema = json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "s": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}
    }});
    let decl = DeclType::from_schema(&schema, false).unwrap();
    let env = Env::kubernetes().with_declared("self", &decl);
    let object = json!({"n": "text", "s": 5, "l": ["a", 1]});
    let cases = [
        ("self.n == 1", "invalid data, expected int, got string"),
        ("self.s == ''", "invalid data, expected string, got int64"),
        ("self.l.all(x, x != '')", "invalid data, expected string, got int64"),
    ];
    for (source, want) in cases {
        let program = env.compile(source).unwrap().program().unwrap();
        let mut bindings = Bindings::new();
        bindings.set("self", Value::typed(&object, &decl).unwrap());
        assert_eq!(program.eval(&bindings, PER_CALL_LIMIT).value.unwrap_err().to_string(), want);
    }
}

#[test]
fn sizes_of_declarations() {
    let schema = json!({"type": "object", "required": ["name", "list"], "properties": {
        "name": {"type": "string", "maxLength": 10},
        "list": {"type": "array", "items": {"type": "integer"}},
        "map": {"type": "object", "additionalProperties": {"type": "boolean"}}
    }});
    let decl = DeclType::from_schema(&schema, false).unwrap();
    // Two braces, and for each required field its name, its value and four signs.
    assert_eq!(decl.min_serialized_size(), 2 + (4 + 2 + 4) + (4 + 2 + 4));
    assert_eq!(decl.max_cardinality(), 3 * 1024 * 1024 / 23);
    assert_eq!(decl.field("name").unwrap().max_elements(), 40);
    assert_eq!(decl.field("list").unwrap().max_elements(), (3 * 1024 * 1024 - 2) / 2);
    assert_eq!(decl.field("map").unwrap().max_elements(), (3 * 1024 * 1024 - 2) / 10);
    assert!(DeclType::from_schema(&json!({"x-kubernetes-preserve-unknown-fields": true}), false).is_none());
}

#[test]
fn deep_and_long_expressions_are_refused() {
    let cases = [
        format!("{}1{}", "(".repeat(300), ")".repeat(300)),
        format!("{}1{}", "-(".repeat(300), ")".repeat(300)),
        vec!["1"; 400].join(" + "),
        format!("a{}", ".b".repeat(400)),
        format!("{}1{}", "[".repeat(300), "]".repeat(300)),
    ];
    for source in &cases {
        let issues = objects().compile(source).unwrap_err().to_string();
        assert_eq!(issues, "ERROR: <input>:-1:0: expression recursion limit exceeded: 250");
    }
    let long = format!("'{}'", "a".repeat(100_000));
    let issues = objects().compile(&long).unwrap_err().to_string();
    assert_eq!(
        issues,
        "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100002, limit 100000"
    );
    // What is just allowed is compiled and evaluated on a small stack.
    let fits = [
        format!("{}1{}", "(".repeat(240), ")".repeat(240)),
        format!("{}1{}", "[".repeat(240), "]".repeat(240)),
        vec!["object"; 240].join(" + "),
        format!("{}object{}", "-(".repeat(240), ")".repeat(240)),
        format!("{}1{}", "true ? ".to_owned() + &"(false ? 1 : ".repeat(110), ")".repeat(110) + " : 2"),
        format!("{}1{}", "object.map(a, ".repeat(120), ")".repeat(120)),
        format!("{}1{}", "{'a': ".repeat(200), "}".repeat(200)),
        format!("object{}", "[0]".repeat(240)),
        format!("{}1{}", "size(string(".repeat(100), "))".repeat(100)),
    ];
    for source in &fits {
        let Ok(ast) = objects().compile(source) else { continue };
        ast.estimate_cost(None);
        let program = ast.program().unwrap();
        let object = json!([[1]]);
        let mut bindings = Bindings::new();
        bindings.set("object", Value::json(&object));
        if let Ok(value) = program.eval(&bindings, PER_CALL_LIMIT).value {
            let _ = (value.to_json(), value.to_string());
        }
    }
    // Chains of and and or are balanced, so they may be long.
    assert!(objects().compile(&vec!["true"; 5000].join(" && ")).is_ok());
    // A macro that repeats its target does not grow without end.
    let doubling = format!("optional.of(1){}", ".optMap(x, x)".repeat(40));
    assert!(objects().compile(&doubling).is_err());
}

#[test]
fn built_in_kinds() {
    use knarr_meta::schema::{Field, ListType, Schema, StructType, Type as Of};
    let mut schema = Schema::default();
    let tree = schema.insert(StructType::new("Tree", Vec::new()));
    let fields = vec![
        Field::new("name", Of::String, 1),
        Field::new("created", Of::Time, 2),
        Field::new("size", Of::Quantity, 3),
        Field::new("port", Of::IntOrString, 4),
        Field::new("children", Of::List(Box::new(ListType::atomic(Of::Struct(tree)))), 5),
        Field::new("labels", Of::Map(Box::new(Of::String)), 6),
    ];
    schema.insert(StructType::new("Tree", fields));
    let decl = DeclType::from_kind(&schema, tree).unwrap();
    let env = Env::kubernetes().with_declared("object", &decl);
    let output = |source: &str| env.compile(source).map(|ast| ast.output_type().to_string());
    assert_eq!(output("object.created").unwrap(), "google.protobuf.Timestamp");
    assert_eq!(output("object.port").unwrap(), "dyn");
    assert_eq!(output("object.labels").unwrap(), "map(string, string)");
    assert_eq!(output("object.metadata.name + object.kind").unwrap(), "string");
    assert!(output("object.size").unwrap_err().to_string().contains("undefined field 'size'"));
    assert!(output("object.children").unwrap_err().to_string().contains("undefined field 'children'"));
}
