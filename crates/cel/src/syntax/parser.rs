//! A recursive-descent parser whose tree, positions and problems are those of the reference's parser.
//!
//! After a problem that cannot be stepped over (a surplus token, a missing bracket) parsing stops; the
//! reference sometimes goes on and reports what follows from the first problem as well.

use super::ast::*;
use super::issues::Issues;
use super::lexer::{Lexeme, Token, tokenize};
use super::{literal, macros};
use crate::decl::escape::is_reserved;
use std::sync::Arc;

/// Longer expressions are refused, counted in characters.
const MAX_CHARS: usize = 100_000;
/// Deeper nesting is refused. Chains (`a.b.c`, `1 + 2 + 3`) nest too, except those of `&&` and `||`.
const MAX_DEPTH: u32 = 250;
/// Expressions of more nodes are refused: macros that repeat their target could otherwise grow without end.
const MAX_NODES: usize = 200_000;

/// The tokens an expression can begin with.
const START: [Token; 15] = [
    Token::LBracket,
    Token::LBrace,
    Token::LParen,
    Token::Dot,
    Token::Minus,
    Token::Exclam,
    Token::True,
    Token::False,
    Token::Null,
    Token::Float,
    Token::Int,
    Token::Uint,
    Token::String,
    Token::Bytes,
    Token::Ident,
];

/// Which macros there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Those of Kubernetes' environment.
    #[default]
    Base,
    /// And `cel.bind`.
    Bindings,
}

/// Parses `source` into a tree, or says why not.
pub(crate) fn parse(source: &str, dialect: Dialect) -> Result<Tree, Issues> {
    let mut issues = Issues::new(source.into());
    let chars = if source.len() > MAX_CHARS { source.chars().count() } else { 0 };
    if chars > MAX_CHARS {
        issues.report_nowhere(format!(
            "expression code point size exceeds limit: size: {chars}, limit {MAX_CHARS}"
        ));
        return Err(issues);
    }
    let tokens = tokenize(source, &mut issues);
    let mut parser =
        Parser { source, tokens, at: 0, offsets: Vec::new(), issues, depth: 0, open: Vec::new(), dialect };
    let root = parser.expr();
    if root.is_ok() && parser.current() != Token::End {
        let surplus = parser.peek(1) == Token::End;
        parser.unexpected(if surplus { "extraneous" } else { "mismatched" }, &[Token::End]);
    }
    if parser.full() {
        parser.issues.report_nowhere(format!("expression has more than {MAX_NODES} nodes"));
    }
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Tree { root, offsets: parser.offsets }),
        _ => Err(parser.issues),
    }
}

/// Parsing cannot go on; the problem is reported.
struct Stop;
type Parsed<T> = Result<T, Stop>;

/// The parser's state; macros make nodes with it.
pub(super) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Lexeme>,
    at: usize,
    offsets: Vec<u32>,
    issues: Issues,
    depth: u32,
    /// What closes the brackets around, innermost last, and whether a comma may follow in them.
    open: Vec<(Token, bool)>,
    pub(super) dialect: Dialect,
}

