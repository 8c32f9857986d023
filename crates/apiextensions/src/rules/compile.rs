//! Compiling the rules of one schema (upstream's `schema/cel.Compile`).

use crate::crd::fieldpath;
use crate::schema::{Rule, Schema};
use knarr_cel::{Ast, DeclType, Env, Program, Type};
use std::sync::Arc;

/// One rule, compiled or not.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The rule as written.
    pub rule: Rule,
    /// What runs; none for an empty rule and for one with an error.
    pub program: Option<Program>,
    /// Why the rule does not compile.
    pub error: Option<String>,
    /// Whether the rule speaks of the old value.
    pub uses_old_self: bool,
    /// What running it may cost at most.
    pub max_cost: u64,
    /// What makes its message.
    pub message: Option<Program>,
    /// Why the message does not compile.
    pub message_error: Option<String>,
    /// What making the message may cost at most.
    pub message_max_cost: u64,
    /// The field that is blamed, as error texts name it.
    pub path: Option<String>,
}

/// Compiles the rules that stand with a schema; `decl` is what values look like to them.
pub(crate) fn rules(schema: &Schema, decl: &Arc<DeclType>) -> Vec<Compiled> {
    let env = |optional: bool| Env::kubernetes().with_declared_pair("self", "oldSelf", optional, decl);
    let mut envs: [Option<Env>; 2] = [None, None];
    schema
        .validations
        .iter()
        .map(|rule| {
            let optional = rule.optional_old_self == Some(true);
            let env = envs[usize::from(optional)].get_or_insert_with(|| env(optional));
            one(rule, schema, env, decl)
        })
        .collect()
}

fn one(rule: &Rule, schema: &Schema, env: &Env, decl: &DeclType) -> Compiled {
    let mut compiled = Compiled {
        rule: rule.clone(),
        program: None,
        error: None,
        uses_old_self: false,
        max_cost: 0,
        message: None,
        message_error: None,
        message_max_cost: 0,
        path: None,
    };
    if rule.rule.trim().is_empty() {
        return compiled;
    }
    let ast = match env.compile(&rule.rule) {
        Ok(ast) if *ast.output_type() == Type::Bool => ast,
        Ok(_) => {
            compiled.error = Some("cel expression must evaluate to a bool".into());
            return compiled;
        }
        Err(issues) => {
            compiled.error = Some(format!("compilation failed: {issues}"));
            return compiled;
        }
    };
    compiled.uses_old_self = ast.references("oldSelf");
    match program(&ast, decl) {
        Ok((program, cost)) => (compiled.program, compiled.max_cost) = (Some(program), cost),
        Err(error) => {
            compiled.error = Some(format!("program instantiation failed: {error}"));
            return compiled;
        }
    }
    if !rule.message_expression.is_empty() {
        match message(&rule.message_expression, env, decl) {
            Ok((program, cost)) => (compiled.message, compiled.message_max_cost) = (Some(program), cost),
            Err(error) => {
                compiled.message_error = Some(error);
                return compiled;
            }
        }
    }
    if !rule.field_path.is_empty() {
        compiled.path = fieldpath::follow(&rule.field_path, schema, true)
            .ok()
            .and_then(|(path, _)| Some(path?.to_string()));
    }
    compiled
}

fn program(ast: &Ast, decl: &DeclType) -> Result<(Program, u64), String> {
    let program = ast.program().map_err(|error| error.to_string())?;
    Ok((program, ast.estimate_cost(Some(decl)).max))
}

fn message(expression: &str, env: &Env, decl: &DeclType) -> Result<(Program, u64), String> {
    let ast = env
        .compile(expression)
        .map_err(|issues| format!("messageExpression compilation failed: {issues}"))?;
    if *ast.output_type() != Type::String {
        return Err("messageExpression must evaluate to a string".into());
    }
    program(&ast, decl).map_err(|error| format!("messageExpression instantiation failed: {error}"))
}
