//! Compiling: which variables an expression sees, and what it must come to.

use knarr_cel::{CompileError, DeclType, Env, Program, Type};
use std::fmt;
use std::sync::OnceLock;

/// What an expression sees beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{}` and `JSONPatch{}`.
    pub patches: bool,
}

/// The environment that every expression of admission starts from; it never changes.
static BASE: OnceLock<Env> = OnceLock::new();

impl Seen {
    /// The environment.
    pub fn env(self) -> Env {
        let base = BASE.get_or_init(|| {
            Env::kubernetes()
                .with_variable("object", Type::Dyn)
                .with_variable("oldObject", Type::Dyn)
                .with_declared("namespaceObject", &DeclType::namespace())
                .with_declared("request", &DeclType::request())
        });
        self.extend(base.clone())
    }

    /// The same environment with other types of `object` and `oldObject` in `env` already.
    pub fn extend(self, mut env: Env) -> Env {
        if self.params {
            env = env.with_variable("params", Type::Dyn);
        }
        if self.authorizer {
            env = env
                .with_variable("authorizer", Type::authorizer())
                .with_variable("authorizer.requestResource", Type::resource_check());
        }
        if self.patches {
            env = env.with_patch_types();
        }
        env
    }
}

/// What an expression must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// A condition.
    Bool,
    /// A message.
    Text,
    /// A value, or `null` for none.
    TextOrNull,
    /// An apply configuration.
    Object,
    /// The operations of a JSON patch.
    Operations,
}

impl Returns {
    fn types(self) -> Vec<Type> {
        match self {
            Self::Bool => vec![Type::Bool],
            Self::Text => vec![Type::String],
            Self::TextOrNull => vec![Type::String, Type::Null],
            Self::Object => vec![Type::object_patch()],
            Self::Operations => vec![Type::list(Type::json_patch())],
        }
    }
}

/// Why an expression cannot be used; displays as upstream's detail.
#[derive(Clone, Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Compiles an expression.
pub fn compile(env: &Env, source: &str, returns: Returns) -> Result<Program, Failure> {
    let ast = env.compile(source).map_err(|e| Failure(CompileError::Issues(e).to_string()))?;
    let (wanted, got) = (returns.types(), ast.output_type());
    if !wanted.contains(got) {
        let names: Vec<String> = wanted.iter().map(Type::to_string).collect();
        let one_of = match names.as_slice() {
            [only] => only.clone(),
            several => format!("one of [{}]", several.join(" ")),
        };
        return Err(Failure(format!("must evaluate to {one_of} but got {got}")));
    }
    ast.program().map_err(|e| Failure(CompileError::Instantiation(e).to_string()))
}

/// An expression with what became of it: one that does not compile is an error each time it is used.
pub struct Compiled {
    /// The text.
    pub source: String,
    /// The program.
    pub program: Result<Program, Failure>,
}

impl Compiled {
    /// Compiles an expression and keeps what comes of it.
    pub fn new(env: &Env, source: &str, returns: Returns) -> Self {
        Self { source: source.to_owned(), program: compile(env, source, returns) }
    }
}
