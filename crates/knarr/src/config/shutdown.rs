//! The settings of graceful node shutdown, under upstream's names.

use super::{Settings, parse_duration};
use knarr_kubelet::NodeShutdown;

/// Reads them; mistakes go to `note` by key.
pub(super) fn read(settings: &Settings, note: &mut dyn FnMut(&str, String)) -> NodeShutdown {
    let mut shutdown = NodeShutdown::default();
    let durations = [
        ("shutdown-grace-period", &settings.shutdown_grace_period, &mut shutdown.grace_period),
        (
            "shutdown-grace-period-critical-pods",
            &settings.shutdown_grace_period_critical_pods,
            &mut shutdown.grace_period_critical_pods,
        ),
    ];
    let mut right = true;
    let mut wrong = |key: &str, problem: String| {
        right = false;
        note(key, problem);
    };
    for (key, setting, field) in durations {
        match setting.as_deref().map(parse_duration) {
            None => {}
            Some(Ok(duration)) => *field = duration,
            Some(Err(problem)) => wrong(key, problem),
        }
    }
    let by_priority = settings.shutdown_grace_period_by_pod_priority.as_deref();
    match by_priority.map(NodeShutdown::by_priority) {
        None => {}
        Some(Ok(periods)) => shutdown.by_pod_priority = periods,
        Some(Err(problem)) => wrong("shutdown-grace-period-by-pod-priority", problem),
    }
    if right && let Err(problem) = shutdown.check() {
        note("shutdown-grace-period", problem);
    }
    shutdown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_by_key() {
        let text = |text: &str| Some(text.to_owned());
        for (period, critical, by_priority, expected) in [
            (None, None, None, ""),
            (text("30s"), text("10s"), None, ""),
            (None, None, text("0=30,1000=5"), ""),
            (text("soon"), None, None, "shutdown-grace-period: \"soon\" is not a duration such as 5m0s"),
            (
                text("5s"),
                text("10s"),
                None,
                "shutdown-grace-period: shutdownGracePeriodCriticalPods 10s must be <= shutdownGracePeriod 5s",
            ),
            (
                None,
                None,
                text("high=3"),
                "shutdown-grace-period-by-pod-priority: \"high=3\" is not as 1000=30",
            ),
        ] {
            let mut wrong = Vec::new();
            let settings = Settings {
                shutdown_grace_period: period,
                shutdown_grace_period_critical_pods: critical,
                shutdown_grace_period_by_pod_priority: by_priority,
                ..Settings::default()
            };
            read(&settings, &mut |key, problem| wrong.push(format!("{key}: {problem}")));
            assert_eq!(wrong.join("; "), expected);
        }
    }
}
