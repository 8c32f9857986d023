//! The RBAC authorizer (rbac.authorization.k8s.io/v1). Bindings are indexed by subject and roles are kept
//! parsed; both follow the four kinds' revisions, and each kind is read again only when it changed. As upstream,
//! decisions may be moments behind a binding that was just written.

use super::rules::Rule;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::request::{Reader, UserInfo};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The API group of the kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A subject as bindings name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// What a binding grants.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The binding's namespace; empty for a cluster role binding.
    pub namespace: String,
    /// The binding's name.
    pub binding: String,
    /// Whether it refers to a ClusterRole.
    pub cluster_role: bool,
    /// The role's name.
    pub role: String,
    /// The subject through which it applies, for the reason of a decision.
    subject: String,
}

/// Bindings by subject; the index of a kind is replaced as a whole.
type Bindings = HashMap<Subject, Vec<Arc<Grant>>>;
/// Rules of roles by namespace and name.
type Roles = HashMap<(String, String), Arc<[Rule]>>;

struct Compiled<T> {
    revision: u64,
    index: Arc<T>,
}

impl<T: Default> Default for Compiled<T> {
    fn default() -> Self {
        // No store ever has this revision, so that the first question compiles.
        Self { revision: u64::MAX, index: Arc::default() }
    }
}

/// RBAC over the objects of a reader.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    cluster_bindings: ArcSwap<Compiled<Bindings>>,
    bindings: ArcSwap<Compiled<Bindings>>,
    cluster_roles: ArcSwap<Compiled<Roles>>,
    roles: ArcSwap<Compiled<Roles>>,
    compiling: Mutex<()>,
}

impl Rbac {
    /// An authorizer that answers from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            cluster_bindings: ArcSwap::default(),
            bindings: ArcSwap::default(),
            cluster_roles: ArcSwap::default(),
            roles: ArcSwap::default(),
            compiling: Mutex::default(),
        }
    }

    fn current<T>(
        &self,
        slot: &ArcSwap<Compiled<T>>,
        resource: &str,
        compile: fn(&[Arc<Value>]) -> T,
    ) -> Arc<T> {
        let revision = self.reader.settled(GROUP, resource);
        let compiled = slot.load();
        if compiled.revision == revision {
            return compiled.index.clone();
        }
        let _one_at_a_time = self.compiling.lock().expect("compile lock is never poisoned");
        let compiled = slot.load();
        if compiled.revision == revision {
            return compiled.index.clone();
        }
        // Read before the list, so that a change in between is compiled again at the next question.
        let revision = self.reader.settled(GROUP, resource);
        let index = Arc::new(compile(&self.reader.list(GROUP, resource, "")));
        slot.store(Arc::new(Compiled { revision, index: index.clone() }));
        index
    }

    /// Calls `visit` with each grant that applies to `user` in `namespace` and its rules (or why they cannot
    /// be found) until it returns false.
    pub fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visit: impl FnMut(&Grant, Result<&[Rule], String>) -> bool,
    ) {
        let cluster_roles = self.current(&self.cluster_roles, "clusterroles", compile_roles);
        let cluster_bindings = self.current(&self.cluster_bindings, "clusterrolebindings", compile_bindings);
        let mut each = |grant: &Grant, roles: &Roles, role_namespace: &str| {
            let key = (role_namespace.to_owned(), grant.role.clone());
            match roles.get(&key) {
                Some(rules) => visit(grant, Ok(rules)),
                None => visit(grant, Err(missing(grant))),
            }
        };
        for grant in grants(&cluster_bindings, user) {
            if !each(grant, &cluster_roles, "") {
                return;
            }
        }
        if namespace.is_empty() {
            return;
        }
        let bindings = self.current(&self.bindings, "rolebindings", compile_bindings);
        let mut applying = grants(&bindings, user).filter(|grant| grant.namespace == namespace).peekable();
        if applying.peek().is_none() {
            return;
        }
        let roles = self.current(&self.roles, "roles", compile_roles);
        for grant in applying {
            let go_on = if grant.cluster_role {
                each(grant, &cluster_roles, "")
            } else {
                each(grant, &roles, namespace)
            };
            if !go_on {
                return;
            }
        }
    }

    /// All rules that apply to a user in a namespace, and what went wrong while they were collected.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |_, rules| {
            match rules {
                Ok(rules) => all.extend_from_slice(rules),
                Err(error) => errors.push(error),
            }
            true
        });
        (all, errors)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, a: &Attributes) -> Decision {
        let (mut allowed, mut errors) = (None, Vec::new());
        let namespace = if a.is_resource { a.namespace.as_str() } else { "" };
        self.visit(&a.user, namespace, |grant, rules| {
            match rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(a)) => {
                    allowed = Some(reason(grant));
                    return false;
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
            true
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate(&errors))),
        }
    }
}

/// Several errors in one text, as Go's aggregate prints them.
fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }
    match unique.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn missing(grant: &Grant) -> String {
    let resource = if grant.cluster_role { "clusterrole" } else { "role" };
    format!("{resource}.{GROUP} {} not found", super::quoted(&grant.role))
}

fn reason(grant: &Grant) -> String {
    let role = if grant.cluster_role { "ClusterRole" } else { "Role" };
    if grant.namespace.is_empty() {
        format!(
            "RBAC: allowed by ClusterRoleBinding {} of {role} {} to {}",
            super::quoted(&grant.binding),
            super::quoted(&grant.role),
            grant.subject
        )
    } else {
        let binding = super::quoted(&format!("{}/{}", grant.binding, grant.namespace));
        format!(
            "RBAC: allowed by RoleBinding {binding} of {role} {} to {}",
            super::quoted(&grant.role),
            grant.subject
        )
    }
}

fn grants<'a>(index: &'a Bindings, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
    let subjects = std::iter::once(Subject::User(user.name.clone()))
        .chain(user.groups.iter().map(|group| Subject::Group(group.clone())));
    subjects.flat_map(|subject| index.get(&subject).into_iter().flatten()).map(|grant| &**grant)
}

fn compile_roles(objects: &[Arc<Value>]) -> Roles {
    objects.iter().map(|role| (key(role), Rule::all_of(role).into())).collect()
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn compile_bindings(objects: &[Arc<Value>]) -> Bindings {
    let mut index = Bindings::new();
    for object in objects {
        let (namespace, binding) = key(object);
        let role = &object["roleRef"];
        for subject in object["subjects"].as_array().into_iter().flatten() {
            let Some((key, text)) = subject_key(subject, &namespace) else { continue };
            let grant = Grant {
                namespace: namespace.clone(),
                binding: binding.clone(),
                cluster_role: role["kind"] == "ClusterRole",
                role: role["name"].as_str().unwrap_or_default().to_owned(),
                subject: text,
            };
            index.entry(key).or_default().push(Arc::new(grant));
        }
    }
    index
}

/// How a request's user meets a binding's subject, and the words for it.
fn subject_key(subject: &Value, binding_namespace: &str) -> Option<(Subject, String)> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some((Subject::User(name.into()), format!("User {}", super::quoted(name)))),
        "Group" => Some((Subject::Group(name.into()), format!("Group {}", super::quoted(name)))),
        "ServiceAccount" => {
            let own = subject["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(binding_namespace);
            if own.is_empty() {
                return None;
            }
            let user = format!("system:serviceaccount:{own}:{name}");
            let text = format!("ServiceAccount {}", super::quoted(&format!("{name}/{own}")));
            Some((Subject::User(user), text))
        }
        _ => None,
    }
}
