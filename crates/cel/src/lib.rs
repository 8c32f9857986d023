//! CEL as Kubernetes speaks it: parser, type checker, evaluator and costs of the 1.36 environment
//! (KEP-2876 rules in CRDs, KEP-3488 and KEP-3962 admission policies, KEP-3716 match conditions).
//!
//! ```
//! use knarr_cel::{Bindings, Env, PER_CALL_LIMIT, Type, Value};
//!
//! let env = Env::kubernetes().with_variable("object", Type::Dyn);
//! let ast = env.compile("object.spec.replicas <= 5").expect("a valid expression");
//! assert_eq!(*ast.output_type(), Type::Bool);
//! let program = ast.program().expect("no constants that fail");
//!
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let mut bindings = Bindings::new();
//! bindings.set("object", Value::json(&object));
//! let evaluation = program.eval(&bindings, PER_CALL_LIMIT);
//! assert_eq!(evaluation.value.ok().and_then(|value| value.as_bool()), Some(true));
//! assert_eq!(evaluation.cost, 4);
//! ```
//!
//! Nothing here reads clocks or the network, and nothing panics on any input. An expression is compiled once
//! ([`Env::compile`], [`Ast::program`]) and run many times; values borrow the JSON they are made of.

mod bindings;
mod check;
mod composition;
mod cost;
mod decl;
mod env;
mod error;
mod eval;
pub mod fuzz;
mod lib_fns;
mod program;
mod syntax;
mod value;

pub use bindings::Bindings;
pub use check::types::Type;
pub use composition::Composition;
pub use cost::estimate::CostEstimate;
pub use decl::DeclType;
pub use decl::escape::{escape, is_reserved, unescape};
pub use env::Env;
pub use error::EvalError;
pub use lib_fns::authz::{
    Authorizer, AuthorizerAttributes, AuthorizerDecision, AuthorizerUser, ResourceCheck,
};
pub use program::{Ast, CompileError, Evaluation, Program};
pub use syntax::issues::{Issue, Issues};
pub use value::{JsonPatchOp, List, MapValue, ObjectValue, OpaqueValue, Text, Timestamp, Value};

/// What one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What the evaluations of all rules on one request may cost together.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
