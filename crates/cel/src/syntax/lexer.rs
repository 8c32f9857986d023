//! Tokens. What cannot be a token is reported and skipped, the way the reference's generated lexer does.

use super::issues::Issues;

/// The kinds of tokens, in the order in which problems list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Equals,
    NotEquals,
    In,
    Less,
    LessEquals,
    GreaterEquals,
    Greater,
    And,
    Or,
    LBracket,
    RBracket,
    LBrace,
    RBrace,
    LParen,
    RParen,
    Dot,
    Comma,
    Minus,
    Exclam,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Ident,
    EscIdent,
    End,
}

impl Token {
    /// How problems name the token.
    pub fn display(self) -> &'static str {
        match self {
            Self::Equals => "'=='",
            Self::NotEquals => "'!='",
            Self::In => "'in'",
            Self::Less => "'<'",
            Self::LessEquals => "'<='",
            Self::GreaterEquals => "'>='",
            Self::Greater => "'>'",
            Self::And => "'&&'",
            Self::Or => "'||'",
            Self::LBracket => "'['",
            Self::RBracket => "']'",
            Self::LBrace => "'{'",
            Self::RBrace => "'}'",
            Self::LParen => "'('",
            Self::RParen => "')'",
            Self::Dot => "'.'",
            Self::Comma => "','",
            Self::Minus => "'-'",
            Self::Exclam => "'!'",
            Self::Question => "'?'",
            Self::Colon => "':'",
            Self::Plus => "'+'",
            Self::Star => "'*'",
            Self::Slash => "'/'",
            Self::Percent => "'%'",
            Self::True => "'true'",
            Self::False => "'false'",
            Self::Null => "'null'",
            Self::Float => "NUM_FLOAT",
            Self::Int => "NUM_INT",
            Self::Uint => "NUM_UINT",
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Ident => "IDENTIFIER",
            Self::EscIdent => "ESC_IDENTIFIER",
            Self::End => "<EOF>",
        }
    }
}

/// A token and the bytes it stands on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexeme {
    pub token: Token,
    pub start: u32,
    pub end: u32,
}

