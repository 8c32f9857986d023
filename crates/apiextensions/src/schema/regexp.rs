//! Regular expressions as Go's `regexp` reads them (RE2 syntax with Perl's classes), on the engine of the `regex`
//! crate. Both are linear in the text; the syntaxes differ in details (`{` alone, `[` and `&&` in classes, Unicode in
//! `\d`, `\Q`), so an expression is read here, refused in Go's words, and written again for the engine.

use regex::Regex;
use std::sync::{Arc, OnceLock};

/// A pattern, compiled when it is first needed.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    compiled: Arc<OnceLock<Result<Regex, String>>>,
}

impl Pattern {
    /// Takes a pattern; it is looked at later.
    pub fn new(text: String) -> Self {
        Self { text, compiled: Arc::default() }
    }

    /// The pattern as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expression, or Go's words on what is wrong with it.
    pub fn regex(&self) -> Result<&Regex, &str> {
        self.compiled.get_or_init(|| compile(&self.text)).as_ref().map_err(String::as_str)
    }
}

/// Compiles an expression; the error is the text of Go's `regexp.Compile`.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let mut translator =
        Translator { pattern, rest: pattern, out: String::with_capacity(pattern.len() + 16), groups: 0 };
    translator.run()?;
    Regex::new(&translator.out).map_err(|_| error("expression too large", pattern))
}

fn error(code: &str, at: &str) -> String {
    // Go leaves the backquotes even round nothing.
    format!("error parsing regexp: {code}: `{at}`")
}

/// The names in `[[:alpha:]]`.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// Go's bound on counted repetition.
const MAX_REPEAT: u32 = 1000;

struct Translator<'p> {
    pattern: &'p str,
    rest: &'p str,
    out: String,
    groups: usize,
}

/// What stands before a repetition operator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before<'p> {
    /// Nothing that can be repeated.
    Nothing,
    /// An atom.
    Atom,
    /// A repetition, from here on.
    Repeated(&'p str),
}

impl<'p> Translator<'p> {
    /// What was read since `from`.
    fn since(&self, from: &'p str) -> &'p str {
        &from[..from.len() - self.rest.len()]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut before = Before::Nothing;
        while !self.rest.is_empty() {
            let from = self.rest;
            let c = self.next().expect("the rest is not empty");
            before = match c {
                '(' => {
                    self.group(from)?;
                    Before::Nothing
                }
                ')' => {
                    if self.groups == 0 {
                        return Err(error("unexpected )", self.pattern));
                    }
                    self.groups -= 1;
                    self.out.push(')');
                    Before::Atom
                }
                '|' => {
                    self.out.push('|');
                    Before::Nothing
                }
                '^' | '$' | '.' => {
                    self.out.push(c);
                    Before::Atom
                }
                '[' => {
                    self.class(from)?;
                    Before::Atom
                }
                '*' | '+' | '?' => {
                    self.take("?");
                    self.repetition(from, before)?
                }
                '{' => match self.counted() {
                    None => {
                        self.rest = &from[1..];
                        self.literal('{');
                        Before::Atom
                    }
                    Some((min, max)) => {
                        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
                            return Err(error("invalid repeat count", self.since(from)));
                        }
                        self.take("?");
                        self.repetition(from, before)?
                    }
                },
                '\\' => {
                    self.escape(from)?;
                    Before::Atom
                }
                c => {
                    self.literal(c);
                    Before::Atom
                }
            };
        }
        if self.groups > 0 { Err(error("missing closing )", self.pattern)) } else { Ok(()) }
    }

