//! Which type may stand where another is expected, and what type variables stand for.

use super::types::Type;
use std::collections::HashMap;
use std::sync::Arc;

/// What type variables stand for. A failed attempt leaves no trace.
#[derive(Default)]
pub(super) struct Bindings {
    bound: HashMap<Arc<str>, Type>,
    /// Earlier values of what was changed since the attempt began.
    undo: Vec<(Arc<str>, Option<Type>)>,
}

impl Bindings {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.bound.get(name),
            _ => None,
        }
    }

    fn bind(&mut self, param: &Type, to: Type) {
        if let Type::Param(name) = param {
            let before = self.bound.insert(name.clone(), to);
            self.undo.push((name.clone(), before));
        }
    }

    fn attempt(&mut self, attempt: impl FnOnce(&mut Self) -> bool) -> bool {
        self.undo.clear();
        let done = attempt(self);
        if !done {
            while let Some((name, before)) = self.undo.pop() {
                match before {
                    Some(before) => self.bound.insert(name, before),
                    None => self.bound.remove(&name),
                };
            }
        }
        done
    }

    /// Whether a value of type `from` may stand where `to` is expected.
    pub fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.attempt(|bindings| bindings.may_assign(from, to))
    }

    /// The same for a list of arguments.
    pub fn all_assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        self.attempt(|bindings| bindings.may_assign_all(from, to))
    }

    /// The type with its variables replaced; unbound ones become dyn if `erase`.
    pub fn substitute(&self, t: &Type, erase: bool) -> Type {
        if let Some(bound) = self.find(t) {
            return self.substitute(bound, erase);
        }
        match t {
            Type::Param(_) if erase => Type::Dyn,
            Type::List(elem) => Type::list(self.substitute(elem, erase)),
            Type::Map(pair) => Type::map(self.substitute(&pair.0, erase), self.substitute(&pair.1, erase)),
            Type::Opaque(name, params) if !params.is_empty() => {
                Type::Opaque(name.clone(), params.iter().map(|param| self.substitute(param, erase)).collect())
            }
            Type::Type(Some(param)) => Type::Type(Some(Arc::new(self.substitute(param, erase)))),
            _ => t.clone(),
        }
    }

    fn may_assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        from.len() == to.len() && from.iter().zip(to).all(|(from, to)| self.may_assign(from, to))
    }

    fn may_assign(&mut self, from: &Type, to: &Type) -> bool {
        if matches!(to, Type::Param(_)) {
            let (valid, bound) = self.substitutes(from, to);
            if valid {
                return true;
            }
            if bound {
                return false;
            }
        }
        if matches!(from, Type::Param(_)) {
            return self.substitutes(to, from).0;
        }
        let wild = |t: &Type| t.is_dyn() || matches!(t, Type::Error);
        if wild(from) || wild(to) {
            return true;
        }
        match (from, to) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Opaque(..) | Type::Struct(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(from), Type::List(to)) => self.may_assign(from, to),
            (Type::Map(from), Type::Map(to)) => {
                self.may_assign(&from.0, &to.0) && self.may_assign(&from.1, &to.1)
            }
            (Type::Opaque(a, from), Type::Opaque(b, to)) => a == b && self.may_assign_all(from, to),
            _ => from == to,
        }
    }

    /// Whether `param` (or what it stands for) can be `t`, and whether it stands for something already.
    fn substitutes(&mut self, t: &Type, param: &Type) -> (bool, bool) {
        if t == param {
            return (true, true);
        }
        if let Some(bound) = self.find(param).cloned() {
            if *t == bound {
                return (true, true);
            }
            if !self.may_assign(t, &bound) {
                return (false, true);
            }
            let general = most_general(t, &bound).clone();
            if self.absent(param, &general) {
                self.bind(param, general);
            }
            return (true, true);
        }
        if self.absent(param, t) {
            self.bind(param, t.clone());
            return (true, false);
        }
        (false, false)
    }

    /// The occurs check: whether `param` does not appear within `t`.
    fn absent(&self, param: &Type, t: &Type) -> bool {
        if param == t {
            return false;
        }
        match t {
            Type::Param(_) => self.find(t).is_none_or(|bound| self.absent(param, bound)),
            Type::Map(pair) => self.absent(param, &pair.0) && self.absent(param, &pair.1),
            _ => t.params().iter().all(|inner| self.absent(param, inner)),
        }
    }
}

/// The wider of two types that agree.
pub(super) fn most_general<'t>(a: &'t Type, b: &'t Type) -> &'t Type {
    if at_most_as_specific(a, b) { a } else { b }
}

fn at_most_as_specific(a: &Type, b: &Type) -> bool {
    let open = |t: &Type| t.is_dyn() || matches!(t, Type::Param(_));
    if open(a) {
        return true;
    }
    if open(b) {
        return false;
    }
    match (a, b) {
        (Type::Opaque(x, p), Type::Opaque(y, q)) => {
            x == y && p.len() == q.len() && p.iter().zip(q.iter()).all(|(p, q)| at_most_as_specific(p, q))
        }
        (Type::List(p), Type::List(q)) => at_most_as_specific(p, q),
        (Type::Map(p), Type::Map(q)) => at_most_as_specific(&p.0, &q.0) && at_most_as_specific(&p.1, &q.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}
