//! Checks on literals after the type check: durations, timestamps and patterns must be well formed, and lists and
//! maps must not mix types (except in what is formatted).

use super::checker::Checked;
use super::types::Type;
use crate::lib_fns::{pattern, time};
use crate::syntax::ast::*;
use crate::syntax::issues::Issues;

/// Reports every problem; they come validator by validator, as the reference orders them.
pub(super) fn validate(checked: &Checked, issues: &mut Issues) {
    literal_arguments(checked, issues, "duration", |literal| match literal {
        Literal::String(text) => time::parse_duration(text).is_ok(),
        Literal::Int(_) => true,
        _ => false,
    });
    literal_arguments(checked, issues, "timestamp", |literal| match literal {
        Literal::String(text) => time::parse_timestamp(text).is_ok(),
        Literal::Int(seconds) => time::in_range(*seconds),
        _ => false,
    });
    literal_arguments(checked, issues, "matches", |literal| match literal {
        Literal::String(text) => pattern::compile(text).is_ok(),
        _ => false,
    });
    mixed_literals(checked, issues);
}

fn literal_arguments(checked: &Checked, issues: &mut Issues, name: &str, valid: impl Fn(&Literal) -> bool) {
    checked.root.visit(&mut |expr| {
        let Kind::Call { function, args, .. } = &expr.kind else { return };
        if &**function != name {
            return;
        }
        if let Some(Expr { id, kind: Kind::Literal(literal) }) = args.first()
            && !valid(literal)
        {
            issues.report(checked.offsets[*id as usize], format!("invalid {name} argument"));
        }
    });
}

/// Lists first, then maps. What is handed to `format` may be mixed.
fn mixed_literals(checked: &Checked, issues: &mut Issues) {
    let (mut lists, mut maps) = (Vec::new(), Vec::new());
    collect(&checked.root, &mut lists, &mut maps);
    let of = |expr: &Expr, optional: bool| -> Type {
        let t = checked.type_of(expr);
        match t.optional_value() {
            Some(inner) if optional => inner.clone(),
            _ => t.clone(),
        }
    };
    let mut compare = |expected: &Type, expr: &Expr, found: &Type| {
        let same = expected.equivalent(found);
        if !same {
            let message = format!("expected type '{}' but found '{}'", expected.shown(), found.shown());
            issues.report(checked.offsets[expr.id as usize], message);
        }
        same
    };
    for elements in lists {
        let Some(first) = elements.first() else { continue };
        let expected = of(&first.value, first.optional);
        for element in &elements[1..] {
            if !compare(&expected, &element.value, &of(&element.value, element.optional)) {
                break;
            }
        }
    }
    for entries in maps {
        let Some(first) = entries.first() else { continue };
        let (keys, values) = (of(&first.key, false), of(&first.value, first.optional));
        for entry in &entries[1..] {
            compare(&keys, &entry.key, &of(&entry.key, false));
            compare(&values, &entry.value, &of(&entry.value, entry.optional));
        }
    }
}

fn collect<'e>(expr: &'e Expr, lists: &mut Vec<&'e [Element]>, maps: &mut Vec<&'e [Entry]>) {
    match &expr.kind {
        Kind::Call { function, .. } if &**function == "format" => {}
        Kind::List(elements) => {
            lists.push(elements);
            expr.children(&mut |child| collect(child, lists, maps));
        }
        Kind::Map(entries) => {
            maps.push(entries);
            expr.children(&mut |child| collect(child, lists, maps));
        }
        _ => expr.children(&mut |child| collect(child, lists, maps)),
    }
}
