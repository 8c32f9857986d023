//! `Warning` headers (RFC 7234, code 299): each text once, and cut short when there is too much of it, as upstream's
//! warning recorder does.

use http::header::{HeaderMap, HeaderValue, WARNING};

/// Above so many characters together each warning is cut.
const TOTAL: usize = 4 * 1024;
/// To so many.
const EACH: usize = 256;

/// Adds the headers.
pub fn append(headers: &mut HeaderMap, warnings: &[String]) {
    let mut texts: Vec<&str> = Vec::new();
    for warning in warnings.iter().filter(|warning| !warning.is_empty()) {
        if !texts.contains(&warning.as_str()) {
            texts.push(warning);
        }
    }
    let total: usize = texts.iter().map(|text| text.chars().count()).sum();
    let mut written = 0;
    for text in texts {
        let cut = text.char_indices().nth(EACH).map_or(text.len(), |(at, _)| at);
        let text = if total > TOTAL { &text[..cut] } else { text };
        if total > TOTAL && written >= TOTAL {
            return;
        }
        written += text.chars().count();
        if let Some(value) = value(text) {
            headers.append(WARNING, value);
        }
    }
}

/// One header's value; there is no agent.
fn value(text: &str) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    HeaderValue::from_str(&format!("299 - \"{quoted}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(warnings: &[String]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        append(&mut headers, warnings);
        headers.get_all(WARNING).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    }

    #[test]
    fn a_warning_is_given_once_and_quoted() {
        let warnings = ["a \"b\" \\ c\n".to_owned(), String::new(), "d".to_owned(), "d".to_owned()];
        assert_eq!(sent(&warnings), [r#"299 - "a \"b\" \\ c""#, r#"299 - "d""#]);
    }

    #[test]
    fn too_much_is_cut_short() {
        let long = |c: char| String::from(c).repeat(3000);
        assert_eq!(sent(&[long('x')])[0].len(), 3000 + 8);
        let cut = sent(&[long('x'), long('é')]);
        assert_eq!((cut[0].len(), cut[1].chars().count()), (256 + 8, 256 + 8));
        let many: Vec<String> = (0..100).map(|i| format!("{i:0>300}")).collect();
        assert_eq!(sent(&many).len(), 16, "4096 characters of 256 each");
    }
}
