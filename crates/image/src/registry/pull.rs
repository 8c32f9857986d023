//! One pull: manifest, configuration, missing layers.

use super::auth::Auth;
use super::config::Cache;
use super::endpoint::{Endpoint, Repository};
use super::http::{Http, is_loopback};
use crate::archive::MOST_METADATA_BYTES;
use crate::digest;
use crate::error::{PullError, PullFailure};
use crate::oci::{self, ConfigFile, Descriptor, Manifest};
use crate::reference::Reference;
use crate::store::{Image, ImageStore, Pins};
use crate::{OnProgress, Progress};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, header};
use knarr_base::clock::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Layers fetched at once, as containerd does.
const PARALLEL_LAYERS: usize = 3;
/// Images pulled at once, unless configured.
const PARALLEL_PULLS: usize = 5;

/// What pulls share: TLS roots, the registries' configuration, turns, and a lock per blob so that two pulls do not
/// fetch the same one.
pub(crate) struct Shared {
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    registries: Cache,
    turns: Arc<Semaphore>,
    parallel_pulls: usize,
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Shared {
    pub(crate) fn new(parallel_pulls: usize) -> Self {
        let turns = if parallel_pulls == 0 { PARALLEL_PULLS } else { parallel_pulls };
        Self {
            tls: OnceLock::new(),
            registries: Cache::default(),
            turns: Arc::new(Semaphore::new(turns)),
            parallel_pulls: turns,
            busy: Mutex::default(),
        }
    }

    pub(super) fn blob(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().expect("blob locks are never poisoned");
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(digest.to_owned()).or_default().clone()
    }
}

/// The right to pull, one of as many as are configured. Ends when dropped.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code)] OwnedSemaphorePermit);

impl ImageStore {
    /// Images pulled at once at most.
    pub fn parallel_pulls(&self) -> usize {
        self.registry.parallel_pulls
    }

    /// Waits until fewer images are being pulled than may be at once. [`Self::pull`] does not wait by itself: the
    /// kubelet tells the time waited from the time taken.
    pub async fn turn(&self) -> Turn {
        let turns = self.registry.turns.clone();
        Turn(turns.acquire_owned().await.expect("turns are never closed"))
    }

    /// Fetches an image from its registry, or a mirror of it, and adds it under `reference`. `auth` is for the
    /// registry that the reference names, before what the configuration has for it.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
        on_progress: OnProgress,
    ) -> Result<Image, PullError> {
        let error = |failure: PullFailure, normal: &str| PullError { reference: normal.to_owned(), failure };
        let parsed = Reference::parse(reference).map_err(|e| error(e.into(), reference))?;
        let normal = parsed.to_string();
        let pull = self.prepare_pull(parsed, auth, on_progress).map_err(|e| error(e, &normal))?;
        pull.run().await.map_err(|failure| error(failure, &normal))
    }

    fn prepare_pull(
        self: &Arc<Self>,
        reference: Reference,
        auth: Option<Auth>,
        on_progress: OnProgress,
    ) -> Result<Pull<'_>, PullFailure> {
        let registries = self.registry.registries.get(self.options.registries.as_deref());
        let registries = registries.map_err(PullFailure::Configuration)?;
        let http = Http { ctx: &self.ctx, options: &self.options, registries, tls: &self.registry.tls };
        let host = match reference.domain.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let plain = http.is_plain(host) || is_loopback(host) && host.ends_with(":80");
        let direct = format!("{}://{host}", if plain { "http" } else { "https" });
        let places = http.registries.places(&reference.domain, &reference.path, &direct);
        let endpoint = |place: super::config::Place| {
            let given = if place.mirror { None } else { auth.clone() };
            let auth = given.or_else(|| http.registries.auth(&place.host)).unwrap_or_default();
            Endpoint::new(place, auth)
        };
        let endpoints = places.into_iter().map(endpoint).collect();
        let (domain, normal) = (reference.domain.clone(), reference.to_string());
        let repository = Repository { http, endpoints, domain, reference: normal };
        Ok(Pull { store: self, repository, on_progress, reference })
    }
}

pub(super) struct Pull<'a> {
    pub(super) store: &'a Arc<ImageStore>,
    pub(super) repository: Repository<'a>,
    reference: Reference,
    on_progress: OnProgress,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, PullFailure> {
        if self.reference.is_local() {
            return Err(PullFailure::NotFound(self.repository.reference.clone()));
        }
        let (body, top) = self.manifest(self.reference.manifest()).await?;
        let mut manifest = parse(&body)?;
        if !manifest.manifests.is_empty() {
            let chosen = oci::for_host(&manifest.manifests).ok_or(PullFailure::Platform)?.digest.clone();
            manifest = parse(&self.manifest(&chosen).await?.0)?;
        }
        let config = manifest.config.as_ref().ok_or_else(|| bad_manifest("no config"))?;
        let config = self.small_blob(config).await?;
        let file: ConfigFile = serde_json::from_slice(&config).map_err(|e| bad_manifest(&e.to_string()))?;
        if !file.fits_host() {
            return Err(PullFailure::Platform);
        }
        let diff_ids = &file.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(PullFailure::Mismatched);
        }
        if let Some(foreign) = manifest.layers.iter().find(|l| l.is_foreign()) {
            return Err(bad_manifest(&format!(
                "layer {} is not distributable: {}",
                foreign.digest, foreign.media_type
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
        let response = self.repository.get(&format!("manifests/{which}"), &headers).await?;
        let body = self.repository.http.body(response, MOST_METADATA_BYTES).await;
        let body = body.map_err(|e| self.repository.request_failed(e))?;
        let actual = digest::of(&body);
        if which.contains(':') && which != actual {
            return Err(PullFailure::Digest { actual, expected: which.to_owned() });
        }
        Ok((body, actual))
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullFailure> {
        let response =
            self.repository.get(&format!("blobs/{}", checked(descriptor)?), &HeaderMap::new()).await?;
        let body = self.repository.http.body(response, MOST_METADATA_BYTES).await;
        let body = body.map_err(|e| PullFailure::Copy(e.text))?;
        let actual = digest::of(&body);
        if actual != descriptor.digest {
            return Err(PullFailure::Digest { actual, expected: descriptor.digest.clone() });
        }
        Ok(body)
    }

    pub(super) fn tell(&self, item: &str, done_bytes: u64, total_bytes: u64) {
        (self.on_progress)(Progress { item: item.to_owned(), done_bytes, total_bytes });
    }
}

fn parse(body: &[u8]) -> Result<Manifest, PullFailure> {
    let manifest: Manifest = serde_json::from_slice(body).map_err(|e| bad_manifest(&e.to_string()))?;
    let known = oci::MANIFESTS.contains(&manifest.media_type.as_str())
        || oci::INDEXES.contains(&manifest.media_type.as_str())
        || manifest.media_type.is_empty();
    if manifest.schema_version == 1 {
        return Err(PullFailure::SchemaOne);
    }
    if manifest.schema_version != 2 || !known {
        return Err(bad_manifest(&format!("unsupported media type {:?}", manifest.media_type)));
    }
    Ok(manifest)
}

fn bad_manifest(detail: &str) -> PullFailure {
    PullFailure::Manifest(detail.to_owned())
}

pub(super) fn checked(descriptor: &Descriptor) -> Result<&str, PullFailure> {
    match digest::hex(&descriptor.digest) {
        Some(_) => Ok(&descriptor.digest),
        None => Err(bad_manifest(&format!("{:?} is not a sha256 digest", descriptor.digest))),
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("store work does not panic")
}
