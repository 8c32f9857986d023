//! Which subresource of the Node a request to the kubelet needs, with the fine-grained ones of KEP-2862.

use http::Method;

/// What a request needs: any one of these, asked in this order.
pub(super) struct Subresources {
    fine: Option<&'static str>,
    coarse: &'static str,
}

impl Subresources {
    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'static str> {
        self.fine.into_iter().chain([self.coarse])
    }
}

/// Paths that need a subresource of their own beside `proxy`.
const FINE: [(&str, &str); 4] =
    [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
/// Paths that need something else than `proxy`.
const COARSE: [(&str, &str); 6] = [
    ("/stats", "stats"),
    ("/metrics", "metrics"),
    ("/logs", "log"),
    ("/checkpoint", "checkpoint"),
    ("/statusz", "statusz"),
    ("/flagz", "configz"),
];

/// Of a request for `path`.
pub(super) fn subresources(path: &str) -> Subresources {
    let found = |table: &[(&str, &'static str)]| {
        let is_under =
            |root: &str| path.strip_prefix(root).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        table.iter().find(|(root, _)| is_under(root)).map(|(_, subresource)| *subresource)
    };
    Subresources { fine: found(&FINE), coarse: found(&COARSE).unwrap_or("proxy") }
}

/// The API's verb of an HTTP method; others have none.
pub(super) fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_need_upstreams_subresources() {
        for (path, needed) in [
            ("/pods", "pods proxy"),
            ("/pods/", "pods proxy"),
            ("/podsuite", "proxy"),
            ("/runningpods/", "pods proxy"),
            ("/healthz", "healthz proxy"),
            ("/healthz/syncloop", "healthz proxy"),
            ("/configz", "configz proxy"),
            ("/stats/summary", "stats"),
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics"),
            ("/logs/", "log"),
            ("/checkpoint/a/b/c", "checkpoint"),
            ("/flagz", "configz"),
            ("/statusz", "statusz"),
            ("/exec/a/b/c", "proxy"),
            ("/", "proxy"),
        ] {
            assert_eq!(subresources(path).iter().collect::<Vec<_>>().join(" "), needed, "{path}");
        }
        assert_eq!(verb(&Method::GET), "get");
        assert_eq!(verb(&Method::HEAD), "");
    }
}
