//! Macros: `has`, those that iterate (CEL specification; two variables as in cel-go's comprehensions library),
//! `optMap`/`optFlatMap`, `sortBy` and `cel.bind`. Each becomes the tree its cost is counted on.

use super::ast::*;
use super::parser::{Dialect, Parser};
use std::sync::Arc;

/// Expands a call of a global function, or gives the arguments back.
pub(super) fn expand_global(
    parser: &mut Parser<'_>,
    offset: u32,
    function: &str,
    mut args: Vec<Expr>,
) -> Result<Expr, Vec<Expr>> {
    if function != "has" || args.len() != 1 {
        return Err(args);
    }
    let Some(arg) = args.pop() else { return Err(args) };
    let at = parser.offset_of(arg.id);
    Ok(match arg.kind {
        Kind::Select { operand, field, test_only: false } => {
            parser.node(offset, Kind::Select { operand, field, test_only: true })
        }
        _ => parser.problem(at, "invalid argument to has() macro"),
    })
}

/// Expands a call of a method, or gives target and arguments back.
pub(super) fn expand_member(
    parser: &mut Parser<'_>,
    offset: u32,
    function: &str,
    target: Expr,
    args: Vec<Expr>,
) -> Result<Expr, (Expr, Vec<Expr>)> {
    let binds = parser.dialect == Dialect::Bindings && target.ident().is_some_and(|name| &**name == "cel");
    let mut maker = Maker { parser, offset };
    let expanded = match (function, args.len()) {
        ("all", 2) => maker.quantifier(Quantifier::All, target, args, 1),
        ("exists", 2) => maker.quantifier(Quantifier::Exists, target, args, 1),
        ("exists_one", 2) => maker.quantifier(Quantifier::One, target, args, 1),
        ("map", 2 | 3) => maker.map(target, args, 1),
        ("filter", 2) => maker.filter(target, args),
        ("all", 3) => maker.quantifier(Quantifier::All, target, args, 2),
        ("exists", 3) => maker.quantifier(Quantifier::Exists, target, args, 2),
        ("existsOne" | "exists_one", 3) => maker.quantifier(Quantifier::One, target, args, 2),
        ("transformList", 3 | 4) => maker.map(target, args, 2),
        ("transformMap", 3 | 4) => maker.transform_map(target, args, true),
        ("transformMapEntry", 3 | 4) => maker.transform_map(target, args, false),
        ("optMap", 2) => maker.opt_map(target, args, true),
        ("optFlatMap", 2) => maker.opt_map(target, args, false),
        ("sortBy", 2) => maker.sort_by(target, args),
        ("bind", 3) if binds => maker.cel_bind(args),
        _ => return Err((target, args)),
    };
    Ok(expanded.unwrap_or_else(|problem| parser.problem(problem.offset, problem.message)))
}

/// Why a macro's arguments are not well formed, and where.
struct Problem {
    offset: u32,
    message: String,
}

enum Quantifier {
    All,
    Exists,
    One,
}

/// Makes nodes that stand where the macro does.
struct Maker<'m, 's> {
    parser: &'m mut Parser<'s>,
    offset: u32,
}

/// The variables of a fold.
type Vars = (Arc<str>, Option<Arc<str>>);

