//! The steps of a program.

use crate::cost::runtime::Rule;
use crate::lib_fns::Function;
use crate::value::Value;
use regex::Regex;
use std::collections::HashSet;
use std::sync::Arc;

/// A step. Its cost is that of the corresponding step upstream, which decides how steps are cut.
#[derive(Debug)]
pub(crate) enum Node {
    /// Costs nothing.
    Const(Value<'static>),
    /// A function without arguments.
    Constant(Value<'static>),
    /// A variable or value with selections.
    Attr(Box<Attr>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Equal {
        sides: Box<(Node, Node)>,
        negated: bool,
    },
    /// Membership in a constant list; costs nothing.
    InSet(Box<(Node, Set)>),
    NotStrictlyFalse(Box<Node>),
    Call(Box<Call>),
    /// A function of a pattern known when the program was made.
    Pattern(Box<PatternCall>),
    /// `or` and `orValue`.
    OptionalOr {
        sides: Box<(Node, Node)>,
        value: bool,
    },
    List(Box<[Item]>),
    Map(Box<[MapItem]>),
    Object {
        type_name: Arc<str>,
        fields: Box<[ObjectItem]>,
    },
    Fold(Box<Fold>),
    /// Adds an element to the list that a fold accumulates.
    Append {
        accu: usize,
        element: Box<Node>,
    },
    /// Adds entries to the map that a fold accumulates.
    Insert {
        accu: usize,
        args: Box<[Node]>,
    },
}

#[derive(Debug)]
pub(crate) struct Item {
    pub value: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) struct MapItem {
    pub key: Node,
    pub value: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) struct ObjectItem {
    pub name: Arc<str>,
    pub value: Node,
    pub optional: bool,
}

/// A call of a function.
pub(crate) struct Call {
    pub name: &'static str,
    pub function: Function,
    pub args: Box<[Node]>,
    pub rule: Rule,
    /// Arguments after one that failed are not evaluated.
    pub stops_early: bool,
    /// A call with the wrong types names them.
    pub guarded: bool,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("name", &self.name).field("args", &self.args).finish_non_exhaustive()
    }
}

/// A call of `matches`, `find` or `findAll`.
#[derive(Debug)]
pub(crate) struct PatternCall {
    pub kind: PatternKind,
    pub regex: Regex,
    /// The text, the pattern and, for `findAll`, the limit.
    pub args: Box<[Node]>,
    pub rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternKind {
    Matches,
    Find,
    FindAll,
}

/// The members of a constant list.
#[derive(Debug)]
pub(crate) enum Set {
    Texts(HashSet<Arc<str>>),
    Values(Vec<Value<'static>>),
}

/// A root and what is selected from it.
#[derive(Debug)]
pub(crate) struct Attr {
    pub root: Root,
    pub qualifiers: Vec<Arc<Qualifier>>,
    /// The last qualifier is only looked for.
    pub test_only: bool,
}

#[derive(Debug)]
pub(crate) enum Root {
    /// A variable by name.
    Variable(Arc<str>),
    /// A variable of a fold.
    Local(usize),
    /// The value of a step.
    Node(Node),
    /// One of two, by a condition.
    Conditional(Box<(Node, Attr, Attr)>),
}

#[derive(Debug)]
pub(crate) struct Qualifier {
    pub key: QualifierKey,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) enum QualifierKey {
    /// A field or key known when the program was made: the identifier, and the field name it stands for.
    Field { identifier: Box<str>, name: Option<Box<str>> },
    /// A field of an object that the expression makes.
    ObjectField(Box<str>),
    /// A constant of another type.
    Const(Value<'static>),
    /// A computed key.
    Attr(Attr),
}

/// A fold over the elements of a list or the keys of a map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub var: usize,
    pub var2: Option<usize>,
    pub accu: usize,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}
