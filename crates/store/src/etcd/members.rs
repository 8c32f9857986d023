//! What is asked of every member from time to time: its version, which decides whether its word on the progress of
//! watches can be trusted, and the size of its database.

use super::Shared;
use super::messages::{StatusResponse, call};
use bytes::Bytes;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often (upstream's --etcd-db-metric-poll-interval).
const EVERY: Duration = Duration::from_secs(30);
/// How often while not every member has answered.
const EVERY_UNKNOWN: Duration = Duration::from_secs(1);

/// Whether a version reports a watch's progress only after the events before it. Members before 3.4.31, and those of
/// 3.5 before 3.5.13, may say so too early (etcd issues 15220 and 17507).
pub(super) fn reports_progress_in_order(version: &str) -> bool {
    let core = version.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let version = (major, minor, patch);
    version >= (3, 5, 13) || ((3, 4, 31)..(3, 5, 0)).contains(&version)
}

/// Asks all members once; true when all have answered.
pub(super) async fn look(shared: &Shared) -> bool {
    let asked = (0..shared.endpoints.len()).map(|index| async move {
        let answer = shared.endpoints.ask(index, call::STATUS, &Bytes::new()).await;
        let status = answer.and_then(|message| Ok(StatusResponse::read(message)?));
        if let Err(error) = &status {
            tracing::debug!(member = shared.endpoints.name(index), %error, "an etcd member does not answer");
        }
        (index, status.ok())
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut members = shared.members.lock().expect("no holder of the members lock panics");
    for (index, status) in answers {
        let Some(status) = status else { continue };
        shared.saw(status.revision);
        if members[index].as_ref().is_none_or(|known| known.version != status.version) {
            let (member, version) = (shared.endpoints.name(index), &status.version);
            let trusted = reports_progress_in_order(version);
            tracing::info!(member, version, trusted, "an etcd member");
        }
        members[index] = Some(status);
    }
    let known: Vec<&StatusResponse> = members.iter().flatten().collect();
    let all = known.len() == members.len();
    // As upstream: one member of an old version spoils it, one that does not answer does not.
    let trusted = !known.is_empty() && known.iter().all(|status| reports_progress_in_order(&status.version));
    shared.progress_in_order.store(trusted, Ordering::Release);
    let size = known.iter().map(|status| status.db_size).max().unwrap_or(0);
    shared.size_bytes.store(size, Ordering::Relaxed);
    all
}

/// Asks for as long as the store is open.
pub(super) async fn run(shared: Weak<Shared>) {
    while let Some(open) = shared.upgrade() {
        let all = look(&open).await;
        open.count().await;
        let pause = open.ctx.clock.sleep(if all { EVERY } else { EVERY_UNKNOWN });
        drop(open);
        pause.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_trusted_from_the_versions_on_that_upstream_trusts() {
        for (version, trusted) in [
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.4.99", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("v3.5.21", true),
            ("4.0.0", true),
            ("3.5", false),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(reports_progress_in_order(version), trusted, "{version}");
        }
    }
}
