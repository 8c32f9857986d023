//! Regular expressions as Go's RE2 reads them, run by the `regex` crate, which is as linear.
//!
//! The two differ in what `\d`, `\w`, `\s` and `\b` mean (ASCII in RE2), in what a class may hold (RE2 knows no
//! nested classes and no set operations) and in a few escapes, so a pattern is rewritten before it is compiled.

use crate::error::EvalError;
use regex::{Regex, RegexBuilder};

/// Compiled programs beyond this are refused.
const SIZE_LIMIT: usize = 4 << 20;

/// Compiles a pattern, or says why not the way Go does.
pub(crate) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    let rewritten = rewrite(pattern).map_err(EvalError::new)?;
    RegexBuilder::new(&rewritten)
        .size_limit(SIZE_LIMIT)
        .nest_limit(250)
        .build()
        .map_err(|problem| EvalError::new(describe(pattern, &problem)))
}

fn describe(pattern: &str, problem: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = problem {
        return format!("error parsing regexp: expression too large: `{pattern}`");
    }
    let text = problem.to_string();
    let (what, about) = if text.contains("unclosed group") {
        ("missing closing )", pattern)
    } else if text.contains("unopened group") {
        ("unexpected )", pattern)
    } else if text.contains("repetition operator missing expression") {
        let first = pattern.find(['*', '+', '?', '{']).map_or(pattern, |at| &pattern[at..at + 1]);
        ("missing argument to repetition operator", first)
    } else if text.contains("look-around") {
        let at = pattern.find("(?").unwrap_or(0);
        ("invalid or unsupported Perl syntax", pattern.get(at..at + 3).unwrap_or(pattern))
    } else if text.contains("invalid character class range") {
        ("invalid character class range", pattern)
    } else if text.contains("repetition quantifier") || text.contains("repetition count") {
        ("invalid repeat count", pattern)
    } else {
        ("invalid regular expression", pattern)
    };
    format!("error parsing regexp: {what}: `{about}`")
}

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\x0c\r ";

