//! The policies that have bindings, compiled once for each version of them (upstream's `policySource`).

use crate::admission::matching::{Rule, Selectors, endpoint};
use crate::util::value::{list, text};
use knarr_apiserver::admission::{Endpoint, Write};
use knarr_apiserver::request::RequestCx;
use knarr_meta::status::Status;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

const GROUP: &str = "admissionregistration.k8s.io";

/// `matchConstraints` of a policy, or `matchResources` of a binding.
pub struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    selectors: Selectors,
}

impl Matching {
    fn new(resources: &Value) -> Self {
        Self {
            rules: Rule::all(list(resources, &["resourceRules"])),
            excluded: Rule::all(list(resources, &["excludeResourceRules"])),
            equivalent: text(resources, &["matchPolicy"]) == "Equivalent",
            selectors: Selectors::new(resources),
        }
    }

    /// The endpoint by which it is about the write, if it is.
    pub fn endpoint(&self, write: &Write<'_>) -> Result<Option<Endpoint>, Status> {
        let selected = self.selectors.select(write);
        if matches!(selected, Ok(false)) || endpoint(write, &self.excluded, self.equivalent).is_some() {
            return Ok(None);
        }
        let found = match self.rules.is_empty() {
            true => Some(write.endpoint()),
            false => endpoint(write, &self.rules, self.equivalent),
        };
        let Some(found) = found else { return Ok(None) };
        selected?;
        Ok(Some(found))
    }
}

/// `paramKind`.
#[derive(Clone, Debug)]
pub struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

/// A policy with its bindings.
pub struct Hook<C> {
    pub name: String,
    /// Failures are no refusal.
    pub ignore: bool,
    pub param_kind: Option<ParamKind>,
    pub matching: Matching,
    pub bindings: Vec<Binding>,
    /// What its expressions were compiled to.
    pub evaluator: Arc<C>,
}

/// A binding.
pub struct Binding {
    pub name: String,
    pub matching: Option<Matching>,
    /// `paramRef`, or `Null`.
    pub param_ref: Value,
    /// `validationActions`.
    pub actions: Vec<String>,
}

impl Binding {
    fn new(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let actions = list(spec, &["validationActions"]).iter();
        Self {
            name: text(binding, &["metadata", "name"]).to_owned(),
            matching: spec.get("matchResources").filter(|r| r.is_object()).map(Matching::new),
            param_ref: spec.get("paramRef").cloned().unwrap_or_default(),
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        }
    }

    /// Whether the binding lets its policy see the write.
    pub fn matches(&self, write: &Write<'_>) -> Result<bool, Status> {
        match &self.matching {
            Some(matching) => Ok(matching.endpoint(write)?.is_some()),
            None => Ok(true),
        }
    }
}

struct State<C> {
    revisions: (u64, u64),
    hooks: Arc<Vec<Hook<C>>>,
    /// By UID and resourceVersion of the policy.
    compiled: HashMap<(String, String), Arc<C>>,
}

/// The policies of one sort.
pub struct Source<C> {
    policies: &'static str,
    bindings: &'static str,
    compile: fn(&Value) -> C,
    state: Mutex<State<C>>,
}

impl<C> Source<C> {
    /// Those that are stored as `policies`, with their `bindings`.
    pub fn new(policies: &'static str, bindings: &'static str, compile: fn(&Value) -> C) -> Self {
        let state = State { revisions: (0, 0), hooks: Arc::default(), compiled: HashMap::new() };
        Self { policies, bindings, compile, state: Mutex::new(state) }
    }

    /// All policies that are bound, by name, as far as the watch cache has come.
    pub fn current(&self, cx: &RequestCx) -> Arc<Vec<Hook<C>>> {
        let revisions = (cx.reader.settled(GROUP, self.policies), cx.reader.settled(GROUP, self.bindings));
        let mut state = self.state.lock().expect("no holder of the policies panics");
        if state.revisions != revisions {
            self.refresh(cx, &mut state);
            state.revisions = revisions;
        }
        state.hooks.clone()
    }

    fn refresh(&self, cx: &RequestCx, state: &mut State<C>) {
        let mut bound: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
        for binding in cx.reader.list(GROUP, self.bindings, "") {
            let policy = text(&binding, &["spec", "policyName"]).to_owned();
            bound.entry(policy).or_default().push(Binding::new(&binding));
        }
        let mut compiled = HashMap::new();
        let mut hooks = Vec::with_capacity(bound.len());
        for (name, mut bindings) in bound {
            let Some(policy) = cx.reader.get(GROUP, self.policies, "", &name) else { continue };
            bindings.sort_by(|a, b| a.name.cmp(&b.name));
            let meta = |key: &str| text(&policy, &["metadata", key]).to_owned();
            let key = (meta("uid"), meta("resourceVersion"));
            let known = state.compiled.get(&key).cloned();
            let evaluator = known.unwrap_or_else(|| Arc::new((self.compile)(&policy)));
            compiled.insert(key, evaluator.clone());
            let spec = &policy["spec"];
            let param_kind = spec.get("paramKind").filter(|kind| kind.is_object());
            hooks.push(Hook {
                name,
                ignore: text(spec, &["failurePolicy"]) == "Ignore",
                param_kind: param_kind.map(|kind| ParamKind {
                    api_version: text(kind, &["apiVersion"]).to_owned(),
                    kind: text(kind, &["kind"]).to_owned(),
                }),
                matching: Matching::new(&spec["matchConstraints"]),
                bindings,
                evaluator,
            });
        }
        state.compiled = compiled;
        state.hooks = Arc::new(hooks);
    }
}