/// Splits `source`; the last token is [`Token::End`].
pub(super) fn tokenize(source: &str, issues: &mut Issues) -> Vec<Lexeme> {
    let mut lexer = Lexer { source, bytes: source.as_bytes(), at: 0 };
    let mut tokens = Vec::with_capacity(source.len() / 3 + 2);
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        if start >= source.len() {
            tokens.push(Lexeme { token: Token::End, start: start as u32, end: start as u32 });
            return tokens;
        }
        match lexer.next() {
            Ok((token, end)) => {
                tokens.push(Lexeme { token, start: start as u32, end: end as u32 });
                lexer.at = end;
            }
            Err(end) => {
                let text = &source[start..end];
                issues.report(start as u32, format!("Syntax error: token recognition error at: '{text}'"));
                lexer.at = end;
            }
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    bytes: &'s [u8],
    at: usize,
}

impl Lexer<'_> {
    fn skip_blank(&mut self) {
        loop {
            match self.bytes.get(self.at) {
                Some(b'\t' | b' ' | b'\r' | b'\n' | 0x0c) => self.at += 1,
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'/') => {
                    let rest = &self.source[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    /// The byte after the character that starts at `at`.
    fn after(&self, at: usize) -> usize {
        self.source[at..].chars().next().map_or(at, |c| at + c.len_utf8())
    }

    /// The next token and its end, or the end of what cannot be read.
    fn next(&self) -> Result<(Token, usize), usize> {
        let at = self.at;
        let two = |second: u8, double: Token, single: Token| {
            if self.bytes.get(at + 1) == Some(&second) { Ok((double, at + 2)) } else { Ok((single, at + 1)) }
        };
        // A pair whose second half is missing takes the offending character along.
        let pair = |second: u8, double: Token| {
            if self.bytes.get(at + 1) == Some(&second) {
                Ok((double, at + 2))
            } else {
                Err(if at + 1 < self.bytes.len() { self.after(at + 1) } else { at + 1 })
            }
        };
        match self.bytes[at] {
            b'=' => pair(b'=', Token::Equals),
            b'&' => pair(b'&', Token::And),
            b'|' => pair(b'|', Token::Or),
            b'!' => two(b'=', Token::NotEquals, Token::Exclam),
            b'<' => two(b'=', Token::LessEquals, Token::Less),
            b'>' => two(b'=', Token::GreaterEquals, Token::Greater),
            b'[' => Ok((Token::LBracket, at + 1)),
            b']' => Ok((Token::RBracket, at + 1)),
            b'{' => Ok((Token::LBrace, at + 1)),
            b'}' => Ok((Token::RBrace, at + 1)),
            b'(' => Ok((Token::LParen, at + 1)),
            b')' => Ok((Token::RParen, at + 1)),
            b'.' if self.bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => Ok(self.number(at)),
            b'.' => Ok((Token::Dot, at + 1)),
            b',' => Ok((Token::Comma, at + 1)),
            b'-' => Ok((Token::Minus, at + 1)),
            b'?' => Ok((Token::Question, at + 1)),
            b':' => Ok((Token::Colon, at + 1)),
            b'+' => Ok((Token::Plus, at + 1)),
            b'*' => Ok((Token::Star, at + 1)),
            b'/' => Ok((Token::Slash, at + 1)),
            b'%' => Ok((Token::Percent, at + 1)),
            b'0'..=b'9' => Ok(self.number(at)),
            b'"' | b'\'' => self.string(at, false).map(|end| (Token::String, end)),
            b'`' => self.escaped_identifier(at),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Ok(self.word(at)),
            _ => Err(self.after(at)),
        }
    }

    fn digits(&self, mut at: usize) -> usize {
        while self.bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    }

    fn number(&self, start: usize) -> (Token, usize) {
        if self.bytes[start] == b'0' && self.bytes.get(start + 1) == Some(&b'x') {
            let mut end = start + 2;
            while self.bytes.get(end).is_some_and(u8::is_ascii_hexdigit) {
                end += 1;
            }
            if end > start + 2 {
                return self.maybe_unsigned(end);
            }
            return (Token::Int, start + 1);
        }
        let whole = self.digits(start);
        let mut end = whole;
        let mut float = false;
        if self.bytes.get(end) == Some(&b'.') && self.bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            end = self.digits(end + 1);
            float = true;
        }
        if matches!(self.bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.bytes.get(end + 1), Some(b'+' | b'-')));
            if self.bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                end = self.digits(end + 1 + sign);
                float = true;
            }
        }
        if float { (Token::Float, end) } else { self.maybe_unsigned(end) }
    }

    fn maybe_unsigned(&self, end: usize) -> (Token, usize) {
        match self.bytes.get(end) {
            Some(b'u' | b'U') => (Token::Uint, end + 1),
            _ => (Token::Int, end),
        }
    }

    fn word(&self, start: usize) -> (Token, usize) {
        if let Some((token, end)) = self.prefixed_string(start) {
            return (token, end);
        }
        let mut end = start;
        while self.bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            end += 1;
        }
        let token = match &self.source[start..end] {
            "in" => Token::In,
            "true" => Token::True,
            "false" => Token::False,
            "null" => Token::Null,
            _ => Token::Ident,
        };
        (token, end)
    }

    /// `r'..'`, `b'..'` and `br'..'`. An unfinished one is an identifier before an unfinished string.
    fn prefixed_string(&self, start: usize) -> Option<(Token, usize)> {
        let first = self.bytes[start];
        let second = self.bytes.get(start + 1).copied();
        let quote = |byte: Option<u8>| matches!(byte, Some(b'"' | b'\''));
        match first {
            b'r' | b'R' if quote(second) => Some((Token::String, self.string(start + 1, true).ok()?)),
            b'b' | b'B' if quote(second) => Some((Token::Bytes, self.string(start + 1, false).ok()?)),
            b'b' | b'B'
                if matches!(second, Some(b'r' | b'R')) && quote(self.bytes.get(start + 2).copied()) =>
            {
                Some((Token::Bytes, self.string(start + 2, true).ok()?))
            }
            _ => None,
        }
    }

    fn escaped_identifier(&self, start: usize) -> Result<(Token, usize), usize> {
        let mut end = start + 1;
        while let Some(byte) = self.bytes.get(end) {
            match byte {
                b'`' if end > start + 1 => return Ok((Token::EscIdent, end + 1)),
                b'_' | b'.' | b'-' | b'/' | b' ' => end += 1,
                byte if byte.is_ascii_alphanumeric() => end += 1,
                _ => return Err(self.after(end)),
            }
        }
        Err(end)
    }

    /// The end of the quoted text that starts at `start`, or where reading it failed.
    fn string(&self, start: usize, raw: bool) -> Result<usize, usize> {
        let quote = self.bytes[start];
        let triple = self.bytes.get(start + 1) == Some(&quote) && self.bytes.get(start + 2) == Some(&quote);
        if triple && let Ok(end) = self.quoted(start + 3, quote, true, raw) {
            return Ok(end);
        }
        // An unfinished triple quote is an empty string before another one.
        self.quoted(start + 1, quote, false, raw)
    }

    fn quoted(&self, mut at: usize, quote: u8, triple: bool, raw: bool) -> Result<usize, usize> {
        loop {
            match self.bytes.get(at) {
                None => return Err(at),
                Some(byte) if *byte == quote => {
                    if !triple {
                        return Ok(at + 1);
                    }
                    if self.bytes.get(at + 1) == Some(&quote) && self.bytes.get(at + 2) == Some(&quote) {
                        return Ok(at + 3);
                    }
                    at += 1;
                }
                Some(b'\n' | b'\r') if !triple => return Err(at + 1),
                Some(b'\\') if !raw => at = self.escape(at)?,
                Some(_) => at = self.after(at),
            }
        }
    }

    /// The end of an escape sequence, or where it stops being one.
    fn escape(&self, at: usize) -> Result<usize, usize> {
        let Some(kind) = self.bytes.get(at + 1) else { return Err(at + 1) };
        let (first, count, radix) = match kind {
            b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => {
                return Ok(at + 2);
            }
            b'x' | b'X' => (at + 2, 2, 16),
            b'u' => (at + 2, 4, 16),
            b'U' => (at + 2, 8, 16),
            b'0'..=b'3' => (at + 2, 2, 8),
            _ => return Err(self.after(at + 1)),
        };
        for place in first..first + count {
            match self.bytes.get(place) {
                None => return Err(place),
                Some(byte) if (*byte as char).is_digit(radix) => {}
                Some(_) => return Err(self.after(place)),
            }
        }
        Ok(first + count)
    }
}
