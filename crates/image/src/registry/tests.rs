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
    /// How often blobs are cut off; once if 0.
    breaks: usize,
    ranges: AtomicUsize,
    /// Answers to this many requests are `busy_with`.
    busy: AtomicUsize,
    busy_with: (u16, &'static str),
    /// Ranges are not understood.
    no_ranges: bool,
    /// Each token is good for one request.
    short_tokens: bool,
    tokens: AtomicUsize,
    /// Where blobs are really kept: `http://host/prefix`.
    elsewhere: String,
    /// It speaks TLS, by this configuration.
    tls: Option<Arc<rustls::ServerConfig>>,
    /// What was asked: path with query, and the authorization shown.
    seen: Mutex<Vec<(String, String)>>,
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
            let number = if self.short_tokens { self.tokens.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
            return respond(200, format!(r#"{{"token":"sesame{number}"}}"#).as_bytes());
        }
        let uri = request.uri().to_string();
        self.seen.lock().unwrap().push((uri, header("authorization").to_owned()));
        if let Some(body) = path.strip_prefix("/open/") {
            return respond(200, self.content.lock().unwrap().get(body).unwrap());
        }
        if self.busy.load(Ordering::SeqCst) > 0 {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            let mut response = respond(self.busy_with.0, b"");
            response.headers_mut().insert("retry-after", self.busy_with.1.parse().unwrap());
            return response;
        }
        let wanted = match (self.basic, self.short_tokens) {
            (true, _) => basic,
            (false, false) => "Bearer sesame0".to_owned(),
            (false, true) => format!("Bearer sesame{}", self.tokens.load(Ordering::SeqCst)),
        };
        if self.short_tokens && header("authorization") == wanted {
            self.tokens.fetch_add(1, Ordering::SeqCst);
        }
        if header("authorization") != wanted {
            let mut response =
                respond(401, br#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
            let challenge = if self.basic {
                "Basic realm=\"r\"".to_owned()
            } else {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                format!(
                    "Bearer realm=\"{scheme}://{}/token\",service=\"s\",scope=\"repository:a/app:pull\"",
                    self.address
                )
            };
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        if !self.elsewhere.is_empty() && path.contains("/blobs/") {
            let mut response = respond(307, b"");
            let place = format!("{}/open/{}", self.elsewhere, path.strip_prefix("/v2/").unwrap());
            response.headers_mut().insert("location", place.parse().unwrap());
            return response;
        }
        let content = self.content.lock().unwrap();
        let Some(body) = content.get(path.strip_prefix("/v2/").unwrap_or_default()) else {
            return respond(404, br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
        };
        let range = header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
        let (status, rest) = match range.filter(|_| !self.no_ranges) {
            Some(from) => {
                self.ranges.fetch_add(1, Ordering::SeqCst);
                (206, &body[from.parse::<usize>().unwrap()..])
            }
            None => (200, &body[..]),
        };
        match self.break_at {
            Some(at)
                if body.starts_with(&[0x1f, 0x8b])
                    && rest.len() > at
                    && self.broken.fetch_add(1, Ordering::SeqCst) < self.breaks.max(1) =>
            {
                respond(status, &rest[..at])
            }
            _ => respond(status, rest),
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
                let acceptor = served.tls.clone().map(tokio_rustls::TlsAcceptor::from);
                let service = hyper::service::service_fn(move |request| {
                    let answer = served.answer(&request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = match acceptor {
                    None => http.serve_connection(TokioIo::new(stream), service).await,
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        http.serve_connection(TokioIo::new(stream), service).await
                    }
                };
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

fn named(registry: &Registry) -> String {
    format!("{}/a/app:v1", registry.address)
}

#[tokio::test]
async fn registries_that_are_busy_or_break_off_are_asked_again() {
    type Make = fn(&mut Registry);
    // What the registry is like, whether the pull succeeds, and part of the error.
    let cases: [(&str, Make, Result<(), &str>); 6] = [
        ("busy", |r| (r.busy, r.busy_with) = (3.into(), (503, "")), Ok(())),
        ("too many requests", |r| (r.busy, r.busy_with) = (2.into(), (429, "0")), Ok(())),
        (
            "come back tomorrow",
            |r| (r.busy, r.busy_with) = (1.into(), (429, "86400")),
            Err("unexpected status from GET request to"),
        ),
        ("tokens for one request", |r| r.short_tokens = true, Ok(())),
        ("breaks off at every byte or so", |r| (r.break_at, r.breaks) = (Some(9), 12), Ok(())),
        ("knows no ranges", |r| (r.break_at, r.breaks, r.no_ranges) = (Some(40), 2, true), Ok(())),
    ];
    for (name, make, expected) in cases {
        let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
        let registry = serve(&ctx, make).await;
        registry.publish(None);
        let images = store(&ctx, dir.path(), &registry);
        match (images.pull(&named(&registry), None, silent()).await, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) if error.to_string().contains(part) => {}
            (got, _) => panic!("{name}: {got:?}"),
        }
        assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0, "{name}");
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_left_of_an_earlier_download_is_used_if_it_is_right() {
    for (left_is_right, ranges) in [(true, 1), (false, 1)] {
        let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
        let registry = serve(&ctx, |_| {}).await;
        let digest = registry.publish(None);
        let images = store(&ctx, dir.path(), &registry);
        let whole = registry.content.lock().unwrap()[&format!("a/app/blobs/{digest}")].clone();
        let left = if left_is_right { whole[..50].to_vec() } else { vec![7; 50] };
        std::fs::write(dir.path().join("ingest").join(&digest[7..]), left).unwrap();
        images.pull(&named(&registry), None, silent()).await.unwrap();
        assert_eq!(registry.ranges.load(Ordering::SeqCst), ranges);
        let asked = registry.seen.lock().unwrap().iter().filter(|(uri, _)| uri.contains(&digest)).count();
        assert_eq!(asked, if left_is_right { 1 } else { 2 });
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_file_is_read_again() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let mirror = serve(&ctx, |_| {}).await;
    let registry = serve(&ctx, |r| r.login = "me:secret".into()).await;
    registry.publish(None);
    let file = dir.path().join("registries.yaml");
    let options = Options {
        plain_http: vec![registry.address.clone()],
        registries: Some(file.clone()),
        ..Default::default()
    };
    let images = ImageStore::open(&ctx, &dir.path().join("images"), options).unwrap();
    let configure = |rewrite: &str| {
        let text = format!(
            "mirrors:\n  \"{}\":\n    endpoint: [\"http://127.0.0.1:1\", \"http://{}\"]\n    rewrite: {rewrite}\n",
            registry.address, mirror.address
        );
        std::fs::write(&file, text).unwrap();
    };
    configure("{}");
    let secret = Auth { username: "me".into(), password: "secret".into(), ..Default::default() };
    images.pull(&named(&registry), Some(secret), silent()).await.unwrap();
    {
        let seen = mirror.seen.lock().unwrap();
        assert!(seen[0].0.ends_with(&format!("/v2/a/app/manifests/v1?ns={}", registry.address)), "{seen:?}");
        assert!(seen.iter().all(|(_, shown)| !shown.starts_with("Basic")), "mirrors see no pull secrets");
    }
    images.remove(&named(&registry)).unwrap();

    registry.seen.lock().unwrap().clear();
    mirror.publish(None);
    let moved: HashMap<_, _> =
        mirror.content.lock().unwrap().drain().map(|(k, v)| (format!("m/{k}"), v)).collect();
    *mirror.content.lock().unwrap() = moved;
    configure("{\"^(.*)$\": \"m/$1\"}");
    images.pull(&named(&registry), None, silent()).await.unwrap();
    assert_eq!(*registry.seen.lock().unwrap(), [], "the mirror had everything");

    std::fs::write(&file, "mirror: {}").unwrap();
    let error = images.pull(&named(&registry), None, silent()).await.unwrap_err().to_string();
    assert!(
        error.contains("failed to load the registries' configuration") && error.contains("mirror"),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let other = serve(&ctx, |_| {}).await;
    other.publish(None);
    let place = format!("http://{}", other.address);
    let registry = serve(&ctx, |r| {
        r.elsewhere = place;
        r.basic = true;
        r.login = "me:secret".into();
    })
    .await;
    registry.publish(None);
    let images = store(&ctx, dir.path(), &registry);
    let auth = Auth { username: "me".into(), password: "secret".into(), ..Default::default() };
    images.pull(&named(&registry), Some(auth), silent()).await.unwrap();
    let seen = other.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|(_, shown)| shown.is_empty()), "{seen:?}");
}

#[tokio::test]
async fn pulls_of_the_same_image_at_once_fetch_it_once() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let registry = serve(&ctx, |_| {}).await;
    let digest = registry.publish(None);
    let images = store(&ctx, dir.path(), &registry);
    let name = named(&registry);
    let pulls = (0..8).map(|_| images.pull(&name, None, silent()));
    let pulled = futures_util::future::try_join_all(pulls).await.unwrap();
    assert!(pulled.iter().all(|image| *image == pulled[0]));
    let seen = registry.seen.lock().unwrap();
    let fetched = seen.iter().filter(|(uri, shown)| uri.contains(&digest) && !shown.is_empty());
    assert_eq!(fetched.count(), 1);
}

#[tokio::test]
async fn images_that_cannot_run_here_say_so() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let registry = serve(&ctx, |_| {}).await;
    let images = store(&ctx, dir.path(), &registry);
    let config = json!({"architecture": "s390x", "os": "linux", "rootfs": {"diff_ids": []}}).to_string();
    registry.put(format!("a/app/blobs/{}", digest::of(config.as_bytes())), config.as_bytes());
    let manifest = |layers: serde_json::Value| json!({"schemaVersion": 2, "config": {"digest": digest::of(config.as_bytes())}, "layers": layers});
    let index = json!({"schemaVersion": 2, "manifests": [
        {"digest": "sha256:x", "platform": {"os": "linux", "architecture": "s390x"}}]});
    for (document, text) in [
        (manifest(json!([])), "no match for platform in manifest: not found"),
        (index, "no match for platform in manifest: not found"),
        (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1 image manifests are no longer supported"),
        (json!({"schemaVersion": 2, "mediaType": "text/plain"}), "unsupported media type"),
    ] {
        registry.put("a/app/manifests/v1".into(), document.to_string().as_bytes());
        let error = images.pull(&named(&registry), None, silent()).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to pull and unpack image") && error.contains(text), "{error}");
    }
}

/// A CA with a server's and a client's certificate, as files: `ca.pem`, `server.*`, `client.*`.
fn make_certificates(dir: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let put = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    put("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        put(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        put(&format!("{name}.key"), key.serialize_pem());
    }
}

/// A server that wants certificates of the CA from its clients.
fn strict(dir: &std::path::Path) -> Arc<rustls::ServerConfig> {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let roots = Arc::new(knarr_tls::roots("ca", read("ca.pem")).unwrap());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, knarr_tls::provider());
    let config = rustls::ServerConfig::builder_with_provider(knarr_tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            knarr_tls::certificates("server", read("server.pem")).unwrap(),
            knarr_tls::private_key("server", read("server.key")).unwrap(),
        );
    Arc::new(config.unwrap())
}

#[tokio::test]
async fn a_registrys_ca_and_the_certificate_for_it_are_those_of_the_file() {
    let (ctx, dir) = (Ctx::system(), tempfile::tempdir().unwrap());
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    make_certificates(dir.path());
    make_certificates(&other);
    let registry = serve(&ctx, |r| r.tls = Some(strict(dir.path()))).await;
    registry.publish(None);
    let file = dir.path().join("registries.yaml");
    let options = Options { registries: Some(file.clone()), ..Default::default() };
    let images = ImageStore::open(&ctx, &dir.path().join("images"), options).unwrap();
    let ours = "ca_file: DIR/ca.pem";
    let known = "cert_file: DIR/client.pem, key_file: DIR/client.key";
    let stranger = "cert_file: DIR/other/client.pem, key_file: DIR/other/client.key";
    for (tls, refused) in [
        (known.to_owned(), Some("UnknownIssuer")),
        (format!("ca_file: DIR/other/ca.pem, {known}"), Some("invalid peer certificate")),
        (format!("{ours}, {stranger}"), Some("")),
        (ours.to_owned(), Some("")),
        (format!("ca_file: DIR/none.pem, {known}"), Some("none.pem")),
        (format!("{ours}, cert_file: DIR/client.pem, key_file: DIR/server.key"), Some("")),
        (format!("insecure_skip_verify: true, {known}"), None),
        (format!("{ours}, {known}"), None),
    ] {
        let tls = tls.replace("DIR", &dir.path().display().to_string());
        let text = format!("configs:\n  \"{}\":\n    tls: {{{tls}}}\n", registry.address);
        std::fs::write(&file, text).unwrap();
        let outcome = images.pull(&named(&registry), None, silent()).await.map_err(|e| e.to_string());
        match (outcome, refused) {
            (Err(error), Some(words)) => assert!(error.contains(words), "{tls}: {error}"),
            (Ok(_), None) => images.remove(&named(&registry)).unwrap(),
            (outcome, _) => panic!("{tls}: {outcome:?}"),
        }
    }
}
