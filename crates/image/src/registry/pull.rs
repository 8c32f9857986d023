//! One pull: manifest, configuration, missing layers. Blobs are written to `ingest/` as they come, so that
//! a broken download goes on where it stopped, and are unpacked only once their digest is right.

use super::auth::{Auth, Challenge};
use super::http::Http;
use crate::archive::MOST_METADATA_BYTES;
use crate::digest;
use crate::error::{PullError, PullFailure, io_error};
use crate::oci::{self, ConfigFile, Descriptor, Manifest};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, Pins};
use crate::{OnProgress, Progress};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use knarr_base::clock::BoxFuture;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::io::AsyncWriteExt;

/// Layers fetched at once, as containerd does.
const PARALLEL_LAYERS: usize = 3;
/// A broken download is taken up again this often.
const MOST_RESUMES: usize = 5;

/// What pulls share: TLS roots, and a lock per blob so that two pulls do not write the same file.
#[derive(Default)]
pub(crate) struct Shared {
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageStore {
    /// Fetches an image from its registry and adds it under `reference`.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
        on_progress: OnProgress,
    ) -> Result<Image, PullError> {
        let parsed = Reference::parse(reference)
            .map_err(|e| PullError { reference: reference.to_owned(), failure: e.into() })?;
        let normal = parsed.to_string();
        let pull = Pull {
            store: self,
            http: Http { ctx: &self.ctx, options: &self.options, tls: &self.registry.tls },
            normal: normal.clone(),
            auth: auth.unwrap_or_default(),
            authorization: Mutex::default(),
            on_progress,
            reference: parsed,
        };
        pull.run().await.map_err(|failure| PullError { reference: normal, failure })
    }
}

