//! The type checker: finds what every name and call means, or says what is wrong in cel-go's words.

use super::functions::Overload;
use super::types::Type;
use super::unify::{Bindings, most_general};
use crate::env::Env;
use crate::syntax::ast::*;
use crate::syntax::issues::Issues;
use std::fmt::Write;
use std::sync::Arc;

/// What a name or a call turned out to be.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable.
    Variable(Arc<str>),
    /// A type used as a value.
    Type(Type),
    /// A function, with the overloads that can apply, in order.
    Function(&'static str, Vec<&'static str>),
}

/// A checked expression.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub root: Expr,
    /// The type of each node.
    pub types: Vec<Type>,
    /// What names and calls refer to, by node.
    pub references: Vec<Option<Reference>>,
    /// Where each node stands.
    pub offsets: Vec<u32>,
}

impl Checked {
    pub fn type_of(&self, expr: &Expr) -> &Type {
        &self.types[expr.id as usize]
    }

    pub fn reference(&self, expr: &Expr) -> Option<&Reference> {
        self.references[expr.id as usize].as_ref()
    }
}

/// Checks `tree` against the declarations of `env`.
pub(crate) fn check(tree: Tree, source: &str, env: &Env) -> Result<Checked, Issues> {
    let count = tree.offsets.len();
    let mut checker = Checker {
        env,
        issues: Issues::new(source.into()),
        types: vec![None; count],
        references: vec![None; count],
        offsets: tree.offsets,
        bindings: Bindings::default(),
        fresh: 0,
        locals: Vec::new(),
    };
    let mut root = tree.root;
    checker.check(&mut root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = checker.types.iter().map(|t| match t {
        Some(t) => checker.bindings.substitute(t, true),
        None => Type::Dyn,
    });
    let checked =
        Checked { root, types: types.collect(), references: checker.references, offsets: checker.offsets };
    super::validate::validate(&checked, &mut checker.issues);
    if checker.issues.is_empty() { Ok(checked) } else { Err(checker.issues) }
}

struct Checker<'e> {
    env: &'e Env,
    issues: Issues,
    types: Vec<Option<Type>>,
    references: Vec<Option<Reference>>,
    offsets: Vec<u32>,
    bindings: Bindings,
    fresh: u32,
    /// The variables of the folds around the current node, innermost last.
    locals: Vec<(Arc<str>, Type)>,
}

