//! Request info: what a request asks for, from its method, path and query. Follows the rules of upstream's
//! `RequestInfoResolver`: `/api/<version>/…` and `/apis/<group>/<version>/…`, namespaces as parents, the old
//! `proxy`/`watch` path prefixes, and the `metadata.name` field selector as a name.

use crate::request::RequestInfo;
use http::Method;
use std::time::Duration;

/// Subresources of `namespaces` itself; a third path segment that is not one of them is a resource in the namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// The query parameters in order, decoded. `+` is a space, as in forms.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Decodes a path segment (where `+` is itself).
fn segment(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Resolves what a request is about.
pub fn resolve(method: &Method, path: &str, query: &[(String, String)]) -> RequestInfo {
    let mut info = RequestInfo {
        path: segment(path),
        verb: method.as_str().to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            info.version = segment(version);
            rest
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            info.group = segment(group);
            info.version = segment(version);
            rest
        }
        _ => return info,
    };
    info.is_resource = true;
    resolve_resource(&mut info, method, rest, query);
    info
}

fn resolve_resource(info: &mut RequestInfo, method: &Method, mut rest: &[&str], query: &[(String, String)]) {
    let special = matches!(rest[0], "proxy" | "watch");
    if special && rest.len() > 1 {
        info.verb = rest[0].to_owned();
        rest = &rest[1..];
    } else {
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
    }
    let special = info.verb == "proxy" || info.verb == "watch";
    if rest[0] == "namespaces"
        && let Some(namespace) = rest.get(1)
    {
        info.namespace = segment(namespace);
        if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
            rest = &rest[2..];
        }
    }
    info.resource = segment(rest[0]);
    if let Some(name) = rest.get(1) {
        info.name = segment(name);
    }
    if info.verb == "proxy" {
        info.rest = rest.get(2..).unwrap_or_default().join("/");
    } else if !special {
        if let Some(subresource) = rest.get(2) {
            info.subresource = segment(subresource);
        }
        info.rest = rest.get(3..).unwrap_or_default().join("/");
    }
    if info.name.is_empty() && info.verb == "get" {
        resolve_collection(info, query);
    } else if info.name.is_empty() && info.verb == "watch" {
        if let Some(name) = selected_name(query) {
            info.name = name;
        }
    } else if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
}

/// A get without a name is a list or a watch; one that selects a single name carries that name, so that
/// authorizers can permit it by name.
fn resolve_collection(info: &mut RequestInfo, query: &[(String, String)]) {
    let watch = query.iter().find(|(key, _)| key == "watch").is_some_and(|(_, value)| truthy(value));
    info.verb = if watch { "watch" } else { "list" }.to_owned();
    if let Some(name) = selected_name(query) {
        info.name = name;
    }
}

/// How upstream reads boolean query parameters: present and not "false" or "0".
pub fn truthy(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0")
}

/// The name a field selector pins down with `metadata.name=<name>`, if it is a valid path segment.
fn selected_name(query: &[(String, String)]) -> Option<String> {
    let (_, selector) = query.iter().find(|(key, _)| key == "fieldSelector")?;
    exact_fields(selector)
        .into_iter()
        .find(|(key, _)| key == "metadata.name")
        .map(|(_, value)| value)
        .filter(|name| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']))
}

/// The `key=value` and `key==value` requirements of a field selector, unescaped.
pub fn exact_fields(selector: &str) -> Vec<(String, String)> {
    selector
        .split(',')
        .filter_map(|term| {
            if term.contains("!=") {
                return None;
            }
            let (key, value) = term.split_once("==").or_else(|| term.split_once('='))?;
            Some((key.to_owned(), value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\")))
        })
        .collect()
}

/// Reads a duration as Go writes them: `1h30m`, `1.5s`, `300ms`; less than nothing is nothing. The error is Go's.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanos = knarr_meta::duration::parse(text)?;
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or_default()))
}