    fn repetition(&mut self, from: &'p str, before: Before<'p>) -> Result<Before<'p>, String> {
        match before {
            Before::Nothing => Err(error("missing argument to repetition operator", self.since(from))),
            Before::Repeated(start) => Err(error("invalid nested repetition operator", self.since(start))),
            Before::Atom => {
                self.out.push_str(self.since(from));
                Ok(Before::Repeated(from))
            }
        }
    }

    /// The rest of `{n}`, `{n,}` or `{n,m}`; none where the brace is a plain character.
    fn counted(&mut self) -> Option<(u32, Option<u32>)> {
        let min = self.count()?;
        let max = if self.take(",") {
            if self.rest.starts_with('}') { None } else { Some(self.count()?) }
        } else {
            Some(min)
        };
        self.take("}").then_some((min, max))
    }

    fn count(&mut self) -> Option<u32> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let text = &self.rest[..digits];
        if digits == 0 || (digits > 1 && text.starts_with('0')) {
            return None;
        }
        self.rest = &self.rest[digits..];
        Some(text.parse().unwrap_or(u32::MAX))
    }

    fn group(&mut self, from: &'p str) -> Result<(), String> {
        self.out.push('(');
        if !self.take("?") {
            self.groups += 1;
            return Ok(());
        }
        let named = if self.rest.starts_with("P<") { 2 } else { usize::from(self.rest.starts_with('<')) };
        if named > 0 {
            let Some(end) = self.rest.find('>') else { return Err(error("invalid named capture", from)) };
            let name = &self.rest[named..end];
            self.rest = &self.rest[end + 1..];
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(error("invalid named capture", self.since(from)));
            }
            // Names are never asked for, and a name that is used twice is not worth a parser.
            self.groups += 1;
            return Ok(());
        }
        self.out.push('?');
        let (mut negated, mut seen) = (false, false);
        loop {
            match self.next() {
                Some(c @ ('i' | 'm' | 's' | 'U')) => {
                    self.out.push(c);
                    seen = true;
                }
                Some('-') if !negated => {
                    (negated, seen) = (true, false);
                    self.out.push('-');
                }
                Some(c @ (':' | ')')) if seen || !negated => {
                    self.out.push(c);
                    self.groups += usize::from(c == ':');
                    if c == ')' && self.out.ends_with("(?)") {
                        self.out.truncate(self.out.len() - 3);
                    }
                    return Ok(());
                }
                _ => return Err(error("invalid or unsupported Perl syntax", self.since(from))),
            }
        }
    }

    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || !c.is_ascii() || c == '_' {
            self.out.push(c);
        } else {
            self.out.push_str(&format!("\\x{:02X}", c as u32));
        }
    }

    /// An escape outside classes, its backslash read.
    fn escape(&mut self, from: &'p str) -> Result<(), String> {
        let simple = match self.rest.chars().next() {
            Some('A') => r"\A",
            Some('z') => r"\z",
            Some('b') => r"(?-u:\b)",
            Some('B') => r"(?-u:\B)",
            Some('C') => return Err(error("invalid escape sequence", &from[..2])),
            Some('Q') => {
                self.rest = &self.rest[1..];
                let (quoted, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
                self.rest = rest;
                quoted.chars().for_each(|c| self.literal(c));
                return Ok(());
            }
            _ => {
                if let Some(set) = self.perl_class() {
                    self.out.push_str(&format!("[{set}]"));
                } else if let Some(set) = self.unicode_class(from)? {
                    self.out.push_str(&set);
                } else {
                    let c = self.escaped(from)?;
                    self.literal(c);
                }
                return Ok(());
            }
        };
        self.rest = &self.rest[1..];
        self.out.push_str(simple);
        Ok(())
    }

    /// `\d` and its like: the content of a class.
    fn perl_class(&mut self) -> Option<&'static str> {
        let set = match self.rest.chars().next()? {
            'd' => "0-9",
            'D' => "^0-9",
            's' => r"\t\n\x0C\r\x20",
            'S' => r"^\t\n\x0C\r\x20",
            'w' => "0-9A-Za-z_",
            'W' => "^0-9A-Za-z_",
            _ => return None,
        };
        self.rest = &self.rest[1..];
        Some(set)
    }

    /// `\pL`, `\p{Greek}`, `\P{^Greek}`.
    fn unicode_class(&mut self, from: &'p str) -> Result<Option<String>, String> {
        let mut negated = match self.rest.chars().next() {
            Some('p') => false,
            Some('P') => true,
            _ => return Ok(None),
        };
        self.rest = &self.rest[1..];
        let mut name = match self.next() {
            Some('{') => {
                let Some(end) = self.rest.find('}') else {
                    return Err(error("invalid character class range", from));
                };
                let name = self.rest[..end].to_owned();
                self.rest = &self.rest[end + 1..];
                name
            }
            Some(c) => c.to_string(),
            None => return Err(error("invalid character class range", from)),
        };
        if let Some(rest) = name.strip_prefix('^') {
            negated = !negated;
            name = rest.to_owned();
        }
        if name == "Any" {
            let all = if negated { r"[^\x{0}-\x{10FFFF}]" } else { r"[\x{0}-\x{10FFFF}]" };
            return Ok(Some(all.to_owned()));
        }
        let class = format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' });
        let known =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && Regex::new(&class).is_ok();
        if known { Ok(Some(class)) } else { Err(error("invalid character class range", self.since(from))) }
    }

    /// The character that an escape stands for.
    fn escaped(&mut self, from: &'p str) -> Result<char, String> {
        let Some(c) = self.next() else { return Err(error("trailing backslash at end of expression", "")) };
        let invalid = |this: &Self| error("invalid escape sequence", this.since(from));
        Ok(match c {
            '1'..='7' if !self.rest.starts_with(|next: char| ('0'..='7').contains(&next)) => {
                return Err(invalid(self));
            }
            '0'..='7' => {
                let mut value = c as u32 - '0' as u32;
                for _ in 1..3 {
                    match self.rest.chars().next() {
                        Some(digit @ '0'..='7') => {
                            value = value * 8 + digit as u32 - '0' as u32;
                            self.rest = &self.rest[1..];
                        }
                        _ => break,
                    }
                }
                char::from_u32(value).ok_or_else(|| invalid(self))?
            }
            'x' => {
                let braced = self.take("{");
                let digits = self.rest.bytes().take_while(u8::is_ascii_hexdigit).count();
                let digits = if braced { digits } else { digits.min(2) };
                let value = u32::from_str_radix(&self.rest[..digits], 16).ok().and_then(char::from_u32);
                self.rest = &self.rest[digits..];
                if (!braced && digits < 2) || (braced && !self.take("}")) {
                    self.next();
                    return Err(invalid(self));
                }
                value.ok_or_else(|| invalid(self))?
            }
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            _ => return Err(invalid(self)),
        })
    }

    /// A class, its bracket read.
    fn class(&mut self, whole: &'p str) -> Result<(), String> {
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(error("missing closing ]", whole));
            }
            if !first && self.take("]") {
                self.out.push(']');
                return Ok(());
            }
            first = false;
            let from = self.rest;
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest.find(":]")
            {
                let name = &self.rest[..end + 2];
                self.rest = &self.rest[end + 2..];
                if !POSIX_CLASSES.contains(&name[2..end].trim_start_matches('^')) {
                    return Err(error("invalid character class range", name));
                }
                self.out.push_str(name);
                continue;
            }
            if self.rest.starts_with('\\') {
                self.rest = &self.rest[1..];
                if let Some(set) = self.perl_class() {
                    self.out.push_str(&format!("[{set}]"));
                    continue;
                }
                if let Some(set) = self.unicode_class(from)? {
                    self.out.push_str(&set);
                    continue;
                }
                self.rest = from;
            }
            let low = self.class_char(whole)?;
            let ranged = self.rest.starts_with('-') && self.rest.len() >= 2 && !self.rest.starts_with("-]");
            let high = if ranged {
                self.rest = &self.rest[1..];
                self.class_char(whole)?
            } else {
                low
            };
            if high < low {
                return Err(error("invalid character class range", self.since(from)));
            }
            self.out.push_str(&format!("\\x{{{:X}}}", low as u32));
            if ranged {
                self.out.push_str(&format!("-\\x{{{:X}}}", high as u32));
            }
        }
    }

    fn class_char(&mut self, whole: &'p str) -> Result<char, String> {
        let from = self.rest;
        match self.next() {
            None => Err(error("missing closing ]", whole)),
            Some('\\') => self.escaped(from),
            Some(c) => Ok(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_as_in_go() {
        for (pattern, text, want) in [
            ("^[a-z]+$", "abc", true),
            ("^[a-z]+$", "abc\n", false),
            ("^a{2}$", "aa", true),
            ("^a{,2}$", "a{,2}", true),
            ("^{$", "{", true),
            ("^[[]$", "[", true),
            ("^[a&&b]+$", "a&b", true),
            ("^[a-]$", "-", true),
            ("^[]a]$", "]", true),
            (r"^\d$", "٣", false),
            (r"^\w+$", "é", false),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"^\pL+$", "é", true),
            (r"^\p{^Greek}$", "α", false),
            (r"^[\w.-]+$", "a.b-c", true),
            (r"^[^\s]+$", "a b", false),
            ("^[[:alpha:]]$", "x", true),
            ("(?i)^abc$", "ABC", true),
            ("^(?P<n>a)(?<m>b)$", "ab", true),
            ("^(?i:a)b$", "Ab", true),
            (r"a\b", "a b", true),
            (r"^\x41\x{42}\103$", "ABC", true),
            ("a|b", "cb", true),
            ("", "anything", true),
        ] {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(regex.is_match(text), want, "{pattern} on {text}");
        }
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (pattern, want) in [
            ("(", "missing closing ): `(`"),
            (")", "unexpected ): `)`"),
            ("[a", "missing closing ]: `[a`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            (r"\", "trailing backslash at end of expression: ``"),
            (r"\q", r"invalid escape sequence: `\q`"),
            (r"\8", r"invalid escape sequence: `\8`"),
            ("[b-a]", "invalid character class range: `b-a`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
            ("(?<=a)", "invalid named capture: `(?<=a)`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?P<a", "invalid named capture: `(?P<a`"),
        ] {
            assert_eq!(
                compile(pattern).map(|_| ()).unwrap_err(),
                format!("error parsing regexp: {want}"),
                "{pattern}"
            );
        }
    }
}
