//! `/healthz`, `/livez`, `/readyz`: one line a check, each check with a path of its own, as upstream's healthz
//! package has them. Readiness also asks for every gate of this control plane's tasks.

use super::info::truthy;
use super::respond;
use http::{Response, StatusCode};
use knarr_base::Ctx;
use knarr_client::Body;
use knarr_store::{Range, Store};
use std::sync::Arc;
use std::time::Duration;

/// The store must answer a read within this time.
const STORE_LIMIT: Duration = Duration::from_secs(2);

/// The checks.
pub struct Health {
    ctx: Ctx,
    store: Arc<dyn Store>,
}

impl Health {
    /// Checks over this store and these tasks.
    pub fn new(ctx: Ctx, store: Arc<dyn Store>) -> Self {
        Self { ctx, store }
    }

    /// The answer to a health path.
    pub async fn serve(&self, path: &str, query: &[(String, String)]) -> Response<Body> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let (endpoint, one) = (parts.next().unwrap_or_default(), parts.next());
        let checks = self.checks(endpoint).await;
        if let Some(name) = one {
            return match checks.iter().find(|(check, _)| check == name) {
                Some((_, None)) => respond::text(StatusCode::OK, "ok"),
                Some((_, Some(error))) => respond::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {error}\n"),
                ),
                None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            };
        }
        report(endpoint, &checks, query)
    }

    async fn checks(&self, endpoint: &str) -> Vec<(String, Option<String>)> {
        let mut checks = vec![("ping".to_owned(), None), ("log".to_owned(), None)];
        let panicked = self.ctx.tasks.has_panicked();
        checks.push(("tasks".into(), panicked.then(|| "a core task has panicked".into())));
        let store = self.store_answers().await;
        checks.push(("etcd".into(), store.clone()));
        if endpoint == "readyz" {
            checks.push(("etcd-readiness".into(), store));
            for (name, open) in self.ctx.tasks.gates() {
                checks.push((name, (!open).then(|| "not ready yet".into())));
            }
        }
        if endpoint != "livez" {
            let stopping = self.ctx.tasks.is_stopping();
            checks.push((
                "shutdown".into(),
                (stopping && endpoint == "readyz").then(|| "process is shutting down".into()),
            ));
        }
        checks
    }

    async fn store_answers(&self) -> Option<String> {
        let range = Range {
            start: "/registry/health".into(),
            end: "/registry/health0".into(),
            count_only: true,
            ..Range::default()
        };
        match knarr_base::clock::timeout(&*self.ctx.clock, STORE_LIMIT, self.store.range(range)).await {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("the store does not answer".into()),
        }
    }
}

/// `?verbose` lists every check, `?exclude=<check>` leaves one out.
fn report(endpoint: &str, checks: &[(String, Option<String>)], query: &[(String, String)]) -> Response<Body> {
    let excluded: Vec<&str> =
        query.iter().filter(|(key, _)| key == "exclude").map(|(_, name)| name.as_str()).collect();
    let verbose = query.iter().any(|(key, value)| key == "verbose" && truthy(value));
    let (mut text, mut failed) = (String::new(), Vec::new());
    for (name, error) in checks {
        match error {
            _ if excluded.contains(&name.as_str()) => text.push_str(&format!("[+]{name} excluded: ok\n")),
            None => text.push_str(&format!("[+]{name} ok\n")),
            Some(error) => {
                tracing::warn!(check = name, error, "{endpoint} check failed");
                failed.push(name.as_str());
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    for name in excluded.iter().filter(|name| !checks.iter().any(|(check, _)| check == *name)) {
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {name:?}\n"));
    }
    if !failed.is_empty() {
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{endpoint} check failed\n"));
    }
    if verbose {
        return respond::text(StatusCode::OK, format!("{text}{endpoint} check passed\n"));
    }
    respond::text(StatusCode::OK, "ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failed_check_fails_the_whole_unless_it_is_excluded() {
        let checks = [("ping".to_owned(), None), ("etcd".to_owned(), Some("gone".to_owned()))];
        let query = |q: &str| crate::front::info::parse_query(q);
        let text = |response: Response<Body>| async move {
            let code = response.status().as_u16();
            (code, String::from_utf8(response.into_body().collect().await.unwrap().to_vec()).unwrap())
        };
        let (code, body) = text(report("readyz", &checks, &query(""))).await;
        assert_eq!(code, 500);
        assert_eq!(body, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n");
        let (code, body) = text(report("readyz", &checks, &query("exclude=etcd&verbose"))).await;
        assert_eq!((code, body.as_str()), (200, "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n"));
        assert_eq!(text(report("livez", &checks[..1], &query(""))).await, (200, "ok".to_owned()));
    }
}
