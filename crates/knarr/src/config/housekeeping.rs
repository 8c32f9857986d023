//! The settings by which a node keeps house: eviction, reserves, image garbage collection. Names and values are those
//! of upstream's kubelet.

use super::{Settings, parse_duration};
use knarr_kubelet::{DEFAULT_HARD, Housekeeping, thresholds};
use std::time::Duration;

/// Reads them; mistakes go to `note` by key.
pub(super) fn read(settings: &Settings, note: &mut dyn FnMut(&str, String)) -> Housekeeping {
    let text = |setting: &Option<String>| setting.clone().unwrap_or_default();
    let hard = settings.eviction_hard.clone().unwrap_or_else(|| DEFAULT_HARD.to_owned());
    let mut keep = Housekeeping::default();
    // One at a time, so that a mistake is told by its key.
    let (soft, grace) = (text(&settings.eviction_soft), text(&settings.eviction_soft_grace_period));
    let reclaim = text(&settings.eviction_minimum_reclaim);
    let tries = [
        ("eviction-hard", thresholds(&hard, "", "", "")),
        ("eviction-soft-grace-period", thresholds("", "", &grace, "")),
        ("eviction-soft", thresholds("", &soft, &grace, "")),
        ("eviction-minimum-reclaim", thresholds("", "", "", &reclaim)),
    ];
    match tries.into_iter().find_map(|(key, tried)| Some((key, tried.err()?))) {
        Some((key, problem)) => note(key, problem),
        None => match thresholds(&hard, &soft, &grace, &reclaim) {
            Ok(all) => keep.thresholds = all,
            Err(problem) => note("eviction-hard", problem),
        },
    }
    for (key, setting) in
        [("system-reserved", &settings.system_reserved), ("kube-reserved", &settings.kube_reserved)]
    {
        if let Err(problem) = keep.reserve(&text(setting)) {
            note(key, problem);
        }
    }
    let durations: [(&str, &Option<String>, &mut Duration); 3] = [
        (
            "eviction-pressure-transition-period",
            &settings.eviction_pressure_transition_period,
            &mut keep.pressure_transition,
        ),
        ("minimum-image-ttl-duration", &settings.minimum_image_ttl_duration, &mut keep.image_min_age),
        ("image-maximum-gc-age", &settings.image_maximum_gc_age, &mut keep.image_max_age),
    ];
    for (key, setting, field) in durations {
        match setting.as_deref().map(parse_duration) {
            None => {}
            Some(Ok(duration)) => *field = duration,
            Some(Err(problem)) => note(key, problem),
        }
    }
    if let Some(seconds) = settings.eviction_max_pod_grace_period {
        keep.soft_pod_grace = Duration::from_secs(seconds.into());
    }
    keep.image_gc_high_percent = settings.image_gc_high_threshold.unwrap_or(keep.image_gc_high_percent);
    keep.image_gc_low_percent = settings.image_gc_low_threshold.unwrap_or(keep.image_gc_low_percent);
    if keep.image_gc_high_percent > 100 || keep.image_gc_low_percent >= keep.image_gc_high_percent {
        let (high, low) = (keep.image_gc_high_percent, keep.image_gc_low_percent);
        note(
            "image-gc-high-threshold",
            format!("{high} must be at most 100 and more than the low threshold {low}"),
        );
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_upstream_has_it_and_mistakes_are_told_by_key() {
        let mut wrong = Vec::new();
        let mut note = |key: &str, problem: String| wrong.push(format!("{key}: {problem}"));
        assert_eq!(read(&Settings::default(), &mut note), Housekeeping::default());
        let settings = Settings {
            eviction_hard: Some("memory.available<1Gi".into()),
            eviction_soft: Some("memory.available<2Gi".into()),
            system_reserved: Some("gpu=1".into()),
            image_gc_high_threshold: Some(50),
            minimum_image_ttl_duration: Some("soon".into()),
            ..Settings::default()
        };
        read(&settings, &mut note);
        assert_eq!(
            wrong,
            [
                "eviction-soft: grace period must be specified for the soft eviction threshold memory.available",
                "system-reserved: \"gpu\" cannot be reserved",
                "minimum-image-ttl-duration: \"soon\" is not a duration such as 5m0s",
                "image-gc-high-threshold: 50 must be at most 100 and more than the low threshold 80",
            ]
        );
    }
}