fn rewrite(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        match c {
            '\\' => rest = escape(pattern, rest, &mut out, false)?,
            '[' => rest = class(pattern, rest, &mut out)?,
            // RE2 takes a brace that begins no repetition for itself.
            '{' if !is_repetition(rest) => {
                out.push_str("\\{");
                rest = &rest[1..];
            }
            '{' => {
                let end = rest.find('}').map_or(rest.len(), |end| end + 1);
                let counts = rest[1..end - 1].split(',').filter(|count| !count.is_empty());
                let counts: Vec<u32> = counts.map(|count| count.parse().unwrap_or(u32::MAX)).collect();
                if counts.iter().any(|count| *count > 1000) || counts.windows(2).any(|pair| pair[0] > pair[1])
                {
                    return Err(format!("error parsing regexp: invalid repeat count: `{}`", &rest[..end]));
                }
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            '(' if rest.starts_with("(?") => {
                let named = rest.starts_with("(?P<") || rest.starts_with("(?<");
                let end = rest.find([':', ')']).unwrap_or(rest.len());
                // RE2 has four flags; the crate knows more.
                if !named && !rest[2..end].bytes().all(|flag| b"imsU-".contains(&flag)) {
                    let shown: String = rest.chars().take(3).collect();
                    return Err(format!(
                        "error parsing regexp: invalid or unsupported Perl syntax: `{shown}`"
                    ));
                }
                out.push_str("(?");
                rest = &rest[2..];
            }
            c => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    Ok(out)
}

fn is_repetition(text: &str) -> bool {
    let Some(end) = text.find('}') else { return false };
    let inside = &text[1..end];
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// Rewrites the escape at the start of `rest`; gives what follows it.
fn escape<'p>(pattern: &str, rest: &'p str, out: &mut String, in_class: bool) -> Result<&'p str, String> {
    let Some(kind) = rest[1..].chars().next() else {
        return Err("error parsing regexp: trailing backslash at end of expression: ``".to_owned());
    };
    let after = &rest[1 + kind.len_utf8()..];
    let mut set = |members: &str, negated: bool| match (in_class, negated) {
        (true, false) => out.push_str(members),
        (_, negated) => {
            out.push_str(if negated { "[^" } else { "[" });
            out.push_str(members);
            out.push(']');
        }
    };
    match kind {
        'd' => set(DIGIT, false),
        'D' => set(DIGIT, true),
        'w' => set(WORD, false),
        'W' => set(WORD, true),
        's' => set(SPACE, false),
        'S' => set(SPACE, true),
        'b' | 'B' if !in_class => {
            out.push_str(if kind == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
        }
        'A' | 'z' if !in_class => {
            out.push('\\');
            out.push(kind);
        }
        'C' if !in_class => out.push_str("(?s:.)"),
        'Q' => {
            let (quoted, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return Ok(after);
        }
        'a' => out.push_str(r"\x07"),
        'f' => out.push_str(r"\x0c"),
        'v' => out.push_str(r"\x0b"),
        't' | 'n' | 'r' => {
            out.push('\\');
            out.push(kind);
        }
        'p' | 'P' | 'x' => {
            let end = match after.strip_prefix('{') {
                Some(inside) => inside.find('}').map(|end| end + 2),
                None if kind == 'x' => Some(2),
                None => after.chars().next().map(char::len_utf8),
            };
            let Some(argument) = end.and_then(|end| after.get(..end)) else {
                return Err(format!("error parsing regexp: invalid escape sequence: `{rest}`"));
            };
            out.push('\\');
            out.push(kind);
            out.push_str(argument);
            return Ok(&after[argument.len()..]);
        }
        '0'..='7' => {
            let digits: String = rest[1..].chars().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
            // A single digit other than zero would refer to a group.
            if digits.len() == 1 && digits != "0" {
                return Err(format!("error parsing regexp: invalid escape sequence: `\\{digits}`"));
            }
            let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
            out.push_str(&format!("\\x{{{code:x}}}"));
            return Ok(&rest[1 + digits.len()..]);
        }
        kind if kind.is_ascii_punctuation() => {
            if matches!(kind, '<' | '>') {
                out.push(kind);
            } else {
                out.push('\\');
                out.push(kind);
            }
        }
        _ => {
            let _ = pattern;
            return Err(format!("error parsing regexp: invalid escape sequence: `\\{kind}`"));
        }
    }
    Ok(after)
}

/// Rewrites the class at the start of `rest`; gives what follows it.
fn class<'p>(pattern: &str, rest: &'p str, out: &mut String) -> Result<&'p str, String> {
    let missing = || format!("error parsing regexp: missing closing ]: `{rest}`");
    let mut inside = &rest[1..];
    out.push('[');
    if let Some(after) = inside.strip_prefix('^') {
        out.push('^');
        inside = after;
    }
    let mut first = true;
    loop {
        let c = inside.chars().next().ok_or_else(missing)?;
        match c {
            ']' if !first => {
                out.push(']');
                return Ok(&inside[1..]);
            }
            '\\' => inside = escape(pattern, inside, out, true)?,
            '[' if inside.starts_with("[:") && inside.contains(":]") => {
                let end = inside.find(":]").map_or(inside.len(), |end| end + 2);
                out.push_str(&inside[..end]);
                inside = &inside[end..];
            }
            // What has a meaning in classes of the crate only.
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                inside = &inside[1..];
            }
            '-' if inside[1..].starts_with('-') => {
                out.push_str("\\-");
                inside = &inside[1..];
            }
            c => {
                out.push(c);
                inside = &inside[c.len_utf8()..];
            }
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn re2_meaning() {
        let matches = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١", false),
            (r"^[\d\w]+$", "a1_", true),
            (r"^[^\s]+$", "ab", true),
            (r"^[[a]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "&a", true),
            (r"a{,2}", "a{,2}", true),
            (r"^\pL+$", "ü", true),
            (r"\bx\b", "a x b", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"(?i)ABC", "abc", true),
            (r"(?P<n>a)", "a", true),
            (r"(?<n>a)", "a", true),
            (r"(?s-i:a.)", "a\n", true),
            (r"^a{2,3}$", "aa", true),
            (r"^[[:alpha:]]+$", "ab", true),
        ];
        for (pattern, text, want) in matches {
            assert_eq!(compile(pattern).map(|regex| regex.is_match(text)), Ok(want), "{pattern}");
        }
        let problems = [
            ("(", "error parsing regexp: missing closing ): `(`"),
            ("[a", "error parsing regexp: missing closing ]: `[a`"),
            ("a)", "error parsing regexp: unexpected ): `a)`"),
            ("*", "error parsing regexp: missing argument to repetition operator: `*`"),
            ("(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"),
            ("(?x)a", "error parsing regexp: invalid or unsupported Perl syntax: `(?x`"),
            ("a{1001}", "error parsing regexp: invalid repeat count: `{1001}`"),
            ("a{3,2}", "error parsing regexp: invalid repeat count: `{3,2}`"),
            (r"\y", r"error parsing regexp: invalid escape sequence: `\y`"),
        ];
        for (pattern, want) in problems {
            assert_eq!(compile(pattern).err().map(|problem| problem.to_string()).as_deref(), Some(want));
        }
    }
}
