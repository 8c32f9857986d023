//! Image requests, carried out by whoever holds the image store: the running cluster, or the command itself when
//! none is running.

use super::{Answer, Archive, ImageRequest, List};
use crate::config::Config;
use anyhow::{Context, Result, anyhow};
use knarr_image::{Details, Format, Image, ImageStore, Options, Progress};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
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

/// Carries a request out; `file` is what it reads from or writes to, and `tell` hears what there is to know.
pub async fn serve(
    store: &Arc<ImageStore>,
    request: ImageRequest,
    file: Option<File>,
    tell: impl Fn(Answer) + Send + Sync + 'static,
) -> Result<()> {
    let tell = Arc::new(tell);
    let say = |line: String| tell(Answer::Line(line));
    match request {
        ImageRequest::Ls { output, quiet } => {
            let form = if quiet { List::Id } else { output };
            list(store, form).into_iter().for_each(say);
        }
        ImageRequest::Import { file: path } => {
            let images = store
                .import_from(&path, file, knarr_image::silent())
                .await
                .with_context(|| format!("cannot import {}", path.display()))?;
            for image in images {
                say(format!(
                    "Imported {} ({})",
                    image.repo_tags.first().unwrap_or(&image.id),
                    short(&image.id)
                ));
            }
        }
        ImageRequest::Save { images, format, .. } => {
            let mut file = file.context("there is nothing to write the archive to")?;
            let format = match format {
                Archive::DockerArchive => Format::DockerArchive,
                Archive::OciArchive => Format::OciArchive,
            };
            let store = store.clone();
            let saved = tokio::task::spawn_blocking(move || store.save(&images, format, &mut file));
            saved.await?.context("cannot save")?;
        }
        ImageRequest::Pull { image, progress } => {
            let plain = Mutex::new(HashSet::new());
            let tell = tell.clone();
            let hear = move |Progress { item, done_bytes, total_bytes }: Progress| {
                if progress {
                    tell(Answer::Progress { item, done_bytes, total_bytes });
                } else if plain.lock().expect("progress lock is never poisoned").insert(item.clone()) {
                    let there = done_bytes > 0 && done_bytes == total_bytes;
                    let what = if there { "Already there:" } else { "Fetching" };
                    tell(Answer::Line(format!("{what} {} ({} KiB)", short(&item), total_bytes >> 10)));
                }
            };
            let pulled = store.pull(&image, None, Arc::new(hear)).await;
            let pulled = pulled.with_context(|| format!("cannot pull {image}"))?;
            say(format!("Pulled {image} ({})", short(&pulled.id)));
        }
        ImageRequest::Tag { image, names } => {
            for name in names {
                store.tag(&image, &name)?;
            }
        }
        ImageRequest::Inspect { images } => {
            let all = images.iter().map(|image| store.inspect(image).map(|i| inspected(&i)));
            let all = all.collect::<Result<Vec<_>, _>>()?;
            say(serde_json::to_string_pretty(&all)?);
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

/// An image in the words of `docker image inspect`, with the size of each layer.
fn inspected(details: &Details) -> Value {
    let (image, file) = (&details.image, &details.config_file);
    let layers = image.diff_ids.iter().zip(&details.layer_bytes);
    let layers: Vec<_> = layers.map(|(digest, size)| json!({ "Digest": digest, "Size": size })).collect();
    json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Created": file["created"],
        "Author": file["author"].as_str().unwrap_or_default(),
        "Architecture": file["architecture"],
        "Variant": file["variant"].as_str().unwrap_or_default(),
        "Os": file["os"],
        "Size": image.size_bytes,
        "Config": file["config"],
        "RootFS": { "Type": "layers", "Layers": image.diff_ids },
        "Layers": layers,
        "History": file["history"],
    })
}

fn list(store: &ImageStore, form: List) -> Vec<String> {
    let images = store.list();
    match form {
        List::Table => table(&images),
        List::Json => {
            let images: Vec<_> = images
                .iter()
                .map(|i| {
                    json!({ "id": i.id, "repoTags": i.repo_tags, "repoDigests": i.repo_digests,
                        "size": i.size_bytes.to_string() })
                })
                .collect();
            vec![format!("{:#}", json!({ "images": images }))]
        }
        List::Name => {
            let name =
                |i: &Image| if i.repo_tags.is_empty() { vec![i.id.clone()] } else { i.repo_tags.clone() };
            images.iter().flat_map(name).collect()
        }
        List::Id => images.into_iter().map(|i| i.id).collect(),
    }
}

fn table(images: &[Image]) -> Vec<String> {
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

/// The beginning of a digest, as people know images by.
pub fn short(digest: &str) -> String {
    digest.split(':').next_back().unwrap_or_default().chars().take(12).collect()
}
