//! What the server serves at the moment, out of aggregated discovery (KEP-3352): garbage collection and the deletion
//! of namespaces look after every resource that can be listed, watched and deleted, those of custom resource
//! definitions and aggregated servers included. Definitions are watched, so that a new resource is seen at once; a
//! slow timer is the safety net, as often as upstream looks.

use knarr_base::Backoff;
use knarr_client::{Client, Error, Informers, ResourcePath};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How often discovery is read whatever happens, as upstream's garbage collector does.
const EVERY: Duration = Duration::from_secs(30);
/// Changes within this time are read together.
const GATHER: Duration = Duration::from_millis(50);

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource that can be listed, watched and deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it is, in its preferred version.
    pub path: ResourcePath,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Its kind.
    pub kind: String,
}

/// All of them.
pub type Rows = Arc<Vec<Row>>;

/// See the module's documentation.
pub struct Served {
    client: Client,
    rows: watch::Sender<Rows>,
    /// The documents that the rows were read from.
    seen: Mutex<[bytes::Bytes; 2]>,
}

impl Served {
    /// Knows of nothing before [`Served::refresh`] or [`Served::follow`].
    pub fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, rows: watch::Sender::new(Rows::default()), seen: Mutex::default() })
    }

    /// What was served when that was last asked.
    pub fn rows(&self) -> Rows {
        self.rows.borrow().clone()
    }

    /// The same with its changes.
    pub fn changes(&self) -> watch::Receiver<Rows> {
        self.rows.subscribe()
    }

    /// The resource of a kind.
    pub fn of_kind(&self, group: &str, kind: &str) -> Option<Row> {
        let rows = self.rows();
        rows.iter().find(|row| row.path.group == group && row.kind == kind).cloned()
    }

    /// Asks what is served now.
    pub async fn refresh(&self) -> Result<Rows, Error> {
        let documents = futures_util::try_join!(
            self.client.get_as("/api", AGGREGATED),
            self.client.get_as("/apis", AGGREGATED)
        )?;
        let documents = <[bytes::Bytes; 2]>::from(documents);
        if *self.seen.lock().expect("no holder of the documents panics") == documents {
            return Ok(self.rows());
        }
        let before = self.rows();
        let mut rows = Vec::new();
        for document in &documents {
            let document: Value =
                serde_json::from_slice(document).map_err(|e| Error::Protocol(format!("discovery: {e}")))?;
            read(&document, &before, &mut rows);
        }
        *self.seen.lock().expect("no holder of the documents panics") = documents;
        let rows = Rows::new(rows);
        self.rows.send_if_modified(|known| {
            let changed = **known != *rows;
            if changed {
                *known = rows.clone();
            }
            changed
        });
        Ok(rows)
    }

    /// Keeps the rows current until the scope stops.
    pub async fn follow(self: Arc<Self>, informers: Informers) {
        let ctx = self.client.ctx().clone();
        let wake = Arc::new(tokio::sync::Notify::new());
        for (group, resource) in
            [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")]
        {
            let path =
                ResourcePath { group: group.to_owned(), version: "v1".into(), resource: resource.into() };
            let wake = wake.clone();
            informers.metadata(path).on_change(move |_| wake.notify_one());
        }
        let mut backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(5));
        loop {
            match self.refresh().await {
                Ok(_) => {
                    backoff.reset();
                    tokio::select! {
                        () = wake.notified() => ctx.clock.sleep(GATHER).await,
                        () = ctx.clock.sleep(EVERY) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what is served cannot be told");
                    ctx.clock.sleep(backoff.step_jittered(&*ctx.rng, 0.5)).await;
                }
            }
        }
    }
}

/// Adds what a document names. What is out of reach for the moment stays what it was.
fn read(document: &Value, before: &[Row], rows: &mut Vec<Row>) {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    for group in list(&document["items"]) {
        let name = group["metadata"]["name"].as_str().unwrap_or_default();
        let mut here: Vec<Row> = Vec::new();
        // The preferred version comes first.
        for version in list(&group["versions"]) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let version_name = text(&version["version"]);
            if version["freshness"] == "Stale" {
                let known =
                    before.iter().filter(|row| row.path.group == name && row.path.version == version_name);
                here.extend(known.cloned());
                continue;
            }
            for resource in list(&version["resources"]) {
                let verbs = list(&resource["verbs"]);
                let can = |verb: &&str| verbs.iter().any(|known| known == verb);
                let plural = text(&resource["resource"]);
                if !["delete", "list", "watch"].iter().all(can)
                    || here.iter().any(|r| r.path.resource == plural)
                {
                    continue;
                }
                here.push(Row {
                    path: ResourcePath {
                        group: name.to_owned(),
                        version: version_name.clone(),
                        resource: plural,
                    },
                    namespaced: resource["scope"] == "Namespaced",
                    kind: text(&resource["responseKind"]["kind"]),
                });
            }
        }
        rows.extend(here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(name: &str, kind: &str, verbs: &[&str]) -> Value {
        json!({"resource": name, "scope": "Namespaced", "responseKind": {"kind": kind}, "verbs": verbs})
    }

    #[test]
    fn rows_are_of_the_preferred_version_and_outlive_an_outage() {
        let all = &["delete", "list", "watch"];
        let version = |name: &str, resources: Value| json!({"version": name, "resources": resources, "freshness": "Current"});
        let document = json!({"items": [
            {"metadata": {"name": "x.io"}, "versions": [
                version("v2", json!([resource("as", "A", all), resource("reviews", "Review", &["create"])])),
                version("v1", json!([resource("as", "A", all), resource("bs", "B", all)]))]}]});
        let mut rows = Vec::new();
        read(&document, &[], &mut rows);
        let shown: Vec<String> =
            rows.iter().map(|row| format!("{}/{}", row.path.version, row.path.resource)).collect();
        assert_eq!(shown, ["v2/as", "v1/bs"]);
        let stale = json!({"items": [{"metadata": {"name": "x.io"}, "versions": [
            {"version": "v2", "freshness": "Stale"}, version("v1", json!([resource("bs", "B", all)]))]}]});
        let mut after = Vec::new();
        read(&stale, &rows, &mut after);
        assert_eq!(after, rows);
    }
}
