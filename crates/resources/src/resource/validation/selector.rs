//! The CEL expressions by which devices are selected (KEP-4381): compiled when they are written, so that what cannot work
//! is refused. Follows upstream's dynamic-resource-allocation/cel.

use crate::util::Errs;
use knarr_cel::{DeclType, Env, Type};
use knarr_meta::field::{self, ErrorList, Path};
use std::sync::{Arc, LazyLock};

/// The longest expression.
const MAX_EXPRESSION: usize = 10 * 1024;
/// What an expression may cost at the most.
const MAX_COST: u64 = 1_000_000;

/// What an expression sees: the variable `device`. A constant.
static DEVICE: LazyLock<Arc<DeclType>> = LazyLock::new(DeclType::device);

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(Env::device_selectors);

/// Errors of an expression.
pub fn check(errs: &mut ErrorList, expression: &str, path: &Path) {
    if expression.len() > MAX_EXPRESSION {
        errs.add_too_long(path, MAX_EXPRESSION);
        return;
    }
    let ast = match ENVIRONMENT.compile(expression) {
        Ok(ast) => ast,
        Err(issues) => {
            errs.add_invalid(path, expression, format!("compilation failed: {issues}"));
            return;
        }
    };
    if !matches!(ast.output_type(), Type::Bool | Type::Any) {
        let detail = format!("must evaluate to bool or the unknown type, not {}", ast.output_type());
        errs.add_invalid(path, expression, detail);
        return;
    }
    if let Err(problem) = ast.program() {
        errs.push(field::internal(path, format!("program instantiation failed: {problem}")));
    } else if ast.estimate_cost_of("device", &DEVICE).max > MAX_COST {
        errs.add_forbidden(path, "too complex, exceeds cost limit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(expression: &str) -> String {
        let mut errs = ErrorList::default();
        check(&mut errs, expression, &Path::new("expression"));
        errs.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn expressions_over_devices_compile() {
        for expression in [
            "true",
            "device.driver == \"dra.example.com\"",
            "device.attributes[\"dra.example.com\"].model == \"a\"",
            "device.attributes[\"dra.example.com\"].anything",
            "\"dra.example.com\" in device.attributes && device.attributes[\"dra.example.com\"].count >= 2",
            "device.attributes[\"dra.example.com\"].version.isGreaterThan(semver(\"1.0.0\"))",
            "device.capacity[\"dra.example.com\"].memory.isGreaterThan(quantity(\"1Gi\"))",
            "device.capacity[\"dra.example.com\"].memory.compareTo(quantity(\"1Gi\")) >= 0",
            "cel.bind(dra, device.attributes[\"dra.example.com\"], dra.one && dra.other)",
            "device.allowMultipleAllocations == true",
        ] {
            assert_eq!(refusal(expression), "", "{expression}");
        }
    }

    #[test]
    fn others_are_refused_in_upstreams_words() {
        for (expression, told) in [
            ("1", "must evaluate to bool or the unknown type, not int"),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("noSuchVar", "compilation failed: ERROR: <input>:1:1: undeclared reference to 'noSuchVar'"),
            ("device.noSuchField", "compilation failed: ERROR: <input>:1:7: undefined field 'noSuchField'"),
            ("device.attributes[1].x", "found no matching overload for '_[_]'"),
            ("cel.bind(a.b, 1, true)", "cel.bind() variable names must be simple identifiers"),
            (
                "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b + c + d == \"x\"))))",
                "Forbidden: too complex, exceeds cost limit",
            ),
        ] {
            let refused = refusal(expression);
            assert!(refused.contains(told), "{expression}: {refused}");
        }
    }
}