/// A declaration found for a name.
enum Ident {
    Variable(Arc<str>, Type),
    Type(Type),
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.report(self.offsets[id as usize], message);
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        let message = format!("expected type '{}' but found '{}'", expected.shown(), found.shown());
        self.report(id, message);
    }

    fn set(&mut self, id: Id, t: Type) {
        self.types[id as usize] = Some(t);
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone().unwrap_or(Type::Error)
    }

    fn fresh(&mut self) -> Type {
        let name = format!("_var{}", self.fresh);
        self.fresh += 1;
        Type::Param(name.into())
    }

    fn lookup(&self, name: &str) -> Option<Ident> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((name, t)) = self.locals.iter().rev().find(|(local, _)| &**local == name) {
            return Some(Ident::Variable(name.clone(), t.clone()));
        }
        if let Some((name, t)) = self.env.variable(name) {
            return Some(Ident::Variable(name.clone(), t.clone()));
        }
        self.env.type_named(name).map(Ident::Type)
    }

    fn check(&mut self, expr: &mut Expr) {
        let id = expr.id;
        match &mut expr.kind {
            Kind::Unspecified => self.set(id, Type::Error),
            Kind::Literal(literal) => {
                let t = match literal {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.set(id, t);
            }
            Kind::Ident(name) => {
                let name = name.clone();
                if let Some(ident) = self.lookup(&name) {
                    expr.kind = Kind::Ident(self.refer(id, ident));
                } else {
                    self.set(id, Type::Error);
                    self.undeclared(id, &name);
                }
            }
            Kind::Select { .. } => self.check_select(expr),
            Kind::Call { .. } => self.check_call(expr),
            Kind::List(elements) => self.check_list(id, elements),
            Kind::Map(entries) => self.check_map(id, entries),
            Kind::Struct { .. } => self.check_struct(expr),
            Kind::Comprehension(fold) => self.check_fold(id, fold),
        }
    }

    /// Notes what a name refers to; gives its full name.
    fn refer(&mut self, id: Id, ident: Ident) -> Arc<str> {
        match ident {
            Ident::Variable(name, t) => {
                self.set(id, t);
                self.references[id as usize] = Some(Reference::Variable(name.clone()));
                name
            }
            Ident::Type(t) => {
                let name = t.name().into();
                self.set(id, Type::Type(Some(Arc::new(t.clone()))));
                self.references[id as usize] = Some(Reference::Type(t));
                name
            }
        }
    }

    fn check_select(&mut self, expr: &mut Expr) {
        let id = expr.id;
        if let Some(ident) = expr.qualified_name().and_then(|name| self.lookup(&name)) {
            expr.kind = Kind::Ident(self.refer(id, ident));
            return;
        }
        let Kind::Select { operand, field, test_only } = &mut expr.kind else { return };
        let (field, test_only) = (field.clone(), *test_only);
        let selected = self.check_field(id, operand, &field, false);
        let result = if test_only { Type::Bool } else { self.bindings.substitute(&selected, false) };
        self.set(id, result);
    }

    fn check_field(&mut self, id: Id, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand_type = self.bindings.substitute(&self.get(operand), false);
        let (target, was_optional) = match operand_type.optional_value() {
            Some(value) => (value.clone(), true),
            None => (operand_type, false),
        };
        let result = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Struct(name) => self.field_type(id, name, field).unwrap_or(Type::Error),
            Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn() && *other != Type::Error {
                    let message = format!("type '{}' does not support field selection", other.shown());
                    self.report(id, message);
                }
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(result) } else { result }
    }

    fn field_type(&mut self, id: Id, object: &str, field: &str) -> Option<Type> {
        if !self.env.has_object_type(object) {
            self.report(id, format!("unexpected failed resolution of '{object}'"));
            return None;
        }
        let found = self.env.field_type(object, field);
        if found.is_none() {
            self.report(id, format!("undefined field '{field}'"));
        }
        found
    }

    fn check_call(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let Kind::Call { function, target, args } = &mut expr.kind else { return };
        if &**function == op::OPT_SELECT {
            let [operand, field] = &mut args[..] else { return };
            let Kind::Literal(Literal::String(name)) = &field.kind else { return };
            let name = name.clone();
            let selected = self.check_field(id, operand, &name, true);
            let result = self.bindings.substitute(&selected, false);
            self.set(id, result);
            self.references[id as usize] =
                Some(Reference::Function(op::OPT_SELECT, vec!["select_optional_field"]));
            return;
        }
        args.iter_mut().for_each(|arg| self.check(arg));
        let Some(receiver) = target else {
            let name = function.strip_prefix('.').unwrap_or(function).to_owned();
            match self.env.function(&name) {
                Some((name, candidates)) => {
                    *function = name.into();
                    self.resolve(id, name, candidates, None, args);
                }
                None => {
                    let function = function.clone();
                    self.undeclared(id, &function);
                    self.set(id, Type::Error);
                }
            }
            return;
        };
        // a.b.c() is the function a.b.c if there is one, else the method c of a.b.
        if let Some(prefix) = receiver.qualified_name() {
            let name = format!("{}.{function}", prefix.strip_prefix('.').unwrap_or(&prefix));
            if let Some((name, candidates)) = self.env.function(&name) {
                *function = name.into();
                *target = None;
                self.resolve(id, name, candidates, None, args);
                return;
            }
        }
        self.check(receiver);
        match self.env.function(function) {
            Some((name, candidates)) => self.resolve(id, name, candidates, Some(receiver), args),
            None => {
                self.set(id, Type::Error);
                let function = function.clone();
                self.undeclared(id, &function);
            }
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        name: &'static str,
        candidates: &'static [Overload],
        target: Option<&Expr>,
        args: &[Expr],
    ) {
        let member = target.is_some();
        let arg_types: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        if name == op::AND || name == op::OR {
            let mut wrong = false;
            for (arg, t) in args.iter().zip(&arg_types) {
                if !self.bindings.assignable(t, &Type::Bool) {
                    self.mismatch(arg.id, &Type::Bool, t);
                    wrong = true;
                }
            }
            self.set(id, if wrong { Type::Error } else { Type::Bool });
            let overload = candidates.iter().map(|candidate| candidate.id).collect();
            self.references[id as usize] = Some(Reference::Function(name, overload));
            return;
        }
        let mut found: Vec<&'static str> = Vec::new();
        let mut result: Option<Type> = None;
        for candidate in candidates.iter().filter(|candidate| candidate.member == member) {
            let instance = self.instantiate(candidate);
            let (expected, returned) = match &instance {
                Some((args, result)) => (args.as_slice(), result),
                None => (candidate.args.as_slice(), &candidate.result),
            };
            if !self.bindings.all_assignable(&arg_types, expected) {
                continue;
            }
            found.push(candidate.id);
            let returned = self.bindings.substitute(returned, false);
            result = Some(match result {
                None => returned,
                Some(earlier) if earlier.is_dyn() || earlier == returned => earlier,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(result) => {
                self.set(id, result);
                self.references[id as usize] = Some(Reference::Function(name, found));
            }
            None => {
                let shown: Vec<Type> = arg_types.iter().map(|t| self.bindings.substitute(t, true)).collect();
                let message = format!(
                    "found no matching overload for '{name}' applied to '{}'",
                    signature(&shown, member)
                );
                self.report(id, message);
                self.set(id, Type::Error);
            }
        }
    }

    /// The overload with type variables of its own, if it has any.
    fn instantiate(&mut self, overload: &Overload) -> Option<(Vec<Type>, Type)> {
        if overload.params.is_empty() {
            return None;
        }
        let fresh: Vec<(Arc<str>, Type)> =
            overload.params.iter().map(|param| (param.clone(), self.fresh())).collect();
        let args = overload.args.iter().map(|arg| rename(arg, &fresh)).collect();
        Some((args, rename(&overload.result, &fresh)))
    }

    /// The type of an element or value, unwrapped if it is marked optional.
    fn unwrapped(&mut self, value: &Expr, optional: bool) -> Type {
        let t = self.get(value);
        if !optional {
            return t;
        }
        match t.optional_value() {
            Some(inner) => inner.clone(),
            None => {
                if !t.is_dyn() {
                    self.mismatch(value.id, &Type::optional(t.clone()), &t);
                }
                t
            }
        }
    }

    /// The type that elements of both types have: dyn for mixed ones, which [`super::validate`] refuses where
    /// they are not for formatting.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.bindings.assignable(&previous, &current) {
            return most_general(&previous, &current).clone();
        }
        Type::Dyn
    }

    fn check_list(&mut self, id: Id, elements: &mut [Element]) {
        let mut joined = None;
        for element in elements {
            self.check(&mut element.value);
            let t = self.unwrapped(&element.value, element.optional);
            joined = Some(self.join(joined, t));
        }
        let elem = joined.unwrap_or_else(|| self.fresh());
        self.set(id, Type::list(elem));
    }

    fn check_map(&mut self, id: Id, entries: &mut [Entry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let key = self.get(&entry.key);
            keys = Some(self.join(keys, key));
            self.check(&mut entry.value);
            let value = self.unwrapped(&entry.value, entry.optional);
            values = Some(self.join(values, value));
        }
        let (key, value) = match (keys, values) {
            (Some(key), Some(value)) => (key, value),
            _ => (self.fresh(), self.fresh()),
        };
        self.set(id, Type::map(key, value));
    }

    fn check_struct(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let Kind::Struct { name, fields } = &mut expr.kind else { return };
        let mut object = None;
        match self.lookup(name) {
            None => {
                let name = name.clone();
                self.undeclared(id, &name);
                self.set(id, Type::Error);
                return;
            }
            Some(Ident::Variable(_, t)) => {
                let message = format!("'{}' is not a type", t.name());
                self.report(id, message);
            }
            Some(Ident::Type(Type::Struct(full))) => {
                *name = full.clone();
                object = Some(full);
            }
            Some(Ident::Type(other)) => {
                let message = format!("'{}' is not a message type", other.name());
                self.report(id, message);
            }
        }
        self.set(id, object.clone().map_or(Type::Error, Type::Struct));
        for field in fields {
            self.check(&mut field.value);
            let expected = match &object {
                Some(object) if self.env.is_unknown_patch_field(object, &field.name) => {
                    let provided = self.unwrapped(&field.value, field.optional);
                    let message = format!(
                        "expected type of field '{}' is '' but provided type is '{}'",
                        field.name,
                        provided.shown()
                    );
                    self.report(field.id, message);
                    continue;
                }
                Some(object) => self.field_type(field.id, object, &field.name).unwrap_or(Type::Error),
                None => Type::Error,
            };
            let provided = self.unwrapped(&field.value, field.optional);
            if !self.bindings.assignable(&expected, &provided) {
                let message = format!(
                    "expected type of field '{}' is '{}' but provided type is '{}'",
                    field.name,
                    expected.shown(),
                    provided.shown()
                );
                self.report(field.id, message);
            }
        }
    }

    fn check_fold(&mut self, id: Id, fold: &mut Comprehension) {
        self.check(&mut fold.range);
        self.check(&mut fold.init);
        let range = self.bindings.substitute(&self.get(&fold.range), false);
        let accu = self.get(&fold.init);
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(elem) if two => (Type::Int, (**elem).clone()),
            Type::List(elem) => ((**elem).clone(), Type::Dyn),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.shown()
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.locals.len();
        self.locals.push((fold.accu.clone(), accu.clone()));
        let inside = self.locals.len();
        self.locals.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.locals.push((var2.clone(), second));
        }
        self.check(&mut fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&mut fold.step);
        self.assert(&fold.step, &accu);
        self.locals.truncate(inside);
        self.check(&mut fold.result);
        self.locals.truncate(outside);
        let result = self.bindings.substitute(&self.get(&fold.result), false);
        self.set(id, result);
    }

    fn assert(&mut self, expr: &Expr, expected: &Type) {
        let found = self.get(expr);
        if !self.bindings.assignable(expected, &found) {
            self.mismatch(expr.id, expected, &found);
        }
    }
}

fn rename(t: &Type, names: &[(Arc<str>, Type)]) -> Type {
    match t {
        Type::Param(name) => names
            .iter()
            .find(|(param, _)| param == name)
            .map_or_else(|| t.clone(), |(_, fresh)| fresh.clone()),
        Type::List(elem) => Type::list(rename(elem, names)),
        Type::Map(pair) => Type::map(rename(&pair.0, names), rename(&pair.1, names)),
        Type::Opaque(name, params) => {
            Type::Opaque(name.clone(), params.iter().map(|param| rename(param, names)).collect())
        }
        Type::Type(Some(param)) => Type::Type(Some(Arc::new(rename(param, names)))),
        _ => t.clone(),
    }
}

/// `target.(a, b)` or `(a, b)`.
fn signature(types: &[Type], member: bool) -> String {
    let mut out = String::new();
    let (target, args) = if member { (types.first(), &types[1..]) } else { (None, types) };
    if let Some(target) = target {
        let _ = write!(out, "{}.", target.shown());
    }
    out.push('(');
    for (index, arg) in args.iter().enumerate() {
        let _ = write!(out, "{}{}", if index == 0 { "" } else { ", " }, arg.shown());
    }
    out.push(')');
    out
}