/// Whether a request may stay open as long as it likes: watches, proxies, and streams of containers.
pub fn is_long_running(info: &RequestInfo, query: &[(String, String)]) -> bool {
    if matches!(info.verb.as_str(), "watch" | "proxy") {
        return true;
    }
    match info.subresource.as_str() {
        "attach" | "exec" | "proxy" | "portforward" => true,
        "log" => query.iter().any(|(key, value)| key == "follow" && truthy(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_as_upstream_does() {
        // method, path and query -> verb, group, version, namespace, resource, subresource, name, rest
        let cases: &[(&str, &str, [&str; 8])] = &[
            ("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", "", ""]),
            ("GET", "/api/v1/namespaces/other", ["get", "", "v1", "other", "namespaces", "", "other", ""]),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                ["update", "", "v1", "other", "namespaces", "finalize", "other", ""],
            ),
            ("GET", "/api/v1/namespaces/other/pods", ["list", "", "v1", "other", "pods", "", "", ""]),
            ("GET", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo", ""]),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo", ""]),
            ("GET", "/api/v1/pods?watch=true", ["watch", "", "v1", "", "pods", "", "", ""]),
            ("GET", "/api/v1/pods?watch=0", ["list", "", "v1", "", "pods", "", "", ""]),
            ("GET", "/api/v1/watch/namespaces/other/pods", ["watch", "", "v1", "other", "pods", "", "", ""]),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dfoo&watch",
                ["watch", "", "v1", "", "pods", "", "foo", ""],
            ),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name!%3Dfoo",
                ["list", "", "v1", "", "pods", "", "", ""],
            ),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Da%2Fb",
                ["list", "", "v1", "", "pods", "", "", ""],
            ),
            (
                "POST",
                "/api/v1/namespaces/other/pods/foo/exec?command=ls",
                ["create", "", "v1", "other", "pods", "exec", "foo", ""],
            ),
            (
                "DELETE",
                "/api/v1/namespaces/other/pods",
                ["deletecollection", "", "v1", "other", "pods", "", "", ""],
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/x/deployments/d",
                ["delete", "apps", "v1", "x", "deployments", "", "d", ""],
            ),
            (
                "GET",
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                ["get", "apps", "v1", "x", "deployments", "scale", "d", ""],
            ),
            (
                "GET",
                "/api/v1/nodes/n/proxy/stats/summary",
                ["get", "", "v1", "", "nodes", "proxy", "n", "stats/summary"],
            ),
            ("GET", "/api/v1/proxy/nodes/n/stats", ["proxy", "", "v1", "", "nodes", "", "n", "stats"]),
            (
                "GET",
                "/api/v1/namespaces/x/services/http:web:80/proxy/a",
                ["get", "", "v1", "x", "services", "proxy", "http:web:80", "a"],
            ),
        ];
        for (method, url, want) in cases {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let i = resolve(&method.parse().unwrap(), path, &parse_query(query));
            let got =
                [&i.verb, &i.group, &i.version, &i.namespace, &i.resource, &i.subresource, &i.name, &i.rest];
            assert_eq!(got.map(String::as_str), *want, "{method} {url}");
            assert!(i.is_resource);
        }
    }

    #[test]
    fn other_paths_are_not_resources_and_keep_the_method_as_verb() {
        for path in
            ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v2"]
        {
            let info = resolve(&Method::GET, path, &[]);
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("0", Ok(0)),
            ("32s", Ok(32_000)),
            ("1h30m", Ok(5_400_000)),
            ("1.5s", Ok(1500)),
            ("250ms", Ok(250)),
            ("-1s", Ok(0)),
            ("", Err(r#"time: invalid duration """#)),
            ("5", Err(r#"time: missing unit in duration "5""#)),
            ("s", Err(r#"time: invalid duration "s""#)),
            ("1x", Err(r#"time: unknown unit "x" in duration "1x""#)),
            ("9999999999h", Err(r#"time: invalid duration "9999999999h""#)),
        ] {
            let got = parse_duration(text).map(|d| d.as_millis());
            assert_eq!(got, millis.map_err(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn queries_are_decoded_like_forms() {
        assert_eq!(
            parse_query("a=b+c&command=sh&command=%2Bx&flag"),
            [
                ("a".into(), "b c".into()),
                ("command".into(), "sh".into()),
                ("command".into(), "+x".into()),
                ("flag".into(), String::new())
            ]
        );
    }
}
