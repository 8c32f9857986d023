//! Evaluating: the variables of one write, and the budget (upstream's `evaluationActivation`).

use super::asker::{Asker, user};
use super::compile::Compiled;
use knarr_apiserver::admission::{Endpoint, Write};
use knarr_cel::{
    Authorizer, AuthorizerUser, Bindings, Composition, PER_CALL_LIMIT, ResourceCheck, Value as Cel,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The fields of a namespace's metadata that expressions see.
const NAMESPACE_METADATA: [&str; 12] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "finalizers",
];
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What expressions see of a write.
pub struct Input {
    /// The object in the form that was matched, `Null` on deletion.
    pub object: Value,
    /// Its predecessor.
    pub old: Value,
    request: Value,
    namespace: Value,
    authorizer: Option<Arc<dyn Authorizer>>,
    user: AuthorizerUser,
    check: ResourceCheck,
}

impl Input {
    /// Of a write; `object` and `old` are in the endpoint's form. `namespace` is the object's namespace, if it is in
    /// one.
    pub fn new(
        write: &Write<'_>,
        endpoint: &Endpoint,
        (object, old): (Value, Value),
        namespace: Option<&Value>,
    ) -> Self {
        let info = &write.cx.info;
        let authorizer = write.cx.admission.authorizer.clone();
        Self {
            object,
            old,
            request: request(write, endpoint),
            namespace: namespace.map_or(Value::Null, shown_namespace),
            authorizer: authorizer.map(|authorizer| Arc::new(Asker(authorizer)) as Arc<dyn Authorizer>),
            user: user(&write.cx.user),
            check: ResourceCheck {
                group: info.group.clone(),
                resource: info.resource.clone(),
                subresource: info.subresource.clone(),
                namespace: write.namespace.to_owned(),
                name: write.name.to_owned(),
            },
        }
    }

    /// The variables, with `params` and the authorizer where they are to be seen.
    pub fn bindings<'a>(
        &'a self,
        params: Option<&'a Value>,
        authorizer: bool,
        composition: Option<&'a Composition>,
    ) -> Bindings<'a> {
        let mut bindings = Bindings::new();
        bindings.set("object", Cel::json(&self.object));
        bindings.set("oldObject", Cel::json(&self.old));
        bindings.set("request", Cel::json(&self.request));
        bindings.set("namespaceObject", Cel::json(&self.namespace));
        bindings.set("params", params.map_or(Cel::Null, Cel::json));
        if let Some(asked) = self.authorizer.as_ref().filter(|_| authorizer) {
            bindings.set("authorizer", Cel::authorizer(asked.clone(), self.user.clone()));
            let check = Cel::resource_check(asked.clone(), self.user.clone(), self.check.clone());
            bindings.set("authorizer.requestResource", check);
        }
        if let Some(composition) = composition {
            bindings.set_composition(composition);
        }
        bindings
    }
}

/// `request`: the AdmissionRequest without its objects.
fn request(write: &Write<'_>, endpoint: &Endpoint) -> Value {
    let info = &write.cx.info;
    let own = write.endpoint();
    let kind = |e: &Endpoint| json!({"group": e.kind_group, "version": e.kind_version, "kind": e.kind});
    let resource = |e: &Endpoint| json!({"group": e.group, "version": e.version, "resource": e.resource});
    let mut request = Map::new();
    let mut set = |key: &str, value: Value| {
        request.insert(key.to_owned(), value);
    };
    set("uid", "".into());
    set("kind", kind(endpoint));
    set("resource", resource(endpoint));
    set("requestKind", kind(&own));
    set("requestResource", resource(&own));
    for (key, text) in [
        ("subResource", info.subresource.as_str()),
        ("requestSubResource", info.subresource.as_str()),
        ("name", write.name),
        ("namespace", write.namespace),
    ] {
        if !text.is_empty() {
            set(key, text.into());
        }
    }
    set("operation", write.operation.as_str().into());
    set("userInfo", write.user_info());
    set("object", Value::Null);
    set("oldObject", Value::Null);
    set("dryRun", write.dry_run().into());
    set("options", write.options());
    Value::Object(request)
}

fn shown_namespace(namespace: &Value) -> Value {
    let metadata: Map<String, Value> = NAMESPACE_METADATA
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), namespace["metadata"].get(key)?.clone())))
        .collect();
    let part = |key: &str| namespace.get(key).cloned().unwrap_or_else(|| json!({}));
    json!({"metadata": metadata, "spec": part("spec"), "status": part("status")})
}

/// Why no further expression of a group is evaluated.
#[derive(Clone, Debug)]
pub struct Stop(pub String);

/// Evaluates one expression within what is left of a budget. The inner error is this expression's alone.
pub fn evaluate<'a>(
    compiled: &'a Compiled,
    bindings: &Bindings<'a>,
    budget: &mut u64,
) -> Result<Result<Cel<'a>, String>, Stop> {
    let program = match &compiled.program {
        Ok(program) => program,
        Err(failure) => return Ok(Err(format!("compilation error: {failure}"))),
    };
    let evaluation = program.eval(bindings, PER_CALL_LIMIT);
    for cost in [bindings.take_composition_cost(), evaluation.cost] {
        *budget = budget.checked_sub(cost).ok_or_else(|| Stop(OUT_OF_BUDGET.to_owned()))?;
    }
    Ok(evaluation
        .value
        .map_err(|error| format!("expression '{}' resulted in error: {error}", compiled.source)))
}
