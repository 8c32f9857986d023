//! Brings one layer: the blob goes to `ingest/` as it comes, so that a broken download goes on where it stopped, also
//! after a restart, and is unpacked while it comes. It becomes a layer only if its digest and size are right.

use super::growth::{Follow, Grower, Growth};
use super::pull::{Pull, blocking, checked};
use crate::StoreError;
use crate::error::{PullFailure, io_error};
use crate::oci::Descriptor;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use knarr_base::Backoff;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A download that broke is taken up again this often without a byte of progress.
const MOST_RESUMES: usize = 5;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

impl Pull<'_> {
    /// Fetches and unpacks a layer, unless it is there. Pulls that want the same one share the work.
    pub(super) async fn layer(&self, diff_id: &str, descriptor: &Descriptor) -> Result<(), PullFailure> {
        let digest = checked(descriptor)?.to_owned();
        let lock = self.store.registry.blob(&digest);
        let _alone = lock.lock().await;
        if self.store.has_layer(diff_id) {
            self.tell(&digest, descriptor.size, descriptor.size);
            return Ok(());
        }
        let path = self.store.dir.join("ingest").join(&digest["sha256:".len()..]);
        let kept = std::fs::metadata(&path).map_or(0, |m| m.len());
        match self.fetch(diff_id, descriptor, &path).await {
            // What was kept of an earlier download may be what is wrong.
            Err(PullFailure::Digest { .. }) if kept > 0 => self.fetch(diff_id, descriptor, &path).await,
            other => other,
        }
    }

    async fn fetch(&self, diff_id: &str, descriptor: &Descriptor, path: &Path) -> Result<(), PullFailure> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = Arc::new(file.map_err(io_error("open", path))?);
        let growth = Arc::new(Growth::default());
        let grower = Grower::new(&growth);
        let follow = Follow { file: file.try_clone().map_err(io_error("open", path))?, at: 0, growth };
        let (store, diff, blob) = (self.store.clone(), diff_id.to_owned(), descriptor.digest.clone());
        let unpacked = blocking(move || store.add_layer(follow, Some(&diff), Some(&blob), None));
        let (downloaded, unpacked) = tokio::join!(self.download(descriptor, path, &file, grower), unpacked);
        // A download that broke off is kept; one that is complete is either a layer now or worthless.
        downloaded?;
        match unpacked {
            Ok(_) => {
                let _ = std::fs::remove_file(path);
                Ok(())
            }
            Err(StoreError::Blob { actual, expected }) => {
                let _ = std::fs::remove_file(path);
                Err(PullFailure::Digest { actual, expected })
            }
            // The bytes are right, the layer is not, or the disk is full: fetching it again would change neither.
            Err(error) => {
                if matches!(error, StoreError::Layer { .. } | StoreError::Digest { .. }) {
                    let _ = std::fs::remove_file(path);
                }
                Err(error.into())
            }
        }
    }

    async fn download(
        &self,
        descriptor: &Descriptor,
        path: &Path,
        file: &Arc<File>,
        grower: Grower,
    ) -> Result<(), PullFailure> {
        let mut have = file.metadata().map_err(io_error("read", path))?.len();
        if descriptor.size > 0 && have > descriptor.size {
            file.set_len(0).map_err(io_error("truncate", path))?;
            have = 0;
        }
        grower.reached(have);
        let mut backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(5));
        let mut fruitless = 0;
        loop {
            let before = have;
            match self.download_rest(descriptor, path, file, &grower, &mut have).await? {
                Ok(()) => {
                    grower.whole();
                    return Ok(());
                }
                Err(broken) => {
                    fruitless = if have > before { 0 } else { fruitless + 1 };
                    if fruitless > MOST_RESUMES {
                        return Err(PullFailure::Copy(broken));
                    }
                    tracing::debug!(
                        blob = descriptor.digest,
                        have,
                        broken,
                        "the download goes on where it broke"
                    );
                    if have > before {
                        backoff.reset();
                    }
                    self.store.ctx.clock.sleep(backoff.step()).await;
                }
            }
        }
    }

    /// Fetches what is missing of a blob. The inner error is a broken connection: worth resuming.
    async fn download_rest(
        &self,
        descriptor: &Descriptor,
        path: &Path,
        file: &Arc<File>,
        grower: &Grower,
        have: &mut u64,
    ) -> Result<Result<(), String>, PullFailure> {
        if descriptor.size > 0 && *have == descriptor.size {
            return Ok(Ok(()));
        }
        let mut headers = HeaderMap::new();
        if *have > 0 {
            let range = HeaderValue::from_str(&format!("bytes={have}-")).expect("digits are plain text");
            headers.insert(header::RANGE, range);
        }
        let response = self.repository.get(&format!("blobs/{}", descriptor.digest), &headers).await?;
        // A registry that knows no ranges sends what is there already, too.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *have };
        let mut body = response.into_body();
        let mut gathered: Vec<u8> = Vec::with_capacity(WRITE_BYTES);
        let ended = loop {
            match self.repository.http.chunk(&mut body).await {
                Ok(Some(chunk)) => {
                    let old = skip.min(chunk.len() as u64);
                    skip -= old;
                    gathered.extend_from_slice(&chunk[old as usize..]);
                    let done = *have + gathered.len() as u64;
                    if descriptor.size > 0 && done > descriptor.size {
                        let _ = std::fs::remove_file(path);
                        return Err(PullFailure::Copy(format!("more than {} bytes", descriptor.size)));
                    }
                    if gathered.len() >= WRITE_BYTES {
                        gathered = write(path, file, gathered, have).await?;
                        grower.reached(*have);
                        self.tell(&descriptor.digest, *have, descriptor.size);
                    }
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken.text),
            }
        };
        write(path, file, gathered, have).await?;
        grower.reached(*have);
        self.tell(&descriptor.digest, *have, descriptor.size);
        if ended.is_ok() && (skip > 0 || descriptor.size > 0 && *have < descriptor.size) {
            return Ok(Err("unexpected EOF".to_owned()));
        }
        Ok(ended)
    }
}

/// Appends to the file, off the runtime's threads; the buffer back, empty.
async fn write(
    path: &Path,
    file: &Arc<File>,
    mut bytes: Vec<u8>,
    have: &mut u64,
) -> Result<Vec<u8>, PullFailure> {
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let (file, at, path): (_, _, PathBuf) = (file.clone(), *have, path.to_owned());
    let (bytes, written) = blocking(move || {
        let written = file.write_all_at(&bytes, at).map(|()| bytes.len() as u64);
        bytes.clear();
        (bytes, written)
    })
    .await;
    *have += written.map_err(io_error("write", &path))?;
    Ok(bytes)
}
