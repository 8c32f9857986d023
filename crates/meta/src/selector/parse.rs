//! Reading the text form of a label selector.

use super::{Operator, Requirement, SelectorError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    ClosedParen,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenParen,
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::ClosedParen,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::OpenParen,
        _ => return None,
    })
}

fn is_special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Cuts the text into tokens; the last one is `End`. A NUL byte ends the text, as it does upstream.
fn scan(text: &str) -> Vec<(Token, String)> {
    let text = text.split('\0').next().unwrap_or_default();
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        while at < bytes.len() && is_space(bytes[at]) {
            at += 1;
        }
        let Some(first) = bytes.get(at) else {
            tokens.push((Token::End, String::new()));
            return tokens;
        };
        let start = at;
        if is_special(*first) {
            // The longest operator; characters that make none together with what follows are an error.
            let mut found = None;
            while at < bytes.len() && is_special(bytes[at]) {
                match keyword(&text[start..=at]) {
                    Some(token) => found = Some(token),
                    None if found.is_some() => break,
                    None => {}
                }
                at += 1;
            }
            match found {
                Some(token) => tokens.push((token, text[start..at].to_owned())),
                None => {
                    let message = format!("error expected: keyword found '{}'", &text[start..at]);
                    tokens.push((Token::Error, message));
                }
            }
        } else {
            while at < bytes.len() && !is_special(bytes[at]) && !is_space(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            tokens.push((keyword(word).unwrap_or(Token::Identifier), word.to_owned()));
        }
    }
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// The current token where a word is expected: `in` and `notin` are words there.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = self.tokens.get(self.at).map_or((Token::End, ""), |(token, text)| (*token, text));
        match token {
            Token::In | Token::NotIn => (Token::Identifier, text),
            other => (other, text),
        }
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let result = (token, text.to_owned());
        self.at += 1;
        result
    }

    fn next_operator(&mut self) -> (Token, String) {
        let result = self.tokens.get(self.at).cloned().unwrap_or((Token::End, String::new()));
        self.at += 1;
        result
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(SelectorError(format!("found '{key}', expected: identifier")));
        }
        let messages = crate::validate::qualified_name(&key);
        if !messages.is_empty() {
            let error = crate::field::invalid(&crate::field::Path::nil(), &key, messages.join("; "));
            return Err(SelectorError(error.to_string()));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let (token, text) = self.next_operator();
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return Err(SelectorError(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")));
            }
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(SelectorError(format!("found '{text}', expected: identifier"))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::OpenParen {
            return Err(SelectorError(format!("found '{text}' expected: '('")));
        }
        match self.peek() {
            (Token::ClosedParen, _) => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            (Token::Identifier | Token::Comma, _) => {
                let values = self.identifiers()?;
                self.at += 1;
                Ok(values)
            }
            (_, text) => Err(SelectorError(format!("found '{text}', expected: ',', ')' or identifier"))),
        }
    }

    /// Up to, not including, the closing parenthesis.
    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            match self.next() {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::ClosedParen, _) => return Ok(values),
                        (_, text) => {
                            return Err(SelectorError(format!("found '{text}', expected: ',' or ')'")));
                        }
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Token::ClosedParen => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, text) => {
                    return Err(SelectorError(format!("found '{text}', expected: ',', or identifier")));
                }
            }
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::End, _) => return Ok(requirements),
            (Token::Identifier | Token::Not, _) => {}
            (_, text) => {
                return Err(SelectorError(format!(
                    "found '{text}', expected: !, identifier, or 'end of string'"
                )));
            }
        }
        let requirement = parser
            .requirement()
            .map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?;
        requirements.push(requirement);
        match parser.next() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => match parser.peek() {
                (Token::Identifier | Token::Not, _) => {}
                (_, text) => {
                    return Err(SelectorError(format!("found '{text}', expected: identifier after ','")));
                }
            },
            (_, text) => {
                return Err(SelectorError(format!("found '{text}', expected: ',' or 'end of string'")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LabelSelector;

    #[test]
    fn selectors_are_read_and_printed() {
        for (text, want) in [
            ("", ""),
            ("a=b", "a=b"),
            (" b = c , a == b ", "a==b,b=c"),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
            ("x in (b,a,a)", "x in (a,b)"),
            ("!a,b!=c,d>1,e<2", "!a,b!=c,d>1,e<2"),
            ("a=,b!=", "a=,b!="),
            ("in=in,notin notin (notin)", "in=in,notin notin (notin)"),
            ("example.com/a=b", "example.com/a=b"),
            ("x in (,a)", "x in (,a)"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        for (text, want) in [
            ("a=b,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a==b=c", "found '=', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), want, "{text}");
        }
        let error = LabelSelector::parse("-a=b").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"
            ),
            "{error}"
        );
        let error = LabelSelector::parse("a=-").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label must be"
            ),
            "{error}"
        );
    }
}
