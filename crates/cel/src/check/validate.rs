//! Checks on literals after the type check: durations, timestamps and patterns must be well formed, and lists and
//! maps must not mix types (except in what is formatted).

use super::checker::Checked;
use super::types::Type;
use crate::lib_fns::{format, pattern, time};
use crate::syntax::ast::*;
use crate::syntax::issues::Issues;

/// Reports every problem; they come validator by validator, as the reference orders them.
pub(super) fn validate(checked: &Checked, issues: &mut Issues) {
    literal_arguments(checked, issues, "duration", |literal| match literal {
        Literal::String(text) => knarr_meta::duration::parse(text).is_ok(),
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
    format_calls(checked, issues);
}

/// Format strings that are known, with lists of arguments that are.
fn format_calls(checked: &Checked, issues: &mut Issues) {
    checked.root.visit(&mut |expr| {
        let Kind::Call { function, target: Some(target), args } = &expr.kind else { return };
        let (Kind::Literal(Literal::String(template)), [Expr { kind: Kind::List(items), .. }]) =
            (&target.kind, &args[..])
        else {
            return;
        };
        if &**function != "format" {
            return;
        }
        let offset = |expr: &Expr| checked.offsets[expr.id as usize];
        match format_call(checked, template, items) {
            Ok(used) if items.len() > used => issues.report(
                offset(expr),
                format!(
                    "too many arguments supplied to string.format (expected {used}, got {})",
                    items.len()
                ),
            ),
            Ok(_) => {}
            Err((at, message)) => issues.report(offset(at.unwrap_or(expr)), message),
        }
    });
}

/// The number of arguments a format string takes, or what is wrong and with which argument.
fn format_call<'e>(
    checked: &Checked,
    template: &str,
    items: &'e [Element],
) -> Result<usize, (Option<&'e Expr>, String)> {
    let mut rest = template;
    let mut used = 0;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return Err((None, "unexpected end of string".to_owned()));
        }
        let Some(item) = items.get(used) else { return Err((None, format!("index {used} out of range"))) };
        used += 1;
        let (clause, after) = format::clause(rest).map_err(|message| (None, message))?;
        rest = after;
        if let Some(wrong) = unsuitable(checked, clause.verb, &item.value) {
            let why = format::unsuitable(clause.verb, checked.type_of(wrong).name());
            return Err((Some(wrong), format!("error during formatting: {why}")));
        }
    }
    Ok(used)
}

/// The part of an argument that a verb cannot write.
fn unsuitable<'e>(checked: &Checked, verb: char, expr: &'e Expr) -> Option<&'e Expr> {
    let t = checked.type_of(expr);
    let fits = *t == Type::Dyn
        || match verb {
            'd' | 'o' => matches!(t, Type::Int | Type::Uint),
            'f' | 'e' => matches!(t, Type::Double | Type::String),
            'b' => matches!(t, Type::Int | Type::Uint | Type::Bool),
            'x' | 'X' => matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes),
            _ => !matches!(t, Type::Any | Type::Error | Type::Opaque(..) | Type::Struct(_) | Type::Param(_)),
        };
    if !fits {
        return Some(expr);
    }
    if verb != 's' {
        return None;
    }
    match &expr.kind {
        Kind::List(items) => items.iter().find_map(|item| unsuitable(checked, verb, &item.value)),
        Kind::Map(entries) => entries.iter().find_map(|entry| {
            unsuitable(checked, verb, &entry.key).or_else(|| unsuitable(checked, verb, &entry.value))
        }),
        _ => None,
    }
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
