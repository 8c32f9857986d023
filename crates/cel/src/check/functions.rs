//! Every function of the 1.36 environment with its overloads. The table is data: name, overload id, call style,
//! argument types, result type. Overload ids decide costs, so they are part of the interface.

use super::types::{Type, read};
use std::collections::HashMap;
use std::sync::LazyLock;

/// One signature of a function.
pub(crate) struct Overload {
    pub id: &'static str,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// The type variables it mentions.
    pub params: Vec<std::sync::Arc<str>>,
}

/// All the functions; made once, never changed.
static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in include_str!("functions.tsv").lines() {
        let columns: Vec<&'static str> = line.split('\t').collect();
        let [name, id, style, args, result] = columns[..] else { continue };
        let args: Vec<Type> = args.split(';').filter(|arg| !arg.is_empty()).map(read).collect();
        let result = read(result);
        let mut params = Vec::new();
        args.iter().chain([&result]).for_each(|t| collect_params(t, &mut params));
        table.entry(name).or_default().push(Overload { id, member: style == "member", args, result, params });
    }
    table
});

fn collect_params(t: &Type, into: &mut Vec<std::sync::Arc<str>>) {
    match t {
        Type::Param(name) if !into.contains(name) => into.push(name.clone()),
        Type::Map(pair) => {
            collect_params(&pair.0, into);
            collect_params(&pair.1, into);
        }
        _ => t.params().iter().for_each(|inner| collect_params(inner, into)),
    }
}

/// The overloads of a function, in the order in which they are tried.
pub(crate) fn overloads(name: &str) -> Option<(&'static str, &'static [Overload])> {
    TABLE.get_key_value(name).map(|(name, overloads)| (*name, overloads.as_slice()))
}

/// The names of all functions, for tests that go over every one.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.keys().copied()
}
