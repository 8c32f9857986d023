//! Image requests, carried out by whoever holds the image store: the running cluster, or the command itself when
//! none is running.

use super::ImageRequest;
use crate::config::Config;
use anyhow::{Context, Result, anyhow};
use knarr_image::{ImageStore, Options, Progress};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Opens the image store of a data directory.
pub fn open(ctx: &knarr_base::Ctx, dir: &Path, config: &Config) -> Result<Arc<ImageStore>> {
    let options = Options {
        plain_http: config.insecure_registries.clone(),
        registries: Some(config.registries.clone()),
        parallel_pulls: config.max_parallel_image_pulls,
        ..Options::default()
    };
    ImageStore::open(ctx, dir, options).context("cannot open the image store")
}

/// Carries a request out; `say` hears what there is to read.
pub async fn serve(
    store: &Arc<ImageStore>,
    request: ImageRequest,
    say: impl Fn(String) + Send + Sync + 'static,
) -> Result<()> {
    let say = Arc::new(say);
    match request {
        ImageRequest::Ls => list(store).into_iter().for_each(|line| say(line)),
        ImageRequest::Import { file } => {
            let images = store
                .import(&file, knarr_image::silent())
                .await
                .with_context(|| format!("cannot import {}", file.display()))?;
            for image in images {
                say(format!(
                    "Imported {} ({})",
                    image.repo_tags.first().unwrap_or(&image.id),
                    short(&image.id)
                ));
            }
        }
        ImageRequest::Pull { image } => {
            let last = Mutex::new(String::new());
            let tell = say.clone();
            let progress = Arc::new(move |progress: Progress| {
                let mut last = last.lock().expect("progress lock is never poisoned");
                if *last != progress.item {
                    last.clone_from(&progress.item);
                    tell(format!("Fetching {} ({} KiB)", short(&progress.item), progress.total_bytes >> 10));
                }
            });
            let pulled =
                store.pull(&image, None, progress).await.with_context(|| format!("cannot pull {image}"))?;
            say(format!("Pulled {image} ({})", short(&pulled.id)));
        }
        ImageRequest::Rm { images } => {
            let mut failed = Vec::new();
            for image in images {
                match store.remove(&image) {
                    Ok(()) => say(format!("Removed {image}")),
                    Err(error) => failed.push(format!("{image}: {error}")),
                }
            }
            if !failed.is_empty() {
                return Err(anyhow!(failed.join("\n")));
            }
            store.gc().context("cannot free the space of removed images")?;
        }
    }
    Ok(())
}

fn list(store: &ImageStore) -> Vec<String> {
    let images = store.list();
    let rows = images.iter().flat_map(|image| {
        let names =
            if image.repo_tags.is_empty() { vec!["<none>".to_owned()] } else { image.repo_tags.clone() };
        names.into_iter().map(move |name| (name, short(&image.id), image.size_bytes))
    });
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or_default().max("IMAGE".len());
    let mut lines = vec![format!("{:<width$}  {:<12}  {:>9}", "IMAGE", "ID", "SIZE")];
    lines.extend(rows.iter().map(|(name, id, size)| {
        format!("{name:<width$}  {id:<12}  {:>5.1} MiB", *size as f64 / f64::from(1 << 20))
    }));
    lines
}

fn short(digest: &str) -> String {
    digest.split(':').next_back().unwrap_or_default().chars().take(12).collect()
}
