//! The syntax tree. Every node has an id; positions, types and resolved overloads are kept by id, so that
//! macros can share and copy nodes freely.

use std::sync::Arc;

/// A node's number; an index into [`Tree::offsets`].
pub(crate) type Id = u32;

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub id: Id,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// What stands where a problem was reported.
    Unspecified,
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        /// A `has()` of the field.
        test_only: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Comprehension(Box<Comprehension>),
}

/// An element of a list literal.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub value: Expr,
    pub optional: bool,
}

/// An entry of a map literal.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// A field of an object literal.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub id: Id,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A fold: what all the macros that iterate are made of.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub range: Expr,
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// A whole expression with the places of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub root: Expr,
    /// The byte offset in the source for each id.
    pub offsets: Vec<u32>,
}

/// The names under which operators are declared.
pub(crate) mod op {
    pub const CONDITIONAL: &str = "_?_:_";
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const EQUALS: &str = "_==_";
    pub const NOT_EQUALS: &str = "_!=_";
    pub const ADD: &str = "_+_";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}

/// The name of the accumulator that macros use; no expression can write it.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The name older versions used, which may not be overwritten either.
pub(crate) const OLD_ACCUMULATOR: &str = "__result__";
/// The variable of a fold that only binds its accumulator.
pub(crate) const UNUSED: &str = "#unused";

impl Expr {
    /// `a.b.c` as a dotted name, if the expression is one.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test_only: false } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }

    /// The identifier, if the expression is one.
    pub fn ident(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// Visits the node and everything under it, parents first.
    pub fn visit<'a>(&'a self, visitor: &mut dyn FnMut(&'a Expr)) {
        visitor(self);
        self.children(&mut |child| child.visit(visitor));
    }

    /// Visits the nodes directly under this one.
    pub fn children<'a>(&'a self, visitor: &mut dyn FnMut(&'a Expr)) {
        match &self.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => visitor(operand),
            Kind::Call { target, args, .. } => {
                if let Some(target) = target {
                    visitor(target);
                }
                args.iter().for_each(visitor);
            }
            Kind::List(elements) => elements.iter().for_each(|element| visitor(&element.value)),
            Kind::Map(entries) => {
                for entry in entries {
                    visitor(&entry.key);
                    visitor(&entry.value);
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| visitor(&field.value)),
            Kind::Comprehension(fold) => {
                for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    visitor(part);
                }
            }
        }
    }
}
