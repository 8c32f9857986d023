//! What an expression can cost, from the sizes that declarations allow: upstream's static estimate, by which CRDs
//! are refused.

use super::{CHECK, Call, LIST, MAP, MAX_FORMAT_PATTERN, OBJECT, PER_CHAR, PER_PATTERN_CHAR};
use crate::check::types::Type;
use crate::check::{Checked, Reference};
use crate::decl::DeclType;
use crate::syntax::ast::{ACCUMULATOR, Comprehension, Expr, Id, Kind, Literal, OLD_ACCUMULATOR};
use std::collections::HashMap;
use std::sync::Arc;

/// The least and the most that something can cost, or the sizes it can have. Sums and products end at the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostEstimate {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

type Range = CostEstimate;

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
const ZERO: Range = Range { min: 0, max: 0 };
const ONE: Range = Range { min: 1, max: 1 };

impl Range {
    fn fixed(value: u64) -> Self {
        Self { min: value, max: value }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn by(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

fn scaled(value: u64, factor: f64) -> u64 {
    let float = value as f64;
    if float > 0.0 && factor > 0.0 && float > u64::MAX as f64 / factor {
        return u64::MAX;
    }
    let scaled = (float * factor).ceil();
    if scaled >= 18_446_744_073_709_551_616.0 { u64::MAX } else { scaled as u64 }
}

/// Where a value is in the declared data: a variable, then fields, `@items`, `@keys` or `@values`.
type Path = Vec<Arc<str>>;

/// The sizes of the entries of a list or map.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A variable of a fold.
#[derive(Clone, Debug)]
struct Local {
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What is known of an argument.
struct Arg<'e> {
    path: Path,
    t: Type,
    expr: Option<&'e Expr>,
    size: Option<Range>,
}

struct Estimate {
    cost: Range,
    size: Option<Range>,
}

impl From<Range> for Estimate {
    fn from(cost: Range) -> Self {
        Self { cost, size: None }
    }
}

/// The estimate of an expression.
pub(crate) fn estimate(checked: &Checked, variable: Option<&str>, root: Option<&DeclType>) -> CostEstimate {
    let mut estimator = Estimator {
        checked,
        variable,
        root,
        paths: HashMap::new(),
        locals: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&checked.root)
}

struct Estimator<'c> {
    checked: &'c Checked,
    /// The only variable that has the sizes of `root`; none for every one.
    variable: Option<&'c str>,
    root: Option<&'c DeclType>,
    paths: HashMap<Id, Path>,
    locals: HashMap<Arc<str>, Vec<Local>>,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
}

impl<'c> Estimator<'c> {
    fn cost(&mut self, expr: &'c Expr) -> Range {
        match &expr.kind {
            Kind::Unspecified | Kind::Literal(_) => ZERO,
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.clone()],
                };
                self.paths.insert(expr.id, path);
                ONE
            }
            Kind::Select { operand, test_only: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let mut cost = self.cost(operand);
                if matches!(self.checked.type_of(operand), Type::Map(_) | Type::Struct(_) | Type::Param(_)) {
                    cost = cost.plus(ONE);
                }
                let mut path = self.path(operand);
                path.push(field.clone());
                self.paths.insert(expr.id, path);
                cost
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(elements) => {
                let mut item = Range { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let mut cost = ZERO;
                for element in elements {
                    cost = cost.plus(self.cost(&element.value));
                    item = item.union(self.size_or_unknown(&element.value));
                }
                self.entries.insert(expr.id, Entries { list: true, key: ONE, value: item });
                cost.plus(Range::fixed(LIST))
            }
            Kind::Map(items) => {
                let nothing = Range { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut key, mut value, mut cost) = (nothing, nothing, ZERO);
                for item in items {
                    cost = cost.plus(self.cost(&item.key));
                    cost = cost.plus(self.cost(&item.value));
                    key = key.union(self.size_or_unknown(&item.key));
                    value = value.union(self.size_or_unknown(&item.value));
                }
                self.entries.insert(expr.id, Entries { list: false, key, value });
                cost.plus(Range::fixed(MAP))
            }
            Kind::Struct { fields, .. } => {
                let costs = fields.iter().fold(ZERO, |cost, field| cost.plus(self.cost(&field.value)));
                costs.plus(Range::fixed(OBJECT))
            }
            Kind::Comprehension(fold) => self.fold(expr, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name).and_then(|stack| stack.last())
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    /// The size that the declarations give something on a path.
    fn declared(&self, path: &[Arc<str>]) -> Option<Range> {
        let (first, rest) = path.split_first()?;
        if self.variable.is_some_and(|variable| variable != &**first) {
            return None;
        }
        let mut decl = self.root?;
        for name in rest {
            decl = match &**name {
                "@items" | "@values" => decl.elem()?,
                "@keys" => decl.key()?,
                // Attributes of devices, selected by name.
                _ if decl.elem().is_some_and(|elem| *elem.cel_type() == Type::Any) => decl.elem()?,
                field => decl.field(field)?,
            };
        }
        Some(Range { min: 0, max: decl.max_elements() as u64 })
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        match &expr.kind {
            Kind::Literal(Literal::String(text)) => return Some(Range::fixed(text.chars().count() as u64)),
            Kind::Literal(Literal::Bytes(bytes)) => return Some(Range::fixed(bytes.len() as u64)),
            Kind::Literal(_) => return Some(ONE),
            Kind::List(elements) => return Some(Range::fixed(elements.len() as u64)),
            Kind::Map(entries) => return Some(Range::fixed(entries.len() as u64)),
            _ => {}
        }
        if let Some(size) = self.declared(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr)) {
            return Some(ONE);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn arg(&mut self, expr: &'c Expr) -> Arg<'c> {
        let path = self.path(expr);
        let hidden = path.first().is_some_and(|root| &**root == ACCUMULATOR || &**root == OLD_ACCUMULATOR);
        Arg {
            path: if hidden { Path::new() } else { path },
            t: self.checked.type_of(expr).clone(),
            expr: Some(expr),
            size: self.size(expr),
        }
    }

    /// The size of an argument for Kubernetes' own functions.
    fn arg_size(&self, arg: &Arg<'_>) -> Range {
        arg.size.or_else(|| self.declared(&arg.path)).unwrap_or(UNKNOWN)
    }

    fn call(&mut self, expr: &'c Expr, function: &str, target: Option<&'c Expr>, args: &'c [Expr]) -> Range {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg);
            if let Some(size) = self.size(arg) {
                self.sizes.insert(expr.id, size);
            }
            if let Some(entries) = self.entries(arg) {
                self.entries.insert(expr.id, entries);
            }
            return ONE.plus(cost);
        }
        let mut costs = Vec::with_capacity(args.len());
        let mut known = Vec::with_capacity(args.len());
        for arg in args {
            costs.push(self.cost(arg));
            known.push(self.arg(arg));
        }
        let (name, overloads) = match self.checked.reference(expr) {
            Some(Reference::Function(name, overloads)) => (*name, overloads.clone()),
            _ => return ZERO,
        };
        let mut sum = ZERO;
        let mut receiver = None;
        if let Some(target) = target {
            sum = sum.plus(self.cost(target));
            receiver = Some(self.arg(target));
        }
        let mut total = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let call = Call { function: name, overload };
            let estimate = self.overload(expr, call, receiver.as_ref(), &known, &costs);
            total = total.union(estimate.cost);
            if let Some(result) = estimate.size {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            if let ("index_list" | "index_map", Some(container)) = (overload, args.first()) {
                size = self.entries(container).map(|entries| entries.value);
                let mut path = self.path(container);
                path.push(if overload == "index_list" { "@items" } else { "@values" }.into());
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        sum.plus(total)
    }

    /// The cost of one overload with its arguments.
    fn overload(
        &mut self,
        expr: &Expr,
        call: Call,
        target: Option<&Arg<'_>>,
        args: &[Arg<'_>],
        costs: &[Range],
    ) -> Estimate {
        let sum = costs.iter().fold(ZERO, |sum, cost| sum.plus(*cost));
        let own = self.extension(call, target, args).or_else(|| self.kubernetes(call, target, args));
        if let Some(estimate) = own {
            return Estimate { cost: estimate.cost.plus(sum), size: estimate.size };
        }
        let of = |arg: Option<&Arg<'_>>| arg.and_then(|arg| arg.size).unwrap_or(UNKNOWN);
        match (call.overload, args) {
            ("string_format", _) if target.is_some() => of(target).by(PER_CHAR).plus(sum).into(),
            ("string_to_bytes", [arg]) => {
                let size = of(Some(arg));
                // Go's product wraps round.
                let result = Range { min: size.min, max: size.max.wrapping_mul(4) };
                Estimate { cost: size.by(PER_CHAR).plus(sum), size: Some(result) }
            }
            ("bytes_to_string", [arg]) => {
                let size = of(Some(arg));
                let result = Range { min: size.min / 4, max: size.max };
                Estimate { cost: size.by(PER_CHAR).plus(sum), size: Some(result) }
            }
            ("strings_quote", [arg]) => {
                let size = of(Some(arg));
                let result = Range { min: size.min + 2, max: size.max.wrapping_mul(2).wrapping_add(2) };
                Estimate { cost: size.by(PER_CHAR).plus(sum), size: Some(result) }
            }
            ("starts_with_string" | "ends_with_string", [arg]) => of(Some(arg)).by(PER_CHAR).plus(sum).into(),
            ("in_list", [_, list]) => of(Some(list)).by(1.0).plus(sum).into(),
            ("matches_string", [pattern]) if target.is_some() => {
                let text = of(target).plus(ONE).by(PER_CHAR);
                text.times(of(Some(pattern)).by(PER_PATTERN_CHAR)).plus(sum).into()
            }
            ("contains_string", [part]) if target.is_some() => {
                of(target).by(PER_CHAR).times(of(Some(part)).by(PER_CHAR)).plus(sum).into()
            }
            ("logical_or" | "logical_and", [_, _]) => {
                Range { min: costs[0].min, max: costs[0].plus(costs[1]).max }.into()
            }
            ("conditional", [_, truthy, falsy]) => {
                let size = of(Some(truthy)).union(of(Some(falsy)));
                let entries = |arg: &Arg<'_>| arg.expr.and_then(|expr| self.entries(expr));
                if let Some(entries) = Entries::union(entries(truthy), entries(falsy)) {
                    self.entries.insert(expr.id, entries);
                }
                Estimate { cost: costs[0].plus(costs[1].union(costs[2])), size: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", [left, right]) => {
                let result = of(Some(left)).plus(of(Some(right)));
                let entries = |arg: &Arg<'_>| arg.expr.and_then(|expr| self.entries(expr));
                if let Some(entries) = Entries::union(entries(left), entries(right)) {
                    self.entries.insert(expr.id, entries);
                }
                let cost = if call.overload == "add_list" { ONE } else { result.by(PER_CHAR) };
                Estimate { cost: cost.plus(sum), size: Some(result) }
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                [left, right],
            ) => {
                let max = of(Some(left)).max.min(of(Some(right)).max);
                Range { min: u64::from(max > 0), max }.by(PER_CHAR).plus(sum).into()
            }
            _ => ONE.plus(sum).into(),
        }
    }

    /// cel-go's list and set extensions.
    fn extension(&self, call: Call, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Estimate> {
        let list = |factor: f64, size: Range| {
            Some(Estimate { cost: size.by(factor).plus(ONE).plus(Range::fixed(LIST)), size: Some(size) })
        };
        let int = |arg: &Arg<'_>, otherwise: u64| match arg.expr.map(|expr| &expr.kind) {
            Some(Kind::Literal(Literal::Int(value))) => u64::try_from(*value).unwrap_or(0),
            _ => otherwise,
        };
        let sort = |arg: &Arg<'_>| {
            let size = self.arg_size(arg);
            let texts = call.overload.starts_with("list_string") || call.overload.starts_with("list_bytes");
            list(if texts { 2.0 + PER_CHAR } else { 2.0 }, size.times(size))
        };
        match (call.overload, target, args) {
            ("list_slice", Some(target), [start, end]) => {
                let most = self.arg_size(target).max;
                list(1.0, Range::fixed(int(end, most).wrapping_sub(int(start, 0))))
            }
            ("lists_range", None, [count]) => list(1.0, Range::fixed(int(count, u64::MAX))),
            ("list_reverse", Some(target), []) => list(1.0, self.arg_size(target)),
            ("list_flatten" | "list_flatten_int", Some(target), _) => {
                let depth = args.first().map_or(1, |depth| int(depth, u64::MAX));
                list(depth as f64, self.arg_size(target))
            }
            ("list_distinct", Some(target), []) => {
                let size = self.arg_size(target);
                list(2.0, size.times(size))
            }
            (overload, Some(target), []) if overload.starts_with("list_") && overload.ends_with("_sort") => {
                sort(target)
            }
            (overload, Some(_), [keys]) if overload.ends_with("_sortByAssociatedKeys") => sort(keys),
            ("list_sets_contains_list" | "list_sets_intersects_list", None, [a, b]) => {
                Some(self.arg_size(a).times(self.arg_size(b)).by(1.0).plus(ONE).into())
            }
            ("list_sets_equivalent_list", None, [a, b]) => {
                Some(self.arg_size(a).times(self.arg_size(b)).by(2.0).plus(ONE).into())
            }
            _ => None,
        }
    }

    /// The elements of a list, as an argument.
    fn elements(&self, list: &Arg<'_>) -> Option<Arg<'static>> {
        let t = match &list.t {
            Type::Map(pair) => pair.0.clone(),
            other => other.params().first()?.clone(),
        };
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".into());
        }
        Some(Arg { path, t, expr: None, size: None })
    }

    /// Kubernetes' libraries.
    fn kubernetes(&self, call: Call, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Estimate> {
        let size = |arg: &Arg<'_>| self.arg_size(arg);
        let first = args.first();
        Some(match (call.function, target, first) {
            ("check", ..) => Range::fixed(CHECK).into(),
            (
                "serviceAccount"
                | "path"
                | "group"
                | "resource"
                | "subresource"
                | "namespace"
                | "name"
                | "allowed"
                | "reason"
                | "error"
                | "errored"
                | "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast"
                | "format.named"
                | "sign"
                | "asInteger"
                | "isInteger"
                | "asApproximateFloat"
                | "isGreaterThan"
                | "isLessThan"
                | "compareTo"
                | "add"
                | "sub"
                | "major"
                | "minor"
                | "patch"
                | "getScheme"
                | "getHostname"
                | "getHost"
                | "getPort"
                | "getEscapedPath"
                | "getQuery",
                ..,
            ) => ONE.into(),
            ("fieldSelector" | "labelSelector", _, Some(text)) if args.len() == 1 => {
                let length = size(text);
                let requirements = length.by(0.5).by((LIST + OBJECT) as f64);
                Range::fixed(LIST).plus(length.by(PER_CHAR)).plus(requirements).into()
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(list), _) => {
                match self.elements(list) {
                    Some(element) => {
                        let mut cost = ONE;
                        if matches!(element.t, Type::String | Type::Bytes) {
                            cost = cost.plus(size(&element).by(PER_CHAR));
                        }
                        size(list).times(cost).into()
                    }
                    None => size(list).by(PER_CHAR).into(),
                }
            }
            ("url" | "jsonpatch.escapeKey", _, Some(text)) => {
                Estimate { cost: size(text).by(PER_CHAR), size: Some(size(text)) }
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
                Estimate { cost: size(text).by(PER_CHAR), size: Some(size(text)) }
            }
            ("replace", Some(text), Some(_)) if args.len() >= 2 => {
                let result = replaced(size(text), size(&args[0]), size(&args[1]));
                Estimate { cost: size(text).by(2.0 * PER_CHAR), size: Some(result) }
            }
            ("split", Some(text), _) => {
                let mut max = size(text).max;
                if let Some(Kind::Literal(Literal::Int(limit))) =
                    args.get(1).and_then(|limit| limit.expr).map(|expr| &expr.kind)
                {
                    max = *limit as u64;
                }
                Estimate { cost: size(text).by(2.0 * PER_CHAR), size: Some(Range { min: 0, max }) }
            }
            ("join", Some(list), separator) => {
                let count = size(list);
                let mut total = match self.elements(list) {
                    Some(element) => count.times(size(&element)),
                    None => ZERO,
                };
                if let Some(separator) = separator {
                    let between =
                        Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                    total = total.plus(size(separator).times(between));
                }
                Estimate { cost: total.by(PER_CHAR), size: Some(total) }
            }
            ("find" | "findAll", Some(text), Some(pattern)) => {
                let text = size(text);
                let cost = text.plus(ONE).by(PER_CHAR).times(size(pattern).by(PER_PATTERN_CHAR));
                Estimate { cost, size: Some(Range { min: 0, max: text.max }) }
            }
            ("ip", ..) if call.overload == "cidr_ip" => ONE.into(),
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
                _,
                Some(text),
            ) => size(text).by(PER_CHAR).into(),
            ("ip.isCanonical", _, Some(text)) => size(text).by(2.0 * PER_CHAR).into(),
            ("containsIP" | "containsCIDR", _, Some(other)) => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).by(PER_CHAR);
                if call.function == "containsCIDR" {
                    cost = cost.plus(bytes.by(PER_CHAR)).plus(ONE);
                }
                if matches!(call.overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                    cost = cost.plus(size(other).by(PER_CHAR));
                }
                cost.into()
            }
            ("validate", _, Some(text)) => {
                size(text).by(PER_CHAR).by(MAX_FORMAT_PATTERN * PER_PATTERN_CHAR).into()
            }
            ("_==_", _, Some(left)) if args.len() == 2 && left.t == args[1].t => {
                return equality(&left.t, &args[1]);
            }
            _ => return None,
        })
    }

    fn push(&mut self, name: &Arc<str>, local: Local) {
        self.locals.entry(name.clone()).or_default().push(local);
    }

    fn pop(&mut self, name: &str) {
        if let Some(stack) = self.locals.get_mut(name) {
            stack.pop();
        }
    }

    fn is_list(&self, range: &Expr) -> bool {
        match self.entries(range) {
            Some(entries) => entries.list,
            None => matches!(self.checked.type_of(range), Type::List(_)),
        }
    }

    fn fold(&mut self, expr: &'c Expr, fold: &'c Comprehension) -> Range {
        let is_bind = matches!(&fold.range.kind, Kind::List(elements) if elements.is_empty())
            && matches!(fold.condition.kind, Kind::Literal(Literal::Bool(false)))
            && &*fold.accu != OLD_ACCUMULATOR;
        let mut sum = self.cost(&fold.range);
        sum = sum.plus(self.cost(&fold.init));
        let bound = Local {
            path: self.path(&fold.init),
            size: self.size(&fold.init),
            entries: self.entries(&fold.init),
        };
        self.push(&fold.accu, bound);
        if is_bind {
            sum = sum.plus(self.cost(&fold.result));
            self.pop(&fold.accu);
            if let Some(size) = self.size(&fold.result) {
                self.sizes.insert(expr.id, size);
            }
            if let Some(entries) = self.entries(&fold.result) {
                self.entries.insert(expr.id, entries);
            }
            return sum;
        }
        let entries = self.entries(&fold.range);
        let list = self.is_list(&fold.range);
        let local = |estimator: &Self, step: &str, size: Option<Range>| {
            let mut path = estimator.path(&fold.range);
            path.push(step.into());
            Local { path, size, entries: None }
        };
        let key = entries.map(|entries| entries.key);
        let value = entries.map(|entries| entries.value);
        match &fold.var2 {
            Some(var2) => {
                let first = local(self, if list { "@indices" } else { "@keys" }, key);
                self.push(&fold.var, first);
                let second = local(self, if list { "@items" } else { "@values" }, value);
                self.push(var2, second);
            }
            None => {
                let only = if list { local(self, "@items", value) } else { local(self, "@keys", key) };
                self.push(&fold.var, only);
            }
        }
        let condition = self.cost(&fold.condition);
        let step = self.cost(&fold.step);
        self.pop(&fold.var);
        if let Some(var2) = &fold.var2 {
            self.pop(var2);
        }
        sum = sum.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        let count = self.size_or_unknown(&fold.range);
        sum = sum.plus(count.times(step.plus(condition)));
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entries) = self.entries(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }
}

/// Types whose values all have the same size.
fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        other => other.optional_value().is_some_and(is_scalar),
    }
}

/// The comparison of two values of one of Kubernetes' types.
fn equality(t: &Type, right: &Arg<'_>) -> Option<Estimate> {
    let (Type::Struct(name) | Type::Opaque(name, _)) = t else { return None };
    Some(match &**name {
        "net.IP"
        | "net.CIDR"
        | "kubernetes.Quantity"
        | "kubernetes.Semver"
        | "kubernetes.authorization.Authorizer"
        | "kubernetes.authorization.PathCheck"
        | "kubernetes.authorization.GroupCheck"
        | "kubernetes.authorization.ResourceCheck"
        | "kubernetes.authorization.Decision" => ONE.into(),
        "kubernetes.NamedFormat" => Range { min: 1, max: 64 }.by(PER_CHAR).into(),
        "kubernetes.URL" => {
            let max = right.size.map_or(1, |size| size.max);
            Range { min: 1, max }.by(PER_CHAR).into()
        }
        _ => return None,
    })
}

/// The size of a text in which parts of a size are replaced by others.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    let places = |length: u64, part: u64| (length as f64 / part as f64).ceil() as u64;
    let (most, kept_most) = if old.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if new.max <= old.min {
        (0, text.max)
    } else {
        (places(text.max, old.min), 0)
    };
    let (least, kept_least) = if old.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if old.max <= new.min {
        (0, text.min)
    } else {
        (places(text.min, old.max), 0)
    };
    Range { min: least, max: most }.times(new).plus(Range { min: kept_least, max: kept_most })
}
