//! Environments: which variables and types an expression may use. The functions are those of Kubernetes 1.36.

use crate::check::functions::{self, Overload};
use crate::check::types::{OPTIONAL, Type};
use crate::check::{self};
use crate::decl::DeclType;
use crate::program::Ast;
use crate::syntax::issues::Issues;
use crate::syntax::{Dialect, parse};
use std::collections::HashMap;
use std::sync::Arc;

/// The type of the variable `variables`.
const COMPOSED: &str = "kubernetes.variables";

/// What an expression may use. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Env(Arc<Declarations>);

#[derive(Clone, Default)]
struct Declarations {
    variables: Vec<(Arc<str>, Type)>,
    objects: HashMap<Arc<str>, Arc<DeclType>>,
    /// The fields of `variables`, if it is declared.
    composed: Option<HashMap<Arc<str>, Type>>,
    /// Whether patches can be made: `Object`, `JSONPatch` and `jsonpatch.escapeKey`.
    patches: bool,
    dialect: Dialect,
}

impl Env {
    /// The environment of Kubernetes 1.36 without any variables.
    pub fn kubernetes() -> Self {
        Self::default()
    }

    fn change(mut self, change: impl FnOnce(&mut Declarations)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Declares a variable. Dotted names are allowed: `authorizer.requestResource`.
    pub fn with_variable(self, name: &str, t: Type) -> Self {
        self.change(|declarations| {
            declarations.variables.retain(|(known, _)| &**known != name);
            declarations.variables.push((name.into(), t));
        })
    }

    /// Makes the object types in a declared type known.
    pub fn with_types(self, decl: &Arc<DeclType>) -> Self {
        self.change(|declarations| {
            decl.visit_objects(&mut |object| {
                declarations.objects.insert(object.type_name().into(), object.clone());
            });
        })
    }

    /// Declares a variable of a declared type. Unnamed object types are named after the variable.
    pub fn with_declared(self, name: &str, decl: &Arc<DeclType>) -> Self {
        let named = decl.assign_type_name(&format!("{name}Type"));
        self.with_types(&named).with_variable(name, named.cel_type().clone())
    }

    /// Declares variables of one declared type, such as `self` and `oldSelf`; the last ones are optional.
    pub fn with_declared_pair(self, name: &str, other: &str, optional: bool, decl: &Arc<DeclType>) -> Self {
        let named = decl.assign_type_name(&format!("{name}Type"));
        let t = named.cel_type().clone();
        let second = if optional { Type::optional(t.clone()) } else { t.clone() };
        self.with_types(&named).with_variable(name, t).with_variable(other, second)
    }

    /// Declares what mutating policies make: `Object{...}`, `JSONPatch{...}` and `jsonpatch.escapeKey`.
    pub fn with_patch_types(self) -> Self {
        self.change(|declarations| declarations.patches = true)
    }

    /// Adds the macro `cel.bind(name, value, result)`, which device selectors have.
    pub fn with_bindings(self) -> Self {
        self.change(|declarations| declarations.dialect = Dialect::Bindings)
    }

    pub(crate) fn with_composition(self) -> Self {
        self.change(|declarations| declarations.composed = Some(HashMap::new()))
            .with_variable("variables", Type::object(COMPOSED))
    }

    pub(crate) fn with_composed_variable(self, name: &str, t: Type) -> Self {
        self.change(|declarations| {
            declarations.composed.get_or_insert_default().insert(name.into(), t);
        })
    }

    /// Parses and checks an expression.
    pub fn compile(&self, source: &str) -> Result<Ast, Issues> {
        let tree = parse(source, self.0.dialect)?;
        check::check(tree, source, self).map(Ast::new)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(&Arc<str>, &Type)> {
        self.0.variables.iter().find(|(known, _)| &**known == name).map(|(name, t)| (name, t))
    }

    /// The type that a name means.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "int" => Type::Int,
            "list" => Type::list(Type::Param("A".into())),
            "map" => Type::map(Type::Param("A".into()), Type::Param("B".into())),
            "null_type" => Type::Null,
            "string" => Type::String,
            "type" => Type::Type(None),
            "uint" => Type::Uint,
            "net.IP" | "net.CIDR" => Type::Opaque(name.into(), Arc::from([])),
            OPTIONAL => Type::Opaque(name.into(), Arc::from([])),
            _ if self.has_object_type(name) => Type::object(name),
            _ => return None,
        })
    }

    pub(crate) fn has_object_type(&self, name: &str) -> bool {
        self.0.objects.contains_key(name)
            || (self.0.patches && (is_patch_object(name) || name == "JSONPatch"))
            || (name == COMPOSED && self.0.composed.is_some())
    }

    /// The type of a field of an object type.
    pub(crate) fn field_type(&self, object: &str, field: &str) -> Option<Type> {
        if self.0.patches {
            if is_patch_object(object) {
                return Some(Type::Dyn);
            }
            if object == "JSONPatch" {
                return match field {
                    "op" | "path" | "from" => Some(Type::String),
                    "value" => Some(Type::Dyn),
                    _ => None,
                };
            }
        }
        if object == COMPOSED {
            return self.0.composed.as_ref()?.get(field).cloned();
        }
        self.0.objects.get(object)?.field(field).map(|decl| decl.cel_type().clone())
    }

    /// Whether this is a field of `JSONPatch` that is none; upstream knows it, but without a type.
    pub(crate) fn is_unknown_patch_field(&self, object: &str, field: &str) -> bool {
        self.0.patches && object == "JSONPatch" && self.field_type(object, field).is_none()
    }

    /// The overloads of a function.
    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, &'static [Overload])> {
        if name == "jsonpatch.escapeKey" && !self.0.patches {
            return None;
        }
        functions::overloads(name)
    }
}

fn is_patch_object(name: &str) -> bool {
    name == "Object" || name.starts_with("Object.")
}
