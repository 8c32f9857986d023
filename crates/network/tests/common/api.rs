//! A stand-in for the API server: collections of objects that can be listed and watched.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use knarr_client::{Body, Error, Transport};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Objects by path of their collection (`/api/v1/services`) and by namespace and name.
#[derive(Clone)]
pub struct Api(Arc<Mutex<Inner>>);

struct Inner {
    revision: u64,
    objects: BTreeMap<(String, String), Value>,
    events: Vec<(u64, String, Value)>,
    changed: watch::Sender<u64>,
}

impl Inner {
    fn note(&mut self, resource: String, event: Value) {
        self.events.push((self.revision, resource, event));
        self.changed.send_replace(self.revision);
    }
}

impl Api {
    pub fn new() -> Self {
        let inner = Inner {
            revision: 1,
            objects: BTreeMap::new(),
            events: Vec::new(),
            changed: watch::Sender::new(1),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn key(object: &Value) -> (String, String) {
        let resource = match object["kind"].as_str() {
            Some("Service") => "services",
            Some("EndpointSlice") => "endpointslices",
            other => panic!("no collection for {other:?}"),
        };
        let name = format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
        (resource.to_owned(), name)
    }

    /// Writes an object.
    pub fn put(&self, mut object: Value) {
        let mut inner = self.0.lock().unwrap();
        inner.revision += 1;
        let key = Self::key(&object);
        object["metadata"]["resourceVersion"] = inner.revision.to_string().into();
        object["metadata"]["uid"] = key.1.clone().into();
        let kind =
            if inner.objects.insert(key.clone(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        inner.note(key.0, json!({ "type": kind, "object": object }));
    }

    /// Deletes an object.
    pub fn remove(&self, object: &Value) {
        let mut inner = self.0.lock().unwrap();
        inner.revision += 1;
        let key = Self::key(object);
        let mut object = inner.objects.remove(&key).expect("the object is there");
        object["metadata"]["resourceVersion"] = inner.revision.to_string().into();
        inner.note(key.0, json!({ "type": "DELETED", "object": object }));
    }

    /// An object as it was written.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let name = format!("{:?}/{:?}", namespace, name);
        self.0.lock().unwrap().objects.get(&(resource.to_owned(), name)).cloned()
    }
}

impl Transport for Api {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Error>> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let at =
            parts.iter().position(|p| *p == "services" || *p == "endpointslices").expect("a known resource");
        let resource = parts[at].to_owned();
        let answer = |code: u16, body: Body| {
            Box::pin(std::future::ready(Ok(http::Response::builder().status(code).body(body).unwrap())))
                as BoxFuture<_>
        };
        let status = |code: u16, reason: &str| {
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":code,
                   "reason":reason,"message":reason})
            .to_string()
        };
        match *request.method() {
            http::Method::POST | http::Method::PUT => {
                let object: Value = serde_json::from_slice(request.body()).unwrap();
                self.put(object.clone());
                return answer(201, Body::full(object.to_string()));
            }
            _ => {}
        }
        if let Some(name) = parts.get(at + 1) {
            return match self.get(&resource, parts[at - 1], name) {
                Some(object) => answer(200, Body::full(object.to_string())),
                None => answer(404, Body::full(status(404, "NotFound"))),
            };
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).unwrap();
            let from: u64 = from.parse().unwrap();
            let changed = self.0.lock().unwrap().changed.subscribe();
            let state = (self.clone(), resource, from, changed);
            let events =
                futures_util::stream::unfold(state, |(api, resource, from, mut changed)| async move {
                    loop {
                        changed.borrow_and_update();
                        let next = {
                            let inner = api.0.lock().unwrap();
                            inner.events.iter().find(|(at, of, _)| *at > from && *of == resource).cloned()
                        };
                        if let Some((at, _, event)) = next {
                            let line = Bytes::from(format!("{event}\n"));
                            return Some((Ok(line), (api, resource, at, changed)));
                        }
                        changed.changed().await.ok()?;
                    }
                });
            return answer(200, Body::stream(events.boxed()));
        }
        let inner = self.0.lock().unwrap();
        let items: Vec<&Value> =
            inner.objects.iter().filter(|((of, _), _)| *of == resource).map(|(_, o)| o).collect();
        let list = json!({ "metadata": { "resourceVersion": inner.revision.to_string() }, "items": items });
        answer(200, Body::full(list.to_string()))
    }

    fn server(&self) -> String {
        "test".to_owned()
    }
}