impl Maker<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.parser.node(self.offset, kind)
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, value: Literal) -> Expr {
        self.node(Kind::Literal(value))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { function: function.into(), target: None, args })
    }

    fn method(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { function: function.into(), target: Some(Box::new(target)), args })
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        let elements = elements.into_iter().map(|value| Element { value, optional: false }).collect();
        self.node(Kind::List(elements))
    }

    fn problem<T>(&self, at: &Expr, message: impl Into<String>) -> Result<T, Problem> {
        Err(Problem { offset: self.parser.offset_of(at.id), message: message.into() })
    }

    fn name(&self, arg: &Expr, otherwise: &str) -> Result<Arc<str>, Problem> {
        match arg.ident() {
            Some(name) => Ok(name.clone()),
            None => self.problem(arg, otherwise),
        }
    }

    /// Takes the iteration variables off the front of the arguments.
    fn vars(&self, args: &mut Vec<Expr>, count: usize, otherwise: &str) -> Result<Vars, Problem> {
        const OVERWRITES: &str = "iteration variable overwrites accumulator variable";
        let reserved = |name: &str| name == ACCUMULATOR || name == OLD_ACCUMULATOR;
        let first = self.name(&args[0], otherwise)?;
        let second = if count == 2 { Some(self.name(&args[1], otherwise)?) } else { None };
        if second.as_ref() == Some(&first) {
            return self.problem(&args[1], format!("duplicate variable name: {first}"));
        }
        for (index, name) in [Some(&first), second.as_ref()].into_iter().flatten().enumerate() {
            if reserved(name) {
                return self.problem(&args[index], OVERWRITES);
            }
        }
        args.drain(..count);
        Ok((first, second))
    }

    fn fold(
        &mut self,
        range: Expr,
        vars: Vars,
        init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let (var, var2) = vars;
        let accu = ACCUMULATOR.into();
        let fold = Comprehension { range, var, var2, accu, init, condition, step, result };
        self.node(Kind::Comprehension(Box::new(fold)))
    }

    fn quantifier(
        &mut self,
        kind: Quantifier,
        target: Expr,
        mut args: Vec<Expr>,
        count: usize,
    ) -> Result<Expr, Problem> {
        let vars = self.vars(&mut args, count, "argument must be a simple name")?;
        let predicate = args.remove(0);
        let (init, condition, step, result);
        match kind {
            Quantifier::All => {
                init = self.literal(Literal::Bool(true));
                let accu = self.accu();
                condition = self.call(op::NOT_STRICTLY_FALSE, vec![accu]);
                let accu = self.accu();
                step = self.call(op::AND, vec![accu, predicate]);
                result = self.accu();
            }
            Quantifier::Exists => {
                init = self.literal(Literal::Bool(false));
                let accu = self.accu();
                let not = self.call(op::NOT, vec![accu]);
                condition = self.call(op::NOT_STRICTLY_FALSE, vec![not]);
                let accu = self.accu();
                step = self.call(op::OR, vec![accu, predicate]);
                result = self.accu();
            }
            Quantifier::One => {
                init = self.literal(Literal::Int(0));
                condition = self.literal(Literal::Bool(true));
                let accu = self.accu();
                let one = self.literal(Literal::Int(1));
                let sum = self.call(op::ADD, vec![accu, one]);
                let accu = self.accu();
                step = self.call(op::CONDITIONAL, vec![predicate, sum, accu]);
                let accu = self.accu();
                let one = self.literal(Literal::Int(1));
                result = self.call(op::EQUALS, vec![accu, one]);
            }
        }
        Ok(self.fold(target, vars, init, condition, step, result))
    }

    /// Wraps a step so that it only happens where `filter` holds.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            Some(filter) => {
                let accu = self.accu();
                self.call(op::CONDITIONAL, vec![filter, step, accu])
            }
            None => step,
        }
    }

    fn map(&mut self, target: Expr, mut args: Vec<Expr>, count: usize) -> Result<Expr, Problem> {
        let otherwise =
            if count == 1 { "argument is not an identifier" } else { "argument must be a simple name" };
        let vars = self.vars(&mut args, count, otherwise)?;
        let filter = if args.len() == 2 { Some(args.remove(0)) } else { None };
        let transform = args.remove(0);
        let init = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(true));
        let accu = self.accu();
        let list = self.list(vec![transform]);
        let step = self.call(op::ADD, vec![accu, list]);
        let step = self.filtered(filter, step);
        let result = self.accu();
        Ok(self.fold(target, vars, init, condition, step, result))
    }

    fn filter(&mut self, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Problem> {
        let element = args[0].clone();
        let vars = self.vars(&mut args, 1, "argument is not an identifier")?;
        let filter = args.remove(0);
        let init = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(true));
        let accu = self.accu();
        let list = self.list(vec![element]);
        let step = self.call(op::ADD, vec![accu, list]);
        let step = self.filtered(Some(filter), step);
        let result = self.accu();
        Ok(self.fold(target, vars, init, condition, step, result))
    }

    fn transform_map(&mut self, target: Expr, mut args: Vec<Expr>, keyed: bool) -> Result<Expr, Problem> {
        let vars = self.vars(&mut args, 2, "argument must be a simple name")?;
        let filter = if args.len() == 2 { Some(args.remove(0)) } else { None };
        let transform = args.remove(0);
        let mut insert = vec![self.accu()];
        if keyed {
            insert.push(self.ident(&vars.0));
        }
        insert.push(transform);
        let step = self.call("cel.@mapInsert", insert);
        let step = self.filtered(filter, step);
        let init = self.node(Kind::Map(Vec::new()));
        let condition = self.literal(Literal::Bool(true));
        let result = self.accu();
        Ok(self.fold(target, vars, init, condition, step, result))
    }

    /// A fold over nothing that binds `name` to `value` in `result`.
    fn bind(&mut self, name: &str, value: Expr, result: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(name);
        let (var, var2, accu) = (UNUSED.into(), None, name.into());
        let fold = Comprehension { range, var, var2, accu, init: value, condition, step, result };
        self.node(Kind::Comprehension(Box::new(fold)))
    }

    fn cel_bind(&mut self, mut args: Vec<Expr>) -> Result<Expr, Problem> {
        let name = self.name(&args[0], "cel.bind() variable names must be simple identifiers")?;
        let result = args.remove(2);
        let value = args.remove(1);
        Ok(self.bind(&name, value, result))
    }

    fn opt_map(&mut self, target: Expr, mut args: Vec<Expr>, wrap: bool) -> Result<Expr, Problem> {
        let function = if wrap { "optMap" } else { "optFlatMap" };
        let name = self.name(&args[0], &format!("{function}() variable name must be a simple identifier"))?;
        let computed = args.remove(1);
        let copy = self.copy(&target);
        let has_value = self.method("hasValue", target, Vec::new());
        let value = self.method("value", copy, Vec::new());
        let bound = self.bind(&name, value, computed);
        let present = if wrap { self.call("optional.of", vec![bound]) } else { bound };
        let none = self.call("optional.none", Vec::new());
        Ok(self.call(op::CONDITIONAL, vec![has_value, present, none]))
    }

    fn sort_by(&mut self, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Problem> {
        const INPUT: &str = "@__sortBy_input__";
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. }) {
            let message =
                "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return self.problem(&target, message);
        }
        args.truncate(2);
        let input = self.ident(INPUT);
        let keys = self.map(input, args, 1)?;
        let input = self.ident(INPUT);
        let sorted = self.method("@sortByAssociatedKeys", input, vec![keys]);
        Ok(self.bind(INPUT, target, sorted))
    }

    /// The same expression with new ids, at the same places.
    fn copy(&mut self, expr: &Expr) -> Expr {
        if self.parser.full() {
            return self.node(Kind::Unspecified);
        }
        let kind = match &expr.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            Kind::Select { operand, field, test_only } => {
                let operand = Box::new(self.copy(operand));
                Kind::Select { operand, field: field.clone(), test_only: *test_only }
            }
            Kind::Call { function, target, args } => {
                let target = target.as_ref().map(|target| Box::new(self.copy(target)));
                let args = args.iter().map(|arg| self.copy(arg)).collect();
                Kind::Call { function: function.clone(), target, args }
            }
            Kind::List(elements) => Kind::List(
                elements
                    .iter()
                    .map(|e| Element { value: self.copy(&e.value), optional: e.optional })
                    .collect(),
            ),
            Kind::Map(entries) => {
                let copy = |e: &Entry, maker: &mut Self| Entry {
                    key: maker.copy(&e.key),
                    value: maker.copy(&e.value),
                    optional: e.optional,
                };
                Kind::Map(entries.iter().map(|entry| copy(entry, self)).collect())
            }
            Kind::Struct { name, fields } => {
                let mut copies = Vec::with_capacity(fields.len());
                for field in fields {
                    let id = self.parser.id(self.parser.offset_of(field.id));
                    let value = self.copy(&field.value);
                    copies.push(Field { id, name: field.name.clone(), value, optional: field.optional });
                }
                Kind::Struct { name: name.clone(), fields: copies }
            }
            Kind::Comprehension(fold) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&fold.range),
                var: fold.var.clone(),
                var2: fold.var2.clone(),
                accu: fold.accu.clone(),
                init: self.copy(&fold.init),
                condition: self.copy(&fold.condition),
                step: self.copy(&fold.step),
                result: self.copy(&fold.result),
            })),
        };
        self.parser.node(self.parser.offset_of(expr.id), kind)
    }
}
