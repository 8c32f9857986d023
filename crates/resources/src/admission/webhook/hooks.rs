//! The registered webhooks, compiled once for each state of their configurations.

use crate::admission::matching::{Rule, Selectors, endpoint};
use crate::expressions::{Conditions, Input, Matched, Seen};
use crate::util::value::{list, number, text};
use knarr_apiserver::admission::{Endpoint, Write};
use knarr_apiserver::request::RequestCx;
use knarr_apiserver::webhook::ClientConfig;
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";

/// One webhook.
pub struct Hook {
    /// Its name.
    pub name: String,
    /// The configuration it is in.
    pub configuration: String,
    /// Configuration, name and how many of that name came before it in the configuration.
    pub uid: String,
    /// Where it is.
    pub client: ClientConfig,
    /// Failures of the call are no refusal.
    pub ignore: bool,
    /// `sideEffects`; empty in objects older than the field.
    pub side_effects: String,
    /// How long a call may take.
    pub timeout: Option<Duration>,
    /// Asked again when later webhooks change the object.
    pub reinvoke: bool,
    /// The versions of AdmissionReview it takes, the preferred first.
    pub versions: Vec<String>,
    rules: Vec<Rule>,
    equivalent: bool,
    selectors: Selectors,
    conditions: Conditions,
}

impl Hook {
    fn new(configuration: &str, index: usize, hook: &Value) -> Self {
        let name = text(hook, &["name"]).to_owned();
        let seen = Seen { authorizer: true, ..Seen::default() };
        let seconds = number(hook, &["timeoutSeconds"]);
        let versions = list(hook, &["admissionReviewVersions"]).iter();
        Self {
            uid: format!("{configuration}/{name}/{index}"),
            configuration: configuration.to_owned(),
            client: ClientConfig::from_json(&hook["clientConfig"]),
            ignore: text(hook, &["failurePolicy"]) == "Ignore",
            side_effects: text(hook, &["sideEffects"]).to_owned(),
            timeout: u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs),
            reinvoke: text(hook, &["reinvocationPolicy"]) == "IfNeeded",
            versions: versions.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            rules: Rule::all(list(hook, &["rules"])),
            equivalent: text(hook, &["matchPolicy"]) == "Equivalent",
            selectors: Selectors::new(hook),
            conditions: Conditions::new(&seen.env(), list(hook, &["matchConditions"])),
            name,
        }
    }

    /// The endpoint in whose form the webhook is to see the object; none when it is not to be asked.
    pub fn wants(&self, write: &Write<'_>) -> Result<Option<Endpoint>, Status> {
        let selected = self.selectors.select(write);
        if matches!(selected, Ok(false)) {
            return Ok(None);
        }
        let Some(endpoint) = endpoint(write, &self.rules, self.equivalent) else { return Ok(None) };
        selected?;
        Ok(Some(endpoint))
    }

    /// Whether its match conditions hold for an object in the endpoint's form; a failure of theirs is a refusal or,
    /// with the policy to ignore failures, as good as no match.
    pub fn passes(
        &self,
        write: &Write<'_>,
        endpoint: &Endpoint,
        object: &Value,
        old: &Value,
    ) -> Result<bool, Status> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let input = Input::new(write, endpoint, (object.clone(), old.clone()), None);
        match self.conditions.evaluate(&input.bindings(None, true, None), self.ignore) {
            Matched::Yes => Ok(true),
            Matched::No => Ok(false),
            Matched::Error(error) => {
                let info = &write.cx.info;
                let resource = GroupResource::new(info.group.clone(), info.resource.clone());
                Err(Status::forbidden(&resource, write.name, error))
            }
        }
    }
}

/// The webhooks of one sort of configuration.
pub struct Hooks {
    resource: &'static str,
    compiled: Mutex<(u64, Arc<Vec<Arc<Hook>>>)>,
}

impl Hooks {
    /// Those in the configurations that are `resource`.
    pub fn new(resource: &'static str) -> Self {
        Self { resource, compiled: Mutex::default() }
    }

    /// All of them, by the names of their configurations, as far as the watch cache has come.
    pub fn current(&self, cx: &RequestCx) -> Arc<Vec<Arc<Hook>>> {
        let revision = cx.reader.settled(GROUP, self.resource);
        {
            let compiled = self.compiled.lock().expect("no holder of the webhooks panics");
            if compiled.0 == revision {
                return compiled.1.clone();
            }
        }
        let mut configurations = cx.reader.list(GROUP, self.resource, "");
        configurations.sort_by(|a, b| text(a, &["metadata", "name"]).cmp(text(b, &["metadata", "name"])));
        let hooks: Vec<Arc<Hook>> =
            configurations.iter().flat_map(|c| of_configuration(c)).map(Arc::new).collect();
        let hooks = Arc::new(hooks);
        *self.compiled.lock().expect("no holder of the webhooks panics") = (revision, hooks.clone());
        hooks
    }
}

fn of_configuration(configuration: &Value) -> Vec<Hook> {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let name = text(configuration, &["metadata", "name"]);
    let hooks = list(configuration, &["webhooks"]).iter();
    hooks
        .map(|hook| {
            let seen = names.entry(text(hook, &["name"]).to_owned()).or_default();
            let index = *seen;
            *seen += 1;
            Hook::new(name, index, hook)
        })
        .collect()
}
