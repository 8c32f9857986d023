//! Image garbage collection (the garbage-collection page): every five minutes images go that were unused for too long,
//! and when the disk is too full those that were not used for the longest time. Under disk pressure all that
//! nobody uses go at once, and what ended containers had written.

use super::{images_dir, node_ref};
use crate::kubelet::Shared;
use crate::node;
use knarr_image::{ImageStore, ImageUse};
use knarr_runtime::spec::State;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Upstream's ImageGCPeriod.
const PERIOD: Duration = Duration::from_secs(300);

/// Collects for ever. One failure may be chance, a second one in a row is told.
pub(crate) async fn run(kubelet: Arc<Shared>) {
    let clock = kubelet.ctx.clock.clone();
    let began = clock.now();
    let mut failed = false;
    loop {
        let shared = kubelet.clone();
        let result = tokio::task::spawn_blocking(move || collect(&shared, began)).await;
        match result.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => failed = false,
            Err(error) => {
                tracing::warn!(error, "image garbage collection failed");
                if std::mem::replace(&mut failed, true) {
                    kubelet.recorder.warning(&node_ref(&kubelet.config), "ImageGCFailed", error);
                }
            }
        }
        clock.sleep(PERIOD).await;
    }
}

fn collect(kubelet: &Shared, began: SystemTime) -> Result<(), String> {
    let (config, now) = (&kubelet.config, kubelet.ctx.clock.now());
    let keep = &config.housekeeping;
    let most = keep.image_max_age;
    if !most.is_zero() && now.duration_since(began).unwrap_or_default() > most {
        free(&config.images, most, now, u64::MAX)?;
    }
    if keep.image_gc_high_percent >= 100 {
        return Ok(());
    }
    let disk = node::disk(&images_dir(config)).ok_or("cannot read the image file system")?;
    let warn = |reason, message: String| {
        kubelet.recorder.warning(&node_ref(config), reason, message.clone());
        Err(message)
    };
    if disk.total_bytes == 0 {
        return warn("InvalidDiskCapacity", "invalid capacity 0 on image filesystem".to_owned());
    }
    let (high, low) = (keep.image_gc_high_percent, keep.image_gc_low_percent);
    let Some((percent, wanted)) = too_full(disk.total_bytes, disk.free_bytes, high, low) else {
        return Ok(());
    };
    let freed = free(&config.images, keep.image_min_age, now, wanted)?;
    if freed >= wanted {
        return Ok(());
    }
    let size = size(disk.total_bytes);
    let message = format!(
        "Insufficient free disk space on the node's image filesystem ({percent}% of {size} used). \
         Failed to free sufficient space by deleting unused images (freed {freed} bytes). \
         Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    );
    warn("FreeDiskSpaceFailed", message)
}

/// How full the disk is in percent and how many bytes are to be freed, if it is too full.
fn too_full(total: u64, free: u64, high: u8, low: u8) -> Option<(u64, u64)> {
    let free = free.min(total);
    let share = |part: u128| u64::try_from(u128::from(total) * part / 100).unwrap_or(u64::MAX);
    let percent = 100 - u64::try_from(u128::from(free) * 100 / u128::from(total.max(1))).unwrap_or(100);
    (percent >= u64::from(high)).then(|| (percent, share(u128::from(100 - low)).saturating_sub(free)))
}

/// Images that may go, the longest unused first.
fn candidates(images: Vec<ImageUse>, unused_for: Duration, now: SystemTime) -> Vec<ImageUse> {
    let used =
        |image: &ImageUse| crate::util::from_ns(image.last_used_unix_ns).unwrap_or(SystemTime::UNIX_EPOCH);
    let may_go = |image: &ImageUse| {
        !image.in_use && !image.pinned && now.duration_since(used(image)).is_ok_and(|age| age >= unused_for)
    };
    let mut images: Vec<ImageUse> = images.into_iter().filter(may_go).collect();
    images.sort_by_key(|image| image.last_used_unix_ns);
    images
}

/// Removes images until so many bytes are free; how many were freed.
fn free(store: &ImageStore, unused_for: Duration, now: SystemTime, wanted: u64) -> Result<u64, String> {
    let (mut freed, mut errors) = (0, Vec::new());
    for image in candidates(store.for_gc(), unused_for, now) {
        if freed >= wanted {
            break;
        }
        match store.remove_unused(&image.image.id) {
            Ok(bytes) => freed += bytes,
            // A container came in between.
            Err(knarr_image::StoreError::InUse(_)) => {}
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() {
        return Ok(freed);
    }
    let errors = errors.join(", ");
    Err(format!(
        "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {errors}"
    ))
}

/// Frees what costs no pod anything: what ended containers wrote, and images that nobody uses.
pub(super) fn reclaim(kubelet: &Shared) {
    let config = &kubelet.config;
    let ended = config.runtime.sandboxes().into_iter().flat_map(|s| s.containers);
    for container in ended.filter(|c| c.state == State::Exited) {
        if let Err(error) = config.images.release(&container.id) {
            tracing::warn!(%error, "cannot remove what an ended container wrote");
        }
    }
    let now = kubelet.ctx.clock.now();
    if let Err(error) = free(&config.images, config.housekeeping.image_min_age, now, u64::MAX) {
        tracing::warn!(error, "cannot remove unused images");
    }
}

/// A size as upstream writes it in this message.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::t;

    #[test]
    fn a_disk_is_too_full_from_the_high_threshold_and_freed_to_the_low_one() {
        for (free, expected) in
            [(500, None), (151, Some((85, 49))), (160, None), (150, Some((85, 50))), (0, Some((100, 200)))]
        {
            assert_eq!(too_full(1000, free, 85, 80), expected, "{free} free");
        }
    }

    #[test]
    fn images_that_nobody_used_for_long_go_first() {
        let used = |id: &str, seconds: u64, in_use: bool, pinned: bool| {
            let since = t(seconds).duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let image = knarr_image::Image {
                id: id.to_owned(),
                repo_tags: Vec::new(),
                repo_digests: Vec::new(),
                size_bytes: 1,
                config: Arc::default(),
                diff_ids: Vec::new(),
            };
            ImageUse { image, last_used_unix_ns: since.as_nanos() as i64, in_use, pinned }
        };
        let images = vec![
            used("young", 950, false, false),
            used("later", 500, false, false),
            used("busy", 0, true, false),
            used("local", 0, false, true),
            used("oldest", 100, false, false),
        ];
        let left = candidates(images, Duration::from_secs(120), t(1000));
        assert_eq!(left.iter().map(|i| i.image.id.as_str()).collect::<Vec<_>>(), ["oldest", "later"]);
    }

    #[test]
    fn sizes_are_written_as_upstream_writes_them() {
        for (bytes, text) in
            [(5, "5 B"), (1536, "1.5 KiB"), (252 << 30, "252.0 GiB"), (3 << 50, "3072.0 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
