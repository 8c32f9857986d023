//! Rules of the places that webhooks are called at (apiserver's `pkg/util/webhook/validation.go`), which admission
//! configurations and conversions share.

use super::formats::{dns1123_subdomain, port_num};
use crate::field::{self, ErrorList, Path};
use crate::go;

/// What upstream appends to errors of URLs.
const FORM: &str = "; desired format: https://host[/path]";

/// Errors of a webhook's URL.
pub fn webhook_url(url: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let parsed = match Url::parse(url) {
        Ok(parsed) => parsed,
        Err(why) => {
            let text = format!("url must be a valid URL: parse {}: {why}{FORM}", go::quote(url));
            errors.push(field::required(path, text));
            return errors;
        }
    };
    if parsed.scheme != "https" {
        let text = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(field::invalid(path, parsed.scheme, text));
    }
    if parsed.host.is_empty() {
        errors.push(field::invalid(path, parsed.host, format!("host must be specified{FORM}")));
    }
    for (part, text) in [
        (parsed.user, "user information is not permitted in the URL"),
        (parsed.fragment, "fragments are not permitted in the URL"),
        (parsed.query, "query parameters are not permitted in the URL"),
    ] {
        if let Some(part) = part {
            errors.push(field::invalid(path, part, text));
        }
    }
    errors
}

/// Errors of a webhook's service reference. Upstream's caller for admission webhooks hands name and namespace over
/// in the wrong order; `first` and `second` are checked as the fields `namespace` and `name`.
pub fn webhook_service(
    first: &str,
    second: &str,
    url_path: Option<&str>,
    port: i64,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    if second.is_empty() {
        errors.push(field::required(&path.child("name"), ""));
    }
    if first.is_empty() {
        errors.push(field::required(&path.child("namespace"), ""));
    }
    let problems = port_num(port);
    if !problems.is_empty() {
        let text = format!("port is not valid: {}", problems.join(", "));
        errors.push(field::invalid(&path.child("port"), port, text));
    }
    let Some(url_path) = url_path.filter(|p| !p.is_empty() && *p != "/") else { return errors };
    let at = path.child("path");
    if url_path == "//" {
        errors.push(field::invalid(&at, url_path, "segment[0] may not be empty"));
        return errors;
    }
    if !url_path.starts_with('/') {
        errors.push(field::invalid(&at, url_path, "must start with a '/'"));
    }
    // The first character is taken for the slash whatever it is, as upstream does.
    let rest: String = url_path.chars().skip(1).collect();
    for (index, step) in rest.strip_suffix('/').unwrap_or(&rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(field::invalid(&at, url_path, format!("segment[{index}] may not be empty")));
            continue;
        }
        for problem in dns1123_subdomain(step) {
            errors.push(field::invalid(&at, url_path, format!("segment[{index}]: {problem}")));
        }
    }
    errors
}

/// The parts of a URL as Go's `net/url` finds them.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    user: Option<&'a str>,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment).filter(|f| !f.is_empty())),
            None => (text, None),
        };
        let (scheme, rest) = split_scheme(rest)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query).filter(|q| !q.is_empty())),
            None => (rest, None),
        };
        if let Some(bad) = bad_escape(rest) {
            return Err(format!("invalid URL escape {}", go::quote(bad)));
        }
        let Some(rest) = rest.strip_prefix("//") else {
            let segment = rest.split('/').next().unwrap_or_default();
            if scheme.is_empty() && segment.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
            return Ok(Self { scheme, host: "", user: None, query, fragment });
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        check_host(host)?;
        Ok(Self { scheme, host, user, query, fragment })
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if index > 0 => {}
            ':' if index == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn bad_escape(text: &str) -> Option<&str> {
    text.char_indices().filter(|(_, c)| *c == '%').find_map(|(index, _)| {
        let end = text[index..].char_indices().nth(3).map_or(text.len(), |(offset, _)| index + offset);
        let escape = &text[index..end];
        let good = escape.len() == 3 && escape[1..].bytes().all(|b| b.is_ascii_hexdigit());
        (!good).then_some(escape)
    })
}

fn check_host(host: &str) -> Result<(), String> {
    let after = match host.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']') {
            Some((_, after)) => after,
            None => return Err("missing ']' in host".to_owned()),
        },
        None => {
            let bad = host.chars().find(|c| {
                c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]<>\"%".contains(*c)
            });
            if let Some(bad) = bad {
                return Err(format!("invalid character {} in host name", go::quote(&bad.to_string())));
            }
            host.rfind(':').map_or("", |index| &host[index..])
        }
    };
    let good = after.is_empty()
        || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if good { Ok(()) } else { Err(format!("invalid port {} after host", go::quote(after))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(|e| format!("{}: {}", e.field, e.body())).collect()
    }

    #[test]
    fn urls() {
        let https = "u: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]";
        for (url, wanted) in [
            ("https://a.b/c", vec![]),
            ("https://[::1]:8443/c", vec![]),
            ("http://a", vec![https]),
            (
                "",
                vec![
                    "u: Invalid value: \"\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "u: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                ],
            ),
            (
                "https://me@a/?b=c#d",
                vec![
                    "u: Invalid value: \"me\": user information is not permitted in the URL",
                    "u: Invalid value: \"d\": fragments are not permitted in the URL",
                    "u: Invalid value: \"b=c\": query parameters are not permitted in the URL",
                ],
            ),
            (
                "https://a:b",
                vec![
                    "u: Required value: url must be a valid URL: parse \"https://a:b\": invalid port \":b\" after host; desired format: https://host[/path]",
                ],
            ),
        ] {
            assert_eq!(texts(&webhook_url(url, &Path::new("u"))), wanted, "{url}");
        }
    }

    #[test]
    fn services() {
        for (path, wanted) in [
            (None, vec![]),
            (Some("/"), vec![]),
            (Some("/a/b/"), vec![]),
            (Some("//"), vec!["s.path: Invalid value: \"//\": segment[0] may not be empty"]),
            (
                Some("a"),
                vec![
                    "s.path: Invalid value: \"a\": must start with a '/'",
                    "s.path: Invalid value: \"a\": segment[0] may not be empty",
                ],
            ),
            (Some("/a//b"), vec!["s.path: Invalid value: \"/a//b\": segment[1] may not be empty"]),
        ] {
            assert_eq!(texts(&webhook_service("ns", "n", path, 443, &Path::new("s"))), wanted, "{path:?}");
        }
        let errors = webhook_service("", "n", None, 0, &Path::new("s"));
        let wanted = [
            "s.namespace: Required value",
            "s.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
        ];
        assert_eq!(texts(&errors), wanted);
    }
}
