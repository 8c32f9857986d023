//! The levels that a namespace's labels ask for: k8s.io/pod-security-admission/api.

use super::checks::{self, Subject, Violation};
use crate::util::Errs;
use crate::util::value::text;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::fmt;

/// The newest version of the rules: that of this Kubernetes.
const LATEST: u32 = 36;
const LABEL: &str = "pod-security.kubernetes.io/";

/// How much is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level in a version of the rules (`None` is the latest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub level: Level,
    pub version: Option<u32>,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Rules {
    const OPEN: Self = Self { level: Level::Privileged, version: None };

    /// What a pod violates.
    pub fn violations(&self, meta: &Value, spec: &Value) -> Vec<Violation> {
        let minor = self.version.unwrap_or(LATEST).min(LATEST);
        let pod = Subject { annotations: &meta["annotations"], spec, minor };
        match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => checks::baseline(&pod, false),
            Level::Restricted => {
                let mut all = checks::baseline(&pod, true);
                all.extend(checks::restricted(&pod));
                all
            }
        }
    }
}

/// Violations in one line.
pub fn describe(violations: &[Violation]) -> String {
    let one = |(reason, detail): &Violation| {
        if detail.is_empty() { (*reason).to_owned() } else { format!("{reason} ({detail})") }
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What a namespace enforces, and what it warns of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Rules,
    pub warn: Rules,
}

impl Policy {
    /// The policy in a namespace's labels, and what is wrong with them.
    pub fn of(namespace: &Value) -> (Self, ErrorList) {
        let mut errs = ErrorList::default();
        let labels = &namespace["metadata"]["labels"];
        let mut policy = Self { enforce: Rules::OPEN, warn: Rules::OPEN };
        let (mut enforced, mut warned, mut warned_version) = (false, false, false);
        for mode in ["enforce", "audit", "warn"] {
            let mut rules = Rules::OPEN;
            let (level_label, version_label) = (format!("{LABEL}{mode}"), format!("{LABEL}{mode}-version"));
            let path = Path::new("metadata").child("labels");
            if let Some(value) = labels.get(&level_label).and_then(Value::as_str) {
                match level(value) {
                    Some(level) => {
                        rules.level = level;
                        enforced |= mode == "enforce";
                    }
                    None => {
                        let detail = "must be one of privileged, baseline, restricted";
                        errs.add_invalid(&path.key(level_label.clone()), value, detail);
                        // What cannot be read is enforced at its strictest.
                        rules.level = if mode == "enforce" { Level::Restricted } else { Level::Privileged };
                    }
                }
                warned |= mode == "warn";
            }
            if let Some(value) = labels.get(&version_label).and_then(Value::as_str) {
                match version(value) {
                    Some(version) => rules.version = version,
                    None => {
                        let detail = "must be \"latest\" or \"v1.x\"";
                        errs.add_invalid(&path.key(version_label.clone()), value, detail);
                    }
                }
                warned_version |= mode == "warn";
            }
            match mode {
                "enforce" => policy.enforce = rules,
                "warn" => policy.warn = rules,
                _ => {}
            }
        }
        if !warned && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !warned_version {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errs)
    }

    /// Whether nothing is forbidden and nothing warned of.
    pub fn is_open(&self) -> bool {
        self.enforce.level == Level::Privileged && self.warn.level == Level::Privileged
    }
}

fn level(value: &str) -> Option<Level> {
    match value {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn version(value: &str) -> Option<Option<u32>> {
    if value == "latest" {
        return Some(None);
    }
    let minor = value.strip_prefix("v1.")?;
    let canonical = minor == "0" || !minor.starts_with(['0', '+']);
    minor.parse().ok().filter(|_| canonical).map(Some)
}

/// The warnings about pods that a namespace already has, when it comes to enforce more.
pub fn of_existing(namespace: &str, rules: Rules, pods: &[std::sync::Arc<Value>]) -> Vec<String> {
    const MAX_PODS: usize = 3000;
    let mut found: std::collections::BTreeMap<String, Vec<&str>> = std::collections::BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let violations = rules.violations(&pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            let reasons: Vec<&str> = violations.iter().map(|(reason, _)| *reason).collect();
            found.entry(reasons.join(", ")).or_default().push(text(pod, &["metadata", "name"]));
        }
    }
    let mut out = Vec::new();
    if pods.len() > MAX_PODS {
        out.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        out.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{rules}\""
        ));
    }
    let mut lines: Vec<String> = found
        .iter()
        .map(|(reasons, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                count => format!("{first} (and {} other pods): {reasons}", count - 1),
            }
        })
        .collect();
    lines.sort();
    out.extend(lines);
    out
}
