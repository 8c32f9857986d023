//! Pulls against a tiny registry that lives in the test.

use crate::store::tests::layer;
use crate::store::{ImageStore, Options};
use crate::{Auth, digest, oci, silent};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Registry {
    address: String,
    /// Path under `/v2/` to content.
    content: Mutex<HashMap<String, Vec<u8>>>,
    /// `user:password` that the token server takes; empty for anonymous.
    login: String,
    /// Ask for basic authentication in place of a token.
    basic: bool,
    /// Blobs are cut off after this many bytes the first time.
    break_at: Option<usize>,
    broken: AtomicUsize,
    ranges: AtomicUsize,
}

impl Registry {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let respond = |status: u16, body: &[u8]| {
            Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body))).unwrap()
        };
        let header =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let path = request.uri().path();
        let basic = Auth {
            username: self.login.split(':').next().unwrap().into(),
            password: self.login.split(':').nth(1).unwrap_or_default().into(),
            ..Default::default()
        }
        .basic()
        .unwrap_or_default();
        if path == "/token" {
            assert!(request.uri().query().unwrap().contains("scope=repository%3Aa%2Fapp%3Apull"));
            if header("authorization") != basic {
                return respond(401, b"{}");
            }
            return respond(200, br#"{"token":"sesame"}"#);
        }
        let wanted = if self.basic { basic } else { "Bearer sesame".to_owned() };
        if header("authorization") != wanted {
            let mut response =
                respond(401, br#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
            let challenge = if self.basic {
                "Basic realm=\"r\"".to_owned()
            } else {
                format!(
                    "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:a/app:pull\"",
                    self.address
                )
            };
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        let content = self.content.lock().unwrap();
        let Some(body) = content.get(path.strip_prefix("/v2/").unwrap_or_default()) else {
            return respond(404, br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
        };
        if let Some(from) = header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')) {
            self.ranges.fetch_add(1, Ordering::SeqCst);
            return respond(206, &body[from.parse::<usize>().unwrap()..]);
        }
        match self.break_at {
            Some(at)
                if body.starts_with(&[0x1f, 0x8b])
                    && body.len() > at
                    && self.broken.fetch_add(1, Ordering::SeqCst) == 0 =>
            {
                respond(200, &body[..at])
            }
            _ => respond(200, body),
        }
    }

    fn put(&self, path: String, content: &[u8]) {
        self.content.lock().unwrap().insert(path, content.to_vec());
    }

    /// Publishes an image of one gzip layer under `a/app:v1` through an index; the digest of the layer.
    fn publish(&self, diff: Option<&str>) -> String {
        use std::io::Write;
        let tar = layer(&[("etc/hello", "hi")]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar).unwrap();
        let gz = gz.finish().unwrap();
        let diff_id = diff.map_or_else(|| digest::of(&tar), str::to_owned);
        let config = json!({"config": {"Cmd": ["sh"]}, "rootfs": {"diff_ids": [diff_id]}}).to_string();
        let manifest = json!({"schemaVersion": 2, "mediaType": oci::MANIFESTS[0],
            "config": {"digest": digest::of(config.as_bytes()), "size": config.len()},
            "layers": [{"digest": digest::of(&gz), "size": gz.len()}]})
        .to_string();
        let entry = |arch: &str, digest: &str| json!({"digest": digest, "platform": {"os": "linux", "architecture": arch}});
        let index = json!({"schemaVersion": 2, "mediaType": oci::INDEXES[0], "manifests": [
            entry("s390x", "sha256:none"),
            entry(oci::host_architecture(), &digest::of(manifest.as_bytes()))]})
        .to_string();
        self.put(format!("a/app/blobs/{}", digest::of(&gz)), &gz);
        self.put(format!("a/app/blobs/{}", digest::of(config.as_bytes())), config.as_bytes());
        self.put(format!("a/app/manifests/{}", digest::of(manifest.as_bytes())), manifest.as_bytes());
        self.put("a/app/manifests/v1".into(), index.as_bytes());
        self.put(format!("a/app/manifests/{}", digest::of(index.as_bytes())), index.as_bytes());
        digest::of(&gz)
    }
}

async fn serve(ctx: &Ctx, make: impl FnOnce(&mut Registry)) -> Arc<Registry> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut registry = Registry { address: listener.local_addr().unwrap().to_string(), ..Default::default() };
    make(&mut registry);
    let registry = Arc::new(registry);
    let (served, tasks) = (registry.clone(), ctx.tasks.clone());
    ctx.tasks.spawn_until_stopped("registry", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = served.clone();
            tasks.spawn_until_stopped("connection", async move {
                let service = hyper::service::service_fn(move |request| {
                    let answer = served.answer(&request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    registry
}

fn store(ctx: &Ctx, dir: &std::path::Path, registry: &Registry) -> Arc<ImageStore> {
    let options = Options { plain_http: vec![registry.address.clone()], ..Default::default() };
    ImageStore::open(ctx, dir, options).unwrap()
}

#[tokio::test]
async fn a_pull_gets_a_token_chooses_the_platform_and_resumes_a_broken_layer() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let registry = serve(&ctx, |r| {
        r.login = "me:secret".into();
        r.break_at = Some(40);
    })
    .await;
    registry.publish(None);
    let images = store(&ctx, dir.path(), &registry);
    let name = format!("{}/a/app:v1", registry.address);
    let auth = Auth { username: "me".into(), password: "secret".into(), ..Default::default() };
    let image = images.pull(&name, Some(auth), silent()).await.unwrap();
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    assert!(image.repo_digests[0].starts_with(&format!("{}/a/app@sha256:", registry.address)));
    assert_eq!(registry.ranges.load(Ordering::SeqCst), 1, "the layer was resumed");
    let rootfs = images.prepare(&name, "c").unwrap();
    assert_eq!(std::fs::read(rootfs.lower[0].join("etc/hello")).unwrap(), b"hi");
    assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(images.resolve(&image.repo_digests[0]), Some(image));
}

#[tokio::test]
async fn failures_are_told_in_containerds_words() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let registry = serve(&ctx, |r| {
        r.basic = true;
        r.login = "me:secret".into();
    })
    .await;
    let images = store(&ctx, dir.path(), &registry);
    let name = format!("{}/a/app:v1", registry.address);
    let anonymous = images.pull(&name, None, silent()).await.unwrap_err();
    assert!(
        anonymous
            .to_string()
            .contains("pull access denied, repository does not exist or may require authorization"),
        "{anonymous}"
    );

    let registry = serve(&ctx, |_| {}).await;
    drop(images);
    let images = store(&ctx, dir.path(), &registry);
    let name = format!("{}/a/app:nope", registry.address);
    let missing = images.pull(&name, None, silent()).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
        )
    );
    assert_eq!(missing.code(), "NotFound");

    let gz = registry.publish(None);
    registry.put(format!("a/app/blobs/{gz}"), &[0; 100]);
    let name = format!("{}/a/app:v1", registry.address);
    let wrong = images.pull(&name, None, silent()).await.unwrap_err().to_string();
    assert!(wrong.contains("failed"), "{wrong}");

    let other = format!("sha256:{}", "0".repeat(64));
    registry.publish(Some(&other));
    let wrong = images.pull(&name, None, silent()).await.unwrap_err().to_string();
    assert!(wrong.contains(&format!("expected {other}")), "{wrong}");
    assert!(images.list().is_empty());

    let closed = images.pull("127.0.0.1:1/a/app", None, silent()).await.unwrap_err().to_string();
    assert!(closed.contains("dial tcp 127.0.0.1:1: connect: connection refused"), "{closed}");
    let local = images.pull("knarr.local/none", None, silent()).await.unwrap_err();
    assert_eq!(local.code(), "NotFound");
}
