//! From text to a syntax tree: lexer, parser, macros. The grammar is that of the CEL specification.

pub(crate) mod ast;
pub(crate) mod issues;
mod lexer;
mod literal;
mod macros;
mod parser;

pub(crate) use parser::{Dialect, parse};