impl Parser<'_> {
    fn current(&self) -> Token {
        self.tokens[self.at].token
    }

    fn peek(&self, ahead: usize) -> Token {
        self.tokens.get(self.at + ahead).map_or(Token::End, |lexeme| lexeme.token)
    }

    fn offset(&self) -> u32 {
        self.tokens[self.at].start
    }

    fn text(&self) -> &str {
        let lexeme = self.tokens[self.at];
        &self.source[lexeme.start as usize..lexeme.end as usize]
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn eat(&mut self, token: Token) -> bool {
        let found = self.current() == token;
        if found {
            self.advance();
        }
        found
    }

    fn shown(&self) -> String {
        match self.current() {
            Token::End => "<EOF>".to_owned(),
            _ => self.text().replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"),
        }
    }

    fn syntax_error(&mut self, message: String) {
        self.issues.report(self.offset(), format!("Syntax error: {message}"));
    }

    fn unexpected(&mut self, how: &str, expected: &[Token]) {
        let shown = self.shown();
        self.syntax_error(format!("{how} input '{shown}' expecting {}", list(expected)));
    }

    /// The current token cannot begin an expression: steps over it if the next one can.
    fn skip_to_start(&mut self, also: &[Token]) -> Parsed<()> {
        if START.contains(&self.current()) {
            return Ok(());
        }
        let mut expected = START.to_vec();
        expected.extend_from_slice(also);
        if START.contains(&self.peek(1)) {
            self.unexpected("extraneous", &expected);
            self.advance();
            return Ok(());
        }
        self.unexpected("mismatched", &expected);
        // A lone operator is stepped over, to find that nothing follows.
        let operator = self.current() <= Token::Or || self.current() == Token::Question;
        if operator && self.peek(1) == Token::End {
            self.advance();
            self.unexpected("mismatched", &expected);
        }
        Err(Stop)
    }

    /// Takes `token`, steps over a surplus token before it, or goes on as if a missing bracket were there.
    fn expect(&mut self, token: Token, also: &[Token]) -> Parsed<u32> {
        let offset = self.offset();
        if self.eat(token) {
            return Ok(offset);
        }
        let mut expected = vec![token];
        expected.extend_from_slice(also);
        if self.peek(1) == token {
            self.unexpected("extraneous", &expected);
            self.advance();
            let offset = self.offset();
            self.advance();
            return Ok(offset);
        }
        let could_be_missing = match token {
            Token::Colon => START.contains(&self.current()),
            Token::RParen | Token::RBracket | Token::RBrace => also.is_empty() && self.may_follow(),
            _ => false,
        };
        if could_be_missing {
            let shown = self.shown();
            self.syntax_error(format!("missing {} at '{shown}'", token.display()));
            return Ok(offset);
        }
        self.unexpected("mismatched", &expected);
        Err(Stop)
    }

    /// Closes the innermost brackets.
    fn close(&mut self, also: &[Token]) -> Parsed<()> {
        let Some((token, _)) = self.open.pop() else { return Ok(()) };
        self.expect(token, also).map(|_| ())
    }

    /// Whether the current token could stand after a closing bracket here.
    fn may_follow(&self) -> bool {
        let around = self.open.last();
        match self.current() {
            Token::End => around.is_none(),
            Token::Comma => around.is_some_and(|(_, comma)| *comma),
            Token::Plus | Token::Minus | Token::Star | Token::Slash | Token::Percent => true,
            Token::Question | Token::Colon | Token::Dot | Token::LBracket => true,
            token => token <= Token::Or || around.is_some_and(|(close, _)| *close == token),
        }
    }

    fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.issues.report_nowhere(format!("expression recursion limit exceeded: {MAX_DEPTH}"));
            return Err(Stop);
        }
        Ok(())
    }

    pub(super) fn id(&mut self, offset: u32) -> Id {
        self.offsets.push(offset);
        (self.offsets.len() - 1) as Id
    }

    /// Whether there are too many nodes; the expression will be refused.
    pub(super) fn full(&self) -> bool {
        self.offsets.len() > MAX_NODES
    }

    pub(super) fn node(&mut self, offset: u32, kind: Kind) -> Expr {
        Expr { id: self.id(offset), kind }
    }

    pub(super) fn offset_of(&self, id: Id) -> u32 {
        self.offsets[id as usize]
    }

    /// Reports a problem and gives a node to stand in for what is wrong.
    pub(super) fn problem(&mut self, offset: u32, message: impl Into<String>) -> Expr {
        self.issues.report(offset, message);
        self.node(offset, Kind::Unspecified)
    }

    fn call(&mut self, offset: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.node(offset, Kind::Call { function: function.into(), target: None, args })
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.enter()?;
        let depth = self.depth;
        let condition = self.binary(1)?;
        self.depth = depth;
        let result = if self.current() == Token::Question {
            let offset = self.offset();
            self.advance();
            let truthy = self.binary(1)?;
            self.expect(Token::Colon, &[])?;
            let falsy = self.expr()?;
            self.call(offset, op::CONDITIONAL, vec![condition, truthy, falsy])
        } else {
            condition
        };
        self.depth = depth - 1;
        Ok(result)
    }

    /// Operators that bind at least as tightly as `least`. One function for all of them keeps the stack small.
    fn binary(&mut self, least: u8) -> Parsed<Expr> {
        let depth = self.depth;
        let mut left = self.unary()?;
        while let Some((tightness, function)) = operator(self.current())
            && tightness >= least
        {
            if function == op::OR || function == op::AND {
                left = self.chain(left, function, tightness)?;
                continue;
            }
            self.enter()?;
            let offset = self.offset();
            self.advance();
            let right = self.binary(tightness + 1)?;
            left = self.call(offset, function, vec![left, right]);
        }
        self.depth = depth;
        Ok(left)
    }

    /// A chain of `||` or of `&&`, as a balanced tree.
    fn chain(&mut self, first: Expr, function: &str, tightness: u8) -> Parsed<Expr> {
        let token = self.current();
        let mut terms = vec![first];
        let mut offsets = Vec::new();
        while self.current() == token {
            offsets.push(self.offset());
            self.advance();
            terms.push(self.binary(tightness + 1)?);
        }
        Ok(self.balanced(function, &mut terms.into_iter(), &offsets))
    }

    fn balanced(&mut self, function: &str, terms: &mut std::vec::IntoIter<Expr>, offsets: &[u32]) -> Expr {
        let middle = offsets.len() / 2;
        let left = match middle {
            0 => terms.next(),
            _ => Some(self.balanced(function, terms, &offsets[..middle])),
        };
        let right = match offsets.len() - middle - 1 {
            0 => terms.next(),
            _ => Some(self.balanced(function, terms, &offsets[middle + 1..])),
        };
        let args = left.into_iter().chain(right).collect();
        self.call(offsets[middle], function, args)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let (token, function) = match self.current() {
            Token::Exclam => (Token::Exclam, op::NOT),
            // A single minus before a number is the number's own.
            Token::Minus if !matches!(self.peek(1), Token::Int | Token::Float) => (Token::Minus, op::NEGATE),
            _ => return self.member(),
        };
        let offset = self.offset();
        let mut count = 0u32;
        while self.eat(token) {
            count += 1;
        }
        if token == Token::Minus && self.current() == Token::End {
            let last = self.tokens[self.at - 1].start;
            let seen = &self.source[last as usize..self.offset() as usize];
            self.syntax_error(format!("no viable alternative at input '{seen}'"));
            self.unexpected("mismatched", &START);
            return Err(Stop);
        }
        if self.current() == Token::End {
            self.unexpected("extraneous", &START);
            return Err(Stop);
        }
        let operand = self.member()?;
        Ok(if count.is_multiple_of(2) { operand } else { self.call(offset, function, vec![operand]) })
    }

    fn member(&mut self) -> Parsed<Expr> {
        let mut operand = self.primary()?;
        let depth = self.depth;
        loop {
            match self.current() {
                Token::Dot => {
                    self.enter()?;
                    operand = self.selection(operand)?;
                }
                Token::LBracket => {
                    self.enter()?;
                    let offset = self.offset();
                    self.advance();
                    let optional = self.eat(Token::Question);
                    self.skip_to_start(if optional { &[] } else { &[Token::Question] })?;
                    self.open.push((Token::RBracket, false));
                    let index = self.expr()?;
                    self.close(&[])?;
                    let function = if optional { op::OPT_INDEX } else { op::INDEX };
                    operand = self.call(offset, function, vec![operand, index]);
                }
                _ => break,
            }
        }
        self.depth = depth;
        Ok(operand)
    }

    /// `.field`, `.?field` and `.method(...)`.
    fn selection(&mut self, operand: Expr) -> Parsed<Expr> {
        let dot = self.offset();
        self.advance();
        if self.eat(Token::Question) {
            let offset = self.offset();
            let Some(field) = self.field_name(dot)? else { return Ok(operand) };
            let field = self.node(offset, Kind::Literal(Literal::String(field)));
            return Ok(self.call(dot, op::OPT_SELECT, vec![operand, field]));
        }
        if self.current() == Token::Ident && self.peek(1) == Token::LParen {
            let function: Arc<str> = self.text().into();
            self.advance();
            let open = self.offset();
            self.advance();
            let args = self.arguments()?;
            return Ok(match macros::expand_member(self, open, &function, operand, args) {
                Ok(expanded) => expanded,
                Err((target, args)) => {
                    self.node(open, Kind::Call { function, target: Some(Box::new(target)), args })
                }
            });
        }
        let Some(field) = self.field_name(dot)? else { return Ok(operand) };
        Ok(self.node(dot, Kind::Select { operand: Box::new(operand), field, test_only: false }))
    }

    /// The name after a dot; none if it was reported as not supported.
    fn field_name(&mut self, dot: u32) -> Parsed<Option<Arc<str>>> {
        match self.current() {
            Token::Ident => {
                let name = self.text().into();
                self.advance();
                Ok(Some(name))
            }
            Token::EscIdent => {
                self.issues.report(self.offset(), "unsupported syntax: '`'");
                self.advance();
                Ok(None)
            }
            Token::True | Token::False | Token::Null => {
                self.unexpected("mismatched", &[Token::Ident]);
                Err(Stop)
            }
            _ => {
                let previous = &self.source[dot as usize..self.tokens[self.at].start as usize];
                if previous.ends_with('?') && matches!(self.peek(1), Token::Ident | Token::EscIdent) {
                    self.unexpected("extraneous", &[Token::Ident, Token::EscIdent]);
                    self.advance();
                    return self.field_name(dot);
                }
                if previous.ends_with('?') {
                    self.unexpected("mismatched", &[Token::Ident, Token::EscIdent]);
                    self.issues.report(self.offset(), "unsupported ident kind");
                } else {
                    let text = match self.current() {
                        Token::End => String::new(),
                        _ => self.text().to_owned(),
                    };
                    let at = if text.is_empty() { self.offset() } else { dot + 1 };
                    let message = format!("Syntax error: no viable alternative at input '.{text}'");
                    self.issues.report(at, message);
                    if self.current() == Token::In && self.peek(1) == Token::End {
                        self.advance();
                        self.unexpected("mismatched", &START);
                    }
                }
                Err(Stop)
            }
        }
    }

    /// The arguments of a call and its closing parenthesis.
    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(Token::RParen) {
            return Ok(args);
        }
        self.skip_to_start(&[Token::RParen])?;
        self.open.push((Token::RParen, true));
        args.push(self.expr()?);
        while self.eat(Token::Comma) {
            args.push(self.expr()?);
        }
        self.close(&[])?;
        Ok(args)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        self.skip_to_start(&[])?;
        let offset = self.offset();
        match self.current() {
            Token::LParen => {
                self.advance();
                self.open.push((Token::RParen, false));
                let inner = self.expr()?;
                self.close(&[])?;
                Ok(inner)
            }
            Token::LBracket => self.list(),
            Token::LBrace => self.map(),
            Token::Dot | Token::Ident => self.name(),
            _ => {
                let literal = self.literal()?;
                Ok(match literal {
                    Ok(value) => self.node(offset, Kind::Literal(value)),
                    Err(message) => self.problem(offset, message),
                })
            }
        }
    }

    fn list(&mut self) -> Parsed<Expr> {
        let id = self.id(self.offset());
        self.advance();
        self.open.push((Token::RBracket, true));
        let mut elements = Vec::new();
        if self.begins(&[Token::RBracket, Token::Comma, Token::Question])? {
            loop {
                let optional = self.eat(Token::Question);
                let value = self.expr()?;
                elements.push(Element { value, optional });
                if !self.goes_on()? {
                    break;
                }
            }
        }
        Ok(Expr { id, kind: Kind::List(elements) })
    }

    fn map(&mut self) -> Parsed<Expr> {
        let id = self.id(self.offset());
        self.advance();
        self.open.push((Token::RBrace, true));
        let mut entries = Vec::new();
        if self.begins(&[Token::RBrace, Token::Comma, Token::Question])? {
            loop {
                let optional = self.eat(Token::Question);
                let key = self.expr()?;
                self.expect(Token::Colon, &[])?;
                let value = self.expr()?;
                entries.push(Entry { key, value, optional });
                if !self.goes_on()? {
                    break;
                }
            }
        }
        Ok(Expr { id, kind: Kind::Map(entries) })
    }

    /// Whether something stands in brackets just opened; closes them if not.
    fn begins(&mut self, also: &[Token]) -> Parsed<bool> {
        let close = also[0];
        if self.current() == Token::Comma && self.peek(1) == close {
            self.advance();
        }
        if self.current() == close {
            self.close(&[])?;
            return Ok(false);
        }
        if self.current() != Token::Question {
            self.skip_to_start(also)?;
        }
        Ok(true)
    }

    /// Whether another element follows, after a comma; closes the brackets if not.
    fn goes_on(&mut self) -> Parsed<bool> {
        if !self.eat(Token::Comma) {
            self.close(&[Token::Comma])?;
            return Ok(false);
        }
        let more =
            START.contains(&self.current()) || matches!(self.current(), Token::Question | Token::EscIdent);
        if !more {
            self.close(&[])?;
        }
        Ok(more)
    }

    /// An identifier, a call of a global function or an object literal.
    fn name(&mut self) -> Parsed<Expr> {
        let start = self.offset();
        let leading = self.eat(Token::Dot);
        if self.current() != Token::Ident {
            let text = if self.current() == Token::End { "" } else { self.text() };
            let message = format!("no viable alternative at input '.{text}'");
            self.syntax_error(message);
            return Err(Stop);
        }
        if let Some(length) = self.object_name_length() {
            return self.object(leading, length);
        }
        let offset = self.offset();
        let word = self.text().to_owned();
        self.advance();
        let call = self.current() == Token::LParen;
        let name: Arc<str> = if leading { format!(".{word}").into() } else { word.as_str().into() };
        if !call {
            if is_reserved(&word) {
                return Ok(self.problem(start, format!("reserved identifier: {word}")));
            }
            return Ok(self.node(offset, Kind::Ident(name)));
        }
        let open = self.offset();
        self.advance();
        let args = self.arguments()?;
        if is_reserved(&word) {
            return Ok(self.problem(start, format!("reserved identifier: {word}")));
        }
        Ok(match macros::expand_global(self, open, &name, args) {
            Ok(expanded) => expanded,
            Err(args) => self.call(open, &name, args),
        })
    }

    /// How many tokens the dotted name here has, if a `{` follows it.
    fn object_name_length(&self) -> Option<usize> {
        let mut length = 1;
        while self.peek(length) == Token::Dot && self.peek(length + 1) == Token::Ident {
            length += 2;
        }
        (self.peek(length) == Token::LBrace).then_some(length)
    }

    fn object(&mut self, leading: bool, length: usize) -> Parsed<Expr> {
        let mut name = if leading { ".".to_owned() } else { String::new() };
        for _ in 0..length {
            name.push_str(self.text());
            self.advance();
        }
        let id = self.id(self.offset());
        self.advance();
        self.open.push((Token::RBrace, true));
        let mut fields = Vec::new();
        if self.current() == Token::Comma && self.peek(1) == Token::RBrace {
            self.advance();
        }
        if self.current() == Token::RBrace {
            self.close(&[])?;
            return Ok(Expr { id, kind: Kind::Struct { name: name.into(), fields } });
        }
        loop {
            let optional = self.eat(Token::Question);
            let field = match self.current() {
                Token::Ident => Some(self.text().into()),
                Token::EscIdent => {
                    self.issues.report(self.offset(), "unsupported syntax: '`'");
                    None
                }
                _ => {
                    let mut expected = vec![Token::Ident, Token::EscIdent];
                    if fields.is_empty() {
                        expected.extend([Token::RBrace, Token::Comma, Token::Question]);
                    }
                    self.unexpected("mismatched", &expected);
                    return Err(Stop);
                }
            };
            self.advance();
            let colon = self.expect(Token::Colon, &[])?;
            let field_id = self.id(colon);
            let value = self.expr()?;
            if let Some(name) = field {
                fields.push(Field { id: field_id, name, value, optional });
            }
            if !self.goes_on()? {
                break;
            }
        }
        Ok(Expr { id, kind: Kind::Struct { name: name.into(), fields } })
    }

    /// A literal's value, or what is wrong with it.
    fn literal(&mut self) -> Parsed<Result<Literal, String>> {
        let sign = if self.eat(Token::Minus) { "-" } else { "" };
        let text = self.text().to_owned();
        let value = match self.current() {
            Token::True => Ok(Literal::Bool(true)),
            Token::False => Ok(Literal::Bool(false)),
            Token::Null => Ok(Literal::Null),
            Token::Int => {
                let parsed = match text.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16),
                    None => format!("{sign}{text}").parse(),
                };
                parsed.map(Literal::Int).map_err(|_| "invalid int literal".to_owned())
            }
            Token::Uint => {
                let digits = &text[..text.len() - 1];
                let parsed = match digits.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                parsed.map(Literal::Uint).map_err(|_| "invalid uint literal".to_owned())
            }
            Token::Float => match format!("{sign}{text}").parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Literal::Double(value)),
                _ => Err("invalid double literal".to_owned()),
            },
            Token::String => {
                literal::unquote_string(&text).map(|text| Literal::String(text.into())).map_err(str::to_owned)
            }
            Token::Bytes => literal::unquote_bytes(&text[1..])
                .map(|bytes| Literal::Bytes(bytes.into()))
                .map_err(str::to_owned),
            _ => {
                self.unexpected("mismatched", &START);
                return Err(Stop);
            }
        };
        self.advance();
        Ok(value)
    }
}

/// How tightly an operator binds, and its function.
fn operator(token: Token) -> Option<(u8, &'static str)> {
    Some(match token {
        Token::Or => (1, op::OR),
        Token::And => (2, op::AND),
        Token::Less => (3, "_<_"),
        Token::LessEquals => (3, "_<=_"),
        Token::GreaterEquals => (3, "_>=_"),
        Token::Greater => (3, "_>_"),
        Token::Equals => (3, op::EQUALS),
        Token::NotEquals => (3, op::NOT_EQUALS),
        Token::In => (3, "@in"),
        Token::Plus => (4, op::ADD),
        Token::Minus => (4, "_-_"),
        Token::Star => (5, "_*_"),
        Token::Slash => (5, "_/_"),
        Token::Percent => (5, "_%_"),
        _ => return None,
    })
}

/// Tokens as a problem lists them: one bare, several in braces and in the lexer's order.
fn list(tokens: &[Token]) -> String {
    if let [only] = tokens {
        return only.display().to_owned();
    }
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let names: Vec<&str> = sorted.iter().map(|token| token.display()).collect();
    format!("{{{}}}", names.join(", "))
}
