//! The meaning of quoted text: escapes of string and bytes literals.

/// Decodes a string literal as written, quotes and prefix `r` included.
pub(super) fn unquote_string(text: &str) -> Result<String, &'static str> {
    let (body, raw) = body(text)?;
    if raw || !body.contains('\\') {
        return Ok(body);
    }
    let mut out = String::with_capacity(body.len());
    let mut rest = body.as_str();
    while let Some(c) = rest.chars().next() {
        if c != '\\' {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (value, _, tail) = escape(rest, false)?;
        out.push(char::from_u32(value).ok_or("invalid unicode code point")?);
        rest = tail;
    }
    Ok(out)
}

/// Decodes a bytes literal without its prefix `b`.
pub(super) fn unquote_bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (body, raw) = body(text)?;
    if raw || !body.contains('\\') {
        return Ok(body.into_bytes());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body.as_str();
    while let Some(c) = rest.chars().next() {
        if c != '\\' {
            out.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (value, _, tail) = escape(rest, true)?;
        out.push(value as u8);
        rest = tail;
    }
    Ok(out)
}

/// What stands between the quotes with line ends normalized, and whether it is raw.
fn body(text: &str) -> Result<(String, bool), &'static str> {
    const BAD: &str = "unable to unescape string";
    let text =
        if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.to_owned() };
    let (quoted, raw) = match text.strip_prefix(['r', 'R']) {
        Some(rest) => (rest, true),
        None => (text.as_str(), false),
    };
    for quote in ["'''", "\"\"\"", "'", "\""] {
        if let Some(inner) = quoted.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Ok((inner.to_owned(), raw));
        }
    }
    Err(BAD)
}

/// The value of the escape that starts `text`, whether it is a code point, and what follows.
fn escape(text: &str, bytes: bool) -> Result<(u32, bool, &str), &'static str> {
    const BAD: &str = "unable to unescape string";
    let kind = text[1..].chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
    let rest = &text[1 + kind.len_utf8()..];
    let simple = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => 0x0a,
        'r' => 0x0d,
        't' => 0x09,
        'v' => 0x0b,
        '\\' | '\'' | '"' | '`' | '?' => kind as u32,
        'x' | 'X' | 'u' | 'U' => {
            let count = match kind {
                'u' => 4,
                'U' => 8,
                _ => 2,
            };
            if bytes && count > 2 {
                return Err(BAD);
            }
            let digits = rest.get(..count).ok_or(BAD)?;
            let value = u32::from_str_radix(digits, 16).map_err(|_| BAD)?;
            if !bytes && char::from_u32(value).is_none() {
                return Err("invalid unicode code point");
            }
            return Ok((value, !bytes, &rest[count..]));
        }
        '0'..='3' => {
            const OCTAL: &str = "unable to unescape octal sequence in string";
            let digits = text.get(1..4).ok_or(OCTAL)?;
            let value = u32::from_str_radix(digits, 8).map_err(|_| OCTAL)?;
            return Ok((value, !bytes, &text[4..]));
        }
        _ => return Err(BAD),
    };
    Ok((simple, false, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let cases = [
            (r#"'a'"#, "a"),
            (r#""a\tb""#, "a\tb"),
            (r#"'\u00fc\x41\101\U0001F600'"#, "üAA😀"),
            (r#"r'\d'"#, r"\d"),
            ("'''a\r\nb'''", "a\nb"),
            (r#"'\`\?\\'"#, r"`?\"),
        ];
        for (text, want) in cases {
            assert_eq!(unquote_string(text).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(unquote_bytes(r#"'\xff\377ü'"#), Ok(vec![255, 255, 0xc3, 0xbc]));
        assert_eq!(unquote_string(r#"'\ud800'"#), Err("invalid unicode code point"));
        assert_eq!(unquote_bytes(r#"'\u00ff'"#), Err("unable to unescape string"));
    }
}