struct Pull<'a> {
    store: &'a Arc<ImageStore>,
    http: Http<'a>,
    reference: Reference,
    normal: String,
    auth: Auth,
    authorization: Mutex<Option<HeaderValue>>,
    on_progress: OnProgress,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, PullFailure> {
        if self.reference.is_local() {
            return Err(PullFailure::NotFound(self.normal.clone()));
        }
        let (body, mut digest) = self.manifest(self.reference.manifest()).await?;
        let top = digest.clone();
        let mut manifest = parse(&body)?;
        if !manifest.manifests.is_empty() {
            let chosen = oci::for_host(&manifest.manifests).ok_or(PullFailure::Platform)?.digest.clone();
            let (body, inner) = self.manifest(&chosen).await?;
            (manifest, digest) = (parse(&body)?, inner);
        }
        let _ = digest;
        let config = manifest.config.as_ref().ok_or_else(|| bad_manifest("no config"))?;
        let config = self.small_blob(config).await?;
        let file: ConfigFile = serde_json::from_slice(&config).map_err(|e| bad_manifest(&e.to_string()))?;
        let diff_ids = &file.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(bad_manifest(&format!(
                "{} layers, but {} diff ids",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let mut pins = Pins::new(self.store);
        diff_ids.iter().for_each(|d| pins.add(d));
        // Boxed, or the whole pull could not be proven sendable by whoever spawns it.
        let mut layers: Vec<BoxFuture<'_, Result<(), PullFailure>>> = Vec::new();
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            layers.push(Box::pin(self.layer(diff_id, layer)));
        }
        futures_util::stream::iter(layers).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        let store = self.store.clone();
        let tag = self.reference.tagged();
        let repo_digest = Some(format!("{}@{top}", self.reference.repository()));
        let image = blocking(move || store.commit(&config, tag, repo_digest)).await?;
        Ok(image)
    }

    /// A manifest and its digest, which the registry does not get to choose.
    async fn manifest(&self, which: &str) -> Result<(Vec<u8>, String), PullFailure> {
        let mut accept = [oci::MANIFESTS, oci::INDEXES].concat().join(", ");
        accept.push_str(", */*");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(&accept).expect("media types are plain text"));
        let response = self.get(&format!("manifests/{which}"), headers).await?;
        let body = self.http.body(response, MOST_METADATA_BYTES).await.map_err(|e| self.request_failed(e))?;
        let actual = digest::of(&body);
        if which.contains(':') && which != actual {
            return Err(PullFailure::Digest { actual, expected: which.to_owned() });
        }
        Ok((body, actual))
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullFailure> {
        let response = self.get(&format!("blobs/{}", checked(descriptor)?), HeaderMap::new()).await?;
        let body = self.http.body(response, MOST_METADATA_BYTES).await.map_err(PullFailure::Copy)?;
        let actual = digest::of(&body);
        if actual != descriptor.digest {
            return Err(PullFailure::Digest { actual, expected: descriptor.digest.clone() });
        }
        Ok(body)
    }

    async fn layer(&self, diff_id: &str, descriptor: &Descriptor) -> Result<(), PullFailure> {
        let digest = checked(descriptor)?.to_owned();
        let lock = {
            let mut busy = self.store.registry.busy.lock().expect("blob locks are never poisoned");
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(digest.clone()).or_default().clone()
        };
        let _alone = lock.lock().await;
        if self.store.has_layer(diff_id) {
            self.tell(&digest, descriptor.size, descriptor.size);
            return Ok(());
        }
        let path = self.store.dir.join("ingest").join(&digest["sha256:".len()..]);
        self.download(descriptor, &path).await?;
        let (store, diff_id) = (self.store.clone(), diff_id.to_owned());
        blocking(move || {
            let file = std::fs::File::open(&path).map_err(io_error("open", &path))?;
            let result = store.add_layer(file, Some(&diff_id), None);
            let _ = std::fs::remove_file(&path);
            result.map(drop)
        })
        .await?;
        Ok(())
    }

    /// Brings a blob to `path`, verified.
    async fn download(&self, descriptor: &Descriptor, path: &Path) -> Result<(), PullFailure> {
        let mut broken = String::new();
        for _ in 0..=MOST_RESUMES {
            match self.download_rest(descriptor, path).await? {
                Ok(()) => {
                    let (file, expected) = (path.to_owned(), descriptor.digest.clone());
                    let actual = blocking(move || hash_file(&file)).await?;
                    if actual != expected {
                        let _ = std::fs::remove_file(path);
                        return Err(PullFailure::Digest { actual, expected });
                    }
                    return Ok(());
                }
                Err(error) => broken = error,
            }
        }
        Err(PullFailure::Copy(broken))
    }

    /// Fetches what is missing of a blob. The inner error is a broken connection: worth resuming.
    async fn download_rest(
        &self,
        descriptor: &Descriptor,
        path: &Path,
    ) -> Result<Result<(), String>, PullFailure> {
        let have = std::fs::metadata(path).map_or(0, |m| m.len());
        if descriptor.size > 0 && have == descriptor.size {
            return Ok(Ok(()));
        }
        let mut headers = HeaderMap::new();
        if have > 0 {
            headers
                .insert(header::RANGE, HeaderValue::from_str(&format!("bytes={have}-")).expect("plain text"));
        }
        let response = self.get(&format!("blobs/{}", descriptor.digest), headers).await?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        let mut file = tokio::fs::OpenOptions::new()
            .create(true)
            .append(resumed)
            .write(true)
            .truncate(!resumed)
            .open(path)
            .await
            .map_err(io_error("open", path))?;
        let mut done = if resumed { have } else { 0 };
        let mut body = response.into_body();
        loop {
            match self.http.chunk(&mut body).await {
                Ok(Some(chunk)) => {
                    file.write_all(&chunk).await.map_err(io_error("write", path))?;
                    done += chunk.len() as u64;
                    self.tell(&descriptor.digest, done, descriptor.size);
                    if descriptor.size > 0 && done > descriptor.size {
                        let _ = std::fs::remove_file(path);
                        return Err(PullFailure::Copy(format!("more than {} bytes", descriptor.size)));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    file.flush().await.map_err(io_error("write", path))?;
                    return Ok(Err(error));
                }
            }
        }
        file.flush().await.map_err(io_error("write", path))?;
        if descriptor.size > 0 && done < descriptor.size {
            return Ok(Err("unexpected EOF".to_owned()));
        }
        Ok(Ok(()))
    }

    fn tell(&self, item: &str, done_bytes: u64, total_bytes: u64) {
        (self.on_progress)(Progress { item: item.to_owned(), done_bytes, total_bytes });
    }

    fn request_failed(&self, detail: String) -> PullFailure {
        PullFailure::Request { reference: self.normal.clone(), detail }
    }

    /// GET under the repository, answering the registry's challenge once.
    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response<Incoming>, PullFailure> {
        let host = match self.reference.domain.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = if self.http.is_plain(host) { "http" } else { "https" };
        let url = format!("{scheme}://{host}/v2/{}/{path}", self.reference.path);
        if !self.auth.registry_token.is_empty() {
            self.authorize(&format!("Bearer {}", self.auth.registry_token));
        }
        for attempt in 0..2 {
            let mut headers = headers.clone();
            if let Some(value) = self.authorization.lock().expect("never poisoned").clone() {
                headers.insert(header::AUTHORIZATION, value);
            }
            let response =
                self.http.send(&Method::GET, &url, &headers).await.map_err(|e| self.request_failed(e))?;
            let status = response.status();
            match status {
                StatusCode::UNAUTHORIZED if attempt == 0 => self.answer_challenge(&response).await?,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let detail = self.server_message(response, "authorization failed").await;
                    return Err(PullFailure::Denied { reference: self.normal.clone(), detail });
                }
                StatusCode::NOT_FOUND => return Err(PullFailure::NotFound(self.normal.clone())),
                _ if status.is_success() => return Ok(response),
                _ => {
                    return Err(PullFailure::Status {
                        reference: self.normal.clone(),
                        request: format!("GET request to {url}"),
                        status: status.to_string(),
                    });
                }
            }
        }
        unreachable!("the second attempt always answers")
    }

    fn authorize(&self, value: &str) {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            *self.authorization.lock().expect("never poisoned") = Some(value);
        }
    }

    async fn answer_challenge(&self, response: &Response<Incoming>) -> Result<(), PullFailure> {
        let denied =
            |detail: &str| PullFailure::Denied { reference: self.normal.clone(), detail: detail.to_owned() };
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        for challenge in challenges.iter().filter_map(|c| c.to_str().ok()).map(Challenge::parse) {
            match challenge.scheme.as_str() {
                "basic" => {
                    let basic = self
                        .auth
                        .basic()
                        .ok_or_else(|| denied("authorization failed: no basic auth credentials"))?;
                    self.authorize(&basic);
                    return Ok(());
                }
                "bearer" => {
                    let Some(url) = challenge.token_url(&self.reference.path) else { continue };
                    let mut headers = HeaderMap::new();
                    if let Some(basic) = self.auth.basic() {
                        let basic = HeaderValue::from_str(&basic).expect("base64 is plain text");
                        headers.insert(header::AUTHORIZATION, basic);
                    }
                    let answer = self
                        .http
                        .send(&Method::GET, &url, &headers)
                        .await
                        .map_err(|e| self.request_failed(e))?;
                    let status = answer.status();
                    if !status.is_success() {
                        return Err(denied(&format!(
                            "failed to authorize: failed to fetch oauth token: unexpected status from GET request to {url}: {status}"
                        )));
                    }
                    let body = self.http.body(answer, 1 << 20).await.map_err(|e| self.request_failed(e))?;
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                    let token = body["token"].as_str().or_else(|| body["access_token"].as_str());
                    let token = token.ok_or_else(|| {
                        denied("authorization server did not include a token in the response")
                    })?;
                    self.authorize(&format!("Bearer {token}"));
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(denied("authorization failed"))
    }

    /// The registry's own words about a refusal.
    async fn server_message(&self, response: Response<Incoming>, fallback: &str) -> String {
        let scope = response
            .headers()
            .get(header::WWW_AUTHENTICATE)
            .and_then(|c| c.to_str().ok())
            .map(Challenge::parse)
            .and_then(|c| c.get("error").map(str::to_owned));
        match scope {
            Some(error) => format!("server message: {error}: {fallback}"),
            None => {
                let body = self.http.body(response, 1 << 20).await.unwrap_or_default();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                match body["errors"][0]["message"].as_str() {
                    Some(message) => format!("server message: {message}: {fallback}"),
                    None => fallback.to_owned(),
                }
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<Manifest, PullFailure> {
    let manifest: Manifest = serde_json::from_slice(body).map_err(|e| bad_manifest(&e.to_string()))?;
    let known = oci::MANIFESTS.contains(&manifest.media_type.as_str())
        || oci::INDEXES.contains(&manifest.media_type.as_str())
        || manifest.media_type.is_empty();
    if manifest.schema_version != 2 || !known {
        return Err(bad_manifest(&format!("unsupported media type {:?}", manifest.media_type)));
    }
    Ok(manifest)
}

fn bad_manifest(detail: &str) -> PullFailure {
    PullFailure::Manifest(detail.to_owned())
}

fn checked(descriptor: &Descriptor) -> Result<&str, PullFailure> {
    match digest::hex(&descriptor.digest) {
        Some(_) => Ok(&descriptor.digest),
        None => Err(bad_manifest(&format!("{:?} is not a sha256 digest", descriptor.digest))),
    }
}

fn hash_file(path: &PathBuf) -> Result<String, crate::StoreError> {
    let file = std::fs::File::open(path).map_err(io_error("open", path))?;
    digest::Hashing::new(file).drain().map_err(io_error("read", path))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("store work does not panic")
}
